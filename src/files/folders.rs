//! Tells of changed files, by one watcher for a whole process: the kernel gives each user few of
//! them, and each has a thread.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// The followed files of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    files: Arc<Mutex<Files>>,
    /// Locked before the files, and never by the watcher's own thread, which it waits for.
    watcher: Arc<Mutex<Option<RecommendedWatcher>>>,
}

/// The followed files, by folder.
type Files = HashMap<PathBuf, Vec<File>>;

#[derive(Debug)]
struct File {
    name: OsString,
    /// What it leads to may change where its own name does not.
    is_link: bool,
    stirred: Arc<Notify>,
}

/// A file is followed for as long as this lives.
#[derive(Debug)]
pub struct Followed {
    folders: Folders,
    folder: PathBuf,
    stirred: Arc<Notify>,
}

impl Folders {
    /// Follows a file by its folder, since one that is replaced would take its own watch with it.
    /// `None` where there is no folder yet, or the kernel does not tell of it.
    pub fn follow(&self, path: &Path, stirred: &Arc<Notify>) -> Option<Followed> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name()?.to_owned();
        // One folder has one watch, whatever ways lead to it.
        let folder = folder.canonicalize().ok()?;
        let mut watcher = lock(&self.watcher);
        // Not locked while the watcher's thread is waited for, which locks it.
        let is_watched = lock(&self.files).contains_key(&folder);
        if !is_watched && let Err(error) = self.watch(&mut watcher, &folder) {
            tracing::debug!(folder = %folder.display(), %error, "the file is polled only");
            return None;
        }
        let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        let file = File { name, is_link, stirred: stirred.clone() };
        lock(&self.files).entry(folder.clone()).or_default().push(file);
        Some(Followed { folders: self.clone(), folder, stirred: stirred.clone() })
    }

    fn watch(&self, watcher: &mut Option<RecommendedWatcher>, folder: &Path) -> notify::Result<()> {
        let watcher = match watcher {
            Some(watcher) => watcher,
            None => {
                let files = self.files.clone();
                let told = move |event: notify::Result<Event>| {
                    if let Ok(event) = event {
                        stir(&lock(&files), &event);
                    }
                };
                watcher.insert(notify::recommended_watcher(told)?)
            }
        };
        watcher.watch(folder, RecursiveMode::NonRecursive)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut watcher = lock(&self.folders.watcher);
        let mut files = lock(&self.folders.files);
        let Some(others) = files.get_mut(&self.folder) else { return };
        others.retain(|file| !Arc::ptr_eq(&file.stirred, &self.stirred));
        if others.is_empty() {
            files.remove(&self.folder);
            drop(files);
            if let Some(Err(error)) = watcher.as_mut().map(|w| w.unwatch(&self.folder)) {
                tracing::debug!(folder = %self.folder.display(), %error, "was watched no more");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stirs those whom an event may be about.
fn stir(files: &Files, event: &Event) {
    // Reading a file is an event too, and no reason to read it again.
    if matches!(event.kind, EventKind::Access(_)) {
        return;
    }
    if event.need_rescan() || event.paths.is_empty() {
        return files.values().flatten().for_each(|file| file.stirred.notify_one());
    }
    for path in &event.paths {
        if let Some(folder) = files.get(path) {
            folder.iter().for_each(|file| file.stirred.notify_one());
        }
        let Some((folder, name)) = path.parent().zip(path.file_name()) else { continue };
        let Some(folder) = files.get(folder) else { continue };
        let all = may_lead_to_others(path);
        let meant = folder.iter().filter(|file| all || file.is_link || file.name == name);
        meant.for_each(|file| file.stirred.notify_one());
    }
}

/// A link or a folder beside a file may be what its path leads through, as in the folders that
/// Kubernetes makes of a `ConfigMap`. Other files, such as a store's, mean nothing to it.
fn may_lead_to_others(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A followed file.
    fn followed(folders: &Folders, path: &Path) -> (Arc<Notify>, Followed) {
        let stirred = Arc::new(Notify::new());
        let followed = folders.follow(path, &stirred).unwrap();
        (stirred, followed)
    }

    async fn is_stirred(stirred: &Notify) {
        tokio::time::timeout(Duration::from_secs(5), stirred.notified()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_told_of_itself_and_of_what_may_lead_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "1").unwrap();
        let folders = Folders::default();
        let ((a, _a), (b, _b)) = (followed(&folders, &path("a")), followed(&folders, &path("b")));
        std::fs::write(path("lbctl.db-wal"), "a store").unwrap();
        std::fs::write(path("a"), "2").unwrap();
        is_stirred(&a).await;
        std::fs::write(path("new"), "3").unwrap();
        std::fs::rename(path("new"), path("b")).unwrap();
        // Events come in order: those of a file that nobody follows are over by now.
        is_stirred(&b).await;
        std::os::unix::fs::symlink("b", path("..data")).unwrap();
        is_stirred(&a).await;
        is_stirred(&b).await;
    }

    #[tokio::test]
    async fn a_folder_is_watched_for_as_long_as_a_file_of_it_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let folders = Folders::default();
        let missing = Arc::new(Notify::new());
        assert!(folders.follow(&path("missing/a"), &missing).is_none());
        let (_, one) = followed(&folders, &path("a"));
        let (stirred, other) = followed(&folders, &folder.path().join(".").join("b"));
        drop(one);
        std::fs::write(path("b"), "1").unwrap();
        is_stirred(&stirred).await;
        drop(other);
        assert!(lock(&folders.files).is_empty());
        let (stirred, _again) = followed(&folders, &path("b"));
        std::fs::write(path("b"), "2").unwrap();
        is_stirred(&stirred).await;
    }
}
