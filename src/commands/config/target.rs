//! Where `config show` writes.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;

use crate::error::{CommandError, CommandResult, Kind};
use crate::files::{self, Mode};

/// What a new file may be read by: everybody, since it has no secrets.
const MODE: u32 = 0o644;

/// Refuses to print into a file that the settings are read from: the shell has emptied it before
/// anybody could read it, and what is printed would say that nothing is set.
pub fn refuse_own_stdout(read: &[&Path]) -> CommandResult {
    let Ok(stdout) = rustix::fs::fstat(std::io::stdout()) else { return Ok(()) };
    let is_stdout = |path: &&&Path| {
        let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        file.is_some_and(|file| (file.dev(), file.ino()) == (stdout.st_dev, stdout.st_ino))
    };
    match read.iter().find(is_stdout) {
        None => Ok(()),
        Some(path) => {
            let path = path.display();
            let message = format!(
                "the output goes to {path}, which the settings are read from: the shell has emptied \
                 it already"
            );
            Err(CommandError::msg(Kind::Config, message)
                .hint(format!("restore {path}, then: lbctl config show --output toml --to {path}")))
        }
    }
}

/// Whether both are one file.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let place =
        |path| std::fs::metadata(path).map(|file: std::fs::Metadata| (file.dev(), file.ino()));
    place(one).is_ok_and(|one| place(other).is_ok_and(|other| one == other))
}

/// Replaces a file, so that a reader sees the old or the new one whole; its rights stay.
pub fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    // A link stays one.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    files::replace(&path, text.as_bytes(), Mode::KeepOr(MODE))
        .with_context(|| format!("cannot write {}", path.display()))
}
