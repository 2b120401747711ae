use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use super::{AdminAddress, Context, OwnedTask, live_gauge, spawn_owned, telemetry};
use crate::error::{CommandError, CommandResult, Kind};

/// Serves `/livez`, `/readyz`, `/metrics` and `/status` until the answer is dropped. A default
/// address that is taken is no failure: the daemon does its job without.
pub(super) async fn start(
    address: AdminAddress,
    context: &Context,
) -> CommandResult<Option<OwnedTask<()>>> {
    let (wanted, required) = match address {
        AdminAddress::Off => return Ok(None),
        AdminAddress::Listen(address) => (address, true),
        AdminAddress::Shared(address, _) => (address, true),
        AdminAddress::IfFree(address) => (address, false),
    };
    let bound = match address {
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
    tracing::info!(address = %listener.local_addr()?, "admin HTTP server listening");
    let router = router(context.clone());
    Ok(Some(spawn_owned(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin HTTP server ended");
        }
    })))
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

fn router(context: Context) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(context)
}

async fn readyz(State(context): State<Context>) -> Response {
    let reasons = context.readiness.reasons();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = reasons.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn metrics() -> Response {
    match telemetry::metrics_handle() {
        Ok(handle) => (handle.render() + &live_gauge::render()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
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
