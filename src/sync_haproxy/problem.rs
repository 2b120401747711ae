use crate::model::{BackendName, ServerPrefix, SlotNumber};

/// Why a HAProxy backend cannot become what the table says, and the line that mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(
        "HAProxy has no backend {backend}: add one of that name to its configuration, or correct --backend"
    )]
    NoBackend { backend: BackendName },
    #[error(
        "backend {backend} has no server of the form NAME1, NAME2, …: add the line \
         \"server-template srv 1-{need} 127.0.0.2:80 check disabled\" to it"
    )]
    NoPlaces { backend: BackendName, need: u32 },
    #[error(
        "backend {backend} has servers of several families ({}): say which one with --backend {backend}/{}",
        list(.families), .families.first().map_or("PREFIX", ServerPrefix::as_str)
    )]
    Ambiguous { backend: BackendName, families: Vec<ServerPrefix> },
    #[error(
        "backend {backend} has no place for {missing} of the table's {need} slots, the first is {prefix}{first}: \
         write its line as \"server-template {prefix} 1-{need} 127.0.0.2:80 check disabled\" and reload HAProxy"
    )]
    TooFewPlaces {
        backend: BackendName,
        prefix: ServerPrefix,
        need: u32,
        missing: usize,
        first: SlotNumber,
    },
    #[error(
        "id {id} in backend {backend} belongs to server {owner}: set id-base in [[sync-haproxy.backends]] \
         so that no slot's id meets another server's"
    )]
    IdTaken { backend: BackendName, id: u32, owner: String },
    #[error(
        "backend {backend} has a static load-balancing algorithm, which takes no weights at runtime, so \
         servers do not ramp: use \"balance roundrobin\", \"leastconn\" or \"random\", and with a hash \
         add \"hash-type consistent\""
    )]
    StaticWeights { backend: BackendName },
    #[error(
        "HAProxy does not load the addresses of backend {backend} from the state file, so that it begins \
         without servers after a reload: write its line as \"server-template srv 1-N unused.invalid:80 \
         check disabled init-addr last,127.0.0.2\""
    )]
    AddressesNotLoaded { backend: BackendName },
}

fn list(families: &[ServerPrefix]) -> String {
    families.iter().map(ServerPrefix::as_str).collect::<Vec<_>>().join(", ")
}
