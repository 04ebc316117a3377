//! Streaming statistics of bounded size that forget slowly.

/// Buckets an octave; a quantile is right to within 9 %.
const BUCKETS: f64 = 8.0;

/// A histogram with logarithmic buckets over positive numbers. Older values lose weight: whenever the histogram
/// holds `capacity` of them, all counts are halved.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    /// Bucket and count, by bucket; only buckets in use, of which healthy jobs have a handful.
    counts: Vec<(i16, u32)>,
    total: u32,
    capacity: u32,
}

impl Histogram {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { counts: Vec::new(), total: 0, capacity: capacity.max(2) }
    }

    pub(crate) fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let bucket = (value.max(1e-12).log2() * BUCKETS).floor().clamp(-4_000.0, 4_000.0) as i16;
        match self.counts.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(i) => self.counts[i].1 += 1,
            Err(i) => self.counts.insert(i, (bucket, 1)),
        }
        self.total += 1;
        if self.total >= self.capacity {
            for (_, count) in &mut self.counts {
                *count /= 2;
            }
            self.counts.retain(|(_, count)| *count > 0);
            self.total = self.counts.iter().map(|(_, count)| count).sum();
        }
    }

    /// The value below which the fraction `q` lies.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let target = (f64::from(self.total) * q).ceil().max(1.0) as u32;
        let mut below = 0;
        for (bucket, count) in &self.counts {
            below += count;
            if below >= target {
                return Some(((f64::from(*bucket) + 0.5) / BUCKETS).exp2());
            }
        }
        None
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }
}

/// The largest value of the last one to two spans of some position that grows.
#[derive(Clone, Debug)]
pub(crate) struct RecentMax {
    span: u64,
    began: u64,
    current: u64,
    previous: u64,
}

impl RecentMax {
    pub(crate) fn new(span: u64) -> Self {
        Self { span: span.max(1), began: 0, current: 0, previous: 0 }
    }

    pub(crate) fn push(&mut self, value: u64, position: u64) {
        if position.saturating_sub(self.began) >= self.span {
            self.previous = std::mem::take(&mut self.current);
            self.began = position;
        }
        self.current = self.current.max(value);
    }

    pub(crate) fn get(&self) -> u64 {
        self.current.max(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_within_a_bucket() {
        let mut histogram = Histogram::new(10_000);
        for i in 1..=1_000 {
            histogram.push(f64::from(i));
        }
        for (q, expected) in [(0.1, 100.0), (0.5, 500.0), (0.99, 990.0)] {
            let got = histogram.quantile(q).unwrap_or(0.0);
            assert!((got / expected - 1.0).abs() < 0.09, "{q}: {got}");
        }
    }

    #[test]
    fn old_values_fade() {
        let mut histogram = Histogram::new(64);
        (0..1_000).for_each(|_| histogram.push(10.0));
        (0..200).for_each(|_| histogram.push(1_000.0));
        assert!(histogram.median().is_some_and(|median| median > 900.0));
        assert!(histogram.total < 64 && histogram.counts.len() < 64);
        let mut recent = RecentMax::new(10);
        recent.push(99, 0);
        (1..19).for_each(|i| recent.push(1, i));
        assert_eq!(recent.get(), 99);
        (19..40).for_each(|i| recent.push(1, i));
        assert_eq!(recent.get(), 1);
    }

    #[test]
    fn nothing_odd_breaks_it() {
        let mut histogram = Histogram::new(4);
        for value in [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MAX, f64::MIN_POSITIVE] {
            histogram.push(value);
        }
        assert!(histogram.median().is_some());
        assert_eq!(Histogram::new(0).median(), None);
    }
}
