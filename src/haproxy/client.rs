use std::collections::BTreeMap;
use std::time::Duration;

use super::connection::{Connection, LineLimit};
use super::parse::{self, Origin};
use super::reply::{CommandResult, classify};
use super::versions::RESOLVED;
use super::{Command, Error, Features, Glances, Observed, ProcessInfo, Result, SocketAddress};
use super::{observe, old_workers};
use crate::model::BackendName;

/// How long each step of a conversation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// One line of commands and all of its replies.
    pub exchange: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), exchange: Duration::from_secs(10) }
    }
}

/// One HAProxy's Runtime API.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddress,
    timeouts: Timeouts,
    lines: LineLimit,
}

impl Client {
    pub fn new(address: SocketAddress, timeouts: Timeouts) -> Self {
        Self { address, timeouts, lines: LineLimit::default() }
    }

    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// Opens one connection to one worker process. It stays with that worker through a reload, so
    /// that a plan made for one process is never applied to the next; hold it for one pass only,
    /// since it keeps an old worker alive.
    ///
    /// Which worker it is, and that a stats socket is one, is known with the first answer.
    pub async fn session(&self) -> Result<Session> {
        let connection = Connection::open(&self.address, self.timeouts, self.lines.clone()).await?;
        Ok(Session { connection, timeouts: self.timeouts })
    }

    /// Takes in that a line was too long for HAProxy's buffer (`tune.bufsize`), so that every later
    /// one is half as long at most. False where no shorter line is worth a try, or `error` is another.
    pub fn shortens_lines(&self, error: &Error) -> bool {
        match error {
            Error::LineTooLong { bytes, .. } => self.lines.halve(*bytes),
            _ => false,
        }
    }
}

/// One conversation with one HAProxy worker.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    timeouts: Timeouts,
}

impl Session {
    /// The process at the other end.
    pub async fn process(&mut self) -> Result<ProcessInfo> {
        self.connection.process().await
    }

    /// Reads the process and the servers of `backends`. `with_sessions` also counts each server's
    /// live sessions: current ones and queued ones, through a master also those on old workers.
    ///
    /// A `set server addr` just sent may not show yet (see [`super::ADDRESS_SETTLES`]).
    pub async fn observe(
        &mut self,
        backends: &[BackendName],
        with_sessions: bool,
    ) -> Result<Observed> {
        let mut observed = observe::state(&mut self.connection, backends, with_sessions).await?;
        let address = self.connection.address();
        if with_sessions && matches!(address, SocketAddress::Master(_)) {
            old_workers::add_sessions(address, self.timeouts, backends, &mut observed).await?;
        }
        Ok(observed)
    }

    /// Reads the process and some servers alone: for each, its backend's number in
    /// [`Observed::proxies`] and its own.
    pub async fn glance(&mut self, servers: &[(u32, u32)]) -> Result<Glances> {
        let queries = observe::glance_queries(servers);
        let replies = self.connection.ask(&queries).await?;
        observe::read_glances(self.connection.address(), &queries, &replies)
    }

    /// Sends commands in as few lines as may be and matches every reply; the results are in the
    /// order of the commands. A refusal stops nothing: the commands behind it are still sent.
    ///
    /// After an error, any command may or may not have been carried out: observe anew, in another
    /// session.
    pub async fn apply(&mut self, commands: &[Command]) -> Result<Vec<CommandResult>> {
        Ok(self.apply_and_ask(commands, &[]).await?.0)
    }

    /// [`Self::apply`] and, behind it in the same lines, [`Self::observe`] without sessions. What the
    /// commands came to is known whether what was observed can be read or not, but not where the
    /// connection fails on the way.
    pub async fn apply_and_observe(
        &mut self,
        commands: &[Command],
        backends: &[BackendName],
    ) -> Result<(Vec<CommandResult>, Result<Observed>)> {
        let queries = observe::state_queries(backends);
        let (results, replies) = self.apply_and_ask(commands, &queries).await?;
        Ok((results, observe::read_state(self.connection.address(), backends, &replies)))
    }

