//! GPUs that are busy all the time and touch no memory: what runs there waits for something, or never ends. Whoever computes reads and writes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Since when which GPU has been found so at every look, shared between the sensor that looks and whoever tells of processes. Times are
/// of the host's monotonic clock, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Spinning(Arc<Mutex<BTreeMap<u32, u64>>>);

impl Spinning {
    /// What a look at one GPU showed.
    pub(crate) fn note(&self, gpu: u32, spins: bool, now_ns: u64) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spins {
            since.entry(gpu).or_insert(now_ns);
        } else {
            since.remove(&gpu);
        }
    }

    /// Since when the GPU has been so; nothing if it is not, or nobody looks.
    pub(crate) fn since_ns(&self, gpu: u32) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&gpu).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_first_look_that_shows_it_to_the_first_that_does_not() {
        let spinning = Spinning::default();
        spinning.note(1, true, 5);
        spinning.note(1, true, 9);
        assert_eq!((spinning.since_ns(1), spinning.since_ns(0)), (Some(5), None));
        spinning.note(1, false, 11);
        assert_eq!(spinning.since_ns(1), None);
    }
}
