//! A watch: a listing, then the log whenever the head has moved, and a listing again after a break.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream;
use tokio::time::Instant;

use super::calls::Ask;
use super::items::Head;
use super::{DynamoStore, Shared, items};
use crate::daemon::Backoff;
use crate::store::{Change, Prefix, Result, Watch, WatchEvent};

/// How long a commit that the head shows may be missing from the log, before a listing stands in
/// for it.
const GAP: Duration = Duration::from_secs(2);

/// How much more often a watch looks right after a change, since changes come in groups.
const BUSY: u32 = 4;

/// How much more rarely it looks after a long quiet.
const QUIET: u32 = 3;

pub(super) fn start(store: DynamoStore, prefix: Prefix) -> Watch {
    let watcher = Watcher {
        store,
        prefix,
        position: None,
        before: None,
        pending: VecDeque::new(),
        interrupted: false,
        wait: Duration::ZERO,
        gap: None,
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
    };
    let events = stream::unfold(watcher, async |mut watcher: Watcher| {
        let event = watcher.next().await;
        Some((event, watcher))
    });
    // The watches of a handle look one after the other.
    Watch::driven(events)
}

struct Watcher {
    store: DynamoStore,
    prefix: Prefix,
    /// Up to where everything was said; `None` when a listing must come first.
    position: Option<Head>,
    /// Up to where it was said before a break: a store that is behind it was put back meanwhile.
    before: Option<Head>,
    pending: VecDeque<WatchEvent>,
    /// Whether the break that is on was said already.
    interrupted: bool,
    /// Until the next look at the head.
    wait: Duration,
    /// Since when the log lacks what comes next.
    gap: Option<Instant>,
    backoff: Backoff,
}

impl Watcher {
    async fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            let step = match self.position.clone() {
                None => self.list().await,
                Some(position) => self.follow(position).await,
            };
            if let Err(error) = step {
                self.lose_position();
                if !std::mem::replace(&mut self.interrupted, true) {
                    return WatchEvent::Interrupted(error);
                }
            }
        }
    }

    fn lose_position(&mut self) {
        self.before = self.position.take().or_else(|| self.before.take());
    }

    async fn list(&mut self) -> Result<()> {
        if self.interrupted {
            self.backoff.wait().await;
        }
        let ask = Ask::new("watch", &self.prefix);
        let listing = self.store.shared.list(&ask, &self.prefix).await?;
        let head = Head { revision: listing.revision.0, life: listing.life.clone() };
        if self.begin_anew(&ask, &head).await? {
            return Ok(());
        }
        (self.position, self.before) = (Some(head), None);
        (self.interrupted, self.gap, self.wait) = (false, None, Duration::ZERO);
        self.pending.push_back(WatchEvent::Reset(listing));
        Ok(())
    }

    /// Waits for the head to move, and says what moved it.
    async fn follow(&mut self, position: Head) -> Result<()> {
        let shared = &self.store.shared;
        self.rest(position.revision).await;
        self.wait = next_wait(self.wait, shared.poll);
        let ask = Ask::new("watch", &self.prefix);
        let head = shared.recent_head(&ask, self.wait / 2).await?;
        if !position.leads_to(&head) {
            // That look may have been an old one.
            let head = shared.read_head(&ask, true).await?;
            if !position.leads_to(&head) {
                self.lose_position();
            }
            return Ok(());
        }
        if head.revision <= position.revision {
            return Ok(());
        }
        let parts = shared.read_log(&ask, position.revision, head.revision).await?;
        self.say(position, head.revision, items::whole_commits(parts));
        Ok(())
    }

    /// Whether an older copy of the store was put in its place, and has begun another life by now: it
    /// brings its own along, which must not pass for the one that was known.
    async fn begin_anew(&self, ask: &Ask, head: &Head) -> Result<bool> {
        let Some(before) = self.before.as_ref().filter(|before| !before.leads_to(head)) else {
            return Ok(false);
        };
        let (known, found) = (before.revision, head.revision);
        tracing::warn!(known, found, "the store went back: was its table restored?");
        Ok(!before.life.is_other(&head.life) && self.store.shared.begin_life(ask, head).await?)
    }

    /// Until the next look is due, or the head is known to have moved.
    async fn rest(&self, position: u64) {
        let shared = &self.store.shared;
        let moved = shared.moved.notified();
        let has_moved = shared.head().as_ref().is_some_and(|(_, head)| head.revision > position);
        // What the log lacks still is not there at once.
        if has_moved && self.gap.is_none() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(self.wait) => {}
            () = moved => {}
        }
    }

    /// Takes in every commit up to the first that is missing.
    fn say(
        &mut self,
        position: Head,
        head: u64,
        mut commits: std::collections::BTreeMap<u64, Vec<Change>>,
    ) {
        let mut said = position.revision;
        while let Some(mut changes) = commits.remove(&(said + 1)) {
            said += 1;
            changes.retain(|change| self.prefix.contains(change.key()));
            for change in &changes {
                if let Change::Put(entry) = change {
                    self.store.shared.leases.note(entry);
                }
            }
            if !changes.is_empty() {
                self.pending.push_back(WatchEvent::Changed(changes));
            }
        }
        self.position = Some(Head { revision: said, life: position.life });
        self.wait = self.store.shared.poll / BUSY;
        if said == head {
            self.gap = None;
        } else if said > position.revision {
            self.gap = Some(Instant::now());
        } else if self.gap.get_or_insert_with(Instant::now).elapsed() > GAP {
            tracing::debug!(said, head, "the log has a gap: listing anew");
            self.lose_position();
        }
    }
}

