//! What ties the database to the write-ahead log beside it.
//!
//! SQLite plays whatever `-wal` it finds over whatever database it finds. Where a copy was put in
//! the place of the database, by `cp`, `mv` or a tool, the log of the one before would undo or
//! damage it. So `-life` remembers how the main file was when lbctl last wrote it, which only a
//! checkpoint does: one that is different has been replaced. Its log is then kept aside, and the
//! copy becomes a file of its own and a new life of the store.
//!
//! - Every transaction holds the lock on `-wake` shared; whoever puts a file in place holds it alone.
//! - Whoever checkpoints holds the lock on `-life` alone, and marks the main file as being written
//!   before: one that dies there leaves a mark, and then the log is believed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::database::Access;
use super::failure::{Failure, Outcome};
use super::file::{self, Identity, LockFile};
use super::record::Record;
use super::schema;
use crate::store::ErrorKind;

/// How long a file must stay as it is before it counts as copied in full.
const SETTLED: Duration = Duration::from_millis(150);

/// How long a copy may take before callers are told to come back.
const COPY_DEADLINE: Duration = Duration::from_secs(5);

/// The files beside the database that processes share.
#[derive(Debug)]
pub(super) struct Tie {
    path: PathBuf,
    access: Access,
    pub(super) wake: LockFile,
    life: LockFile,
}

/// The connection that a process already has, and the file that it is on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live<'c> {
    pub(super) connection: &'c Connection,
    pub(super) main: Identity,
}

