//! Calls of DynamoDB: each with a deadline, tries with backoff, and a count of what it cost.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_get_items::TransactGetItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    ConsumedCapacity, Get, KeysAndAttributes, ReturnConsumedCapacity, TransactGetItem,
    TransactWriteItem,
};
use tokio::time::Instant;

use super::NAME;
use super::items::{Item, text};
use super::trouble::{Trouble, Verdict};
use crate::daemon::Backoff;
use crate::metrics::Gauges;
use crate::store::{DynamoUrl, Error, ErrorKind, Result};

/// How long an operation may take, all its calls and tries together.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long one try of one call may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(2);

/// The longest wait after losing against another writer.
const TURN: Duration = Duration::from_millis(20);

/// How many items one call reads at most.
const BATCH: usize = 100;

/// One operation of the store, which may be several calls.
#[derive(Debug)]
pub(crate) struct Ask {
    operation: &'static str,
    subject: String,
    deadline: Instant,
}

/// What one call came to, when it did not come to an answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub trouble: Trouble,
    /// Some try may have been applied.
    pub unsure: bool,
}

/// The table, and how it is called.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub client: Client,
    pub name: String,
    login: Arc<Mutex<Login>>,
}

/// Why AWS takes no call of this process, whichever it is. A process has a dozen loops, each with
/// tries of its own: while that lasts, they share one call a while.
#[derive(Debug, Default)]
struct Login {
    refused: Option<Trouble>,
    next_try: Option<Instant>,
}

/// The pause between two calls with credentials that AWS does not take.
const REFUSED: Duration = Duration::from_secs(1);

impl Login {
    /// Answers why a call is not to be sent now.
    fn refusal(&mut self) -> Option<Trouble> {
        let now = Instant::now();
        if self.next_try.is_some_and(|at| now < at) {
            return self.refused.clone();
        }
        // This call is the try; those that come meanwhile wait for what it says.
        self.next_try = self.refused.is_some().then(|| now + REFUSED);
        None
    }

    fn answered(&mut self, trouble: Option<&Trouble>) {
        let refused = trouble.filter(|trouble| trouble.is_about_login());
        self.next_try = refused.map(|_| Instant::now() + REFUSED);
        self.refused = refused.cloned();
    }
}

impl Ask {
    pub(crate) fn new(operation: &'static str, subject: impl fmt::Display) -> Self {
        let deadline = Instant::now() + DEADLINE;
        Self { operation, subject: subject.to_string(), deadline }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits a little before deciding anew, so that writers who beat each other get apart. Not
    /// longer each time: who has lost often would lose more often still.
    pub(super) async fn take_turns(&self) -> Result<()> {
        if self.is_over() {
            let reason = "other writers were quicker at every try";
            return Err(self.error(ErrorKind::Unavailable, reason));
        }
        tokio::time::sleep(TURN.mul_f64(fastrand::f64())).await;
        Ok(())
    }

    pub(super) fn error(&self, kind: ErrorKind, reason: impl fmt::Display) -> Error {
        Error::new(kind, NAME, self.operation, &self.subject, reason)
    }

    pub(super) fn corrupt(&self, what: &str) -> Error {
        self.error(ErrorKind::Corrupt, format!("{what} in the table is not what lbctl writes"))
            .with_hint("does another program write to the table, or a newer lbctl?")
    }
}

impl Failed {
    /// Whether a condition did not hold.
    pub(crate) fn is_lost(&self) -> bool {
        self.trouble.verdict == Verdict::Lost
    }

    fn error(&self, ask: &Ask, table: &Table, call: &str, kind: ErrorKind) -> Error {
        let Trouble { reason, hint, .. } = &self.trouble;
        let error = ask.error(kind, format!("{call} on table {}: {reason}", table.name));
        match hint {
            Some(hint) => error.with_hint(hint.text()),
            None => error,
        }
    }

