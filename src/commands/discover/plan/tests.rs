//! The planner against a table in memory: single turns first, then whole histories.

use proptest::prelude::*;

use super::*;
use crate::model::{SlotState, Weight};
use crate::tables::{Damaged, StoredConfirmation, StoredSpec};

/// A backend's table, its HAProxy and its clock.
struct Bench {
    policy: Policy,
    table: StoredTable,
    answer: Option<Answer>,
    reports: Vec<Report>,
    confirmed: BTreeSet<EndpointId>,
    kept: BTreeSet<EndpointId>,
    places: Places,
    life: StoreLife,
    reborn_at: Option<Revision>,
    token: Option<Revision>,
    revision: u64,
    now: Timestamp,
}

impl Bench {
    fn new(slots: u32) -> Self {
        let floors = Floors {
            max_drop_percent: 50,
            min_servers: 1,
            allow_drop: false,
            window: Duration::from_secs(60),
        };
        let policy = Policy {
            slots,
            ramp: Ramp::default(),
            drain_deadline: Duration::from_secs(30),
            drain_at_least: Duration::ZERO,
            rest: Duration::from_secs(10),
            floors,
            drain_vanished: false,
            origin: None,
        };
        Self {
            policy,
            table: StoredTable {
                confirmed: Some(StoredConfirmation::of_any_life()),
                ..StoredTable::default()
            },
            answer: None,
            reports: Vec::new(),
            confirmed: BTreeSet::new(),
            kept: BTreeSet::new(),
            places: Places::default(),
            life: StoreLife::default(),
            reborn_at: None,
            token: None,
            revision: 0,
            now: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    fn plan(&self) -> Plan {
        plan(&World {
            policy: &self.policy,
            table: &self.table,
            answer: self.answer.as_ref(),
            confirmed: &self.confirmed,
            kept: &self.kept,
            recent: &BTreeSet::new(),
            barred: &BTreeSet::new(),
            places: &self.places,
            life: &self.life,
            reborn_at: self.reborn_at,
            token: self.token,
            reports: &self.reports,
            now: self.now,
        })
    }

    /// Plans and writes the plan.
    fn pass(&mut self) -> Plan {
        let plan = self.plan();
        self.revision += 1;
        for action in &plan.actions {
            let seen = self.table.slots.get(&action.slot).map(|slot| slot.modified);
            assert_eq!(action.seen, seen, "a plan must guard what it saw");
            match &action.record {
                Some(record) => {
                    let content = Content::Sound(record.clone());
                    let modified = Revision(self.revision);
                    self.table.slots.insert(action.slot, StoredSlot { modified, content });
                }
                None => _ = self.table.slots.remove(&action.slot),
            }
            if let Some(Remember { removals, seen }) = action.remember.clone() {
                let modified = Revision(self.revision);
                let stored = StoredRemovals { modified, removals };
                let before = self.table.removed.insert(action.slot, stored);
                assert_eq!(seen, before.map(|before| before.modified));
            }
        }
        for (slot, seen) in &plan.forgotten {
            let before = self.table.removed.remove(slot).map(|before| before.modified);
            assert_eq!(before, Some(*seen));
        }
        if let Some(Confirm { confirmation, seen }) = plan.confirm.clone() {
            assert_eq!(seen, self.table.confirmed.as_ref().map(|before| before.modified));
            let (modified, confirmation) = (Revision(self.revision), Some(confirmation));
            self.table.confirmed = Some(StoredConfirmation { modified, confirmation });
        }
        if let Some(spec) = &plan.spec {
            let modified = Revision(self.revision);
            self.table.spec = Some(StoredSpec { modified, spec: Ok(spec.clone()) });
        }
        plan
    }

    fn sees(&mut self, endpoints: &[&str]) -> Plan {
        self.answer = Some(answer(endpoints));
        self.pass()
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Every HAProxy has applied all and has these sessions.
    fn applied(&mut self, sessions: &[(u32, u64)]) {
        let sessions = sessions.iter().map(|(slot, n)| (number(*slot), *n)).collect();
        let backend =
            BackendReport { applied: Revision(self.revision), sessions, ..Default::default() };
        let haproxy = "lb1".parse().unwrap();
        self.reports = vec![Report { haproxy, gone: false, silent: false, backend }];
    }

    /// It has sessions left in these slots as well.
    fn crowded(&mut self, slots: &[u32]) {
        self.applied(&[]);
        let slots = slots.iter().map(|slot| number(*slot));
        self.reports[0].backend.crowded = slots.collect();
    }

    /// `1 ready a@10.0.0.1:80`, one line a slot.
    fn shows(&self) -> Vec<String> {
        let line = |(number, record): (SlotNumber, &SlotRecord)| {
            let state = format!("{:?}", record.state).to_lowercase();
            format!("{number} {state} {}", record.endpoint.id)
        };
        self.table.records().map(line).collect()
    }

    fn record(&self, slot: u32) -> &SlotRecord {
        self.table.records().find(|(n, _)| n.get() == slot).unwrap().1
    }
}

fn number(slot: u32) -> SlotNumber {
    SlotNumber::new(slot).unwrap()
}

/// `a`, `a@7` at address 10.0.0.7, or `a!` that leaves. Without an address it is made of the name.
fn endpoint(text: &str) -> Endpoint {
    let (text, leaving) = match text.strip_suffix('!') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (id, host) = match text.split_once('@') {
        Some((id, host)) => (id, host.parse().unwrap()),
        None => (text, u32::from(text.as_bytes()[0]) + text.len() as u32 * 7),
    };
    Endpoint {
        id: id.parse().unwrap(),
        address: format!("10.0.{}.{}:80", host / 256, host % 256).parse().unwrap(),
        name: None,
        group: None,
        zone: None,
        weight: None,
        leaving,
    }
}

/// Of endpoints, and of `a?` that leaves from where nobody tells.
fn answer(texts: &[impl AsRef<str>]) -> Answer {
    let (lost, told): (Vec<&str>, Vec<&str>) =
        texts.iter().map(AsRef::as_ref).partition(|text| text.ends_with('?'));
    let mut answer = Answer::of(told.into_iter().map(endpoint));
    let lost = lost.iter().map(|text| endpoint(text.trim_end_matches('?')).id);
    answer.leaving = lost.filter(|id| !answer.endpoints.contains_key(id)).collect();
    answer
}

#[test]
fn servers_take_the_lowest_free_slots_and_keep_them() {
    let mut bench = Bench::new(4);
    bench.sees(&["b", "a"]);
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b"]);
    bench.sees(&["c", "b", "aa", "a"]);
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b", "3 ready aa", "4 ready c"]);
    assert!(bench.plan().is_empty());
}

#[test]
fn a_freed_slot_rests_until_its_time_is_over_and_every_haproxy_has_it_in_maint() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    bench.applied(&[]);
    bench.sees(&["b", "c"]);
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
    let late = bench.plan();
    assert_eq!(late.unplaced[0].why, UnplacedReason::NoFreeSlot);
    assert_eq!(late.next_wake, Some(Duration::from_secs(10)));
    bench.later(60);
    let stuck = bench.pass();
    assert_eq!(stuck.waiting[0].haproxies[0].as_str(), "lb1");
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
    bench.applied(&[]);
    bench.pass();
    assert_eq!(bench.shows(), ["2 ready b"], "a plan must not give away what it frees");
    bench.pass();
    assert_eq!(bench.shows(), ["1 ready c", "2 ready b"]);
}

#[test]
fn the_slot_of_a_machine_that_has_ended_is_free_once_every_haproxy_has_it_empty_and_in_maint() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    let ended = Answer { ended: ["a".parse().unwrap()].into(), ..answer(&["a!", "b", "c"]) };
    bench.answer = Some(ended);
    bench.pass();
    bench.pass();
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b"], "no HAProxy has said that it is empty");
    bench.applied(&[(1, 1)]);
    bench.pass();
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b"], "it has a session");
    bench.applied(&[(1, 0)]);
    bench.pass();
    bench.pass();
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"], "no HAProxy has it in maint");
    bench.applied(&[]);
    bench.pass();
    bench.pass();
    assert_eq!(bench.shows(), ["1 ready c", "2 ready b"], "no time has passed");
}

#[test]
fn what_could_not_be_read_keeps_its_servers_and_the_rest_goes_on() {
    let of = |text: &str, group: &str, zone: &str| Endpoint {
        group: Some(group.parse().unwrap()),
        zone: Some(zone.parse().unwrap()),
        ..endpoint(text)
    };
    let west = || [of("a", "one", "eu-west-1a"), of("b", "two", "eu-west-1b")];
    let all = || west().into_iter().chain([of("c", "two", "eu-west-3a")]);
    let unread = |region: Option<&str>, group: Option<&str>, but: &[&str]| Servers {
        region: region.map(str::to_owned),
        group: group.map(|group| group.parse().unwrap()),
        but: but.iter().map(|group| group.parse().unwrap()).collect(),
        ..Servers::default()
    };
    // Who is left of a, b and c once only d is seen, and this could not be read.
    let left = |part: Servers| {
        let mut bench = Bench::new(4);
        bench.policy.floors.allow_drop = true;
        bench.answer = Some(Answer::of(all()));
        bench.pass();
        let seen = Answer { unread: [part].into(), ..answer(&["d"]) };
        let seen = seen.keeping(&bench.table, true).into_owned();
        bench.answer = Some(seen);
        bench.pass();
        let ready = bench.table.ready();
        assert!(ready.contains(&"d".parse().unwrap()), "the rest did not go on");
        ["a", "b", "c"].map(|id| ready.contains(&id.parse().unwrap()))
    };
    assert_eq!(left(unread(None, Some("two"), &[])), [false, true, true]);
    assert_eq!(left(unread(Some("eu-west-1"), Some("two"), &[])), [false, true, false]);
    assert_eq!(left(unread(Some("eu-west-3"), None, &[])), [false, false, true]);
    assert_eq!(left(unread(None, None, &["one"])), [false, true, true]);
    assert_eq!(left(unread(None, None, &[])), [true; 3]);
}

#[test]
fn a_haproxy_that_is_gone_holds_nothing_up() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    bench.applied(&[]);
    bench.sees(&["b"]);
    bench.reports[0].gone = true;
    bench.later(11);
    bench.pass();
    assert_eq!(bench.shows(), ["2 ready b"]);
}

