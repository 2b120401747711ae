//! A real etcd: one member or a cluster of them, plain, with TLS, with passwords.

mod certificates;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tempfile::TempDir;

use super::{Process, eventually, free_port, http_get, program};
pub use certificates::Certificates;

/// The user and password of [`Options::password`].
pub const USER: &str = "root";
/// With characters that a URL must escape; see [`PASSWORD_IN_URL`].
pub const PASSWORD: &str = "s3cr/t p@ss";
pub const PASSWORD_IN_URL: &str = "s3cr%2Ft%20p%40ss";

/// How an etcd is set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Serve clients over TLS alone.
    pub tls: bool,
    /// Take only clients with a certificate; implies [`Self::tls`].
    pub mutual_tls: bool,
    /// Take only [`USER`] with [`PASSWORD`].
    pub password: bool,
    /// How large the data may grow, in bytes; etcd's own default if 0.
    pub quota: u64,
}

/// A cluster of real etcds on free ports, with their data in a temp directory; all die on drop.
pub struct Etcd {
    options: Options,
    certificates: Option<Certificates>,
    members: Vec<Member>,
    binary: PathBuf,
    dir: TempDir,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    /// Plain HTTP for `/health`, whatever clients must do.
    metrics: u16,
    process: Option<Process>,
}

