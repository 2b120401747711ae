//! Readers of HAProxy's tables. Columns are found by their names, since versions add some.

use std::collections::HashMap;
use std::str::FromStr;

use super::{AdminFlags, ObservedServer, ParseError, ProcessInfo};

/// `show info` (management guide, section 9.3).
pub(super) fn process(reply: &str) -> Result<ProcessInfo, ParseError> {
    let fields: HashMap<&str, (usize, &str)> = reply
        .lines()
        .enumerate()
        .filter_map(|(n, line)| line.split_once(": ").map(|(name, value)| (name, (n + 1, value))))
        .collect();
    let field = |name: &str| {
        fields.get(name).copied().ok_or_else(|| {
            let first = reply.lines().next().unwrap_or_default();
            error(1, first, format!("it has no field {name}"))
        })
    };
    let (line, pid) = field("Pid")?;
    let (uptime_line, uptime) = field("Uptime_sec")?;
    Ok(ProcessInfo {
        pid: number(line, pid, "Pid")?,
        version: field("Version")?.1.chars().take(MAX_SHOWN).collect(),
        uptime_s: number(uptime_line, uptime, "Uptime_sec")?,
        stopping: fields.get("Stopping").is_some_and(|(_, value)| *value != "0"),
    })
}

/// The rows of `show servers state` for one backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// The backend's proxy id; `None` where it has no servers.
    pub proxy: Option<u32>,
    pub servers: Vec<ObservedServer>,
}

/// `show servers state <backend>`: its version, `# ` and column names, then a line a server.
pub(super) fn servers(reply: &str) -> Result<Rows, ParseError> {
    let mut lines = numbered(reply);
    match lines.next() {
        Some((_, "1")) => {}
        first => {
            let (line, text) = first.unwrap_or((1, ""));
            return Err(error(line, text, "the format's version is not 1".into()));
        }
    }
    let columns = StateColumns::read(lines.next())?;
    let mut rows = Rows { proxy: None, servers: Vec::new() };
    for (line, text) in lines {
        let row = Row { line, text, fields: text.split(' ').collect() };
        rows.proxy.get_or_insert(row.number(columns.proxy, "be_id")?);
        rows.servers.push(columns.server(&row)?);
    }
    Ok(rows)
}

/// `show stat` of servers: live sessions by proxy and server name, current ones and those that
/// wait in the server's queue. Unlike `used_cur` of `show servers conn`, these count no idle
/// connections, which a drain need not wait for.
pub(super) fn sessions(reply: &str) -> Result<HashMap<(String, String), u64>, ParseError> {
    let mut lines = numbered(reply);
    let header = header(lines.next())?;
    let names: Vec<&str> = header.1.split(',').collect();
    let at = |name| column(header, &names, name);
    let (proxy, server, current, queued) = (at("pxname")?, at("svname")?, at("scur")?, at("qcur")?);
    let mut sessions = HashMap::new();
    for (line, text) in lines {
        let row = Row { line, text, fields: text.split(',').collect() };
        let name =
            (row.field(proxy, "pxname")?.to_owned(), row.field(server, "svname")?.to_owned());
        let current: u64 = row.number(current, "scur")?;
        let queued: u64 = row.number(queued, "qcur")?;
        sessions.insert(name, current.saturating_add(queued));
    }
    Ok(sessions)
}

/// Where `show servers state` has what we read.
struct StateColumns {
    proxy: usize,
    id: usize,
    name: usize,
    address: usize,
    port: usize,
    admin: usize,
    operational: usize,
    weight: usize,
    initial_weight: usize,
    check: usize,
}

impl StateColumns {
    fn read(line: Option<(usize, &str)>) -> Result<Self, ParseError> {
        let header = header(line)?;
        let names: Vec<&str> = header.1.split(' ').collect();
        let at = |name| column(header, &names, name);
        Ok(Self {
            proxy: at("be_id")?,
            id: at("srv_id")?,
            name: at("srv_name")?,
            address: at("srv_addr")?,
            port: at("srv_port")?,
            admin: at("srv_admin_state")?,
            operational: at("srv_op_state")?,
            weight: at("srv_uweight")?,
            initial_weight: at("srv_iweight")?,
            check: at("srv_check_state")?,
        })
    }

    fn server(&self, row: &Row<'_>) -> Result<ObservedServer, ParseError> {
        /// `CHK_ST_CONFIGURED` and `CHK_ST_ENABLED`.
        const CONFIGURED: u32 = 0x02;
        const ENABLED: u32 = 0x04;
        let check: u32 = row.number(self.check, "srv_check_state")?;
        Ok(ObservedServer {
            id: row.number(self.id, "srv_id")?,
            name: row.field(self.name, "srv_name")?.to_owned(),
            address: row.field(self.address, "srv_addr")?.parse().ok(),
            port: row.number(self.port, "srv_port")?,
            admin: AdminFlags(row.number(self.admin, "srv_admin_state")?),
            operational: row.number(self.operational, "srv_op_state")?,
            weight: row.number(self.weight, "srv_uweight")?,
            initial_weight: row.number(self.initial_weight, "srv_iweight")?,
            checked: check & CONFIGURED != 0,
            check_enabled: check & ENABLED != 0,
            sessions: None,
        })
    }
}

struct Row<'a> {
    line: usize,
    text: &'a str,
    fields: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn field(&self, column: usize, name: &str) -> Result<&'a str, ParseError> {
        let missing = || error(self.line, self.text, format!("it has no {name}"));
        self.fields.get(column).copied().ok_or_else(missing)
    }

    fn number<T: FromStr>(&self, column: usize, name: &str) -> Result<T, ParseError> {
        let field = self.field(column, name)?;
        let problem = || error(self.line, self.text, not_a_number(name, field));
        field.parse().map_err(|_| problem())
    }
}

fn numbered(reply: &str) -> impl Iterator<Item = (usize, &str)> {
    reply.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.is_empty())
}

fn header(line: Option<(usize, &str)>) -> Result<(usize, &str), ParseError> {
    let (number, text) = line.unwrap_or((2, ""));
    let names = text.strip_prefix("# ");
    names
        .map(|names| (number, names))
        .ok_or_else(|| error(number, text, "it is no line of column names".into()))
}

fn column(header: (usize, &str), names: &[&str], name: &str) -> Result<usize, ParseError> {
    let missing = || error(header.0, header.1, format!("it has no column {name}"));
    names.iter().position(|candidate| *candidate == name).ok_or_else(missing)
}

fn number<T: FromStr>(line: usize, text: &str, name: &str) -> Result<T, ParseError> {
    text.trim().parse().map_err(|_| error(line, text, not_a_number(name, text)))
}

fn not_a_number(name: &str, text: &str) -> String {
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    format!("{name} is {shown:?}, not a number in its range")
}

const MAX_SHOWN: usize = 120;

fn error(line: usize, text: &str, problem: String) -> ParseError {
    ParseError { line, shown: text.chars().take(MAX_SHOWN).collect(), problem }
}
