//! What a failed call of DynamoDB means.
//!
//! The codes are those of "Error handling with DynamoDB" and of each operation's own page in the
//! API reference; those of a cancelled transaction stand in its reasons.

use std::error::Error as StdError;
use std::io;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::CancellationReason;

use crate::aws;
use crate::store::ErrorKind;

/// What may be concluded from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Surely not applied; the same again may go better.
    Again,
    /// May have been applied.
    Unknown,
    /// Surely not applied: a condition did not hold.
    Lost,
    /// Surely not applied, and no better next time.
    Refused(ErrorKind),
}

/// A failed call: what it means, what to say, and what the user can do.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub verdict: Verdict,
    pub reason: String,
    pub hint: Option<Hint>,
}

/// What the remedy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    Table,
    Keys,
    Rights,
    Credentials,
    Region,
    Clock,
}

const TABLE_HINT: &str = "make the table with: lbctl store init; or check its name and region in \
                          the store's URL";
const CLOCK_HINT: &str = "set this host's clock: AWS refuses requests that are minutes off";
const RIGHTS_HINT: &str = "allow the action that is named above on the table: deploy/aws has the \
                           policies of each role";
const KEYS_HINT: &str = "the table's key must be pk (S) and sk (S): lbctl store init makes one";

impl Hint {
    /// The remedy for the store's own table.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Table => TABLE_HINT,
            Self::Keys => KEYS_HINT,
            Self::Rights => RIGHTS_HINT,
            Self::Credentials => aws::CREDENTIALS_HINT,
            Self::Region => aws::REGION_HINT,
            Self::Clock => CLOCK_HINT,
        }
    }
}

impl Trouble {
    /// Whether no call of this process would be taken, whichever it is.
    pub(super) fn is_about_login(&self) -> bool {
        matches!(self.hint, Some(Hint::Credentials | Hint::Clock))
    }

    pub(super) fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), hint: None }
    }

    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let (code, message) = (service.err().code(), service.err().message());
                of_code(code.unwrap_or_default(), message.unwrap_or_default(), status)
            }
            SdkError::ResponseError(_) | SdkError::TimeoutError(_) => {
                Self::new(Verdict::Unknown, aws::chain(error))
            }
            other => of_dispatch(other),
        }
    }

    /// The most telling reason of a cancelled transaction.
    pub(super) fn of_reasons(reasons: &[CancellationReason]) -> Self {
        let found = |wanted: &str| reasons.iter().find(|r| r.code() == Some(wanted));
        let other = || reasons.iter().find(|r| !matches!(r.code(), None | Some("None")));
        let telling = found("ConditionalCheckFailed").or_else(|| found("ValidationError"));
        match telling.or_else(other) {
            Some(reason) => of_code(
                reason.code().unwrap_or_default(),
                reason.message().unwrap_or_default(),
                400,
            ),
            None => Self::new(Verdict::Again, "the transaction was cancelled without a reason"),
        }
    }
}

/// What an answer of DynamoDB's means, by its code, its sentence and the HTTP status.
fn of_code(code: &str, message: &str, status: u16) -> Trouble {
    let (verdict, hint) = match code {
        "ConditionalCheckFailedException" | "ConditionalCheckFailed" => (Verdict::Lost, None),
        // The token was used for another transaction, or for this one more than 10 minutes ago.
        "IdempotentParameterMismatchException" => (Verdict::Lost, None),
        "ProvisionedThroughputExceededException"
        | "ProvisionedThroughputExceeded"
        | "ThrottlingException"
        | "ThrottlingError"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "TransactionConflictException"
        | "TransactionConflict"
        | "ReplicatedWriteConflictException"
        | "ResourceInUseException" => (Verdict::Again, None),
        // The first try with this token is still under way.
        "TransactionInProgressException" => (Verdict::Unknown, None),
        "ResourceNotFoundException" | "TableNotFoundException" => {
            (Verdict::Refused(ErrorKind::Unavailable), Some(Hint::Table))
        }
        "AccessDeniedException" => (Verdict::Refused(ErrorKind::Denied), Some(Hint::Rights)),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "ExpiredToken"
        | "ExpiredTokenException" => (Verdict::Refused(ErrorKind::Denied), Some(Hint::Credentials)),
        "InvalidSignatureException" | "RequestExpired" | "SignatureDoesNotMatch" => {
            let clock = message.contains("expired") || message.contains("Signature not yet");
            let hint =
                if clock || code == "RequestExpired" { Hint::Clock } else { Hint::Credentials };
            (Verdict::Refused(ErrorKind::Denied), Some(hint))
        }
        "ItemCollectionSizeLimitExceededException" | "RequestEntityTooLarge" => {
            (Verdict::Refused(ErrorKind::TooLarge), None)
        }
        "ValidationException" | "ValidationError" if message.contains("size") => {
            (Verdict::Refused(ErrorKind::TooLarge), None)
        }
        "ValidationException" | "ValidationError" => {
            let keys = message.contains("key") || message.contains("schema");
            (Verdict::Refused(ErrorKind::Unsupported), keys.then_some(Hint::Keys))
        }
        "UnknownOperationException" | "SerializationException" => {
            (Verdict::Refused(ErrorKind::Unsupported), None)
        }
        // InternalServerError, ServiceUnavailable and whatever is new.
        _ if status >= 500 => (Verdict::Unknown, None),
        _ => (Verdict::Refused(ErrorKind::Unavailable), None),
    };
    let code = if code.is_empty() { format!("HTTP status {status}") } else { code.to_owned() };
    let reason = if message.is_empty() { code } else { format!("{code}: {message}") };
    Trouble { verdict, reason, hint }
}

