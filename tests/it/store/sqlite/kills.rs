//! Eight processes that commit to one file and watch it, while one after the other is killed in the
//! middle of what it does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use lbctl::store::{Key, Revision, SharedStore, Txn, WatchEvent};
use rusqlite::Connection;
use tempfile::TempDir;

use super::child::{self, monotonic_micros, say};
use super::open;
use super::processes::check_integrity;
use crate::store::conformance::{Observer, commit, key};
use crate::store::history::{Attempt, History, Told, Watcher};
use crate::support::{Process, Random, eventually, soak};

const PROCESSES: usize = 8;

/// Every commit writes one key under it, so that a watcher hears of each revision.
const LAST: &str = "last";

/// Names a child among all that are ever started.
const NAME: &str = "LBCTL_TEST_KILLED";

/// How long a kill may hold everybody up: half the time after which a held lock is an error.
const LONGEST: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_kills_in_the_middle_of_commits_cost_nothing() {
    let mut random = Random::new();
    let mut storm = Storm::start(&mut random.rng);
    let watcher = storm.watch(1).await;
    for _ in 0..soak(452, 4952) {
        storm.kill_one();
    }
    storm.calm(watcher).await;
    // Without anybody left who has it open, the next ones have to mend the file.
    for _ in 0..soak(4, 504) {
        storm.start_all();
        storm.kill_all();
    }
    storm.start_all();
    let watcher = storm.watch(2).await;
    storm.calm(watcher).await;
    storm.judge_times();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_file_is_made_leaves_no_ruin() {
    let mut random = Random::new();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..soak(60, 600) {
        let place = folder.path().join(round.to_string());
        std::fs::create_dir(&place).unwrap();
        let database = place.join("lbctl.db");
        let mut makers = ["one", "another"]
            .map(|name| Process::start(name, &place, &mut child::command("opener", &database)));
        // A process needs some of it to start.
        pass(Duration::from_micros(random.rng.u64(..40_000)));
        makers.iter_mut().for_each(Process::kill);
        let store = open(database.clone()).await;
        assert_eq!(commit(&store, Txn::new().put(key("k"), "")).await, Revision(1));
        drop(store);
        check_integrity(&database);
    }
}

/// What one leaves behind that dies after its commit and before it wakes anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_wakes_nobody_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let mut observer = Observer::ready(&store, LAST).await;
    let file = Connection::open(&database).unwrap();
    file.execute_batch(
        "BEGIN IMMEDIATE;
         UPDATE meta SET revision = revision + 1;
         INSERT INTO entries SELECT 'lbctl/last/k', x'', revision, revision, NULL FROM meta;
         INSERT INTO changes SELECT revision, 'lbctl/last/k', x'', revision, NULL FROM meta;
         COMMIT;",
    )
    .unwrap();
    let changes = observer.next_change().await;
    assert_eq!(changes[0].key(), &key("last/k"));
    assert_eq!(observer.resets, 1);
}

/// The processes on one file, and what all of them said.
struct Storm<'r> {
    rng: &'r mut Rng,
    folder: TempDir,
    database: PathBuf,
    running: Vec<(String, Process)>,
    started: usize,
    calms: usize,
    said: BTreeMap<String, Vec<Said>>,
    /// When processes were killed, by the clock that all of them share.
    kills: Vec<i64>,
    ends: Vec<Attempt>,
}

/// What a child said of one commit that was acknowledged: the first, the second and so on.
#[derive(Debug, Clone, Copy)]
struct Said {
    revision: Revision,
    took: Duration,
    at: i64,
}

