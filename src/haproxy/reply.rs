use std::fmt;

use super::Command;
use super::versions::{ADDRESS_SET, REFUSALS};

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
    /// The server's place has no address that could be changed, but a UNIX socket.
    OtherFamily,
    /// HAProxy added the server's port to the client's (`:+100`), and does not any more.
    MappedPort,
    /// No health check is configured on it, or it follows another server's.
    NoHealthCheck,
    /// The backend is disabled in the configuration, or its worker is one of before a reload.
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
                format!("remove `disabled` from `backend {backend}`, unless HAProxy just reloaded")
            }
            RejectionKind::NoHealthCheck => {
                format!("add `check` to the servers of `backend {backend}`")
            }
            RejectionKind::OtherFamily => format!(
                "give the servers of `backend {backend}` an IP address: `server-template srv 1-N \
                 127.0.0.2:80 check disabled`"
            ),
            RejectionKind::MappedPort => format!(
                "the servers of `backend {backend}` add to the client's port: set keep-port, or give \
                 their line a port of its own"
            ),
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

impl Rejection {
    /// The command that gives a server its mapped port back.
    pub fn undo(&self) -> Option<String> {
        let offset = old_offset(&self.reply).filter(|_| self.kind == RejectionKind::MappedPort)?;
        match &self.command {
            Command::SetAddress { server, address, .. } => {
                Some(format!("set server {server} addr {} port {offset}", address.ip()))
            }
            _ => None,
        }
    }
}

impl RejectionKind {
    /// No further try can help before a configuration has changed.
    pub fn is_misconfiguration(self) -> bool {
        matches!(
            self,
            Self::NoSuchBackend
                | Self::PermissionDenied
                | Self::StaticAlgorithm
                | Self::InvalidOptions
                | Self::InvalidAddress
                | Self::OtherFamily
                | Self::MappedPort
                | Self::AlreadyExists
                | Self::Referenced
                | Self::ProxyDisabled
                | Self::NoHealthCheck
                | Self::UnknownCommand
        )
    }

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
        let known = REFUSALS.iter().find(|(prefix, _)| reply.starts_with(prefix));
        known.map(|(_, kind)| *kind)
    }
}

/// Matches the reply to a command by its text: HAProxy sends some errors with the severity of
/// successes, so that its severities tell nothing.
pub(super) fn classify(command: &Command, reply: &str) -> CommandResult {
    let reply = reply.trim();
    let known = RejectionKind::of(reply).or_else(|| mapped_port(reply));
    if known.is_none() && is_success(command, reply) {
        return Ok(());
    }
    let fallback = match command {
        // What is wrong with its options comes from HAProxy's configuration parser, in any words.
        Command::AddServer { .. } if !reply.is_empty() => RejectionKind::InvalidOptions,
        _ => RejectionKind::Unknown,
    };
    let kind = known
        .or_else(|| id_is_taken(reply).then_some(RejectionKind::AlreadyExists))
        .unwrap_or(fallback);
    Err(Box::new(Rejection { command: command.clone(), reply: shorten(reply), kind }))
}

fn is_success(command: &Command, reply: &str) -> bool {
    match command {
        Command::SetAddress { .. } => ADDRESS_SET.iter().any(|prefix| reply.starts_with(prefix)),
        // Warnings of the configuration parser may come before the last line.
        Command::AddServer { .. } => reply.lines().next_back() == Some("New server registered."),
        Command::DelServer { .. } => reply == "Server deleted.",
        Command::SetWeight { .. }
        | Command::SetState { .. }
        | Command::SetHealthDown { .. }
        | Command::EnableHealth { .. }
        | Command::EnableAgent { .. }
        | Command::DisableAgent { .. }
        | Command::SetAgentUp { .. }
        | Command::EndSessions { .. } => reply.is_empty(),
    }
}

/// Whether a port was taken that HAProxy added to the client's (seen on 2.6 to 3.4): nothing else
/// tells it from any other one.
fn mapped_port(reply: &str) -> Option<RejectionKind> {
    old_offset(reply).map(|_| RejectionKind::MappedPort)
}

