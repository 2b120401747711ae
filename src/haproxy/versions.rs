//! What differs between the supported versions of HAProxy (2.6 to 3.4), in one place.
//!
//! lbctl never asks which version it talks to: a distribution's HAProxy has later fixes under an
//! earlier number. Each rule here holds for all of them, or tells them apart by what they say.
//!
//! | from | what is different | how it is met |
//! |---|---|---|
//! | up to 2.9 | some replies to `add server` and `del server` lack their newline (6219a58d2) | the framing looks for prompts too |
//! | 2.9 | `set server addr` takes effect after its reply | [`ADDRESS_SETTLES`]: read until it shows, then go on |
//! | all | a second line in the same write is read in interactive mode only | the greeting is the first line |
//! | 3.0 | the reply to `set server addr` names the changed parts only | [`ADDRESS_SET`] |
//! | 3.1 | `init-state`; from 3.4 on not for places that are configured as `disabled` | not used: weight 0, ready, health down, weight, on every version |
//! | 3.2 | one prompt after a whole line, and empty lines between its replies | the framing looks for both |
//! | 3.2 | a line must fit the buffer, not just each command | [`MAX_LINE`], [`LINE_TOO_LONG`] |
//! | 3.4 | other words for a backend that takes no dynamic servers | [`REFUSALS`] |

use std::time::Duration;

use super::RejectionKind;

/// How replies to a `set server addr` that was taken begin.
pub(super) const ADDRESS_SET: [&str; 4] = [
    "IP changed from ",
    "port changed from ",
    // Up to 2.9.
    "no need to change the addr",
    // From 3.0 on.
    "nothing changed",
];

/// What is said where a server's name is set to what it is, and a resolver is asked for it.
pub(super) const RESOLVED: &str = "no need to change the FDQN";

/// How long an address may take to show after it was set.
pub const ADDRESS_SETTLES: Duration = Duration::from_secs(1);

/// Bytes of a line of commands to begin with: HAProxy's default buffer (`tune.bufsize`, 16 KiB),
/// with room to spare for what it needs itself. A HAProxy that says that a line is too long gets
/// shorter ones.
pub(super) const MAX_LINE: usize = 12 * 1024;

/// The least line worth trying: HAProxy's buffers are larger.
pub(super) const LEAST_LINE: usize = 512;

/// What is said of a line that does not fit the buffer; nothing of it was done.
pub(super) const LINE_TOO_LONG: &[u8] = b"The command line is too big for the buffer size";

/// How refusals begin.
pub(super) const REFUSALS: [(&str, RejectionKind); 24] = [
    ("Permission denied", RejectionKind::PermissionDenied),
    ("No such backend.", RejectionKind::NoSuchBackend),
    ("Can't find backend.", RejectionKind::NoSuchBackend),
    ("No such proxy.", RejectionKind::NoSuchBackend),
    ("No such server.", RejectionKind::NoSuchServer),
    ("Backend is using a static LB algorithm", RejectionKind::StaticAlgorithm),
    ("Backend must use a dynamic load balancing", RejectionKind::StaticAlgorithm),
    // From 3.4 on.
    ("Backend does not support dynamic servers", RejectionKind::StaticAlgorithm),
    ("Already exists a server with the same name", RejectionKind::AlreadyExists),
    ("Server still has connections attached", RejectionKind::StillInUse),
    ("Only servers in maintenance mode can be deleted.", RejectionKind::NotInMaint),
    ("This server cannot be removed at runtime", RejectionKind::Referenced),
    ("Invalid addr ", RejectionKind::InvalidAddress),
    ("Update for the current server address family", RejectionKind::OtherFamily),
    ("Update to families other than AF_INET", RejectionKind::InvalidAddress),
    ("problem converting port", RejectionKind::InvalidAddress),
    ("can't change addr", RejectionKind::InvalidAddress),
    ("Health check was not configured", RejectionKind::NoHealthCheck),
    ("Health checks are not enabled", RejectionKind::NoHealthCheck),
    ("cannot change health on a tracking server", RejectionKind::NoHealthCheck),
    ("Proxy is disabled", RejectionKind::ProxyDisabled),
    ("Unknown command", RejectionKind::UnknownCommand),
    ("unknown keyword", RejectionKind::InvalidOptions),
    ("This command is restricted to", RejectionKind::UnknownCommand),
];
