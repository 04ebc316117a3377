//! A store that kills the controller: how it is shown that an action survives that, at every step.
//!
//! Between two batches the controller acts on the world and hears from it; whether it dies before a batch is written, or
//! after, are therefore all the moments that can matter. With `C4_CRASH_AT=before:7` the process kills itself (SIGKILL,
//! as the machine's death would) when the seventh batch of the table `steer.actions` is about to be written, with
//! `after:7` once it is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustix::process::{Signal, getpid, kill_process};

use super::{Row, Store, StoreError, Tables, Write};
use crate::steer::journal::ACTIONS;

/// The variable that names the moment.
const VARIABLE: &str = "C4_CRASH_AT";

/// When to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before so many batches are written, from 1.
    Before(u64),
    /// After that.
    After(u64),
}

impl CrashPoint {
    /// The moment that the environment names, if it names one.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        Self::parse(&std::env::var(VARIABLE).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (side, number) = text.split_once(':')?;
        let number = number.parse().ok().filter(|number| *number > 0)?;
        match side {
            "before" => Some(Self::Before(number)),
            "after" => Some(Self::After(number)),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct CrashingStore {
    store: Arc<dyn Store>,
    point: CrashPoint,
    batches: AtomicU64,
}

/// The store, which dies at the moment that the environment names, if it names one.
#[must_use]
pub fn guarded(store: Arc<dyn Store>) -> Arc<dyn Store> {
    match CrashPoint::from_environment() {
        Some(point) => Arc::new(CrashingStore::new(store, point)),
        None => store,
    }
}

impl CrashingStore {
    /// A store that dies at `point`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, point: CrashPoint) -> Self {
        tracing::warn!("{VARIABLE} is set: this controller is going to kill itself");
        Self { store, point, batches: AtomicU64::new(0) }
    }
}

impl Store for CrashingStore {
    fn apply(&self, batch: &[Write]) -> Result<(), StoreError> {
        if !batch.iter().any(|write| write.table == ACTIONS) {
            return self.store.apply(batch);
        }
        let number = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        if self.point == CrashPoint::Before(number) {
            die();
        }
        self.store.apply(batch)?;
        if self.point == CrashPoint::After(number) {
            die();
        }
        Ok(())
    }

    fn last(&self, table: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.last(table, limit)
    }

    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }

    fn everything(&self) -> Result<Tables, StoreError> {
        self.store.everything()
    }
}

fn die() {
    let _ = kill_process(getpid(), Signal::KILL);
    // The signal is on its way, and nothing more may be written.
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_named() {
        assert_eq!(CrashPoint::parse("before:7"), Some(CrashPoint::Before(7)));
        assert_eq!(CrashPoint::parse("after:1"), Some(CrashPoint::After(1)));
        for nothing in ["", "before", "after:0", "during:1", "before:x"] {
            assert_eq!(CrashPoint::parse(nothing), None, "{nothing:?}");
        }
    }
}
