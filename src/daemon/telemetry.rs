//! Logs on stderr and metrics for `/metrics`.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Starts logging. `verbosity` counts from quiet (negative) over info (0) to trace (2); the
/// `LBCTL_LOG` variable, in `tracing` filter syntax, wins over it.
pub fn init_logs(format: LogFormat, verbosity: i8) {
    let level = match verbosity {
        ..=-2 => "off",
        -1 => "warn",
        0 => "info",
        1 => "lbctl=debug,info",
        2.. => "lbctl=trace,debug",
    };
    let filter = EnvFilter::try_from_env("LBCTL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => {
            builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// The process's metrics recorder, installed at the first call.
pub fn metrics_handle() -> anyhow::Result<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .as_ref()
        .ok_or_else(|| anyhow::anyhow!("another metrics recorder is installed already"))
}
