//! Gauges whose series go when what they are about goes. The metrics recorder keeps every series
//! that it was ever told of, which is too many where their labels name servers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One owner's series of a gauge; they go when it is dropped.
#[derive(Debug)]
pub struct LiveGauge<const N: usize> {
    owner: u64,
    name: &'static str,
    labels: [&'static str; N],
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    /// By owner: values by their rendered labels.
    series: BTreeMap<u64, BTreeMap<String, f64>>,
}

static FAMILIES: Mutex<BTreeMap<&'static str, Family>> = Mutex::new(BTreeMap::new());

fn families() -> MutexGuard<'static, BTreeMap<&'static str, Family>> {
    FAMILIES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<const N: usize> LiveGauge<N> {
    pub fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        let owner = OWNERS.fetch_add(1, Ordering::Relaxed);
        families().entry(name).or_insert(Family { help, series: BTreeMap::new() });
        Self { owner, name, labels }
    }

    /// Replaces all series of this owner.
    pub fn set(&self, series: impl IntoIterator<Item = ([String; N], f64)>) {
        let rendered = |(values, value): ([String; N], f64)| (self.render(&values), value);
        let series: BTreeMap<String, f64> = series.into_iter().map(rendered).collect();
        if let Some(family) = families().get_mut(self.name) {
            family.series.insert(self.owner, series);
        }
    }

    fn render(&self, values: &[String; N]) -> String {
        let pairs = self.labels.iter().zip(values);
        let pairs: Vec<String> =
            pairs.map(|(name, v)| format!("{name}=\"{}\"", escape(v))).collect();
        pairs.join(",")
    }
}

impl<const N: usize> Drop for LiveGauge<N> {
    fn drop(&mut self) {
        if let Some(family) = families().get_mut(self.name) {
            family.series.remove(&self.owner);
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// All of them in Prometheus' text format. Of two owners' series with the same labels one is shown.
pub(super) fn render() -> String {
    let mut text = String::new();
    for (name, family) in families().iter() {
        let series: BTreeMap<&String, &f64> = family.series.values().flatten().collect();
        if !series.is_empty() {
            // Writing to a String cannot fail.
            _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} gauge", family.help);
        }
        for (labels, value) in series {
            _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_go_with_what_they_are_about() {
        let gauge = |help| LiveGauge::new("test_live_gauge", help, ["name", "ip"]);
        let (one, other) = (gauge("Of servers"), gauge("Of servers"));
        let series = |name: &str, value| ([name.to_owned(), "10.0.0.1".to_owned()], value);
        one.set([series("a", 1.0), series("b\"", 2.5)]);
        other.set([series("a", 1.0), series("c", 3.0)]);
        let shown = || {
            render()
                .lines()
                .filter(|l| l.contains("test_live"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(),
            [
                "# HELP test_live_gauge Of servers",
                "# TYPE test_live_gauge gauge",
                "test_live_gauge{name=\"a\",ip=\"10.0.0.1\"} 1",
                "test_live_gauge{name=\"b\\\"\",ip=\"10.0.0.1\"} 2.5",
                "test_live_gauge{name=\"c\",ip=\"10.0.0.1\"} 3",
            ]
        );
        one.set([]);
        drop(other);
        assert!(shown().is_empty());
    }
}
