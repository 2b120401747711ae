//! One slot at a time: the words that HAProxy gets.

use std::slice;

use super::*;
use crate::haproxy::AdminFlags;
use crate::model::{Endpoint, SlotState};
use crate::sync_haproxy::table::Held;
use crate::sync_haproxy::testing::{at, endpoint, held, named, table, target};

const READY: AdminFlags = AdminFlags(4);
const DRAIN: AdminFlags = AdminFlags(8 | 4);

/// `srv1` as it serves endpoint `a` at weight 100, with checks passed.
fn serving() -> ObservedServer {
    let address = endpoint("a").address;
    ObservedServer {
        address: Some(address.ip()),
        port: address.port(),
        admin: READY,
        operational: 2,
        weight: 100,
        ..named("srv1")
    }
}

fn wanted(slots: &[(u32, Held)]) -> Wanted {
    // Long after the ramp.
    Wanted::compute(&table(slots), &target(), at(1_000_000))
}

fn one(state: SlotState) -> Wanted {
    wanted(&[(1, held(endpoint("a"), state))])
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.actions.iter().map(|action| action.command.to_string()).collect()
}

fn planned(wanted: &Wanted, server: &ObservedServer) -> Vec<String> {
    lines(&plan(&target(), wanted, Some(slice::from_ref(server)), &Learnt::default()))
}

fn dynamic(options: &str, id_base: u32) -> Target {
    Target { mode: Mode::Dynamic(Dynamic { options: options.into(), id_base }), ..target() }
}

#[test]
fn a_server_that_is_right_gets_no_command_though_its_flags_are_not_zero() {
    assert_eq!(planned(&one(SlotState::Ready), &serving()), [""; 0]);
    let down_by_its_checks = ObservedServer { operational: 0, ..serving() };
    assert_eq!(planned(&one(SlotState::Ready), &down_by_its_checks), [""; 0]);
    let draining = ObservedServer { admin: DRAIN, weight: 3, ..serving() };
    assert_eq!(planned(&one(SlotState::Drain), &draining), [""; 0]);
    assert_eq!(planned(&wanted(&[]), &named("srv1")), [""; 0]);
}

#[test]
fn another_address_waits_in_maint_until_it_shows() {
    let moved = ObservedServer { port: 81, ..serving() };
    let expected = ["set server app/srv1 state maint", "set server app/srv1 addr 10.0.0.1 port 80"];
    assert_eq!(planned(&one(SlotState::Ready), &moved), expected);
    assert_eq!(planned(&one(SlotState::Drain), &moved), expected);
    let in_maint = ObservedServer { admin: AdminFlags(5), ..moved };
    assert_eq!(planned(&one(SlotState::Ready), &in_maint), expected[1..]);
}

#[test]
fn a_checked_server_leaves_maint_without_weight_and_down() {
    let in_maint = ObservedServer { admin: AdminFlags(5), operational: 0, ..serving() };
    let expected = [
        "set server app/srv1 weight 0",
        "set server app/srv1 state ready",
        "set server app/srv1 health down",
        "set server app/srv1 weight 100",
    ];
    assert_eq!(planned(&one(SlotState::Ready), &in_maint), expected);
    let unchecked = ObservedServer { checked: false, check_enabled: false, ..in_maint };
    assert_eq!(planned(&one(SlotState::Ready), &unchecked), ["set server app/srv1 state ready"]);
    let switched_off = ObservedServer { checked: true, ..unchecked };
    assert_eq!(
        planned(&one(SlotState::Ready), &switched_off),
        ["set server app/srv1 state ready"],
        "health down would never end where an operator has switched checks off"
    );
}

#[test]
fn a_checked_server_that_only_drains_leaves_maint_down_too() {
    let in_maint = ObservedServer { admin: AdminFlags(5), operational: 0, ..serving() };
    let expected = [
        "set server app/srv1 weight 0",
        "set server app/srv1 state drain",
        "set server app/srv1 health down",
    ];
    assert_eq!(planned(&one(SlotState::Drain), &in_maint), expected);
}

