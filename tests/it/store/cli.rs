//! `lbctl store` as a user types it, on sqlite, on etcd and on DynamoDB.

use std::any::Any;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::etcd::{Etcd, Options, PASSWORD, PASSWORD_IN_URL, USER};
use crate::support::moto::{self, Moto};
use crate::support::{eventually, free_port, lbctl};

/// The command on one store.
struct Cli {
    url: String,
    home: TempDir,
    /// Its server.
    _server: Option<Arc<dyn Any>>,
}

/// What a run came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        String::from_utf8(self.stdout).unwrap()
    }

    #[track_caller]
    fn fails(self, code: i32, about: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(about), "nothing about {about:?} in {:?}", self.stderr);
    }
}

impl Cli {
    fn sqlite() -> Self {
        let home = TempDir::new().unwrap();
        let url = format!("sqlite:{}", home.path().join("store.db").display());
        Self { url, home, _server: None }
    }

    fn etcd() -> Option<Self> {
        let etcd = Etcd::shared()?;
        let url = etcd.url(&format!("cli/{}", uuid::Uuid::new_v4()));
        Some(Self { url, home: TempDir::new().unwrap(), _server: Some(etcd) })
    }

    fn dynamodb() -> Option<Self> {
        let moto = Moto::shared()?;
        let (url, home) = (moto.table(), TempDir::new().unwrap());
        Some(Self { url, home, _server: Some(moto) })
    }

    /// One on each kind of store.
    fn each() -> Vec<Self> {
        [Some(Self::sqlite()), Self::etcd(), Self::dynamodb()].into_iter().flatten().collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(lbctl());
        command.args(["store", "--store", &self.url]).args(args).env("HOME", self.home.path());
        command.envs(moto::ENVIRONMENT);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let piped = Stdio::piped;
        let mut command = self.command(args);
        let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // A command that does not read its stdin closes it.
            scope.spawn(move || _ = stdin.write_all(input).is_ok());
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            Ran { code: output.status.code(), stdout: output.stdout, stderr }
        })
    }

    fn keys(&self) -> Vec<String> {
        let listed = self.json(&["list", "--output", "json"]);
        let entries = listed["entries"].as_array().unwrap();
        entries.iter().map(|e| e["key"].as_str().unwrap().to_owned()).collect()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args).ok()).unwrap()
    }
}

