//! What AWS does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::front::{EVERY_CALL, FAULTS, Fault, Front};
use super::{Fleet, SIMPLE};
use crate::support::haproxy::Backend;
use crate::support::moto::Moto;
use crate::support::{Cloud, World, eventually, free_port, http_get};

/// Long beside every pause between two tries but the longest.
const WHILE: Duration = Duration::from_secs(15);

#[test]
fn every_failure_of_every_call_leaves_haproxy_as_it_is_and_passes() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let slots = fleet.slots();
    for action in ["DescribeAutoScalingGroups", "DescribeInstances"] {
        for fault in FAULTS {
            let (logged, called) = (discover.log().len(), fleet.front.calls(action));
            fleet.front.fail(action, Some(fault));
            let since = |text: &str| discover.log()[logged..].contains(text);
            eventually(&format!("{action} {fault:?} to be told\n{}", discover.tail()), || {
                since(&format!("{action}: ")).then_some(())
            });
            assert!(fleet.front.calls(action) > called);
            assert_eq!(fleet.slots(), slots, "{action} {fault:?}");
            fleet.front.fail(action, None);
            eventually(&format!("{action} to recover from {fault:?}"), || {
                since("has recovered").then_some(())
            });
        }
    }
    assert_eq!(fleet.slots(), slots);
    assert_eq!(fleet.ready_in("app"), fleet.wanted(&[&group]));
}

#[test]
fn what_ec2_does_not_know_is_neither_placed_nor_removed() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let slots = fleet.slots();
    let known = slots.keys().next().unwrap();
    fleet.front.set_unknown(known, true);
    fleet.front.fail("DescribeAutoScalingGroups", Some(Fault::Internal));
    fleet.cloud.scale(&group, 4);
    let all = fleet.cloud.in_service(&group);
    let new = all.keys().find(|id| !slots.contains_key(*id)).unwrap();
    fleet.front.set_unknown(new, true);
    fleet.front.fail("DescribeAutoScalingGroups", None);
    let looks = || fleet.front.calls("DescribeInstances");
    let then = looks();
    // More than would confirm that a server has gone.
    eventually("ten looks", || (looks() >= then + 10).then_some(()));
    assert_eq!(fleet.slots(), slots, "{}", discover.tail());
    fleet.front.set_unknown(known, false);
    fleet.front.set_unknown(new, false);
    fleet.equals(&[&group], &discover);
}

#[test]
fn five_hundred_instances_take_the_fewest_calls_and_lose_none_on_any_page() {
    let Some(moto) = Moto::start() else { return };
    let backends = vec![Backend::new("app", 600)];
    let fleet = Fleet::on(Cloud::on(Arc::new(moto)), World::sqlite(), SIMPLE, backends);
    let Some(fleet) = fleet else { return };
    let zone = [("AvailabilityZones.member.1", "eu-west-1b")];
    let groups: Vec<String> =
        (1..=4).map(|n| fleet.cloud.group_in(&format!("g{n}"), 125, &zone)).collect();
    let source = format!("asg:{}", groups.join(","));
    let admin = free_port();
    let address = format!("127.0.0.1:{admin}");
    let more = ["--slots", "600", "--admin", &address];
    let discover = fleet.discover("discover", &source, &more);
    eventually(&format!("500 servers\n{}", discover.tail()), || {
        (fleet.slots().len() == 500).then_some(())
    });
    eventually("500 servers in HAProxy", || (fleet.ready_in("app").len() == 500).then_some(()));
    let scrape = || http_get(admin, "/metrics").unwrap_or_default();
    let count = |call: &str| {
        let name = format!("lbctl_aws_calls_total{{call=\"{call}\",result=\"ok\"}} ");
        let text = scrape();
        let line = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.map_or(0, |value| value.parse::<usize>().unwrap())
    };
    let looks = eventually("three looks", || {
        let looks = count("DescribeAutoScalingGroups");
        (looks >= 3).then_some(looks)
    });
    let calls = count("DescribeInstances");
    // A look may be under way.
    assert!((looks - 1) * 5 <= calls && calls <= (looks + 1) * 5, "{calls} calls in {looks} looks");
}

/// AWS answers each of these calls at once, so that a loop without a pause would be a flood.
#[test]
fn credentials_that_are_over_are_not_tried_ten_times_a_second() {
    let (Some(cloud), Some(mut world)) = (Cloud::new(), World::dynamodb()) else { return };
    let (moto, rest) = world.url.split_once("127.0.0.1%3A").unwrap();
    let (port, rest) = rest.split_once('&').unwrap();
    let store = Front::start(port.parse().unwrap());
    world.url = format!("{moto}127.0.0.1%3A{}&{rest}", store.port());
    let Some(mut fleet) = Fleet::on(cloud, world, SIMPLE, vec![Backend::new("app", 12)]) else {
        return;
    };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let fail = |fleet: &Fleet, fault| {
        [&store, &fleet.front].into_iter().for_each(|front| front.fail(EVERY_CALL, fault));
    };
    fail(&fleet, Some(Fault::Expired));
    for process in [&discover, &fleet.sync] {
        eventually(&format!("the end to be told\n{}", process.tail()), || {
            process.log().contains("ExpiredToken").then_some(())
        });
    }
    let calls = || {
        let mut all = store.all_calls();
        all.extend(fleet.front.all_calls());
        all
    };
    let (before, started) = (calls(), Instant::now());
    eventually("a while to pass", || (started.elapsed() > WHILE).then_some(()));
    let (after, seconds) = (calls(), started.elapsed().as_secs_f64());
    let rate = |(action, count): (String, usize)| {
        let before = before.get(&action).copied().unwrap_or(0);
        ((count - before) as f64 / seconds, action)
    };
    let rates: Vec<(f64, String)> = after.into_iter().map(rate).collect();
    let all: f64 = rates.iter().map(|(rate, _)| rate).sum();
    assert!(all < 4.0, "{all:.1} calls a second of two processes: {rates:.1?}");
    fail(&fleet, None);
    fleet.cloud.scale(&group, 4);
    fleet.equals(&[&group], &discover);
}
