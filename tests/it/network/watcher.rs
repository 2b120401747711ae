//! What is looked at all through a test: who says that it leads, and when which revision was new.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};
use lbctl::model::Timestamp;

use super::site::{EDGE, HOSTS, WEB, discover_status, member_url};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);

/// Looks until it is dropped.
pub struct Watcher {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    claims: Mutex<Vec<Claim>>,
    timeline: Mutex<Timeline>,
}

/// One `discover` says that it leads one backend, from a first look to a last one.
#[derive(Debug, Clone)]
struct Claim {
    backend: &'static str,
    host: usize,
    token: u64,
    /// When the first answer was there.
    first: Instant,
    /// When the last one was asked for.
    last: Instant,
}

/// The store's revision over time.
#[derive(Debug, Clone, Default)]
pub struct Timeline(Vec<(Timestamp, i64)>);

impl Timeline {
    /// The last time at which a revision was not there yet.
    pub fn not_before(&self, revision: i64) -> Timestamp {
        let older = self.0.partition_point(|(_, seen)| *seen < revision);
        self.0[older.saturating_sub(1)].0
    }
}

impl Watcher {
    /// In the middle of the network.
    pub fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let watch = |host| {
            let seen = seen.clone();
            std::thread::spawn(move || seen.watch_claims(host))
        };
        let mut threads: Vec<JoinHandle<()>> = (0..HOSTS.len()).map(watch).collect();
        let shared = seen.clone();
        threads.push(std::thread::spawn(move || shared.watch_revisions()));
        Self { seen, threads }
    }

    /// No two led at once, but for `slack`: how late one may notice that its time is over.
    pub fn check_claims(&self, slack: Duration) -> usize {
        let claims = self.seen.claims.lock().unwrap().clone();
        for later in &claims {
            for earlier in claims.iter().filter(|claim| claim.backend == later.backend) {
                if earlier.token >= later.token {
                    let same = earlier.token == later.token;
                    assert!(!same || earlier.host == later.host, "{earlier:?} and {later:?}");
                    continue;
                }
                let both = earlier.last.saturating_duration_since(later.first);
                assert!(both <= slack, "two led for {both:?}: {earlier:?} and {later:?}");
            }
        }
        claims.len()
    }

    pub fn timeline(&self) -> Timeline {
        self.seen.timeline.lock().unwrap().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        let failed = self.threads.drain(..).filter_map(|thread| thread.join().err()).count();
        assert!(failed == 0 || std::thread::panicking(), "{failed} watching threads failed");
    }
}

impl Seen {
    fn watch_claims(&self, host: usize) {
        let mut last: Vec<Claim> = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            let asked = Instant::now();
            if let Some(status) = discover_status(host) {
                last = self.take_claims(host, &status, asked, &last);
            }
            pause();
        }
    }

    /// Prolongs the claims of the look before, and notes new ones.
    fn take_claims(
        &self,
        host: usize,
        status: &serde_json::Value,
        asked: Instant,
        before: &[Claim],
    ) -> Vec<Claim> {
        let now = Instant::now();
        let mut all = self.claims.lock().unwrap();
        let mut claims = Vec::new();
        for backend in [WEB, EDGE] {
            let standing = &status["parts"]["discover"]["backends"][backend]["standing"];
            if standing["leads"] != true {
                continue;
            }
            let token = standing["token"].as_u64().unwrap();
            let known = |claim: &&mut Claim| {
                (claim.backend, claim.host, claim.token) == (backend, host, token)
            };
            let went_on =
                before.iter().any(|claim| (claim.backend, claim.token) == (backend, token));
            let claim = match all.iter_mut().find(known) {
                Some(claim) => {
                    assert!(went_on, "{claim:?} is back after it was lost");
                    claim.last = asked;
                    claim.clone()
                }
                None => {
                    let claim = Claim { backend, host, token, first: now, last: asked };
                    all.push(claim.clone());
                    claim
                }
            };
            claims.push(claim);
        }
        claims
    }

    fn watch_revisions(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut members = Vec::new();
            for host in 0..HOSTS.len() {
                members.push(Client::connect([member_url(host)], None).await.unwrap());
            }
            while !self.stop.load(Ordering::SeqCst) {
                let at = Timestamp::now();
                let mut newest = 0;
                for member in &mut members {
                    newest = newest.max(revision(member).await.unwrap_or(0));
                }
                self.timeline.lock().unwrap().note(at, newest);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

impl Timeline {
    fn note(&mut self, at: Timestamp, revision: i64) {
        // A member that was away knows less for a while.
        let newest = self.0.last().map_or(0, |(_, newest)| *newest);
        self.0.push((at, revision.max(newest)));
    }
}

/// The newest that a member knows of, whether it reaches the others or not.
async fn revision(member: &mut Client) -> Option<i64> {
    let ask = member.get("none", Some(GetOptions::new().with_serializable()));
    let reply = tokio::time::timeout(Duration::from_secs(1), ask).await.ok()?.ok()?;
    Some(reply.header()?.revision())
}

#[expect(clippy::disallowed_methods, reason = "the pace of looking")]
fn pause() {
    std::thread::sleep(PAUSE);
}
