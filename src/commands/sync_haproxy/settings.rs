use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::feed::Feeds;
use super::rows::HsdoFeed;
use super::target::{Dynamic, Filter, Licence, Mode, ModeName, Selector, Target};
use crate::aws::RegionName;
use crate::config::{Kind, Reader, choice_setting, from_str_setting};
use crate::daemon;
use crate::haproxy::SocketAddress;
use crate::hsdo::{TableLayout, TableName};
use crate::model::{BackendName, HaproxyName, ServerPrefix, TableOrigin};
use crate::store::{SharedStore, StoreSettings};

/// The default port of the admin HTTP server.
const ADMIN_PORT: u16 = 9573;

/// The prefix of dynamic servers' names where none is set.
const DYNAMIC_PREFIX: &str = "srv";

/// All that `lbctl sync-haproxy` can be set to.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: StoreSettings,
    pub daemon: daemon::Options,
    pub socket: SocketAddress,
    /// The name this HAProxy reports under.
    pub name: HaproxyName,
    pub targets: Vec<Target>,
    /// HSDO's table, where the targets follow that one.
    pub hsdo: Option<HsdoFeed>,
    /// Where the tables in the store are to be filled from, where that is known.
    pub origin: Option<TableOrigin>,
    pub timing: Timing,
    /// Where to keep the file that HAProxy loads its servers' state from when it starts.
    pub dump_state: Option<PathBuf>,
}

/// How often, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Between two comparisons of everything.
    pub resync: Duration,
    /// Between two looks at HAProxy's process id, and at sessions while something drains.
    pub poll: Duration,
    /// How long the report outlives this process.
    pub report_ttl: Duration,
}

impl Settings {
    /// Reads the section `sync-haproxy`.
    pub fn read(reader: &mut Reader) -> Self {
        let layout = reader.get("sync-haproxy.table-layout", TableLayout::default());
        let hsdo = HsdoFeed::read(reader, layout);
        let socket = reader.require("sync-haproxy.socket");
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            store: StoreSettings::read(reader),
            daemon: daemon::Options::read(reader, "sync-haproxy", ADMIN_PORT),
            // Without one the reader has its problem and this value is never used.
            socket: socket.unwrap_or_else(|| SocketAddress::Unix(PathBuf::new())),
            name: reader.get("sync-haproxy.name", HaproxyName::of_host(&host)),
            targets: targets(reader, layout, hsdo.as_ref()),
            hsdo,
            origin: origin(reader, layout),
            timing: Timing::read(reader),
            dump_state: reader.find("sync-haproxy.dump-state"),
        }
    }

    /// Starts following the targets' tables.
    pub fn feeds(&self, store: &SharedStore) -> Feeds {
        let tables = self.targets.iter().map(|target| &target.from);
        Feeds::start(store, self.hsdo.as_ref(), self.origin.as_ref(), tables)
    }
}

/// Whose the tables in the store are to be: those of the HSDO installation that is named, which fills
/// them from Auto Scaling groups.
fn origin(reader: &mut Reader, layout: TableLayout) -> Option<TableOrigin> {
    let table: Option<TableName> = match layout {
        TableLayout::Lbctl => reader.find("sync-haproxy.hsdo-table"),
        TableLayout::Hsdo => None,
    };
    let region = table.as_ref().and_then(|_| reader.find::<RegionName>("sync-haproxy.aws-region"));
    Some(TableOrigin {
        source: "asg".to_owned(),
        hsdo_table: Some(table?.to_string()),
        region: region.map(|region| region.to_string()),
    })
}

/// A duration that is not under the least one.
pub(super) fn duration(reader: &mut Reader, path: &str, default: u64, least: Duration) -> Duration {
    let value = reader.get(path, Duration::from_secs(default));
    if value < least {
        let least = crate::model::format_duration(least);
        reader.problem(path, format!("{path} is under {least}"));
    }
    value
}

impl Timing {
    fn read(reader: &mut Reader) -> Self {
        let mut get = |path, default, least| duration(reader, path, default, least);
        Self {
            resync: get("sync-haproxy.resync", 10, Duration::from_millis(100)),
            poll: get("sync-haproxy.poll", 1, Duration::from_millis(50)),
            report_ttl: get("sync-haproxy.report-ttl", 10, Duration::from_secs(1)),
        }
    }
}

