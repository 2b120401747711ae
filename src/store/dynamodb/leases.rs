//! Leases, and who ends them.
//!
//! A lease counts its renewals. Whoever has seen a key on a lease looks at the lease's count: one
//! that stood still for a whole time to live, by the looker's own monotonic clock, has not been
//! renewed for that long, whatever the clocks of others say. The lease is then ended on the
//! condition that its count is still that one, so a renewal that comes first wins.
//!
//! So a lease of which no open handle has seen a key does not end; the next one that looks ends it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use super::calls::Ask;
use super::commit::{State, Writes, at_head};
use super::items::{self, LeaseItem, number};
use crate::daemon::{Backoff, Health};
use crate::store::{Change, Entry, Key, LeaseId, Result, Revision};

/// A lease that can still be renewed and take keys.
pub(super) const ALIVE: &str = "attribute_exists(pk) AND attribute_not_exists(ended)";

/// How many keys of a lease are deleted in one commit.
const KEYS_AT_ONCE: usize = 60;

/// The shortest and longest time between two looks at the leases.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The longest time between two looks that fail: a lease that is due makes none the more urgent.
const FAILING: Duration = Duration::from_secs(5);

/// The time between two looks for each lease among them: 100 a second.
const EACH: Duration = Duration::from_millis(10);

/// The leases that this handle has seen keys on.
#[derive(Debug, Default)]
pub(super) struct Seen {
    counts: Mutex<HashMap<LeaseId, Option<Count>>>,
    first: Notify,
}

/// A lease's count, and since when it has stood still.
#[derive(Debug, Clone, Copy)]
struct Count {
    renewals: u64,
    ttl: Duration,
    since: Instant,
}

