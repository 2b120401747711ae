//! Conversations with the reader: a file, an environment and flags in; values or mistakes out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A reader over a file named `lbctl.toml` in a folder of its own.
struct Case {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    flags: Flags,
    layer: Layer,
}

impl Case {
    fn file(text: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lbctl.toml"), text).unwrap();
        Self { folder, environment: Vec::new(), flags: Flags::new(), layer: Layer::default() }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, path: &str, flag: &'static str, value: &str) -> Self {
        self.flags = self.flags.set(path, flag, Some(value));
        self
    }

    fn foreign(mut self, path: &str, text: &str, origin: Origin) -> Self {
        self.layer.set(path, text, origin);
        self
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lbctl.toml")
    }

    fn load(&self) -> Result<Reader, ConfigError> {
        let reader = Reader::load(Some(&self.path()), self.environment.clone(), self.flags.clone());
        reader.map(|reader| reader.over(self.layer.clone().into()))
    }

    /// Reads the settings of this test, and answers them or the mistakes without the folder.
    fn read<T>(
        self,
        read: impl FnOnce(&mut Reader) -> T,
    ) -> Result<(T, Vec<Effective>), Vec<String>> {
        let without_folder = |error: ConfigError| {
            let folder = format!("{}/", self.folder.path().display());
            error.0.iter().map(|line| line.replace(&folder, "")).collect::<Vec<_>>()
        };
        let mut reader = self.load().map_err(without_folder)?;
        let value = read(&mut reader);
        reader.finish().map(|effective| (value, effective)).map_err(without_folder)
    }
}

fn interval(reader: &mut Reader) -> Duration {
    reader.get("discover.interval", Duration::from_secs(5))
}

