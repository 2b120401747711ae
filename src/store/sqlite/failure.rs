use std::io;

use rusqlite::ErrorCode;

use crate::store::{Error, ErrorKind, LeaseId};

/// What errors and metrics call this store.
pub(super) const NAME: &str = "sqlite";

/// Why something did not work, before it is known which operation it was part of.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    kind: ErrorKind,
    reason: String,
    hint: Option<&'static str>,
}

pub(super) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(super) fn new(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(super) fn lease_expired(lease: LeaseId) -> Self {
        Self::new(ErrorKind::LeaseExpired, format!("lease {lease} has ended"))
    }

    pub(super) fn is_lease_expired(&self) -> bool {
        self.kind == ErrorKind::LeaseExpired
    }

    /// Of a transaction that is to be done again otherwise.
    pub(super) fn given_up() -> Self {
        Self::new(ErrorKind::Unavailable, "the transaction was given up")
    }

    pub(super) fn corrupt(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, reason).hint(RESTORE)
    }

    /// A file that can be read and not written: even a reader deletes what has expired.
    pub(super) fn read_only() -> Self {
        Self::new(ErrorKind::Denied, "the database file can only be read").hint(PERMISSION)
    }

    /// Another process holds a lock for too long.
    pub(super) fn locked() -> Self {
        Self::new(ErrorKind::Unavailable, "the database is locked").hint(LOCKED)
    }

    /// A failed system call on a file: `doing` fits "cannot …".
    pub(super) fn io(doing: impl std::fmt::Display, error: &io::Error) -> Self {
        let (kind, hint) = match error.kind() {
            io::ErrorKind::PermissionDenied => (ErrorKind::Denied, Some(PERMISSION)),
            io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Denied, Some(READ_ONLY)),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (ErrorKind::Unavailable, Some(FULL))
            }
            io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            // What making a folder says of a file in its place.
            | io::ErrorKind::AlreadyExists => (ErrorKind::Denied, Some(OTHER_PATH)),
            _ => (ErrorKind::Unavailable, None),
        };
        Self { kind, reason: format!("cannot {doing}: {error}"), hint }
    }

    /// A failed `COMMIT`: what SQLite does not surely take back may come to light after a crash.
    pub(super) fn of_commit(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let mut failure = Self::from(error);
        if code == Some(ErrorCode::SystemIoFailure) {
            failure.kind = ErrorKind::Indeterminate;
        }
        failure
    }

    pub(super) fn into_error(
        self,
        operation: &'static str,
        subject: impl std::fmt::Display,
    ) -> Error {
        let error = Error::new(self.kind, NAME, operation, subject, self.reason);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

const PERMISSION: &str =
    "run lbctl as the owner of the database file and its folder: it writes both";
const READ_ONLY: &str =
    "name a database file on a file system that can be written: --store sqlite:PATH";
const OTHER_PATH: &str = "name a database file in a folder: --store sqlite:FOLDER/FILE";
const FULL: &str = "make room on the disk that holds the database";
const LOCKED: &str = "another process holds the database's lock: `fuser -v PATH` names it";
const RESTORE: &str = "put a backup in its place with `lbctl store restore FILE`, or move the file \
                       away and restart every lbctl of this host to begin with an empty one";
const NOT_OURS: &str = "name another file (--store sqlite:PATH): this one is left as it is";

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, hint) = match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => (ErrorKind::Corrupt, Some(NOT_OURS)),
            Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, Some(RESTORE)),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                (ErrorKind::Denied, Some(PERMISSION))
            }
            Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, Some(FULL)),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (ErrorKind::Unavailable, Some(LOCKED))
            }
            Some(ErrorCode::TooBig) => (ErrorKind::TooLarge, None),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
                (ErrorKind::Corrupt, Some(RESTORE))
            }
            Some(_) => (ErrorKind::Unavailable, None),
            // A column that is not what the schema says.
            None => (ErrorKind::Corrupt, Some(RESTORE)),
        };
        Self { kind, reason: error.to_string(), hint }
    }
}
