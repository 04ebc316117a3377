//! The policy machine: findings become proposals, proposals pass the rails, actions go through their steps.
//!
//! ```text
//! planned ──▶ stopping ──▶ starting ──▶ done
//!                 └────────────┴──────▶ failed      (each step: several attempts, each with a deadline)
//! ```
//! An action that was not begun is withdrawn when its finding clears; one that was begun is finished, since a job
//! that is half stopped is worse than either.

use std::collections::{BTreeMap, HashMap, HashSet};

use c4_detect::{
    finding::{Finding, FindingId},
    observation::{JobId, Timestamp},
};

use super::{
    action::{Action, ActionId, Order, State, Step},
    journal::{Entry, Journal},
    rails::{self, History, Hold, JobFacts},
};
use crate::config::Steer as Config;

#[cfg(test)]
mod tests;

/// Pause before a failed step is tried again.
const RETRY_US: u64 = 1_000_000;
/// Finished actions remembered; older ones are in the journal only.
const MAX_FINISHED: usize = 4096;

/// What the machine wants done or said.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The job is about to be stopped on purpose: whoever accuses processes of ending should know.
    Stopping {
        /// The job.
        job: JobId,
        /// The incarnation that ends.
        incarnation: u32,
    },
    /// Every process group has stopped.
    Stopped {
        /// The job.
        job: JobId,
        /// The incarnation that has ended.
        incarnation: u32,
    },
    /// An actuator is to carry this out.
    Order(Order),
    /// Something worth telling, about the finding.
    Said {
        /// The finding.
        finding: FindingId,
        /// Its job.
        job: JobId,
        /// A sentence without an end and, since the finding is known, without the reason.
        text: String,
        /// Outcome for metrics: "proposed", "held", "planned", "withdrawn", "done", "failed", "step".
        outcome: &'static str,
    },
}

#[derive(Debug)]
struct Running {
    action: Action,
    /// When the present attempt is given up.
    deadline: Timestamp,
    /// When the next attempt begins, after one that failed.
    retry_at: Option<Timestamp>,
}

/// The machine.
pub struct Steer {
    config: Config,
    journal: Box<dyn Journal>,
    running: BTreeMap<JobId, Running>,
    finished: Vec<Action>,
    histories: HashMap<JobId, (u32, History)>,
    said: HashMap<FindingId, (JobId, Hold)>,
}

impl Steer {
    /// A machine that goes on where `entries` of a journal end. Steps that were begun are ordered again on the next
    /// [`Steer::tick`]: an order carried out twice does no harm.
    #[must_use]
    pub fn resume(config: Config, journal: Box<dyn Journal>, entries: &[Entry]) -> Self {
        let mut newest: BTreeMap<&ActionId, &Action> = BTreeMap::new();
        for entry in entries {
            newest.insert(&entry.action.id, &entry.action);
        }
        let mut steer = Self {
            config,
            journal,
            running: BTreeMap::new(),
            finished: Vec::new(),
            histories: HashMap::new(),
            said: HashMap::new(),
        };
        let mut actions: Vec<_> = newest.into_values().cloned().collect();
        actions.sort_by_key(|action| action.planned);
        for action in actions {
            let (incarnation, history) = steer.histories.entry(action.job.clone()).or_default();
            *incarnation = action.incarnation;
            history.restarts += 1;
            history.last = Some(action.planned);
            history.failed_here = matches!(action.state, State::Failed { .. });
            if action.state.is_final() {
                steer.finished.push(action);
            } else {
                history.busy = true;
                let running = Running { deadline: Timestamp(0), retry_at: Some(Timestamp(0)), action };
                steer.running.insert(running.action.job.clone(), running);
            }
        }
        steer
    }

    /// A machine that has done nothing.
    #[must_use]
    pub fn new(config: Config, journal: Box<dyn Journal>) -> Self {
        Self::resume(config, journal, &[])
    }

    /// Restarts begun of a job.
    #[must_use]
    pub fn restarts(&self, job: &JobId) -> u32 {
        self.histories.get(job).map_or(0, |(_, history)| history.restarts)
    }

    /// The action on a job that has not ended.
    #[must_use]
    pub fn running(&self, job: &JobId) -> Option<&Action> {
        self.running.get(job).map(|running| &running.action)
    }

