use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Context, telemetry};

/// Listens for the admin HTTP server; answers the address it got.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for the admin HTTP server"))
}

/// Serves `/livez`, `/readyz`, `/metrics` and `/status` until the shutdown.
pub(super) async fn serve(listener: TcpListener, context: Context) -> anyhow::Result<()> {
    let shutdown = context.shutdown.clone();
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(context);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
        .context("the admin HTTP server failed")
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
        Ok(handle) => handle.render().into_response(),
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
