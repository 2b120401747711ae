use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use crate::error::{CommandError, CommandResult};

/// All of stdin, at most `limit` bytes and one more, so that too much is seen. A terminal must be
/// asked for, by `-`.
pub(super) fn stdin(asked: bool, limit: u64) -> CommandResult<Vec<u8>> {
    let stdin = std::io::stdin().lock();
    if !asked && stdin.is_terminal() {
        return Err(CommandError::usage("nothing to read: stdin is a terminal")
            .hint("give it on the command line, pipe it in, or say - to type it"));
    }
    let mut bytes = Vec::new();
    stdin.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file, or stdin for `-` or nothing.
pub(super) fn file_or_stdin(file: Option<&Path>) -> CommandResult<Vec<u8>> {
    match file {
        Some(path) if path != Path::new("-") => std::fs::read(path).map_err(|error| {
            CommandError::from(error).context(format!("cannot read {}", path.display()))
        }),
        other => stdin(other.is_some(), u64::MAX),
    }
}
