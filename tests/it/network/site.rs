//! Three hosts as somebody would run them: on each a member of the etcd cluster, a HAProxy with its
//! `sync-haproxy`, a `discover`, and servers that register themselves.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client as EtcdClient;
use lbctl::election::LeaderRecord;
use lbctl::model::{SlotRecord, SlotState, keys};
use lbctl::store::{Entry, Key, Prefix};
use tempfile::TempDir;

use crate::support::haproxy::{Backend, Client, Haproxy, NamedServer, Options, Version};
use crate::support::network::{Network, address, side_address};
use crate::support::{Process, World, eventually, lbctl, program};

pub const HOSTS: [&str; 3] = ["a", "b", "c"];

/// The servers of this backend are on all hosts.
pub const WEB: &str = "web";

/// Those of this one are on the last host alone.
pub const EDGE: &str = "edge";
pub const EDGE_HOST: usize = 2;

/// How often an absence is looked at again before it is believed, and how far apart.
pub const CONFIRM_PASSES: u32 = 3;
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);

/// How often each HAProxy is compared in full, whatever is heard.
pub const RESYNC: Duration = Duration::from_secs(2);

const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;
const METRICS: u16 = 2381;
const DISCOVER: u16 = 9572;
const SYNC: u16 = 9573;

pub struct Site {
    /// In this order everything ends before the network it is in.
    hosts: Vec<Host>,
    servers: BTreeMap<String, Server>,
    pub world: World,
    net: Arc<Network>,
    ttl: Duration,
    started: u32,
}

struct Host {
    _etcd: Process,
    haproxy: Haproxy,
    discover: Process,
    sync: Process,
    dir: PathBuf,
}

struct Server {
    host: usize,
    named: Option<NamedServer>,
    register: Process,
}

