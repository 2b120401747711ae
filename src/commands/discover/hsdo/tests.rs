//! discover and a server of HSDO's on one table: single turns first, then whole histories.

mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::world::{Bench, Event, answer, held, id, slot};
use super::adopt::obstacle;
use crate::commands::discover::plan::Answer;
use crate::hsdo::{Row, Rows};
use crate::model::{EndpointId, SlotState};

#[test]
fn a_takeover_moves_no_server_and_lowers_no_weight() {
    let (early, _) = Bench::new(1).now();
    let rows = [held(2, 20, 10, early), held(5, 50, 3, early), held(7, 70, 1, early)];
    let mut bench = Bench::with_rows(8, &rows);
    bench.running = [20, 50, 70].into();
    let before = bench.database.held();
    bench.looks();
    bench.discover_turns();
    assert!(bench.discover.table.spec.is_none() && bench.database.held() == before);
    for _ in 0..100 {
        bench.run_alone(1);
        for ((slot, id, weight), (slot_before, id_before, weight_before)) in
            bench.database.held().iter().zip(&before)
        {
            assert_eq!((slot, id), (slot_before, id_before));
            assert!(weight >= weight_before);
        }
    }
    bench.assert_agreed();
}

#[test]
fn nothing_is_taken_over_on_a_doubtful_sight() {
    let (now, _) = Bench::new(1).now();
    let rows = Bench::with_rows(4, &[held(3, 1, 10, now)]).database.rows();
    let reason = |answer: Option<&Answer>, slots| obstacle(&rows, answer, slots).unwrap_or("none");
    assert!(reason(None, 4).contains("once the source gives an answer"));
    assert!(reason(Some(&Answer::default()), 4).contains("the source sees none at all"));
    assert!(reason(Some(&answer([1])), 2).contains("beyond this backend's slots"));
    assert_eq!(reason(Some(&answer([2])), 4), "none");
    assert_eq!(obstacle(&Bench::new(4).database.rows(), None, 2), None);
}

/// One that HSDO's server frees has patience; nobody frees a row by deleting it.
#[test]
fn the_rows_of_ready_servers_that_are_deleted_are_written_again_at_once() {
    let mut bench = Bench::new(3);
    bench.running = [1, 2].into();
    bench.run_alone(100);
    let before = bench.database.held();
    assert_eq!(before.len(), 2);
    bench.database.items.clear();
    bench.run_alone(2);
    assert_eq!(bench.database.held(), before);
}

/// Whom discover's source does not see at the takeover stays until enough looks have missed it.
#[test]
fn an_unknown_server_is_taken_over_and_goes_once_its_absence_is_confirmed() {
    let (now, _) = Bench::new(1).now();
    let rows = [held(1, 1, 10, now), held(2, 2, 10, now), held(3, 3, 10, now)];
    let mut bench = Bench::with_rows(4, &rows);
    bench.running = [1, 2].into();
    bench.run_alone(2);
    assert_eq!(bench.discover.ready().len(), 3);
    assert_eq!(bench.database.held().len(), 3);
    bench.run_alone(100);
    bench.assert_agreed();
}

#[test]
fn a_server_that_leaves_from_where_nobody_tells_is_taken_over_as_one_that_drains() {
    let (now, _) = Bench::new(1).now();
    let mut bench = Bench::with_rows(3, &[held(1, 1, 10, now), held(2, 2, 10, now)]);
    let seen = Answer { leaving: [id(2)].into(), ..answer([1]) };
    bench.discover.look(seen, bench.now().1);
    bench.discover.rows = Some(bench.database.rows());
    bench.discover.pass(now);
    assert_eq!(bench.discover.state(1), Some(SlotState::Ready));
    assert_eq!(bench.discover.state(2), Some(SlotState::Drain));
}