#[test]
fn a_leaving_server_drains_until_its_sessions_end() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    bench.sees(&["a!", "b"]);
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b"]);
    bench.applied(&[(1, 3)]);
    bench.later(5);
    assert_eq!(bench.pass().waiting.len(), 1);
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b"]);
    bench.applied(&[(1, 0)]);
    bench.pass();
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
}

#[test]
fn a_drain_ends_at_its_deadline_and_not_before_a_haproxy_was_asked() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    bench.sees(&["a!", "b"]);
    bench.later(29);
    assert_eq!(bench.pass().next_wake, Some(Duration::from_secs(1)));
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b"]);
    bench.later(1);
    bench.pass();
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
}

#[test]
fn a_drain_lasts_as_long_as_it_must_though_nobody_has_a_session() {
    let mut bench = Bench::new(2);
    bench.policy.drain_at_least = Duration::from_secs(20);
    bench.sees(&["a", "b"]);
    bench.sees(&["a!", "b"]);
    bench.applied(&[]);
    bench.later(5);
    assert_eq!(bench.pass().next_wake, Some(Duration::from_secs(15)));
    assert_eq!(bench.shows()[0], "1 drain a");
    bench.later(15);
    bench.pass();
    assert_eq!(bench.shows()[0], "1 rest a");
}

