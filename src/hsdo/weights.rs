use super::rows::Rows;
use crate::daemon::LiveGauge;

/// HSDO's own metric: the weight of each server in its table.
#[derive(Debug)]
pub struct ServerWeights(LiveGauge<4>);

impl ServerWeights {
    /// One owner's part of the metric, which goes when this is dropped.
    pub fn new() -> Self {
        let help = "Weight of each server in HSDO's table";
        Self(LiveGauge::new("hsdo_server_weight", help, ["id", "name", "ip", "asg"]))
    }

    /// Shows these servers, and no others.
    pub fn show(&self, rows: &Rows) {
        let series = rows.sound().filter_map(|row| {
            let server = row.holder()?;
            let group = server.group.as_ref().map_or("none", |group| group.as_str());
            let [id, name, ip] =
                [row.slot.to_string(), server.name.to_string(), server.ip.to_string()];
            Some(([id, name, ip, group.to_owned()], f64::from(row.weight.get())))
        });
        self.0.set(series);
    }

    /// Shows none.
    pub fn clear(&self) {
        self.0.set([]);
    }
}

impl Default for ServerWeights {
    fn default() -> Self {
        Self::new()
    }
}