/// Else it would count as one that has vanished, and a floor would keep those that do.
#[test]
fn a_server_that_is_taken_over_as_it_leaves_meets_no_floor_later() {
    let (now, _) = Bench::new(1).now();
    let rows = [1, 2, 3, 4].map(|server| held(server.into(), server, 10, now));
    let mut bench = Bench::with_rows(4, &rows);
    let seen = Answer { leaving: [id(3), id(4)].into(), ..answer([1, 2]) };
    bench.discover.look(seen, bench.now().1);
    bench.discover.rows = Some(bench.database.rows());
    // What is taken over, and then the spec.
    bench.discover.pass(now);
    bench.discover.pass(now);
    assert_eq!(bench.discover.ready(), [(1, id(1)), (2, id(2))]);
    assert_eq!(bench.discover.state(4), Some(SlotState::Drain));
    bench.discover.look(answer([1]), bench.now().1);
    bench.discover.pass(now);
    assert_eq!(bench.discover.state(2), Some(SlotState::Drain), "one of four servers vanished");
}

#[test]
fn of_two_rows_of_one_server_the_heavier_stays() {
    let (now, _) = Bench::new(1).now();
    let mut bench = Bench::with_rows(4, &[held(1, 9, 3, now), held(3, 9, 7, now)]);
    bench.running = [9].into();
    bench.run_alone(3);
    assert_eq!(bench.discover.ready(), [(3, id(9))]);
    assert_eq!(bench.discover.state(1), Some(SlotState::Drain));
    bench.run_alone(100);
    bench.assert_agreed();
}

#[test]
fn damaged_rows_are_left_alone_and_their_slots_given_to_nobody() {
    let mut bench = Bench::new(3);
    bench.database.items.get_mut(&1).unwrap().remove("IPAddress");
    let damaged = bench.database.items[&1].clone();
    bench.running = [1, 2].into();
    bench.run_alone(100);
    assert_eq!(bench.discover.ready(), [(2, id(1)), (3, id(2))]);
    assert_eq!(bench.database.items[&1], damaged);
    // Once it is deleted it is made anew, and its slot is one as any other.
    bench.database.items.remove(&1);
    bench.running.insert(3);
    bench.run_alone(100);
    bench.assert_agreed();
    assert_eq!(bench.database.held().len(), 3);
}

#[test]
fn rows_that_are_missing_are_made_and_those_beyond_the_slots_left_alone() {
    let (now, _) = Bench::new(1).now();
    let mut bench = Bench::new(3);
    bench.database.items.remove(&2);
    bench.database.items.insert(9, held(9, 9, 4, now).to_item());
    // A table of its own is there already.
    bench.discover.look(answer([1]), bench.now().1);
    bench.discover.rows = Some(Rows::default());
    bench.discover.pass(now);
    bench.running = [1].into();
    let beyond = bench.database.items[&9].clone();
    bench.run_alone(60);
    assert_eq!(bench.database.items.len(), 4);
    assert_eq!(bench.database.items[&9], beyond);
    assert_eq!(bench.database.held()[0], (1, id(1), 10));
}

/// As from an lbctl that ran here long ago.
#[test]
fn a_server_that_the_source_no_longer_sees_loses_its_slot_to_the_one_in_its_row() {
    let (now, _) = Bench::new(1).now();
    let mut bench = Bench::new(3);
    bench.running = [1, 2].into();
    bench.run_alone(60);
    bench.database.put(&held(1, 7, 10, now));
    bench.database.put(&held(2, 8, 10, now));
    bench.running = [7, 8].into();
    bench.discover.succeed();
    bench.run(3);
    assert_eq!(bench.discover.ready(), [(1, id(7)), (2, id(8))]);
    bench.run(60);
    bench.assert_agreed();
}

