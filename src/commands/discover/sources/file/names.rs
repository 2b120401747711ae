use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use super::format::{HostPort, Listed, Place};
use crate::commands::discover::plan::Answer;
use crate::commands::discover::sources::SourceOptions;
use crate::commands::discover::sources::resolve::{Host, Lookup, TTL, Timed};
use crate::daemon::Backoff;
use crate::model::ServerAddress;

/// How many names are asked for at a time.
const AT_ONCE: usize = 16;

/// The host names of a list, and where they lead. Each is asked for again when its time to live is
/// over; one that cannot be resolved leads where it led before.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, Name>);

#[derive(Debug)]
struct Name {
    /// The same one for as long as the name has it: a list has one server for each entry.
    address: Option<IpAddr>,
    /// How many it has.
    count: usize,
    /// Why the last question had no answer.
    error: Option<String>,
    due: Instant,
    backoff: Backoff,
}

impl Name {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        Self { address: None, count: 0, error: None, due: Instant::now(), backoff }
    }

    fn learn(&mut self, host: Timed<Host>) {
        let wait = match host {
            Ok((host, ttl)) => {
                let kept = self.address.filter(|ip| host.addresses.contains(ip));
                self.address = kept.or_else(|| host.addresses.first().copied());
                (self.count, self.error) = (host.addresses.len(), None);
                ttl.clamp(*TTL.start(), *TTL.end())
            }
            Err(error) => {
                self.error = Some(error);
                self.backoff.next_wait()
            }
        };
        self.due = Instant::now() + wait;
    }
}

impl Names {
    /// Asks for the names of a list that are due, and forgets others.
    pub async fn refresh(&mut self, list: &[Listed], options: &SourceOptions) {
        let hosts: BTreeSet<&str> = list.iter().filter_map(host).map(|h| h.host.as_str()).collect();
        self.0.retain(|name, _| hosts.contains(name.as_str()));
        for host in hosts {
            self.0.entry(host.to_owned()).or_insert_with(Name::new);
        }
        let now = Instant::now();
        let due: Vec<String> =
            self.0.iter().filter(|(_, name)| name.due <= now).map(|(n, _)| n.clone()).collect();
        if due.is_empty() {
            return;
        }
        let lookup = Lookup::of_one_family(options);
        let ask = async |name: String| {
            let host = match &lookup {
                Ok(lookup) => lookup.host(&name).await,
                Err(error) => Err(error.clone()),
            };
            (name, host)
        };
        let mut answers = stream::iter(due).map(ask).buffer_unordered(AT_ONCE);
        // Each is noted as it comes, so that a look that is given up is not for nothing.
        while let Some((name, host)) = answers.next().await {
            if let Some(name) = self.0.get_mut(&name) {
                name.learn(host);
            }
        }
    }

    /// When the next name is to be asked for.
    pub fn due(&self) -> Option<Instant> {
        self.0.values().map(|name| name.due).min()
    }

    /// The list with the addresses of its names, or an error where nothing of it can be read.
    pub fn answer(&self, list: &[Listed]) -> Result<Answer, String> {
        let read: Vec<_> = list.iter().map(|listed| (listed, self.find(listed))).collect();
        let errors: Vec<&String> = read.iter().filter_map(|(_, at)| at.as_ref().err()).collect();
        if errors.len() == list.len()
            && let Some(error) = errors.first()
        {
            return Err((*error).clone());
        }
        let endpoints = read.iter().filter_map(|(listed, at)| Some(listed.at(*at.as_ref().ok()?)));
        let mut answer = Answer::of(endpoints);
        for (listed, at) in &read {
            let id = listed.id.clone();
            if let Err(error) = at {
                answer.notes.push(format!("{error}: server {id} is neither placed nor moved"));
                let set = if listed.leaving { &mut answer.leaving } else { &mut answer.unreadable };
                set.insert(id);
            }
        }
        answer.notes.extend(self.0.iter().filter_map(|(name, known)| known.note(name)));
        Ok(answer)
    }

