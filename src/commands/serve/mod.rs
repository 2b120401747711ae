//! `lbctl serve`: the socketz server.

mod advertise;
mod clients;
mod cluster;
mod connection;
mod driver;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod protocol;
mod proxy;
mod server;
mod settings;

use crate::config::{Effective, Flags, Globals, named};
use crate::daemon::{self, DaemonArgs, Reload};
use crate::error::CommandResult;

pub(crate) use settings::Settings;

/// Run the TCP demo server: WHO, WHERE, WHY and QUIT, one command a line
///
/// Commands work in any letter case. WHO lists the clients of this server and counts those of all
/// servers that share the store; WHERE answers this server's id; WHY answers 42. A connection is a
/// client at its first byte, or once it has stayed for 250 ms: a load balancer's health probe,
/// which connects and closes, is none.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Listen on this address or host name; :: for IPv6 and IPv4 [default: 0.0.0.0]
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,

    /// Listen on this port; 0 for a free one [default: 5151]
    #[arg(short, long, value_name = "PORT")]
    port: Option<String>,

    /// What WHERE answers, and the registration's name [default: a random UUID]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,

    /// Register this server in a backend for as long as it lives
    #[arg(long, value_name = "BACKEND")]
    register: Option<String>,

    /// The address that load balancers connect to [default: the one listened on; for 0.0.0.0 this
    /// host's own, which is 127.0.0.1 with an embedded store]
    #[arg(long, value_name = "IP[:PORT]")]
    advertise: Option<String>,

    /// The weight to ramp up to, 0 to 256 [default: the ramp's max]
    #[arg(long, value_name = "WEIGHT")]
    weight: Option<String>,

    /// The group to register with
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// The zone to register with
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,

    /// How long the registration and the client count outlive a killed server [default: 10s]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// Refuse connections beyond this many, with a sentence [default: 20000, or fewer
    /// where the limit of open files is lower]
    #[arg(long, value_name = "N")]
    max_clients: Option<String>,

    /// Close a client that sends nothing for this long; 0 for never [default: 10m]
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<String>,

    /// Drop a client within this long when its host is gone or cut off without a word, or when it
    /// leaves an answer unread for it [default: 1m]
    #[arg(long, value_name = "DURATION")]
    keepalive: Option<String>,

    /// Demand a PROXY protocol header, version 1 or 2, so that WHO shows the real clients
    #[arg(long)]
    proxy_protocol: bool,

    #[command(flatten)]
    daemon: DaemonArgs,
}

const EXAMPLES: &str = "\
Examples:
  lbctl serve                                   # on every address, port 5151
  printf 'WHO\\nQUIT\\n' | nc 127.0.0.1 5151
  lbctl serve -p 5152 --id b --register web     # behind a load balancer, in the backend web
  lbctl serve --register web --advertise 10.0.0.5 --proxy-protocol";

/// What a SIGHUP does not change.
const FIXED: &[&str] = &[
    "store",
    "log.format",
    "serve.host",
    "serve.port",
    "serve.id",
    "serve.register",
    "serve.advertise",
    "serve.weight",
    "serve.group",
    "serve.zone",
    "serve.ttl",
    "serve.keepalive",
    "serve.proxy-protocol",
    "serve.admin",
    "serve.admin-hosts",
    "serve.shutdown-grace",
];

impl Args {
    pub async fn run(self, globals: &Globals) -> CommandResult {
        let (globals, flags) = (globals.clone(), self.flags());
        let (settings, reload) = Reload::start(FIXED, move || read(&globals, flags.clone()))?;
        let options = settings.daemon.clone();
        let body = |context| driver::serve(settings, context, reload);
        Box::pin(daemon::run("serve", options, body)).await
    }

    fn flags(self) -> Flags {
        let Self {
            host,
            port,
            id,
            register,
            advertise,
            weight,
            group,
            zone,
            ttl,
            max_clients,
            idle_timeout,
            keepalive,
            proxy_protocol,
            daemon,
        } = self;
        let flags = Flags::new().all(
            "serve",
            named![
                host,
                port,
                id,
                register,
                advertise,
                weight,
                group,
                zone,
                ttl,
                max_clients,
                idle_timeout,
                keepalive,
                proxy_protocol
            ],
        );
        daemon.flags("serve", flags)
    }
}

fn read(globals: &Globals, flags: Flags) -> CommandResult<(Settings, Vec<Effective>)> {
    let mut reader = globals.reader(flags)?;
    let settings = Settings::read(&mut reader);
    Ok((settings, reader.finish()?))
}
