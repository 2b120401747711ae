use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::data::{self, History};
use super::failure::{Failure, Outcome};
use super::file::{self, Identity, Lock};
use super::schema;
use super::tie::{Live, Tie};
use crate::store::ErrorKind;

/// After so many commits the log is copied into the main file.
const COMMITS: u32 = 256;

/// After so long, too, so that a copy of the main file alone is not much behind.
const COPIED_AFTER: Duration = Duration::from_secs(10);

/// How often a file may be replaced in the middle of one call.
const REPLACEMENTS: u32 = 3;

/// What a database is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    /// To show what is in it, or to write by hand: it ends no leases of another boot.
    Guest,
}

/// Something to write, and its caller.
pub(super) trait Write: Send {
    /// A caller that went away before its turn leaves no trace.
    fn is_wanted(&self) -> bool;

    /// Whether a power loss may take it back: the ends of leases, which a reboot ends anyway.
    fn is_volatile(&self) -> bool;

    /// Does it within a transaction, where it may be done again if that one is given up. False where
    /// it failed, maybe half way.
    fn run(&mut self, scope: &Scope<'_>) -> bool;

    /// Tells the caller, once the transaction has been committed or has failed.
    fn finish(self: Box<Self>, committed: Outcome<()>);
}

/// Work with its result and the way to the caller.
pub(super) struct Writing<T, F> {
    pub(super) work: F,
    pub(super) volatile: bool,
    pub(super) reply: oneshot::Sender<Outcome<T>>,
    pub(super) result: Option<Outcome<T>>,
}

impl<T: Send, F: FnMut(&Scope<'_>) -> Outcome<T> + Send> Write for Writing<T, F> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn is_volatile(&self) -> bool {
        self.volatile
    }

    fn run(&mut self, scope: &Scope<'_>) -> bool {
        let result = (self.work)(scope);
        // A lease is looked for before anything is written.
        let sound = !result.as_ref().is_err_and(|failure| !failure.is_lease_expired());
        self.result = Some(result);
        sound
    }

    fn finish(self: Box<Self>, committed: Outcome<()>) {
        let result = match (self.result, committed) {
            (Some(Err(failure)), _) | (_, Err(failure)) => Err(failure),
            (Some(result), Ok(())) => result,
            (None, Ok(())) => return,
        };
        // Nobody listens only where the caller went away.
        _ = self.reply.send(result).is_ok();
    }
}

/// One connection to the file. Every transaction first ends the leases that are over, so that
/// nothing expired is ever seen, whoever looks first.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    main: Identity,
    tie: Tie,
    history: History,
    /// False for who only looks and has another boot clock.
    ends_leases: bool,
    /// No revision above it may be committed before more are reserved.
    reserved: i64,
    /// Commits of this process that are in the log alone, and when the first of them came that a
    /// copy should not miss.
    logged: u32,
    due: Option<Instant>,
    /// How often the file was replaced by another one.
    replaced: u64,
}

/// What a transaction works with.
pub(super) struct Scope<'t> {
    pub(super) db: &'t Transaction<'t>,
    /// The boot clock.
    pub(super) now: i64,
    pub(super) history: History,
}

impl Database {
    /// Opens the file; makes it, and its folder, where they are missing.
    pub(super) fn open(path: &Path, history: History, access: Access) -> Outcome<Self> {
        let path = file::prepare(path)?;
        let tie = Tie::open(&path, access)?;
        let (connection, main) = tie.connect()?;
        let ends_leases = access == Access::Write || schema::is_of_this_boot(&connection)?;
        let reserved = tie.reserved()?;
        let (logged, due) = (0, None);
        let replaced = 0;
        Ok(Self { connection, main, tie, history, ends_leases, reserved, logged, due, replaced })
    }

    /// Closes it; the last process of all leaves everything in the main file and no log beside it.
    pub(super) fn close(self) {
        let Self { connection, main, tie, .. } = self;
        if let Err(failure) = tie.close(connection, main) {
            let error = failure.into_error("close", "");
            tracing::debug!(%error, "the write-ahead log stays beside the database");
        }
    }

    pub(super) fn wake_path(&self) -> &Path {
        self.tie.wake.path()
    }

    /// When the log is to be copied into the main file by [`Self::tidy`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Copies the log into the main file where it is time.
    pub(super) fn tidy(&mut self) {
        let due = self.due.is_some_and(|due| due <= Instant::now());
        if !due && self.logged < COMMITS {
            return;
        }
        (self.logged, self.due) = (0, None);
        if let Err(failure) = self.tie.checkpoint(&self.connection, &mut self.main) {
            let error = failure.into_error("checkpoint", "");
            tracing::debug!(%error, "the write-ahead log was not copied into the database");
        }
    }

