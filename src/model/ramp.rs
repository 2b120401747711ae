use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Timestamp, Weight, time};

/// How a new server's weight grows: from `min` by `step` every `interval` up to `max`.
///
/// The weight is a pure function of the stored start time, so that every load balancer computes the
/// same one and no step costs a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ramp {
    pub min: Weight,
    pub max: Weight,
    pub step: Weight,
    /// Time between two steps.
    #[serde(with = "time::friendly")]
    pub interval: Duration,
}

/// Ramp settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RampError {
    #[error("ramp min {min} is over ramp max {max}")]
    MinOverMax { min: Weight, max: Weight },
    #[error("ramp step is 0, so the weight would never leave min {min}")]
    NoStep { min: Weight },
    #[error("ramp interval is 0")]
    NoInterval,
}

impl Default for Ramp {
    fn default() -> Self {
        Self {
            min: Weight::saturating(10),
            max: Weight::saturating(100),
            step: Weight::saturating(10),
            interval: Duration::from_secs(10),
        }
    }
}

impl Ramp {
    /// Full weight at once.
    pub fn flat(weight: Weight) -> Self {
        Self { min: weight, max: weight, step: weight, interval: Duration::from_secs(1) }
    }

    pub fn check(&self) -> Result<(), RampError> {
        if self.min > self.max {
            return Err(RampError::MinOverMax { min: self.min, max: self.max });
        }
        if self.min < self.max && self.step == Weight::ZERO {
            return Err(RampError::NoStep { min: self.min });
        }
        if self.min < self.max && self.interval.is_zero() {
            return Err(RampError::NoInterval);
        }
        Ok(())
    }

    /// The weight at `now` of a server that started at `started` and aims for `target`, its own
    /// weight where the source gives one and `max` where not. A start in the future (another host's
    /// clock) counts as now.
    pub fn weight_at(&self, started: Timestamp, now: Timestamp, target: Option<Weight>) -> Weight {
        let target = self.target(target);
        let start = self.min.min(target);
        let grown = self.steps(started, now).saturating_mul(self.step.get().into());
        Weight::saturating(grown.saturating_add(start.get().into())).min(target)
    }

    /// How long from `now` until the weight changes next; `None` once the target is reached.
    pub fn next_change(
        &self,
        started: Timestamp,
        now: Timestamp,
        target: Option<Weight>,
    ) -> Option<Duration> {
        if self.weight_at(started, now, target) >= self.target(target) {
            return None;
        }
        let elapsed = elapsed_ms(started, now);
        let interval = self.interval_ms();
        let in_future = started.as_millisecond().saturating_sub(now.as_millisecond()).max(0) as u64;
        Some(Duration::from_millis((interval - elapsed % interval).saturating_add(in_future)))
    }

    /// The latest start with which a server has at least this weight at `now`, as far as its target
    /// allows.
    pub fn start_for(&self, weight: Weight, now: Timestamp, target: Option<Weight>) -> Timestamp {
        let target = self.target(target);
        let missing = weight.min(target).get().saturating_sub(self.min.min(target).get());
        let steps = u64::from(missing.div_ceil(self.step.get().max(1)));
        let elapsed = self.interval_ms().saturating_mul(steps);
        // Before the clocks began is as good as the epoch.
        now.checked_sub(std::time::Duration::from_millis(elapsed)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The weight a server ends at.
    pub fn target(&self, own: Option<Weight>) -> Weight {
        own.unwrap_or(self.max)
    }

    fn steps(&self, started: Timestamp, now: Timestamp) -> u64 {
        elapsed_ms(started, now) / self.interval_ms()
    }

    fn interval_ms(&self) -> u64 {
        u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

fn elapsed_ms(started: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_millisecond().saturating_sub(started.as_millisecond())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn the_weight_grows_by_a_step_each_interval_and_stops_at_max() {
        let ramp = Ramp::default();
        let weights: Vec<u16> = [0, 9_999, 10_000, 45_000, 90_000, 1_000_000]
            .map(|t| ramp.weight_at(at(0), at(t), None).get())
            .into();
        assert_eq!(weights, [10, 10, 20, 50, 100, 100]);
    }

    #[test]
    fn a_min_over_one_and_a_min_of_zero_both_ramp() {
        for min in [0, 5] {
            let ramp = Ramp { min: Weight::saturating(min), ..Ramp::default() };
            assert_eq!(u64::from(ramp.weight_at(at(0), at(10_000), None).get()), min + 10);
        }
    }

    proptest! {
        #[test]
        fn the_weight_never_falls_and_changes_just_when_it_is_said_to(
            min in 0u64..=256, max in 0u64..=256, step in 1u64..=256, interval in 1u64..100_000,
            started in 0i64..1_000_000, now in 0i64..2_000_000, own in proptest::option::of(0u64..=256),
        ) {
            let ramp = Ramp {
                min: Weight::saturating(min), max: Weight::saturating(max),
                step: Weight::saturating(step), interval: Duration::from_millis(interval),
            };
            let own = own.map(Weight::saturating);
            let weight = |t| ramp.weight_at(at(started), at(t), own);
            prop_assert!(weight(now) <= ramp.target(own));
            match ramp.next_change(at(started), at(now), own) {
                None => prop_assert_eq!(weight(i64::from(u32::MAX)), weight(now)),
                Some(wait) => {
                    let change = now + wait.as_millis() as i64;
                    prop_assert_eq!(weight(change - 1), weight(now));
                    prop_assert!(weight(change) > weight(now));
                }
            }
        }

        #[test]
        fn a_start_is_found_for_every_weight_that_the_ramp_reaches(
            min in 0u64..=256, max in 0u64..=256, step in 1u64..=256, interval in 1u64..100_000,
            wanted in 0u64..=256, now in 1_000_000_000_000i64..1_000_001_000_000,
        ) {
            let ramp = Ramp {
                min: Weight::saturating(min.min(max)), max: Weight::saturating(max),
                step: Weight::saturating(step), interval: Duration::from_millis(interval),
            };
            let wanted = Weight::saturating(wanted);
            let started = ramp.start_for(wanted, at(now), None);
            let weight = ramp.weight_at(started, at(now), None);
            prop_assert!(weight >= wanted.min(ramp.max) && weight <= ramp.max);
            prop_assert!(weight.get() < wanted.max(ramp.min).get() + ramp.step.get());
        }
    }
}
