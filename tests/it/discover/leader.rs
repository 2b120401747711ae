//! Leaders that stand still, or whose store answers late: the next one has the table to itself.

use std::time::Duration;

use lbctl::model::{BackendSpec, SlotRecord};
use lbctl::store::Entry;
use serde_json::Value;
use tempfile::TempDir;

use super::history::{History, Tenure};
use super::{World, web};
use crate::support::etcd::Etcd;
use crate::support::proxy::Mode;
use crate::support::{Process, Proxy, eventually, eventually_async, free_port, http_get};

/// A copy of discover whose every write says whose it is: the servers are in a group of its name,
/// and the spec has a greatest weight of its own.
struct Copy {
    name: &'static str,
    process: Process,
    admin: u16,
}

const WEIGHTS: [(&str, u16); 2] = [("first", 91), ("second", 92)];

impl Copy {
    fn start(world: &World, name: &'static str, url: &str, ttl: &str) -> Self {
        let source = list(world, name, &["a", "b"]);
        let admin = free_port();
        let (at, weight) = (format!("127.0.0.1:{admin}"), weight_of(name).to_string());
        let mut command = world.command_on(url, &["--source", &source, "--slots", "9"]);
        command.args(["--id", name, "--max-weight", &weight, "--ttl", ttl, "--admin", &at]);
        let process = Process::start(name, world.dir.path(), &mut command);
        Self { name, process, admin }
    }

    /// What its source sees from now on.
    fn sees(&self, world: &World, ids: &[&str]) {
        list(world, self.name, ids);
    }

