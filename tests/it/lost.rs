//! What serves goes on serving when something is missing: at first contact, and after the store has
//! lost its data.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lbctl::model::{HaproxyReport, keys};
use lbctl::store::{StoreUrl, Txn};

use super::support::haproxy::{
    Backend, Client, Haproxy, NamedServer, Options, Version, on_every_haproxy,
};
use super::support::{Process, World, eventually, free_port, http_get, moto};

on_every_haproxy! {
    a_haproxy_with_static_servers_is_not_touched_at_first_contact,
    servers_that_a_script_has_placed_elsewhere_move_without_a_lost_request,
}

const CHECK: &str = "check inter 100ms rise 2 fall 2";

/// Requests that never stop, until they are counted.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32)>,
}

impl Traffic {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut answered, mut failed) = (0, 0);
            while !ends.load(Ordering::SeqCst) {
                match Client::get(address) {
                    Some(_) => answered += 1,
                    None => failed += 1,
                }
                #[expect(clippy::disallowed_methods, reason = "the pace of the requests")]
                std::thread::sleep(Duration::from_millis(5));
            }
            (answered, failed)
        });
        Self { stop, thread }
    }

    /// None has failed so far.
    fn all_answered(self, said: &str) {
        self.stop.store(true, Ordering::SeqCst);
        let (answered, failed) = self.thread.join().unwrap();
        assert!(answered > 0 && failed == 0, "{failed} failed, {answered} answered\n{said}");
    }
}

fn servers(count: u8) -> Vec<NamedServer> {
    (1..=count)
        .map(|n| NamedServer::start(&format!("s{n}"), &format!("127.0.0.{}", 10 + n)))
        .collect()
}

/// The state and address of each server.
fn states(haproxy: &Haproxy, backend: &str) -> Vec<String> {
    let servers = haproxy.servers(backend);
    let line = |s: &super::support::haproxy::Server| {
        format!("{} {} {} {}", s.get("srv_name"), s.state(), s.address(), s.weight())
    };
    servers.iter().map(line).collect()
}

