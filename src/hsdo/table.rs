//! The calls on HSDO's table.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

use super::layout::{TableName, TablePlace};
use super::row::{ATTRIBUTES, ID, Item, Row};
use super::rows::Rows;
use crate::aws;
use crate::model::SlotNumber;
use crate::store::dynamodb::{self, Ask, Failed, Hint, TOTAL, call};

/// Far more than any HAProxy has places for: another table than HSDO's, whose scan would be dear.
const MAX_ROWS: usize = SlotNumber::MAX.get() as usize;

/// HSDO's table. Nothing is asked until the first call.
#[derive(Debug, Clone)]
pub struct HsdoTable {
    client: Client,
    name: TableName,
}

/// What writing a row came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    Done,
    /// It is not the row that was read any more: it stays as it is.
    Conflict,
}

/// A call that failed, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HSDO's table {table}: {call}: {reason}{}", .remedy.map(|r| format!(": {r}")).unwrap_or_default())]
pub struct TableError {
    table: TableName,
    call: &'static str,
    reason: String,
    remedy: Option<&'static str>,
    is_missing: bool,
}

impl TableError {
    /// Whether there is no such table: it may have been deleted, to be made anew.
    pub fn is_missing(&self) -> bool {
        self.is_missing
    }
}

impl HsdoTable {
    pub async fn open(place: &TablePlace) -> Self {
        let TablePlace { table, region } = place;
        let region = region.as_ref().map(ToString::to_string);
        // The endpoint is the SDK's own: AWS_ENDPOINT_URL_DYNAMODB, AWS_ENDPOINT_URL.
        let config = dynamodb::config_at(&aws::Place { region, endpoint: None }).await;
        Self { client: Client::new(&config), name: table.clone() }
    }

    /// The whole table. One that is not consistent costs half, and may be a moment old.
    pub async fn scan(&self, consistent: bool) -> Result<Rows, TableError> {
        let ask = Ask::new("hsdo-scan", &self.name);
        let names = ATTRIBUTES.iter().chain(&[ID]).copied().collect::<Vec<_>>().join(",");
        let mut items = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let send = || {
                let request = self.client.scan().table_name(self.name.as_str());
                let request = request.projection_expression(&names).consistent_read(consistent);
                let request = request.set_exclusive_start_key(from.clone());
                request.return_consumed_capacity(TOTAL).send()
            };
            let answer = call(&ask, send).await.map_err(|failed| self.failed("Scan", &failed))?;
            items.extend(answer.items.unwrap_or_default());
            if items.len() > MAX_ROWS {
                return Err(self.too_large());
            }
            from = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                return Ok(Rows::read(items));
            }
        }
    }

    /// Writes a row where it still is what was `seen`; `None`: where there is none.
    pub async fn write(&self, row: &Row, seen: Option<&Item>) -> Result<Written, TableError> {
        let ask = Ask::new("hsdo-write", &self.name);
        let written = match seen {
            None => self.create(&ask, row).await,
            Some(seen) => self.update(&ask, row, seen).await,
        };
        match written {
            Ok(()) => Ok(Written::Done),
            // Perhaps by an earlier try whose answer was lost: the next scan shows what it is.
            Err((_, failed)) if failed.is_lost() => Ok(Written::Conflict),
            Err((call, failed)) => Err(self.failed(call, &failed)),
        }
    }

    async fn create(&self, ask: &Ask, row: &Row) -> Result<(), (&'static str, Failed)> {
        let item = row.to_item();
        let send = || {
            let request = self.client.put_item().table_name(self.name.as_str());
            let request = request.set_item(Some(item.clone()));
            let request = request.condition_expression(format!("attribute_not_exists({ID})"));
            request.return_consumed_capacity(TOTAL).send()
        };
        call(ask, send).await.map(|_answer| ()).map_err(|failed| ("PutItem", failed))
    }

    async fn update(
        &self,
        ask: &Ask,
        row: &Row,
        seen: &Item,
    ) -> Result<(), (&'static str, Failed)> {
        let Update { key, set, condition, values } = Update::new(row, seen);
        let send = || {
            let request = self.client.update_item().table_name(self.name.as_str());
            let request = request.set_key(Some(key.clone()));
            let request = request.update_expression(&set).condition_expression(&condition);
            let request = request.set_expression_attribute_values(Some(values.clone()));
            request.return_consumed_capacity(TOTAL).send()
        };
        call(ask, send).await.map(|_answer| ()).map_err(|failed| ("UpdateItem", failed))
    }

    fn failed(&self, call: &'static str, failed: &Failed) -> TableError {
        let trouble = &failed.trouble;
        let remedy = trouble.hint.map(remedy);
        let (table, reason) = (self.name.clone(), trouble.reason.clone());
        let is_missing = matches!(trouble.hint, Some(Hint::Table));
        TableError { table, call, reason, remedy, is_missing }
    }

    fn too_large(&self) -> TableError {
        TableError {
            table: self.name.clone(),
            call: "Scan",
            reason: format!("it has more than {MAX_ROWS} rows"),
            remedy: Some("is hsdo-table the name of HSDO's table?"),
            is_missing: false,
        }
    }
}

