use std::net::SocketAddr;

use super::asg::{AsgFlags, AsgOptions};
use super::consul::{ConsulFlags, ConsulOptions};
use crate::config::{Flags, Reader};

/// What sources can be set to, beside their specs; each looks at what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// Instead of those of `/etc/resolv.conf`.
    pub dns_server: Option<SocketAddr>,
    pub asg: AsgOptions,
    pub consul: ConsulOptions,
}

impl SourceOptions {
    /// Reads what is set under a path; what is not is as in `default`.
    pub fn read(reader: &mut Reader, base: &str, default: &Self) -> Self {
        let path = |name: &str| format!("{base}.{name}");
        Self {
            dns_server: reader.find(&path("dns-server")).or(default.dns_server),
            asg: AsgOptions::read(reader, base, &default.asg),
            consul: ConsulOptions::read(reader, base, &default.consul),
        }
    }
}

/// The flags for them.
#[derive(Debug, Clone, clap::Args)]
pub struct SourceFlags {
    /// Ask this DNS server instead of those in /etc/resolv.conf
    #[arg(long, value_name = "IP:PORT", help_heading = "Sources")]
    dns_server: Option<String>,

    #[command(flatten)]
    asg: AsgFlags,

    #[command(flatten)]
    consul: ConsulFlags,
}

impl SourceFlags {
    /// As settings under a path.
    pub fn set(&self, base: &str, flags: Flags) -> Flags {
        let Self { dns_server, asg, consul } = self;
        let path = |name: &str| format!("{base}.{name}");
        let flags = consul.set(base, asg.set(base, flags));
        flags.set(&path("dns-server"), "--dns-server", dns_server.as_ref())
    }
}
