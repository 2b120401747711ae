//! The members of a cluster: one connection to each, used one at a time, changed when it fails.
//!
//! Not etcd-client's own balancing: that sends every n-th request to a dead member, and cannot tell
//! which requests are safe to send again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::Instant;

use super::NAME;
use super::trouble::Trouble;
use crate::daemon::Backoff;
use crate::files;
use crate::store::url::EtcdUrl;
use crate::store::{Error, ErrorKind, Result};

/// How long an operation may take, all its tries together.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long connecting may take, where there is another member to turn to.
const CONNECT: Duration = Duration::from_secs(2);

/// When a silent connection with a request or a watch on it is asked for a sign of life. etcd
/// closes connections that ask more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);

/// Passwords and certificates are far smaller.
const MAX_FILE_LEN: u64 = 1 << 20;

/// How long that sign may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What sending a request a second time would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing is changed.
    Read,
    /// The same as sending it once.
    Repeatable,
    /// Something else: it is never sent again unless it was surely not done.
    Once,
}

/// What a request is about, for its errors.
#[derive(Debug)]
pub(super) struct Ask {
    pub operation: &'static str,
    pub subject: String,
    pub effect: Effect,
}

#[derive(Debug)]
pub(super) struct Members {
    url: EtcdUrl,
    members: Vec<Member>,
    /// The member that is asked first: the last one that answered.
    current: AtomicUsize,
}

struct Member {
    endpoint: String,
    connection: Mutex<Option<Arc<Client>>>,
    /// Held while connecting, so that those who wait take over the connection of the first.
    connecting: tokio::sync::Mutex<()>,
}

impl Members {
    /// Connects nothing, but reads every file that the URL names, so that a wrong one is said now.
    pub(super) fn new(url: &EtcdUrl) -> Result<Self> {
        options(url)?;
        let members: Vec<Member> = url.endpoints.iter().map(|e| Member::new(e)).collect();
        // Many processes with one URL spread over the members.
        let first = fastrand::usize(..members.len().max(1));
        Ok(Self { url: url.clone(), members, current: AtomicUsize::new(first) })
    }

    /// Sends a request to the current member, and to others as long as that is safe and there is
    /// time.
    pub(super) async fn call<T, F, Fut>(&self, ask: &Ask, request: F) -> Result<T>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut calling = Calling::new(self.members.len());
        let mut at = self.current.load(Ordering::Relaxed);
        loop {
            let endpoint = &self.members[at].endpoint;
            let time = calling.time_for_a_try(ask.effect);
            let trouble = match self.attempt(at, time, &request).await {
                Ok(value) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(trouble) => trouble,
            };
            tracing::debug!(endpoint, operation = ask.operation, reason = trouble.reason, "etcd");
            at = (at + 1) % self.members.len();
            if !calling.goes_on_after(endpoint, ask, &trouble).await {
                self.current.store(at, Ordering::Relaxed);
                return Err(calling.error(ask, &trouble));
            }
        }
    }

    async fn attempt<T, F, Fut>(&self, at: usize, time: Duration, request: &F) -> Result<T, Trouble>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let member = &self.members[at];
        let deadline = Instant::now() + time;
        let client = match tokio::time::timeout_at(deadline, self.connection(member)).await {
            Ok(Ok(client)) => client,
            Ok(Err(trouble)) => return Err(trouble),
            Err(_elapsed) => {
                let trouble = Trouble::timeout("to the login");
                return Err(Trouble { maybe_applied: false, ..trouble });
            }
        };
        let answer = match tokio::time::timeout_at(deadline, request((*client).clone())).await {
            Ok(answer) => answer.map_err(Trouble::from),
            Err(_elapsed) => Err(Trouble::timeout(&format!("within {time:.1?}"))),
        };
        if answer.as_ref().is_err_and(|trouble| trouble.reconnect) {
            member.give_up(&client);
        }
        answer
    }

    /// The member's client; with a password, its making is a request to the member.
    async fn connection(&self, member: &Member) -> Result<Arc<Client>, Trouble> {
        if let Some(client) = member.connected() {
            return Ok(client);
        }
        let _connecting = member.connecting.lock().await;
        if let Some(client) = member.connected() {
            return Ok(client);
        }
        let failed = |kind, text: String| Trouble {
            maybe_applied: false,
            kind,
            ..Trouble::from_message(&text)
        };
        // Read anew, so that renewed certificates are used from the next connection on; on a thread
        // that may wait, since a file may be on a disk that does not answer.
        let url = self.url.clone();
        let options = tokio::task::spawn_blocking(move || options(&url))
            .await
            .map_err(|error| failed(ErrorKind::Unavailable, error.to_string()))?
            .map_err(|error| failed(error.kind(), error.to_string()))?;
        let scheme = if self.url.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", member.endpoint);
        let client = Client::connect([url], Some(options))
            .await
            .map_err(|error| Trouble { maybe_applied: false, ..error.into() })?;
        let client = Arc::new(client);
        *member.connection() = Some(Arc::clone(&client));
        Ok(client)
    }
}

