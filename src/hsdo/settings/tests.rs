//! HSDO's file and variables in; lbctl's settings or mistakes out.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

use crate::config::{Flags, NoteKind, Reader};

fn layer(file: &str, environment: &[(&str, &str)]) -> Layer {
    let file = HsdoFile::parse(Path::new("conf/env.yaml"), file).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    translate(Some(file), environment, None)
}

/// What is set under a section: path without it → text and origin.
fn set(layer: &Layer, section: &str) -> BTreeMap<String, (String, String)> {
    let start = format!("{section}.");
    let one = |path: &str| {
        let (text, origin) = layer.get(path)?;
        Some((path.strip_prefix(&start)?.to_owned(), (text.clone(), origin.to_string())))
    };
    layer.paths().filter_map(one).collect()
}

fn texts(layer: &Layer, section: &str) -> Vec<String> {
    let all = set(layer, section).into_iter();
    all.map(|(path, (text, _))| format!("{path} = {text}")).collect()
}

/// Reads a section as its command does, under flags.
fn read(layer: Layer, section: &str, flags: Flags) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("lbctl.toml");
    std::fs::write(&empty, "").unwrap();
    let mut reader = Reader::load(Some(&empty), [], flags).unwrap().over(layer.clone().into());
    reader.find::<String>("log.level");
    for path in layer.paths().filter(|path| path.starts_with(section)) {
        reader.find::<String>(path);
    }
    for name in ["source", "slots", "hsdo-table", "backend", "admin"] {
        reader.find::<String>(&format!("{section}.{name}"));
    }
    reader.finish().map_or_else(|error| error.0, |_| Vec::new())
}

fn mistakes(section: &str, file: &str, environment: &[(&str, &str)]) -> Vec<String> {
    read(layer(file, environment), section, Flags::new())
}

const SERVER: &str = "\
SERVER_MODE: aws
SERVER_ASG_NAMES: web-a, web-b,web-a
DYNAMODB_TABLE_NAME: hsdo
";

const CLIENT: &str = "\
DYNAMODB_TABLE_NAME: hsdo
CLIENT_HAPROXY_BACKEND_LIST:
  web:
    baseName: srv
    serverPort: '8080'
  api: { baseName: api-, serverPort: 9090 }
";

#[test]
fn a_server_has_hsdos_defaults() {
    let all = texts(&layer(SERVER, &[]), "discover");
    let expected = [
        "aws-region = eu-west-1",
        "backends[0].name = hsdo",
        "hsdo-table = hsdo",
        "interval = 1s",
        "max-weight = 10",
        "min-weight = 1",
        "slots = 10",
        "source = asg:web-a,web-b",
        "table-layout = hsdo",
        "weight-interval = 30s",
        "weight-step = 1",
    ];
    assert_eq!(all, expected);
}

#[test]
fn a_client_has_hsdos_defaults() {
    let all = texts(&layer(CLIENT, &[]), "sync-haproxy");
    let expected = [
        "aws-region = eu-west-1",
        "backends[0].backend = web/srv",
        "backends[0].from = hsdo",
        "backends[0].port = 8080",
        "backends[1].backend = api/api-",
        "backends[1].from = hsdo",
        "backends[1].port = 9090",
        "hsdo-table = hsdo",
        "socket = /var/run/haproxy/admin.sock",
        "table-layout = hsdo",
        "table-poll = 1s",
    ];
    assert_eq!(all, expected);
}