    /// Goes through the open findings of all jobs. To be called when one changes, and with every tick.
    pub fn review<'a>(
        &mut self,
        open: impl IntoIterator<Item = &'a Finding>,
        facts: impl Fn(&JobId) -> Option<JobFacts>,
        now: Timestamp,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        let mut still_open = HashSet::new();
        for finding in open {
            still_open.insert(finding.id.clone());
            let Some(facts) = facts(&finding.job) else { continue };
            self.notice_run(&finding.job, facts.incarnation);
            let history = self.histories.get(&finding.job).map_or_else(History::default, |(_, h)| *h);
            match rails::check(finding, &facts, &history, &self.config, now) {
                None => self.plan(finding, now, &mut out),
                Some(hold) => self.hold(finding, &facts, hold, &mut out),
            }
        }
        self.withdraw(&still_open, &mut out);
        out
    }

    /// An actuator has answered.
    pub fn answered(
        &mut self,
        order: &Order,
        result: Result<(), String>,
        facts: Option<&JobFacts>,
        now: Timestamp,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        let Some(running) = self.running.get_mut(&order.job) else { return out };
        let expected = step(&running.action.state);
        // A late answer to an attempt that was given up says nothing about the present one.
        if running.action.id != order.action
            || expected != Some(order.step)
            || running.action.attempt != order.attempt
        {
            return out;
        }
        match result {
            Err(why) => self.attempt_failed(&order.job, &why, now, &mut out),
            Ok(()) => match order.step {
                Step::Stop => {
                    out.push(Output::Stopped { job: order.job.clone(), incarnation: order.incarnation });
                    self.advance(&order.job, State::Starting, now, &mut out);
                }
                Step::Start => {
                    let checkpoint = facts.and_then(|facts| facts.checkpoint);
                    self.finish(&order.job, State::Done, checkpoint, now, &mut out);
                }
            },
        }
        out
    }

    /// Time has passed: deadlines and retries.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        let jobs: Vec<_> = self.running.keys().cloned().collect();
        for job in jobs {
            let Some(running) = self.running.get_mut(&job) else { continue };
            match running.retry_at {
                Some(at) if at <= now => {
                    running.retry_at = None;
                    let state = running.action.state.clone();
                    if state == State::Planned {
                        self.advance(&job, State::Stopping, now, &mut out);
                    } else {
                        self.order(&job, now, &mut out);
                    }
                }
                None if running.deadline <= now => {
                    self.attempt_failed(&job, "no answer in time", now, &mut out)
                }
                _ => {}
            }
        }
        out
    }

    /// A job that starts over with a smaller incarnation is a new run under the old name.
    fn notice_run(&mut self, job: &JobId, incarnation: u32) {
        let (known, history) = self.histories.entry(job.clone()).or_insert((incarnation, History::default()));
        if incarnation < *known && !history.busy {
            *history = History::default();
        }
        if incarnation != *known && !history.busy {
            *known = incarnation;
            history.failed_here = false;
        }
    }

    fn plan(&mut self, finding: &Finding, now: Timestamp, out: &mut Vec<Output>) {
        let job = &finding.job;
        let action = Action {
            id: ActionId(format!("restart-{}-{}-{:x}", job.0, finding.incarnation.saturating_add(1), now.0)),
            job: job.clone(),
            finding: finding.id.clone(),
            because: finding.summary.clone(),
            incarnation: finding.incarnation,
            planned: now,
            state: State::Planned,
            attempt: 1,
        };
        if let Err(error) = self.journal.append(Entry { at: now, action: action.clone() }) {
            let text = format!("not restarting job {}: {error}", job.0);
            return out.push(said(&action, text, "held"));
        }
        self.said.remove(&finding.id);
        let (known, history) = self.histories.entry(job.clone()).or_default();
        *known = finding.incarnation;
        history.restarts += 1;
        history.last = Some(now);
        history.busy = true;
        out.push(said(&action, format!("restarting job {}", job.0), "planned"));
        self.running.insert(job.clone(), Running { action, deadline: now, retry_at: None });
        self.advance(job, State::Stopping, now, out);
    }

    /// Journals the next state, then orders what it needs.
    fn advance(&mut self, job: &JobId, state: State, now: Timestamp, out: &mut Vec<Output>) {
        let Some(running) = self.running.get_mut(job) else { return };
        running.action.state = state;
        running.action.attempt = 1;
        self.journal_and_order(job, now, out);
    }

    fn journal_and_order(&mut self, job: &JobId, now: Timestamp, out: &mut Vec<Output>) {
        let Some(running) = self.running.get(job) else { return };
        match self.journal.append(Entry { at: now, action: running.action.clone() }) {
            Ok(()) => self.order(job, now, out),
            // What cannot be written down is not done.
            Err(error) => self.finish(job, State::Failed { why: error.to_string() }, None, now, out),
        }
    }

    fn order(&mut self, job: &JobId, now: Timestamp, out: &mut Vec<Output>) {
        let Some(running) = self.running.get_mut(job) else { return };
        let action = &running.action;
        let Some(step) = step(&action.state) else { return };
        let (word, seconds) = match step {
            Step::Stop => ("stop", self.config.stop_timeout_seconds),
            Step::Start => ("start", self.config.start_timeout_seconds),
        };
        let timeout_us = (seconds * 1e6) as u64;
        running.deadline = now.after(timeout_us);
        if step == Step::Stop {
            out.push(Output::Stopping { job: job.clone(), incarnation: action.incarnation });
        }
        out.push(Output::Order(Order {
            id: format!("{}-{word}-{}", action.id.0, action.attempt),
            action: action.id.clone(),
            step,
            attempt: action.attempt,
            job: job.clone(),
            incarnation: action.incarnation,
            grace_us: (self.config.stop_grace_seconds * 1e6) as u64,
            timeout_us,
        }));
    }

    fn attempt_failed(&mut self, job: &JobId, why: &str, now: Timestamp, out: &mut Vec<Output>) {
        let Some(running) = self.running.get_mut(job) else { return };
        let action = &mut running.action;
        let doing = action.state.name();
        if action.attempt >= self.config.attempts {
            let why = format!("{doing} failed {} times, last: {why}", action.attempt);
            return self.finish(job, State::Failed { why }, None, now, out);
        }
        let text = format!("{doing} job {} failed ({why}); trying again", job.0);
        out.push(said(action, text, "step"));
        action.attempt += 1;
        running.retry_at = Some(now.after(RETRY_US));
        let entry = Entry { at: now, action: action.clone() };
        if let Err(error) = self.journal.append(entry) {
            self.finish(job, State::Failed { why: error.to_string() }, None, now, out);
        }
    }

    fn finish(
        &mut self,
        job: &JobId,
        state: State,
        checkpoint: Option<u64>,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let Some(mut running) = self.running.remove(job) else { return };
        running.action.state = state;
        let action = running.action;
        let (text, outcome) = match &action.state {
            State::Failed { why } => {
                (format!("restarting job {} failed: {why}; a person is needed", job.0), "failed")
            }
            _ => {
                let next = action.incarnation.saturating_add(1);
                let from = checkpoint.map_or_else(
                    || format!("job restarted (incarnation {next}; no checkpoint was reported)"),
                    |iteration| format!("job restarted from checkpoint {iteration} (incarnation {next})"),
                );
                (from, "done")
            }
        };
        out.push(said(&action, text, outcome));
        if let Some((known, history)) = self.histories.get_mut(job) {
            history.busy = false;
            history.failed_here = outcome == "failed";
            if outcome == "done" {
                *known = action.incarnation.saturating_add(1);
            }
        }
        if let Err(error) = self.journal.append(Entry { at: now, action: action.clone() }) {
            // It has happened all the same. After a restart the last step would be ordered again, harmlessly.
            out.push(said(&action, format!("the end of the restart was not written down: {error}"), "step"));
        }
        self.finished.push(action);
        if self.finished.len() > MAX_FINISHED {
            self.finished.remove(0);
        }
    }

    fn hold(&mut self, finding: &Finding, facts: &JobFacts, hold: Hold, out: &mut Vec<Output>) {
        if !hold.worth_saying() || self.said.get(&finding.id).is_some_and(|(_, said)| *said == hold) {
            return;
        }
        let job = &finding.job.0;
        let (text, outcome) = match &hold {
            Hold::Observing => {
                let from = facts.checkpoint.map_or(String::new(), |i| format!(" from checkpoint {i}"));
                (format!("would restart job {job}{from} (mode observe)"), "proposed")
            }
            hold => (format!("not restarting job {job}: {hold}"), "held"),
        };
        self.said.insert(finding.id.clone(), (finding.job.clone(), hold));
        out.push(Output::Said { finding: finding.id.clone(), job: finding.job.clone(), text, outcome });
    }

    /// Proposals whose findings have cleared are withdrawn; one that was spoken of, audibly.
    fn withdraw(&mut self, open: &HashSet<FindingId>, out: &mut Vec<Output>) {
        let gone: Vec<_> = self.said.keys().filter(|id| !open.contains(*id)).cloned().collect();
        for finding in gone {
            let Some((job, _)) = self.said.remove(&finding) else { continue };
            let text = format!("not restarting job {}: the cause is gone", job.0);
            out.push(Output::Said { finding, job, text, outcome: "withdrawn" });
        }
    }
}

fn step(state: &State) -> Option<Step> {
    match state {
        State::Stopping => Some(Step::Stop),
        State::Starting => Some(Step::Start),
        State::Planned | State::Done | State::Failed { .. } => None,
    }
}

fn said(action: &Action, text: String, outcome: &'static str) -> Output {
    Output::Said { finding: action.finding.clone(), job: action.job.clone(), text, outcome }
}
