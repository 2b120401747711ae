use crate::config::Globals;
use crate::error::CommandResult;
use crate::output;
use crate::store::{DynamoUrl, StoreUrl, dynamodb, url_from};

/// Make what the store needs before its first use
///
/// Makes the table of a dynamodb:// store with on-demand billing, encryption, point-in-time
/// recovery and DynamoDB's time to live, and waits until it is active. What is there already stays
/// as it is, so it may run at every deployment. SQLite and etcd need nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lbctl store --store 'dynamodb://lbctl?region=eu-west-1' init --dry-run
  lbctl store --store 'dynamodb://lbctl?region=eu-west-1' init")]
pub(super) struct Args {
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    pub(super) async fn run(self, globals: &Globals) -> CommandResult {
        let Self { dry_run } = self;
        let url = url_from(globals)?;
        match &url {
            StoreUrl::Dynamo(table) => init(table, dry_run).await,
            StoreUrl::Sqlite(_) | StoreUrl::Etcd(_) | StoreUrl::Memory => {
                output::print(&format!("nothing is needed for {url}\n"))
            }
        }
    }
}

async fn init(url: &DynamoUrl, dry_run: bool) -> CommandResult {
    let config = dynamodb::config(url).await;
    let missing = Box::pin(dynamodb::init(url, &config, dry_run)).await?;
    let parts = [
        (missing.table, "make the table", "made the table"),
        (missing.recovery, "turn point-in-time recovery on", "turned point-in-time recovery on"),
        (missing.expiry, "turn the time to live on", "turned the time to live on"),
    ];
    let table = &url.table;
    let mut text = String::new();
    for (_, wish, done) in parts.iter().filter(|(missing, ..)| *missing) {
        text += &if dry_run {
            format!("would {wish}: {table}\n")
        } else {
            format!("{done}: {table}\n")
        };
    }
    if text.is_empty() {
        text = format!("nothing is missing: {table}\n");
    }
    output::print(&text)
}
