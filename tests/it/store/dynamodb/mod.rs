//! The store in DynamoDB, as moto has it: the suite, and what only DynamoDB has.

mod outages;
mod policies;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use lbctl::store::{DynamoStore, DynamoUrl, SharedStore, StoreUrl, dynamodb};

use super::conformance::{Backend, conformance};
use crate::support::Proxy;
use crate::support::moto::{Moto, config};

/// A table of its own on the server that all tests share, with a way of its own to it.
pub struct Dynamo {
    moto: Arc<Moto>,
    proxy: Proxy,
    table: String,
    copied: Mutex<Vec<Item>>,
}

type Item = HashMap<String, AttributeValue>;

impl Dynamo {
    pub async fn start() -> Option<Self> {
        let moto = Moto::shared()?;
        let proxy = Proxy::start(moto.port()).await;
        let table = format!("test-{}", uuid::Uuid::new_v4());
        let dynamo = Self { moto, proxy, table, copied: Mutex::default() };
        dynamo.init().await;
        Some(dynamo)
    }

    async fn init(&self) {
        let url = self.parsed();
        dynamodb::init(&url, &config(&url).await, false).await.unwrap();
    }

    pub fn url(&self) -> String {
        self.moto.url(&self.table, self.proxy.port())
    }

    fn parsed(&self) -> DynamoUrl {
        match self.url().parse().unwrap() {
            StoreUrl::Dynamo(url) => url,
            other => panic!("{other}"),
        }
    }

    pub async fn open(&self) -> DynamoStore {
        let url = self.parsed();
        DynamoStore::with_config(&url, &config(&url).await)
    }

    /// Whether a key is in the table, past the proxy.
    async fn has(&self, client: &Client, key: &str) -> bool {
        let request = client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.key("pk", AttributeValue::S("entries:/lbctl".into()));
        let answer = request.key("sk", AttributeValue::S(key.into())).send().await.unwrap();
        answer.item.is_some()
    }

    /// The SDK's own client past the proxy, for what the store has no operation for.
    pub async fn client(&self) -> Client {
        let config = config(&self.parsed()).await.into_builder();
        Client::new(&config.endpoint_url(self.moto.endpoint()).build())
    }
}

impl Backend for Dynamo {
    async fn fresh() -> Option<Self> {
        Self::start().await
    }

    async fn handle(&self) -> SharedStore {
        Arc::new(self.open().await)
    }

    async fn cut(&self) -> bool {
        self.proxy.cut().await;
        true
    }

    async fn mend(&self) {
        self.proxy.mend().await;
    }

    /// As time does, with a watcher that was away for longer than the log is kept.
    async fn lose_history(&self) -> bool {
        let (client, pk) = (self.client().await, AttributeValue::S("head:/lbctl".into()));
        client
            .update_item()
            .table_name(&self.table)
            .key("pk", pk)
            .key("sk", AttributeValue::S("head".into()))
            .update_expression("ADD revision :some")
            .expression_attribute_values(":some", AttributeValue::N("5".into()))
            .send()
            .await
            .unwrap();
        true
    }

    async fn copy(&self) -> bool {
        let all = self.client().await.scan().table_name(&self.table).send().await.unwrap();
        *self.copied.lock().unwrap() = all.items.unwrap();
        true
    }

    async fn put_back(&self) {
        self.lose_all().await;
        self.put_copied().await;
    }

    async fn lose_all(&self) -> bool {
        self.delete_table().await;
        self.init().await;
        true
    }
}

impl Dynamo {
    async fn delete_table(&self) {
        let client = self.client().await;
        client.delete_table().table_name(&self.table).send().await.unwrap();
    }

    /// Puts into an empty table what was copied.
    async fn put_copied(&self) {
        let (client, items) =
            (self.client().await, std::mem::take(&mut *self.copied.lock().unwrap()));
        for item in items {
            let put = client.put_item().table_name(&self.table).set_item(Some(item));
            put.send().await.unwrap();
        }
    }
}

conformance!(Dynamo);