async fn a_haproxy_with_static_servers_is_not_touched_at_first_contact(version: Version) {
    let own = servers(2);
    let line = |name: &str, n: usize| format!("server {name} {} {CHECK}", own[n].address());
    let backends = [
        Backend::new("web", 0)
            .http()
            .line(&line("web1", 0))
            .line(&(line("web2", 1) + " weight 50")),
        Backend::new("dyn", 0).http().line(&line("srv1", 0)).line(&(line("srv99", 1) + " backup")),
    ];
    let Some(haproxy) = Haproxy::start(Options::new(backends).on(version)) else { return };
    let world = tokio::task::block_in_place(World::sqlite);
    // It drops the world as well, whose runtime may not end in a task.
    tokio::task::block_in_place(move || {
        eventually("the servers to be up", || Client::get(haproxy.frontend("web")));
        let traffic = ["web", "dyn"].map(|backend| Traffic::start(haproxy.frontend(backend)));
        let before = ["web", "dyn"].map(|backend| states(&haproxy, backend));
        let socket = haproxy.unix().to_string();
        let discovers = |source: &str| {
            let what =
                ["discover", "--backend", "web", "--source", source, "--slots", "10", "--once"];
            let output = world.command(&what).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let syncs = |more: &[&str]| {
            let sync = ["sync-haproxy", "--socket", &socket, "--from", "web"];
            let output = world.command(&[&sync[..], more].concat()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said + &String::from_utf8_lossy(&output.stdout))
        };
        let new = NamedServer::start("new", "127.0.0.20");
        let list = world.dir.path().join("list.json");
        std::fs::write(&list, format!("[\"{}\"]", new.address())).unwrap();
        // Nobody has registered yet; then somebody is there.
        for source in ["registry", &format!("file:{}", list.display())] {
            discovers(source);
            let (code, said) = syncs(&["--backend", "web", "--once"]);
            assert_eq!(code, Some(78), "{said}");
            assert!(
                said.contains("did not place web1, web2") && said.contains("--take-over"),
                "{said}"
            );
            let (_, said) = syncs(&["--backend", "web", "--dry-run"]);
            assert!(said.contains("did not place web1, web2"), "{said}");
            syncs(&["--backend", "dyn", "--mode", "dynamic", "--once"]);
            let after = ["web", "dyn"].map(|backend| states(&haproxy, backend));
            assert_eq!(after, before);
        }
        for traffic in traffic {
            traffic.all_answered(&haproxy.tail());
        }
        // The way through: each of the table's servers displaces another one.
        let (code, said) = syncs(&["--backend", "web", "--take-over", "--once"]);
        assert_eq!(code, Some(78), "eight places are missing: {said}");
        let first = haproxy.server("web", "web1");
        assert_eq!(first.address(), new.address().to_string(), "{said}");
        assert_eq!(haproxy.server("web", "web2").state(), "ready", "nobody sends it away");
        drop(world);
    });
}

async fn servers_that_a_script_has_placed_elsewhere_move_without_a_lost_request(version: Version) {
    let own = servers(3);
    let backend = Backend::new("web", 6).http().prefix("srv").server(CHECK);
    let Some(haproxy) = Haproxy::start(Options::new([backend]).on(version)) else { return };
    let world = tokio::task::block_in_place(World::sqlite);
    // It drops the world as well, whose runtime may not end in a task.
    tokio::task::block_in_place(move || {
        let place = |slot: u32, server: &NamedServer| {
            let (ip, port) = (server.address().ip(), server.address().port());
            haproxy.raw(&format!("set server web/srv{slot} addr {ip} port {port}"));
            eventually("the address to show", || {
                let there = haproxy.server("web", &format!("srv{slot}")).address();
                (there == server.address().to_string()).then_some(())
            });
            haproxy.raw(&format!("set server web/srv{slot} state ready"));
        };
        for (slot, server) in [(1, &own[1]), (2, &own[2]), (3, &own[0])] {
            place(slot, server);
        }
        let traffic = Traffic::start(haproxy.frontend("web"));
        let list = world.dir.path().join("list.json");
        let addresses: Vec<String> = own.iter().map(|s| s.address().to_string()).collect();
        std::fs::write(&list, serde_json::to_string(&addresses).unwrap()).unwrap();
        let source = format!("file:{}", list.display());
        // The table is there before HAProxy has said what it has.
        let what = ["discover", "--backend", "web", "--source", &source, "--slots", "6", "--once"];
        assert!(world.command(&what).output().unwrap().status.success());
        let socket = haproxy.unix().to_string();
        let sync = world.start("sync", &sync_arguments(&socket));
        eventually("each server in its own place", || {
            let served = states(&haproxy, "web");
            let mut right = own.iter().enumerate();
            right
                .all(|(n, server)| {
                    served[n].starts_with(&format!("srv{} ready {} ", n + 1, server.address()))
                })
                .then_some(())
        });
        eventually("the report of it", || {
            report(&world)?.backends[&"web".parse().unwrap()].converged.then_some(())
        });
        traffic.all_answered(&sync.tail());
        drop((sync, world));
    });
}

fn sync_arguments(socket: &str) -> Vec<&str> {
    let what = ["sync-haproxy", "--socket", socket, "--backend", "web/srv", "--from", "web"];
    [&what[..], &["--name", "lb1", "--admin", "off"]].concat()
}

fn report(world: &World) -> Option<HaproxyReport> {
    serde_json::from_str(&world.get("haproxies/lb1")?).ok()
}

/// A site of three servers that serve, on one store.
struct Site {
    own: Vec<NamedServer>,
    haproxy: Haproxy,
    list: std::path::PathBuf,
    world: World,
}

impl Site {
    fn start(world: World) -> Option<Self> {
        let own = servers(3);
        let backend = Backend::new("web", 4).http().prefix("srv").server(CHECK);
        let haproxy = Haproxy::start(Options::new([backend]))?;
        let list = world.dir.path().join("list.json");
        let site = Self { own, haproxy, list, world };
        site.mend_source();
        Some(site)
    }

    fn mend_source(&self) {
        let addresses: Vec<String> = self.own.iter().map(|s| s.address().to_string()).collect();
        self.write_list(&serde_json::to_string(&addresses).unwrap());
    }

    fn write_list(&self, text: &str) {
        let new = self.list.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.list).unwrap();
    }

    fn discover(&self) -> Process {
        self.discover_at("off")
    }

    fn discover_at(&self, admin: &str) -> Process {
        let source = format!("file:{}", self.list.display());
        let what = ["discover", "--backend", "web", "--source", &source, "--slots", "4"];
        // After a loss a server leaves once three looks have missed it.
        let flags =
            ["--min-weight", "100", "--admin", admin, "--ttl", "2s", "--confirm-interval", "2s"];
        self.world.start("discover", &[&what[..], &flags].concat())
    }

    fn sync(&self) -> Process {
        let socket = self.haproxy.unix().to_string();
        self.world.start("sync", &sync_arguments(&socket))
    }

    fn serves_all(&self, said: &str) -> Vec<String> {
        eventually(&format!("three servers to serve\n{said}"), || {
            let servers = self.haproxy.servers("web");
            let up = servers.iter().filter(|s| s.state() == "ready" && s.is_up() && s.weight() > 0);
            (up.count() == 3).then(|| states(&self.haproxy, "web"))
        })
    }

    /// Waits until sync-haproxy's report says this.
    fn is_told(&self, text: &str, said: &Process) {
        eventually(&format!("{text:?} to be told\n{}", said.tail()), || {
            let report = report(&self.world)?;
            let web = report.backends.get(&"web".parse().unwrap())?;
            (!web.converged && web.error.as_ref()?.contains(text)).then_some(())
        });
    }

    fn converges(&self, said: &Process) {
        eventually(&format!("a converged report\n{}", said.tail()), || {
            let report = report(&self.world)?;
            report.backends.get(&"web".parse().unwrap())?.converged.then_some(())
        });
    }

    /// Deletes every key of which this is a beginning.
    fn lose(&self, beginning: &str) {
        let keys = self.world.list("backends").into_iter().map(|(key, _)| key);
        let keys: Vec<_> = keys.filter(|key| key.starts_with(beginning)).collect();
        assert!(!keys.is_empty(), "there is nothing under {beginning}");
        let txn = keys.iter().fold(Txn::new(), |txn, key| txn.delete(key.parse().unwrap()));
        let committed = self.world.block_on(self.world.store.commit(txn)).unwrap();
        assert!(matches!(committed, lbctl::store::Commit::Committed(_)));
    }
}

