//! The worker's side of the fault directory: says who and where it is, and does what it is told to do wrong.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{checkpoint::replace_file, clock};
use crate::faults::{FaultDir, WorkerFault, remove_if_there};

/// Least time between two rewrites of the iteration file.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What goes wrong in one iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Sleep that long before the collectives.
    pub sleep: Duration,
    /// Keep the stream busy that long before the collectives.
    pub busy: Duration,
    /// Leave out the first collective.
    pub skip: bool,
    /// Do the first collective with another size.
    pub resize: bool,
}

/// Reads faults and writes progress.
#[derive(Debug)]
pub struct Control {
    dir: Option<FaultDir>,
    rank: u32,
    told: Option<Instant>,
    complained: bool,
}

impl Control {
    /// Writes this process's id into the directory, where there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(dir: Option<FaultDir>, rank: u32) -> anyhow::Result<Self> {
        if let Some(dir) = &dir {
            fs::create_dir_all(&dir.0).with_context(|| format!("cannot create {}", dir.0.display()))?;
            let path = dir.pid(rank);
            replace_file(&path, &format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self { dir, rank, told: None, complained: false })
    }

    /// What is to go wrong in `iteration`. A fault that happens once is taken away here.
    pub fn wrong(&mut self, iteration: u64) -> Wrong {
        let mut wrong = Wrong::default();
        let Some(dir) = &self.dir else { return wrong };
        let fault = match dir.read_fault(self.rank) {
            Ok(fault) => fault,
            Err(error) => {
                if !self.complained {
                    eprintln!("ringjob rank {}: {}: {error}", self.rank, dir.fault(self.rank).display());
                    self.complained = true;
                }
                None
            }
        };
        let applies = |until: Option<u64>| until.is_none_or(|last| iteration <= last);
        let once = match fault {
            None => false,
            Some(WorkerFault::Sleep { us, until_iteration }) => {
                wrong.sleep =
                    if applies(until_iteration) { Duration::from_micros(us) } else { Duration::ZERO };
                false
            }
            Some(WorkerFault::Busy { us, until_iteration }) => {
                wrong.busy =
                    if applies(until_iteration) { Duration::from_micros(us) } else { Duration::ZERO };
                false
            }
            Some(WorkerFault::Skip { once }) => {
                wrong.skip = true;
                once
            }
            Some(WorkerFault::Resize { once }) => {
                wrong.resize = true;
                once
            }
        };
        if once && let Err(error) = remove_if_there(&dir.fault(self.rank)) {
            eprintln!("ringjob rank {}: {}: {error}", self.rank, dir.fault(self.rank).display());
        }
        wrong
    }

    /// Says that `iteration` has begun, at most every 100 ms.
    pub fn tell(&mut self, iteration: u64) {
        let Some(dir) = &self.dir else { return };
        let now = clock::now();
        if self.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return;
        }
        self.told = Some(now);
        // Progress is for those who watch a test; the job does not depend on it.
        let _ = replace_file(&dir.iteration(self.rank), &format!("{iteration} {}\n", clock::unix_us()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_last_as_long_as_they_say() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let faults = FaultDir(dir.path().to_owned());
        let mut control = Control::new(Some(faults.clone()), 3).expect("control");
        assert_eq!(control.wrong(1), Wrong::default());

        fs::write(faults.fault(3), r#"{"kind":"sleep","us":20000,"until_iteration":7}"#).expect("written");
        assert_eq!(control.wrong(7).sleep, Duration::from_millis(20));
        assert_eq!(control.wrong(8), Wrong::default());

        fs::write(faults.fault(3), r#"{"kind":"skip","once":true}"#).expect("written");
        assert!(control.wrong(9).skip);
        assert!(!control.wrong(10).skip, "only once");

        fs::write(faults.fault(3), r#"{"kind":"explode"}"#).expect("written");
        assert_eq!(control.wrong(11), Wrong::default(), "an unknown fault is none");
    }

    #[test]
    fn says_where_it_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let faults = FaultDir(dir.path().to_owned());
        let mut control = Control::new(Some(faults.clone()), 0).expect("control");
        control.tell(41);
        let pid = fs::read_to_string(faults.pid(0)).expect("pid file");
        assert_eq!(pid.trim(), std::process::id().to_string());
        assert_eq!(faults.read_iteration(0).expect("iteration").0, 41);
    }
}
