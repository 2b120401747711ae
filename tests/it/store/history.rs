//! What writers were told and what watchers heard, judged against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result as Judged, bail, ensure};
use lbctl::daemon::{OwnedTask, spawn_owned};
use lbctl::store::{
    Change, Commit, Entry, ErrorKind, Guard, Key, Listing, Result, Revision, SharedStore, Txn,
    WatchEvent,
};

use super::conformance::{Observer, key};
use crate::support::eventually_async;

/// What a writer was told of one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Committed(Revision),
    /// Surely not applied: a conflict, or `Unavailable`.
    Refused,
    /// May have been applied.
    Unknown,
}

impl Told {
    /// What a result promises. Any other error than these fails the test.
    pub fn of(result: &Result<Commit>) -> Self {
        match result {
            Ok(Commit::Committed(revision)) => Self::Committed(*revision),
            Ok(Commit::Conflict) => Self::Refused,
            Err(error) if error.kind() == ErrorKind::Unavailable => Self::Refused,
            Err(error) if error.kind() == ErrorKind::Indeterminate => Self::Unknown,
            Err(error) => panic!("neither done nor undone: {error}"),
        }
    }
}

/// One commit, which wrote one value, like no other, to each of its keys.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub keys: Vec<Key>,
    pub value: String,
    pub told: Told,
}

impl Attempt {
    /// Commits a key of this name, once, however often that takes.
    pub async fn end(store: &SharedStore, prefix: &str, name: &str) -> Self {
        let end = end_key(prefix, name);
        let create = Txn::new().guard(Guard::Absent(end.clone())).put(end.clone(), name.to_owned());
        let told = eventually_async("the last commit", || async {
            match store.commit(create.clone()).await {
                Ok(Commit::Committed(revision)) => Some(Told::Committed(revision)),
                // One that was unknown.
                Ok(Commit::Conflict) => Some(Told::Unknown),
                Err(error) => {
                    assert!(error.kind().is_transient(), "{error}");
                    None
                }
            }
        });
        Self { keys: vec![end], value: name.to_owned(), told: told.await }
    }
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub enum Heard {
    Reset { revision: Revision, entries: Values },
    Changed { revision: Revision, values: Vec<(Key, String)> },
    Interrupted,
}

/// Values with the revisions that wrote them.
pub type Values = BTreeMap<Key, (Revision, String)>;

impl Heard {
    pub fn of(event: &WatchEvent) -> Self {
        match event {
            WatchEvent::Reset(listing) => {
                Self::Reset { revision: listing.revision, entries: values(listing) }
            }
            WatchEvent::Changed(changes) => {
                let put = |change: &Change| match change {
                    Change::Put(entry) => (entry.key.clone(), text(entry)),
                    Change::Delete { key, .. } => panic!("nobody deleted {key}"),
                };
                let revision = changes[0].revision();
                Self::Changed { revision, values: changes.iter().map(put).collect() }
            }
            WatchEvent::Interrupted(_) => Self::Interrupted,
        }
    }
}

fn values(listing: &Listing) -> Values {
    listing.entries.iter().map(|e| (e.key.clone(), (e.modified, text(e)))).collect()
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.to_vec()).unwrap()
}

/// Notes what a watch of one prefix says, and checks each event against the contract.
pub struct Watcher {
    heard: Arc<Mutex<Vec<Heard>>>,
    task: OwnedTask<()>,
}

impl Watcher {
    /// Hears everything until a commit of [`History::end`] with this name.
    pub fn start(store: SharedStore, prefix: &'static str, end: &str) -> Self {
        let heard = Arc::default();
        let task = spawn_owned(watch(store, prefix, end_key(prefix, end), Arc::clone(&heard)));
        Self { heard, task }
    }

