use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::data::{self, History};
use super::failure::{Failure, Outcome};
use super::file::{self, Identity, WakeFile};
use super::schema;

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
    path: PathBuf,
    connection: Connection,
    identity: Identity,
    wake: WakeFile,
    history: History,
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
    pub(super) fn open(path: &Path, history: History) -> Outcome<Self> {
        let path = file::prepare(path)?;
        let connection = schema::connect(&path)?;
        let (identity, wake) = (file::identity(&path)?, WakeFile::open(&path)?);
        Ok(Self { path, connection, identity, wake, history, replaced: 0 })
    }

    pub(super) fn wake_path(&self) -> &Path {
        self.wake.path()
    }

    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Reads at one revision.
    pub(super) fn read<T>(&mut self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        self.follow_the_file()?;
        loop {
            let now = file::boot_clock();
            let txn = self.connection.transaction()?;
            if data::next_end(&txn)?.is_none_or(|end| end > now) {
                return work(&txn);
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
        self.follow_the_file()?;
        self.transact(false, work)
    }

    /// Writes all of this in one transaction; where one of them fails, each in its own.
    pub(super) fn write_all(&mut self, mut writes: Vec<Box<dyn Write>>) {
        writes.retain(|write| write.is_wanted());
        if writes.is_empty() {
            return;
        }
        let committed = self.follow_the_file().and_then(|()| self.write_together(&mut writes));
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
        data::expire(&txn, now, history)?;
        let value = work(&Scope { db: &txn, now, history })?;
        let after = (data::head(&txn)?, data::next_end(&txn)?);
        txn.commit().map_err(Failure::of_commit)?;
        let ends_sooner = match (before.1, after.1) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
        };
        if before.0 != after.0 || ends_sooner {
            self.wake.signal();
        }
        Ok(value)
    }

    /// Fails while the file is away, rather than write into one that nobody else can see; takes the
    /// new one where it was replaced, such as by a restored copy.
    fn follow_the_file(&mut self) -> Outcome<()> {
        if file::identity(&self.path)? == self.identity {
            return Ok(());
        }
        let replaced = self.replaced + 1;
        *self = Self { replaced, ..Self::open(&self.path, self.history)? };
        tracing::warn!(path = %self.path.display(), "the database file was replaced");
        Ok(())
    }

    /// Lets the file grow no further, as on a full disk.
    #[cfg(test)]
    pub(super) fn limit_pages(&mut self, pages: i64) -> Outcome<()> {
        Ok(self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
    }
}
