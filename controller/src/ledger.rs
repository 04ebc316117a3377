//! The downtime ledger, by the parts the C4 paper counts.
//!
//! ```text
//!    checkpoint      fault      detected     all stopped      all ranks made progress
//! ───────┼─────────────┼────────────┼─────────────┼─────────────────────┼──────▶
//!        │post-checkp. │ detection  │diagnosis and│  re-initialisation  │
//!        │(done again) │            │ isolation   │                     │
//! ```
//! The last three follow each other without gap or overlap, so they add up to the wall time from fault to progress.
//! Work since the checkpoint is lost besides: it lies before the fault and is paid for after it.
//!
//! An outage belongs to one incarnation of a job. Several findings about it are one outage: the earliest fault and
//! the first detection count. Faults that only slow a job down stop nothing and have no entry.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use c4_detect::{
    finding::{Finding, FindingId, Kind},
    observation::{JobId, Timestamp},
};

use serde::{Deserialize, Serialize};

use crate::{
    groups::Checkpoint,
    store::{Store, StoreError, Write},
};

mod advice;
#[cfg(test)]
mod tests;

pub use advice::Recommendation;

/// Outages kept one by one for each job; the parts of older ones are kept as sums only.
const MAX_ENTRIES: usize = 1000;
/// Checkpoints remembered for each job: a report may arrive after the fault that came before it.
const MAX_CHECKPOINTS: usize = 16;

/// The parts of some downtime, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Work since the last checkpoint, which is done again.
    pub post_checkpoint_us: u64,
    /// From the fault to its detection.
    pub detection_us: u64,
    /// From the detection until every process of the job had stopped.
    pub diagnosis_isolation_us: u64,
    /// From there until all ranks had completed a collective.
    pub reinitialisation_us: u64,
}

impl Parts {
    /// Wall time from the fault to progress: all but the work that is done again.
    #[must_use]
    pub fn wall_us(&self) -> u64 {
        self.detection_us + self.diagnosis_isolation_us + self.reinitialisation_us
    }

    /// Everything that the fault cost.
    #[must_use]
    pub fn total_us(&self) -> u64 {
        self.post_checkpoint_us + self.wall_us()
    }

    fn add(&mut self, other: Parts) {
        self.post_checkpoint_us += other.post_checkpoint_us;
        self.detection_us += other.detection_us;
        self.diagnosis_isolation_us += other.diagnosis_isolation_us;
        self.reinitialisation_us += other.reinitialisation_us;
    }
}

/// One outage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// The finding that was first.
    pub finding: FindingId,
    /// The incarnation that it hit.
    pub incarnation: u32,
    /// When the fault happened.
    pub fault: Timestamp,
    /// When somebody noticed.
    pub detected: Timestamp,
    /// When every process had stopped.
    pub stopped: Option<Timestamp>,
    /// When the job made progress again.
    pub progress: Option<Timestamp>,
    /// The newest checkpoint before the fault; absent if none was ever seen.
    pub checkpoint: Option<Checkpoint>,
}

impl Outage {
    /// Its parts; of one that is not over, as they are at `now`.
    #[must_use]
    pub fn parts(&self, now: Timestamp) -> Parts {
        // Whatever order the moments were told in, each is at or after the one before.
        let detected = self.detected.max(self.fault);
        let end = self.progress.unwrap_or(now.max(detected)).max(detected);
        let stopped = self.stopped.unwrap_or(end).clamp(detected, end);
        Parts {
            post_checkpoint_us: match self.checkpoint {
                // A job that went on where it was (the cause went away by itself) does nothing again.
                Some(checkpoint) if self.stopped.is_some() => self.fault.micros_since(checkpoint.at),
                _ => 0,
            },
            detection_us: detected.micros_since(self.fault),
            diagnosis_isolation_us: stopped.micros_since(detected),
            reinitialisation_us: end.micros_since(stopped),
        }
    }

    /// Whether the job makes progress again.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.progress.is_some()
    }
}

/// What one job has lost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    outages: VecDeque<Outage>,
    older: Parts,
    /// How many outages those were.
    older_count: u64,
    checkpoints: VecDeque<Checkpoint>,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    /// Ranks, 0 where that is not known.
    #[serde(default)]
    ranks: u32,
}

