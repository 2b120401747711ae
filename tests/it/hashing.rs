//! Load balancers that share a table send each key to the same server: `balance uri` with
//! `hash-type consistent`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lbctl::model::{
    BackendName, BackendSpec, Ramp, SlotRecord, SlotState, Timestamp, Weight, keys,
};
use lbctl::store::{self, Commit, SharedStore, Txn};
use tempfile::TempDir;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::support::haproxy::{Backend, Haproxy, Options, Server, Version, on_every_haproxy};
use super::support::http::{connect, get};
use super::support::{
    DEADLINE, LightServer, Process, Random, endpoint, eventually_async, lbctl, soak, table,
};

on_every_haproxy! {
    a_key_goes_to_the_same_server_everywhere_after_many_changes,
    both_modes_agree,
    load_balancers_agree_at_every_step_of_a_ramp,
}

const SLOTS: u32 = 12;
const KEYS: usize = 500;
const CHECK: &str = "check inter 100ms rise 2 fall 2";

/// Which server each key goes to.
type Map = Vec<String>;

/// A table, servers for it, and load balancers on it.
struct World {
    store: SharedStore,
    url: String,
    table: BTreeMap<u32, SlotRecord>,
    servers: Vec<LightServer>,
    ids: u32,
    balancers: Vec<Balancer>,
    folder: TempDir,
}

struct Balancer {
    haproxy: Haproxy,
    sync: Process,
    name: String,
}

impl World {
    async fn start(ramp: Ramp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("store.db").display());
        let store = store::open(&url.parse().unwrap()).await.unwrap();
        let (drain_deadline, rest) = (Duration::from_secs(300), Duration::from_secs(1));
        let drain_at_least = Duration::ZERO;
        let spec = BackendSpec {
            slots: SLOTS,
            ramp,
            drain_deadline,
            drain_at_least,
            rest,
            unplaced: Vec::new(),
        };
        let mut servers = Vec::new();
        for n in 1..=16 {
            let any = SocketAddr::from(([127, 0, 1, n], 0));
            servers.push(LightServer::start(&format!("p{n}"), any).await.unwrap());
        }
        let (table, balancers) = (BTreeMap::new(), Vec::new());
        let world = Self { store, url, table, servers, ids: 0, balancers, folder };
        let txn = Txn::new().put(keys::spec(&web()), serde_json::to_vec(&spec).unwrap());
        world.commit(table::confirmed(txn, &web())).await;
        world
    }

    async fn commit(&self, txn: Txn) {
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Committed(_)));
    }

    /// Another load balancer, which begins with the table as it is now.
    fn add_balancer(&mut self, version: Version, dynamic: bool) -> Option<()> {
        let mut backend = Backend::new("app", if dynamic { 0 } else { SLOTS }).prefix("srv").http();
        if !dynamic {
            backend = backend.server(CHECK);
        }
        let backend = backend.balance("uri").line("hash-type consistent");
        let haproxy =
            block_in_place(|| Haproxy::start(Options::new([backend]).master().on(version)))?;
        let name = format!("lb{}", self.balancers.len() + 1);
        let mut command = Command::new(lbctl());
        command.args(["--store", &self.url, "sync-haproxy", "--from", "web", "--name", &name]);
        command.args(["--backend", "app/srv", "--admin", "off"]);
        command.args(["--socket", &haproxy.unix().to_string()]);
        if dynamic {
            command.args(["--mode", "dynamic", "--server-options", CHECK]);
        }
        let sync = Process::start(&name, self.folder.path(), &mut command);
        let name = format!("{name} ({version:?}, dynamic {dynamic})");
        self.balancers.push(Balancer { haproxy, sync, name });
        Some(())
    }

    /// One slot gets a server, another one, or none.
    async fn change(&mut self, rng: &mut fastrand::Rng) {
        let number = rng.u32(1..=SLOTS);
        let held = self.table.contains_key(&number);
        if held && self.table.len() > 4 && rng.u8(..3) == 0 {
            self.table.remove(&number);
            self.commit(table::changes(&self.store, &web(), [(number, None)]).await).await;
            return;
        }
        let address = self.servers[rng.usize(..self.servers.len())].address();
        // No two slots share an address, or a key's answer would not tell them apart.
        let text = address.to_string();
        if self.table.values().any(|record| record.endpoint.address.to_string() == text) {
            return;
        }
        self.place(number, address, Timestamp::now()).await;
    }

    async fn place(&mut self, number: u32, address: SocketAddr, started: Timestamp) {
        self.ids += 1;
        let endpoint = endpoint(&format!("e{}", self.ids), address);
        let record = SlotRecord { endpoint, state: SlotState::Ready, since: started, started };
        let placed = [(number, Some(record.clone()))];
        self.commit(table::changes(&self.store, &web(), placed).await).await;
        self.table.insert(number, record);
    }

    /// Waits until every load balancer has the table, with every server up.
    async fn settled(&self) {
        for balancer in &self.balancers {
            let what = format!("{} to have the table\n{}", balancer.name, balancer.sync.tail());
            eventually_async(&what, async || {
                let serving = block_in_place(|| balancer.serving());
                let wanted = self.table.iter().map(|(number, record)| {
                    (format!("srv{number}"), record.endpoint.address.to_string())
                });
                (serving == wanted.collect()).then_some(())
            })
            .await;
        }
    }

    /// Every load balancer's map, which must be one.
    async fn agreed(&self) -> Map {
        self.settled().await;
        let first = self.balancers[0].map().await;
        let servers: BTreeSet<&String> = first.iter().collect();
        assert_eq!(servers.len(), self.table.len(), "a server that no key goes to");
        for balancer in &self.balancers[1..] {
            let other = balancer.map().await;
            assert_eq!(differing(&first, &other), 0, "{} differs", balancer.name);
        }
        first
    }

    /// The weight of the server that ramps, where every load balancer has the same one before and
    /// after each of them was asked for all keys.
    async fn agreed_at_this_step(&self) -> Option<u32> {
        let weights = || {
            let all = self.balancers.iter().map(Balancer::weights);
            block_in_place(|| all.collect::<BTreeSet<_>>())
        };
        let before = weights();
        let mut maps = BTreeSet::new();
        for balancer in &self.balancers {
            maps.insert(balancer.map().await);
        }
        if before.len() != 1 || before != weights() {
            return None;
        }
        assert_eq!(maps.len(), 1, "they differ with the same weights {before:?}");
        let weights = before.into_iter().next()?;
        weights.into_iter().find(|(name, _)| name == "srv5").map(|(_, weight)| weight)
    }
}

