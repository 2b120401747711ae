//! What others may have written into HSDO's table.

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Item, Row, Rows};
use crate::text;

/// Whatever the rows hold, each is read as it would be written again, or is an error that is safe to
/// print. The input is a row a line: `NAME TYPE VALUE`, separated by tabs, again and again.
pub fn hsdo_rows(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rows = Rows::read(text.lines().map(item));
    for row in rows.sound() {
        assert_eq!(Row::read(&row.to_item()).as_ref(), Ok(row));
        assert!(!row.enabled || row.holder().is_some());
    }
    for error in rows.errors() {
        let said = error.to_string();
        assert_eq!(text::lines(&said), said, "a terminal would obey it");
        assert!(!said.contains(['\n', '\t']) && said.len() < 4000, "{said:?}");
    }
}

fn item(line: &str) -> Item {
    let parts: Vec<&str> = line.split('\t').collect();
    let attribute = |part: &[&str]| {
        let [name, kind, value] = part else { return None };
        let value = (*value).to_owned();
        let value = match *kind {
            "N" => AttributeValue::N(value),
            "S" => AttributeValue::S(value),
            _ => AttributeValue::Null(true),
        };
        Some(((*name).to_owned(), value))
    };
    parts.chunks(3).filter_map(attribute).collect()
}
