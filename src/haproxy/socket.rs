use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where HAProxy's Runtime API listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// A stats socket: `/run/haproxy/admin.sock`.
    Unix(PathBuf),
    /// A stats socket in Linux's abstract namespace: `abns@haproxy`.
    Abstract(AbstractName),
    /// A stats socket over TCP: `127.0.0.1:9999`.
    Tcp { host: String, port: u16 },
    /// The master CLI (`haproxy -W -S ADDRESS`): `master:/run/haproxy-master.sock`.
    Master(Box<Self>),
}

/// A name in the abstract namespace. HAProxy's `abns@` fills it up with zeros, its `abnsz@` does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AbstractName {
    name: String,
    padded: bool,
}

/// A text that is no socket address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a HAProxy socket: use PATH, HOST:PORT or abns@NAME, as on the `stats socket` line, \
     or master:ADDRESS for the address of `haproxy -S`"
)]
pub struct SocketAddressError(String);

impl FromStr for SocketAddress {
    type Err = SocketAddressError;

    fn from_str(text: &str) -> Result<Self, SocketAddressError> {
        let fail = || SocketAddressError(text.chars().take(120).collect());
        let address = match text.strip_prefix("master:") {
            Some(address) => stats_socket(address).map(|address| Self::Master(Box::new(address))),
            None => stats_socket(text),
        };
        address.ok_or_else(fail)
    }
}

/// An address as a `stats socket` line has it (configuration manual, section 11.2), with the prefixes
/// that name its family.
fn stats_socket(text: &str) -> Option<SocketAddress> {
    let (family, address) = match text.split_once('@') {
        // An `@` of its own may stand in a path.
        Some((family, address)) if !family.contains('/') => (family, address),
        _ => ("", text),
    };
    match family {
        "" if address.contains('/') => unix(address),
        "unix" | "uxst" => unix(address),
        "abns" | "abnsz" => abstract_name(address, family == "abns"),
        "" | "ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6" => tcp(address, family.ends_with('6')),
        _ => None,
    }
}

fn unix(path: &str) -> Option<SocketAddress> {
    (!path.is_empty() && !path.contains('\0')).then(|| SocketAddress::Unix(path.into()))
}

fn abstract_name(name: &str, padded: bool) -> Option<SocketAddress> {
    let fits = !name.is_empty() && name.len() <= MAX_ABSTRACT && !name.contains('\0');
    fits.then(|| SocketAddress::Abstract(AbstractName { name: name.to_owned(), padded }))
}

/// `*:9999` and `:9999` are every address of the host, of which the loopback one is as good as any.
fn tcp(address: &str, v6: bool) -> Option<SocketAddress> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" | "0.0.0.0" | "::" if v6 => "::1",
        "::" => "::1",
        "" | "*" | "0.0.0.0" => "127.0.0.1",
        host => host,
    };
    Some(SocketAddress::Tcp { host: host.to_owned(), port })
}

/// `sun_path` of unix(7) without the zero that it begins with.
const MAX_ABSTRACT: usize = 107;

impl AbstractName {
    /// As unix(7) has it: a zero byte, then the name.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(self.name.as_bytes());
        if self.padded {
            bytes.resize(1 + MAX_ABSTRACT, 0);
        }
        bytes
    }
}

impl fmt::Display for AbstractName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", if self.padded { "abns" } else { "abnsz" }, self.name)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without a slash it would be read as HOST:PORT.
            Self::Unix(path) if !path.to_string_lossy().contains('/') => {
                write!(f, "unix@{}", path.display())
            }
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => name.fmt(f),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Master(address) => write!(f, "master:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_a_stats_socket_line_has_it() {
        for (text, shown) in [
            ("/run/h.sock", "/run/h.sock"),
            ("unix@/run/h.sock", "/run/h.sock"),
            ("/run/a@b/h.sock", "/run/a@b/h.sock"),
            ("unix@h.sock", "unix@h.sock"),
            ("abns@haproxy", "abns@haproxy"),
            ("abnsz@haproxy", "abnsz@haproxy"),
            ("127.0.0.1:9999", "127.0.0.1:9999"),
            ("lb1:9999", "lb1:9999"),
            ("ipv4@127.0.0.1:9999", "127.0.0.1:9999"),
            ("tcp4@127.0.0.1:9999", "127.0.0.1:9999"),
            ("ipv6@[::1]:9999", "[::1]:9999"),
            ("ipv6@::1:9999", "[::1]:9999"),
            ("*:9999", "127.0.0.1:9999"),
            (":9999", "127.0.0.1:9999"),
            ("ipv6@:::9999", "[::1]:9999"),
            ("ipv6@:9999", "[::1]:9999"),
            ("master:/run/m.sock", "master:/run/m.sock"),
            ("master:127.0.0.1:9999", "master:127.0.0.1:9999"),
            ("master:ipv4@127.0.0.1:9999", "master:127.0.0.1:9999"),
            ("master:unix@/run/m.sock", "master:/run/m.sock"),
        ] {
            let address: SocketAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
        for text in
            ["", "haproxy", "master:", "unix@", "abns@", "fd@3", "127.0.0.1:0", "127.0.0.1:http"]
        {
            let error = text.parse::<SocketAddress>().unwrap_err();
            assert!(error.to_string().contains("is not a HAProxy socket"), "{error}");
        }
        assert!(format!("abns@{}", "x".repeat(108)).parse::<SocketAddress>().is_err());
    }
}