impl Account {
    /// Ranks of the job, 0 where that is not known.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Its outages, oldest first, and the sum of the parts of all, as they are at `now`.
    #[must_use]
    pub fn outages(&self, now: Timestamp) -> (Vec<Outage>, Parts) {
        let mut sum = self.older;
        for outage in &self.outages {
            sum.add(outage.parts(now));
        }
        (self.outages.iter().cloned().collect(), sum)
    }

    /// How long the job was seen, which is `ended` or goes on, and what follows for its checkpoints.
    #[must_use]
    pub fn summary(&self, ended: bool, now: Timestamp) -> Summary {
        let until = if ended { self.last_seen.unwrap_or(now) } else { now };
        let observed_us = self.first_seen.map_or(0, |first| until.micros_since(first));
        let failures = self.older_count + self.outages.len() as u64;
        let checkpoints: Vec<Checkpoint> = self.checkpoints.iter().copied().collect();
        let recommendation = advice::recommend(&checkpoints, failures, observed_us);
        Summary { observed_us, recommendation }
    }
}

/// Accounts kept of jobs that are gone; those of jobs that are there are kept in any case.
const MAX_ACCOUNTS: usize = 10_000;
/// A job that lost nothing is forgotten when it was not heard of for so long: an hour.
const IDLE_US: u64 = 3_600_000_000;

/// The table of the store with accounts, by job.
pub const TABLE: &str = "ledger";

/// What a job has to account for besides its outages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How long the job has been seen.
    pub observed_us: u64,
    /// How often it should leave checkpoints, where that can be told.
    pub recommendation: Option<Recommendation>,
}

/// All jobs' downtime.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Shared with pictures, which are made often: an account seldom changes.
    jobs: BTreeMap<JobId, Arc<Account>>,
}

