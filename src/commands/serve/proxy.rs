//! The PROXY protocol's header, versions 1 and 2, as bytes arrive
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::net::SocketAddr;

use ppp::{v1, v2};

/// Longest version 1 header, its line feed included (section 2.1).
const MAX_V1_LEN: usize = 107;

/// Longest version 2 header taken: the addresses and any usual set of TLVs, but not the 64 KiB that
/// the length field could claim.
const MAX_V2_LEN: usize = 16 + 4096;

/// Whom a connection is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Client(SocketAddr),
    /// The proxy does not say (`UNKNOWN`, `AF_UNSPEC`, a UNIX socket): its own address counts.
    Unknown,
    /// The proxy itself (`LOCAL`), such as its health probe: not a client.
    Local,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// A header so far; more must come.
    Incomplete,
    /// A header of `len` bytes; the client's own bytes follow it.
    Complete { len: usize, source: Source },
    /// No header, and why.
    Invalid(String),
}

/// Reads the header at the start of what a connection has sent.
pub fn header(bytes: &[u8]) -> Header {
    match bytes.first() {
        None => Header::Incomplete,
        Some(b'P') => version_1(bytes),
        Some(_) => version_2(bytes),
    }
}

/// The parser takes half an address for a wrong one, so it sees whole lines only.
fn version_1(bytes: &[u8]) -> Header {
    let start = v1::PROTOCOL_PREFIX.as_bytes();
    if !bytes.starts_with(&start[..start.len().min(bytes.len())]) {
        return Header::Invalid("it starts with neither version's signature".into());
    }
    let window = &bytes[..bytes.len().min(MAX_V1_LEN)];
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        return match bytes.len() {
            MAX_V1_LEN.. => Header::Invalid("its line does not end within 107 bytes".into()),
            _ => Header::Incomplete,
        };
    };
    let source = match v1::Header::try_from(&bytes[..=end]) {
        Ok(header) => match header.addresses {
            v1::Addresses::Tcp4(ip) => client(ip.source_address, ip.source_port),
            v1::Addresses::Tcp6(ip) => client(ip.source_address, ip.source_port),
            v1::Addresses::Unknown => Source::Unknown,
        },
        Err(error) => return Header::Invalid(error.to_string()),
    };
    Header::Complete { len: end + 1, source }
}

fn version_2(bytes: &[u8]) -> Header {
    if let Some([high, low]) = bytes.get(14..16)
        && 16 + usize::from(u16::from_be_bytes([*high, *low])) > MAX_V2_LEN
    {
        return Header::Invalid(format!("it is longer than {MAX_V2_LEN} bytes"));
    }
    match v2::Header::try_from(bytes) {
        Ok(header) => Header::Complete { len: header.len(), source: source(&header) },
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => Header::Incomplete,
        Err(error) => Header::Invalid(error.to_string()),
    }
}

fn source(header: &v2::Header<'_>) -> Source {
    if header.command == v2::Command::Local {
        return Source::Local;
    }
    match header.addresses {
        v2::Addresses::IPv4(ip) => client(ip.source_address, ip.source_port),
        v2::Addresses::IPv6(ip) => client(ip.source_address, ip.source_port),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => Source::Unknown,
    }
}

fn client(ip: impl Into<std::net::IpAddr>, port: u16) -> Source {
    Source::Client(SocketAddr::new(ip.into().to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &len, body].concat()
    }

    /// 10.1.2.3:4660 to 10.0.0.1:80.
    const IPV4: [u8; 12] = [10, 1, 2, 3, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    fn complete(bytes: &[u8]) -> Source {
        let with_more = [bytes, b"WHO\n"].concat();
        match header(&with_more) {
            Header::Complete { len, source } if len == bytes.len() => source,
            other => panic!("{other:?}"),
        }
    }

    fn is_client(bytes: &[u8], address: &str) {
        assert_eq!(complete(bytes), Source::Client(address.parse().unwrap()));
    }

    #[test]
    fn both_versions_tell_the_client() {
        is_client(b"PROXY TCP4 10.1.2.3 10.0.0.1 4660 80\r\n", "10.1.2.3:4660");
        is_client(b"PROXY TCP6 2001:db8::1 ::1 9 80\r\n", "[2001:db8::1]:9");
        is_client(&v2(1, 0x11, &IPV4), "10.1.2.3:4660");
        is_client(&v2(1, 0x11, &[&IPV4[..], &[4, 0, 1, 0]].concat()), "10.1.2.3:4660");
    }

    #[test]
    fn a_proxy_that_does_not_say_and_the_proxy_itself_are_told_apart() {
        assert_eq!(complete(b"PROXY UNKNOWN\r\n"), Source::Unknown);
        assert_eq!(complete(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Source::Unknown);
        assert_eq!(complete(&v2(1, 0, &[])), Source::Unknown);
        assert_eq!(complete(&v2(0, 0, &[])), Source::Local);
        assert_eq!(complete(&v2(0, 0x11, &IPV4)), Source::Local);
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_shows() {
        let invalid = |bytes: &[u8]| matches!(header(bytes), Header::Invalid(_));
        for bad in [
            &b"WHO\n"[..],
            b"PX",
            b"PROXY TCP4 10.1.2.3\r\n",
            b"PROXY TCP4 10.1.2.3 10.0.0.1 4660 80\n",
            b"PROXY TCP4 999.1.2.3 10.0.0.1 4660 80\r\n",
            b"PROXY UDP4 10.1.2.3 10.0.0.1 4660 80\r\n",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(),
            b"\r\n\r\nX",
            &v2(2, 0x11, &IPV4),
            &v2(1, 0x11, &IPV4[..8]),
            &v2(1, 0, &[0; 5000])[..16],
        ] {
            assert!(invalid(bad), "{bad:?} was accepted: {:?}", header(bad));
        }
    }

    proptest! {
        #[test]
        fn every_part_of_a_header_is_incomplete(cut in any::<prop::sample::Index>(), kind in 0usize..3) {
            let bytes = [
                b"PROXY TCP4 10.1.2.3 10.0.0.1 4660 80\r\n".to_vec(),
                v2(1, 0x11, &IPV4),
                v2(0, 0, &[]),
            ][kind].clone();
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(header(part), Header::Incomplete);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), version in 0usize..3) {
            let start: &[u8] = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"][version];
            header(&[start, &bytes].concat());
        }
    }
}
