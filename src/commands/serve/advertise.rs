//! The address that load balancers reach this server at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::settings::Advertise;
use crate::error::{CommandError, CommandResult, Kind};
use crate::model::{AddressError, ServerAddress};
use crate::store::StoreUrl;

/// What to register: what was asked for, else the address listened on. That may be unspecified
/// (`0.0.0.0`): with a store on this host alone it is loopback then, else this host's address on
/// its default route.
pub fn advertised(
    wanted: Option<Advertise>,
    listening: SocketAddr,
    store: &StoreUrl,
) -> CommandResult<ServerAddress> {
    let port = wanted.and_then(|w| w.port).unwrap_or(listening.port());
    let ip = match wanted {
        Some(wanted) => wanted.ip,
        None if !listening.ip().is_unspecified() => {
            // A zone is written only where there is one.
            ServerAddress::refuse_zone(&listening.to_string()).map_err(refused)?;
            listening.ip()
        }
        None if matches!(store, StoreUrl::Etcd(_) | StoreUrl::Dynamo(_)) => {
            routed(listening.is_ipv6())?
        }
        None if listening.is_ipv6() => Ipv6Addr::LOCALHOST.into(),
        None => Ipv4Addr::LOCALHOST.into(),
    };
    ServerAddress::new(ip, port).map_err(refused)
}

fn refused(error: AddressError) -> CommandError {
    CommandError::new(Kind::Config, error).hint("give another with --advertise IP:PORT")
}

/// Connecting a UDP socket sends nothing: it only asks the kernel for the route, here to an address
/// for documentation (RFC 5737, RFC 3849).
fn routed(ipv6: bool) -> CommandResult<IpAddr> {
    let (any, target): (IpAddr, IpAddr) = match ipv6 {
        false => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        true => {
            let target = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            (Ipv6Addr::UNSPECIFIED.into(), target.into())
        }
    };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((target, 9))?;
        socket.local_addr()
    });
    match asked {
        Ok(address) => Ok(address.ip()),
        Err(error) => Err(CommandError::new(Kind::Config, error)
            .context("cannot tell this host's address: it has no default route")
            .hint("say it with --advertise IP:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wanted: Option<&str>, listening: &str, store: &str) -> CommandResult<String> {
        let wanted = wanted.map(|text| text.parse().unwrap());
        let address = advertised(wanted, listening.parse().unwrap(), &store.parse().unwrap())?;
        Ok(address.to_string())
    }

    #[test]
    fn what_is_said_wins_then_what_is_listened_on_then_loopback() {
        let sqlite = "sqlite:/x";
        assert_eq!(of(Some("10.0.0.1"), "0.0.0.0:5151", sqlite).unwrap(), "10.0.0.1:5151");
        assert_eq!(of(Some("10.0.0.1:1"), "0.0.0.0:5151", sqlite).unwrap(), "10.0.0.1:1");
        assert_eq!(of(None, "127.0.0.2:5151", "etcd://h").unwrap(), "127.0.0.2:5151");
        assert_eq!(of(None, "0.0.0.0:5151", sqlite).unwrap(), "127.0.0.1:5151");
        assert_eq!(of(None, "[::]:5151", sqlite).unwrap(), "[::1]:5151");
    }

    #[test]
    fn an_address_nobody_can_reach_is_refused_with_the_remedy() {
        for (wanted, listening) in [(Some("0.0.0.0:1"), "0.0.0.0:5151"), (None, "[fe80::1%2]:5151")]
        {
            let report = of(wanted, listening, "memory:").unwrap_err().report();
            assert!(report.contains("--advertise"), "{report}");
        }
        for zoned in ["fe80::1%2", "[fe80::1%eth0]:80"] {
            let error = zoned.parse::<Advertise>().unwrap_err();
            assert!(error.contains("IPv6 zone"), "{error}");
        }
    }
}
