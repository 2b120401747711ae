use std::fmt;

use crate::model::{BackendName, ServerAddress, ServerName, Weight};

/// `backend/server`, both of checked characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerRef {
    pub backend: BackendName,
    pub server: ServerName,
}

impl fmt::Display for ServerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

/// An administrative state, in HAProxy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdminState {
    Ready,
    Drain,
    Maint,
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        })
    }
}

/// One change of one server. Its `Display` is the line HAProxy reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    SetAddress {
        server: ServerRef,
        address: ServerAddress,
        /// The server's port is that of its line; the address' own is not sent.
        keep_port: bool,
    },
    SetWeight {
        server: ServerRef,
        weight: Weight,
    },
    SetState {
        server: ServerRef,
        state: AdminState,
    },
    /// Forces the health to down, so that a server serves only once its checks have passed.
    SetHealthDown {
        server: ServerRef,
    },
    EnableHealth {
        server: ServerRef,
    },
    EnableAgent {
        server: ServerRef,
    },
    /// Stops asking its agent, whose word counts no more.
    DisableAgent {
        server: ServerRef,
    },
    /// Takes its agent for content until it says otherwise, as one of the configuration is.
    SetAgentUp {
        server: ServerRef,
    },
    /// Cuts the sessions that a server has, some time after the reply.
    EndSessions {
        server: ServerRef,
    },
    /// `id` is the slot's fixed number; `options` are further words of the configuration's own
    /// (`check`, `inter 2s`), never from outside.
    AddServer {
        server: ServerRef,
        address: ServerAddress,
        id: u32,
        weight: Weight,
        options: String,
    },
    DelServer {
        server: ServerRef,
    },
}

impl Command {
    pub fn server(&self) -> &ServerRef {
        match self {
            Self::SetAddress { server, .. }
            | Self::SetWeight { server, .. }
            | Self::SetState { server, .. }
            | Self::SetHealthDown { server }
            | Self::EnableHealth { server }
            | Self::EnableAgent { server }
            | Self::DisableAgent { server }
            | Self::SetAgentUp { server }
            | Self::EndSessions { server }
            | Self::AddServer { server, .. }
            | Self::DelServer { server } => server,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAddress { server, address, keep_port: true } => {
                write!(f, "set server {server} addr {}", address.ip())
            }
            Self::SetAddress { server, address, keep_port: false } => {
                write!(f, "set server {server} addr {} port {}", address.ip(), address.port())
            }
            Self::SetWeight { server, weight } => write!(f, "set server {server} weight {weight}"),
            Self::SetState { server, state } => write!(f, "set server {server} state {state}"),
            Self::SetHealthDown { server } => write!(f, "set server {server} health down"),
            Self::EnableHealth { server } => write!(f, "enable health {server}"),
            Self::EnableAgent { server } => write!(f, "enable agent {server}"),
            Self::DisableAgent { server } => write!(f, "disable agent {server}"),
            Self::SetAgentUp { server } => write!(f, "set server {server} agent up"),
            Self::EndSessions { server } => write!(f, "shutdown sessions server {server}"),
            Self::AddServer { server, address, id, weight, options } => {
                write!(f, "add server {server} {address} id {id} weight {weight}")?;
                if options.is_empty() { Ok(()) } else { write!(f, " {options}") }
            }
            Self::DelServer { server } => write!(f, "del server {server}"),
        }
    }
}
