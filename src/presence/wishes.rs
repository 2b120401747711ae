//! What is wanted in the store and what of it is there: pure bookkeeping.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::{Key, MAX_TXN_LEN, MAX_VALUE_LEN};

/// Most bytes of values in one commit: etcd refuses requests over 1.5 MiB.
const MAX_COMMIT_BYTES: usize = 512 * 1024;

/// The wanted keys, numbered by generation: every change of a wish makes a new one.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    generation: u64,
    keys: BTreeMap<Key, Wish>,
}

#[derive(Debug)]
struct Wish {
    /// `None`: the key is to vanish.
    value: Option<Bytes>,
    /// The generation that asked for this value.
    asked: u64,
    /// The first generation whose wish for this key is not in the store; `None` when all are.
    since: Option<u64>,
}

/// The next thing to do in the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write these in one commit.
    Put(Vec<Put>),
    Remove {
        key: Key,
        generation: u64,
    },
}

/// One key of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Put {
    pub key: Key,
    pub value: Bytes,
    pub generation: u64,
}

impl Wishes {
    /// The number of the last change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a wish in; answers whether it changes anything.
    pub fn want(&mut self, key: Key, value: Option<Bytes>) -> bool {
        let generation = self.generation + 1;
        match self.keys.get_mut(&key) {
            Some(wish) if wish.value == value => return false,
            None if value.is_none() => return false,
            Some(wish) => {
                wish.value = value;
                wish.asked = generation;
                wish.since.get_or_insert(generation);
            }
            None => {
                let wish = Wish { value, asked: generation, since: Some(generation) };
                self.keys.insert(key, wish);
            }
        }
        self.generation = generation;
        true
    }

    /// The next commit: as many puts as fit, then the removals one by one. Values that no store
    /// can hold are left out; see [`Self::oversized`].
    pub fn next_step(&self) -> Option<Step> {
        let pending = || self.keys.iter().filter(|(_, wish)| wish.since.is_some());
        let (mut puts, mut bytes) = (Vec::new(), 0);
        for (key, wish) in pending() {
            let Some(value) = wish.value.as_ref().filter(|v| v.len() <= MAX_VALUE_LEN) else {
                continue;
            };
            bytes += value.len();
            if puts.len() == MAX_TXN_LEN || (bytes > MAX_COMMIT_BYTES && !puts.is_empty()) {
                break;
            }
            puts.push(Put { key: key.clone(), value: value.clone(), generation: wish.asked });
        }
        if !puts.is_empty() {
            return Some(Step::Put(puts));
        }
        let (key, wish) = pending().find(|(_, wish)| wish.value.is_none())?;
        Some(Step::Remove { key: key.clone(), generation: wish.asked })
    }

    /// A key whose value is over the limit of every store.
    pub fn oversized(&self) -> Option<(&Key, usize)> {
        self.keys.iter().find_map(|(key, wish)| {
            let len = wish.value.as_ref().map_or(0, Bytes::len);
            (wish.since.is_some() && len > MAX_VALUE_LEN).then_some((key, len))
        })
    }

    /// What the key had to be at `generation` is in the store now.
    pub fn done(&mut self, key: &Key, generation: u64) {
        let Some(wish) = self.keys.get_mut(key) else { return };
        if wish.asked > generation {
            wish.since = Some(generation + 1);
        } else if wish.value.is_none() {
            self.keys.remove(key);
        } else {
            wish.since = None;
        }
    }

    /// The store lost the key: it has to be written again.
    pub fn lost(&mut self, key: &Key) {
        if let Some(wish) = self.keys.get_mut(key).filter(|wish| wish.since.is_none()) {
            self.generation += 1;
            wish.asked = self.generation;
            wish.since = Some(self.generation);
        }
    }

    /// The lease is gone and all keys with it.
    pub fn lost_all(&mut self) {
        self.keys.retain(|_, wish| wish.value.is_some());
        let keys: Vec<Key> = self.keys.keys().cloned().collect();
        keys.iter().for_each(|key| self.lost(key));
    }

