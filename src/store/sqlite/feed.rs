//! What watchers hear: everything behind their positions in the change log, or a new listing.

use tokio::sync::mpsc::Sender;

use super::data::{self, Logged, Stored};
use super::database::Database;
use super::failure::Outcome;
use super::keys::KeyScope;
use crate::store::{Change, Error, Prefix, StoreLife, WatchEvent};

/// Who watches, and how far everybody has come.
#[derive(Debug, Default)]
pub(super) struct Feed {
    subscribers: Vec<Subscriber>,
    /// The log was read up to here, in this life of the store.
    position: i64,
    life: StoreLife,
    /// [`Database::replaced`] when it was.
    file: u64,
    next_end: Option<i64>,
}

/// One watch.
#[derive(Debug)]
pub(super) struct Subscriber {
    /// The store's prefix and the watched one behind it.
    pub(super) whole: Prefix,
    pub(super) scope: KeyScope,
    pub(super) events: Sender<WatchEvent>,
    pub(super) state: State,
}

/// How a watch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Needs a listing: it is new, or did not keep up, or the log does not go back far enough.
    Lost,
    /// The same, and its user was told of a break.
    Interrupted,
    /// Has heard everything up to the feed's position.
    Live,
}

/// What is new, read at one revision.
struct News {
    life: StoreLife,
    head: i64,
    next_end: Option<i64>,
    /// `None`: the log does not go back as far as the position.
    changes: Option<Vec<Logged>>,
    /// A listing for each subscriber that is lost, by its place.
    listings: Vec<(usize, Vec<Stored>)>,
}

impl Feed {
    pub(super) fn subscribe(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// When the next lease ends, as of the last run.
    pub(super) fn next_end(&self) -> Option<i64> {
        self.next_end
    }

    /// Tells everybody what they have not heard yet.
    pub(super) fn run(&mut self, database: &mut Database) {
        self.subscribers.retain(|subscriber| !subscriber.events.is_closed());
        if self.is_idle() {
            return;
        }
        // A replaced file may be found by this very read, and be found to be an older one by the
        // next.
        for _ in 0..3 {
            let news = database.read(|db| self.news(db));
            if database.replaced() != self.file {
                self.file = database.replaced();
                self.lose_all();
                continue;
            }
            match news {
                Ok(news) if self.is_older(&news) => self.begin_anew(database, &news),
                Ok(news) => return self.tell(news),
                Err(failure) => return self.interrupt(&failure.into_error("watch", "")),
            }
        }
    }

    /// Whether an earlier copy was put in the place of the database: it has brought its life along.
    fn is_older(&self, news: &News) -> bool {
        news.head < self.position && news.life == self.life
    }

    /// Gives an earlier copy a life of its own, so that nobody takes it for what it was.
    fn begin_anew(&mut self, database: &mut Database, news: &News) {
        let (known, found) = (self.position, news.head);
        tracing::warn!(known, found, "the store went back: was its file restored?");
        if let Err(failure) = database.alone(|scope| data::begin_life(scope.db)) {
            tracing::warn!(error = %failure.into_error("watch", ""), "cannot tell the store's lives apart");
        }
        self.lose_all();
        self.position = news.head;
    }

    fn lose_all(&mut self) {
        for subscriber in &mut self.subscribers {
            if subscriber.state == State::Live {
                subscriber.state = State::Lost;
            }
        }
    }

    fn news(&self, db: &rusqlite::Connection) -> Outcome<News> {
        let ((head, trimmed), life) = (data::head(db)?, data::life(db)?);
        let changes = match self.position {
            _ if life != self.life => None,
            position if position == head => Some(Vec::new()),
            position if position < trimmed || position > head => None,
            // Nobody is there who could be told.
            _ if !self.subscribers.iter().any(|s| s.state == State::Live) => Some(Vec::new()),
            position => Some(data::changes(db, position)?),
        };
        let mut listings = Vec::new();
        for (place, subscriber) in self.subscribers.iter().enumerate() {
            let lost = subscriber.state != State::Live || changes.is_none();
            if lost && subscriber.is_drained() {
                listings.push((place, data::list(db, &subscriber.whole)?));
            }
        }
        Ok(News { life, head, next_end: data::next_end(db)?, changes, listings })
    }

    fn tell(&mut self, news: News) {
        match news.changes {
            None => self.lose_all(),
            Some(changes) => {
                for commit in changes.chunk_by(|a, b| a.revision() == b.revision()) {
                    for subscriber in &mut self.subscribers {
                        subscriber.hear(commit);
                    }
                }
            }
        }
        for (place, listing) in news.listings {
            if let Some(subscriber) = self.subscribers.get_mut(place) {
                subscriber.reset(news.life.clone(), news.head, listing);
            }
        }
        (self.life, self.position) = (news.life, news.head);
        self.next_end = news.next_end;
    }

    fn interrupt(&mut self, error: &Error) {
        // What is known of the next end may be over, and must not be waited for again and again.
        self.next_end = None;
        for subscriber in &mut self.subscribers {
            subscriber.interrupt(error.clone());
        }
    }
}

impl Subscriber {
    /// Whether its user has taken everything: only then is a listing worth its reading.
    fn is_drained(&self) -> bool {
        self.events.capacity() == self.events.max_capacity()
    }

    fn hear(&mut self, commit: &[Logged]) {
        if self.state != State::Live {
            return;
        }
        let changes: Vec<Change> = commit
            .iter()
            .filter(|logged| logged.key().starts_with(&self.whole.start()))
            .filter_map(|logged| self.scope.readable(self.scope.change(logged)))
            .collect();
        if !changes.is_empty() {
            self.send(WatchEvent::Changed(changes), State::Lost);
        }
    }

    fn reset(&mut self, life: StoreLife, head: i64, listing: Vec<Stored>) {
        match self.scope.listing(life, head, listing) {
            Ok(listing) => {
                let before = self.state;
                self.state = State::Live;
                self.send(WatchEvent::Reset(listing), before);
            }
            Err(failure) => self.interrupt(failure.into_error("watch", &self.whole)),
        }
    }

    fn interrupt(&mut self, error: Error) {
        if self.state != State::Interrupted {
            self.state = State::Interrupted;
            self.send(WatchEvent::Interrupted(error), State::Lost);
        }
    }

    /// A user who does not take events gets a `Reset` when it does again.
    fn send(&mut self, event: WatchEvent, otherwise: State) {
        if self.events.try_send(event).is_err() {
            self.state = otherwise;
        }
    }
}

impl Logged {
    fn key(&self) -> &str {
        match self {
            Self::Put(stored) => &stored.key,
            Self::Delete { key, .. } => key,
        }
    }

    fn revision(&self) -> i64 {
        match self {
            Self::Put(stored) => stored.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}
