use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IP address and port that a server can be reached at: never unspecified, multicast or port 0,
/// and an IPv4-mapped IPv6 address is stored as the IPv4 one, so that equal means equal.
///
/// Its text form is `10.0.0.1:80` or `[2001:db8::1]:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress(SocketAddr);

/// An address that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("address {0:?} is not IP:PORT, such as 10.0.0.1:80 or [2001:db8::1]:80")]
    Syntax(String),
    #[error("address {0} has port 0")]
    NoPort(SocketAddr),
    #[error("address {0} cannot be a server's: it is unspecified, broadcast or multicast")]
    NotUnicast(IpAddr),
    /// Management guide, "set server addr": an IP address, and no interface.
    #[error(
        "address {0:?} has an IPv6 zone, which HAProxy cannot be told while it runs: give an address that is not link-local"
    )]
    Zone(String),
}

impl ServerAddress {
    pub fn new(ip: IpAddr, port: u16) -> Result<Self, AddressError> {
        let address = SocketAddr::new(Self::check_ip(ip)?, port);
        if port == 0 {
            return Err(AddressError::NoPort(address));
        }
        Ok(Self(address))
    }

    /// An IP address that a server can have, an IPv4-mapped IPv6 one as the IPv4 one.
    pub fn check_ip(ip: IpAddr) -> Result<IpAddr, AddressError> {
        let ip = ip.to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(AddressError::NotUnicast(ip));
        }
        Ok(ip)
    }

    /// Refuses a text that names the interface of an IPv6 address, such as `fe80::1%eth0`: without
    /// that it is another address.
    pub fn refuse_zone(text: &str) -> Result<(), AddressError> {
        let ip = text.split_once('%').map(|(ip, _)| ip.trim_start_matches('['));
        match ip.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()) {
            true => Err(AddressError::Zone(text.chars().take(60).collect())),
            false => Ok(()),
        }
    }

    pub fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    pub fn port(&self) -> u16 {
        self.0.port()
    }

    pub fn socket_addr(&self) -> SocketAddr {
        self.0
    }

    /// The same address with another port.
    pub fn with_port(self, port: u16) -> Result<Self, AddressError> {
        Self::new(self.ip(), port)
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::refuse_zone(text)?;
        let address: SocketAddr =
            text.parse().map_err(|_| AddressError::Syntax(text.chars().take(60).collect()))?;
        Self::new(address.ip(), address.port())
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_a_server_can_have_are_accepted() {
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "a:80",
            "10.0.0.1:80;x",
        ] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_address_of_one_interface_is_refused_and_not_cut_short() {
        for text in ["[fe80::1%2]:80", "[fe80::1%eth0]:80", "fe80::1%2"] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert_eq!(error, AddressError::Zone(text.into()));
            assert!(error.to_string().contains("not link-local"), "{error}");
        }
        assert!(matches!("a%b:80".parse::<ServerAddress>(), Err(AddressError::Syntax(_))));
    }

    #[test]
    fn a_mapped_address_equals_the_ipv4_one() {
        let mapped: ServerAddress = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(mapped, "10.0.0.1:80".parse().unwrap());
    }
}
