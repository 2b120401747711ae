//! The planner of discover.

use std::collections::BTreeSet;
use std::time::Duration;

use lbctl::commands::discover::plan::{Answer, Floors, Places, Plan, Policy, World, plan};
use lbctl::model::{StoreLife, Timestamp};
use lbctl::store::Revision;
use lbctl::tables::{Content, StoredSlot, StoredSpec, StoredTable};

use super::fixture::{numbers, record, server, slot, spec};
use super::report::{Report, Row, Target, Unit};
use super::samples::{Samples, time};

const SLOTS: u32 = 10_000;

/// Ten times as many, as far as slots are numbered.
const MANY: u32 = 99_999;

pub fn measure(report: &mut Report) {
    type Case = (&'static str, fn(u32) -> StoredTable, fn(u32) -> Answer);
    let cases: [Case; 4] = [
        ("onto as many empty slots", empty, |n| answer(1, n)),
        ("that have their slots already", full, |n| answer(1, n)),
        ("each in the place of another", full, |n| answer(2, n)),
        ("each at another address", full, moved),
    ];
    for (what, table, answer) in cases {
        let few = samples(SLOTS, table, answer, 31).median();
        let name = format!("planner: {SLOTS} endpoints {what}");
        let target = Target::AtMost(20.0);
        report.add(Row { what: name, unit: Unit::Milliseconds, figure: few, peer: None, target });
        let many = samples(MANY, table, answer, 5).median();
        let name = format!("planner: {MANY} endpoints {what}; the peer is n log n from {SLOTS}");
        let (figure, peer) = (many, Some(few * n_log_n(MANY) / n_log_n(SLOTS)));
        // Ten times the data no longer fits the caches.
        let target = Target::RatioAtMost(2.0);
        report.add(Row { what: name, unit: Unit::Milliseconds, figure, peer, target });
    }
}

fn n_log_n(n: u32) -> f64 {
    f64::from(n) * f64::from(n).log2()
}

fn samples(
    count: u32,
    table: fn(u32) -> StoredTable,
    answer: fn(u32) -> Answer,
    rounds: usize,
) -> Samples {
    let (policy, table, answer) = (policy(count), table(count), answer(count));
    let none = BTreeSet::new();
    let world = World {
        policy: &policy,
        table: &table,
        answer: Some(&answer),
        confirmed: &none,
        kept: &none,
        recent: &none,
        barred: &BTreeSet::new(),
        places: &Places::default(),
        life: &StoreLife::default(),
        reborn_at: None,
        token: None,
        reports: &[],
        now: Timestamp::UNIX_EPOCH + Duration::from_secs(1),
    };
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let mut planned = Plan::default();
        samples.push(time(|| planned = plan(&world)));
        assert!(planned.refused.is_none(), "the planner refused to do it");
    }
    samples
}

fn policy(slots: u32) -> Policy {
    let spec = spec(slots, 100);
    Policy {
        slots,
        ramp: spec.ramp,
        drain_deadline: spec.drain_deadline,
        drain_at_least: Duration::ZERO,
        rest: spec.rest,
        floors: Floors {
            max_drop_percent: 100,
            min_servers: 0,
            allow_drop: true,
            window: Duration::from_secs(60),
        },
        drain_vanished: true,
        origin: None,
    }
}

fn empty(_: u32) -> StoredTable {
    StoredTable::default()
}

fn full(slots: u32) -> StoredTable {
    let modified = Revision(1);
    let stored = |number| {
        let content = Content::Sound(record(server(1, number)));
        (slot(number), StoredSlot { modified, content })
    };
    StoredTable {
        spec: Some(StoredSpec { modified, spec: Ok(spec(slots, 100)) }),
        slots: numbers(slots).map(stored).collect(),
        ..StoredTable::default()
    }
}

fn answer(generation: u8, count: u32) -> Answer {
    Answer::of(numbers(count).map(|number| server(generation, number)))
}

/// The same servers at other addresses.
fn moved(count: u32) -> Answer {
    Answer::of(numbers(count).map(|number| {
        let address = server(2, number).address;
        lbctl::model::Endpoint { address, ..server(1, number) }
    }))
}
