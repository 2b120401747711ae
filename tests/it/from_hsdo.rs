//! lbctl with HSDO's configuration, and what the guide for those who come from HSDO promises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::support::lbctl;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/hsdo-env.yaml");
const AWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/aws.toml");
const GUIDE: &str = include_str!("../../docs/from-hsdo.md");

/// A folder with an empty file for lbctl, in an environment without any setting but those given.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lbctl.toml"), "").unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(lbctl());
        command.env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
        if !arguments.contains(&"--config") {
            command.arg("--config").arg(self.0.path().join("lbctl.toml"));
        }
        command.args(arguments).output().unwrap()
    }

    /// Setting → value and origin.
    fn shown(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> BTreeMap<String, (Value, String)> {
        let show = [&["config", "show", "--output", "json"], arguments].concat();
        let output = self.run(&show, variables);
        assert!(output.status.success(), "{}", stderr(&output));
        let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |s: &Value| (text(&s["setting"]), (s["value"].clone(), text(&s["from"])));
        list.iter().map(one).collect()
    }

    /// The mistakes with which a command ends, without the folder's name.
    fn mistakes(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(arguments, variables);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {}", stderr(&output));
        stderr(&output).replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What is the same however it was set; the defaults of names are the host's and the process's.
fn values(shown: BTreeMap<String, (Value, String)>) -> BTreeMap<String, Value> {
    let own = |name: &str| ["discover.id", "sync-haproxy.name"].contains(&name);
    shown
        .into_iter()
        .filter(|(name, _)| !own(name))
        .map(|(name, (value, _))| (name, value))
        .collect()
}

#[test]
fn hsdos_file_written_as_lbctls_means_the_same() {
    let host = Host::new();
    let consul = "SERVER_MODE: consul\nSERVER_CONSUL_API_URL: http://127.0.0.1:8500\n\
                  SERVER_CONSUL_SERVICE_NAME: web,api\nDYNAMODB_TABLE_NAME: hsdo\nINTERVAL: 2\n";
    let client = "CLIENT_HAPROXY_BACKEND_LIST: {a: {baseName: b, serverPort: 1}, \
                  c: {baseName: d, serverPort: 2}}\nDYNAMODB_TABLE_NAME: hsdo\nDEBUG: 'true'\n";
    let consul = host.write("consul.yaml", consul);
    let client = host.write("client.yaml", client);
    for file in [EXAMPLE, &consul, &client] {
        let hsdo = ["--hsdo-config", file];
        let written = host.run(&[&["config", "show", "--output", "toml"], &hsdo[..]].concat(), &[]);
        assert!(written.status.success(), "{}", stderr(&written));
        let toml = host.write("written.toml", &stdout(&written));
        let before = values(host.shown(&hsdo, &[]));
        let after = values(host.shown(&["--config", &toml], &[]));
        // A file of a client alone says nothing of a server, whose defaults are then lbctl's.
        let section = |name: &str| name.split(['.', '[']).next().unwrap().to_owned();
        let said: BTreeSet<String> = stdout(&written)
            .lines()
            .filter_map(|l| l.strip_prefix('['))
            .map(|l| section(l.trim_start_matches('[').trim_end_matches(']')))
            .collect();
        let of_said = |all: BTreeMap<String, Value>| -> BTreeMap<String, Value> {
            all.into_iter().filter(|(name, _)| said.contains(&section(name))).collect()
        };
        assert_eq!(of_said(before), of_said(after), "{}", stdout(&written));
        let check = host.run(&["config", "check", &toml], &[]);
        assert!(check.status.success(), "{}", stderr(&check));
    }
}

/// As the guide has it: over the file that is read, which the shell would have emptied first.
#[test]
fn the_settings_are_written_over_the_file_that_is_read_and_never_printed_into_it() {
    let host = Host::new();
    let file = host.write("lbctl.toml", "[store]\nurl = 'sqlite:/tmp/never-made.db'\n");
    std::os::unix::fs::symlink(&file, host.0.path().join("link.toml")).unwrap();
    let link = host.0.path().join("link.toml").display().to_string();
    let show = ["config", "show", "--hsdo-config", EXAMPLE, "--output", "toml"];
    let expected = host.run(&show, &[]);
    let expected = stdout(&expected).replace(&file, "");
    let written = host.run(&[&show[..], &["--to", &link]].concat(), &[]);
    assert!(written.status.success() && written.stdout.is_empty(), "{}", stderr(&written));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.replace(&file, ""), expected);
    assert!(text.contains("url = \"sqlite:/tmp/never-made.db\""), "{text}");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let left = std::fs::read_dir(host.0.path()).unwrap().count();
    assert_eq!(left, 2, "a leftover stayed");

    // As a shell does it.
    let emptied = std::fs::File::create(&file).unwrap();
    let mut command = Command::new(lbctl());
    command.env_clear().args(["--config", &file]).args(show).stdin(Stdio::null()).stdout(emptied);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("emptied") && stderr(&output).contains("--to "));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "", "it wrote nonsense");

    let secret = host.write("lbctl.toml", "[store]\nurl = 'etcd://u:p@127.0.0.1:1'\n");
    let refused = host.mistakes(&[&show[..], &["--to", &secret]].concat(), &[]);
    assert!(refused.contains("store.url has a secret"), "{refused}");
    assert!(std::fs::read_to_string(&secret).unwrap().contains("u:p@"));
}

