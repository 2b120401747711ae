use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::{Instant, timeout_at};

use super::resolve::{AGAIN_AFTER, Host, Lookup, TTL, Timed};
use super::scale::Scale;
use super::{SourceContext, Teller};
use crate::commands::discover::plan::{Answer, Servers};
use crate::daemon::Backoff;
use crate::model::{Endpoint, Label, ServerAddress, Weight};

/// How long the targets of one SRV answer may take, however many there are.
const TARGETS_WITHIN: Duration = Duration::from_secs(10);

/// How many targets an error names, where none can be read.
const MAX_NAMED: usize = 3;

/// How many targets are asked for at a time.
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
        let look = look(&name, &context).await;
        let wait = match &look {
            Ok((_, ttl)) => (*ttl).clamp(*TTL.start(), *TTL.end()),
            Err(_) => backoff.next_wait(),
        };
        teller.tell(look.map(|(answer, _)| answer).map_err(|error| format!("dns:{name}: {error}")));
        tokio::time::sleep(wait).await;
    }
}

async fn look(name: &DnsName, context: &SourceContext) -> Timed<Answer> {
    let lookup = Lookup::new(&context.options)?;
    let mut seen = Members::default();
    let ttl = match name.port {
        Some(port) => {
            let (host, ttl) = lookup.host(&name.name).await?;
            seen.take(&host, port, &Servers::default(), None);
            ttl
        }
        None => seen.services(&lookup, &name.name, context.max_weight).await?,
    };
    if context.options.resolve.is_none() {
        seen.note_dual();
    }
    let mut answer = seen.answer();
    answer.notes.iter_mut().for_each(|note| *note = format!("dns:{name}: {note}"));
    Ok((answer, ttl))
}

/// What the members of an answer are, as far as they can be read.
#[derive(Debug, Default)]
struct Members {
    endpoints: Vec<Endpoint>,
    unread: BTreeSet<Servers>,
    notes: Vec<String>,
    /// How many hosts have addresses of both families.
    dual: usize,
}

impl Members {
    /// The endpoints of a name's SRV records (RFC 2782), of the lowest priority: those are to be
    /// used while one of them can be reached, which is the load balancer's business. A target that
    /// cannot be read is left as it is, and is an error only where there is no other.
    async fn services(
        &mut self,
        lookup: &Lookup,
        name: &str,
        max: Weight,
    ) -> Result<Duration, String> {
        let (records, ttl) = lookup.records(name, RecordType::SRV).await?;
        let services = of_first_priority(records);
        if services.is_empty() {
            return Err(format!(
                "{name} has no SRV records: give a port for its A and AAAA records"
            ));
        }
        // A target of "." says that the service is not there.
        let services: Vec<SRV> =
            services.into_iter().filter(|service| !service.target.is_root()).collect();
        let scale = Scale::of(services.iter().map(|service| service.weight), max);
        let (mut ttl, mut errors) = (ttl, Vec::new());
        for (service, host) in hosts(lookup, services).await {
            let target = service.target.to_utf8();
            let target = target.trim_end_matches('.');
            // One whose name is no label cannot be told from others.
            let of_it = Servers { name: target.parse().ok(), ..Servers::default() };
            match host {
                Ok((host, holds)) => {
                    self.take(&host, service.port, &of_it, scale.weight(service.weight));
                    ttl = ttl.min(holds);
                }
                Err(error) => {
                    self.leave(of_it, target, &error);
                    errors.push(error);
                }
            }
        }
        if self.endpoints.is_empty() && !self.unread.is_empty() {
            errors.truncate(MAX_NAMED);
            return Err(errors.join("; "));
        }
        Ok(if self.unread.is_empty() { ttl } else { ttl.min(AGAIN_AFTER) })
    }

    /// Takes in a host's addresses; those of a family that could not be read stay as they are.
    fn take(&mut self, host: &Host, port: u16, of_it: &Servers, weight: Option<Weight>) {
        for ip in &host.addresses {
            match endpoint(*ip, port, of_it.name.as_ref(), weight) {
                Ok(endpoint) => self.endpoints.push(endpoint),
                Err(error) => self.leave(of_it.clone(), "this record", &error),
            }
        }
        for (family, error) in &host.unread {
            let servers = Servers { family: Some(*family), ..of_it.clone() };
            self.leave(servers, "this family", error);
        }
        self.notes.extend(host.notes.iter().cloned());
        self.dual += usize::from(host.is_dual());
    }

    fn leave(&mut self, servers: Servers, whose: &str, why: &str) {
        self.unread.insert(servers);
        self.notes.push(format!("{why}: the servers of {whose} stay as they are"));
    }

