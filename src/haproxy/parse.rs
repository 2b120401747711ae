//! Readers of HAProxy's tables. Columns are found by their names, since versions add some.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use super::{AdminFlags, Features, Glance, ObservedServer, ParseError, ProcessInfo};

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
        started_s: fields
            .get("Start_time_sec")
            .map(|(line, value)| number(*line, value, "Start_time_sec"))
            .transpose()?,
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

/// Where a server's address comes from, as far as `show servers state` tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Its line, or a command.
    Address,
    /// A name, which a resolver may be asked for.
    Name(String),
    /// An SRV record, which only a resolver can be asked for.
    SrvRecord,
}

/// Where the address of one server comes from.
pub(super) fn origin(reply: &str, server: &str) -> Result<Origin, ParseError> {
    let mut lines = numbered(reply).skip(1);
    let columns = StateColumns::read(lines.next())?;
    let mut fields = Vec::with_capacity(columns.count);
    for (line, text) in lines {
        let row = Row::read(line, text, b' ', columns.count, &mut fields)?;
        if row.field(columns.name, "srv_name")? == server {
            let name = row.field(columns.fqdn, "srv_fqdn")?;
            return Ok(match (row.field(columns.srv_record, "srvrecord")?, name) {
                ("-", "-") => Origin::Address,
                ("-", name) => Origin::Name(name.to_owned()),
                _ => Origin::SrvRecord,
            });
        }
    }
    Ok(Origin::Address)
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
    let mut fields = Vec::with_capacity(columns.count);
    for (line, text) in lines {
        let row = Row::read(line, text, b' ', columns.count, &mut fields)?;
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
    let mut fields = Vec::with_capacity(names.len());
    for (line, text) in lines {
        let row = Row::read(line, text, b',', names.len(), &mut fields)?;
        let name =
            (row.field(proxy, "pxname")?.to_owned(), row.field(server, "svname")?.to_owned());
        let current: u64 = row.number(current, "scur")?;
        let queued: u64 = row.number(queued, "qcur")?;
        sessions.insert(name, current.saturating_add(queued));
    }
    Ok(sessions)
}

/// `show stat` of a backend and its servers: what each has, by name.
pub(super) fn features(reply: &str) -> Result<BTreeMap<String, Features>, ParseError> {
    let mut lines = numbered(reply);
    let header = header(lines.next())?;
    let names: Vec<&str> = header.1.split(',').collect();
    let at = |name| column(header, &names, name);
    let (name, cookie, limit) = (at("svname")?, at("cookie")?, at("slim")?);
    let mut features = BTreeMap::new();
    let mut fields = Vec::with_capacity(names.len());
    for (line, text) in lines {
        let row = Row::read(line, text, b',', names.len(), &mut fields)?;
        let has = |at, column| row.field(at, column).map(|value| !value.is_empty());
        let of_row = Features { cookie: has(cookie, "cookie")?, limit: has(limit, "slim")? };
        features.insert(row.field(name, "svname")?.to_owned(), of_row);
    }
    Ok(features)
}

/// `show stat` of one server; `None` where there is no such server.
///
/// Texts in quotes may have commas, which move the columns behind them: what is read then is not what
/// anybody expects to see.
pub(super) fn glance(reply: &str) -> Result<Option<Glance>, ParseError> {
    let mut lines = numbered(reply);
    let header = header(lines.next())?;
    let names: Vec<&str> = header.1.split(',').collect();
    let at = |name| column(header, &names, name);
    let (name, status, weight, address) =
        (at("svname")?, at("status")?, at("uweight")?, at("addr")?);
    let Some((line, text)) = lines.next() else { return Ok(None) };
    let mut fields = Vec::with_capacity(names.len());
    let row = Row::read(line, text, b',', names.len(), &mut fields)?;
    Ok(Some(Glance {
        name: row.field(name, "svname")?.to_owned(),
        address: row.field(address, "addr")?.parse().ok(),
        weight: row.number(weight, "uweight")?,
        status: row.field(status, "status")?.to_owned(),
    }))
}

/// The workers of before a reload that still run, of a master's `show proc` (management guide,
/// section 9.4): the lines under `# old workers`, each of which begins with a process id.
pub(super) fn old_workers(reply: &str) -> Result<Vec<u32>, ParseError> {
    let lines = numbered(reply).skip_while(|(_, line)| *line != "# old workers").skip(1);
    let workers = lines.take_while(|(_, line)| !line.starts_with('#'));
    let pid = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    workers.map(|(line, text)| number(line, &pid(text), "the process id")).collect()
}

/// Where `show servers state` has what we read.
struct StateColumns {
    count: usize,
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
    forced_id: usize,
    agent: usize,
    fqdn: usize,
    srv_record: usize,
    tls: usize,
}

impl StateColumns {
    fn read(line: Option<(usize, &str)>) -> Result<Self, ParseError> {
        let header = header(line)?;
        let names: Vec<&str> = header.1.split(' ').collect();
        let at = |name| column(header, &names, name);
        Ok(Self {
            count: names.len(),
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
            forced_id: at("srv_f_forced_id")?,
            agent: at("srv_agent_state")?,
            fqdn: at("srv_fqdn")?,
            srv_record: at("srvrecord")?,
            tls: at("srv_use_ssl")?,
        })
    }

    fn server(&self, row: &Row<'_, '_>) -> Result<ObservedServer, ParseError> {
        /// `CHK_ST_CONFIGURED` and `CHK_ST_ENABLED`.
        const CONFIGURED: u32 = 0x02;
        const ENABLED: u32 = 0x04;
        let check: u32 = row.number(self.check, "srv_check_state")?;
        let agent: u32 = row.number(self.agent, "srv_agent_state")?;
        let port: u32 = row.number(self.port, "srv_port")?;
        Ok(ObservedServer {
            id: row.number(self.id, "srv_id")?,
            name: row.field(self.name, "srv_name")?.to_owned(),
            address: row.field(self.address, "srv_addr")?.parse().ok(),
            // A negative offset is printed as an unsigned number; `show stat` has its last 16 bits.
            port: u16::try_from(port & 0xffff).unwrap_or_default(),
            port_is_own: port == 0,
            port_is_mapped: port > u32::from(u16::MAX),
            has_name: row.field(self.fqdn, "srv_fqdn")? != "-"
                || row.field(self.srv_record, "srvrecord")? != "-",
            admin: AdminFlags(row.number(self.admin, "srv_admin_state")?),
            operational: row.number(self.operational, "srv_op_state")?,
            weight: row.number(self.weight, "srv_uweight")?,
            initial_weight: row.number(self.initial_weight, "srv_iweight")?,
            checked: check & CONFIGURED != 0,
            check_enabled: check & ENABLED != 0,
            forced_id: row.number::<u8>(self.forced_id, "srv_f_forced_id")? != 0,
            has_agent: agent & CONFIGURED != 0,
            agent_enabled: agent & ENABLED != 0,
            uses_tls: row.number::<u8>(self.tls, "srv_use_ssl")? != 0,
            sessions: None,
        })
    }
}

struct Row<'a, 'f> {
    line: usize,
    text: &'a str,
    fields: &'f [&'a str],
}

