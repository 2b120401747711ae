pub use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, SpanPrinter};

/// An instant in UTC, for people and for ramps; never for safety (see `design`, "Leadership":
/// deadlines count on the monotonic clock).
pub type Timestamp = jiff::Timestamp;

/// Reads `10s`, `1m30s`, `250ms`, or a bare number of seconds; at most a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is not a duration such as 250ms, 10s or 1m30s");
    let duration = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => {
            let signed: SignedDuration = text.parse().map_err(|_| problem())?;
            Duration::try_from(signed).map_err(|_| problem())?
        }
    };
    if duration > LONGEST {
        return Err(format!("{text:?} is over a hundred years"));
    }
    Ok(duration)
}

/// An instant and this long after it are both within the clocks' range.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Writes a duration as [`parse_duration`] reads it, such as `1m30s`.
pub fn format_duration(duration: Duration) -> String {
    SpanPrinter::new()
        .designator(Designator::Compact)
        .spacing(jiff::fmt::friendly::Spacing::None)
        .unsigned_duration_to_string(&duration)
}

/// Serde as `"1m30s"`.
pub mod friendly {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::Duration;

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        super::parse_duration(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for text in ["250ms", "10s", "1m30s", "1h", "0s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("5").unwrap(), Duration::from_secs(5));
        for bad in ["99999999h", "4294967295", "", "-1s", "ten", "1 fortnight", "1.5.2s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
