use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A HAProxy weight, 0 to 256 (configuration manual, section 5.2 "weight").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u16")]
pub struct Weight(u16);

/// A weight over 256 or not a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("weight {0} is not a whole number from 0 to 256")]
pub struct WeightError(String);

impl Weight {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(256);

    pub fn new(value: u64) -> Result<Self, WeightError> {
        match u16::try_from(value) {
            Ok(weight) if weight <= 256 => Ok(Self(weight)),
            _ => Err(WeightError(value.to_string())),
        }
    }

    /// The nearest weight.
    pub fn saturating(value: u64) -> Self {
        Self(u16::try_from(value).unwrap_or(256).min(256))
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u64> for Weight {
    type Error = WeightError;

    fn try_from(value: u64) -> Result<Self, WeightError> {
        Self::new(value)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> u16 {
        weight.0
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        let shown = || text.chars().take(20).collect::<String>();
        let value = text.parse().map_err(|_| WeightError(format!("{:?}", shown())))?;
        Self::new(value)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_weight_is_said_in_short() {
        let error = "9".repeat(1000).parse::<Weight>().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("weight {:?} is not a whole number from 0 to 256", "9".repeat(20))
        );
    }
}
