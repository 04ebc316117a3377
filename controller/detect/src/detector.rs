//! The detector: takes observations in, keeps the model, and asks the diagnosticians.
//!
//! A window costs a few map look-ups and as much work as it has blocks. Ranks are only compared with each other when
//! somebody has waited for long, and then at most a few times a second, however many windows arrive.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    case::{Cases, Slot},
    catalogue,
    change::ChangePoint,
    comm_slow, death, desync,
    finding::{Finding, Verdict},
    hang, health,
    model::Job,
    nodes::Nodes,
    observation::{HealthEvent, JobId, Observation, ProcessEnd, ProcessId, ProcessInfo, Timestamp, Window},
    pace,
    rhythm::Prior,
    scene::{self, Scene},
    slow, stages,
    view::{self, JobView},
};

pub use crate::{comm_slow::Wish, config::Config};

/// Least time between two looks at the same job.
const EXAMINE_US: u64 = 200_000;
/// Least time for each process in a job, or for each member of a communicator that was looked at the last time, if those are more:
/// while a job of a hundred thousand stands still, windows are to be taken in all the same.
const EXAMINE_EACH_US: u64 = 6;
/// Health events that wait for a symptom.
const MAX_WAITING_EVENTS: usize = 1_024;

/// The state machine.
#[derive(Debug)]
pub struct Detector {
    config: Config,
    jobs: BTreeMap<Arc<JobId>, Job>,
    job_of: HashMap<ProcessId, Arc<JobId>>,
    nodes: Nodes,
    /// Events for which no symptom was seen yet, with the time they happened.
    waiting_events: VecDeque<(Timestamp, HealthEvent)>,
    throttling: health::Throttling,
    /// Warnings about nodes on which no job runs.
    unattached: Cases,
    now: Timestamp,
    swept: Timestamp,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            jobs: BTreeMap::new(),
            job_of: HashMap::new(),
            nodes: Nodes::default(),
            waiting_events: VecDeque::new(),
            throttling: health::Throttling::default(),
            unattached: Cases::default(),
            now: Timestamp(0),
            swept: Timestamp(0),
        }
    }

    /// Takes in one observation made at `now`, which never decreases (if it does, it is taken for the latest `now`),
    /// and returns the findings that it opened, changed or cleared, each whole.
    pub fn observe(&mut self, observation: Observation, now: Timestamp) -> Vec<Finding> {
        let now = now.max(self.now);
        self.now = now;
        self.nodes.begin(now);
        let mut out = Vec::new();
        match observation {
            Observation::ProcessStarted(info) => self.process_started(info, now, &mut out),
            Observation::CommunicatorJoined(membership) => {
                if let Some(job) = self.job_of(membership.process) {
                    job.join(membership);
                }
            }
            Observation::Window(window) => self.window(window, now, now, &mut out),
            Observation::LateWindow { window, ago_us } => {
                self.window(window, now.before(ago_us), now, &mut out);
            }
            Observation::ProcessEnded(end) => self.process_ended(&end, now, &mut out),
            Observation::Health(event) => self.health(event, now, &mut out),
            Observation::NodeSeen { node, nic_class } => self.nodes.seen(node, nic_class),
            Observation::NodeLost { node } => self.nodes.lost(node),
            Observation::NodeHeard { node, hearing } => self.nodes.heard(node, hearing),
            Observation::JobStopping { job, incarnation } => {
                if let Some(job) = self.jobs.get_mut(&job)
                    && job.incarnation == incarnation
                {
                    death::stopping(job, now);
                    job.undecided.clear();
                    job.cases.clear_where(now, &mut out, |_, _| true);
                }
            }
            Observation::Tick => self.tick(now, &mut out),
        }
        out
    }

    /// Changes of the iteration time of jobs that were not handed out yet, with what grew. They accuse nobody.
    pub fn take_changes(&mut self) -> Vec<(JobId, ChangePoint)> {
        let mut changes = Vec::new();
        for (id, job) in &mut self.jobs {
            changes.extend(job.pace.take_untold().into_iter().map(|change| (JobId::clone(id), change)));
        }
        changes
    }

    /// Every job the detector remembers.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobView> {
        self.jobs.values().map(|job| view::of(job, &self.nodes, &self.config, self.now)).collect()
    }

    /// What one job looks like now, for people. It costs as much as the job has ranks and links, so ask for it when somebody
    /// looks.
    #[must_use]
    pub fn scene(&self, job: &JobId) -> Option<Scene> {
        self.jobs.get(job).map(|job| scene::of(job, &self.nodes, &self.config, self.now))
    }

    /// Processes whose network steps should all be timed for a while. Each wish is returned once; it is made again as
    /// long as it stands.
    pub fn wishes(&mut self) -> Vec<Wish> {
        self.jobs.values_mut().flat_map(|job| job.network.take_wishes()).collect()
    }

    fn job_of(&mut self, process: ProcessId) -> Option<&mut Job> {
        self.jobs.get_mut(&**self.job_of.get(&process)?)
    }

    fn process_started(&mut self, info: ProcessInfo, now: Timestamp, out: &mut Vec<Finding>) {
        let id = match self.jobs.get_key_value(&info.job) {
            Some((id, _)) => id.clone(),
            None => Arc::new(info.job.clone()),
        };
        match self.jobs.get_mut(&*id) {
            // A straggler of an incarnation that is over.
            Some(job) if info.incarnation < job.incarnation => return,
            // Once all processes have ended, a new one begins a new life of the job, whether labels say so or not; unless
            // it is one of this life, of which nothing was heard yet.
            Some(job)
                if info.incarnation == job.incarnation && (!job.all_ended() || job.is_missing(&info)) => {}
            Some(job) => {
                job.cases.clear_where(now, out, |_, _| true);
                let prior = prior_of(job);
                let processes: Vec<ProcessId> = job.processes.keys().copied().collect();
                *job = Job::new(info.job.clone(), info.incarnation, prior, now);
                for process in processes {
                    self.job_of.remove(&process);
                }
            }
            None => {
                self.jobs.insert(id.clone(), Job::new(info.job.clone(), info.incarnation, None, now));
            }
        }
        let Some(job) = self.jobs.get_mut(&*id) else { return };
        if !job.processes.contains_key(&info.process) {
            replaced(job, &info, now, out);
        }
        self.job_of.insert(info.process, id);
        job.last_heard = now;
        job.add_process(info, now);
    }

    fn window(&mut self, window: Window, taken: Timestamp, now: Timestamp, out: &mut Vec<Finding>) {
        let (config, nodes) = (&self.config, &self.nodes);
        let Some(job) = self.job_of.get(&window.process).and_then(|id| self.jobs.get_mut(&**id)) else {
            return;
        };
        job.take(window, nodes, config, taken, now);
        slow::assess(job, nodes, config, now, out);
        stages::assess(job, now, out);
        pace::annotate(job, out);
        attend(job, nodes, config, now, out);
    }

    fn process_ended(&mut self, end: &ProcessEnd, now: Timestamp, out: &mut Vec<Finding>) {
        let (config, nodes) = (&self.config, &self.nodes);
        let Some(job) = self.job_of.get(&end.process).and_then(|id| self.jobs.get_mut(&**id)) else { return };
        death::ended(job, end, nodes, config, now, out);
        death::decide(job, nodes, config, now, out);
    }

    fn health(&mut self, event: HealthEvent, now: Timestamp, out: &mut Vec<Finding>) {
        let at = now.before(event.ago_us);
        self.nodes.remember(at, event.clone());
        let comes_and_goes = catalogue::comes_and_goes(&event.code);
        if comes_and_goes && (event.cleared || health::is_news(&event)) {
            self.throttling.take(event.clone(), at, &self.config);
        }
        if event.cleared && !comes_and_goes {
            self.waiting_events.retain(|(_, e)| health::slot(e) != health::slot(&event));
            let slot = health::slot(&event);
            self.clear_warning(&slot, now, out);
        }
        if event.cleared {
            return;
        }
        for job in self.jobs.values_mut() {
            health::arrived(job, &event, &self.nodes, &self.config, now, out);
        }
        let known = |(_, waiting): &(Timestamp, HealthEvent)| health::slot(waiting) == health::slot(&event);
        if !comes_and_goes
            && health::is_news(&event)
            && self.waiting_events.len() < MAX_WAITING_EVENTS
            && !self.waiting_events.iter().any(known)
        {
            self.waiting_events.push_back((at, event));
        }
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<Finding>) {
        for job in self.jobs.values_mut() {
            attend(job, &self.nodes, &self.config, now, out);
        }
        self.report_events(now, out);
        self.forget(now, out);
    }

    /// Reports events that have waited long enough for a symptom.
    fn report_events(&mut self, now: Timestamp, out: &mut Vec<Finding>) {
        let hold_us = self.config.health_hold_ms.saturating_mul(1_000);
        let (due, waiting): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting_events)
            .into_iter()
            .partition(|(at, _)| now.micros_since(*at) >= hold_us);
        self.waiting_events = waiting;
        for (at, event) in due {
            if !is_explained(&self.jobs, &event) {
                self.warn(&event, at, now, out);
            }
        }
        for change in self.throttling.look(&self.config, now, |event| is_explained(&self.jobs, event)) {
            match change {
                health::Change::Lasts(event, since) => self.warn(&event, since, now, out),
                health::Change::Over(slot) => self.clear_warning(&slot, now, out),
            }
        }
    }

    /// Tells of a broken component that nobody suffers from.
    fn warn(&mut self, event: &HealthEvent, at: Timestamp, now: Timestamp, out: &mut Vec<Finding>) {
        let slot = health::slot(event);
        match self.jobs.values_mut().find(|job| !job.stopping && health::runs_on(job, event)) {
            Some(job) => {
                let draft = health::warning(event, Some(job), at);
                let (id, incarnation) = (job.id.clone(), job.incarnation);
                job.cases.tell(slot, draft, &id, incarnation, now, out);
            }
            None => {
                let draft = health::warning(event, None, at);
                self.unattached.tell(slot, draft, &JobId(String::new()), 0, now, out);
            }
        }
    }

    fn clear_warning(&mut self, slot: &Slot, now: Timestamp, out: &mut Vec<Finding>) {
        for job in self.jobs.values_mut() {
            job.cases.clear(slot, now, out);
        }
        self.unattached.clear(slot, now, out);
    }

    /// Forgets jobs that are over, once a second at most.
    fn forget(&mut self, now: Timestamp, out: &mut Vec<Finding>) {
        if now.micros_since(self.swept) < 1_000_000 {
            return;
        }
        self.swept = now;
        let forget_us = self.config.forget_ms.saturating_mul(1_000);
        let (jobs, job_of) = (&mut self.jobs, &mut self.job_of);
        jobs.retain(|_, job| {
            let keep = now.micros_since(job.last_heard) < forget_us;
            if keep {
                for process in job.forget_ended(now, forget_us) {
                    job_of.remove(&process);
                }
            } else {
                job.cases.clear_where(now, out, |_, _| true);
                for process in job.processes.keys() {
                    job_of.remove(process);
                }
            }
            keep
        });
        self.unattached.clear_where(now, out, |_, case| now.micros_since(case.finding.detected) >= forget_us);
    }
}