/// Twice as long up to the poll, then in small steps: it takes some forty polls without a change to
/// come to the longest.
fn next_wait(wait: Duration, poll: Duration) -> Duration {
    if wait < poll {
        (wait * 2).clamp(poll / BUSY, poll)
    } else {
        wait.mul_f64(1.05).min(poll * QUIET)
    }
}

impl Head {
    /// Whether a store that had this head may have the other one later.
    fn leads_to(&self, later: &Self) -> bool {
        later.revision >= self.revision && !self.life.is_other(&later.life)
    }
}

impl Shared {
    /// The head as of a look that is younger than this. Several watches of one handle share looks.
    async fn recent_head(&self, ask: &Ask, age: Duration) -> Result<Head> {
        let _turn = self.looking.lock().await;
        if let Some((at, head)) = &*self.head()
            && at.elapsed() < age
        {
            return Ok(head.clone());
        }
        let started = Instant::now();
        let mut head = self.read_head(ask, false).await?;
        let mut known = self.head();
        if let Some((at, committed)) = &*known
            && *at > started
            && head.leads_to(committed)
        {
            head = committed.clone();
        }
        let before = known.replace((Instant::now(), head.clone()));
        // The other watches of the handle need not find out by themselves, which could take as long
        // again.
        if before.is_none_or(|(_, before)| before != head) {
            self.moved.notify_waiters();
        }
        Ok(head)
    }

    /// A commit of this process moved the head.
    pub(super) fn saw_head(&self, head: Head) {
        let mut known = self.head();
        if known.as_ref().is_none_or(|(_, known)| !head.leads_to(known)) {
            *known = Some((Instant::now(), head));
        }
    }

    pub(super) fn head(&self) -> MutexGuard<'_, Option<(Instant, Head)>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
    use aws_smithy_types::body::SdkBody;
    use serde_json::json;

    use super::*;
    use crate::store::StoreUrl;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A table with a head and a log, and a count of who has read the log.
    #[derive(Debug, Clone, Default)]
    struct Fake(Arc<Mutex<Log>>);

    #[derive(Debug, Default)]
    struct Log {
        head: u64,
        /// The log has the commits up to this one.
        logged: u64,
        reads: usize,
    }

    impl Fake {
        /// Somebody else commits, and the log has it or not yet.
        fn commit(&self, logged: bool) {
            let mut log = self.0.lock().unwrap();
            log.head += 1;
            log.logged = if logged { log.head } else { log.logged };
        }

