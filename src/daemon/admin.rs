use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::hosts::Hosts;
use super::{AdminAddress, Backoff, Context, Health, Options, OwnedTask, spawn_owned};
use crate::error::{CommandError, CommandResult, Kind};
use crate::metrics;

/// How many connections there may be: one more ends the oldest, so that those who say nothing are in
/// nobody's way.
const MAX_CONNECTIONS: usize = 64;

/// Of the descriptors that this process may have, the connections leave most to its work.
const SHARE_OF_FILES: u64 = 8;

/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long a connection may take in all: it is for one request.
const CONNECTION_TIME: Duration = Duration::from_secs(15);

/// Serves `/livez`, `/readyz`, `/metrics` and `/status` until the answer is dropped. A default
/// address that is taken is no failure: the daemon does its job without.
pub(super) async fn start(
    options: &Options,
    open_files: u64,
    context: &Context,
) -> CommandResult<Option<OwnedTask<()>>> {
    let (wanted, required) = match options.admin {
        AdminAddress::Off => return Ok(None),
        AdminAddress::Listen(address) => (address, true),
        AdminAddress::Shared(address, _) => (address, true),
        AdminAddress::IfFree(address) => (address, false),
    };
    let bound = match options.admin {
        AdminAddress::Shared(address, port) => bind_shared(address, port).await,
        _ => TcpListener::bind(wanted).await,
    };
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) if required => {
            let error = anyhow::Error::new(error)
                .context(format!("cannot listen on {wanted} for the admin HTTP server"));
            return Err(CommandError::new(Kind::Failed, error)
                .hint("give another address with --admin IP:PORT, or --admin off"));
        }
        Err(error) => {
            tracing::warn!(%error, "no admin HTTP server: {wanted} is taken; set --admin IP:PORT");
            return Ok(None);
        }
    };
    let listening = listener.local_addr()?;
    tracing::info!(address = %listening, "admin HTTP server listening");
    let hosts = Hosts::new(listening, &options.admin_hosts);
    let router = router(context.clone(), hosts);
    let share = usize::try_from(open_files / SHARE_OF_FILES).unwrap_or(usize::MAX);
    Ok(Some(spawn_owned(accept(listener, router, share.clamp(1, MAX_CONNECTIONS)))))
}

/// Listens on an address, or where somebody does so already on the same with another port.
async fn bind_shared(address: SocketAddr, port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let other = SocketAddr::new(address.ip(), port);
            tracing::warn!(
                "{address} is taken, as by another daemon of this host: the admin HTTP server \
                 listens on {other}; set --admin IP:PORT"
            );
            TcpListener::bind(other).await
        }
        bound => bound,
    }
}

/// Accepts until it is dropped, and every connection with it.
async fn accept(listener: TcpListener, router: Router, most: usize) {
    let mut connections = VecDeque::<OwnedTask<()>>::new();
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    let mut health = Health::new("accepting connections of the admin HTTP server");
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                health.succeeded();
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= most {
                    // Dropped, and so aborted.
                    connections.pop_front();
                }
                connections.push_back(spawn_owned(serve(stream, router.clone())));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                health.failed(&error);
                backoff.wait().await;
            }
        }
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin request broke"),
        Err(_elapsed) => tracing::debug!("an admin request took too long"),
    }
}

fn router(context: Context, hosts: Hosts) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(measured))
        .route("/status", get(status))
        .layer(middleware::from_fn_with_state(Arc::new(hosts), refuse_foreign))
        .with_state(context)
}

/// Refuses a request that names a host which is none of this daemon's.
async fn refuse_foreign(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let mut named = request.headers().get_all(HOST).iter();
    let is_foreign = |host: &axum::http::HeaderValue| !host.to_str().is_ok_and(|h| hosts.has(h));
    if named.any(is_foreign) {
        let text = "this daemon is not known under that host name: add it to admin-hosts\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    next.run(request).await
}

async fn readyz(State(context): State<Context>) -> Response {
    let reasons = context.readiness.reasons();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = reasons.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn measured() -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render()).into_response()
}

async fn status(State(context): State<Context>) -> Response {
    Json(json!({
        "command": context.name,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": context.readiness.is_ready(),
        "waiting_for": context.readiness.reasons(),
        "parts": context.status.snapshot(),
    }))
    .into_response()
}
