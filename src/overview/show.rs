//! A snapshot as text for people.

use std::fmt::Write as _;

use comfy_table::{Cell, Color, Table};

use super::{BackendView, HaproxyView, SlotView, Snapshot};
use crate::model::{EndpointId, SlotState, Timestamp};
use crate::output;
use crate::text::one_line;

/// How many endpoints without a slot are named.
const NAMED: usize = 10;

/// The whole picture; nothing to show is said in a sentence.
pub fn render(snapshot: &Snapshot) -> String {
    let Snapshot { at, backends, haproxies, leaders, unreadable } = snapshot;
    let mut parts: Vec<String> =
        backends.iter().map(|backend| backend_part(backend, *at)).collect();
    if !haproxies.is_empty() {
        parts.push(haproxies_part(haproxies));
    }
    if !leaders.is_empty() {
        let mut table = output::table(["ELECTION", "LEADER", "TOKEN", "SINCE"]);
        for leader in leaders {
            let since = leader.since.map_or("-".into(), |since| age(since, *at));
            table.add_row([&leader.election, &leader.leader, &leader.token.to_string(), &since]);
        }
        parts.push(output::render(&table));
    }
    if !unreadable.is_empty() {
        let lines =
            unreadable.iter().map(|(key, why)| format!("unreadable {}: {why}\n", one_line(key)));
        parts.push(lines.collect());
    }
    if parts.is_empty() {
        return "the store holds no table yet: run `lbctl discover` to make one\n".into();
    }
    parts.join("\n")
}

fn backend_part(backend: &BackendView, now: Timestamp) -> String {
    let mut text = headline(backend);
    if !backend.unplaced.is_empty() {
        // Writing to a String cannot fail.
        _ = writeln!(text, "{}", unplaced(&backend.unplaced));
    }
    if backend.slots.is_empty() {
        return text;
    }
    let mut table =
        output::table(["SLOT", "SERVER", "ADDRESS", "GROUP", "ZONE", "WEIGHT", "STATE", "SINCE"]);
    for slot in &backend.slots {
        add_slot(&mut table, slot, now);
    }
    text + &output::render(&table)
}

/// The first few by name: a person wants to know how many, and an example.
fn unplaced(endpoints: &[EndpointId]) -> String {
    let named: Vec<&str> = endpoints.iter().take(NAMED).map(AsRef::as_ref).collect();
    let more = if endpoints.len() > NAMED { ", …" } else { "" };
    format!("no slot is free for {}: {}{more}", endpoints.len(), named.join(", "))
}

fn headline(backend: &BackendView) -> String {
    let count = |state| backend.slots.iter().filter(|slot| slot.state == state).count();
    let free = match backend.slot_count {
        Some(slots) => format!(
            "{} of {slots} slots free",
            (slots as usize).saturating_sub(backend.slots.len())
        ),
        None => "its spec is missing".into(),
    };
    format!(
        "backend {}: {} ready, {} draining, {} resting, {free}\n",
        backend.name,
        count(SlotState::Ready),
        count(SlotState::Drain),
        count(SlotState::Rest),
    )
}

fn add_slot(table: &mut Table, slot: &SlotView, now: Timestamp) {
    let weight = match (slot.weight, slot.target) {
        (Some(weight), Some(target)) if weight == target => weight.to_string(),
        (Some(weight), Some(target)) => format!("{weight} → {target}"),
        _ => "-".into(),
    };
    let dash = |text: &Option<String>| Cell::new(text.as_deref().unwrap_or("-"));
    table.add_row([
        Cell::new(slot.slot),
        Cell::new(&slot.server),
        Cell::new(slot.address),
        dash(&slot.group),
        dash(&slot.zone),
        Cell::new(weight),
        state_cell(slot.state),
        Cell::new(age(slot.since, now)),
    ]);
}

fn state_cell(state: SlotState) -> Cell {
    match state {
        SlotState::Ready => Cell::new("ready").fg(Color::Green),
        SlotState::Drain => Cell::new("drain").fg(Color::Yellow),
        SlotState::Rest => Cell::new("rest").fg(Color::DarkGrey),
    }
}

fn haproxies_part(haproxies: &[HaproxyView]) -> String {
    let mut table =
        output::table(["HAPROXY", "VERSION", "PID", "BACKEND", "STATE", "DRAINING", "LAG"]);
    let mut problems = String::new();
    for view in haproxies {
        let dash = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".into()));
        table.add_row([
            Cell::new(&view.name),
            dash(view.version.clone()),
            dash(view.pid.map(|pid| pid.to_string())),
            Cell::new(&view.backend),
            convergence(view),
            Cell::new(sessions(view.draining_sessions)),
            Cell::new(lag(view)),
        ]);
        if let Some(problem) = &view.problem {
            _ = writeln!(problems, "{} {}: {problem}", view.name, view.backend);
        }
    }
    output::render(&table) + &problems
}

