//! lbctl beside HSDO: both on one table in DynamoDB, as moto has it, and each with a HAProxy.

mod both;
mod configured;
mod damage;
mod discover;
mod double;
mod foreign;
mod lifecycle;
mod sync;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use lbctl::model::{SlotRecord, SlotState};
use lbctl::store::StoreUrl;

use crate::support::haproxy::{Backend, Haproxy, Options, Server};
use crate::support::moto::{Moto, REGION, config};
use crate::support::{Process, Proxy, World, eventually, free_port, http_get};

/// An instance that runs: its id, its address and its group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    pub id: String,
    pub ip: String,
    pub asg: String,
}

/// `i-3` at 10.0.0.3, in group `blue`.
pub fn instance(number: u8) -> Instance {
    Instance { id: format!("i-{number}"), ip: format!("10.0.0.{number}"), asg: "blue".to_owned() }
}

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: u32,
    pub ip: String,
    pub name: String,
    pub asg: String,
    pub weight: u32,
    pub status: String,
    pub updated: String,
}

impl Row {
    pub fn free(id: u32) -> Self {
        let none = || "none".to_owned();
        Self {
            id,
            ip: none(),
            name: none(),
            asg: none(),
            weight: 0,
            status: "disabled".to_owned(),
            updated: "0-0-0 00:00:00.000000".to_owned(),
        }
    }

    pub fn of(id: u32, instance: &Instance, weight: u32) -> Self {
        let Instance { id: name, ip, asg } = instance.clone();
        let (status, updated) = ("enabled".to_owned(), double::now());
        Self { id, ip, name, asg, weight, status, updated }
    }

