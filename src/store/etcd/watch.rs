//! A watch: a listing, then etcd's own watch from the next revision on, and again after a break.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use futures::stream;

use super::members::{Ask, Effect};
use super::trouble::Trouble;
use super::{NAME, Shared, convert};
use crate::daemon::Backoff;
use crate::store::{
    Error, ErrorKind, Listing, Prefix, Result, Revision, StoreLife, Watch, WatchEvent,
};

pub(super) fn start(shared: Arc<Shared>, prefix: Prefix) -> Watch {
    let watcher = Watcher {
        shared,
        prefix,
        following: None,
        known: None,
        pending: VecDeque::new(),
        interrupted: false,
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
    };
    let events = stream::unfold(watcher, async |mut watcher: Watcher| {
        let event = watcher.next().await;
        Some((event, watcher))
    });
    // It takes part in making the connections of its handle.
    Watch::driven(events)
}

struct Watcher {
    shared: Arc<Shared>,
    prefix: Prefix,
    /// `None` when a listing must come first.
    following: Option<WatchStream>,
    /// What was said last: in which life, and up to where.
    known: Option<(StoreLife, Revision)>,
    pending: VecDeque<WatchEvent>,
    /// Whether the break that is on was said already.
    interrupted: bool,
    backoff: Backoff,
}

impl Watcher {
    async fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            let step = match self.following.take() {
                None => self.list().await,
                Some(stream) => self.follow(stream).await,
            };
            if let Err(error) = step
                && !std::mem::replace(&mut self.interrupted, true)
            {
                return WatchEvent::Interrupted(error);
            }
        }
    }

    /// Lists the prefix and opens the watch behind the listing.
    async fn list(&mut self) -> Result<()> {
        if self.interrupted {
            self.backoff.wait().await;
        }
        let mut listing = self.shared.list(&self.prefix).await?;
        if let Some((life, revision)) = &self.known
            && listing.revision < *revision
        {
            let (known, found) = (revision, listing.revision);
            tracing::warn!(%known, %found, "the store went back: was its cluster restored?");
            if *life == listing.life {
                self.begin_life(life).await;
                listing = self.shared.list(&self.prefix).await?;
            }
        } else if !listing.life.is_unknown() && self.shared.was_restored(&self.ask()).await {
            tracing::warn!(
                "the cluster was restored from a snapshot: its store begins another life"
            );
            self.begin_life(&listing.life).await;
            listing = self.shared.list(&self.prefix).await?;
        }
        self.following = Some(self.open(&listing).await?);
        self.known = Some((listing.life.clone(), listing.revision));
        self.interrupted = false;
        self.pending.push_back(WatchEvent::Reset(listing));
        Ok(())
    }

    async fn begin_life(&self, old: &StoreLife) {
        if let Err(error) = self.shared.begin_life(&self.ask(), old).await {
            tracing::warn!(%error, "cannot tell the store's lives apart");
        }
    }

    /// Watches the prefix, and the store's life: one that another watch has found to be another one
    /// is told by all of them.
    async fn open(&self, listing: &Listing) -> Result<WatchStream> {
        let (start, end) = self.shared.keyspace.range(&self.prefix);
        let next = convert::signed(listing.revision).saturating_add(1);
        let life = (!listing.life.is_unknown()).then(|| self.shared.keyspace.life());
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(next)
            // A proxy may carry a watch over to another cluster, where it would wait for ever.
            .with_progress_notify();
        let send = |client: Client| {
            let (start, options, life) = (start.clone(), options.clone(), life.clone());
            async move {
                let client = client.watch_client().max_decoding_message_size(usize::MAX);
                let mut stream = { client }.watch(start, Some(options)).await?;
                if let Some(life) = life {
                    let options = WatchOptions::new().with_start_revision(next);
                    stream.watch(life, Some(options)).await?;
                }
                Ok(stream)
            }
        };
        self.shared.members.call(&self.ask(), send).await
    }

    /// Takes in one answer. The stream is put back unless it has ended.
    async fn follow(&mut self, mut stream: WatchStream) -> Result<()> {
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.broken(Trouble::from_message("etcd ended the watch"))),
            Err(error) => return Err(self.broken(error.into())),
        };
        if answer.canceled() {
            return self.cancelled(&answer);
        }
        let reborn = self.shared.keyspace.tells_of_life(answer.events());
        if reborn || self.is_past(&answer).await? {
            return Ok(());
        }
        let commits = self.shared.keyspace.commits(answer.events());
        if let (Some((_, known)), Some(last)) = (&mut self.known, commits.last()) {
            *known = last[0].revision();
        }
        self.pending.extend(commits.into_iter().map(WatchEvent::Changed));
        self.following = Some(stream);
        Ok(())
    }

    /// Whether the cluster, not only the member that answers, is behind what was said already: it
    /// is another one then, whose commits would be missed.
    async fn is_past(&self, answer: &WatchResponse) -> Result<bool> {
        let Some((_, known)) = &self.known else { return Ok(false) };
        let behind = convert::revision_of(answer.header()) < *known;
        Ok(behind && self.shared.head(&self.ask()).await? < *known)
    }

    fn cancelled(&self, answer: &WatchResponse) -> Result<()> {
        // Compacted: what was missed is gone, and a new listing stands in for it.
        if answer.compact_revision() > 0 {
            return Ok(());
        }
        Err(self.broken(Trouble::from_message(&format!(
            "etcd cancelled the watch: {}",
            answer.cancel_reason()
        ))))
    }

    fn ask(&self) -> Ask {
        Ask { operation: "watch", subject: self.prefix.to_string(), effect: Effect::Read }
    }

    fn broken(&self, trouble: Trouble) -> Error {
        let kind = match trouble.kind {
            ErrorKind::Denied => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, NAME, "watch", &self.prefix, trouble.reason)
    }
}