/// The single backend of the flags, or all those of the file.
fn targets(reader: &mut Reader, layout: TableLayout, hsdo: Option<&HsdoFeed>) -> Vec<Target> {
    let tables = reader.tables("sync-haproxy.backends");
    let paths = match reader.find::<BackendRef>("sync-haproxy.backend") {
        Some(_) if tables.is_empty() => vec!["sync-haproxy".to_owned()],
        Some(_) => {
            let message = "a single backend and [[sync-haproxy.backends]] exclude each other: \
                           write the single one as a table, too";
            reader.problem("sync-haproxy.backend", message);
            tables
        }
        None if tables.is_empty() => {
            let message = "nothing says what to keep in step: give --backend HABACKEND and \
                           --from NAME, or write [[sync-haproxy.backends]] in the file";
            reader.problem("sync-haproxy.backend", message);
            Vec::new()
        }
        None => tables,
    };
    let read = |path| Entry::read(reader, path, layout, hsdo);
    let entries: Vec<Entry> = paths.into_iter().filter_map(read).collect();
    if layout == TableLayout::Hsdo {
        refuse_several_tables(reader, &entries);
    }
    let targets = expand(reader, &entries);
    refuse_doubles(reader, &targets);
    targets.into_iter().map(|(target, _)| target).collect()
}

/// One backend with its fallback, as it is written.
struct Entry {
    path: String,
    main: Target,
    filter: Filter,
    fallback: Option<Fallback>,
}

/// The backend for what others leave over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fallback {
    backend: BackendRef,
    takes: Takes,
    port: Option<u16>,
}

impl Entry {
    fn read(
        reader: &mut Reader,
        path: String,
        layout: TableLayout,
        hsdo: Option<&HsdoFeed>,
    ) -> Option<Self> {
        let at = |name: &str| format!("{path}.{name}");
        let backend = reader.require::<BackendRef>(&at("backend"));
        let from = match layout {
            TableLayout::Lbctl => reader.require::<BackendName>(&at("from")),
            TableLayout::Hsdo => hsdo.and_then(|hsdo| hsdo.name(reader, &at("from"))),
        };
        let port = port(reader, &at("port"));
        if port.is_none() && layout == TableLayout::Hsdo && !reader.get(&at("keep-port"), false) {
            let message = "HSDO's table has no ports: set port to the one its servers listen on, or \
                           keep-port where the places in HAProxy's configuration have it";
            reader.problem(&at("port"), message);
        }
        let filter = Filter {
            groups: reader.get(&at("groups"), Vec::new()),
            zones: reader.get(&at("zones"), Vec::new()),
        };
        if !filter.zones.is_empty() && layout == TableLayout::Hsdo {
            let message = "HSDO's table has no zones, so that no server would match: take zones \
                           out, or choose by groups";
            reader.problem(&at("zones"), message);
        }
        let mode = mode(reader, &path);
        let keep_port = keep_port(reader, &at("keep-port"), port, &mode);
        let fallback = Fallback::read(reader, &path, port);
        let end_sessions = reader.get(&at("end-sessions"), false);
        if end_sessions && layout == TableLayout::Hsdo {
            let message = "in HSDO's table servers leave without a drain, so that no session would \
                           have time to end: take end-sessions out";
            reader.problem(&at("end-sessions"), message);
        }
        let backend = backend?;
        let takes_all = Selector::Matching(filter.clone());
        let licence = Licence {
            take_over: reader.get(&at("take-over"), false),
            allow_drop: reader.get(&at("allow-drop"), false),
            end_sessions,
        };
        let main =
            target(backend, from?, Ports { port, keep: keep_port }, takes_all, mode, licence);
        Some(Self { path, main, filter, fallback })
    }
}

impl Fallback {
    fn read(reader: &mut Reader, path: &str, port_of_main: Option<u16>) -> Option<Self> {
        let backend = reader.find(&format!("{path}.fallback"))?;
        let takes = reader.get(&format!("{path}.fallback-takes"), Takes::Rest);
        let port = port(reader, &format!("{path}.fallback-port")).or(port_of_main);
        Some(Self { backend, takes, port })
    }
}

fn port(reader: &mut Reader, path: &str) -> Option<u16> {
    let port = reader.find(path);
    if port == Some(0) {
        reader.problem(path, "port 0 cannot be connected to");
    }
    port
}