#[test]
fn a_slot_with_sessions_left_rests_while_another_is_free_and_is_given_away_last() {
    let mut bench = Bench::new(3);
    bench.sees(&["a", "b"]);
    bench.sees(&["a!", "b"]);
    bench.applied(&[(1, 2)]);
    bench.later(30);
    bench.pass();
    bench.crowded(&[1]);
    bench.later(60);
    let plan = bench.pass();
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
    assert_eq!((plan.waiting.len(), plan.waiting[0].slot), (1, number(1)));
    // Nothing else is left to give away.
    bench.sees(&["b", "c"]);
    bench.crowded(&[1]);
    bench.pass();
    assert_eq!(bench.shows(), ["2 ready b", "3 ready c"]);
    // It is free, and an empty one is better as soon as there is one.
    bench.sees(&["b!", "c"]);
    bench.crowded(&[1]);
    bench.pass();
    bench.later(10);
    bench.crowded(&[1]);
    bench.pass();
    assert_eq!(bench.shows(), ["3 ready c"]);
    bench.sees(&["c", "d"]);
    assert_eq!(bench.shows(), ["2 ready d", "3 ready c"]);
    bench.crowded(&[1]);
    bench.sees(&["c", "d", "e"]);
    assert_eq!(bench.shows(), ["1 ready e", "2 ready d", "3 ready c"]);
}

