//! HSDO's table beside a backend's own, so that HSDO's servers and clients run on while hosts are
//! moved.
//!
//! lbctl's own table decides. [`adopt`] takes into it what HSDO's server has placed, and [`project`]
//! says how rows differ from it, both pure; [`follow`] reads and writes the rows.

mod adopt;
mod follow;
mod project;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use self::follow::Follower;
use self::project::{Ledger, Wanted};
use super::plan::{Answer, Report};
use super::settings::BackendSettings;
use crate::daemon::{OwnedTask, spawn_owned};
use crate::election::{FencingToken, Leadership};
use crate::hsdo::{Row, Rows, TablePlace};
use crate::metrics::Scope;
use crate::model::{BackendName, BackendReport, EndpointId, HaproxyName, SlotNumber, Timestamp};
use crate::store::Revision;
use crate::tables::StoredTable;

pub use adopt::Adoption;
pub use report::{Seen, Teller};

/// HSDO's table, followed while this process leads.
#[derive(Debug)]
pub struct Hsdo {
    backend: BackendName,
    place: TablePlace,
    following: Option<Following>,
    known: Arc<BTreeSet<EndpointId>>,
    metrics: Arc<Scope>,
}

#[derive(Debug)]
struct Following {
    /// `None`: it only looks.
    token: Option<FencingToken>,
    wanted: watch::Sender<Option<Wanted>>,
    views: watch::Receiver<Arc<View>>,
    _task: OwnedTask<()>,
}

/// HSDO's table as it was last seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// `None` before the first answer.
    pub rows: Option<Arc<Rows>>,
    ledger: Ledger,
    /// Why the last try to read or write it failed.
    pub error: Option<String>,
    /// Rows have shown all that lbctl's table said at this revision.
    written: Revision,
}

impl Hsdo {
    pub fn new(backend: BackendName, place: TablePlace) -> Self {
        Self { backend, place, following: None, known: Arc::default(), metrics: Arc::default() }
    }

    /// Follows the table for a leadership, and without one no more.
    pub fn lead(&mut self, leadership: Option<&Leadership>) {
        let token = leadership.map(|leadership| leadership.token);
        let current = self.following.as_ref().and_then(|following| following.token);
        if token != current {
            self.following = leadership.map(|leadership| self.follow(Some(leadership.clone())));
        }
    }

    /// Looks at the table and writes nothing.
    pub fn look_only(&mut self) {
        self.following = Some(self.follow(None));
    }

    fn follow(&self, leadership: Option<Leadership>) -> Following {
        let (wanted, wants) = watch::channel(None);
        let (sees, views) = watch::channel(Arc::default());
        let token = leadership.as_ref().map(|leadership| leadership.token);
        let follower = Follower {
            backend: self.backend.clone(),
            place: self.place.clone(),
            leadership,
            wanted: wants,
            views: sees,
            metrics: self.metrics.clone(),
        };
        Following { token, wanted, views, _task: spawn_owned(follower.run()) }
    }