/// Whether an open finding tells of the event.
fn is_explained(jobs: &BTreeMap<Arc<JobId>, Job>, event: &HealthEvent) -> bool {
    jobs.values().any(|job| job.cases.iter().any(|(_, case)| health::joined(case, event)))
}

/// Looks after everything in a job that depends on time.
fn attend(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    death::reconsider(job, now, out);
    if !job.pending_ends.is_empty() {
        death::decide(job, nodes, config, now, out);
    }
    let least_us = EXAMINE_US.max(EXAMINE_EACH_US * job.looks.max(job.processes.len()) as u64);
    let due = now.micros_since(job.examined) >= least_us;
    let concerned =
        !job.suspicious.is_empty() || job.cases.hangs().next().is_some() || !job.undecided.is_empty();
    if due && concerned {
        hang::assess(job, nodes, config, now, out);
    }
    desync::clear_settled(job, now, out);
    comm_slow::assess(job, nodes, config, now, out);
    if !out.is_empty() {
        health::absorb(job, now, out);
    }
}

/// A process takes the place of one that ended, without a new incarnation.
fn replaced(job: &mut Job, info: &ProcessInfo, now: Timestamp, out: &mut Vec<Finding>) {
    let Some(before) = info.rank.and_then(|rank| job.by_rank.get(&rank).copied()) else { return };
    if job.process(before).is_none_or(|process| process.alive()) {
        return;
    }
    job.cases.clear_where(now, out, |slot, case| {
        matches!(slot, Slot::Death | Slot::Hang | Slot::Beside(_) | Slot::Slow(_) | Slot::Network(_))
            && case.accused.contains(&before)
    });
}

/// What the most experienced communicator of a job leaves to the next incarnation.
fn prior_of(job: &Job) -> Option<Prior> {
    let learned = job.comms.values().filter(|comm| comm.rhythm.known());
    let best = learned.max_by_key(|comm| (comm.rhythm.iterations(), comm.completed_max));
    best.and_then(|comm| comm.rhythm.prior()).or_else(|| job.prior.clone())
}

/// Whether every rank that the job should have was seen; half a job is not a healthy one.
fn all_seen(job: &Job) -> bool {
    job.world_size.is_none_or(|size| job.by_rank.len() as u64 >= u64::from(size))
}

/// What can be said of a job as a whole.
pub(crate) fn verdict(job: &Job, missing: Vec<String>) -> Verdict {
    if job.cases.iter().any(|(slot, _)| !matches!(slot, Slot::Health(..))) {
        Verdict::Faulty
    } else if job.all_ended() {
        Verdict::Ended
    } else if !missing.is_empty() {
        Verdict::Unknown { missing }
    } else if all_seen(job) && job.survey.settled && job.comms.values().any(|comm| comm.rhythm.known()) {
        Verdict::Healthy
    } else {
        Verdict::Learning
    }
}