    pub fn so_far(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    async fn join(self) -> Vec<Heard> {
        self.task.join().await.expect("a watcher panicked");
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

fn end_key(prefix: &str, name: &str) -> Key {
    key(&format!("{prefix}/{name}"))
}

async fn watch(store: SharedStore, prefix: &str, end: Key, heard: Arc<Mutex<Vec<Heard>>>) {
    let mut observer = Observer::start(&store, prefix).await;
    while !observer.entries.contains_key(&end) {
        let event = Heard::of(&observer.next().await);
        heard.lock().unwrap().push(event);
    }
}

/// Everything about the keys under one prefix, which nobody else wrote and no watcher missed the
/// beginning of.
#[derive(Debug, Default)]
pub struct History {
    pub attempts: Vec<Attempt>,
    /// What each watcher heard, in its order.
    pub watchers: Vec<Vec<Heard>>,
    /// A listing after the last event.
    pub finally: Values,
}

/// All that is known to be committed: the value and the keys of each revision.
type Commits = BTreeMap<Revision, (String, BTreeSet<Key>)>;

impl History {
    /// Commits once more, lets the watchers hear it, and reads everything back.
    pub async fn end(
        attempts: Vec<Attempt>,
        watchers: Vec<Watcher>,
        store: &SharedStore,
        prefix: &'static str,
        name: &str,
    ) -> Self {
        let mut history = Self { attempts, ..Self::default() };
        history.attempts.push(Attempt::end(store, prefix, name).await);
        for watcher in watchers {
            history.watchers.push(watcher.join().await);
        }
        history.finally = values(&store.list(&prefix.parse().unwrap()).await.unwrap());
        history
    }

    /// The commits, or the first lie or loss. Each commit that anybody was told of:
    /// - is one that a writer made, at the revision that the writer was told, with all its keys;
    /// - happened once, and not at all if the writer was told that it did not;
    /// - is heard by every watcher, or lies in a gap that a `Reset` closed;
    /// - is in the final listing unless a later one wrote the key.
    pub fn judge(&self) -> Judged<Commits> {
        let commits = self.commits()?;
        for (number, heard) in self.watchers.iter().enumerate() {
            missed_nothing(heard, &commits).with_context(|| format!("watcher {number}"))?;
        }
        let last = shown(&commits, Revision(u64::MAX));
        ensure!(last == self.finally, "at the end {:?} are listed, not {last:?}", self.finally);
        Ok(commits)
    }

    /// What was acknowledged, heard or listed; each is checked against its attempt.
    fn commits(&self) -> Judged<Commits> {
        let attempts: BTreeMap<&str, &Attempt> =
            self.attempts.iter().map(|a| (a.value.as_str(), a)).collect();
        ensure!(attempts.len() == self.attempts.len(), "two attempts wrote one value");
        let mut revisions: BTreeMap<&str, Revision> = BTreeMap::new();
        for (revision, key, value) in self.facts() {
            let made = attempts.get(value).filter(|attempt| attempt.keys.contains(key));
            let made = made.with_context(|| format!("nobody wrote {value} to {key}"))?;
            ensure!(made.told != Told::Refused, "{made:?} happened at {revision:?} all the same");
            let first = *revisions.entry(value).or_insert(revision);
            ensure!(first == revision, "{made:?} happened twice: at {first:?} and {revision:?}");
        }
        let mut commits = Commits::new();
        for (value, revision) in revisions {
            let made = attempts[value];
            if let Told::Committed(told) = made.told {
                ensure!(told == revision, "{made:?} happened at {revision:?}");
            }
            let commit = (value.to_owned(), made.keys.iter().cloned().collect());
            if let Some(other) = commits.insert(revision, commit) {
                bail!("{revision:?} was given twice: to {other:?} and {made:?}");
            }
        }
        Ok(commits)
    }

    /// Every value that anybody was told of, with its revision.
    fn facts(&self) -> Vec<(Revision, &Key, &str)> {
        let mut facts = Vec::new();
        for Attempt { keys, value, told } in &self.attempts {
            if let Told::Committed(revision) = told {
                facts.extend(keys.iter().map(|key| (*revision, key, value.as_str())));
            }
        }
        for heard in self.watchers.iter().flatten() {
            match heard {
                Heard::Changed { revision, values } => {
                    facts
                        .extend(values.iter().map(|(key, value)| (*revision, key, value.as_str())));
                }
                Heard::Reset { entries, .. } => facts.extend(facts_of(entries)),
                Heard::Interrupted => {}
            }
        }
        facts.extend(facts_of(&self.finally));
        facts
    }
}

fn facts_of(entries: &Values) -> impl Iterator<Item = (Revision, &Key, &str)> {
    entries.iter().map(|(key, (revision, value))| (*revision, key, value.as_str()))
}

/// Between two resets a watcher hears every commit whole, and in order; a reset stands for what was
/// committed since the last event before it.
fn missed_nothing(heard: &[Heard], commits: &Commits) -> Judged<()> {
    let mut position = Revision::default();
    for event in heard {
        match event {
            Heard::Reset { revision, entries } => {
                let known = shown(commits, *revision);
                ensure!(*entries == known, "the reset at {revision:?}: {entries:?}, not {known:?}");
                position = *revision;
            }
            Heard::Changed { revision, values } => {
                ensure!(*revision > position, "{revision:?} after {position:?}");
                let missed = commits.range(next(position)..*revision).next();
                ensure!(missed.is_none(), "{missed:?} was not heard before {revision:?}");
                let keys: BTreeSet<Key> = values.iter().map(|(key, _)| key.clone()).collect();
                ensure!(keys == commits[revision].1, "of {revision:?} only {keys:?} was heard");
                position = *revision;
            }
            Heard::Interrupted => {}
        }
    }
    let missed = commits.range(next(position)..).next();
    ensure!(missed.is_none(), "{missed:?} was not heard at the end");
    Ok(())
}

/// What a listing shows at a revision.
fn shown(commits: &Commits, revision: Revision) -> Values {
    let mut shown = Values::new();
    for (at, (value, keys)) in commits.range(..=revision) {
        shown.extend(keys.iter().map(|key| (key.clone(), (*at, value.clone()))));
    }
    shown
}

fn next(revision: Revision) -> Revision {
    Revision(revision.0 + 1)
}

/// The judge is judged: a history that is right, and each way to spoil it.
mod tests {
    use super::*;

    const KEY: &str = "k";

    fn attempt(value: &str, told: Told) -> Attempt {
        Attempt { keys: vec![KEY.parse().unwrap()], value: value.to_owned(), told }
    }

    fn put(revision: u64, value: &str) -> Heard {
        let values = vec![(KEY.parse().unwrap(), value.to_owned())];
        Heard::Changed { revision: Revision(revision), values }
    }

    fn at(revision: u64, value: &str) -> Values {
        Values::from([(KEY.parse().unwrap(), (Revision(revision), value.to_owned()))])
    }

    fn reset(revision: u64, written: u64, value: &str) -> Heard {
        Heard::Reset { revision: Revision(revision), entries: at(written, value) }
    }

    /// `b` is heard of by the second watcher alone, and in a gap of the first; `d` never happened.
    fn right() -> History {
        let committed = |revision| Told::Committed(Revision(revision));
        History {
            attempts: vec![
                attempt("a", committed(2)),
                attempt("b", Told::Unknown),
                attempt("c", committed(5)),
                attempt("d", Told::Refused),
                attempt("e", committed(7)),
            ],
            watchers: vec![
                vec![reset(2, 2, "a"), reset(4, 3, "b"), put(5, "c"), put(7, "e")],
                vec![reset(2, 2, "a"), put(3, "b"), put(5, "c"), put(7, "e")],
            ],
            finally: at(7, "e"),
        }
    }

    #[test]
    fn a_true_history_passes() {
        assert_eq!(right().judge().unwrap().len(), 4);
    }

    type Spoil = fn(&mut History);

    #[test]
    fn every_lie_and_loss_is_found() {
        let spoils: [(&str, Spoil); 8] = [
            ("was not heard before", |h| _ = h.watchers[1].remove(1)),
            ("was not heard at the end", |h| _ = h.watchers[0].pop()),
            ("happened twice", |h| h.watchers[0].push(put(8, "e"))),
            ("nobody wrote", |h| h.watchers[0].push(put(8, "x"))),
            ("all the same", |h| h.watchers[0].push(put(8, "d"))),
            ("given twice", |h| h.attempts.push(attempt("f", Told::Committed(Revision(5))))),
            ("the reset at", |h| h.watchers[0][1] = reset(4, 2, "a")),
            ("are listed", |h| h.finally = at(5, "c")),
        ];
        for (complaint, spoil) in spoils {
            let mut history = right();
            spoil(&mut history);
            let said = format!("{:#}", history.judge().expect_err(complaint));
            assert!(said.contains(complaint), "{said:?} does not say {complaint:?}");
        }
    }
}
