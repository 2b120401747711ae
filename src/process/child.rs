use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{CommandError, CommandResult};

/// A running program, in a process group of its own: a terminal's Ctrl-C reaches lbctl alone, which
/// passes it on when the time has come.
#[derive(Debug)]
pub struct Child {
    running: tokio::process::Child,
    group: Option<Pid>,
}

impl Child {
    /// Starts it without the settings of lbctl that are in the environment: they are none of its
    /// business, and there are passwords among them.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let own = std::env::vars_os().map(|(name, _)| name).filter(is_setting);
        own.for_each(|name| _ = command.env_remove(name));
        let running = command.process_group(0).spawn()?;
        let group = running.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { running, group })
    }

    /// Its process id while it runs.
    pub fn id(&mut self) -> Option<u32> {
        match self.running.try_wait() {
            Ok(None) => self.running.id(),
            Ok(Some(_)) | Err(_) => None,
        }
    }

    /// Waits for its end; cancel-safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.running.wait().await
    }

    /// Passes a signal on to it and to the processes that it has started.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.group
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "the program has ended already");
        }
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL);
        self.wait().await.map(drop)
    }

    /// SIGTERM, this long to end, then SIGKILL.
    pub async fn end(&mut self, within: Duration) -> io::Result<()> {
        self.signal(Signal::TERM);
        match timeout(within, self.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_elapsed) => self.kill().await,
        }
    }
}

/// Whether a variable is a setting of lbctl.
fn is_setting(name: &OsString) -> bool {
    name.as_bytes().starts_with(b"LBCTL_")
}

/// A program that the kernel tells to end when this process dies, however it dies. `setpriv`, of
/// Debian's essential util-linux, sees to it; without it the program is started as it is.
pub fn dying_with_parent(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.is_file() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A program's end as this process's: its exit code, or 128 and the signal that ended it.
pub fn result(status: ExitStatus) -> CommandResult {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    match u8::try_from(code).unwrap_or(u8::MAX) {
        0 => Ok(()),
        code => Err(CommandError::exit_code_of_child(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

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
    async fn one_that_does_not_end_is_killed_with_all_that_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 1000 & echo started; wait; wait; wait"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Child::start(command).unwrap();
        let mut output = BufReader::new(child.running.stdout.take().unwrap());
        let mut text = String::new();
        output.read_line(&mut text).await.unwrap();
        assert!(text == "started\n" && child.id().is_some());
        child.end(Duration::from_millis(50)).await.unwrap();
        assert_eq!(child.id(), None);
        // Both wrote to the pipe: its end is that of the second.
        output.read_to_string(&mut text).await.unwrap();
    }
}