fn mistakes<T>(case: Case, read: impl FnOnce(&mut Reader) -> T) -> Vec<String> {
    case.read(read).map(drop).unwrap_err()
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file = "[discover]\ninterval = \"1s\"\n";
    let layers = [
        (Case::file(""), 5, "default"),
        (Case::file(file), 1, "lbctl.toml:2"),
        (Case::file(file).variable("LBCTL_DISCOVER_INTERVAL", "2s"), 2, "LBCTL_DISCOVER_INTERVAL"),
        (
            Case::file(file).variable("LBCTL_DISCOVER_INTERVAL", "2s").flag(
                "discover.interval",
                "--interval",
                "3s",
            ),
            3,
            "--interval",
        ),
    ];
    for (case, seconds, origin) in layers {
        let (value, effective) = case.read(interval).unwrap();
        assert_eq!(value, Duration::from_secs(seconds));
        assert_eq!(effective.len(), 1);
        assert_eq!(effective[0].value, Some(format!("{seconds}s")));
        assert!(effective[0].origin.to_string().ends_with(origin), "{effective:?}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let case = Case::file("").variable("LBCTL_DISCOVER_INTERVAL", "");
    assert_eq!(case.read(interval).unwrap().0, Duration::from_secs(5));
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let file = "\
colour = \"red\"

[discover]
intervall = \"1s\"
slots = \"many\"
max_drop_percent = 10

[sevre]
port = 1

[admin]
listen = 9000
";
    let case = Case::file(file).variable("LBCTL_DISCOVER_INTERVAL", "soon").flag(
        "discover.grace",
        "--grace",
        "later",
    );
    let found = mistakes(case, |reader| {
        interval(reader);
        reader.get("discover.slots", 5_u32);
        reader.get("discover.max-drop-percent", 50_u32);
        reader.get("discover.grace", Duration::from_secs(1));
        reader.find::<SocketAddr>("admin.listen");
        reader.require::<String>("serve.id");
        reader.get("serve.port", 5151_u16);
        reader.problem("discover.slots", "more slots than sense");
    });
    let expected = [
        "--grace: discover.grace: \"later\" is not a duration such as 250ms, 10s or 1m30s",
        "LBCTL_DISCOVER_INTERVAL: discover.interval: \"soon\" is not a duration such as 250ms, 10s or 1m30s",
        "serve.id is not set: set it in the file, or LBCTL_SERVE_ID",
        "lbctl.toml:1: unknown setting colour",
        "lbctl.toml:4: unknown setting discover.intervall: did you mean discover.interval?",
        "lbctl.toml:5: discover.slots: must be a whole number",
        "lbctl.toml:5: more slots than sense",
        "lbctl.toml:6: unknown setting discover.max_drop_percent: did you mean discover.max-drop-percent?",
        "lbctl.toml:8: unknown setting sevre: did you mean serve?",
        "lbctl.toml:12: admin.listen: must be a text in quotes",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_missing_names_every_way_to_set_it() {
    let flags = Flags::new().set("serve.id", "--id", None::<String>);
    let case = Case { flags, ..Case::file("") };
    assert_eq!(
        mistakes(case, |reader| reader.require::<String>("serve.id")),
        ["serve.id is not set: give --id, set it in the file, or LBCTL_SERVE_ID"]
    );
}

#[test]
fn a_number_out_of_range_is_told_the_range() {
    let found = mistakes(Case::file("[serve]\nport = 99999\nclients = -1"), |reader| {
        reader.get("serve.port", 5151_u16);
        reader.get("serve.clients", 5_usize);
    });
    let expected = [
        "lbctl.toml:2: serve.port: \"99999\" is not a whole number from 0 to 65535",
        "lbctl.toml:3: serve.clients: \"-1\" is not a whole number of 0 or more",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_mistake_in_a_weaker_source_is_a_mistake_too() {
    let case =
        Case::file("[discover]\ninterval = true\n").flag("discover.interval", "--interval", "3s");
    let expected = "lbctl.toml:2: discover.interval: must be a text in quotes or a whole number";
    assert_eq!(mistakes(case, interval), [expected]);
}

#[test]
fn a_contradiction_is_said_where_its_setting_was_given() {
    let said = |case: Case| {
        mistakes(case, |reader| {
            interval(reader);
            reader.problem("discover.interval", "too short");
        })
    };
    let file = || Case::file("\n[discover]\n");
    assert_eq!(said(Case::file("[discover]\ninterval = 1\n")), ["lbctl.toml:2: too short"]);
    assert_eq!(
        said(file().variable("LBCTL_DISCOVER_INTERVAL", "1")),
        ["LBCTL_DISCOVER_INTERVAL: too short"]
    );
    assert_eq!(
        said(file().flag("discover.interval", "--interval", "1")),
        ["--interval: too short"]
    );
    assert_eq!(said(file()), ["lbctl.toml:2: too short"]);
    assert_eq!(said(Case::file("")), ["too short"]);
}

#[test]
fn syntax_mistakes_are_all_reported_with_their_lines() {
    let file = "[discover\ninterval = \"1s\"\n\n[serve]\nport = = 1\nid = \"a\"\nid = \"b\"\n";
    let found = mistakes(Case::file(file), interval);
    for line in [1, 5, 7] {
        let start = format!("lbctl.toml:{line}: ");
        assert!(found.iter().any(|m| m.starts_with(&start)), "line {line} is not in {found:#?}");
    }
}

#[test]
fn sections_of_other_commands_are_passed_over() {
    let case = Case::file("[serve]\nprot = 1\n[discover]\ninterval = 1\n");
    assert!(case.read(interval).is_ok());
}

#[test]
fn a_section_that_is_no_table_says_so() {
    assert_eq!(
        mistakes(Case::file("discover = 5\n"), interval),
        ["lbctl.toml:1: discover must be a table, as in [discover]"]
    );
    let table = mistakes(Case::file("[discover.interval]\nx = 1\n"), interval);
    assert_eq!(
        table,
        ["lbctl.toml:1: discover.interval: must be a text in quotes or a whole number"]
    );
}

/// Reads `discover.backends` as a list of tables with a name and tags.
fn backends(reader: &mut Reader) -> Vec<(Option<String>, Vec<String>)> {
    let paths = reader.tables("discover.backends");
    let one = |path: String| {
        (reader.require(&format!("{path}.name")), reader.get(&format!("{path}.tags"), Vec::new()))
    };
    paths.into_iter().map(one).collect()
}

#[test]
fn lists_of_tables_are_read_however_they_are_written() {
    let ways = [
        "[[discover.backends]]\nname = \"a\"\n[[discover.backends]]\nname = \"b\"\n",
        "discover.backends = [{ name = \"a\" }, { name = \"b\" }]\n",
        "[discover]\nbackends = [\n  { name = \"a\" }, # one\n  { name = \"b\" },\n]\n",
        "\u{feff}[discover]\r\nbackends = [{ \"name\" = 'a' }, { name = \"b\" }]\r\n",
    ];
    for way in ways {
        let (read, _) = Case::file(way).read(backends).unwrap();
        let names: Vec<_> = read.into_iter().map(|(name, _)| name.unwrap()).collect();
        assert_eq!(names, ["a", "b"], "{way}");
    }
    assert!(Case::file("discover.backends = []\n").read(backends).unwrap().0.is_empty());
    assert!(Case::file("").read(backends).unwrap().0.is_empty());
}

#[test]
fn mistakes_in_lists_of_tables_name_the_member_and_its_line() {
    let file = "[[discover.backends]]\nname = \"a\"\n\n[[discover.backends]]\nnam = \"b\"\n";
    assert_eq!(
        mistakes(Case::file(file), backends),
        [
            "lbctl.toml:4: discover.backends[1].name is not set",
            "lbctl.toml:5: unknown setting discover.backends[1].nam: did you mean discover.backends[1].name?",
        ]
    );
    for text in ["backends = 1", "backends = [1]", "[discover.backends]\nname = \"a\""] {
        let text = format!("[discover]\n{text}\n");
        assert_eq!(
            mistakes(Case::file(text), backends),
            ["lbctl.toml:2: discover.backends must be written as [[discover.backends]] tables"]
        );
    }
    let misspelt = Case::file("[[discover.backend]]\nname = \"a\"\n");
    assert_eq!(
        mistakes(misspelt, backends),
        ["lbctl.toml:1: unknown setting discover.backend: did you mean discover.backends?"]
    );
}

#[test]
fn lists_of_texts_keep_their_commas_in_the_file() {
    let tags = |text: &str| {
        let case = Case::file(format!("[[discover.backends]]\nname = \"a\"\ntags = {text}\n"));
        case.read(backends).map(|(read, _)| read[0].1.clone())
    };
    assert_eq!(tags("[\"a,b\", \"c\"]").unwrap(), ["a,b", "c"]);
    assert_eq!(tags("[\"a,b\"]").unwrap(), ["a,b"]);
    assert_eq!(tags("\"a\"").unwrap(), ["a"]);
    assert_eq!(tags("[\"\"]").unwrap(), [""]);
    assert_eq!(tags("[]").unwrap(), [] as [&str; 0]);
    assert_eq!(
        tags("[true]").unwrap_err(),
        [
            "lbctl.toml:3: discover.backends[0].tags: each item must be a text in quotes or a whole number"
        ]
    );
    let case = Case::file("").variable("LBCTL_DISCOVER_TAGS", "a, b,");
    let (read, _) = case.read(|reader| reader.get("discover.tags", Vec::<String>::new())).unwrap();
    assert_eq!(read, ["a", "b"]);
}

#[test]
fn a_variable_cannot_reach_into_a_list_of_tables() {
    let case = Case::file("[[discover.backends]]\nname = \"a\"\n")
        .variable("LBCTL_DISCOVER_BACKENDS_0__NAME", "b");
    assert_eq!(case.read(backends).unwrap().0[0].0.as_deref(), Some("a"));
}

#[test]
fn numbers_are_read_as_toml_writes_them() {
    let read = |text: &str| {
        let case = Case::file(format!("[serve]\nport = {text}\n"));
        case.read(|reader| reader.get("serve.port", 1_u16)).map(|(port, _)| port)
    };
    for (text, port) in [("5_151", 5151), ("0x1f", 31), ("0o17", 15), ("0b11", 3), ("+7", 7)] {
        assert_eq!(read(text), Ok(port), "{text}");
    }
    for text in ["-1", "65536", "1.0", "\"5151\"", "99999999999999999999999999999999999999999999"] {
        assert!(read(text).is_err(), "{text} was accepted");
    }
    for text in ["nan", "inf", "-inf"] {
        let case = Case::file(format!("[discover]\nshare = {text}\n"));
        assert!(case.read(|reader| reader.get("discover.share", 1.5)).is_err(), "{text}");
    }
}

#[test]
fn secrets_are_masked_and_never_in_a_mistake() {
    let read = |reader: &mut Reader| reader.find::<Secret>("store.password");
    let file = Case::file("[store]\npassword = \"hunter2\"\n");
    let (secret, effective) = file.read(read).unwrap();
    assert_eq!(secret.as_ref().map(Secret::reveal), Some("hunter2"));
    assert!(!format!("{secret:?} {effective:?}").contains("hunter2"));
    let wrong = mistakes(Case::file("[store]\npassword = [\"hunter2\"]\n"), read);
    assert!(!wrong.concat().contains("hunter2"), "{wrong:?}");
}

#[test]
fn variables_that_set_nothing_are_warned_of() {
    let warnings = |read: &[&str], names: &[&str]| {
        let known = read.iter().map(|path| (*path).to_owned()).collect();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let unknown = unknown::Unknown { known: &known, known_lists: &Default::default() };
        unknown.variables(names.iter())
    };
    let read = &["discover.interval", "log.format"];
    assert_eq!(
        warnings(read, &["LBCTL_DISCOVER_INTERVALL"]),
        [
            "the variable LBCTL_DISCOVER_INTERVALL sets nothing: did you mean LBCTL_DISCOVER_INTERVAL?"
        ]
    );
    assert_eq!(warnings(read, &["LBCTL_LOGFORMAT"]).len(), 1);
    assert_eq!(warnings(read, &["LBCTL_LOG_COLOUR"]).len(), 1);
    let fine = ["LBCTL_DISCOVER_INTERVAL", "LBCTL_LOG", "LBCTL_CONFIG", "LBCTL_TEST_HAPROXY"];
    assert!(warnings(read, &fine).is_empty());
    // Another command's, which this one cannot judge.
    assert!(warnings(read, &["LBCTL_SYNC_HAPROXY_SOCKETT"]).is_empty());
}

#[test]
fn reading_aside_records_settings_but_no_mistakes() {
    let case = Case::file("[serve]\nport = 1\n");
    let (_, effective) = case
        .read(|reader| {
            assert!(reader.mentions("serve") && !reader.mentions("discover"));
            reader.aside(|reader| {
                interval(reader);
                reader.require::<String>("discover.name");
            });
        })
        .map_err(|mistakes| mistakes.join("\n"))
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(effective[0].path, "discover.interval");
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_mistake() {
    let load = |path: &std::path::Path| {
        Reader::load(Some(path), [], Flags::new()).map(drop).unwrap_err().to_string()
    };
    let folder = tempfile::tempdir().unwrap();
    assert!(load(&folder.path().join("none")).contains("No such file"));
    assert!(load(folder.path()).contains("Is a directory"));
    assert!(load(std::path::Path::new("/dev/zero")).contains("over 8 MiB"));
    let binary = Case::file(b"[log]\n# \xff\n");
    assert!(load(&binary.path()).contains("line 2 is not UTF-8"));
}

#[test]
fn hostile_files_end_in_mistakes() {
    let deep = 100_000;
    let texts = [
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}1{}", "[".repeat(deep), "]".repeat(deep)),
        format!("{}x = 1", "a.".repeat(deep)),
        format!("[{}x]", "a.".repeat(deep)),
        format!("a = {}", "{ a = ".repeat(deep)),
        "\u{0}".repeat(100),
        "[[[[".into(),
        "\"discover.interval\" = \"1s\"".into(),
    ];
    for text in texts {
        let start: String = text.chars().take(20).collect();
        assert!(Case::file(text).read(interval).is_err(), "{start}… was accepted");
    }
}

/// A setting of another program, in line 3 of its file.
fn theirs() -> Origin {
    let place = Place::File { path: "their.yaml".into(), line: 3 };
    Origin::Foreign { name: "THEIRS", place }
}

fn their_default() -> Origin {
    Origin::Foreign { name: "THEIRS", place: Place::Default }
}

#[test]
fn another_programs_settings_stand_between_defaults_and_file() {
    let over = |file: &str| Case::file(file).foreign("discover.interval", "7s", their_default());
    let (value, effective) = over("").read(interval).unwrap();
    assert_eq!(value, Duration::from_secs(7));
    assert_eq!(effective[0].origin.to_string(), "default of THEIRS");
    assert_eq!(over("[discover]\ninterval = 1\n").read(interval).unwrap().0.as_secs(), 1);
    let written = || Case::file("").foreign("discover.interval", "7s", theirs());
    let (_, effective) = written().read(interval).unwrap();
    assert_eq!(effective[0].origin.to_string(), "their.yaml:3: THEIRS");
    let variable = written().variable("LBCTL_DISCOVER_INTERVAL", "2s");
    assert_eq!(variable.read(interval).unwrap().0.as_secs(), 2);
}

#[test]
fn what_both_files_set_is_a_mistake_that_names_both() {
    let case =
        Case::file("[discover]\ninterval = 1\n").foreign("discover.interval", "7s", theirs());
    assert_eq!(
        mistakes(case, interval),
        [
            "lbctl.toml:2: discover.interval is set here and by their.yaml:3: THEIRS: leave out one of the two"
        ]
    );
    let list = "[[discover.backends]]\nname = \"a\"\n";
    let case = Case::file(list).foreign("discover.backends[0].name", "b", theirs());
    let found = mistakes(case, backends);
    assert!(
        found[0].starts_with("lbctl.toml:1: discover.backends is set here and by"),
        "{found:?}"
    );
    let other = Case::file("[serve]\nport = 1\n").foreign("discover.interval", "7s", theirs());
    assert!(other.read(interval).is_ok());
}

#[test]
fn another_program_may_have_lists_of_tables() {
    let case = Case::file("")
        .foreign("discover.backends[0].name", "a", theirs())
        .foreign("discover.backends[1].name", "b", theirs())
        .foreign("discover.backends[1].tags", "x,y", theirs());
    let read = case.read(backends).unwrap().0;
    assert_eq!(read[0], (Some("a".into()), vec![]));
    assert_eq!(read[1], (Some("b".into()), vec!["x".into(), "y".into()]));
}

#[test]
fn mistakes_in_another_programs_settings_name_it() {
    let case = Case::file("")
        .foreign("discover.interval", "soon", theirs())
        .foreign("discover.slots", "9", their_default())
        .foreign("discover.backends[0].name", "a", theirs());
    let found = mistakes(case, |reader| {
        interval(reader);
        backends(reader);
        reader.problem("discover.backends[0]", "is not wanted");
        reader.get("discover.slots", 1_u32);
        reader.find::<u32>("discover.backends[0].slots");
        reader.problem("discover.backends[0].slots", "are too many");
    });
    assert_eq!(
        found,
        [
            "default of THEIRS: are too many",
            "their.yaml:3: THEIRS: discover.interval: \"soon\" is not a duration such as 250ms, 10s or 1m30s",
            "their.yaml:3: THEIRS: is not wanted",
        ]
    );
}

#[test]
fn what_another_program_lacks_is_said_where_it_is_used_and_instead_of_what_follows() {
    let case = |flag: Option<&str>| {
        let mut case = Case::file("");
        case.flags = case.flags.set("discover.source", "--source", flag);
        case.layer.contradiction("discover.source", &their_default(), "is not set");
        case
    };
    let source = |reader: &mut Reader| {
        if reader.find::<String>("discover.source").is_none() {
            reader.problem("discover.backends[0].source", "there is no source");
        }
    };
    assert_eq!(mistakes(case(None), source), ["THEIRS: is not set"]);
    assert!(case(Some("x")).read(source).is_ok());
    assert!(case(None).read(|reader| reader.aside(source)).is_ok());
    assert!(case(None).read(|reader| reader.find::<String>("serve.id")).is_ok());
}

#[test]
fn settings_are_written_as_a_file_that_means_the_same() {
    let text = "[serve]\nport = 5\n\n[discover]\ninterval = \"1m30s\"\nshare = 0.5\non = true\n\
                [[discover.backends]]\nname = \"a\\\"b\"\ntags = [\"x,y\", \"z\"]\n\
                [store]\npassword = \"hunter2\"\n";
    let read = |reader: &mut Reader| {
        let all = (backends(reader), interval(reader), reader.get("discover.share", 1.0));
        let rest = (reader.get("discover.on", false), reader.get("serve.port", 1_u16));
        reader.find::<Secret>("store.password");
        (all, rest)
    };
    let (before, effective) = Case::file(text).read(read).unwrap();
    let written = as_toml(&effective);
    assert!(
        !written.contains("hunter2") && written.contains("# password has a secret"),
        "{written}"
    );
    let (after, again) = Case::file(&written).read(read).unwrap();
    assert_eq!(after, before, "{written}");
    assert_eq!(again.len(), effective.len());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\PC|[\\[\\]{}=.\"\n#a,1-9 ]){0,200}") {
        let case = Case::file(text);
        _ = case.read(|reader| (interval(reader), backends(reader))).is_ok();
    }

    #[test]
    fn any_text_comes_back_from_a_list(items in prop::collection::vec("[^\u{1f}]{0,8}", 0..5)) {
        let list = toml::Value::Array(items.iter().cloned().map(toml::Value::String).collect());
        let case = Case::file(format!("[discover]\ntags = {list}\n"));
        let read = case.read(|reader| reader.get("discover.tags", vec!["default".to_owned()]));
        prop_assert_eq!(read.unwrap().0, items);
    }
}
