use std::collections::HashMap;
use std::net::IpAddr;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Zoned;

use crate::model::{Endpoint, EndpointId, GroupName, ServerAddress, SlotNumber, Weight};
use crate::text;

/// An item of DynamoDB.
pub type Item = HashMap<String, AttributeValue>;

/// What stands where a free slot has no server.
const NONE: &str = "none";

pub(super) const ID: &str = "BackendServerID";
pub(super) const IP: &str = "IPAddress";
pub(super) const NAME: &str = "ServerName";
pub(super) const ASG: &str = "ASG";
pub(super) const WEIGHT: &str = "Weight";
pub(super) const STATUS: &str = "BackendServerStatus";
pub(super) const UPDATED: &str = "LastWeightUpdate";

/// Every attribute but the key.
pub(super) const ATTRIBUTES: [&str; 6] = [IP, NAME, ASG, WEIGHT, STATUS, UPDATED];

/// One row of HSDO's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub slot: SlotNumber,
    /// `None`: nobody has the slot.
    pub server: Option<Server>,
    pub weight: Weight,
    /// An enabled row has a server.
    pub enabled: bool,
    pub updated: LastUpdate,
}

/// Who has a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub ip: IpAddr,
    /// The instance's id.
    pub name: EndpointId,
    pub group: Option<GroupName>,
}

/// When HSDO last changed a weight, as its server writes it: local time that does not say of which
/// zone. lbctl writes it so that HSDO's own ramp goes on from there, and never reckons with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUpdate(String);

/// A row that is not what HSDO writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row} of HSDO's table cannot be read: {problem}")]
pub struct RowError {
    /// What it has for an id.
    pub row: String,
    problem: String,
}

impl Row {
    /// That of a slot which nobody has.
    pub fn free(slot: SlotNumber) -> Self {
        Self {
            slot,
            server: None,
            weight: Weight::ZERO,
            enabled: false,
            updated: LastUpdate::never(),
        }
    }

    /// Who serves in this slot.
    pub fn holder(&self) -> Option<&Server> {
        self.server.as_ref().filter(|_| self.enabled)
    }

    /// Reads a row that has a slot.
    pub fn read(item: &Item) -> Result<Self, RowError> {
        let reader = Reader { item };
        reader.row().map_err(|problem| RowError { row: shown_id(item), problem })
    }

    pub fn to_item(&self) -> Item {
        let Self { slot, server, weight, enabled, updated } = self;
        let none = || NONE.to_owned();
        let [ip, name, group] = match server {
            None => [none(), none(), none()],
            Some(Server { ip, name, group }) => {
                let group = group.as_ref().map_or_else(none, ToString::to_string);
                [ip.to_string(), name.to_string(), group]
            }
        };
        let status = if *enabled { "enabled" } else { "disabled" };
        [
            (ID, AttributeValue::N(slot.to_string())),
            (IP, AttributeValue::S(ip)),
            (NAME, AttributeValue::S(name)),
            (ASG, AttributeValue::S(group)),
            (WEIGHT, AttributeValue::N(weight.to_string())),
            (STATUS, AttributeValue::S(status.to_owned())),
            (UPDATED, AttributeValue::S(updated.0.clone())),
        ]
        .map(|(attribute, value)| (attribute.to_owned(), value))
        .into()
    }
}

impl Server {
    pub fn of(endpoint: &Endpoint) -> Self {
        Self {
            ip: endpoint.address.ip(),
            name: endpoint.id.clone(),
            // A group of that very name reads back as no group.
            group: endpoint.group.clone().filter(|group| group.as_str() != NONE),
        }
    }
}

impl LastUpdate {
    /// That of a free slot.
    pub fn never() -> Self {
        Self("0-0-0 00:00:00.000000".to_owned())
    }

    pub fn now() -> Self {
        Self::at(&Zoned::now())
    }

