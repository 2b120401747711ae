//! Which life of the store this is.
//!
//! etcd does not say. The cluster's id is made of the names and addresses of its members and of the
//! initial cluster token: a cluster that was rebuilt empty, or restored from a snapshot, with the
//! same ones has the same id, and so have its members. So lbctl keeps a random text of its own
//! beside its keys.
//!
//! A snapshot brings that text along, and whoever was not there at the time does not see revisions go
//! back. But it has no Raft log: a restored member counts its entries from the beginning, while its
//! revisions go on from the snapshot's. No entry makes more than one revision, so in one life of a
//! cluster what its revision is ahead of its Raft index never grows. The text says how much that was
//! when it was made.

use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp};

use super::members::{Ask, Effect};
use super::{Shared, convert, page, range};
use crate::store::{Error, ErrorKind, Result, Revision, StoreLife};

impl Shared {
    /// The life at a revision that was just read. `None` if the revision was compacted meanwhile, or
    /// if the life is made only now, at a later one. Unknown where it cannot be read or made: this
    /// user may not, or the store is full.
    pub(super) async fn life(&self, ask: &Ask, revision: Revision) -> Result<Option<StoreLife>> {
        let place = self.keyspace.life();
        let options = GetOptions::new().with_revision(convert::signed(revision));
        let send = |client| page(client, place.clone(), options.clone());
        let found = match self.members.call(ask, send).await {
            Err(error) if error.kind() == ErrorKind::Denied => return Ok(Some(unknown(&error))),
            found => found?,
        };
        match found.as_ref().map(read) {
            None => Ok(None),
            Some(Some(life)) => Ok(Some(life)),
            Some(None) => match self.make_life().await {
                Ok(()) => Ok(None),
                Err(error) => Ok(Some(unknown(&error))),
            },
        }
    }

    /// Gives the store another life than this one, unless somebody else was quicker: an older
    /// snapshot has brought its life along, which must not pass for the one that was known.
    pub(super) async fn begin_life(&self, ask: &Ask, old: &StoreLife) -> Result<()> {
        let place = self.keyspace.life();
        let found = self.members.call(ask, |client| range(client, place.clone(), None)).await?;
        let Some(kv) = found.kvs().first().filter(|_| read(&found).as_ref() == Some(old)) else {
            return Ok(());
        };
        let same = Compare::mod_revision(place.clone(), CompareOp::Equal, kv.mod_revision());
        let put = TxnOp::put(place, self.new_life(ask).await, None);
        let txn = Txn::new().when([same]).and_then([put]);
        let send = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        self.members.call(ask, send).await.map(|_answer| ())
    }

    /// Whether the cluster was restored from a snapshot after its life was made.
    pub(super) async fn was_restored(&self, ask: &Ask) -> bool {
        let Some((found, lead)) = self.lead(ask).await else { return false };
        found.kvs().first().is_some_and(|kv| lead > said_lead(kv.value()))
    }

    /// The life's entry, and then how far the revision of the member that gave it, which shows it
    /// then, is ahead of its Raft index. `None` where it does not say, as some proxies do not.
    async fn lead(&self, ask: &Ask) -> Option<(GetResponse, i64)> {
        let place = self.keyspace.life();
        let send = |client: Client| {
            let place = place.clone();
            async move {
                let found = client.kv_client().get(place, None).await?;
                Ok((found, client.maintenance_client().status().await?))
            }
        };
        let (found, status) = match self.members.call(ask, send).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%error, "cannot tell whether the cluster was restored");
                return None;
            }
        };
        let revision = convert::signed(convert::revision_of(status.header()));
        let index = i64::try_from(status.raft_index()).ok()?;
        Some((found, revision.saturating_sub(index)))
    }

    async fn new_life(&self, ask: &Ask) -> String {
        let life = StoreLife::random();
        let lead = self.lead(ask).await;
        lead.map_or_else(|| life.to_string(), |(_, lead)| format!("{life}{LEAD}{lead}"))
    }

    /// The newest revision.
    pub(super) async fn head(&self, ask: &Ask) -> Result<Revision> {
        let place = self.keyspace.life();
        let found = self.members.call(ask, |client| range(client, place.clone(), None)).await?;
        Ok(convert::revision_of(found.header()))
    }

    async fn make_life(&self) -> Result<()> {
        let place = self.keyspace.life();
        let absent = Compare::create_revision(place.clone(), CompareOp::Equal, 0);
        // Done twice it finds what the first one made.
        let ask = Ask { operation: "list", subject: "life".into(), effect: Effect::Repeatable };
        let put = TxnOp::put(place, self.new_life(&ask).await, None);
        let txn = Txn::new().when([absent]).and_then([put]);
        let send = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        self.members.call(&ask, send).await.map(|_answer| ())
    }
}

/// Stands between a life's random text and the lead of the revision.
const LEAD: char = '@';

/// The lead that a life was made with. In a cluster that was never restored there is none.
fn said_lead(life: &[u8]) -> i64 {
    let text = std::str::from_utf8(life).ok();
    text.and_then(|text| text.split_once(LEAD)?.1.parse().ok()).unwrap_or(0)
}

fn unknown(error: &Error) -> StoreLife {
    tracing::debug!(%error, "cannot tell which life of the store this is");
    StoreLife::default()
}

/// `None` where no life was made yet.
fn read(found: &GetResponse) -> Option<StoreLife> {
    let text = std::str::from_utf8(found.kvs().first()?.value()).ok()?;
    let cluster = found.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
    // Two clusters that were restored from one snapshot are two lives.
    Some(StoreLife::new(format!("{cluster:016x}-{text}")))
}
