//! The statements, each inside a transaction of the caller's. Keys are whole here: with the prefix
//! of the store's URL.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::failure::{Failure, Outcome};
use crate::store::{Guard, LeaseId, MAX_VALUE_LEN, Prefix, StoreLife, Write};

/// How much of the past is kept for watchers.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    /// How many revisions.
    pub(super) revisions: i64,
    /// How many bytes of values; the last revision is always kept.
    pub(super) bytes: i64,
    /// Trimmed once in so many revisions.
    pub(super) every: i64,
}

impl Default for History {
    fn default() -> Self {
        Self { revisions: 1024, bytes: 16 * 1024 * 1024, every: 64 }
    }
}

/// A stored entry.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) key: String,
    pub(super) value: Bytes,
    pub(super) created: i64,
    pub(super) modified: i64,
    pub(super) lease: Option<i64>,
}

/// A line of the change log.
#[derive(Debug, Clone)]
pub(super) enum Logged {
    Put(Stored),
    Delete { key: String, revision: i64 },
}

/// The revision, and up to where the change log was trimmed.
pub(super) fn head(db: &Connection) -> Outcome<(i64, i64)> {
    let mut statement = db.prepare_cached("SELECT revision, trimmed FROM meta")?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Which life of the store this is.
pub(super) fn life(db: &Connection) -> Outcome<StoreLife> {
    let text: String =
        db.prepare_cached("SELECT life FROM meta")?.query_row([], |row| row.get(0))?;
    Ok(StoreLife::new(text))
}

/// Begins another life of the store. Revisions go on from where they are.
pub(super) fn begin_life(db: &Connection) -> Outcome<()> {
    db.execute("UPDATE meta SET life = ?1", [StoreLife::random().as_str()])?;
    Ok(())
}

pub(super) fn get(db: &Connection, key: &str) -> Outcome<Option<Stored>> {
    let mut statement = db.prepare_cached(
        "SELECT key, value, created, modified, lease FROM entries WHERE key = ?1",
    )?;
    Ok(statement.query_row([key], stored).optional()?)
}

pub(super) fn list(db: &Connection, prefix: &Prefix) -> Outcome<Vec<Stored>> {
    let (start, end) = range(prefix);
    let mut statement = db.prepare_cached(
        "SELECT key, value, created, modified, lease FROM entries
         WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    let mut rows = statement.query([start, end])?;
    let (mut found, mut bad) = (Vec::new(), 0u64);
    while let Some(row) = rows.next()? {
        match stored(row) {
            Ok(stored) if stored.value.len() <= MAX_VALUE_LEN => found.push(stored),
            Ok(_) | Err(_) => bad += 1,
        }
    }
    if bad > 0 {
        tracing::warn!(rows = bad, "left out rows of the database that lbctl did not write");
    }
    Ok(found)
}

/// The changes behind a revision, in order.
pub(super) fn changes(db: &Connection, after: i64) -> Outcome<Vec<Logged>> {
    let mut statement = db.prepare_cached(
        "SELECT key, value, created, revision, lease FROM changes
         WHERE revision > ?1 ORDER BY revision, key",
    )?;
    let rows = statement.query_map([after], |row| -> rusqlite::Result<Logged> {
        let deleted = matches!(row.get_ref(1)?, rusqlite::types::ValueRef::Null);
        Ok(if deleted {
            Logged::Delete { key: row.get(0)?, revision: row.get(3)? }
        } else {
            Logged::Put(stored(row)?)
        })
    })?;
    Ok(rows.filter_map(readable).collect::<rusqlite::Result<_>>()?)
}

/// Passes over a row that lbctl did not write, such as one with a key that is not UTF-8.
fn readable<T>(row: rusqlite::Result<T>) -> Option<rusqlite::Result<T>> {
    match row {
        Err(
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..),
        ) => None,
        row => Some(row),
    }
}

/// Whether a guard holds.
pub(super) fn holds(db: &Connection, guard: &Guard, key: &str) -> Outcome<bool> {
    let mut statement =
        db.prepare_cached("SELECT created, modified FROM entries WHERE key = ?1")?;
    let found: Option<(i64, i64)> =
        statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let found = found.map(|(created, modified)| (created.unsigned_abs(), modified.unsigned_abs()));
    Ok(match guard {
        Guard::Absent(_) => found.is_none(),
        Guard::CreatedAt(_, wanted) => found.is_some_and(|(created, _)| created == wanted.0),
        Guard::UnmodifiedSince(_, since) => found.is_some_and(|(_, modified)| modified <= since.0),
    })
}

/// Applies writes with whole keys at one new revision, logs and answers it; the old revision where
/// they change nothing.
pub(super) fn apply(
    db: &Connection,
    writes: &[(String, &Write)],
    history: History,
) -> Outcome<i64> {
    let (head, _) = head(db)?;
    let revision = head + 1;
    let mut changed = false;
    for (key, write) in writes {
        changed |= match write {
            Write::Put { value, lease, .. } => {
                put(db, revision, key, value, lease.map(stored_lease))?;
                true
            }
            Write::Delete { .. } => delete(db, revision, key)?,
        };
    }
    if !changed {
        return Ok(head);
    }
    db.prepare_cached("UPDATE meta SET revision = ?1")?.execute([revision])?;
    trim(db, revision, history)?;
    Ok(revision)
}

fn put(db: &Connection, revision: i64, key: &str, value: &[u8], lease: Option<i64>) -> Outcome<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO entries (key, value, created, modified, lease) VALUES (?1, ?2, ?3, ?3, ?4)
         ON CONFLICT (key) DO UPDATE
         SET value = excluded.value, modified = excluded.modified, lease = excluded.lease
         RETURNING created",
    )?;
    let created: i64 =
        statement.query_row(params![key, value, revision, lease], |row| row.get(0))?;
    let mut log = db.prepare_cached(
        "INSERT INTO changes (revision, key, value, created, lease) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    log.execute(params![revision, key, value, created, lease])?;
    Ok(())
}

