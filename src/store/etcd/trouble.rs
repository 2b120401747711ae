//! What a failed request to etcd means.
//!
//! The sentences are those of etcd's `api/v3rpc/rpctypes/error.go`; the codes alone say too little.

use std::error::Error as StdError;

use tonic::{Code, ConnectError, Status};

use crate::store::ErrorKind;

/// A failed request: whether it may have been done, whether asking again can help, and what to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Whether the request may have been done all the same.
    pub maybe_applied: bool,
    /// Whether the same request, here or at another member, may go better.
    pub retry: bool,
    /// Whether nothing answered at this address.
    pub unreachable: bool,
    /// Whether a new connection or login is needed first.
    pub reconnect: bool,
    /// What it is called when asking again is no use or there is no time left for it.
    pub kind: ErrorKind,
    pub reason: String,
    pub hint: Option<&'static str>,
}

/// Whether a read asked for a revision that etcd has forgotten.
pub(super) fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("required revision has been compacted"))
}

impl Trouble {
    /// No answer in time.
    pub(super) fn timeout(what: &str) -> Self {
        Self { reconnect: true, ..Self::unknown(format!("no answer {what}")) }
    }

    fn unknown(reason: String) -> Self {
        Self {
            maybe_applied: true,
            retry: true,
            unreachable: false,
            reconnect: false,
            kind: ErrorKind::Unavailable,
            reason,
            hint: None,
        }
    }

    fn not_applied(reason: String) -> Self {
        Self { maybe_applied: false, ..Self::unknown(reason) }
    }

    fn refused(kind: ErrorKind, reason: String, hint: Option<&'static str>) -> Self {
        Self { retry: false, kind, hint, ..Self::not_applied(reason) }
    }

    /// A message that a status carries, where that is all there is: a cancelled watch.
    pub(super) fn from_message(message: &str) -> Self {
        known(message).unwrap_or_else(|| Self::unknown(message.to_owned()))
    }
}

impl From<etcd_client::Error> for Trouble {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => of_status(&status),
            etcd_client::Error::LeaseKeepAliveError(reason) if reason.contains("not found") => {
                Self::refused(ErrorKind::LeaseExpired, "the lease has ended".into(), None)
            }
            // Building an endpoint fails before anything is sent.
            etcd_client::Error::TransportError(error) => {
                Self::refused(ErrorKind::Denied, chain(&error), Some(TLS_HINT))
            }
            etcd_client::Error::InvalidUri(_) | etcd_client::Error::InvalidArgs(_) => {
                Self::refused(ErrorKind::Unsupported, error.to_string(), None)
            }
            other => Self::unknown(other.to_string()),
        }
    }
}

const TLS_HINT: &str = "check ca, cert and key in the store's URL, and that the server's certificate \
                        names the host in it";
const CLOSED_HINT: &str = "if etcd takes TLS alone, write etcds://; if it asks for a client \
                           certificate, give cert= and key= in the store's URL";
const LOGIN_HINT: &str = "check the user and password in the store's URL";
const RIGHTS_HINT: &str =
    "grant the user's role readwrite on the store's prefix: etcdctl role grant-permission";
const SPACE_HINT: &str = "free space in etcd: compact its history, `etcdctl defrag`, then \
                          `etcdctl alarm disarm`; or raise --quota-backend-bytes";
const SIZE_HINT: &str = "raise etcd's --max-request-bytes to its default of 1572864 or more";

