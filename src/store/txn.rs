use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Error, ErrorKind, Key, LeaseId, MAX_TXN_BYTES, MAX_TXN_LEN, MAX_VALUE_LEN, Result, Revision,
};

/// What must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(Key),
    /// The key exists and was created by this revision: it was not deleted since.
    CreatedAt(Key, Revision),
    /// The key exists and was last written by this revision or an earlier one.
    UnmodifiedSince(Key, Revision),
}

impl Guard {
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::CreatedAt(key, _) | Self::UnmodifiedSince(key, _) => key,
        }
    }
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put {
        key: Key,
        value: Bytes,
        lease: Option<LeaseId>,
    },
    /// Deleting an absent key is fine.
    Delete {
        key: Key,
    },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Bytes of its key and value.
    pub(crate) fn len(&self) -> usize {
        let value = match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        };
        self.key().as_str().len() + value
    }
}

/// Guards and writes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key, value: value.into(), lease: None });
        self
    }

    #[must_use]
    pub fn put_leased(mut self, key: Key, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.writes.push(Write::Put { key, value: value.into(), lease: Some(lease) });
        self
    }

    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.push(Write::Delete { key });
        self
    }
}

impl Txn {
    /// What every backend refuses before it is asked.
    pub(crate) fn check(&self, store: &'static str) -> Result<()> {
        let fail = |kind, reason: String| {
            let subject = self.writes.first().map_or("", |w| w.key().as_str());
            Err(Error::new(kind, store, "commit", subject, reason))
        };
        if self.writes.is_empty() {
            return fail(ErrorKind::Unsupported, "a transaction needs at least one write".into());
        }
        let len = self.guards.len() + self.writes.len();
        if len > MAX_TXN_LEN {
            let reason =
                format!("{len} guards and writes; a transaction has at most {MAX_TXN_LEN}");
            return fail(ErrorKind::TooLarge, reason);
        }
        let bytes: usize = self.guards.iter().map(|g| g.key().as_str().len()).sum::<usize>()
            + self.writes.iter().map(Write::len).sum::<usize>();
        let mut keys = BTreeSet::new();
        for write in &self.writes {
            if !keys.insert(write.key()) {
                let reason = format!("two writes to {:?} in one transaction", write.key().as_str());
                return fail(ErrorKind::Unsupported, reason);
            }
            if let Write::Put { key, value, .. } = write
                && value.len() > MAX_VALUE_LEN
            {
                let reason = format!(
                    "the value of {:?} is {} bytes; at most {MAX_VALUE_LEN} are allowed",
                    key.as_str(),
                    value.len()
                );
                return fail(ErrorKind::TooLarge, reason);
            }
        }
        if bytes > MAX_TXN_BYTES {
            let reason = format!(
                "{bytes} bytes of keys and values; a transaction has at most {MAX_TXN_BYTES}"
            );
            return fail(ErrorKind::TooLarge, reason);
        }
        Ok(())
    }
}
