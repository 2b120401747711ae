use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::AdminState;

/// The administrative state mask of `show servers state` (management guide, "show servers state").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdminFlags(pub u32);

impl AdminFlags {
    /// Forced, inherited or resolver maintenance. CMAINT (0x04) only says that the configuration
    /// has `disabled`; it stays after `state ready` and means nothing by itself.
    const MAINT: u32 = Self::FORCED_MAINT | Self::INHERITED_MAINT | Self::RESOLVER_MAINT;
    const DRAIN: u32 = Self::FORCED_DRAIN | Self::INHERITED_DRAIN;
    const FORCED_MAINT: u32 = 0x01;
    const INHERITED_MAINT: u32 = 0x02;
    const FORCED_DRAIN: u32 = 0x08;
    const INHERITED_DRAIN: u32 = 0x10;
    const RESOLVER_MAINT: u32 = 0x20;
    const CONFIGURED: u32 = 0x04;

    /// Whether the configuration has `disabled` for it. It stays through `state ready`, and through
    /// a reload with a state file (seen on 2.6, 3.0, 3.2 and 3.4).
    pub fn is_disabled_in_configuration(self) -> bool {
        self.0 & Self::CONFIGURED != 0
    }

    pub fn state(self) -> AdminState {
        if self.0 & Self::MAINT != 0 {
            AdminState::Maint
        } else if self.0 & Self::DRAIN != 0 {
            AdminState::Drain
        } else {
            AdminState::Ready
        }
    }

    /// Its maintenance or drain comes from the server that it tracks: no command ends it.
    pub fn is_inherited(self) -> bool {
        let forced = self.0 & (Self::FORCED_MAINT | Self::FORCED_DRAIN) != 0;
        !forced && self.0 & (Self::INHERITED_MAINT | Self::INHERITED_DRAIN) != 0
    }

    /// A resolver has taken its address away.
    pub fn is_unresolved(self) -> bool {
        self.0 & Self::RESOLVER_MAINT != 0
    }
}

/// One server as HAProxy has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedServer {
    pub id: u32,
    pub name: String,
    /// `None` where HAProxy shows no IP (unresolved, or a UNIX socket).
    pub address: Option<IpAddr>,
    pub port: u16,
    /// The port is the place's own, not a server's: its line has none, so that HAProxy connects to
    /// the port that the client came to (shown as 0).
    pub port_is_own: bool,
    /// HAProxy adds the port to the client's, as `:-100` does, which shows far over 65535. `:+100`
    /// shows like any port.
    pub port_is_mapped: bool,
    /// It has a host name, which a resolver may be asked for.
    pub has_name: bool,
    pub admin: AdminFlags,
    /// 0 stopped, 1 starting, 2 running, 3 stopping.
    pub operational: u8,
    /// The weight as the user set it, 0 to 256.
    pub weight: u16,
    /// The configured weight: beside 0, the only one a static load-balancing algorithm takes.
    pub initial_weight: u16,
    /// Health checks are configured on it.
    pub checked: bool,
    /// Health checks are configured and running.
    pub check_enabled: bool,
    /// Its `id` was given to it: every dynamic server's is.
    pub forced_id: bool,
    /// An agent check is configured, which may set the weight, drain, maint and down.
    pub has_agent: bool,
    /// The agent check is configured and running.
    pub agent_enabled: bool,
    /// Connections to it are encrypted.
    pub uses_tls: bool,
    /// Live sessions; read only for backends where something drains.
    pub sessions: Option<u64>,
}

impl ObservedServer {
    /// HAProxy may send new sessions to it: it is up, or warms up (`slowstart`).
    pub fn is_usable(&self) -> bool {
        const STARTING: u8 = 1;
        self.operational == STARTING || self.is_running()
    }

    /// It is up as far as HAProxy knows: not stopped, not warming up, and not one whose checks ask
    /// for no new sessions (NOLB).
    pub fn is_running(&self) -> bool {
        const RUNNING: u8 = 2;
        self.operational == RUNNING
    }
}

/// What `show info` says of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    pub pid: u32,
    /// When it was started, in seconds since the epoch, where HAProxy says so.
    pub started_s: Option<u64>,
    pub version: String,
    pub uptime_s: u64,
    /// It is a worker of before a reload, finishing its sessions.
    pub stopping: bool,
}

