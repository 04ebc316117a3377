//! How measured values are distributed, for interfaces that show it: counts in fixed buckets, so that those of many ranks
//! and hours add up.

use serde::{Deserialize, Serialize};

/// What is measured, and with it the buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Times: from 10 µs, which a small collective takes, to 500 s.
    #[default]
    Seconds,
    /// Bandwidths: from 1 MB/s to 1 TB/s.
    BytesPerSecond,
}

const SECONDS: [f64; 24] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
];

const BYTES_PER_SECOND: [f64; 19] =
    [1e6, 2e6, 5e6, 1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9, 2e9, 5e9, 1e10, 2e10, 5e10, 1e11, 2e11, 5e11, 1e12];

impl Scale {
    /// Upper bounds of the buckets, ascending; what is above the last is in one more.
    #[must_use]
    pub fn bounds(self) -> &'static [f64] {
        match self {
            Scale::Seconds => &SECONDS,
            Scale::BytesPerSecond => &BYTES_PER_SECOND,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    scale: Scale,
    /// By bucket, of which the last has no upper bound; empty before the first value.
    counts: Vec<u64>,
    sum: f64,
}

impl Distribution {
    /// An empty one.
    #[must_use]
    pub fn new(scale: Scale) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Takes in `times` values that are all `value`. What is no number is left out.
    pub fn add(&mut self, value: f64, times: u64) {
        if !value.is_finite() || times == 0 {
            return;
        }
        let bounds = self.scale.bounds();
        self.counts.resize(bounds.len() + 1, 0);
        let bucket = bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
        self.sum += value * times as f64;
    }

    /// Takes in another one of the same scale.
    pub fn merge(&mut self, other: &Distribution) {
        if other.counts.is_empty() || self.scale != other.scale {
            return;
        }
        self.counts.resize(other.counts.len(), 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.sum += other.sum;
    }

    /// What is measured.
    #[must_use]
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Values by bucket, the last of which has no upper bound. Empty if there are none.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Sum of all values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let mut times = Distribution::default();
        times.add(0.1, 3);
        times.add(0.100_1, 1);
        times.add(1e9, 1);
        times.add(f64::NAN, 5);
        let at = |bound: f64| Scale::Seconds.bounds().iter().position(|b| *b == bound).unwrap();
        assert_eq!((times.counts()[at(0.1)], times.counts()[at(0.25)]), (3, 1));
        assert_eq!(times.counts().last(), Some(&1));
        assert_eq!(times.count(), 5);
        assert!((times.sum() - 1e9 - 0.400_1).abs() < 1e-6);
    }

    #[test]
    fn distributions_add_up() {
        let mut all = Distribution::new(Scale::BytesPerSecond);
        let mut some = Distribution::new(Scale::BytesPerSecond);
        all.merge(&some);
        assert_eq!(all.counts(), [0; 0]);
        some.add(3e9, 2);
        all.merge(&some);
        all.merge(&some);
        assert_eq!((all.count(), all.sum()), (4, 12e9));
        all.merge(&Distribution::default());
        assert_eq!(all.count(), 4);
    }

    #[test]
    fn bounds_ascend() {
        for scale in [Scale::Seconds, Scale::BytesPerSecond] {
            assert!(scale.bounds().windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
