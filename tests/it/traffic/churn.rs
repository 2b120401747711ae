//! Servers that come, change, leave and move without pause. None ends before it may.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lbctl::model::{Endpoint, SlotRecord, SlotState, Timestamp, Weight};
use lbctl::registry::{Left, Registrar, RegistrarState, Until};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::fleet::{Fleet, LISTED, REGISTERED};
use crate::support::{LightServer, endpoint, eventually_async};

/// How the ids of servers begin.
pub const REGISTERED_ID: &str = "r";
pub const LISTED_ID: &str = "f";

/// How many servers each table has.
const FEWEST: usize = 4;
pub const MOST: usize = 7;

/// A server so old surely serves.
const GROWN_UP: Duration = Duration::from_secs(3);

/// How long a late server is known before it listens.
const LATE: Duration = Duration::from_millis(700);

/// Longer than any session.
const SESSION: Duration = Duration::from_secs(6);

/// Longer than any outage here.
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);

/// Changes both tables until it is told to stop; answers how many changes it made.
pub async fn churn(fleet: Arc<Fleet>, seed: u64, stop: watch::Receiver<bool>) -> usize {
    let mut registered = Registered::new(fleet.clone(), seed);
    let mut listed = Listed::new(fleet, seed);
    let (a, b) = tokio::join!(registered.run(stop.clone()), listed.run(stop));
    a + b
}

async fn told(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.unwrap();
}

/// Servers as `lbctl register` runs them.
struct Registered {
    fleet: Arc<Fleet>,
    rng: fastrand::Rng,
    members: Vec<Member>,
    /// Where servers once were.
    left: Vec<SocketAddr>,
    lives: JoinSet<SocketAddr>,
    count: usize,
}

struct Member {
    id: String,
    leave: oneshot::Sender<()>,
    /// When it was first seen to have a slot.
    placed: Option<Instant>,
}

impl Registered {
    fn new(fleet: Arc<Fleet>, seed: u64) -> Self {
        Self {
            fleet,
            rng: fastrand::Rng::with_seed(seed),
            members: Vec::new(),
            left: Vec::new(),
            lives: JoinSet::new(),
            count: 0,
        }
    }

    async fn run(&mut self, mut stop: watch::Receiver<bool>) -> usize {
        for _ in 0..FEWEST {
            self.join(false);
        }
        loop {
            tokio::select! {
                () = sleep(Duration::from_millis(self.rng.u64(100..700))) => self.step().await,
                Some(left) = self.lives.join_next() => self.left.push(left.unwrap()),
                () = told(&mut stop) => return self.count,
            }
        }
    }

    async fn step(&mut self) {
        self.see_placed().await;
        let is_grown_up =
            |n: &usize| self.members[*n].placed.is_some_and(|placed| placed.elapsed() > GROWN_UP);
        let grown_up: Vec<usize> = (0..self.members.len()).filter(is_grown_up).collect();
        let full = self.members.len() >= MOST;
        if grown_up.len() >= FEWEST && (full || self.rng.bool()) {
            let victim = grown_up[self.rng.usize(..grown_up.len())];
            // The member has not ended: nothing else tells it to.
            self.members.swap_remove(victim).leave.send(()).unwrap();
            self.count += 1;
        } else if !full {
            let late = self.rng.u8(..4) == 0;
            self.join(late);
        }
    }

    /// One that is registered serves nobody before it has a slot, which takes as long as the store is
    /// away or nobody leads.
    async fn see_placed(&mut self) {
        let held = self.fleet.held(REGISTERED).await.unwrap_or_default();
        let ready = held.iter().filter(|record| record.state == SlotState::Ready);
        let ready: BTreeSet<&str> = ready.map(|record| record.endpoint.id.as_str()).collect();
        for member in self.members.iter_mut().filter(|m| ready.contains(m.id.as_str())) {
            member.placed.get_or_insert_with(Instant::now);
        }
    }