#[test]
fn every_setting_is_translated_and_knows_where_it_is_from() {
    let server = "\
SERVER_MODE: consul
SERVER_CONSUL_API_URL: http://consul:8500
SERVER_CONSUL_SERVICE_NAME: web,api
SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT: 2
SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT: 200
SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT: 3
SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL: 90
INTERVAL: 0.5
HAPROXY_BACKEND_SERVERS_LIST_SIZE: 20
DEBUG: 'true'
DYNAMODB_TABLE_NAME: hsdo
AWS_DEFAULT_REGION: us-east-1
EXPORTER_PORT: 6789
";
    let layer = layer(server, &[("INTERVAL", "2"), ("SERVER_MODE", " ")]);
    let all = set(&layer, "discover");
    for (path, text, origin) in [
        ("admin", "0.0.0.0:6789", "conf/env.yaml:13: EXPORTER_PORT"),
        ("aws-region", "us-east-1", "conf/env.yaml:12: AWS_DEFAULT_REGION"),
        ("backends[0].name", "hsdo", "conf/env.yaml:11: DYNAMODB_TABLE_NAME"),
        ("consul-address", "http://consul:8500", "conf/env.yaml:2: SERVER_CONSUL_API_URL"),
        ("hsdo-table", "hsdo", "conf/env.yaml:11: DYNAMODB_TABLE_NAME"),
        ("interval", "2s", "INTERVAL"),
        ("slots", "20", "conf/env.yaml:9: HAPROXY_BACKEND_SERVERS_LIST_SIZE"),
        ("source", "consul:web,api", "conf/env.yaml:3: SERVER_CONSUL_SERVICE_NAME"),
        (
            "weight-interval",
            "1m30s",
            "conf/env.yaml:7: SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL",
        ),
        ("weight-step", "3", "conf/env.yaml:6: SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT"),
    ] {
        assert_eq!(all[path], (text.to_owned(), origin.to_owned()), "{path}");
    }
    assert_eq!(set(&layer, "log")["level"].0, "debug");
    let (_, default) = &set(&layer, "sync-haproxy")["socket"];
    assert_eq!(default, "default of CLIENT_HAPROXY_SOCKET_PATH");
}

#[test]
fn the_environment_has_numbers_truths_and_the_list_as_texts() {
    let json = r#"{"web": {"baseName": "srv", "serverPort": "80"}}"#;
    let yaml = "web: {baseName: srv, serverPort: 80}";
    for list in [json, yaml, "{'web': {'baseName': 'srv', 'serverPort': '80'}}"] {
        let variables = [
            ("CLIENT_HAPROXY_BACKEND_LIST", list),
            ("INTERVAL", "5"),
            ("EXPORTER_PORT", "9001"),
            ("HAPROXY_BACKEND_SERVERS_LIST_SIZE", "7"),
            ("DYNAMODB_TABLE_NAME", "hsdo"),
        ];
        let environment = variables.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let layer = translate(None, environment, None);
        let all = set(&layer, "sync-haproxy");
        assert_eq!(all["backends[0].backend"].0, "web/srv");
        assert_eq!(all["backends[0].backend"].1, "CLIENT_HAPROXY_BACKEND_LIST");
        assert_eq!((&*all["table-poll"].0, &*all["admin"].0), ("5s", "0.0.0.0:9001"));
        assert_eq!(set(&layer, "discover")["slots"].0, "7");
        assert!(read(layer, "sync-haproxy", Flags::new()).is_empty());
    }
}

const DEDICATED: &str = "\
CLIENT_DEDICATED_ASG: \"true\"
CLIENT_ASG_NAMES: web-a,web-c
CLIENT_HAPROXY_FALLBACK_BACKEND_NAME: rest
CLIENT_HAPROXY_FALLBACK_BACKEND_BASE_NAME: srv
";

#[test]
fn dedicated_groups_and_the_fallback_are_in_every_backend() {
    let all = set(&layer(&format!("{CLIENT}{DEDICATED}"), &[]), "sync-haproxy");
    for index in 0..2 {
        let of = |name: &str| all[&format!("backends[{index}].{name}")].0.clone();
        assert_eq!(of("groups"), "web-a,web-c");
        assert_eq!((of("fallback"), of("fallback-takes")), ("rest/srv".into(), "rest".into()));
        assert_eq!(of("fallback-port"), "80");
    }
    let everything = [("CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND", "true")];
    let file = format!("{CLIENT}{DEDICATED}CLIENT_HAPROXY_BACKEND_SERVER_PORT: 81\n");
    let all = set(&layer(&file, &everything), "sync-haproxy");
    assert_eq!(all["backends[1].fallback-takes"].0, "all");
    assert_eq!(all["backends[1].fallback-port"].0, "81");
}

