//! What groups do.

use std::collections::BTreeSet;
use std::process::Command;

use lbctl::model::SlotState;

use super::front::Fault;
use super::{Fleet, SLOTS};
use crate::support::haproxy::{Backend, Client};
use crate::support::moto::ENVIRONMENT;
use crate::support::{eventually, lbctl};

#[test]
fn haproxy_follows_a_group_out_in_to_zero_and_back() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 2);
    let mut discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let first = fleet.slots();
    fleet.cloud.scale(&group, 6);
    fleet.equals(&[&group], &discover);
    let six = fleet.slots();
    assert!(first.iter().all(|(id, slot)| six[id] == *slot), "a slot moved: {first:?} {six:?}");
    fleet.cloud.scale(&group, 4);
    fleet.equals(&[&group], &discover);
    let four = fleet.slots();
    assert!(four.iter().all(|(id, slot)| six[id] == *slot), "a slot moved: {six:?} {four:?}");

    let before = fleet.ready_in("app");
    fleet.cloud.scale(&group, 0);
    discover.wait_for_log("refused");
    assert_eq!(fleet.ready_in("app"), before, "an empty group emptied HAProxy");
    assert!(Client::ask_once(fleet.haproxy.frontend("app")).is_some());
    fleet.cloud.scale(&group, 3);
    fleet.equals(&[&group], &discover);
}

#[test]
fn an_instance_with_the_address_of_one_that_ended_is_a_new_server() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let (before, slots) = (fleet.cloud.in_service(&group), fleet.slots());
    let (old, address) = before.first_key_value().unwrap();
    fleet.front.fail("DescribeAutoScalingGroups", Some(Fault::Throttle));
    fleet.cloud.terminate(old, true);
    fleet.cloud.scale(&group, 3);
    let after = fleet.cloud.in_service(&group);
    let new = after.keys().find(|id| !before.contains_key(*id)).unwrap();
    fleet.front.set_address(new, address);
    fleet.front.fail("DescribeAutoScalingGroups", None);
    let now = eventually("the new instance to be ready", || {
        let now = fleet.slots();
        (now.contains_key(new) && !now.contains_key(old)).then_some(now)
    });
    assert_ne!(now[new], slots[old], "the slot changed hands at once");
    assert!(slots.iter().all(|(id, slot)| id == old || now[id] == *slot), "{slots:?} {now:?}");
    let all = fleet.wanted_at(before.values());
    eventually("HAProxy to have just those", || {
        let servers = fleet.haproxy.servers("app");
        let states = servers.iter().filter(|server| server.state() != "maint");
        let states: Vec<String> = states.map(|server| server.address()).collect();
        (states.len() == 3 && fleet.ready_in("app") == all).then_some(())
    });
}

#[test]
fn standby_drains_and_ends_with_the_same_slot_where_it_is_still_its_own() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let slots = fleet.slots();
    let (id, slot) = slots.first_key_value().unwrap();
    let address = fleet.cloud.in_service(&group)[id].clone();
    let mut session = Client::connect(fleet.haproxy.frontend("app")).unwrap();
    while session.ask().unwrap() != *id {
        session = Client::connect(fleet.haproxy.frontend("app")).unwrap();
    }
    fleet.cloud.standby(&group, id, true);
    eventually("the instance to drain", || {
        (fleet.records(SlotState::Drain).get(id) == Some(slot)).then_some(())
    });
    eventually("HAProxy to drain it", || {
        let servers = fleet.haproxy.servers("app");
        let its = servers.iter().find(|s| s.address().starts_with(&format!("{address}:")));
        (its?.state() == "drain").then_some(())
    });
    assert_eq!(session.ask().unwrap(), *id, "standby cut a session");
    fleet.cloud.standby(&group, id, false);
    fleet.equals(&[&group], &discover);
    assert_eq!(fleet.slots(), slots);
}

#[test]
fn an_unhealthy_instance_is_taken_out_and_comes_back() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let group = fleet.cloud.group("web", 3);
    let discover = fleet.discover("discover", &format!("asg:{group}"), &[]);
    fleet.equals(&[&group], &discover);
    let id = fleet.slots().first_key_value().unwrap().0.clone();
    fleet.cloud.set_health(&id, "Unhealthy");
    eventually("it to be taken out", || (!fleet.slots().contains_key(&id)).then_some(()));
    eventually("HAProxy to follow", || (fleet.ready_in("app").len() == 2).then_some(()));
    fleet.cloud.set_health(&id, "Healthy");
    fleet.equals(&[&group], &discover);
}

#[test]
fn a_group_that_is_renamed_is_an_error_by_name_until_it_is_named_anew() {
    let Some(mut fleet) = Fleet::simple() else { return };
    let old = fleet.cloud.group("old", 2);
    let mut discover = fleet.discover("discover", &format!("asg:{old}"), &[]);
    fleet.equals(&[&old], &discover);
    let before = fleet.ready_in("app");
    fleet.cloud.delete(&old);
    let new = fleet.cloud.group("new", 2);
    discover.wait_for_log(&format!("no Auto Scaling group is named {old} in eu-west-1"));
    assert_eq!(fleet.ready_in("app"), before);
    discover.signal("TERM");
    assert!(discover.wait().success());
    let discover = fleet.discover("again", &format!("asg:{new}"), &[]);
    fleet.equals(&[&new], &discover);
}

