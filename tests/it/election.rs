//! Elections between real processes on real stores: leaders that are killed, stopped and asked to
//! end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lbctl::election::{Candidate, Leadership, Options, Standing};
use lbctl::store::{self, Commit, SharedStore, StoreUrl, Txn};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::support::Process;
use crate::support::etcd::Etcd;
use crate::support::moto::{self, Moto};

/// What both stores grant as it is asked for: etcd's shortest.
const TTL: Duration = Duration::from_secs(2);

#[test]
fn sqlite_a_successor_follows_a_killed_leader() {
    let dir = TempDir::new().unwrap();
    kill_leaders(&mut Election::new(&dir, &sqlite(&dir)));
}

#[test]
fn etcd_a_successor_follows_a_killed_leader() {
    let Some(etcd) = Etcd::shared() else { return };
    let dir = TempDir::new().unwrap();
    kill_leaders(&mut Election::new(&dir, &etcd.url("elect-kill")));
}

#[test]
fn sqlite_a_successor_takes_over_at_once_from_a_leader_that_ends() {
    let dir = TempDir::new().unwrap();
    end_leaders(&mut Election::new(&dir, &sqlite(&dir)));
}

#[test]
fn etcd_a_successor_takes_over_at_once_from_a_leader_that_ends() {
    let Some(etcd) = Etcd::shared() else { return };
    let dir = TempDir::new().unwrap();
    end_leaders(&mut Election::new(&dir, &etcd.url("elect-end")));
}

#[test]
fn sqlite_a_stopped_leader_that_goes_on_can_write_no_more() {
    let dir = TempDir::new().unwrap();
    stop_leader(&mut Election::new(&dir, &sqlite(&dir)));
}

#[test]
fn etcd_a_stopped_leader_that_goes_on_can_write_no_more() {
    let Some(etcd) = Etcd::shared() else { return };
    let dir = TempDir::new().unwrap();
    stop_leader(&mut Election::new(&dir, &etcd.url("elect-stop")));
}

#[test]
fn dynamodb_a_successor_follows_a_killed_leader() {
    let Some(moto) = Moto::shared() else { return };
    let dir = TempDir::new().unwrap();
    kill_leaders(&mut Election::new(&dir, &moto.table()));
}

#[test]
fn dynamodb_a_successor_takes_over_within_a_poll_from_a_leader_that_ends() {
    let Some(moto) = Moto::shared() else { return };
    let dir = TempDir::new().unwrap();
    end_leaders_within(&mut Election::new(&dir, &moto.table()), Duration::from_millis(500));
}

#[test]
fn dynamodb_a_stopped_leader_that_goes_on_can_write_no_more() {
    let Some(moto) = Moto::shared() else { return };
    let dir = TempDir::new().unwrap();
    stop_leader(&mut Election::new(&dir, &moto.table()));
}

fn sqlite(dir: &TempDir) -> String {
    format!("sqlite:{}", dir.path().join("store.db").display())
}

/// `kill -9`, three times: within the time to live and a second.
fn kill_leaders(election: &mut Election) {
    let mut leader = election.candidate();
    leader.wait_for_log("leading");
    let took = (0..3).map(|_| {
        let mut next = election.candidate();
        next.wait_for_log("following");
        let started = Instant::now();
        leader.kill();
        next.wait_for_log("leading");
        leader = next;
        started.elapsed()
    });
    let took = median(took.collect());
    assert!(took <= TTL + Duration::from_secs(1), "the successor took {took:?}");
}

/// SIGTERM, five times: under 200 ms.
fn end_leaders(election: &mut Election) {
    end_leaders_within(election, Duration::from_millis(200));
}

fn end_leaders_within(election: &mut Election, limit: Duration) {
    let mut leader = election.candidate();
    leader.wait_for_log("leading");
    let took = (0..5).map(|_| {
        let mut next = election.candidate();
        next.wait_for_log("following");
        let started = Instant::now();
        leader.signal("TERM");
        next.wait_for_log("leading");
        let took = started.elapsed();
        assert!(leader.wait().success());
        leader = next;
        took
    });
    let took = median(took.collect());
    assert!(took < limit, "the successor took {took:?}");
}