/// Whether addresses alone are set, in places that have their ports.
fn keep_port(reader: &mut Reader, path: &str, port: Option<u16>, mode: &Mode) -> bool {
    let keep = reader.get(path, false);
    if keep && port.is_some() {
        reader.problem(path, "keep-port and port exclude each other: take one of them out");
    }
    if keep && *mode != Mode::Slots {
        reader
            .problem(path, "keep-port is for places, which dynamic mode has none of: take it out");
    }
    keep
}

/// One HSDO table feeds all of them.
fn refuse_several_tables(reader: &mut Reader, entries: &[Entry]) {
    let Some(first) = entries.first() else { return };
    for other in entries.iter().filter(|other| other.main.from != first.main.from) {
        let message = "one table of HSDO's feeds all backends, so that they must agree in from";
        reader.problem(&format!("{}.from", other.path), message);
    }
}

/// Which port a server is reached at: this one, the place's, or the endpoint's own.
struct Ports {
    port: Option<u16>,
    keep: bool,
}

fn target(
    backend: BackendRef,
    from: BackendName,
    ports: Ports,
    takes: Selector,
    mode: Mode,
    licence: Licence,
) -> Target {
    let default = || match mode {
        Mode::Slots => None,
        // There may be no server yet to detect it from.
        Mode::Dynamic(_) => DYNAMIC_PREFIX.parse().ok(),
    };
    let prefix = backend.prefix.or_else(default);
    let Ports { port, keep: keep_port } = ports;
    Target { backend: backend.backend, prefix, from, port, keep_port, takes, mode, licence }
}

fn mode(reader: &mut Reader, path: &str) -> Mode {
    match reader.get(&format!("{path}.mode"), ModeName::Slots) {
        ModeName::Slots => Mode::Slots,
        ModeName::Dynamic => {
            let at = format!("{path}.server-options");
            let options = reader.get(&at, "check".to_owned());
            if let Some(problem) = refused(&options) {
                reader.problem(&at, format!("server-options {options:?} {problem}"));
            }
            Mode::Dynamic(Dynamic { options, id_base: reader.get(&format!("{path}.id-base"), 0) })
        }
    }
}

/// Why words cannot stand behind `add server`.
fn refused(options: &str) -> Option<&'static str> {
    if options.chars().any(|c| c.is_control() || ";\\".contains(c)) || options.contains("<<") {
        return Some("has a character that would end the command");
    }
    let own = |word: &str| ["id", "weight", "disabled", "enabled"].contains(&word);
    options.split_whitespace().any(own).then_some("has a word that is lbctl's to set")
}

/// Each entry's backend, then each fallback once: what several entries of one table call their
/// fallback takes what none of them takes.
fn expand(reader: &mut Reader, entries: &[Entry]) -> Vec<(Target, String)> {
    let mut targets: Vec<(Target, String)> =
        entries.iter().map(|entry| (entry.main.clone(), entry.path.clone())).collect();
    let mut fallbacks: BTreeMap<&BackendName, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        if let Some(Fallback { backend, .. }) = &entry.fallback {
            fallbacks.entry(&backend.backend).or_default().push(entry);
        }
    }
    for sharing in fallbacks.into_values() {
        targets.extend(fallback(reader, &sharing));
    }
    targets
}

fn fallback(reader: &mut Reader, sharing: &[&Entry]) -> Option<(Target, String)> {
    let first = sharing.first()?;
    let Fallback { backend, takes, port } = first.fallback.clone()?;
    let same = |other: &&Entry| {
        other.fallback == first.fallback
            && (&other.main.from, &other.main.mode) == (&first.main.from, &first.main.mode)
    };
    let path = format!("{}.fallback", first.path);
    if let Some(other) = sharing.iter().find(|other| !same(other)) {
        let message = format!(
            "entries that share fallback {} must agree in from, mode, fallback-takes and \
             fallback-port (or port)",
            backend.backend
        );
        reader.problem(&format!("{}.fallback", other.path), message);
    }
    let filters = match takes {
        Takes::Rest => sharing.iter().map(|entry| entry.filter.clone()).collect(),
        Takes::All => Vec::new(),
    };
    let main = &first.main;
    let takes = Selector::NoneOf(filters);
    let (mode, ports) = (main.mode.clone(), Ports { port, keep: main.keep_port });
    Some((target(backend, main.from.clone(), ports, takes, mode, main.licence), path))
}

