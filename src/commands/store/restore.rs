use std::path::PathBuf;

use super::backup::sqlite;
use crate::config::Globals;
use crate::error::CommandResult;
use crate::output;
use crate::store::SqliteStore;

/// Put a backup in the place of a SQLite store, while all daemons run
///
/// The backup is checked first. Every daemon of this host notices, forgets what it knew and goes on
/// with the restored store, which begins another life: revisions go on above all that were handed
/// out. HAProxys keep their servers until a leader has confirmed the table. The database as it was
/// is kept beside it, in PATH-before-restore.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store restore /var/backups/lbctl.db --dry-run
  lbctl store restore /var/backups/lbctl.db")]
pub(super) struct Args {
    /// What `lbctl store backup` wrote, or another copy of a database
    file: PathBuf,

    /// Check the backup and say what is in it, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    pub(super) async fn run(self, globals: &Globals) -> CommandResult {
        let Self { file, dry_run } = self;
        let url = sqlite(globals)?;
        let backup = SqliteStore::restore(&url, &file, dry_run).await?;
        let (keys, revision) = (super::keys(backup.keys as usize), backup.revision);
        let verb = if dry_run { "would restore" } else { "restored" };
        let (from, to) = (file.display(), url.path.display());
        output::print(&format!("{verb} {keys} of revision {revision} from {from} to {to}\n"))
    }
}