/// What happened before there was an answer.
fn of_dispatch(error: &(dyn StdError + 'static)) -> Trouble {
    let text = aws::chain(error);
    let lower = text.to_lowercase();
    if lower.contains("credential") || lower.contains("identity") {
        let verdict = Verdict::Refused(ErrorKind::Denied);
        return Trouble { verdict, reason: text, hint: Some(Hint::Credentials) };
    }
    if lower.contains("region") {
        let verdict = Verdict::Refused(ErrorKind::Unsupported);
        return Trouble { verdict, reason: text, hint: Some(Hint::Region) };
    }
    let never_sent = lower.contains("dns error")
        || lower.contains("connect timeout")
        || sources(error).any(is_about_connecting);
    Trouble::new(if never_sent { Verdict::Again } else { Verdict::Unknown }, text)
}

fn is_about_connecting(error: &(dyn StdError + 'static)) -> bool {
    use io::ErrorKind as K;
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(
            error.kind(),
            K::ConnectionRefused | K::HostUnreachable | K::NetworkUnreachable | K::AddrNotAvailable
        )
    })
}

fn sources<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn StdError + 'static)| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_says_what_may_be_concluded() {
        use ErrorKind::{Denied, TooLarge, Unavailable, Unsupported};
        use Verdict::{Again, Lost, Refused, Unknown};
        for (code, message, status, verdict, hint) in [
            ("ConditionalCheckFailedException", "", 400, Lost, ""),
            ("IdempotentParameterMismatchException", "", 400, Lost, ""),
            ("ThrottlingException", "", 400, Again, ""),
            ("ProvisionedThroughputExceededException", "", 400, Again, ""),
            ("RequestLimitExceeded", "", 400, Again, ""),
            ("TransactionConflictException", "", 400, Again, ""),
            ("TransactionInProgressException", "", 400, Unknown, ""),
            ("InternalServerError", "", 500, Unknown, ""),
            ("ServiceUnavailable", "", 503, Unknown, ""),
            ("", "", 502, Unknown, ""),
            ("ResourceNotFoundException", "", 400, Refused(Unavailable), "store init"),
            ("AccessDeniedException", "", 400, Refused(Denied), "action"),
            ("UnrecognizedClientException", "", 400, Refused(Denied), "AWS_ACCESS_KEY_ID"),
            ("ExpiredTokenException", "", 400, Refused(Denied), "AWS_ACCESS_KEY_ID"),
            ("InvalidSignatureException", "Signature expired: 2", 400, Refused(Denied), "clock"),
            ("InvalidSignatureException", "does not match", 400, Refused(Denied), "AWS_ACCESS"),
            ("ValidationException", "Item size has exceeded", 400, Refused(TooLarge), ""),
            ("ValidationException", "key element", 400, Refused(Unsupported), "pk (S)"),
            ("SomethingNew", "", 400, Refused(Unavailable), ""),
        ] {
            let trouble = of_code(code, message, status);
            assert_eq!(trouble.verdict, verdict, "{code} {message}");
            let said = trouble.hint.map_or("", Hint::text);
            assert!(said.contains(hint), "{code} {message}");
        }
    }

    #[test]
    fn the_most_telling_reason_of_a_transaction_counts() {
        let reason = |code: &str| CancellationReason::builder().code(code).build();
        for (codes, verdict) in [
            (vec!["None", "TransactionConflict", "ConditionalCheckFailed"], Verdict::Lost),
            (vec!["None", "TransactionConflict"], Verdict::Again),
            (vec!["ThrottlingError", "None"], Verdict::Again),
            (
                vec!["TransactionConflict", "ValidationError"],
                Verdict::Refused(ErrorKind::Unsupported),
            ),
            (vec!["None", "None"], Verdict::Again),
        ] {
            let reasons: Vec<_> = codes.iter().map(|code| reason(code)).collect();
            assert_eq!(Trouble::of_reasons(&reasons).verdict, verdict, "{codes:?}");
        }
    }

    #[test]
    fn only_what_was_never_sent_is_surely_not_applied() {
        for (kind, verdict) in [
            (io::ErrorKind::ConnectionRefused, Verdict::Again),
            (io::ErrorKind::ConnectionReset, Verdict::Unknown),
            (io::ErrorKind::BrokenPipe, Verdict::Unknown),
        ] {
            assert_eq!(of_dispatch(&io::Error::from(kind)).verdict, verdict, "{kind:?}");
        }
    }
}
