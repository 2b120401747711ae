//! One contract over an embedded database, etcd and DynamoDB: linearizable reads, atomic guarded
//! commits, gapless watches and leases.
//!
//! | operation | contract |
//! |---|---|
//! | `get`, `list` | linearizable; a listing is of one revision, in key order |
//! | `commit` | all guards hold and all writes happen, at one new revision; or none |
//! | `watch` | a `Reset`, then every later commit once, in order; a break shows as `Interrupted` and heals with a new `Reset`, and so does a store that began another life |
//! | `grant`, `keep_alive`, `revoke` | a lease's keys vanish when it ends; a dead lease is never revived |
//!
//! Every implementation and wrapper passes the whole suite in `tests/it/store/conformance.rs`.

pub mod dynamodb;
mod error;
mod etcd;
mod faulty;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod instrumented;
mod memory;
mod settings;
mod shared;
mod sqlite;
mod txn;
mod url;
mod url_text;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::text;

pub use crate::model::{Key, KeyError, Prefix, Revision, StoreLife};
pub use dynamodb::DynamoStore;
pub use error::{Error, ErrorKind, Result};
pub use etcd::EtcdStore;
pub use faulty::{Faults, Faulty};
pub use instrumented::Instrumented;
pub use memory::{MemoryCopy, MemoryStore};
pub use settings::{StoreSettings, open_from, url_from};
pub use shared::{Part, SharedWatch, Split};
pub use sqlite::{Backup, SqliteStore};
pub use txn::{Guard, Txn, Write};
pub use url::{DynamoUrl, EtcdUrl, SqliteUrl, StoreUrl, StoreUrlError};
pub use watch::{Change, Mirror, Watch, WatchEvent};

/// The largest value every backend can hold, in bytes.
pub const MAX_VALUE_LEN: usize = 256 * 1024;

/// Most guards and writes in one commit, together: etcd takes 128 operations by default and needs
/// two of them for some guards; DynamoDB takes 100 items, one of which is the head.
pub const MAX_TXN_LEN: usize = 64;

/// Most bytes of keys and values in one commit, together: etcd takes requests of 1.5 MiB by
/// default, DynamoDB of 4 MiB.
pub const MAX_TXN_BYTES: usize = 1024 * 1024;

/// Opens the store a URL names, [`Instrumented`].
pub async fn open(url: &StoreUrl) -> Result<SharedStore> {
    match url {
        StoreUrl::Memory => Ok(Arc::new(Instrumented::new(MemoryStore::new()))),
        StoreUrl::Etcd(url) => {
            let url = url.clone();
            let opened = tokio::task::spawn_blocking(move || EtcdStore::open(&url)).await;
            let failed = |error| Error::new(ErrorKind::Unavailable, "etcd", "open", "", error);
            Ok(Arc::new(Instrumented::new(opened.map_err(failed)??)))
        }
        StoreUrl::Dynamo(url) => Ok(Arc::new(Instrumented::new(DynamoStore::open(url).await))),
        StoreUrl::Sqlite(url) => Ok(Arc::new(Instrumented::new(SqliteStore::open(url).await?))),
    }
}

/// Opens the store for a command that does not write: it makes no file, and to one on this host that
/// is not there yet it says so and shows an empty one.
pub async fn open_to_read(url: &StoreUrl) -> Result<SharedStore> {
    match url {
        StoreUrl::Sqlite(file) if is_missing(file) => {
            tracing::warn!("there is no store yet at {}: it counts as empty", file.path.display());
            open(&StoreUrl::Memory).await
        }
        StoreUrl::Sqlite(file) => {
            Ok(Arc::new(Instrumented::new(SqliteStore::open_as_guest(file).await?)))
        }
        _ => open(url).await,
    }
}

/// Opens the store for a command by which a person writes: it ends no leases but those that are over
/// by this host's clock.
pub async fn open_as_guest(url: &StoreUrl) -> Result<SharedStore> {
    match url {
        StoreUrl::Sqlite(file) => {
            Ok(Arc::new(Instrumented::new(SqliteStore::open_as_guest(file).await?)))
        }
        _ => open(url).await,
    }
}

/// [`open_to_read`] for a command that goes on: it waits for a file that is not there yet.
pub async fn await_to_read(url: &StoreUrl) -> Result<SharedStore> {
    if let StoreUrl::Sqlite(file) = url
        && is_missing(file)
    {
        tracing::warn!("waiting for a store at {}: there is none yet", file.path.display());
        while is_missing(file) {
            tokio::time::sleep(MISSING_POLL).await;
        }
    }
    open_to_read(url).await
}

