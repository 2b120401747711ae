//! What the kernel knows of this process (proc(5)), under the names that Prometheus' own clients
//! give it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// The process, as it is when it is asked for.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without a /proc there is nothing to tell.
        let Some(seen) = Seen::now() else { return Ok(()) };
        let (name, help) = ("process_cpu_seconds", "Processor time, the user's and the system's");
        let told = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(seen.cpu_seconds).encode(told)?;
        let limit = |limit: Option<u64>| limit.map_or(f64::INFINITY, |limit| limit as f64);
        for (name, help, value) in [
            ("process_open_fds", "Open file descriptors", seen.open_files as f64),
            (
                "process_max_fds",
                "Most file descriptors that may be open",
                limit(getrlimit(Resource::Nofile).current),
            ),
            (
                "process_virtual_memory_bytes",
                "Size of the address space",
                seen.virtual_bytes as f64,
            ),
            ("process_resident_memory_bytes", "Memory that is in use", seen.resident_bytes as f64),
            ("process_threads", "Threads", seen.threads as f64),
            (
                "process_start_time_seconds",
                "When it was started, since the Unix epoch",
                seen.started,
            ),
        ] {
            let told = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(told)?;
        }
        Ok(())
    }
}

struct Seen {
    cpu_seconds: f64,
    open_files: usize,
    virtual_bytes: u64,
    resident_bytes: u64,
    threads: u64,
    started: f64,
}

impl Seen {
    fn now() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<u64> = numbers(&stat);
        let field = |number: usize| fields.get(number - FIRST).copied();
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: seconds(field(USER_TIME)? + field(SYSTEM_TIME)?),
            // The look itself has one open.
            open_files: std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1),
            virtual_bytes: field(VIRTUAL_SIZE)?,
            resident_bytes: field(RESIDENT_PAGES)? * page_size() as u64,
            threads: field(THREADS)?,
            started: booted_at()? + seconds(field(START_TIME)?),
        })
    }
}

/// Columns of `/proc/PID/stat`, counted from 1; the first numbers stand behind the state.
const FIRST: usize = 4;
const USER_TIME: usize = 14;
const SYSTEM_TIME: usize = 15;
const THREADS: usize = 20;
const START_TIME: usize = 22;
const VIRTUAL_SIZE: usize = 23;
const RESIDENT_PAGES: usize = 24;

/// What follows the name, which stands in parentheses and may hold anything, and the state. Some of
/// the columns that nobody asks for may be negative.
fn numbers(stat: &str) -> Vec<u64> {
    let behind = stat.rsplit(')').next().unwrap_or_default();
    behind.split_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect()
}

/// When the host was started, in seconds since the Unix epoch.
fn booted_at() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())
}
