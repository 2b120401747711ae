use tempfile::{TempDir, tempdir};

use super::Server;

/// A version 2 header for TCP over IPv4, from 10.1.2.3:4660.
fn version_2(command: u8) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    let addresses = [10, 1, 2, 3, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
    [&start[..], &[0x20 | command, 0x11, 0, 12], &addresses].concat()
}

fn server() -> (TempDir, Server) {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &["--proxy-protocol"]);
    (dir, server)
}

#[test]
fn who_shows_the_real_clients() {
    let (_dir, server) = server();
    let mut first = server.connect();
    first.send("PROXY TCP6 2001:db8::7 2001:db8::1 9 80\r\n");
    assert_eq!(first.ask("WHY"), "42\n");
    let mut second = server.connect();
    // Split, and with a command in the packet that ends the header.
    let header = version_2(1);
    second.send(&header[..5]);
    assert_eq!(first.ask("WHY"), "42\n");
    second.send([&header[5..], b"WHY\nWH"].concat());
    assert_eq!(second.line(), "42\n");
    second.send("Y\n");
    assert_eq!(second.line(), "42\n");
    assert_eq!(first.who().clients, ["10.1.2.3:4660", "[2001:db8::7]:9"]);
}

#[test]
fn the_proxy_s_own_probes_are_answered_but_are_not_clients() {
    let (_dir, server) = server();
    let mut probe = server.connect();
    probe.send(version_2(0));
    assert_eq!(probe.ask("WHY"), "42\n");
    drop(server.connect());
    let mut client = server.connect();
    client.send("PROXY UNKNOWN\r\n");
    let who = client.who();
    assert_eq!((who.clients, who.here), (vec![client.address()], 1));
}

#[test]
fn a_connection_without_a_header_is_refused_with_the_reason() {
    let (_dir, server) = server();
    for bad in [&b"WHO\n"[..], b"PROXY TCP4 1.2.3.4\r\n", b"PROXY ok\r\n", &version_2(7)] {
        let mut client = server.connect();
        client.send(bad);
        let reply = client.rest();
        assert!(reply.starts_with("a PROXY protocol header is needed: "), "{reply}");
    }
    let mut client = server.connect();
    client.send("PROXY UNKNOWN\r\n");
    assert_eq!(client.who().here, 1);
}
