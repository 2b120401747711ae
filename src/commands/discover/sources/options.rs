use std::net::SocketAddr;

use super::asg::{AsgFlags, AsgOptions};
use super::consul::{ConsulFlags, ConsulOptions};
use super::resolve::Resolve;
use crate::aws::RegionName;
use crate::config::{Flags, Reader, named};

/// What sources can be set to, beside their specs; each looks at what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// Instead of those of `/etc/resolv.conf`.
    pub dns_server: Option<SocketAddr>,
    /// Which addresses of a host are taken; where it is not set, all are.
    pub resolve: Option<Resolve>,
    /// Of what is in AWS: before `AWS_REGION`, the profile and the instance's own.
    pub aws_region: Option<RegionName>,
    pub asg: AsgOptions,
    pub consul: ConsulOptions,
}

impl SourceOptions {
    /// Reads what is set under a path; what is not is as in `default`.
    pub fn read(reader: &mut Reader, base: &str, default: &Self) -> Self {
        let path = |name: &str| format!("{base}.{name}");
        let region = reader.find(&path("aws-region"));
        let dns_server: Option<SocketAddr> = reader.find(&path("dns-server"));
        if let Some(SocketAddr::V6(server)) = dns_server
            && server.scope_id() != 0
        {
            let message = "the DNS server's address has a zone, which cannot be used here: \
                           give an address that is not link-local";
            reader.problem(&path("dns-server"), message);
        }
        Self {
            dns_server: dns_server.or(default.dns_server),
            resolve: reader.find(&path("resolve")).or(default.resolve),
            aws_region: region.or_else(|| default.aws_region.clone()),
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

    /// Which addresses of a host name are taken: ipv4 (IPv6 only where it has no other), ipv6, or
    /// both [default: both]
    #[arg(long, value_name = "FAMILY", help_heading = "Sources")]
    resolve: Option<String>,

    /// The region of what is in AWS [default: that of AWS_REGION, the profile or the instance]
    #[arg(long, value_name = "REGION", help_heading = "Sources")]
    aws_region: Option<String>,

    #[command(flatten)]
    asg: AsgFlags,

    #[command(flatten)]
    consul: ConsulFlags,
}

impl SourceFlags {
    /// As settings under a path.
    pub fn set(&self, base: &str, flags: Flags) -> Flags {
        let Self { dns_server, resolve, aws_region, asg, consul } = self;
        consul.set(base, asg.set(base, flags)).all(base, named![dns_server, resolve, aws_region])
    }
}