#[test]
fn every_value_says_which_setting_of_hsdo_it_is() {
    let host = Host::new();
    let shown = host.shown(&["--hsdo-config", EXAMPLE], &[("INTERVAL", "3")]);
    let from = |setting: &str| shown[setting].1.replace(EXAMPLE, "env.yaml");
    assert_eq!(from("discover.source"), "env.yaml:11: SERVER_ASG_NAMES");
    assert_eq!(from("sync-haproxy.table-poll"), "INTERVAL");
    assert_eq!(shown["sync-haproxy.table-poll"].0, "3s");
    assert_eq!(shown["sync-haproxy.backends[0].fallback-takes"].0, "rest");
}

/// Names such as DEBUG and INTERVAL are everybody's.
#[test]
fn hsdos_variables_change_nothing_unless_they_are_asked_for() {
    let host = Host::new();
    let stray = [
        ("DEBUG", "true"),
        ("INTERVAL", "soon"),
        ("EXPORTER_PORT", "1"),
        ("SERVER_MODE", "aws"),
        ("DYNAMODB_TABLE_NAME", "hsdo"),
        ("AWS_DEFAULT_REGION", "x"),
    ];
    assert_eq!(values(host.shown(&[], &stray)), values(host.shown(&[], &[])));
    let asked = [&stray[..], &[("LBCTL_HSDO_CONFIG", "env")]].concat();
    let said = host.mistakes(&["config", "check"], &asked);
    assert!(said.contains("INTERVAL: \"soon\" is not a time"), "{said}");
    assert!(said.contains("SERVER_ASG_NAMES: is empty"), "{said}");
    let by_flag = host.mistakes(&["config", "check", "--hsdo-config", "env"], &stray);
    let mistakes = |said: &str| said.split_once("error: ").map(|(_, mistakes)| mistakes.to_owned());
    assert_eq!(mistakes(&by_flag), mistakes(&said));
    // Commands that HSDO has no part in do not look at it either.
    let store = host.run(&["store", "--store", "memory:", "list"], &asked);
    assert!(store.status.success(), "{}", stderr(&store));
}

