//! DynamoDB as a store.
//!
//! - Every commit reads what it touches, decides, and writes all of it in one transaction whose
//!   conditions are what it read; a head item with the revision is in each, so that commits happen
//!   one after the other. Who loses decides anew.
//! - The transaction also writes the commit into a log. Watchers poll the head, and read the log
//!   when it has moved.
//! - A listing is a query over a table that moves, made whole by the log: see [`list`].
//! - Leases count renewals, and no clock of two hosts is compared: see [`leases`].

mod calls;
mod commit;
mod items;
mod leases;
mod list;
mod table;
mod trouble;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use self::calls::{ATTEMPT, Table};
use self::items::{Head, Place, number};
use self::leases::Seen;
use super::url::DynamoUrl;
use super::{
    Commit, Entry, ErrorKind, Key, Lease, LeaseId, Listing, MAX_TTL, Prefix, Result, Store, Txn,
    Watch,
};
use crate::aws::{self, Limits};
use crate::daemon::{OwnedTask, spawn_owned};

pub use table::{TableState, init};

pub(crate) use calls::{Ask, Failed, TOTAL, call};
pub(crate) use trouble::Hint;

/// What errors and metrics call this store.
const NAME: &str = "dynamodb";

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(1),
    attempt: ATTEMPT,
    operation: ATTEMPT,
    // The store tries again by itself: it knows what may be sent twice.
    attempts: 1,
};

/// A store in a DynamoDB table. Clones share their connections.
///
/// Nothing is asked until the first operation, so a process may start before its network does.
#[derive(Debug, Clone)]
pub struct DynamoStore {
    shared: Arc<Shared>,
    /// Ends with the last clone and the last watch.
    _sweeper: Arc<Sweeper>,
}

struct Shared {
    table: Table,
    place: Place,
    /// Between two looks at the head.
    poll: Duration,
    /// The last that is known of the head: from a look, or a commit of this process.
    head: std::sync::Mutex<Option<(Instant, Head)>>,
    /// One look at the head at a time.
    looking: Mutex<()>,
    /// Told of every commit of this process.
    moved: Notify,
    /// One commit of this process at a time: two would only beat each other.
    committing: Mutex<()>,
    leases: Seen,
}

struct Sweeper(#[expect(dead_code, reason = "it ends when it is dropped")] OwnedTask<()>);

impl DynamoStore {
    /// Loads the SDK's configuration; see [`crate::aws`].
    pub async fn open(url: &DynamoUrl) -> Self {
        Self::with_config(url, &config(url).await)
    }

    /// With another configuration than that of the environment.
    pub fn with_config(url: &DynamoUrl, config: &SdkConfig) -> Self {
        let shared = Arc::new(Shared {
            table: Table::new(url, config),
            place: Place::new(&url.prefix),
            poll: url.poll,
            head: std::sync::Mutex::default(),
            looking: Mutex::default(),
            moved: Notify::new(),
            committing: Mutex::default(),
            leases: Seen::default(),
        });
        let sweeper = Sweeper(spawn_owned(leases::sweep(Arc::clone(&shared))));
        Self { shared, _sweeper: Arc::new(sweeper) }
    }
}

/// What a URL's table is called with.
pub async fn config(url: &DynamoUrl) -> SdkConfig {
    config_at(&url.place).await
}

/// What tables at a place are called with.
pub(crate) async fn config_at(place: &aws::Place) -> SdkConfig {
    aws::load(place, LIMITS).await
}

impl Shared {
    async fn read_head(&self, ask: &Ask, consistent: bool) -> Result<Head> {
        match self.table.get(ask, self.place.head_key(), consistent).await? {
            Some(item) => items::read_head(&item).ok_or_else(|| ask.corrupt("the head")),
            None => Ok(Head::default()),
        }
    }

    fn read_entry(&self, ask: &Ask, item: &items::Item) -> Result<Entry> {
        let entry = items::read_entry(item).ok_or_else(|| ask.corrupt("an entry"))?;
        self.leases.note(&entry);
        Ok(entry)
    }
}

#[async_trait]
impl Store for DynamoStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let (shared, ask) = (&self.shared, Ask::new("get", key));
        let item = shared.table.get(&ask, shared.place.entry_key(key), true).await?;
        item.map(|item| shared.read_entry(&ask, &item)).transpose()
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.shared.list(&Ask::new("list", prefix), prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        txn.check(NAME)?;
        let subject = txn.writes.first().map(|w| w.key().to_string()).unwrap_or_default();
        self.shared.commit(&Ask::new("commit", subject), &txn).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        Ok(watch::start(self.clone(), prefix.clone()))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        // Whole milliseconds, never less than was asked for.
        let ttl = ttl.min(MAX_TTL).max(Duration::from_millis(1));
        let ttl = Duration::from_millis(
            u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
        );
        let (shared, ask) = (&self.shared, Ask::new("grant", format!("{ttl:?}")));
        let id = LeaseId(fastrand::u64(1..));
        let item = shared.place.lease(id, ttl);
        let send = || {
            let request = shared.table.client.put_item().table_name(&shared.table.name);
            request.set_item(Some(item.clone())).return_consumed_capacity(TOTAL).send()
        };
        // A lease whose grant was not heard of holds no key.
        let granted = shared.table.call(&ask, send).await;
        granted.map_err(|failed| failed.of_write(&ask, &shared.table, "PutItem"))?;
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        let (shared, ask) = (&self.shared, Ask::new("keep_alive", lease));
        let send = || {
            let request = shared.table.client.update_item().table_name(&shared.table.name);
            let request = request.set_key(Some(shared.place.lease_key(lease)));
            let request = request.update_expression("ADD renewals :one");
            let request = request.condition_expression(leases::ALIVE);
            let request = request.expression_attribute_values(":one", number(1));
            let request = request.return_values(aws_sdk_dynamodb::types::ReturnValue::AllNew);
            request.return_consumed_capacity(TOTAL).send()
        };
        let answer = match shared.table.call(&ask, send).await {
            Ok(answer) => answer,
            Err(failed) if failed.is_lost() => {
                return Err(ask.error(ErrorKind::LeaseExpired, "the lease has ended"));
            }
            Err(failed) => return Err(failed.of_write(&ask, &shared.table, "UpdateItem")),
        };
        let item: items::Item = answer.attributes.unwrap_or_default();
        let renewed = items::read_lease(&item).ok_or_else(|| ask.corrupt("the lease"))?;
        Ok(renewed.ttl)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.shared.end_lease(&Ask::new("revoke", lease), lease, None).await
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, poll, .. } = self;
        f.debug_struct("Shared").field("table", &table.name).field("poll", poll).finish()
    }
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sweeper")
    }
}

/// The value of a condition or of an update.
type Values = Vec<(&'static str, AttributeValue)>;
