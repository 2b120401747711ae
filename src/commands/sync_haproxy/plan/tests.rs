//! One slot at a time: the words that HAProxy gets.

use std::slice;

use super::*;
use crate::commands::sync_haproxy::target::Licence;
use crate::commands::sync_haproxy::testing::{at, endpoint, held, named, table, target};
use crate::haproxy::AdminFlags;
use crate::model::{Endpoint, SlotState};
use crate::tables::{Held, Left, Table};

pub(super) const READY: AdminFlags = AdminFlags(4);
pub(super) const DRAIN: AdminFlags = AdminFlags(8 | 4);

/// `srv1` as it serves endpoint `a` at weight 100, with checks passed.
pub(super) fn serving() -> ObservedServer {
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

pub(super) fn wanted(slots: &[(u32, Held)]) -> Wanted {
    // Long after the ramp.
    Wanted::compute(&table(slots), &target(), at(1_000_000))
}

/// The same of a table that remembers who left slot 1.
fn after(slots: &[(u32, Held)], left: &[&str]) -> Wanted {
    let addresses = left.iter().map(|address| address.parse().unwrap()).collect();
    let removed = [(SlotNumber::new(1).unwrap(), Left::Servers(addresses))].into();
    Wanted::compute(&Table { removed, ..table(slots) }, &target(), at(1_000_000))
}

/// Why a server stays.
fn kept(target: &Target, wanted: &Wanted, servers: &[ObservedServer]) -> Option<Why> {
    let plan = plan(target, wanted, Some(servers), &Learnt::default());
    let kept = plan.unordered.values().next()?;
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    assert!(plan.problems.iter().any(|problem| problem.to_string().contains("app")));
    Some(kept.why)
}

pub(super) fn one(state: SlotState) -> Wanted {
    wanted(&[(1, held(endpoint("a"), state))])
}

pub(super) fn lines(plan: &Plan) -> Vec<String> {
    plan.actions.iter().map(|action| action.command.to_string()).collect()
}

pub(super) fn planned(wanted: &Wanted, server: &ObservedServer) -> Vec<String> {
    lines(&plan(&target(), wanted, Some(slice::from_ref(server)), &Learnt::default()))
}

pub(super) fn dynamic(options: &str, id_base: u32) -> Target {
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
fn what_a_drain_leaves_is_told_and_cut_where_that_is_wanted() {
    let left = ObservedServer { admin: AdminFlags(5), sessions: Some(2), ..serving() };
    let licence = Licence { end_sessions: true, ..Licence::default() };
    let ending = Target { licence, ..target() };
    let dynamic = Target { licence, ..dynamic("check", 0) };
    let plan = |target: &Target, wanted: &Wanted, server: &ObservedServer, learnt: &Learnt| {
        super::plan(target, wanted, Some(slice::from_ref(server)), learnt)
    };
    let (rest, fresh) = (one(SlotState::Rest), Learnt::default());
    let held = plan(&target(), &rest, &left, &fresh);
    assert_eq!((lines(&held), held.crowded.len()), (vec![], 1));
    let cut = plan(&ending, &rest, &left, &fresh);
    assert_eq!(lines(&cut), ["shutdown sessions server app/srv1"]);
    assert!(cut.drift.is_empty());
    let expected = ["shutdown sessions server app/srv1", "del server app/srv1"];
    assert_eq!(lines(&plan(&dynamic, &rest, &left, &fresh)), expected);
    // Once a pass, and only what has had its time to drain.
    let ended = Learnt { ended: rest.resting.clone(), ..fresh.clone() };
    assert_eq!(lines(&plan(&ending, &rest, &left, &ended)), [""; 0]);
    assert_eq!(lines(&plan(&ending, &wanted(&[]), &left, &fresh)), [""; 0]);
    let draining = ObservedServer { admin: DRAIN, ..left.clone() };
    assert_eq!(lines(&plan(&ending, &one(SlotState::Drain), &draining, &fresh)), [""; 0]);
    let empty = ObservedServer { sessions: Some(0), ..left };
    let none = plan(&ending, &rest, &empty, &fresh);
    assert_eq!((lines(&none), none.crowded.len()), (vec![], 0));
}

#[test]
fn another_address_waits_in_maint_until_it_shows() {
    let moved = ObservedServer { port: 81, ..serving() };
    let expected = ["set server app/srv1 state maint", "set server app/srv1 addr 10.0.0.1 port 80"];
    for state in [SlotState::Ready, SlotState::Drain] {
        let wanted = after(&[(1, held(endpoint("a"), state))], &["10.0.0.1:81"]);
        assert_eq!(planned(&wanted, &moved), expected);
    }
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
fn a_start_that_was_cut_short_is_gated_again_and_a_persons_weight_of_zero_is_none() {
    let half = ObservedServer { weight: 0, ..serving() };
    let slot = SlotNumber::new(1).unwrap();
    let learnt = Learnt { half_started: [slot].into(), ..Learnt::default() };
    let expected = ["set server app/srv1 health down", "set server app/srv1 weight 100"];
    let again = plan(&target(), &one(SlotState::Ready), Some(slice::from_ref(&half)), &learnt);
    assert_eq!(lines(&again), expected);
    assert_eq!(planned(&one(SlotState::Ready), &half), expected[1..]);
}

#[test]
fn no_command_is_sent_to_a_server_whose_maintenance_is_another_servers() {
    let tracking = ObservedServer { admin: AdminFlags(4 | 2), operational: 0, ..serving() };
    let plan =
        |state| plan(&target(), &one(state), Some(slice::from_ref(&tracking)), &Learnt::default());
    for state in [SlotState::Ready, SlotState::Drain] {
        let plan = plan(state);
        assert_eq!((lines(&plan).len(), plan.drift.len()), (0, 0));
        let told = |p: &Problem| p.to_string().contains("app/srv1 follows the server");
        assert!(plan.problems.iter().any(told), "{:?}", plan.problems);
    }
    let forced = ObservedServer { admin: AdminFlags(4 | 3), ..tracking.clone() };
    assert!(!planned(&one(SlotState::Ready), &forced).is_empty());
}

#[test]
fn a_place_without_a_port_gets_the_address_alone() {
    let place = ObservedServer { port: 0, port_is_own: true, ..named("srv1") };
    assert_eq!(planned(&one(SlotState::Ready), &place), ["set server app/srv1 addr 10.0.0.1"]);
    let there = ObservedServer { port: 0, port_is_own: true, ..serving() };
    assert_eq!(planned(&one(SlotState::Ready), &there), [""; 0]);
    let keeping = Target { keep_port: true, ..target() };
    let other_port = ObservedServer { port: 8080, ..serving() };
    let kept = plan(&keeping, &one(SlotState::Ready), Some(&[other_port]), &Learnt::default());
    assert_eq!(lines(&kept), [""; 0]);
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
    for ended in [one(SlotState::Rest), after(&[], &["10.0.0.1:80"])] {
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
    assert!(!drained(&[serving()]), "HAProxy has no place for the new one");
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
fn a_backend_that_is_emptied_drains_and_a_server_that_rests_is_held_while_it_serves() {
    assert_eq!(planned(&one(SlotState::Drain), &serving()), ["set server app/srv1 state drain"]);
    let gone = wanted(&[
        (1, held(endpoint("a"), SlotState::Rest)),
        (
            2,
            held(
                Endpoint { address: "10.0.0.2:80".parse().unwrap(), ..endpoint("b") },
                SlotState::Ready,
            ),
        ),
    ]);
    let first = |server: ObservedServer| {
        let servers = [server, named("srv2")];
        lines(&plan(&target(), &gone, Some(&servers), &Learnt::default()))[0].clone()
    };
    assert_eq!(first(serving()), "set server app/srv2 addr 10.0.0.2 port 80");
    let down = ObservedServer { operational: 0, ..serving() };
    assert_eq!(first(down), "set server app/srv1 state maint");
}

#[test]
fn a_server_without_a_record_stays_whatever_its_health_until_it_may_go() {
    let nothing = wanted(&[]);
    let down = ObservedServer { operational: 0, ..serving() };
    for server in [serving(), down, ObservedServer { admin: DRAIN, sessions: None, ..serving() }] {
        assert_eq!(kept(&target(), &nothing, slice::from_ref(&server)), Some(Why::NoRecord));
        let dynamic = dynamic("check", 0);
        assert_eq!(kept(&dynamic, &nothing, slice::from_ref(&server)), Some(Why::NoRecord));
        assert_eq!(kept(&target(), &after(&[], &["10.0.0.1:80"]), &[server]), None);
    }
    let other = after(&[], &["10.0.0.1:81"]);
    assert_eq!(kept(&target(), &other, &[serving()]), Some(Why::NoRecord));
    let licence = Licence { allow_drop: true, ..Licence::default() };
    assert_eq!(kept(&Target { licence, ..target() }, &nothing, &[serving()]), None);
    let licence = Licence { take_over: true, ..Licence::default() };
    let taking = Target { licence, ..target() };
    assert_eq!(kept(&taking, &nothing, &[serving()]), Some(Why::NoRecord));
}

#[test]
fn a_server_is_not_displaced_by_a_record_that_does_not_send_it_away() {
    let other = ObservedServer { port: 81, ..serving() };
    for state in [SlotState::Ready, SlotState::Drain, SlotState::Rest] {
        assert_eq!(kept(&target(), &one(state), slice::from_ref(&other)), Some(Why::Displaced));
        let licence = Licence { take_over: true, ..Licence::default() };
        let target = Target { licence, ..target() };
        assert_eq!(kept(&target, &one(state), slice::from_ref(&other)), None);
    }
}

#[test]
fn nothing_is_taken_down_for_a_table_that_nobody_stands_behind() {
    let of = |slots: &[(u32, Held)]| {
        let table = Table { confirmed: false, ..table(slots) };
        Wanted::compute(&table, &target(), at(1_000_000))
    };
    for state in [SlotState::Drain, SlotState::Rest] {
        let wanted = of(&[(1, held(endpoint("a"), state))]);
        assert_eq!(kept(&target(), &wanted, &[serving()]), Some(Why::Unconfirmed));
    }
    let ready = of(&[(1, held(endpoint("a"), SlotState::Ready))]);
    let in_maint = named("srv1");
    assert_eq!(planned(&ready, &in_maint), ["set server app/srv1 addr 10.0.0.1 port 80"]);
}

#[test]
fn servers_that_lbctl_did_not_place_are_left_alone_until_it_is_told_to_take_over() {
    let server = |name: &str, port, admin| ObservedServer {
        name: name.into(),
        port,
        admin: AdminFlags(admin),
        ..serving()
    };
    let statics = [server("srv1", 81, 0), server("srv2", 82, 1), server("srv3", 80, 5)];
    let both = wanted(&[
        (1, held(endpoint("a"), SlotState::Ready)),
        (2, held(endpoint("b"), SlotState::Ready)),
    ]);
    let unasked = plan(&target(), &both, Some(&statics), &Learnt::default());
    assert!(unasked.actions.is_empty(), "{:?}", unasked.actions);
    assert_eq!(unasked.unplaced.len(), 2);
    assert_eq!(unasked.taken.len(), 1, "only what serves is told to discover");
    let problem = unasked.problems[0].to_string();
    assert!(problem.contains("did not place srv1, srv2") && problem.contains("--take-over"));
    let licence = Licence { take_over: true, ..Licence::default() };
    let taking = Target { licence, ..target() };
    let taken = plan(&taking, &both, Some(&statics), &Learnt::default());
    assert!(lines(&taken).contains(&"set server app/srv2 addr 10.0.0.1 port 80".to_owned()));
}

#[test]
fn a_server_that_somebody_else_put_in_its_slot_is_right_as_it_is() {
    let own = ObservedServer { admin: AdminFlags(0), weight: 7, ..serving() };
    let plan = plan(&target(), &one(SlotState::Ready), Some(&[own]), &Learnt::default());
    assert!(plan.actions.is_empty() && plan.drift.is_empty() && plan.unordered.is_empty());
}

/// As a script has filled the places: each server in the place of another.
#[test]
fn servers_in_each_others_places_move_one_by_one() {
    let at_port = |name: &str, port| ObservedServer { name: name.into(), port, ..serving() };
    let with_port = |id: &str, port| {
        let address = endpoint(id).address.with_port(port).unwrap();
        held(Endpoint { address, ..endpoint(id) }, SlotState::Ready)
    };
    let table = [(1, with_port("a", 81)), (2, with_port("b", 82)), (3, with_port("c", 83))];
    let moved = |servers: &[ObservedServer]| {
        let plan = plan(&target(), &wanted(&table), Some(servers), &Learnt::default());
        let moves = lines(&plan).into_iter().filter(|line| line.contains(" addr "));
        moves.collect::<Vec<_>>()
    };
    let mixed = [at_port("srv1", 82), at_port("srv2", 83), at_port("srv3", 81)];
    assert_eq!(moved(&mixed), ["set server app/srv1 addr 10.0.0.1 port 81"]);
    let starting = ObservedServer { operational: 0, ..at_port("srv1", 81) };
    assert_eq!(moved(&[starting, mixed[1].clone(), mixed[2].clone()]), [""; 0]);
    let first = at_port("srv1", 81);
    let then = [first.clone(), mixed[1].clone(), mixed[2].clone()];
    assert_eq!(moved(&then), ["set server app/srv3 addr 10.0.0.1 port 83"]);
    let last = [first, mixed[1].clone(), at_port("srv3", 83)];
    assert_eq!(moved(&last), ["set server app/srv2 addr 10.0.0.1 port 82"]);
}

#[test]
fn a_server_in_two_places_leaves_the_other_one_once_it_serves_in_its_own() {
    let twice = |up| {
        let second = ObservedServer { name: "srv2".into(), ..serving() };
        let own = ObservedServer { operational: up, ..serving() };
        let servers = [own, second];
        lines(&plan(&target(), &one(SlotState::Ready), Some(&servers), &Learnt::default()))
    };
    assert_eq!(twice(2), ["set server app/srv2 state maint"]);
    assert_eq!(twice(0), [""; 0]);
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
    let new = ObservedServer {
        id: 101,
        admin: AdminFlags(1),
        operational: 0,
        check_enabled: false,
        ..serving()
    };
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
    let left = after(&[], &["10.0.0.1:80"]);
    let commands = |server| plan(&target, &left, Some(&[server]), &Learnt::default());
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
    let at = |id: &str, port, state| {
        let address = endpoint(id).address.with_port(port).unwrap();
        held(Endpoint { address, ..endpoint(id) }, state)
    };
    let here = |id, port| at(id, port, SlotState::Ready);
    let desired = after(
        &[
            (1, here("a", 81)),
            (3, here("c", 83)),
            (4, at("d", 84, SlotState::Rest)),
            (5, here("e", 85)),
        ],
        &["10.0.0.1:80"],
    );
    let there = |name: &str, port| ObservedServer { name: name.into(), port, ..serving() };
    let in_maint = ObservedServer { admin: AdminFlags(5), ..there("srv3", 83) };
    let leaving = there("srv4", 84);
    let stays = there("srv5", 85);
    let down = ObservedServer { operational: 0, ..serving() };
    let servers = [down, in_maint, leaving, stays];
    let plan = plan(&target(), &desired, Some(&servers), &Learnt::default());
    let order: Vec<String> = lines(&plan).iter().map(|l| l[11..].to_owned()).collect();
    assert_eq!(
        order[..3],
        ["app/srv4 state maint", "app/srv1 state maint", "app/srv1 addr 10.0.0.1 port 81"]
    );
    assert_eq!(order[3], "app/srv3 weight 0");
}
