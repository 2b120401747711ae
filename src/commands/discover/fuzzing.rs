//! What others may have written into a slot table.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::{Answer, Floors, Places, Policy, Report, World, plan};
use crate::model::{EndpointId, HaproxyReport, Ramp, Registration, StoreLife, Timestamp, keys};
use crate::registry;
use crate::store::fuzzing::entries;
use crate::tables::{Content, StoredTable};

/// From any table, registrations and reports there is a plan, of slots that the table has and of
/// records that read back as written. The input is a line an entry.
pub fn slot_table(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (Ok(web), Ok(now)) = ("web".parse(), Timestamp::from_second(1_700_000_000)) else { return };
    let entries = entries(text);
    let under = |prefix: crate::model::Prefix| {
        entries.iter().filter(move |entry| prefix.contains(&entry.key))
    };
    let table = StoredTable::read(&web, under(keys::backend(&web)));
    let registrations = registry::read_all(under(keys::registry(&web))).registrations;
    let answer =
        Answer::of(registrations.into_iter().map(|Registration { endpoint, .. }| endpoint));
    let reports: Vec<Report> = under(keys::haproxies())
        .filter_map(|entry| entry.json::<HaproxyReport>().ok())
        .filter_map(|mut report| {
            let backend = report.backends.remove(&web)?;
            let (haproxy, gone) = (report.name, report.pid.is_none());
            Some(Report { haproxy, gone, silent: false, backend })
        })
        .collect();
    let nobody = BTreeSet::<EndpointId>::new();
    let policy = policy();
    let plan = plan(&World {
        policy: &policy,
        table: &table,
        answer: Some(&answer),
        confirmed: &nobody,
        kept: &nobody,
        recent: &nobody,
        barred: &BTreeSet::new(),
        places: &Places::default(),
        life: &StoreLife::default(),
        reborn_at: None,
        token: None,
        reports: &reports,
        now,
    });
    for record in plan.actions.iter().filter_map(|action| action.record.as_ref()) {
        let value = serde_json::to_vec(record).unwrap_or_default();
        assert_eq!(Content::read(&value), Content::Sound(record.clone()));
    }
}

fn policy() -> Policy {
    let second = Duration::from_secs(1);
    Policy {
        slots: 4,
        ramp: Ramp::default(),
        drain_deadline: 30 * second,
        drain_at_least: Duration::ZERO,
        rest: 10 * second,
        floors: Floors {
            max_drop_percent: 50,
            min_servers: 1,
            allow_drop: false,
            window: 60 * second,
        },
        drain_vanished: true,
        origin: None,
    }
}
