//! The files around the database, and the host's clock.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};

use super::failure::{Failure, Outcome};
use crate::store::ErrorKind;

/// Which file stands behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// The identity of the file at a path.
pub(super) fn identity(path: &Path) -> Outcome<Identity> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Identity { device: metadata.dev(), inode: metadata.ino() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::new(ErrorKind::Unavailable, "the database file was removed").hint(
                "put it back, or restart every lbctl of this host to begin with an empty one",
            ))
        }
        Err(error) => Err(Failure::io("look at the database file", &error)),
    }
}

/// Makes the file, for its owner alone, and its folder where they are missing; answers its path
/// without symbolic links, so that all processes wake each other by the same file.
///
/// A file that exists is never opened here: closing it again would drop the locks that another
/// connection of this process holds on it (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
pub(super) fn prepare(path: &Path) -> Outcome<PathBuf> {
    let failed = |error| Failure::io("open the database file", &error);
    let path = std::path::absolute(path).map_err(failed)?;
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Failure::io(format_args!("create the folder {}", folder.display()), &error)
        })?;
    }
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    match new {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    if fs::metadata(&path).map_err(failed)?.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    fs::canonicalize(&path).map_err(failed)
}

/// Opens or makes a file that is nobody else's: a symbolic or hard link that somebody with write
/// access to the folder has put there would have root write to a file of the system, or give it away.
fn open_own(path: &Path, owner: &Metadata) -> std::io::Result<File> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(owner.mode() & 0o777).custom_flags(no_follow);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give_to(&file, owner)?;
            return Ok(file);
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Err(std::io::Error::other("it is a link or no regular file: delete it"));
    }
    Ok(file)
}

/// `PATH-wake`: written after every commit, so that a file event tells other processes. The
/// write-ahead log cannot serve for that, since it is written before the commit can be seen.
#[derive(Debug)]
pub(super) struct WakeFile {
    path: PathBuf,
    file: File,
}

impl WakeFile {
    pub(super) fn open(database: &Path) -> Outcome<Self> {
        let mut name = database.as_os_str().to_owned();
        name.push("-wake");
        let path = PathBuf::from(name);
        let failed = |error| Failure::io(format_args!("open {}", path.display()), &error);
        let owner = fs::metadata(database).map_err(failed)?;
        let file = open_own(&path, &owner).map_err(failed)?;
        Ok(Self { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells every process that watches.
    pub(super) fn signal(&self) {
        // Where this fails the poll behind it finds the commit.
        if let Err(error) = self.file.write_at(b"\n", 0) {
            tracing::debug!(%error, path = %self.path.display(), "cannot wake watchers");
        }
    }
}

/// A file that root makes beside a user's database belongs to that user, as SQLite's own do.
fn give_to(file: &File, owner: &Metadata) -> std::io::Result<()> {
    let own = file.metadata()?;
    if rustix::process::geteuid().is_root() && (own.uid(), own.gid()) != (owner.uid(), owner.gid())
    {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Milliseconds since this host booted, time asleep included: the same for all its processes.
pub(super) fn boot_clock() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// A TTL in the boot clock's milliseconds, rounded up and never zero.
pub(super) fn clock_span(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX).max(1)
}

/// A text of its own for every boot of this host.
pub(super) fn boot_id() -> Outcome<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    match fs::read_to_string(PATH) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(Failure::io(format_args!("read {PATH}"), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_place_of_the_wake_file_is_refused_and_its_target_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (database, target) = (folder.path().join("x.db"), folder.path().join("target"));
        let wake = folder.path().join("x.db-wake");
        fs::write(&database, "").unwrap();
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &wake).unwrap();
        WakeFile::open(&database).expect_err("a symbolic link was followed");
        fs::remove_file(&wake).unwrap();
        fs::hard_link(&target, &wake).unwrap();
        WakeFile::open(&database).expect_err("a hard link was taken");
        fs::remove_file(&wake).unwrap();
        WakeFile::open(&database).unwrap().signal();
        WakeFile::open(&database).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    }
}
