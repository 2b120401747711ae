//! Commits: read, decide, and write on the condition that what was read still holds.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::{ConditionCheck, Delete, Put, TransactWriteItem, Update};

use super::calls::Ask;
use super::items::{self, Head, Item, number};
use super::{Shared, Values, leases};
use crate::store::{
    Change, Commit, Entry, ErrorKind, Guard, Key, LeaseId, Result, Revision, StoreLife, Txn, Write,
};

/// How many items one transaction may have.
const MAX_ITEMS: usize = 100;

const ABSENT: &str = "attribute_not_exists(pk)";

/// What is known of the keys that a commit touches.
type Known = BTreeMap<Key, Option<Entry>>;

/// A transaction that is being put together.
#[derive(Debug, Default)]
pub(super) struct Writes(Vec<TransactWriteItem>);

/// What a commit is decided on: items read one by one, which the commit's conditions tie together.
#[derive(Debug, Default)]
pub(super) struct State {
    pub head: Head,
    pub known: Known,
    /// Those of the leases that live.
    leases: BTreeSet<LeaseId>,
}

impl Shared {
    pub(super) async fn commit(&self, ask: &Ask, txn: &Txn) -> Result<Commit> {
        let _turn = self.committing.lock().await;
        let leased: BTreeMap<LeaseId, Vec<&Key>> = leased(txn);
        loop {
            let State { head, known, leases } =
                self.read_state(ask, touched(txn), leased.keys()).await?;
            if !txn.guards.iter().all(|guard| holds(guard, &known)) {
                return Ok(Commit::Conflict);
            }
            if let Some(dead) = leased.keys().find(|lease| !leases.contains(lease)) {
                let reason = format!("the lease {dead} has ended");
                return Err(ask.error(ErrorKind::LeaseExpired, reason));
            }
            let next = Revision(head.revision + 1);
            let changes = changes(txn, &known, next);
            if changes.is_empty() {
                return Ok(Commit::Committed(Revision(head.revision)));
            }
            let mut writes = Writes::default();
            for (lease, keys) in &leased {
                writes.attach(self, ask, *lease, keys)?;
            }
            if self.write(ask, &head, &known, changes, writes).await? {
                return Ok(Commit::Committed(next));
            }
            ask.take_turns().await?;
        }
    }

    pub(super) async fn read_state(
        &self,
        ask: &Ask,
        keys: BTreeSet<Key>,
        leases: impl Iterator<Item = &LeaseId>,
    ) -> Result<State> {
        let mut wanted = vec![self.place.head_key()];
        wanted.extend(keys.iter().map(|key| self.place.entry_key(key)));
        wanted.extend(leases.map(|lease| self.place.lease_key(*lease)));
        let known = keys.into_iter().map(|key| (key, None)).collect();
        let mut state = State { known, ..State::default() };
        for item in &self.table.get_many(ask, wanted, true).await? {
            if let Some(head) = items::read_head(item) {
                state.head = head;
            } else if let Some(lease) = items::read_lease(item) {
                state.leases.extend((!lease.ended).then_some(lease.id));
            } else {
                let entry = self.read_entry(ask, item)?;
                state.known.insert(entry.key.clone(), Some(entry));
            }
        }
        Ok(state)
    }

    /// Writes the changes at the revision behind the head; `false`, and nothing was written, if
    /// something that was read no longer holds.
    pub(super) async fn write(
        &self,
        ask: &Ask,
        head: &Head,
        known: &Known,
        changes: Vec<Change>,
        writes: Writes,
    ) -> Result<bool> {
        let life = self.next_life(head);
        let next = Head { revision: head.revision + 1, life };
        self.write_to(ask, (head, next), known, changes, writes).await
    }

