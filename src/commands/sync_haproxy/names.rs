use std::collections::{BTreeMap, BTreeSet};

use super::problem::Problem;
use super::target::{Mode, Target};
use crate::haproxy::{AdminState, ObservedServer};
use crate::model::{ServerName, ServerPrefix, SlotNumber};

/// Which of a backend's servers are places for slots.
#[derive(Debug)]
pub struct Places<'a> {
    prefix: ServerPrefix,
    /// In the order of the slots, each once.
    pub slots: Vec<(SlotNumber, &'a ObservedServer)>,
    /// Servers that are named as places and that lbctl did not place: they are left alone, too.
    pub taken: BTreeMap<SlotNumber, &'a ObservedServer>,
    /// The other servers, which are left alone: names by id.
    pub foreign: BTreeMap<u32, String>,
}

/// Finds the places for slots among a backend's servers: those named PREFIX1, PREFIX2, ….
///
/// A target without a prefix is of slots mode, and its prefix is detected: there has to be just one
/// family of such names.
pub fn places<'a>(
    target: &Target,
    servers: &'a [ObservedServer],
    need: u32,
) -> Result<Places<'a>, Problem> {
    let prefix = match &target.prefix {
        Some(prefix) => prefix.clone(),
        None => detect(target, servers, need)?,
    };
    let (taken, foreign) = Default::default();
    let mut places = Places { prefix, slots: Vec::new(), taken, foreign };
    for server in servers {
        match places.prefix.slot(&server.name) {
            Some(slot) if is_place(target, slot, server) => places.slots.push((slot, server)),
            Some(slot) => {
                places.taken.insert(slot, server);
            }
            None => {
                places.foreign.insert(server.id, server.name.clone());
            }
        }
    }
    // HAProxy has them in this order already, unless they were added at runtime.
    places.slots.sort_by_key(|(slot, _)| *slot);
    places.slots.dedup_by_key(|(slot, _)| *slot);
    Ok(places)
}

/// Whether lbctl made a server, or its line was written for lbctl to fill: `disabled`, or without an
/// address. Any other one is somebody's, whatever its name, until lbctl is told to take it over.
fn is_place(target: &Target, slot: SlotNumber, server: &ObservedServer) -> bool {
    target.licence.take_over
        || match &target.mode {
            Mode::Slots => {
                let in_maint = server.admin.state() == AdminState::Maint;
                let empty = server.address.is_none_or(|ip| ip.is_unspecified());
                server.admin.is_disabled_in_configuration() || (in_maint && empty)
            }
            Mode::Dynamic(dynamic) => server.forced_id && server.id == dynamic.id_of(slot),
        }
}

impl Places<'_> {
    pub fn prefix(&self) -> &ServerPrefix {
        &self.prefix
    }

    pub fn get(&self, slot: SlotNumber) -> Option<&ObservedServer> {
        let at = self.slots.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        self.slots.get(at).map(|(_, server)| *server)
    }

    /// The name of a slot's server.
    pub fn name(&self, slot: SlotNumber) -> ServerName {
        self.prefix.server(slot)
    }

    /// The problem where fewer places are there than the table has slots.
    pub fn missing(&self, target: &Target, need: u32) -> Option<Problem> {
        if target.mode != Mode::Slots {
            return None;
        }
        let mut slots = self.slots.iter().map(|(slot, _)| *slot).peekable();
        let mut missing = SlotNumber::first(need).filter(|slot| slots.next_if_eq(slot).is_none());
        let first = missing.next()?;
        Some(Problem::TooFewPlaces {
            backend: target.backend.clone(),
            prefix: self.prefix.clone(),
            need,
            missing: 1 + missing.count(),
            first,
            taken: self.taken.values().map(|server| server.name.clone()).collect(),
        })
    }
}

fn detect(target: &Target, servers: &[ObservedServer], need: u32) -> Result<ServerPrefix, Problem> {
    let of_family = |server: &ObservedServer| {
        let prefix = family(&server.name)?;
        let slot = prefix.slot(&server.name)?;
        Some((prefix, is_place(target, slot, server)))
    };
    let (places, others): (Vec<_>, Vec<_>) =
        servers.iter().filter_map(of_family).partition(|(_, is_place)| *is_place);
    // Beside places, servers of other names are no reason to ask.
    let found = if places.is_empty() { others } else { places };
    let families: BTreeSet<ServerPrefix> = found.into_iter().map(|(prefix, _)| prefix).collect();
    let backend = target.backend.clone();
    let mut names = families.into_iter();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(from_one(only, servers)),
        (None, _) => Err(Problem::NoPlaces { backend, need }),
        (Some(first), Some(second)) => {
            let families = [first, second].into_iter().chain(names).collect();
            Err(Problem::Ambiguous { backend, named_by: target.named_by(), families })
        }
    }
}

