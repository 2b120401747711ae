//! What a process tells on `/metrics`. A family of series is a `static` beside the code that sets
//! it, with its help text; it is shown once something of it was set.
//!
//! ```
//! use lbctl::metrics::{Counters, Gauges, Scope};
//!
//! static WRITES: Counters<1> = Counters::new("doc_writes", "Writes, by result", ["result"]);
//! static DRIFT: Gauges<1> = Gauges::new("doc_drift", "Slots that differ, by backend", ["backend"]);
//!
//! WRITES.with(["ok"]).inc();
//! let of_web = Scope::default();
//! of_web.series(&DRIFT, ["web"]).set(3.0);
//! assert!(lbctl::metrics::render().contains("doc_drift{backend=\"web\"} 3"));
//! // The backend is gone, and so is what was told of it.
//! drop(of_web);
//! assert!(!lbctl::metrics::render().contains("web"));
//! ```

mod family;
mod process;
mod scope;

use std::sync::atomic::AtomicU64;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::{counter, gauge};
use prometheus_client::registry::Registry;

pub use family::{Family, Metric};
pub use prometheus_client::metrics::histogram::Histogram;
pub use scope::Scope;

/// A number that goes up and down.
pub type Gauge = gauge::Gauge<f64, AtomicU64>;

/// A number that only grows. Its family is shown with `_total` behind its name.
pub type Counter = counter::Counter<u64>;

/// A number that only grows, and by fractions.
pub type FloatCounter = counter::Counter<f64, AtomicU64>;

pub type Gauges<const N: usize> = Family<Gauge, N>;
pub type Counters<const N: usize> = Family<Counter, N>;
pub type FloatCounters<const N: usize> = Family<FloatCounter, N>;
/// Durations in seconds.
pub type Histograms<const N: usize> = Family<Histogram, N>;

/// What [`render`] answers, for the header of that name.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

static BUILD: Gauges<1> =
    Gauges::new("lbctl_build_info", "1, with the version of this program", ["version"]);

/// Everything in Prometheus' text format.
pub fn render() -> String {
    BUILD.with([env!("CARGO_PKG_VERSION")]).set(1.0);
    let mut text = String::new();
    match prometheus_text::encode(&mut text, &registry()) {
        Ok(()) => text,
        // Writing to a String cannot fail.
        Err(std::fmt::Error) => String::new(),
    }
}

/// The families of this process.
fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(|| {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        Mutex::new(registry)
    });
    lock(&REGISTRY)
}

/// What is behind it is whole after every step, so that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
