use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::support::{DEADLINE, Process, World, eventually, lbctl};

/// A running `lbctl serve`.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
}

impl Server {
    /// On a store of its own, in memory.
    pub fn alone(dir: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(lbctl());
        command.args(["serve", "--store", "memory:"]);
        Self::of(dir, "serve", &mut command, args)
    }

    /// On a test's store, under an id.
    pub fn of_world(world: &World, id: &str, args: &[&str]) -> Self {
        let mut command = world.command(&["serve", "--id", id]);
        Self::of(world.dir.path(), &format!("serve-{id}"), &mut command, args)
    }

    pub fn of(dir: &Path, name: &str, command: &mut Command, args: &[&str]) -> Self {
        if !args.contains(&"-H") {
            command.args(["-H", "127.0.0.1"]);
        }
        command.args(["-p", "0", "--admin", "off"]).args(args);
        let name = format!("{name}-{:04x}", fastrand::u16(..));
        let process = Process::start(&name, dir, command);
        let address = eventually(&format!("{name} to listen"), || {
            let log = process.log();
            let (_, rest) = log.split_once("listening=")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        Self { process, address }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Asks `WHO` on a connection of its own until the number of all clients, this one included,
    /// is as wanted.
    pub fn wait_for_all(&self, wanted: &str) {
        let mut client = self.connect();
        eventually(&format!("{wanted} clients on all servers; {}", self.process.tail()), || {
            (client.who().all == wanted).then_some(())
        });
    }
}

/// What `WHO` answers, its texts checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Who {
    pub clients: Vec<String>,
    pub here: usize,
    pub all: String,
}

/// A connection that never waits longer than a test may.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    /// Sends a line and answers the reply's first line.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\n"));
        self.line()
    }

    pub fn who(&mut self) -> Who {
        let first = self.ask("WHO");
        let (second, third) = (self.line(), self.line());
        let inside = |line: &str, start: &str, end: &str| {
            let rest = line.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
            rest.unwrap_or_else(|| panic!("{line:?} is not {start}…{end}")).to_owned()
        };
        let set = inside(&first, "IP:PORT of clients connected to this server: {", "}\n");
        let here = inside(&second, "clients connected to this server: ", "\n");
        let clients = set.split(", ").map(|entry| inside(entry, "'", "'")).collect();
        let all = inside(&third, "clients connected to all servers: ", "\n");
        Who { clients, here: here.parse().unwrap(), all }
    }

    /// What comes until the server closes; a reset counts as the end.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.reader.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server did not close: {error}"),
        }
        String::from_utf8(bytes).unwrap()
    }

    /// The address this client is known under.
    pub fn address(&self) -> String {
        self.stream.local_addr().unwrap().to_string()
    }

    /// No more is sent; the reading side stays open.
    pub fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
}