impl<'a, 'f> Row<'a, 'f> {
    /// A line with less than its table has columns was cut, so that its last field may be half one.
    /// `fields` is what the row before was split into: thousands of rows need but one.
    fn read(
        line: usize,
        text: &'a str,
        by: u8,
        columns: usize,
        fields: &'f mut Vec<&'a str>,
    ) -> Result<Self, ParseError> {
        fields.clear();
        let mut start = 0;
        // The fields are too short for a search that has to be set up for each.
        for (end, _) in text.bytes().enumerate().filter(|(_, byte)| *byte == by) {
            fields.push(&text[start..end]);
            start = end + 1;
        }
        fields.push(&text[start..]);
        if fields.len() < columns {
            let problem = format!("it has {} of {columns} columns", fields.len());
            return Err(error(line, text, problem));
        }
        Ok(Self { line, text, fields })
    }

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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::haproxy::AdminState;

    const HEADER: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state \
         srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result \
         srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn \
         srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port";

    fn table(rows: &str) -> String {
        format!("1\n{HEADER}\n{rows}")
    }

    #[test]
    fn the_state_of_servers_reads() {
        let rows = servers(&table(
            "3 web 1 s1 127.0.0.1 0 5 1 1 1 1 0 0 14 0 0 0 - 80 - 0 0 - - 0\n\
             3 web 2 s2 ::1 2 4 200 100 1 15 3 3 6 0 0 0 - 65535 - 0 0 - - 0\n\
             3 web 77 d1 - 2 8 3 3 0 1 0 0 8 0 0 1 web.example 0 - 0 0 - - 0",
        ))
        .unwrap();
        assert_eq!(rows.proxy, Some(3));
        let [s1, s2, d1] = rows.servers.as_slice() else { panic!("{rows:?}") };
        assert_eq!(s1.address, Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!((s1.admin.state(), s1.operational), (AdminState::Maint, 0));
        // 14: checks are configured, enabled and paused, as in maint.
        assert!(s1.checked && s1.check_enabled);
        // 4: `disabled` in the configuration, and ready since.
        assert_eq!((s2.admin.state(), s2.port), (AdminState::Ready, 65535));
        assert_eq!((s2.weight, s2.initial_weight), (200, 100));
        assert_eq!((d1.id, d1.address, d1.admin.state()), (77, None, AdminState::Drain));
        // 8: paused, and never configured.
        assert!(!d1.checked && !d1.check_enabled);
        assert!(d1.has_name && !s1.has_name && !s1.has_agent);
    }

    #[test]
    fn the_origin_of_an_address_reads() {
        let rows = table(
            "3 web 1 s1 127.0.0.1 0 5 1 1 1 1 0 0 14 0 0 0 - 80 - 0 0 - - 0\n\
             3 web 2 s2 - 0 5 1 1 1 1 0 0 14 0 0 0 web.example 80 - 0 0 - - 0\n\
             3 web 3 s3 - 0 32 1 1 1 1 0 0 14 0 0 0 - 80 _http._tcp.web 0 0 - - 0",
        );
        let expected = [Origin::Address, Origin::Name("web.example".into()), Origin::SrvRecord];
        assert_eq!(["s1", "s2", "s3"].map(|name| origin(&rows, name).unwrap()), expected);
    }

    /// `127.0.0.2`, `127.0.0.2:-100` and `agent-check agent-port 9999`, on 2.6 to 3.4.
    #[test]
    fn the_port_of_a_place_and_its_agent_read() {
        let rows = servers(&table(
            "3 web 1 s1 127.0.0.2 0 5 1 1 1 1 0 0 14 0 0 0 - 0 - 0 18080 - - 18080\n\
             3 web 2 s2 127.0.0.2 0 5 1 1 1 1 0 0 14 0 0 0 - 4294967196 - 0 18080 - - 18080\n\
             3 web 3 s3 127.0.0.2 2 0 1 1 0 1 0 2 6 22 0 0 - 80 - 0 0 - - 9999",
        ));
        let [s1, s2, s3] = rows.unwrap().servers.try_into().unwrap();
        assert_eq!((s1.port, s1.port_is_own, s1.port_is_mapped), (0, true, false));
        assert_eq!((s2.port, s2.port_is_own, s2.port_is_mapped), (65436, false, true));
        assert_eq!((s3.port, s3.has_agent, s3.agent_enabled), (80, true, true));
    }

    #[test]
    fn a_backend_without_servers_reads_as_empty() {
        assert_eq!(servers(&table("")).unwrap(), Rows { proxy: None, servers: vec![] });
    }

    #[test]
    fn a_new_column_in_the_middle_changes_nothing() {
        let text = "1\n# be_id new srv_id srv_name srv_addr srv_op_state srv_admin_state \
             srv_uweight srv_iweight srv_check_state srv_agent_state srv_f_forced_id srv_fqdn \
             srv_port srvrecord srv_use_ssl\n3 x 1 s1 10.0.0.1 2 0 5 5 6 0 0 - 80 - 0";
        assert_eq!(servers(text).unwrap().servers[0].port, 80);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line, problem) in [
            ("".to_owned(), 1, "version"),
            ("2\n# be_id".to_owned(), 1, "version"),
            ("1".to_owned(), 2, "column names"),
            ("1\nbe_id be_name".to_owned(), 2, "column names"),
            ("1\n# be_id be_name".to_owned(), 2, "no column srv_id"),
            (table("3 web 1 s1"), 3, "4 of 25 columns"),
            (table("x web 1 s1 127.0.0.1 0 5 1 1 1 1 0 0 14 0 0 0 - 80 - 0 0 - - 0"), 3, "\"x\""),
            (
                table("3 web 1 s1 127.0.0.1 0 5 1 1 1 1 0 0 14 0 0 0 - 4294967296 - 0 0 - - 0"),
                3,
                "4294967296",
            ),
        ] {
            let error = servers(&text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    #[test]
    fn the_process_reads() {
        let info = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 15900\nUptime: 0d 0h00m07s\n\
             Uptime_sec: 7\nStopping: 1\nnode: a: b";
        let process = process(info).unwrap();
        assert_eq!((process.pid, process.uptime_s, process.stopping), (15900, 7, true));
        assert_eq!(process.version, "2.6.12-1+deb12u4");
    }

    #[test]
    fn a_process_without_an_id_is_an_error() {
        assert!(process("Name: x").unwrap_err().problem.contains("no field Pid"));
        let error = process("Version: 1\nUptime_sec: 1\nPid: -1").unwrap_err();
        assert_eq!((error.line, error.problem.contains("-1")), (3, true));
    }

    #[test]
    fn old_workers_are_those_of_their_section_alone() {
        let head = "#<PID>  <type>  <reloads>  <uptime>\n14867  master  1 [failed: 0]  0d00h00m04s";
        let (workers, programs) = ("# workers\n15024  worker  0  0d", "# programs\n7  prog  0  0d");
        let old = "# old workers\n14881           worker          1  0d\n9  worker  2  1d";
        let read = |parts: &[&str]| old_workers(&parts.join("\n"));
        assert_eq!(read(&[head, workers, old, programs]), Ok(vec![14881, 9]));
        assert_eq!(read(&[head, workers, old]), Ok(vec![14881, 9]));
        assert_eq!(read(&[head, workers, programs]), Ok(vec![]));
        assert_eq!(read(&[head, workers, "# old workers\nx"]).unwrap_err().line, 6);
    }

    #[test]
    fn sessions_are_the_current_and_the_queued_ones() {
        let text = "# pxname,svname,qcur,qmax,scur,smax,slim,\nweb,s1,2,9,3,9,,\nweb,s2,0,0,0,0,,";
        let sessions = sessions(text).unwrap();
        let of = |server: &str| sessions[&("web".to_owned(), server.to_owned())];
        assert_eq!((of("s1"), of("s2")), (5, 0));
    }

    #[test]
    fn a_glance_is_of_one_server_or_none() {
        let header = "# pxname,svname,status,uweight,addr,";
        let of = |row: &str| glance(&format!("{header}\n{row}"));
        let glance = of("web,s1,UP 1/3,7,[::1]:99,").unwrap().unwrap();
        assert_eq!((glance.name.as_str(), glance.status.as_str()), ("s1", "UP 1/3"));
        assert_eq!((glance.weight, glance.address), (7, "[::1]:99".parse().ok()));
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("web,s1,UP,7,-,").unwrap().unwrap().address, None);
        assert!(of("web,s1,UP,7").is_err() && of("web,s1,UP,x,-,").is_err());
    }

    #[test]
    fn a_line_that_was_cut_is_not_read() {
        let cut = table("3 web 1 s1 127.0.0.1 2 4 1 1 1 1 0 0 14 0 0 0 - 8");
        assert!(servers(&cut).unwrap_err().problem.contains("19 of 25 columns"));
        let cut = "# pxname,svname,qcur,qmax,scur,smax,slim,\nweb,s1,0,0,1";
        assert!(sessions(cut).unwrap_err().problem.contains("5 of 8 columns"));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(text in "(\\PC|\n){0,200}") {
            _ = process(&text).is_ok();
            _ = servers(&text).is_ok();
            _ = servers(&format!("1\n{text}")).is_ok();
            _ = servers(&table(&text)).is_ok();
            _ = sessions(&text).is_ok();
            _ = old_workers(&format!("# old workers\n{text}")).is_ok();
            _ = sessions(&format!("# pxname,svname,qcur,scur\n{text}")).is_ok();
            _ = glance(&format!("# svname,status,uweight,addr\n{text}")).is_ok();
        }

        #[test]
        fn a_damaged_table_is_an_error_and_never_a_panic(at in 0usize..600, byte in 0x20u8..0x7f) {
            let mut text = table("3 web 1 s1 127.0.0.1 0 5 1 1 1 1 0 0 14 0 0 0 - 80 - 0 0 - - 0");
            let at = at % text.len();
            text.replace_range(at..=at, char::from(byte).encode_utf8(&mut [0; 4]));
            _ = servers(&text).is_ok();
        }
    }
}
