//! How instances end.

use lbctl::model::SlotState;

use super::Fleet;
use super::front::{self, Fault};
use crate::support::eventually;
use crate::support::haproxy::Client;

const HOOK: [&str; 2] = ["--complete-lifecycle", front::HOOK];

/// A session with a server.
fn session_with(fleet: &Fleet, id: &str) -> Client {
    eventually(&format!("a session with {id}"), || {
        let mut session = Client::connect(fleet.haproxy.frontend("app")).ok()?;
        (session.ask().ok()? == id).then_some(session)
    })
}

#[test]
fn an_instance_ends_once_its_last_session_has_and_is_told_so_once() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &HOOK);
    let other = fleet.discover("other", &format!("asg:{group}"), &HOOK);
    fleet.equals(&[&group], &discover);
    let id = fleet.slots().into_keys().next().unwrap();
    let mut session = session_with(&fleet, &id);
    fleet.front.set_lifecycle(&id, "Terminating:Wait");
    eventually(&format!("{id} to drain\n{}", discover.tail()), || {
        fleet.records(SlotState::Drain).contains_key(&id).then_some(())
    });
    let looks = || fleet.front.calls("DescribeAutoScalingGroups");
    let then = looks();
    eventually("six more looks", || (looks() >= then + 6).then_some(()));
    assert_eq!(session.ask().unwrap(), id, "the drain cut a session");
    assert_eq!(fleet.front.calls("CompleteLifecycleAction"), 0, "it was told before its time");
    drop(session);
    let completed = eventually(&format!("the end\n{}", discover.tail()), || {
        Some(fleet.front.completed()).filter(|all| !all.is_empty())
    });
    assert_eq!(completed, [(id.clone(), group.clone(), front::HOOK.to_owned())]);
    fleet.cloud.terminate(&id, true);
    let then = looks();
    eventually("six more looks", || (looks() >= then + 6).then_some(()));
    assert_eq!(fleet.front.calls("CompleteLifecycleAction"), 1, "{}", other.tail());
}

#[test]
fn a_leader_that_dies_before_the_call_leaves_it_to_the_next() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let mut leader = fleet.discover("leader", &format!("asg:{group}"), &HOOK);
    fleet.equals(&[&group], &leader);
    let id = fleet.slots().into_keys().next().unwrap();
    // The table is written, and the call is on its way for ever.
    fleet.front.fail("CompleteLifecycleAction", Some(Fault::Silence));
    fleet.front.set_lifecycle(&id, "Terminating:Wait");
    eventually(&format!("the call\n{}", leader.tail()), || {
        (fleet.front.calls("CompleteLifecycleAction") == 1).then_some(())
    });
    assert!(!fleet.slots().contains_key(&id));
    let next = fleet.discover("next", &format!("asg:{group}"), &HOOK);
    leader.kill();
    fleet.front.fail("CompleteLifecycleAction", None);
    eventually(&format!("the end\n{}", next.tail()), || {
        (fleet.front.completed().len() == 1).then_some(())
    });
    fleet.cloud.terminate(&id, true);
    fleet.equals(&[&group], &next);
}

#[test]
fn an_answer_that_is_lost_is_not_asked_for_twice() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 2);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &HOOK);
    fleet.equals(&[&group], &discover);
    let id = fleet.slots().into_keys().next().unwrap();
    fleet.front.fail("CompleteLifecycleAction", Some(Fault::Lost));
    fleet.front.set_lifecycle(&id, "Terminating:Wait");
    eventually(&format!("the call\n{}", discover.tail()), || {
        (fleet.front.completed().len() == 1).then_some(())
    });
    fleet.front.fail("CompleteLifecycleAction", None);
    let looks = || fleet.front.calls("DescribeAutoScalingGroups");
    let then = looks();
    eventually("four more looks", || (looks() >= then + 4).then_some(()));
    assert_eq!(fleet.front.completed().len(), 1);
    // It does not wait any more: nobody asks again, or is told that it is over.
    assert!(fleet.front.calls("CompleteLifecycleAction") <= 2);
}

/// One that AWS refuses whenever it is tried, such as for a right that is missing.
#[test]
fn a_call_that_is_refused_for_good_holds_up_no_other() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let mut discover = fleet.discover("discover", &format!("asg:{group}"), &HOOK);
    fleet.equals(&[&group], &discover);
    // Calls are made in the order of the ids.
    let mut ids = fleet.slots().into_keys();
    let (refused, behind) = (ids.next().unwrap(), ids.next().unwrap());
    fleet.front.refuse(&refused, true);
    fleet.front.set_lifecycle(&refused, "Terminating:Wait");
    let said = format!("instance {refused} of {group}: CompleteLifecycleAction: ValidationError");
    discover.wait_for_log(&said);
    fleet.front.set_lifecycle(&behind, "Terminating:Wait");
    let completed = || fleet.front.completed().into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
    eventually(&format!("the end of {behind}\n{}", discover.tail()), || {
        (completed() == [behind.as_str()]).then_some(())
    });
    fleet.front.refuse(&refused, false);
    eventually(&format!("the end of {refused}\n{}", discover.tail()), || {
        (completed() == [behind.as_str(), &refused]).then_some(())
    });
}

/// AWS answers for a hook that is not there as for an instance that does not wait any more.
#[test]
fn a_hook_that_the_group_does_not_have_is_told_by_name() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 2);
    let mut discover =
        fleet.discover("discover", &format!("asg:{group}"), &["--complete-lifecycle", "drain"]);
    fleet.equals(&[&group], &discover);
    let id = fleet.slots().into_keys().next().unwrap();
    fleet.front.set_lifecycle(&id, "Terminating:Wait");
    discover.wait_for_log(&format!(
        "instance {id} of {group} still waits: is drain its group's termination hook?"
    ));
    assert_eq!(fleet.front.completed(), []);
}

/// Most of a group, which would meet a floor if they had merely vanished.
#[test]
fn instances_that_end_drain_at_once_though_ec2_tells_nothing_of_them() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    // No absence is ever confirmed.
    let more = [&HOOK[..], &["--confirm-passes", "1000"]].concat();
    let discover = fleet.discover("discover", &format!("asg:{group}"), &more);
    fleet.equals(&[&group], &discover);
    let ids: Vec<String> = fleet.slots().into_keys().take(2).collect();
    let mut session = session_with(&fleet, &ids[0]);
    ids.iter().for_each(|id| fleet.front.set_unknown(id, true));
    ids.iter().for_each(|id| fleet.front.set_lifecycle(id, "Terminating:Wait"));
    eventually(&format!("{ids:?} to leave\n{}", discover.tail()), || {
        (fleet.slots().len() == 1).then_some(())
    });
    let completed = || fleet.front.completed().into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
    eventually(&format!("the end of {}\n{}", ids[1], discover.tail()), || {
        (completed() == ids[1..]).then_some(())
    });
    assert!(fleet.records(SlotState::Drain).contains_key(&ids[0]));
    assert_eq!(session.ask().unwrap(), ids[0], "the drain cut a session");
    drop(session);
    eventually(&format!("the end of {}\n{}", ids[0], discover.tail()), || {
        (completed().len() == 2).then_some(())
    });
    assert!(!discover.log().contains("refused"), "{}", discover.log());
}