fn nothing_leaves_a_haproxy_whose_store_was_emptied(world: Option<World>) {
    let Some(site) = world.and_then(Site::start) else { return };
    let (discover, sync) = (site.discover(), site.sync());
    let before = site.serves_all(&sync.tail());
    site.converges(&sync);
    let traffic = Traffic::start(site.haproxy.frontend("web"));
    site.write_list("{ no list");
    eventually("the source to fail", || discover.log().contains("is failing").then_some(()));
    site.lose("backends");
    site.is_told("has no table", &sync);
    assert_eq!(site.world.list("backends"), [], "a table was made of nothing");
    // Whoever comes anew knows nothing.
    drop(sync);
    let sync = site.sync();
    site.is_told("has no table", &sync);
    assert_eq!(states(&site.haproxy, "web"), before);
    drop(discover);
    let discover = site.discover();
    site.mend_source();
    site.converges(&sync);
    assert_eq!(states(&site.haproxy, "web"), before, "{}", discover.tail());
    traffic.all_answered(&sync.tail());
}

#[test]
fn nothing_leaves_when_sqlite_was_emptied() {
    nothing_leaves_a_haproxy_whose_store_was_emptied(Some(World::sqlite()));
}

#[test]
fn nothing_leaves_when_etcd_was_emptied() {
    nothing_leaves_a_haproxy_whose_store_was_emptied(World::etcd());
}

#[test]
fn nothing_leaves_when_dynamodb_was_emptied() {
    nothing_leaves_a_haproxy_whose_store_was_emptied(World::dynamodb());
}

/// The table that a store's URL names is gone, with all that was in it.
fn delete_table(world: &World) {
    let StoreUrl::Dynamo(url) = world.url.parse().unwrap() else { panic!("{}", world.url) };
    world.block_on(async {
        let client = aws_sdk_dynamodb::Client::new(&moto::config(&url).await);
        client.delete_table().table_name(&url.table).send().await.unwrap();
    });
}

#[test]
fn nothing_leaves_when_dynamodb_s_table_was_deleted_and_made_anew() {
    let Some(site) = World::dynamodb().and_then(Site::start) else { return };
    let port = free_port();
    let (discover, sync) = (site.discover_at(&format!("127.0.0.1:{port}")), site.sync());
    let before = site.serves_all(&sync.tail());
    site.converges(&sync);
    let traffic = Traffic::start(site.haproxy.frontend("web"));
    for seen_without in [false, true] {
        delete_table(&site.world);
        if seen_without {
            eventually("the table to be missed", || {
                http_get(port, "/readyz").filter(|said| said.contains(" 503 "))
            });
        }
        assert!(site.world.command(&["store", "init"]).output().unwrap().status.success());
        site.converges(&sync);
        eventually(&format!("discover to be ready\n{}", discover.tail()), || {
            http_get(port, "/readyz").filter(|said| said.contains(" 200 "))
        });
        assert_eq!(states(&site.haproxy, "web"), before, "{}", discover.tail());
    }
    // A server that really goes leaves by order.
    site.write_list(&format!("[\"{}\", \"{}\"]", site.own[0].address(), site.own[1].address()));
    eventually(&format!("the third to leave\n{}", discover.tail()), || {
        (site.haproxy.server("web", "srv3").state() == "maint").then_some(())
    });
    site.converges(&sync);
    traffic.all_answered(&sync.tail());
}

