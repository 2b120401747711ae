//! Registrations as broken programs and hostile hands leave them: the table never loses a live
//! server.

use std::time::Duration;

use lbctl::model::keys;
use lbctl::store::{Commit, Key, Revision, Txn};

use super::history::History;
use super::{World, web};
use crate::support::{Process, eventually_async, soak};

const THREE: [&str; 3] = ["1 ready a", "2 ready b", "3 ready c"];

/// A discover with three servers that have registered.
struct Registered {
    world: World,
    discover: Process,
    history: History,
}

impl Registered {
    async fn start(flags: &[&str]) -> Self {
        let world = World::sqlite().await;
        for id in ["a", "b", "c"] {
            world.register(id, false).await;
        }
        let flags = [&["--source", "registry", "--slots", "5"][..], flags].concat();
        let discover = world.start("discover", &flags);
        world.becomes(&discover, &THREE).await;
        let history = History::start(&world.store).await;
        Self { world, discover, history }
    }

    async fn write(&self, txn: Txn) {
        assert!(matches!(self.world.store.commit(txn).await.unwrap(), Commit::Committed(_)));
    }

    /// Their leases end in one commit.
    async fn forget_together(&self, ids: &[&str]) {
        let store = &self.world.store;
        let lease = store.grant(Duration::from_secs(600)).await.unwrap().id;
        let mut txn = Txn::new();
        for id in ids {
            let entry = store.get(&key(id)).await.unwrap().unwrap();
            txn = txn.put_leased(entry.key, entry.value, lease);
        }
        self.write(txn).await;
        store.revoke(lease).await.unwrap();
    }

    /// Whatever happened so far, no slot was written.
    async fn nobody_moved(&self) {
        self.world.becomes(&self.discover, &THREE).await;
        assert_eq!(self.history.table_commits().await, 0, "{}", self.discover.tail());
    }
}

