//! Tables that belong to others, and tables that lbctl comes back to.

use std::process::Output;

use lbctl::model::SlotState;

use super::{Site, instance};
use crate::support::{Process, eventually};

impl Site {
    /// `discover` of the backend `web`, with its ramp and its times as elsewhere.
    fn plain(&self, flags: &[&str]) -> std::process::Command {
        let source = format!("file:{}", self.world.dir.path().join("web.json").display());
        let what = ["discover", "--backend", "web", "--source", &source, "--slots", "4"];
        let ramp = ["--min-weight", "1", "--weight-step", "1", "--max-weight", "10"];
        let times = ["--weight-interval", "300ms", "--rest", "1s", "--drain-deadline", "2s"];
        self.command(&[&what[..], &ramp, &times, flags].concat())
    }

    fn preview(&self) -> Output {
        let flags = ["--table-layout", "hsdo", "--hsdo-table", &self.table, "--dry-run"];
        self.plain(&flags).output().unwrap()
    }
}

#[test]
fn a_backend_of_another_table_is_left_alone_and_its_own_discover_leads() {
    let (Some(site), Some(mut other)) = (Site::start(4), Site::start(4)) else { return };
    other.world.url.clone_from(&site.world.url);
    site.run(&[1, 2]);
    other.run(&[7]);
    let mut first = site.discover(4, &[]);
    site.agree(&[1, 2], &first);
    let foreign = other.discover(4, &[]);
    let says = format!("backend web in the store belongs to HSDO's table {}", site.table);
    foreign.waits_for(&says);
    let preview = other.preview();
    let said = String::from_utf8_lossy(&preview.stderr);
    assert_eq!(preview.status.code(), Some(78), "{said}");
    for part in [says.as_str(), "--hsdo-backend NAME", "delete the key backends/web/spec"] {
        assert!(said.contains(part), "{said}");
    }
    // The other stands for no election, or nobody would follow this table any more.
    first.process.signal("TERM");
    assert!(first.process.wait().success());
    site.run(&[1, 2, 3]);
    let again = site.discover(4, &[]);
    site.agree(&[1, 2, 3], &again);
    assert!(other.held().is_empty(), "it has filled its table from another's backend");
}

/// The way back of the guide: HSDO's rows are as they were when lbctl left them.
#[test]
fn a_server_that_has_left_meanwhile_is_not_ready_again_on_the_way_back() {
    let Some(site) = Site::start(4) else { return };
    site.run(&[1, 2, 3]);
    let mut discover = site.discover(4, &[]);
    site.agree(&[1, 2, 3], &discover);
    discover.process.signal("TERM");
    assert!(discover.process.wait().success());

    let mut command = site.plain(&["--admin", "off", "--ttl", "2s", "--confirm-interval", "300ms"]);
    let mut own = Process::start("own", site.world.dir.path(), &mut command);
    site.run(&[1, 3, 4]);
    let ready = || -> Vec<String> {
        let ready = site.table().into_values().filter(|(_, state)| *state == SlotState::Ready);
        ready.map(|(id, _)| id).collect()
    };
    let gone = instance(2).id;
    eventually(&format!("lbctl's table to follow\n{}", own.tail()), || {
        let table = site.table();
        let left = !table.values().any(|(id, _)| *id == gone);
        (left && ready().len() == 3).then_some(())
    });
    own.signal("TERM");
    assert!(own.wait().success());
    assert!(site.held().iter().any(|(_, name, weight)| *name == gone && *weight == 10));

    // So long that no look in between confirms that it has gone.
    let back = site.discover(4, &["--confirm-interval", "10m"]);
    eventually(&format!("its row to take no traffic\n{}", back.process.tail()), || {
        let held = site.held();
        let idle = held.iter().all(|(_, name, weight)| *name != gone || *weight == 0);
        let others = [1, 3, 4].map(|n| instance(n).id);
        let served = others.iter().all(|id| held.iter().any(|(_, name, w)| name == id && *w > 0));
        (idle && served).then_some(())
    });
}
