use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where HAProxy's Runtime API listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// A stats socket: `/run/haproxy/admin.sock`.
    Unix(PathBuf),
    /// A stats socket over TCP: `127.0.0.1:9999`.
    Tcp { host: String, port: u16 },
    /// The master CLI (`haproxy -W -S PATH`): `master:/run/haproxy-master.sock`.
    Master(PathBuf),
}

/// A text that is no socket address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a HAProxy socket: use PATH, HOST:PORT or master:PATH")]
pub struct SocketAddressError(String);

impl FromStr for SocketAddress {
    type Err = SocketAddressError;

    fn from_str(text: &str) -> Result<Self, SocketAddressError> {
        let fail = || SocketAddressError(text.chars().take(120).collect());
        if let Some(path) = text.strip_prefix("master:") {
            return if path.is_empty() { Err(fail()) } else { Ok(Self::Master(path.into())) };
        }
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let port = port.parse().map_err(|_| fail())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return Err(fail());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Master(path) => write!(f, "master:{}", path.display()),
        }
    }
}