    /// [`Self::apply`] and, behind it in the same lines, [`Self::glance`], as
    /// [`Self::apply_and_observe`] does.
    pub async fn apply_and_glance(
        &mut self,
        commands: &[Command],
        servers: &[(u32, u32)],
    ) -> Result<(Vec<CommandResult>, Result<Glances>)> {
        let queries = observe::glance_queries(servers);
        let (results, replies) = self.apply_and_ask(commands, &queries).await?;
        Ok((results, observe::read_glances(self.connection.address(), &queries, &replies)))
    }

    async fn apply_and_ask(
        &mut self,
        commands: &[Command],
        queries: &[String],
    ) -> Result<(Vec<CommandResult>, Vec<String>)> {
        // A command goes to nobody unknown.
        self.connection.greet().await?;
        let queries = queries.iter().cloned();
        let lines: Vec<String> = commands.iter().map(Command::to_string).chain(queries).collect();
        let mut replies = self.connection.ask(&lines).await?;
        let answers = replies.split_off(commands.len().min(replies.len()));
        let pairs = commands.iter().zip(&replies);
        Ok((pairs.map(|(command, reply)| classify(command, reply)).collect(), answers))
    }

    /// How a backend and its servers are set, by the servers' names and [`Features::BACKEND`]. `proxy`
    /// is the backend's number in [`Observed::proxies`].
    pub async fn features(&mut self, proxy: u32) -> Result<BTreeMap<String, Features>> {
        // Types 2 and 4: backends and servers.
        let command = format!("show stat {proxy} 6 -1");
        let reply = self.raw(&command).await?;
        let address = self.connection.address().clone();
        parse::features(&reply).map_err(|error| Error::Malformed { address, command, error })
    }

    /// Gives the servers of a backend the cookies that its `cookie … dynamic` line means. A backend
    /// without such a line stays as it is (seen on 2.6 to 3.4).
    pub async fn enable_dynamic_cookies(&mut self, backend: &BackendName) -> Result<()> {
        let reply = self.raw(&format!("enable dynamic-cookie backend {backend}")).await?;
        if !reply.is_empty() {
            tracing::debug!(%backend, %reply, "HAProxy enables no dynamic cookies");
        }
        Ok(())
    }

    /// Whether a resolver keeps the address of a server that has a name. HAProxy shows the name and
    /// not the resolver, but refuses to change the name where there is none; it is set to what it is.
    pub async fn has_resolver(&mut self, backend: &BackendName, server: &str) -> Result<bool> {
        let command = format!("show servers state {backend}");
        let rows = self.raw(&command).await?;
        let origin = parse::origin(&rows, server).map_err(|error| {
            let address = self.connection.address().clone();
            Error::Malformed { address, command, error }
        })?;
        let name = match origin {
            Origin::Address => return Ok(false),
            Origin::SrvRecord => return Ok(true),
            Origin::Name(name) => name,
        };
        let reply = self.raw(&format!("set server {backend}/{server} fqdn {name}")).await?;
        Ok(reply.contains(RESOLVED))
    }

    /// The reply to one command, such as `show servers state`, unread. It must be one command: `;`,
    /// `\` and control characters are refused.
    pub async fn raw(&mut self, command: &str) -> Result<String> {
        let replies = self.connection.ask(&[command.to_owned()]).await?;
        Ok(replies.into_iter().next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;
    use crate::daemon::spawn_owned;
    use crate::haproxy::ServerRef;
    use crate::model::Weight;

    #[tokio::test]
    async fn a_command_goes_to_nobody_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerRef { backend: "web".parse().unwrap(), server: "s1".parse().unwrap() };
        let command = Command::SetWeight { server, weight: Weight::MAX };
        for (number, said) in ["HTTP/1.1 400 Bad Request\r\n\r\n", "\nmaster> "].iter().enumerate()
        {
            let path = dir.path().join(number.to_string());
            let listener = UnixListener::bind(&path).unwrap();
            let peer = spawn_owned(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                stream.read_buf(&mut heard).await.unwrap();
                stream.write_all(said.as_bytes()).await.unwrap();
                stream.read_to_end(&mut heard).await.unwrap();
                String::from_utf8(heard).unwrap()
            });
            let client = Client::new(SocketAddress::Unix(path), Timeouts::default());
            let mut session = client.session().await.unwrap();
            session.apply(std::slice::from_ref(&command)).await.unwrap_err();
            drop(session);
            assert_eq!(peer.join().await.unwrap(), "prompt\n");
        }
    }
}
