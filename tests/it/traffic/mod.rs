//! No request is lost: clients on a schedule, through a real HAProxy, while everything around them
//! changes and breaks.

mod churn;
mod client;
mod fleet;

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lbctl::daemon::spawn_owned;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::sleep;

use client::{Clients, Kind, Tally};
use fleet::{Fleet, Setup};

use super::support::etcd::Etcd;
use super::support::haproxy::{Backend, Haproxy, Options, Version};
use super::support::{LightServer, Random, eventually_async, soak};

/// How a store is taken away.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// A process holds the database file's lock.
    Locked,
    /// The file is somewhere else.
    Moved,
    /// etcd is killed.
    Killed,
    /// etcd is stopped; when it goes on, every lease is over.
    Stopped,
}

const OUTAGE: Duration = Duration::from_secs(20);

/// All versions at once, since most of it is waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_whatever_changes_and_breaks() {
    let mut random = Random::new();
    let mut worlds = JoinSet::new();
    for (version, through_master, seamless, outage) in [
        (Version::V2_6, false, true, Outage::Locked),
        (Version::V3_0, true, false, Outage::Killed),
        (Version::V3_2, false, true, Outage::Moved),
        (Version::V3_4, true, true, Outage::Stopped),
    ] {
        let setup = Setup { version, through_master, seamless };
        worlds.spawn(world(setup, outage, random.rng.u64(..)));
    }
    let worlds = worlds.join_all().await;
    let said: Vec<String> = worlds.iter().map(|(_, said)| said.clone()).collect();
    eprintln!("{}", said.join("\n"));
    assert!(worlds.iter().all(|(whole, _)| *whole), "requests were lost:\n{}", said.join("\n"));
}

/// One version's life; whether every request was answered, and the numbers.
async fn world(setup: Setup, outage: Outage, seed: u64) -> (bool, String) {
    let mut said = format!("{setup:?}, {outage:?}, seed {seed}");
    let etcd = match outage {
        Outage::Killed | Outage::Stopped => block_in_place(Etcd::start),
        Outage::Locked | Outage::Moved => None,
    };
    let url = etcd.as_ref().map(|etcd| etcd.url("traffic"));
    let Some(fleet) = Fleet::start(setup, url).await else { return (true, said) };
    let fleet = Arc::new(fleet);
    let (stop, stopped) = watch::channel(false);
    let churn = spawn_owned(churn::churn(fleet.clone(), seed, stopped));
    for backend in ["plain", "http", "dynamic"] {
        fleet.wait_for_serving(backend, 3).await;
    }
    fleet.go_on();
    let mut whole = true;
    let mut failures = Vec::new();
    let mut end = |phase: &str| {
        let tally = fleet.take();
        whole &= tally.failed == 0 && tally.answered > 0;
        if phase == "churn" {
            // Both kinds of servers truly came and went.
            let came = |kind| tally.by.keys().filter(|name| name.starts_with(kind)).count();
            whole &=
                came(churn::REGISTERED_ID) > churn::MOST && came(churn::LISTED_ID) > churn::MOST;
        }
        failures.extend(tally.first_failure);
        said.push_str(&format!("\n  {phase}: {}", tally.say()));
    };
    sleep(Duration::from_secs(soak(60, 900))).await;
    end("churn");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..soak(6, 60) {
        sleep(Duration::from_millis(rng.u64(500..3_000))).await;
        fleet.reload().await;
    }
    fleet.go_on_after_reloads().await;
    // Longer than any session.
    sleep(Duration::from_secs(6)).await;
    fleet.reloads_are_over();
    end("reloads");
    for n in 0..soak(4, 40) {
        fleet.replace_discover(n % 2, Duration::from_secs(rng.u64(1..5))).await;
    }
    end("dead leaders");
    let _etcd = take_away(&fleet, etcd, outage).await;
    sleep(Duration::from_secs(5)).await;
    end("store away");
    stop.send(true).unwrap();
    let changes = churn.join().await.unwrap();
    said.push_str(&format!("\n  {changes} changes"));
    if !whole {
        said.push_str(&format!("\n{}", fleet.say()));
        for moment in failures {
            said.push_str(&format!("\n{}", fleet.say_around(moment)));
        }
    }
    (whole, said)
}

