//! etcd as a store.
//!
//! A commit is one etcd transaction, a revision is etcd's own, and so is a lease. A commit that
//! changes nothing (it deletes absent keys) answers the newest revision without making a new one.

mod convert;
mod life;
mod members;
mod trouble;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, GetResponse, LeaseTimeToLiveResponse};

use super::url::EtcdUrl;
use super::{
    Commit, Entry, Error, ErrorKind, Key, Lease, LeaseId, Listing, MAX_TTL, Prefix, Result,
    Revision, Store, Txn, Watch, Write,
};
use convert::Keyspace;
use members::{Ask, Effect, Members};

/// What errors and metrics call this store.
const NAME: &str = "etcd";

/// How many entries a listing reads at once.
const PAGE: usize = 512;

/// A store in an etcd cluster. Clones share their connections.
///
/// Nothing is connected until the first operation, and every operation finds a member that answers,
/// so a process may start before its etcd does.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    members: Members,
    keyspace: Keyspace,
    /// The granted TTLs: a keep-alive's first answer does not reach us with its TTL.
    granted: Mutex<HashMap<LeaseId, Duration>>,
}

impl EtcdStore {
    /// Reads the certificates and the password that the URL names. `Denied` where one cannot be
    /// read or makes no sense.
    pub fn open(url: &EtcdUrl) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                members: Members::new(url)?,
                keyspace: Keyspace::new(&url.prefix),
                granted: Mutex::default(),
            }),
        })
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let shared = &self.shared;
        let ask = Ask { operation: "get", subject: key.to_string(), effect: Effect::Read };
        let place = shared.keyspace.place(key);
        let reply = shared.members.call(&ask, |client| range(client, place.clone(), None)).await?;
        Ok(reply.kvs().first().and_then(|kv| shared.keyspace.entry(kv)))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.shared.list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        txn.check(NAME)?;
        let subject = txn.writes.first().map(|w| w.key().to_string()).unwrap_or_default();
        refuse_no_lease(&txn, &subject)?;
        let ask = Ask { operation: "commit", subject, effect: Effect::Once };
        let txn = self.shared.keyspace.txn(txn);
        let send = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        let reply = self.shared.members.call(&ask, send).await?;
        Ok(if reply.succeeded() {
            Commit::Committed(convert::revision_of(reply.header()))
        } else {
            Commit::Conflict
        })
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        Ok(watch::start(Arc::clone(&self.shared), prefix.clone()))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        // Whole seconds, never less than was asked for; etcd raises it to its own least.
        let ttl = ttl.min(MAX_TTL);
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let ask = Ask {
            operation: "grant",
            subject: format!("{seconds} s"),
            // A lease whose grant was not heard of holds no key and ends by itself.
            effect: Effect::Repeatable,
        };
        let send =
            move |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let reply = self.shared.members.call(&ask, send).await?;
        let id = LeaseId(reply.id().cast_unsigned());
        let ttl = convert::seconds(reply.ttl());
        self.shared.granted().insert(id, ttl);
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        let ask = lease_ask("keep_alive", lease);
        let id = lease.0.cast_signed();
        let send = move |client: Client| async move {
            // The stream ends with this one renewal: an answer left over in a longer one would
            // pass for the renewal that a later call asked for.
            client.lease_client().keep_alive(id).await.map(|_stream| ())
        };
        let renewed = self.shared.members.call(&ask, send).await;
        if renewed.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseExpired) {
            self.shared.granted().remove(&lease);
        }
        renewed?;
        self.shared.granted_ttl(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let ask = lease_ask("revoke", lease);
        let id = lease.0.cast_signed();
        let send = move |client: Client| async move { client.lease_client().revoke(id).await };
        let revoked = self.shared.members.call(&ask, send).await;
        match revoked {
            Err(error) if error.kind() != ErrorKind::LeaseExpired => Err(error),
            Ok(_) | Err(_) => {
                self.shared.granted().remove(&lease);
                Ok(())
            }
        }
    }
}

impl Shared {
    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        loop {
            // A compaction between two pages takes the first page's revision away.
            if let Some(listing) = self.pages(prefix).await? {
                return Ok(listing);
            }
        }
    }

    /// All pages at the revision of the first one; `None` if that was compacted meanwhile.
    async fn pages(&self, prefix: &Prefix) -> Result<Option<Listing>> {
        let ask = Ask { operation: "list", subject: prefix.to_string(), effect: Effect::Read };
        let (mut from, end) = self.keyspace.range(prefix);
        let mut entries = Vec::new();
        let mut revision = Revision::default();
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(PAGE).unwrap_or(i64::MAX))
                .with_revision(convert::signed(revision));
            let send = |client| page(client, from.clone(), options.clone());
            let Some(reply) = self.members.call(&ask, send).await? else {
                return Ok(None);
            };
            if revision == Revision::default() {
                revision = convert::revision_of(reply.header());
            }
            entries.extend(reply.kvs().iter().filter_map(|kv| self.keyspace.entry(kv)));
            match reply.kvs().last() {
                Some(last) if reply.more() => from = [last.key(), b"\0"].concat(),
                Some(_) | None => break,
            }
        }
        let life = self.life(&ask, revision).await?;
        Ok(life.map(|life| Listing { life, revision, entries }))
    }

    async fn granted_ttl(&self, lease: LeaseId) -> Result<Duration> {
        let known = self.granted().get(&lease).copied();
        if let Some(ttl) = known {
            return Ok(ttl);
        }
        let ask = lease_ask("keep_alive", lease);
        let id = lease.0.cast_signed();
        let send =
            move |client: Client| async move { client.lease_client().time_to_live(id, None).await };
        let reply: LeaseTimeToLiveResponse = self.members.call(&ask, send).await?;
        if reply.ttl() < 0 {
            return Err(expired("keep_alive", lease));
        }
        let ttl = convert::seconds(reply.granted_ttl());
        self.granted().insert(lease, ttl);
        Ok(ttl)
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<LeaseId, Duration>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn range(
    client: Client,
    key: Vec<u8>,
    options: Option<GetOptions>,
) -> Result<GetResponse, etcd_client::Error> {
    // Pages are bounded by their number of entries, so tonic's own 4 MiB bound is in the way.
    client.kv_client().max_decoding_message_size(usize::MAX).get(key, options).await
}

async fn page(
    client: Client,
    from: Vec<u8>,
    options: GetOptions,
) -> Result<Option<GetResponse>, etcd_client::Error> {
    match range(client, from, Some(options)).await {
        Err(error) if trouble::is_compacted(&error) => Ok(None),
        Err(error) => Err(error),
        Ok(reply) => Ok(Some(reply)),
    }
}

/// Renewing or ending a lease twice does what doing it once does.
fn lease_ask(operation: &'static str, lease: LeaseId) -> Ask {
    Ask { operation, subject: lease.to_string(), effect: Effect::Repeatable }
}

/// To etcd a put with lease 0 is a put without one.
fn refuse_no_lease(txn: &Txn, subject: &str) -> Result<()> {
    let none = |w: &Write| matches!(w, Write::Put { lease: Some(LeaseId(0)), .. });
    if txn.writes.iter().any(none) {
        let reason = "lease 0 was never granted";
        return Err(Error::new(ErrorKind::LeaseExpired, NAME, "commit", subject, reason));
    }
    Ok(())
}

fn expired(operation: &'static str, lease: LeaseId) -> Error {
    Error::new(ErrorKind::LeaseExpired, NAME, operation, lease, "the lease has ended")
}
