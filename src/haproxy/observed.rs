use std::collections::BTreeMap;
use std::net::IpAddr;

use super::AdminState;

/// The administrative state mask of `show servers state` (management guide, "show servers state").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdminFlags(pub u32);

impl AdminFlags {
    /// Forced, inherited or resolver maintenance. CMAINT (0x04) only says that the configuration
    /// has `disabled`; it stays after `state ready` and means nothing by itself.
    const MAINT: u32 = 0x01 | 0x02 | 0x20;
    const DRAIN: u32 = 0x08 | 0x10;

    pub fn state(self) -> AdminState {
        if self.0 & Self::MAINT != 0 {
            AdminState::Maint
        } else if self.0 & Self::DRAIN != 0 {
            AdminState::Drain
        } else {
            AdminState::Ready
        }
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
    /// Live sessions; read only for backends where something drains.
    pub sessions: Option<u64>,
}

/// What `show info` says of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    pub pid: u32,
    pub version: String,
    pub uptime_s: u64,
    /// It is a worker of before a reload, finishing its sessions.
    pub stopping: bool,
}

/// HAProxy at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub process: ProcessInfo,
    /// By HAProxy's backend name, servers in HAProxy's order. A backend that was asked for and is
    /// not there has no entry.
    pub backends: BTreeMap<String, Vec<ObservedServer>>,
}
