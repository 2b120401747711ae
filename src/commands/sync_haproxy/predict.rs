use std::net::IpAddr;

use crate::haproxy::{AdminFlags, AdminState, Command, ObservedServer};
use crate::model::ServerAddress;

/// The flags that the three states set (management guide, "show servers state").
const MAINT: u32 = 0x01;
const DRAIN: u32 = 0x08;
const READY: u32 = 0;

/// That the configuration has `disabled` is not forgotten.
const LASTING: u32 = 0x04;

/// Makes a command happen to an observed backend as HAProxy would, with an address that changes at
/// once. For showing a whole plan without touching HAProxy, and for tests.
pub fn predict(servers: &mut Vec<ObservedServer>, command: &Command) {
    let name = command.server().server.as_str();
    match command {
        Command::AddServer { address, id, weight, options, .. } => {
            let checked = options.split_whitespace().any(|word| word == "check");
            servers.push(added(name, *id, *address, weight.get(), checked));
        }
        Command::DelServer { .. } => servers.retain(|server| server.name != name),
        Command::SetAddress { .. }
        | Command::SetWeight { .. }
        | Command::SetState { .. }
        | Command::SetHealthDown { .. }
        | Command::EnableHealth { .. }
        | Command::EnableAgent { .. }
        | Command::DisableAgent { .. }
        | Command::SetAgentUp { .. }
        | Command::EndSessions { .. } => {
            if let Some(server) = servers.iter_mut().find(|server| server.name == name) {
                change(server, command);
            }
        }
    }
}

fn added(name: &str, id: u32, at: ServerAddress, weight: u16, checked: bool) -> ObservedServer {
    ObservedServer {
        id,
        name: name.to_owned(),
        address: Some(at.ip()),
        port: at.port(),
        port_is_own: false,
        port_is_mapped: false,
        has_name: false,
        admin: AdminFlags(MAINT),
        operational: 0,
        weight,
        initial_weight: weight,
        checked,
        check_enabled: false,
        forced_id: true,
        has_agent: false,
        agent_enabled: false,
        uses_tls: false,
        sessions: Some(0),
    }
}

fn change(server: &mut ObservedServer, command: &Command) {
    match command {
        Command::SetAddress { address, keep_port, .. } => {
            server.address = Some(IpAddr::to_canonical(&address.ip()));
            if !keep_port {
                server.port = address.port();
            }
        }
        Command::SetWeight { weight, .. } => server.weight = weight.get(),
        Command::SetState { state, .. } => set_state(server, *state),
        Command::SetHealthDown { .. } => server.operational = 0,
        Command::EnableHealth { .. } => server.check_enabled = server.checked,
        Command::EndSessions { .. } => server.sessions = Some(0),
        Command::EnableAgent { .. } => server.agent_enabled = server.has_agent,
        Command::DisableAgent { .. } => server.agent_enabled = false,
        Command::SetAgentUp { .. } | Command::AddServer { .. } | Command::DelServer { .. } => {}
    }
}

fn set_state(server: &mut ObservedServer, state: AdminState) {
    let was_maint = server.admin.state() == AdminState::Maint;
    let flags = match state {
        AdminState::Maint => {
            server.operational = 0;
            MAINT
        }
        AdminState::Drain => DRAIN,
        AdminState::Ready => READY,
    };
    server.admin = AdminFlags(server.admin.0 & LASTING | flags);
    if was_maint && state != AdminState::Maint {
        // UP before any check.
        server.operational = 2;
    }
}
