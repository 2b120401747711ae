use std::path::PathBuf;

use crate::config::Globals;
use crate::error::{CommandError, CommandResult, Kind};
use crate::output;
use crate::store::{SqliteStore, SqliteUrl, StoreUrl, url_from};

/// Copy a SQLite store to a file, while all daemons run
///
/// The copy is of one revision and a whole database in one file. A file that is there is replaced as
/// a whole. For etcd use etcdctl snapshot save, for DynamoDB its own backups.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store backup /var/backups/lbctl.db
  lbctl store --store sqlite:/srv/lbctl.db backup /var/backups/lbctl.db")]
pub(super) struct Args {
    /// The file to write
    file: PathBuf,
}

impl Args {
    pub(super) async fn run(self, globals: &Globals) -> CommandResult {
        let Self { file } = self;
        let url = sqlite(globals)?;
        if !url.path.exists() {
            let message = format!("there is no store to back up at {}", url.path.display());
            return Err(CommandError::msg(Kind::Failed, message));
        }
        let backup = SqliteStore::open_as_guest(&url).await?.backup(&file).await?;
        let (keys, revision) = (super::keys(backup.keys as usize), backup.revision);
        output::print(&format!("wrote {keys} of revision {revision} to {}\n", file.display()))
    }
}

/// The database file of a store that is one.
pub(super) fn sqlite(globals: &Globals) -> CommandResult<SqliteUrl> {
    let hint = match url_from(globals)? {
        StoreUrl::Sqlite(url) => return Ok(url),
        StoreUrl::Etcd(_) => "for etcd there are `etcdctl snapshot save` and `snapshot restore`",
        StoreUrl::Dynamo(_) => {
            "for DynamoDB there are its own backups, on demand or to a point in time"
        }
        StoreUrl::Memory => "a store in memory has nothing that outlives the process",
    };
    let message = "only a SQLite store is backed up and restored by lbctl";
    Err(CommandError::msg(Kind::Config, message)
        .hint(hint)
        .hint("`lbctl store export` and `import` copy the keys of any store"))
}
