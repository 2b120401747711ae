use super::connection::Connection;
use super::parse::{self, Rows};
use super::{
    Error, Glances, Observed, ObservedServer, ParseError, RejectionKind, Result, SocketAddress,
};
use crate::model::BackendName;

/// Reads the process and the servers of `backends`, with or without their live sessions.
pub(super) async fn state(
    connection: &mut Connection,
    backends: &[BackendName],
    with_sessions: bool,
) -> Result<Observed> {
    let address = connection.address().clone();
    let replies = connection.ask(&state_queries(backends)).await?;
    let mut observed = read_state(&address, backends, &replies)?;
    if with_sessions {
        let replies = connection.ask(&session_queries(&observed)).await?;
        read_sessions(&address, &mut observed, &replies)?;
    }
    Ok(observed)
}

/// `show info` and one `show servers state` a backend.
pub(super) fn state_queries(backends: &[BackendName]) -> Vec<String> {
    let servers = backends.iter().map(|backend| format!("show servers state {backend}"));
    std::iter::once("show info".to_owned()).chain(servers).collect()
}

/// Reads the replies to [`state_queries`].
pub(super) fn read_state(
    address: &SocketAddress,
    backends: &[BackendName],
    replies: &[String],
) -> Result<Observed> {
    let queries = state_queries(backends);
    let mut answers =
        queries.iter().zip(replies).map(|(query, reply)| Answer { address, query, reply });
    let info = answers.next().unwrap_or(Answer { address, query: "show info", reply: "" });
    let process = info.read(parse::process)?;
    let mut observed =
        Observed { process, backends: Default::default(), proxies: Default::default() };
    for (backend, answer) in backends.iter().zip(answers) {
        if RejectionKind::of(answer.reply) == Some(RejectionKind::NoSuchBackend) {
            continue;
        }
        let Rows { proxy, servers } = answer.read(parse::servers)?;
        observed.backends.insert(backend.to_string(), servers);
        observed.proxies.extend(proxy.map(|id| (backend.to_string(), id)));
    }
    Ok(observed)
}

/// One `show stat` a backend, by its number: a name could be a frontend's too. Type 4 is servers.
pub(super) fn session_queries(observed: &Observed) -> Vec<String> {
    observed.proxies.values().map(|proxy| format!("show stat {proxy} 4 -1")).collect()
}

/// `show info` and one `show stat` a server, by its proxy's number and its own.
pub(super) fn glance_queries(servers: &[(u32, u32)]) -> Vec<String> {
    let of = servers.iter().map(|(proxy, server)| format!("show stat {proxy} 4 {server}"));
    std::iter::once("show info".to_owned()).chain(of).collect()
}

/// Reads the replies to [`glance_queries`].
pub(super) fn read_glances(
    address: &SocketAddress,
    queries: &[String],
    replies: &[String],
) -> Result<Glances> {
    let mut answers =
        queries.iter().zip(replies).map(|(query, reply)| Answer { address, query, reply });
    let info = answers.next().unwrap_or(Answer { address, query: "show info", reply: "" });
    let process = info.read(parse::process)?;
    let servers = answers.map(|answer| answer.read(parse::glance)).collect::<Result<_>>()?;
    Ok(Glances { process, servers })
}

/// Adds the replies to [`session_queries`] to an observation.
pub(super) fn read_sessions(
    address: &SocketAddress,
    observed: &mut Observed,
    replies: &[String],
) -> Result<()> {
    let queries = session_queries(observed);
    for ((backend, query), reply) in observed.proxies.keys().zip(&queries).zip(replies) {
        let sessions = Answer { address, query, reply }.read(parse::sessions)?;
        let servers: Option<&mut Vec<ObservedServer>> = observed.backends.get_mut(backend);
        for server in servers.into_iter().flatten() {
            server.sessions = sessions.get(&(backend.clone(), server.name.clone())).copied();
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
