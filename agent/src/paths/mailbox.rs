//! What somebody is to do, on its way to the thread that does it: only the newest counts, and it interrupts whatever is being
//! done for what came before. The thread ends with whoever started it.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
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
    /// How many trains have to come through a path that has lost something until it is suspected no more.
    pub trusted_after: u32,
}

#[derive(Debug)]
struct Inner<T> {
    newest: Mutex<Option<T>>,
    reader: Mutex<Option<Thread>>,
    interrupted: AtomicBool,
    stopped: AtomicBool,
}

/// See the module. Clones share it.
#[derive(Debug)]
pub struct Mailbox<T>(Arc<Inner<T>>);

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let (newest, reader) = (Mutex::default(), Mutex::default());
        let (interrupted, stopped) = (AtomicBool::default(), AtomicBool::default());
        Self(Arc::new(Inner { newest, reader, interrupted, stopped }))
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Mailbox<T> {
    /// Puts something in, in the place of what is there, and wakes the reader.
    pub fn put(&self, newest: T) {
        *self.0.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(newest);
        self.wake();
    }

    /// Tells the reader to end.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// The newest since the last call. What is done from now on is not interrupted by what came before.
    #[must_use]
    pub fn take(&self) -> Option<T> {
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

    /// Whether something waits here.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.0.interrupted.store(true, Ordering::Release);
        if let Some(reader) = &*self.0.reader.lock().unwrap_or_else(PoisonError::into_inner) {
            reader.unpark();
        }
    }
}

/// A thread that reads a mailbox. Dropped, it is told to end, and waited for.
#[derive(Debug)]
pub struct Reader<T> {
    mailbox: Mailbox<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Reader<T> {
    /// Starts it: it is to return soon after its mailbox says so.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(name: &str, read: impl FnOnce(Mailbox<T>) + Send + 'static) -> io::Result<Self> {
        let mailbox = Mailbox::default();
        let own = mailbox.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || read(own))?;
        *mailbox.0.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Ok(Self { mailbox, thread: Some(thread) })
    }
}

impl<T> Reader<T> {
    /// What it reads.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox<T> {
        &self.mailbox
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the thread.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_counts_and_the_end_stays() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.take(), None);
        for number in 1..=2 {
            mailbox.put(number);
        }
        assert!(mailbox.is_interrupted());
        assert_eq!(mailbox.take(), Some(2));
        assert!(!mailbox.is_interrupted());
        mailbox.stop();
        assert_eq!(mailbox.take(), None);
        assert!(mailbox.is_stopped() && mailbox.interruption().load(Ordering::Acquire));
    }

    #[test]
    fn a_reader_is_woken_and_ends_with_its_owner() {
        let (sent, heard) = std::sync::mpsc::channel();
        let read = move |mailbox: Mailbox<u8>| {
            while !mailbox.is_stopped() {
                if let Some(taken) = mailbox.take() {
                    sent.send(taken).expect("heard");
                }
                thread::park();
            }
        };
        let reader = Reader::start("reader", read).expect("a thread");
        reader.mailbox().put(7);
        assert_eq!(heard.recv(), Ok(7));
        drop(reader);
        assert!(heard.recv().is_err(), "it has ended");
    }
}