fn of_status(status: &Status) -> Trouble {
    let text = chain(status);
    if let Some(trouble) = known(status.message()) {
        return trouble;
    }
    let connecting = sources(status).any(|source| source.is::<ConnectError>());
    // hyper says so only of requests that never left its queue for the connection.
    let never_sent =
        sources(status).any(|source| source.downcast_ref().is_some_and(hyper::Error::is_canceled));
    let about_tls = text.to_lowercase().contains("certificate");
    match status.code() {
        // The TLS handshake comes before the request.
        _ if about_tls => Trouble {
            kind: ErrorKind::Denied,
            hint: Some(TLS_HINT),
            unreachable: true,
            reconnect: true,
            ..Trouble::not_applied(text)
        },
        _ if connecting => {
            Trouble { unreachable: true, reconnect: true, ..Trouble::not_applied(text) }
        }
        _ if never_sent => {
            Trouble { reconnect: true, hint: Some(CLOSED_HINT), ..Trouble::not_applied(text) }
        }
        Code::Unauthenticated => Trouble::refused(ErrorKind::Denied, text, Some(LOGIN_HINT)),
        Code::PermissionDenied => Trouble::refused(ErrorKind::Denied, text, Some(RIGHTS_HINT)),
        Code::Unimplemented => Trouble::refused(ErrorKind::Unsupported, text, None),
        Code::DataLoss => Trouble::refused(ErrorKind::Corrupt, text, None),
        _ => Trouble { reconnect: true, ..Trouble::unknown(text) },
    }
}

/// What etcd says in words.
fn known(message: &str) -> Option<Trouble> {
    let is = |text: &str| message.contains(text);
    let text = || message.to_owned();
    let refused = |kind, hint| Some(Trouble::refused(kind, text(), hint));
    if is("requested lease not found") {
        return refused(ErrorKind::LeaseExpired, None);
    }
    if is("permission denied") {
        return refused(ErrorKind::Denied, Some(RIGHTS_HINT));
    }
    if is("invalid user ID or password")
        || is("user name is empty")
        || is("authentication is not enabled")
    {
        return refused(ErrorKind::Denied, Some(LOGIN_HINT));
    }
    if is("request is too large") || is("message larger than max") || is("too many operations") {
        return refused(ErrorKind::TooLarge, Some(SIZE_HINT));
    }
    if is("database space exceeded") {
        return refused(ErrorKind::Unavailable, Some(SPACE_HINT));
    }
    // The login is older than a change of users or roles, or than the member's memory of it.
    if is("revision of auth store is old") || is("invalid auth token") {
        return Some(Trouble { reconnect: true, ..Trouble::not_applied(text()) });
    }
    // Said before a request is proposed to the cluster.
    if is("no leader") || is("too many requests") || is("not supported for learner") {
        return Some(Trouble::not_applied(text()));
    }
    None
}

/// An error with its causes, each said once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    for source in sources(error) {
        let source = source.to_string();
        // tonic's word for any of them.
        if !text.contains(&source) && source != "transport error" {
            text = format!("{text}: {source}");
        }
    }
    text
}

fn sources<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(error.source(), |source: &&'e (dyn StdError + 'static)| {
        (*source).source()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(code: Code, message: &str) -> Trouble {
        etcd_client::Error::GRpcStatus(Status::new(code, message)).into()
    }

    #[test]
    fn only_what_is_surely_not_done_is_called_so() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "transport error"),
            (Code::Unknown, "h2 protocol error: http2 error"),
            (Code::Cancelled, "operation was canceled"),
            (Code::Internal, "stream closed"),
        ] {
            assert!(trouble(code, message).maybe_applied, "{message}");
        }
        for message in ["etcdserver: no leader", "etcdserver: too many requests"] {
            let trouble = trouble(Code::Unavailable, message);
            assert!(!trouble.maybe_applied && trouble.retry, "{message}");
        }
    }

    #[test]
    fn refusals_are_named_by_what_to_do_about_them() {
        for (code, message, kind) in [
            (Code::NotFound, "etcdserver: requested lease not found", ErrorKind::LeaseExpired),
            (Code::PermissionDenied, "etcdserver: permission denied", ErrorKind::Denied),
            (Code::InvalidArgument, "etcdserver: user name is empty", ErrorKind::Denied),
            (Code::InvalidArgument, "etcdserver: request is too large", ErrorKind::TooLarge),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (3 vs. 2)",
                ErrorKind::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                ErrorKind::Unavailable,
            ),
            (Code::DataLoss, "etcdserver: corrupt cluster", ErrorKind::Corrupt),
        ] {
            let trouble = trouble(code, message);
            assert!(!trouble.maybe_applied && !trouble.retry, "{message}");
            assert_eq!(trouble.kind, kind, "{message}");
        }
    }
}