#[test]
fn a_slot_whose_sessions_have_ended_is_free_and_a_haproxy_that_is_gone_has_none() {
    for gone in [false, true] {
        let mut bench = Bench::new(3);
        bench.sees(&["a", "b"]);
        bench.sees(&["b"]);
        bench.later(60);
        bench.crowded(&[1]);
        bench.pass();
        assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
        if gone {
            bench.reports[0].gone = true;
        } else {
            bench.crowded(&[]);
        }
        bench.pass();
        assert_eq!(bench.shows(), ["2 ready b"], "{gone}");
    }
}

#[test]
fn one_that_comes_back_from_a_drain_is_warm_and_from_a_rest_starts_anew() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    let started = bench.record(1).started;
    bench.sees(&["a!", "b"]);
    bench.later(5);
    bench.sees(&["a", "b"]);
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b"]);
    assert_eq!(bench.record(1).started, started);
    bench.sees(&["b"]);
    bench.later(5);
    bench.sees(&["a", "b"]);
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b"]);
    assert_eq!(bench.record(1).started, bench.now);
}

#[test]
fn a_reused_address_with_a_new_id_is_a_new_server() {
    let mut bench = Bench::new(3);
    bench.sees(&["a@1", "b@2"]);
    bench.later(100);
    let both = bench.sees(&["a@1", "c@1", "b@2"]);
    assert_eq!(both.unplaced[0].why, UnplacedReason::AddressOf("a".parse().unwrap()));
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b"]);
    bench.sees(&["c@1", "b@2"]);
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b", "3 ready c"]);
    assert_eq!(bench.record(3).started, bench.now);
}

#[test]
fn a_new_address_takes_a_new_slot_while_the_old_one_drains() {
    let mut bench = Bench::new(3);
    bench.sees(&["a@1", "b@2"]);
    bench.later(100);
    bench.sees(&["a@9", "b@2"]);
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b", "3 ready a"]);
    assert_eq!(bench.record(3).started, bench.now);
    assert_eq!(bench.record(1).endpoint.address, endpoint("a@1").address);
}

#[test]
fn in_a_full_table_a_server_is_readdressed_in_place_and_two_may_swap() {
    let mut bench = Bench::new(2);
    bench.sees(&["a@1", "b@2"]);
    bench.sees(&["a@2", "b@1"]);
    assert_eq!(bench.record(1).endpoint, endpoint("a@2"));
    assert_eq!(bench.record(2).endpoint, endpoint("b@1"));
    let clash = bench.sees(&["a@1", "b@1"]);
    assert_eq!(clash.unplaced.len(), 1);
    assert_eq!(bench.record(1).endpoint, endpoint("a@2"));
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b"]);
}