fn convergence(view: &HaproxyView) -> Cell {
    match (&view.problem, view.converged) {
        (Some(_), _) => Cell::new("problem").fg(Color::Red),
        (None, true) => Cell::new("converged").fg(Color::Green),
        (None, false) => Cell::new(differ(view.drift.max(view.slots_behind))).fg(Color::Yellow),
    }
}

fn sessions(count: u64) -> String {
    match count {
        0 => "-".into(),
        1 => "1 session".into(),
        count => format!("{count} sessions"),
    }
}

fn lag(view: &HaproxyView) -> String {
    let waits = short(view.behind_ms / 1000);
    match view.slots_behind {
        0 => "none".into(),
        1 => format!("1 slot, {waits}"),
        slots => format!("{slots} slots, {waits}"),
    }
}

fn differ(slots: u32) -> String {
    match slots {
        // A change of the spec alone, or a look that is not over yet.
        0 => "not yet".into(),
        1 => "1 slot differs".into(),
        slots => format!("{slots} slots differ"),
    }
}

fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(since.as_second());
    format!("{} ago", short(u64::try_from(seconds).unwrap_or(0)))
}

/// Two units at most, as a person says it.
fn short(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m{}s", seconds / 60, seconds % 60),
        7_200..=172_799 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LeaderView;
    use super::*;
    use crate::model::Weight;
    use crate::store::Revision;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn picture() -> Snapshot {
        let slot = |slot: u32, state, weight: Option<u64>| SlotView {
            slot: slot.try_into().unwrap(),
            server: format!("app-{slot}"),
            address: format!("10.0.0.{slot}:80").parse().unwrap(),
            group: None,
            zone: Some("eu-1a".into()),
            weight: weight.map(Weight::saturating),
            target: weight.map(|_| Weight::saturating(100)),
            state,
            since: at(0),
        };
        Snapshot {
            at: at(150),
            backends: vec![BackendView {
                name: "web".parse().unwrap(),
                slot_count: Some(5),
                slots: vec![
                    slot(1, SlotState::Ready, Some(100)),
                    slot(2, SlotState::Ready, Some(40)),
                    slot(3, SlotState::Drain, None),
                ],
                unplaced: vec!["i-9".parse().unwrap()],
            }],
            haproxies: vec![HaproxyView {
                name: "lb-1".into(),
                version: Some("2.6.12".into()),
                pid: Some(7),
                backend: "web".parse().unwrap(),
                converged: false,
                drift: 1,
                slots_behind: 1,
                behind_ms: 3_000,
                draining_sessions: 2,
                problem: None,
            }],
            leaders: vec![LeaderView {
                election: "discover-web".into(),
                leader: "host-1".into(),
                token: Revision(12),
                since: None,
            }],
            unreadable: [("backends/web/slots/00004".into(), "expected value".into())].into(),
        }
    }

    #[test]
    fn the_picture_as_a_person_reads_it() {
        let plain = anstream::adapter::strip_str(&render(&picture())).to_string();
        assert_eq!(
            plain,
            "\
backend web: 2 ready, 1 draining, 0 resting, 2 of 5 slots free
no slot is free for 1: i-9
SLOT  SERVER  ADDRESS      GROUP  ZONE   WEIGHT    STATE  SINCE
1     app-1   10.0.0.1:80  -      eu-1a  100       ready  2m30s ago
2     app-2   10.0.0.2:80  -      eu-1a  40 → 100  ready  2m30s ago
3     app-3   10.0.0.3:80  -      eu-1a  -         drain  2m30s ago

HAPROXY  VERSION  PID  BACKEND  STATE           DRAINING    LAG
lb-1     2.6.12   7    web      1 slot differs  2 sessions  1 slot, 3s

ELECTION      LEADER  TOKEN  SINCE
discover-web  host-1  12     -

unreadable backends/web/slots/00004: expected value
"
        );
    }

    #[test]
    fn many_endpoints_without_a_slot_do_not_flood_the_screen() {
        let ids: Vec<EndpointId> = (0..300).map(|i| format!("i-{i}").parse().unwrap()).collect();
        let line = unplaced(&ids);
        assert!(
            line.starts_with("no slot is free for 300: i-0, i-1") && line.len() < 120,
            "{line}"
        );
    }

    #[test]
    fn an_empty_store_says_what_to_do() {
        let empty = Snapshot {
            backends: Vec::new(),
            haproxies: Vec::new(),
            leaders: Vec::new(),
            unreadable: Default::default(),
            ..picture()
        };
        assert!(render(&empty).contains("lbctl discover"));
    }
}
