use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::predict::predict;
use crate::haproxy::{self, Command, Glance, Glances, Observed, ObservedServer, Session};

/// What HAProxy writes of one server alone is as long as so many rows of a whole backend.
const ROWS_OF_A_GLANCE: usize = 32;

/// The few servers that commands have changed, and what they should be now.
///
/// HAProxy shows a whole backend or, with less detail, one server. Where few of many have changed,
/// each is predicted and seen to be so as far as a glance tells; whatever differs is a reason for a
/// look at everything. So is every pass, at its beginning.
#[derive(Debug)]
pub struct Changed {
    servers: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    /// The backend's number and the server's.
    at: (u32, u32),
    backend: String,
    /// In the order of the observation.
    index: usize,
    expected: ObservedServer,
}

impl Changed {
    /// `None` where a look at everything is as good: many servers, or some that came or went or whose
    /// checks changed, which a glance does not show.
    pub fn by(commands: &[Command], observed: &Observed) -> Option<Self> {
        let mut by_name: BTreeMap<(&str, &str), Vec<&Command>> = BTreeMap::new();
        for command in commands {
            match command {
                Command::SetAddress { .. }
                | Command::SetWeight { .. }
                | Command::SetState { .. }
                | Command::SetHealthDown { .. } => {}
                Command::EnableHealth { .. }
                | Command::EnableAgent { .. }
                | Command::DisableAgent { .. }
                | Command::SetAgentUp { .. }
                | Command::EndSessions { .. }
                | Command::AddServer { .. }
                | Command::DelServer { .. } => return None,
            }
            let server = command.server();
            let name = (server.backend.as_str(), server.server.as_str());
            by_name.entry(name).or_default().push(command);
        }
        let all: usize = observed.backends.values().map(Vec::len).sum();
        if by_name.len() * ROWS_OF_A_GLANCE >= all {
            return None;
        }
        let place = |((backend, server), commands): ((&str, &str), Vec<&Command>)| {
            let servers = observed.backends.get(backend)?;
            let index = servers.iter().position(|s| s.name == server)?;
            let mut expected = vec![servers.get(index)?.clone()];
            commands.into_iter().for_each(|command| predict(&mut expected, command));
            let expected = expected.pop()?;
            let at = (*observed.proxies.get(backend)?, expected.id);
            Some(Place { at, backend: backend.to_owned(), index, expected })
        };
        let servers = by_name.into_iter().map(place).collect::<Option<_>>()?;
        Some(Self { servers })
    }

    /// What a glance at them is asked for by.
    pub fn numbers(&self) -> Vec<(u32, u32)> {
        self.servers.iter().map(|place| place.at).collect()
    }

    /// Looks until each server is what it should be, or an address has had its time to show, and
    /// notes that in the observation. False where one is not: nobody knows then what is.
    pub async fn show(
        &self,
        session: &mut Session,
        observed: &mut Observed,
    ) -> haproxy::Result<bool> {
        let deadline = Instant::now() + haproxy::ADDRESS_SETTLES;
        let mut wait = Duration::from_millis(2);
        let numbers = self.numbers();
        loop {
            let glances = session.glance(&numbers).await?;
            if self.note(glances, observed) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }

    /// Notes in the observation what a glance at [`Self::numbers`] has shown. False, and nothing
    /// noted of the servers, where one is not what it should be.
    pub fn note(&self, glances: Glances, observed: &mut Observed) -> bool {
        observed.process = glances.process;
        let mut pairs = self.servers.iter().zip(&glances.servers);
        let shows = |(place, glance): (&Place, &Option<Glance>)| {
            glance.as_ref().is_some_and(|glance| glance.agrees_with(&place.expected))
        };
        if glances.servers.len() != self.servers.len() || !pairs.all(shows) {
            return false;
        }
        for Place { backend, index, expected, .. } in &self.servers {
            let servers = observed.backends.get_mut(backend);
            if let Some(server) = servers.and_then(|servers| servers.get_mut(*index)) {
                server.clone_from(expected);
            }
        }
        true
    }
}
