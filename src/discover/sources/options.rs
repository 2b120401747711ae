use std::net::SocketAddr;

use super::asg::{AsgFlags, AsgOptions};
use super::consul::{ConsulFlags, ConsulOptions};
use crate::aws::RegionName;
use crate::config::{Flags, Reader};

/// What sources can be set to, beside their specs; each looks at what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// Instead of those of `/etc/resolv.conf`.
    pub dns_server: Option<SocketAddr>,
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
        Self {
            dns_server: reader.find(&path("dns-server")).or(default.dns_server),
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
        let Self { dns_server, aws_region, asg, consul } = self;
        let path = |name: &str| format!("{base}.{name}");
        consul
            .set(base, asg.set(base, flags))
            .set(&path("dns-server"), "--dns-server", dns_server.as_ref())
            .set(&path("aws-region"), "--aws-region", aws_region.as_ref())
    }
}
