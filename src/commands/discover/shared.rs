//! What the backends of one process share, so that none costs more because there are others.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::reports;
use crate::election::Elections;
use crate::files::Folders;
use crate::model::{BackendName, keys};
use crate::store::{Prefix, Result, SharedStore, SharedWatch, Watch};

/// From so many backends on their tables are watched together, and their leaders have one lease. One
/// watch sees the tables of other processes too, which for a few backends would be more work than a
/// watch each.
const MANY: usize = 16;

/// How many backends start at a time: each asks the store who leads, and a thousand questions at once
/// are answered too late.
const STARTS: usize = 64;

/// The store and the watches of it. Clones share them.
#[derive(Debug, Clone)]
pub struct Shared {
    pub store: SharedStore,
    pub elections: Elections,
    ttl: Duration,
    pub folders: Folders,
    pub starts: Arc<Semaphore>,
    reports: SharedWatch,
    tables: Watches,
    registrations: Watches,
}

impl Shared {
    /// For so many backends, whose leaders have this TTL.
    pub fn new(store: SharedStore, backends: usize, ttl: Duration) -> Self {
        let shared = Self {
            elections: Elections::new(store.clone()),
            ttl,
            folders: Folders::default(),
            starts: Arc::new(Semaphore::new(STARTS)),
            reports: reports::watch(store.clone()),
            tables: Watches::default(),
            registrations: Watches::default(),
            store,
        };
        shared.of(backends)
    }

    /// The same for another number of backends.
    pub fn of(&self, backends: usize) -> Self {
        let together = backends >= MANY;
        let (tables, registrations) = (&self.tables, &self.registrations);
        let elections = self.elections.clone();
        Self {
            elections: if together { elections.sharing(self.ttl) } else { elections },
            tables: Watches { together, ..tables.clone() },
            registrations: Watches { together, ..registrations.clone() },
            ..self.clone()
        }
    }

    /// Hears of the HAProxies' reports on a backend.
    pub fn reports(&self, backend: &BackendName) -> Watch {
        self.reports.watch(backend.as_str())
    }

    /// Hears of a backend's table.
    pub async fn table(&self, backend: &BackendName) -> Result<Watch> {
        self.tables.watch(&self.store, keys::backends(), keys::backend(backend), backend).await
    }

    /// Hears of a backend's registrations.
    pub async fn registrations(&self, backend: &BackendName) -> Result<Watch> {
        let registrations = &self.registrations;
        registrations.watch(&self.store, keys::registries(), keys::registry(backend), backend).await
    }
}

/// Watches of one kind: one for all, made when it is needed, or one for each.
#[derive(Debug, Clone, Default)]
struct Watches {
    together: bool,
    all: Arc<OnceLock<SharedWatch>>,
}

impl Watches {
    async fn watch(
        &self,
        store: &SharedStore,
        all: Prefix,
        own: Prefix,
        backend: &BackendName,
    ) -> Result<Watch> {
        if !self.together {
            return store.watch(&own).await;
        }
        let all = self.all.get_or_init(|| SharedWatch::by_name(store.clone(), all));
        Ok(all.watch(backend.as_str()))
    }
}
