use std::fs::Metadata;
use std::io::Result;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What changes whenever a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    /// Numbers of files that are gone are given again.
    born: Option<SystemTime>,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// That of the file, or of the one that a link leads to.
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    /// Whether the same file was written to, where another one may have been put in its place whole.
    pub fn is_same_file(&self, other: &Self) -> bool {
        let identity = |file: &Self| (file.device, file.inode, file.born);
        identity(self) == identity(other)
    }

    /// Not changed within this time, nor in what this host's clock calls the future.
    pub fn is_older_than(&self, time: Duration) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(seconds.unsigned_abs(), u32::try_from(nanos).unwrap_or(0));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.checked_sub(changed).is_some_and(|age| age >= time)
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            // Not every file system knows.
            born: metadata.created().ok(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
