use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::scale::Scale;
use super::{SourceContext, Teller};
use crate::daemon::Backoff;
use crate::discover::plan::Answer;
use crate::model::{Endpoint, Label, ServerAddress, Weight};

/// How long one look may take, however many names it asks for.
const DEADLINE: Duration = Duration::from_secs(10);

/// A time to live of 0 must not make a flood of questions, and one of a week must not blind us.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// How many names of one SRV answer are asked for at a time.
const AT_ONCE: usize = 8;

/// A name to look up: with a port its A and AAAA records, without one its SRV records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName {
    pub name: String,
    pub port: Option<u16>,
}

impl FromStr for DnsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((name, port)) => match port.parse() {
                Ok(port) if port > 0 => (name, Some(port)),
                _ => return Err(format!("{port:?} is not a port from 1 to 65535")),
            },
        };
        if name.is_empty() {
            return Err("the name to look up is empty: use dns:NAME[:PORT]".into());
        }
        Ok(Self { name: name.to_owned(), port })
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Looks a name up again whenever the answer's time to live ends.
pub(super) async fn run(name: DnsName, context: SourceContext, teller: Teller) {
    let mut backoff = Backoff::new(*TTL.start(), Duration::from_secs(15));
    loop {
        // A new resolver each time: `/etc/resolv.conf` may have changed.
        let look = tokio::time::timeout(DEADLINE, look(&name, &context)).await;
        let look =
            look.unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())));
        let wait = match &look {
            Ok((_, ttl)) => (*ttl).clamp(*TTL.start(), *TTL.end()),
            Err(_) => backoff.next_wait(),
        };
        teller.tell(look.map(|(answer, _)| answer).map_err(|error| format!("dns:{name}: {error}")));
        tokio::time::sleep(wait).await;
    }
}

/// A look's answer and how long it holds.
type Seen<T> = Result<(T, Duration), String>;

