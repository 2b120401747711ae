use super::connection::Connection;
use super::parse::{self, Rows};
use super::{Error, Observed, ObservedServer, ParseError, RejectionKind, Result, SocketAddress};
use crate::model::BackendName;

/// Reads the process and the servers of `backends`, with or without their live sessions.
pub(super) async fn state(
    connection: &mut Connection,
    backends: &[BackendName],
    with_sessions: bool,
) -> Result<Observed> {
    let address = connection.address().clone();
    let replies = connection.ask(&state_queries(backends)).await?;
    let (mut observed, proxies) = read_state(&address, backends, &replies)?;
    if with_sessions {
        let replies = connection.ask(&session_queries(&proxies)).await?;
        read_sessions(&address, &mut observed, &proxies, &replies)?;
    }
    Ok(observed)
}

/// `show info` and one `show servers state` a backend.
fn state_queries(backends: &[BackendName]) -> Vec<String> {
    let servers = backends.iter().map(|backend| format!("show servers state {backend}"));
    std::iter::once("show info".to_owned()).chain(servers).collect()
}

/// Reads the replies to [`state_queries`], and the proxy id of each backend that has servers.
pub(super) fn read_state(
    address: &SocketAddress,
    backends: &[BackendName],
    replies: &[String],
) -> Result<(Observed, Vec<Proxy>)> {
    let queries = state_queries(backends);
    let mut answers =
        queries.iter().zip(replies).map(|(query, reply)| Answer { address, query, reply });
    let info = answers.next().unwrap_or(Answer { address, query: "show info", reply: "" });
    let process = info.read(parse::process)?;
    let mut observed = Observed { process, backends: Default::default() };
    let mut proxies = Vec::new();
    for (backend, answer) in backends.iter().zip(answers) {
        if RejectionKind::of(answer.reply) == Some(RejectionKind::NoSuchBackend) {
            continue;
        }
        let Rows { proxy, servers } = answer.read(parse::servers)?;
        observed.backends.insert(backend.to_string(), servers);
        proxies.extend(proxy.map(|id| Proxy { id, backend: backend.to_string() }));
    }
    Ok((observed, proxies))
}

/// A backend under the number that `show stat` takes: a name could be a frontend's too.
#[derive(Debug)]
pub(super) struct Proxy {
    id: u32,
    backend: String,
}

/// One `show stat` a backend. Type 4 is servers.
pub(super) fn session_queries(proxies: &[Proxy]) -> Vec<String> {
    proxies.iter().map(|proxy| format!("show stat {} 4 -1", proxy.id)).collect()
}

/// Adds the replies to [`session_queries`] to an observation.
pub(super) fn read_sessions(
    address: &SocketAddress,
    observed: &mut Observed,
    proxies: &[Proxy],
    replies: &[String],
) -> Result<()> {
    let queries = session_queries(proxies);
    for ((proxy, query), reply) in proxies.iter().zip(&queries).zip(replies) {
        let sessions = Answer { address, query, reply }.read(parse::sessions)?;
        let servers: Option<&mut Vec<ObservedServer>> = observed.backends.get_mut(&proxy.backend);
        for server in servers.into_iter().flatten() {
            server.sessions = sessions.get(&(proxy.backend.clone(), server.name.clone())).copied();
        }
    }
    Ok(())
}

struct Answer<'a> {
    address: &'a SocketAddress,
    query: &'a str,
    reply: &'a str,
}

impl Answer<'_> {
    fn read<T>(&self, parser: fn(&str) -> std::result::Result<T, ParseError>) -> Result<T> {
        let (address, command) = (self.address.clone(), self.query.to_owned());
        if let Some(kind) = RejectionKind::of(self.reply) {
            let reply = self.reply.lines().next().unwrap_or_default().to_owned();
            return Err(Error::Refused { address, command, reply, kind });
        }
        parser(self.reply).map_err(|error| Error::Malformed { address, command, error })
    }
}