#[test]
fn a_group_that_is_missing_keeps_its_servers_and_the_others_are_followed() {
    let Some(mut fleet) = Fleet::simple() else { return };
    // Every sign that Auto Scaling allows in a name and that is not said otherwise in a list.
    let odd = fleet.cloud.group("odd ~#(=&)/!$'%*+.;<>?@[]^_`{|}", 2);
    let (gone, other) = (fleet.cloud.group("gone", 2), fleet.cloud.group("other", 2));
    let source = format!("asg:{odd},{gone},{other}");
    let mut discover = fleet.discover("discover", &source, &[]);
    fleet.equals(&[&odd, &gone, &other], &discover);
    let groups = || {
        let records = fleet.world.list("backends/web/slots").into_iter();
        let group = |value: String| {
            let record: serde_json::Value = serde_json::from_str(&value).unwrap();
            record["group"].as_str().unwrap().to_owned()
        };
        records.map(|(_, value)| group(value)).collect::<BTreeSet<_>>()
    };
    assert_eq!(groups(), [odd.clone(), gone.clone(), other.clone()].into());
    let kept = fleet.wanted(&[&gone]);
    let is_kept = |fleet: &Fleet| kept.is_subset(&fleet.ready_in("app"));
    fleet.cloud.delete(&gone);
    discover.wait_for_log(&format!("no Auto Scaling group is named {gone} in eu-west-1"));
    fleet.cloud.scale(&odd, 4);
    fleet.cloud.scale(&other, 1);
    fleet.serve(&odd);
    let mut wanted = fleet.wanted(&[&odd, &other]);
    wanted.extend(kept.iter().cloned());
    eventually("the other groups to be followed", || {
        assert!(is_kept(&fleet), "the servers of the missing group left\n{}", discover.tail());
        (fleet.ready_in("app") == wanted).then_some(())
    });
    // One that has never seen the group knows its servers from the table.
    discover.signal("TERM");
    assert!(discover.wait().success());
    let mut again = fleet.discover("again", &source, &[]);
    again.wait_for_log(&format!("no Auto Scaling group is named {gone} in eu-west-1"));
    fleet.cloud.scale(&odd, 3);
    eventually("the other groups to be followed again", || {
        assert!(is_kept(&fleet), "the servers of the missing group left\n{}", again.tail());
        (fleet.ready_in("app").len() == 6).then_some(())
    });
}

#[test]
fn two_groups_in_two_zones_fill_a_backend_and_its_fallback() {
    let sync = "[[sync-haproxy.backends]]\nbackend = 'app'\nfrom = 'web'\n\
                zones = ['eu-west-1a']\nfallback = 'rest'\n";
    let backends = vec![Backend::new("app", SLOTS), Backend::new("rest", SLOTS)];
    let Some(mut fleet) = Fleet::start(sync, backends) else { return };
    let near = fleet.cloud.group("near", 2);
    let zone = [("AvailabilityZones.member.1", "eu-west-1b")];
    let far = fleet.cloud.group_in("far", 3, &zone);
    let discover = fleet.discover("discover", &format!("asg:{near},{far}"), &[]);
    fleet.equals(&[&near], &discover);
    let others = fleet.wanted(&[&far]);
    eventually("the other zone in the fallback", || {
        (fleet.ready_in("rest") == others).then_some(())
    });
    let groups: BTreeSet<String> = fleet
        .world
        .list("backends/web/slots")
        .iter()
        .map(|(_, value)| serde_json::from_str::<serde_json::Value>(value).unwrap())
        .map(|record| record["group"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(groups, [near, far].into());
}

#[test]
fn groups_are_found_by_their_tags_and_ports_by_those_of_their_instances() {
    let Some(fleet) = Fleet::simple() else { return };
    let (a, b) = (fleet.cloud.group("a", 1), fleet.cloud.group("b", 1));
    let service = fleet.cloud.name("service");
    for group in [&a, &b] {
        fleet.cloud.tag_group(group, "service", &service);
    }
    let instance = fleet.cloud.in_service(&a).into_keys().next().unwrap();
    fleet.cloud.tag_instance(&instance, "lbctl-port", "8081");
    let source = format!("asg:eu-west-1:tag:service={service}");
    let discover = fleet.discover("discover", &source, &["--port-tag", "lbctl-port"]);
    let port = fleet.port;
    let of = |group, port| {
        let ip = fleet.cloud.in_service(group).into_values().next().unwrap();
        format!("{ip}:{port}")
    };
    let wanted: BTreeSet<String> = [of(&a, 8081), of(&b, port)].into();
    eventually(&format!("{wanted:?}\n{}", discover.tail()), || {
        (fleet.ready_in("app") == wanted).then_some(())
    });
}

#[test]
fn what_is_not_there_ends_once_with_its_name_and_the_remedy() {
    let Some(fleet) = Fleet::simple() else { return };
    let once = |source: &str, without: &str| {
        let args = ["discover", "--backend", "web", "--source", source, "--slots", "3", "--once"];
        // Not the store's credentials.
        let mut command = Command::new(lbctl());
        let database = format!("sqlite:{}", fleet.world.dir.path().join("once.db").display());
        command.args(["--store", &database]).args(args).envs(ENVIRONMENT);
        command.env("AWS_ENDPOINT_URL", fleet.front.endpoint()).env("AWS_REGION", "eu-west-1");
        if !without.is_empty() {
            command.env_remove(without);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        error.lines().find(|line| line.starts_with("error: ")).unwrap().to_owned()
    };
    let error = once("asg:nobody", "");
    assert!(error.contains("no Auto Scaling group is named nobody in eu-west-1"), "{error}");
    assert!(error.contains("correct the name"), "{error}");
    let error = once("asg:tag:service=nothing", "");
    assert!(error.contains("has all of tag:service=nothing"), "{error}");
    let error = once("asg:web", "AWS_REGION");
    assert!(error.contains("--aws-region"), "{error}");
    let error = once("asg:web", "AWS_ACCESS_KEY_ID");
    assert!(error.contains("there are no credentials (credentials are looked for in"), "{error}");
}
