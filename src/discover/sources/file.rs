mod format;

use std::fs::Metadata;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

pub(super) use format::Format;

use super::{SourceContext, Teller};
use crate::discover::plan::Answer;

/// A list of endpoints is far smaller; a larger file is a mistake, such as a log.
const MAX_LEN: u64 = 8 * 1024 * 1024;

/// A file that is still being written changes within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// Follows a file: told by the kernel when its folder changes, and by a bounded poll behind it (for
/// file systems that tell nothing, and folders that come later).
pub(super) async fn run(path: PathBuf, context: SourceContext, teller: Teller) {
    let stirred = Arc::new(Notify::new());
    let mut watcher = None;
    let mut last: Option<(Fingerprint, Result<Answer, String>)> = None;
    loop {
        if watcher.is_none() {
            watcher = watch_folder(&path, stirred.clone());
        }
        let look = look(&path, &mut last).await;
        teller.tell(look);
        _ = tokio::time::timeout(context.look_every, stirred.notified()).await.is_ok();
    }
}

/// Reads the file if it is another one than at the last look.
async fn look(
    path: &Path,
    last: &mut Option<(Fingerprint, Result<Answer, String>)>,
) -> Result<Answer, String> {
    let now = settled(path).await?;
    if let Some((seen, result)) = last
        && *seen == now
    {
        return result.clone();
    }
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&owned)).await;
    let result = read.unwrap_or_else(|error| Err(format!("cannot read: {error}")));
    *last = Some((now, result.clone()));
    result
}

/// Waits until the file has stopped changing, so that half a list is never taken for a whole one.
async fn settled(path: &Path) -> Result<Fingerprint, String> {
    let mut before = Fingerprint::of(path)?;
    // One that was left alone for a while is settled already.
    while before.is_young() {
        tokio::time::sleep(SETTLE).await;
        let now = Fingerprint::of(path)?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(before)
}

/// What changes whenever the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(path: &Path) -> Result<Self, String> {
        let metadata = std::fs::metadata(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        check_kind(path, &metadata)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Changed within the last moments, or in what this host's clock calls the future.
    fn is_young(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(seconds.unsigned_abs(), u32::try_from(nanos).unwrap_or(0));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.checked_sub(changed).is_none_or(|age| age < SETTLE)
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let path = path.display();
    if !metadata.is_file() {
        return Err(format!("cannot read {path}: it is not a regular file"));
    }
    if metadata.len() > MAX_LEN {
        let len = metadata.len();
        return Err(format!("{path} has {len} bytes: a list of endpoints has at most {MAX_LEN}"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Answer, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    check_kind(path, &file.metadata().map_err(failed)?)?;
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text).map_err(failed)?;
    let format = Format::of(path)?;
    let endpoints = format.parse(&text).map_err(|problem| match problem.line {
        Some(line) => format!("{}:{line}: {}", path.display(), problem.message),
        None => format!("{}: {}", path.display(), problem.message),
    })?;
    Ok(Answer::of(endpoints))
}

/// Watches the folder, since a file that is replaced takes its own watch with it. Without one the
/// poll has to do.
fn watch_folder(path: &Path, stirred: Arc<Notify>) -> Option<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let told = move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and no reason to read it again.
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            stirred.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    match watcher.watch(folder, RecursiveMode::NonRecursive) {
        Ok(()) => Some(watcher),
        Err(error) => {
            tracing::debug!(folder = %folder.display(), %error, "the file is polled only");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_once(path: &Path) -> Result<Answer, String> {
        look(path, &mut None).await
    }

    #[tokio::test]
    async fn what_is_no_list_names_the_file_and_the_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.json");
        let missing = read_once(&path).await.unwrap_err();
        assert!(missing.contains("web.json: No such file"), "{missing}");
        let directory = read_once(folder.path()).await.unwrap_err();
        assert!(directory.contains("not a regular file"), "{directory}");
        std::fs::File::create(&path).unwrap().set_len(MAX_LEN + 1).unwrap();
        let huge = read_once(&path).await.unwrap_err();
        assert!(huge.contains("at most"), "{huge}");
        std::fs::write(&path, b"[\"10.0.0.1:80\",\n\"10.0.0.2\"]").unwrap();
        let malformed = read_once(&path).await.unwrap_err();
        assert!(
            malformed.contains("web.json:2: ") && malformed.contains("10.0.0.2"),
            "{malformed}"
        );
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read_once(&path).await.unwrap_err().contains("UTF-8"));
    }

    #[tokio::test]
    async fn a_file_that_is_still_being_written_is_read_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.yaml");
        std::fs::write(&path, "- 10.0.0.1:80\n").unwrap();
        let writer = async {
            for n in 2..6 {
                tokio::time::sleep(SETTLE / 4).await;
                let mut text = std::fs::read_to_string(&path).unwrap();
                text += &format!("- 10.0.0.{n}:80\n");
                std::fs::write(&path, text).unwrap();
            }
        };
        let (answer, ()) = tokio::join!(read_once(&path), writer);
        assert_eq!(answer.unwrap().endpoints.len(), 5);
    }
}
