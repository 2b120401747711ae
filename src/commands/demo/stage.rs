//! The temporary folder, the ports and the processes of a demo.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::child::Child;
use super::haproxy_config;
use crate::error::{CommandError, CommandResult, Kind};
use crate::haproxy::{Client, SocketAddress, Timeouts};
use crate::store::{SharedStore, StoreUrl, open};

/// The table, and HAProxy's backend.
pub(super) const BACKEND: &str = "web";

/// How many servers there are.
pub(super) const SERVERS: usize = 3;

/// A demo that runs.
#[derive(Debug)]
pub(super) struct Stage {
    pub port: u16,
    pub stats_port: u16,
    /// Where discover and sync-haproxy show their metrics.
    pub admin_ports: [u16; 2],
    /// Where each server listens, in order.
    pub server_ports: Vec<u16>,
    pub servers: Vec<Child>,
    pub discover: Child,
    pub sync: Child,
    pub haproxy: Child,
    /// HAProxy's Runtime API, to look with.
    pub client: Client,
    pub store: SharedStore,
    dir: TempDir,
}

impl Stage {
    /// Makes the folder and starts everything.
    pub async fn build(
        port: Option<u16>,
        stats_port: Option<u16>,
        haproxy: Option<PathBuf>,
    ) -> CommandResult<Self> {
        let haproxy = haproxy.map_or_else(find_haproxy, Ok)?;
        let dir = tempfile::Builder::new().prefix("lbctl-demo-").tempdir()?;
        let mut ports = free_ports(SERVERS + 4)?.into_iter();
        let mut next = || ports.next().unwrap_or_default();
        let port = given(port, "--port")?.unwrap_or_else(&mut next);
        let stats_port = given(stats_port, "--stats-port")?.unwrap_or_else(&mut next);
        let admin_ports = [next(), next()];
        let server_ports: Vec<u16> = (0..SERVERS).map(|_| next()).collect();
        let socket = dir.path().join("haproxy.sock");
        let mut stage = Self {
            servers: (0..SERVERS)
                .map(|i| server(dir.path(), i, server_ports[i]))
                .collect::<CommandResult<_>>()?,
            discover: discover(dir.path(), admin_ports[0])?,
            sync: sync_haproxy(dir.path(), &socket, admin_ports[1])?,
            haproxy: haproxy_child(dir.path(), haproxy, &socket, port, stats_port)?,
            client: Client::new(SocketAddress::Unix(socket), Timeouts::default()),
            store: open(&store_url(dir.path())?).await?,
            port,
            stats_port,
            admin_ports,
            server_ports,
            dir,
        };
        stage.children().try_for_each(Child::start)?;
        Ok(stage)
    }

    /// Every process, in the order they start.
    pub fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        let Self { servers, discover, sync, haproxy, .. } = self;
        servers.iter_mut().chain([discover, haproxy, sync])
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends every process; the folder goes with the stage.
    pub async fn strike(&mut self) {
        let ends = self.children().map(Child::end);
        futures::future::join_all(ends).await;
    }
}

fn store_url(dir: &Path) -> CommandResult<StoreUrl> {
    let text = format!("sqlite:{}", dir.join("store.db").display());
    text.parse().map_err(|error| CommandError::new(Kind::Failed, anyhow::Error::new(error)))
}

/// This program with a command, on the demo's store and with an empty configuration file.
fn lbctl(dir: &Path, name: &str, args: &[&str]) -> CommandResult<Child> {
    let config = dir.join("lbctl.toml");
    std::fs::write(&config, "")?;
    let store = format!("sqlite:{}", dir.join("store.db").display());
    let mut all: Vec<OsString> =
        vec!["--config".into(), config.into(), "--store".into(), store.into()];
    all.extend(args.iter().map(OsString::from));
    Ok(Child::new(name, std::env::current_exe()?, all, dir.join(format!("{name}.log"))))
}

fn server(dir: &Path, index: usize, port: u16) -> CommandResult<Child> {
    let (name, port) = (format!("server-{}", index + 1), port.to_string());
    let listen =
        ["serve", "--host", "127.0.0.1", "--port", &port, "--id", &name, "--proxy-protocol"];
    let register =
        ["--register", BACKEND, "--ttl", "2s", "--admin", "off", "--shutdown-grace", "1s"];
    lbctl(dir, &name, &[&listen[..], &register[..]].concat())
}

fn discover(dir: &Path, admin: u16) -> CommandResult<Child> {
    let admin = format!("127.0.0.1:{admin}");
    let table =
        ["discover", "--backend", BACKEND, "--source", "registry", "--slots", "10", "--rest", "3s"];
    let ramp = [
        "--min-weight",
        "10",
        "--max-weight",
        "100",
        "--weight-step",
        "30",
        "--weight-interval",
        "2s",
    ];
    let daemon = ["--ttl", "3s", "--admin", &admin];
    lbctl(dir, "discover", &[&table[..], &ramp[..], &daemon[..]].concat())
}

fn sync_haproxy(dir: &Path, socket: &Path, admin: u16) -> CommandResult<Child> {
    let (socket, admin) = (socket.display().to_string(), format!("127.0.0.1:{admin}"));
    let backend = format!("{BACKEND}/s");
    let args = ["sync-haproxy", "--socket", &socket, "--backend", &backend, "--from", BACKEND];
    lbctl(dir, "sync-haproxy", &[&args[..], &["--name", "demo", "--admin", &admin]].concat())
}

fn haproxy_child(
    dir: &Path,
    program: PathBuf,
    socket: &Path,
    port: u16,
    stats_port: u16,
) -> CommandResult<Child> {
    let config = dir.join("haproxy.cfg");
    std::fs::write(&config, haproxy_config::text(socket, port, stats_port))?;
    let args: [OsString; 3] = ["-db".into(), "-f".into(), config.into()];
    Ok(Child::new("haproxy", program, args, dir.join("haproxy.log")))
}

fn find_haproxy() -> CommandResult<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|dir| dir.join("haproxy")).find(|program| program.is_file()).ok_or_else(|| {
        CommandError::msg(Kind::Failed, "HAProxy is not installed")
            .hint("install it (Debian: apt-get install haproxy), or name it with --haproxy FILE")
    })
}

/// A port that was asked for must be free: HAProxy would say so in its log alone.
fn given(port: Option<u16>, flag: &str) -> CommandResult<Option<u16>> {
    let Some(number) = port else { return Ok(None) };
    match TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
        Ok(_) => Ok(port),
        Err(error) => Err(CommandError::new(
            Kind::Failed,
            anyhow::Error::new(error).context(format!("cannot listen on 127.0.0.1:{number}")),
        )
        .hint(format!("give another {flag}, or none for a free one"))),
    }
}

/// Ports that nothing listens on now. All are held until the last is known, so that they differ.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
