use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::{Flags, Kind, Origin, Reader, Setting, named};

/// The flags every daemon takes.
#[derive(Debug, Clone, clap::Args)]
pub struct DaemonArgs {
    /// Where /livez, /readyz, /metrics and /status are served; "off" for nowhere [default: 127.0.0.1,
    /// port 9570 of serve, 9572 of discover, 9573 of sync-haproxy, if it is free]
    #[arg(long, value_name = "IP:PORT", help_heading = "Daemon options")]
    pub admin: Option<String>,

    /// How long a clean stop may take before it is cut short [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Daemon options")]
    pub shutdown_grace: Option<String>,
}

impl DaemonArgs {
    /// Takes the flags in, as settings of the given section.
    pub fn flags(self, section: &str, flags: Flags) -> Flags {
        let Self { admin, shutdown_grace } = self;
        flags.all(section, named![admin, shutdown_grace])
    }
}

/// What every daemon can be set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub admin: AdminAddress,
    /// Names of this host that requests to the admin server may give, beside the usual ones.
    pub admin_hosts: Vec<String>,
    /// How long a clean stop may take before it is cut short.
    pub grace: Duration,
}

impl Options {
    /// Reads `<section>.admin`, `<section>.admin-hosts` and `<section>.shutdown-grace`. Each daemon has its own default
    /// `port`, so that one of each runs on a host without being told.
    pub fn read(reader: &mut Reader, section: &str, port: u16) -> Self {
        Self {
            admin: AdminAddress::read(reader, &format!("{section}.admin"), port),
            admin_hosts: reader.get(&format!("{section}.admin-hosts"), Vec::new()),
            grace: reader.get(&format!("{section}.shutdown-grace"), Duration::from_secs(30)),
        }
    }
}

/// Where the admin HTTP server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAddress {
    Off,
    Listen(SocketAddr),
    /// The default: a second daemon of a kind on one host does without, and says so.
    IfFree(SocketAddr),
    /// That of another program's settings, which daemons of several kinds may have from one file; the
    /// daemon's own port instead where it is taken.
    Shared(SocketAddr, u16),
}

impl AdminAddress {
    fn read(reader: &mut Reader, path: &str, port: u16) -> Self {
        let default = Self::IfFree(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        match (reader.get(path, default), reader.origin(path)) {
            (Self::Listen(address), Some(Origin::Foreign { .. })) => Self::Shared(address, port),
            (address, _) => address,
        }
    }
}

impl Setting for AdminAddress {
    const KINDS: &'static [Kind] = &[Kind::Text];

    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let problem = |_| format!("{text:?} is not an IP:PORT such as 127.0.0.1:9571, nor off");
        text.parse().map(Self::Listen).map_err(problem)
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "off".into(),
            Self::Listen(address) | Self::IfFree(address) | Self::Shared(address, _) => {
                address.to_string()
            }
        }
    }
}