    /// The keys that are in the store as wanted, with their values.
    pub fn settled(&self) -> Vec<(Key, Bytes)> {
        let settled = self.keys.iter().filter(|(_, wish)| wish.since.is_none());
        settled.filter_map(|(key, wish)| Some((key.clone(), wish.value.clone()?))).collect()
    }

    /// The generation up to which every wish is in the store or was replaced by one that is.
    pub fn flushed(&self) -> u64 {
        let first = self.keys.values().filter_map(|wish| wish.since).min();
        first.map_or(self.generation, |first| first - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn value(text: &str) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn puts(wishes: &Wishes) -> Vec<(String, Bytes, u64)> {
        let Some(Step::Put(puts)) = wishes.next_step() else { return Vec::new() };
        puts.into_iter().map(|p| (p.key.to_string(), p.value, p.generation)).collect()
    }

    #[test]
    fn a_change_during_a_write_is_written_next() {
        let mut wishes = Wishes::default();
        assert!(wishes.want(key("a"), value("1")));
        assert!(!wishes.want(key("a"), value("1")), "the same value is no change");
        let first = puts(&wishes);
        wishes.want(key("a"), value("2"));
        wishes.want(key("a"), value("3"));
        wishes.done(&key("a"), first[0].2);
        assert_eq!(wishes.flushed(), 1, "only the first wish is in the store");
        assert_eq!(puts(&wishes), [("a".to_owned(), value("3").unwrap(), 3)]);
        wishes.done(&key("a"), 3);
        assert_eq!((wishes.flushed(), wishes.next_step()), (3, None));
    }

    #[test]
    fn one_commit_stays_within_the_limits() {
        let mut wishes = Wishes::default();
        for i in 0..MAX_TXN_LEN + 4 {
            wishes.want(key(&format!("k{i:03}")), value("x"));
        }
        assert_eq!(puts(&wishes).len(), MAX_TXN_LEN);
        let mut wishes = Wishes::default();
        for i in 0..4 {
            wishes.want(key(&format!("big{i}")), Some(vec![0; MAX_VALUE_LEN].into()));
        }
        assert_eq!(puts(&wishes).len(), MAX_COMMIT_BYTES / MAX_VALUE_LEN);
    }

    #[test]
    fn a_value_that_is_too_large_does_not_hold_the_others_up() {
        let mut wishes = Wishes::default();
        wishes.want(key("a"), Some(vec![0; MAX_VALUE_LEN + 1].into()));
        wishes.want(key("b"), value("1"));
        assert_eq!(puts(&wishes).len(), 1);
        assert_eq!(wishes.oversized(), Some((&key("a"), MAX_VALUE_LEN + 1)));
        wishes.want(key("a"), value("1"));
        assert_eq!(wishes.oversized(), None);
    }

    #[test]
    fn a_removal_follows_the_puts_and_is_forgotten_when_done() {
        let mut wishes = Wishes::default();
        assert!(!wishes.want(key("never"), None), "a key that was never set is left alone");
        wishes.want(key("a"), value("1"));
        wishes.done(&key("a"), 1);
        wishes.want(key("a"), None);
        wishes.want(key("b"), value("1"));
        assert_eq!(puts(&wishes).len(), 1);
        wishes.done(&key("b"), 3);
        assert_eq!(wishes.next_step(), Some(Step::Remove { key: key("a"), generation: 2 }));
        wishes.want(key("a"), value("2"));
        wishes.done(&key("a"), 2);
        assert_eq!(puts(&wishes), [("a".to_owned(), value("2").unwrap(), 4)]);
        wishes.done(&key("a"), 4);
        wishes.want(key("a"), None);
        wishes.done(&key("a"), 5);
        assert_eq!((wishes.next_step(), wishes.settled().len()), (None, 1));
    }

    #[test]
    fn a_lost_lease_makes_every_key_wanted_again() {
        let mut wishes = Wishes::default();
        wishes.want(key("a"), value("1"));
        wishes.want(key("b"), value("1"));
        wishes.done(&key("a"), 1);
        wishes.done(&key("b"), 2);
        wishes.want(key("b"), None);
        wishes.lost_all();
        assert_eq!(puts(&wishes).len(), 1, "the removed key went with the lease");
        assert!(wishes.flushed() < wishes.generation(), "nothing is flushed any more");
    }
}
