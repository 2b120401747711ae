//! The store is lost, or an older one is put in its place, under a discover that leads and one that
//! follows: one of them leads on and plans anew, whatever the revisions are then.

use lbctl::store::{Prefix, Txn};
use tempfile::TempDir;

use super::World;
use crate::support::etcd::Etcd;
use crate::support::{Process, eventually_async};

const TWO: [&str; 2] = ["1 ready a", "2 ready b"];
const THREE: [&str; 3] = ["1 ready a", "2 ready b", "3 ready c"];
const FOUR: [&str; 4] = ["1 ready a", "2 ready b", "3 ready c", "4 ready d"];

/// More commits than two discovers make while they begin anew.
const OLD: usize = 300;

struct Site {
    world: World,
    leader: Process,
    follower: Process,
}

impl Site {
    async fn start(world: World) -> Self {
        let source = sees(&world, &["a", "b"]);
        let flags = ["--source", &source, "--slots", "5"];
        let leader = world.start("leader", &flags);
        world.becomes(&leader, &TWO).await;
        let mut follower = world.start("follower", &flags);
        follower.wait_for_log("following");
        Self { world, leader, follower }
    }

    /// A change of the table, and commits of others, which make the revisions high.
    async fn grow_old(&self) {
        sees(&self.world, &["a", "b", "c"]);
        self.world.becomes(&self.leader, &THREE).await;
        for number in 0..OLD {
            let txn = Txn::new().put("elsewhere/k".parse().unwrap(), number.to_string());
            let _revision = self.world.store.commit(txn).await.unwrap();
        }
    }

    /// After a loss: somebody leads and plans, and nobody writes without a pause.
    async fn goes_on(mut self) {
        self.world.becomes(&self.leader, &THREE).await;
        sees(&self.world, &["a", "b", "c", "d"]);
        self.world.becomes(&self.leader, &FOUR).await;
        for process in [&mut self.leader, &mut self.follower] {
            process.wait_for_log("the store was replaced or restored");
        }
        let key = "elections/discover-web".parse().unwrap();
        let what = format!("a leader; {}", self.leader.tail());
        let token =
            eventually_async(&what, async || Some(self.world.store.get(&key).await.ok()??.created))
                .await;
        let revision = self.world.store.list(&Prefix::root()).await.unwrap().revision;
        // SQLite's go on from a round number above all that it has ever given out, and a leader whose
        // lease an older copy has leads on.
        let writes = match self.world.url.starts_with("sqlite:") {
            true => revision.0 % 10_000,
            false => revision.0 - token.0,
        };
        assert!(writes < 50, "{token} led, and {revision} is written");
        let went_back = revision.0 < OLD as u64 || self.world.url.starts_with("sqlite:");
        assert!(went_back, "{revision}; {}", self.leader.tail());
    }
}

/// What the source of all sees from now on.
fn sees(world: &World, ids: &[&str]) -> String {
    let server =
        |id: &&str| format!(r#"{{"id":"{id}","address":"127.0.0.1:8{:03}"}}"#, id.as_bytes()[0]);
    let servers: Vec<String> = ids.iter().map(server).collect();
    world.file("servers.json", &format!("[{}]", servers.join(",")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_restored_from_an_older_snapshot() {
    let Some(mut etcd) = Etcd::start() else { return };
    let site = Site::start(World::on(TempDir::new().unwrap(), etcd.url("test")).await).await;
    etcd.save();
    site.grow_old().await;
    etcd.put_back();
    site.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_rebuilt_empty() {
    let Some(mut etcd) = Etcd::start() else { return };
    let site = Site::start(World::on(TempDir::new().unwrap(), etcd.url("test")).await).await;
    site.grow_old().await;
    etcd.lose_all();
    site.goes_on().await;
}

fn remove_database(world: &World) {
    let path = world.dir.path().join("store.db");
    std::fs::remove_file(&path).unwrap();
    for beside in ["store.db-wal", "store.db-shm"] {
        std::fs::remove_file(world.dir.path().join(beside)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_replaced_by_an_older_copy() {
    let site = Site::start(World::sqlite().await).await;
    let copy = site.world.dir.path().join("copy.db");
    let source = rusqlite::Connection::open(site.world.dir.path().join("store.db")).unwrap();
    source.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    drop(source);
    site.grow_old().await;
    remove_database(&site.world);
    std::fs::rename(&copy, site.world.dir.path().join("store.db")).unwrap();
    site.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_lost_and_begun_anew_by_another_process() {
    let site = Site::start(World::sqlite().await).await;
    site.grow_old().await;
    remove_database(&site.world);
    drop(lbctl::store::open(&site.world.url.parse().unwrap()).await.unwrap());
    site.goes_on().await;
}
