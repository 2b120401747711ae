use std::time::Duration;

use crate::config::{Flags, Reader, choice_setting, named};

/// The least time between two looks.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// What an Auto Scaling source can be set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsgOptions {
    /// Between two looks.
    pub interval: Duration,
    /// Where a server listens, unless its tag says otherwise.
    pub port: u16,
    /// The instance's tag that has its port.
    pub port_tag: Option<String>,
    pub address: InstanceAddress,
    /// An instance that Auto Scaling calls unhealthy is served all the same.
    pub serve_unhealthy: bool,
    /// The termination hook to complete once an instance has drained.
    pub complete_lifecycle: Option<String>,
}

/// Which of an instance's addresses is its server's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum InstanceAddress {
    #[default]
    PrivateIp,
    PublicIp,
    Ipv6,
}

choice_setting!(InstanceAddress);

impl Default for AsgOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            port: 80,
            port_tag: None,
            address: InstanceAddress::default(),
            serve_unhealthy: false,
            complete_lifecycle: None,
        }
    }
}

impl AsgOptions {
    pub(in crate::commands::discover) fn read(
        reader: &mut Reader,
        base: &str,
        default: &Self,
    ) -> Self {
        let path = |name: &str| format!("{base}.{name}");
        let find = |reader: &mut Reader, name: &str, default: &Option<String>| {
            reader.find(&path(name)).or_else(|| default.clone())
        };
        let options = Self {
            interval: reader.get(&path("interval"), default.interval),
            port: reader.get(&path("port"), default.port),
            port_tag: find(reader, "port-tag", &default.port_tag),
            address: reader.get(&path("instance-address"), default.address),
            serve_unhealthy: reader.get(&path("serve-unhealthy"), default.serve_unhealthy),
            complete_lifecycle: find(reader, "complete-lifecycle", &default.complete_lifecycle),
        };
        if options.port == 0 {
            reader.problem(&path("port"), "port 0 cannot be connected to");
        }
        if options.interval < LEAST_INTERVAL {
            reader.problem(&path("interval"), "an interval under 1s would be throttled by AWS");
        }
        options
    }
}

/// The flags for them.
#[derive(Debug, Clone, clap::Args)]
pub struct AsgFlags {
    /// How often Auto Scaling groups are looked at [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Auto Scaling")]
    interval: Option<String>,

    /// The port of every instance's server [default: 80]
    #[arg(long, value_name = "PORT", help_heading = "Auto Scaling")]
    port: Option<String>,

    /// The tag of an instance that says its server's port, where it has that tag
    #[arg(long, value_name = "KEY", help_heading = "Auto Scaling")]
    port_tag: Option<String>,

    /// Which address is the server's: private-ip, public-ip or ipv6 [default: private-ip]
    #[arg(long, value_name = "KIND", help_heading = "Auto Scaling")]
    instance_address: Option<String>,

    /// Serve instances that Auto Scaling calls unhealthy
    #[arg(long, help_heading = "Auto Scaling")]
    serve_unhealthy: bool,

    /// Once a terminating instance has drained, complete this lifecycle hook, so that it ends
    #[arg(long, value_name = "HOOK", help_heading = "Auto Scaling")]
    complete_lifecycle: Option<String>,
}

impl AsgFlags {
    pub(in crate::commands::discover) fn set(&self, base: &str, flags: Flags) -> Flags {
        let Self {
            interval,
            port,
            port_tag,
            instance_address,
            serve_unhealthy,
            complete_lifecycle,
        } = self;
        flags.all(
            base,
            named![interval, port, port_tag, instance_address, serve_unhealthy, complete_lifecycle],
        )
    }
}