#[test]
fn values_pass_byte_for_byte() {
    for cli in Cli::each() {
        let binary: Vec<u8> = (0..=255).cycle().take(256 * 1024).collect();
        for value in [&b""[..], b"text", b"line\n", b"\0\xff", &binary] {
            cli.run_with(&["put", "k", "-"], value).ok();
            assert_eq!(cli.run(&["get", "k"]).stdout, value);
        }
        cli.run_with(&["put", "piped"], b"no dash").ok();
        cli.run(&["put", "minus", "-5"]).ok();
        assert_eq!(cli.run(&["get", "/piped"]).ok(), "no dash");
        assert_eq!(cli.run(&["get", "minus"]).ok(), "-5");
        cli.run_with(&["put", "k", "-"], &[1; 256 * 1024 + 1]).fails(1, "at most 262144");
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    for cli in Cli::each() {
        cli.run(&["get", "nothing"]).fails(1, "no key \"nothing\"");
        cli.run(&["delete", "nothing"]).fails(1, "no key \"nothing\"");
        cli.run(&["get", "a//b"]).fails(2, "empty part");
        cli.run(&["delete", "--prefix", "/"]).fails(2, "everything");
        assert_eq!(cli.run(&["delete", "--prefix", "nothing"]).ok(), "deleted 0 keys\n");
        assert_eq!(cli.keys(), [""; 0]);
    }
}

#[test]
fn put_if_absent_loses_to_what_is_there() {
    for cli in Cli::each() {
        cli.run(&["put", "k", "first", "--if-absent"]).ok();
        cli.run(&["put", "k", "second", "--if-absent"]).fails(75, "exists already");
        cli.run(&["put", "k", "second", "--if-absent", "--dry-run"]).fails(75, "exists already");
        cli.run(&["put", "k", "second", "--if-absent", "--ttl", "5s"]).fails(75, "exists");
        assert_eq!(cli.run(&["get", "k"]).ok(), "first");
    }
}

#[test]
fn a_ttl_deletes_the_key() {
    for cli in Cli::each() {
        // In DynamoDB a lease ends only under the eyes of a process that stays.
        let _watching = Watching::start(&cli, &[]);
        let put = cli.run(&["put", "k", "v", "--ttl", "2s"]);
        assert!(!put.stderr.contains("granted"), "{put:?}");
        assert!(put.ok().contains("for 2s"));
        assert!(cli.json(&["get", "k", "--output", "json"])["lease"].is_string());
        eventually("the key to vanish", || (cli.run(&["get", "k"]).code == Some(1)).then_some(()));
        cli.run(&["put", "k", "v", "--ttl", "0"]).fails(2, "at once");
    }
    if let Some(cli) = Cli::etcd() {
        let raised = cli.run(&["put", "k", "v", "--ttl", "500ms"]);
        assert!(raised.stderr.contains("granted 2s where 500ms"), "{raised:?}");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    for cli in Cli::each() {
        cli.run(&["put", "a/b", "v"]).ok();
        let before = cli.run(&["list", "--output", "json"]).ok();
        let said = cli.run(&["put", "a/c", "value", "--ttl", "9s", "--dry-run"]).ok();
        assert_eq!(said, "would create a/c (5 bytes)\n");
        assert_eq!(cli.run(&["delete", "a/b", "--dry-run"]).ok(), "would delete a/b\n");
        assert_eq!(cli.run(&["delete", "--prefix", "a", "--dry-run"]).ok(), "would delete a/b\n");
        let lines = br#"{"key":"a/b","value":"w"}
                        {"key":"n","value":""}"#;
        let said = cli.run_with(&["import", "--replace", "--dry-run"], lines).ok();
        assert!(said.starts_with("would replace a/b (1 byte)\nwould create n (0 bytes)\n"));
        assert_eq!(cli.run(&["list", "--output", "json"]).ok(), before);
    }
}

#[test]
fn lists_are_for_people_or_for_programs() {
    for cli in Cli::each() {
        for (name, value) in [("a/1", "one"), ("a/2", "two\nlines\u{1b}[31m"), ("ab", "x")] {
            cli.run(&["put", name, value]).ok();
        }
        let table = cli.run(&["list", "a"]).ok();
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["KEY", "REVISION", "LEASE", "BYTES", "VALUE"]);
        assert_eq!((lines[1][0], lines[1][3], lines[1][4]), ("a/1", "3", "one"));
        assert_eq!(lines.len(), 3, "{table}");
        assert!(!table.contains('\u{1b}'), "a value reaches the terminal as it is: {table:?}");
        let listed = cli.json(&["list", "a/", "--output", "json"]);
        assert_eq!(listed["entries"][0]["key"], "a/1");
        assert_eq!(listed["entries"][1]["value"], "two\nlines\u{1b}[31m");
        assert_eq!(listed["entries"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn prefixes_are_deleted_in_many_commits() {
    for cli in Cli::each() {
        let lines: String = (0..150)
            .map(|i| format!("{}\n", json!({"key": format!("p/{i}"), "value": ""})))
            .collect();
        cli.run_with(&["import"], lines.as_bytes()).ok();
        cli.run(&["put", "px", "stays"]).ok();
        assert_eq!(cli.run(&["delete", "--prefix", "p"]).ok(), "deleted 150 keys\n");
        assert_eq!(cli.keys(), ["px"]);
    }
}

/// Keys of every kind, more than one commit holds in number and in bytes; as an export has them.
fn backup() -> Vec<u8> {
    let mut lines = Vec::new();
    let mut add = |line: Value| lines.push(line.to_string());
    for i in 0..200 {
        add(json!({"key": format!("many/{i:03}"), "value": format!("number {i}\n")}));
    }
    for i in 0..6 {
        let value = BASE64.encode(&vec![0xff - i; 200 * 1024]);
        add(json!({"key": format!("w/{i}"), "value_base64": value}));
    }
    add(json!({"key": "x/\u{e4} \"", "value": "\u{1f600}\0"}));
    lines.into_iter().flat_map(|line| (line + "\n").into_bytes()).collect()
}

#[test]
fn exports_move_between_stores() {
    let (sqlite, Some(etcd)) = (Cli::sqlite(), Cli::etcd()) else { return };
    let backup = backup();
    assert_eq!(
        sqlite.run_with(&["import", "-"], &backup).ok(),
        "wrote 207 of 207 keys; the others were so already\n"
    );
    let exported = sqlite.run(&["export"]);
    assert!(exported.stdout == backup, "the export is not what was imported");
    let file = sqlite.home.path().join("backup.jsonl");
    std::fs::write(&file, &exported.stdout).unwrap();
    let file = file.to_str().unwrap();
    etcd.run(&["import", file]).ok();
    assert!(etcd.run(&["export"]).stdout == backup, "etcd gives something else back");
    let again = etcd.run(&["import", file]).ok();
    assert!(again.starts_with("wrote 0 of 207 keys"), "{again}");
    assert_eq!(etcd.run(&["export", "x"]).ok().lines().count(), 1);
}

#[test]
fn keys_on_leases_are_exported_when_asked_for() {
    for cli in Cli::each() {
        cli.run(&["put", "kept", "v"]).ok();
        cli.run(&["put", "leased", "v", "--ttl", "10m"]).ok();
        let plain = cli.run(&["export"]);
        assert!(plain.stderr.contains("left out 1 key on a lease"), "{plain:?}");
        assert_eq!(plain.ok(), "{\"key\":\"kept\",\"value\":\"v\"}\n");
        let all = cli.run(&["export", "--include-leased"]);
        assert_eq!(all.stderr, "");
        assert_eq!(all.ok().lines().count(), 2);
    }
}

#[test]
fn a_bad_line_stops_the_whole_import() {
    for cli in Cli::each() {
        let text = "{\"key\":\"good\",\"value\":\"1\"}\nnot json\n\n{\"key\":\"a//b\",\"value\":\"\"}\n\
                    {\"key\":\"good\",\"value\":\"2\"}\n{\"key\":\"k\",\"value_base64\":\"*\"}\n";
        let ran = cli.run_with(&["import"], text.as_bytes());
        for about in ["line 2:", "line 4:", "line 5:", "in line 1 already", "line 6:"] {
            assert!(ran.stderr.contains(about), "nothing about {about} in {}", ran.stderr);
        }
        ran.fails(1, "nothing was written");
        assert_eq!(cli.keys(), [""; 0]);
        cli.run(&["import", "/nonexistent/file"]).fails(1, "/nonexistent/file");
    }
}

#[test]
fn an_import_replaces_only_when_told_to() {
    for cli in Cli::each() {
        cli.run(&["put", "old", "1"]).ok();
        cli.run(&["put", "same", "s"]).ok();
        let text = br#"{"key":"new","value":"n"}
{"key":"old","value":"2"}
{"key":"same","value":"s"}"#;
        cli.run_with(&["import"], text).fails(1, "  old\n");
        assert_eq!(cli.keys(), ["old", "same"]);
        let before = cli.json(&["get", "same", "--output", "json"]);
        let said = cli.run_with(&["import", "--replace"], text).ok();
        assert_eq!(said, "wrote 2 of 3 keys; the others were so already\n");
        assert_eq!(cli.run(&["get", "old"]).ok(), "2");
        assert_eq!(cli.run(&["get", "new"]).ok(), "n");
        assert_eq!(cli.json(&["get", "same", "--output", "json"]), before);
    }
}

#[test]
fn an_import_leaves_out_what_a_running_process_says() {
    for cli in Cli::each() {
        let of_its_store = [
            "backends/web/confirmed",
            "elections/discover-web",
            "haproxies/lb1",
            "registry/web/a",
            "serve/a/1",
        ];
        for name in of_its_store {
            cli.run(&["put", name, "{}", "--ttl", "10m"]).ok();
        }
        cli.run(&["put", "backends/web/confirmed", "{}"]).ok();
        cli.run(&["put", "backends/web/spec", "{}"]).ok();
        cli.run(&["put", "mine", "v"]).ok();
        let export = cli.run(&["export", "--include-leased"]).ok();
        assert_eq!(export.lines().count(), of_its_store.len() + 2, "{export}");
        let other = Cli::sqlite();
        let ran = other.run_with(&["import"], export.as_bytes());
        assert!(ran.stderr.contains("left out 5 keys of running processes"), "{ran:?}");
        assert_eq!(ran.ok(), "wrote 2 of 2 keys; the others were so already\n");
        assert_eq!(other.keys(), ["backends/web/spec", "mine"]);
    }
}

/// An import of many commits, and what to do once its first key is there; answers its end.
fn interrupt_import(cli: &Cli, with: impl FnOnce(&mut Child)) -> std::process::Output {
    let file = cli.home.path().join("many.jsonl");
    let lines: String = (0..20_000)
        .map(|i| format!("{}\n", json!({"key": format!("m/{i:05}"), "value": "v"})))
        .collect();
    std::fs::write(&file, lines).unwrap();
    let mut command = cli.command(&["import", file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the first key", || (cli.run(&["get", "m/00000"]).code == Some(0)).then_some(()));
    with(&mut child);
    child.wait_with_output().unwrap()
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_was() {
    let cli = Cli::sqlite();
    interrupt_import(&cli, |child| child.kill().unwrap());
    let before = cli.keys().len();
    assert!((1..20_000).contains(&before), "{before} keys: it was not cut short");
    let file = cli.home.path().join("many.jsonl");
    let said = cli.run(&["import", file.to_str().unwrap()]).ok();
    let left = 20_000 - before;
    assert!(said.starts_with(&format!("wrote {left} of 20000 keys")), "{before}: {said}");
    assert_eq!(cli.keys().len(), 20_000);
}

#[test]
fn an_import_that_loses_a_race_is_exit_code_75_and_can_be_run_again() {
    let cli = Cli::sqlite();
    let output = interrupt_import(&cli, |_| {
        cli.run(&["put", "m/19999", "w"]).ok();
    });
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("somebody else changed") && stderr.contains("of 20000 keys written"));
    assert_eq!(cli.run(&["get", "m/19999"]).ok(), "w", "the other one's value was replaced");
    let file = cli.home.path().join("many.jsonl");
    cli.run(&["import", "--replace", file.to_str().unwrap()]).ok();
    assert_eq!(cli.run(&["get", "m/19999"]).ok(), "v");
}

#[test]
fn hostile_lines_and_keys_are_refused_in_short_sentences() {
    let cli = Cli::sqlite();
    let huge = "k".repeat(300 * 1024);
    let line = |key: &str| format!("{}\n", json!({"key": key, "value": "v"}));
    let nothing_ends = format!("{{\"key\":\"k\",\"value\":\"{}", "x".repeat(100 << 20));
    for (input, about) in [
        (line(&huge), "longer than 1024 bytes"),
        (line("a\0b"), "control character"),
        (line("../../etc/passwd\n"), "control character"),
        (r#"{"key":"k","value_base64":"a"}"#.to_owned(), "not base64"),
        (r#"{"key":"k","value":"v","valeu":1}"#.to_owned(), "valeu"),
        (nothing_ends, "line 1: it is longer than 2097152 bytes"),
        (format!("{{\"{}\":1}}", "x".repeat(1 << 20)), "line 1:"),
        ("[".repeat(1 << 20), "line 1:"),
    ] {
        let ran = cli.run_with(&["import"], input.as_bytes());
        assert!(ran.stderr.len() < 1000, "{} bytes on stderr", ran.stderr.len());
        ran.fails(1, about);
    }
    cli.run(&["put", &huge[..100_000], "v"]).fails(2, "longer than 1024 bytes");
    assert_eq!(cli.keys(), [""; 0]);
}

#[test]
fn the_password_comes_from_a_file_and_on_the_command_line_it_is_warned_of() {
    let options = Options { password: true, ..Options::default() };
    let Some(etcd) = Etcd::start_with(1, options) else { return };
    let (home, url) = (TempDir::new().unwrap(), etcd.url("lbctl"));
    let file = home.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\nnot this line\n")).unwrap();
    let (_, place) = url.split_once('@').unwrap();
    let hidden = format!("etcd://{USER}@{place}?password-file={}", file.display());
    let mut cli = Cli { url: hidden.clone(), home, _server: None };
    let put = cli.run(&["put", "k", "v"]);
    assert_eq!(put.stderr, "");
    put.ok();
    cli.url = url;
    let get = cli.run(&["get", "k"]);
    assert!(get.stderr.contains("LBCTL_STORE_PASSWORD"), "{get:?}");
    assert!(!get.stderr.contains(PASSWORD) && !get.stderr.contains(PASSWORD_IN_URL), "{get:?}");
    assert_eq!(get.ok(), "v");
    cli.url = hidden;
    std::fs::write(&file, "wrong").unwrap();
    cli.run(&["get", "k"]).fails(78, "hint:");
    std::fs::remove_file(&file).unwrap();
    cli.run(&["get", "k"]).fails(78, "password");
}

#[test]
fn a_store_that_is_away_is_exit_code_69() {
    let port = free_port();
    let cli = Cli {
        url: format!("etcd://127.0.0.1:{port}"),
        home: TempDir::new().unwrap(),
        _server: None,
    };
    let started = Instant::now();
    for args in [&["get", "k"][..], &["put", "k", "v"], &["list"], &["export"], &["delete", "k"]] {
        cli.run(args).fails(69, &format!("127.0.0.1:{port}"));
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let wrong = Cli { url: "etcd:/nonsense".into(), ..cli };
    wrong.run(&["list"]).fails(78, "--store");
}

/// A watch with its lines; it is killed on drop.
struct Watching {
    child: Child,
    lines: Option<BufReader<std::process::ChildStdout>>,
}

impl Watching {
    fn start(cli: &Cli, args: &[&str]) -> Self {
        let mut command = cli.command(&["watch"]);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    fn event(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    fn end(&mut self) -> ExitStatus {
        eventually("the watch to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        _ = self.child.kill().is_ok();
        _ = self.child.wait().is_ok();
    }
}

#[test]
fn a_watch_prints_what_is_there_and_then_every_change() {
    for cli in Cli::each() {
        cli.run(&["put", "a/1", "one"]).ok();
        cli.run(&["put", "b", "elsewhere"]).ok();
        let mut watch = Watching::start(&cli, &["a", "--output", "json"]);
        let reset = watch.event();
        assert_eq!((&reset["event"], &reset["keys"]), (&json!("reset"), &json!(1)));
        let first = watch.event();
        assert_eq!((&first["event"], &first["value"]), (&json!("put"), &json!("one")));
        cli.run(&["put", "ab", "elsewhere"]).ok();
        cli.run_with(&["put", "a/2", "-"], b"\xff").ok();
        let put = watch.event();
        assert_eq!((&put["key"], &put["value_base64"]), (&json!("a/2"), &json!("/w==")));
        cli.run(&["delete", "a/1"]).ok();
        let deleted = watch.event();
        assert_eq!((&deleted["event"], &deleted["key"]), (&json!("delete"), &json!("a/1")));
        assert!(deleted["revision"].as_u64() > put["modified"].as_u64());
    }
}

#[test]
fn a_watch_ends_when_nobody_reads() {
    for cli in Cli::each() {
        cli.run(&["put", "k", "v"]).ok();
        let mut watch = Watching::start(&cli, &[]);
        assert!(watch.line().starts_with("reset"));
        watch.lines = None;
        assert!(watch.end().success());
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let cli = Cli::sqlite();
    cli.run_with(&["import"], &backup()).ok();
    for args in [&["list", "--output", "json"][..], &["export"], &["get", "w/0"]] {
        let mut command = cli.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let cli = Cli::sqlite();
    let all = cli.run(&["--help"]).ok();
    for command in ["get", "put", "delete", "list", "watch", "export", "import"] {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is not in {all}");
        let help = cli.run(&[command, "--help"]).ok();
        assert!(help.contains("Examples:\n  lbctl store"), "{help}");
    }
}

#[test]
fn init_makes_the_table_once_and_says_what_it_would_do() {
    let Some(moto) = Moto::shared() else { return };
    let table = format!("init-{}", uuid::Uuid::new_v4());
    let url = moto.url(&table, moto.port());
    let cli = Cli { url, home: TempDir::new().unwrap(), _server: Some(moto) };
    cli.run(&["get", "k"]).fails(69, "lbctl store init");
    let would = cli.run(&["init", "--dry-run"]).ok();
    assert_eq!(would.matches("would ").count(), 3, "{would}");
    let made = cli.run(&["init"]).ok();
    assert!(made.contains(&format!("made the table: {table}")), "{made}");
    assert_eq!(cli.run(&["init"]).ok(), format!("nothing is missing: {table}\n"));
    assert_eq!(cli.run(&["init", "--dry-run"]).ok(), format!("nothing is missing: {table}\n"));
    cli.run(&["put", "k", "v"]).ok();
    let sqlite = Cli::sqlite();
    assert!(sqlite.run(&["init"]).ok().starts_with("nothing is needed for sqlite:"));
}

#[test]
fn missing_credentials_say_where_they_were_looked_for() {
    let Some(moto) = Moto::shared() else { return };
    let cli = Cli { url: moto.table(), home: TempDir::new().unwrap(), _server: Some(moto) };
    let mut command = cli.command(&["get", "k"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("dynamodb get \"k\"") && said.contains("AWS_PROFILE"), "{said}");
}
