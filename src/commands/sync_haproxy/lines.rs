//! What HAProxy's configuration makes of the places that it has, and which lines of it do not serve.

use std::borrow::Cow;

use super::names::Places;
use super::plan::Learnt;
use super::problem::Problem;
use super::target::{Mode, Target};
use crate::haproxy::ObservedServer;

/// The servers of a backend as their target means them: with `keep-port` a port is the place's own.
pub fn as_meant<'a>(target: &Target, servers: &'a [ObservedServer]) -> Cow<'a, [ObservedServer]> {
    if !target.keep_port {
        return Cow::Borrowed(servers);
    }
    let keep = |server: &ObservedServer| ObservedServer { port_is_own: true, ..server.clone() };
    Cow::Owned(servers.iter().map(keep).collect())
}

/// Why no place of a backend can be filled: its line means something else by what would be set.
pub fn problem(target: &Target, places: &Places<'_>, learnt: &Learnt) -> Option<Problem> {
    if target.mode != Mode::Slots {
        return None;
    }
    let (backend, prefix) = (target.backend.clone(), places.prefix().clone());
    let any = |is: fn(&ObservedServer) -> bool| places.slots.iter().any(|(_, server)| is(server));
    if learnt.resolver {
        return Some(Problem::Resolver { backend, prefix });
    }
    if any(|server| server.address.is_none() && !server.has_name) {
        return Some(Problem::NoAddress { backend, prefix });
    }
    if target.keep_port {
        return None;
    }
    if learnt.mapped_ports || any(|server| server.port_is_mapped) {
        return Some(Problem::MappedPorts { backend, prefix });
    }
    let port = target.port.filter(|_| any(|server| server.port_is_own))?;
    Some(Problem::NoPort { backend, prefix, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::names::places;
    use crate::commands::sync_haproxy::testing::{named, target};

    fn found(target: &Target, server: ObservedServer, learnt: &Learnt) -> Option<String> {
        let servers = [server];
        let servers = as_meant(target, &servers);
        let places = places(target, &servers, 1).unwrap();
        problem(target, &places, learnt).map(|problem| problem.to_string())
    }

    #[test]
    fn a_place_whose_line_means_something_else_names_that_line() {
        let without_port = || ObservedServer { port: 0, port_is_own: true, ..named("srv1") };
        let with_port = Target { port: Some(8080), ..target() };
        let resolver = Learnt { resolver: true, ..Learnt::default() };
        let mapped = Learnt { mapped_ports: true, ..Learnt::default() };
        let plain = Learnt::default();
        for (target, server, learnt, said) in [
            (target(), named("srv1"), &resolver, "resolvers"),
            (target(), named("srv1"), &mapped, "keep-port"),
            (
                target(),
                ObservedServer { port_is_mapped: true, ..named("srv1") },
                &plain,
                "keep-port",
            ),
            (target(), ObservedServer { address: None, ..named("srv1") }, &plain, "UNIX"),
            (with_port.clone(), without_port(), &plain, "127.0.0.2:8080"),
        ] {
            let problem = found(&target, server, learnt).unwrap();
            assert!(problem.contains(said) && problem.contains("backend app"), "{problem}");
        }
        assert_eq!(found(&target(), named("srv1"), &plain), None);
        assert_eq!(found(&target(), without_port(), &plain), None);
        assert_eq!(found(&with_port, named("srv1"), &plain), None);
        let unresolved = ObservedServer { address: None, has_name: true, ..named("srv1") };
        assert_eq!(found(&target(), unresolved, &plain), None);
        let keeping = Target { keep_port: true, ..target() };
        let mapping = ObservedServer { port_is_mapped: true, ..named("srv1") };
        assert_eq!(found(&keeping, mapping, &mapped), None);
    }
}