    /// The error of a call that only reads.
    pub(super) fn of_read(&self, ask: &Ask, table: &Table, call: &str) -> Error {
        let kind = match self.trouble.verdict {
            Verdict::Refused(kind) => kind,
            Verdict::Again | Verdict::Unknown | Verdict::Lost => ErrorKind::Unavailable,
        };
        self.error(ask, table, call, kind)
    }

    /// The error of a call that writes.
    pub(super) fn of_write(&self, ask: &Ask, table: &Table, call: &str) -> Error {
        let kind = match self.trouble.verdict {
            _ if self.unsure => ErrorKind::Indeterminate,
            Verdict::Refused(kind) => kind,
            Verdict::Again | Verdict::Unknown | Verdict::Lost => ErrorKind::Unavailable,
        };
        self.error(ask, table, call, kind)
    }
}

/// Sends a request until it is answered, refused, or out of time. Sending any of ours again does no
/// more than sending it once.
pub(crate) async fn call<T, E, F, Fut>(ask: &Ask, request: F) -> Result<T, Failed>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: ProvideErrorMetadata + StdError + CancelReasons + 'static,
    T: Consumed,
{
    let mut backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(500));
    let mut unsure = false;
    loop {
        let trouble = match tokio::time::timeout_at(ask.deadline, request()).await {
            Ok(Ok(answer)) => {
                count(ask.operation, answer.units());
                return Ok(answer);
            }
            Ok(Err(error)) => trouble_of(&error),
            Err(_elapsed) => {
                Trouble::new(Verdict::Unknown, format!("no answer within {DEADLINE:?}"))
            }
        };
        unsure |= trouble.verdict == Verdict::Unknown;
        let wait = backoff.next_wait();
        let again = matches!(trouble.verdict, Verdict::Again | Verdict::Unknown)
            && Instant::now() + wait < ask.deadline;
        if !again {
            return Err(Failed { trouble, unsure });
        }
        tracing::debug!(operation = ask.operation, reason = trouble.reason, "dynamodb: again");
        tokio::time::sleep(wait).await;
    }
}

