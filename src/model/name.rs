use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::SlotNumber;
use crate::text;

/// A name that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {shown:?} {problem}")]
pub struct NameError {
    kind: &'static str,
    /// The refused text, cut to a length that is safe to print.
    shown: String,
    problem: String,
}

/// Longest name in bytes. Ids that are longer at their source are shortened to it, so that another
/// limit would make other servers of them.
const MAX_LEN: usize = 128;

/// Longest name of what HAProxy's configuration names, in bytes: HAProxy sets no limit of its own. A
/// key built of several names stays under 1 KiB, and a command with a backend's and a server's name
/// under the smallest of HAProxy's buffers.
const MAX_HAPROXY_LEN: usize = 255;

/// What stands before a backend's name in the name of its election.
const DISCOVER: &str = "discover-";

fn check(kind: &'static str, text: &str, extra: &str, max_len: usize) -> Result<(), NameError> {
    let fail =
        |problem: String| Err(NameError { kind, shown: text.chars().take(40).collect(), problem });
    if text.is_empty() {
        return fail("is empty".into());
    }
    if text.len() > max_len {
        return fail(format!("is longer than {max_len} bytes"));
    }
    match text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"-_.:".contains(*c) && !extra.contains(*c))
    {
        Some(c) => fail(format!("has {c:?}: use letters, digits and -_.:{extra}")),
        // `.` and `..` would be odd path parts wherever a name ends up in one.
        None if text.chars().all(|c| c == '.') => fail("is only dots".into()),
        None => Ok(()),
    }
}

/// Longest name of a group, in characters: Auto Scaling's limit.
const MAX_GROUP_LEN: usize = 255;