#[test]
fn a_start_that_was_cut_short_is_gated_again() {
    let half = ObservedServer { weight: 0, ..serving() };
    let expected = ["set server app/srv1 health down", "set server app/srv1 weight 100"];
    assert_eq!(planned(&one(SlotState::Ready), &half), expected);
    let down = ObservedServer { operational: 0, ..half };
    assert_eq!(planned(&one(SlotState::Ready), &down), expected[1..]);
}

#[test]
fn only_another_weight_is_one_command() {
    let lighter = ObservedServer { weight: 90, ..serving() };
    assert_eq!(planned(&one(SlotState::Ready), &lighter), ["set server app/srv1 weight 100"]);
}

#[test]
fn a_drain_begins_with_state_drain_and_ends_with_maint() {
    assert_eq!(planned(&one(SlotState::Drain), &serving()), ["set server app/srv1 state drain"]);
    let draining = ObservedServer { admin: DRAIN, sessions: Some(3), ..serving() };
    let sessions = |wanted: &Wanted| {
        let servers = slice::from_ref(&draining);
        plan(&target(), wanted, Some(servers), &Learnt::default()).sessions
    };
    assert_eq!(sessions(&one(SlotState::Drain)), [(SlotNumber::new(1).unwrap(), 3)].into());
    assert_eq!(sessions(&one(SlotState::Rest)), BTreeMap::new());
    for ended in [one(SlotState::Rest), wanted(&[])] {
        assert_eq!(planned(&ended, &draining), ["set server app/srv1 state maint"]);
    }
    assert_eq!(planned(&one(SlotState::Ready), &draining), ["set server app/srv1 state ready"]);
}

#[test]
fn the_last_servers_that_serve_drain_once_one_that_stays_is_up() {
    let replaced = wanted(&[
        (1, held(endpoint("a"), SlotState::Drain)),
        (2, held(endpoint("b"), SlotState::Ready)),
    ]);
    let drained = |servers: &[ObservedServer]| {
        let plan = plan(&target(), &replaced, Some(servers), &Learnt::default());
        lines(&plan).contains(&"set server app/srv1 state drain".to_owned())
    };
    let new = |admin, operational, weight| ObservedServer {
        admin,
        operational,
        weight,
        ..ObservedServer { name: "srv2".into(), ..serving() }
    };
    assert!(!drained(&[serving(), named("srv2")]), "the new one is not there yet");
    assert!(!drained(&[serving(), new(READY, 0, 100)]), "the new one has passed no check yet");
    assert!(!drained(&[serving(), new(READY, 2, 0)]), "the new one has no weight yet");
    assert!(drained(&[serving(), new(READY, 2, 100)]));
    assert!(drained(&[serving(), new(READY, 2, 90)]), "its weight grows while it serves");
    assert!(drained(&[serving()]), "HAProxy has no place for the new one: none will come");
    let down = ObservedServer { operational: 0, ..serving() };
    assert!(drained(&[down, named("srv2")]), "it serves nobody");
}

/// A replacement whose ramp begins at weight 0 is one to wait for; one that is wanted at 0 never
/// takes traffic.
#[test]
fn the_last_servers_wait_for_a_ramp_from_zero_and_not_for_a_weight_of_zero() {
    let drained = |own: Option<u64>, seconds: i64, servers: &[ObservedServer]| {
        let weight = own.map(Weight::saturating);
        let mut table = table(&[
            (1, held(endpoint("a"), SlotState::Drain)),
            (2, held(Endpoint { weight, ..endpoint("b") }, SlotState::Ready)),
        ]);
        table.spec.ramp.min = Weight::ZERO;
        let wanted = Wanted::compute(&table, &target(), at(seconds * 1_000));
        let plan = plan(&target(), &wanted, Some(servers), &Learnt::default());
        let drains = lines(&plan).contains(&"set server app/srv1 state drain".to_owned());
        assert_eq!(plan.held.is_empty(), drains, "neither done nor held: {:?}", plan.actions);
        drains
    };
    let new = |weight| ObservedServer { name: "srv2".into(), weight, ..serving() };
    assert!(!drained(None, 0, &[serving(), named("srv2")]), "it is not started yet");
    assert!(!drained(None, 9, &[serving(), new(0)]), "it is up without a weight");
    assert!(!drained(None, 10, &[serving(), new(0)]), "its weight is only sent now");
    assert!(drained(None, 10, &[serving(), new(10)]));
    assert!(!drained(None, 9, &[serving(), new(50)]), "it loses the weight that it has");
    assert!(drained(Some(0), 0, &[serving(), named("srv2")]), "nobody is to come");
    assert!(drained(Some(0), 9, &[serving(), new(0)]), "it stays at 0 for ever");
    assert!(drained(Some(0), 9, &[serving(), new(50)]), "nobody is to come, and it goes");
}

