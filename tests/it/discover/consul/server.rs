use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lbctl::daemon::{OwnedTask, spawn_owned};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::etcd::Certificates;

/// What the server does with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Answers,
    Fails(u16, &'static str),
    /// The question is never answered.
    Silent,
    /// Bytes that are no HTTP.
    Garbage,
    /// A whole answer with the first half of a list.
    Half,
    /// The connection ends within the list.
    CutOff,
    /// A list that does not end.
    Huge,
    WithoutIndex,
    /// As where the token may not read every node.
    Filtered,
    /// The refusal has what the question had, as some proxies' have.
    Echo,
}

/// A question, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub service: String,
    pub query: Vec<(String, String)>,
    pub token: Option<String>,
}

impl Asked {
    pub fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(n, _)| n == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

#[derive(Debug)]
struct State {
    mode: Mode,
    index: u64,
    /// The index of the last change, and the instances.
    services: BTreeMap<String, (u64, Vec<Value>)>,
    token: Option<String>,
    asked: Vec<Asked>,
}

/// A stand-in for a Consul agent: its health endpoint with blocking queries, as documented. No
/// Consul can be installed where these tests run, so it says what the documentation says, and
/// nothing more is known.
pub struct Consul {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    task: Option<OwnedTask<()>>,
    tls: Option<TlsAcceptor>,
}

impl Consul {
    pub async fn start() -> Self {
        Self::over(None).await
    }

    /// Over TLS; `identified`: clients must have a certificate.
    pub async fn secure(certificates: &Certificates, identified: bool) -> Self {
        Self::over(Some(acceptor(certificates, identified))).await
    }

    async fn over(tls: Option<TlsAcceptor>) -> Self {
        let state = State {
            mode: Mode::Answers,
            index: 100,
            services: BTreeMap::new(),
            token: None,
            asked: Vec::new(),
        };
        let (state, changed) = (Arc::new(Mutex::new(state)), watch::Sender::new(()));
        let address = "127.0.0.1:0".parse().unwrap();
        let mut consul = Self { address, state, changed, task: None, tls };
        consul.come_back().await;
        consul
    }

    /// Nothing listens any more, and all connections end.
    pub fn go(&mut self) {
        self.task = None;
    }

    pub async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (state, changed, tls) = (self.state.clone(), self.changed.clone(), self.tls.clone());
        self.task = Some(spawn_owned(accept(listener, state, changed, tls)));
    }

    pub fn set(&self, mode: Mode) {
        self.change(|state| state.mode = mode);
    }

    pub fn demand(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// What a service has from now on.
    pub fn serve(&self, service: &str, instances: Vec<Value>) {
        self.change(|state| {
            state.index += 1;
            state.services.insert(service.to_owned(), (state.index, instances));
        });
    }

    /// The servers are restored from an old snapshot: every index is as it was then.
    pub fn restore(&self, index: u64) {
        self.change(|state| {
            state.index = index;
            state.services.values_mut().for_each(|(changed, _)| *changed = index);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// An instance that passes its checks, at 127.0.0.x.
pub fn instance(id: &str, last: u8) -> Value {
    json!({
        "Node": {
            "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": "n1", "Address": "127.0.0.9",
            "Datacenter": "dc1", "TaggedAddresses": {"lan": "127.0.0.9", "wan": "127.0.0.9"},
            "Meta": {"consul-network-segment": ""}, "CreateIndex": 6, "ModifyIndex": 8
        },
        "Service": {
            "ID": id, "Service": "web", "Tags": [], "Address": format!("127.0.0.{last}"),
            "TaggedAddresses": null, "Meta": null, "Port": 80,
            "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
            "PeerName": "", "CreateIndex": 12, "ModifyIndex": 12
        },
        "Checks": [
            {
                "Node": "n1", "CheckID": "serfHealth", "Name": "Serf Health Status",
                "Status": "passing", "Notes": "", "Output": "Agent alive and reachable",
                "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": "",
                "Definition": {}, "CreateIndex": 6, "ModifyIndex": 6
            },
            {
                "Node": "n1", "CheckID": format!("service:{id}"), "Name": "Service check",
                "Status": "passing", "Notes": "", "Output": "", "ServiceID": id,
                "ServiceName": "web", "ServiceTags": [], "Type": "tcp", "Definition": {}
            }
        ]
    })
}

/// The same with another state of its own check.
pub fn instance_that_is(status: &str, id: &str, last: u8) -> Value {
    let mut instance = instance(id, last);
    instance["Checks"][1]["Status"] = status.into();
    instance
}

fn acceptor(certificates: &Certificates, identified: bool) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let all = |path| CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap);
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if identified {
        let mut roots = rustls::RootCertStore::empty();
        all(&certificates.ca).for_each(|ca| roots.add(ca).unwrap());
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(&certificates.server_key).unwrap();
    let config = builder.with_single_cert(all(&certificates.server).collect(), key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(
    listener: TcpListener,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    tls: Option<TlsAcceptor>,
) {
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (state, changed, tls) = (state.clone(), changed.clone(), tls.clone());
        connections.spawn(async move {
            if state.lock().unwrap().mode == Mode::Garbage {
                // The client may be gone.
                _ = stream.write_all(b"\0\xffSSH-2.0-nobody\r\n").await.is_ok();
                return;
            }
            match tls {
                None => converse(stream, state, changed).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, state, changed).await;
                    }
                }
            }
        });
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
) {
    let service = service_fn(|request| answer(request, state.clone(), changed.subscribe()));
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that hangs up is none of the server's business.
    _ = served.await.is_ok();
}

type Body = BoxBody<Bytes, io::Error>;

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    mut changed: watch::Receiver<()>,
) -> Result<Response<Body>, io::Error> {
    let asked = asked(&request);
    state.lock().unwrap().asked.push(asked.clone());
    changed.mark_unchanged();
    let wait = wait_of(asked.value("wait").unwrap_or("5m"));
    // Consul's own jitter.
    let over = tokio::time::sleep(wait + wait.mul_f64(fastrand::f64() / 16.0));
    tokio::pin!(over);
    loop {
        if !holds(&state.lock().unwrap(), &asked) {
            break;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = &mut over => break,
        }
    }
    let mode = state.lock().unwrap().mode.clone();
    if mode == Mode::Silent {
        std::future::pending::<()>().await;
    }
    reply(&state.lock().unwrap(), &asked)
}

fn asked(request: &Request<Incoming>) -> Asked {
    let decoded =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let path = request.uri().path().strip_prefix("/v1/health/service/").unwrap();
    let pairs =
        request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| pair.split_once('=').unwrap());
    let token = request.headers().get("x-consul-token");
    Asked {
        service: decoded(path),
        query: query.map(|(name, value)| (decoded(name), decoded(value))).collect(),
        token: token.map(|token| token.to_str().unwrap().to_owned()),
    }
}

fn wait_of(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().unwrap()),
        None => lbctl::model::parse_duration(text).unwrap(),
    }
}

