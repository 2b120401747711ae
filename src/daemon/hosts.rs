use std::net::{IpAddr, SocketAddr};

/// The hosts that requests may name. A browser that a foreign name has led to this address names
/// that one (DNS rebinding), and must learn nothing.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    /// Lower case.
    names: Vec<String>,
    loopback_only: bool,
}

impl Hosts {
    /// Those of a listener at an address: this host's name, and the configured ones. An address is
    /// no name that could lead somewhere else.
    pub(super) fn new(listening: SocketAddr, configured: &[String]) -> Self {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let names = configured.iter().cloned().chain([own, "localhost".into()]);
        Self {
            names: names.map(|name| name.to_ascii_lowercase()).collect(),
            loopback_only: listening.ip().to_canonical().is_loopback(),
        }
    }

    /// Whether a `Host` header, `HOST[:PORT]`, names this daemon.
    pub(super) fn has(&self, host: &str) -> bool {
        let name = without_port(host);
        match name.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback() || !self.loopback_only,
            Err(_) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                !name.is_empty() && self.names.contains(&name)
            }
        }
    }
}

/// The host of `HOST`, `HOST:PORT`, `[IP]` or `[IP]:PORT`.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listening: &str) -> Hosts {
        Hosts::new(listening.parse().unwrap(), &["LB1.example.com".to_owned()])
    }

    #[test]
    fn names_that_are_ours_and_addresses_are_taken_and_other_names_are_not() {
        let hosts = hosts("0.0.0.0:9573");
        let ours = ["localhost:9573", "127.0.0.1", "[::1]:9573", "10.0.0.5:80", "lb1.EXAMPLE.com."];
        for ours in ours {
            assert!(hosts.has(ours), "{ours}");
        }
        for foreign in ["evil.example:9573", "localhost.evil.example", "127.0.0.1.nip.io", "", ":1"]
        {
            assert!(!hosts.has(foreign), "{foreign}");
        }
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert!(hosts.has(&format!("{own}:9573")));
    }

    #[test]
    fn a_listener_on_loopback_is_at_no_other_address() {
        for listening in ["127.0.0.1:1", "[::1]:1"] {
            assert!(hosts(listening).has("127.0.0.1:9573"));
            assert!(!hosts(listening).has("10.0.0.5:9573"));
        }
    }
}