    pub fn to_item(&self) -> Item {
        let Self { id, ip, name, asg, weight, status, updated } = self;
        [
            ("BackendServerID", n(*id)),
            ("IPAddress", s(ip)),
            ("ServerName", s(name)),
            ("ASG", s(asg)),
            ("Weight", n(*weight)),
            ("BackendServerStatus", s(status)),
            ("LastWeightUpdate", s(updated)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// `None` where it is not what HSDO writes.
    pub fn read(item: &Item) -> Option<Self> {
        let text = |name: &str| item.get(name)?.as_s().ok().cloned();
        let number = |name: &str| item.get(name)?.as_n().ok()?.parse().ok();
        Some(Self {
            id: number("BackendServerID")?,
            ip: text("IPAddress")?,
            name: text("ServerName")?,
            asg: text("ASG")?,
            weight: number("Weight")?,
            status: text("BackendServerStatus")?,
            updated: text("LastWeightUpdate")?,
        })
    }
}

pub type Item = std::collections::HashMap<String, AttributeValue>;

pub fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub fn n(number: u32) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A table of HSDO's, a store of lbctl's, and what runs.
pub struct Site {
    world: World,
    _moto: Arc<Moto>,
    /// lbctl's way to the table.
    proxy: Proxy,
    table: String,
    client: Client,
    running: Running,
}

/// What every source sees.
pub type Running = Arc<Mutex<Vec<Instance>>>;

/// As HSDO's clients of AWS are: they wait for an answer, where a store gives up and asks anew.
fn patient(config: SdkConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(60));
    config.into_builder().timeout_config(timeouts.build()).build()
}

impl Site {
    /// With a table of free rows.
    pub fn start(rows: u32) -> Option<Self> {
        let moto = Moto::shared()?;
        let world = World::sqlite();
        let table = format!("hsdo-{}", uuid::Uuid::new_v4());
        let StoreUrl::Dynamo(url) = moto.url(&table, moto.port()).parse().unwrap() else {
            panic!()
        };
        let client = world.block_on(async { Client::new(&patient(config(&url).await)) });
        let proxy = world.block_on(Proxy::start(moto.port()));
        let site = Self { world, _moto: moto, proxy, table, client, running: Running::default() };
        site.make_table();
        (1..=rows).for_each(|id| site.put(&Row::free(id)));
        site.run(&[]);
        Some(site)
    }

    fn make_table(&self) {
        let key = KeySchemaElement::builder().attribute_name("BackendServerID");
        let attribute = AttributeDefinition::builder().attribute_name("BackendServerID");
        let request = self.client.create_table().table_name(&self.table);
        let request = request
            .key_schema(key.key_type(KeyType::Hash).build().unwrap())
            .attribute_definitions(
                attribute.attribute_type(ScalarAttributeType::N).build().unwrap(),
            )
            .billing_mode(BillingMode::PayPerRequest);
        self.world.block_on(request.send()).unwrap();
    }

    pub fn put(&self, row: &Row) {
        self.put_item(row.to_item());
    }

    pub fn put_item(&self, item: Item) {
        let request = self.client.put_item().table_name(&self.table).set_item(Some(item));
        self.world.block_on(request.send()).unwrap();
    }

    pub fn delete(&self, id: u32) {
        let request = self.client.delete_item().table_name(&self.table);
        self.world.block_on(request.key("BackendServerID", n(id)).send()).unwrap();
    }

    pub fn items(&self) -> Vec<Item> {
        let request = self.client.scan().table_name(&self.table).consistent_read(true);
        self.world.block_on(request.send()).unwrap().items.unwrap_or_default()
    }

    /// The rows that can be read, by their ids.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.items().iter().filter_map(Row::read).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// The rows with a server: number, name and weight.
    pub fn held(&self) -> Vec<(u32, String, u32)> {
        let rows = self.rows().into_iter().filter(|row| row.status == "enabled");
        rows.map(|row| (row.id, row.name, row.weight)).collect()
    }

    /// These run from now on, for every source.
    pub fn run(&self, numbers: &[u8]) {
        let instances: Vec<Instance> = numbers.iter().map(|number| instance(*number)).collect();
        let list: Vec<_> = instances
            .iter()
            .map(|i| serde_json::json!({ "id": i.id, "address": format!("{}:80", i.ip), "group": i.asg }))
            .collect();
        let (new, path) =
            (self.world.dir.path().join("new"), self.world.dir.path().join("web.json"));
        std::fs::write(&new, serde_json::to_string(&list).unwrap()).unwrap();
        *self.running.lock().unwrap() = instances;
        std::fs::rename(new, path).unwrap();
    }

    pub fn hsdo_server(&self, size: u32) -> double::Server {
        double::Server::start(self.client.clone(), &self.table, size, self.running.clone())
    }

    /// A client of HSDO's that fills the backend `app` of a HAProxy.
    pub fn hsdo_client(&self, haproxy: &Haproxy) -> double::Client {
        double::Client::start(self.client.clone(), &self.table, haproxy.socket_path())
    }

    /// lbctl's discover on the table, with its ramp.
    pub fn discover(&self, slots: u32, flags: &[&str]) -> Daemon {
        let source = format!("file:{}", self.world.dir.path().join("web.json").display());
        let slots = slots.to_string();
        let what = ["discover", "--backend", "web", "--source", &source, "--slots", &slots];
        let ramp = match flags.contains(&"--max-weight") {
            true => &["--min-weight", "1", "--weight-step", "1"][..],
            false => &["--min-weight", "1", "--weight-step", "1", "--max-weight", "10"],
        };
        let times = ["--weight-interval", "300ms", "--rest", "1s", "--drain-deadline", "2s"];
        let quick = match flags.contains(&"--confirm-interval") {
            true => &["--ttl", "2s"][..],
            false => &["--ttl", "2s", "--confirm-interval", "300ms"],
        };
        self.daemon("discover", &[&what[..], ramp, &times, quick, flags].concat())
    }

    /// lbctl's sync-haproxy on the table.
    pub fn sync(&self, name: &str, haproxy: &Haproxy, flags: &[&str]) -> Daemon {
        let socket = haproxy.unix().to_string();
        let what = ["sync-haproxy", "--socket", &socket, "--name", name, "--table-poll", "100ms"];
        self.daemon(name, &[&what[..], flags].concat())
    }

    fn daemon(&self, name: &str, flags: &[&str]) -> Daemon {
        let port = free_port();
        let admin = format!("127.0.0.1:{port}");
        let layout = ["--table-layout", "hsdo", "--hsdo-table", &self.table, "--admin", &admin];
        let mut command = self.command(&[flags, &layout].concat());
        Daemon { process: Process::start(name, self.world.dir.path(), &mut command), port }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.world.command(arguments);
        let endpoint = format!("http://127.0.0.1:{}", self.proxy.port());
        command.env("AWS_ENDPOINT_URL_DYNAMODB", endpoint).env("AWS_REGION", REGION);
        command
    }

    /// lbctl's own table: the slots with a server, and its state.
    pub fn table(&self) -> BTreeMap<u32, (String, SlotState)> {
        let entries = self.world.list("backends/web/slots");
        let entry = |(key, value): &(String, String)| {
            let record: SlotRecord = serde_json::from_str(value).unwrap();
            let slot = key.rsplit_once('/').unwrap().1.parse().unwrap();
            (slot, (record.endpoint.id.to_string(), record.state))
        };
        entries.iter().map(entry).collect()
    }

    /// Waits until each of these, and nobody else, has one row at full weight, and lbctl's table
    /// says the same.
    pub fn agree(&self, numbers: &[u8], daemon: &Daemon) {
        let mut expected: Vec<String> = numbers.iter().map(|n| instance(*n).id).collect();
        expected.sort();
        let what = format!("both to agree on {expected:?}");
        eventually(&format!("{what}\n{}", daemon.process.tail()), || {
            let held = self.held();
            let mut names: Vec<String> = held.iter().map(|(_, name, _)| name.clone()).collect();
            names.sort();
            let table = self.table();
            let same = held.len() == table.len()
                && held.iter().all(|(id, name, weight)| {
                    *weight == 10 && table.get(id) == Some(&(name.clone(), SlotState::Ready))
                });
            (same && names == expected).then_some(())
        });
    }
}

/// A daemon with its admin server.
pub struct Daemon {
    pub process: Process,
    port: u16,
}

impl Daemon {
    pub fn ask(&self, path: &str) -> String {
        http_get(self.port, path).unwrap_or_default()
    }

    pub fn becomes_ready(&self) {
        eventually(&format!("to be ready\n{}", self.process.tail()), || {
            self.ask("/readyz").contains("200 OK").then_some(())
        });
    }

    /// Waits until it says why it is not ready.
    pub fn waits_for(&self, text: &str) {
        eventually(&format!("{text:?} in /readyz\n{}", self.process.tail()), || {
            let said = self.ask("/readyz");
            (said.contains(" 503 ") && said.contains(text)).then_some(())
        });
    }

    /// The lines of HSDO's own metric.
    pub fn weights(&self) -> Vec<String> {
        let text = self.ask("/metrics");
        text.lines().filter(|line| line.starts_with("hsdo_")).map(str::to_owned).collect()
    }
}

/// A HAProxy whose backend `app` has places `srv1`, `srv2`, ….
pub fn haproxy(places: u32) -> Option<Haproxy> {
    Haproxy::start(Options::new([Backend::new("app", places).prefix("srv")]))
}

/// What a HAProxy does with each place that takes traffic: its number, address and weight.
pub fn serving(haproxy: &Haproxy, backend: &str) -> BTreeMap<u32, (String, u32)> {
    let servers = haproxy.servers(backend);
    let ready = servers.iter().filter(|server| server.state() == "ready");
    let place = |server: &Server| {
        let number = server.get("srv_name").trim_start_matches("srv").parse().unwrap();
        (number, (server.address(), server.weight()))
    };
    ready.map(place).filter(|(_, (_, weight))| *weight > 0).collect()
}
