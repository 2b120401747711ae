//! What is in the file, and whether a file is ours.

use std::path::Path;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::database::Access;
use super::failure::{Failure, Outcome};
use super::{data, file};
use crate::store::ErrorKind;

/// `lbct`, in the header of every database of ours.
const APPLICATION_ID: i32 = 0x6c62_6374;

/// Raised with every change of the schema.
const VERSION: i32 = 1;

/// Above it, the write-ahead log is cut back to this size, in bytes, once it was copied.
const WAL_LIMIT: i64 = 8 * 1024 * 1024;

/// `changes.value` is null for a deletion. Every change up to `meta.trimmed` is gone. `leases.ends`
/// counts milliseconds of the host's boot clock, and holds for one boot only: `meta.boot`. `meta`
/// has one more column, `life`: see [`give_life`].
const SCHEMA: &str = "
    CREATE TABLE meta (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL,
        trimmed INTEGER NOT NULL,
        boot TEXT NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES (1, 0, 0, '');
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY,
        ttl INTEGER NOT NULL,
        ends INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX leases_by_end ON leases (ends);
    CREATE TABLE entries (
        key TEXT PRIMARY KEY NOT NULL,
        value BLOB NOT NULL,
        created INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        lease INTEGER
    ) STRICT;
    CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE changes (
        revision INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB,
        created INTEGER,
        lease INTEGER,
        PRIMARY KEY (revision, key)
    ) STRICT;
";

/// Opens an existing file, which may be empty, and makes it a database of ours. A guest ends no
/// leases: a container may see another boot id than its host.
pub(super) fn connect(path: &Path, access: Access) -> Outcome<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let mut since = Instant::now();
    connection.busy_handler(Some(move |tries| {
        if tries == 0 {
            since = Instant::now();
        }
        file::wait_while_busy(since)
    }))?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // SQLite opens a file that it may not write without a word.
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(Failure::read_only());
    }
    // Before anything is written: another program's database stays untouched.
    let fresh = is_fresh(&*connection.transaction()?)?;
    write_ahead(&connection)?;
    // An acknowledged commit survives a power loss, not only `kill -9`: revisions are fencing
    // tokens, so they must never be given out twice.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_LIMIT, |_| Ok(()))?;
    // The main file is written in a way that says so: see `tie`.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(48);
    if fresh {
        create(&mut connection)?;
    }
    give_life(&mut connection)?;
    // Before the first daemon there are none.
    if access == Access::Write || is_of_no_boot(&connection)? {
        end_leases_of_another_boot(&mut connection)?;
    }
    Ok(connection)
}

/// Whether the database is empty; an error if it is not ours. In one transaction: another process
/// may be making it this very moment.
fn is_fresh(connection: &Connection) -> Outcome<bool> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version) {
        (0, 0) if tables == 0 => Ok(true),
        (APPLICATION_ID, VERSION) => Ok(false),
        (APPLICATION_ID, newer) if newer > VERSION => Err(Failure::new(
            ErrorKind::Unsupported,
            format!("the database is of a newer lbctl (format {newer}; this one knows {VERSION})"),
        )
        .hint("run the newer lbctl on all of this host, or name another file")),
        _ => Err(Failure::new(ErrorKind::Corrupt, "the database belongs to another program")
            .hint("name another file (--store sqlite:PATH): this one is left as it is")),
    }
}

