//! Three hosts whose network is cut, goes one way only, loses frames and is slow: nobody leads
//! twice, nobody empties a HAProxy, and all is well when it is over.

mod history;
mod site;
mod watcher;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lbctl::model::{Registration, Timestamp, keys};
use lbctl::store::Txn;

use super::support::network::{Link, Network, address};
use super::support::{Random, endpoint, eventually, soak};
use site::{
    Before, CONFIRM_INTERVAL, CONFIRM_PASSES, EDGE, EDGE_HOST, HOSTS, RESYNC, Site, WEB, on_site,
};
use watcher::Watcher;

/// The shortest that etcd grants.
const SHORT_TTL: Duration = Duration::from_secs(2);

/// Long enough for requests that take a second.
const LONG_TTL: Duration = Duration::from_secs(5);

/// Runs faults on a site, with everything looked at from the first to the last moment, and checks
/// it. One site at a time: each is three machines.
fn under_watch(ttl: Duration, faults: impl FnOnce(&mut Site) + Send) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    on_site(ttl, |site| {
        let watcher = Watcher::start();
        faults(site);
        let claims = watcher.check_claims(ttl / 3);
        let changes = site.world.block_on(history::check(&watcher.timeline()));
        eprintln!("{changes} changes and {claims} leaderships were checked");
    });
}

#[test]
fn a_host_that_is_cut_off_harms_nobody() {
    under_watch(SHORT_TTL, |site| {
        for _ in 0..soak(1, 10) {
            for host in 0..HOSTS.len() {
                cut(site, host, Network::isolate, keeps_serving);
            }
        }
    });
}

#[test]
fn a_host_that_only_hears_harms_nobody() {
    under_watch(SHORT_TTL, |site| {
        let mut random = Random::new();
        for _ in 0..soak(1, 10) {
            cut(site, random.rng.usize(..HOSTS.len()), Network::mute, follows_what_it_hears);
        }
    });
}

#[test]
fn a_host_that_only_speaks_harms_nobody() {
    under_watch(SHORT_TTL, |site| {
        for _ in 0..soak(1, 10) {
            cut(site, EDGE_HOST, Network::deafen, keeps_serving);
        }
    });
}

/// The host is away for longer than any lease lives, while a server comes and another one goes.
fn cut(
    site: &mut Site,
    host: usize,
    fault: fn(&Network, usize),
    check: fn(&Site, usize, &Before, &str),
) {
    let others: Vec<usize> = (0..HOSTS.len()).filter(|other| *other != host).collect();
    let old = site.start_server(WEB, others[1]);
    site.settle();
    let before = site.remember(host);
    let started = Instant::now();
    fault(site.net(), host);

    let new = site.start_server(WEB, others[0]);
    let address = site.address_of(&new);
    site.wait_for_servers(&others, "have a new server", |there| there.contains(&address));
    let arrived = started.elapsed();
    let address = site.address_of(&old);
    site.stop_server(&old);
    site.wait_for_servers(&others, "drop one that left", |there| !there.contains(&address));
    let left = started.elapsed();

    let own = site.servers(WEB, &[host]);
    eventually("the leases of the host to end", || {
        let registered = site.registered(WEB)?;
        own.iter().all(|id| !registered.contains(id)).then_some(())
    });
    if host == EDGE_HOST {
        eventually("the leases of the edge to end", || {
            site.registered(EDGE)?.is_empty().then_some(())
        });
        // No number of looks takes the last ones away.
        last_for(CONFIRM_INTERVAL * (CONFIRM_PASSES + 1));
    }
    check(site, host, &before, &address);
    let healed = Instant::now();
    site.net().heal();
    site.settle();
    eprintln!(
        "{} was away for {:.1?}: a new server came after {arrived:.1?} and an old one had gone \
         after {left:.1?}; all is well again {:.1?} later",
        HOSTS[host],
        healed - started,
        healed.elapsed(),
    );
    // There are only so many slots for the rounds to come.
    site.stop_server(&new);
}

/// Its HAProxy is as it was, and serves with what it can reach; its daemons say that they know no
/// better.
fn keeps_serving(site: &Site, host: usize, before: &Before, _left: &str) {
    site.wait_for_not_ready(host);
    let own = site.servers(WEB, &[host]);
    site.wait_for_up(host, &own);
    for _ in 0..20 {
        let by = site.request(host);
        assert!(by.as_ref().is_some_and(|by| own.contains(by)), "served by {by:?}");
    }
    assert_eq!(site.haproxy(host), before.haproxy, "{}", site.said());
}

