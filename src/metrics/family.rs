use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, OnceLock};

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family;
use prometheus_client::metrics::histogram::Histogram;

use super::{Counter, FloatCounter, Gauge, lock, registry};

/// Upper bounds of the buckets of every duration, in seconds: from a local read to a deadline.
const DURATION_BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// One series' value. Clones share it.
pub trait Metric: Clone + EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static {
    fn make() -> Self;
}

impl Metric for Gauge {
    fn make() -> Self {
        Self::default()
    }
}

impl Metric for Counter {
    fn make() -> Self {
        Self::default()
    }
}

impl Metric for FloatCounter {
    fn make() -> Self {
        Self::default()
    }
}

impl Metric for Histogram {
    fn make() -> Self {
        Self::new(DURATION_BUCKETS.iter().copied())
    }
}

/// The series of one name, which differ in the values of their labels.
pub struct Family<M, const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    shown: OnceLock<Shown<M, N>>,
}

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

struct Shown<M, const N: usize> {
    series: family::Family<Labels<N>, M>,
    /// How many scopes have each series.
    holders: Mutex<HashMap<Labels<N>, usize>>,
}

impl<M: Metric, const N: usize> Family<M, N> {
    /// A counter's name is without `_total`, a help text without its full stop.
    pub const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name, help, labels, shown: OnceLock::new() }
    }

    /// The series with these values, which then stays for as long as the process lives: for values
    /// that the program itself chooses from. Others come with a [`Scope`](super::Scope).
    pub fn with<V: Into<Cow<'static, str>>>(&self, values: [V; N]) -> M {
        self.shown().series.get_or_create_owned(&self.labelled(values))
    }

    pub(super) fn hold<V: Into<Cow<'static, str>>>(&self, values: [V; N]) -> M {
        let (shown, labels) = (self.shown(), self.labelled(values));
        let mut holders = lock(&shown.holders);
        let series = shown.series.get_or_create_owned(&labels);
        *holders.entry(labels).or_default() += 1;
        series
    }

    fn release(&self, values: [Cow<'static, str>; N]) {
        let (shown, labels) = (self.shown(), self.labelled(values));
        let mut holders = lock(&shown.holders);
        let Some(count) = holders.get_mut(&labels) else { return };
        *count -= 1;
        if *count == 0 {
            holders.remove(&labels);
            shown.series.remove(&labels);
        }
    }

    fn labelled<V: Into<Cow<'static, str>>>(&self, values: [V; N]) -> Labels<N> {
        let mut names = self.labels.into_iter();
        values.map(|value| (names.next().unwrap_or_default(), value.into()))
    }

    fn shown(&self) -> &Shown<M, N> {
        self.shown.get_or_init(|| {
            let series = family::Family::new_with_constructor(M::make as fn() -> M);
            registry().register(self.name, self.help, series.clone());
            Shown { series, holders: Mutex::default() }
        })
    }
}

impl<M: Metric> Family<M, 0> {
    /// Its only series.
    pub fn get(&self) -> M {
        self.with::<&str>([])
    }
}

impl<M, const N: usize> fmt::Debug for Family<M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A family, whatever its series are.
pub(super) trait Release: Sync {
    /// Takes back one hold of a series.
    fn release(&self, values: &[Cow<'static, str>]);
}

impl<M: Metric, const N: usize> Release for Family<M, N> {
    fn release(&self, values: &[Cow<'static, str>]) {
        if let Ok(values) = <[Cow<'static, str>; N]>::try_from(values.to_vec()) {
            self.release(values);
        }
    }
}
