use std::error::Error as StdError;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::{CREDENTIALS_HINT, chain};

/// What a failed call that only reads means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// AWS asks for fewer calls.
    Throttled,
    /// Credentials or rights are missing, wrong or over.
    Denied,
    /// No answer in time.
    Timeout,
    /// The request says something that AWS does not take.
    Refused,
    /// Everything else, such as a network that is down or an AWS that is.
    Failed,
}

impl FailureKind {
    /// The metrics' label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A failed call, with its name, and what the user can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {reason}{}", .hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct Failure {
    pub kind: FailureKind,
    /// Such as `DescribeInstances`.
    pub call: &'static str,
    /// AWS's code, empty where it gave none.
    pub code: String,
    pub reason: String,
    pub hint: Option<&'static str>,
}

pub(super) const REGION_HINT: &str = "name the region: in front of the group as REGION:NAME, with \
    --aws-region, in AWS_REGION, or in the profile of ~/.aws/config";
const RIGHTS_HINT: &str = "allow it: deploy/aws has the policies";
const CLOCK_HINT: &str = "set this host's clock: AWS refuses requests that are minutes off";

impl Failure {
    pub fn of<E>(call: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let (code, message) = (service.err().code(), service.err().message());
                let status = service.raw().status().as_u16();
                Self::of_code(call, code.unwrap_or_default(), message.unwrap_or_default(), status)
            }
            SdkError::TimeoutError(_) => Self::new(call, FailureKind::Timeout, chain(error), None),
            other => Self::of_dispatch(call, chain(other)),
        }
    }

    fn new(
        call: &'static str,
        kind: FailureKind,
        reason: String,
        hint: Option<&'static str>,
    ) -> Self {
        Self { kind, call, code: String::new(), reason, hint }
    }

    /// What an answer of AWS's means, by its code, its sentence and the HTTP status: "Common error
    /// types" of the Auto Scaling API reference, "Error codes for the Amazon EC2 API".
    pub(super) fn of_code(call: &'static str, code: &str, message: &str, status: u16) -> Self {
        use FailureKind as K;
        let (kind, hint) = match code {
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "SlowDown"
            | "EC2ThrottledException"
            | "BandwidthLimitExceeded" => (K::Throttled, None),
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
                (K::Denied, Some(RIGHTS_HINT))
            }
            "RequestExpired" => (K::Denied, Some(CLOCK_HINT)),
            "SignatureDoesNotMatch" if message.contains("expired") => (K::Denied, Some(CLOCK_HINT)),
            "AuthFailure"
            | "Blocked"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "IncompleteSignature"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "OptInRequired"
            | "PendingVerification"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException" => (K::Denied, Some(CREDENTIALS_HINT)),
            _ if status == 429 || status == 503 => (K::Throttled, None),
            _ if (400..500).contains(&status) => (K::Refused, None),
            _ => (K::Failed, None),
        };
        let shown = if code.is_empty() { format!("HTTP status {status}") } else { code.to_owned() };
        let reason = if message.is_empty() { shown } else { format!("{shown}: {message}") };
        Self { code: code.to_owned(), ..Self::new(call, kind, reason, hint) }
    }

    /// What happened before there was an answer, or one that nobody understands.
    fn of_dispatch(call: &'static str, reason: String) -> Self {
        let lower = reason.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if says(&["credential", "identity"]) {
            // The SDK goes on with each place it looked in, for many lines.
            let reason = match says(&["no credentials found", "no providers in chain"]) {
                true => "there are no credentials".to_owned(),
                false => reason,
            };
            return Self::new(call, FailureKind::Denied, reason, Some(CREDENTIALS_HINT));
        }
        if says(&["region"]) {
            return Self::new(call, FailureKind::Refused, reason, Some(REGION_HINT));
        }
        let kind = if says(&["timeout", "timed out"]) {
            FailureKind::Timeout
        } else {
            FailureKind::Failed
        };
        Self::new(call, kind, reason, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_what_to_do() {
        use FailureKind as K;
        for (code, message, status, kind, says) in [
            ("Throttling", "Rate exceeded", 400, K::Throttled, "Rate exceeded"),
            ("RequestLimitExceeded", "", 503, K::Throttled, ""),
            ("", "", 503, K::Throttled, "HTTP status 503"),
            ("ExpiredToken", "it is over", 403, K::Denied, "AWS_PROFILE"),
            ("AuthFailure", "", 401, K::Denied, "AWS_PROFILE"),
            ("UnauthorizedOperation", "You are not", 403, K::Denied, "deploy/aws"),
            ("AccessDenied", "", 403, K::Denied, "deploy/aws"),
            ("SignatureDoesNotMatch", "Signature expired: …", 403, K::Denied, "clock"),
            ("SignatureDoesNotMatch", "…", 403, K::Denied, "AWS_PROFILE"),
            ("ValidationError", "no such", 400, K::Refused, "no such"),
            ("InternalFailure", "", 500, K::Failed, "InternalFailure"),
            ("", "", 502, K::Failed, "HTTP status 502"),
        ] {
            let failure = Failure::of_code("DescribeInstances", code, message, status);
            assert_eq!(failure.kind, kind, "{code} {status}");
            let text = failure.to_string();
            assert!(text.starts_with("DescribeInstances: ") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn what_never_reached_aws_is_told_apart() {
        for (reason, kind) in [
            ("dispatch failure: no providers in chain provided credentials", FailureKind::Denied),
            ("an identity resolver was not found", FailureKind::Denied),
            ("no region was found", FailureKind::Refused),
            ("dispatch failure: connect timeout", FailureKind::Timeout),
            ("dispatch failure: connection refused", FailureKind::Failed),
        ] {
            assert_eq!(Failure::of_dispatch("X", reason.into()).kind, kind, "{reason}");
        }
    }
}