fn remedy(hint: Hint) -> &'static str {
    match hint {
        Hint::Table => {
            "set hsdo-table and aws-region to HSDO's own DYNAMODB_TABLE_NAME and AWS_DEFAULT_REGION"
        }
        Hint::Keys => "its key must be BackendServerID (N), as HSDO's is: is hsdo-table its name?",
        Hint::Rights => {
            "allow the action that is named above on the table: hsdo-discover.json and \
             hsdo-sync.json in deploy/aws/policies have them"
        }
        Hint::Region => "name the region: with aws-region, in AWS_REGION, or in ~/.aws/config",
        Hint::Credentials | Hint::Clock => hint.text(),
    }
}

/// An update of all attributes that demands to find each as it was read.
struct Update {
    key: Item,
    set: String,
    condition: String,
    values: HashMap<String, AttributeValue>,
}

impl Update {
    fn new(row: &Row, seen: &Item) -> Self {
        let mut item = row.to_item();
        let key = item.remove_entry(ID).into_iter().collect();
        let mut values = HashMap::new();
        // The row must be there: an update would make one that has been deleted since.
        let (mut set, mut conditions) = (Vec::new(), vec![format!("attribute_exists({ID})")]);
        for name in ATTRIBUTES {
            if let Some(value) = item.remove(name) {
                set.push(format!("{name} = :new{name}"));
                values.insert(format!(":new{name}"), value);
            }
            conditions.push(match seen.get(name) {
                Some(value) => {
                    values.insert(format!(":was{name}"), value.clone());
                    format!("{name} = :was{name}")
                }
                None => format!("attribute_not_exists({name})"),
            });
        }
        let (set, condition) = (format!("SET {}", set.join(", ")), conditions.join(" AND "));
        Self { key, set, condition, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_demands_every_attribute_as_it_was_read() {
        let free = Row::free(SlotNumber::new(3).unwrap());
        let mut seen = free.to_item();
        seen.remove("ASG");
        let Update { key, set, condition, values } = Update::new(&free, &seen);
        assert_eq!(key.keys().collect::<Vec<_>>(), [ID]);
        assert!(set.starts_with("SET IPAddress = :newIPAddress, "), "{set}");
        for part in ["attribute_exists(BackendServerID)", "attribute_not_exists(ASG)"] {
            assert!(condition.contains(part), "{condition}");
        }
        for name in ATTRIBUTES {
            assert!(set.contains(&format!("{name} = :new{name}")), "{set}");
            let known = condition.contains(&format!("{name} = :was{name}"));
            assert_eq!(known, name != "ASG", "{condition}");
        }
        assert_eq!(values.len(), 11);
    }
}
