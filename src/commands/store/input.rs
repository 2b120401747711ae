use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::Path;

use crate::error::{CommandError, CommandResult};

/// All of stdin, at most `limit` bytes and one more, so that too much is seen.
pub(super) fn stdin(asked: bool, limit: u64) -> CommandResult<Vec<u8>> {
    refuse_terminal(asked)?;
    let stdin = std::io::stdin().lock();
    let mut bytes = Vec::new();
    stdin.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file, or stdin for `-` or nothing.
pub(super) fn file_or_stdin(file: Option<&Path>) -> CommandResult<Box<dyn BufRead>> {
    match file {
        Some(path) if path != Path::new("-") => match File::open(path) {
            Ok(file) => Ok(Box::new(BufReader::new(file))),
            Err(error) => Err(unreadable(error, path)),
        },
        other => {
            refuse_terminal(other.is_some())?;
            Ok(Box::new(std::io::stdin().lock()))
        }
    }
}

/// The error of a file that cannot be read.
pub(super) fn unreadable(error: std::io::Error, file: &Path) -> CommandError {
    CommandError::from(error).context(format!("cannot read {}", file.display()))
}

/// A terminal must be asked for, by `-`.
fn refuse_terminal(asked: bool) -> CommandResult {
    if asked || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(CommandError::usage("nothing to read: stdin is a terminal")
        .hint("give it on the command line, pipe it in, or say - to type it"))
}