/// Whether a blocking query has nothing to say yet.
fn holds(state: &State, asked: &Asked) -> bool {
    let index: u64 = asked.value("index").map_or(0, |index| index.parse().unwrap());
    state.mode == Mode::Answers && index > 0 && index_of(state, asked) == index
}

fn index_of(state: &State, asked: &Asked) -> u64 {
    state.services.get(&asked.service).map_or(state.index, |(changed, _)| *changed)
}

fn reply(state: &State, asked: &Asked) -> Result<Response<Body>, io::Error> {
    let fails = |code: u16, says: &str| {
        Ok(Response::builder().status(code).body(full(says.to_owned())).unwrap())
    };
    if state.token.is_some() && asked.token != state.token {
        return fails(403, "ACL not found");
    }
    if asked.value("dc").is_some_and(|dc| dc != "dc1") {
        return fails(500, "No path to datacenter");
    }
    let list = serde_json::to_string(&instances(state, asked)).unwrap();
    let cut = list[..list.len() / 2].to_owned();
    let mut response = Response::builder()
        .header("Content-Type", "application/json")
        .header("X-Consul-KnownLeader", "true")
        .header("X-Consul-LastContact", "0")
        .header("X-Consul-Effective-Consistency", "leader")
        .header(
            "X-Consul-Default-ACL-Policy",
            if state.token.is_some() { "deny" } else { "allow" },
        );
    if state.mode != Mode::WithoutIndex {
        response = response.header("X-Consul-Index", index_of(state, asked));
    }
    if state.mode == Mode::Filtered {
        response = response.header("X-Consul-Results-Filtered-By-ACLs", "true");
    }
    let body = match &state.mode {
        Mode::Fails(code, says) => return fails(*code, says),
        Mode::Echo => return fails(400, &format!("not understood: {asked:?}")),
        Mode::Garbage => return Err(io::ErrorKind::ConnectionReset.into()),
        Mode::Half => full(cut),
        Mode::CutOff => stream_of(vec![Ok(cut.into()), Err(io::ErrorKind::ConnectionReset.into())]),
        Mode::Huge => stream_of((0..40).map(|_| Ok(vec![b'['; 1 << 20].into())).collect()),
        Mode::Answers | Mode::Silent | Mode::WithoutIndex | Mode::Filtered => full(list),
    };
    Ok(response.body(body).unwrap())
}

fn instances<'a>(state: &'a State, asked: &Asked) -> Vec<&'a Value> {
    let all = state.services.get(&asked.service).map_or(&[][..], |(_, instances)| instances);
    let checks = |instance: &'a Value| instance["Checks"].as_array().into_iter().flatten();
    let passes = |instance: &&'a Value| checks(instance).all(|check| check["Status"] == "passing");
    let tags = |instance: &'a Value| instance["Service"]["Tags"].as_array().into_iter().flatten();
    let tagged = |instance: &&'a Value| {
        let mut wanted = asked.query.iter().filter(|(name, _)| name == "tag");
        wanted.all(|(_, tag)| tags(instance).any(|own| own == tag))
    };
    let all = all.iter().filter(tagged);
    all.filter(|instance| !asked.has("passing") || passes(instance)).collect()
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed()
}

fn stream_of(parts: Vec<Result<Bytes, io::Error>>) -> Body {
    let parts = stream::iter(parts).then(|part| async {
        // What is there already is sent meanwhile.
        tokio::task::yield_now().await;
        part.map(Frame::data)
    });
    BodyExt::boxed(StreamBody::new(parts))
}