/// As somebody tidies a folder up: what lbctl keeps beside its database is gone, under it all.
#[test]
fn nothing_leaves_when_the_files_beside_sqlite_are_deleted() {
    let Some(site) = Site::start(World::sqlite()) else { return };
    let (discover, sync) = (site.discover(), site.sync());
    let before = site.serves_all(&sync.tail());
    site.converges(&sync);
    let traffic = Traffic::start(site.haproxy.frontend("web"));
    for beside in [&["-wake"][..], &["-life"], &["-wake", "-life"]] {
        for suffix in beside {
            std::fs::remove_file(site.world.dir.path().join(format!("lbctl.db{suffix}"))).unwrap();
        }
        // Whoever comes new makes them anew.
        assert!(site.world.command(&["status"]).output().unwrap().status.success());
        assert!(site.world.command(&["store", "put", "k", "v"]).output().unwrap().status.success());
        site.converges(&sync);
        assert_eq!(states(&site.haproxy, "web"), before, "{}", discover.tail());
    }
    // What the log of the one before had is lost, and HAProxy goes on by what discover writes anew.
    let new = NamedServer::start("s4", "127.0.0.14");
    let all = site.own.iter().chain([&new]).map(|server| format!("\"{}\"", server.address()));
    site.write_list(&format!("[{}]", all.collect::<Vec<_>>().join(", ")));
    eventually(&format!("the fourth to serve\n{}\n{}", discover.tail(), sync.tail()), || {
        (site.haproxy.server("web", "srv4").state() == "ready").then_some(())
    });
    assert_eq!(states(&site.haproxy, "web")[..3], before[..3], "{}", discover.tail());
    traffic.all_answered(&sync.tail());
}

#[test]
fn nothing_leaves_when_records_are_lost_and_they_are_written_again() {
    let Some(site) = Site::start(World::sqlite()) else { return };
    let (discover, sync) = (site.discover(), site.sync());
    let before = site.serves_all(&sync.tail());
    site.converges(&sync);
    let traffic = Traffic::start(site.haproxy.frontend("web"));
    drop(discover);
    site.lose("backends/web/slots");
    site.is_told("says nothing", &sync);
    let readers = site.world.command(&["status"]).output().unwrap();
    let shown = String::from_utf8_lossy(&readers.stdout).into_owned();
    assert!(shown.contains("says nothing"), "{shown}");
    assert_eq!(states(&site.haproxy, "web"), before);
    let discover = site.discover();
    site.converges(&sync);
    assert_eq!(states(&site.haproxy, "web"), before, "{}", discover.tail());
    // A server that really goes leaves by order.
    site.write_list(&format!("[\"{}\", \"{}\"]", site.own[0].address(), site.own[1].address()));
    eventually("the third to leave", || {
        (site.haproxy.server("web", "srv3").state() == "maint").then_some(())
    });
    site.converges(&sync);
    traffic.all_answered(&sync.tail());
}

#[test]
fn an_older_table_takes_nothing_down_before_a_leader_has_compared_it() {
    let Some(site) = Site::start(World::sqlite()) else { return };
    let (discover, sync) = (site.discover(), site.sync());
    let before = site.serves_all(&sync.tail());
    site.converges(&sync);
    drop(discover);
    let traffic = Traffic::start(site.haproxy.frontend("web"));
    // As of a time when the second had left: whoever imports it deletes the confirmation.
    let slot = site.world.get("backends/web/slots/00002").unwrap();
    site.lose(keys::confirmed(&"web".parse().unwrap()).as_str());
    site.world.put("backends/web/slots/00002", &slot.replace("\"ready\"", "\"rest\""));
    site.is_told("confirms it", &sync);
    drop(sync);
    let sync = site.sync();
    site.is_told("not yet confirmed", &sync);
    assert_eq!(states(&site.haproxy, "web"), before);
    let discover = site.discover();
    site.converges(&sync);
    assert_eq!(states(&site.haproxy, "web"), before, "{}", discover.tail());
    traffic.all_answered(&sync.tail());
}