    /// Waits until the table is seen to be another one; cancel-safe. An error: its follower panicked.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        match &mut self.following {
            Some(following) => following.views.changed().await.context("following HSDO's table"),
            None => std::future::pending().await,
        }
    }

    /// The table as it was last seen; `None` while it is not followed.
    pub fn view(&self) -> Option<Arc<View>> {
        self.following.as_ref().map(|following| following.views.borrow().clone())
    }

    /// Whether the rows have been read.
    pub fn has_rows(&self) -> bool {
        self.rows().is_some()
    }

    fn rows(&self) -> Option<Arc<Rows>> {
        self.view()?.rows.clone()
    }

    /// Takes in whom a source has seen.
    pub fn known(&mut self, answer: &Answer) {
        self.known = Arc::new(answer.endpoints.keys().cloned().collect());
    }

    /// Why HSDO's servers cannot be taken over yet, where lbctl has no table of its own.
    pub fn obstacle(&self, answer: Option<&Answer>, slots: u32) -> Option<&'static str> {
        let following = self.following.as_ref()?;
        match following.views.borrow().rows.as_deref() {
            None => Some("HSDO's table has not answered yet"),
            Some(rows) => adopt::obstacle(rows, answer, slots),
        }
    }

    /// Who is in the rows, for the looks that confirm an absence.
    pub fn holders(&self) -> Vec<EndpointId> {
        let rows = self.rows().unwrap_or_default();
        rows.sound().filter_map(|row| Some(row.holder()?.name.clone())).collect()
    }

    /// What comes from the rows into lbctl's table.
    pub fn adopt(
        &self,
        settings: &BackendSettings,
        table: &StoredTable,
        answer: Option<&Answer>,
        confirmed: &BTreeSet<EndpointId>,
        now: Timestamp,
    ) -> Adoption {
        let view = self.view().unwrap_or_default();
        let (Some(rows), Some(answer)) = (&view.rows, answer) else { return Adoption::default() };
        let (policy, ledger) = (&settings.policy, &view.ledger);
        adopt::adopt(&adopt::Sight { policy, table, rows, ledger, answer, confirmed, now })
    }

    /// Slots that no new server may have, since their rows are not known to be free.
    pub fn barred(&self, slots: u32) -> BTreeSet<SlotNumber> {
        match (&self.following, self.rows()) {
            (_, Some(rows)) => adopt::barred(&rows),
            (Some(_), None) => SlotNumber::first(slots).collect(),
            // Whoever does not lead gives nothing away.
            (None, None) => BTreeSet::new(),
        }
    }

    /// Who is in the rows; `None` while nobody knows how they are.
    pub fn served(&self) -> Option<BTreeSet<EndpointId>> {
        let view = self.view().filter(|view| view.error.is_none() && view.rows.is_some())?;
        let rows = view.rows.clone()?;
        Some(rows.sound().filter_map(|row| Some(row.holder()?.name.clone())).collect())
    }

    /// HSDO's clients as one more HAProxy, which reports no sessions: a draining server has all its
    /// time, and a slot rests until its row is free.
    pub fn clients(&self, slots: u32) -> Report {
        let serving = match self.rows() {
            Some(rows) => adopt::barred(&rows),
            None => SlotNumber::first(slots).collect(),
        };
        let backend = BackendReport { serving: Some(serving), ..BackendReport::default() };
        let haproxy = HaproxyName::of_host("hsdo-clients");
        Report { haproxy, gone: false, silent: true, backend }
    }

    /// Lets the rows show a table.
    pub fn show(&self, settings: &BackendSettings, table: &Arc<StoredTable>, revision: Revision) {
        let Some(following) = &self.following else { return };
        let (slots, ramp) = (settings.policy.slots, settings.policy.ramp);
        let (table, known) = (table.clone(), self.known.clone());
        following.wanted.send_if_modified(|wanted| {
            // What the source sees is no reason to look sooner.
            let is_new = wanted.as_ref().is_none_or(|wanted| wanted.revision != revision);
            *wanted = Some(Wanted { table, revision, slots, ramp, known });
            is_new
        });
    }

    /// The rows that a new leader would write for a table; `None` before they have been read.
    pub fn writes(&self, settings: &BackendSettings, table: StoredTable) -> Option<Vec<Row>> {
        let (slots, ramp) = (settings.policy.slots, settings.policy.ramp);
        let (table, known) = (Arc::new(table), self.known.clone());
        let wanted = Wanted { table, revision: Revision::default(), slots, ramp, known };
        let rows = self.rows()?;
        Some(follow::project(&mut Ledger::default(), &wanted, &rows).writes)
    }

    /// Whether the rows have shown the table of a revision.
    pub fn has_shown(&self, revision: Revision) -> bool {
        self.view().is_some_and(|view| view.written >= revision)
    }
}
