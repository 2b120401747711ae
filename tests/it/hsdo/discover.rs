//! discover in the place of HSDO's server.

use std::process::Command;
use std::time::{Duration, Instant};

use lbctl::model::SlotState;

use super::{Row, Site, haproxy, instance, serving};
use crate::support::eventually;
use crate::support::proxy::Mode;

/// A client of HSDO's, a sync-haproxy on HSDO's table and one on lbctl's own.
#[test]
fn every_haproxy_agrees_slot_by_slot_whoever_fills_it() {
    let Some(site) = Site::start(5) else { return };
    let haproxies = [haproxy(5), haproxy(5), haproxy(5)];
    let [Some(hsdos), Some(rows), Some(own)] = haproxies else { return };
    let discover = site.discover(5, &[]);
    let _client = site.hsdo_client(&hsdos);
    let _rows = site.sync("lb-rows", &rows, &["--backend", "app", "--from", "web", "--port", "80"]);
    let socket = own.unix().to_string();
    let own_sync = ["sync-haproxy", "--backend", "app", "--from", "web", "--name", "lb-own"];
    let own_sync = [&own_sync[..], &["--socket", &socket, "--admin", "off"]].concat();
    let _own = site.world.start("own", &own_sync);
    for running in [&[1, 2, 3][..], &[1, 3, 4, 5], &[4], &[4, 6, 7, 8, 9]] {
        site.run(running);
        site.agree(running, &discover);
        eventually(&format!("all to serve {running:?}\n{}", discover.process.tail()), || {
            let expected = serving(&hsdos, "app");
            let same = [&rows, &own].iter().all(|haproxy| serving(haproxy, "app") == expected);
            (same && expected.len() == running.len()).then_some(())
        });
        assert!(discover.weights().len() == running.len(), "{:?}", discover.weights());
    }
}

/// Every write that HSDO's clients may see: no server moves, and none loses weight.
#[test]
fn a_takeover_moves_no_server_and_lowers_no_weight() {
    let Some(site) = Site::start(8) else { return };
    {
        let _server = site.hsdo_server(8);
        site.run(&[1, 2]);
        eventually("HSDO's server to ramp", || {
            (site.held().iter().map(|(.., weight)| weight).min()? >= &5).then_some(())
        });
        site.run(&[1, 2, 3, 4, 5]);
        eventually("all to be placed", || (site.held().len() == 5).then_some(()));
    }
    let mut before = site.held();
    let preview = site.discover_once(&["--dry-run", "--output", "json"]);
    assert_eq!(preview.matches("\"kind\": \"adopt\"").count(), 5, "{preview}");
    assert_eq!(site.held(), before, "a preview wrote");
    let discover = site.discover(8, &[]);
    let started = Instant::now();
    eventually(&format!("full weight\n{}", discover.process.tail()), || {
        let now = site.held();
        for ((id, name, weight), (id_before, name_before, weight_before)) in now.iter().zip(&before)
        {
            assert_eq!((id, name), (id_before, name_before));
            assert!(weight >= weight_before, "{name} fell from {weight_before} to {weight}");
        }
        assert_eq!(now.len(), before.len());
        before = now;
        before.iter().all(|(.., weight)| *weight == 10).then_some(())
    });
    assert!(started.elapsed() > Duration::from_secs(1), "the ramp was skipped");
    site.agree(&[1, 2, 3, 4, 5], &discover);
    discover.becomes_ready();
}

/// A source that sees nobody, or fewer than half, empties no table.
#[test]
fn the_floors_hold_for_hsdos_table_too() {
    let Some(site) = Site::start(4) else { return };
    site.run(&[1, 2, 3]);
    let discover = site.discover(4, &["--confirm-interval", "60s"]);
    site.agree(&[1, 2, 3], &discover);
    for (running, refused) in [(&[][..], 3), (&[1], 2)] {
        site.run(running);
        let metric = format!("lbctl_discover_refused_removals{{backend=\"web\"}} {refused}");
        eventually("a refusal", || discover.ask("/metrics").contains(&metric).then_some(()));
        assert_eq!(site.held().len(), 3);
    }
    site.run(&[1, 2, 3]);
    site.agree(&[1, 2, 3], &discover);
}

#[test]
fn hsdos_table_away_stops_nothing_of_lbctls_own() {
    let Some(site) = Site::start(4) else { return };
    site.run(&[1]);
    let discover = site.discover(4, &[]);
    site.agree(&[1], &discover);
    discover.becomes_ready();
    site.world.block_on(site.proxy.cut());
    discover.waits_for("web: HSDO's table: HSDO's table");
    site.run(&[1, 2]);
    eventually("lbctl's own table to go on", || (site.table().len() == 2).then_some(()));
    let failing = "lbctl_discover_hsdo_failing{backend=\"web\"} 1";
    assert!(discover.ask("/metrics").contains(failing));
    assert_eq!(site.held().len(), 1);
    site.world.block_on(site.proxy.mend());
    site.agree(&[1, 2], &discover);
    discover.becomes_ready();
}

/// Before there is a table of lbctl's own, nothing is placed without a look at HSDO's.
#[test]
fn nothing_is_placed_before_hsdos_table_is_seen() {
    let Some(site) = Site::start(3) else { return };
    site.put(&Row::of(3, &instance(1), 10));
    site.run(&[1, 2]);
    site.world.block_on(site.proxy.cut());
    let discover = site.discover(3, &[]);
    discover.waits_for("HSDO's table");
    assert!(site.world.get("backends/web/spec").is_none());
    site.world.block_on(site.proxy.mend());
    site.agree(&[1, 2], &discover);
    assert_eq!(site.held()[1], (3, "i-1".to_owned(), 10));
}

