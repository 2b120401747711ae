use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};

/// What `/status` shows: named JSON values that a daemon's loops publish; clones share it. Never
/// put a secret here.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard {
    parts: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl StatusBoard {
    /// Replaces a part.
    pub fn publish(&self, name: impl Into<String>, value: &impl Serialize) {
        let value = serde_json::to_value(value)
            .unwrap_or_else(|error| Value::String(format!("cannot be shown: {error}")));
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), value);
    }

    /// Replaces or removes one member of a part, at `part.list.member`: what a member says costs the
    /// same however many others there are.
    pub fn publish_member(&self, part: &str, list: &str, member: &str, value: Option<Value>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let list = object(
            object(parts.entry(part.to_owned()).or_default()).entry(list).or_insert(Value::Null),
        );
        match value {
            Some(value) => list.insert(member.to_owned(), value),
            None => list.remove(member),
        };
    }

    pub fn snapshot(&self) -> BTreeMap<String, Value> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The value as an object, which it becomes if it is none.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("it has just become an object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_comes_and_goes_beside_the_others() {
        let board = StatusBoard::default();
        let publish = |member: &str, value| board.publish_member("p", "list", member, value);
        publish("a", Some(json!(1)));
        publish("b", Some(json!(2)));
        publish("a", None);
        assert_eq!(board.snapshot()["p"], json!({ "list": { "b": 2 } }));
    }
}
