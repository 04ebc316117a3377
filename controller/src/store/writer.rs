//! Writes batches on a thread of its own, in the order in which they were handed over. Those that wait are written together:
//! on a slow disk, what a fault gives to write down costs the time of two writes, and not that of each.
//!
//! The queue holds 1024 batches; a batch that finds no room is refused at once, and its owner is told as if the disk
//! had. A batch that is being written when the program ends is in the file whole or not at all.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use super::{Store, StoreError, Write};

/// Batches that may wait.
const DEPTH: usize = 1024;
/// Changes that are written together at most: etcd takes some more.
const TOGETHER: usize = 100;

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
            let mut next = None;
            while let Some(job) = next.take().or_else(|| waiting.recv().ok()) {
                let mut jobs = vec![job];
                let mut changes = jobs[0].batch.len();
                while let Ok(job) = waiting.try_recv() {
                    changes += job.batch.len();
                    if changes > TOGETHER {
                        next = Some(job);
                        break;
                    }
                    jobs.push(job);
                }
                write(&*store, jobs);
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

fn write(store: &dyn Store, jobs: Vec<Job>) {
    let written = match &jobs[..] {
        [job] => store.apply(&job.batch),
        jobs => store.apply(&newest(jobs)),
    };
    if written.is_ok() || jobs.len() == 1 {
        jobs.into_iter().for_each(|job| (job.then)(written.clone()));
        return;
    }
    // It may be the fault of one of them. To write a change twice does no harm.
    for job in jobs {
        (job.then)(store.apply(&job.batch));
    }
}

/// All changes in one batch: of each row, only the newest counts.
fn newest(jobs: &[Job]) -> Vec<Write> {
    let changes = jobs.iter().flat_map(|job| &job.batch);
    let rows: BTreeMap<_, &Write> = changes.map(|write| ((&write.table, &write.key), write)).collect();
    rows.into_values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::store::{Row, Tables};

    /// A store that writes when it is let, refuses batches with a bad row, and counts.
    #[derive(Debug, Default)]
    struct Slow {
        open: Mutex<bool>,
        opened: Condvar,
        batches: Mutex<Vec<Vec<Write>>>,
    }

    impl Store for Slow {
        fn apply(&self, batch: &[Write]) -> Written {
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
            if batch.iter().any(|write| write.key == "bad") {
                return Err(StoreError::Access("bad".into()));
            }
            self.batches.lock().unwrap().push(batch.to_vec());
            Ok(())
        }

        fn last(&self, _: &str, _: usize) -> Result<Vec<Row>, StoreError> {
            Ok(Vec::new())
        }

        fn get(&self, _: &str, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }

        fn everything(&self) -> Result<Tables, StoreError> {
            Ok(Tables::new())
        }
    }

    fn put(key: &str, value: &str) -> Write {
        Write::put("t", key, value.as_bytes().to_vec())
    }

    /// Hands batches over while the store stands still; what was written then, and what was said of each.
    fn written(batches: &[Vec<Write>]) -> (Vec<Vec<Write>>, Vec<bool>) {
        let store = Arc::new(Slow::default());
        let writer = Writer::new(store.clone()).unwrap();
        let (tell, told) = mpsc::channel();
        for (index, batch) in batches.iter().enumerate() {
            let tell = tell.clone();
            writer.write(batch.clone(), move |written| tell.send((index, written.is_ok())).unwrap()).unwrap();
        }
        *store.open.lock().unwrap() = true;
        store.opened.notify_all();
        let said: Vec<(usize, bool)> = (0..batches.len()).map(|_| told.recv().unwrap()).collect();
        assert!(said.iter().map(|(index, _)| *index).eq(0..batches.len()), "in order: {said:?}");
        let batches = store.batches.lock().unwrap().clone();
        (batches, said.into_iter().map(|(_, written)| written).collect())
    }

    #[test]
    fn what_waits_is_written_together_in_its_newest_form() {
        let batches: Vec<Vec<Write>> =
            (0..60).map(|n| vec![put("a", &n.to_string()), put(&format!("b{n}"), "1")]).collect();
        let (written, said) = written(&batches);
        assert!(said.iter().all(|written| *written));
        assert!(written.len() <= 4, "{} times for {} batches", written.len(), batches.len());
        let all: Vec<&Write> = written.iter().flatten().collect();
        assert_eq!(all.iter().rfind(|write| write.key == "a"), Some(&&put("a", "59")));
        assert_eq!(all.iter().filter(|write| write.key != "a").count(), 60);
        for batch in &written {
            assert!(batch.iter().filter(|write| write.key == "a").count() <= 1, "etcd takes a key once");
        }
    }

    #[test]
    fn one_that_cannot_be_written_takes_no_other_with_it() {
        let batches = ["first", "a", "bad", "b", "c"].map(|key| vec![put(key, "1")]);
        let (written, said) = written(&batches);
        assert_eq!(said, [true, true, false, true, true]);
        let keys: Vec<&str> = written.iter().flatten().map(|write| write.key.as_str()).collect();
        assert_eq!(keys, ["first", "a", "b", "c"]);
    }
}