impl ProcessInfo {
    /// Whether this is still the process that was `earlier`. In a container each start has the same
    /// process id.
    pub fn is_same_as(&self, earlier: &Self) -> bool {
        let (before, now) = (earlier.identity(), self.identity());
        before == now && self.uptime_s >= earlier.uptime_s
    }

    fn identity(&self) -> (u32, Option<u64>) {
        (self.pid, self.started_s)
    }
}

/// HAProxy at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub process: ProcessInfo,
    /// By HAProxy's backend name, servers in HAProxy's order. A backend that was asked for and is
    /// not there has no entry.
    pub backends: BTreeMap<String, Vec<ObservedServer>>,
    /// The number of each backend that has servers.
    pub proxies: BTreeMap<String, u32>,
}

/// What `show stat` says of how a server, or its backend, is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// It has a cookie.
    pub cookie: bool,
    /// It has a `maxconn`.
    pub limit: bool,
}

impl Features {
    /// The name that a backend as a whole has among its servers.
    pub const BACKEND: &'static str = "BACKEND";
}

/// The process and some servers alone, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glances {
    pub process: ProcessInfo,
    /// In the order in which they were asked for; `None` where one is not there.
    pub servers: Vec<Option<Glance>>,
}

/// What `show stat` says of one server: less than `show servers state`, which only ever shows a
/// whole backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    pub name: String,
    pub address: Option<SocketAddr>,
    /// As the user set it.
    pub weight: u16,
    /// `UP`, `UP 1/3`, `no check`, `DRAIN`, `DOWN`, `MAINT`, `MAINT (resolution)`, …
    pub status: String,
}

impl Glance {
    /// Whether it is what `server` is thought to be, as far as it tells. HAProxy says DRAIN of weight
    /// 0 too, and DOWN whether a server drains or not.
    pub fn agrees_with(&self, server: &ObservedServer) -> bool {
        let address = server.address.map(|ip| SocketAddr::new(ip, server.port));
        let says = |word| self.status.starts_with(word);
        let state = match server.admin.state() {
            AdminState::Maint => says("MAINT"),
            AdminState::Drain => says("DRAIN") || says("DOWN"),
            AdminState::Ready => !says("MAINT") && (!says("DRAIN") || server.weight == 0),
        };
        state && self.name == server.name && self.address == address && self.weight == server.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_agrees_with_nothing_else() {
        let server = |admin, weight| ObservedServer {
            id: 1,
            name: "s1".into(),
            address: Some(IpAddr::from([127, 0, 0, 1])),
            port: 80,
            port_is_own: false,
            port_is_mapped: false,
            has_name: false,
            admin: AdminFlags(admin),
            operational: 0,
            weight,
            initial_weight: 1,
            checked: true,
            check_enabled: true,
            forced_id: false,
            has_agent: false,
            agent_enabled: false,
            uses_tls: false,
            sessions: None,
        };
        let glance = |status: &str| Glance {
            name: "s1".into(),
            address: Some("127.0.0.1:80".parse().unwrap()),
            weight: 7,
            status: status.into(),
        };
        let (ready, drain, maint) = (server(4, 7), server(8, 7), server(1, 7));
        for (status, states) in [
            ("UP", [true, false, false]),
            ("UP 1/3", [true, false, false]),
            ("no check", [true, false, false]),
            ("DOWN", [true, true, false]),
            ("DRAIN 1/3", [false, true, false]),
            ("MAINT", [false, false, true]),
            ("MAINT (resolution)", [false, false, true]),
        ] {
            let agrees = [&ready, &drain, &maint].map(|s| glance(status).agrees_with(s));
            assert_eq!(agrees, states, "{status}");
        }
        assert!(Glance { weight: 0, ..glance("DRAIN") }.agrees_with(&server(0, 0)));
        for other in [
            Glance { weight: 8, ..glance("UP") },
            Glance { name: "s2".into(), ..glance("UP") },
            Glance { address: None, ..glance("UP") },
            Glance { address: Some("127.0.0.1:81".parse().unwrap()), ..glance("UP") },
            Glance { address: Some("127.0.0.2:80".parse().unwrap()), ..glance("UP") },
        ] {
            assert!(!other.agrees_with(&ready), "{other:?}");
        }
    }
}