fn trouble_of<E>(error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: ProvideErrorMetadata + StdError + CancelReasons + 'static,
{
    match error.as_service_error().and_then(CancelReasons::reasons) {
        Some(trouble) => trouble,
        None => Trouble::of(error),
    }
}

impl Table {
    pub(super) fn new(url: &DynamoUrl, config: &SdkConfig) -> Self {
        Self { client: Client::new(config), name: url.table.clone(), login: Arc::default() }
    }

    /// [`call()`], unless AWS has just refused this process's credentials.
    pub(super) async fn call<T, E, F, Fut>(&self, ask: &Ask, request: F) -> Result<T, Failed>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + StdError + CancelReasons + 'static,
        T: Consumed,
    {
        if let Some(trouble) = self.login().refusal() {
            return Err(Failed { trouble, unsure: false });
        }
        let answer = call(ask, request).await;
        self.login().answered(answer.as_ref().err().map(|failed| &failed.trouble));
        answer
    }

    fn login(&self) -> MutexGuard<'_, Login> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn get(&self, ask: &Ask, key: Item, consistent: bool) -> Result<Option<Item>> {
        let send = || {
            let request = self.client.get_item().table_name(&self.name).set_key(Some(key.clone()));
            request.consistent_read(consistent).return_consumed_capacity(TOTAL).send()
        };
        let answer = self.call(ask, send).await;
        let answer = answer.map_err(|failed| failed.of_read(ask, self, "GetItem"))?;
        Ok(answer.item)
    }

    /// Those of the items that are there, in no order; each read by itself.
    pub(super) async fn get_many(
        &self,
        ask: &Ask,
        keys: Vec<Item>,
        consistent: bool,
    ) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut left = keys;
        while !left.is_empty() {
            let batch: Vec<Item> = left.split_off(left.len().saturating_sub(BATCH));
            let wanted = KeysAndAttributes::builder()
                .set_keys(Some(batch))
                .consistent_read(consistent)
                .build()
                .map_err(|error| ask.error(ErrorKind::Unsupported, error))?;
            let send = || {
                let request =
                    self.client.batch_get_item().request_items(&self.name, wanted.clone());
                request.return_consumed_capacity(TOTAL).send()
            };
            let answer = self.call(ask, send).await;
            let answer = answer.map_err(|failed| failed.of_read(ask, self, "BatchGetItem"))?;
            items.extend(answer.responses.unwrap_or_default().into_values().flatten());
            // An answer has up to 16 MB; the rest is asked for again.
            let rest = answer.unprocessed_keys.unwrap_or_default().into_values();
            left.extend(rest.flat_map(|keys| keys.keys));
            if ask.is_over() {
                return Err(ask.error(ErrorKind::Unavailable, "DynamoDB left items unread"));
            }
        }
        Ok(items)
    }

    /// The items at one moment at which no transaction on any of them is under way.
    pub(super) async fn get_together(
        &self,
        ask: &Ask,
        keys: Vec<Item>,
    ) -> Result<Vec<Option<Item>>> {
        let get = |key: Item| {
            let get = Get::builder().table_name(&self.name).set_key(Some(key)).build();
            get.map(|get| TransactGetItem::builder().get(get).build())
        };
        let wanted: Vec<TransactGetItem> = keys
            .into_iter()
            .map(get)
            .collect::<Result<_, _>>()
            .map_err(|error| ask.error(ErrorKind::Unsupported, error))?;
        let send = || {
            let request = self.client.transact_get_items().set_transact_items(Some(wanted.clone()));
            request.return_consumed_capacity(TOTAL).send()
        };
        let answer = self.call(ask, send).await;
        let answer = answer.map_err(|failed| failed.of_read(ask, self, "TransactGetItems"))?;
        let items = answer.responses.unwrap_or_default().into_iter();
        Ok(items.map(|response| response.item.filter(|item| !item.is_empty())).collect())
    }

    /// Every item of a partition whose sort key begins so, in order.
    pub(super) async fn query_prefix(&self, ask: &Ask, pk: &str, start: &str) -> Result<Vec<Item>> {
        let condition = match start {
            "" => "pk = :pk",
            _ => "pk = :pk AND begins_with(sk, :start)",
        };
        let values = [(":start", start)].into_iter().filter(|(_, start)| !start.is_empty());
        self.query(ask, pk, condition, values.collect()).await
    }

    /// Every item of a partition whose sort key is between two, both included, in order.
    pub(super) async fn query_range(
        &self,
        ask: &Ask,
        pk: &str,
        from: &str,
        to: &str,
    ) -> Result<Vec<Item>> {
        let condition = "pk = :pk AND sk BETWEEN :from AND :to";
        self.query(ask, pk, condition, vec![(":from", from), (":to", to)]).await
    }

    async fn query(
        &self,
        ask: &Ask,
        pk: &str,
        condition: &str,
        values: Vec<(&str, &str)>,
    ) -> Result<Vec<Item>> {
        let mut values: Item =
            values.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        values.insert(":pk".to_owned(), text(pk));
        let mut items = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let send = || {
                let request = self.client.query().table_name(&self.name).consistent_read(true);
                let request = request.key_condition_expression(condition);
                let request = request.set_expression_attribute_values(Some(values.clone()));
                let request = request.set_exclusive_start_key(from.clone());
                request.return_consumed_capacity(TOTAL).send()
            };
            let answer = self.call(ask, send).await;
            let answer = answer.map_err(|failed| failed.of_read(ask, self, "Query"))?;
            items.extend(answer.items.unwrap_or_default());
            from = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                return Ok(items);
            }
        }
    }

    /// All of the writes or none. The token makes sending it again harmless for ten minutes.
    pub(super) async fn transact(
        &self,
        ask: &Ask,
        items: Vec<TransactWriteItem>,
        token: &str,
    ) -> Result<(), Failed> {
        let send = || {
            let request = self.client.transact_write_items().client_request_token(token);
            let request = request.set_transact_items(Some(items.clone()));
            request.return_consumed_capacity(TOTAL).send()
        };
        self.call(ask, send).await.map(|_answer| ())
    }
}