/// The offset that a port had before: `+100`.
fn old_offset(reply: &str) -> Option<&str> {
    let (_, old) = reply.split_once("port changed from '")?;
    let (old, new) = old.split_once("' to '")?;
    (old.starts_with('+') && !new.starts_with('+')).then_some(old)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy::{AdminState, ServerRef};
    use crate::model::Weight;

    fn server() -> ServerRef {
        ServerRef { backend: "web".parse().unwrap(), server: "s1".parse().unwrap() }
    }

    fn address() -> Command {
        let address = "10.0.0.1:80".parse().unwrap();
        Command::SetAddress { server: server(), address, keep_port: false }
    }

    fn weight() -> Command {
        Command::SetWeight { server: server(), weight: Weight::MAX }
    }

    fn state() -> Command {
        Command::SetState { server: server(), state: AdminState::Ready }
    }

    fn add() -> Command {
        Command::AddServer {
            server: server(),
            address: "10.0.0.1:80".parse().unwrap(),
            id: 1,
            weight: Weight::MAX,
            options: String::new(),
        }
    }

    fn del() -> Command {
        Command::DelServer { server: server() }
    }

    fn kind(command: &Command, reply: &str) -> Option<RejectionKind> {
        classify(command, reply).err().map(|rejection| rejection.kind)
    }

    #[test]
    fn the_successes_of_every_version_are_successes() {
        for (command, reply) in [
            // Up to 2.9.
            (
                address(),
                "IP changed from '127.0.0.1' to '127.0.0.2', port changed from '80' to '81' by \
                 'stats socket command'",
            ),
            (
                address(),
                "no need to change the addr, no need to change the port by 'stats socket \
                 command'",
            ),
            (
                address(),
                "no need to change the addr, port changed from '81' to '82' by 'stats \
                 socket command'",
            ),
            (
                address(),
                "IP changed from '127.0.0.3' to '::1', no need to change the port by \
                 'stats socket command'",
            ),
            // From 3.0 on.
            (address(), "IP changed from '127.0.0.3' to '::1' by 'stats socket command'"),
            (address(), "port changed from '81' to '82' by 'stats socket command'"),
            (address(), "nothing changed"),
            (weight(), ""),
            (state(), ""),
            (Command::SetHealthDown { server: server() }, ""),
            (Command::EnableHealth { server: server() }, ""),
            (add(), "New server registered."),
            (add(), "some warning\nNew server registered."),
            (del(), "Server deleted."),
        ] {
            assert_eq!(kind(&command, reply), None, "{command}: {reply}");
        }
    }

    #[test]
    fn the_refusals_of_every_version_have_their_kinds() {
        use RejectionKind as Kind;
        let health = || Command::EnableHealth { server: server() };
        for (command, reply, expected) in [
            (address(), "Invalid addr '1.2.3.x' by 'stats socket command'", Kind::InvalidAddress),
            (address(), "Invalid addr '1.2.3.x'", Kind::InvalidAddress),
            (address(), "No such server.", Kind::NoSuchServer),
            (
                address(),
                "Update for the current server address family is only supported through \
                 configuration file.",
                Kind::OtherFamily,
            ),
            (
                address(),
                "IP changed from '127.0.0.2' to '10.0.0.1', port changed from '+100' to '80' by \
                 'stats socket command'",
                Kind::MappedPort,
            ),
            (address(), "Proxy is disabled.", Kind::ProxyDisabled),
            (state(), "No such backend.", Kind::NoSuchBackend),
            (state(), "Permission denied", Kind::PermissionDenied),
            (
                weight(),
                "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'.",
                Kind::StaticAlgorithm,
            ),
            (
                add(),
                "Backend must use a dynamic load balancing to support dynamic servers.",
                Kind::StaticAlgorithm,
            ),
            (
                add(),
                "Backend does not support dynamic servers : backend 'static' uses a non dynamic \
                 load balancing method.",
                Kind::StaticAlgorithm,
            ),
            (add(), "Already exists a server with the same name in backend.", Kind::AlreadyExists),
            (
                add(),
                "'id' : custom id 77 already used at (null):0 ('server d1').",
                Kind::AlreadyExists,
            ),
            (add(), "unknown keyword 'foo'; did you mean 'tfo' maybe ?", Kind::InvalidOptions),
            (
                add(),
                "'slowstart' option is not supported for dynamic servers.",
                Kind::InvalidOptions,
            ),
            (del(), "Only servers in maintenance mode can be deleted.", Kind::NotInMaint),
            (
                del(),
                "Server still has connections attached to it, cannot remove it.",
                Kind::StillInUse,
            ),
            (
                del(),
                "This server cannot be removed at runtime due to other configuration elements \
                 pointing to it.",
                Kind::Referenced,
            ),
            (
                health(),
                "Health check was not configured on this server, cannot enable.",
                Kind::NoHealthCheck,
            ),
            (health(), "Unknown command, but maybe one of …\n  help", Kind::UnknownCommand),
        ] {
            assert_eq!(kind(&command, reply), Some(expected), "{command}: {reply}");
        }
    }

    #[test]
    fn an_unknown_text_is_never_a_success() {
        for command in [address(), weight(), state(), add(), del()] {
            assert!(kind(&command, "Something new.").is_some(), "{command}");
        }
        for command in [address(), add(), del()] {
            assert_eq!(kind(&command, ""), Some(RejectionKind::Unknown), "{command}");
        }
    }

    #[test]
    fn a_refusal_is_one_whatever_follows_it() {
        for reply in ["No such backend.\nNew server registered.", "New server registered.\nFailed."]
        {
            assert!(kind(&add(), reply).is_some(), "{reply:?} was taken for a success");
        }
    }

    #[test]
    fn a_refusal_says_what_where_and_which_line_to_change() {
        let rejection = classify(&state(), "No such server.").unwrap_err();
        assert_eq!(
            rejection.to_string(),
            "HAProxy refused `set server web/s1 state ready`: No such server."
        );
        assert!(rejection.remedy().unwrap().contains("`backend web` a `server-template` line"));
        let denied = classify(&state(), "Permission denied").unwrap_err();
        assert!(denied.remedy().unwrap().contains("`level admin`"));
        let silent = classify(&add(), "").unwrap_err();
        assert!(silent.to_string().ends_with("it said nothing where a text was due"), "{silent}");
    }
}
