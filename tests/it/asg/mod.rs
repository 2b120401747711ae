//! Auto Scaling groups to HAProxy, end to end: moto's AWS with the store in its DynamoDB, `discover`,
//! `sync-haproxy` and a real HAProxy, with servers at the instances' addresses.

mod faults;
pub mod front;
mod lifecycle;
mod scaling;

use std::collections::{BTreeMap, BTreeSet};

use lbctl::model::{BackendName, SlotNumber, SlotRecord, SlotState, keys};

use front::Front;

use super::support::haproxy::{Backend, Client, Haproxy, NamedServer, Options};
use super::support::{Cloud, Process, World, eventually, free_port};

const SLOTS: u32 = 12;

const SIMPLE: &str = "backend = 'app'\nfrom = 'web'\n";

/// All of it but `discover`, which each test starts as it likes.
struct Fleet {
    // In the order in which they are to end.
    sync: Process,
    haproxy: Haproxy,
    front: Front,
    cloud: Cloud,
    world: World,
    /// The port of every instance.
    port: u16,
    /// By address.
    servers: BTreeMap<String, NamedServer>,
}

impl Fleet {
    /// With what `[sync-haproxy]` says beside the socket; `None` where moto or HAProxy is not there.
    fn start(sync: &str, backends: Vec<Backend>) -> Option<Self> {
        Self::on(Cloud::new()?, World::dynamodb()?, sync, backends)
    }

    fn on(cloud: Cloud, world: World, sync: &str, backends: Vec<Backend>) -> Option<Self> {
        let haproxy = Haproxy::start(Options::new(backends))?;
        let front = Front::start(cloud.moto.port());
        let socket = haproxy.socket_path();
        let socket = socket.to_str().unwrap();
        let config = world.dir.path().join("sync.toml");
        let common = format!("[sync-haproxy]\nsocket = {socket:?}\nname = 'lb1'\nadmin = 'off'\n");
        std::fs::write(&config, common + sync).unwrap();
        let sync = world.start("sync", &["sync-haproxy", "--config", config.to_str().unwrap()]);
        let (port, servers) = (free_port(), BTreeMap::new());
        Some(Self { sync, haproxy, front, cloud, world, port, servers })
    }

    /// With one backend, `app`.
    fn simple() -> Option<Self> {
        Self::start(SIMPLE, vec![Backend::new("app", SLOTS)])
    }

    /// A `discover` of this source; `more` takes the place of the usual flags.
    fn discover(&self, name: &str, source: &str, more: &[&str]) -> Process {
        let (port, slots) = (self.port.to_string(), SLOTS.to_string());
        let flags = ["discover", "--backend", "web", "--source", source, "--port", &port];
        let quick = ["--interval", "1s", "--rest", "300ms", "--ttl", "2s"];
        let quiet = ["--confirm-interval", "500ms", "--drain-deadline", "20s"];
        let ramp = ["--min-weight", "100"];
        let mut args = [&flags[..], &quick, &quiet, &ramp, more].concat();
        for usual in [["--slots", &slots], ["--admin", "off"]] {
            if !more.contains(&usual[0]) {
                args.extend(usual);
            }
        }
        let mut command = self.world.command(&args);
        command.env("AWS_ENDPOINT_URL", self.front.endpoint()).env("AWS_REGION", "eu-west-1");
        Process::start(name, self.world.dir.path(), &mut command)
    }

    /// Starts a server at the address of every instance of a group.
    fn serve(&mut self, group: &str) -> BTreeMap<String, String> {
        let instances = self.cloud.in_service(group);
        for (id, ip) in &instances {
            let port = self.port;
            self.servers
                .entry(ip.clone())
                .or_insert_with(|| NamedServer::start_at(id, &format!("{ip}:{port}")));
        }
        instances
    }

    /// Which slot each ready server has, by its id.
    fn slots(&self) -> BTreeMap<String, u32> {
        self.records(SlotState::Ready)
    }

    fn records(&self, state: SlotState) -> BTreeMap<String, u32> {
        let backend: BackendName = "web".parse().unwrap();
        let listing = self.world.block_on(self.world.store.list(&keys::slots(&backend))).unwrap();
        let held = listing.entries.iter().map(|entry| {
            let record: SlotRecord = serde_json::from_slice(&entry.value).unwrap();
            let slot: SlotNumber = entry.key.last().parse().unwrap();
            (record, slot.get())
        });
        let of_state = held.filter(|(record, _)| record.state == state);
        of_state.map(|(record, slot)| (record.endpoint.id.to_string(), slot)).collect()
    }

    /// The addresses that are ready in a backend of HAProxy.
    fn ready_in(&self, backend: &str) -> BTreeSet<String> {
        let servers = self.haproxy.servers(backend);
        servers.iter().filter(|s| s.state() == "ready").map(|s| s.address()).collect()
    }

    fn wanted(&self, groups: &[&str]) -> BTreeSet<String> {
        let instances = groups.iter().flat_map(|group| self.cloud.in_service(group));
        let addresses: Vec<String> = instances.map(|(_, ip)| ip).collect();
        self.wanted_at(&addresses)
    }

    fn wanted_at<'a>(&self, ips: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
        ips.into_iter().map(|ip| format!("{ip}:{}", self.port)).collect()
    }

    /// Waits until HAProxy has just the instances in service of some groups ready and none draining,
    /// and answers all the time.
    fn equals(&mut self, groups: &[&str], discover: &Process) {
        for group in groups {
            self.serve(group);
        }
        let wanted = self.wanted(groups);
        let what = format!("{wanted:?} in HAProxy\n{}\n{}", discover.tail(), self.sync.tail());
        let frontend = self.haproxy.frontend("app");
        let begun = !self.ready_in("app").is_empty();
        eventually(&what, || {
            let answered = Client::ask_once(frontend).is_some();
            assert!(answered || !begun, "HAProxy answers no more: {what}");
            (self.ready_in("app") == wanted).then_some(())
        });
    }
}