pub(crate) const TOTAL: ReturnConsumedCapacity = ReturnConsumedCapacity::Total;

/// What an answer cost, in capacity units.
pub(crate) trait Consumed {
    fn units(&self) -> f64;
}

macro_rules! consumed {
    ($($output:path)*) => {$(
        impl Consumed for $output {
            fn units(&self) -> f64 {
                let all: Vec<&ConsumedCapacity> = self.consumed_capacity().into_iter().collect();
                all.into_iter().filter_map(ConsumedCapacity::capacity_units).sum()
            }
        }
    )*};
}

consumed! {
    aws_sdk_dynamodb::operation::get_item::GetItemOutput
    aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemOutput
    aws_sdk_dynamodb::operation::transact_get_items::TransactGetItemsOutput
    aws_sdk_dynamodb::operation::query::QueryOutput
    aws_sdk_dynamodb::operation::scan::ScanOutput
    aws_sdk_dynamodb::operation::put_item::PutItemOutput
    aws_sdk_dynamodb::operation::update_item::UpdateItemOutput
    aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsOutput
}

/// Errors that may be a cancelled transaction.
pub(crate) trait CancelReasons {
    fn reasons(&self) -> Option<Trouble> {
        None
    }
}

macro_rules! no_reasons {
    ($($error:path)*) => {$(impl CancelReasons for $error {})*};
}

no_reasons! {
    aws_sdk_dynamodb::operation::get_item::GetItemError
    aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemError
    aws_sdk_dynamodb::operation::query::QueryError
    aws_sdk_dynamodb::operation::scan::ScanError
    aws_sdk_dynamodb::operation::put_item::PutItemError
    aws_sdk_dynamodb::operation::update_item::UpdateItemError
}

impl CancelReasons for TransactGetItemsError {
    fn reasons(&self) -> Option<Trouble> {
        let Self::TransactionCanceledException(cancelled) = self else { return None };
        Some(Trouble::of_reasons(cancelled.cancellation_reasons()))
    }
}

impl CancelReasons for TransactWriteItemsError {
    fn reasons(&self) -> Option<Trouble> {
        let Self::TransactionCanceledException(cancelled) = self else { return None };
        Some(Trouble::of_reasons(cancelled.cancellation_reasons()))
    }
}

static CONSUMED: Gauges<2> = Gauges::new(
    "lbctl_store_consumed_capacity_units",
    "Capacity units that DynamoDB counted so far, by operation of the store; only grows",
    ["store", "operation"],
);

fn count(operation: &'static str, units: f64) {
    CONSUMED.with([NAME, operation]).inc_by(units);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dynamodb::trouble::Hint;

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_tried_once_in_a_while_until_they_are_taken() {
        let refused = Verdict::Refused(ErrorKind::Denied);
        let trouble = |hint| Trouble { hint: Some(hint), ..Trouble::new(refused, "refused") };
        let mut login = Login::default();
        assert!(login.refusal().is_none() && login.refusal().is_none());
        login.answered(Some(&trouble(Hint::Rights)));
        assert!(login.refusal().is_none(), "another call may be allowed");
        login.answered(Some(&trouble(Hint::Credentials)));
        for _ in 0..3 {
            assert_eq!(login.refusal().unwrap().reason, "refused");
            tokio::time::sleep(REFUSED).await;
            assert!(login.refusal().is_none() && login.refusal().is_some());
            login.answered(Some(&trouble(Hint::Clock)));
        }
        login.answered(None);
        assert!(login.refusal().is_none() && login.refusal().is_none());
    }
}
