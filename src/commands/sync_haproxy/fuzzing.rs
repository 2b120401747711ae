//! What others may have written into a slot table, and what HAProxy may have beside it.

use std::collections::BTreeMap;

use super::desired::{Wanted, next_step};
use super::plan::{Learnt, plan};
use super::predict::predict;
use super::target::{Dynamic, Filter, Licence, Mode, Selector, Target};
use crate::haproxy::ObservedServer;
use crate::haproxy::fuzzing::{assert_harmless, servers};
use crate::model::Timestamp;
use crate::store::fuzzing::entries;
use crate::store::{Revision, StoreLife};
use crate::tables::Table;

/// Whatever the store and HAProxy say, every command is one line of known words. The input is a
/// line an entry, then an empty line and a reply to `show servers state`.
pub fn haproxy_commands(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (Ok(web), Ok(now)) = ("web".parse(), Timestamp::from_second(1_700_000_000)) else { return };
    let (stored, reply) = text.split_once("\n\n").unwrap_or((text, ""));
    let entries: BTreeMap<_, _> = entries(stored).into_iter().map(|e| (e.key.clone(), e)).collect();
    let Ok(Some(table)) = Table::read(&web, &entries, Revision(9), &StoreLife::default(), None)
    else {
        return;
    };
    _ = next_step(&table, now);
    let observed = servers(reply).unwrap_or_default();
    for mode in [Mode::Slots, Mode::Dynamic(Dynamic { options: "check".into(), id_base: u32::MAX })]
    {
        for target in targets(&web, &mode) {
            let wanted = Wanted::compute(&table, &target, now);
            converge(&target, &wanted, observed.clone());
        }
    }
}

fn targets(web: &crate::model::BackendName, mode: &Mode) -> Vec<Target> {
    let target = |prefix: Option<&str>, port| Target {
        backend: web.clone(),
        prefix: prefix.and_then(|prefix| prefix.parse().ok()),
        from: web.clone(),
        port,
        keep_port: false,
        takes: Selector::Matching(Filter::default()),
        mode: mode.clone(),
        licence: Licence::default(),
    };
    vec![target(Some("srv"), None), target(None, Some(8080))]
}

/// A few rounds of plans, each carried out as HAProxy would.
fn converge(target: &Target, wanted: &Wanted, mut servers: Vec<ObservedServer>) {
    for _ in 0..4 {
        let plan = plan(target, wanted, Some(&servers), &Learnt::default());
        if plan.actions.is_empty() {
            break;
        }
        for action in plan.actions {
            assert_harmless(&action.command);
            predict(&mut servers, &action.command);
        }
    }
}
