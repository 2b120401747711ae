//! Listings at one revision, from queries that have none.
//!
//! A query sees a commit's items one by one, some before and some after the head moves. So: look at
//! the head, query, look at the head again at a moment at which no commit is under way, and play the
//! log from a little before the first look up to the second over what the query found. Whatever it
//! saw early or late, the log's last word on each key is that of the second look.

use std::collections::BTreeMap;

use super::Shared;
use super::calls::Ask;
use super::items::{self, Head, LogPart};
use crate::store::{Change, Entry, ErrorKind, Key, Listing, Prefix, Result, Revision};

/// How many commits before the first look are played too: those whose items may still be on their
/// way to where they are read.
const RECENT: u64 = 8;

impl Shared {
    pub(super) async fn list(&self, ask: &Ask, prefix: &Prefix) -> Result<Listing> {
        loop {
            if let Some(listing) = self.try_list(ask, prefix).await? {
                return Ok(listing);
            }
            if ask.is_over() {
                let reason = "the log of recent commits is not there to read";
                return Err(ask.error(ErrorKind::Unavailable, reason));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// `None` if the log did not have every commit that came meanwhile.
    async fn try_list(&self, ask: &Ask, prefix: &Prefix) -> Result<Option<Listing>> {
        let before = self.read_head(ask, true).await?.revision;
        let found = self.table.query_prefix(ask, &self.place.entries(), &prefix.start()).await?;
        let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
        for item in &found {
            let entry = items::read_entry(item).ok_or_else(|| ask.corrupt("an entry"))?;
            entries.insert(entry.key.clone(), entry);
        }
        let keys = vec![self.place.head_key(), self.place.log_key(before, 0)];
        let settled = self.table.get_together(ask, keys).await?;
        let head = match settled.first() {
            Some(Some(head)) => items::read_head(head).ok_or_else(|| ask.corrupt("the head"))?,
            _ => Head::default(),
        };
        if head.life.is_unknown() && self.begin_life(ask, &head).await? {
            return Ok(None);
        }
        let after = head.revision;
        let logged = matches!(settled.get(1), Some(Some(_)));
        let from = before.saturating_sub(RECENT);
        let commits = items::whole_commits(self.read_log(ask, from, after).await?);
        // A commit of long ago may have left the log; those that came meanwhile may not.
        let needed = if logged { before } else { before + 1 };
        if after < before || (needed.max(1)..=after).any(|r| !commits.contains_key(&r)) {
            return Ok(None);
        }
        for change in commits.into_values().flatten() {
            play(&mut entries, prefix, change);
        }
        entries.values().for_each(|entry| self.leases.note(entry));
        let entries = entries.into_values().collect();
        Ok(Some(Listing { life: head.life, revision: Revision(after), entries }))
    }

    /// What the log has behind one revision and up to another.
    pub(super) async fn read_log(&self, ask: &Ask, after: u64, to: u64) -> Result<Vec<LogPart>> {
        if after >= to {
            return Ok(Vec::new());
        }
        let (from, to) = (items::log_sort(after + 1, 0), items::log_sort(to, 999));
        let found = self.table.query_range(ask, &self.place.log(), &from, &to).await?;
        let read = |item| items::read_log(item).ok_or_else(|| ask.corrupt("the log"));
        found.iter().map(read).collect()
    }
}

fn play(entries: &mut BTreeMap<Key, Entry>, prefix: &Prefix, change: Change) {
    match change {
        Change::Put(entry) if prefix.contains(&entry.key) => {
            entries.insert(entry.key.clone(), entry);
        }
        Change::Put(_) => {}
        Change::Delete { key, .. } => {
            entries.remove(&key);
        }
    }
}
