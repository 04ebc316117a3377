//! GPUs that are busy all the time and touch no memory: what runs there waits for something, or never ends. Whoever computes reads and writes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// So many intervals after a look, what it showed says nothing any more.
const INTERVALS: u32 = 3;

/// Since when which GPU has been found so at every look, shared between the sensor that looks and whoever tells of processes. Times are
/// of the host's monotonic clock, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Spinning {
    seen: Arc<Mutex<BTreeMap<u32, Seen>>>,
    /// How old the last look may be. The driver may hang with the GPU.
    recent_ns: u64,
}

#[derive(Debug)]
struct Seen {
    since_ns: u64,
    last_ns: u64,
}

impl Spinning {
    /// For a sensor that looks at this interval.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let recent_ns = u64::try_from(interval.saturating_mul(INTERVALS).as_nanos()).unwrap_or(u64::MAX);
        Self { seen: Arc::default(), recent_ns }
    }

    /// What a look at one GPU showed.
    pub(crate) fn note(&self, gpu: u32, spins: bool, now_ns: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if spins {
            seen.entry(gpu).or_insert(Seen { since_ns: now_ns, last_ns: now_ns }).last_ns = now_ns;
        } else {
            seen.remove(&gpu);
        }
    }

    /// Since when the GPU has been so; nothing if it is not, or nobody has looked lately.
    pub(crate) fn since_ns(&self, gpu: u32, now_ns: u64) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&gpu)
            .filter(|seen| now_ns.saturating_sub(seen.last_ns) <= self.recent_ns)
            .map(|seen| seen.since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_first_look_that_shows_it_to_the_first_that_does_not() {
        let spinning = Spinning::new(Duration::from_nanos(4));
        spinning.note(1, true, 5);
        spinning.note(1, true, 9);
        assert_eq!((spinning.since_ns(1, 9), spinning.since_ns(0, 9)), (Some(5), None));
        spinning.note(1, false, 11);
        assert_eq!(spinning.since_ns(1, 11), None);
    }

    #[test]
    fn nothing_is_told_while_nobody_looks() {
        let spinning = Spinning::new(Duration::from_nanos(4));
        spinning.note(1, true, 5);
        assert_eq!((spinning.since_ns(1, 17), spinning.since_ns(1, 18)), (Some(5), None));
        spinning.note(1, true, 30);
        assert_eq!(spinning.since_ns(1, 30), Some(5), "still found so at every look");
    }
}
