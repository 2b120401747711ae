use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::{Floors, Policy};
use super::sources::{AsgSpec, FORMS, SourceOptions, SourceSpec};
use crate::config::Reader;
use crate::daemon;
use crate::hsdo::{TableLayout, TableName, TablePlace};
use crate::model::{
    BackendName, CandidateId, Ramp, SlotNumber, TableOrigin, Weight, format_duration,
};
use crate::store::StoreSettings;

/// Where the admin HTTP server listens unless told otherwise.
const ADMIN_PORT: u16 = 9572;

/// What `discover` can be set to.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: StoreSettings,
    pub daemon: daemon::Options,
    /// Who this copy is in elections, for people.
    pub id: CandidateId,
    /// After this time without a sign of life from the leading copy another one takes over.
    pub ttl: Duration,
    pub backends: Vec<BackendSettings>,
}

/// What one backend's table is made from, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSettings {
    pub name: BackendName,
    pub source: SourceSpec,
    pub policy: Policy,
    pub confirm: Confirm,
    pub options: SourceOptions,
    /// HSDO's table, where it is kept equal to the backend's own.
    pub hsdo: Option<TablePlace>,
}

/// What confirms a removal that the floors refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// So many good looks in a row must miss a server.
    pub passes: u32,
    /// A look counts this long after the one counted before.
    pub interval: Duration,
}

impl Settings {
    /// Reads the section `discover`. Its values hold for every member of `[[discover.backends]]`
    /// that does not set its own.
    pub fn read(reader: &mut Reader) -> Self {
        let settings = Self {
            store: StoreSettings::read(reader),
            daemon: daemon::Options::read(reader, "discover", ADMIN_PORT),
            id: reader.get("discover.id", CandidateId::of_process()),
            ttl: reader.get("discover.ttl", Duration::from_secs(10)),
            backends: read_backends(reader),
        };
        if settings.ttl < Duration::from_secs(1) {
            reader.problem("discover.ttl", "a ttl under 1s would lose the leadership by chance");
        }
        settings
    }
}

/// The one backend of `--backend`, or all of the file.
fn read_backends(reader: &mut Reader) -> Vec<BackendSettings> {
    let chosen: Option<BackendName> = reader.find("discover.backend");
    let common = Common::read(reader, "discover", &Common::default());
    let mut names = BTreeSet::new();
    let mut backends = Vec::new();
    for path in reader.tables("discover.backends") {
        let name: Option<BackendName> = reader.require(&format!("{path}.name"));
        let own = Common::read(reader, &path, &common);
        let Some(name) = name else { continue };
        if !names.insert(name.clone()) {
            reader.problem(&format!("{path}.name"), format!("backend {name} is there twice"));
        }
        if chosen.as_ref().is_none_or(|chosen| *chosen == name) {
            backends.extend(own.finish(name, &path, reader));
        }
    }
    match chosen {
        Some(name) if !names.contains(&name) => {
            backends.extend(common.finish(name, "discover", reader));
        }
        None if names.is_empty() => reader.problem(
            "discover.backends",
            "no backend to fill: give --backend NAME --source SOURCE --slots N, or write [[discover.backends]] in the file",
        ),
        _ => {}
    }
    refuse_shared_tables(reader, &backends);
    refuse_shared_hooks(reader, &backends);
    backends
}

/// Whose sessions are over in one backend may have some in another.
fn refuse_shared_hooks(reader: &mut Reader, backends: &[BackendSettings]) {
    let hook = |b: &BackendSettings| b.options.asg.complete_lifecycle.clone();
    let groups = |b: &BackendSettings| match &b.source {
        SourceSpec::Asg(groups) => Some(groups.clone()),
        _ => None,
    };
    let completing = backends.iter().filter_map(|b| Some((&b.name, hook(b)?, groups(b)?)));
    let completing: Vec<_> = completing.collect();
    for (number, (name, hook, groups)) in completing.iter().enumerate() {
        let shares = |(_, other, theirs): &&(&BackendName, String, AsgSpec)| {
            other == hook && theirs.may_share_with(groups)
        };
        if let Some((other, ..)) = completing[..number].iter().find(shares) {
            let message = format!(
                "backends {other} and {name} may have instances in common and would both complete \
                 hook {hook}: only one of them may have complete-lifecycle"
            );
            reader.problem("discover.backends", message);
        }
    }
}

