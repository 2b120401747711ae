//! The end of instances that HSDO's clients serve too.

use lbctl::model::SlotState;

use super::{Instance, Row, Site};
use crate::asg::front::{Front, HOOK};
use crate::support::{Cloud, Process, eventually};

const SLOTS: &str = "4";

/// On a group, beside HSDO's table.
fn discover(site: &Site, front: &Front, group: &str) -> Process {
    let source = format!("asg:{group}");
    let what = ["discover", "--backend", "web", "--source", &source, "--slots", SLOTS];
    let layout = ["--table-layout", "hsdo", "--hsdo-table", &site.table, "--admin", "off"];
    let ramp = ["--min-weight", "10", "--max-weight", "10"];
    let times = ["--interval", "1s", "--rest", "300ms", "--drain-deadline", "2s", "--ttl", "2s"];
    let hook = ["--complete-lifecycle", HOOK];
    let mut command = site.command(&[&what[..], &layout, &ramp, &times, &hook].concat());
    command.env("AWS_ENDPOINT_URL_AUTO_SCALING", front.endpoint());
    command.env("AWS_ENDPOINT_URL_EC2", front.endpoint());
    Process::start("discover", site.world.dir.path(), &mut command)
}

/// Waits until lbctl's own table has done with an instance, and a while longer.
fn leaves(site: &Site, front: &Front, id: &str) {
    eventually(&format!("{id} to have left"), || {
        let table = site.table();
        let mut its = table.values().filter(|(name, _)| name == id);
        its.all(|(_, state)| *state == SlotState::Rest).then_some(())
    });
    let looks = || front.calls("DescribeAutoScalingGroups");
    let then = looks();
    eventually("three more looks", || (looks() >= then + 3).then_some(()));
}

#[test]
fn an_instance_does_not_end_while_a_row_of_hsdos_serves_it_or_may_serve_it() {
    let (Some(site), Some(cloud)) = (Site::start(5), Cloud::new()) else { return };
    let front = Front::start(cloud.moto.port());
    let group = cloud.group("web", 3);
    let discover = discover(&site, &front, &group);
    eventually(&format!("three rows\n{}", discover.tail()), || {
        (site.held().len() == 3).then_some(())
    });
    let completed = || front.completed().into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
    let instances = cloud.in_service(&group);
    let mut instances =
        instances.into_iter().map(|(id, ip)| Instance { id, ip, asg: group.clone() });
    let (first, second) = (instances.next().unwrap(), instances.next().unwrap());

    // A row that discover has no slot for, and leaves alone.
    site.put(&Row::of(5, &first, 10));
    front.set_lifecycle(&first.id, "Terminating:Wait");
    leaves(&site, &front, &first.id);
    assert_eq!(front.calls("CompleteLifecycleAction"), 0, "{}", discover.tail());
    site.put(&Row::free(5));
    eventually(&format!("the first's end\n{}", discover.tail()), || {
        (completed() == [first.id.as_str()]).then_some(())
    });

    // Its row cannot be freed.
    site.world.block_on(site.proxy.cut());
    front.set_lifecycle(&second.id, "Terminating:Wait");
    leaves(&site, &front, &second.id);
    assert!(site.held().iter().any(|(_, name, weight)| *name == second.id && *weight == 10));
    assert_eq!(front.calls("CompleteLifecycleAction"), 1, "{}", discover.tail());
    site.world.block_on(site.proxy.mend());
    eventually(&format!("the second's end\n{}", discover.tail()), || {
        (completed() == [first.id.as_str(), &second.id]).then_some(())
    });
    assert_eq!(site.held().len(), 1);
}