#[test]
fn what_hsdo_has_placed_is_taken_in_where_it_is() {
    let mut bench = Bench::new(5);
    bench.running = [1, 2].into();
    bench.run(80);
    bench.assert_agreed();
    // HSDO's server sees a new one first.
    bench.running.insert(3);
    bench.hsdo_loops();
    let placed = bench.database.held();
    bench.run(2);
    assert_eq!(bench.database.held().len(), placed.len());
    bench.run(80);
    bench.assert_agreed();
    let slots = |held: &[(u32, EndpointId, u16)]| {
        held.iter().map(|(slot, id, _)| (*slot, id.clone())).collect::<Vec<_>>()
    };
    assert_eq!(slots(&bench.database.held()), slots(&placed));
}

#[test]
fn a_slot_at_rest_that_hsdo_gives_to_another_is_the_others() {
    let mut bench = Bench::new(1);
    bench.running = [1].into();
    bench.run(80);
    bench.running = [2].into();
    bench.run(2);
    assert_eq!(bench.database.held()[0].1, id(2));
    bench.run(80);
    bench.assert_agreed();
}

/// HSDO's server takes one out that discover still sees, and puts it back a little later.
#[test]
fn a_server_that_hsdo_has_taken_out_comes_back_only_after_a_while() {
    let mut bench = Bench::new(3);
    bench.running = [1, 2].into();
    bench.run(80);
    let (slot, ..) = bench.database.held()[0];
    bench.database.put(&Row::free(self::slot(slot)));
    bench.run_alone(10);
    assert_eq!(bench.database.held().len(), 1, "it was put back at once");
    bench.run_alone(10);
    assert_eq!(bench.database.held().len(), 2);
}

/// One that only HSDO's source sees, for a moment or for good.
#[test]
fn a_stranger_is_left_alone_until_the_source_sees_it_or_enough_looks_have_missed_it() {
    let mut bench = Bench::new(4);
    bench.running = [1].into();
    bench.run(40);
    bench.running = [1, 2, 3].into();
    bench.unfit = [2, 3].into();
    bench.run(4);
    let row = |bench: &Bench, server| {
        let held = bench.database.held();
        held.into_iter().find(|(_, i, _)| *i == id(server)).unwrap()
    };
    let (place, ..) = row(&bench, 2);
    assert!(row(&bench, 2).2 > 0 && row(&bench, 3).2 > 0, "a stranger lost its weight at once");
    assert_eq!(bench.discover.ready().len(), 1);
    bench.unfit = [3].into();
    bench.run(6);
    assert!(bench.discover.ready().contains(&(place, id(2))), "{:?}", bench.discover.ready());
    bench.run(10);
    assert_eq!(row(&bench, 3).2, 0);
}

/// Both ramp, and HSDO's clocks are its own.
#[test]
fn a_weight_that_hsdo_has_raised_before_the_ramp_is_not_lowered() {
    let (now, _) = Bench::new(1).now();
    let mut bench = Bench::new(1);
    bench.running = [1].into();
    bench.run_alone(3);
    bench.database.put(&held(1, 1, 6, now));
    bench.run_alone(1);
    assert_eq!(bench.database.held()[0].2, 6);
    // Over what the ramp leads to it is.
    bench.database.put(&held(1, 1, 60, now));
    bench.run_alone(1);
    assert!(bench.database.held()[0].2 <= 10);
}

/// One that HSDO serves and discover does not, such as an instance on standby.
#[test]
fn a_lasting_disagreement_is_no_fight() {
    let mut bench = Bench::new(4);
    bench.running = [1, 2].into();
    bench.run(80);
    bench.unfit = [2].into();
    bench.run(30);
    let before = bench.database.writes;
    let mut heavy = 0;
    for _ in 0..300 {
        bench.run(1);
        let weight = bench.database.held().iter().find(|(_, i, _)| *i == id(2)).map(|(.., w)| *w);
        heavy += usize::from(weight.unwrap_or(0) > 0);
        assert!(bench.database.held().iter().any(|(_, i, w)| *i == id(1) && *w == 10));
    }
    let writes = bench.database.writes - before;
    assert!(writes < 200, "{writes} writes in 300 s");
    assert!(heavy < 45, "it took traffic in {heavy} of 300 s");
}