fn key(id: &str) -> Key {
    keys::registration(&web(), &id.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_vanish_at_once_keep_their_slots_until_they_are_back() {
    // Longer than this test in a row.
    let mut world = Registered::start(&["--confirm-passes", "100000"]).await;
    for gone in [&["a", "c"][..], &["a", "b", "c"]] {
        world.forget_together(gone).await;
        let refused = match gone.len() {
            2 => "66% of the servers vanished and max-drop-percent is 50; 2 keep their slots",
            _ => "refused: the source sees no server at all; 3 keep their slots",
        };
        world.discover.wait_for_log(refused);
        for id in gone {
            world.world.register(id, false).await;
        }
        let calm = "no removal is refused any more";
        eventually_async(&format!("{calm}; {}", world.discover.tail()), async || {
            let log = world.discover.log();
            let last = log.lines().rfind(|l| l.contains(calm) || l.contains("refused: "))?;
            last.contains(calm).then_some(())
        })
        .await;
        world.nobody_moved().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_flaps_is_back_in_its_own_slot_and_moves_nobody() {
    let world = Registered::start(&[]).await;
    // Of a HAProxy that has put none of them in maint yet: no slot is free before.
    world.world.report(Revision(0), &[]).await;
    let rounds = soak(4, 40);
    for _ in 0..rounds {
        world.world.forget("b").await;
        world.world.becomes(&world.discover, &["1 ready a", "2 rest b", "3 ready c"]).await;
        world.world.register("b", false).await;
        world.world.becomes(&world.discover, &THREE).await;
    }
    // Out and in again, each time one slot.
    assert_eq!(world.history.table_commits().await, 2 * rounds, "{}", world.discover.tail());
}

/// Of servers that live; those of one that has died come back no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_a_hand_deletes_is_back_before_anybody_misses_it() {
    let mut world = Registered::start(&[]).await;
    let register = |id: &str| {
        let address = format!("127.0.0.1:{}", 8000 + u16::from(id.as_bytes()[0]));
        let mut command = std::process::Command::new(crate::support::lbctl());
        command.args(["--store", &world.world.url, "register", "web", &address, "--id", id]);
        Process::start(id, world.world.dir.path(), command.args(["--ttl", "2s"]))
    };
    let [mut d, e] = ["d", "e"].map(register);
    let five = ["1 ready a", "2 ready b", "3 ready c", "4 ready d", "5 ready e"];
    eventually_async("five servers", async || {
        let (mut lines, _) = world.world.table().await;
        lines.iter_mut().for_each(|line| line.replace_range(..1, ""));
        lines.sort();
        (lines == five.map(|line| &line[1..])).then_some(())
    })
    .await;
    let before = (world.world.table().await.0, world.history.table_commits().await);
    world.write(Txn::new().delete(key("d")).delete(key("e"))).await;
    world.discover.wait_for_log("the registration of d was deleted, though its server lives");
    for id in ["d", "e"] {
        eventually_async(&format!("{id} to be back; {}", e.tail()), async || {
            world.world.store.get(&key(id)).await.unwrap()
        })
        .await;
    }
    let after = (world.world.table().await.0, world.history.table_commits().await);
    assert_eq!(after, before, "{}", world.discover.tail());
    d.kill();
    eventually_async(&format!("d to leave; {}", world.discover.tail()), async || {
        let (lines, _) = world.world.table().await;
        (lines.len() == 4 && !lines.iter().any(|line| line.ends_with(" d"))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_registration_is_told_by_name_and_its_server_stays() {
    let mut world = Registered::start(&[]).await;
    let address = |port: u32| format!("\"address\":\"127.0.0.1:{port}\"");
    let since = "\"since\":\"2026-01-01T00:00:00Z\"";
    for (what, value) in [
        ("torn", format!("{{\"id\":\"b\",{}", address(1))),
        ("posing as another", format!("{{\"id\":\"a\",{},{since}}}", address(9))),
        ("no address", format!("{{\"id\":\"b\",\"address\":\"127.0.0.1:1;x\",{since}}}")),
        ("empty", String::new()),
        ("binary", "\u{0}\u{1}\u{7f}".to_owned()),
        ("enormous", format!("\"{}\"", "x".repeat(200_000))),
    ] {
        let start = world.discover.log().len();
        world.write(Txn::new().put(key("b"), value)).await;
        eventually_async(&format!("{what} to be told; {}", world.discover.tail()), async || {
            let log = world.discover.log();
            log[start..].contains("registration registry/web/b is ignored: ").then_some(())
        })
        .await;
        world.world.register("b", false).await;
        world.nobody_moved().await;
    }
    let hostile: Key = "registry/web/x; shutdown\u{202e}".parse().unwrap();
    world.write(Txn::new().put(hostile.clone(), "{".to_owned())).await;
    world.discover.wait_for_log("registration registry/web/x; shutdown");
    assert!(!world.discover.log().contains('\u{202e}'), "{}", world.discover.tail());
    world.write(Txn::new().delete(hostile)).await;
    world.nobody_moved().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_that_come_at_once_move_nobody() {
    let mut world = Registered::start(&[]).await;
    let ids: Vec<u32> = (0..3_000).collect();
    let lease = world.world.store.grant(Duration::from_secs(3600)).await.unwrap().id;
    for some in ids.chunks(50) {
        let txn = some.iter().fold(Txn::new(), |txn, n| {
            let (id, port) = (format!("n{n}"), 10_000 + n);
            let value = format!(
                "{{\"id\":\"{id}\",\"address\":\"127.0.0.9:{port}\",\"since\":\"2026-01-01T00:00:00Z\"}}"
            );
            txn.put_leased(key(&id), value, lease)
        });
        world.write(txn).await;
    }
    world.discover.wait_for_log("2998 endpoints have no slot");
    let (table, _) = world.world.table().await;
    assert_eq!((table.len(), &table[..3]), (5, &THREE.map(str::to_owned)[..]), "{table:?}");
    assert!(world.discover.log().lines().all(|line| line.len() < 1500));
}
