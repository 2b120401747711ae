mod format;
mod names;

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

#[cfg(any(test, fuzzing))]
pub(super) use format::Place;
pub(super) use format::{Format, Listed};
use names::Names;

use super::{SourceContext, Teller};
use crate::daemon::last_tick;
use crate::files::{self, Fingerprint};
use crate::model::EndpointId;

/// A list of endpoints is far smaller; a larger file is a mistake, such as a log.
const MAX_LEN: u64 = 8 * 1024 * 1024;

/// A file that is still being written changes within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// One that was written in place and has lost endpoints is left alone for this long before that is
/// believed: a program that writes it piece by piece may pause at the end of a line, where half a list
/// looks like a whole one.
const SETTLE_LOSS: Duration = Duration::from_secs(1);

/// How long a file may go on changing before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows a file: told by the kernel when its folder changes, and by a bounded poll behind it (for
/// file systems that tell nothing, and folders that come later).
pub(super) async fn run(path: PathBuf, context: SourceContext, teller: Teller) {
    let stirred = Arc::new(Notify::new());
    let mut followed = None;
    let (mut last, mut names) = (Last::default(), Names::default());
    loop {
        if followed.is_none() {
            followed = context.shared.folders.follow(&path, &stirred);
        }
        // Before the look, so that a change during it is not missed.
        let seen = fingerprint(&path);
        let look = match look(&path, &mut last).await {
            Ok(list) => {
                // A name whose server is silent holds up no change of the file.
                tokio::select! {
                    () = names.refresh(&list, &context.options) => {}
                    () = becomes_another(&path, &seen, &stirred) => stirred.notify_one(),
                }
                names.answer(&list).map_err(|error| format!("{}: {error}", path.display()))
            }
            Err(error) => Err(error),
        };
        teller.tell(look);
        let next = last_tick(Instant::now() + context.look_every, context.look_every / 20);
        let next = names.due().map_or(next, |due| next.min(due));
        let changes = becomes_another(&path, &seen, &stirred);
        _ = tokio::time::timeout_at(next, changes).await.is_ok();
    }
}

/// Waits until the file is another one. Its folder stirs for other files too, such as a store's, and
/// each look is planned with in full.
async fn becomes_another(path: &Path, seen: &Result<Fingerprint, String>, stirred: &Notify) {
    loop {
        stirred.notified().await;
        if fingerprint(path) != *seen {
            return;
        }
    }
}

/// What is known of the file.
#[derive(Debug, Default)]
struct Last {
    read: Option<(Fingerprint, Parsed)>,
    /// The last good list, and who was in it.
    believed: Option<(Fingerprint, BTreeSet<EndpointId>)>,
}

/// Reads the file if it is another one than at the last look, once it is left alone.
async fn look(path: &Path, last: &mut Last) -> Result<Vec<Listed>, String> {
    let list = settled(path, last).await?;
    if let Some((read, _)) = &last.read {
        last.believed = Some((*read, list.iter().map(|listed| listed.id.clone()).collect()));
    }
    Ok(list)
}

/// Waits until the file has stopped changing, so that half a list is never taken for a whole one.
async fn settled(path: &Path, last: &mut Last) -> Result<Vec<Listed>, String> {
    let started = Instant::now();
    let mut first_seen: Option<(Fingerprint, Instant)> = None;
    loop {
        let now = fingerprint(path)?;
        let since = match first_seen {
            Some((before, since)) if before == now => since,
            _ => Instant::now(),
        };
        // Its own time counts where clocks agree: one that was left alone is settled already.
        let for_time = |time| since.elapsed() >= time || now.is_older_than(time);
        first_seen = Some((now, since));
        if for_time(SETTLE) {
            let result = read_if_new(path, now, last).await;
            match result {
                Some(Ok(list)) if may_be_half(&now, &list, last) && !for_time(SETTLE_LOSS) => {}
                Some(result) => return result,
                // Replaced in between.
                None => {}
            }
        }
        if started.elapsed() >= PATIENCE {
            return Err(format!(
                "{} keeps changing: write the list to another file, then rename that",
                path.display()
            ));
        }
        tokio::time::sleep(SETTLE).await;
    }
}

fn may_be_half(now: &Fingerprint, list: &[Listed], last: &Last) -> bool {
    let Some((believed, known)) = &last.believed else { return false };
    let listed: BTreeSet<&EndpointId> = list.iter().map(|listed| &listed.id).collect();
    now.is_same_file(believed) && known.iter().any(|id| !listed.contains(id))
}