impl Balancer {
    /// Servers that take traffic with their full weight.
    fn serving(&self) -> BTreeMap<String, String> {
        let servers = self.haproxy.servers("app");
        let serves = |s: &&Server| s.state() == "ready" && s.is_up() && s.weight() == 100;
        let serving = servers.iter().filter(serves);
        serving.map(|s| (s.get("srv_name").to_owned(), s.address())).collect()
    }

    fn weights(&self) -> Vec<(String, u32)> {
        let servers = self.haproxy.servers("app");
        let up = servers.iter().filter(|s| s.state() == "ready" && s.is_up());
        let mut weights: Vec<_> = up.map(|s| (s.get("srv_name").to_owned(), s.weight())).collect();
        weights.sort();
        weights
    }

    async fn map(&self) -> Map {
        let mut stream = connect(self.haproxy.frontend("app")).await.unwrap();
        let mut map = Vec::with_capacity(KEYS);
        for n in 0..KEYS {
            let (server, _) = get(&mut stream, &format!("/path/{n}"), "").await.unwrap();
            map.push(server);
        }
        map
    }
}

fn differing(a: &Map, b: &Map) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

fn web() -> BackendName {
    "web".parse().unwrap()
}

fn full() -> Ramp {
    Ramp::flat(Weight::saturating(100))
}

/// Plays the changes; a load balancer comes before the first, and the others at times among them.
async fn grow(random: &mut Random, kinds: &[(Version, bool)]) -> Option<World> {
    let changes = soak(200, 2_000);
    let mut world = World::start(full()).await;
    for n in 0..changes {
        if n % (changes / kinds.len()) == 0 && world.balancers.len() < kinds.len() {
            let (version, dynamic) = kinds[world.balancers.len()];
            world.add_balancer(version, dynamic)?;
        }
        world.change(&mut random.rng).await;
        // Some changes are seen one by one, and some together.
        sleep(Duration::from_millis(random.rng.u64(..30))).await;
    }
    Some(world)
}

async fn a_key_goes_to_the_same_server_everywhere_after_many_changes(version: Version) {
    let mut random = Random::new();
    for dynamic in [false, true] {
        let Some(mut world) = grow(&mut random, &[(version, dynamic); 3]).await else { return };
        let map = world.agreed().await;
        block_in_place(|| {
            world.balancers[1].haproxy.kill();
            world.balancers[1].haproxy.start_again();
            world.balancers[2].haproxy.reload();
        });
        assert_eq!(differing(&map, &world.agreed().await), 0, "keys moved with a restart");
    }
}

/// Places of the configuration and servers that were added, both with the same ids. Versions do not
/// agree with each other: HAProxy's hash has changed.
async fn both_modes_agree(version: Version) {
    let Some(world) = grow(&mut Random::new(), &[(version, false), (version, true)]).await else {
        return;
    };
    world.agreed().await;
}

/// Between two steps every load balancer has computed the same weights by itself.
async fn load_balancers_agree_at_every_step_of_a_ramp(version: Version) {
    let ramp = Ramp {
        min: Weight::saturating(20),
        max: Weight::saturating(100),
        step: Weight::saturating(20),
        interval: Duration::from_secs(2),
    };
    for dynamic in [false, true] {
        let mut world = World::start(ramp).await;
        for _ in 0..3 {
            let Some(()) = world.add_balancer(version, dynamic) else { return };
        }
        let long_ago: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let addresses: Vec<SocketAddr> = world.servers.iter().map(LightServer::address).collect();
        for number in 1..=4 {
            world.place(number, addresses[number as usize], long_ago).await;
        }
        world.agreed().await;
        world.place(5, addresses[5], Timestamp::now()).await;
        let mut steps = BTreeSet::new();
        let started = Instant::now();
        while !steps.contains(&100) {
            assert!(started.elapsed() < DEADLINE, "the ramp does not end: {steps:?}");
            steps.extend(world.agreed_at_this_step().await);
        }
        assert!(steps.len() >= 3, "hardly a step was seen: {steps:?}");
        world.agreed().await;
    }
}