impl Member {
    fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    fn connected(&self) -> Option<Arc<Client>> {
        self.connection().clone()
    }

    /// Several requests may fail with one connection, some of them when the next one is there.
    fn give_up(&self, failed: &Arc<Client>) {
        self.connection().take_if(|client| Arc::ptr_eq(client, failed));
    }

    fn connection(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Member").field(&self.endpoint).finish()
    }
}

/// One operation with all its tries.
struct Calling {
    deadline: Instant,
    members: usize,
    tries: usize,
    /// Whether some try may have been done.
    maybe_applied: bool,
    /// Whether every try of this round found nothing at its address.
    all_unreachable: bool,
    /// What each member failed by; a refusal is more telling than the closed connection that the
    /// next try may see of it, as TLS 1.3 has it where a client certificate is missing.
    troubles: BTreeMap<String, Trouble>,
    backoff: Backoff,
}

impl Calling {
    fn new(members: usize) -> Self {
        Self {
            deadline: Instant::now() + DEADLINE,
            members,
            tries: 0,
            maybe_applied: false,
            all_unreachable: true,
            troubles: BTreeMap::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_millis(500)),
        }
    }

    /// A request that can be sent again leaves time to ask each member; one that cannot gets it all.
    fn time_for_a_try(&self, effect: Effect) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let share = DEADLINE / u32::try_from(self.members).unwrap_or(1);
        if effect == Effect::Once { left } else { left.min(share) }
    }

    /// Takes a failed try in; waits before a new round.
    async fn goes_on_after(&mut self, endpoint: &str, ask: &Ask, trouble: &Trouble) -> bool {
        self.tries += 1;
        self.maybe_applied |= trouble.maybe_applied;
        self.all_unreachable &= trouble.unreachable;
        let denied = |known: &Trouble| known.kind == ErrorKind::Denied;
        if !self.troubles.get(endpoint).is_some_and(denied) {
            self.troubles.insert(endpoint.to_owned(), trouble.clone());
        }
        if !trouble.retry || (trouble.maybe_applied && ask.effect == Effect::Once) {
            return false;
        }
        if !self.tries.is_multiple_of(self.members) {
            return Instant::now() < self.deadline;
        }
        // Where nobody listens at any address, there is nothing to wait for.
        if self.all_unreachable {
            return false;
        }
        self.all_unreachable = true;
        let wait = self.backoff.next_wait();
        if Instant::now() + wait >= self.deadline {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }

    fn error(&self, ask: &Ask, last: &Trouble) -> Error {
        let unsure = self.maybe_applied && ask.effect != Effect::Read;
        // One member with a wrong certificate says nothing about the others.
        let all_denied = self.troubles.values().all(|t| t.kind == ErrorKind::Denied);
        let last = if all_denied { self.troubles.values().next().unwrap_or(last) } else { last };
        let kind = match last.kind {
            ErrorKind::Denied if last.retry && !all_denied => ErrorKind::Unavailable,
            kind => kind,
        };
        let kind = if unsure && kind.is_transient() { ErrorKind::Indeterminate } else { kind };
        let reasons: Vec<String> = self
            .troubles
            .iter()
            .map(|(endpoint, trouble)| format!("{endpoint}: {}", trouble.reason))
            .collect();
        let error = Error::new(kind, NAME, ask.operation, &ask.subject, reasons.join("; "));
        match last.hint {
            Some(hint) => error.with_hint(hint),
            None if last.unreachable => {
                error.with_hint("check that etcd runs and that the store's URL has its addresses")
            }
            None => error,
        }
    }
}

