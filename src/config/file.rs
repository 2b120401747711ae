//! A TOML file as a tree of texts that know their lines.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Kind;

/// A value of the file, with its line (from 1).
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar { text: String, kind: Option<Kind> },
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

/// A mistake in the file's syntax.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

/// Parses a whole file; what can be read is kept beside the mistakes.
pub(super) fn parse(text: &str) -> (Node, Vec<SyntaxError>) {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors
        .into_iter()
        .map(|error| SyntaxError {
            line: error.span().map_or(1, |span| lines.of(&span)),
            message: error.message().to_owned(),
        })
        .collect();
    (lines.table(&table), errors)
}

/// Turns byte offsets into line numbers.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn of(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start)
    }

    fn table(&self, table: &Spanned<DeTable<'_>>) -> Node {
        let members = table.get_ref().iter().map(|(key, value)| {
            let mut node = self.node(value);
            // A key's own line is where a person looks, also for a table or a long list.
            node.line = self.of(&key.span());
            (key.get_ref().to_string(), node)
        });
        Node { line: self.of(&table.span()), value: Value::Table(members.collect()) }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let line = self.of(&value.span());
        let scalar = |text: String, kind| Value::Scalar { text, kind };
        let value = match value.get_ref() {
            DeValue::String(text) => scalar(text.to_string(), Some(Kind::Text)),
            DeValue::Integer(number) => {
                let text = match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => number.as_str().to_owned(),
                };
                scalar(text, Some(Kind::Integer))
            }
            DeValue::Float(number) => scalar(number.as_str().to_owned(), Some(Kind::Float)),
            DeValue::Boolean(value) => scalar(value.to_string(), Some(Kind::Bool)),
            DeValue::Datetime(instant) => scalar(instant.to_string(), None),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(members) => {
                return self.table(&Spanned::new(value.span(), members.clone()));
            }
        };
        Node { line, value }
    }
}