/// As in HSDO, which sends every server to both then.
#[test]
fn all_servers_are_in_the_fallback_without_dedicated_groups_too() {
    let environment =
        [("CLIENT_DEDICATED_ASG", "false"), ("CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND", "true")];
    let all = set(&layer(&format!("{CLIENT}{DEDICATED}"), &environment), "sync-haproxy");
    assert!(!all.contains_key("backends[0].groups"));
    assert_eq!(all["backends[0].fallback-takes"].0, "all");
    let neither = [("CLIENT_DEDICATED_ASG", "False")];
    let all = set(&layer(&format!("{CLIENT}{DEDICATED}"), &neither), "sync-haproxy");
    assert!(!all.contains_key("backends[0].fallback") && !all.contains_key("backends[0].groups"));
}

#[test]
fn the_dead_keys_serve_where_there_is_no_list() {
    let dead = "CLIENT_HAPROXY_BACKEND_NAME: web\nCLIENT_HAPROXY_BACKEND_BASE_NAME: srv\n";
    let all = set(&layer(dead, &[]), "sync-haproxy");
    assert_eq!(all["backends[0].backend"].0, "web/srv");
    assert_eq!(all["backends[0].port"].0, "80");
    let all = set(&layer(&format!("{dead}{CLIENT}"), &[]), "sync-haproxy");
    assert_eq!(all["backends[0].port"].0, "8080");
    let half = "CLIENT_HAPROXY_BACKEND_NAME: web\nDYNAMODB_TABLE_NAME: hsdo\n";
    assert_eq!(
        mistakes("sync-haproxy", half, &[]),
        ["CLIENT_HAPROXY_BACKEND_BASE_NAME: is not set, and CLIENT_HAPROXY_BACKEND_NAME is"]
    );
}

/// The file as it is shipped, which has every key but the list.
fn shipped() -> String {
    let lines = var::ALL.iter().filter(|v| v.name != "CLIENT_HAPROXY_BACKEND_LIST");
    lines.map(|v| format!("{}: \"{}\"\n", v.name, v.shipped)).collect()
}

#[test]
fn the_file_as_shipped_speaks_of_nothing_and_lacks_what_it_lacks() {
    let layer = layer(&shipped(), &[]);
    assert!(!layer.speaks_of("discover") && !layer.speaks_of("sync-haproxy"));
    assert_eq!(
        read(layer.clone(), "discover", Flags::new()),
        [
            "DYNAMODB_TABLE_NAME: is not set: name HSDO's DynamoDB table",
            "SERVER_MODE: is not set: it is aws or consul",
        ]
    );
    assert_eq!(
        read(layer, "sync-haproxy", Flags::new()),
        [
            "CLIENT_HAPROXY_BACKEND_LIST: is not set: name the HAProxy backends to fill",
            "DYNAMODB_TABLE_NAME: is not set: name HSDO's DynamoDB table",
        ]
    );
}

#[test]
fn every_mistake_of_a_server_is_told_at_once_by_hsdos_names() {
    let file = "\
SERVER_MODE: gce
SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT: 20
SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT: 5
SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT: -1
SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL: [30]
INTERVAL: soon
HAPROXY_BACKEND_SERVERS_LIST_SIZE: 0
DEBUG: [yes]
EXPORTER_PORT: 70000
CLIENT_DEDICATED_ASG: maybe
";
    let expected = [
        "DYNAMODB_TABLE_NAME: is not set: name HSDO's DynamoDB table",
        "INTERVAL: \"-1\" is not a time in seconds",
        "conf/env.yaml:1: SERVER_MODE: \"gce\" is neither aws nor consul",
        "conf/env.yaml:2: SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT: 20 is over SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT, 5, and HSDO then raises no weight",
        "conf/env.yaml:4: SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT: \"-1\" is not a whole number of 0 or more",
        "conf/env.yaml:5: SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL: must be one text or number",
        "conf/env.yaml:7: HAPROXY_BACKEND_SERVERS_LIST_SIZE: \"0\" is not a whole number from 1 to 99999",
        "conf/env.yaml:8: DEBUG: must be one text or number",
        "conf/env.yaml:9: EXPORTER_PORT: \"70000\" is not a whole number from 0 to 65535",
    ];
    assert_eq!(mistakes("discover", file, &[("INTERVAL", "-1")]), expected);
    let [mistake] = &mistakes("discover", SERVER, &[("DYNAMODB_TABLE_NAME", "a b")])[..] else {
        panic!()
    };
    assert!(mistake.starts_with("DYNAMODB_TABLE_NAME: \"a b\" is not a table"), "{mistake}");
    let zero = [("SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT", "0")];
    let name = "SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT";
    let expected = [format!("{name}: \"0\" is not a whole number of 1 or more")];
    assert_eq!(mistakes("discover", SERVER, &zero), expected);
}