/// How often a missing file is looked for.
const MISSING_POLL: Duration = Duration::from_millis(100);

fn is_missing(url: &SqliteUrl) -> bool {
    matches!(url.path.try_exists(), Ok(false))
}

/// Closes what is open on this host, when the process is about to end.
pub fn close() {
    sqlite::close_all(CLOSE_DEADLINE);
}

/// How long the end of a process waits for that, where a disk hangs.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// The longest lease: a longer one is granted with this TTL.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// A store that any number of tasks share.
pub type SharedStore = Arc<dyn Store>;

/// A liveness token that keys attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A granted lease. The TTL is what the store granted, which may be more than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl: Duration,
}

/// A stored key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// The revision of the commit that made the key, since it was last absent.
    pub created: Revision,
    /// The revision of the commit that last wrote it.
    pub modified: Revision,
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// Reads the value as JSON; or says why it is none, in a fragment that is safe to print, since
    /// anybody may have written it.
    pub fn json<T: DeserializeOwned>(&self) -> std::result::Result<T, String> {
        serde_json::from_slice(&self.value)
            .map_err(|error| text::one_line(&error.to_string()).into_owned())
    }

    /// Whether a process that lives may stand behind it. Registrations, reports and leader keys are
    /// on leases, which end with their processes; one without, from an import or by hand, would
    /// speak for nobody for ever, and does not count.
    pub fn is_held(&self) -> bool {
        self.lease.is_some()
    }

    /// Its key and value in bytes.
    pub fn size(&self) -> usize {
        self.key.as_str().len() + self.value.len()
    }
}

/// Every entry under a prefix, in key order, as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Whose revision it is: another life of the store counts anew.
    pub life: StoreLife,
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

/// What a commit came to. Losing a race is a result, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Commit {
    Committed(Revision),
    /// A guard did not hold; nothing was written.
    Conflict,
}

/// The contract; see the module's table. Any method's future may be dropped at any await: then
/// either all of its effect happens or none, and it may happen later than the drop.
///
/// Expired entries are never seen: not by a read, nor by a guard, nor in a `Reset`. A lease never
/// ends before its TTL has passed since it was granted or last kept alive.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What errors and metrics call this store: `sqlite`, `etcd`, `dynamodb`, `memory`.
    fn name(&self) -> &'static str;

    async fn get(&self, key: &Key) -> Result<Option<Entry>>;

    async fn list(&self, prefix: &Prefix) -> Result<Listing>;

    /// An empty transaction is `Unsupported`; two writes to one key are `Unsupported`. A put with a
    /// dead lease is `LeaseExpired`. A value over [`MAX_VALUE_LEN`] or a transaction over
    /// [`MAX_TXN_LEN`] or [`MAX_TXN_BYTES`] is `TooLarge`.
    async fn commit(&self, txn: Txn) -> Result<Commit>;

    /// Starts at once and never ends by itself, not even with this handle: while the store is away
    /// it says `Interrupted` once and keeps trying. Its first event is a `Reset` (or `Interrupted`).
    ///
    /// The listing of a `Reset` has the revision it is of: every later `Changed` is of a higher
    /// one, and no later `Reset` of a lower one. `Changed` has all that one commit changed under the
    /// prefix, in key order, at one revision. Between `Interrupted` and the next `Reset` there is no
    /// `Changed`.
    ///
    /// That holds within one life of the store. One that was lost, rebuilt or restored is found to
    /// be so and shows as a `Reset` of another life, which may be of any revision; between the two,
    /// no `Changed` mixes them. Where a store cannot say so, the `Reset` has a lower revision and
    /// the same life. [`Mirror::rebirths`] counts both.
    async fn watch(&self, prefix: &Prefix) -> Result<Watch>;

    /// A lease of at least the given TTL, or of [`MAX_TTL`] where more was asked for.
    async fn grant(&self, ttl: Duration) -> Result<Lease>;

    /// Renews for a whole TTL from now and answers that TTL; `LeaseExpired` for a dead lease.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration>;

    /// Ends the lease and deletes its keys now. Ending a dead lease is not an error.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;
}

/// So that wrappers take a shared store, too.
#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        (**self).get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        (**self).list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        (**self).commit(txn).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        (**self).watch(prefix).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        (**self).grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        (**self).keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        (**self).revoke(lease).await
    }
}
