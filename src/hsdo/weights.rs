use super::rows::Rows;
use crate::metrics::{Gauges, Scope};

static WEIGHTS: Gauges<4> = Gauges::new(
    "hsdo_server_weight",
    "Weight of each server in HSDO's table",
    ["id", "name", "ip", "asg"],
);

/// HSDO's own metric: the weight of each server in its table, for as long as this lives.
#[derive(Debug, Default)]
pub struct ServerWeights(Scope);

impl ServerWeights {
    /// Shows these servers, and no others.
    pub fn show(&mut self, rows: &Rows) {
        let shown = Scope::default();
        for row in rows.sound() {
            let Some(server) = row.holder() else { continue };
            let group = server.group.as_ref().map_or("none", |group| group.as_str());
            let [id, name, ip] =
                [row.slot.to_string(), server.name.to_string(), server.ip.to_string()];
            let weight = f64::from(row.weight.get());
            shown.series(&WEIGHTS, [id, name, ip, group.to_owned()]).set(weight);
        }
        self.0 = shown;
    }

    /// Shows none.
    pub fn clear(&mut self) {
        self.0 = Scope::default();
    }
}