    /// A new server, at times where one was before.
    fn join(&mut self, late: bool) {
        self.count += 1;
        let id = format!("{REGISTERED_ID}{}", self.count);
        let again = !self.left.is_empty() && self.rng.bool();
        let address = again.then(|| self.left.swap_remove(self.rng.usize(..self.left.len())));
        let (leave, told) = oneshot::channel();
        self.lives.spawn(live(self.fleet.clone(), id.clone(), address, late, told));
        self.members.push(Member { id, leave, placed: None });
    }
}

/// One server's life; answers where it was.
async fn live(
    fleet: Arc<Fleet>,
    id: String,
    address: Option<SocketAddr>,
    late: bool,
    leave: oneshot::Receiver<()>,
) -> SocketAddr {
    let mut server = Some(LightServer::start(&id, address.unwrap_or(anywhere())).await.unwrap());
    let address = server.as_ref().unwrap().address();
    if late {
        server = None;
    }
    let backend = REGISTERED.parse().unwrap();
    let ttl = Duration::from_secs(3);
    let registrar = Registrar::start(fleet.store.clone(), backend, endpoint(&id, address), ttl);
    if late {
        sleep(LATE).await;
        server = Some(listen(&id, address).await);
    }
    let mut state = registrar.state();
    state.wait_for(|state| *state == RegistrarState::Registered).await.unwrap();
    leave.await.unwrap();
    let left = registrar.leave(Until::NoSessions, DRAIN_DEADLINE).await;
    assert_eq!(left, Left::Drained { sessions: 0 }, "{id} at {address}");
    registrar.close().await;
    if fleet.is_reloading() {
        // A drain does not wait for what an old worker still has (docs/haproxy.md).
        sleep(SESSION).await;
    }
    drop(server);
    address
}

/// A port of its own address each, so that no other test takes a port that is free for a moment.
fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 77, fastrand::u8(1..255), fastrand::u8(1..255)], 0))
}

async fn listen(id: &str, address: SocketAddr) -> LightServer {
    eventually_async(&format!("the port of {id}"), async || {
        LightServer::start(id, address).await.ok()
    })
    .await
}

/// Servers in a file that something else writes; each ends once no slot needs it.
struct Listed {
    fleet: Arc<Fleet>,
    file: PathBuf,
    rng: fastrand::Rng,
    wanted: BTreeMap<String, Wanted>,
    /// By address, which several ids may have one after the other.
    servers: BTreeMap<SocketAddr, Server>,
    count: usize,
}

struct Wanted {
    endpoint: Endpoint,
    since: Instant,
}

struct Server {
    _server: LightServer,
    /// When it was last wanted.
    wanted: Instant,
}

impl Listed {
    fn new(fleet: Arc<Fleet>, seed: u64) -> Self {
        let file = fleet.dir.path().join("listed.json");
        let rng = fastrand::Rng::with_seed(seed ^ 1);
        let (wanted, servers) = (BTreeMap::new(), BTreeMap::new());
        Self { fleet, file, rng, wanted, servers, count: 0 }
    }

    async fn run(&mut self, mut stop: watch::Receiver<bool>) -> usize {
        for _ in 0..FEWEST {
            self.add(None).await;
        }
        self.write();
        loop {
            tokio::select! {
                () = sleep(Duration::from_millis(self.rng.u64(100..700))) => {}
                () = told(&mut stop) => return self.count,
            }
            self.step().await;
            self.write();
            self.end_unused().await;
        }
    }

