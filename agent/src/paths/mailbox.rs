//! Orders on their way from the stream to the thread that follows them: only the newest count, and they interrupt
//! whatever is being learned for older ones.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
};

use super::orders::Order;

/// Orders of a controller for this host. They replace those before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instructions {
    /// Of the plan, told back in reports.
    pub revision: u64,
    /// When this changes, the network has changed: what was learned before is stale.
    pub epoch: u64,
    /// What connections are to do.
    pub orders: Vec<Order>,
}

#[derive(Debug, Default)]
struct Inner {
    newest: Mutex<Option<Instructions>>,
    reader: Mutex<Option<Thread>>,
    interrupted: AtomicBool,
    stopped: AtomicBool,
}

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Mailbox(Arc<Inner>);

impl Mailbox {
    /// Puts orders in and wakes the reader.
    pub fn put(&self, instructions: Instructions) {
        *self.0.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(instructions);
        self.wake();
    }

    /// Tells the reader to end.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// The newest orders since the last call. What is learned from now on is not interrupted by what came before.
    #[must_use]
    pub fn take(&self) -> Option<Instructions> {
        self.0.interrupted.store(self.is_stopped(), Ordering::Release);
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the reader is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Set while something waits here.
    #[must_use]
    pub fn interruption(&self) -> &AtomicBool {
        &self.0.interrupted
    }

    /// The thread to be woken.
    pub(super) fn read_by(&self, thread: Thread) {
        *self.0.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    fn wake(&self) {
        self.0.interrupted.store(true, Ordering::Release);
        if let Some(reader) = &*self.0.reader.lock().unwrap_or_else(PoisonError::into_inner) {
            reader.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_orders_count_and_the_end_stays() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.take(), None);
        for revision in 1..=2 {
            mailbox.put(Instructions { revision, ..Instructions::default() });
        }
        assert!(mailbox.interruption().load(Ordering::Acquire));
        assert_eq!(mailbox.take().map(|taken| taken.revision), Some(2));
        assert!(!mailbox.interruption().load(Ordering::Acquire));
        mailbox.stop();
        assert_eq!(mailbox.take(), None);
        assert!(mailbox.is_stopped() && mailbox.interruption().load(Ordering::Acquire));
    }
}
