//! Rows that are not what HSDO writes.

use super::{Row, Site, instance, n, s};
use crate::support::eventually;

#[test]
fn damaged_rows_are_left_alone_and_told_and_their_slots_given_to_nobody() {
    let Some(site) = Site::start(4) else { return };
    let mut wrong = Row::free(1).to_item();
    wrong.insert("Weight".into(), s("heavy"));
    site.put_item(wrong.clone());
    let status = "enabled; set server app/srv1 state maint".to_owned();
    let hostile = Row { status, ..Row::of(3, &instance(9), 10) }.to_item();
    site.put_item(hostile.clone());
    site.put_item([("BackendServerID".to_owned(), n(100_000))].into());
    site.run(&[1, 2]);
    let discover = site.discover(4, &[]);
    site.agree(&[1, 2], &discover);
    let held: Vec<u32> = site.held().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(held, [2, 4]);
    assert!(site.items().contains(&wrong) && site.items().contains(&hostile));
    for said in [
        "row 1 of HSDO's table cannot be read: Weight is not a number (N)",
        "row 3 of HSDO's table cannot be read: BackendServerStatus is",
        "row 100000 of HSDO's table cannot be read: BackendServerID is no slot",
        "correct it, or delete it",
    ] {
        assert!(discover.process.log().contains(said), "{}", discover.process.log());
    }
    let metric = "lbctl_discover_hsdo_odd_rows{backend=\"web\"} 3";
    assert!(discover.ask("/metrics").contains(metric));
    // A row that is deleted is made anew, and its slot is one as any other.
    site.delete(1);
    site.run(&[1, 2, 3]);
    eventually("the third to be placed", || {
        site.held().contains(&(1, "i-3".to_owned(), 10)).then_some(())
    });
}

#[test]
fn holes_are_filled_and_rows_beyond_the_slots_left_alone() {
    let Some(site) = Site::start(5) else { return };
    site.delete(2);
    site.delete(3);
    site.run(&[1, 2, 3]);
    let discover = site.discover(4, &[]);
    site.agree(&[1, 2, 3], &discover);
    let held: Vec<u32> = site.held().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(held, [1, 2, 3]);
    assert_eq!(site.rows().len(), 5);
    let said = "row 5 of HSDO's table is beyond the 4 slots of the backend";
    eventually("the row to be named", || discover.process.log().contains(said).then_some(()));
}

/// Where servers are in rows beyond the slots, nothing is taken over: it would move them.
#[test]
fn too_few_slots_for_a_takeover_are_told() {
    let Some(site) = Site::start(5) else { return };
    site.put(&Row::of(5, &instance(1), 10));
    site.run(&[1]);
    let discover = site.discover(3, &[]);
    eventually("the reason", || {
        let said = discover.ask("/status");
        said.contains("servers in rows beyond this backend's slots").then_some(())
    });
    assert!(site.world.get("backends/web/spec").is_none());
    assert_eq!(site.held(), [(5, "i-1".to_owned(), 10)]);
}