#[test]
fn each_command_tells_all_mistakes_of_its_own_part_by_hsdos_names() {
    let host = Host::new();
    let file = host.write(
        "env.yaml",
        "SERVER_MODE: gce\nSERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT: x\nINTERVAL: -1\n\
         HAPROXY_BACKEND_SERVERS_LIST_SIZE: 0\nCLIENT_DEDICATED_ASG: [maybe]\nSERVER_ASG_NAME: web\n\
         CLIENT_HAPROXY_BACKEND_LIST: [web]\n",
    );
    let server = [
        "env.yaml:1: SERVER_MODE: \"gce\" is neither aws nor consul",
        "env.yaml:2: SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT: \"x\" is not a whole number",
        "env.yaml:4: HAPROXY_BACKEND_SERVERS_LIST_SIZE: \"0\" is not a whole number from 1",
    ];
    let client = [
        "env.yaml:5: CLIENT_DEDICATED_ASG: must be the text \"true\" or \"false\"",
        "env.yaml:7: CLIENT_HAPROXY_BACKEND_LIST: must be a map",
    ];
    let both = [
        "env.yaml:3: INTERVAL: \"-1\" is not a time",
        "DYNAMODB_TABLE_NAME: is not set",
        "env.yaml:6: \"SERVER_ASG_NAME\" is no setting of HSDO: did you mean SERVER_ASG_NAMES?",
    ];
    for (command, its_own, others) in [
        (&["discover"][..], &server[..], &client[..]),
        (&["sync-haproxy"], &client, &server),
        (&["config", "check"], &[server.as_slice(), &client].concat(), &[]),
    ] {
        let said = host.mistakes(&[command, &["--hsdo-config", &file]].concat(), &[]);
        for mistake in both.iter().chain(its_own) {
            assert_eq!(said.matches(mistake).count(), 1, "{command:?}: {mistake}\n{said}");
        }
        assert!(others.iter().all(|mistake| !said.contains(mistake)), "{command:?}:\n{said}");
        // lbctl's own words for what follows from these mistakes would be noise.
        assert!(!said.contains("give --"), "{command:?}:\n{said}");
    }
}

#[test]
fn lbctls_flags_and_variables_win_and_its_file_may_add_but_not_contradict() {
    let host = Host::new();
    let hsdo = ["--hsdo-config", EXAMPLE];
    let variables =
        [("LBCTL_DISCOVER_SLOTS", "20"), ("LBCTL_SYNC_HAPROXY_SOCKET", "/run/other.sock")];
    let shown = host.shown(&hsdo, &variables);
    assert_eq!(shown["discover.slots"].0, "20");
    assert_eq!(shown["sync-haproxy.socket"].0, "/run/other.sock");
    let flagged = host.mistakes(&[&["discover", "--slots", "0"], &hsdo[..]].concat(), &[]);
    assert!(flagged.contains("--slots: discover.backends[0].slots must be from 1"), "{flagged}");

    let adds = host.write("adds.toml", "[store]\nurl = \"memory:\"\n[discover]\nrest = \"1m\"\n");
    let shown = host.shown(&[&["--config", &adds], &hsdo[..]].concat(), &[]);
    assert_eq!(
        (&shown["store.url"].0, &shown["discover.rest"].0),
        (&"memory:".into(), &"1m".into())
    );

    let clashes =
        "[discover]\nslots = 20\n[[sync-haproxy.backends]]\nbackend = \"x\"\nfrom = \"y\"\n";
    let clashes = host.write("clashes.toml", clashes);
    let check = [&["--config", &clashes, "config", "check"], &hsdo[..]].concat();
    let said = host.mistakes(&check, &[]).replace(EXAMPLE, "env.yaml");
    for clash in [
        "clashes.toml:2: discover.slots is set here and by env.yaml:37: HAPROXY_BACKEND_SERVERS_LIST_SIZE",
        "clashes.toml:3: sync-haproxy.backends is set here and by env.yaml:23: CLIENT_HAPROXY_BACKEND_LIST",
    ] {
        assert!(said.contains(clash), "{clash}\n{said}");
    }
}

