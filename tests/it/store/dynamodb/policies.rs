//! The policies of `deploy/aws`: JSON, and all that the store's calls need.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// What a call needs to be allowed, where that is not its own name.
fn actions(call: &str) -> Vec<String> {
    let names: &[&str] = match call {
        "transact_get_items" => &["GetItem"],
        "transact_write_items" => &["ConditionCheckItem", "DeleteItem", "PutItem", "UpdateItem"],
        _ => {
            let words = call.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
            return vec![format!("dynamodb:{}", words.collect::<String>())];
        }
    };
    names.iter().map(|name| format!("dynamodb:{name}")).collect()
}

/// The actions of every call in a source file.
fn needed(file: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let source = std::fs::read_to_string(path).unwrap();
    let calls = source.split("client.").skip(1).filter_map(|rest| rest.split_once("()"));
    let is_call = |call: &str| call.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    calls.map(|(call, _)| call).filter(|call| is_call(call)).flat_map(actions).collect()
}

fn allowed(policy: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/aws/policies");
    let text = std::fs::read_to_string(folder.join(policy)).unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().unwrap();
    assert!(statements.iter().all(|s| s["Effect"] == "Allow"), "{text}");
    let everywhere = statements.iter().filter(|s| s["Resource"] == "*");
    assert!(everywhere.clone().all(|s| s["Sid"] == "LookAtGroups"), "{text}");
    let actions = statements.iter().flat_map(|s| s["Action"].as_array().unwrap());
    actions.map(|action| action.as_str().unwrap().to_owned()).collect()
}

#[test]
fn policies_allow_what_is_called_and_no_more() {
    let own = |file: &str| needed(&format!("store/dynamodb/{file}"));
    let daemon = own("calls.rs").into_iter().chain(own("mod.rs")).collect();
    assert_eq!(allowed("daemon.json"), daemon);
    assert_eq!(allowed("init.json"), own("table.rs"));
    assert!(allowed("reader.json").is_subset(&daemon));
    assert_eq!(allowed("hsdo-discover.json"), needed("hsdo/table.rs"));
    assert_eq!(allowed("hsdo-sync.json"), ["dynamodb:Scan".to_owned()].into());
}

#[test]
fn the_policy_for_groups_allows_what_the_source_calls() {
    let named = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
        let source = std::fs::read_to_string(path).unwrap();
        let (_, rest) = source.split_once("const CALL: &str = \"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let calls = [
        format!("autoscaling:{}", named("commands/discover/sources/asg/region.rs")),
        format!("autoscaling:{}", named("commands/discover/sources/asg/lifecycle.rs")),
        format!("ec2:{}", named("aws/ec2/mod.rs")),
    ];
    assert_eq!(allowed("asg.json"), BTreeSet::from(calls));
}
