//! The embedded store.

mod child;
mod copies;
mod errors;
mod kills;
mod looks;
mod processes;

use std::path::PathBuf;

use lbctl::store::{Result, SharedStore, SqliteStore, SqliteUrl};
use rusqlite::Connection;
use tempfile::TempDir;

use super::conformance::{Backend, conformance};

/// A database file of its own, which can be away for a while.
struct Sqlite {
    folder: TempDir,
}

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.folder.path().join("lbctl.db")
    }

    fn copied(&self) -> PathBuf {
        self.folder.path().join("copied.db")
    }

    fn remove(&self) {
        let path = self.path().into_os_string().into_string().unwrap();
        std::fs::remove_file(&path).unwrap();
        for beside in ["-wal", "-shm"] {
            // It is there while somebody has the database open.
            std::fs::remove_file(format!("{path}{beside}")).unwrap();
        }
    }

    fn away(&self) -> PathBuf {
        self.folder.path().join("away.db")
    }
}

async fn try_open(path: PathBuf) -> Result<SharedStore> {
    let url = SqliteUrl { path, prefix: "lbctl".parse().unwrap() };
    Ok(std::sync::Arc::new(SqliteStore::open(&url).await?))
}

async fn open(path: PathBuf) -> SharedStore {
    try_open(path).await.unwrap()
}

impl Backend for Sqlite {
    async fn fresh() -> Option<Self> {
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    async fn handle(&self) -> SharedStore {
        open(self.path()).await
    }

    async fn cut(&self) -> bool {
        std::fs::rename(self.path(), self.away()).unwrap();
        true
    }

    async fn mend(&self) {
        std::fs::rename(self.away(), self.path()).unwrap();
    }

    /// As another process does that commits much in an instant.
    async fn lose_history(&self) -> bool {
        let other = Connection::open(self.path()).unwrap();
        other
            .execute_batch(
                "BEGIN IMMEDIATE;
                 UPDATE meta SET revision = revision + 5, trimmed = revision + 5;
                 DELETE FROM changes;
                 INSERT INTO entries SELECT 'lbctl/lost', x'76', revision, revision, NULL FROM meta;
                 COMMIT;",
            )
            .unwrap();
        true
    }

    async fn copy(&self) -> bool {
        let source = Connection::open(self.path()).unwrap();
        source.execute("VACUUM INTO ?1", [self.copied().to_str().unwrap()]).unwrap();
        true
    }

    /// A log that belongs to the file of before must not be played over the copy.
    async fn put_back(&self) {
        self.remove();
        std::fs::rename(self.copied(), self.path()).unwrap();
    }

    async fn lose_all(&self) -> bool {
        self.remove();
        // Another process comes first.
        drop(self.handle().await);
        true
    }
}

conformance!(Sqlite);
