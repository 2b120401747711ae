use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use super::family::{Family, Metric, Release};
use super::lock;

/// The series of something that comes and goes, such as a backend; they go when it is dropped,
/// unless another scope has them too.
#[derive(Default)]
pub struct Scope {
    held: Mutex<HashMap<Series, &'static dyn Release>>,
}

/// A family's address, and the values of its labels.
type Series = (usize, Vec<Cow<'static, str>>);

impl Scope {
    /// A series of the family, which this scope has from now on.
    pub fn series<M: Metric, V: Into<Cow<'static, str>>, const N: usize>(
        &self,
        family: &'static Family<M, N>,
        values: [V; N],
    ) -> M {
        let values: [Cow<'static, str>; N] = values.map(Into::into);
        let series = (std::ptr::from_ref(family).addr(), values.to_vec());
        let mut held = lock(&self.held);
        if held.contains_key(&series) {
            return family.with(values);
        }
        held.insert(series, family);
        family.hold(values)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        for ((_, values), family) in lock(&self.held).drain() {
            family.release(&values);
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("series", &lock(&self.held).len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Counters, Gauges, Histograms, render};
    use super::*;

    fn shown(name: &str) -> Vec<String> {
        let lines = render();
        let mut lines: Vec<_> =
            lines.lines().filter(|line| line.contains(name)).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn series_go_with_what_they_are_about() {
        static GAUGE: Gauges<2> = Gauges::new("test_scope", "Of servers", ["name", "ip"]);
        let (one, other) = (Scope::default(), Scope::default());
        one.series(&GAUGE, ["a", "10.0.0.1"]).set(1.0);
        one.series(&GAUGE, ["b\"", "10.0.0.1"]).set(2.5);
        one.series(&GAUGE, ["a", "10.0.0.1"]).set(4.0);
        other.series(&GAUGE, ["a", "10.0.0.1"]).inc();
        let head = ["# HELP test_scope Of servers.", "# TYPE test_scope gauge"];
        let a = "test_scope{name=\"a\",ip=\"10.0.0.1\"} 5.0";
        let b = "test_scope{name=\"b\\\"\",ip=\"10.0.0.1\"} 2.5";
        assert_eq!(shown("test_scope"), [&head[..], &[a, b]].concat());
        drop(one);
        assert_eq!(shown("test_scope"), [&head[..], &[a]].concat());
        drop(other);
        assert!(!shown("test_scope").iter().any(|line| line.contains("10.0.0.1")));
    }

    #[test]
    fn counters_and_durations_are_shown_as_prometheus_has_them() {
        static COUNTER: Counters<0> = Counters::new("test_counter", "Things", []);
        static TIMES: Histograms<1> = Histograms::new("test_seconds", "Times", ["of"]);
        COUNTER.get().inc_by(7);
        assert!(shown("test_counter").contains(&"test_counter_total 7".to_owned()));
        TIMES.with(["x"]).observe(0.003);
        let bucket = |le: &str| format!("test_seconds_bucket{{of=\"x\",le=\"{le}\"}}");
        let lines = shown("test_seconds_bucket");
        assert!(
            lines.iter().any(|line| line.starts_with(&bucket("0.0025")) && line.ends_with(" 0")),
            "{lines:?}"
        );
        assert!(
            lines.iter().any(|line| line.starts_with(&bucket("0.005")) && line.ends_with(" 1")),
            "{lines:?}"
        );
    }

    #[test]
    fn the_process_and_its_version_are_told() {
        let text = render();
        for start in [
            "lbctl_build_info{version=\"",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_max_fds ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_start_time_seconds ",
            "process_threads ",
        ] {
            let line = text.lines().find(|line| line.starts_with(start));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{start} in {text}");
        }
    }
}
