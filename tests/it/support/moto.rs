//! moto's server: AWS on loopback, one for all running tests. Each takes tables of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use lbctl::store::{DynamoStore, DynamoUrl, SharedStore, StoreUrl, dynamodb};
use tempfile::TempDir;

use super::{Process, eventually, free_port, http_get, lbctl, program_at};

/// What moto takes for credentials and a region, and what keeps the SDK from asking elsewhere.
pub const ENVIRONMENT: [(&str, &str); 5] = [
    ("AWS_ACCESS_KEY_ID", "testing"),
    ("AWS_SECRET_ACCESS_KEY", "testing"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
];

/// The region of all tests.
pub const REGION: &str = "eu-west-1";

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/moto_server.py");

/// A server on a free port, with its log in a temp directory; it dies on drop.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    process: Process,
    dir: TempDir,
}

impl Moto {
    /// The server with the tables of all running tests; it dies with the last of them. `None` where
    /// moto is not there. Its start takes seconds.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Moto>> = Mutex::new(Weak::new());
        Self::share(&SHARED)
    }

    /// The server with the Auto Scaling groups of all running tests: descriptions of instances take
    /// it so long that no lease in a table should wait for them.
    pub fn shared_groups() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Moto>> = Mutex::new(Weak::new());
        Self::share(&SHARED)
    }

    fn share(shared: &Mutex<Weak<Self>>) -> Option<Arc<Self>> {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    /// A server of one test's own, that it may stop or kill.
    pub fn start() -> Option<Self> {
        let python = program_at("moto", [cached_python()])?;
        // Another test may take a port between its choice and the server's start.
        let started = (0..5).find_map(|_| Self::try_start(&python));
        Some(started.expect("moto's server ended at once, five times"))
    }

    fn try_start(python: &Path) -> Option<Self> {
        let dir = TempDir::with_prefix("lbctl-moto-").unwrap();
        let port = free_port();
        let mut command = Command::new(python);
        command.arg(SERVER).arg(port.to_string()).env("MOTO_ALLOW_NONEXISTENT_REGION", "true");
        let mut process = Process::start("moto", dir.path(), &mut command);
        let ready = eventually("moto's server to answer", || {
            if !process.is_running() {
                return Some(false);
            }
            http_get(port, "/moto-api/data.json")
                .is_some_and(|r| r.contains(" 200 "))
                .then_some(true)
        });
        ready.then_some(Self { port, process, dir })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For `endpoint=` and `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A store's URL, by way of a port; its watches look often.
    pub fn url(&self, table: &str, port: u16) -> String {
        format!(
            "dynamodb://{table}?region={REGION}&endpoint=http%3A//127.0.0.1%3A{port}&poll=100ms"
        )
    }

    /// A new table of the store's, made by `lbctl store init`; its URL.
    pub fn table(&self) -> String {
        let url = self.url(&format!("test-{}", uuid::Uuid::new_v4()), self.port);
        let mut command = Command::new(lbctl());
        let made = command.args(["store", "--store", &url, "init"]).envs(ENVIRONMENT).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
        url
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The store's own configuration with the credentials that moto takes, for handles in the tests'
/// own process, whose environment stays as it is.
pub async fn config(url: &DynamoUrl) -> SdkConfig {
    let credentials = Credentials::new("testing", "testing", None, None, "test");
    let provider = SharedCredentialsProvider::new(credentials);
    dynamodb::config(url).await.into_builder().credentials_provider(provider).build()
}

/// A handle in the tests' own process.
pub async fn open(url: &str) -> SharedStore {
    match url.parse().unwrap() {
        StoreUrl::Dynamo(url) => Arc::new(DynamoStore::with_config(&url, &config(&url).await)),
        other => panic!("{other} is not on DynamoDB"),
    }
}

/// Where `deploy/moto-versions.sh` puts it.
fn cached_python() -> PathBuf {
    let named = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = named("LBCTL_TEST_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|home| home.join("lbctl")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/lbctl")));
    cache.unwrap_or_default().join("moto/bin/python")
}
