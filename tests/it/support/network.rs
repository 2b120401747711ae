//! Hosts as network namespaces, joined by links that a test can cut, slow down and make lossy.
//!
//! The hosts share one network, 10.77.0.0/24. It is a VXLAN: the kernel wraps every frame into a
//! datagram, and the [`relay`] in a namespace of its own (the middle) passes those on, late or not
//! at all. That needs no `tc netem`, which not every kernel has, and treats each direction of each
//! link on its own. What carries the datagrams, 10.78.N.0/24 between the middle and host N, has no
//! faults: a test in the middle reaches every host at any time.
//!
//! No name is taken: a namespace lives as long as this process holds it or something runs in it.

mod relay;

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{eventually, program};
pub use relay::Link;
use relay::Relay;

/// Some hosts and the links between them.
pub struct Network {
    hosts: Vec<Namespace>,
    relay: Relay,
    middle: Namespace,
}

impl Network {
    /// `None`, with the reason printed, where this is not allowed or the tools are missing; that is
    /// a failure for root under the project's test command.
    pub fn start(hosts: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: making network namespaces needs root");
            return None;
        }
        let (ip, ethtool) = (program("ip")?, program("ethtool")?);
        let tools = Tools { ip, ethtool };
        if !may_make_namespaces() {
            let message = "this root may not make network namespaces: give it CAP_SYS_ADMIN and \
                           CAP_NET_ADMIN (in a container: --privileged)";
            assert!(std::env::var_os("LBCTL_TEST_REQUIRE").is_none(), "{message}");
            eprintln!("skipped: {message}");
            return None;
        }
        let middle = Namespace::new();
        let hosts: Vec<Namespace> = (0..hosts).map(|_| Namespace::new()).collect();
        for (number, host) in hosts.iter().enumerate() {
            tools.join(&middle, host, number);
        }
        let relay = middle.run(|| Relay::start((0..hosts.len()).map(middle_address)));
        let network = Self { hosts, relay, middle };
        network.wait_until_joined();
        Some(network)
    }

    /// Where a test looks at everything from, whatever the links are like.
    pub fn middle(&self) -> &Namespace {
        &self.middle
    }

    pub fn host(&self, number: usize) -> &Namespace {
        &self.hosts[number]
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Changes one direction of one link.
    pub fn set_link(&self, from: usize, to: usize, link: Link) {
        self.relay.set(from, to, link);
    }

    /// Changes every link.
    pub fn set_all(&self, link: Link) {
        for (from, to) in self.pairs() {
            self.set_link(from, to, link);
        }
    }

    pub fn heal(&self) {
        self.set_all(Link::default());
    }

    /// Nothing that a host says reaches another.
    pub fn mute(&self, host: usize) {
        self.pairs()
            .filter(|pair| pair.0 == host)
            .for_each(|(a, b)| self.set_link(a, b, Link::CUT));
    }

    /// Nothing that others say reaches a host.
    pub fn deafen(&self, host: usize) {
        self.pairs()
            .filter(|pair| pair.1 == host)
            .for_each(|(a, b)| self.set_link(a, b, Link::CUT));
    }

    /// Both.
    pub fn isolate(&self, host: usize) {
        self.mute(host);
        self.deafen(host);
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.len();
        (0..count).flat_map(move |a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b)
    }

    fn wait_until_joined(&self) {
        for (from, to) in self.pairs() {
            eventually(&format!("host {from} to reach host {to}"), || {
                let refused = self.host(from).run(|| {
                    let target = (address(to), 9).into();
                    std::net::TcpStream::connect_timeout(&target, Duration::from_millis(500))
                });
                // Somebody is there to say that nobody listens.
                let kind = refused.err().map(|error| error.kind());
                (kind == Some(std::io::ErrorKind::ConnectionRefused)).then_some(())
            });
        }
    }
}

/// Where the other hosts reach a host.
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number(host))
}

/// Where a test in the middle reaches a host.
pub fn side_address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, number(host), 1)
}

fn middle_address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, number(host), 254)
}

fn number(host: usize) -> u8 {
    u8::try_from(host + 1).unwrap()
}

/// A network namespace with nothing in it, kept by a process that ends with this one.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    holder: Child,
}

impl Namespace {
    fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let path = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        eventually("a network namespace", || {
            (std::fs::read_link(&path).ok()? != own).then_some(())
        });
        Self { file: File::open(path).unwrap(), holder }
    }

    /// Runs something in here: its sockets, threads and processes are and stay in here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        // A thread of its own, since a thread cannot be sure to find its way back.
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        _ = self.holder.kill().is_ok();
        _ = self.holder.wait().is_ok();
    }
}

fn may_make_namespaces() -> bool {
    let tried = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

struct Tools {
    ip: PathBuf,
    ethtool: PathBuf,
}

impl Tools {
    /// Lays the wire between the middle and a host, and the host's network card on top.
    fn join(&self, middle: &Namespace, host: &Namespace, number: usize) {
        let (pid, mac) = (host.holder.id(), relay::mac(number));
        let (here, there) = (middle_address(number), side_address(number));
        middle.run(|| {
            self.ip(&format!(
                "link add wire{number} type veth peer name wire netns {pid}\n\
                 address add {here}/24 dev wire{number}\n\
                 link set wire{number} up\n"
            ));
            self.no_offloading(&format!("wire{number}"));
        });
        host.run(|| {
            let card = address(number);
            self.no_offloading("wire");
            self.ip(&format!(
                "link set lo up\n\
                 address add {there}/24 dev wire\n\
                 link set wire up\n\
                 link add card address {mac} mtu 1400 type vxlan id 77 local {there} \
                 remote {here} dstport {port} nolearning\n\
                 address add {card}/24 dev card\n\
                 link set card up\n",
                port = relay::PORT,
            ));
            self.no_offloading("card");
        });
    }

    fn ip(&self, batch: &str) {
        let mut ip =
            Command::new(&self.ip).args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success(), "ip failed at\n{batch}");
    }

    /// Frames that leave a kernel for a program must be whole: not too large, and with checksums.
    fn no_offloading(&self, device: &str) {
        let off = ["tx", "off", "gso", "off", "tso", "off", "gro", "off"];
        let output = Command::new(&self.ethtool).args(["-K", device]).args(off).output().unwrap();
        assert!(output.status.success(), "ethtool: {output:?}");
    }
}