impl Tie {
    pub(super) fn open(path: &Path, access: Access) -> Outcome<Self> {
        let wake = LockFile::open(path, "-wake")?;
        let life = LockFile::open(path, "-life")?;
        Ok(Self { path: path.to_owned(), access, wake, life })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to the file at the path; first makes it one that fits to what is beside it.
    pub(super) fn connect(&self) -> Outcome<(Connection, Identity)> {
        {
            let _era = self.wake.share()?;
            let _life = self.life.share()?;
            let found = file::identity(&self.path)?;
            if Record::read(&self.life).is_of(found) && found.size > 0 {
                return Ok((schema::connect(&self.path, self.access)?, found));
            }
        }
        self.reconnect(None)
    }

    /// The same for a process that has found its file to be another one.
    pub(super) fn reconnect(&self, live: Option<Live<'_>>) -> Outcome<(Connection, Identity)> {
        if live.is_some() {
            self.await_the_copy()?;
        }
        let _era = self.wake.exclude()?;
        let _life = self.life.exclude()?;
        let record = Record::read(&self.life);
        let found = file::identity(&self.path)?;
        let next = self.judge(&record, found, live)?;
        let floor = match next {
            Verdict::Fits => 0,
            Verdict::Fresh => record.reserved,
            Verdict::Replaced => {
                self.put_in_place(&record)?;
                0
            }
        };
        record.being_written().write(&self.life)?;
        let connection = schema::connect(&self.path, self.access)?;
        if floor > 0 {
            schema::continue_from(&connection, floor)?;
        }
        // So that the main file is a database by itself from the beginning.
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        let main = file::identity(&self.path)?;
        Record::of(&connection, main, record.reserved)?.write(&self.life)?;
        Ok((connection, main))
    }

    /// Whether the file at the path is the one that a connection is on, with nothing in it that
    /// lbctl did not write; `main` follows what other processes wrote.
    pub(super) fn is_current(&self, main: &mut Identity) -> Outcome<bool> {
        let found = file::identity(&self.path)?;
        if found == *main {
            return Ok(true);
        }
        if !found.is_same_file(*main) {
            return Ok(false);
        }
        let _life = self.life.share()?;
        let found = file::identity(&self.path)?;
        if found.is_same_file(*main) && Record::read(&self.life).is_of(found) {
            *main = found;
            return Ok(true);
        }
        Ok(false)
    }

    /// Copies the log into the main file; nothing where another process does it or the file is not
    /// the one that it was.
    pub(super) fn checkpoint(&self, connection: &Connection, main: &mut Identity) -> Outcome<()> {
        let _era = self.wake.share()?;
        let Some(_life) = self.life.try_exclude()? else { return Ok(()) };
        let (record, found) = (Record::read(&self.life), file::identity(&self.path)?);
        if !found.is_same_file(*main) || !record.is_of(found) {
            return Ok(());
        }
        record.being_written().write(&self.life)?;
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        *main = file::identity(&self.path)?;
        Record::of(connection, *main, record.reserved)?.write(&self.life)
    }

    /// Closes a connection: the last one of all copies the log and deletes it.
    pub(super) fn close(&self, connection: Connection, main: Identity) -> Outcome<()> {
        let _era = self.wake.share()?;
        let _life = self.life.exclude()?;
        let (record, found) = (Record::read(&self.life), file::identity(&self.path)?);
        if !found.is_same_file(main) || !record.is_of(found) {
            // The log is not of this file: closed as it is, it stays beside it.
            return Ok(());
        }
        let head = Record::of(&connection, found, record.reserved)?;
        schema::checkpoint_on_close(&connection)?;
        head.being_written().write(&self.life)?;
        connection.close().map_err(|(_, error)| error)?;
        head.with_main(file::identity(&self.path)?).write(&self.life)
    }

    /// Makes room for more revisions, before the first of them is committed.
    pub(super) fn reserve(&self, revision: i64) -> Outcome<i64> {
        let _life = self.life.exclude()?;
        let record = Record::read(&self.life).reserving(revision);
        record.write(&self.life)?;
        Ok(record.reserved)
    }

    pub(super) fn reserved(&self) -> Outcome<i64> {
        let _life = self.life.share()?;
        Ok(Record::read(&self.life).reserved)
    }

    /// Waits until whoever writes the file is done.
    fn await_the_copy(&self) -> Outcome<()> {
        let started = Instant::now();
        let (mut seen, mut since) = (file::identity(&self.path)?, Instant::now());
        loop {
            if seen.size > 0 && since.elapsed() >= SETTLED {
                return Ok(());
            }
            if started.elapsed() >= COPY_DEADLINE {
                let reason = match seen.size {
                    0 => "the database file was emptied",
                    _ => "the database file is being written by another program",
                };
                return Err(Failure::new(ErrorKind::Unavailable, reason).hint(PUT_BACK));
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "another program's copy cannot be awaited"
            )]
            std::thread::sleep(SETTLED / 5);
            let now = file::identity(&self.path)?;
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if seen.size == 0 {
                return Err(Failure::new(ErrorKind::Unavailable, "the database file was emptied")
                    .hint(PUT_BACK));
            }
        }
    }

    fn judge(&self, record: &Record, found: Identity, live: Option<Live<'_>>) -> Outcome<Verdict> {
        let has_log = fs::metadata(self.beside("-wal")).is_ok_and(|log| log.len() > 0);
        if found.size == 0 {
            if has_log {
                self.set_the_log_aside()?;
            }
            return Ok(Verdict::Fresh);
        }
        if let Some(live) = live {
            // Another process may have been quicker.
            let known =
                record.is_exactly(found) || (found.is_same_file(live.main) && !record.knows_main());
            return match known || self.is_the_same_state(live, found)? {
                true => Ok(Verdict::Fits),
                false => Ok(Verdict::Replaced),
            };
        }
        if record.fits(found) || (!has_log && record.is_of_a_checkpoint(&self.path, found)) {
            return Ok(Verdict::Fits);
        }
        Ok(Verdict::Replaced)
    }