/// As long as the news come, whatever differs from before is as the table has it, or once had it: it
/// may have heard that a server went, and no more that it came back. That its own reports arrive no
/// more changes nothing.
fn follows_what_it_hears(site: &Site, host: usize, before: &Before, left: &str) {
    site.wait_for_unreported(host);
    let started = Instant::now();
    while started.elapsed() < RESYNC * 2 {
        has_what_it_heard(site, host, before, left);
        last_for(Duration::from_millis(50));
    }
}

fn has_what_it_heard(site: &Site, host: usize, before: &Before, left: &str) {
    let is = site.haproxy(host);
    let wanted = eventually("the table", || site.wanted());
    for (place, now) in is {
        let was = &before.haproxy[&place];
        let drains = now.0 == left && now.1 == "drain";
        let went = now.1 == "maint" && site.has_rested(&place, before);
        let known = now == *was || now == wanted[&place] || drains || went;
        assert!(
            known,
            "{place:?} is {now:?}; before {was:?}, table {:?}\n{}",
            wanted[&place],
            site.said()
        );
    }
}

/// The old leader's write is held back by the network until another leads: etcd itself refuses it.
#[test]
fn a_commit_that_the_network_held_back_comes_to_nothing() {
    under_watch(SHORT_TTL, |site| {
        for _ in 0..soak(3, 30) {
            late_commit(site);
        }
    });
}

fn late_commit(site: &mut Site) {
    let host = eventually("a leader", || site.leader(WEB));
    site.move_etcd_leader_off(host);
    site.settle();
    let host = eventually("a leader", || site.leader(WEB));
    // It sees the new server only once it can no longer reach the others: stopped for a moment.
    site.discover(host).signal("STOP");
    let key = keys::registration(&WEB.parse().unwrap(), &"web-ghost".parse().unwrap());
    let address = SocketAddr::from((address(host), 1));
    let ghost = Registration { endpoint: endpoint("web-ghost", address), since: Timestamp::now() };
    site.world.put_held(key.as_str(), &serde_json::to_string(&ghost).unwrap());
    eventually("the member beside it to know of it", || site.member_knows(host, &key));
    site.net().isolate(host);
    site.discover(host).signal("CONT");
    // Whoever leads next is not to see it.
    let gone = Txn::new().delete(key);
    eventually("the others to go on", || {
        site.world.block_on(site.world.store.commit(gone.clone())).ok().map(|_committed| ())
    });
    eventually("another leader", || site.leader(WEB).filter(|leader| *leader != host));
    site.net().heal();
    site.settle();
}

#[test]
fn a_lossy_and_a_slow_network_harm_nobody() {
    under_watch(LONG_TTL, |site| {
        for _ in 0..soak(1, 10) {
            lossy(site);
            slow(site);
        }
    });
}

/// A third of all frames is lost for a while. Nobody can say how far anything gets in it.
fn lossy(site: &mut Site) {
    let old = site.start_server(WEB, 0);
    site.settle();
    site.net().set_all(Link::lossy(30));
    let new = site.start_server(WEB, 1);
    last_for(LONG_TTL * 2);
    for host in 0..HOSTS.len() {
        let by = eventually("a request to be served", || site.request(host));
        assert!(site.servers(WEB, &[0, 1, 2]).contains(&by), "served by {by}");
    }
    site.net().heal();
    let healed = Instant::now();
    site.settle();
    site.stop_server(&old);
    site.stop_server(&new);
    site.settle();
    eprintln!("30 % loss: well again after {:.1?}", healed.elapsed());
}

/// Everything still works, only later.
fn slow(site: &mut Site) {
    let old = site.start_server(WEB, 0);
    site.settle();
    site.net().set_all(Link::slow(Duration::from_millis(200)));
    let started = Instant::now();
    let new = site.start_server(WEB, 1);
    let address = site.address_of(&new);
    let all = [0, 1, 2];
    site.wait_for_servers(&all, "have a new server", |there| there.contains(&address));
    let arrived = started.elapsed();
    let address = site.address_of(&old);
    site.stop_server(&old);
    site.wait_for_servers(&all, "drop one that left", |there| !there.contains(&address));
    let left = started.elapsed();
    site.settle();
    site.net().heal();
    site.stop_server(&new);
    site.settle();
    eprintln!(
        "200 ms delay: a new server came after {arrived:.1?}, an old one had gone after {left:.1?}"
    );
}

#[expect(clippy::disallowed_methods, reason = "how long a fault lasts")]
fn last_for(time: Duration) {
    std::thread::sleep(time);
}
