//! One of the demo's processes: its command line, its log, and its end.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::error::{CommandError, CommandResult, Kind};
use crate::process::{self, dying_with_parent};

/// How long a process has after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(3);

/// A process that can be started again and again; killed when this is dropped.
#[derive(Debug)]
pub(super) struct Child {
    pub name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    running: Option<process::Child>,
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

    /// Starts it. It ends with the demo even where that is killed.
    pub fn start(&mut self) -> CommandResult {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = dying_with_parent(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.kill_on_drop(true);
        let running = process::Child::start(command).map_err(|error| {
            let step = format!("cannot start {} ({})", self.name, self.program.display());
            CommandError::new(Kind::Failed, anyhow::Error::new(error).context(step))
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// The process id while it runs.
    pub fn id(&mut self) -> Option<u32> {
        self.running.as_mut()?.id()
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(&mut self) -> CommandResult {
        if let Some(mut running) = self.running.take() {
            running.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, a while to end, then SIGKILL.
    pub async fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        if let Err(error) = running.end(END_WITHIN).await {
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
