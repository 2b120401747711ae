//! The Runtime API client against a real HAProxy.

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