/// The warnings that a file and variables give, without the file's name.
fn warnings(file: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let layer = layer(file, environment);
    let warnings = layer.notes().iter().filter(|note| note.kind == NoteKind::Warning);
    warnings.map(|note| note.text.replace("conf/env.yaml:", "")).collect()
}

/// HSDO compares with the text "true".
#[test]
fn only_the_text_true_is_on_and_what_looks_like_it_is_warned_of() {
    let names = "CLIENT_ASG_NAMES: web-a\nCLIENT_HAPROXY_FALLBACK_BACKEND_NAME: rest\n\
                 CLIENT_HAPROXY_FALLBACK_BACKEND_BASE_NAME: srv\n";
    let is_on = |file: &str, environment: &[(&str, &str)]| {
        let file = format!("{CLIENT}{names}{file}");
        let said = warnings(&file, environment);
        let said = said.iter().any(|said| said.contains("which is off to HSDO"));
        let all = set(&layer(&file, environment), "sync-haproxy");
        (all.contains_key("backends[0].groups"), said)
    };
    for (value, expected) in [
        ("\"true\"", (true, false)),
        ("true", (false, true)),
        ("True", (false, true)),
        ("'True'", (false, true)),
        ("' true'", (false, true)),
        ("yes", (false, true)),
        ("1", (false, true)),
        ("maybe", (false, true)),
        ("false", (false, false)),
        ("'false'", (false, false)),
        ("0", (false, false)),
        ("no", (false, false)),
        ("''", (false, false)),
    ] {
        let file = format!("CLIENT_DEDICATED_ASG: {value}\n");
        assert_eq!(is_on(&file, &[]), expected, "{value}");
        assert!(mistakes("sync-haproxy", &format!("{CLIENT}{names}{file}"), &[]).is_empty());
    }
    for (value, expected) in
        [("true", (true, false)), ("TRUE", (false, true)), ("0", (false, false))]
    {
        assert_eq!(is_on("", &[("CLIENT_DEDICATED_ASG", value)]), expected, "{value}");
    }
}

