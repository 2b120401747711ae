//! sync-haproxy on a table that HSDO's server writes.

use std::collections::BTreeMap;

use lbctl::model::HaproxyReport;

use super::{Item, Row, Site, haproxy, instance, s, serving};
use crate::support::eventually;
use crate::support::haproxy::{Backend, Haproxy, Options};

/// What each place serves, once it is just this.
fn serves(site: &Site, haproxy: &Haproxy, backend: &str, said: &str) {
    let what = format!("{backend} to be what the rows say\n{said}");
    eventually(&what, || {
        let rows: BTreeMap<u32, (String, u32)> = site
            .rows()
            .into_iter()
            .filter(|row| row.status == "enabled")
            .map(|row| (row.id, (format!("{}:80", row.ip), row.weight)))
            .collect();
        (serving(haproxy, backend) == rows).then_some(())
    });
}

const APP: [&str; 4] = ["--backend", "app/srv", "--port", "80"];

#[test]
fn haproxy_follows_what_a_server_of_hsdos_writes() {
    let Some(site) = Site::start(4) else { return };
    let Some(haproxy) = haproxy(4) else { return };
    let server = site.hsdo_server(4);
    let sync = site.sync("lb1", &haproxy, &APP);
    site.run(&[1, 2]);
    eventually("two servers to ramp", || {
        let weights: Vec<u32> = site.held().iter().map(|(.., weight)| *weight).collect();
        (weights.len() == 2 && weights.iter().all(|weight| *weight >= 3)).then_some(())
    });
    // Steps come and go: at the end of the ramp both stand still.
    eventually("full weight", || {
        site.held().iter().all(|(.., weight)| *weight == 10).then_some(())
    });
    serves(&site, &haproxy, "app", &sync.process.tail());
    sync.becomes_ready();
    let (id, ..) = site.held().into_iter().find(|(_, name, _)| name == "i-1").unwrap();
    let line =
        format!("hsdo_server_weight{{id=\"{id}\",name=\"i-1\",ip=\"10.0.0.1\",asg=\"blue\"}} 10.0");
    eventually("HSDO's metric", || sync.weights().contains(&line).then_some(()));
    site.run(&[2, 3]);
    eventually("another server", || {
        let names: Vec<String> = site.held().into_iter().map(|(_, name, _)| name).collect();
        (names.len() == 2 && names.contains(&"i-3".to_owned())).then_some(())
    });
    eventually("full weight again", || {
        site.held().iter().all(|(.., weight)| *weight == 10).then_some(())
    });
    serves(&site, &haproxy, "app", &sync.process.tail());
    eventually("the removed server's series to go", || {
        let weights = sync.weights();
        let gone = !weights.iter().any(|line| line.contains("i-1\""));
        (gone && weights.len() == 2).then_some(())
    });
    drop(server);
}

/// The report names slots and claims no revision: the rows have none.
#[test]
fn its_report_says_which_slots_may_serve() {
    let Some(site) = Site::start(3) else { return };
    let Some(haproxy) = haproxy(3) else { return };
    site.put(&Row::of(2, &instance(7), 10));
    let _sync = site.sync("lb1", &haproxy, &[&APP[..], &["--from", "web"]].concat());
    let slots = |report: &HaproxyReport| -> Option<Vec<u32>> {
        let web = report.backends.get(&"web".parse().unwrap())?;
        assert_eq!(web.applied.0, 0);
        let serving = web.serving.as_ref().filter(|_| web.converged)?;
        Some(serving.iter().map(|slot| slot.get()).collect())
    };
    let reported = |expected: &[u32]| {
        eventually(&format!("a report of {expected:?}"), || {
            let report = serde_json::from_str(&site.world.get("haproxies/lb1")?).unwrap();
            (slots(&report)? == expected).then_some(())
        });
    };
    reported(&[2]);
    site.put(&Row::free(2));
    reported(&[]);
    site.put(&Row::of(1, &instance(7), 0));
    eventually("a drain", || (haproxy.server("app", "srv1").state() == "drain").then_some(()));
    reported(&[1]);
}

#[test]
fn groups_and_fallbacks_are_those_of_the_rows() {
    let Some(site) = Site::start(3) else { return };
    let backends = ["app", "rest"].map(|name| Backend::new(name, 3).prefix("srv"));
    let Some(haproxy) = Haproxy::start(Options::new(backends)) else { return };
    site.put(&Row::of(1, &instance(1), 10));
    site.put(&Row { asg: "green".into(), ..Row::of(2, &instance(2), 10) });
    let file = site.world.dir.path().join("sync.toml");
    let text = "[[sync-haproxy.backends]]\nbackend = 'app'\ngroups = ['blue']\nfallback = 'rest'\nport = 80\n";
    std::fs::write(&file, text).unwrap();
    let sync = site.sync("lb1", &haproxy, &["--config", file.to_str().unwrap()]);
    let both = |app: &[u32], rest: &[u32]| {
        eventually(&format!("{app:?} and {rest:?}\n{}", sync.process.tail()), || {
            let slots = |backend| serving(&haproxy, backend).into_keys().collect::<Vec<u32>>();
            (slots("app") == app && slots("rest") == rest).then_some(())
        });
    };
    both(&[1], &[2]);
    // A server of another group in the slot leaves none behind, and so does one that goes.
    site.put(&Row { asg: "green".into(), ..Row::of(1, &instance(3), 10) });
    both(&[], &[1, 2]);
    site.put(&Row::free(1));
    site.put(&Row::of(2, &instance(2), 10));
    both(&[2], &[]);
}

