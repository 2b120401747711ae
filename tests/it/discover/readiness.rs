//! `/readyz` of discover tells each way in which a table stands still, and that it moves again.

use std::time::Duration;

use lbctl::store::{Key, Txn};
use tempfile::TempDir;

use super::World;
use crate::support::etcd::{Etcd, Options};
use crate::support::{Process, SmallDisk, eventually_async, free_port, http_get};

/// A discover of which somebody asks whether it is ready.
struct Asked {
    world: World,
    discover: Process,
    admin: u16,
}

impl Asked {
    fn start(world: World) -> Self {
        let (source, admin) = (sees(&world, &["a"]), free_port());
        let at = format!("127.0.0.1:{admin}");
        let mut command = world.command_on(&world.url, &["--source", &source, "--slots", "9"]);
        command.args(["--ttl", "2s", "--rest", "200ms", "--confirm-interval", "100ms"]);
        let discover = Process::start("discover", world.dir.path(), command.args(["--admin", &at]));
        Self { world, discover, admin }
    }

    async fn works() -> Self {
        let asked = Self::start(World::sqlite().await);
        asked.is_ready().await;
        asked
    }

    /// The answer has this status line and all of these texts.
    async fn says(&self, status: &str, texts: &[&str]) {
        let what = || {
            let last = http_get(self.admin, "/readyz").unwrap_or_default();
            format!("/readyz to say {status} {texts:?}: {last}; {}", self.discover.tail())
        };
        eventually_async(&what(), async || {
            let reply = http_get(self.admin, "/readyz")?;
            let said = reply.contains(status) && texts.iter().all(|text| reply.contains(text));
            said.then_some(())
        })
        .await;
    }

    async fn is_ready(&self) {
        self.says(" 200 ", &[]).await;
    }

    async fn is_not_ready(&self, texts: &[&str]) {
        self.says(" 503 ", texts).await;
    }
}

/// Runs SQL on the database, as nobody should.
fn spoil(world: &World, sql: &str) {
    let database = rusqlite::Connection::open(world.dir.path().join("store.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.execute_batch(sql).unwrap();
}

/// What the source sees from now on.
fn sees(world: &World, ids: &[&str]) -> String {
    let server =
        |id: &&str| format!(r#"{{"id":"{id}","address":"127.0.0.1:8{:03}"}}"#, id.as_bytes()[0]);
    let servers: Vec<String> = ids.iter().map(server).collect();
    let source = world.file("servers.new", &format!("[{}]", servers.join(",")));
    let new = source.strip_prefix("file:").unwrap();
    std::fs::rename(new, world.dir.path().join("servers.json")).unwrap();
    source.replace("servers.new", "servers.json")
}

/// Nothing that is put is kept, though the store says that it is.
const NO_LEADER: &str = "CREATE TRIGGER spoiled BEFORE INSERT ON entries
    WHEN NEW.key LIKE '%elections/%' BEGIN SELECT RAISE(IGNORE); END;";

/// No watch hears of what is written.
const SILENCE: &str =
    "CREATE TRIGGER spoiled BEFORE INSERT ON changes BEGIN SELECT RAISE(IGNORE); END;";

/// A leader key stays, though the store says that it is deleted.
const IMMORTAL: &str = "CREATE TRIGGER spoiled BEFORE DELETE ON entries
    WHEN OLD.key LIKE '%elections/%' BEGIN SELECT RAISE(IGNORE); END;";

const MENDED: &str = "DROP TRIGGER spoiled;";

fn leader_key() -> Key {
    "elections/discover-web".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_nobody_leads() {
    let asked = Asked::works().await;
    spoil(&asked.world, NO_LEADER);
    let _deleted = asked.world.store.commit(Txn::new().delete(leader_key())).await.unwrap();
    asked.is_not_ready(&["web: leader: nobody has led for", "the table stands still"]).await;
    spoil(&asked.world, MENDED);
    asked.is_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_its_own_change_does_not_show_up() {
    let asked = Asked::works().await;
    spoil(&asked.world, SILENCE);
    sees(&asked.world, &["a", "b"]);
    asked.is_not_ready(&["web: table: nothing has been planned for", "has not shown up yet"]).await;
    spoil(&asked.world, MENDED);
    // The first commit that is heard of again shows that the others are there.
    let _put =
        asked.world.store.commit(Txn::new().put("backends/web/x".parse().unwrap(), "")).await;
    asked.is_ready().await;
    asked.world.becomes(&asked.discover, &["1 ready a", "2 ready b"]).await;
}

/// As an import or a careless hand leaves it.
async fn put_immortal_leader(world: &World) {
    let gone = Txn::new().put(leader_key(), r#"{"id":"gone"}"#);
    let _put = world.store.commit(gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_leader_key_of_nobody_s_stays() {
    let world = World::sqlite().await;
    put_immortal_leader(&world).await;
    spoil(&world, IMMORTAL);
    let mut asked = Asked::start(world);
    asked.discover.wait_for_log("is on no lease");
    asked.is_not_ready(&["web: leader: nobody has led for"]).await;
    spoil(&asked.world, MENDED);
    asked.is_ready().await;
    asked.world.becomes(&asked.discover, &["1 ready a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_disk_of_the_store_is_full() {
    let Some(disk) = SmallDisk::mount() else { return };
    let url = format!("sqlite:{}", disk.path().join("store.db").display());
    let asked = Asked::start(World::on(TempDir::new().unwrap(), url).await);
    asked.is_ready().await;
    let ballast = disk.fill();
    sees(&asked.world, &["a", "b"]);
    // A lease cannot be renewed either.
    asked.is_not_ready(&["web: leader: nobody has led for"]).await;
    std::fs::remove_file(ballast).unwrap();
    asked.is_ready().await;
    asked.world.becomes(&asked.discover, &["1 ready a", "2 ready b"]).await;
    drop(asked);
}

/// It renews leases and takes no writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_an_etcd_is_full() {
    let options = Options { quota: 4 * 1024 * 1024, ..Options::default() };
    let Some(etcd) = Etcd::start_with(1, options) else { return };
    let asked = Asked::start(World::on(TempDir::new().unwrap(), etcd.url("test")).await);
    asked.is_ready().await;
    eventually_async("the etcd to be full", async || {
        let put = Txn::new().put("large".parse().unwrap(), vec![b'x'; 200_000]);
        asked.world.store.commit(put).await.err()
    })
    .await;
    sees(&asked.world, &["a", "b"]);
    asked.is_not_ready(&["web: table: the last change cannot be written", "space"]).await;
}
