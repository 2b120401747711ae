use std::net::IpAddr;

use serde::Serialize;

use super::plan::{Plan, UnplacedReason};
use crate::hsdo::Row;
use crate::model::{BackendName, EndpointId, SlotNumber, Weight};
use crate::output::{render, table};

/// How many endpoints without a slot are named for people.
const MAX_NAMED: usize = 20;

/// A backend's plan, as it is printed.
#[derive(Debug, Serialize)]
pub struct PlannedBackend {
    pub backend: BackendName,
    #[serde(flatten)]
    pub plan: Plan,
    /// What is to be written into HSDO's table, where it is kept too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hsdo_rows: Vec<PlannedRow>,
}

/// A row of HSDO's table, as it is to be.
#[derive(Debug, Serialize)]
pub struct PlannedRow {
    slot: SlotNumber,
    /// `null`: it is free.
    server: Option<EndpointId>,
    ip: Option<IpAddr>,
    weight: Weight,
}

impl PlannedRow {
    pub fn of(row: &Row) -> Self {
        let (server, ip) = row.holder().map(|server| (server.name.clone(), server.ip)).unzip();
        Self { slot: row.slot, server, ip, weight: row.weight }
    }

    fn cells(&self) -> [String; 4] {
        let action = match self.server {
            Some(_) => format!("write HSDO's row with weight {}", self.weight),
            None => "free HSDO's row".to_owned(),
        };
        let server = self.server.as_ref().map(ToString::to_string).unwrap_or_default();
        let ip = self.ip.as_ref().map(ToString::to_string).unwrap_or_default();
        [self.slot.to_string(), action, server, ip]
    }
}

/// Plans for people.
pub fn text(plans: &[PlannedBackend]) -> String {
    let mut rows = table(["BACKEND", "SLOT", "ACTION", "SERVER", "ADDRESS"]);
    let mut notes = String::new();
    for PlannedBackend { backend, plan, hsdo_rows } in plans {
        if plan.spec.is_some() {
            rows.add_row([backend.as_str(), "-", "write the spec", "", ""]);
        }
        for action in &plan.actions {
            let address = action.record.as_ref().map(|r| r.endpoint.address.to_string());
            rows.add_row([
                backend.as_str(),
                &action.slot.to_string(),
                action.kind.as_str(),
                action.server.as_str(),
                &address.unwrap_or_default(),
            ]);
        }
        for row in hsdo_rows {
            rows.add_row([backend.to_string()].into_iter().chain(row.cells()));
        }
        for unplaced in plan.unplaced.iter().take(MAX_NAMED) {
            let why = match &unplaced.why {
                UnplacedReason::NoFreeSlot => "no slot is free".to_owned(),
                UnplacedReason::AddressOf(other) => format!("{other} is ready at its address"),
            };
            notes += &format!("{backend}: {} has no slot: {why}\n", unplaced.server);
        }
        if plan.unplaced.len() > MAX_NAMED {
            let more = plan.unplaced.len() - MAX_NAMED;
            notes += &format!("{backend}: {more} more have no slot\n");
        }
        if let Some(refused) = &plan.refused {
            notes += &format!("{backend}: refused: {refused}\n");
        }
        if plan.is_empty() && hsdo_rows.is_empty() {
            notes += &format!("{backend}: nothing to change\n");
        }
    }
    match rows.row_count() {
        0 => notes,
        _ => render(&rows) + &notes,
    }
}
