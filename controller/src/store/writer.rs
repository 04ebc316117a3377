//! Writes batches on a thread of its own, in the order in which they were handed over.
//!
//! The queue holds 1024 batches; a batch that finds no room is refused at once, and its owner is told as if the disk
//! had. A batch that is being written when the program ends is in the file whole or not at all.

use std::sync::{Arc, mpsc};

use super::{Store, StoreError, Write};

/// Batches that may wait.
const DEPTH: usize = 1024;

/// What became of a batch.
pub type Written = Result<(), StoreError>;

struct Job {
    batch: Vec<Write>,
    then: Box<dyn FnOnce(Written) + Send>,
}

/// See the module. The thread ends with the last clone, once everything handed over is written.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::SyncSender<Job>,
}

impl Writer {
    /// A writer to `store`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn new(store: Arc<dyn Store>) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<Job>(DEPTH);
        std::thread::Builder::new().name("store".into()).spawn(move || {
            for job in waiting {
                (job.then)(store.apply(&job.batch));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Hands a batch over. `then` is called on the writer's thread once it is written or cannot be.
    ///
    /// # Errors
    /// There is no room: nothing will be written, and `then` is not called.
    pub fn write(&self, batch: Vec<Write>, then: impl FnOnce(Written) + Send + 'static) -> Written {
        self.jobs.try_send(Job { batch, then: Box::new(then) }).map_err(|_| StoreError::Busy)
    }
}