/// Two backends in one table of HSDO's would undo each other's work for ever.
fn refuse_shared_tables(reader: &mut Reader, backends: &[BackendSettings]) {
    let mut tables = BTreeSet::new();
    for table in backends.iter().filter_map(|b| b.hsdo.as_ref()).map(|place| &place.table) {
        if !tables.insert(table) {
            let message =
                format!("HSDO's table {table} is filled by two backends: each has its own");
            reader.problem("discover.backends", message);
        }
    }
}

/// What can be set for all backends and for each.
#[derive(Debug, Clone)]
struct Common {
    source: Option<SourceSpec>,
    slots: Option<u32>,
    min_weight: Option<Weight>,
    max_weight: Weight,
    weight_step: Weight,
    weight_interval: Duration,
    rest: Duration,
    drain_deadline: Duration,
    drain_at_least: Duration,
    floors: Floors,
    confirm: Confirm,
    options: SourceOptions,
    layout: TableLayout,
    hsdo_table: Option<TableName>,
}

impl Default for Common {
    fn default() -> Self {
        let ramp = Ramp::default();
        Self {
            source: None,
            slots: None,
            min_weight: None,
            max_weight: ramp.max,
            weight_step: ramp.step,
            weight_interval: ramp.interval,
            rest: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(30),
            drain_at_least: Duration::ZERO,
            floors: Floors {
                max_drop_percent: 50,
                min_servers: 1,
                allow_drop: false,
                window: Duration::from_secs(60),
            },
            confirm: Confirm { passes: 3, interval: Duration::from_secs(10) },
            options: SourceOptions::default(),
            layout: TableLayout::default(),
            hsdo_table: None,
        }
    }
}

impl Common {
    fn read(reader: &mut Reader, base: &str, default: &Self) -> Self {
        let path = |name: &str| format!("{base}.{name}");
        let floors = default.floors;
        Self {
            source: reader.find(&path("source")).or_else(|| default.source.clone()),
            slots: reader.find(&path("slots")).or(default.slots),
            min_weight: reader.find(&path("min-weight")).or(default.min_weight),
            max_weight: reader.get(&path("max-weight"), default.max_weight),
            weight_step: reader.get(&path("weight-step"), default.weight_step),
            weight_interval: reader.get(&path("weight-interval"), default.weight_interval),
            rest: reader.get(&path("rest"), default.rest),
            drain_deadline: reader.get(&path("drain-deadline"), default.drain_deadline),
            drain_at_least: reader.get(&path("drain-at-least"), default.drain_at_least),
            floors: Floors {
                max_drop_percent: reader.get(&path("max-drop-percent"), floors.max_drop_percent),
                min_servers: reader.get(&path("min-servers"), floors.min_servers),
                allow_drop: reader.get(&path("allow-drop"), floors.allow_drop),
                window: reader.get(&path("drop-window"), floors.window),
            },
            confirm: Confirm {
                passes: reader.get(&path("confirm-passes"), default.confirm.passes),
                interval: reader.get(&path("confirm-interval"), default.confirm.interval),
            },
            options: SourceOptions::read(reader, base, &default.options),
            layout: reader.get(&path("table-layout"), default.layout),
            hsdo_table: reader.find(&path("hsdo-table")).or_else(|| default.hsdo_table.clone()),
        }
    }

