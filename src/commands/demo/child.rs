//! One of the demo's processes: its command line, its log, and its end.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child as Running, Command};
use tokio::time::timeout;

use crate::error::{CommandError, CommandResult, Kind};

/// How long a process has after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(3);

/// A process that can be started again and again; killed when this is dropped.
#[derive(Debug)]
pub(super) struct Child {
    pub name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    running: Option<Running>,
}

impl Child {
    pub fn new<A: Into<OsString>>(
        name: &str,
        program: PathBuf,
        args: impl IntoIterator<Item = A>,
        log: PathBuf,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { name: name.to_owned(), program, args, log, running: None }
    }

    /// Starts it. Its environment has no `LBCTL_` settings: the demo means what it says. It is in a
    /// process group of its own, so that Ctrl-C reaches the demo alone, and it ends with the demo
    /// even where that is killed.
    pub fn start(&mut self) -> CommandResult {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LBCTL_") {
                command.env_remove(name);
            }
        }
        let running = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let step = format!("cannot start {} ({})", self.name, self.program.display());
                CommandError::new(Kind::Failed, anyhow::Error::new(error).context(step))
            })?;
        self.running = Some(running);
        Ok(())
    }

    /// `setpriv`, of Debian's essential util-linux, has the kernel end a child whose parent died.
    fn command(&self) -> Command {
        let setpriv = PathBuf::from("/usr/bin/setpriv");
        if !setpriv.is_file() {
            let mut command = Command::new(&self.program);
            command.args(&self.args);
            return command;
        }
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "TERM", "--"]).arg(&self.program).args(&self.args);
        command
    }

    /// The process id while it runs.
    pub fn id(&mut self) -> Option<u32> {
        if self.running.as_mut()?.try_wait().ok()?.is_some() {
            return None;
        }
        self.running.as_ref()?.id()
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(&mut self) -> CommandResult {
        if let Some(running) = &mut self.running {
            running.kill().await?;
        }
        self.running = None;
        Ok(())
    }

    /// SIGTERM, a while to end, then SIGKILL.
    pub async fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let pid = running.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if asked && timeout(END_WITHIN, running.wait()).await.is_ok() {
            return;
        }
        if let Err(error) = running.kill().await {
            tracing::debug!(%error, "{} had ended already", self.name);
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        format!("--- {}:\n{}\n", self.name, lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}
