use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;

use super::problem::Problem;
use super::rows::{self, HsdoFeed};
use crate::daemon::{Backoff, Health, OwnedTask, spawn_owned};
use crate::model::{BackendName, TableOrigin, keys};
use crate::store::{Mirror, SharedStore};
use crate::tables::{Table, TableError};

/// Follows tables and keeps the last good state of each.
#[derive(Debug)]
pub struct Feeds {
    views: watch::Receiver<Views>,
    _tasks: Vec<OwnedTask<()>>,
}

/// Each followed table as it is known.
pub type Views = BTreeMap<BackendName, View>;

/// One table as it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The last state to follow; `None` before the first, and where there is no such table: then
    /// HAProxy is left as it is.
    pub table: Option<Arc<Table>>,
    /// The table has been a leader's word: one that is not takes no more than the first place.
    pub was_confirmed: bool,
    /// The store has answered.
    pub loaded: bool,
    /// Why the table is missing or old.
    pub problem: Option<String>,
    /// The store is away: what is known may be old.
    pub stale: Option<String>,
}

/// A feed's way to its view.
#[derive(Debug)]
pub struct Teller {
    name: BackendName,
    views: Arc<watch::Sender<Views>>,
}

impl Teller {
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// Changes the view; it is told where it is another one then.
    pub fn update(&self, change: impl FnOnce(&mut View)) {
        self.views.send_if_modified(|views| {
            let view = views.entry(self.name.clone()).or_default();
            let before = view.clone();
            change(view);
            *view != before
        });
    }
}

impl Feeds {
    /// Starts following the tables in the store, which are filled from `origin` where that is known, or
    /// HSDO's; ends when it is dropped.
    pub fn start<'a>(
        store: &SharedStore,
        hsdo: Option<&HsdoFeed>,
        origin: Option<&TableOrigin>,
        tables: impl IntoIterator<Item = &'a BackendName>,
    ) -> Self {
        let names: Vec<&BackendName> = tables.into_iter().collect();
        let initial: Views = names.iter().map(|name| ((*name).clone(), View::default())).collect();
        let (sender, views) = watch::channel(initial);
        let sender = Arc::new(sender);
        let follow = |name: BackendName| {
            let teller = Teller { name, views: sender.clone() };
            match hsdo {
                None => spawn_owned(follow(store.clone(), teller, origin.cloned())),
                Some(hsdo) => spawn_owned(rows::follow(hsdo.clone(), teller)),
            }
        };
        // A table that feeds several backends is followed once.
        let tasks = views.borrow().keys().cloned().map(follow).collect();
        Self { views, _tasks: tasks }
    }

    /// What is known now; counts as seen.
    pub fn views(&mut self) -> Views {
        self.views.borrow_and_update().clone()
    }

    /// Waits for something unseen; cancel-safe.
    pub async fn changed(&mut self) {
        if self.views.changed().await.is_err() {
            // The tasks live as long as `self`, so this end is never seen.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the store has answered for every table, or the time is up.
    pub async fn loaded(&mut self, patience: Duration) -> bool {
        let all = self.views.wait_for(|views| views.values().all(|view| view.loaded));
        tokio::time::timeout(patience, all).await.is_ok_and(|seen| seen.is_ok())
    }
}

async fn follow(store: SharedStore, teller: Teller, origin: Option<TableOrigin>) {
    let name = teller.name();
    let mut health = Health::new(format!("watching table {name}"));
    let mut mirror = open(&store, &teller, &mut health).await;
    let mut reborn_at = None;
    loop {
        let (rebirths, life) = (mirror.rebirths(), mirror.life().clone());
        mirror.changed().await;
        // A burst of commits is one change.
        while mirror.changed().now_or_never().is_some() {}
        if let Some(error) = mirror.stale() {
            health.failed(error);
            teller.update(|view| view.stale = Some(error.to_string()));
            continue;
        }
        health.succeeded();
        if mirror.rebirths() != rebirths {
            // In another life no confirmation of the old one counts anyway.
            reborn_at = (*mirror.life() == life).then_some(mirror.revision());
            tracing::warn!(table = %name, "the store was replaced or restored: keeping what HAProxy serves");
        }
        let (entries, revision) = (mirror.entries(), mirror.revision());
        let read = Table::read(name, entries, revision, mirror.life(), reborn_at);
        if let Some(foreign) = foreign(&read, origin.as_ref()) {
            teller.update(|view| view.refuse(foreign));
            continue;
        }
        let missing = match &read {
            Ok(None) => Some(missing(&store, name).await),
            Ok(Some(_)) | Err(_) => None,
        };
        teller.update(|view| view.take(read, missing));
    }
}

impl View {
    /// Takes in a table as it was read. The last good one stays where there is none to follow: where
    /// it is missing, cannot be read, or is not yet what a leader says.
    pub fn take(&mut self, read: Result<Option<Table>, TableError>, missing: Option<String>) {
        self.loaded = true;
        self.stale = None;
        self.problem = missing;
        match read {
            Ok(Some(table)) if table.confirmed || !self.was_confirmed => {
                self.problem = damage(Some(&table));
                self.was_confirmed = table.confirmed;
                self.table = Some(Arc::new(table));
            }
            Ok(Some(table)) => {
                let unconfirmed = Problem::Superseded { table: table.name };
                self.problem = Some(unconfirmed.to_string());
                self.distrust();
            }
            Ok(None) => self.distrust(),
            Err(problem) => self.problem = Some(problem.to_string()),
        }
    }

    /// The table is another's: what was followed before stays.
    fn refuse(&mut self, foreign: String) {
        (self.loaded, self.stale, self.problem) = (true, None, Some(foreign));
        self.distrust();
    }

    /// What is known is not what the store says.
    fn distrust(&mut self) {
        if let Some(table) = self.table.as_mut().filter(|table| table.confirmed) {
            Arc::make_mut(table).confirmed = false;
        }
    }
}

async fn open(store: &SharedStore, teller: &Teller, health: &mut Health) -> Mirror {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match store.watch(&keys::backend(teller.name())).await {
            Ok(watch) => return Mirror::new(watch),
            Err(error) => {
                health.failed(&error);
                teller.update(|view| view.stale = Some(error.to_string()));
                backoff.wait().await;
            }
        }
    }
}