    fn find(&self, listed: &Listed) -> Result<ServerAddress, String> {
        let HostPort { host, port } = match &listed.place {
            Place::Address(address) => return Ok(*address),
            Place::Host(host) => host,
        };
        let known = self.0.get(host);
        let error = || known.and_then(|name| name.error.clone());
        let ip = known.and_then(|name| name.address);
        let ip = ip.ok_or_else(|| error().unwrap_or_else(|| format!("{host}: no answer yet")))?;
        ServerAddress::new(ip, *port).map_err(|error| error.to_string())
    }
}

impl Name {
    /// What a person should know of it.
    fn note(&self, name: &str) -> Option<String> {
        let address = self.address?;
        match &self.error {
            Some(error) => Some(format!("{error}: {name} stays at {address}")),
            None if self.count > 1 => Some(format!(
                "{name} has {} addresses and {address} alone is taken: dns:{name}:PORT takes all",
                self.count
            )),
            None => None,
        }
    }
}

fn host(listed: &Listed) -> Option<&HostPort> {
    match &listed.place {
        Place::Address(_) => None,
        Place::Host(host) => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::discover::sources::file::Format;

    const LIST: &str = "- 10.0.0.9:80\n- app1.test:80\n- {address: 'app1.test:81', id: b}\n\
        - {address: 'gone.test:80', id: g, leaving: true}\n";

    fn list(text: &str) -> Vec<Listed> {
        Format::Yaml.parse(text).unwrap()
    }

    fn host(addresses: &[&str]) -> Timed<Host> {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Ok((Host { addresses, ..Host::default() }, Duration::from_secs(7)))
    }

    fn servers(names: &Names, text: &str) -> Vec<String> {
        let answer = names.answer(&list(text)).unwrap();
        answer.endpoints.values().map(|e| format!("{} {}", e.id, e.address)).collect()
    }

    #[test]
    fn a_name_keeps_its_address_while_it_has_it_and_while_it_cannot_be_asked_for() {
        let mut names = Names::default();
        let mut learn = |host| {
            names.0.entry("app1.test".into()).or_insert_with(Name::new).learn(host);
            let notes = names.answer(&list(LIST)).unwrap().notes.join("\n");
            (servers(&names, LIST)[1].clone(), notes)
        };
        let (first, _) = learn(host(&["10.0.0.2", "10.0.0.5"]));
        assert_eq!(first, "app1.test:80 10.0.0.2:80");
        let (same, notes) = learn(host(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(same, first);
        assert!(notes.contains("app1.test has 2 addresses and 10.0.0.2 alone"), "{notes}");
        let (same, notes) = learn(Err("app1.test A: Server Failure".into()));
        assert_eq!(same, first);
        assert!(notes.contains("Server Failure: app1.test stays at 10.0.0.2"), "{notes}");
        assert_eq!(learn(host(&["10.0.0.3"])).0, "app1.test:80 10.0.0.3:80");
        assert_eq!(
            servers(&names, LIST),
            ["10.0.0.9:80 10.0.0.9:80", "app1.test:80 10.0.0.3:80", "b 10.0.0.3:81"]
        );
    }

    #[test]
    fn a_name_that_was_never_resolved_is_neither_placed_nor_removed() {
        let names = Names::default();
        let answer = names.answer(&list(LIST)).unwrap();
        assert_eq!(answer.endpoints.len(), 1);
        let unreadable = ["app1.test:80", "b"].map(|id| id.parse().unwrap());
        assert_eq!(answer.unreadable, unreadable.into());
        // Where it is does not matter any more.
        assert_eq!(answer.leaving, ["g".parse().unwrap()].into());
        assert!(names.answer(&list("- app1.test:80\n")).is_err());
        assert!(names.answer(&[]).unwrap().is_empty());
    }
}
