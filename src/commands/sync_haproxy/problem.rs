use crate::model::{BackendName, ServerName, ServerPrefix, SlotNumber};

/// Why a HAProxy backend cannot become what the table says, and the line that mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(
        "HAProxy has no backend {backend}: add one of that name to its configuration, or correct {named_by}"
    )]
    NoBackend { backend: BackendName, named_by: &'static str },
    #[error(
        "backend {backend} has no server of the form NAME1, NAME2, …: add the line \
         \"server-template srv 1-{need} 127.0.0.2:80 check disabled\" to it"
    )]
    NoPlaces { backend: BackendName, need: u32 },
    #[error(
        "backend {backend} has servers of several families ({}): say which one with {named_by} {backend}/{}",
        list(.families), .families.first().map_or("PREFIX", ServerPrefix::as_str)
    )]
    Ambiguous { backend: BackendName, named_by: &'static str, families: Vec<ServerPrefix> },
    #[error(
        "backend {backend} has no place for {missing} of the table's {need} slots, the first is {prefix}{first}: {}",
        places_to_write(.backend, .prefix, *.need, .taken)
    )]
    TooFewPlaces {
        backend: BackendName,
        prefix: ServerPrefix,
        need: u32,
        missing: usize,
        first: SlotNumber,
        /// Servers that have a place's name and that lbctl did not place.
        taken: Vec<String>,
    },
    #[error(
        "backend {backend} goes on serving {} {} ({}): {}",
        counted(.servers.len()), .why.text(table), some(.servers), .why.remedy()
    )]
    Unordered { backend: BackendName, table: BackendName, servers: Vec<String>, why: Why },
    #[error(
        "the store was restored or replaced, or its table {table} was tampered with: HAProxy keeps what the \
         table said before, until a discover leads it and confirms it"
    )]
    Superseded { table: BackendName },
    #[error(
        "table {table} was not yet confirmed by a leader in this life of its store, which may have been \
         restored or replaced: until a discover leads it, nothing that backend {backend} serves is taken down"
    )]
    Unconfirmed { backend: BackendName, table: BackendName },
    #[error(
        "id {id} in backend {backend} belongs to server {owner}: set id-base in [[sync-haproxy.backends]] \
         so that no slot's id meets another server's"
    )]
    IdTaken { backend: BackendName, id: u32, owner: String },
    #[error(
        "server {name} in backend {backend} is not one that lbctl has added, and is left alone: give lbctl's \
         servers another name with --backend {backend}/PREFIX"
    )]
    NameTaken { backend: BackendName, name: String },
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
    #[error(
        "the servers {prefix}1, … of backend {backend} have \"resolvers\", maybe by a default-server line, which take \
         away every address that is set: give the backend a \"defaults\" section without them \
         (\"defaults plain\", then \"backend {backend} from plain\"), or take \"resolvers\" out, and reload HAProxy"
    )]
    Resolver { backend: BackendName, prefix: ServerPrefix },
    #[error(
        "the servers {prefix}1, … of backend {backend} have no IP address but a UNIX socket or another \
         family, which cannot be changed at runtime: write their line as \"server-template {prefix} 1-N \
         127.0.0.2:80 check disabled\" and reload HAProxy"
    )]
    NoAddress { backend: BackendName, prefix: ServerPrefix },
    #[error(
        "the servers {prefix}1, … of backend {backend} have a port that HAProxy adds to the client's: to keep \
         it so and change addresses alone, set keep-port; else write a port of its own in their line, as \
         \"server-template {prefix} 1-N 127.0.0.2:80 check disabled\", and reload HAProxy"
    )]
    MappedPorts { backend: BackendName, prefix: ServerPrefix },
    #[error(
        "the servers {prefix}1, … of backend {backend} have no port, so that HAProxy connects to the one that \
         the client came to, and port says {port}: write their line as \"server-template {prefix} 1-N \
         127.0.0.2:{port} check disabled\" and reload HAProxy, or take port out"
    )]
    NoPort { backend: BackendName, prefix: ServerPrefix, port: u16 },
    #[error(
        "server {backend}/{server} does not stay as the table says: \"{command}\" is undone again and again by \
         {by}, so it is sent ever more seldom; let one of the two decide"
    )]
    OtherWriter { backend: BackendName, server: ServerName, command: String, by: &'static str },
    #[error(
        "server {backend}/{server} follows the server that it tracks, which is in maint or drains: no command \
         changes that"
    )]
    Tracks { backend: BackendName, server: ServerName },
}

impl Problem {
    /// Whether only another configuration of HAProxy or of lbctl ends it.
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::StaticWeights { .. } | Self::OtherWriter { .. } | Self::Tracks { .. })
    }
}

/// Why a server stays that has no slot in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// No record speaks of it: it was never in the table, or its record is lost.
    NoRecord,
    /// A record gives its place to another server, and none says that it is to go.
    Displaced,
    /// It is to go, and a server that is to come has no place yet.
    NoPlaceForOthers,
    /// It has another place in the table, in which it does not serve yet.
    Moves,
    /// No leader stands behind the table.
    Unconfirmed,
}

impl Why {
    /// Whether it ends by itself once other servers take traffic.
    pub fn waits_for_servers(self) -> bool {
        matches!(self, Self::Moves | Self::NoPlaceForOthers)
    }

    fn text(self, table: &BackendName) -> String {
        match self {
            Self::NoRecord => format!("of which table {table} says nothing"),
            Self::Displaced => format!("whose places table {table} gives to others"),
            Self::NoPlaceForOthers => "that should go".to_owned(),
            Self::Moves => "that should move".to_owned(),
            Self::Unconfirmed => "that may have to go".to_owned(),
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::NoRecord => {
                "discover takes those that its source sees back into the table; to let the others \
                 go, run sync-haproxy once with --allow-drop"
            }
            Self::Displaced => {
                "the table has other servers for their places: if they may go, run sync-haproxy \
                 once with --take-over"
            }
            Self::NoPlaceForOthers => "they go once every ready server of the table has a place",
            Self::Moves => "each moves once another one serves in its stead",
            Self::Unconfirmed => "run discover, which confirms the table",
        }
    }
}

/// How many servers a sentence names.
const NAMED: usize = 5;

fn counted(count: usize) -> String {
    if count == 1 { "a server".to_owned() } else { format!("{count} servers") }
}

fn some(names: &[String]) -> String {
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { named + ", …" } else { named }
}

/// The line that a backend lacks. Where its names belong to servers of the configuration it needs
/// others.
fn places_to_write(
    backend: &BackendName,
    prefix: &ServerPrefix,
    need: u32,
    taken: &[String],
) -> String {
    if taken.is_empty() {
        return format!(
            "write its line as \"server-template {prefix} 1-{need} 127.0.0.2:80 check disabled\" and reload HAProxy"
        );
    }
    let taken = some(taken);
    format!(
        "lbctl did not place {taken} and leaves what it did not place alone. Give it places of another name, \
         as with the line \"server-template lbctl- 1-{need} 127.0.0.2:80 check disabled\" and \
         --backend {backend}/lbctl-, or let the table's servers displace them with --take-over"
    )
}

impl Problem {
    /// Whether a run that ends by itself would fail for it, as far as is known before: what only
    /// waits for other servers may be over by then.
    pub fn fails_a_run(&self) -> bool {
        match self {
            Self::StaticWeights { .. } => false,
            Self::Unordered { why, .. } => !why.waits_for_servers(),
            _ => true,
        }
    }
}

fn list(families: &[ServerPrefix]) -> String {
    families.iter().map(ServerPrefix::as_str).collect::<Vec<_>>().join(", ")
}
