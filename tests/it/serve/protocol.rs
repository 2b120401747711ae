use tempfile::tempdir;

use super::{Client, Server};

const INVALID: &str = "invalid command:\n use 'WHY', 'WHO', 'WHERE', 'QUIT'\n";

#[test]
fn the_replies_are_the_original_server_s() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &["--id", "one"]);
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!(second.ask("WHY"), "42\n");
    let mut both = [first.address(), second.address()];
    both.sort();
    first.send("WHO\nWHERE\nWHY\nQUIT\n");
    assert_eq!(
        first.rest(),
        format!(
            "IP:PORT of clients connected to this server: {{'{}', '{}'}}\n\
             clients connected to this server: 2\n\
             clients connected to all servers: 2\n\
             one\n42\n",
            both[0], both[1]
        )
    );
    second.send("WHEN\n\nwhy\nquit\n");
    assert_eq!(second.rest(), format!("{INVALID}{INVALID}42\n"));
}

#[test]
fn where_is_a_uuid_of_each_server_s_own() {
    let dir = tempdir().unwrap();
    let ids = [0, 1].map(|_| Server::alone(dir.path(), &[]).connect().ask("WHERE"));
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert!(uuid::Uuid::parse_str(id.trim_end()).is_ok(), "{id:?}");
    }
}

#[test]
fn commands_work_split_over_packets_pipelined_in_any_case_and_with_crlf() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut client = server.connect();
    for byte in b" Why\r\nwHy \n" {
        client.send([*byte]);
        // The answer of another connection comes after the byte has arrived.
        server.connect().ask("WHY");
    }
    assert_eq!(client.line() + &client.line(), "42\n42\n");
    client.send("WHY\n".repeat(5000));
    client.half_close();
    assert_eq!(client.rest(), "42\n".repeat(5000));
}

#[test]
fn a_last_command_without_a_line_feed_is_answered_at_the_end_of_the_input() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    for (sent, wanted) in
        [("WHY", "42\n"), ("WHY\nWH", &*format!("42\n{INVALID}")), ("\nW ", INVALID)]
    {
        let mut client = server.connect();
        client.send(sent);
        client.half_close();
        assert!(client.rest().ends_with(wanted), "{sent:?}");
    }
}

#[test]
fn garbage_is_invalid_and_harms_nobody() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    let mut bystander = server.connect();
    let mut random = fastrand::Rng::with_seed(7);
    for len in [1, 10, 100, 500, 5000] {
        let mut bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        bytes.push(b'\n');
        let mut client = Client::connect(server.address);
        client.send(&bytes);
        client.half_close();
        let reply = client.rest();
        assert!(
            reply.starts_with("invalid command:") || reply.starts_with("line too long"),
            "{reply}"
        );
        assert_eq!(bystander.ask("WHY"), "42\n");
    }
    for bytes in [&b"\xff\xfe\xfd\n"[..], b"W\0HY\n", "WH\u{d6}\n".as_bytes()] {
        bystander.send(bytes);
        assert_eq!(bystander.line() + &bystander.line(), INVALID);
    }
}

#[test]
fn a_line_too_long_is_refused_with_a_sentence() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &[]);
    for end in ["", "\n", "\nWHY\n"] {
        let mut client = server.connect();
        client.send(format!("WHY\n{}{end}", "x".repeat(600)));
        assert_eq!(client.rest(), "42\nline too long: at most 512 bytes\n", "{end:?}");
    }
}

#[test]
fn ipv6_works_and_shows_ipv4_clients_plainly() {
    let dir = tempdir().unwrap();
    let server = Server::alone(dir.path(), &["-H", "::"]);
    let port = server.address.port();
    let mut six = Client::connect(format!("[::1]:{port}").parse().unwrap());
    let mut four = Client::connect(format!("127.0.0.1:{port}").parse().unwrap());
    assert_eq!(six.ask("WHY"), "42\n");
    assert_eq!(four.who().clients, [four.address(), six.address()]);
}
