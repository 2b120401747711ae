use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::{Kind, Origin, Reader, from_str_setting};
use crate::daemon;
use crate::model::{BackendName, EndpointId, GroupName, Label, ServerAddress, Weight};
use crate::store::StoreSettings;

/// The admin HTTP server's default port.
const ADMIN_PORT: u16 = 9570;

/// What the kernel takes: it counts in whole seconds, up to 32767 of them before it asks.
const KEEPALIVE: RangeInclusive<Duration> =
    Duration::from_secs(4)..=Duration::from_secs(12 * 60 * 60);

/// Everything that `serve` can be set to.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: StoreSettings,
    pub daemon: daemon::Options,
    pub host: String,
    pub port: u16,
    /// What `WHERE` answers; a random UUID where it is not set.
    pub id: Option<EndpointId>,
    pub register: Option<Register>,
    /// How long this server's keys outlive it when it is killed.
    pub ttl: Duration,
    pub limits: Limits,
    /// How soon a client whose host is gone is noticed.
    pub keepalive: Duration,
    pub proxy_protocol: bool,
}

/// How the server registers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    pub backend: BackendName,
    pub advertise: Option<Advertise>,
    pub weight: Option<Weight>,
    pub group: Option<GroupName>,
    pub zone: Option<Label>,
}

/// What one client or all of them may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_clients: usize,
    /// Somebody wants this `max_clients`; else it is lowered to what the host allows.
    pub max_clients_is_set: bool,
    /// How long a client may send nothing; zero for ever.
    pub idle_timeout: Duration,
}

/// `IP`, `IP:PORT` or `[IP]:PORT`; without a port, the one listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertise {
    pub ip: std::net::IpAddr,
    pub port: Option<u16>,
}

impl Settings {
    pub fn read(reader: &mut Reader) -> Self {
        let max_clients = reader.get("serve.max-clients", 20_000);
        let max_clients_is_set = reader.origin("serve.max-clients") != Some(&Origin::Default);
        let settings = Self {
            store: StoreSettings::read(reader),
            daemon: daemon::Options::read(reader, "serve", ADMIN_PORT),
            host: reader.get("serve.host", "0.0.0.0".to_owned()),
            port: reader.get("serve.port", 5151),
            id: reader.find("serve.id"),
            register: register(reader),
            ttl: reader.get("serve.ttl", Duration::from_secs(10)),
            limits: Limits {
                max_clients,
                max_clients_is_set,
                idle_timeout: reader.get("serve.idle-timeout", Duration::from_secs(600)),
            },
            keepalive: reader.get("serve.keepalive", Duration::from_secs(60)),
            proxy_protocol: reader.get("serve.proxy-protocol", false),
        };
        if settings.ttl < Duration::from_secs(1) {
            reader.problem("serve.ttl", "a ttl under 1s would lose the registration by chance");
        }
        if !KEEPALIVE.contains(&settings.keepalive) {
            reader.problem("serve.keepalive", "keepalive must be from 4s to 12h");
        }
        if settings.limits.max_clients == 0 {
            reader.problem("serve.max-clients", "max-clients 0 would refuse every client");
        }
        settings
    }
}

fn register(reader: &mut Reader) -> Option<Register> {
    let backend: Option<BackendName> = reader.find("serve.register");
    let advertise = reader.find("serve.advertise");
    let weight = reader.find("serve.weight");
    let (group, zone) = (reader.find("serve.group"), reader.find("serve.zone"));
    let unused = [
        ("serve.advertise", advertise.is_some()),
        ("serve.weight", weight.is_some()),
        ("serve.group", group.is_some()),
        ("serve.zone", zone.is_some()),
    ];
    if backend.is_none() {
        for (path, _) in unused.iter().filter(|(_, given)| *given) {
            reader.problem(path, format!("{path} does nothing without --register BACKEND"));
        }
    }
    Some(Register { backend: backend?, advertise, weight, group, zone })
}

impl std::str::FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ServerAddress::refuse_zone(text).map_err(|error| error.to_string())?;
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Ok(Self { ip: address.ip(), port: Some(address.port()) });
        }
        match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => Ok(Self { ip, port: None }),
            Err(_) => Err(format!("{text:?} is not IP or IP:PORT, such as 10.0.0.1:5151")),
        }
    }
}

impl std::fmt::Display for Advertise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => std::net::SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

from_str_setting! { Advertise: [Kind::Text]; }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn read(flags: Flags) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("empty.toml");
        std::fs::write(&file, "").unwrap();
        let mut reader = Reader::load(Some(&file), [], flags).unwrap();
        let settings = Settings::read(&mut reader);
        reader.finish().map(|_| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_original_server_s_address() {
        let settings = read(Flags::new()).unwrap();
        assert_eq!((settings.host.as_str(), settings.port), ("0.0.0.0", 5151));
        assert_eq!(settings.register, None);
    }

    #[test]
    fn every_contradiction_is_reported_at_once() {
        let flags = Flags::new()
            .set("serve.zone", "--zone", Some("a"))
            .set("serve.ttl", "--ttl", Some("100ms"))
            .set("serve.max-clients", "--max-clients", Some(0))
            .set("serve.keepalive", "--keepalive", Some("0s"))
            .set("serve.advertise", "--advertise", Some("10.0.0.1:x"));
        let error = read(flags).unwrap_err();
        for text in [
            "serve.zone does nothing",
            "a ttl under 1s",
            "max-clients 0",
            "from 4s to 12h",
            "10.0.0.1:x",
        ] {
            assert!(error.contains(text), "{text} is not in {error}");
        }
    }

    #[test]
    fn an_address_may_be_advertised_with_and_without_a_port() {
        let port = |text: &str| text.parse::<Advertise>().map(|a| a.port);
        assert_eq!(port("10.0.0.1:80"), Ok(Some(80)));
        assert_eq!(port("[::1]:80"), Ok(Some(80)));
        for alone in ["10.0.0.1", "::1", "[::1]"] {
            assert_eq!(port(alone), Ok(None));
        }
        assert!(port("localhost").is_err());
    }
}