#[test]
fn numbers_that_hsdo_runs_with_run_here_and_a_change_is_warned_of() {
    let weight = "SERVER_HAPROXY_BACKEND_SERVER";
    for (file, expected, warns) in [
        ("INTERVAL: 0".to_owned(), vec![("interval", "1s")], true),
        ("INTERVAL: 0.5".to_owned(), vec![("interval", "1s")], true),
        ("INTERVAL: 2.5".to_owned(), vec![("interval", "2s500ms")], false),
        (format!("{weight}_INCREASE_WEIGHT_INTERVAL: 0"), vec![("weight-interval", "1s")], true),
        (
            format!("INTERVAL: 5\n{weight}_INCREASE_WEIGHT_INTERVAL: 0.9"),
            vec![("weight-interval", "5s")],
            true,
        ),
        (
            format!("{weight}_INCREASE_WEIGHT_INTERVAL: 30.7"),
            vec![("weight-interval", "30s")],
            true,
        ),
        (format!("{weight}_INCREASE_WEIGHT: 300"), vec![("weight-step", "256")], false),
        (
            format!("{weight}_INCREASE_WEIGHT: 0"),
            vec![("min-weight", "1"), ("max-weight", "1"), ("weight-step", "1")],
            true,
        ),
        (format!("{weight}_MAX_WEIGHT: 300"), vec![("max-weight", "256")], true),
    ] {
        let file = format!("{SERVER}AWS_DEFAULT_REGION: eu-west-1\n{file}\n");
        assert_eq!(mistakes("discover", &file, &[]), [""; 0], "{file}");
        let all = set(&layer(&file, &[]), "discover");
        for (path, text) in expected {
            assert_eq!(all[path].0, text, "{path} of {file}");
        }
        let said = warnings(&file, &[]);
        assert_eq!(said.iter().any(|said| said.contains("is")), warns, "{file}{said:?}");
    }
    let polls = |interval: &str| {
        let all = set(&layer(&format!("{CLIENT}INTERVAL: {interval}\n"), &[]), "sync-haproxy");
        all["table-poll"].0.clone()
    };
    assert_eq!(["0", "0.5", "1"].map(polls), ["100ms", "500ms", "1s"]);
}

/// Several of them may share one store.
#[test]
fn the_backend_has_the_name_of_the_table_or_the_one_that_is_chosen() {
    let names = |table: &str, chosen: Option<&str>| {
        let file = format!("{SERVER}{CLIENT}").replace("DYNAMODB_TABLE_NAME: hsdo\n", "");
        let file = format!("{file}DYNAMODB_TABLE_NAME: {table}\n");
        let file = HsdoFile::parse(Path::new("conf/env.yaml"), &file).unwrap();
        let chosen = chosen.map(|name| (name.to_owned(), Origin::Flag("--hsdo-backend".into())));
        let layer = translate(Some(file), [], chosen);
        let discover = set(&layer, "discover")["backends[0].name"].clone();
        let sync = set(&layer, "sync-haproxy");
        assert_eq!(sync["backends[0].from"], discover);
        assert_eq!(sync["backends[1].from"], discover);
        (discover.0, read(layer, "discover", Flags::new()))
    };
    assert_eq!(names("hsdo-web", None), ("hsdo-web".to_owned(), Vec::new()));
    assert_eq!(names("hsdo-web", Some("hsdo")), ("hsdo".to_owned(), Vec::new()));
    let longest = "t".repeat(255);
    assert_eq!(names(&longest, None), (longest.clone(), Vec::new()));
    let (_, mistakes) = names("...", None);
    assert!(mistakes[0].contains("give the backend another with --hsdo-backend"), "{mistakes:?}");
    assert_eq!(names("...", Some("web")).1, [""; 0]);
}

#[test]
fn a_source_needs_names_that_can_be_names() {
    let with =
        |file: &str| mistakes("discover", &format!("DYNAMODB_TABLE_NAME: hsdo\n{file}"), &[]);
    assert_eq!(
        with("SERVER_MODE: aws\nSERVER_ASG_NAMES: ' , '\n"),
        [
            "conf/env.yaml:3: SERVER_ASG_NAMES: is empty: name the Auto Scaling groups, separated by commas"
        ]
    );
    assert_eq!(
        with("SERVER_MODE: aws\nSERVER_ASG_NAMES: tag:a=b\n"),
        [
            "conf/env.yaml:3: SERVER_ASG_NAMES: \"tag:a=b\" has a colon, which no Auto Scaling group's name has"
        ]
    );
    assert_eq!(
        with("SERVER_MODE: consul\n"),
        [
            "SERVER_CONSUL_API_URL: is not set: give Consul's URL",
            "SERVER_CONSUL_SERVICE_NAME: is empty: name the services, separated by commas",
        ]
    );
}