    /// Writes down another life of the store in a commit that changes nothing else; `false`, and
    /// nothing was written, where this user may only read.
    pub(super) async fn begin_life(&self, ask: &Ask, head: &Head) -> Result<bool> {
        let _turn = self.committing.lock().await;
        let life = match head.life.is_unknown() {
            true => self.next_life(head),
            false => StoreLife::random(),
        };
        let heads = (head, Head { revision: head.revision + 1, life });
        let (known, writes) = (Known::new(), Writes::default());
        match self.write_to(ask, heads, &known, Vec::new(), writes).await {
            // Somebody was quicker where nothing was written.
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Denied => {
                tracing::debug!(%error, "cannot write down which life of the store this is");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The life that a commit behind this head is of. An lbctl of before leaves it out of the head:
    /// then it is the one that was known.
    fn next_life(&self, head: &Head) -> StoreLife {
        if !head.life.is_unknown() {
            return head.life.clone();
        }
        let known = self.head().as_ref().map(|(_, known)| known.life.clone());
        let known = known.filter(|life| head.revision > 0 && !life.is_unknown());
        known.unwrap_or_else(StoreLife::random)
    }

    async fn write_to(
        &self,
        ask: &Ask,
        (head, next): (&Head, Head),
        known: &Known,
        changes: Vec<Change>,
        mut writes: Writes,
    ) -> Result<bool> {
        let commit = uuid::Uuid::new_v4().to_string();
        let revision = next.revision;
        writes.put(self, ask, self.place.head(&next), Some(at_head(head.revision)))?;
        for item in self.place.log_items(revision, &commit, &changes) {
            writes.put(self, ask, item, None)?;
        }
        let mut unchanged = known.clone();
        for change in &changes {
            let before = unchanged.remove(change.key()).flatten();
            writes.change(self, ask, change, before.as_ref())?;
        }
        for (key, before) in &unchanged {
            writes.check(self, ask, self.place.entry_key(key), unmodified(before.as_ref()))?;
        }
        let written = self.transact(ask, writes, &commit, Some(revision)).await?;
        if written {
            changes.iter().for_each(|change| {
                if let Change::Put(entry) = change {
                    self.leases.note(entry);
                }
            });
            self.saw_head(next);
            self.moved.notify_waiters();
        }
        Ok(written)
    }

    /// Sends a transaction; `false` if a condition did not hold. Where an answer was lost, the log
    /// says whose the revision became.
    pub(super) async fn transact(
        &self,
        ask: &Ask,
        writes: Writes,
        commit: &str,
        revision: Option<u64>,
    ) -> Result<bool> {
        let Writes(items) = writes;
        if items.len() > MAX_ITEMS {
            let reason = format!(
                "{} items with the leases, the head and the log; DynamoDB takes {MAX_ITEMS} in one \
                 transaction",
                items.len()
            );
            return Err(ask.error(ErrorKind::TooLarge, reason));
        }
        let failed = match self.table.transact(ask, items, commit).await {
            Ok(()) => return Ok(true),
            Err(failed) => failed,
        };
        if failed.unsure
            && let Some(revision) = revision
            && let Some(owner) = self.owner(revision).await
        {
            return Ok(owner == commit);
        }
        if failed.is_lost() {
            return Ok(false);
        }
        Err(failed.of_write(ask, &self.table, "TransactWriteItems"))
    }

    /// Which commit a revision is of; `None` where that cannot be known yet.
    async fn owner(&self, revision: u64) -> Option<String> {
        // A time of its own: that of the operation is over, as a rule.
        let ask = Ask::new("commit", revision);
        let item = self.table.get(&ask, self.place.log_key(revision, 0), true).await.ok()??;
        items::read_log(&item).map(|part| part.commit)
    }
}

impl Writes {
    pub(super) fn put(
        &mut self,
        shared: &Shared,
        ask: &Ask,
        item: Item,
        condition: Option<(&str, Values)>,
    ) -> Result<()> {
        let (text, values) = split(condition);
        let put = Put::builder()
            .table_name(&shared.table.name)
            .set_item(Some(item))
            .set_condition_expression(text)
            .set_expression_attribute_values(values)
            .build()
            .map_err(|error| ask.error(ErrorKind::Unsupported, error))?;
        self.0.push(TransactWriteItem::builder().put(put).build());
        Ok(())
    }

    pub(super) fn delete(
        &mut self,
        shared: &Shared,
        ask: &Ask,
        key: Item,
        condition: (&str, Values),
    ) -> Result<()> {
        let (text, values) = split(Some(condition));
        let delete = Delete::builder()
            .table_name(&shared.table.name)
            .set_key(Some(key))
            .set_condition_expression(text)
            .set_expression_attribute_values(values)
            .build()
            .map_err(|error| ask.error(ErrorKind::Unsupported, error))?;
        self.0.push(TransactWriteItem::builder().delete(delete).build());
        Ok(())
    }

    pub(super) fn check(
        &mut self,
        shared: &Shared,
        ask: &Ask,
        key: Item,
        condition: (&str, Values),
    ) -> Result<()> {
        let (text, values) = split(Some(condition));
        let check = ConditionCheck::builder()
            .table_name(&shared.table.name)
            .set_key(Some(key))
            .set_condition_expression(text)
            .set_expression_attribute_values(values)
            .build()
            .map_err(|error| ask.error(ErrorKind::Unsupported, error))?;
        self.0.push(TransactWriteItem::builder().condition_check(check).build());
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        shared: &Shared,
        ask: &Ask,
        key: Item,
        update: &str,
        condition: (&str, Values),
    ) -> Result<()> {
        let (text, values) = split(Some(condition));
        let update = Update::builder()
            .table_name(&shared.table.name)
            .set_key(Some(key))
            .update_expression(update)
            .set_condition_expression(text)
            .set_expression_attribute_values(values)
            .build()
            .map_err(|error| ask.error(ErrorKind::Unsupported, error))?;
        self.0.push(TransactWriteItem::builder().update(update).build());
        Ok(())
    }

    fn change(
        &mut self,
        shared: &Shared,
        ask: &Ask,
        change: &Change,
        before: Option<&Entry>,
    ) -> Result<()> {
        let condition = unmodified(before);
        match change {
            Change::Put(entry) => self.put(shared, ask, shared.place.entry(entry), Some(condition)),
            Change::Delete { key, .. } => {
                self.delete(shared, ask, shared.place.entry_key(key), condition)
            }
        }
    }

    /// Puts keys on a lease, which must live.
    fn attach(&mut self, shared: &Shared, ask: &Ask, lease: LeaseId, keys: &[&Key]) -> Result<()> {
        let held = AttributeValue::Ss(keys.iter().map(ToString::to_string).collect());
        let condition = (leases::ALIVE, vec![(":held", held)]);
        self.update(shared, ask, shared.place.lease_key(lease), "ADD held :held", condition)
    }
}

/// The head has not moved.
pub(super) fn at_head(head: u64) -> (&'static str, Values) {
    match head {
        0 => (ABSENT, Vec::new()),
        _ => ("revision = :head", vec![(":head", number(head))]),
    }
}

fn unmodified(before: Option<&Entry>) -> (&'static str, Values) {
    match before {
        None => (ABSENT, Vec::new()),
        Some(entry) => ("modified = :modified", vec![(":modified", number(entry.modified.0))]),
    }
}

fn split(condition: Option<(&str, Values)>) -> (Option<String>, Option<Item>) {
    let Some((text, values)) = condition else { return (None, None) };
    let values: Item = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // DynamoDB takes no empty list of values.
    (Some(text.to_owned()), Some(values).filter(|values| !values.is_empty()))
}

fn touched(txn: &Txn) -> BTreeSet<Key> {
    let guarded = txn.guards.iter().map(Guard::key);
    guarded.chain(txn.writes.iter().map(Write::key)).cloned().collect()
}

fn leased(txn: &Txn) -> BTreeMap<LeaseId, Vec<&Key>> {
    let mut leased: BTreeMap<LeaseId, Vec<&Key>> = BTreeMap::new();
    for write in &txn.writes {
        if let Write::Put { key, lease: Some(lease), .. } = write {
            leased.entry(*lease).or_default().push(key);
        }
    }
    leased
}

fn holds(guard: &Guard, known: &Known) -> bool {
    let entry = known.get(guard.key()).and_then(Option::as_ref);
    match guard {
        Guard::Absent(_) => entry.is_none(),
        Guard::CreatedAt(_, revision) => entry.is_some_and(|e| e.created == *revision),
        Guard::UnmodifiedSince(_, revision) => entry.is_some_and(|e| e.modified <= *revision),
    }
}

fn changes(txn: &Txn, known: &Known, revision: Revision) -> Vec<Change> {
    let change = |write: &Write| {
        let before = known.get(write.key()).and_then(Option::as_ref);
        match write {
            Write::Put { key, value, lease } => Some(Change::Put(Entry {
                key: key.clone(),
                value: value.clone(),
                created: before.map_or(revision, |entry| entry.created),
                modified: revision,
                lease: *lease,
            })),
            Write::Delete { key } => before.map(|_| Change::Delete { key: key.clone(), revision }),
        }
    };
    txn.writes.iter().filter_map(change).collect()
}