/// The prefix of a family that ends in digits, where its numbers begin at 1 only behind them: `pg15` of
/// `pg151`, `pg152`, …, which are no places 151, 152, …
fn from_one(family: ServerPrefix, servers: &[ObservedServer]) -> ServerPrefix {
    let names = || servers.iter().map(|server| server.name.as_str());
    if names().any(|name| family.slot(name).is_some_and(|slot| slot.get() == 1)) {
        return family;
    }
    let members: Vec<&str> = names().filter(|name| family.slot(name).is_some()).collect();
    let is_from_one = |prefix: &ServerPrefix| {
        let slots: BTreeSet<SlotNumber> = members.iter().filter_map(|n| prefix.slot(n)).collect();
        slots.len() == members.len() && slots.into_iter().eq(SlotNumber::first(slots_of(&members)))
    };
    let shortest = members.iter().copied().min_by_key(|name| name.len()).unwrap_or_default();
    let longer = family.as_str().len() + 1..shortest.len();
    let mut prefixes = longer.filter_map(|end| shortest.get(..end)?.parse::<ServerPrefix>().ok());
    prefixes.find(is_from_one).unwrap_or(family)
}

fn slots_of(members: &[&str]) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}

/// `srv` of `srv12`.
fn family(name: &str) -> Option<ServerPrefix> {
    let prefix: ServerPrefix = name.trim_end_matches(|c: char| c.is_ascii_digit()).parse().ok()?;
    prefix.slot(name).map(|_| prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::testing::{named, target};

    fn found(names: &[&str]) -> Result<Vec<u32>, Problem> {
        let servers: Vec<ObservedServer> = names.iter().map(|name| named(name)).collect();
        let detecting = Target { prefix: None, ..target() };
        places(&detecting, &servers, 2).map(|p| p.slots.iter().map(|(s, _)| s.get()).collect())
    }

    #[test]
    fn the_only_family_of_numbered_names_is_found() {
        assert_eq!(found(&["web-1", "web-2", "backup"]), Ok(vec![1, 2]));
        assert_eq!(found(&["a1b7"]), Ok(vec![7]));
    }

    #[test]
    fn a_prefix_that_ends_in_a_digit_is_found_where_the_numbers_begin_behind_it() {
        let pg15: Vec<String> = (1..=12).map(|n| format!("pg15{n}")).collect();
        let names: Vec<&str> = pg15.iter().map(String::as_str).collect();
        assert_eq!(found(&names), Ok((1..=12).collect()));
        assert_eq!(found(&["s31", "s32"]), Ok(vec![1, 2]));
        assert_eq!(found(&["pg151"]), Ok(vec![1]));
        let from_one: Vec<String> = (1..=19).map(|n| format!("web{n}")).collect();
        let names: Vec<&str> = from_one.iter().map(String::as_str).collect();
        assert_eq!(found(&names), Ok((1..=19).collect()));
        assert_eq!(found(&["web3", "web4"]), Ok(vec![3, 4]));
        assert_eq!(found(&["web20", "web30"]), Ok(vec![20, 30]));
    }

    #[test]
    fn none_or_several_families_are_a_problem_that_says_what_to_write() {
        let none = found(&["backup", "other01"]).unwrap_err().to_string();
        assert!(none.contains("server-template srv 1-2 "), "{none}");
        let several = found(&["srv1", "old1", "old2"]).unwrap_err().to_string();
        assert!(
            several.contains("(old, srv)") && several.contains("--backend app/old"),
            "{several}"
        );
    }

    #[test]
    fn missing_places_name_the_line_to_change() {
        let servers = [named("srv1"), named("srv2")];
        let places = places(&target(), &servers, 4).unwrap();
        assert_eq!(places.missing(&target(), 2), None);
        let problem = places.missing(&target(), 4).unwrap().to_string();
        assert!(
            problem.contains("no place for 2 of the table's 4 slots, the first is srv3"),
            "{problem}"
        );
        assert!(problem.contains("\"server-template srv 1-4 "), "{problem}");
    }
}
