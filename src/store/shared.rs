//! One watch of the store for many readers in a process, each of which hears of its own part only:
//! what an event costs does not grow with the number of those it is not about.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream;
use tokio::sync::watch;

use super::{
    Change, Entry, Error, Key, Listing, Prefix, Revision, SharedStore, StoreLife, Watch, WatchEvent,
};
use crate::daemon::{Backoff, Health, OwnedTask, spawn_owned};

/// Whose an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    Of(String),
    /// Everybody's.
    All,
}

/// Says whose an entry is, and what each of them sees of it. An entry that looks to one of them as
/// it did before is no event to that one.
pub type Split = Box<dyn Fn(&Entry) -> Vec<(Part, Entry)> + Send>;

/// A watched prefix that is split among readers. Clones share the watch.
#[derive(Debug, Clone)]
pub struct SharedWatch {
    state: Arc<Mutex<State>>,
    _task: Arc<OwnedTask<()>>,
}

struct State {
    split: Split,
    loaded: bool,
    life: StoreLife,
    revision: Revision,
    /// How often the store has begun anew, and at which revision the last time.
    rebirths: (u64, Revision),
    /// Why the entries may be old.
    stale: Option<Error>,
    parts: HashMap<String, PartState>,
    for_all: BTreeMap<Key, Entry>,
    /// Whose each entry is.
    owners: HashMap<Key, Vec<Part>>,
}

#[derive(Debug, Default)]
struct PartState {
    entries: BTreeMap<Key, Entry>,
    told: watch::Sender<()>,
}

impl SharedWatch {
    /// Watches a prefix; waits for the store as long as it takes.
    pub fn new(store: SharedStore, prefix: Prefix, split: Split) -> Self {
        let state = Arc::new(Mutex::new(State::new(split)));
        let task = spawn_owned(follow(store, prefix, state.clone()));
        Self { state, _task: Arc::new(task) }
    }

    /// The same, where a part is what has the same name behind the prefix: `a` for both `PREFIX/a`
    /// and `PREFIX/a/b`.
    pub fn by_name(store: SharedStore, prefix: Prefix) -> Self {
        let above = prefix.clone();
        let split = move |entry: &Entry| {
            let rest = above.strip(&entry.key).unwrap_or_default();
            let name = rest.split('/').next().unwrap_or_default();
            vec![(Part::Of(name.to_owned()), entry.clone())]
        };
        Self::new(store, prefix, Box::new(split))
    }