/// SIGSTOP for longer than the lease, then SIGCONT.
fn stop_leader(election: &mut Election) {
    let mut first = election.candidate();
    first.wait_for_log("leading");
    let token = last_token(&first);
    let mut second = election.candidate();
    second.wait_for_log("following");
    first.wait_for_log(&format!("wrote {token}"));
    first.signal("STOP");
    second.wait_for_log("leading");
    let second_token = last_token(&second);
    assert!(second_token > token, "{second_token} after {token}");
    first.signal("CONT");
    first.wait_for_log("late: ");
    first.wait_for_log("following");
    assert!(first.log().contains(&format!("late: refused {token}")), "{}", first.tail());
    assert!(first.log().contains(&format!("lost {token}")), "{}", first.tail());
    assert!(second.is_running() && !second.log().contains("lost"), "{}", second.tail());
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

fn last_token(candidate: &Process) -> u64 {
    let log = candidate.log();
    let last = log.lines().rev().find_map(|line| line.strip_prefix("leading "));
    last.unwrap().parse().unwrap()
}

/// Candidates for one leader key, each a process of its own.
struct Election {
    dir: PathBuf,
    url: String,
    started: u32,
}

impl Election {
    fn new(dir: &TempDir, url: &str) -> Self {
        Self { dir: dir.path().to_owned(), url: url.to_owned(), started: 0 }
    }

    fn candidate(&mut self) -> Process {
        self.started += 1;
        start_candidate(&self.dir, &format!("candidate-{}", self.started), &self.url)
    }
}

/// Runs [`candidate_process`] in a process of its own.
fn start_candidate(dir: &Path, id: &str, url: &str) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "election::candidate_process", "--ignored", "--nocapture"])
        .env("LBCTL_TEST_CANDIDATE_ID", id)
        .env("LBCTL_TEST_CANDIDATE_STORE", url)
        .envs(moto::ENVIRONMENT);
    Process::start(id, dir, &mut command)
}

/// Stands until SIGTERM and says how it stands, a line each: `leading TOKEN`, `lost TOKEN`,
/// `following ID`. With each leadership it writes twice, when it begins (`wrote TOKEN`) and as soon
/// as it may no longer act (`late: refused TOKEN`, or whatever else came of it). Not all the time: a
/// process that is stopped in the middle of a write to SQLite holds all others up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process for the other tests"]
async fn candidate_process() {
    let Ok(id) = std::env::var("LBCTL_TEST_CANDIDATE_ID") else { return };
    let url: StoreUrl = std::env::var("LBCTL_TEST_CANDIDATE_STORE").unwrap().parse().unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let store = store::open(&url).await.unwrap();
    let options = Options { name: "test".parse().unwrap(), id: id.parse().unwrap(), ttl: TTL };
    let candidate = Candidate::start(store.clone(), options);
    tokio::select! {
        _ = terminate.recv() => candidate.resign().await,
        () = stand(&candidate) => {}
        () = write(&candidate, &store) => {}
    }
}

async fn stand(candidate: &Candidate) {
    let mut standing = candidate.standing();
    let mut led: Option<Leadership> = None;
    loop {
        let now = standing.borrow_and_update().clone();
        if let Some(led) = led.take() {
            assert!(led.lost.is_cancelled());
            say(&format!("lost {}", led.token.0));
        }
        match now {
            Standing::Leader(leadership) => {
                say(&format!("leading {}", leadership.token.0));
                led = Some(leadership);
            }
            Standing::Follower { leader: Some(leader) } => say(&format!("following {leader}")),
            Standing::Follower { leader: None } => {}
        }
        standing.changed().await.unwrap();
    }
}

async fn write(candidate: &Candidate, store: &SharedStore) {
    let mut standing = candidate.standing();
    loop {
        let leads = standing.wait_for(|now| matches!(now, Standing::Leader(_))).await.unwrap();
        let Standing::Leader(leadership) = leads.clone() else { unreachable!() };
        drop(leads);
        let token = leadership.token.0;
        say(&format!("{} {token}", put(store, &leadership).await));
        while leadership.is_held() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        say(&format!("late: {} {token}", put(store, &leadership).await));
    }
}

async fn put(store: &SharedStore, leadership: &Leadership) -> &'static str {
    let token = leadership.token.0.to_string();
    let txn = Txn::new().put("written".parse().unwrap(), token);
    match leadership.commit(&**store, txn).await {
        Ok(Commit::Committed(_)) => "wrote",
        Ok(Commit::Conflict) => "refused",
        Err(_) => "failed",
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