#[test]
fn nobody_waits_for_a_server_whose_only_weight_is_zero() {
    let replaced = wanted(&[
        (1, held(endpoint("a"), SlotState::Drain)),
        (2, held(endpoint("b"), SlotState::Ready)),
    ]);
    let new = ObservedServer { name: "srv2".into(), weight: 0, initial_weight: 0, ..serving() };
    let learnt = Learnt { static_weights: true, ..Learnt::default() };
    let plan = plan(&target(), &replaced, Some(&[serving(), new]), &learnt);
    assert_eq!(lines(&plan), ["set server app/srv1 state drain"]);
}

#[test]
fn a_backend_that_is_emptied_drains_and_a_server_that_has_gone_is_never_held() {
    assert_eq!(planned(&one(SlotState::Drain), &serving()), ["set server app/srv1 state drain"]);
    let gone = wanted(&[
        (1, held(endpoint("a"), SlotState::Rest)),
        (2, held(endpoint("b"), SlotState::Ready)),
    ]);
    let servers = [serving(), named("srv2")];
    let plan = plan(&target(), &gone, Some(&servers), &Learnt::default());
    assert_eq!(lines(&plan)[0], "set server app/srv1 state maint");
}

#[test]
fn a_place_behind_the_tables_last_slot_goes_to_maint_and_foreign_servers_stay() {
    let servers = [
        serving(),
        ObservedServer { name: "srv99".into(), ..serving() },
        ObservedServer { name: "backup".into(), ..serving() },
    ];
    let plan = plan(&target(), &one(SlotState::Ready), Some(&servers), &Learnt::default());
    assert_eq!(lines(&plan), ["set server app/srv99 state maint"]);
}

#[test]
fn a_slot_that_nobody_can_read_is_left_as_it_is() {
    let unknown = wanted(&[(1, Held::Unknown)]);
    for server in [serving(), named("srv1"), ObservedServer { admin: DRAIN, ..serving() }] {
        assert_eq!(planned(&unknown, &server), [""; 0]);
    }
}

#[test]
fn held_slots_without_a_place_are_drift_and_the_others_are_served() {
    let both = wanted(&[
        (1, held(endpoint("a"), SlotState::Ready)),
        (3, held(endpoint("c"), SlotState::Ready)),
    ]);
    let plan = plan(&target(), &both, Some(&[named("srv1")]), &Learnt::default());
    assert_eq!(lines(&plan), ["set server app/srv1 addr 10.0.0.1 port 80"]);
    assert_eq!(plan.unplaced, [SlotNumber::new(3).unwrap()]);
    assert_eq!(plan.drift.len(), 2);
    let problem = plan.problems[0].to_string();
    assert!(problem.contains("server-template srv 1-4"), "{problem}");
}

#[test]
fn a_missing_backend_is_a_problem_that_names_it() {
    let plan = plan(&target(), &one(SlotState::Ready), None, &Learnt::default());
    assert!(plan.actions.is_empty());
    assert!(plan.problems[0].to_string().contains("no backend app"));
    assert_eq!(plan.drift.len(), 1);
}