/// One that comes when HSDO's table is away knows of no row, and HSDO's server goes on meanwhile.
#[test]
fn a_new_leader_gives_no_slot_away_before_it_has_read_hsdos_rows() {
    let Some(site) = Site::start(4) else { return };
    site.run(&[1]);
    {
        let before = site.discover(4, &[]);
        site.agree(&[1], &before);
    }
    site.world.block_on(site.proxy.cut());
    site.put(&Row::of(2, &instance(3), 10));
    site.run(&[1, 2]);
    let discover = site.discover(4, &[]);
    let unplaced = "lbctl_discover_unplaced{backend=\"web\"} 1";
    eventually(&format!("i-2 to be without a slot\n{}", discover.process.tail()), || {
        discover.ask("/metrics").contains(unplaced).then_some(())
    });
    discover.waits_for("web: HSDO's table: HSDO's table");
    assert_eq!(site.table(), [(1, ("i-1".to_owned(), SlotState::Ready))].into());
    site.run(&[1, 2, 3]);
    site.world.block_on(site.proxy.mend());
    site.agree(&[1, 2, 3], &discover);
    let places: Vec<_> = site.held().into_iter().map(|(id, name, _)| (id, name)).collect();
    assert_eq!(places, [(1, "i-1"), (2, "i-3"), (3, "i-2")].map(|(id, n)| (id, n.to_owned())));
}

/// Each row that the next leader is going to write, and no other.
#[test]
fn a_preview_shows_what_is_written_into_hsdos_table() {
    let Some(site) = Site::start(8) else { return };
    site.run(&[1, 2, 3]);
    site.discover_once(&["--once", "--min-weight", "10"]);
    let before = site.rows();
    site.put(&Row { weight: 200, ..before[0].clone() });
    site.run(&[1, 2, 4]);
    let preview = |format: &[&str]| {
        let flags = ["--dry-run", "--min-weight", "10"];
        site.discover_once(&[&flags[..], format].concat())
    };
    let text = preview(&[]);
    for line in [
        ["place", "i-4", "10.0.0.4:80"],
        ["write HSDO's row with weight 10", "i-1", "10.0.0.1"],
        ["write HSDO's row with weight 0", "i-3", "10.0.0.3"],
        ["write HSDO's row with weight 10", "i-4", "10.0.0.4"],
    ] {
        let has = |shown: &str| line.iter().all(|part| shown.contains(part));
        assert!(text.lines().any(has), "{line:?} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&preview(&["--output", "json"])).unwrap();
    let row = |slot, server, ip, weight| serde_json::json!({ "slot": slot, "server": server, "ip": ip, "weight": weight });
    let expected = [
        row(1, "i-1", "10.0.0.1", 10),
        row(3, "i-3", "10.0.0.3", 0),
        row(4, "i-4", "10.0.0.4", 10),
    ];
    assert_eq!(json[0]["hsdo_rows"], serde_json::Value::from(expected.to_vec()), "{json}");
    assert_eq!(site.rows()[1..], before[1..], "a preview wrote");
}

/// Where HSDO's table does not answer, nobody knows.
#[test]
fn a_preview_waits_for_hsdos_table() {
    let Some(site) = Site::start(2) else { return };
    site.run(&[1]);
    site.discover_once(&["--once"]);
    site.run(&[1, 2]);
    site.proxy.set(Mode::Late(Duration::from_millis(500)));
    let text = site.discover_once(&["--dry-run"]);
    assert!(text.contains("place") && !text.contains("has no slot"), "{text}");
}

/// The name may be wrong: neither a preview nor a pass that writes does more than wait and tell.
#[test]
fn what_ends_by_itself_tells_why_hsdos_table_cannot_be_read() {
    let Some(mut site) = Site::start(0) else { return };
    site.run(&[1]);
    site.table = "elsewhere".to_owned();
    let [preview, once] = ["--dry-run", "--once"].map(|flag| site.once_command(&[flag]));
    let outputs = std::thread::scope(|scope| {
        let run = |mut command: Command| scope.spawn(move || command.output().unwrap());
        [preview, once].map(run).map(|run| run.join().unwrap())
    });
    for output in outputs {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{said}");
        let why = "error: backend web: HSDO's table elsewhere: Scan: ";
        let reason = said.lines().find(|line| line.starts_with(why));
        let remedy = "set hsdo-table and aws-region to HSDO's own";
        assert!(reason.is_some_and(|line| line.contains(remedy)), "{said}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    assert!(site.world.get("backends/web/spec").is_none());
}

#[test]
fn once_writes_the_rows_and_ends() {
    let Some(site) = Site::start(2) else { return };
    site.delete(1);
    site.run(&[1]);
    let said = site.discover_once(&["--once", "--min-weight", "10"]);
    assert!(said.contains("place"), "{said}");
    assert_eq!(site.held(), [(1, "i-1".to_owned(), 10)]);
}

impl Site {
    /// What a discover that ends by itself prints.
    fn discover_once(&self, flags: &[&str]) -> String {
        let output = self.once_command(flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn once_command(&self, flags: &[&str]) -> Command {
        let source = format!("file:{}", self.world.dir.path().join("web.json").display());
        let what = ["discover", "--backend", "web", "--slots", "8", "--max-weight", "10"];
        let layout = ["--source", &source, "--table-layout", "hsdo", "--hsdo-table", &self.table];
        self.command(&[&what[..], &layout, flags].concat())
    }
}