/// A HAProxy goes on with somebody of whom the table lost the record, in the slot of another.
#[test]
fn one_whose_place_is_kept_for_a_stranger_gets_another_slot() {
    let mut bench = Bench::new(4);
    bench.sees(&["a", "b"]);
    let held = |slot, text| (number(slot), endpoint(text).address);
    bench.places.held = [held(1, "x"), held(2, "a")].into();
    bench.places.slots = bench.places.held.iter().map(|(slot, at)| (*at, *slot)).collect();
    bench.sees(&["a", "b"]);
    // Slot 2 is kept for one that has a slot: the two change places by themselves.
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b", "3 ready a"]);
    assert!(bench.plan().actions.is_empty());
    bench.places.held = [held(1, "x")].into();
    bench.sees(&["a", "b"]);
    assert_eq!(bench.shows()[1..], ["2 ready b", "3 ready a"]);
}

#[test]
fn an_error_removes_and_places_nothing_but_lets_drains_end() {
    let mut bench = Bench::new(3);
    bench.sees(&["a", "b"]);
    bench.sees(&["a!", "b"]);
    bench.answer = None;
    bench.later(30);
    let plan = bench.pass();
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
    assert_eq!(plan.spec, None);
}

#[test]
fn an_empty_answer_keeps_the_table_even_when_confirmed() {
    let mut bench = Bench::new(3);
    bench.sees(&["a", "b"]);
    bench.confirmed = ["a", "b"].map(|id| id.parse().unwrap()).into();
    let plan = bench.sees(&[]);
    assert_eq!(plan.refused.unwrap().why, RefusalReason::EmptyAnswer);
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b"]);
    bench.policy.floors.allow_drop = true;
    assert_eq!(bench.pass().refused, None);
    assert_eq!(bench.shows(), ["1 rest a", "2 rest b"]);
}

#[test]
fn who_was_kept_stays_until_confirmed_though_the_floor_holds_no_longer() {
    let mut bench = Bench::new(4);
    bench.sees(&["a", "b", "c", "d"]);
    bench.kept = ["c", "d"].map(|id| id.parse().unwrap()).into();
    // Half of them are back: as many as max-drop-percent lets go.
    let plan = bench.sees(&["a", "b"]);
    assert_eq!(plan.refused.unwrap().why, RefusalReason::Unconfirmed);
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b", "3 ready c", "4 ready d"]);
    bench.confirmed = ["c".parse().unwrap()].into();
    bench.pass();
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b", "3 rest c", "4 ready d"]);
    bench.policy.floors.allow_drop = true;
    bench.pass();
    assert_eq!(bench.shows()[3], "4 rest d");
}

#[test]
fn a_mass_drop_is_refused_until_it_is_confirmed_and_lets_others_in_meanwhile() {
    let mut bench = Bench::new(6);
    bench.sees(&["a", "b", "c", "d"]);
    let plan = bench.sees(&["d", "e"]);
    assert_eq!(plan.refused.as_ref().unwrap().why.as_str(), "max-drop-percent");
    assert_eq!(bench.shows(), ["1 ready a", "2 ready b", "3 ready c", "4 ready d", "5 ready e"]);
    bench.confirmed = ["a", "b", "c"].map(|id| id.parse().unwrap()).into();
    assert_eq!(bench.pass().refused, None);
    assert_eq!(bench.shows(), ["1 rest a", "2 rest b", "3 rest c", "4 ready d", "5 ready e"]);
}

#[test]
fn a_drop_in_small_steps_meets_the_same_floor() {
    let mut bench = Bench::new(4);
    bench.sees(&["a", "b", "c", "d"]);
    bench.sees(&["b", "c", "d"]);
    bench.sees(&["c", "d"]);
    assert_eq!(bench.shows(), ["1 rest a", "2 rest b", "3 ready c", "4 ready d"]);
    assert!(bench.sees(&["d"]).refused.is_some());
}