/// Two tables that fill the same servers would undo each other's work for ever. Servers of another
/// prefix, such as backup ones, are others.
fn refuse_doubles(reader: &mut Reader, targets: &[(Target, String)]) {
    for (index, (target, path)) in targets.iter().enumerate() {
        let earlier = &targets[..index];
        let mut same_backend = earlier.iter().filter(|(o, _)| o.backend == target.backend);
        if let Some((other, _)) = same_backend.find(|(other, _)| may_meet(other, target)) {
            let backend = &other.backend;
            let message = format!(
                "HAProxy backend {backend} is fed twice: write both as {backend}/PREFIX, with the \
                 prefix of their servers' names, neither of which is the other and digits"
            );
            reader.problem(path, message);
        }
        if let Some((other, _)) = same_backend_and_mode(earlier, target) {
            let message = format!(
                "servers of {}/{} and of this one would have the same ids: set another id-base",
                other.backend,
                other.prefix.as_ref().map_or("", ServerPrefix::as_str)
            );
            reader.problem(path, message);
        }
    }
}

/// Whether a server may be of both targets of a backend.
fn may_meet(one: &Target, other: &Target) -> bool {
    let (Some(one), Some(other)) = (&one.prefix, &other.prefix) else { return true };
    let is_numbered = |long: &ServerPrefix, short: &ServerPrefix| {
        let digits = long.as_str().strip_prefix(short.as_str());
        digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    is_numbered(one, other) || is_numbered(other, one)
}

/// An earlier target that adds servers to the same backend with the same ids.
fn same_backend_and_mode<'a>(
    earlier: &'a [(Target, String)],
    target: &Target,
) -> Option<&'a (Target, String)> {
    let Mode::Dynamic(Dynamic { id_base, .. }) = &target.mode else { return None };
    let meets = |other: &Target| {
        let same_ids = matches!(&other.mode, Mode::Dynamic(other) if other.id_base == *id_base);
        same_ids && other.backend == target.backend && !may_meet(other, target)
    };
    earlier.iter().find(|(other, _)| meets(other))
}

/// `HABACKEND` or `HABACKEND/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRef {
    backend: BackendName,
    prefix: Option<ServerPrefix>,
}

impl FromStr for BackendRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (backend, prefix) = match text.split_once('/') {
            Some((backend, prefix)) => (backend, Some(prefix)),
            None => (text, None),
        };
        let prefix = prefix.map(str::parse).transpose().map_err(|e| format!("{e}"))?;
        Ok(Self { backend: backend.parse().map_err(|e| format!("{e}"))?, prefix })
    }
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.backend),
            None => self.backend.fmt(f),
        }
    }
}

from_str_setting! {
    BackendRef: [Kind::Text];
    SocketAddress: [Kind::Text];
}

/// What a fallback backend serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Takes {
    /// What no other backend takes.
    Rest,
    All,
}

