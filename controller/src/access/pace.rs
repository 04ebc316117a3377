//! How often one address may call: a bucket of tokens each, which holds two seconds' worth.

use std::{collections::HashMap, net::IpAddr};

use c4_detect::observation::Timestamp;

/// Addresses remembered at most. When there are more, those that have been quiet the longest are forgotten, which
/// gives them a full bucket again: it costs nothing but memory to be forgotten.
const MOST: usize = 65_536;

#[derive(Debug)]
struct Bucket {
    left: f64,
    seen: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    buckets: HashMap<IpAddr, Bucket>,
}

impl Pace {
    pub(super) fn new(per_second: f64) -> Self {
        Self { per_second, buckets: HashMap::new() }
    }

    /// Whether `address` may make another call now.
    pub(super) fn take(&mut self, address: IpAddr, now: Timestamp) -> bool {
        let full = (self.per_second * 2.0).max(1.0);
        if self.buckets.len() >= MOST {
            // Whoever has been silent for as long as a bucket takes to fill up is as good as new.
            self.buckets.retain(|_, bucket| now.micros_since(bucket.seen) < 2_000_000);
            if self.buckets.len() >= MOST {
                self.buckets.clear();
            }
        }
        let bucket = self.buckets.entry(address.to_canonical()).or_insert(Bucket { left: full, seen: now });
        let passed = now.micros_since(bucket.seen) as f64 / 1e6;
        bucket.left = (bucket.left + passed * self.per_second).min(full);
        bucket.seen = now;
        let enough = bucket.left >= 1.0;
        if enough {
            bucket.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_calls_too_often_waits_and_others_do_not() {
        let mut pace = Pace::new(5.0);
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let at = |ms: u64| Timestamp(ms * 1000);
        assert_eq!((0..20).filter(|_| pace.take(a, at(0))).count(), 10);
        assert!(pace.take(b, at(0)));
        assert!(!pace.take(a, at(100)));
        assert!(pace.take(a, at(300)));
        assert_eq!((0..100).filter(|n| pace.take(a, at(300 + n * 10))).count(), 5, "five a second, no more");
        assert!(pace.take(a, at(0)) || !pace.take(a, at(0)), "a clock that went back is no panic");
    }

    #[test]
    fn a_flood_of_addresses_does_not_fill_the_memory() {
        let mut pace = Pace::new(5.0);
        for n in 0..200_000_u32 {
            pace.take(IpAddr::from(n.to_be_bytes()), Timestamp(0));
        }
        assert!(pace.buckets.len() <= MOST);
    }
}