#[test]
fn what_hsdo_does_in_silence_is_warned_of() {
    let host = Host::new();
    let file = host.write(
        "env.yaml",
        "DYNAMODB_TABLE_NAME: hsdo\nCLIENT_HAPROXY_BACKEND_NAME: web\nEXPORTER_PORT: 9000\n\
         CLIENT_HAPROXY_BACKEND_BASE_NAME: srv\nCLIENT_ASG_NAMES: a\nCLIENT_DEDICATED_ASG: true\n\
         INTERVAL: 0\n",
    );
    let said = |arguments: &[&str]| {
        let check = [&["config", "check", "--hsdo-config", &file], arguments].concat();
        let output = host.run(&check, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let warnings = said(&[]);
    for warning in [
        "env.yaml:2: CLIENT_HAPROXY_BACKEND_NAME: is used, since CLIENT_HAPROXY_BACKEND_LIST is not",
        "env.yaml:3: EXPORTER_PORT: /metrics and /status are served on every address of this host",
        "env.yaml:5: CLIENT_ASG_NAMES: does nothing without CLIENT_DEDICATED_ASG",
        "env.yaml:6: CLIENT_DEDICATED_ASG: is true without quotes, which is off to HSDO",
        "env.yaml:7: INTERVAL: is 0s, and it is 100ms here",
        "AWS_DEFAULT_REGION: is not set: it is eu-west-1",
    ] {
        assert_eq!(warnings.matches(warning).count(), 1, "{warning}\n{warnings}");
    }
}

#[test]
fn a_pipe_may_be_hsdos_file() {
    let host = Host::new();
    let lbctl = format!("{} --config {}", lbctl().display(), host.write("lbctl.toml", ""));
    let script = format!("{lbctl} config check --hsdo-config <(cat {EXAMPLE})");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn the_aws_example_is_correct_as_it_stands() {
    let host = Host::new();
    let output = host.run(&["config", "check", AWS], &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = host.shown(&["--config", AWS], &[]);
    assert!(shown["store.url"].0.as_str().unwrap().starts_with("dynamodb://"));
    assert!(shown["discover.backends[0].source"].0.as_str().unwrap().starts_with("asg:"));
    assert!(shown.contains_key("sync-haproxy.backends[0].fallback"));
}

/// The cells of the rows of the guide's tables whose first cell begins so.
fn rows(start: &str) -> Vec<Vec<&'static str>> {
    let rows =
        GUIDE.lines().filter(|line| line.strip_prefix("| ").is_some_and(|l| l.starts_with(start)));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_guide_has_every_setting_of_hsdo_and_only_settings_of_lbctl() {
    let host = Host::new();
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    let keys = example.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let mut keys: BTreeSet<&str> = keys.map(|line| line.split(':').next().unwrap()).collect();
    keys.extend(["CLIENT_HAPROXY_BACKEND_NAME", "CLIENT_HAPROXY_BACKEND_BASE_NAME"]);
    assert_eq!(keys.len(), 24);
    let known: BTreeSet<String> =
        host.shown(&["--hsdo-config", EXAMPLE], &[]).into_keys().collect();
    for key in keys {
        let rows = rows(&format!("`{key}`"));
        let [row] = rows.as_slice() else { panic!("{key} has {} rows in the guide", rows.len()) };
        for name in quoted(row[2]).filter(|name| name.contains('.')) {
            let written = known.iter().map(|known| known.replace("[0]", ""));
            let is_there = written.filter_map(|known| known.strip_prefix(name).map(str::to_owned));
            let is_there =
                is_there.into_iter().any(|rest| rest.is_empty() || rest.starts_with('.'));
            assert!(is_there, "{key}: lbctl has no setting {name}");
        }
    }
}

#[test]
fn the_guide_has_every_defect_and_names_tests_that_exist() {
    let tests = test_names();
    for number in 1..=32 {
        let rows = rows(&format!("H{number} "));
        let [row] = rows.as_slice() else { panic!("H{number} has {} rows", rows.len()) };
        let [_, defect, reason] = row.as_slice() else { panic!("{row:?}") };
        assert!(!defect.is_empty() && !reason.is_empty(), "H{number}");
        let named = quoted(reason).filter(|name| name.matches('_').count() > 2);
        for name in named.filter(|name| {
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        }) {
            assert!(tests.contains(name), "H{number}: there is no test {name}");
        }
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every function below a test's attribute, in the project.
fn test_names() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let functions = text.split("fn ").skip(1);
    functions.map(|rest| rest.split(['(', '<']).next().unwrap().to_owned()).collect()
}
