//! Where somebody else has a hand in HAProxy: agents, a person on the socket.

use std::slice;

use super::tests::*;
use super::*;
use crate::commands::sync_haproxy::testing::{endpoint, held, named, target};
use crate::haproxy::AdminFlags;
use crate::model::{Endpoint, SlotState};

#[test]
fn an_agent_has_its_say_in_weight_drain_and_maint() {
    let slot = SlotNumber::new(1).unwrap();
    let agent = ObservedServer { has_agent: true, agent_enabled: true, ..serving() };
    let planned = |server: &ObservedServer, learnt: &Learnt| {
        lines(&plan(&target(), &one(SlotState::Ready), Some(slice::from_ref(server)), learnt))
    };
    let set = |weight| Learnt {
        weights: [(slot, Weight::saturating(weight))].into(),
        ..Learnt::default()
    };
    let lighter = ObservedServer { weight: 50, ..agent.clone() };
    assert_eq!(planned(&lighter, &set(100)), [""; 0], "the agent's weight");
    let ramps = ["set server app/srv1 weight 100"];
    assert_eq!(planned(&lighter, &set(50)), ramps, "an agent that says nothing of weights");
    assert_eq!(planned(&lighter, &Learnt::default()), ramps, "nobody knows whose it is");
    let drained = ObservedServer { admin: DRAIN, ..agent.clone() };
    assert_eq!(planned(&drained, &set(100)), [""; 0], "the agent's drain");
    let ours = Learnt { drained: [slot].into(), ..Learnt::default() };
    assert_eq!(planned(&drained, &ours), ["set server app/srv1 state ready"]);
    let in_maint = ObservedServer { admin: AdminFlags(5), ..agent.clone() };
    let started = Learnt { started: [slot].into(), ..Learnt::default() };
    assert_eq!(planned(&in_maint, &started), [""; 0], "the agent's maint");
    assert!(!planned(&in_maint, &Learnt::default()).is_empty(), "nobody has started it yet");
}

/// What it said next would bring its server back.
#[test]
fn the_agent_of_a_server_that_leaves_is_asked_no_more() {
    let agent = ObservedServer { has_agent: true, agent_enabled: true, ..serving() };
    let with = |admin| ObservedServer { admin, ..agent.clone() };
    let silence = "disable agent app/srv1";
    let drain = [silence, "set server app/srv1 state drain"];
    assert_eq!(planned(&one(SlotState::Drain), &agent), drain);
    assert_eq!(planned(&one(SlotState::Drain), &with(DRAIN)), [silence], "it drained by its agent");
    let maint = [silence, "set server app/srv1 state maint"];
    assert_eq!(planned(&one(SlotState::Rest), &agent), maint);
    assert_eq!(planned(&one(SlotState::Rest), &with(AdminFlags(5))), [silence]);
    let silent = ObservedServer { agent_enabled: false, ..with(AdminFlags(5)) };
    assert_eq!(planned(&one(SlotState::Rest), &silent), [""; 0]);
    let started = planned(&one(SlotState::Ready), &silent);
    assert!(started.contains(&"enable agent app/srv1".to_owned()), "{started:?}");
    let drained = ObservedServer { admin: DRAIN, ..silent };
    let back = ["enable agent app/srv1", "set server app/srv1 state ready"];
    assert_eq!(planned(&one(SlotState::Ready), &drained), back);
    assert_eq!(planned(&wanted(&[]), &agent), [""; 0], "nobody sends it away");
}

#[test]
fn the_agent_of_a_dynamic_server_is_switched_on() {
    let new = ObservedServer {
        admin: AdminFlags(1),
        operational: 0,
        check_enabled: false,
        has_agent: true,
        ..serving()
    };
    let target = dynamic("check agent-check agent-port 9999", 0);
    let started = plan(&target, &one(SlotState::Ready), Some(&[new]), &Learnt::default());
    let expected = [
        "set server app/srv1 weight 0",
        "enable health app/srv1",
        "enable agent app/srv1",
        "set server app/srv1 agent up",
        "set server app/srv1 state ready",
        "set server app/srv1 health down",
        "set server app/srv1 weight 100",
    ];
    assert_eq!(lines(&started), expected);
}

#[test]
fn a_server_that_warms_up_or_takes_no_new_sessions_is_none_to_drain_for() {
    let replaced = wanted(&[
        (1, held(endpoint("a"), SlotState::Drain)),
        (2, held(endpoint("b"), SlotState::Ready)),
    ]);
    for operational in [1, 3] {
        let new = ObservedServer { name: "srv2".into(), operational, ..serving() };
        let plan = plan(&target(), &replaced, Some(&[serving(), new]), &Learnt::default());
        assert_eq!((lines(&plan).len(), plan.held.len()), (0, 1), "{operational}");
    }
}