#[test]
fn a_table_that_is_away_or_empty_or_damaged_leaves_haproxy_as_it_is() {
    let Some(site) = Site::start(3) else { return };
    let Some(haproxy) = haproxy(3) else { return };
    site.put(&Row::of(1, &instance(1), 10));
    site.put(&Row::of(2, &instance(2), 10));
    let sync = site.sync("lb1", &haproxy, &APP);
    serves(&site, &haproxy, "app", &sync.process.tail());
    sync.becomes_ready();
    let before = serving(&haproxy, "app");

    site.world.block_on(site.proxy.cut());
    sync.waits_for("serving the last known state: HSDO's table");
    site.put(&Row::free(1));
    assert_eq!(serving(&haproxy, "app"), before);
    site.world.block_on(site.proxy.mend());
    serves(&site, &haproxy, "app", &sync.process.tail());
    sync.becomes_ready();
    let before = serving(&haproxy, "app");

    let damaged: Item = [s("10.0.0.2; shutdown sessions server app/srv1")]
        .map(|ip| ("IPAddress".to_owned(), ip))
        .into();
    site.put_item(Row::of(2, &instance(2), 5).to_item().into_iter().chain(damaged).collect());
    sync.waits_for("row 2 of HSDO's table cannot be read: IPAddress");
    site.put(&Row::of(3, &instance(2), 10));
    eventually("the others to be followed", || {
        serving(&haproxy, "app").contains_key(&3).then_some(())
    });
    assert_eq!(serving(&haproxy, "app").get(&2), before.get(&2));

    let before = serving(&haproxy, "app");
    (1..=3).for_each(|id| site.delete(id));
    sync.waits_for("HSDO's table is empty");
    assert_eq!(serving(&haproxy, "app"), before);
}

/// A scan ends a page at 1 MB of what is stored, whatever is asked for of it.
#[test]
fn a_table_of_several_pages_is_read_to_its_end() {
    let Some(site) = Site::start(0) else { return };
    let Some(haproxy) = haproxy(12) else { return };
    for number in 1..=12 {
        let mut item = Row::of(number.into(), &instance(number), 10).to_item();
        item.insert("Remarks".into(), s(&"x".repeat(200_000)));
        site.put_item(item);
    }
    assert!(site.items().len() < 12, "this is no table of several pages");
    let sync = site.sync("lb1", &haproxy, &APP);
    eventually(&format!("all to serve\n{}", sync.process.tail()), || {
        (serving(&haproxy, "app").len() == 12).then_some(())
    });
}

#[test]
fn more_rows_than_places_and_doubled_servers_are_told() {
    let Some(site) = Site::start(3) else { return };
    let Some(haproxy) = haproxy(2) else { return };
    let sync = site.sync("lb1", &haproxy, &APP);
    sync.waits_for("no place for 1 of the table's 3 slots, the first is srv3");
    site.put(&Row::of(1, &instance(1), 10));
    site.put(&Row::of(2, &instance(1), 10));
    sync.waits_for("rows 1 and 2 of HSDO's table both have 10.0.0.1");
}

#[test]
fn a_wrong_table_is_an_error_with_the_remedy() {
    let Some(mut site) = Site::start(1) else { return };
    let Some(haproxy) = haproxy(1) else { return };
    site.table = "elsewhere".into();
    let sync = site.sync("lb1", &haproxy, &APP);
    sync.waits_for("ResourceNotFoundException");
    sync.waits_for("set hsdo-table and aws-region to HSDO's own DYNAMODB_TABLE_NAME");
    let socket = haproxy.unix().to_string();
    let once = ["sync-haproxy", "--once", "--socket", &socket, "--table-layout", "hsdo"];
    let once = [&once[..], &APP, &["--hsdo-table", "elsewhere"]].concat();
    let output = site.command(&once).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

/// A table that was made anew, or another one's: what serves goes on serving.
#[test]
fn nothing_leaves_for_a_table_that_is_new_to_sync_haproxy_and_half_empty() {
    let Some(site) = Site::start(4) else { return };
    let Some(haproxy) = haproxy(4) else { return };
    for number in 1..=3 {
        site.put(&Row::of(number, &instance(number as u8), 10));
    }
    let served = || serving(&haproxy, "app").into_keys().collect::<Vec<u32>>();
    let sync = site.sync("lb1", &haproxy, &APP);
    eventually("three to serve", || (served() == [1, 2, 3]).then_some(()));
    drop(sync);
    // Rows that are not there, then rows that are free from the first look on.
    for number in 1..=4 {
        site.delete(number);
    }
    site.put(&Row::free(4));
    let sync = site.sync("lb1", &haproxy, &APP);
    sync.waits_for("says nothing");
    assert_eq!(served(), [1, 2, 3]);
    drop(sync);
    for number in 1..=4 {
        site.put(&Row::free(number));
    }
    let sync = site.sync("lb1", &haproxy, &APP);
    sync.waits_for("says nothing");
    assert_eq!(served(), [1, 2, 3]);
    // Its server fills it again, and frees one before our eyes.
    for number in 1..=3 {
        site.put(&Row::of(number, &instance(number as u8), 10));
    }
    sync.becomes_ready();
    site.put(&Row::free(3));
    eventually("the third to leave", || (served() == [1, 2]).then_some(()));
    sync.becomes_ready();
}
