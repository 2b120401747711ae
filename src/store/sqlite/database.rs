use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::data::{self, History};
use super::failure::{Failure, Outcome};
use super::file::{self, Identity, WakeFile};
use super::schema;

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
            self.write(|_| Ok(()))?;
        }
    }

    /// Writes all that the work does, durably, or nothing.
    pub(super) fn write<T>(&mut self, work: impl FnOnce(&Scope<'_>) -> Outcome<T>) -> Outcome<T> {
        self.follow_the_file()?;
        self.transact(work)
    }

    /// Writes what a power loss may take back: the ends of leases, which a reboot ends anyway.
    pub(super) fn write_volatile<T>(
        &mut self,
        work: impl FnOnce(&Scope<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        self.follow_the_file()?;
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        let result = self.transact(work);
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        result
    }

    fn transact<T>(&mut self, work: impl FnOnce(&Scope<'_>) -> Outcome<T>) -> Outcome<T> {
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
