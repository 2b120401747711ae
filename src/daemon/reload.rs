use std::fmt;
use std::sync::Arc;

use super::telemetry;
use crate::config::{Change, Effective, LogLevel, Origin, Setting as _, changes};
use crate::error::CommandResult;

type Read<S> = Arc<dyn Fn() -> CommandResult<(S, Vec<Effective>)> + Send + Sync>;

/// A daemon's settings, which are read at its start and again at each SIGHUP.
pub struct Reload<S> {
    read: Read<S>,
    /// The settings, or whole sections of them, that hold until the end of the process.
    fixed: &'static [&'static str],
    /// What holds now.
    effective: Vec<Effective>,
}

impl<S: Send + 'static> Reload<S> {
    /// Reads for the first time.
    pub fn start(
        fixed: &'static [&'static str],
        read: impl Fn() -> CommandResult<(S, Vec<Effective>)> + Send + Sync + 'static,
    ) -> CommandResult<(S, Self)> {
        let (settings, effective) = read()?;
        set_foreign_log_level(&effective);
        Ok((settings, Self { read: Arc::new(read), fixed, effective }))
    }

    /// Reads again, and says what changes now and what only with a restart. `None`: there are
    /// mistakes, which are said, and the old settings hold on.
    pub async fn again(&mut self) -> Option<S> {
        // On a thread that may wait: the file may be on a disk that does not answer.
        let read = self.read.clone();
        let read = tokio::task::spawn_blocking(move || read()).await;
        let (settings, effective) =
            match read.unwrap_or_else(|error| Err(anyhow::Error::new(error).into())) {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!("the old settings go on: {}", error.report().trim_end());
                    return None;
                }
            };
        let all = changes(&self.effective, &effective);
        let (late, now): (Vec<Change>, Vec<Change>) =
            all.into_iter().partition(|change| self.fixed.iter().any(|path| change.is_of(path)));
        for change in &now {
            tracing::info!("changed: {change}");
        }
        for change in &late {
            tracing::warn!("changes only with a restart, and the old value goes on: {change}");
        }
        if now.is_empty() && late.is_empty() {
            tracing::info!("the configuration was read again: nothing has changed");
        }
        self.set_log_level(&now);
        // What waits for a restart is said at each reading.
        let holds = |e: &Effective| !late.iter().any(|change| change.path == e.path);
        let late = std::mem::take(&mut self.effective).into_iter().filter(|e| !holds(e));
        self.effective = late.chain(effective.into_iter().filter(holds)).collect();
        Some(settings)
    }

    /// The level counts for the whole process, so that no daemon need take care of it.
    fn set_log_level(&self, now: &[Change]) {
        let level = now.iter().find(|change| change.path == "log.level");
        if let Some(level) = level.and_then(|change| LogLevel::parse(change.after.as_deref()?).ok())
        {
            telemetry::set_level(level);
        }
    }
}

/// Logging was started before another program's settings were read.
fn set_foreign_log_level(effective: &[Effective]) {
    let level = effective.iter().find(|e| e.path == "log.level");
    let level = level.filter(|e| matches!(e.origin, Origin::Foreign { .. }));
    if let Some(level) = level.and_then(|e| LogLevel::parse(e.value.as_deref()?).ok()) {
        telemetry::set_level(level);
    }
}

impl<S> fmt::Debug for Reload<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("fixed", &self.fixed).finish_non_exhaustive()
    }
}
