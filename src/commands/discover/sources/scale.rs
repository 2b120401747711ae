use crate::model::Weight;

/// How the weights of a source become ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    top: u16,
    equal: bool,
    max: Weight,
}

impl Scale {
    /// The scale for all weights of one answer.
    pub fn of(weights: impl Iterator<Item = u16> + Clone, max: Weight) -> Self {
        let top = weights.clone().max().unwrap_or(0);
        Self { top, equal: weights.into_iter().all(|weight| weight == top), max }
    }

    /// The greatest weight becomes the maximum; even the least takes some traffic. Equal ones say
    /// nothing.
    pub fn weight(self, weight: u16) -> Option<Weight> {
        let scaled = u64::from(weight) * u64::from(self.max.get()) / u64::from(self.top.max(1));
        (!self.equal).then(|| Weight::saturating(scaled.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_proportion_and_none_vanishes() {
        let of = |weights: &[u16]| {
            let scale = Scale::of(weights.iter().copied(), Weight::saturating(100));
            weights.iter().map(|w| scale.weight(*w).map(Weight::get)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[40, 10, 0]), [Some(100), Some(25), Some(1)]);
        assert_eq!(of(&[u16::MAX, 1]), [Some(100), Some(1)]);
        assert_eq!(of(&[7, 7]), [None, None]);
        assert_eq!(of(&[0]), [None]);
    }
}