impl<'r> Storm<'r> {
    fn start(rng: &'r mut Rng) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut storm = Self {
            rng,
            database: folder.path().join("lbctl.db"),
            folder,
            running: Vec::new(),
            started: 0,
            calms: 0,
            said: BTreeMap::new(),
            kills: Vec::new(),
            ends: Vec::new(),
        };
        storm.start_all();
        storm
    }

    fn start_all(&mut self) {
        while self.running.len() < PROCESSES {
            self.started += 1;
            let name = format!("{:05}", self.started);
            let mut command = child::command("killed", &self.database);
            let process = Process::start(&name, self.folder.path(), command.env(NAME, &name));
            self.running.push((name, process));
        }
    }

    /// Kills one at a random moment, and starts another in its place.
    fn kill_one(&mut self) {
        let at = self.rng.usize(..PROCESSES);
        // One in ten may still be opening the file.
        if self.rng.u8(..10) > 0 {
            self.running[at].1.wait_for_log("acked");
        }
        pass(Duration::from_micros(self.rng.u64(..20_000)));
        self.kill(at);
        self.start_all();
    }

    fn kill_all(&mut self) {
        for (_, process) in &mut self.running {
            process.wait_for_log("acked");
        }
        pass(Duration::from_micros(self.rng.u64(..20_000)));
        while !self.running.is_empty() {
            self.kill(0);
        }
    }

    fn kill(&mut self, at: usize) {
        let (name, mut process) = self.running.remove(at);
        assert!(process.is_running(), "{name} ended by itself: {}", process.tail());
        self.kills.push(monotonic_micros());
        process.kill();
        self.said.insert(name, said(&process));
    }

    /// Watches until the end of a calm, and outlives every process up to then.
    async fn watch(&self, calm: usize) -> Watcher {
        Watcher::start(open(self.database.clone()).await, LAST, &format!("watcher-{calm}"))
    }

    /// Lets everybody hear everything, ends all processes, and judges what came of their work.
    async fn calm(&mut self, watcher: Watcher) {
        self.calms += 1;
        let store = open(self.database.clone()).await;
        let everybody = format!("everybody-{}", self.calms);
        self.ends.push(Attempt::end(&store, LAST, &everybody).await);
        for (name, process) in &self.running {
            let line = format!("heard {everybody}\n");
            eventually(&format!("{name} to hear everything: {}", process.tail()), || {
                process.log().contains(&line).then_some(())
            });
        }
        self.kill_all();
        let end = format!("watcher-{}", self.calms);
        let history = History::end(self.attempts(), vec![watcher], &store, LAST, &end).await;
        history.judge().unwrap();
        self.ends.extend(history.attempts.last().cloned());
        drop(store);
        self.judge_file();
    }

    /// Each process made one more commit than it had acknowledged when it was killed, or none.
    fn attempts(&self) -> Vec<Attempt> {
        let mut attempts = self.ends.clone();
        for (name, said) in &self.said {
            let last = key(&format!("{LAST}/{name}"));
            let told = said.iter().map(|said| Told::Committed(said.revision));
            for (number, told) in told.chain([Told::Unknown]).enumerate() {
                let value = format!("{name} {number}");
                attempts.push(Attempt { keys: vec![last.clone()], value, told });
            }
        }
        attempts
    }

    /// Every acknowledged commit is whole in the file, at its revision, and every revision is of one
    /// commit.
    fn judge_file(&self) {
        check_integrity(&self.database);
        let file = Connection::open(&self.database).unwrap();
        let mut query = file
            .prepare("SELECT key, created, modified FROM entries WHERE key LIKE 'lbctl/data/%'")
            .unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
        let data: BTreeMap<String, (i64, i64)> = rows.unwrap().map(Result::unwrap).collect();
        for (name, said) in &self.said {
            for (number, said) in said.iter().enumerate() {
                let revision = said.revision.0.cast_signed();
                let found = data.get(&format!("lbctl/{}", data_key(name, number)));
                assert_eq!(found, Some(&(revision, revision)), "commit {number} of {name}");
            }
        }
        let mut revisions: Vec<i64> = data.values().map(|(_, modified)| *modified).collect();
        revisions.extend(self.ends.iter().map(|end| match end.told {
            Told::Committed(revision) => revision.0.cast_signed(),
            Told::Refused | Told::Unknown => unreachable!(),
        }));
        revisions.sort_unstable();
        let head: i64 = file.query_row("SELECT revision FROM meta", [], |row| row.get(0)).unwrap();
        assert!(revisions.iter().copied().eq(1..=head), "up to {head}: {revisions:?}");
        let acknowledged: usize = self.said.values().map(Vec::len).sum();
        let unheard = revisions.len() - self.ends.len() - acknowledged;
        eprintln!(
            "{} kills; {acknowledged} commits acknowledged, {unheard} more made and cut off before",
            self.kills.len(),
        );
    }

    /// After every kill others go on at once: the kernel frees a dead process's locks.
    fn judge_times(&self) {
        let mut acknowledged: Vec<i64> = self.said.values().flatten().map(|said| said.at).collect();
        acknowledged.sort_unstable();
        let mut pauses: Vec<Duration> = self
            .kills
            .iter()
            .filter_map(|kill| {
                let next = acknowledged.partition_point(|at| at <= kill);
                Some(Duration::from_micros((acknowledged.get(next)? - kill).unsigned_abs()))
            })
            .collect();
        pauses.sort_unstable();
        let longest = pauses[pauses.len() - 1];
        let slowest = self.said.values().flatten().map(|said| said.took).max().unwrap();
        eprintln!(
            "after a kill the next commit is acknowledged in {:?} at the median, {longest:?} at \
             most; the slowest commit of all took {slowest:?}",
            pauses[pauses.len() / 2],
        );
        assert!(longest < LONGEST, "a kill held everybody up for {longest:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the runtime's timers are too coarse for a kill")]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn said(process: &Process) -> Vec<Said> {
    let log = process.log();
    let lines = log.lines().filter_map(|line| line.strip_prefix("acked "));
    lines
        .map(|line| {
            let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
            let mut next = || -> u64 { numbers.next().unwrap() };
            let (revision, took, at) = (Revision(next()), Duration::from_micros(next()), next());
            Said { revision, took, at: at.cast_signed() }
        })
        .collect()
}

fn data_key(name: &str, number: usize) -> String {
    format!("data/{name}/{number:06}")
}

/// The child: commits without a pause, and hears everything that everybody commits.
pub async fn commit_and_watch(store: SharedStore) {
    let name = std::env::var(NAME).unwrap();
    let observer = Observer::start(&store, LAST).await;
    tokio::join!(commit_for_ever(&store, &name), hear_for_ever(observer));
}

async fn commit_for_ever(store: &SharedStore, name: &str) {
    let last = key(&format!("{LAST}/{name}"));
    for number in 0.. {
        let data = vec![b'x'; number * 7919 % 3000];
        let txn = Txn::new().put(key(&data_key(name, number)), data);
        let started = monotonic_micros();
        let revision = commit(store, txn.put(last.clone(), format!("{name} {number}"))).await;
        let now = monotonic_micros();
        say(&format!("acked {} {} {now}", revision.0, now - started));
    }
}

/// Says each calm of which it hears.
async fn hear_for_ever(mut observer: Observer) {
    loop {
        let before = observer.revision.0;
        let heard: Vec<Key> = match observer.next().await {
            WatchEvent::Changed(changes) => {
                assert_eq!(observer.revision.0, before + 1, "something was not heard: {changes:?}");
                changes.iter().map(|change| change.key().clone()).collect()
            }
            // The first one, or it did not keep up.
            WatchEvent::Reset(listing) => listing.entries.into_iter().map(|e| e.key).collect(),
            WatchEvent::Interrupted(error) => panic!("{error}"),
        };
        for calm in heard.iter().map(Key::last).filter(|name| name.starts_with("everybody")) {
            say(&format!("heard {calm}"));
        }
    }
}
