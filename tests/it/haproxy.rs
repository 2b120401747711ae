//! The Runtime API client against a real HAProxy.

use lbctl::haproxy::{
    self as client, AdminState, Command, CommandResult, RejectionKind, ServerRef, Session,
    SocketAddress, Timeouts,
};
use lbctl::model::Weight;

use crate::support::haproxy::{Backend, Client, Haproxy, NamedServer, Options};

#[test]
fn the_harness_starts_reloads_kills_and_starts_again() {
    let options = Options::new([Backend::new("web", 2), Backend::new("api", 0)]).master();
    let Some(mut haproxy) = Haproxy::start(options) else { return };
    let server = NamedServer::start("one", "127.0.0.2");
    let address = server.address();
    let fill = format!(
        "set server web/s1 addr {} port {};set server web/s1 state ready",
        address.ip(),
        address.port()
    );
    haproxy.raw(&fill);
    assert_eq!(haproxy.server("web", "s1").address(), address.to_string());
    let mut client = Client::connect(haproxy.frontend("web")).unwrap();
    assert_eq!(client.ask().unwrap(), "one");
    haproxy.reload();
    assert_eq!(client.ask().unwrap(), "one", "a held session outlives the reload");
    assert_eq!(haproxy.server("web", "s1").state(), "maint");
    haproxy.kill();
    assert!(!client.ask().is_ok_and(|name| !name.is_empty()), "a killed HAProxy answered");
    haproxy.start_again();
    assert_eq!(haproxy.servers("web").len(), 2);
}

fn refer(backend: &str, server: &str) -> ServerRef {
    ServerRef { backend: backend.parse().unwrap(), server: server.parse().unwrap() }
}

fn set_address(server: &ServerRef, address: &str) -> Command {
    Command::SetAddress { server: server.clone(), address: address.parse().unwrap() }
}

fn set_state(server: &ServerRef, state: AdminState) -> Command {
    Command::SetState { server: server.clone(), state }
}

fn set_weight(server: &ServerRef, weight: u64) -> Command {
    Command::SetWeight { server: server.clone(), weight: Weight::saturating(weight) }
}

fn add(server: &ServerRef, address: &str, id: u32, options: &str) -> Command {
    Command::AddServer {
        server: server.clone(),
        address: address.parse().unwrap(),
        id,
        weight: Weight::saturating(7),
        options: options.to_owned(),
    }
}

fn del(server: &ServerRef) -> Command {
    Command::DelServer { server: server.clone() }
}

async fn open(address: SocketAddress) -> Session {
    client::Client::new(address, Timeouts::default()).session().await.unwrap()
}

fn kinds(results: &[CommandResult]) -> Vec<Option<RejectionKind>> {
    results.iter().map(|result| result.as_ref().err().map(|rejection| rejection.kind)).collect()
}

/// Each way in.
fn ways(haproxy: &Haproxy) -> [SocketAddress; 3] {
    [haproxy.unix(), haproxy.tcp(), haproxy.master()]
}

#[tokio::test]
async fn every_command_works_over_every_way_in() {
    let options = Options::new([Backend::new("web", 2).checked(), Backend::new("dyn", 0)]).master();
    let Some(haproxy) = Haproxy::start(options) else { return };
    for (n, address) in ways(&haproxy).into_iter().enumerate() {
        let mut session = open(address.clone()).await;
        assert_eq!(session.process().pid, haproxy.pid(), "{address}");
        let (s1, d1) = (refer("web", "s1"), refer("dyn", "d1"));
        let weight = u16::try_from(n).unwrap() + 20;
        let commands = [
            set_state(&s1, AdminState::Maint),
            set_address(&s1, &format!("127.0.0.{}:81", n + 2)),
            set_address(&s1, &format!("127.0.0.{}:81", n + 2)),
            set_weight(&s1, weight.into()),
            set_state(&s1, AdminState::Ready),
            Command::SetHealthDown { server: s1.clone() },
            add(&d1, "[2001:db8::1]:82", 70, "check inter 1s"),
            Command::EnableHealth { server: d1.clone() },
            set_state(&d1, AdminState::Maint),
            del(&d1),
            add(&d1, "127.0.0.9:83", 71, ""),
        ];
        let results = session.apply(&commands).await.unwrap();
        assert_eq!(kinds(&results), [None; 11], "{address}: {results:?}");
        let backends = ["web".parse().unwrap(), "dyn".parse().unwrap(), "none".parse().unwrap()];
        let observed = session.observe(&backends, true).await.unwrap();
        assert_eq!(observed.backends.keys().collect::<Vec<_>>(), ["dyn", "web"], "{address}");
        let server = &observed.backends["web"][0];
        assert_eq!((server.name.as_str(), server.port, server.weight), ("s1", 81, weight));
        assert_eq!(server.address.unwrap().to_string(), format!("127.0.0.{}", n + 2));
        assert_eq!((server.admin.state(), server.operational), (AdminState::Ready, 0));
        assert!(server.checked && server.check_enabled && server.sessions == Some(0));
        let added = &observed.backends["dyn"][0];
        assert_eq!((added.id, added.admin.state(), added.checked), (71, AdminState::Maint, false));
        assert_eq!(kinds(&session.apply(&[del(&d1)]).await.unwrap()), [None]);
    }
}