/// What every server of a HAProxy is set to, by backend and name.
type Settings = BTreeMap<(&'static str, String), Set>;

/// How it was before a fault.
pub struct Before {
    pub haproxy: Settings,
    /// How much each `discover` had said.
    said: Vec<usize>,
}

/// Its address, its state and its weight.
type Set = (String, &'static str, u32);

/// Runs a test on a site; not at all where there can be none. The test is in the network's middle.
pub fn on_site(ttl: Duration, test: impl FnOnce(&mut Site) + Send) {
    let Some(net) = Network::start(HOSTS.len()) else { return };
    let Some(etcd) = program("etcd") else { return };
    let net = Arc::new(net);
    net.middle().run(|| {
        if let Some(mut site) = Site::start(net.clone(), &etcd, ttl) {
            test(&mut site);
        }
    });
}

impl Site {
    fn start(net: Arc<Network>, etcd: &Path, ttl: Duration) -> Option<Self> {
        let dir = TempDir::with_prefix("lbctl-network-").unwrap();
        let folders = HOSTS.map(|name| dir.path().join(name));
        let members: Vec<Process> = (0..HOSTS.len())
            .map(|host| {
                std::fs::create_dir(&folders[host]).unwrap();
                net.host(host).run(|| start_member(etcd, host, &folders[host]))
            })
            .collect();
        let world = World::at(dir, store_url(&[0, 1, 2].map(side_address)), None);
        wait_for_cluster(&members);
        // Each host has another version, and each site begins with the next.
        static SITES: AtomicUsize = AtomicUsize::new(0);
        let mut versions =
            Version::ALL.into_iter().cycle().skip(SITES.fetch_add(1, Ordering::SeqCst));
        let mut hosts = Vec::new();
        for (host, etcd) in members.into_iter().enumerate() {
            let folder = folders[host].clone();
            let version = versions.next().unwrap_or_default();
            hosts.push(net.host(host).run(|| Host::start(host, version, etcd, folder, ttl))?);
        }
        let mut site = Self { hosts, servers: BTreeMap::new(), world, net, ttl, started: 0 };
        for host in 0..HOSTS.len() {
            site.start_server(WEB, host);
            site.start_server(WEB, host);
        }
        for _ in 0..4 {
            site.start_server(EDGE, EDGE_HOST);
        }
        let started = site.servers.len();
        eventually("every server to have a slot", || {
            let held = site.slots(WEB)?.len() + site.slots(EDGE)?.len();
            (held == started).then_some(())
        });
        site.settle();
        Some(site)
    }

    pub fn net(&self) -> &Network {
        &self.net
    }

    /// Starts a server on a host, with a registration, and answers its id.
    pub fn start_server(&mut self, backend: &str, host: usize) -> String {
        self.started += 1;
        let id = format!("{backend}-{}{}", HOSTS[host], self.started);
        let dir = self.hosts[host].dir.clone();
        let server = self.net.host(host).run(|| {
            let named = NamedServer::start_at(&id, &format!("{}:0", address(host)));
            let ttl = format!("{}ms", self.ttl.as_millis());
            let place = named.address().to_string();
            let what = ["register", backend, &place, "--id", &id];
            let times = ["--ttl", &ttl, "--drain-deadline", "3s"];
            let mut command = command(&everywhere(), &[&what[..], &times].concat());
            let register = Process::start(&id, &dir, &mut command);
            Server { host, named: Some(named), register }
        });
        self.servers.insert(id.clone(), server);
        id
    }

    /// Asks a server to leave, and waits until it has.
    pub fn stop_server(&mut self, id: &str) {
        let mut server = self.servers.remove(id).unwrap();
        server.register.signal("TERM");
        assert!(server.register.wait().success(), "{}", server.register.tail());
        self.end_server(server);
    }

    fn end_server(&self, mut server: Server) {
        // It wakes itself by a connection to itself.
        self.net.host(server.host).run(|| drop(server.named.take()));
    }

    /// The servers of a backend on some hosts, by id.
    pub fn servers(&self, backend: &str, hosts: &[usize]) -> Vec<String> {
        let of = |(id, server): (&String, &Server)| {
            (id.starts_with(backend) && hosts.contains(&server.host)).then(|| id.clone())
        };
        self.servers.iter().filter_map(of).collect()
    }

    pub fn discover(&self, host: usize) -> &Process {
        &self.hosts[host].discover
    }

    /// Who leads a backend by the store.
    pub fn leader(&self, backend: &str) -> Option<usize> {
        let key = format!("elections/discover-{backend}").parse().unwrap();
        let entry = self.world.block_on(self.world.store.get(&key)).ok()??;
        let id = LeaderRecord::from_value(&entry.value).id;
        HOSTS.iter().position(|host| *host == id)
    }

    /// Moves etcd's own leadership off a host.
    pub fn move_etcd_leader_off(&self, host: usize) {
        eventually("etcd's own leader to be on another host", || {
            self.ask_members(etcd_leads_elsewhere(host)).filter(|elsewhere| *elsewhere)
        });
    }

    /// A few questions to members of etcd, which may be a while without an answer: a transfer of
    /// leadership that comes to nothing is answered never.
    fn ask_members<T>(
        &self,
        asking: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Option<T> {
        let limited = async { tokio::time::timeout(Duration::from_secs(2), asking).await };
        self.world.block_on(limited).ok()?.ok()
    }

    /// `Some` once a host's own member of etcd has a key.
    pub fn member_knows(&self, host: usize, key: &Key) -> Option<()> {
        let there = self.ask_members(async {
            let mut client = EtcdClient::connect([member_url(host)], None).await?;
            let own = etcd_client::GetOptions::new().with_serializable();
            let key = format!("{}/{key}", super::history::PREFIX);
            Ok(client.get(key, Some(own)).await?.count() > 0)
        });
        there.filter(|there| *there).map(|_there| ())
    }

    /// The table of a backend, by slot; `None` where etcd does not answer.
    pub fn slots(&self, backend: &str) -> Option<BTreeMap<u32, SlotRecord>> {
        let slot = |entry: Entry| {
            let number = entry.key.last().parse().unwrap();
            (number, serde_json::from_slice(&entry.value).unwrap())
        };
        Some(self.list(&keys::slots(&backend.parse().unwrap()))?.into_iter().map(slot).collect())
    }

    fn list(&self, prefix: &Prefix) -> Option<Vec<Entry>> {
        Some(self.world.block_on(self.world.store.list(prefix)).ok()?.entries)
    }

    /// What a host's HAProxy has each server at.
    pub fn haproxy(&self, host: usize) -> Settings {
        let mut all = BTreeMap::new();
        for backend in [WEB, EDGE] {
            for server in self.hosts[host].haproxy.servers(backend) {
                let set = match server.state() {
                    "maint" => (String::new(), "maint", 0),
                    state => (server.address(), state, server.weight()),
                };
                all.insert((backend, server.get("srv_name").to_owned()), set);
            }
        }
        all
    }

    /// Waits until the servers that are not in maint, by address, are as wanted in the HAProxy of
    /// each of these hosts.
    pub fn wait_for_servers(
        &self,
        hosts: &[usize],
        what: &str,
        wanted: impl Fn(&[String]) -> bool,
    ) {
        for host in hosts {
            let haproxy = &self.hosts[*host].haproxy;
            eventually(&format!("HAProxy {} to {what}\n{}", HOSTS[*host], self.said()), || {
                let servers = haproxy.servers(WEB);
                let there = servers.iter().filter(|s| s.state() != "maint").map(|s| s.address());
                let there: Vec<String> = there.collect();
                wanted(&there).then_some(())
            });
        }
    }

    pub fn address_of(&self, id: &str) -> String {
        self.servers[id].named.as_ref().unwrap().address().to_string()
    }

    /// One client of a host's HAProxy on that host: who served it.
    pub fn request(&self, host: usize) -> Option<String> {
        let frontend = self.hosts[host].haproxy.frontend(WEB);
        self.net.host(host).run(|| Client::ask_once(frontend))
    }

    /// Waits until a host's HAProxy knows which servers it can reach: these.
    pub fn wait_for_up(&self, host: usize, ids: &[String]) {
        let mut wanted: Vec<String> = ids.iter().map(|id| self.address_of(id)).collect();
        wanted.sort();
        eventually(&format!("HAProxy {} to serve by {ids:?}", HOSTS[host]), || {
            let servers = self.hosts[host].haproxy.servers(WEB);
            let up = servers.iter().filter(|s| s.state() == "ready" && s.is_up());
            let mut up: Vec<String> = up.map(|s| s.address()).collect();
            up.sort();
            (up == wanted).then_some(())
        });
    }

    /// Waits until every server is registered and ready in the table, every HAProxy equals it, and
    /// every daemon is ready.
    pub fn settle(&self) {
        for backend in [WEB, EDGE] {
            let wanted = self.servers(backend, &[0, 1, 2]);
            eventually(
                &format!("the table of {backend} to be {wanted:?}\n{}", self.said()),
                || {
                    let slots = self.slots(backend)?;
                    let all_ready = slots.values().all(|slot| slot.state == SlotState::Ready);
                    let mut ids: Vec<String> =
                        slots.values().map(|slot| slot.endpoint.id.to_string()).collect();
                    ids.sort();
                    let registered = self.registered(backend)? == wanted;
                    (all_ready && registered && ids == wanted).then_some(())
                },
            );
        }
        for (host, name) in HOSTS.iter().enumerate() {
            let what = format!("HAProxy {name} to equal the table\n{}", self.said());
            eventually(&what, || (self.haproxy(host) == self.wanted()?).then_some(()));
            for (daemon, port) in [("discover", DISCOVER), ("sync", SYNC)] {
                let what = format!("{daemon} {name} to be ready\n{}", self.said());
                eventually(&what, || {
                    let said = get((side_address(host), port).into(), "/readyz");
                    said.is_some_and(|reply| reply.contains("200 OK")).then_some(())
                });
            }
        }
    }

    /// Waits until the daemons of a host say that they are not ready, since the store is away.
    pub fn wait_for_not_ready(&self, host: usize) {
        for (daemon, port) in [("discover", DISCOVER), ("sync", SYNC)] {
            let what = format!("{daemon} {} not to be ready\n{}", HOSTS[host], self.said());
            eventually(&what, || {
                let said = get((side_address(host), port).into(), "/readyz")?;
                (said.contains("503 ") && said.contains("store unavailable")).then_some(())
            });
        }
    }

    /// The ids in the registry, in order; `None` where etcd does not answer.
    pub fn registered(&self, backend: &str) -> Option<Vec<String>> {
        let entries = self.list(&keys::registry(&backend.parse().unwrap()))?;
        Some(entries.iter().map(|entry| entry.key.last().to_owned()).collect())
    }

    /// What each HAProxy's servers are to be set to; `None` where etcd does not answer.
    pub fn wanted(&self) -> Option<Settings> {
        let mut all = BTreeMap::new();
        for (backend, places) in PLACES {
            let slots = self.slots(backend)?;
            for number in 1..=places {
                let set = match slots.get(&number) {
                    Some(slot) if slot.state == SlotState::Ready => {
                        (slot.endpoint.address.to_string(), "ready", 100)
                    }
                    Some(slot) if slot.state == SlotState::Drain => {
                        (slot.endpoint.address.to_string(), "drain", 100)
                    }
                    _ => (String::new(), "maint", 0),
                };
                all.insert((backend, format!("s{number}")), set);
            }
        }
        Some(all)
    }

    /// How all is with a host now.
    pub fn remember(&self, host: usize) -> Before {
        let said = self.hosts.iter().map(|host| host.discover.log().len()).collect();
        Before { haproxy: self.haproxy(host), said }
    }

    /// Whether some `discover` has put a slot to rest since then.
    pub fn has_rested(&self, (backend, server): &(&'static str, String), before: &Before) -> bool {
        let slot = server.trim_start_matches('s');
        let line = format!("rest backend={backend} slot={slot} ");
        let mut since = self.hosts.iter().zip(&before.said);
        since.any(|(host, said)| host.discover.log()[*said..].contains(&line))
    }

    /// Waits until the `sync-haproxy` of a host knows that its report does not arrive.
    pub fn wait_for_unreported(&self, host: usize) {
        let sync = &self.hosts[host].sync;
        eventually(&format!("sync {} to miss its lease; {}", HOSTS[host], sync.tail()), || {
            let log = sync.log();
            let state = log.lines().rfind(|line| line.contains("the lease on this process's keys"));
            state.is_some_and(|line| !line.contains("has recovered")).then_some(())
        });
    }

    /// What the daemons said last.
    pub fn said(&self) -> String {
        let all = self.hosts.iter().flat_map(|host| [host.discover.tail(), host.sync.tail()]);
        all.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for server in std::mem::take(&mut self.servers).into_values() {
            self.end_server(server);
        }
    }
}

const PLACES: [(&str, u32); 2] = [(WEB, 12), (EDGE, 6)];

impl Host {
    /// In the host's namespace.
    fn start(
        host: usize,
        version: Version,
        etcd: Process,
        dir: PathBuf,
        ttl: Duration,
    ) -> Option<Self> {
        let backends = PLACES.map(|(name, places)| {
            // Whoever is cut off is found out soon, and nobody waits for him.
            let backend = Backend::new(name, places).server("check inter 500ms rise 2 fall 2");
            backend.line("timeout check 1s")
        });
        let haproxy = Haproxy::start(Options::new(backends).on(version))?;
        let config = dir.join("lbctl.toml");
        std::fs::write(&config, configuration(host, &haproxy, ttl)).unwrap();
        // The one discover knows the member beside it alone, and is cut off as that is.
        let start = |name: &str, store: &str| {
            let mut command = command(store, &[name, "--config", config.to_str().unwrap()]);
            Process::start(&format!("{name}-{}", HOSTS[host]), &dir, &mut command)
        };
        let discover = start("discover", &store_url(&[address(host)]));
        let sync = start("sync-haproxy", &everywhere());
        Some(Self { _etcd: etcd, haproxy, discover, sync, dir })
    }
}

fn configuration(host: usize, haproxy: &Haproxy, ttl: Duration) -> String {
    let (name, ttl, socket) = (HOSTS[host], ttl.as_millis(), haproxy.socket_path());
    let mut text = format!(
        "[discover]\nid = \"{name}\"\nttl = \"{ttl}ms\"\nadmin = \"0.0.0.0:{DISCOVER}\"\n\
         source = \"registry\"\nmin-weight = 100\nrest = \"1s\"\ndrain-deadline = \"3s\"\n\
         confirm-passes = {CONFIRM_PASSES}\nconfirm-interval = \"{confirm}s\"\n\
         [sync-haproxy]\nname = \"{name}\"\nsocket = \"{socket}\"\nadmin = \"0.0.0.0:{SYNC}\"\n\
         resync = \"{RESYNC}s\"\npoll = \"500ms\"\nreport-ttl = \"{ttl}ms\"\n",
        RESYNC = RESYNC.as_secs(),
        confirm = CONFIRM_INTERVAL.as_secs(),
        socket = socket.display(),
    );
    for (backend, places) in PLACES {
        text.push_str(&format!(
            "[[discover.backends]]\nname = \"{backend}\"\nslots = {places}\n\
             [[sync-haproxy.backends]]\nbackend = \"{backend}/s\"\nfrom = \"{backend}\"\n"
        ));
    }
    text
}

fn command(store: &str, args: &[&str]) -> Command {
    let mut command = Command::new(lbctl());
    command.args(["--store", store]).args(args).env_remove("LBCTL_LOG");
    command
}

fn everywhere() -> String {
    store_url(&[0, 1, 2].map(address))
}

fn store_url(members: &[std::net::Ipv4Addr]) -> String {
    let members: Vec<String> = members.iter().map(|ip| format!("{ip}:{CLIENTS}")).collect();
    format!("etcd://{}{}", members.join(","), super::history::PREFIX)
}

/// Whether etcd's own leader is on another host; asks for that where it is not.
async fn etcd_leads_elsewhere(host: usize) -> Result<bool, etcd_client::Error> {
    let to = (host + 1) % HOSTS.len();
    let (own, leader) = status_of(host).await?;
    if own != leader {
        return Ok(leader != 0);
    }
    let mut client = EtcdClient::connect([member_url(host)], None).await?;
    client.move_leader(status_of(to).await?.0).await?;
    Ok(false)
}

/// The number of a member, and of the one that leads as far as it knows: 0 for none.
async fn status_of(host: usize) -> Result<(u64, u64), etcd_client::Error> {
    let mut client = EtcdClient::connect([member_url(host)], None).await?;
    let status = client.status().await?;
    Ok((status.header().map_or(0, |header| header.member_id()), status.leader()))
}

/// Where a test watches the members of etcd.
pub fn member_url(host: usize) -> String {
    format!("http://{}:{CLIENTS}", side_address(host))
}

fn start_member(etcd: &Path, host: usize, dir: &Path) -> Process {
    let peer = |host: usize| format!("http://{}:{PEERS}", address(host));
    let all: Vec<String> =
        (0..HOSTS.len()).map(|host| format!("{}={}", HOSTS[host], peer(host))).collect();
    let mut command = Command::new(etcd);
    command
        .args(["--name", HOSTS[host], "--initial-cluster", &all.join(",")])
        .args(["--initial-cluster-state", "new", "--log-level", "error", "--logger", "zap"])
        .args(["--listen-peer-urls", &peer(host), "--initial-advertise-peer-urls", &peer(host)])
        .args(["--listen-client-urls", &format!("http://0.0.0.0:{CLIENTS}")])
        .args(["--advertise-client-urls", &format!("http://{}:{CLIENTS}", address(host))])
        .args(["--listen-metrics-urls", &format!("http://0.0.0.0:{METRICS}")])
        .arg("--data-dir")
        .arg(dir.join("etcd"));
    Process::start(&format!("etcd-{}", HOSTS[host]), dir, &mut command)
}

fn wait_for_cluster(members: &[Process]) {
    for (host, member) in members.iter().enumerate() {
        eventually(&format!("etcd to be healthy; {}", member.tail()), || {
            let health = get((side_address(host), METRICS).into(), "/health")?;
            health.contains(r#""true""#).then_some(())
        });
    }
}

/// What `discover` on a host says of itself.
pub fn discover_status(host: usize) -> Option<serde_json::Value> {
    let reply = get((side_address(host), DISCOVER).into(), "/status")?;
    serde_json::from_str(reply.split_once("\r\n\r\n")?.1).ok()
}

/// One HTTP GET; `None` while nothing answers.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let timeout = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}