fn options(url: &EtcdUrl) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
        // etcd takes such signs on connections without requests for an attack.
        .with_keep_alive_while_idle(false)
        // A member that is cut off from the others says so, also in the middle of a watch.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(user) = &url.user {
        options = options.with_user(user, password(url)?);
    }
    if url.tls {
        options = options.with_tls(tls(url)?);
    }
    Ok(options)
}

fn password(url: &EtcdUrl) -> Result<String> {
    if let Some(password) = &url.password {
        return Ok(password.reveal().to_owned());
    }
    let Some(path) = &url.password_file else {
        return Ok(String::new());
    };
    let text = String::from_utf8(read(path)?)
        .map_err(|_| unreadable(path, "the password is not UTF-8 text"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn tls(url: &EtcdUrl) -> Result<TlsOptions> {
    let tls = match &url.ca {
        Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(read_pem(ca)?)),
        None => TlsOptions::new().with_native_roots(),
    };
    match (&url.cert, &url.key) {
        (Some(cert), Some(key)) => {
            Ok(tls.identity(Identity::from_pem(read_pem(cert)?, read_pem(key)?)))
        }
        _ => Ok(tls),
    }
}

/// rustls takes a file without any certificate for an empty list of them.
fn read_pem(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    if !String::from_utf8_lossy(&bytes).contains("-----BEGIN ") {
        return Err(unreadable(path, "there is nothing in PEM form in it"));
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path, MAX_FILE_LEN).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Denied, NAME, "open", path.display(), reason)
        .with_hint("check the files that the store's URL names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::url::StoreUrl;

    fn one_member() -> Members {
        let url: StoreUrl = "etcd://127.0.0.1:1".parse().unwrap();
        let StoreUrl::Etcd(url) = url else { panic!("{url:?}") };
        Members::new(&url).unwrap()
    }

    /// Without a password, connecting waits for nothing: the first request does.
    async fn connection(members: &Members) -> Arc<Client> {
        members.connection(&members.members[0]).await.unwrap()
    }

    fn broken() -> etcd_client::Error {
        etcd_client::Error::GRpcStatus(tonic::Status::unavailable("transport error"))
    }

    #[tokio::test]
    async fn a_failure_gives_its_connection_up() {
        let members = one_member();
        let old = connection(&members).await;
        let fails = |_client| async { Err::<(), _>(broken()) };
        members.attempt(0, DEADLINE, &fails).await.unwrap_err();
        assert!(!Arc::ptr_eq(&old, &connection(&members).await));
    }

    #[tokio::test]
    async fn a_late_failure_leaves_the_connection_that_was_made_meanwhile() {
        let members = one_member();
        let old = connection(&members).await;
        let fails_late = |_client| async {
            members.members[0].give_up(&old);
            connection(&members).await;
            Err::<(), _>(broken())
        };
        members.attempt(0, DEADLINE, &fails_late).await.unwrap_err();
        let new = members.members[0].connected().expect("the new connection is still there");
        assert!(!Arc::ptr_eq(&old, &new));
    }
}
