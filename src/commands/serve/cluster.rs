//! How many clients all servers have: each server's count is one key on its lease, and the sum is
//! kept up to date by a watch.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::daemon::{Backoff, Health};
use crate::model::{EndpointId, keys};
use crate::store::{Change, Entry, Key, SharedStore, WatchEvent};

/// `serve/<id>/<instance>`: one server's clients, on its lease. A number and not the list, which
/// nobody else reads: it stays small however many clients there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub clients: u64,
}

impl Count {
    pub fn to_value(self) -> Bytes {
        format!(r#"{{"clients":{}}}"#, self.clients).into()
    }
}

/// What this server knows of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Others {
    /// The store does not answer, and why.
    Unavailable(String),
    /// Their clients, as of the last change.
    Clients(u64),
}

impl Others {
    /// The third line of `WHO`. This server's own number is `own`, from its own memory: the store
    /// may lag behind it.
    pub fn line(&self, own: usize) -> String {
        match self {
            Self::Unavailable(_) => "clients connected to all servers: unavailable\n".into(),
            Self::Clients(others) => {
                let all = others.saturating_add(own as u64);
                format!("clients connected to all servers: {all}\n")
            }
        }
    }
}

/// The other servers' counts, from watch events. Pure.
#[derive(Debug)]
pub struct Tally {
    own: Key,
    counts: BTreeMap<Key, u64>,
}

impl Tally {
    /// `own` is the key of this server, which does not count.
    pub fn new(own: Key) -> Self {
        Self { own, counts: BTreeMap::new() }
    }

    /// Takes an event in and answers what is known after it.
    pub fn take(&mut self, event: &WatchEvent) -> Others {
        match event {
            WatchEvent::Reset(listing) => {
                self.counts.clear();
                listing.entries.iter().for_each(|entry| self.put(entry));
            }
            WatchEvent::Changed(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) => self.put(entry),
                        Change::Delete { key, .. } => _ = self.counts.remove(key),
                    }
                }
            }
            WatchEvent::Interrupted(error) => return Others::Unavailable(error.to_string()),
        }
        Others::Clients(self.counts.values().fold(0, |sum, count| sum.saturating_add(*count)))
    }

    /// Other live servers with this server's id, which `WHERE` cannot tell from it.
    pub fn namesakes(&self) -> usize {
        let same = |key: &&Key| parent(key) == parent(&self.own);
        self.counts.keys().filter(same).count()
    }

    fn put(&mut self, entry: &Entry) {
        if entry.key == self.own {
            return;
        }
        match entry.json::<Count>() {
            Ok(count) => _ = self.counts.insert(entry.key.clone(), count.clients),
            Err(error) => {
                tracing::warn!(key = %entry.key, %error, "a server's client count is unreadable: it counts as none");
                self.counts.remove(&entry.key);
            }
        }
    }
}

fn parent(key: &Key) -> &str {
    key.as_str().rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Follows the other servers' counts until it is dropped.
pub async fn follow(store: SharedStore, id: EndpointId, own: Key, others: watch::Sender<Others>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut health = Health::new("watching the client counts");
    let mut watch = loop {
        match store.watch(&keys::serve()).await {
            Ok(watch) => break watch,
            Err(error) => {
                others.send_replace(Others::Unavailable(error.to_string()));
                health.failed(&error);
                backoff.wait().await;
            }
        }
    };
    health.succeeded();
    let mut tally = Tally::new(own);
    let mut namesakes = 0;
    loop {
        let known = tally.take(&watch.next_event().await);
        match &known {
            Others::Unavailable(error) => health.failed(error),
            Others::Clients(_) => health.succeeded(),
        }
        others.send_replace(known);
        if tally.namesakes() > namesakes {
            tracing::warn!(
                "another server has the id {id} too, or had it and its lease has not ended yet: \
                 their clients are counted apart, but WHERE cannot tell them apart; give each its own --id"
            );
        }
        namesakes = tally.namesakes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Error, ErrorKind, Listing, Revision, StoreLife};

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn put(at: &str, value: &str) -> Change {
        Change::Put(Entry {
            key: key(at),
            value: Bytes::copy_from_slice(value.as_bytes()),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        })
    }

    fn clients(tally: &mut Tally, changes: Vec<Change>) -> u64 {
        match tally.take(&WatchEvent::Changed(changes)) {
            Others::Clients(sum) => sum,
            Others::Unavailable(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_sum_follows_every_change_and_leaves_this_server_out() {
        let mut tally = Tally::new(key("serve/a/1"));
        let b = put("serve/b/1", r#"{"clients":2}"#);
        assert_eq!(clients(&mut tally, vec![put("serve/a/1", r#"{"clients":9}"#), b]), 2);
        assert_eq!(clients(&mut tally, vec![put("serve/c/1", r#"{"clients":5,"new":1}"#)]), 7);
        let gone = Change::Delete { key: key("serve/b/1"), revision: Revision(3) };
        assert_eq!(clients(&mut tally, vec![gone]), 5);
        let life = StoreLife::default();
        let listing = Listing { life, revision: Revision(4), entries: vec![] };
        assert_eq!(tally.take(&WatchEvent::Reset(listing)), Others::Clients(0));
    }

    #[test]
    fn an_unreadable_count_is_none_and_a_huge_one_does_not_overflow() {
        let mut tally = Tally::new(key("serve/a/1"));
        assert_eq!(clients(&mut tally, vec![put("serve/b/1", r#"{"clients":2}"#)]), 2);
        assert_eq!(clients(&mut tally, vec![put("serve/b/1", r#"{"clients":-2}"#)]), 0);
        let huge = format!(r#"{{"clients":{}}}"#, u64::MAX);
        assert_eq!(
            clients(&mut tally, vec![put("serve/c/1", &huge), put("serve/d/1", &huge)]),
            u64::MAX
        );
        assert!(Others::Clients(u64::MAX).line(3).ends_with(&format!(": {}\n", u64::MAX)));
    }

    #[test]
    fn a_break_of_the_watch_makes_the_count_unavailable() {
        let mut tally = Tally::new(key("serve/a/1"));
        let error = Error::new(ErrorKind::Unavailable, "etcd", "watch", "serve", "refused");
        let others = tally.take(&WatchEvent::Interrupted(error));
        assert_eq!(others.line(3), "clients connected to all servers: unavailable\n");
    }

    #[test]
    fn servers_with_one_id_are_noticed_and_counted_apart() {
        let mut tally = Tally::new(key("serve/a/1"));
        let sum = clients(&mut tally, vec![put("serve/a/2", &format!("{{\"clients\":{}}}", 2))]);
        assert_eq!((sum, tally.namesakes()), (2, 1));
        assert_eq!(clients(&mut tally, vec![put("serve/ab/2", r#"{"clients":1}"#)]), 3);
        assert_eq!(tally.namesakes(), 1);
    }

    #[test]
    fn a_count_reads_back_as_written() {
        let count = Count { clients: 12 };
        assert_eq!(serde_json::from_slice::<Count>(&count.to_value()).unwrap(), count);
    }
}
