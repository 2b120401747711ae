//! Reads HSDO's table again and again, and as the leader writes what differs.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::View;
use super::project::{Ledger, Projection, Wanted};
use crate::daemon::Backoff;
use crate::election::Leadership;
use crate::hsdo::{HsdoTable, LastUpdate, Row, Rows, TableError, TablePlace, Written};
use crate::metrics::{Counters, Scope};
use crate::model::{BackendName, Timestamp};

/// Between two looks at the table: HSDO's server writes as often.
const LOOK: Duration = Duration::from_secs(1);

/// Between two looks for the sake of ramps alone.
const LEAST_STEP: Duration = Duration::from_millis(100);

/// How many rows are written at once.
const WRITERS: usize = 8;

static WRITES: Counters<2> = Counters::new(
    "lbctl_discover_hsdo_writes",
    "Rows of HSDO's table by what writing them came to",
    ["backend", "result"],
);

/// One leadership's way with HSDO's table; without a leadership it only looks.
pub(super) struct Follower {
    pub backend: BackendName,
    pub place: TablePlace,
    pub leadership: Option<Leadership>,
    pub wanted: watch::Receiver<Option<Wanted>>,
    pub views: watch::Sender<Arc<View>>,
    pub metrics: Arc<Scope>,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let table = HsdoTable::open(&self.place).await;
        let mut view = View::default();
        let mut backoff = Backoff::new(LOOK, 5 * LOOK);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let (wait, error) = match self.round(&table, wanted.as_ref(), &mut view).await {
                Ok(wake) => (wake.unwrap_or(LOOK).clamp(LEAST_STEP, LOOK), None),
                Err(error) => (backoff.next_wait(), Some(error.to_string())),
            };
            view.error = error;
            self.tell(&view);
            tokio::select! {
                // Its sender lives as long as this task. What is wanted anew is no reason to ask
                // sooner again where there is no answer.
                _ = self.wanted.changed(), if view.error.is_none() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// What has not changed is no reason to plan again.
    fn tell(&self, view: &View) {
        self.views.send_if_modified(|told| {
            let is_new = **told != *view;
            if is_new {
                *told = Arc::new(view.clone());
            }
            is_new
        });
    }

    /// Reads, writes what differs, and answers when the next step of a ramp is due.
    async fn round(
        &self,
        table: &HsdoTable,
        wanted: Option<&Wanted>,
        view: &mut View,
    ) -> Result<Option<Duration>, TableError> {
        let mut rows = table.scan(true).await?;
        let leads = self.leadership.as_ref().filter(|leadership| leadership.is_held());
        let (Some(wanted), Some(leadership)) = (wanted, leads) else {
            view.rows = Some(Arc::new(rows));
            return Ok(None);
        };
        let due = project(&mut view.ledger, wanted, &rows);
        let written = self.write(table, leadership, due.writes, &mut rows).await;
        let left = project(&mut view.ledger, wanted, &rows);
        if left.writes.is_empty() {
            view.written = view.written.max(wanted.revision);
        }
        view.rows = Some(Arc::new(rows));
        written.map(|()| left.wake)
    }

    /// Writes rows, each where it is still what was read, and takes in those that were.
    async fn write(
        &self,
        table: &HsdoTable,
        leadership: &Leadership,
        due: Vec<Row>,
        rows: &mut Rows,
    ) -> Result<(), TableError> {
        let seen = |row: &Row| rows.get(row.slot).map(|stored| stored.item.clone());
        let pairs: Vec<_> = due.into_iter().map(|row| (seen(&row), row)).collect();
        let write = async |(seen, row): (_, Row)| {
            let written = match leadership.is_held() {
                true => tokio::select! {
                    () = leadership.lost.cancelled() => Ok(Written::Conflict),
                    written = table.write(&row, Option::as_ref(&seen)) => written,
                },
                // Its successor reads the rows, and decides.
                false => Ok(Written::Conflict),
            };
            (row, written)
        };
        let mut writing = stream::iter(pairs).map(write).buffer_unordered(WRITERS);
        let mut failed = Ok(());
        while let Some((row, written)) = writing.next().await {
            self.count(&row, &written);
            match written {
                Ok(Written::Done) => rows.put(row),
                Ok(Written::Conflict) => {}
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    fn count(&self, row: &Row, written: &Result<Written, TableError>) {
        let (backend, slot) = (self.backend.to_string(), row.slot);
        let result = match written {
            Ok(Written::Done) => "written",
            Ok(Written::Conflict) => "conflict",
            Err(_) => "failed",
        };
        tracing::debug!(%backend, %slot, weight = %row.weight, result, "row of HSDO's table");
        self.metrics.series(&WRITES, [backend, result.into()]).inc();
    }
}

pub(super) fn project(ledger: &mut Ledger, wanted: &Wanted, rows: &Rows) -> Projection {
    let now = (Timestamp::now(), Instant::now());
    ledger.project(wanted, rows, now, &LastUpdate::now())
}
