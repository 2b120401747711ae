//! The files around the database, and the host's clock.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::failure::{Failure, Outcome};
use crate::store::ErrorKind;

/// Which file stands behind a path, and how it was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Nanoseconds, by the file system's clock.
    pub(super) modified: i128,
}

impl Identity {
    pub(super) fn is_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The identity of the file at a path.
pub(super) fn identity(path: &Path) -> Outcome<Identity> {
    match fs::metadata(path) {
        Ok(found) => Ok(Identity {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        }),
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
    make_folder(&path)?;
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

/// Makes a file's folder, for its owner alone, where it is missing.
pub(super) fn make_folder(path: &Path) -> Outcome<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Failure::io(format_args!("create the folder {}", folder.display()), &error)
    })
}

/// Makes a new file as much its owner's as the one that it is to replace, if there is one.
pub(super) fn own_alone(part: &Path, place: &Path) -> std::io::Result<()> {
    let mode = match fs::metadata(place) {
        Ok(owner) => {
            give_to(&File::open(part)?, &owner)?;
            owner.mode() & 0o777
        }
        Err(_) => 0o600,
    };
    fs::set_permissions(part, fs::Permissions::from_mode(mode))
}

/// Opens or makes a file that is nobody else's: a symbolic or hard link that somebody with write
/// access to the folder has put there would have root write to a file of the system, or give it away.
pub(super) fn open_own(path: &Path, owner: &Metadata) -> std::io::Result<File> {
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

/// A file beside the database that all processes lock. `PATH-wake` is also written after every
/// commit, so that a file event tells other processes: the write-ahead log cannot serve for that,
/// since it is written before the commit can be seen.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    file: Arc<File>,
}

/// A lock, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(Arc<File>);

impl LockFile {
    pub(super) fn open(database: &Path, suffix: &str) -> Outcome<Self> {
        let path = beside(database, suffix);
        let failed = |error| Failure::io(format_args!("open {}", path.display()), &error);
        let owner = fs::metadata(database).map_err(failed)?;
        let file = Arc::new(open_own(&path, &owner).map_err(failed)?);
        Ok(Self { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Tells every process that watches.
    pub(super) fn signal(&self) {
        // Where this fails the poll behind it finds the commit.
        if let Err(error) = self.file.write_at(b"\n", 0) {
            tracing::debug!(%error, path = %self.path.display(), "cannot wake watchers");
        }
    }

    /// A lock that others may share.
    pub(super) fn share(&self) -> Outcome<Lock> {
        self.wait_for(FlockOperation::NonBlockingLockShared)
    }

    /// A lock that nobody else has.
    pub(super) fn exclude(&self) -> Outcome<Lock> {
        self.wait_for(FlockOperation::NonBlockingLockExclusive)
    }

    /// The same; `None` where somebody has one.
    pub(super) fn try_exclude(&self) -> Outcome<Option<Lock>> {
        self.lock(FlockOperation::NonBlockingLockExclusive)
    }

    fn wait_for(&self, operation: FlockOperation) -> Outcome<Lock> {
        let since = Instant::now();
        loop {
            if let Some(lock) = self.lock(operation)? {
                return Ok(lock);
            }
            if !wait_while_busy(since) {
                return Err(Failure::locked());
            }
        }
    }

    fn lock(&self, operation: FlockOperation) -> Outcome<Option<Lock>> {
        match flock(&self.file, operation) {
            Ok(()) => Ok(Some(Lock(Arc::clone(&self.file)))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => {
                Err(Failure::io(format_args!("lock {}", self.path.display()), &error.into()))
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%error, "cannot unlock a file beside the database");
        }
    }
}

/// How long another process's transaction or lock is waited for.
const BUSY_DEADLINE: Duration = Duration::from_secs(5);

/// A short wait with jitter, so that writers of several processes take turns quickly; false once it
/// took too long.
pub(super) fn wait_while_busy(since: Instant) -> bool {
    if since.elapsed() >= BUSY_DEADLINE {
        return false;
    }
    let wait = Duration::from_micros(fastrand::u64(500..4500));
    #[expect(clippy::disallowed_methods, reason = "another process's file lock cannot be awaited")]
    std::thread::sleep(wait);
    true
}

/// `PATH` with something behind its name.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a file, which may be gone already.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a rename in a file's folder through to the disk.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
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
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let now = clock_gettime(ClockId::Boottime);
    let here = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    here.saturating_sub(*OFFSET.get_or_init(clock_offset))
}

/// How far this process's boot clock is ahead of the host's, in milliseconds: a container may have a
/// time namespace (time_namespaces(7)).
fn clock_offset() -> i64 {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    parse_offset(&offsets).unwrap_or(0)
}

fn parse_offset(offsets: &str) -> Option<i64> {
    let line = offsets.lines().find_map(|line| line.trim().strip_prefix("boottime"))?;
    let mut numbers = line.split_whitespace();
    let (seconds, nanos): (i64, i64) =
        (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
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
    fn a_time_namespace_is_taken_off_the_boot_clock() {
        let offsets = "monotonic           0         0\nboottime        86400 500000000\n";
        assert_eq!(parse_offset(offsets), Some(86_400_500));
        assert_eq!(parse_offset("monotonic -5 0\nboottime -7 0\n"), Some(-7000));
        assert_eq!(parse_offset(""), None);
    }

    #[test]
    fn a_link_in_place_of_the_wake_file_is_refused_and_its_target_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (database, target) = (folder.path().join("x.db"), folder.path().join("target"));
        let wake = folder.path().join("x.db-wake");
        fs::write(&database, "").unwrap();
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &wake).unwrap();
        LockFile::open(&database, "-wake").expect_err("a symbolic link was followed");
        fs::remove_file(&wake).unwrap();
        fs::hard_link(&target, &wake).unwrap();
        LockFile::open(&database, "-wake").expect_err("a hard link was taken");
        fs::remove_file(&wake).unwrap();
        LockFile::open(&database, "-wake").unwrap().signal();
        LockFile::open(&database, "-wake").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    }
}
