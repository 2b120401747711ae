use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use tracing::Instrument as _;

use super::{
    Commit, Entry, Key, Lease, LeaseId, Listing, Prefix, Result, Store, Txn, Watch, WatchEvent,
};
use crate::metrics::{Counters, Histograms};

/// Counts and times every operation of a store, and puts a span at debug level around it.
///
/// Metrics: `lbctl_store_operations_total{store,operation,result}`,
/// `lbctl_store_operation_seconds{store,operation}` and
/// `lbctl_store_watch_events_total{store,event}`. A result is `ok`, `conflict`, the kind of the
/// error, or `cancelled` where the caller went away.
#[derive(Debug)]
pub struct Instrumented<S> {
    inner: S,
    /// What the metrics call it.
    store: &'static str,
}

impl<S: Store> Instrumented<S> {
    pub fn new(inner: S) -> Self {
        Self { store: inner.name(), inner }
    }

    /// Runs one operation; `judge` names a success.
    async fn measure<T, F>(
        &self,
        operation: &'static str,
        subject: impl tracing::Value,
        judge: impl FnOnce(&T) -> &'static str,
        future: F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let store = self.store;
        let span = tracing::debug_span!("store", store, operation, subject);
        let mut measure =
            Measure { store, operation, started: Instant::now(), result: "cancelled" };
        let result = future.instrument(span.clone()).await;
        measure.result = match &result {
            Ok(value) => judge(value),
            Err(error) => error.kind().as_str(),
        };
        if let Err(error) = &result {
            span.in_scope(|| tracing::debug!(%error, "store operation failed"));
        }
        result
    }
}

#[async_trait]
impl<S: Store> Store for Instrumented<S> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.measure("get", key.as_str(), |_| "ok", self.inner.get(key)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.measure("list", prefix.as_str(), |_| "ok", self.inner.list(prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        let subject = txn.writes.first().map(|w| w.key().to_string()).unwrap_or_default();
        let judge = |commit: &Commit| match commit {
            Commit::Committed(_) => "ok",
            Commit::Conflict => "conflict",
        };
        self.measure("commit", subject.as_str(), judge, self.inner.commit(txn)).await
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch> {
        let store = self.store;
        let watch =
            self.measure("watch", prefix.as_str(), |_| "ok", self.inner.watch(prefix)).await?;
        let prefix = prefix.clone();
        Ok(Watch::new(watch.inspect(move |event| count_event(store, &prefix, event))))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.measure("grant", "", |_| "ok", self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.measure("keep_alive", lease.0, |_| "ok", self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.measure("revoke", lease.0, |()| "ok", self.inner.revoke(lease)).await
    }
}

/// Records when it is dropped, so that a cancelled operation counts too.
struct Measure {
    store: &'static str,
    operation: &'static str,
    started: Instant,
    result: &'static str,
}

impl Drop for Measure {
    fn drop(&mut self) {
        let Self { store, operation, started, result } = *self;
        OPERATIONS.with([store, operation, result]).inc();
        DURATION.with([store, operation]).observe(started.elapsed().as_secs_f64());
    }
}

fn count_event(store: &'static str, prefix: &Prefix, event: &WatchEvent) {
    let name = match event {
        WatchEvent::Reset(_) => "reset",
        WatchEvent::Changed(_) => "changed",
        WatchEvent::Interrupted(_) => "interrupted",
    };
    if let WatchEvent::Interrupted(error) = event {
        tracing::debug!(store, %prefix, %error, "the watch is interrupted");
    }
    WATCH_EVENTS.with([store, name]).inc();
}

static OPERATIONS: Counters<3> = Counters::new(
    "lbctl_store_operations",
    "Store operations by store, operation and result",
    ["store", "operation", "result"],
);
static DURATION: Histograms<2> = Histograms::new(
    "lbctl_store_operation_seconds",
    "Time of a store operation",
    ["store", "operation"],
);
static WATCH_EVENTS: Counters<2> = Counters::new(
    "lbctl_store_watch_events",
    "What watches of the store said: reset, changed, interrupted",
    ["store", "event"],
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use crate::store::{Faults, Faulty, Guard, MemoryStore};

    #[tokio::test]
    async fn every_result_is_counted_by_its_name() {
        let key: Key = "k".parse().unwrap();
        let faulty = Faulty::new(MemoryStore::new(), 1);
        // Other tests have stores of this kind too.
        let store = Instrumented { store: "counted", ..Instrumented::new(faulty.clone()) };
        let create = || Txn::new().guard(Guard::Absent(key.clone())).put(key.clone(), "v");
        assert!(store.commit(create()).await.is_ok() && store.commit(create()).await.is_ok());
        assert!(store.keep_alive(LeaseId(7)).await.is_err());
        faulty.set_faults(Faults { refuse: 1.0, ..Faults::default() });
        assert!(store.get(&key).await.is_err() && store.get(&key).await.is_err());
        faulty.set_faults(Faults {
            delay: 1.0,
            max_delay: Duration::from_secs(3600),
            ..Faults::default()
        });
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, store.list(&Prefix::root())).await.is_err());
        let mut watch = store.watch(&Prefix::root()).await.unwrap();
        faulty.set_offline(true);
        assert!(matches!(watch.next_event().await, WatchEvent::Interrupted(_)));
        let text = metrics::render();
        for (operation, result, times) in [
            ("commit", "ok", 1),
            ("commit", "conflict", 1),
            ("keep_alive", "lease_expired", 1),
            ("get", "unavailable", 2),
            ("list", "cancelled", 1),
        ] {
            let counter = format!(
                "lbctl_store_operations_total{{store=\"counted\",operation=\"{operation}\",result=\"{result}\"}} {times}\n"
            );
            assert!(text.contains(&counter), "{counter} is not in {text}");
        }
        assert!(!text.contains("store=\"counted\",operation=\"get\",result=\"ok\""), "{text}");
        assert!(text.contains(
            "lbctl_store_operation_seconds_count{store=\"counted\",operation=\"get\"} 2\n"
        ));
        assert!(text.contains(
            "lbctl_store_watch_events_total{store=\"counted\",event=\"interrupted\"} 1\n"
        ));
    }
}