impl Etcd {
    /// A single plain member; `None` where etcd is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(1, Options::default())
    }

    pub fn start_with(members: usize, options: Options) -> Option<Self> {
        let binary = program("etcd")?;
        // Another test may take a port between its choice and etcd's start.
        let started = (0..5).find_map(|_| Self::try_start(&binary, members, options));
        Some(started.expect("etcd ended at once, five times"))
    }

    /// A single plain member that all running tests share; it dies with the last of them.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    fn try_start(binary: &Path, count: usize, options: Options) -> Option<Self> {
        let dir = TempDir::with_prefix("lbctl-etcd-").unwrap();
        let options = Options { tls: options.tls || options.mutual_tls, ..options };
        let members = (0..count)
            .map(|number| Member {
                name: format!("etcd-{number}"),
                client: free_port(),
                peer: free_port(),
                metrics: free_port(),
                process: None,
            })
            .collect();
        let certificates = options.tls.then(|| Certificates::make(dir.path()));
        let mut etcd = Self { options, certificates, members, binary: binary.to_owned(), dir };
        for number in 0..count {
            etcd.launch(number);
        }
        if !etcd.ready() {
            return None;
        }
        if options.password {
            etcd.require_password();
        }
        Some(etcd)
    }

    /// `HOST:PORT` of every member, joined by commas.
    pub fn endpoints(&self) -> String {
        let all: Vec<String> =
            self.members.iter().map(|m| format!("127.0.0.1:{}", m.client)).collect();
        all.join(",")
    }

    /// The client port of a member.
    pub fn port(&self, number: usize) -> u16 {
        self.members[number].client
    }

    /// The store URL with a prefix, the password and every certificate that the options ask for.
    pub fn url(&self, prefix: &str) -> String {
        let scheme = if self.options.tls { "etcds" } else { "etcd" };
        let user = if self.options.password {
            format!("{USER}:{PASSWORD_IN_URL}@")
        } else {
            String::new()
        };
        let endpoints = self.endpoints();
        format!("{scheme}://{user}{endpoints}/{prefix}{}", self.tls_query())
    }

    fn tls_query(&self) -> String {
        let Some(certificates) = &self.certificates else {
            return String::new();
        };
        let ca = format!("?ca={}", certificates.ca.display());
        if !self.options.mutual_tls {
            return ca;
        }
        let (cert, key) = (certificates.client.display(), certificates.client_key.display());
        format!("{ca}&cert={cert}&key={key}")
    }

    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().unwrap()
    }

    /// `kill -9` of one member.
    pub fn kill(&mut self, number: usize) {
        self.process(number).kill();
        self.members[number].process = None;
    }

    /// SIGTERM of one member, which then says goodbye to its clients.
    pub fn stop(&mut self, number: usize) {
        self.process(number).signal("TERM");
        self.process(number).wait();
        self.members[number].process = None;
    }

    /// Stops a member without ending it: its connections stay open and nothing answers.
    pub fn pause(&mut self, number: usize) {
        self.process(number).signal("STOP");
    }

    pub fn resume(&mut self, number: usize) {
        self.process(number).signal("CONT");
    }

    /// Starts a killed member on its old data and ports, and waits until it serves.
    pub fn restart(&mut self, number: usize) {
        self.launch(number);
        assert!(self.ready(), "etcd did not come back: {}", self.process(number).tail());
    }

    /// Keeps a snapshot of the only member's data, as an operator does.
    pub fn save(&self) {
        let endpoint = format!("127.0.0.1:{}", self.port(0));
        etcdctl(&["--endpoints", &endpoint, "snapshot", "save", &self.snapshot()]);
    }

    /// Restores that snapshot, with the names, addresses and token of before: to all that etcd says
    /// of itself it is the same cluster.
    pub fn put_back(&mut self) {
        self.kill(0);
        let Member { name, peer, .. } = &self.members[0];
        let data = self.dir.path().join(name);
        std::fs::remove_dir_all(&data).unwrap();
        let peer = format!("http://127.0.0.1:{peer}");
        let cluster = format!("{name}={peer}");
        etcdctl(&[
            "snapshot",
            "restore",
            &self.snapshot(),
            "--name",
            name,
            "--data-dir",
            data.to_str().unwrap(),
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        self.restart(0);
    }

    /// Loses all the data and begins with nothing.
    pub fn lose_all(&mut self) {
        self.kill(0);
        std::fs::remove_dir_all(self.dir.path().join(&self.members[0].name)).unwrap();
        self.restart(0);
    }

    fn snapshot(&self) -> String {
        self.dir.path().join("snapshot.db").to_str().unwrap().to_owned()
    }

    /// Which member leads.
    pub fn leader(&self) -> usize {
        eventually("a leader", || {
            self.members.iter().position(|m| {
                let metrics = http_get(m.metrics, "/metrics").unwrap_or_default();
                metrics.lines().any(|line| line == "etcd_server_is_leader 1")
            })
        })
    }

    /// A client of the members' own protocol, for what the store has no operation for.
    pub async fn client(&self) -> Client {
        self.client_as(self.options).await
    }

    async fn client_as(&self, wanted: Options) -> Client {
        let mut options = ConnectOptions::new();
        let mut scheme = "http";
        if let Some(certificates) = &self.certificates {
            let read = |path: &Path| std::fs::read(path).unwrap();
            scheme = "https";
            options = options.with_tls(
                TlsOptions::new()
                    .ca_certificate(Certificate::from_pem(read(&certificates.ca)))
                    .identity(Identity::from_pem(
                        read(&certificates.client),
                        read(&certificates.client_key),
                    )),
            );
        }
        if wanted.password {
            options = options.with_user(USER, PASSWORD);
        }
        let alive = self.members.iter().filter(|m| m.process.is_some());
        let urls: Vec<String> =
            alive.map(|m| format!("{scheme}://127.0.0.1:{}", m.client)).collect();
        Client::connect(urls, Some(options)).await.unwrap()
    }

    /// Forgets the history before the newest revision.
    pub async fn compact(&self) {
        let mut client = self.client().await;
        let revision = client.get("any", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    }

    fn process(&mut self, number: usize) -> &mut Process {
        self.members[number].process.as_mut().expect("the member runs")
    }

    /// [`Self::restart`] without the wait.
    pub fn launch(&mut self, number: usize) {
        let scheme = if self.options.tls { "https" } else { "http" };
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer))
            .collect();
        let Member { name, client, peer, metrics, .. } = &self.members[number];
        let mut command = Command::new(&self.binary);
        command
            .args(["--name", name, "--data-dir"])
            .arg(self.dir.path().join(name))
            .args(["--initial-cluster", &initial.join(",")])
            .args(["--initial-cluster-state", "new", "--log-level", "warn", "--logger", "zap"])
            .args(["--listen-client-urls", &format!("{scheme}://127.0.0.1:{client}")])
            .args(["--advertise-client-urls", &format!("{scheme}://127.0.0.1:{client}")])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{metrics}")]);
        if self.options.quota > 0 {
            command.args(["--quota-backend-bytes", &self.options.quota.to_string()]);
        }
        if let Some(certificates) = &self.certificates {
            command.arg("--cert-file").arg(&certificates.server);
            command.arg("--key-file").arg(&certificates.server_key);
            if self.options.mutual_tls {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&certificates.ca);
            }
        }
        let process = Process::start(name, self.dir.path(), &mut command);
        self.members[number].process = Some(process);
    }

    /// Waits until every started member answers linearizable reads; `false` if one has ended.
    fn ready(&mut self) -> bool {
        let mut running: Vec<&mut Member> =
            self.members.iter_mut().filter(|m| m.process.is_some()).collect();
        eventually("etcd to be healthy", || {
            if !running.iter_mut().all(|m| m.process.as_mut().unwrap().is_running()) {
                return Some(false);
            }
            let healthy = |m: &&mut Member| {
                // etcd logs every unhealthy answer, so the quiet question comes first.
                http_get(m.metrics, "/metrics").is_some_and(|all| all.contains("has_leader 1"))
                    && http_get(m.metrics, "/health")
                        .is_some_and(|reply| reply.contains(r#""true""#))
            };
            running.iter().all(healthy).then_some(true)
        })
    }

    fn require_password(&self) {
        let open = Options { password: false, ..self.options };
        let set_up = async {
            let mut client = self.client_as(open).await;
            client.user_add(USER, PASSWORD, None).await.unwrap();
            client.role_add("root").await.unwrap();
            client.user_grant_role(USER, "root").await.unwrap();
            client.auth_enable().await.unwrap();
        };
        // A test may be on a runtime of its own already, where blocking is not allowed.
        std::thread::scope(|scope| {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(set_up);
            };
            scope.spawn(run).join().unwrap();
        });
    }
}

/// etcd's own tool, which comes with it.
fn etcdctl(args: &[&str]) {
    let ran = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).output().unwrap();
    assert!(ran.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}
