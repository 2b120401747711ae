use serde_json::{Value, json};

use super::View;
use super::adopt::Adoption;
use crate::commands::discover::report::{first, news};
use crate::daemon::{Gate, Health};
use crate::hsdo::{Row, Rows, ServerWeights};
use crate::metrics::{Gauges, Scope};
use crate::model::BackendName;

/// HSDO's table as a pass saw it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// `None` while another process leads.
    pub view: Option<&'a View>,
    pub adoption: &'a Adoption,
    pub slots: u32,
}

/// Tells people and machines how HSDO's table is.
#[derive(Debug)]
pub struct Teller {
    backend: BackendName,
    gate: Option<Gate>,
    health: Health,
    weights: ServerWeights,
    metrics: Scope,
    said: Vec<String>,
}

impl Teller {
    pub fn new(backend: BackendName, gate: Option<Gate>) -> Self {
        let health = Health::new(format!("HSDO's table of backend {backend}"));
        let (weights, metrics) = (ServerWeights::default(), Scope::default());
        Self { backend, gate, health, weights, metrics, said: Vec::new() }
    }

    /// Takes in what a pass saw.
    pub fn seen(&mut self, seen: &Seen<'_>) {
        let error = seen.view.and_then(|view| view.error.as_ref());
        match error {
            Some(error) => self.health.failed(error),
            None => self.health.succeeded(),
        }
        let waits = seen.view.is_some_and(|view| view.rows.is_none());
        match (&self.gate, error) {
            (Some(gate), Some(error)) => gate.close(error.as_str()),
            (Some(gate), None) if waits => gate.close("no answer yet"),
            (Some(gate), None) => gate.open(),
            (None, _) => {}
        }
        let rows = seen.view.and_then(|view| view.rows.as_deref());
        match rows {
            Some(rows) => self.weights.show(rows),
            None => self.weights.clear(),
        }
        let notes = rows.map(|rows| notes(rows, seen)).unwrap_or_default();
        let set = |family: &'static Gauges<1>, value: f64| {
            self.metrics.series(family, [self.backend.to_string()]).set(value);
        };
        set(&FAILING, if error.is_some() { 1.0 } else { 0.0 });
        set(&ODD_ROWS, notes.len() as f64);
        let notes = first(&notes);
        for note in news(&notes, &self.said) {
            tracing::warn!(backend = %self.backend, "{note}");
        }
        self.said = notes;
    }

    pub fn status(&self, seen: &Seen<'_>) -> Value {
        let rows = seen.view.and_then(|view| view.rows.as_deref());
        let held = rows.map(|rows| rows.sound().filter_map(Row::holder).count());
        json!({
            "error": seen.view.and_then(|view| view.error.as_ref()),
            "servers": held,
            "notes": self.said,
        })
    }
}

static FAILING: Gauges<1> = Gauges::new(
    "lbctl_discover_hsdo_failing",
    "1 while the leader cannot read or write HSDO's table",
    ["backend"],
);
static ODD_ROWS: Gauges<1> = Gauges::new(
    "lbctl_discover_hsdo_odd_rows",
    "Rows of HSDO's table that are left alone, since they are damaged, without a slot or held by a server that the source does not see",
    ["backend"],
);

/// What a person should know of the rows.
fn notes(rows: &Rows, seen: &Seen<'_>) -> Vec<String> {
    let damaged = rows.errors().map(|error| {
        format!(
            "{error}; it is left alone and its slot given to nobody: correct it, or delete it and \
             discover makes it anew"
        )
    });
    let slots = seen.slots;
    let beyond = rows.iter().filter(|(slot, _)| slot.get() > slots).map(|(slot, stored)| {
        let holder = stored.row.as_ref().ok().and_then(Row::holder);
        let holder = holder.map(|server| format!(", with {}", server.name)).unwrap_or_default();
        format!(
            "row {slot} of HSDO's table is beyond the {slots} slots of the backend{holder}; it is \
             left alone: set slots = {slot}, or delete the row"
        )
    });
    let strangers = seen.adoption.strangers.iter().map(|(slot, server)| {
        format!(
            "row {slot} of HSDO's table has {} at {}, which the source does not see; it is left \
             alone until enough looks in a row have missed it",
            server.name, server.ip
        )
    });
    damaged.chain(beyond).chain(strangers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsdo::{LastUpdate, Server};
    use crate::model::{SlotNumber, Weight};

    fn slot(number: u32) -> SlotNumber {
        SlotNumber::new(number).unwrap()
    }

    #[test]
    fn each_odd_row_is_named_with_what_becomes_of_it() {
        let name = "i-7".parse().unwrap();
        let server = Server { ip: "10.0.0.7".parse().unwrap(), name, group: None };
        let weight = Weight::saturating(3);
        let held = |number| Row {
            slot: slot(number),
            server: Some(server.clone()),
            weight,
            enabled: true,
            updated: LastUpdate::never(),
        };
        let mut damaged = Row::free(slot(1)).to_item();
        damaged.remove("Weight");
        let items = [damaged, held(2).to_item(), held(9).to_item(), Row::free(slot(8)).to_item()];
        let strangers = [(slot(2), server.clone())].into();
        let adoption = Adoption { strangers, ..Adoption::default() };
        let seen = Seen { view: None, adoption: &adoption, slots: 4 };
        let notes = notes(&Rows::read(items), &seen);
        for (note, parts) in notes.iter().zip([
            ["row 1 of HSDO's table cannot be read: Weight is missing", "correct it, or delete it"],
            ["row 8 of HSDO's table is beyond the 4 slots of the backend;", "set slots = 8"],
            ["row 9 of HSDO's table is beyond the 4 slots of the backend, with i-7;", "slots = 9"],
            ["row 2 of HSDO's table has i-7 at 10.0.0.7", "which the source does not see"],
        ]) {
            assert!(parts.iter().all(|part| note.contains(part)), "{note}");
        }
        assert_eq!(notes.len(), 4);
    }
}