/// Auto Scaling takes nearly every character in a group's name (API reference,
/// "CreateAutoScalingGroup"); what a terminal would obey is refused here.
fn check_group(name: &str) -> Result<(), NameError> {
    let fail = |problem: String| {
        Err(NameError { kind: "group", shown: name.chars().take(40).collect(), problem })
    };
    if name.is_empty() {
        return fail("is empty".into());
    }
    if name.chars().nth(MAX_GROUP_LEN).is_some() {
        return fail(format!("is longer than {MAX_GROUP_LEN} characters"));
    }
    match name.chars().find(|c| text::is_obeyed(*c)) {
        Some(c) => fail(format!("has {c:?}, which a terminal would obey")),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $extra:literal) => {
        name! { $(#[$doc])* $type, |text| check($kind, text, $extra, MAX_LEN) }
    };
    ($(#[$doc:meta])* $type:ident, $check:expr) => {
        $(#[$doc])*
        // Counted, not copied: a plan names each server many times.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A backend: a named pool of servers, in lbctl's table and in HAProxy. HAProxy's own character
    /// set for proxy names (configuration manual, section 2.1), which has no `/`, `;` or space.
    BackendName,
    |text| check("backend name", text, "", MAX_HAPROXY_LEN)
);
name!(
    /// A member line of a HAProxy backend; the same character set as [`BackendName`].
    ServerName,
    |text| check("server name", text, "", MAX_HAPROXY_LEN)
);
name!(
    /// The name one HAProxy instance reports under.
    HaproxyName,
    "HAProxy name",
    ""
);
name!(
    /// A name that a source gives: an endpoint's own, its zone, a service.
    Label,
    "label",
    "@+"
);
name!(
    /// The group that an endpoint belongs to, as its source names it. It may have spaces and signs,
    /// as an Auto Scaling group may, so that it never becomes a part of a key, of a path or of a
    /// command for HAProxy or a shell.
    GroupName,
    check_group
);
name!(
    /// What makes an endpoint the same one over time (instance id, registration id), never its
    /// address: a reused address with a new id is a new server.
    EndpointId,
    "endpoint id",
    "[]@+%"
);
name!(
    /// What is led by one: `discover`, say. One leader key each.
    ElectionName,
    |text| check("election name", text, "", MAX_HAPROXY_LEN + DISCOVER.len())
);
name!(
    /// Who a candidate says it is, for people: safety never rests on it, and two candidates of one
    /// name are still two.
    CandidateId,
    "candidate id",
    "[]@+%"
);

impl From<Label> for GroupName {
    fn from(label: Label) -> Self {
        Self(label.0)
    }
}

impl HaproxyName {
    /// A host's name without what a HAProxy's name cannot have; `haproxy` where little is left.
    pub fn of_host(host: &str) -> Self {
        let kept: String =
            host.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        kept.parse().unwrap_or_else(|_: NameError| Self("haproxy".into()))
    }
}

/// What stands before the slot's number in a server's name, as in `server-template srv 1-10`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerPrefix(ServerName);

impl ServerPrefix {
    /// The name of a slot's server: `srv7`.
    pub fn server(&self, slot: SlotNumber) -> ServerName {
        ServerName(format!("{}{slot}", self.0.0).into())
    }

    /// The slot that a server of this name is the place of. `srv07` is another server, not another
    /// spelling of `srv7`.
    pub fn slot(&self, server: &str) -> Option<SlotNumber> {
        let number = server.strip_prefix(self.0.as_str())?;
        // Neither a sign nor a leading zero.
        number.starts_with(|c| matches!(c, '1'..='9')).then(|| number.parse().ok())?
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for ServerPrefix {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The longest number has to fit behind it.
        check("server name prefix", text, "", MAX_HAPROXY_LEN - SlotNumber::MAX.padded().len())?;
        Ok(Self(ServerName(text.into())))
    }
}

impl fmt::Display for ServerPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<uuid::Uuid> for EndpointId {
    fn from(uuid: uuid::Uuid) -> Self {
        Self(uuid.to_string().into())
    }
}

impl ElectionName {
    /// Who fills a backend's table: `discover-<backend>`.
    pub fn discover(backend: &BackendName) -> Self {
        Self(format!("{DISCOVER}{backend}").into())
    }
}

impl CandidateId {
    /// `<host>-<process id>`.
    pub fn of_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .take(100)
            .collect();
        Self(format!("{host}-{}", std::process::id()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_out_of_a_socket_command_or_key_is_refused() {
        for bad in ["", "a b", "a;b", "a\nb", "a\\b", "a/b", "é", ".", "..", &"x".repeat(256)] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?} was accepted");
            assert!(bad.parse::<EndpointId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_error_names_the_thing_and_what_is_allowed() {
        let error = "web;1".parse::<BackendName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"backend name "web;1" has ';': use letters, digits and -_.:"#
        );
    }

    #[test]
    fn usual_names_pass() {
        for good in ["web", "i-0abc123", "web_1.eu:80", "A"] {
            good.parse::<BackendName>().unwrap();
        }
        "[2001:db8::1]:80".parse::<EndpointId>().unwrap();
    }

    #[test]
    fn a_group_may_have_every_name_that_auto_scaling_allows() {
        let printable: String = (' '..='~').collect();
        let longest = "é".repeat(255);
        for good in ["web a", "web/1", "~", "..", "#(=&)", "a,b", "a\\", &printable, &longest] {
            let group: GroupName = good.parse().unwrap();
            assert_eq!(group.as_str(), good);
            let json = serde_json::to_string(&group).unwrap();
            assert_eq!(serde_json::from_str::<GroupName>(&json).unwrap(), group);
        }
        for (bad, says) in [
            ("", "is empty"),
            ("a\nb", "which a terminal would obey"),
            ("a\u{1b}[2J", "which a terminal would obey"),
            ("a\u{202e}b", "which a terminal would obey"),
            (&"x".repeat(256), "longer than 255 characters"),
        ] {
            let error = bad.parse::<GroupName>().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn the_longest_name_of_a_backend_has_an_election_and_its_keys() {
        let backend: BackendName = "b".repeat(255).parse().unwrap();
        let election = ElectionName::discover(&backend);
        assert_eq!(election.as_str().parse::<ElectionName>().unwrap(), election);
        let id: EndpointId = "i".repeat(MAX_LEN).parse().unwrap();
        let key = crate::model::keys::registration(&backend, &id);
        assert_eq!(key.as_str().parse::<crate::store::Key>().unwrap(), key);
        let error = "b".repeat(256).parse::<BackendName>().unwrap_err().to_string();
        assert!(error.contains("is longer than 255 bytes"), "{error}");
    }

    #[test]
    fn any_host_gives_a_name() {
        assert_eq!(HaproxyName::of_host("lb-1.example.org").as_str(), "lb-1.example.org");
        assert_eq!(HaproxyName::of_host("bü ro").as_str(), "bro");
        assert_eq!(HaproxyName::of_host("..").as_str(), "haproxy");
    }

    #[test]
    fn a_prefix_and_a_slot_make_a_name_and_back() {
        let prefix: ServerPrefix = "srv".parse().unwrap();
        let slot = SlotNumber::new(7).unwrap();
        assert_eq!(prefix.server(slot).as_str(), "srv7");
        assert_eq!(prefix.slot("srv7"), Some(slot));
        for other in ["srv07", "srv", "srv+7", "srv7x", "web7", "srv0", "srv100000", "srv-7"] {
            assert_eq!(prefix.slot(other), None, "{other} was taken for a slot");
        }
        assert!("x".repeat(251).parse::<ServerPrefix>().is_err());
        let longest: ServerPrefix = "x".repeat(250).parse().unwrap();
        assert!(longest.server(SlotNumber::MAX).as_str().parse::<ServerName>().is_ok());
    }
}