impl Seen {
    pub(super) fn note(&self, entry: &Entry) {
        let Some(lease) = entry.lease else { return };
        let mut counts = self.lock();
        if let std::collections::hash_map::Entry::Vacant(place) = counts.entry(lease) {
            place.insert(None);
            self.first.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Option<Count>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long until the next look; `None` while there is nothing to look at.
    fn next_look(&self) -> Option<Duration> {
        let now = Instant::now();
        let counts = self.lock();
        let each = counts.values().map(|count| match count {
            None => Duration::ZERO,
            Some(count) => {
                let end = (count.since + count.ttl).saturating_duration_since(now);
                end.min(count.ttl / 8)
            }
        });
        // What a look costs grows with the leases, so a handle reads so many a second at most.
        let least = EACH * u32::try_from(counts.len()).unwrap_or(u32::MAX);
        each.min().map(|wait| wait.clamp(LOOKS.0, LOOKS.1).max(least))
    }

    /// Takes a look's answer in; whether the lease has stood still for too long.
    fn look(&self, lease: LeaseId, item: &LeaseItem) -> bool {
        let now = Instant::now();
        let mut counts = self.lock();
        match counts.get(&lease) {
            Some(Some(count)) if count.renewals == item.renewals => now >= count.since + count.ttl,
            _ => {
                let count = Count { renewals: item.renewals, ttl: item.ttl, since: now };
                counts.insert(lease, Some(count));
                false
            }
        }
    }
}

/// Looks at the leases for as long as the handle is open.
pub(super) async fn sweep(shared: Arc<Shared>) {
    let mut health = Health::new("looking after the leases of others");
    let mut backoff = Backoff::new(LOOKS.0, FAILING);
    let mut least = Duration::ZERO;
    loop {
        let first = shared.leases.first.notified();
        match shared.leases.next_look() {
            None => first.await,
            Some(wait) => tokio::time::sleep(wait.max(least)).await,
        }
        match shared.look_at_leases().await {
            Ok(()) => {
                health.succeeded();
                least = Duration::ZERO;
            }
            Err(error) => {
                health.failed(&error);
                least = backoff.next_wait();
            }
        }
    }
}

impl Shared {
    async fn look_at_leases(&self) -> Result<()> {
        let ask = Ask::new("expire", "");
        let leases: Vec<LeaseId> = self.leases.lock().keys().copied().collect();
        let keys = leases.iter().map(|lease| self.place.lease_key(*lease)).collect();
        let mut found = HashMap::new();
        for item in self.table.get_many(&ask, keys, false).await? {
            let lease = items::read_lease(&item).ok_or_else(|| ask.corrupt("a lease"))?;
            found.insert(lease.id, lease);
        }
        for lease in leases {
            match found.get(&lease) {
                Some(item) if item.ended => self.expire(lease, item.renewals).await?,
                Some(item) if self.leases.look(lease, item) => {
                    self.expire(lease, item.renewals).await?;
                }
                Some(_) => {}
                // A new lease may be missing from a read that is not consistent.
                None => self.forget_if_gone(&ask, lease).await?,
            }
        }
        Ok(())
    }

    async fn expire(&self, lease: LeaseId, renewals: u64) -> Result<()> {
        tracing::debug!(%lease, "ending a lease that was not renewed");
        self.end_lease(&Ask::new("expire", lease), lease, Some(renewals)).await
    }

    async fn forget_if_gone(&self, ask: &Ask, lease: LeaseId) -> Result<()> {
        if self.table.get(ask, self.place.lease_key(lease), true).await?.is_none() {
            self.leases.lock().remove(&lease);
        }
        Ok(())
    }

    /// Deletes a lease and the keys on it, if it was not renewed since it had a count; whatever its
    /// count where none is given.
    pub(super) async fn end_lease(
        &self,
        ask: &Ask,
        lease: LeaseId,
        renewals: Option<u64>,
    ) -> Result<()> {
        let _turn = self.committing.lock().await;
        loop {
            let key = self.place.lease_key(lease);
            let Some(item) = self.table.get(ask, key, true).await? else {
                self.leases.lock().remove(&lease);
                return Ok(());
            };
            let item = items::read_lease(&item).ok_or_else(|| ask.corrupt("a lease"))?;
            if !item.ended && renewals.is_some_and(|renewals| renewals != item.renewals) {
                return Ok(());
            }
            if !self.end_some(ask, lease, &item).await? {
                ask.take_turns().await?;
            }
        }
    }

    /// Deletes some of a lease's keys, and the lease with the last of them; `false`, and nothing was
    /// deleted, if something came between.
    async fn end_some(&self, ask: &Ask, lease: LeaseId, item: &LeaseItem) -> Result<bool> {
        let held: BTreeSet<Key> = item.held.iter().cloned().collect();
        let State { head, mut known, .. } = self.read_state(ask, held, [].iter()).await?;
        // A key that was put anew without the lease stays.
        known.retain(|_, entry| entry.as_ref().is_some_and(|entry| entry.lease == Some(lease)));
        let all = known.len() <= KEYS_AT_ONCE;
        let known =
            known.into_iter().take(KEYS_AT_ONCE).collect::<std::collections::BTreeMap<_, _>>();
        let mut writes = Writes::default();
        let same = ("renewals = :renewals", vec![(":renewals", number(item.renewals))]);
        let key = self.place.lease_key(lease);
        if all {
            writes.delete(self, ask, key, same)?;
        } else {
            let (condition, mut values) = same;
            values.push((":ended", number(1)));
            writes.update(self, ask, key, "SET ended = :ended", (condition, values))?;
        }
        let revision = Revision(head.revision + 1);
        let changes: Vec<Change> =
            known.keys().map(|key| Change::Delete { key: key.clone(), revision }).collect();
        if changes.is_empty() {
            // No key may come to it meanwhile: that would move the head.
            writes.check(self, ask, self.place.head_key(), at_head(head.revision))?;
            let token = uuid::Uuid::new_v4().to_string();
            self.transact(ask, writes, &token, None).await
        } else {
            self.write(ask, &head, &known, changes, writes).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(renewals: u64) -> LeaseItem {
        let ttl = Duration::from_secs(10);
        LeaseItem { id: LeaseId(1), ttl, renewals, held: Vec::new(), ended: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_stood_still_for_the_whole_time_has_ended() {
        let (seen, lease) = (Seen::default(), LeaseId(1));
        let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        assert!(!seen.look(lease, &item(0)));
        wait(9).await;
        assert!(!seen.look(lease, &item(0)));
        assert!(!seen.look(lease, &item(1)), "renewed in time");
        wait(9).await;
        assert!(!seen.look(lease, &item(1)));
        wait(1).await;
        assert!(seen.look(lease, &item(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_come_more_rarely_with_many_leases() {
        let seen = Seen::default();
        assert_eq!(seen.next_look(), None);
        for id in 0..1000 {
            seen.lock().insert(LeaseId(id), None);
        }
        assert_eq!(seen.next_look(), Some(Duration::from_secs(10)));
    }
}
