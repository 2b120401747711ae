use std::collections::BTreeMap;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::sync::{Semaphore, mpsc};

use super::{Entry, Error, Key, Listing, Revision, StoreLife};
use crate::daemon::spawn_owned;

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: Key, revision: Revision },
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Put(entry) => entry.size(),
            Self::Delete { key, .. } => key.as_str().len(),
        }
    }
}

/// What a watcher hears.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// Everything under the prefix; what was known before no longer counts.
    Reset(Listing),
    /// All that one commit changed under the prefix, in key order: never empty, never half.
    Changed(Vec<Change>),
    /// The store went away: what is known may be old until the next `Reset`. Said once a break.
    Interrupted(Error),
}

impl WatchEvent {
    /// Its keys and values in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Reset(listing) => listing.entries.iter().map(Entry::size).sum(),
            Self::Changed(changes) => changes.iter().map(Change::size).sum(),
            Self::Interrupted(_) => 0,
        }
    }
}

/// A stream of [`WatchEvent`]s that does not end. Dropping it ends the watch.
pub struct Watch(BoxStream<'static, WatchEvent>);

/// How many events a driven watch is ahead of whoever reads it: what comes while that is at work is
/// then there at once, and taken in as one change.
const AHEAD: usize = 256;

/// How many bytes these events are together: a reader that is at work for long must not make a
/// busy store fill the memory.
const AHEAD_BYTES: usize = 4 * 1024 * 1024;

impl Watch {
    pub fn new(stream: impl Stream<Item = WatchEvent> + Send + 'static) -> Self {
        Self(stream.boxed())
    }

    /// A watch whose events come from a task of its own: where the stream shares something with the
    /// calls of its handle, such as a lock, they would wait for whoever polls it no more. The stream
    /// must not end; a panic of it is one of whoever polls the watch.
    pub(super) fn driven(stream: impl Stream<Item = WatchEvent> + Send + 'static) -> Self {
        let (told, events) = mpsc::unbounded_channel();
        let free = Arc::new(Semaphore::new(AHEAD_BYTES));
        let task = spawn_owned(async move {
            let mut stream = pin!(stream);
            while let Some(event) = stream.next().await {
                let Ok(room) = Arc::clone(&free).acquire_many_owned(room_for(&event)).await else {
                    return;
                };
                if told.send((event, room)).is_err() {
                    return;
                }
            }
        });
        Self::new(stream::unfold((events, task), async |(mut events, task)| {
            match events.recv().await {
                Some((event, _room)) => Some((event, (events, task))),
                None => panic!("the task of a watch has ended"),
            }
        }))
    }

    /// The next event; cancel-safe.
    pub async fn next_event(&mut self) -> WatchEvent {
        match self.0.next().await {
            Some(event) => event,
            // A stream that ends breaks the contract; waiting keeps callers free of a case that
            // has no remedy.
            None => std::future::pending().await,
        }
    }
}

/// How many of the bytes ahead an event takes: enough that small ones are bounded by their number,
/// and never more than there are, so that one of any size comes through.
fn room_for(event: &WatchEvent) -> u32 {
    let room = event.size().clamp(AHEAD_BYTES / AHEAD, AHEAD_BYTES);
    u32::try_from(room).unwrap_or(u32::MAX)
}

impl Stream for Watch {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// A watched prefix kept in memory: the entries, as of the last event.
#[derive(Debug)]
pub struct Mirror {
    watch: Watch,
    entries: BTreeMap<Key, Entry>,
    revision: Revision,
    life: StoreLife,
    rebirths: u64,
    loaded: bool,
    stale: Option<Error>,
}

impl Mirror {
    pub fn new(watch: Watch) -> Self {
        Self {
            watch,
            entries: BTreeMap::new(),
            revision: Revision::default(),
            life: StoreLife::default(),
            rebirths: 0,
            loaded: false,
            stale: None,
        }
    }

    /// Waits for the next event, takes it in and returns it; cancel-safe.
    pub async fn changed(&mut self) -> WatchEvent {
        let event = self.watch.next_event().await;
        match &event {
            WatchEvent::Reset(listing) => {
                self.rebirths += u64::from(self.is_reborn_by(listing));
                self.life = listing.life.clone();
                self.entries = listing.entries.iter().map(|e| (e.key.clone(), e.clone())).collect();
                self.revision = listing.revision;
                self.loaded = true;
                self.stale = None;
            }
            WatchEvent::Changed(changes) => {
                for change in changes {
                    self.revision = self.revision.max(change.revision());
                    match change {
                        Change::Put(entry) => {
                            self.entries.insert(entry.key.clone(), entry.clone());
                        }
                        Change::Delete { key, .. } => {
                            self.entries.remove(key);
                        }
                    }
                }
            }
            WatchEvent::Interrupted(error) => self.stale = Some(error.clone()),
        }
        event
    }

    fn is_reborn_by(&self, listing: &Listing) -> bool {
        let lower = listing.revision < self.revision;
        self.loaded && (lower || self.life.is_other(&listing.life))
    }

    /// Waits until a first `Reset` has come in.
    pub async fn ready(&mut self) {
        while !self.loaded {
            self.changed().await;
        }
    }

    /// The entries in key order.
    pub fn entries(&self) -> &BTreeMap<Key, Entry> {
        &self.entries
    }

    /// The revision of the last event.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The life of the store that the entries are of.
    pub fn life(&self) -> &StoreLife {
        &self.life
    }

    /// How often the store has begun another life, or its revisions have gone back, under this
    /// mirror: who remembers more than the entries forgets it when this grows.
    pub fn rebirths(&self) -> u64 {
        self.rebirths
    }

    /// Why the entries may be old; `None` while the watch is whole.
    pub fn stale(&self) -> Option<&Error> {
        self.stale.as_ref()
    }

    /// Whether a first `Reset` has come in.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::store::MAX_VALUE_LEN;

    fn events(count: u64) -> impl Stream<Item = WatchEvent> {
        stream::iter((0..count).map(|number| {
            let key = "k".parse().unwrap();
            WatchEvent::Changed(vec![Change::Delete { key, revision: Revision(number) }])
        }))
    }

    #[tokio::test]
    async fn what_a_driven_watch_heard_meanwhile_is_there_at_once() {
        let mut watch = Watch::driven(events(100).chain(stream::pending()));
        watch.next_event().await;
        let rest = std::iter::from_fn(|| watch.next_event().now_or_never());
        assert_eq!(rest.count(), 99);
    }

    fn entry(value: usize) -> Entry {
        Entry {
            key: "k".parse().unwrap(),
            value: vec![0; value].into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        }
    }

    /// How many of these events a driven watch takes from its stream while nobody reads it.
    async fn taken_ahead(event: WatchEvent) -> usize {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let many = stream::repeat(event).take(10 * AHEAD).inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let _watch = Watch::driven(many.chain(stream::pending()));
        // The watch's task is the only other one, so each of these is a turn of it.
        for _ in 0..AHEAD {
            tokio::task::yield_now().await;
        }
        taken.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn small_events_are_held_up_to_their_number() {
        let small = WatchEvent::Changed(vec![Change::Put(entry(100))]);
        // One more waits for room.
        assert_eq!(taken_ahead(small).await, AHEAD + 1);
    }

    #[tokio::test]
    async fn few_large_events_are_held_for_a_reader_that_is_at_work() {
        let value = MAX_VALUE_LEN;
        let large = WatchEvent::Changed(vec![Change::Put(entry(value)), Change::Put(entry(value))]);
        let held = AHEAD_BYTES / large.size();
        assert_eq!(taken_ahead(large).await, held + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_of_any_size_comes_through() {
        let entries = vec![entry(MAX_VALUE_LEN); 2 * AHEAD_BYTES / MAX_VALUE_LEN];
        let life = StoreLife::default();
        let listing = Listing { life, revision: Revision(1), entries };
        let listings = stream::repeat(WatchEvent::Reset(listing)).take(2);
        let mut watch = Watch::driven(listings.chain(events(1)).chain(stream::pending()));
        for _ in 0..3 {
            let event = tokio::time::timeout(Duration::from_secs(10), watch.next_event()).await;
            event.expect("the event comes through");
        }
    }

    #[tokio::test]
    #[should_panic(expected = "the task of a watch has ended")]
    async fn a_panic_in_a_driven_watch_is_its_readers_too() {
        let broken = stream::poll_fn(|_| panic!("a bug"));
        Watch::driven(broken).next_event().await;
    }
}