#[test]
fn a_draining_server_keeps_its_row_at_weight_zero_for_its_whole_time() {
    let mut bench = Bench::new(3);
    bench.running = [1, 2].into();
    bench.run_alone(80);
    bench.running.remove(&2);
    bench.run_alone(3);
    assert_eq!(bench.database.held()[1], (2, id(2), 0));
    bench.run_alone(15);
    assert_eq!(bench.database.held().len(), 1);
    assert_eq!(bench.database.rows().get(slot(2)).unwrap().row, Ok(Row::free(slot(2))));
}

/// HSDO's server gives such slots away within one of its loops.
#[test]
fn slots_of_machines_that_have_ended_go_to_others_in_a_few_seconds() {
    let seconds = |ended: bool| {
        let mut bench = Bench::new(10);
        bench.running = (1..=10).collect();
        bench.run_alone(60);
        let now: Vec<u8> = (4..=13).collect();
        let gone = [1, 2, 3].map(id);
        (1..60).find(|_| {
            bench.elapsed += Duration::from_secs(1);
            let mut seen = answer(now.iter().copied());
            seen.ended.extend(gone.iter().filter(|_| ended).cloned());
            bench.discover.look(seen, bench.now().1);
            bench.discover_turns();
            bench.discover_turns();
            let held = bench.database.held();
            now.iter().all(|server| held.iter().any(|(_, held, _)| *held == id(*server)))
        })
    };
    // The drain deadline and the rest of this world are 8 s and 4 s.
    let (slow, quick) = (seconds(false).unwrap(), seconds(true).unwrap());
    assert!(slow >= 12 && quick <= 5, "{slow} s, and {quick} s where they have ended");
}

/// Only what differs is written: once all is said, nothing.
#[test]
fn weights_are_written_at_each_step_and_then_no_more() {
    let mut bench = Bench::new(2);
    bench.running = [1].into();
    bench.run_alone(2);
    let before = bench.database.writes;
    let mut weights = vec![bench.database.held()[0].2];
    for _ in 0..60 {
        bench.run_alone(1);
        weights.push(bench.database.held()[0].2);
    }
    weights.dedup();
    assert_eq!(weights, (1..=10).collect::<Vec<u16>>());
    assert_eq!(bench.database.writes - before, 9);
    bench.run_alone(60);
    assert_eq!(bench.database.writes - before, 9);
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::HsdoScan),
        4 => Just(Event::HsdoWrite),
        2 => Just(Event::Look),
        4 => Just(Event::Scan),
        4 => Just(Event::Write),
        6 => Just(Event::Pass),
        2 => (1u8..9).prop_map(Event::Start),
        1 => (1u8..9).prop_map(Event::Stop),
        2 => (1u8..6).prop_map(Event::Wait),
        1 => Just(Event::NewLeader),
    ];
    proptest::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever both have done to each other in whatever order, left alone they agree, and then
    /// neither writes.
    #[test]
    fn both_servers_come_to_agree_and_to_rest(events in events()) {
        let mut bench = Bench::new(10);
        for event in events {
            bench.happens(event);
        }
        bench.running.insert(1);
        bench.run(120);
        bench.assert_agreed();
        let writes = bench.database.writes;
        bench.run(30);
        prop_assert_eq!(bench.database.writes, writes);
    }

    /// The same where HSDO's server is stopped in the middle, as it will be one day.
    #[test]
    fn discover_alone_comes_to_rest_too(events in events()) {
        let mut bench = Bench::new(10);
        for event in events {
            bench.happens(event);
        }
        bench.running.insert(1);
        bench.run_alone(120);
        bench.assert_agreed();
        let writes = bench.database.writes;
        bench.run_alone(30);
        prop_assert_eq!(bench.database.writes, writes);
    }
}