    /// Whether it is the file at a path without symbolic links.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.tie.path() == path
    }

    /// Writes all of it, at one revision, to an empty file.
    pub(super) fn copy_to(&mut self, target: &str) -> Outcome<()> {
        let _era = self.follow_the_file()?;
        self.connection.execute("VACUUM INTO ?1", [target])?;
        match self.tie.is_current(&mut self.main)? {
            true => Ok(()),
            false => Err(Failure::new(ErrorKind::Unavailable, REPLACED)),
        }
    }

    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Reads at one revision.
    pub(super) fn read<T>(&mut self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        loop {
            let _era = self.follow_the_file()?;
            let now = file::boot_clock();
            let txn = self.connection.transaction()?;
            if !self.ends_leases || data::next_end(&txn)?.is_none_or(|end| end > now) {
                let result = work(&txn);
                drop(txn);
                // What was read while a copy was being put in place may be of neither.
                return match self.tie.is_current(&mut self.main)? {
                    true => result,
                    false => Err(Failure::new(ErrorKind::Unavailable, REPLACED)),
                };
            }
            drop(txn);
            self.expire()?;
        }
    }

    /// Ends what is over, and nothing else.
    fn expire(&mut self) -> Outcome<()> {
        self.transact(false, |_| Ok(()))
    }

    /// One transaction of its own that changes no key.
    pub(super) fn alone<T>(&mut self, work: impl FnOnce(&Scope<'_>) -> Outcome<T>) -> Outcome<T> {
        let _era = self.follow_the_file()?;
        self.transact(false, work)
    }

    /// Writes all of this in one transaction; where one of them fails, each in its own.
    pub(super) fn write_all(&mut self, mut writes: Vec<Box<dyn Write>>) {
        writes.retain(|write| write.is_wanted());
        if writes.is_empty() {
            return;
        }
        let committed = self.follow_the_file().and_then(|era| {
            let written = self.write_together(&mut writes);
            drop(era);
            written
        });
        match committed {
            Ok(false) if writes.len() > 1 => {
                for write in writes {
                    self.write_all(vec![write]);
                }
            }
            committed => {
                let committed = committed.map(|_| ());
                writes.into_iter().for_each(|write| write.finish(committed.clone()));
            }
        }
    }

    /// False where nothing is written since one of them failed.
    fn write_together(&mut self, writes: &mut [Box<dyn Write>]) -> Outcome<bool> {
        let volatile = writes.iter().all(|write| write.is_volatile());
        let mut sound = true;
        let written = self.transact(volatile, |scope| {
            sound = writes.iter_mut().all(|write| write.run(scope));
            if sound { Ok(()) } else { Err(Failure::given_up()) }
        });
        if sound { written.map(|()| true) } else { Ok(false) }
    }

    /// Writes all that the work does, or nothing.
    fn transact<T>(
        &mut self,
        volatile: bool,
        work: impl FnOnce(&Scope<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        if !volatile {
            self.due.get_or_insert_with(|| Instant::now() + COPIED_AFTER);
            return self.transact_synced(work);
        }
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        let result = self.transact_synced(work);
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        result
    }

    fn transact_synced<T>(&mut self, work: impl FnOnce(&Scope<'_>) -> Outcome<T>) -> Outcome<T> {
        let history = self.history;
        let txn = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // After the lock was waited for.
        let now = file::boot_clock();
        let before = (data::head(&txn)?, data::next_end(&txn)?);
        if self.ends_leases {
            data::expire(&txn, now, history)?;
        }
        let value = work(&Scope { db: &txn, now, history })?;
        let after = (data::head(&txn)?, data::next_end(&txn)?);
        if after.0.0 > self.reserved {
            self.reserved = self.tie.reserve(after.0.0)?;
        }
        txn.commit().map_err(Failure::of_commit)?;
        self.logged += 1;
        if !self.tie.is_current(&mut self.main).unwrap_or(false) {
            return Err(Failure::new(ErrorKind::Indeterminate, REPLACED));
        }
        let ends_sooner = match (before.1, after.1) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
        };
        if before.0 != after.0 || ends_sooner {
            self.tie.wake.signal();
        }
        Ok(value)
    }

    /// Takes the new file where it was replaced, such as by a restored copy; fails while it is away,
    /// rather than write into one that nobody else can see. As long as the lock is held, no lbctl
    /// puts another one in place.
    fn follow_the_file(&mut self) -> Outcome<Lock> {
        for _ in 0..REPLACEMENTS {
            let era = self.tie.wake.share()?;
            if self.tie.is_current(&mut self.main)? {
                return Ok(era);
            }
            drop(era);
            let live = Live { connection: &self.connection, main: self.main };
            let (connection, main) = self.tie.reconnect(Some(live))?;
            self.connection = connection;
            (self.main, self.reserved) = (main, self.tie.reserved()?);
            self.replaced += 1;
            // Those who have not noticed yet.
            self.tie.wake.signal();
        }
        Err(Failure::new(ErrorKind::Unavailable, "the database file is replaced again and again"))
    }

    /// Lets the file grow no further, as on a full disk.
    #[cfg(test)]
    pub(super) fn limit_pages(&mut self, pages: i64) -> Outcome<()> {
        Ok(self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
    }
}

const REPLACED: &str = "the database file was replaced meanwhile";
