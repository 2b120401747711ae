//! A server of HSDO's and discover side by side.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Row, Site, haproxy, instance, serving};
use crate::support::proxy::Mode;
use crate::support::{Random, eventually, soak};

/// Servers come and go, and both place them. What one HSDO client and one sync-haproxy make of it is
/// the same in the end.
#[test]
fn both_servers_come_to_agree_however_many_come_and_go() {
    let Some(site) = Site::start(8) else { return };
    let [Some(hsdos), Some(own)] = [haproxy(8), haproxy(8)] else { return };
    let _server = site.hsdo_server(8);
    site.run(&[1, 2, 3]);
    eventually("HSDO's server to place them", || (site.held().len() == 3).then_some(()));
    let before = site.held();
    let discover = site.discover(8, &[]);
    let _client = site.hsdo_client(&hsdos);
    let _sync = site.sync("lb1", &own, &["--backend", "app", "--from", "web", "--port", "80"]);
    site.agree(&[1, 2, 3], &discover);
    let place = |held: Vec<(u32, String, u32)>| {
        held.into_iter().map(|(id, name, _)| (id, name)).collect::<BTreeSet<_>>()
    };
    assert_eq!(place(site.held()), place(before), "the takeover moved a server");
    let mut random = Random::new();
    let mut running = BTreeSet::from([1, 2, 3]);
    for _ in 0..soak(3, 30) {
        for _ in 0..random.rng.usize(1..4) {
            if running.len() > 3 {
                let leaves = *running.iter().nth(random.rng.usize(..running.len())).unwrap();
                running.remove(&leaves);
            }
            running.extend([random.rng.u8(1..30), random.rng.u8(1..30)]);
            running = running.into_iter().take(6).collect();
            site.run(&running.iter().copied().collect::<Vec<u8>>());
        }
        let now: Vec<u8> = running.iter().copied().collect();
        site.agree(&now, &discover);
        eventually("both HAProxies to agree", || {
            let (one, other) = (serving(&hsdos, "app"), serving(&own, "app"));
            (one == other && one.len() == now.len()).then_some(())
        });
    }
    drop(random);
    // Once they agree, neither writes: not even when something was last updated changes.
    let rows = site.rows();
    let passes = passes(&discover.ask("/metrics"));
    eventually("some more looks", || {
        (self::passes(&discover.ask("/metrics")) > passes + 20.0).then_some(())
    });
    assert_eq!(site.rows(), rows);
}

/// How much reading the rows has cost so far, which grows with each look.
fn passes(metrics: &str) -> f64 {
    let mut lines = metrics.lines().filter(|line| {
        line.starts_with("lbctl_store_consumed_capacity_units") && line.contains("hsdo-scan")
    });
    lines.next().and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
}

/// What is written between a look and the write that follows from it is not overwritten.
#[test]
fn a_row_that_changes_meanwhile_is_read_again() {
    let Some(site) = Site::start(2) else { return };
    site.run(&[1]);
    let discover = site.discover(2, &["--max-weight", "200"]);
    eventually("the ramp to begin", || (site.held().first()?.2 > 1).then_some(()));
    site.proxy.set(Mode::Late(Duration::from_millis(100)));
    let refused = "lbctl_discover_hsdo_writes_total{backend=\"web\",result=\"conflict\"}";
    eventually("a write to be refused", || {
        let row = site.rows().into_iter().find(|row| row.name == "i-1")?;
        site.put(&Row { updated: super::double::now(), ..row });
        discover.ask("/metrics").contains(refused).then_some(())
    });
    site.world.block_on(site.proxy.mend());
    let before = site.held()[0].2;
    eventually("the ramp to go on", || (site.held().first()?.2 > before).then_some(()));
}

/// One server in two rows, by two writers that did not know of each other.
#[test]
fn a_server_with_two_rows_keeps_one_of_them() {
    let Some(site) = Site::start(4) else { return };
    site.run(&[1]);
    let discover = site.discover(4, &[]);
    site.agree(&[1], &discover);
    let first = site.held();
    site.put(&Row::of(3, &instance(1), 1));
    site.put(&Row { name: "i-99".into(), ..Row::of(4, &instance(1), 1) });
    eventually("the others to go", || (site.held() == first).then_some(()));
    site.agree(&[1], &discover);
}