/// What the file says; `None` if it is not the one of this fingerprint any more.
async fn read_if_new(path: &Path, seen: Fingerprint, last: &mut Last) -> Option<Parsed> {
    if let Some((read, result)) = &last.read
        && *read == seen
    {
        return Some(result.clone());
    }
    let owned = path.to_owned();
    let parsed = match tokio::task::spawn_blocking(move || read(&owned, seen)).await {
        Ok(Ok(parsed)) => parsed?,
        Ok(Err(error)) => return Some(Err(error)),
        Err(error) => return Some(Err(format!("cannot read {}: {error}", path.display()))),
    };
    last.read = Some((seen, parsed.clone()));
    Some(parsed)
}

/// The file's fingerprint, where it may be a list at all.
fn fingerprint(path: &Path) -> Result<Fingerprint, String> {
    let metadata = std::fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
    fingerprint_of(path, &metadata)
}

fn fingerprint_of(path: &Path, metadata: &Metadata) -> Result<Fingerprint, String> {
    check_kind(path, metadata)?;
    Ok(metadata.into())
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::NotFound => ": write the list there; one without endpoints is []",
        ErrorKind::PermissionDenied => ": let the user that discover runs as read it",
        _ => "",
    };
    format!("cannot read {}: {error}{remedy}", path.display())
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let path = path.display();
    if !metadata.is_file() {
        let is = if metadata.is_dir() { "a folder" } else { "a device or a pipe" };
        return Err(format!("cannot read {path}: it is {is}: put a regular file in its place"));
    }
    if metadata.len() > MAX_LEN {
        let len = metadata.len();
        return Err(format!(
            "{path} has {len} bytes and a list of endpoints at most {MAX_LEN}: is it the right file?"
        ));
    }
    Ok(())
}

/// The list, or why it is none.
type Parsed = Result<Vec<Listed>, String>;

/// What the file says; `None` if it is not the one of this fingerprint, or does not stay it while it
/// is read.
fn read(path: &Path, seen: Fingerprint) -> Result<Option<Parsed>, String> {
    let failed = |error| cannot_read(path, &error);
    let mut file = files::open(path).map_err(failed)?;
    let before = fingerprint_of(path, &file.metadata().map_err(failed)?)?;
    let mut bytes = Vec::new();
    (&mut file).take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    let after = fingerprint_of(path, &file.metadata().map_err(failed)?)?;
    let is_meant = before == seen && after == seen;
    Ok(is_meant.then(|| parse(path, &bytes)))
}

fn parse(path: &Path, bytes: &[u8]) -> Parsed {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        format!("{}:{line}: what stands there is not UTF-8: save the file as UTF-8", path.display())
    })?;
    Format::of(path)?.parse(text).map_err(|problem| match problem.line {
        Some(line) => format!("{}:{line}: {}", path.display(), problem.message),
        None => format!("{}: {}", path.display(), problem.message),
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    async fn read_once(path: &Path) -> Result<Vec<Listed>, String> {
        look(path, &mut Last::default()).await
    }

    #[tokio::test]
    async fn what_is_no_list_names_the_file_and_the_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.json");
        let missing = read_once(&path).await.unwrap_err();
        assert!(missing.contains("web.json: No such file"), "{missing}");
        let directory = read_once(folder.path()).await.unwrap_err();
        assert!(directory.contains("it is a folder"), "{directory}");
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
    async fn only_a_change_of_the_file_itself_is_a_reason_to_look_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stirred) = (folder.path().join("web.yaml"), Notify::new());
        std::fs::write(&path, "- 10.0.0.1:80\n").unwrap();
        let seen = fingerprint(&path);
        std::fs::write(folder.path().join("lbctl.db-wal"), "a store").unwrap();
        stirred.notify_one();
        assert!(becomes_another(&path, &seen, &stirred).now_or_never().is_none());
        std::fs::write(&path, "- 10.0.0.1:80\n- 10.0.0.2:80\n").unwrap();
        stirred.notify_one();
        assert!(becomes_another(&path, &seen, &stirred).now_or_never().is_some());
        std::fs::remove_file(&path).unwrap();
        stirred.notify_one();
        assert!(becomes_another(&path, &seen, &stirred).now_or_never().is_some());
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
        assert_eq!(answer.unwrap().len(), 5);
    }

    #[tokio::test]
    async fn a_list_that_is_put_in_its_place_whole_is_believed_however_often_another_follows() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("web.yaml"), folder.path().join("web.new"));
        let put = |list: &str| {
            std::fs::write(&new, list).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        put("- 10.0.0.1:80\n- 10.0.0.2:80\n");
        let mut last = Last::default();
        look(&path, &mut last).await.unwrap();
        put("- 10.0.0.1:80\n");
        let writer = async {
            for _ in 0..20 {
                tokio::time::sleep(SETTLE * 3).await;
                put("- 10.0.0.1:80\n");
            }
        };
        tokio::select! {
            answer = look(&path, &mut last) => assert_eq!(answer.unwrap().len(), 1),
            () = writer => panic!("no list was read among twenty"),
        }
    }
}
