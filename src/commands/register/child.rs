//! The command as a child process.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::error::{CommandError, CommandResult};

/// Whether a variable is a setting of lbctl.
fn is_own(name: &OsString) -> bool {
    name.as_bytes().starts_with(b"LBCTL_")
}

/// A running command, in a process group of its own: a terminal's Ctrl-C reaches lbctl alone, which
/// passes it on when the time has come.
#[derive(Debug)]
pub struct Wrapped {
    child: Child,
    group: Option<Pid>,
}

impl Wrapped {
    /// Starts it; `None` without a command. It has this process's stdin, stdout and stderr, and its
    /// environment but for the variables of lbctl.
    pub fn start(command: &[OsString]) -> CommandResult<Option<Self>> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(None);
        };
        let mut command = Command::new(program);
        // lbctl's own settings are none of its business, and there are passwords among them.
        let own = std::env::vars_os().map(|(name, _)| name).filter(is_own);
        own.for_each(|name| _ = command.env_remove(name));
        match command.args(arguments).process_group(0).spawn() {
            Ok(child) => {
                let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                Ok(Some(Self { child, group }))
            }
            Err(error) => {
                tracing::error!(%error, "cannot start {}", program.display());
                // As shells have it: 127 not found, 126 not executable.
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                Err(CommandError::exit_code_of_child(if missing { 127 } else { 126 }))
            }
        }
    }

    /// Waits for its end; cancel-safe.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Passes a signal on to it and what it started.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.group
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "the command has ended already");
        }
    }
}

/// The command's end as this process's.
pub fn result(status: ExitStatus) -> CommandResult {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    match u8::try_from(code).unwrap_or(u8::MAX) {
        0 => Ok(()),
        code => Err(CommandError::exit_code_of_child(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(raw: i32) -> std::process::ExitCode {
        match result(ExitStatus::from_raw(raw)) {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => error.exit_code(),
        }
    }

    #[test]
    fn the_end_is_the_command_s_own() {
        for (raw, wanted) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (15, 143), (9, 137)] {
            assert_eq!(code(raw), wanted.into(), "{raw}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_started_ends_as_a_shell_would() {
        for (program, wanted) in [("/nonexistent/program", 127), ("/etc/passwd", 126)] {
            let error = Wrapped::start(&[program.into()]).unwrap_err();
            assert_eq!(error.exit_code(), wanted.into());
        }
        assert!(Wrapped::start(&[]).unwrap().is_none());
    }
}