        fn answer(&self, call: &str) -> serde_json::Value {
            let mut log = self.0.lock().unwrap();
            match call {
                "DynamoDB_20120810.GetItem" => {
                    json!({ "Item": { "revision": { "N": log.head.to_string() } } })
                }
                "DynamoDB_20120810.Query" => {
                    log.reads += 1;
                    assert!(log.reads < 100, "it reads the log without a pause");
                    let item = |revision| {
                        json!({
                            "sk": { "S": items::log_sort(revision, 0) },
                            "commit": { "S": "c" },
                            "parts": { "N": "1" },
                            "changes": { "L": [{ "M": { "key": { "S": "k" } } }] },
                        })
                    };
                    json!({ "Items": (1..=log.logged).map(item).collect::<Vec<_>>() })
                }
                call => panic!("{call}"),
            }
        }

        fn handle(&self, poll: &str) -> DynamoStore {
            let connector = SharedHttpConnector::new(self.clone());
            let credentials = Credentials::new("testing", "testing", None, None, "test");
            let config = SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-west-1"))
                .credentials_provider(SharedCredentialsProvider::new(credentials))
                .http_client(http_client_fn(move |_, _| connector.clone()))
                .build();
            match format!("dynamodb://table?poll={poll}").parse().unwrap() {
                StoreUrl::Dynamo(url) => DynamoStore::with_config(&url, &config),
                other => panic!("{other}"),
            }
        }
    }

    impl HttpConnector for Fake {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let answer = self.answer(request.headers().get("x-amz-target").unwrap());
            let body = SdkBody::from(answer.to_string());
            HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), body)))
        }
    }

    /// A watch that has said nothing since the beginning and looks after this long.
    fn watcher(store: &DynamoStore, wait: Duration) -> Watcher {
        Watcher {
            store: store.clone(),
            prefix: Prefix::root(),
            position: Some(Head::default()),
            before: None,
            pending: VecDeque::new(),
            interrupted: false,
            wait,
            gap: None,
            backoff: Backoff::new(HOUR, HOUR),
        }
    }

    /// How long a watch takes to say a change.
    async fn until_change(mut watcher: Watcher) -> Duration {
        let started = Instant::now();
        let event = watcher.next().await;
        assert!(matches!(event, WatchEvent::Changed(_)), "{event:?}");
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_that_looks_first_tells_the_others_of_its_handle() {
        let fake = Fake::default();
        let store = fake.handle("1h");
        fake.commit(true);
        let waits = [HOUR, Duration::from_secs(1), 3 * HOUR];
        let watches = waits.map(|wait| until_change(watcher(&store, wait)));
        for told in futures::future::join_all(watches).await {
            assert!(told < Duration::from_secs(2), "one was told after {told:?}");
        }
        // Whoever was at work meanwhile, and heard nothing of it.
        let told = until_change(watcher(&store, HOUR)).await;
        assert!(told < Duration::from_secs(1), "it was told after {told:?}");
        assert!(until_change(watcher(&fake.handle("1h"), HOUR)).await >= HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_lacks_the_last_commit_is_read_at_each_look_alone() {
        let fake = Fake::default();
        let store = fake.handle("1s");
        fake.commit(false);
        let watch = until_change(watcher(&store, Duration::ZERO));
        let log_comes = async {
            tokio::time::sleep(GAP / 2).await;
            fake.commit(true);
        };
        let (told, ()) = tokio::join!(watch, log_comes);
        assert!(told < GAP, "it was told after {told:?}");
        let reads = fake.0.lock().unwrap().reads;
        assert!(reads < 10, "{reads} reads of the log");
    }

    #[test]
    fn looks_come_often_after_a_change_and_rarely_after_a_long_quiet() {
        let poll = Duration::from_secs(1);
        let mut waits = vec![next_wait(Duration::ZERO, poll)];
        while waits.last() != Some(&(poll * QUIET)) {
            waits.push(next_wait(waits[waits.len() - 1], poll));
            assert!(waits.len() < 30, "{waits:?}");
        }
        assert_eq!(waits[0], poll / BUSY);
        assert_eq!(waits[2], poll);
        let until_rarest: Duration = waits.iter().sum();
        assert!((poll * 35..poll * 50).contains(&until_rarest), "{until_rarest:?}");
    }
}