    /// As Python's `str(datetime.now())`, which leaves out the fraction where it is zero.
    pub fn at(time: &Zoned) -> Self {
        let whole = time.strftime("%Y-%m-%d %H:%M:%S");
        match time.subsec_nanosecond() / 1000 {
            0 => Self(whole.to_string()),
            micros => Self(format!("{whole}.{micros:06}")),
        }
    }
}

/// The slot of a row; the only part that has to be sound for its place to be known.
pub(super) fn slot(item: &Item) -> Result<SlotNumber, RowError> {
    let read = Reader { item }.number(ID).and_then(|n: u32| {
        SlotNumber::new(n).map_err(|error| format!("{ID} is no slot of lbctl's: {error}"))
    });
    read.map_err(|problem| RowError { row: shown_id(item), problem })
}

fn shown_id(item: &Item) -> String {
    match item.get(ID) {
        Some(AttributeValue::N(id)) => cut(id),
        Some(_) => format!("with a {ID} that is no number"),
        None => format!("without a {ID}"),
    }
}

/// What somebody else wrote, cut to a length that is safe to print.
fn cut(text: &str) -> String {
    text::one_line(&text.chars().take(40).collect::<String>()).into_owned()
}

struct Reader<'a> {
    item: &'a Item,
}

impl Reader<'_> {
    fn row(&self) -> Result<Row, String> {
        let slot = slot(self.item).map_err(|error| error.problem)?;
        let server = self.server()?;
        // HSDO's server goes as far as it is told, and HAProxy no further than its greatest.
        let weight = Weight::saturating(self.number(WEIGHT)?);
        let enabled = match self.text(STATUS)? {
            "enabled" => true,
            "disabled" => false,
            other => {
                return Err(format!("{STATUS} is \"{}\", not enabled or disabled", cut(other)));
            }
        };
        if enabled && server.is_none() {
            return Err(format!("{STATUS} is enabled and {IP} is {NONE}"));
        }
        let updated = self.updated()?;
        Ok(Row { slot, server, weight, enabled, updated })
    }

    fn server(&self) -> Result<Option<Server>, String> {
        let (ip, name) = (self.text(IP)?, self.text(NAME)?);
        // Rows of HSDO's second version have none, and its third takes them as they are.
        let group = if self.item.contains_key(ASG) { self.text(ASG)? } else { NONE };
        if [ip, name, group] == [NONE; 3] {
            return Ok(None);
        }
        if ip == NONE {
            return Err(format!("{IP} is {NONE}, and {NAME} or {ASG} is not"));
        }
        let read: IpAddr =
            ip.parse().map_err(|_| format!("{IP} \"{}\" is no IP address", cut(ip)))?;
        let ip = ServerAddress::check_ip(read).map_err(|error| error.to_string())?;
        if name == NONE {
            return Err(format!("{IP} is {ip}, and {NAME} is {NONE}"));
        }
        let name = name.parse().map_err(|error| format!("{NAME}: {error}"))?;
        let group = match group {
            NONE => None,
            group => Some(group.parse().map_err(|error| format!("{ASG}: {error}"))?),
        };
        Ok(Some(Server { ip, name, group }))
    }

    fn updated(&self) -> Result<LastUpdate, String> {
        let text = self.text(UPDATED)?;
        let sound = |c: char| c.is_ascii_digit() || " -:.TZ+".contains(c);
        match text.len() <= 40 && text.chars().all(sound) {
            true => Ok(LastUpdate(text.to_owned())),
            false => Err(format!("{UPDATED} \"{}\" is no time", cut(text))),
        }
    }

    fn text(&self, attribute: &str) -> Result<&str, String> {
        match self.item.get(attribute) {
            Some(AttributeValue::S(text)) => Ok(text),
            Some(_) => Err(format!("{attribute} is not a text (S)")),
            None => Err(format!("{attribute} is missing")),
        }
    }

    fn number<T: std::str::FromStr>(&self, attribute: &str) -> Result<T, String> {
        match self.item.get(attribute) {
            Some(AttributeValue::N(text)) => text.parse().map_err(|_| {
                format!("{attribute} \"{}\" is not a whole number of 0 or more", cut(text))
            }),
            Some(_) => Err(format!("{attribute} is not a number (N)")),
            None => Err(format!("{attribute} is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(changes: &[(&str, AttributeValue)]) -> Item {
        let n = |text: &str| AttributeValue::N(text.into());
        let mut item: Item = [
            (ID, n("7")),
            (IP, s("10.0.0.7")),
            (NAME, s("i-7")),
            (ASG, s("blue")),
            (WEIGHT, n("3")),
            (STATUS, s("enabled")),
            (UPDATED, s("2023-06-01 12:00:00.123456")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        item.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        item
    }

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.into())
    }

    fn n(text: &str) -> AttributeValue {
        AttributeValue::N(text.into())
    }

    #[test]
    fn a_row_of_hsdos_is_read_and_written_as_it_is() {
        let row = Row::read(&item(&[])).unwrap();
        let server = row.holder().unwrap();
        assert_eq!((server.name.as_str(), server.ip.to_string().as_str()), ("i-7", "10.0.0.7"));
        assert_eq!((row.slot.get(), row.weight.get()), (7, 3));
        assert_eq!(row.to_item(), item(&[]));
    }

    #[test]
    fn a_free_row_is_that_of_hsdo() {
        let free = Row::free(SlotNumber::new(2).unwrap());
        let expected: Item = [
            (ID, n("2")),
            (IP, s("none")),
            (NAME, s("none")),
            (ASG, s("none")),
            (WEIGHT, n("0")),
            (STATUS, s("disabled")),
            (UPDATED, s("0-0-0 00:00:00.000000")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        assert_eq!(free.to_item(), expected);
        assert_eq!(Row::read(&expected), Ok(free));
    }

    #[test]
    fn a_row_from_before_there_were_groups_is_read() {
        let mut old = item(&[]);
        old.remove(ASG);
        assert_eq!(Row::read(&old).unwrap().server.unwrap().group, None);
    }

    #[test]
    fn a_disabled_row_is_nobodys_whatever_else_it_says() {
        let row = Row::read(&item(&[(STATUS, s("disabled"))])).unwrap();
        assert_eq!(row.holder(), None);
        assert_ne!(row, Row::free(row.slot));
    }

    #[test]
    fn what_hsdo_does_not_write_is_an_error_that_names_row_and_attribute() {
        let escape = "10.0.0.7; shutdown sessions server a/b";
        for (attribute, value, says) in [
            (ID, n("0"), "no slot"),
            (ID, n("100000"), "no slot"),
            (ID, n("1.5"), "BackendServerID \"1.5\" is not a whole number"),
            (ID, s("7"), "row with a BackendServerID that is no number"),
            (IP, n("10"), "IPAddress is not a text (S)"),
            (IP, s(""), "IPAddress \"\" is no IP address"),
            (IP, s(escape), "is no IP address"),
            (IP, s("0.0.0.0"), "unspecified"),
            (IP, s("224.0.0.1"), "multicast"),
            (IP, s("none"), "IPAddress is none, and"),
            (NAME, s("none"), "ServerName is none"),
            (NAME, s("i;7"), "ServerName: endpoint id \"i;7\" has ';'"),
            (NAME, AttributeValue::Bool(true), "ServerName is not a text (S)"),
            (ASG, s("a\nb"), "ASG: group \"a\\nb\" has '\\n'"),
            (WEIGHT, s("3"), "Weight is not a number (N)"),
            (WEIGHT, n("-1"), "Weight \"-1\" is not a whole number"),
            (WEIGHT, n("1.5"), "Weight \"1.5\" is not a whole number"),
            (STATUS, s("Enabled"), "BackendServerStatus is \"Enabled\""),
            (UPDATED, s("\u{1b}[2J"), "LastWeightUpdate \"\\u{1b}[2J\" is no time"),
            (UPDATED, n("0"), "LastWeightUpdate is not a text (S)"),
        ] {
            let error = Row::read(&item(&[(attribute, value.clone())])).unwrap_err().to_string();
            assert!(error.contains(says), "{attribute} {value:?}: {error}");
            assert!(error.starts_with("row 7 ") || attribute == ID, "{error}");
        }
        for attribute in [ID, IP, NAME, WEIGHT, STATUS, UPDATED] {
            let mut item = item(&[]);
            item.remove(attribute);
            let error = Row::read(&item).unwrap_err().to_string();
            assert!(error.contains(&format!("{attribute} is missing")), "{error}");
        }
    }

    #[test]
    fn a_weight_that_haproxy_does_not_take_is_its_greatest() {
        let row = Row::read(&item(&[(WEIGHT, n("300"))])).unwrap();
        assert_eq!(row.weight, Weight::MAX);
    }

    #[test]
    fn a_group_that_is_called_none_is_no_group_in_a_row() {
        let endpoint = Endpoint {
            id: "i-7".parse().unwrap(),
            address: "10.0.0.7:80".parse().unwrap(),
            name: None,
            group: Some("none".parse().unwrap()),
            zone: None,
            weight: None,
            leaving: false,
        };
        let row = Row { server: Some(Server::of(&endpoint)), ..Row::read(&item(&[])).unwrap() };
        assert_eq!(Row::read(&row.to_item()), Ok(row));
    }

    #[test]
    fn times_are_written_as_python_does() {
        let at = |text: &str| LastUpdate::at(&text.parse().unwrap()).0;
        assert_eq!(at("2023-06-01T02:03:04.000056+02:00[+02:00]"), "2023-06-01 02:03:04.000056");
        assert_eq!(at("2023-06-01T02:03:04.0000009+00:00[UTC]"), "2023-06-01 02:03:04");
        assert_eq!(at("0987-06-01T02:03:04+00:00[UTC]"), "0987-06-01 02:03:04");
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let group = proptest::option::of("[ -~é]{0,200}".prop_map(|t| t + "1"));
        let server = (any::<u32>(), "i-[0-9a-f]{1,17}", group).prop_map(|(ip, name, group)| {
            let ip = ServerAddress::check_ip(IpAddr::V4(ip.into())).ok()?;
            let group = group.map(|group| group.parse().unwrap());
            Some(Server { ip, name: name.parse().unwrap(), group })
        });
        let update = (0i64..4_000_000_000_000_000).prop_map(|micros| {
            let time = jiff::Timestamp::from_microsecond(micros).unwrap();
            LastUpdate::at(&time.to_zoned(jiff::tz::TimeZone::UTC))
        });
        (1u32..=99_999, server, 0u64..=256, any::<bool>(), update).prop_map(
            |(slot, server, weight, enabled, updated)| Row {
                slot: SlotNumber::new(slot).unwrap(),
                enabled: enabled && server.is_some(),
                server,
                weight: Weight::saturating(weight),
                updated,
            },
        )
    }

    fn any_value() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            any::<String>().prop_map(AttributeValue::S),
            any::<String>().prop_map(AttributeValue::N),
            any::<bool>().prop_map(AttributeValue::Bool),
        ]
    }

    proptest! {
        #[test]
        fn every_row_reads_back_as_written(row in any_row()) {
            prop_assert_eq!(Row::read(&row.to_item()), Ok(row));
        }

        #[test]
        fn whatever_somebody_wrote_is_read_or_an_error_that_is_safe_to_print(
            values in proptest::collection::vec((0usize..7, any_value()), 1..8),
        ) {
            let names = [ID, IP, NAME, ASG, WEIGHT, STATUS, UPDATED];
            let changes: Vec<_> = values.into_iter().map(|(at, value)| (names[at], value)).collect();
            if let Err(error) = Row::read(&item(&changes)) {
                let said = error.to_string();
                prop_assert_eq!(text::lines(&said), said.as_str());
                prop_assert!(!said.contains(['\n', '\t']) && said.len() < 4000);
            }
        }
    }
}