    /// Whether the main file alone is what the connection sees: another program has copied the log
    /// into it, as `sqlite3` does.
    fn is_the_same_state(&self, live: Live<'_>, found: Identity) -> Outcome<bool> {
        if !found.is_same_file(live.main) {
            return Ok(false);
        }
        let copy = self.copy()?;
        let alone = copy.open().and_then(|alone| schema::state(&alone));
        let seen = schema::state(live.connection);
        let same = matches!((alone, seen), (Ok(alone), Ok(seen)) if alone == seen);
        if same {
            copy.keep_open();
        }
        Ok(same)
    }

    /// Makes the file at the path a database by itself, in another life, and the log that was beside
    /// it a file that nobody reads.
    fn put_in_place(&self, record: &Record) -> Outcome<()> {
        let copy = self.copy()?;
        let connection = copy.open()?;
        schema::check(&connection)?;
        schema::begin_another_life(&connection, record.reserved.max(record.revision))?;
        connection.close().map_err(|(_, error)| error)?;
        let failed = |error| Failure::io("put the restored database in place", &error);
        File::open(&copy.path).and_then(|file| file.sync_all()).map_err(failed)?;
        let log = self.set_the_log_aside()?;
        fs::rename(&copy.path, &self.path).map_err(failed)?;
        file::sync_folder(&self.path).map_err(failed)?;
        let path = self.path.display();
        match log {
            Some(log) => tracing::warn!(
                %path, log = %log.display(),
                "the database file was replaced: it is used as it is now, in another life of the \
                 store; the write-ahead log of the one before is kept in a file that lbctl does not read",
            ),
            None => tracing::warn!(
                %path,
                "the database file was replaced: it is used as it is now, in another life of the store",
            ),
        }
        Ok(())
    }

    /// Answers where a log that was not empty is now.
    fn set_the_log_aside(&self) -> Outcome<Option<PathBuf>> {
        let log = self.beside("-wal");
        let failed = |error| Failure::io(format_args!("move {} aside", log.display()), &error);
        file::remove(&self.beside("-shm")).map_err(failed)?;
        match fs::metadata(&log) {
            Ok(found) if found.len() > 0 => {
                let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string();
                let aside = self.beside(&format!("-wal.replaced-{now}"));
                fs::rename(&log, &aside).map_err(failed)?;
                Ok(Some(aside))
            }
            Ok(_) => file::remove(&log).map_err(failed).map(|()| None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn copy(&self) -> Outcome<Copy> {
        Copy::of(&self.path, self.beside("-restored"))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        file::beside(&self.path, suffix)
    }
}

const PUT_BACK: &str = "put a database in its place (`lbctl store restore`, or a copy), or restart \
                        every lbctl of this host to begin with an empty one";

/// What the file at the path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The database that the log beside it, if any, belongs to.
    Fits,
    /// Empty: a database is yet to be made in it.
    Fresh,
    /// One that another program has put there.
    Replaced,
}

/// Sources of copies that must stay open: closing one would drop the locks that a connection of this
/// process holds on the file (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
static KEPT: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A copy of the main file alone; removed when it is dropped.
struct Copy {
    path: PathBuf,
    source: Option<File>,
}

impl Copy {
    fn of(database: &Path, path: PathBuf) -> Outcome<Self> {
        let failed = |error| Failure::io("copy the database file", &error);
        let owner = fs::metadata(database).map_err(failed)?;
        for suffix in ["", "-wal", "-shm", "-journal"] {
            file::remove(&file::beside(&path, suffix)).map_err(failed)?;
        }
        let mut target = file::open_own(&path, &owner).map_err(failed)?;
        let mut copy = Self { path, source: None };
        let source = copy.source.insert(File::open(database).map_err(failed)?);
        std::io::copy(source, &mut target).map_err(failed)?;
        Ok(copy)
    }

    fn open(&self) -> Outcome<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Connection::open_with_flags(&self.path, flags)?)
    }

    fn keep_open(mut self) {
        let source = self.source.take();
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).extend(source);
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            if let Err(error) = file::remove(&file::beside(&self.path, suffix)) {
                tracing::debug!(%error, path = %self.path.display(), "cannot remove a copy");
            }
        }
    }
}
