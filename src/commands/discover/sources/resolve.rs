use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::SourceOptions;
use crate::commands::discover::plan::Family;
use crate::config::choice_setting;
use crate::model::ServerAddress;

/// How long one question may take, with all tries: a name whose server is silent must not hold up
/// the others.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// After this time without an answer a question is asked again.
const TRY_FOR: Duration = Duration::from_secs(2);

/// A time to live of 0 must not make a flood of questions, and one of a week must not blind us.
pub const TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(300);

/// How soon what could not be read is asked for again, where something else could.
pub const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Which addresses of a host are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Resolve {
    /// Its IPv4 addresses; the IPv6 ones of a host that has no other
    Ipv4,
    /// Its IPv6 addresses; the IPv4 ones of a host that has no other
    Ipv6,
    /// All
    Both,
}

choice_setting!(Resolve);

/// What was read and how long it holds.
pub type Timed<T> = Result<(T, Duration), String>;

/// Asks for names.
#[derive(Debug)]
pub struct Lookup {
    resolver: TokioResolver,
    resolve: Resolve,
}

/// The addresses of a host: one or more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// In their order.
    pub addresses: BTreeSet<IpAddr>,
    /// The families that could not be asked for, each with the reason.
    pub unread: Vec<(Family, String)>,
    /// Addresses that no server can have, each in a sentence.
    pub notes: Vec<String>,
}

impl Host {
    /// Whether it is known to have addresses of both families.
    pub fn is_dual(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4) && self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

impl Lookup {
    /// For one look: `/etc/resolv.conf` may be another one at the next.
    pub fn new(options: &SourceOptions) -> Result<Self, String> {
        let resolver = resolver(options.dns_server).map_err(|error| error.to_string())?;
        Ok(Self { resolver, resolve: options.resolve.unwrap_or(Resolve::Both) })
    }

    /// For names that have to lead to one address each: IPv4 comes first where nothing is set.
    pub fn of_one_family(options: &SourceOptions) -> Result<Self, String> {
        let lookup = Self::new(options)?;
        let resolve = match lookup.resolve {
            Resolve::Both | Resolve::Ipv4 => Resolve::Ipv4,
            Resolve::Ipv6 => Resolve::Ipv6,
        };
        Ok(Self { resolve, ..lookup })
    }

    /// The addresses of a host, as far as they can be read. A name that has none is an error:
    /// nobody takes a service down by deleting its addresses.
    pub async fn host(&self, name: &str) -> Timed<Host> {
        match self.resolve {
            Resolve::Both => self.both(name).await,
            Resolve::Ipv4 => self.either(name, [RecordType::A, RecordType::AAAA]).await,
            Resolve::Ipv6 => self.either(name, [RecordType::AAAA, RecordType::A]).await,
        }
    }

    async fn both(&self, name: &str) -> Timed<Host> {
        let (v4, v6) =
            tokio::join!(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        let (v4, v6, unread) = match (v4, v6) {
            (Ok(v4), Ok(v6)) => (v4, v6, None),
            (Ok(v4), Err(why)) if !v4.0.is_empty() => {
                (v4, (Vec::new(), AGAIN_AFTER), Some((Family::Ipv6, why)))
            }
            (Err(why), Ok(v6)) if !v6.0.is_empty() => {
                ((Vec::new(), AGAIN_AFTER), v6, Some((Family::Ipv4, why)))
            }
            (Err(why), _) | (_, Err(why)) => return Err(why),
        };
        let host = self.read(name, v4.0.iter().chain(&v6.0))?;
        Ok((Host { unread: unread.into_iter().collect(), ..host }, v4.1.min(v6.1)))
    }

    /// The second type is asked for where the name exists and has nothing of the first: an error
    /// says nothing of what a host has.
    async fn either(&self, name: &str, [first, second]: [RecordType; 2]) -> Timed<Host> {
        let (mut records, mut ttl) = self.records(name, first).await?;
        if records.is_empty() {
            let other = self.records(name, second).await?;
            (records, ttl) = (other.0, other.1.min(ttl));
        }
        Ok((self.read(name, records.iter())?, ttl))
    }

    fn read<'a>(
        &self,
        name: &str,
        records: impl Iterator<Item = &'a RData>,
    ) -> Result<Host, String> {
        let mut host = Host::default();
        for ip in records.filter_map(RData::ip_addr) {
            match ServerAddress::check_ip(ip) {
                Ok(ip) => _ = host.addresses.insert(ip),
                Err(error) => host.notes.push(format!("{name}: {error}")),
            }
        }
        match (host.addresses.is_empty(), host.notes.is_empty()) {
            (false, _) => Ok(host),
            (true, true) => Err(format!("{name} has neither A nor AAAA records")),
            (true, false) => Err(host.notes.join("; ")),
        }
    }

    /// The records of one type. A name that exists without any gives none; all else is an error.
    pub async fn records(&self, name: &str, record_type: RecordType) -> Timed<Vec<RData>> {
        let lookup = self.resolver.lookup(name, record_type);
        let Ok(answer) = tokio::time::timeout(ANSWER_WITHIN, lookup).await else {
            let limit = ANSWER_WITHIN.as_secs();
            return Err(format!("{name} {record_type}: no answer within {limit} s"));
        };
        match answer {
            Ok(lookup) => {
                let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                let wanted = lookup.answers().iter().filter(|r| r.record_type() == record_type);
                let data = wanted.map(|record| record.data.clone()).collect();
                Ok((data, Duration::from_secs(ttl.into())))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if none.response_code == ResponseCode::NoError =>
            {
                // The other family's answer decides; alone it says nothing for long.
                let ttl = none.negative_ttl.map_or(*TTL.end(), |s| Duration::from_secs(s.into()));
                Ok((Vec::new(), ttl))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                Err(format!("{name} {record_type}: {}", none.response_code))
            }
            Err(error) => Err(format!("{name} {record_type}: {error}")),
        }
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => Resolver::builder_tokio()?,
        Some(server) => {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            let port = |connection: &mut ConnectionConfig| connection.port = server.port();
            config.connections.iter_mut().for_each(port);
            let config = ResolverConfig::from_name_servers(vec![config]);
            Resolver::builder_with_config(config, Default::default())
        }
    };
    let options = builder.options_mut();
    // Every look asks anew; how often is for the source to decide.
    options.cache_size = 0;
    options.timeout = options.timeout.min(TRY_FOR);
    builder.build()
}
