use std::any::Any;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lbctl::model::{Endpoint, Registration, SlotNumber, SlotRecord, SlotState, Timestamp, keys};
use lbctl::store::{Commit, Key, Prefix, Revision, SharedStore, Store, Txn, open};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::etcd::Etcd;
use super::moto::{self, Moto};
use super::{Process, eventually, lbctl};

/// A store of a test's own, with processes of lbctl on it and a handle to look at it.
pub struct World {
    pub dir: TempDir,
    pub url: String,
    pub store: SharedStore,
    runtime: Runtime,
    /// Its server.
    _server: Option<Arc<dyn Any>>,
}

impl World {
    /// On a database file.
    pub fn sqlite() -> Self {
        let dir = TempDir::with_prefix("lbctl-test-").unwrap();
        let url = format!("sqlite:{}", dir.path().join("lbctl.db").display());
        Self::at(dir, url, None)
    }

    /// On the etcd that all tests share; `None` where etcd is not installed.
    pub fn etcd() -> Option<Self> {
        let etcd = Etcd::shared()?;
        let url = etcd.url(&format!("test/{:016x}", fastrand::u64(..)));
        let dir = TempDir::with_prefix("lbctl-test-").unwrap();
        Some(Self::at(dir, url, Some(etcd)))
    }

    /// On a new table of the moto that all tests share; `None` where moto is not installed.
    pub fn dynamodb() -> Option<Self> {
        let moto = Moto::shared()?;
        let url = moto.table();
        let dir = TempDir::with_prefix("lbctl-test-").unwrap();
        let runtime = runtime();
        let store = runtime.block_on(moto::open(&url));
        Some(Self { dir, url, store, runtime, _server: Some(moto) })
    }

    /// On any store.
    pub fn at(dir: TempDir, url: String, etcd: Option<Arc<Etcd>>) -> Self {
        let runtime = runtime();
        let store = runtime.block_on(open(&url.parse().unwrap())).unwrap();
        let server = etcd.map(|etcd| etcd as Arc<dyn Any>);
        Self { dir, url, store, runtime, _server: server }
    }

    /// `lbctl` with arguments, on this store.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(lbctl());
        // In front, where a wrapped command's own arguments cannot hide it.
        command.args(["--store", &self.url]).args(args).env_remove("LBCTL_LOG");
        command.envs(moto::ENVIRONMENT);
        command
    }

    pub fn start(&self, name: &str, args: &[&str]) -> Process {
        Process::start(name, self.dir.path(), &mut self.command(args))
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub fn get(&self, key: &str) -> Option<String> {
        let key: Key = key.parse().unwrap();
        let entry = self.block_on(self.store.get(&key)).unwrap()?;
        Some(String::from_utf8(entry.value.to_vec()).unwrap())
    }

    /// Every key under a prefix, with its value.
    pub fn list(&self, prefix: &str) -> Vec<(String, String)> {
        let prefix: Prefix = prefix.parse().unwrap();
        let listing = self.block_on(self.store.list(&prefix)).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        listing.entries.iter().map(|e| (e.key.to_string(), text(&e.value))).collect()
    }

    pub fn put(&self, key: &str, value: &str) -> Revision {
        let txn = Txn::new().put(key.parse().unwrap(), value.to_owned());
        match self.block_on(self.store.commit(txn)).unwrap() {
            Commit::Committed(revision) => revision,
            Commit::Conflict => panic!("a commit without guards met a conflict"),
        }
    }

    /// Puts a key as a running process holds it.
    pub fn put_held(&self, key: &str, value: &str) -> Revision {
        self.block_on(put_held(&*self.store, key.parse().unwrap(), value.to_owned()))
    }

    /// The registrations of a backend.
    pub fn registered(&self, backend: &str) -> Vec<Registration> {
        let listing =
            self.block_on(self.store.list(&keys::registry(&backend.parse().unwrap()))).unwrap();
        lbctl::registry::read_all(&listing.entries).registrations
    }

    /// Waits for as many registrations.
    pub fn wait_for_registered(&self, backend: &str, count: usize) -> Vec<Registration> {
        eventually(&format!("{count} registrations in {backend}"), || {
            let all = self.registered(backend);
            (all.len() == count).then_some(all)
        })
    }

    /// Waits until the one registration is marked as leaving.
    pub fn wait_for_leaving(&self, backend: &str) {
        eventually("the registration to be leaving", || {
            let all = self.registered(backend);
            (all.len() == 1 && all[0].endpoint.leaving).then_some(())
        });
    }

    /// Writes slot 1 of a backend, as discover would.
    pub fn put_slot(&self, backend: &str, endpoint: &Endpoint, state: SlotState) -> Revision {
        let now = Timestamp::now();
        let record = SlotRecord { endpoint: endpoint.clone(), state, since: now, started: now };
        let slot = keys::slot(&backend.parse().unwrap(), SlotNumber::new(1).unwrap());
        self.put(slot.as_str(), &serde_json::to_string(&record).unwrap())
    }

    /// Writes the report of a HAProxy, as sync-haproxy would.
    pub fn put_report(&self, backend: &str, applied: Revision, sessions: u64) {
        let report = serde_json::json!({
            "name": "lb1", "pid": 1, "version": "2.6.12", "at": Timestamp::now(),
            "backends": { backend: {
                "applied": applied, "converged": true, "drift": 0, "sessions": { "1": sessions },
            } },
        });
        self.put_held("haproxies/lb1", &report.to_string());
    }
}

/// Puts a key on a lease that lives for longer than a test, as a running process does.
pub async fn put_held(store: &dyn Store, key: Key, value: impl Into<Bytes>) -> Revision {
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap().id;
    match store.commit(Txn::new().put_leased(key, value, lease)).await.unwrap() {
        Commit::Committed(revision) => revision,
        Commit::Conflict => panic!("a commit without guards met a conflict"),
    }
}

/// An endpoint with nothing but an id and an address.
pub fn endpoint(id: &str, address: impl ToString) -> Endpoint {
    Endpoint {
        id: id.parse().unwrap(),
        address: address.to_string().parse().unwrap(),
        name: None,
        group: None,
        zone: None,
        weight: None,
        leaving: false,
    }
}

/// Far longer than anything here takes to happen, for what must not happen.
pub const LONG_ENOUGH: Duration = Duration::from_millis(400);

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}