#[test]
fn a_static_algorithm_gets_its_configured_weight_back() {
    let learnt = Learnt { static_weights: true, ..Learnt::default() };
    let commands = |server: &ObservedServer| {
        lines(&plan(&target(), &one(SlotState::Ready), Some(slice::from_ref(server)), &learnt))
    };
    let stranded = ObservedServer { weight: 0, initial_weight: 7, operational: 0, ..serving() };
    assert_eq!(commands(&stranded), ["set server app/srv1 weight 7"]);
    let right = ObservedServer { weight: 7, ..stranded };
    assert_eq!(commands(&right), [""; 0]);
    let in_maint = ObservedServer { admin: AdminFlags(5), ..right };
    assert_eq!(
        commands(&in_maint),
        ["set server app/srv1 state ready", "set server app/srv1 health down"]
    );
}

#[test]
fn a_refused_slot_stays_drift_and_gets_no_command() {
    let slot = SlotNumber::new(1).unwrap();
    let refused = Learnt { refused: [(slot, "no".into())].into(), ..Learnt::default() };
    let plan = plan(&target(), &one(SlotState::Ready), Some(&[named("srv1")]), &refused);
    assert_eq!((plan.actions.len(), plan.drift.len()), (0, 1));
}

#[test]
fn a_dynamic_server_is_added_with_its_slots_id_and_started_once_it_shows() {
    let target = dynamic("check inter 2s", 100);
    let ready = one(SlotState::Ready);
    let added = plan(&target, &ready, Some(&[]), &Learnt::default());
    assert_eq!(lines(&added), ["add server app/srv1 10.0.0.1:80 id 101 weight 100 check inter 2s"]);
    let new =
        ObservedServer { admin: AdminFlags(1), operational: 0, check_enabled: false, ..serving() };
    let started = plan(&target, &ready, Some(&[new]), &Learnt::default());
    assert_eq!(
        lines(&started),
        [
            "set server app/srv1 weight 0",
            "enable health app/srv1",
            "set server app/srv1 state ready",
            "set server app/srv1 health down",
            "set server app/srv1 weight 100",
        ]
    );
}

#[test]
fn a_dynamic_server_is_deleted_once_it_is_in_maint() {
    let target = dynamic("check", 0);
    let commands = |server| plan(&target, &wanted(&[]), Some(&[server]), &Learnt::default());
    let first = commands(serving());
    assert_eq!(lines(&first), ["set server app/srv1 state maint"]);
    assert_eq!((first.drift.len(), first.leftovers.len()), (1, 0));
    let then = commands(ObservedServer { admin: AdminFlags(1), ..serving() });
    assert_eq!(lines(&then), ["del server app/srv1"]);
    assert_eq!((then.drift.len(), then.leftovers.len()), (0, 1));
}

#[test]
fn an_id_of_another_server_is_a_problem_and_not_a_command() {
    let other = ObservedServer { id: 1, name: "backup".into(), ..serving() };
    let ready = one(SlotState::Ready);
    let plan = plan(&dynamic("check", 0), &ready, Some(&[other]), &Learnt::default());
    assert!(plan.actions.is_empty());
    assert!(plan.problems[0].to_string().contains("id 1 in backend app belongs to server backup"));
}

#[test]
fn dead_servers_leave_before_anything_else() {
    let here = |id: &str, port| {
        let address = endpoint(id).address.with_port(port).unwrap();
        held(Endpoint { address, ..endpoint(id) }, SlotState::Ready)
    };
    let desired = wanted(&[(1, here("a", 81)), (3, held(endpoint("c"), SlotState::Ready))]);
    let in_maint = ObservedServer { name: "srv3".into(), admin: AdminFlags(5), ..serving() };
    let leaving = ObservedServer { name: "srv4".into(), ..serving() };
    let servers = [serving(), in_maint, leaving];
    let plan = plan(&target(), &desired, Some(&servers), &Learnt::default());
    let order: Vec<String> = lines(&plan).iter().map(|l| l[11..].to_owned()).collect();
    assert_eq!(
        order[..3],
        ["app/srv4 state maint", "app/srv1 state maint", "app/srv1 addr 10.0.0.1 port 81"]
    );
    assert_eq!(order[3], "app/srv3 weight 0");
}