async fn look(name: &DnsName, context: &SourceContext) -> Seen<Answer> {
    let resolver = resolver(context.options.dns_server).map_err(|error| error.to_string())?;
    let (mut endpoints, ttl) = match name.port {
        Some(port) => {
            let (addresses, ttl) = addresses(&resolver, &name.name).await?;
            (endpoints(&addresses, port, None, None)?, ttl)
        }
        None => services(&resolver, &name.name, context.max_weight).await?,
    };
    // The order of records means nothing: resolvers shuffle them. The greater weight of two equal
    // addresses counts.
    endpoints.sort_by_key(|e| (e.address, std::cmp::Reverse(e.weight)));
    endpoints.dedup_by_key(|e| e.address);
    Ok((Answer::of(endpoints), ttl))
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
    // Every look asks anew; how often is decided above.
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// All addresses of a name, of both families. A name that has none is an error: nobody takes a
/// service down by deleting its addresses.
async fn addresses(resolver: &TokioResolver, name: &str) -> Seen<Vec<IpAddr>> {
    let (v4, v6) = tokio::join!(
        records(resolver, name, RecordType::A),
        records(resolver, name, RecordType::AAAA)
    );
    let ((v4, ttl4), (v6, ttl6)) = (v4?, v6?);
    let addresses: Vec<IpAddr> = v4.iter().chain(&v6).filter_map(RData::ip_addr).collect();
    match addresses.is_empty() {
        true => Err(format!("{name} has neither A nor AAAA records")),
        false => Ok((addresses, ttl4.min(ttl6))),
    }
}

/// The endpoints of a name's SRV records (RFC 2782), of the lowest priority: those are to be used
/// while one of them can be reached, which is the load balancer's business.
async fn services(resolver: &TokioResolver, name: &str, max: Weight) -> Seen<Vec<Endpoint>> {
    let (records, ttl) = records(resolver, name, RecordType::SRV).await?;
    let services = records.into_iter().filter_map(|data| match data {
        RData::SRV(service) => Some(service),
        _ => None,
    });
    let mut services: Vec<SRV> = services.collect();
    if services.is_empty() {
        return Err(format!("{name} has no SRV records: give a port for its A and AAAA records"));
    }
    let first = services.iter().map(|service| service.priority).min();
    services.retain(|service| Some(service.priority) == first);
    // A target of "." says that the service is not there.
    services.retain(|service| !service.target.is_root());
    let scale = Scale::of(services.iter().map(|service| service.weight), max);
    let looks = services.into_iter().map(|service| async move {
        let target = service.target.to_utf8();
        let (addresses, ttl) = addresses(resolver, &target).await?;
        let weight = scale.weight(service.weight);
        let label = target.trim_end_matches('.').parse().ok();
        Ok::<_, String>((endpoints(&addresses, service.port, label, weight)?, ttl))
    });
    let found: Vec<(Vec<Endpoint>, Duration)> =
        stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    let ttl = found.iter().map(|(_, ttl)| *ttl).fold(ttl, Duration::min);
    Ok((found.into_iter().flat_map(|(endpoints, _)| endpoints).collect(), ttl))
}

fn endpoints(
    addresses: &[IpAddr],
    port: u16,
    name: Option<Label>,
    weight: Option<Weight>,
) -> Result<Vec<Endpoint>, String> {
    let endpoint = |ip: &IpAddr| {
        let address = ServerAddress::new(*ip, port).map_err(|error| error.to_string())?;
        // DNS knows no better identity than the address.
        let id = address.to_string().parse().map_err(|e: crate::model::NameError| e.to_string())?;
        let (group, zone, leaving) = (None, None, false);
        Ok(Endpoint { id, address, name: name.clone(), group, zone, weight, leaving })
    };
    addresses.iter().map(endpoint).collect()
}

/// The records of one type. A name that exists without any gives none; all else is an error.
async fn records(
    resolver: &TokioResolver,
    name: &str,
    record_type: RecordType,
) -> Seen<Vec<RData>> {
    match resolver.lookup(name, record_type).await {
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
            Ok((
                Vec::new(),
                none.negative_ttl.map_or(*TTL.end(), |s| Duration::from_secs(s.into())),
            ))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            Err(format!("{name} {record_type}: {}", none.response_code))
        }
        Err(error) => Err(format!("{name} {record_type}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use hickory_resolver::proto::op::{Message, MessageType, OpCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::daemon::{OwnedTask, spawn_owned};
    use crate::discover::sources::SourceOptions;
    use crate::store::MemoryStore;

    /// What the server answers to a name and type; nothing: NOERROR without records.
    type Zone = BTreeMap<(&'static str, RecordType), Result<Vec<RData>, ResponseCode>>;

    /// A DNS server on loopback.
    struct Server {
        address: SocketAddr,
        zone: Arc<Mutex<Zone>>,
        asked: Arc<Mutex<u32>>,
        ttl: u32,
        _task: OwnedTask<()>,
    }

    impl Server {
        async fn start(zone: Zone, ttl: u32) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let (zone, asked) = (Arc::new(Mutex::new(zone)), Arc::new(Mutex::new(0)));
            let task = spawn_owned(serve(socket, zone.clone(), asked.clone(), ttl));
            Self { address, zone, asked, ttl, _task: task }
        }

        async fn look(&self, name: &str) -> Seen<Answer> {
            look(&name.parse().unwrap(), &self.context()).await
        }

        fn context(&self) -> SourceContext {
            SourceContext {
                store: Arc::new(MemoryStore::new()),
                backend: "web".parse().unwrap(),
                look_every: Duration::from_secs(5),
                max_weight: Weight::saturating(100),
                options: SourceOptions {
                    dns_server: Some(self.address),
                    ..SourceOptions::default()
                },
            }
        }
    }

    async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>, asked: Arc<Mutex<u32>>, ttl: u32) {
        let mut buffer = [0; 4096];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..len]).unwrap();
            *asked.lock().unwrap() += 1;
            let reply = reply(&question, &zone.lock().unwrap(), ttl);
            socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    }

    fn reply(question: &Message, zone: &Zone, ttl: u32) -> Message {
        let query = question.queries[0].clone();
        let (name, kind) = (query.name().clone(), query.query_type());
        let text = name.to_utf8().trim_end_matches('.').to_owned();
        let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_query(query);
        let found = zone.iter().find(|((n, k), _)| *n == text && *k == kind);
        match found.map(|(_, found)| found.clone()).unwrap_or(Ok(Vec::new())) {
            Ok(data) => {
                let records = data.into_iter().map(|d| Record::from_rdata(name.clone(), ttl, d));
                reply.add_answers(records.collect::<Vec<_>>());
            }
            Err(code) => reply.metadata.response_code = code,
        }
        reply
    }

    fn a(ip: &str) -> RData {
        RData::A(A(ip.parse().unwrap()))
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
        RData::SRV(SRV::new(priority, weight, port, Name::from_utf8(target).unwrap()))
    }

    fn addresses_of(answer: &Answer) -> Vec<String> {
        answer.endpoints.values().map(|e| e.address.to_string()).collect()
    }

    #[tokio::test]
    async fn a_port_takes_all_addresses_of_both_families() {
        let zone = Zone::from([
            (("web.test", RecordType::A), Ok(vec![a("10.0.0.2"), a("10.0.0.1"), a("10.0.0.2")])),
            (
                ("web.test", RecordType::AAAA),
                Ok(vec![RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))]),
            ),
        ]);
        let server = Server::start(zone, 7).await;
        let (answer, ttl) = server.look("web.test.:80").await.unwrap();
        assert_eq!(addresses_of(&answer), ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"]);
        assert_eq!(ttl, Duration::from_secs(u64::from(server.ttl)));
    }

    #[tokio::test]
    async fn one_family_that_fails_is_an_error_and_none_at_all_too() {
        let zone = Zone::from([
            (("half.test", RecordType::A), Ok(vec![a("10.0.0.1")])),
            (("half.test", RecordType::AAAA), Err(ResponseCode::ServFail)),
            (("gone.test", RecordType::A), Err(ResponseCode::NXDomain)),
            (("gone.test", RecordType::AAAA), Err(ResponseCode::NXDomain)),
            (("multicast.test", RecordType::A), Ok(vec![a("224.0.0.1")])),
        ]);
        let server = Server::start(zone, 7).await;
        for (name, says) in [
            ("half.test.:80", "AAAA"),
            ("gone.test.:80", "Non-Existent Domain"),
            ("bare.test.:80", "neither A nor AAAA"),
            ("multicast.test.:80", "224.0.0.1"),
            ("bare.test.", "no SRV records"),
        ] {
            let error = server.look(name).await.unwrap_err();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn srv_gives_ports_and_scaled_weights_of_the_lowest_priority() {
        let services = vec![
            srv(2, 100, 80, "spare.test."),
            srv(1, 10, 8002, "b.test."),
            srv(1, 40, 8001, "a.test."),
            srv(1, 0, 8003, "b.test."),
        ];
        let zone = Zone::from([
            (("_http._tcp.test", RecordType::SRV), Ok(services)),
            (("a.test", RecordType::A), Ok(vec![a("10.0.0.1")])),
            (("b.test", RecordType::A), Ok(vec![a("10.0.0.2")])),
            (("spare.test", RecordType::A), Ok(vec![a("10.0.0.3")])),
        ]);
        let server = Server::start(zone, 7).await;
        let (answer, _) = server.look("_http._tcp.test.").await.unwrap();
        let seen: Vec<_> = answer
            .endpoints
            .values()
            .map(|e| (e.address.to_string(), e.weight.unwrap().get(), e.name.clone().unwrap()))
            .map(|(address, weight, name)| (address, weight, name.to_string()))
            .collect();
        let expected = [
            ("10.0.0.1:8001", 100, "a.test"),
            ("10.0.0.2:8002", 25, "b.test"),
            ("10.0.0.2:8003", 1, "b.test"),
        ];
        assert_eq!(seen, expected.map(|(a, w, n)| (a.to_owned(), w, n.to_owned())));
        server.zone.lock().unwrap().insert(("b.test", RecordType::A), Err(ResponseCode::ServFail));
        server.look("_http._tcp.test.").await.unwrap_err();
    }

    #[tokio::test]
    async fn a_look_is_repeated_when_the_time_to_live_is_over_and_not_before() {
        let zone = Zone::from([(("web.test", RecordType::A), Ok(vec![a("10.0.0.1")]))]);
        let server = Server::start(zone, 2).await;
        let spec = "dns:web.test.:80".parse().unwrap();
        let mut source = super::super::Source::start(spec, server.context());
        let first = source.next().await.unwrap();
        assert_eq!(addresses_of(first.result.as_ref().unwrap()), ["10.0.0.1:80"]);
        let asked = *server.asked.lock().unwrap();
        server.zone.lock().unwrap().insert(("web.test", RecordType::A), Ok(vec![a("10.0.0.9")]));
        let second = source.next().await.unwrap();
        assert_eq!(addresses_of(second.result.as_ref().unwrap()), ["10.0.0.9:80"]);
        assert!(second.at - first.at >= Duration::from_secs(2), "{:?}", second.at - first.at);
        assert_eq!(*server.asked.lock().unwrap(), asked * 2);
    }
}