choice_setting!(Takes, ModeName);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::testing::endpoint;
    use crate::config::Flags;
    use crate::model::Endpoint;

    fn read(file: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lbctl.toml");
        std::fs::write(&path, file).unwrap();
        let mut reader = Reader::load(Some(&path), [], Flags::new()).unwrap();
        let settings = Settings::read(&mut reader);
        reader.finish().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    fn with(backends: &str) -> Result<Settings, String> {
        read(&format!("[sync-haproxy]\nsocket = \"/run/h.sock\"\nname = \"lb1\"\n{backends}"))
    }

    #[test]
    fn a_single_backend_needs_no_table() {
        let settings = with("backend = \"app/web-\"\nfrom = \"web\"\nport = 8080").unwrap();
        let [target] = settings.targets.as_slice() else { panic!("{:?}", settings.targets) };
        assert_eq!(target.prefix.as_ref().unwrap().as_str(), "web-");
        assert_eq!((target.port, &target.mode), (Some(8080), &Mode::Slots));
    }

    #[test]
    fn a_fallback_takes_what_no_entry_that_shares_it_takes() {
        let settings = with(
            "[[sync-haproxy.backends]]\nbackend = \"a\"\nfrom = \"web\"\nzones = [\"z1\"]\nfallback = \"f/s\"\n\
             [[sync-haproxy.backends]]\nbackend = \"b\"\nfrom = \"web\"\nzones = [\"z2\"]\nfallback = \"f/s\"\n",
        )
        .unwrap();
        let takers = |zone: &str| -> Vec<String> {
            let endpoint = Endpoint { zone: Some(zone.parse().unwrap()), ..endpoint("e") };
            let takers = settings.targets.iter().filter(|t| t.takes.takes(&endpoint));
            takers.map(|t| t.backend.to_string()).collect()
        };
        assert_eq!([takers("z1"), takers("z2"), takers("z3")], [["a"], ["b"], ["f"]]);
    }

    #[test]
    fn a_fallback_of_all_takes_also_what_the_main_backend_takes() {
        let settings = with(
            "[[sync-haproxy.backends]]\nbackend = \"a\"\nfrom = \"web\"\ngroups = [\"g\"]\nfallback = \"f\"\nfallback-takes = \"all\"",
        )
        .unwrap();
        let mine = Endpoint { group: Some("g".parse().unwrap()), ..endpoint("e") };
        assert!(settings.targets.iter().all(|target| target.takes.takes(&mine)));
        assert_eq!(settings.targets.len(), 2);
    }

    #[test]
    fn a_fallback_may_have_a_port_of_its_own() {
        let entry = |name: &str, port: u16| {
            format!(
                "[[sync-haproxy.backends]]\nbackend = \"{name}\"\nfrom = \"web\"\nport = {port}\n\
                 fallback = \"f\"\nfallback-port = 90\n"
            )
        };
        let settings = with(&(entry("a", 80) + &entry("b", 81))).unwrap();
        let ports: Vec<_> = settings.targets.iter().map(|t| t.port.unwrap()).collect();
        assert_eq!(ports, [80, 81, 90]);
        let error = with(&entry("a", 80).replace("90", "0")).unwrap_err();
        assert!(error.contains("lbctl.toml:9: port 0 cannot"), "{error}");
    }

    /// HSDO's README: a server of the groups is in the main backends, another one in the fallback.
    #[test]
    fn hsdos_client_takes_what_hsdo_takes() {
        let list = "{a: {baseName: s, serverPort: 81}, b: {baseName: t, serverPort: 82}}";
        let read = |more: &str| {
            let text = format!(
                "CLIENT_HAPROXY_BACKEND_LIST: {list}\nCLIENT_ASG_NAMES: mine\n\
                 CLIENT_HAPROXY_FALLBACK_BACKEND_NAME: f\n\
                 CLIENT_HAPROXY_FALLBACK_BACKEND_BASE_NAME: u\nDYNAMODB_TABLE_NAME: hsdo\n{more}"
            );
            let mut reader = Reader::load(None, [], Flags::new()).unwrap();
            reader = reader.over(crate::hsdo::translated(&text).into());
            let settings = Settings::read(&mut reader);
            reader.finish().unwrap();
            settings.targets
        };
        let takers = |targets: &[Target], group: Option<&str>| -> Vec<String> {
            let group = group.map(|group| group.parse().unwrap());
            let endpoint = Endpoint { group, ..endpoint("e") };
            let takers = targets.iter().filter(|t| t.takes.takes(&endpoint));
            takers.map(|t| format!("{}:{}", t.backend, t.port.unwrap())).collect()
        };
        let dedicated = "CLIENT_DEDICATED_ASG: \"true\"\n";
        let all = "CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND: \"true\"\n";
        let both = &format!("{dedicated}{all}");
        for (more, mine, others) in [
            ("", &["a:81", "b:82"][..], &["a:81", "b:82"][..]),
            (dedicated, &["a:81", "b:82"], &["f:80"]),
            (both, &["a:81", "b:82", "f:80"], &["f:80"]),
            (all, &["a:81", "b:82", "f:80"], &["a:81", "b:82", "f:80"]),
        ] {
            let targets = read(more);
            assert_eq!(takers(&targets, Some("mine")), mine, "{more}");
            assert_eq!(takers(&targets, Some("other")), others, "{more}");
            assert_eq!(takers(&targets, None), others, "{more}");
        }
    }

    #[test]
    fn dynamic_servers_have_a_prefix_and_options_from_the_start() {
        let settings = with("backend = \"app\"\nfrom = \"web\"\nmode = \"dynamic\"").unwrap();
        let target = &settings.targets[0];
        assert_eq!(target.prefix.as_ref().unwrap().as_str(), "srv");
        assert_eq!(target.mode, Mode::Dynamic(Dynamic { options: "check".into(), id_base: 0 }));
    }

    #[test]
    fn hsdos_table_feeds_every_backend_under_one_name() {
        let hsdo =
            "table-layout = \"hsdo\"\nhsdo-table = \"hsdo_web\"\naws-region = \"eu-west-3\"\n";
        let settings = with(&format!(
            "{hsdo}[[sync-haproxy.backends]]\nbackend = \"a\"\nport = 80\ngroups = [\"g\"]\nfallback = \"f\"\n\
             [[sync-haproxy.backends]]\nbackend = \"b\"\nport = 81"
        ))
        .unwrap();
        let of = |t: &Target| (t.backend.to_string(), t.from.to_string(), t.port);
        let expected = [("a", 80), ("b", 81), ("f", 80)];
        let expected = expected.map(|(name, port)| (name.into(), "hsdo_web".into(), Some(port)));
        assert_eq!(settings.targets.iter().map(of).collect::<Vec<_>>(), expected);
        let feed = settings.hsdo.unwrap();
        assert_eq!(feed.place.region.unwrap().to_string(), "eu-west-3");
        assert_eq!(feed.poll, Duration::from_secs(1));
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        for (file, expected) in [
            ("", "give --backend HABACKEND and --from NAME"),
            ("backend = \"app\"", "sync-haproxy.from is not set"),
            (
                "backend = \"a;b\"\nfrom = \"web\"",
                "lbctl.toml:4: sync-haproxy.backend: backend name \"a;b\" has ';'",
            ),
            ("backend = \"app\"\nfrom = \"web\"\nport = 0", "port 0"),
            (
                "backend = \"app\"\nfrom = \"web\"\nmode = \"both\"",
                "\"both\" is none of slots, dynamic",
            ),
            (
                "backend = \"app\"\nfrom = \"web\"\nserver-options = \"check\"",
                "unknown setting sync-haproxy.server-options",
            ),
            (
                "backend = \"app\"\nfrom = \"web\"\nmode = \"dynamic\"\nserver-options = \"check; del\"",
                "would end the command",
            ),
            (
                "backend = \"app\"\nfrom = \"web\"\nmode = \"dynamic\"\nserver-options = \"check <<\"",
                "would end the command",
            ),
            (
                "backend = \"app\"\nfrom = \"web\"\nmode = \"dynamic\"\nserver-options = \"id 3\"",
                "lbctl's to set",
            ),
            ("backend = \"app\"\nfrom = \"web\"\npoll = \"1ms\"", "poll is under 50ms"),
            ("backend = \"app\"\nfrom = \"web\"\nfallback = \"app\"", "backend app is fed twice"),
            (
                "backend = \"app\"\nfrom = \"web\"\n[[sync-haproxy.backends]]\nbackend = \"b\"\nfrom = \"web\"",
                "exclude each other",
            ),
            (
                "backend = \"app\"\ntable-layout = \"hsdo\"\nhsdo-table = \"web\"",
                "HSDO's table has no ports: set port",
            ),
            (
                "backend = \"app\"\nport = 80\ntable-layout = \"hsdo\"",
                "needs the name of HSDO's table: set hsdo-table",
            ),
            (
                "backend = \"app\"\nport = 80\ntable-layout = \"hsdo\"\nhsdo-table = \"a/b\"\n\
                 aws-region = \"x.example/\"\ntable-poll = \"1ms\"",
                "\"a/b\" is not a table of DynamoDB",
            ),
            (
                "table-layout = \"hsdo\"\nhsdo-table = \"web\"\n\
                 [[sync-haproxy.backends]]\nbackend = \"a\"\nfrom = \"x\"\nport = 1\n\
                 [[sync-haproxy.backends]]\nbackend = \"b\"\nfrom = \"y\"\nport = 1",
                "they must agree in from",
            ),
            (
                "[[sync-haproxy.backends]]\nbackend = \"a\"\nfrom = \"x\"\nfallback = \"f\"\n\
                 [[sync-haproxy.backends]]\nbackend = \"b\"\nfrom = \"y\"\nfallback = \"f\"",
                "entries that share fallback f must agree",
            ),
        ] {
            let error = with(file).expect_err(file);
            assert!(error.contains(expected), "{file}\n{error}");
        }
    }
}