#[test]
fn servers_that_say_they_leave_meet_no_floor_and_a_lone_one_may_be_replaced() {
    let mut bench = Bench::new(3);
    bench.sees(&["a"]);
    bench.sees(&["b"]);
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
    assert_eq!(bench.sees(&["b!"]).refused, None);
    assert_eq!(bench.shows(), ["1 rest a", "2 drain b"]);
}

#[test]
fn servers_that_leave_from_where_nobody_tells_drain_all_the_same() {
    let mut bench = Bench::new(4);
    bench.sees(&["a", "b", "c"]);
    assert_eq!(bench.sees(&["a?", "b?", "c?"]).refused, None);
    assert_eq!(bench.shows(), ["1 drain a", "2 drain b", "3 drain c"]);
    assert!(bench.record(1).endpoint.leaving, "it would count as one that has vanished");
    assert!(bench.pass().is_empty(), "it is known to leave, and not to be dead");
    bench.sees(&["a", "b?"]);
    assert_eq!(bench.shows(), ["1 ready a", "2 drain b", "3 rest c"]);
}

#[test]
fn where_vanishing_is_leaving_it_drains_first() {
    let mut bench = Bench::new(3);
    bench.policy.drain_vanished = true;
    bench.sees(&["a", "b"]);
    bench.sees(&["b"]);
    assert_eq!(bench.shows(), ["1 drain a", "2 ready b"]);
    bench.policy.drain_vanished = false;
    bench.pass();
    assert_eq!(bench.shows(), ["1 rest a", "2 ready b"]);
}

#[test]
fn a_table_that_shrinks_moves_its_servers_warm_and_reports_the_rest() {
    let mut bench = Bench::new(4);
    bench.sees(&["a", "b", "c", "d"]);
    let started = bench.record(4).started;
    bench.sees(&["b", "c", "d"]);
    bench.later(11);
    bench.pass();
    bench.policy.slots = 2;
    let plan = bench.pass();
    assert_eq!(bench.shows(), ["1 ready c", "2 ready b", "3 drain c", "4 drain d"]);
    assert_eq!(bench.record(1).started, started);
    assert_eq!(plan.unplaced[0].server.as_str(), "d");
    assert_eq!(bench.table.spec().unwrap().unplaced.len(), 1);
    assert!(bench.plan().is_empty());
}

#[test]
fn metadata_changes_in_place_and_never_touches_the_ramp() {
    let mut bench = Bench::new(2);
    bench.sees(&["a"]);
    let before = bench.record(1).clone();
    bench.later(5);
    let heavier = Endpoint { weight: Some(Weight::saturating(7)), ..endpoint("a") };
    bench.answer = Some(Answer::of([heavier.clone()]));
    assert_eq!(bench.pass().actions[0].kind, ActionKind::Update);
    assert_eq!(bench.record(1), &SlotRecord { endpoint: heavier, ..before });
}

#[test]
fn two_endpoints_with_one_id_are_one_and_told() {
    let answer = Answer::of(["a@1", "a@2"].map(endpoint));
    assert_eq!(answer.endpoints.len(), 1);
    assert!(answer.notes[0].contains("id a is there twice"), "{:?}", answer.notes);
}

#[test]
fn a_time_far_in_the_future_does_not_hold_a_slot_for_ever() {
    let mut bench = Bench::new(2);
    bench.sees(&["a", "b"]);
    bench.later(100_000);
    bench.sees(&["b"]);
    bench.now -= Duration::from_secs(100_000);
    assert_eq!(bench.pass().actions[0].kind, ActionKind::Repair);
    bench.later(11);
    bench.pass();
    assert_eq!(bench.shows(), ["2 ready b"]);
}