async fn take_away(fleet: &Fleet, etcd: Option<Etcd>, outage: Outage) -> Option<Etcd> {
    let file = fleet.dir.path().join("lbctl.db");
    let mut etcd = etcd;
    match outage {
        Outage::Locked => {
            let lock = block_in_place(|| {
                let lock = rusqlite::Connection::open(&file).unwrap();
                lock.busy_timeout(Duration::from_secs(10)).unwrap();
                lock.execute_batch("BEGIN IMMEDIATE").unwrap();
                lock
            });
            sleep(OUTAGE).await;
            drop(lock);
        }
        Outage::Moved => {
            let away = file.with_extension("away");
            std::fs::rename(&file, &away).unwrap();
            sleep(OUTAGE).await;
            std::fs::rename(&away, &file).unwrap();
        }
        Outage::Killed => {
            let etcd = etcd.as_mut().unwrap();
            etcd.kill(0);
            sleep(OUTAGE).await;
            block_in_place(|| etcd.restart(0));
        }
        Outage::Stopped => {
            let etcd = etcd.as_mut().unwrap();
            etcd.pause(0);
            sleep(OUTAGE).await;
            etcd.resume(0);
        }
    }
    etcd
}

/// Three servers that take HTTP and TCP, in a HAProxy that nobody watches over, and clients.
struct Bare {
    haproxy: Haproxy,
    servers: Vec<LightServer>,
    clients: [Clients; 3],
}

impl Bare {
    async fn start(version: Version) -> Option<Self> {
        // Without checks, which would hide a fault from most clients.
        let backends = [Backend::new("plain", 3), Backend::new("http", 3).http()];
        let haproxy = block_in_place(|| Haproxy::start(Options::new(backends).on(version)))?;
        let mut servers = Vec::new();
        for n in 1..=3 {
            let any = SocketAddr::from(([127, 0, 0, 2], 0));
            let server = LightServer::start(&format!("s{n}"), any).await.unwrap();
            let address = server.address();
            for backend in ["plain", "http"] {
                let name = format!("{backend}/s{n}");
                set(&haproxy, &name, &format!("addr {} port {}", address.ip(), address.port()));
                set(&haproxy, &name, "state ready");
            }
            servers.push(server);
        }
        let clients =
            [(Kind::Fresh, "http", 60), (Kind::Kept, "http", 60), (Kind::Session, "plain", 4)]
                .map(|(kind, backend, rate)| Clients::new(kind, haproxy.frontend(backend), rate));
        clients.iter().for_each(Clients::go_on);
        let bare = Self { haproxy, servers, clients };
        bare.have_answered("sessions with every server", |tally| tally.answered > 300).await;
        assert_eq!(bare.take().iter().map(|tally| tally.failed).sum::<u64>(), 0);
        Some(bare)
    }

    fn take(&self) -> [Tally; 3] {
        self.clients.each_ref().map(Clients::take)
    }

    async fn have_failed(&self, what: &str, kind: Kind) {
        eventually_async(what, async || {
            let tallies = self.take();
            (tallies[kind as usize].failed > 0).then_some(())
        })
        .await;
    }

    async fn have_answered(&self, what: &str, holds: impl Fn(&Tally) -> bool) {
        let mut all = Tally::default();
        eventually_async(what, || {
            self.take().into_iter().for_each(|tally| all.add(tally));
            ready(holds(&all).then_some(()))
        })
        .await;
    }
}

fn set(haproxy: &Haproxy, server: &str, what: &str) {
    haproxy.raw(&format!("set server {server} {what}"));
}

/// What the test above would see if lbctl took a server out without a drain, or moved one that
/// takes traffic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_see_what_is_done_wrong() {
    for version in Version::ALL {
        let Some(mut bare) = Bare::start(version).await else { return };
        for backend in ["plain", "http"] {
            set(&bare.haproxy, &format!("{backend}/s1"), "state maint");
        }
        drop(bare.servers.remove(0));
        bare.have_failed("a server that ends without a drain", Kind::Session).await;
        for backend in ["plain", "http"] {
            set(&bare.haproxy, &format!("{backend}/s2"), "addr 127.0.0.2 port 9");
        }
        bare.have_failed("another address under a ready server", Kind::Fresh).await;
    }
}
