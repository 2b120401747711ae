use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Outcome};
use super::file::{Identity, LockFile};
use super::schema;

/// How many revisions are reserved at once: so rarely `-life` is written for them.
const RESERVE: i64 = 10_000;

/// It is written in place and always of this length, in bytes: a disk writes it whole or not.
const LENGTH: usize = 512;

/// What `-life` remembers of the database. The default is that of one that remembers nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    life: String,
    /// The revision when it was last written.
    pub(super) revision: i64,
    /// No revision above it was handed out.
    pub(super) reserved: i64,
    inode: u64,
    /// `None` while the main file is being written.
    main: Option<Main>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Main {
    size: u64,
    modified: i128,
}

impl Record {
    /// One that cannot be read counts as one that is not there.
    pub(super) fn read(file: &LockFile) -> Self {
        let mut text = [0; LENGTH];
        let read = file.file().read_at(&mut text, 0).unwrap_or(0);
        serde_json::from_slice(&text[..read]).unwrap_or_default()
    }

    /// Writes it through to the disk.
    pub(super) fn write(&self, file: &LockFile) -> Outcome<()> {
        let failed = |error| Failure::io("write what is known of the database's life", &error);
        let mut text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        text.resize(LENGTH, b' ');
        file.file().write_all_at(&text, 0).map_err(failed)?;
        file.file().sync_data().map_err(failed)
    }

    /// As the database is now, with nobody writing to its main file.
    pub(super) fn of(connection: &Connection, main: Identity, reserved: i64) -> Outcome<Self> {
        let (life, revision) = schema::life_and_revision(connection)?;
        let record = Self { life, revision, reserved, ..Self::default() };
        let record = if revision >= reserved { record.reserving(revision) } else { record };
        Ok(record.with_main(main))
    }

    pub(super) fn with_main(self, main: Identity) -> Self {
        let written = Main { size: main.size, modified: main.modified };
        Self { inode: main.inode, main: Some(written), ..self }
    }

    /// The mark for a main file that is about to be written.
    pub(super) fn being_written(&self) -> Self {
        Self { main: None, ..self.clone() }
    }

    /// With room for revisions above this one.
    pub(super) fn reserving(self, revision: i64) -> Self {
        Self { reserved: self.reserved.max(revision.saturating_add(RESERVE)), ..self }
    }

    /// Whether the main file has what lbctl last wrote into it. A copy of the whole folder has it,
    /// too.
    pub(super) fn is_of(&self, found: Identity) -> bool {
        self.main == Some(Main { size: found.size, modified: found.modified })
    }

    /// The same, and it is that very file.
    pub(super) fn is_exactly(&self, found: Identity) -> bool {
        self.is_of(found) && self.inode == found.inode
    }

    pub(super) fn knows_main(&self) -> bool {
        self.main.is_some()
    }

    /// Whether nothing speaks against the file and the log beside it.
    pub(super) fn fits(&self, found: Identity) -> bool {
        let interrupted = self.main.is_none() && (self.inode == 0 || self.inode == found.inode);
        self.is_of(found) || interrupted
    }

    /// Whether another program may have copied the log into the main file and deleted it, as
    /// `sqlite3` does when it is the last to close a database.
    pub(super) fn is_of_a_checkpoint(&self, path: &Path, found: Identity) -> bool {
        let alone =
            || -> Outcome<(String, i64)> { schema::life_and_revision(&Connection::open(path)?) };
        self.inode == found.inode
            && alone().is_ok_and(|(life, revision)| life == self.life && revision >= self.revision)
    }
}
