//! What the tests share: deadlines, ports, child processes and the real servers.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test file uses a part")]

pub mod cloud;
pub mod disk;
pub mod etcd;
pub mod haproxy;
pub mod http;
pub mod moto;
pub mod network;
pub mod process;
pub mod proxy;
pub mod server;
pub mod table;
pub mod world;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use cloud::Cloud;
pub use disk::SmallDisk;
pub use process::Process;
pub use proxy::Proxy;
pub use server::LightServer;
pub use world::{World, endpoint};

/// How long a condition may take before a test fails: far over what it needs, so that a busy
/// machine does not fail it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until the condition answers `Some`, or panics with what was waited for.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        #[expect(clippy::disallowed_methods, reason = "the poll of a condition with a deadline")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`eventually`] for tests on a runtime.
pub async fn eventually_async<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let poll = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, poll).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("waited {DEADLINE:?} for {what}"),
    }
}

/// A port that nothing on this machine listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One HTTP GET on loopback; `None` while nothing answers.
pub fn http_get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}

/// A program of a real server: from an environment variable or the PATH. Under the project's test
/// command (`LBCTL_TEST_REQUIRE=1`) a missing one fails; elsewhere the test says why it skips.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    program_at(name, folders.map(|folder| folder.join(name)))
}

/// [`program`] at one of several paths.
pub fn program_at(name: &str, paths: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let variable = format!("LBCTL_TEST_{}", name.to_uppercase().replace(['-', '.'], "_"));
    let named = std::env::var_os(&variable).map(PathBuf::from);
    let found = named.into_iter().chain(paths).find(|path| path.is_file());
    if found.is_none() {
        let message = format!("{name} is not there: run `make test`, or set {variable}");
        assert!(std::env::var_os("LBCTL_TEST_REQUIRE").is_none(), "{message}");
        eprintln!("skipped: {message}");
    }
    found
}

/// The built binary.
pub fn lbctl() -> PathBuf {
    assert_cmd::cargo::cargo_bin!("lbctl").to_path_buf()
}

/// `long` under `make soak` (`LBCTL_TEST_SOAK=1`), else `normal`: how much of something a test does.
pub fn soak<T>(normal: T, long: T) -> T {
    if std::env::var_os("LBCTL_TEST_SOAK").is_some() { long } else { normal }
}

/// Random numbers that can be had again: the seed is printed where the test fails, and
/// `LBCTL_TEST_SEED` sets it.
#[derive(Debug)]
pub struct Random {
    seed: u64,
    pub rng: fastrand::Rng,
}

impl Random {
    pub fn new() -> Self {
        let named = std::env::var("LBCTL_TEST_SEED").ok();
        let seed = named.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
        Self { seed, rng: fastrand::Rng::with_seed(seed) }
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to have it again: LBCTL_TEST_SEED={}", self.seed);
        }
    }
}