#[test]
fn the_last_server_stays_also_while_it_warms_up() {
    let replaced = wanted(&[
        (1, held(endpoint("a"), SlotState::Drain)),
        (2, held(endpoint("b"), SlotState::Ready)),
    ]);
    let drained = |operational| {
        let servers = [ObservedServer { operational, ..serving() }, named("srv2")];
        let plan = plan(&target(), &replaced, Some(&servers), &Learnt::default());
        lines(&plan).contains(&"set server app/srv1 state drain".to_owned())
    };
    let stays = [(0, true), (1, false), (2, false), (3, true)];
    for (operational, expected) in stays {
        assert_eq!(drained(operational), expected, "{operational}");
    }
}

#[test]
fn an_address_by_another_hand_is_undone_where_another_server_serves() {
    let slot = SlotNumber::new(1).unwrap();
    let address = endpoint("b").address.with_port(82).unwrap();
    let two = wanted(&[
        (1, held(endpoint("a"), SlotState::Ready)),
        (2, held(Endpoint { address, ..endpoint("b") }, SlotState::Ready)),
    ]);
    let moved = ObservedServer { port: 99, ..serving() };
    let other =
        |operational| ObservedServer { name: "srv2".into(), port: 82, operational, ..serving() };
    let was_there = Learnt { placed: vec![(slot, endpoint("a").address)], ..Learnt::default() };
    let was_another = Learnt { placed: vec![(slot, address)], ..Learnt::default() };
    let planned = |operational, learnt: &Learnt| {
        let servers = [moved.clone(), other(operational)];
        let plan = plan(&target(), &two, Some(&servers), learnt);
        assert_eq!(plan.unordered.is_empty(), !plan.actions.is_empty());
        (lines(&plan), plan.placed)
    };
    let (undone, placed) = planned(2, &was_there);
    assert_eq!(
        undone,
        ["set server app/srv1 state maint", "set server app/srv1 addr 10.0.0.1 port 80"]
    );
    assert_eq!(placed, [(slot, endpoint("a").address), (SlotNumber::new(2).unwrap(), address)]);
    assert_eq!(planned(0, &was_there).0, [""; 0], "nobody else serves");
    for learnt in [was_another, Learnt::default()] {
        let (undone, placed) = planned(2, &learnt);
        assert_eq!((undone.len(), placed.len()), (0, 1), "it may be another table's: {learnt:?}");
    }
}

/// One that waits for somebody whom nobody sends away would leave its place and get no other.
#[test]
fn a_server_whose_own_place_is_kept_for_a_stranger_stays_where_it_is() {
    let at_port = |name: &str, port| ObservedServer { name: name.into(), port, ..serving() };
    let with_port = |id: &str, port| {
        let address = endpoint(id).address.with_port(port).unwrap();
        held(Endpoint { address, ..endpoint(id) }, SlotState::Ready)
    };
    let two = wanted(&[(1, with_port("a", 81)), (2, with_port("b", 82))]);
    let servers = [at_port("srv1", 99), at_port("srv2", 81), at_port("srv3", 82)];
    let plan = plan(&target(), &two, Some(&servers), &Learnt::default());
    assert_eq!((lines(&plan), plan.unordered.len()), (Vec::new(), 3));
}

/// The one that is to come gets another slot; until then its order must not leave nobody.
#[test]
fn the_last_server_stays_while_others_only_wait_for_a_place_that_is_kept() {
    let at = |text: &str| Endpoint { address: text.parse().unwrap(), ..endpoint("b") };
    let both = wanted(&[
        (1, held(endpoint("a"), SlotState::Drain)),
        (2, held(at("10.0.0.2:80"), SlotState::Ready)),
    ]);
    let stranger = ObservedServer {
        address: Some("10.0.0.3".parse().unwrap()),
        weight: 0,
        ..ObservedServer { name: "srv2".into(), ..serving() }
    };
    let last = ObservedServer { admin: AdminFlags(0), ..serving() };
    let stranger = ObservedServer { admin: AdminFlags(0), id: 2, ..stranger };
    let servers = [last, stranger];
    let next = plan(&dynamic("check", 0), &both, Some(&servers), &Learnt::default());
    assert_eq!(lines(&next), [""; 0]);
    let why = |slot| next.unordered.get(&SlotNumber::new(slot).unwrap()).map(|kept| kept.why);
    assert_eq!((why(1), why(2)), (Some(Why::NoPlaceForOthers), Some(Why::Displaced)));
}
