//! Logs on stderr.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::reload::Handle;

use super::log_writer::LogWriter;
use crate::config::{LogFormat, LogLevel};

/// Changes the level of a running process.
static SET_LEVEL: OnceLock<Box<dyn Fn(LogLevel) + Send + Sync>> = OnceLock::new();

/// What writes to stderr without waiting for it.
static WRITER: OnceLock<Option<LogWriter>> = OnceLock::new();

/// How long a stderr that nobody reads may delay the end of the process.
const FLUSH_TIME: Duration = Duration::from_secs(1);

fn writer() -> Option<&'static LogWriter> {
    // Without a thread for it there is no room to log either.
    WRITER.get_or_init(|| LogWriter::start(std::io::stderr()).ok()).as_ref()
}

/// Says the last words of the process or of a thread, after all that was logged. Nobody who does not
/// read them can keep it from ending.
pub fn last_words(text: &str) {
    let Some(writer) = writer() else { return };
    // It takes what comes.
    _ = writer.clone().write_all(text.as_bytes()).is_ok();
    writer.flush(FLUSH_TIME);
}

/// Has panics said by what writes the log: the standard way waits for whoever reads stderr, and the
/// thread that panicked with it.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let (name, trace) = (thread.name().unwrap_or("<unnamed>"), Backtrace::capture());
        let trace = match trace.status() {
            BacktraceStatus::Captured => format!("{trace}\n"),
            _ => String::new(),
        };
        last_words(&format!("thread '{name}' {panic}\n{trace}"));
    }));
}

/// Where a log line goes.
fn line_writer() -> Box<dyn Write> {
    match writer() {
        Some(writer) => Box::new(writer.clone()),
        None => Box::new(std::io::sink()),
    }
}

/// Starts logging. The `LBCTL_LOG` variable, in `tracing` filter syntax, wins over the level.
pub fn init_logs(format: LogFormat, level: LogLevel) {
    let by_hand = EnvFilter::try_from_env("LBCTL_LOG").ok();
    let is_by_hand = by_hand.is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(by_hand.unwrap_or_else(|| filter(level)))
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        // Said on stderr too, which panics where nobody reads it any more.
        .log_internal_errors(false)
        .with_writer(line_writer);
    let (started, set_level) = match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(colours()).with_filter_reloading();
            let set_level = setter(builder.reload_handle());
            (builder.try_init(), set_level)
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let set_level = setter(builder.reload_handle());
            (builder.try_init(), set_level)
        }
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
        return;
    }
    if !is_by_hand {
        _ = SET_LEVEL.set(set_level).is_ok();
    }
}

/// Logs at another level from now on.
pub fn set_level(level: LogLevel) {
    match SET_LEVEL.get() {
        Some(set_level) => set_level(level),
        None => tracing::warn!("log.level changes nothing: LBCTL_LOG is set, and wins over it"),
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(level.directives())
}

fn setter<S: 'static>(handle: Handle<EnvFilter, S>) -> Box<dyn Fn(LogLevel) + Send + Sync> {
    Box::new(move |level| {
        if let Err(error) = handle.reload(filter(level)) {
            tracing::warn!(%error, "the log level stays as it was");
        }
    })
}

/// Only a terminal gets colours, and not one whose user asked for none (<https://no-color.org>).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::IsTerminal::is_terminal(&std::io::stderr())
}
