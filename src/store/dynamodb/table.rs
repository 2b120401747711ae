//! Making the table.

use std::error::Error as StdError;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification,
    ScalarAttributeType, SseSpecification, TableDescription, TableStatus, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use tokio::time::Instant;

use super::calls::{Ask, Table};
use super::trouble::{Trouble, Verdict};
use crate::store::url::DynamoUrl;
use crate::store::{ErrorKind, Result};

/// How long a new table may take until it is active.
const MAKING: Duration = Duration::from_secs(180);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(500);

/// The attribute that DynamoDB's own time to live sweeps by.
const EXPIRES: &str = "expires";

/// What of the table was missing: made, or to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableState {
    pub table: bool,
    pub recovery: bool,
    pub expiry: bool,
}

/// Makes what is missing of the table and waits until it is active; under `dry_run` only looks.
pub async fn init(url: &DynamoUrl, config: &SdkConfig, dry_run: bool) -> Result<TableState> {
    let init = Init { table: Table::new(url, config), ask: Ask::new("init", &url.table) };
    let description = init.describe().await?;
    if let Some(description) = &description {
        init.check_key(description)?;
    }
    let mut missing = TableState { table: description.is_none(), recovery: true, expiry: true };
    if description.is_some() {
        init.wait_until_active().await?;
        missing.recovery = !init.has_recovery().await?;
        missing.expiry = !init.has_expiry().await?;
    }
    if dry_run {
        return Ok(missing);
    }
    if missing.table {
        init.create().await?;
        init.wait_until_active().await?;
    }
    if missing.recovery {
        init.turn_recovery_on().await?;
    }
    if missing.expiry {
        init.turn_expiry_on().await?;
    }
    Ok(missing)
}

struct Init {
    table: Table,
    ask: Ask,
}

impl Init {
    async fn describe(&self) -> Result<Option<TableDescription>> {
        match self.table.client.describe_table().table_name(&self.table.name).send().await {
            Ok(answer) => Ok(answer.table),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(self.failed("DescribeTable", &error)),
        }
    }

    fn check_key(&self, description: &TableDescription) -> Result<()> {
        let key: Vec<(&str, &KeyType)> = description
            .key_schema()
            .iter()
            .map(|element| (element.attribute_name(), element.key_type()))
            .collect();
        if key == [("pk", &KeyType::Hash), ("sk", &KeyType::Range)] {
            return Ok(());
        }
        let reason = format!("the table {} is there with another key: {key:?}", self.table.name);
        Err(self
            .ask
            .error(ErrorKind::Unsupported, reason)
            .with_hint("name another table: this one is left as it is"))
    }

    async fn create(&self) -> Result<()> {
        let attribute = |name: &str| {
            let attribute = AttributeDefinition::builder().attribute_name(name);
            attribute.attribute_type(ScalarAttributeType::S).build()
        };
        let key = |name: &str, kind| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build()
        };
        let unsupported = |error| self.ask.error(ErrorKind::Unsupported, error);
        let request = self.table.client.create_table().table_name(&self.table.name);
        let request = request
            .attribute_definitions(attribute("pk").map_err(unsupported)?)
            .attribute_definitions(attribute("sk").map_err(unsupported)?)
            .key_schema(key("pk", KeyType::Hash).map_err(unsupported)?)
            .key_schema(key("sk", KeyType::Range).map_err(unsupported)?)
            .billing_mode(BillingMode::PayPerRequest)
            .sse_specification(SseSpecification::builder().enabled(true).build());
        match request.send().await {
            Ok(_) => Ok(()),
            // Another process was quicker.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(self.failed("CreateTable", &error)),
        }
    }

    async fn wait_until_active(&self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < MAKING {
            let status = self.describe().await?.and_then(|table| table.table_status);
            if matches!(status, Some(TableStatus::Active | TableStatus::Updating)) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        let reason = format!("the table is not active after {MAKING:?}");
        Err(self.ask.error(ErrorKind::Unavailable, reason).with_hint("run the same again"))
    }

    async fn has_recovery(&self) -> Result<bool> {
        let request = self.table.client.describe_continuous_backups();
        let answer = request.table_name(&self.table.name).send().await;
        let answer = answer.map_err(|error| self.failed("DescribeContinuousBackups", &error))?;
        let status = answer
            .continuous_backups_description
            .and_then(|backups| backups.point_in_time_recovery_description)
            .and_then(|recovery| recovery.point_in_time_recovery_status);
        Ok(status.is_some_and(|status| status.as_str() == "ENABLED"))
    }

    async fn turn_recovery_on(&self) -> Result<()> {
        let recovery = PointInTimeRecoverySpecification::builder()
            .point_in_time_recovery_enabled(true)
            .build()
            .map_err(|error| self.ask.error(ErrorKind::Unsupported, error))?;
        let started = Instant::now();
        loop {
            let request = self.table.client.update_continuous_backups();
            let request = request.table_name(&self.table.name);
            let answer =
                request.point_in_time_recovery_specification(recovery.clone()).send().await;
            match answer {
                Ok(_) => return Ok(()),
                // A new table is not ready for it at once.
                Err(error)
                    if error.code() == Some("ContinuousBackupsUnavailableException")
                        && started.elapsed() < MAKING =>
                {
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(self.failed("UpdateContinuousBackups", &error)),
            }
        }
    }

    async fn has_expiry(&self) -> Result<bool> {
        let request = self.table.client.describe_time_to_live().table_name(&self.table.name);
        let answer = request.send().await;
        let answer = answer.map_err(|error| self.failed("DescribeTimeToLive", &error))?;
        let status = answer.time_to_live_description.and_then(|expiry| expiry.time_to_live_status);
        Ok(matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)))
    }

    async fn turn_expiry_on(&self) -> Result<()> {
        let expiry = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(EXPIRES)
            .build()
            .map_err(|error| self.ask.error(ErrorKind::Unsupported, error))?;
        let request = self.table.client.update_time_to_live().table_name(&self.table.name);
        let answer = request.time_to_live_specification(expiry).send().await;
        answer.map(|_| ()).map_err(|error| self.failed("UpdateTimeToLive", &error))
    }

    fn failed<E>(&self, call: &str, error: &SdkError<E, HttpResponse>) -> crate::store::Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let trouble = Trouble::of(error);
        let kind = match trouble.verdict {
            Verdict::Refused(kind) => kind,
            Verdict::Unknown => ErrorKind::Indeterminate,
            Verdict::Again | Verdict::Lost => ErrorKind::Unavailable,
        };
        let error = self.ask.error(kind, format!("{call}: {}", trouble.reason));
        match trouble.hint {
            Some(hint) => error.with_hint(hint.text()),
            None => error.with_hint("run the same again: what is done already stays done"),
        }
    }
}