/// Says that a table is filled from elsewhere, where that is known.
fn foreign(read: &Result<Option<Table>, TableError>, own: Option<&TableOrigin>) -> Option<String> {
    let table = read.as_ref().ok()?.as_ref()?;
    let (own, theirs) = (own?, table.spec.origin.as_ref()?);
    let name = &table.name;
    (!own.goes_on_from(theirs)).then(|| {
        format!(
            "table {name} in the store belongs to {theirs}, and this one is to follow that of {own}, so \
             HAProxy is left as it is: correct from or hsdo-table"
        )
    })
}

/// Says that there is no such table, and which there are.
async fn missing(store: &SharedStore, name: &BackendName) -> String {
    let prefix = keys::backends();
    let listing = store.list(&prefix).await;
    let tables: Vec<String> = listing
        .map(|listing| listing.entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| prefix.strip(&entry.key)?.strip_suffix("/spec").map(str::to_owned))
        .collect();
    let known = match tables.as_slice() {
        [] => "there are none: is `lbctl discover` running on this store?".to_owned(),
        tables => format!("there are {}", tables.join(", ")),
    };
    format!("the store has no table {name}, so HAProxy is left as it is; {known}")
}

/// Says which entries cannot be read.
pub(super) fn damage(table: Option<&Table>) -> Option<String> {
    let problems = &table?.problems;
    let first = problems.first()?;
    let others = match problems.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    Some(format!("{first}{others}; its slot is left as it is"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::testing::{record, spec};
    use crate::store::{Commit, Faulty, MemoryStore, Store as _, Txn};

    fn name() -> BackendName {
        "web".parse().unwrap()
    }

    async fn put(store: &MemoryStore, key: &str, value: String) {
        let commit = store.commit(Txn::new().put(key.parse().unwrap(), value)).await.unwrap();
        assert!(matches!(commit, Commit::Committed(_)));
    }

    async fn view(feeds: &mut Feeds, what: impl Fn(&View) -> bool) -> View {
        let wait = feeds.views.wait_for(|views| what(&views[&name()]));
        let views = tokio::time::timeout(Duration::from_secs(5), wait).await.expect("no such view");
        views.unwrap()[&name()].clone()
    }

    #[tokio::test]
    async fn a_missing_table_is_no_empty_table_and_names_those_that_exist() {
        let store = MemoryStore::new();
        put(&store, "backends/api/spec", spec(1)).await;
        let mut feeds = Feeds::start(&(Arc::new(store) as SharedStore), None, None, [&name()]);
        let view = view(&mut feeds, |view| view.loaded).await;
        assert_eq!(view.table, None);
        let problem = view.problem.unwrap();
        assert!(problem.contains("no table web") && problem.contains("there are api"), "{problem}");
    }

    #[tokio::test]
    async fn a_table_that_is_filled_from_elsewhere_is_not_followed() {
        let store = MemoryStore::new();
        let own = TableOrigin {
            source: "asg".into(),
            hsdo_table: Some("web".into()),
            region: Some("eu-west-1".into()),
        };
        let put_of = async |origin: &TableOrigin| {
            let mut spec: crate::model::BackendSpec = serde_json::from_str(&spec(2)).unwrap();
            spec.origin = Some(origin.clone());
            put(&store, "backends/web/spec", serde_json::to_string(&spec).unwrap()).await;
        };
        let theirs = TableOrigin { region: Some("eu-west-3".into()), ..own.clone() };
        put_of(&theirs).await;
        let shared = Arc::new(store.clone()) as SharedStore;
        let mut feeds = Feeds::start(&shared, None, Some(&own), [&name()]);
        let refused = view(&mut feeds, |view| view.loaded).await;
        let problem = refused.problem.unwrap();
        assert_eq!(refused.table, None);
        assert!(problem.contains("belongs to HSDO's table web in eu-west-3"), "{problem}");
        for own in [own.clone(), TableOrigin { hsdo_table: None, region: None, ..own }] {
            put_of(&own).await;
            view(&mut feeds, |view| view.problem.is_none() && view.table.is_some()).await;
        }
        put_of(&theirs).await;
        let kept = view(&mut feeds, |view| view.problem.is_some()).await;
        assert!(kept.table.is_some(), "HAProxy is left as it is");
    }

    #[tokio::test]
    async fn a_spec_that_goes_bad_keeps_the_last_good_table() {
        let store = MemoryStore::new();
        put(&store, "backends/web/spec", spec(2)).await;
        put(&store, "backends/web/slots/00001", record("a")).await;
        let mut feeds =
            Feeds::start(&(Arc::new(store.clone()) as SharedStore), None, None, [&name()]);
        view(&mut feeds, |view| view.table.is_some()).await;
        put(&store, "backends/web/spec", "?".into()).await;
        let view = view(&mut feeds, |view| view.problem.is_some()).await;
        assert_eq!(view.table.unwrap().slots.len(), 1);
        assert!(view.problem.unwrap().contains("backends/web/spec cannot be read"));
    }

    #[tokio::test]
    async fn a_store_that_goes_away_leaves_the_table_and_says_so() {
        let store = MemoryStore::new();
        put(&store, "backends/web/spec", spec(2)).await;
        let faulty = Faulty::new(store, 1);
        let mut feeds =
            Feeds::start(&(Arc::new(faulty.clone()) as SharedStore), None, None, [&name()]);
        view(&mut feeds, |view| view.table.is_some()).await;
        faulty.set_offline(true);
        let away = view(&mut feeds, |view| view.stale.is_some()).await;
        assert!(away.table.is_some());
        faulty.set_offline(false);
        view(&mut feeds, |view| view.stale.is_none()).await;
    }
}
