use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::model::{AddressError, ServerAddress};

/// Where a listed server is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Place {
    Address(ServerAddress),
    Host(HostPort),
}

/// A host name, in small letters and without a dot at its end, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(AddressError::Syntax(shown)) => match host_port(text) {
                Some(host) => Ok(Self::Host(host)),
                None => Err(format!(
                    "address {shown:?} is not IP:PORT or NAME:PORT, such as 10.0.0.1:80, \
                     [2001:db8::1]:80 or app1.example.com:80"
                )),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

/// `None` for what is no host name (RFC 1123, section 2.1), such as a mistyped IP address.
fn host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let sound = |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(fits);
    let mut labels = host.split('.');
    let last_is_a_number = host.rsplit('.').next()?.chars().all(|c| c.is_ascii_digit());
    let is_name = host.len() <= MAX_HOST && labels.all(sound) && !last_is_a_number;
    is_name.then_some(HostPort { host, port })
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(HostPort { host, port }) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_no_host_and_a_host_is_one_however_it_is_written() {
        let place = |text: &str| text.parse::<Place>().map(|place| place.to_string());
        for text in ["10.0.0.1:80", "[2001:db8::1]:80", "app1.example:8080", "db_1:5432"] {
            assert_eq!(place(text).unwrap(), text);
        }
        assert_eq!(place("App1.Example.:80").unwrap(), "app1.example:80");
        assert!(matches!("10.0.0.1:80".parse(), Ok(Place::Address(_))));
    }

    #[test]
    fn what_is_neither_is_refused() {
        let long = format!("{}:80", "a".repeat(64));
        for text in [
            "",
            "app1",
            "app1:",
            "app1:0",
            "app1:http",
            ":80",
            "10.0.0.256:80",
            "10.0.0.1",
            "a b:80",
            "a..b:80",
            "a;b:80",
            "-:x",
            &long,
        ] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(error.contains("IP:PORT or NAME:PORT"), "{text:?}: {error}");
        }
        let zone = "[fe80::1%eth0]:80".parse::<Place>().unwrap_err();
        assert!(zone.contains("IPv6 zone"), "{zone}");
        assert!("0.0.0.0:80".parse::<Place>().unwrap_err().contains("unspecified"));
    }
}