    async fn step(&mut self) {
        // With the store away nothing new serves, and nothing may leave for it.
        let held = self.fleet.held(LISTED).await.unwrap_or_default();
        let grown_up: Vec<String> = held
            .iter()
            .filter(|record| record.state == SlotState::Ready)
            .filter(|record| self.is_grown_up(record))
            .map(|record| record.endpoint.id.to_string())
            .collect();
        // Those that say that they leave are taken out a while later.
        self.wanted.retain(|_, w| !w.endpoint.leaving || w.since.elapsed() < GROWN_UP);
        let can_leave = grown_up.len() >= FEWEST;
        let one = self.rng.choice(grown_up);
        match (self.rng.u8(..6), one) {
            (0, Some(id)) if can_leave => {
                let wanted = self.wanted.get_mut(&id).unwrap();
                wanted.endpoint.leaving = true;
                wanted.since = Instant::now();
                self.count += 1;
            }
            (1, Some(id)) if can_leave => {
                self.wanted.remove(&id);
                self.count += 1;
            }
            (2, Some(id)) if can_leave => self.move_away(&id).await,
            (3, Some(id)) if can_leave => {
                let address = self.wanted.remove(&id).unwrap().endpoint.address;
                self.add(Some(address.to_string().parse().unwrap())).await;
            }
            (4, Some(id)) => self.reweigh(&id),
            _ if self.wanted.len() < MOST => self.add(None).await,
            _ => {}
        }
    }

    /// It has served for a while where it is, and nothing else is asked of it.
    fn is_grown_up(&self, record: &SlotRecord) -> bool {
        let since = Timestamp::now().duration_since(record.since);
        let wanted = self.wanted.get(record.endpoint.id.as_str());
        Duration::try_from(since).is_ok_and(|age| age > GROWN_UP)
            && wanted.is_some_and(|wanted| {
                wanted.since.elapsed() > GROWN_UP
                    && !wanted.endpoint.leaving
                    && wanted.endpoint.address == record.endpoint.address
            })
    }

    /// Another id at an old address, or at a new one.
    async fn add(&mut self, address: Option<SocketAddr>) {
        self.count += 1;
        let id = format!("{LISTED_ID}{}", self.count);
        let address = match address {
            Some(address) => address,
            None => self.serve(&id).await,
        };
        let wanted = Wanted { endpoint: endpoint(&id, address), since: Instant::now() };
        self.wanted.insert(id, wanted);
    }

    /// The same id at a new address.
    async fn move_away(&mut self, id: &str) {
        self.count += 1;
        let address = self.serve(id).await;
        let wanted = self.wanted.get_mut(id).unwrap();
        wanted.endpoint.address = address.to_string().parse().unwrap();
        wanted.since = Instant::now();
    }

    fn reweigh(&mut self, id: &str) {
        self.count += 1;
        let weight = self.rng.u64(2..257);
        self.wanted.get_mut(id).unwrap().endpoint.weight = Some(Weight::saturating(weight));
    }

    async fn serve(&mut self, id: &str) -> SocketAddr {
        let server = LightServer::start(id, anywhere()).await.unwrap();
        let address = server.address();
        self.servers.insert(address, Server { _server: server, wanted: Instant::now() });
        address
    }

    /// In one step, as `docs/discover.md` asks for.
    fn write(&self) {
        let endpoints: Vec<&Endpoint> = self.wanted.values().map(|w| &w.endpoint).collect();
        let new = self.file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&endpoints).unwrap()).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// Ends servers that the file has not had for a while and that no slot takes or drains.
    async fn end_unused(&mut self) {
        // With the store away nobody can know.
        let Ok(held) = self.fleet.held(LISTED).await else { return };
        let listed = self.wanted.values().map(|w| w.endpoint.address);
        let used: Vec<SocketAddr> = listed
            .chain(held.iter().map(|record| record.endpoint.address))
            .map(|address| address.to_string().parse().unwrap())
            .collect();
        for (address, server) in &mut self.servers {
            if used.contains(address) {
                server.wanted = Instant::now();
            }
        }
        // discover may have read the file just before, and an old worker knows an old table.
        let linger = if self.fleet.is_reloading() { SESSION } else { Duration::from_secs(1) };
        self.servers.retain(|_, server| server.wanted.elapsed() < linger);
    }
}