    fn status(&self) -> Value {
        let reply = http_get(self.admin, "/status").unwrap_or_default();
        let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    fn standing(&self) -> Value {
        self.status()["parts"]["discover"]["backends"]["web"]["standing"].clone()
    }

    fn is_ready(&self) -> bool {
        http_get(self.admin, "/readyz").is_some_and(|reply| reply.contains("200 OK"))
    }

    /// Waits until the whole table is this copy's, with these servers.
    async fn has_made(&self, world: &World, ids: &[&str]) {
        let what = format!("{ids:?} of {}; {}", self.name, self.process.tail());
        eventually_async(&what, async || {
            let listing = world.store.list(&lbctl::model::keys::slots(&web())).await.unwrap();
            let records = listing.entries.iter().map(|entry| entry.json::<SlotRecord>().unwrap());
            let seen: Vec<(String, String)> =
                records.map(|record| (record.endpoint.id.to_string(), group(&record))).collect();
            let wanted = ids.iter().map(|id| ((*id).to_owned(), self.name.to_owned()));
            (seen == wanted.collect::<Vec<_>>()).then_some(())
        })
        .await;
    }
}

/// The file that a copy reads, replaced whole.
fn list(world: &World, name: &str, ids: &[&str]) -> String {
    let items = ids.iter().map(|id| {
        let port = 8000 + u16::from(id.as_bytes()[0]);
        serde_json::json!({ "id": id, "address": format!("127.0.0.1:{port}"), "group": name })
    });
    let text = Value::from_iter(items).to_string();
    world.file(&format!("{name}.new"), &text);
    let path = world.dir.path().join(format!("{name}.json"));
    std::fs::rename(world.dir.path().join(format!("{name}.new")), &path).unwrap();
    format!("file:{}", path.display())
}

fn weight_of(name: &str) -> u16 {
    WEIGHTS.iter().find(|(copy, _)| *copy == name).unwrap().1
}

fn group(record: &SlotRecord) -> String {
    record.endpoint.group.as_ref().unwrap().to_string()
}

fn author(entry: &Entry) -> String {
    if let Ok(record) = entry.json::<SlotRecord>() {
        return group(&record);
    }
    let weight = entry.json::<BackendSpec>().unwrap().ramp.max.get();
    WEIGHTS.iter().find(|(_, own)| *own == weight).unwrap().0.to_owned()
}

/// Two leaderships, of which the second has made the table to its end.
fn two_in_a_row(history: &History) -> [Tenure; 2] {
    let tenures = history.check(author);
    let [(first, _), (second, commits)] = &tenures[..] else { panic!("{tenures:?}") };
    assert_eq!((first.id.as_str(), second.id.as_str()), ("first", "second"));
    assert!(*commits > 0, "{tenures:?}");
    [first.clone(), second.clone()]
}

/// Both tell who leads, and both are ready: a follower does its work too.
fn both_tell_the_truth(first: &Copy, second: &Copy, token: u64) {
    let (leads, follows) = (second, first);
    let what = format!("both to tell the truth; {}", follows.process.tail());
    eventually(&what, || {
        let leader = leads.standing();
        let right = leader["leads"] == true
            && leader["token"] == token
            && follows.standing() == serde_json::json!({ "leads": false, "leader": leads.name });
        (right && leads.is_ready() && follows.is_ready()).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_a_leader_that_stood_still_finds_the_table_its_successor_s() {
    stood_still(World::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_a_leader_that_stood_still_finds_the_table_its_successor_s() {
    let Some(etcd) = Etcd::shared() else { return };
    stood_still(World::on(TempDir::new().unwrap(), etcd.url("discover-stood-still")).await).await;
}

async fn stood_still(world: World) {
    let history = History::start(&world.store).await;
    let mut first = Copy::start(&world, "first", &world.url, "2s");
    first.has_made(&world, &["a", "b"]).await;
    let mut second = Copy::start(&world, "second", &world.url, "2s");
    second.process.wait_for_log("following");
    first.process.signal("STOP");
    // It will see this in the moment it goes on, before it hears of anything else.
    first.sees(&world, &["a", "b", "c", "d"]);
    second.has_made(&world, &["a", "b"]).await;
    first.process.signal("CONT");
    first.process.wait_for_log("WARN not leading any more: its lease could not be renewed in time");
    first.process.wait_for_log("leader=\"second\"");
    second.sees(&world, &["a", "b", "e"]);
    second.has_made(&world, &["a", "b", "e"]).await;
    let [_, tenure] = two_in_a_row(&history);
    both_tell_the_truth(&first, &second, tenure.token.0);
    // The first is still good for a leader.
    second.process.signal("TERM");
    assert!(second.process.wait().success());
    eventually("the first to lead again", || (first.standing()["leads"] == true).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_reaches_the_store_after_its_leader_s_time_is_refused() {
    let Some(etcd) = Etcd::start() else { return };
    let world = World::on(TempDir::new().unwrap(), etcd.url("test")).await;
    let proxy = Proxy::start(etcd.port(0)).await;
    let history = History::start(&world.store).await;
    let slow_way = format!("etcd://127.0.0.1:{}/test", proxy.port());
    let mut first = Copy::start(&world, "first", &slow_way, "3s");
    first.has_made(&world, &["a", "b"]).await;
    let mut second = Copy::start(&world, "second", &world.url, "3s");
    second.process.wait_for_log("following");
    proxy.freeze();
    first.sees(&world, &["a", "b", "c"]);
    let late = "127.0.0.1:8099";
    eventually("the write to be on its way", || proxy.holds(late).then_some(()));
    // It cannot take it back.
    first.process.signal("STOP");
    // The new leader has other things to do than the slot that the late write is for.
    second.process.wait_for_log("INFO leading");
    second.has_made(&world, &["a", "b"]).await;
    proxy.mend().await;
    // What was held has arrived before this.
    second.sees(&world, &["a", "b", "d"]);
    second.has_made(&world, &["a", "b", "d"]).await;
    first.process.signal("CONT");
    first.process.wait_for_log("WARN not leading any more");
    first.process.wait_for_log("leader=\"second\"");
    let [_, tenure] = two_in_a_row(&history);
    both_tell_the_truth(&first, &second, tenure.token.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_answers_come_late_stops_before_its_lease_can_end() {
    let Some(etcd) = Etcd::start() else { return };
    let world = World::on(TempDir::new().unwrap(), etcd.url("test")).await;
    let proxy = Proxy::start(etcd.port(0)).await;
    let history = History::start(&world.store).await;
    let slow_way = format!("etcd://127.0.0.1:{}/test", proxy.port());
    let mut first = Copy::start(&world, "first", &slow_way, "8s");
    first.has_made(&world, &["a", "b"]).await;
    let mut second = Copy::start(&world, "second", &world.url, "8s");
    second.process.wait_for_log("following");
    // Late, but just within the quarter of a TTL that a renewal has.
    proxy.set(Mode::Late(Duration::from_millis(1700)));
    let renewed = "leads with answers that come late";
    eventually(renewed, || (first.standing()["leads"] == true).then_some(()));
    // Long enough for renewals that were answered late, and writes as well.
    let all = ["a", "b", "c", "d", "e", "f"];
    for count in 3..6 {
        let before = history.table_commits().await;
        first.sees(&world, &all[..count]);
        let more = async || (history.table_commits().await > before).then_some(());
        eventually_async("a write against late answers", more).await;
    }
    assert!(!first.process.log().contains("not leading any more"), "{}", first.process.tail());
    // None that it drains, since its group would go on in what the second writes.
    second.sees(&world, &all[..5]);
    proxy.freeze();
    first.sees(&world, &all);
    let [(tenure, _)] = &history.check(author)[..] else { panic!("another one leads too soon") };
    let stopped = eventually_async("the lease to end", async || {
        let log = first.process.log();
        history.ended(tenure).then(|| log.contains("WARN not leading any more"))
    })
    .await;
    assert!(stopped, "it still led when its lease had ended; {}", first.process.tail());
    second.process.wait_for_log("INFO leading");
    proxy.mend().await;
    first.process.wait_for_log("leader=\"second\"");
    second.sees(&world, &["a", "b", "c", "d", "e", "g"]);
    second.has_made(&world, &["a", "b", "c", "d", "e", "g"]).await;
    let [_, tenure] = two_in_a_row(&history);
    both_tell_the_truth(&first, &second, tenure.token.0);
}