#[test]
fn a_damaged_slot_takes_no_other_s_place_for_its_address() {
    let mut bench = Bench::new(2);
    bench.sees(&["a@1", "b@2"]);
    bench.happens(&Event::Damage(1, Damage::WithoutState));
    // The sound one has moved to the address that the damaged one had.
    let mut moved = bench.table.slots[&number(2)].clone();
    if let Content::Sound(record) = &mut moved.content {
        record.endpoint.address = endpoint("a@1").address;
    }
    bench.table.slots.insert(number(2), moved);
    let before = bench.table.clone();
    let plan = bench.sees(&[]);
    bench.check(&before, &plan);
    assert_eq!(bench.table.ready(), ["b".parse().unwrap()].into());
}

/// What may happen to a backend.
#[derive(Debug, Clone)]
enum Event {
    Sees(Vec<String>),
    Fails,
    Later(u64),
    Applied(Vec<(u32, u64)>),
    Slots(u32),
    Confirms,
    Damage(u32, Damage),
}

#[derive(Debug, Clone)]
enum Damage {
    Unreadable,
    WithoutState,
    CopyOf(u32),
    Lost,
}

fn event() -> impl Strategy<Value = Event> {
    let name = ("[a-f]", 0u32..8, any::<bool>(), 0..10u8).prop_map(|(id, host, fixed, leaves)| {
        let leaves = ["!", "?"].get(usize::from(leaves)).copied().unwrap_or_default();
        if fixed { format!("{id}{leaves}") } else { format!("{id}@{host}{leaves}") }
    });
    let damage = prop_oneof![
        Just(Damage::Unreadable),
        Just(Damage::WithoutState),
        (1u32..7).prop_map(Damage::CopyOf),
        Just(Damage::Lost),
    ];
    prop_oneof![
        6 => proptest::collection::vec(name, 0..7).prop_map(Event::Sees),
        1 => Just(Event::Fails),
        4 => (0u64..40).prop_map(Event::Later),
        4 => proptest::collection::vec((1u32..7, 0u64..2), 0..3).prop_map(Event::Applied),
        1 => (1u32..7).prop_map(Event::Slots),
        1 => Just(Event::Confirms),
        1 => (1u32..7, damage).prop_map(|(slot, damage)| Event::Damage(slot, damage)),
    ]
}

impl Bench {
    fn happens(&mut self, event: &Event) {
        match event {
            Event::Sees(endpoints) => {
                self.answer = Some(answer(endpoints));
                self.confirmed.clear();
            }
            Event::Fails => self.answer = None,
            Event::Later(seconds) => self.later(*seconds),
            Event::Applied(sessions) => {
                self.applied(sessions);
                let some = sessions.iter().filter(|(_, count)| *count > 0);
                self.reports[0].backend.crowded = some.map(|(slot, _)| number(*slot)).collect();
            }
            Event::Slots(slots) => self.policy.slots = *slots,
            Event::Confirms => self.confirmed = self.table.ready(),
            Event::Damage(slot, damage) => self.damage(number(*slot), damage),
        }
    }

    fn damage(&mut self, slot: SlotNumber, damage: &Damage) {
        self.revision += 1;
        let modified = Revision(self.revision);
        let endpoint = |n: u32| {
            let record = self.table.records().find(|(slot, _)| slot.get() == n);
            record.map(|(_, record)| record.clone())
        };
        let content = match damage {
            Damage::Unreadable => Some(Content::Damaged(Damaged::default())),
            Damage::WithoutState => endpoint(slot.get()).map(|record| {
                Content::Damaged(Damaged { endpoint: Some(record.endpoint), ..Damaged::default() })
            }),
            Damage::CopyOf(other) => endpoint(*other).map(Content::Sound),
            Damage::Lost => None,
        };
        if let Some(content) = content {
            self.table.slots.insert(slot, StoredSlot { modified, content });
        } else if matches!(damage, Damage::Lost) {
            self.table.slots.remove(&slot);
        }
    }