    /// The backend, or `None` with what is missing told.
    fn finish(self, name: BackendName, base: &str, reader: &mut Reader) -> Option<BackendSettings> {
        self.check(base, reader);
        let ramp = self.ramp();
        if let Err(error) = ramp.check() {
            reader.problem(&format!("{base}.max-weight"), format!("backend {name}: {error}"));
        }
        if self.source.is_none() {
            let message = format!("backend {name} has no source: give --source {FORMS}");
            reader.problem(&format!("{base}.source"), message);
        }
        if self.slots.is_none() {
            let message = format!(
                "backend {name} has no slots: give --slots N, as many as each HAProxy has places for it"
            );
            reader.problem(&format!("{base}.slots"), message);
        }
        let region = self.options.aws_region.clone();
        let hsdo = TablePlace::of(reader, base, self.layout, self.hsdo_table, region);
        let source = self.source?;
        if let Err(error) = source.check(&self.options) {
            reader.problem(&format!("{base}.source"), format!("backend {name}: {error}"));
        }
        let origin = TableOrigin {
            source: source.kind().to_owned(),
            hsdo_table: hsdo.as_ref().map(|place| place.table.to_string()),
            region: hsdo.as_ref().and_then(|place| Some(place.region.as_ref()?.to_string())),
        };
        let policy = Policy {
            slots: self.slots?,
            ramp,
            drain_deadline: self.drain_deadline,
            drain_at_least: self.drain_at_least,
            rest: self.rest,
            floors: self.floors,
            drain_vanished: source.drains_vanished(),
            origin: Some(origin),
        };
        let (confirm, options) = (self.confirm, self.options);
        Some(BackendSettings { name, source, policy, confirm, options, hsdo })
    }

    fn check(&self, base: &str, reader: &mut Reader) {
        let mut demand = |name: &str, holds: bool, range: String| {
            if !holds {
                reader.problem(&format!("{base}.{name}"), format!("{base}.{name} must be {range}"));
            }
        };
        let most = SlotNumber::MAX.get();
        let slots = self.slots.unwrap_or(1);
        demand("slots", (1..=most).contains(&slots), format!("from 1 to {most}"));
        demand("max-drop-percent", self.floors.max_drop_percent <= 100, "from 0 to 100".into());
        demand("confirm-passes", self.confirm.passes > 0, "1 or more".into());
        let within = self.drain_at_least <= self.drain_deadline;
        demand("drain-at-least", within, "drain-deadline or less".into());
        let least = Duration::from_millis(100);
        let interval = format!("{} or more", format_duration(least));
        demand("confirm-interval", self.confirm.interval >= least, interval);
    }