    /// Hears of one part. Each event is a whole `Reset` of it, or `Interrupted`: several changes that
    /// come while the reader is at work are one event, so that it need not keep up.
    pub fn watch(&self, part: &str) -> Watch {
        let mut state = self.lock();
        let mut told = state.parts.entry(part.to_owned()).or_default().told.subscribe();
        // What is known already is news to this reader.
        told.mark_changed();
        let rebirths = state.rebirths.0;
        drop(state);
        let (shared, part) = (self.clone(), part.to_owned());
        let reader = Reader { shared, part, told, rebirths, broken: false };
        Watch::new(stream::unfold(reader, async |mut reader| {
            let event = reader.next().await;
            Some((event, reader))
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reader {
    shared: SharedWatch,
    part: String,
    told: watch::Receiver<()>,
    /// Those of the store that were told.
    rebirths: u64,
    /// The break that is on was said.
    broken: bool,
}

impl Reader {
    async fn next(&mut self) -> WatchEvent {
        loop {
            if self.told.changed().await.is_err() {
                // The sender lives as long as a reader of it.
                std::future::pending::<()>().await;
            }
            let event = self.event();
            let is_break = matches!(event, Some(WatchEvent::Interrupted(_)));
            let was_broken = std::mem::replace(&mut self.broken, is_break);
            if let Some(event) = event.filter(|_| !(is_break && was_broken)) {
                return event;
            }
        }
    }
}

impl Reader {
    fn event(&mut self) -> Option<WatchEvent> {
        let state = self.shared.lock();
        let event = state.event(&self.part)?;
        let WatchEvent::Reset(mut listing) = event else { return Some(event) };
        let (rebirths, revision) = state.rebirths;
        if std::mem::replace(&mut self.rebirths, rebirths) != rebirths {
            // Revisions may have grown past the old ones since, which would hide it.
            listing.revision = listing.revision.min(revision);
            self.told.mark_changed();
        }
        Some(WatchEvent::Reset(listing))
    }
}

impl State {
    fn new(split: Split) -> Self {
        Self {
            split,
            loaded: false,
            life: StoreLife::default(),
            revision: Revision::default(),
            rebirths: (0, Revision::default()),
            stale: None,
            parts: HashMap::new(),
            for_all: BTreeMap::new(),
            owners: HashMap::new(),
        }
    }

    /// What there is to say of a part.
    fn event(&self, part: &str) -> Option<WatchEvent> {
        if let Some(error) = &self.stale {
            return Some(WatchEvent::Interrupted(error.clone()));
        }
        let own = self.parts.get(part).into_iter().flat_map(|part| part.entries.values());
        let mut entries: Vec<Entry> = own.chain(self.for_all.values()).cloned().collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let (life, revision) = (self.life.clone(), self.revision);
        self.loaded.then(|| WatchEvent::Reset(Listing { life, revision, entries }))
    }

    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Reset(listing) => self.reset(listing),
            WatchEvent::Changed(changes) => self.change(changes),
            WatchEvent::Interrupted(error) => {
                self.stale = Some(error);
                self.tell_all();
            }
        }
    }

    fn reset(&mut self, listing: Listing) {
        let lower = listing.revision < self.revision;
        if self.loaded && (lower || self.life.is_other(&listing.life)) {
            self.rebirths = (self.rebirths.0 + 1, listing.revision);
        }
        (self.loaded, self.revision, self.stale) = (true, listing.revision, None);
        self.life = listing.life;
        self.owners.clear();
        self.for_all.clear();
        // Who listens goes on listening; a part without entries and listeners is forgotten.
        self.parts.retain(|_, part| part.told.receiver_count() > 0);
        self.parts.values_mut().for_each(|part| part.entries.clear());
        for entry in listing.entries {
            self.put(&entry);
        }
        self.tell_all();
    }

    fn change(&mut self, changes: Vec<Change>) {
        let mut touched = HashSet::new();
        for change in changes {
            self.revision = self.revision.max(change.revision());
            match change {
                Change::Put(entry) => touched.extend(self.put(&entry)),
                Change::Delete { key, .. } => touched.extend(self.remove(&key)),
            }
        }
        if touched.contains(&Part::All) {
            return self.tell_all();
        }
        for part in touched {
            if let Part::Of(name) = part
                && let Some(part) = self.parts.get(&name)
            {
                part.told.send_replace(());
                if part.entries.is_empty() && part.told.receiver_count() == 0 {
                    self.parts.remove(&name);
                }
            }
        }
    }

    /// Puts an entry where it belongs; answers to whom it is another one now.
    fn put(&mut self, entry: &Entry) -> Vec<Part> {
        let seen = (self.split)(entry);
        let mut touched =
            self.remove_but(&entry.key, |owner| seen.iter().any(|(part, _)| part == owner));
        self.owners.insert(entry.key.clone(), seen.iter().map(|(part, _)| part.clone()).collect());
        for (part, entry) in seen {
            let before = self.entries(&part).insert(entry.key.clone(), entry.clone());
            if before != Some(entry) {
                touched.push(part);
            }
        }
        touched
    }

    fn remove(&mut self, key: &Key) -> Vec<Part> {
        self.remove_but(key, |_| false)
    }

    /// Takes an entry away from those who have it, but for some; answers from whom.
    fn remove_but(&mut self, key: &Key, stays: impl Fn(&Part) -> bool) -> Vec<Part> {
        let mut owners = self.owners.remove(key).unwrap_or_default();
        owners.retain(|owner| !stays(owner));
        for owner in &owners {
            self.entries(owner).remove(key);
        }
        owners
    }

    fn entries(&mut self, part: &Part) -> &mut BTreeMap<Key, Entry> {
        match part {
            Part::All => &mut self.for_all,
            Part::Of(name) => &mut self.parts.entry(name.clone()).or_default().entries,
        }
    }

    fn tell_all(&self) {
        for part in self.parts.values() {
            part.told.send_replace(());
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("revision", &self.revision).finish_non_exhaustive()
    }
}

async fn follow(store: SharedStore, prefix: Prefix, state: Arc<Mutex<State>>) {
    let mut watch = open(&store, &prefix, &state).await;
    loop {
        let event = watch.next_event().await;
        lock(&state).take(event);
    }
}

async fn open(store: &SharedStore, prefix: &Prefix, state: &Mutex<State>) -> Watch {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut health = Health::new(format!("watching {prefix}"));
    loop {
        match store.watch(prefix).await {
            Ok(watch) => {
                health.succeeded();
                return watch;
            }
            Err(error) => {
                health.failed(&error);
                lock(state).take(WatchEvent::Interrupted(error));
                backoff.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::store::{Commit, Faulty, MemoryStore, Mirror, Store as _, Txn};

    async fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
        let txn = Txn::new().put(key.parse().unwrap(), value.to_owned());
        match store.commit(txn).await.unwrap() {
            Commit::Committed(revision) => revision,
            Commit::Conflict => panic!("a conflict without guards"),
        }
    }

    fn shared(store: &MemoryStore) -> SharedWatch {
        SharedWatch::by_name(Arc::new(store.clone()), Prefix::of(["t"]))
    }

    fn values(mirror: &Mirror) -> Vec<String> {
        let text = |entry: &Entry| String::from_utf8_lossy(&entry.value).into_owned();
        mirror.entries().values().map(text).collect()
    }

    #[tokio::test]
    async fn a_reader_hears_of_its_own_part_only() {
        let store = MemoryStore::new();
        put(&store, "t/a/1", "one").await;
        put(&store, "t/ab/1", "other").await;
        let shared = shared(&store);
        let (mut a, mut b) = (Mirror::new(shared.watch("a")), Mirror::new(shared.watch("b")));
        a.ready().await;
        b.ready().await;
        assert_eq!((values(&a), values(&b).len()), (vec!["one".to_owned()], 0));
        let revision = put(&store, "t/a", "itself").await;
        a.changed().await;
        assert_eq!((values(&a), a.revision()), (vec!["itself".into(), "one".into()], revision));
        assert!(b.changed().now_or_never().is_none(), "nothing of b has changed");
        let _deleted = store.commit(Txn::new().delete("t/a/1".parse().unwrap())).await.unwrap();
        a.changed().await;
        assert_eq!(values(&a), ["itself"]);
    }

    #[tokio::test]
    async fn a_reader_that_is_at_work_gets_all_that_came_as_one_event() {
        let store = MemoryStore::new();
        let shared = shared(&store);
        let (mut a, mut other) = (Mirror::new(shared.watch("a")), Mirror::new(shared.watch("a")));
        a.ready().await;
        let mut last = Revision::default();
        for number in 0..1000 {
            last = put(&store, "t/a/1", &number.to_string()).await;
        }
        while other.revision() < last {
            other.changed().await;
        }
        a.changed().await;
        assert_eq!((values(&a), a.revision()), (vec!["999".to_owned()], last));
        assert!(a.changed().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_break_is_told_to_each_once_and_heals() {
        let store = MemoryStore::new();
        let faulty = Faulty::new(store.clone(), 1);
        let shared = SharedWatch::by_name(Arc::new(faulty.clone()), Prefix::of(["t"]));
        let (mut a, mut b) = (Mirror::new(shared.watch("a")), Mirror::new(shared.watch("b")));
        a.ready().await;
        b.ready().await;
        faulty.set_offline(true);
        a.changed().await;
        b.changed().await;
        assert!(a.stale().is_some() && b.stale().is_some());
        let mut late = shared.watch("c");
        assert!(matches!(late.next_event().await, WatchEvent::Interrupted(_)));
        put(&store, "t/b/1", "meanwhile").await;
        faulty.set_offline(false);
        for mirror in [&mut a, &mut b] {
            mirror.changed().await;
            assert!(mirror.stale().is_none());
        }
        assert_eq!(values(&b), ["meanwhile"]);
    }

    #[test]
    fn a_store_that_began_anew_is_told_though_its_revisions_have_grown_past_the_old_ones() {
        let split = |entry: &Entry| vec![(Part::All, entry.clone())];
        let mut state = State::new(Box::new(split));
        let reset = |revision| {
            let life = StoreLife::default();
            WatchEvent::Reset(Listing { life, revision: Revision(revision), entries: Vec::new() })
        };
        state.take(reset(7));
        assert_eq!(state.rebirths.0, 0);
        state.take(reset(3));
        state.take(reset(9));
        assert_eq!(state.rebirths, (1, Revision(3)));
    }

    #[tokio::test]
    async fn what_looks_the_same_to_a_reader_is_no_event_and_what_is_everybodys_is_one_to_all() {
        let store = MemoryStore::new();
        // `a=1 b=2`: each sees its own number.
        let split = |entry: &Entry| {
            let text = String::from_utf8_lossy(&entry.value).into_owned();
            if !text.contains('=') {
                return vec![(Part::All, entry.clone())];
            }
            let own = |word: &str| {
                let (name, number) = word.split_once('=').unwrap_or_default();
                let value = number.to_owned().into();
                (
                    Part::Of(name.to_owned()),
                    Entry { value, modified: entry.created, ..entry.clone() },
                )
            };
            text.split(' ').map(own).collect()
        };
        let watched = Arc::new(store.clone()) as SharedStore;
        let shared = SharedWatch::new(watched, Prefix::of(["t"]), Box::new(split));
        let (mut a, mut b) = (Mirror::new(shared.watch("a")), Mirror::new(shared.watch("b")));
        a.ready().await;
        b.ready().await;
        put(&store, "t/x", "a=1 b=2").await;
        a.changed().await;
        b.changed().await;
        put(&store, "t/x", "a=1 b=3").await;
        b.changed().await;
        assert_eq!((values(&a), values(&b)), (vec!["1".to_owned()], vec!["3".to_owned()]));
        assert!(a.changed().now_or_never().is_none());
        put(&store, "t/x", "damaged").await;
        a.changed().await;
        b.changed().await;
        assert_eq!(
            (values(&a), values(&b)),
            (vec!["damaged".to_owned()], vec!["damaged".to_owned()])
        );
        put(&store, "t/x", "b=3").await;
        a.changed().await;
        b.changed().await;
        assert_eq!((values(&a).len(), values(&b)), (0, vec!["3".to_owned()]));
    }
}