impl Ledger {
    /// What was known before.
    ///
    /// # Errors
    /// The store cannot be read, or holds what is no account.
    pub fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let account = |(job, value): (String, Vec<u8>)| match serde_json::from_slice(&value) {
            Ok(account) => Ok((JobId(job), Arc::new(account))),
            Err(error) => Err(StoreError::Access(format!("{TABLE} {job}: {error}"))),
        };
        let jobs = store.all(TABLE)?.into_iter().map(account).collect::<Result<_, _>>()?;
        Ok(Self { jobs })
    }

    /// A job's account as it is to be stored.
    #[must_use]
    pub fn row(&self, job: &JobId) -> Option<Write> {
        self.jobs.get(job).map(|account| Write::json(TABLE, job.0.clone(), &**account))
    }

    /// Accounts of all jobs for which that holds.
    pub fn accounts(&self, of: impl Fn(&JobId) -> bool) -> BTreeMap<JobId, Arc<Account>> {
        let wanted = self.jobs.iter().filter(|(job, _)| of(job));
        wanted.map(|(job, account)| (job.clone(), account.clone())).collect()
    }

    /// Forgets jobs that have been gone for a while and lost nothing, and, of more than are kept, those that were heard of longest ago;
    /// returns what is to be written down of that.
    pub fn prune(&mut self, is_there: impl Fn(&JobId) -> bool, now: Timestamp) -> Vec<Write> {
        let gone = self.jobs.iter().filter(|(job, _)| !is_there(job));
        let mut gone: Vec<_> = gone.map(|(job, account)| (account.last_seen, job, account)).collect();
        gone.sort_unstable_by_key(|(seen, job, _)| (*seen, *job));
        let too_many = self.jobs.len().saturating_sub(MAX_ACCOUNTS);
        let forgotten = gone.iter().enumerate().filter(|(index, (seen, _, account))| {
            let lost_nothing = account.outages.is_empty() && account.older_count == 0;
            let is_old = seen.is_none_or(|seen| now.micros_since(seen) > IDLE_US);
            *index < too_many || (lost_nothing && is_old)
        });
        let forgotten: Vec<JobId> = forgotten.map(|(_, (_, job, _))| JobId::clone(job)).collect();
        for job in &forgotten {
            self.jobs.remove(job);
        }
        forgotten.into_iter().map(|job| Write::remove(TABLE, job.0)).collect()
    }

    fn account(&mut self, job: &JobId) -> &mut Account {
        Arc::make_mut(self.jobs.entry(job.clone()).or_default())
    }

    /// A job has so many ranks.
    pub fn sized(&mut self, job: &JobId, ranks: u32) {
        self.account(job).ranks = ranks;
    }

    /// Something of the job was heard of.
    pub fn seen(&mut self, job: &JobId, now: Timestamp) {
        let account = self.account(job);
        account.first_seen.get_or_insert(now);
        account.last_seen = Some(now);
    }

    /// How long a job was seen, which is `ended` or goes on, and what follows for its checkpoints.
    #[must_use]
    pub fn summary(&self, job: &JobId, ended: bool, now: Timestamp) -> Summary {
        self.jobs.get(job).map_or_else(Summary::default, |account| account.summary(ended, now))
    }

    /// A checkpoint was left.
    pub fn checkpoint(&mut self, job: &JobId, checkpoint: Checkpoint) {
        let account = self.account(job);
        let known = account.checkpoints.iter_mut().find(|known| known.iteration == checkpoint.iteration);
        if let Some(known) = known {
            // Every node tells of it. The job waits for whoever takes longest.
            known.took_us = known.took_us.max(checkpoint.took_us);
            return;
        }
        account.checkpoints.push_back(checkpoint);
        if account.checkpoints.len() > MAX_CHECKPOINTS {
            account.checkpoints.pop_front();
        }
    }

    /// A finding was made. Counts if it stops the job and no outage of its incarnation is known.
    pub fn fault(&mut self, finding: &Finding, now: Timestamp) {
        if !matches!(finding.kind, Kind::ProcessDeath | Kind::NonCommHang | Kind::CommHang | Kind::Desync) {
            return;
        }
        let account = self.account(&finding.job);
        let known =
            account.outages.back_mut().filter(|o| o.incarnation == finding.incarnation && !o.complete());
        if let Some(outage) = known {
            outage.fault = outage.fault.min(finding.since);
            outage.detected = outage.detected.min(finding.detected);
        } else {
            account.outages.push_back(Outage {
                finding: finding.id.clone(),
                incarnation: finding.incarnation,
                fault: finding.since,
                detected: finding.detected,
                stopped: None,
                progress: None,
                checkpoint: None,
            });
        }
        if let Some(outage) = account.outages.back_mut() {
            let before = |checkpoint: &&Checkpoint| checkpoint.at <= outage.fault;
            outage.checkpoint = account.checkpoints.iter().filter(before).max_by_key(|c| c.at).copied();
        }
        while account.outages.len() > MAX_ENTRIES {
            if let Some(old) = account.outages.pop_front() {
                account.older.add(old.parts(now));
                account.older_count += 1;
            }
        }
    }

    /// Every process of the incarnation has stopped, or a later incarnation has begun.
    pub fn stopped(&mut self, job: &JobId, incarnation: u32, now: Timestamp) {
        for outage in self.open(job).filter(|outage| outage.incarnation <= incarnation) {
            outage.stopped.get_or_insert(now);
        }
    }

    /// All ranks of the incarnation have made progress. Returns the outages that are over with it.
    pub fn progress(&mut self, job: &JobId, incarnation: u32, now: Timestamp) -> Vec<Outage> {
        self.end(job, now, |outage| outage.incarnation < incarnation)
    }

    /// The cause of a finding is gone without a restart having begun: the job goes on where it was.
    pub fn cleared(&mut self, job: &JobId, finding: &FindingId, at: Timestamp) -> Vec<Outage> {
        self.end(job, at, |outage| outage.finding == *finding && outage.stopped.is_none())
    }

    /// A job's outages, oldest first, and the sum of the parts of all, as they are at `now`.
    #[must_use]
    pub fn of(&self, job: &JobId, now: Timestamp) -> (Vec<Outage>, Parts) {
        self.jobs.get(job).map_or_else(Default::default, |account| account.outages(now))
    }

    /// Iteration of the job's newest checkpoint.
    #[must_use]
    pub fn newest_checkpoint(&self, job: &JobId) -> Option<u64> {
        self.jobs.get(job)?.checkpoints.iter().max_by_key(|c| c.at).map(|c| c.iteration)
    }

    fn end(&mut self, job: &JobId, at: Timestamp, over: impl Fn(&Outage) -> bool) -> Vec<Outage> {
        let mut ended = Vec::new();
        for outage in self.open(job).filter(|outage| over(outage)) {
            outage.progress = Some(at);
            ended.push(outage.clone());
        }
        ended
    }

    fn open(&mut self, job: &JobId) -> impl Iterator<Item = &mut Outage> {
        let outages =
            self.jobs.get_mut(job).into_iter().flat_map(|account| &mut Arc::make_mut(account).outages);
        outages.filter(|outage| !outage.complete())
    }
}
