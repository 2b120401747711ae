//! The command line as a user types it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use serde_json::Value;

use super::support::{World, lbctl};

const ANNOTATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/lbctl.toml");

/// Settings for a single backend, which flags give; a file has lists of backends instead.
const FLAGS_ONLY: &[&str] = &["discover.backend", "sync-haproxy.backend"];

/// lbctl in an environment without any setting.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(lbctl());
    let settings =
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LBCTL_"));
    for (name, _) in settings {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn empty_file(folder: &Path) -> String {
    written(folder, "").display().to_string()
}

fn written(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("lbctl.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// What `config show` says of a file: setting → value and origin.
fn shown(file: &str) -> BTreeMap<String, (Value, String)> {
    let output = run(&["--config", file, "config", "show", "--output", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter().map(|s| (text(&s["setting"]), (s["value"].clone(), text(&s["from"])))).collect()
}

#[test]
fn every_command_has_examples_a_summary_and_a_man_page() {
    fn walk(command: &clap::Command, pages: &Path, seen: &mut usize) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        if name.ends_with("-help") {
            return;
        }
        *seen += 1;
        let help = command.clone().render_long_help().to_string();
        assert!(help.contains("Examples:"), "{name} --help has no examples");
        assert!(command.get_about().is_some(), "{name} has no summary");
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.contains("Examples:"), "{name}.1 has no examples");
        for argument in command.get_arguments() {
            let hidden = argument.is_hide_set();
            assert!(hidden || argument.get_help().is_some(), "{name}: {argument} has no help");
        }
        command.get_subcommands().for_each(|subcommand| walk(subcommand, pages, seen));
    }
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    let output = run(&["man", &pages.display().to_string()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut cli = lbctl::cli::Cli::command();
    cli.build();
    let mut seen = 0;
    walk(&cli, &pages, &mut seen);
    assert_eq!(seen, std::fs::read_dir(&pages).unwrap().count());
}

/// Defaults that differ from host to host, and process to process.
const OF_THE_HOST: [&str; 2] = ["discover.id", "sync-haproxy.name"];

#[test]
fn the_help_says_every_default_as_it_holds() {
    let output = run(&["config", "show", "--output", "json"]);
    let shown: Vec<serde_json::Value> = serde_json::from_str(&stdout(&output)).unwrap();
    let cli = lbctl::cli::Cli::command();
    let mut compared = 0;
    for setting in &shown {
        let path = setting["setting"].as_str().unwrap();
        let Some((section, name)) = path.split_once('.') else { continue };
        let Some(value) = setting["value"].as_str().filter(|value| *value != "false") else {
            continue;
        };
        let command = cli.find_subcommand(section);
        let flag = command.and_then(|c| c.get_arguments().find(|a| a.get_long() == Some(name)));
        let Some(flag) = flag.filter(|_| !OF_THE_HOST.contains(&path)) else { continue };
        let help = flag.get_long_help().or(flag.get_help()).unwrap().to_string();
        let (_, default) =
            help.split_once("[default: ").unwrap_or_else(|| panic!("{path}: {help}"));
        // One text is for the admin ports of all daemons.
        let value = value.rsplit("127.0.0.1:").next().unwrap();
        assert!(default.contains(value), "{path} is {value}, and its help says {default}");
        compared += 1;
    }
    assert!(compared > 30, "only {compared} were compared");
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("sync-haproxy"), "{shell}");
    }
    let output = run(&["completions", "tcsh"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn wrong_usage_ends_with_2_and_wrong_configuration_with_78() {
    for arguments in
        [&[][..], &["nonsense"], &["config"], &["serve", "--nonsense"], &["-v", "-q", "man"]]
    {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(run(&["--config", "/nonexistent", "config", "show"]).status.code(), Some(78));
    assert_eq!(run(&["--config", "/nonexistent", "serve"]).status.code(), Some(78));
    let version = run(&["--version"]);
    assert_eq!(stdout(&version), format!("lbctl {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn config_check_reports_all_mistakes_of_all_commands_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[serve]\nprot = 1\n\n[discover]\nttl = true\nbackends = [{ name = \"web\" }]\n\n[sink]\nx = 1\n";
    let file = written(folder.path(), text).display().to_string();
    let output = run(&["config", "check", &file]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stdout(&output), "");
    for mistake in [
        "lbctl.toml:2: unknown setting serve.prot: did you mean serve.port?",
        "lbctl.toml:5: discover.ttl: must be",
        "backend web has no source",
        "backend web has no slots",
        "lbctl.toml:8: unknown setting sink",
    ] {
        assert!(stderr(&output).contains(mistake), "{mistake} is not in {}", stderr(&output));
    }
    let named = run(&["--config", &file, "config", "check"]);
    assert_eq!(stderr(&named), stderr(&output));
}

#[test]
fn every_command_reports_all_mistakes_of_its_own_at_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[store]\nurl = \"etcd://me:hunter2@h?nope=1\"\nur = 2\n\
                [discover]\nttl = true\nintervall = \"3s\"\n\
                [serve]\nport = \"abc\"\nprot = 1\n[sync-haproxy]\nbogus = 1\n";
    let file = written(folder.path(), text).display().to_string();
    for (command, mistakes) in [
        ("serve", &["lbctl.toml:8: serve.port: must be", "lbctl.toml:9: unknown setting"][..]),
        ("discover", &["lbctl.toml:5: discover.ttl", "lbctl.toml:6: unknown setting"]),
        ("sync-haproxy", &["lbctl.toml:11: unknown setting sync-haproxy.bogus"]),
        ("status", &[]),
    ] {
        let output = run(&["--config", &file, command]);
        assert_eq!(output.status.code(), Some(78), "{command}: {}", stderr(&output));
        let of_the_store = ["lbctl.toml:2: store.url: ", "lbctl.toml:3: unknown setting store.ur"];
        for mistake in of_the_store.iter().chain(mistakes) {
            let said = stderr(&output);
            assert!(said.contains(mistake), "{command}: {mistake} is not in {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

#[test]
fn an_empty_file_is_fine_and_shows_only_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_file(folder.path());
    let output = run(&["config", "check", &file]);
    assert!(output.status.success(), "{}", stderr(&output));
    for (setting, (_, from)) in shown(&file) {
        assert_eq!(from, "default", "{setting}");
    }
}

#[test]
fn config_show_says_where_a_value_came_from_and_masks_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[serve]\nport = 1\nttl = \"20s\"\n[store]\nurl = \"etcd://me:hunter2@h/x\"\n";
    let file = written(folder.path(), text).display().to_string();
    let mut show = command(&["config", "show"]);
    let output = show.env("LBCTL_CONFIG", &file).env("LBCTL_SERVE_PORT", "2").output().unwrap();
    let text = stdout(&output);
    let line = |setting: &str| {
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.into_iter().find(|words| words[0] == setting).unwrap_or_default().join(" ")
    };
    assert_eq!(line("serve.port"), "serve.port 2 LBCTL_SERVE_PORT");
    assert_eq!(line("serve.ttl"), format!("serve.ttl 20s {file}:3"));
    assert_eq!(line("serve.host"), "serve.host 0.0.0.0 default");
    assert!(line("store.url").starts_with("store.url etcd://"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let flag = run(&["--config", &file, "--log-format", "json", "-v", "config", "show"]);
    assert!(stdout(&flag).contains("--log-format"), "{}", stdout(&flag));
}

#[test]
fn a_password_on_the_command_line_is_warned_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_file(folder.path());
    let output = run(&["--config", &file, "--store", "etcd://me:hunter2@h/x", "config", "show"]);
    let said = stderr(&output);
    assert_eq!(said.matches("the password in --store").count(), 1, "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_full_disk_behind_stdout_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_file(folder.path());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut show = command(&["--config", &file, "config", "show"]);
    let output = show.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write to stdout"), "{}", stderr(&output));
}

/// As when the program that collects the logs is started again.
#[test]
fn nobody_who_reads_the_logs_is_no_reason_to_die() {
    let folder = tempfile::tempdir().unwrap();
    let file = empty_file(folder.path());
    let store = format!("sqlite:{}", folder.path().join("store.db").display());
    let register = ["--config", &file, "--store", &store, "register", "web", "127.0.0.1:1"];
    let mut register = command(&register);
    register.args(["--", "/no/such/program"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = register.spawn().unwrap();
    drop(child.stderr.take());
    // That of the program, although what is wrong with it could not be logged.
    assert_eq!(child.wait().unwrap().code(), Some(127));
}

#[test]
fn a_misspelt_variable_is_warned_of_as_the_log_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "[log]\nformat = \"json\"\n").display().to_string();
    let check = |more: &[&str]| {
        let mut check = command(&["--config", &file, "config", "check"]);
        let output = check.args(more).env("LBCTL_SERVE_PROT", "1").output().unwrap();
        assert!(output.status.success());
        stderr(&output)
    };
    let line: Value = serde_json::from_str(check(&[]).trim()).unwrap();
    let said = line["message"].as_str().unwrap();
    assert!(said.ends_with("did you mean LBCTL_SERVE_PORT?"), "{said}");
    assert!(check(&["--log-format", "text"]).contains("WARN"));
    assert!(!check(&["--log-format", "text"]).contains('\u{1b}'), "colours in a pipe");
    assert_eq!(check(&["-qq"]), "");
}

#[test]
fn a_pipe_may_be_the_file() {
    let script =
        format!("{} --config <(echo '[serve]'; echo 'port = 7') config show", lbctl().display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(stdout(&output).lines().any(|l| l.contains("serve.port") && l.contains(" 7 ")));
}

#[test]
fn a_closed_pipe_is_a_success() {
    for arguments in ["config show", "completions bash", "man", "--help"] {
        // The reader is gone before the first byte is written.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            Command::new(lbctl()).args(arguments.split(' ')).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{arguments}");
    }
}

#[test]
fn the_annotated_configuration_is_correct_as_it_stands() {
    let output = run(&["config", "check", ANNOTATED]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = shown(ANNOTATED);
    for backend in ["web", "api"] {
        assert!(shown.values().any(|(value, _)| value == backend), "{backend} is missing");
    }
}

#[test]
fn the_annotated_configuration_has_every_setting_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let defaults = shown(&empty_file(folder.path()));
    let original = std::fs::read_to_string(ANNOTATED).unwrap();
    let lines: Vec<&str> = original.lines().collect();
    let uncommented: Vec<&str> =
        lines.iter().map(|line| setting_of(line).unwrap_or(line)).collect();
    let file = written(folder.path(), &uncommented.join("\n"));
    let all = shown(&file.display().to_string());
    let prefix = format!("{}:", file.display());

    let mut documented = BTreeSet::new();
    for (setting, (value, from)) in &all {
        let Some(line) = from.strip_prefix(&prefix) else { continue };
        documented.insert(without_indices(setting));
        let line = lines[line.parse::<usize>().unwrap() - 1];
        if setting_of(line).is_some() && !line.ends_with("# example") {
            assert_eq!(*value, defaults[setting].0, "{line:?} is not the default of {setting}");
        }
    }
    for setting in all.keys().chain(defaults.keys()).map(|s| without_indices(s)) {
        // A backend's own value of what the section documents.
        let common = setting.replace("backends[].", "");
        let is_there = documented.contains(&setting) || documented.contains(&common);
        assert!(
            is_there || FLAGS_ONLY.contains(&setting.as_str()),
            "{setting} is not in {ANNOTATED}"
        );
    }
}

/// The setting of a commented line: `#key = value`, without a blank after the mark.
fn setting_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('#')?;
    (rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ")).then_some(rest)
}

fn without_indices(setting: &str) -> String {
    setting.chars().filter(|c| !c.is_ascii_digit() || !setting.contains('[')).collect()
}

#[test]
fn a_table_may_have_the_longest_name_that_haproxy_s_users_give_in_every_store() {
    for world in [Some(World::sqlite()), World::etcd(), World::dynamodb()].into_iter().flatten() {
        let list = world.dir.path().join("list.yaml");
        std::fs::write(&list, "- 127.0.0.1:80\n").unwrap();
        let (name, source) = ("b".repeat(255), format!("file:{}", list.display()));
        let words = ["discover", "--backend", &name, "--source", &source, "--slots", "1", "--once"];
        let output = world.command(&words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(world.get(&format!("backends/{name}/slots/00001")).is_some());
        let output = world.command(&["status"]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(&name), "{output:?}");
    }
}