    fn note_dual(&mut self) {
        if self.dual > 0 {
            self.notes.push(
                "hosts with an IPv4 and an IPv6 address take a slot for each: \
                 resolve = \"ipv4\" or \"ipv6\" takes one family"
                    .to_owned(),
            );
        }
    }

    /// The order of records means nothing: resolvers shuffle them. The greater weight of two equal
    /// addresses counts.
    fn answer(mut self) -> Answer {
        self.endpoints.sort_by(|a, b| {
            let key = |e: &Endpoint| (e.address, Reverse(e.weight));
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        self.endpoints.dedup_by_key(|endpoint| endpoint.address);
        self.notes.sort();
        self.notes.dedup();
        let mut answer = Answer::of(self.endpoints);
        (answer.unread, answer.notes) = (self.unread, self.notes);
        answer
    }
}

fn of_first_priority(records: Vec<RData>) -> Vec<SRV> {
    let services = records.into_iter().filter_map(|data| match data {
        RData::SRV(service) => Some(service),
        _ => None,
    });
    let mut services: Vec<SRV> = services.collect();
    let first = services.iter().map(|service| service.priority).min();
    services.retain(|service| Some(service.priority) == first);
    services
}

/// Each service with its target's addresses.
async fn hosts(lookup: &Lookup, services: Vec<SRV>) -> Vec<(SRV, Timed<Host>)> {
    let deadline = Instant::now() + TARGETS_WITHIN;
    let looks = services.into_iter().map(|service| async move {
        let target = service.target.to_utf8();
        let host = timeout_at(deadline, lookup.host(&target)).await;
        let late = |_| Err(format!("{target}: no answer in time"));
        (service, host.unwrap_or_else(late))
    });
    stream::iter(looks).buffer_unordered(AT_ONCE).collect().await
}

fn endpoint(
    ip: std::net::IpAddr,
    port: u16,
    name: Option<&Label>,
    weight: Option<Weight>,
) -> Result<Endpoint, String> {
    let address = ServerAddress::new(ip, port).map_err(|error| error.to_string())?;
    // DNS knows no better identity than the address.
    let id = address.to_string().parse().map_err(|e: crate::model::NameError| e.to_string())?;
    let (group, zone, leaving) = (None, None, false);
    Ok(Endpoint { id, address, name: name.cloned(), group, zone, weight, leaving })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::commands::discover::plan::Family;
    use crate::commands::discover::shared::Shared;
    use crate::commands::discover::sources::{Resolve, SourceOptions};
    use crate::daemon::{OwnedTask, spawn_owned};
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

        async fn look(&self, name: &str) -> Timed<Answer> {
            look(&name.parse().unwrap(), &self.context()).await
        }

        fn context(&self) -> SourceContext {
            SourceContext {
                shared: Shared::new(Arc::new(MemoryStore::new()), 1, Duration::from_secs(10)),
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
            (("web.test", RecordType::AAAA), Ok(vec![aaaa("2001:db8::1")])),
        ]);
        let server = Server::start(zone, 7).await;
        let (answer, ttl) = server.look("web.test.:80").await.unwrap();
        assert_eq!(addresses_of(&answer), ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"]);
        assert_eq!(ttl, Duration::from_secs(u64::from(server.ttl)));
    }

    fn aaaa(ip: &str) -> RData {
        RData::AAAA(AAAA(ip.parse().unwrap()))
    }

    #[tokio::test]
    async fn a_name_without_any_address_is_an_error() {
        let zone = Zone::from([
            (("gone.test", RecordType::A), Err(ResponseCode::NXDomain)),
            (("gone.test", RecordType::AAAA), Err(ResponseCode::NXDomain)),
            (("empty.test", RecordType::AAAA), Err(ResponseCode::ServFail)),
            (("multicast.test", RecordType::A), Ok(vec![a("224.0.0.1")])),
        ]);
        let server = Server::start(zone, 7).await;
        for (name, says) in [
            ("gone.test.:80", "Non-Existent Domain"),
            ("empty.test.:80", "AAAA"),
            ("bare.test.:80", "neither A nor AAAA"),
            ("multicast.test.:80", "224.0.0.1"),
            ("bare.test.", "no SRV records"),
        ] {
            let error = server.look(name).await.unwrap_err();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn one_family_that_fails_and_one_address_that_is_none_spoil_no_other() {
        let good = Ok(vec![a("10.0.0.1"), a("0.0.0.0")]);
        let zone = Zone::from([
            (("half.test", RecordType::A), good),
            (("half.test", RecordType::AAAA), Err(ResponseCode::ServFail)),
            (("other.test", RecordType::A), Err(ResponseCode::ServFail)),
            (("other.test", RecordType::AAAA), Ok(vec![aaaa("2001:db8::8")])),
        ]);
        let server = Server::start(zone, 7).await;
        for (name, address, family) in [
            ("half.test.:80", "10.0.0.1:80", Family::Ipv6),
            ("other.test.:80", "[2001:db8::8]:80", Family::Ipv4),
        ] {
            let (answer, ttl) = server.look(name).await.unwrap();
            assert_eq!(addresses_of(&answer), [address]);
            let unread = Servers { family: Some(family), ..Servers::default() };
            assert_eq!((answer.unread, ttl), ([unread].into(), AGAIN_AFTER));
            let notes = answer.notes.join("; ");
            assert!(
                notes.contains("Server Failure") && notes.contains("stay as they are"),
                "{notes}"
            );
            assert_eq!(notes.contains("0.0.0.0"), name.starts_with("half"), "{notes}");
        }
    }

    #[tokio::test]
    async fn a_host_of_both_families_takes_a_slot_for_each_or_for_the_one_that_is_wanted() {
        let v6 = || Ok(vec![aaaa("2001:db8::1")]);
        let zone = Zone::from([
            (("dual.test", RecordType::A), Ok(vec![a("10.0.0.1")])),
            (("dual.test", RecordType::AAAA), v6()),
            (("six.test", RecordType::AAAA), v6()),
            (("gslb.test", RecordType::A), Ok(vec![a("10.0.0.1")])),
            (("gslb.test", RecordType::AAAA), Err(ResponseCode::ServFail)),
        ]);
        let server = Server::start(zone, 7).await;
        let look = async |name: &str, resolve| {
            let mut context = server.context();
            context.options.resolve = resolve;
            look(&name.parse().unwrap(), &context).await
        };
        let (v4, v6) = ("10.0.0.1:80", "[2001:db8::1]:80");
        for (name, resolve, expected) in [
            ("dual.test.:80", Some(Resolve::Ipv4), vec![v4]),
            ("dual.test.:80", Some(Resolve::Ipv6), vec![v6]),
            ("dual.test.:80", Some(Resolve::Both), vec![v4, v6]),
            ("six.test.:80", Some(Resolve::Ipv4), vec![v6]),
            ("gslb.test.:80", Some(Resolve::Ipv4), vec![v4]),
        ] {
            let (answer, _) = look(name, resolve).await.unwrap();
            assert_eq!(addresses_of(&answer), expected, "{name} {resolve:?}");
            assert!(answer.notes.is_empty() && answer.unread.is_empty(), "{answer:?}");
        }
        // An error is not the same as having none.
        look("gslb.test.:80", Some(Resolve::Ipv6)).await.unwrap_err();
        let (unsaid, _) = look("dual.test.:80", None).await.unwrap();
        assert_eq!(addresses_of(&unsaid), [v4, v6]);
        assert!(unsaid.notes[0].contains("resolve = \"ipv4\""), "{:?}", unsaid.notes);
    }

    #[tokio::test]
    async fn a_target_that_cannot_be_read_is_left_as_it_is_and_holds_up_no_other() {
        let services = ["a", "gone", "broken"].map(|n| srv(1, 1, 80, &format!("{n}.test.")));
        let dead = vec![srv(1, 1, 80, "gone.test."), srv(1, 1, 80, "broken.test.")];
        let zone = Zone::from([
            (("_http._tcp.test", RecordType::SRV), Ok(services.to_vec())),
            (("_dead._tcp.test", RecordType::SRV), Ok(dead)),
            (("a.test", RecordType::A), Ok(vec![a("10.0.0.1")])),
            (("gone.test", RecordType::A), Err(ResponseCode::NXDomain)),
            (("gone.test", RecordType::AAAA), Err(ResponseCode::NXDomain)),
            (("broken.test", RecordType::A), Err(ResponseCode::ServFail)),
            (("broken.test", RecordType::AAAA), Err(ResponseCode::ServFail)),
        ]);
        let server = Server::start(zone, 7).await;
        let (answer, ttl) = server.look("_http._tcp.test.").await.unwrap();
        assert_eq!((addresses_of(&answer), ttl), (vec!["10.0.0.1:80".to_owned()], AGAIN_AFTER));
        let of = |name: &str| Servers { name: Some(name.parse().unwrap()), ..Servers::default() };
        assert_eq!(answer.unread, [of("gone.test"), of("broken.test")].into());
        let notes = answer.notes.join("; ");
        for says in ["the servers of gone.test stay", "the servers of broken.test stay"] {
            assert!(notes.contains(says), "{notes}");
        }
        let error = server.look("_dead._tcp.test.").await.unwrap_err();
        assert!(error.contains("gone.test") && error.contains("broken.test"), "{error}");
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