    /// What no single plan may break.
    fn check(&self, before: &StoredTable, plan: &Plan) {
        let mut ready_ids = BTreeSet::new();
        let mut ready_addresses = BTreeSet::new();
        let records: BTreeMap<_, _> = before.records().collect();
        for (slot, record) in self.table.records() {
            if record.state == SlotState::Ready {
                // Without an answer doubles stay: nobody says which one is right.
                if self.answer.is_some() {
                    assert!(ready_ids.insert(&record.endpoint.id), "two slots of one id");
                    assert!(ready_addresses.insert(record.endpoint.address), "two at one address");
                }
            }
            if let Some(old) = records.get(&slot) {
                assert_eq!(old.endpoint.id, record.endpoint.id, "slot {slot} changed hands");
            }
        }
        let free = |slot: &u32| !before.slots.contains_key(&number(*slot));
        let mut lowest: Vec<u32> = (1..=self.policy.slots).filter(free).collect();
        lowest.sort_by_key(|slot| self.is_crowded(*slot));
        let placed = plan.actions.iter().filter(|a| a.kind == ActionKind::Place);
        let placed: BTreeSet<u32> = placed.map(|action| action.slot.get()).collect();
        assert_eq!(
            placed,
            lowest[..placed.len()].iter().copied().collect(),
            "not the lowest free slots"
        );
        for action in plan.actions.iter().filter(|action| action.record.is_none()) {
            self.check_freed(action, before);
            let others = lowest[placed.len()..].len();
            let slot = action.slot.get();
            assert!(others == 0 || !self.is_crowded(slot), "slot {slot} was freed with sessions");
        }
        if self.answer.as_ref().is_some_and(Answer::is_empty) {
            let kept = |id: &EndpointId| self.table.ready().contains(id);
            assert!(before.ready().iter().all(kept), "an empty answer removed a server");
        }
    }

    fn is_crowded(&self, slot: u32) -> bool {
        self.reports.iter().any(|report| report.backend.crowded.contains(&number(slot)))
    }

    fn check_freed(&self, action: &Action, before: &StoredTable) {
        let old = before.records().find(|(slot, _)| *slot == action.slot).unwrap().1;
        assert_eq!(old.state, SlotState::Rest, "freed without a rest");
        assert!(self.now.duration_since(old.since).as_secs() >= 10, "freed before its time");
        let modified = before.slots[&action.slot].modified;
        assert!(self.reports.iter().all(|r| r.backend.applied >= modified), "freed unseen");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_the_rules_and_every_plan_comes_to_rest(
        slots in 1u32..7, drains in any::<bool>(), events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut bench = Bench::new(slots);
        bench.policy.drain_vanished = drains;
        for event in &events {
            bench.happens(event);
            // A plan may free what the next one gives away; then nothing is left to do.
            let settled = (0..5).any(|_| {
                let before = bench.table.clone();
                let plan = bench.pass();
                bench.check(&before, &plan);
                plan.is_empty()
            });
            prop_assert!(settled, "{event:?} is never done: {:?}", bench.plan().actions);
        }
    }

    #[test]
    fn from_any_table_it_comes_to_equal_the_answer_and_then_is_still(
        slots in 1u32..7, events in proptest::collection::vec(event(), 0..30),
        wanted in proptest::collection::btree_set("[a-f]", 1..7),
    ) {
        let mut bench = Bench::new(slots);
        events.iter().for_each(|event| {
            bench.happens(event);
            bench.pass();
        });
        bench.answer = Some(Answer::of(wanted.iter().map(|id| endpoint(id))));
        for _ in 0..8 {
            bench.confirmed = bench.table.ready();
            bench.pass();
            bench.applied(&[]);
            bench.later(70);
        }
        let placed = bench.table.ready();
        prop_assert_eq!(placed.len(), wanted.len().min(bench.policy.slots as usize));
        prop_assert!(placed.iter().all(|id| wanted.contains(id.as_str())));
        let table = bench.table.clone();
        // The ramp goes on for a while, and costs nothing.
        for _ in 0..20 {
            bench.later(7);
            prop_assert!(bench.pass().is_empty());
        }
        prop_assert_eq!(table, bench.table);
    }
}