/// Turns the write-ahead log on. SQLite answers "busy" here without asking the busy handler when
/// two processes do it at once.
fn write_ahead(connection: &Connection) -> Outcome<()> {
    let since = Instant::now();
    loop {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Failure::new(
                    ErrorKind::Unsupported,
                    format!("the file system allows the journal mode {mode} only, not wal"),
                )
                .hint("put the database on a local file system, or use etcd"));
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                if !file::wait_while_busy(since) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn create(connection: &mut Connection) -> Outcome<()> {
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been quicker.
    if is_fresh(&txn)? {
        txn.execute_batch(SCHEMA)?;
        txn.pragma_update(None, "application_id", APPLICATION_ID)?;
        txn.pragma_update(None, "user_version", VERSION)?;
    }
    txn.commit().map_err(Failure::of_commit)
}

/// Writes down which life of the store this is, unless that was done. The first format had no place
/// for it, and a program that knows no other leaves the column alone.
fn give_life(connection: &mut Connection) -> Outcome<()> {
    if has_life(connection)? {
        return Ok(());
    }
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    add_life(&txn)?;
    txn.commit().map_err(Failure::of_commit)
}

fn has_life(db: &Connection) -> Outcome<bool> {
    let there = "SELECT 1 FROM pragma_table_info('meta') WHERE name = 'life'";
    Ok(db.prepare(there)?.exists([])?)
}

fn add_life(txn: &Transaction<'_>) -> Outcome<()> {
    if !has_life(txn)? {
        txn.execute("ALTER TABLE meta ADD COLUMN life TEXT NOT NULL DEFAULT ''", [])?;
        data::begin_life(txn)?;
    }
    Ok(())
}

/// Has the log copied and deleted when this connection is closed as the last one.
pub(super) fn checkpoint_on_close(connection: &Connection) -> Outcome<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(())
}

/// Whether a copy is a whole database of ours.
pub(super) fn check(connection: &Connection) -> Outcome<()> {
    if is_fresh(connection)? {
        return Err(Failure::corrupt("the database file has nothing in it"));
    }
    let report: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    match report.as_str() {
        "ok" => Ok(()),
        problem => Err(Failure::corrupt(format!("the database file is damaged: {problem}"))),
    }
}

/// Makes a copy that nobody else uses the beginning of another life, with revisions above all that
/// were handed out before.
pub(super) fn begin_another_life(connection: &Connection, known: i64) -> Outcome<()> {
    write_ahead(connection)?;
    let (_, revision) = life_and_revision(connection)?;
    let txn = connection.unchecked_transaction()?;
    add_life(&txn)?;
    data::begin_life(&txn)?;
    continue_from(&txn, known.max(revision).saturating_add(1))?;
    txn.commit().map_err(Failure::of_commit)
}

/// Has revisions go on above this one; watchers get a `Reset`.
pub(super) fn continue_from(db: &Connection, revision: i64) -> Outcome<()> {
    db.execute("UPDATE meta SET revision = ?1, trimmed = ?1", [revision])?;
    db.execute("DELETE FROM changes", [])?;
    Ok(())
}

/// Which life it is, empty where the database does not say it, and its revision.
pub(super) fn life_and_revision(db: &Connection) -> Outcome<(String, i64)> {
    let life = match has_life(db)? {
        true => "SELECT life, revision FROM meta",
        false => "SELECT '', revision FROM meta",
    };
    Ok(db.query_row(life, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// What two databases have in common only where one has everything that the other has.
pub(super) fn state(db: &Connection) -> Outcome<(String, i64, i64)> {
    let schema: i64 = db.pragma_query_value(None, "schema_version", |row| row.get(0))?;
    let (life, revision) = life_and_revision(db)?;
    Ok((life, revision, schema))
}

/// A reboot starts the boot clock anew and ends every process that held a lease.
fn end_leases_of_another_boot(connection: &mut Connection) -> Outcome<()> {
    if is_of_this_boot(connection)? {
        return Ok(());
    }
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !is_of_this_boot(&txn)? {
        txn.execute("UPDATE leases SET ends = 0", [])?;
        txn.execute("UPDATE meta SET boot = ?1", [file::boot_id()?])?;
    }
    txn.commit().map_err(Failure::of_commit)
}

fn is_of_no_boot(db: &Connection) -> Outcome<bool> {
    Ok(db.query_row("SELECT boot = '' FROM meta", [], |row| row.get(0))?)
}

/// Whether the leases count by the boot clock as it runs now.
pub(super) fn is_of_this_boot(db: &Connection) -> Outcome<bool> {
    let stored: String = db.query_row("SELECT boot FROM meta", [], |row| row.get(0))?;
    Ok(stored == file::boot_id()?)
}
