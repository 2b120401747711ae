use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A numbered place in a backend, counted from 1: the position in a `server-template` line, or the
/// fixed `id` of a dynamic server. The same number on every load balancer, so that consistent
/// hashing agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SlotNumber(u32);

/// A slot number of 0 or over [`SlotNumber::MAX`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slot {0:?} is not a whole number from 1 to {max}", max = SlotNumber::MAX.0)]
pub struct SlotNumberError(String);

impl SlotNumber {
    /// Five digits, so that keys sort as numbers do.
    pub const MAX: Self = Self(99_999);

    pub fn new(number: u32) -> Result<Self, SlotNumberError> {
        if number == 0 || number > Self::MAX.0 {
            return Err(SlotNumberError(number.to_string()));
        }
        Ok(Self(number))
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// `00001`: the form used in keys.
    pub fn padded(self) -> String {
        format!("{:05}", self.0)
    }

    /// Every slot of a table of `count` slots, in order.
    pub fn first(count: u32) -> impl Iterator<Item = Self> {
        (1..=count.min(Self::MAX.0)).map(Self)
    }
}

impl TryFrom<u32> for SlotNumber {
    type Error = SlotNumberError;

    fn try_from(number: u32) -> Result<Self, SlotNumberError> {
        Self::new(number)
    }
}

impl From<SlotNumber> for u32 {
    fn from(slot: SlotNumber) -> u32 {
        slot.0
    }
}

impl FromStr for SlotNumber {
    type Err = SlotNumberError;

    fn from_str(text: &str) -> Result<Self, SlotNumberError> {
        text.parse()
            .ok()
            .and_then(|n| Self::new(n).ok())
            .ok_or_else(|| SlotNumberError(text.chars().take(20).collect()))
    }
}

impl fmt::Display for SlotNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