/// False where there was nothing to delete.
fn delete(db: &Connection, revision: i64, key: &str) -> Outcome<bool> {
    if db.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])? == 0 {
        return Ok(false);
    }
    let mut log = db.prepare_cached("INSERT INTO changes (revision, key) VALUES (?1, ?2)")?;
    log.execute(params![revision, key])?;
    Ok(true)
}

/// Forgets the changes that only a watcher far behind would still want: it gets a `Reset`.
fn trim(db: &Connection, revision: i64, history: History) -> Outcome<()> {
    if revision % history.every != 0 {
        return Ok(());
    }
    let mut floor = revision - history.revisions;
    let mut sizes = db.prepare_cached(
        "SELECT revision, length(value) FROM changes WHERE revision > ?1 ORDER BY revision DESC",
    )?;
    let mut rows = sizes.query([floor])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let (at, size): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
        bytes += size.unwrap_or(0);
        if bytes > history.bytes && at < revision {
            floor = at;
            break;
        }
    }
    db.prepare_cached("DELETE FROM changes WHERE revision <= ?1")?.execute([floor])?;
    db.prepare_cached("UPDATE meta SET trimmed = max(trimmed, ?1)")?.execute([floor])?;
    Ok(())
}

/// When the next lease ends, on the boot clock.
pub(super) fn next_end(db: &Connection) -> Outcome<Option<i64>> {
    Ok(db.prepare_cached("SELECT min(ends) FROM leases")?.query_row([], |row| row.get(0))?)
}

/// Ends every lease that is over, each with its keys in one commit, in the order of their ends.
pub(super) fn expire(db: &Connection, now: i64, history: History) -> Outcome<()> {
    let mut statement =
        db.prepare_cached("SELECT id FROM leases WHERE ends <= ?1 ORDER BY ends, id")?;
    let over: Vec<i64> =
        statement.query_map([now], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for lease in over {
        end_lease(db, lease, history)?;
    }
    Ok(())
}

/// Ends a lease and deletes its keys; nothing for a dead one.
pub(super) fn end_lease(db: &Connection, lease: i64, history: History) -> Outcome<()> {
    db.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease])?;
    let mut statement =
        db.prepare_cached("SELECT key FROM entries WHERE lease = ?1 ORDER BY key")?;
    let keys: Vec<String> = statement
        .query_map([lease], |row| row.get(0))?
        .filter_map(readable)
        .collect::<rusqlite::Result<_>>()?;
    if keys.is_empty() {
        return Ok(());
    }
    let (head, _) = head(db)?;
    for key in &keys {
        delete(db, head + 1, key)?;
    }
    db.prepare_cached("UPDATE meta SET revision = ?1")?.execute([head + 1])?;
    trim(db, head + 1, history)
}

pub(super) fn is_alive(db: &Connection, lease: i64) -> Outcome<bool> {
    Ok(db.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?.exists([lease])?)
}

/// A new lease with a random number: one from another database, or from before the file was
/// replaced, is never taken for it.
pub(super) fn grant(db: &Connection, ttl: i64, now: i64) -> Outcome<LeaseId> {
    let mut statement = db.prepare_cached(
        "INSERT INTO leases (id, ttl, ends) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
    )?;
    loop {
        let id = fastrand::i64(1..);
        if statement.execute(params![id, ttl, now.saturating_add(ttl)])? == 1 {
            return Ok(LeaseId(id.unsigned_abs()));
        }
    }
}

/// Renews a live lease for its whole TTL, and answers it.
pub(super) fn keep_alive(db: &Connection, lease: LeaseId, now: i64) -> Outcome<i64> {
    let mut statement =
        db.prepare_cached("UPDATE leases SET ends = ?2 + ttl WHERE id = ?1 RETURNING ttl")?;
    let ttl =
        statement.query_row(params![stored_lease(lease), now], |row| row.get(0)).optional()?;
    ttl.ok_or_else(|| Failure::lease_expired(lease))
}

/// SQLite's integers are signed; every lease that was granted here fits.
pub(super) fn stored_lease(lease: LeaseId) -> i64 {
    i64::try_from(lease.0).unwrap_or(0)
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let value: Vec<u8> = row.get(1)?;
    Ok(Stored {
        key: row.get(0)?,
        value: value.into(),
        created: row.get(2)?,
        modified: row.get(3)?,
        lease: row.get(4)?,
    })
}

/// From the first key under a prefix to behind the last: `0` follows `/` in ASCII.
fn range(prefix: &Prefix) -> (String, String) {
    match prefix.as_str() {
        "" => (String::new(), char::MAX.to_string()),
        text => (format!("{text}/"), format!("{text}0")),
    }
}