#[test]
fn every_mistake_of_a_client_is_told_at_once_by_hsdos_names() {
    let file = "\
CLIENT_DEDICATED_ASG: 'true'
CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND: {}
CLIENT_HAPROXY_BACKEND_SERVER_PORT: http
CLIENT_HAPROXY_BACKEND_LIST:
  web: srv
  api: { baseName: srv }
  old: { serverPort: 0, baseName: x }
  new: { serverPort: 80 }
DYNAMODB_TABLE_NAME: hsdo
";
    let expected = [
        "CLIENT_ASG_NAMES: is empty, and CLIENT_DEDICATED_ASG needs it: name the Auto Scaling groups whose servers the backends take",
        "conf/env.yaml:2: CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND: must be the text \"true\" or \"false\"",
        "conf/env.yaml:3: CLIENT_HAPROXY_BACKEND_SERVER_PORT: \"http\" is not a whole number from 1 to 65535",
        "conf/env.yaml:5: CLIENT_HAPROXY_BACKEND_LIST: backend \"web\" must be a map with baseName and serverPort",
        "conf/env.yaml:6: CLIENT_HAPROXY_BACKEND_LIST: backend \"api\" needs a serverPort",
        "conf/env.yaml:7: CLIENT_HAPROXY_BACKEND_LIST: backend \"old\": serverPort \"0\" is not from 1 to 65535",
        "conf/env.yaml:8: CLIENT_HAPROXY_BACKEND_LIST: backend \"new\" needs a baseName",
    ];
    assert_eq!(mistakes("sync-haproxy", file, &[]), expected);
    let dedicated = format!("{CLIENT}CLIENT_DEDICATED_ASG: 'true'\nCLIENT_ASG_NAMES: a\n");
    assert_eq!(
        mistakes("sync-haproxy", &dedicated, &[]),
        ["CLIENT_HAPROXY_FALLBACK_BACKEND_NAME: is not set, and CLIENT_DEDICATED_ASG needs it"]
    );
}

#[test]
fn a_list_that_is_no_map_is_refused_with_an_example() {
    for list in ["[web]", "web", "5", "{\"web\"", "{}", "'- a'"] {
        let found = mistakes("sync-haproxy", CLIENT, &[("CLIENT_HAPROXY_BACKEND_LIST", list)]);
        let [mistake] = found.as_slice() else { panic!("{list}: {found:?}") };
        assert!(mistake.starts_with("CLIENT_HAPROXY_BACKEND_LIST: "), "{list}: {mistake}");
    }
}

#[test]
fn a_stronger_setting_of_lbctl_is_instead_of_what_is_missing_but_excuses_no_mistake() {
    let flags = Flags::new().set("discover.source", "--source", Some("registry")).set(
        "discover.hsdo-table",
        "--hsdo-table",
        Some("hsdo"),
    );
    assert!(read(layer(&shipped(), &[]), "discover", flags.clone()).is_empty());
    let wrong = layer("SERVER_MODE: gce\n", &[]);
    assert_eq!(read(wrong, "discover", flags).len(), 1);
}

#[test]
fn a_file_that_is_no_map_is_one_clear_mistake() {
    let parse = |text| HsdoFile::parse(Path::new("env.yaml"), text).unwrap_err().to_string();
    assert!(parse("- a\n").starts_with("env.yaml:1: must be a map"));
    assert!(parse("INTERVAL: 1\nINTERVAL: 2\n").starts_with("env.yaml:2: "));
    assert!(parse("INTERVAL: [\n").starts_with("env.yaml:"));
    let error = HsdoFile::load(Path::new("/nonexistent"), |path| std::fs::read_to_string(path));
    assert!(error.unwrap_err().to_string().contains("cannot read /nonexistent: "));
}

proptest! {
    #[test]
    fn no_file_makes_the_translation_panic(
        lines in prop::collection::vec((0..var::ALL.len(), "(\\PC|[ \"'{}:,0-9]){0,20}"), 0..8),
        list in "(\\PC|[{}\\[\\]:,\"' 0-9]|baseName|serverPort){0,60}",
    ) {
        let lines = lines.iter().map(|(name, value)| format!("{}: {value}\n", var::ALL[*name].name));
        fuzzing::hsdo_settings(format!("{}\0{list}", lines.collect::<String>()).as_bytes());
    }
}
