use std::sync::{Arc, Mutex};

use lbctl::daemon::{OwnedTask, spawn_owned};
use lbctl::election::LeaderRecord;
use lbctl::model::{Confirmation, ElectionName, keys};
use lbctl::store::{Change, Commit, Entry, Prefix, Revision, SharedStore, Txn, Watch, WatchEvent};

use super::web;
use crate::support::eventually_async;

/// Every change of a store since the start, in order.
pub struct History {
    store: SharedStore,
    changes: Arc<Mutex<Vec<Change>>>,
    _task: OwnedTask<()>,
}

/// One leadership: who, and the revision that created its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    pub id: String,
    pub token: Revision,
}

impl History {
    pub async fn start(store: &SharedStore) -> Self {
        let mut watch = store.watch(&Prefix::root()).await.unwrap();
        assert!(matches!(watch.next_event().await, WatchEvent::Reset(_)));
        let changes = Arc::<Mutex<Vec<Change>>>::default();
        let _task = spawn_owned(record(watch, changes.clone()));
        Self { store: store.clone(), changes, _task }
    }

    /// Every write of the table is its leader's of that moment, and tokens only grow. `author` tells
    /// from a written value who wrote it. Answers who led, and how many commits each made.
    pub fn check(&self, author: impl Fn(&Entry) -> String) -> Vec<(Tenure, usize)> {
        let changes = self.changes.lock().unwrap();
        let leader_key = keys::election(&ElectionName::discover(&web()));
        let table = keys::backend(&web());
        let mut tenures: Vec<(Tenure, usize)> = Vec::new();
        let mut leads = false;
        let mut counted = Revision::default();
        for change in changes.iter() {
            match change {
                Change::Put(entry) if entry.key == leader_key => {
                    let id = LeaderRecord::from_value(&entry.value).id;
                    let tenure = Tenure { id, token: entry.created };
                    if tenures.last().map(|(last, _)| last) != Some(&tenure) {
                        let grows =
                            tenures.last().is_none_or(|(last, _)| last.token < tenure.token);
                        assert!(grows, "{tenure:?} after {tenures:?}");
                        tenures.push((tenure, 0));
                    }
                    leads = true;
                }
                Change::Delete { key, .. } if *key == leader_key => leads = false,
                Change::Put(entry) if table.strip(&entry.key).is_some() => {
                    let (tenure, commits) = tenures.last_mut().expect("nobody ever led");
                    assert!(leads, "{entry:?} was written while nobody led, after {tenure:?}");
                    let is_its = match table.strip(&entry.key).unwrap_or_default() {
                        "confirmed" => entry.json::<Confirmation>().unwrap().token == tenure.token,
                        // It names who has left, whoever had placed them.
                        key if key.starts_with("removed/") => true,
                        _ => author(entry) == tenure.id,
                    };
                    assert!(is_its, "{entry:?} was written under {tenure:?}");
                    *commits += usize::from(
                        std::mem::replace(&mut counted, entry.modified) != entry.modified,
                    );
                }
                _ => {}
            }
        }
        tenures
    }

    /// How many commits have changed the table by now.
    pub async fn table_commits(&self) -> usize {
        self.catch_up().await;
        let table = keys::backend(&web());
        let changes = self.changes.lock().unwrap();
        let of_table = changes.iter().filter(|change| table.strip(change.key()).is_some());
        let mut revisions: Vec<Revision> = of_table.map(Change::revision).collect();
        revisions.dedup();
        revisions.len()
    }

    /// What is told of the store comes a moment after what can be read there.
    async fn catch_up(&self) {
        let txn = Txn::new().put("history/read".parse().unwrap(), Vec::new());
        let Commit::Committed(now) = self.store.commit(txn).await.unwrap() else { unreachable!() };
        eventually_async("the history to be told of the last commit", async || {
            let changes = self.changes.lock().unwrap();
            changes.last().is_some_and(|change| change.revision() >= now).then_some(())
        })
        .await;
    }

    /// Whether the leader key is gone after this leadership.
    pub fn ended(&self, tenure: &Tenure) -> bool {
        let leader_key = keys::election(&ElectionName::discover(&web()));
        let changes = self.changes.lock().unwrap();
        changes.iter().any(|change| {
            matches!(change, Change::Delete { key, revision } if *key == leader_key && *revision > tenure.token)
        })
    }
}

async fn record(mut watch: Watch, changes: Arc<Mutex<Vec<Change>>>) {
    loop {
        match watch.next_event().await {
            WatchEvent::Changed(more) => changes.lock().unwrap().extend(more),
            // What happened in between would be missing.
            WatchEvent::Reset(_) => panic!("the watch of the whole store had to begin anew"),
            WatchEvent::Interrupted(error) => panic!("{error}"),
        }
    }
}
