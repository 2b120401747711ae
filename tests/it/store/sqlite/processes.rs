//! Several processes on one file: dying, watching, idling, all starting at once.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lbctl::store::{ErrorKind, Txn};
use rusqlite::Connection;

use super::{child, open};
use crate::store::conformance::{Observer, commit, get, gone, key, names, put};
use crate::support::{Process, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_commits_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..6 {
        let place = folder.path().join(round.to_string());
        std::fs::create_dir(&place).unwrap();
        let mut writers = [child::start("writer", &place, &database), {
            let second = place.join("second");
            std::fs::create_dir(&second).unwrap();
            child::start("writer", &second, &database)
        }];
        for writer in &mut writers {
            writer.wait_for_log("committed");
        }
        tokio::time::sleep(Duration::from_millis(random.u64(20..200))).await;
        writers.iter_mut().for_each(Process::kill);
        let found = names(&store, "pairs").await;
        for writer in &writers {
            let log = writer.log();
            let acknowledged = log.lines().filter_map(|line| line.strip_prefix("committed "));
            for name in acknowledged {
                for side in ["left", "right"] {
                    let name = format!("{name}/{side}");
                    assert!(found.binary_search(&name).is_ok(), "{name} was lost");
                }
            }
        }
        assert!(found.chunks(2).all(|pair| matches!(pair, [left, right]
            if left.strip_suffix("left") == right.strip_suffix("right"))));
        check_integrity(&database);
    }
}

pub fn check_integrity(database: &Path) {
    let other = Connection::open(database).unwrap();
    let report: String = other.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(report, "ok");
}

/// The store's contract with its users: they hear of another process's commit at once.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_hears_of_a_commit_in_20_ms() {
    const SAMPLES: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let mut watcher = child::start("watcher", folder.path(), &database);
    watcher.wait_for_log("ready");
    let mut committed = Vec::new();
    for sample in 0..SAMPLES {
        // At any point of a poll, as commits come.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..60))).await;
        put(&store, &format!("times/{sample}"), "").await;
        committed.push(child::monotonic_micros());
    }
    let heard = eventually("the watcher to hear everything", || {
        let log = watcher.log();
        let heard: Vec<i64> = log
            .lines()
            .filter_map(|line| line.strip_prefix("heard "))
            .map(|line| line.split_once(' ').unwrap().1.parse().unwrap())
            .collect();
        (heard.len() == SAMPLES).then_some(heard)
    });
    let mut late: Vec<i64> = heard.iter().zip(&committed).map(|(h, c)| h - c).collect();
    late.sort_unstable();
    eprintln!("heard after µs: median {}, all {late:?}", late[SAMPLES / 2]);
    assert!(late[SAMPLES / 2] < 20_000, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watcher_costs_nearly_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let mut watcher = child::start("watcher", folder.path(), &database);
    watcher.wait_for_log("ready");
    let span = Duration::from_secs(3);
    let before = cpu_time(watcher.id());
    tokio::time::sleep(span).await;
    let used = cpu_time(watcher.id()) - before;
    let percent = used.as_secs_f64() / span.as_secs_f64() * 100.0;
    eprintln!("an idle watcher uses {percent:.3} % of a core");
    assert!(percent < 1.0, "{percent} % of a core");
}

/// What all threads of a process have run, by the kernel's nanoseconds.
fn cpu_time(process: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanos = tasks.map(|task| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_may_make_the_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("new/folder/lbctl.db");
    let mut children: Vec<Process> = (0..6)
        .map(|number| {
            let place = folder.path().join(number.to_string());
            std::fs::create_dir(&place).unwrap();
            child::start("opener", &place, &database)
        })
        .collect();
    let handles = join_all((0..6).map(|_| open(database.clone()))).await;
    for (number, store) in handles.iter().enumerate() {
        put(store, &format!("k/{number}"), "").await;
    }
    assert_eq!(names(&handles[0], "k").await.len(), 6);
    for child in &mut children {
        assert!(child.wait().success(), "{}", child.tail());
        assert!(child.log().contains("opened"), "{}", child.tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_with_a_reboot() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    put(&store, "stays", "").await;
    commit(&store, Txn::new().put_leased(key("leased"), "", lease.id)).await;
    let other = Connection::open(&database).unwrap();
    other.execute("UPDATE meta SET boot = 'an earlier one'", []).unwrap();
    let rebooted = open(database).await;
    assert_eq!(names(&rebooted, "").await, ["stays"]);
    let error = rebooted.keep_alive(lease.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_outlive_their_process_and_end_at_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("lbctl.db");
    let store = open(database.clone()).await;
    let mut holder = child::start("holder", folder.path(), &database);
    holder.wait_for_log("holding");
    holder.kill();
    let lease = get(&store, "held").await.unwrap().lease.unwrap();
    let mut observer = Observer::ready(&store, "").await;
    let other = Connection::open(&database).unwrap();
    // As if nearly all of its ten minutes were over.
    other.execute("UPDATE leases SET ends = ends - 599500", []).unwrap();
    observer.until("the key to go", |o| o.entries.is_empty()).await;
    assert_eq!(store.keep_alive(lease).await.unwrap_err().kind(), ErrorKind::LeaseExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = (folder.path().join("lbctl.db"), folder.path().join("copy.db"));
    put(&open(copy.clone()).await, "from-the-copy", "").await;
    let store = open(database.clone()).await;
    for _ in 0..3 {
        put(&store, "before", "").await;
    }
    let mut watch = lbctl::store::Mirror::new(store.watch(&"".parse().unwrap()).await.unwrap());
    watch.ready().await;
    let checkpoint = Connection::open(&copy).unwrap();
    checkpoint.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(checkpoint);
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(folder.path().join(format!("lbctl.db{suffix}"))).unwrap();
    }
    std::fs::rename(&copy, &database).unwrap();
    let started = Instant::now();
    while !watch.entries().contains_key(&key("from-the-copy")) {
        assert!(started.elapsed() < crate::support::DEADLINE);
        watch.changed().await;
    }
    assert_eq!(names(&store, "").await, ["from-the-copy"]);
    gone(&store, "before").await;
    put(&store, "after", "").await;
    while !watch.entries().contains_key(&key("after")) {
        watch.changed().await;
    }
}
