use std::fmt;

use crate::error::{CommandError, Kind};

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller may conclude from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Surely not applied; trying again later may work.
    Unavailable,
    /// May have been applied: read back before deciding.
    Indeterminate,
    /// The lease has ended, and its keys with it.
    LeaseExpired,
    /// The store refuses this user or file access.
    Denied,
    /// A key, value or transaction over the limits.
    TooLarge,
    /// Stored data (or the file itself) is not what lbctl writes.
    Corrupt,
    /// The store cannot do this, whenever it is asked.
    Unsupported,
}

impl ErrorKind {
    /// Whether doing the same again later may work without anybody changing anything.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Indeterminate)
    }

    /// The label used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::LeaseExpired => "lease_expired",
            Self::Denied => "denied",
            Self::TooLarge => "too_large",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A failed store operation: which store, which operation, which key, and why.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    store: &'static str,
    operation: &'static str,
    /// The key, prefix or lease it was about.
    subject: String,
    reason: String,
    hint: Option<String>,
}

impl Error {
    pub fn new(
        kind: ErrorKind,
        store: &'static str,
        operation: &'static str,
        subject: impl fmt::Display,
        reason: impl fmt::Display,
    ) -> Self {
        Self {
            kind,
            store,
            operation,
            subject: subject.to_string(),
            reason: reason.to_string(),
            hint: None,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, store, operation, subject, reason, hint: _ } = self;
        let meaning = match kind {
            ErrorKind::Unavailable => "store unavailable",
            ErrorKind::Indeterminate => "outcome unknown",
            ErrorKind::LeaseExpired => "lease expired",
            ErrorKind::Denied => "access denied",
            ErrorKind::TooLarge => "too large",
            ErrorKind::Corrupt => "corrupt data",
            ErrorKind::Unsupported => "not supported",
        };
        match subject.as_str() {
            // The root: everything.
            "" => write!(f, "{meaning}: {store} {operation}: {reason}"),
            subject => write!(f, "{meaning}: {store} {operation} {subject:?}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::Unavailable | ErrorKind::Indeterminate => Kind::Unavailable,
            ErrorKind::Denied | ErrorKind::Unsupported => Kind::Config,
            ErrorKind::LeaseExpired | ErrorKind::TooLarge | ErrorKind::Corrupt => Kind::Failed,
        };
        let hint = error.hint.clone();
        let failure = Self::new(kind, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
