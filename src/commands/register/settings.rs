use std::time::Duration;

use crate::config::Reader;
use crate::model::{BackendName, Endpoint, EndpointId, ServerAddress};
use crate::store::StoreSettings;

/// Everything that `register` can be set to.
#[derive(Debug, Clone)]
pub struct Settings {
    pub store: StoreSettings,
    pub backend: BackendName,
    pub endpoint: Endpoint,
    /// How long the registration outlives a killed process.
    pub ttl: Duration,
    pub drain_deadline: Duration,
    pub wait_port: bool,
}

impl Settings {
    /// `None` only with problems, which the reader reports.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let store = StoreSettings::read(reader);
        let backend: Option<BackendName> = reader.require("register.backend");
        let address: Option<ServerAddress> = reader.require("register.address");
        let id: Option<EndpointId> = reader.find("register.id");
        let weight = reader.find("register.weight");
        let (group, zone) = (reader.find("register.group"), reader.find("register.zone"));
        let ttl = reader.get("register.ttl", Duration::from_secs(10));
        if ttl < Duration::from_secs(1) {
            reader.problem("register.ttl", "a ttl under 1s would lose the registration by chance");
        }
        let drain_deadline = reader.get("register.drain-deadline", Duration::from_secs(30));
        let wait_port = reader.get("register.wait-port", false);
        let endpoint = Endpoint {
            id: id.unwrap_or_else(|| uuid::Uuid::new_v4().into()),
            address: address?,
            name: None,
            group,
            zone,
            weight,
            leaving: false,
        };
        Some(Self { store, backend: backend?, endpoint, ttl, drain_deadline, wait_port })
    }
}
