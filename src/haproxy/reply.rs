use std::fmt;

use super::Command;

/// What HAProxy made of one command.
pub type CommandResult = Result<(), Box<Rejection>>;

/// A command that HAProxy did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HAProxy refused `{command}`: {}", ReplyText(reply))]
pub struct Rejection {
    pub command: Command,
    /// HAProxy's own words.
    pub reply: String,
    pub kind: RejectionKind,
}

/// Why a command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    NoSuchBackend,
    NoSuchServer,
    /// The socket's level is below `admin`.
    PermissionDenied,
    /// The backend's load balancing takes no such weight, or no servers at run time.
    StaticAlgorithm,
    /// The server's name or id is taken.
    AlreadyExists,
    /// Connections are still attached to it; try again when they are gone.
    StillInUse,
    /// It must be in maint first.
    NotInMaint,
    /// The configuration refers to it, so that it cannot be deleted.
    Referenced,
    InvalidAddress,
    /// No health check is configured on it, or it follows another server's.
    NoHealthCheck,
    /// The backend is disabled in the configuration.
    ProxyDisabled,
    /// The words behind `add server` are wrong.
    InvalidOptions,
    /// This HAProxy does not know the command.
    UnknownCommand,
    /// A reply that no known version gives.
    Unknown,
}

impl Rejection {
    /// What to do about it, naming the line of HAProxy's configuration to change.
    pub fn remedy(&self) -> Option<String> {
        let backend = &self.command.server().backend;
        let text = match self.kind {
            RejectionKind::NoSuchBackend => format!(
                "add a `backend {backend}` section to HAProxy's configuration, or correct the name"
            ),
            RejectionKind::NoSuchServer => format!(
                "give `backend {backend}` a `server-template` line with a place for every slot"
            ),
            RejectionKind::StaticAlgorithm => format!(
                "give `backend {backend}` a dynamic algorithm: `balance roundrobin` or \
                 `balance leastconn`, or `hash-type consistent` where it hashes"
            ),
            RejectionKind::ProxyDisabled => {
                format!("remove `disabled` from `backend {backend}`")
            }
            RejectionKind::NoHealthCheck => {
                format!("add `check` to the servers of `backend {backend}`")
            }
            RejectionKind::Referenced => format!(
                "remove what refers to {} from HAProxy's configuration (`track`, `use-server`, a \
                 resolver)",
                self.command.server()
            ),
            kind => return kind.remedy_without_command(),
        };
        Some(text)
    }
}

impl RejectionKind {
    pub(super) fn remedy_without_command(self) -> Option<String> {
        let text = match self {
            Self::PermissionDenied => {
                "add `level admin` to the `stats socket` line of HAProxy's `global` section"
            }
            Self::InvalidOptions => {
                "correct the server options, which must be keywords that HAProxy's `add server` \
                 takes"
            }
            Self::UnknownCommand => "use HAProxy 2.6 or later",
            Self::StillInUse => "wait until its connections are gone",
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// The kind of a reply that is an error whatever the command was.
    pub(super) fn of(reply: &str) -> Option<Self> {
        let known = KNOWN.iter().find(|(prefix, _)| reply.starts_with(prefix));
        known.map(|(_, kind)| *kind)
    }
}

/// Matches the reply to a command by its text: HAProxy sends some errors with the severity of
/// successes, so that its severities tell nothing.
pub(super) fn classify(command: &Command, reply: &str) -> CommandResult {
    let reply = reply.trim();
    if is_success(command, reply) {
        return Ok(());
    }
    let fallback = match command {
        // What is wrong with its options comes from HAProxy's configuration parser, in any words.
        Command::AddServer { .. } if !reply.is_empty() => RejectionKind::InvalidOptions,
        _ => RejectionKind::Unknown,
    };
    let kind = RejectionKind::of(reply)
        .or_else(|| id_is_taken(reply).then_some(RejectionKind::AlreadyExists))
        .unwrap_or(fallback);
    Err(Box::new(Rejection { command: command.clone(), reply: shorten(reply), kind }))
}

fn is_success(command: &Command, reply: &str) -> bool {
    match command {
        Command::SetAddress { .. } => ADDRESS_SET.iter().any(|prefix| reply.starts_with(prefix)),
        // Warnings of the configuration parser may come before the last line.
        Command::AddServer { .. } => reply.lines().any(|line| line == "New server registered."),
        Command::DelServer { .. } => reply == "Server deleted.",
        Command::SetWeight { .. }
        | Command::SetState { .. }
        | Command::SetHealthDown { .. }
        | Command::EnableHealth { .. } => reply.is_empty(),
    }
}

/// 2.6 to 2.9 name both parts in every reply; 3.0 and later name the changed ones only.
const ADDRESS_SET: [&str; 4] =
    ["IP changed from ", "port changed from ", "no need to change the addr", "nothing changed"];

/// How the refusals of 2.6 to 3.4 begin.
const KNOWN: [(&str, RejectionKind); 23] = [
    ("Permission denied", RejectionKind::PermissionDenied),
    ("No such backend.", RejectionKind::NoSuchBackend),
    ("Can't find backend.", RejectionKind::NoSuchBackend),
    ("No such proxy.", RejectionKind::NoSuchBackend),
    ("No such server.", RejectionKind::NoSuchServer),
    ("Backend is using a static LB algorithm", RejectionKind::StaticAlgorithm),
    ("Backend must use a dynamic load balancing", RejectionKind::StaticAlgorithm),
    ("Backend does not support dynamic servers", RejectionKind::StaticAlgorithm),
    ("Already exists a server with the same name", RejectionKind::AlreadyExists),
    ("Server still has connections attached", RejectionKind::StillInUse),
    ("Only servers in maintenance mode can be deleted.", RejectionKind::NotInMaint),
    ("This server cannot be removed at runtime", RejectionKind::Referenced),
    ("Invalid addr ", RejectionKind::InvalidAddress),
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

fn id_is_taken(reply: &str) -> bool {
    reply.starts_with("'id'") && reply.contains("already used")
}

fn shorten(reply: &str) -> String {
    const MAX: usize = 400;
    reply.chars().take(MAX).collect()
}

/// An empty reply, which is a refusal where a text was due, has words too.
struct ReplyText<'a>(&'a str);

impl fmt::Display for ReplyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The list of commands that follows an unknown one helps nobody here.
        f.write_str(self.0.lines().next().unwrap_or("it said nothing where a text was due"))
    }
}