    fn ramp(&self) -> Ramp {
        // Whoever only lowers the maximum need not know the minimum.
        let min = self.min_weight.unwrap_or_else(|| Ramp::default().min.min(self.max_weight));
        let (step, interval) = (self.weight_step, self.weight_interval);
        Ramp { min, max: self.max_weight, step, interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn read(text: &str, flags: Flags) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lbctl.toml");
        std::fs::write(&file, text).unwrap();
        let flags = flags.set("store.url", "--store", Some("memory:"));
        let mut reader = Reader::load(Some(&file), [], flags).unwrap();
        let settings = Settings::read(&mut reader);
        match reader.finish() {
            Ok(_) => Ok(settings),
            Err(error) => {
                Err(error.to_string().replace(&format!("{}/", folder.path().display()), ""))
            }
        }
    }

    #[test]
    fn a_backend_needs_no_file() {
        let flags = Flags::new()
            .set("discover.backend", "--backend", Some("web"))
            .set("discover.source", "--source", Some("registry"))
            .set("discover.slots", "--slots", Some(10))
            .set("discover.max-weight", "--max-weight", Some(5));
        let settings = read("", flags).unwrap();
        let [web] = &settings.backends[..] else { panic!("{settings:?}") };
        assert_eq!((web.policy.slots, web.policy.ramp.min.get()), (10, 5));
        assert!(!web.policy.drain_vanished);
    }

    const TWO: &str = "[discover]\nslots = 5\nrest = '1s'\n\n[[discover.backends]]\nname = 'web'\n\
        source = 'registry'\n\n[[discover.backends]]\nname = 'api'\nsource = 'file:/a.json'\nslots = 7\n\
        rest = '2s'\n";

    #[test]
    fn a_backend_of_the_file_has_its_own_value_or_the_common_one() {
        let settings = read(TWO, Flags::new()).unwrap();
        let of =
            |b: &BackendSettings| (b.name.to_string(), b.policy.slots, b.policy.rest.as_secs());
        let all: Vec<_> = settings.backends.iter().map(of).collect();
        assert_eq!(all, [("web".to_owned(), 5, 1), ("api".to_owned(), 7, 2)]);
        let one = Flags::new().set("discover.backend", "--backend", Some("api"));
        assert_eq!(read(TWO, one).unwrap().backends.len(), 1);
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let text = "[discover]\nmax-drop-percent = 101\nttl = '10ms'\n\n[[discover.backends]]\n\
            name = 'web'\nsource = 'registry'\nslots = 0\n\n[[discover.backends]]\nname = 'web'\n\
            source = 'consul'\nweight-step = 0\nslots = 1\nwieght = 3\n";
        let error = read(text, Flags::new()).unwrap_err();
        for part in [
            "lbctl.toml:3: a ttl under 1s",
            "lbctl.toml:8: discover.backends[0].slots must be from 1 to 99999",
            "max-drop-percent must be from 0 to 100",
            "lbctl.toml:11: backend web is there twice",
            "lbctl.toml:12: discover.backends[1].source: \"consul\" is not a source",
            "ramp step is 0",
            "lbctl.toml:15: unknown setting discover.backends[1].wieght",
        ] {
            assert!(error.contains(part), "{part:?} is missing in\n{error}");
        }
    }

    #[test]
    fn a_backend_has_a_table_of_hsdos_of_its_own_or_none() {
        let layout = "table-layout = 'hsdo'\naws-region = 'eu-west-3'\n";
        let text = |web: &str, api: &str| {
            format!(
                "[discover]\nslots = 5\nsource = 'registry'\n{layout}[[discover.backends]]\nname = 'web'\n\
                 {web}[[discover.backends]]\nname = 'api'\n{api}"
            )
        };
        let (one, other) = ("hsdo-table = 'hsdo-web'\n", "table-layout = 'lbctl'\n");
        let settings = read(&text(one, other), Flags::new()).unwrap();
        let place = settings.backends[0].hsdo.clone().unwrap();
        assert_eq!((place.table.as_str(), &settings.backends[1].hsdo), ("hsdo-web", &None));
        assert_eq!(place.region.unwrap().to_string(), "eu-west-3");
        for (web, api, says) in [
            (one, "", "needs the name of HSDO's table"),
            (one, one, "HSDO's table hsdo-web is filled by two backends"),
            (one, "hsdo-table = 'a b'\n", "is not a table of DynamoDB"),
        ] {
            let error = read(&text(web, api), Flags::new()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn one_backend_alone_completes_the_hook_of_a_group() {
        let text = |hook: &str, source: &str| {
            format!(
                "[discover]\nslots = 1\n[[discover.backends]]\nname = 'a'\nsource = 'asg:web'\n\
                 complete-lifecycle = 'drain'\n[[discover.backends]]\nname = 'b'\n\
                 source = '{source}'\n{hook}"
            )
        };
        let hook = "complete-lifecycle = 'drain'\n";
        read(&text("", "asg:web"), Flags::new()).unwrap();
        read(&text(hook, "asg:other"), Flags::new()).unwrap();
        let error = read(&text(hook, "asg:other,web"), Flags::new()).unwrap_err();
        assert!(error.contains("backends a and b may have instances in common"), "{error}");
    }

    #[test]
    fn nothing_to_do_says_what_to_give() {
        assert!(read("", Flags::new()).unwrap_err().contains("--backend NAME --source"));
        let only = Flags::new().set("discover.backend", "--backend", Some("web"));
        let error = read("", only).unwrap_err();
        assert!(error.contains("has no source") && error.contains("has no slots"), "{error}");
    }
}
