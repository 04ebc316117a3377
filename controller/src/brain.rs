//! The controller's one place of decision: what agents say goes in, what is to be done comes out.
//!
//! Detector, registry, ledger and policy are all touched by every message, so they share one owner instead of locks.
//! The brain itself does no I/O and has no clock: [`driver`] is the task around it that owns the channels, and tests
//! hand it inputs directly.

use std::sync::Arc;

use c4_detect::{
    detector::Detector,
    finding::{Finding, FindingId, Kind},
    observation::{JobId, NodeName, Observation, ProcessId, Timestamp},
};
use c4_proto::v1::{ExplorePaths, PathOrders};
use c4_traffic::actuators::Document;

use self::shown::Shown;
use crate::{
    alerts::Notice,
    config::Config,
    convert::{EvidenceSaved, Hello, Incoming},
    events::Event,
    findings::{Change, Findings},
    groups::{Checkpoint, Groups},
    ledger::Ledger,
    metrics::Metrics,
    nodes::{Nodes, StreamId},
    paths::{
        Paths,
        work::{Compared, Made, Work},
    },
    record::Line,
    registry::Registry,
    scenes::Scenes,
    steer::{
        action::Order,
        journal::Loaded,
        machine::{Command, Refused, Steer},
        scheduler::{SchedulerNode, Told},
    },
    store::Write,
};

pub mod desk;
pub mod driver;
mod messages;
mod plan;
mod shown;
mod steering;
#[cfg(test)]
mod tests;
mod view;

/// What happens to the brain.
#[derive(Debug)]
pub enum Input {
    /// A stream opened.
    Opened {
        /// The stream.
        stream: StreamId,
        /// How it introduced itself.
        hello: Hello,
    },
    /// A message that is right as far as it can be told by itself.
    Message {
        /// The stream.
        stream: StreamId,
        /// The message.
        message: Incoming,
    },
    /// A message that is not.
    Invalid {
        /// The stream.
        stream: StreamId,
        /// The message's number.
        sequence: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A stream closed.
    Closed {
        /// The stream.
        stream: StreamId,
    },
    /// An actuator has answered.
    Answered {
        /// The order.
        order: Box<Order>,
        /// What came of it.
        result: Result<String, String>,
    },
    /// An operator wants something.
    Wanted {
        /// Names the request in [`Effect::Reply`].
        ticket: u64,
        /// What.
        command: Command,
        /// Who.
        by: String,
        /// Only say what would happen.
        dry_run: bool,
    },
    /// A job says that it has left a checkpoint.
    Checkpointed {
        /// The job.
        job: JobId,
        /// The iteration to go on from.
        iteration: u64,
        /// How long it kept the job from its work, in microseconds.
        took_us: Option<u64>,
    },
    /// The store has written a batch, or has not.
    Persisted {
        /// The batch.
        token: u64,
        /// What came of it.
        result: Result<(), String>,
    },
    /// Somebody looks at a job.
    Looked {
        /// The job.
        job: JobId,
    },
    /// Paths were planned.
    Planned(Box<Made>),
    /// It was worked out what hashing would do to the flows of a plan.
    Compared(Box<Compared>),
    /// What a scheduler says of its nodes and jobs.
    Scheduler(Told),
    /// Time has passed.
    Tick,
}

/// What the brain wants done.
#[derive(Debug)]
pub enum Effect {
    /// Everything up to this number of the stream is taken.
    Taken(StreamId, u64),
    /// A message was refused.
    Refuse(StreamId, u64, String),
    /// The stream is to be closed.
    Close(StreamId, &'static str),
    /// Somebody is to carry this out.
    Act(Box<Order>),
    /// Whatever is being carried out is to be left where it is.
    Halt,
    /// The store is to write this; [`Input::Persisted`] tells what came of it.
    Persist(u64, Vec<Write>),
    /// An operator gets an answer.
    Reply(u64, Result<String, Refused>),
    /// The agents at the other end are to have all network steps of these processes timed, for so many microseconds.
    TimeSteps(StreamId, Vec<ProcessId>, u64),
    /// Somebody is to plan paths.
    Plan(Box<Work>),
    /// The files of a plan, by its number, are to be written.
    WritePaths(u64, Vec<Document>),
    /// An agent is to have its orders for paths.
    OrderPaths(StreamId, Box<PathOrders>),
    /// An agent is to explore paths.
    ExplorePaths(StreamId, Box<ExplorePaths>),
    /// The store is to write this, now or when it works again. Nobody waits for it.
    Keep(Vec<Write>),
    /// Receivers of alerts are to know this.
    Notify(Box<Notice>),
    /// The recording gets a line.
    Record(Box<Line>),
    /// Something happened.
    Event(Event),
}

/// What is known from before.
#[derive(Debug, Default)]
pub struct Known {
    /// Actions and what belongs to them.
    pub steer: Loaded,
    /// Downtime.
    pub ledger: Ledger,
    /// Findings.
    pub findings: Findings,
}

/// What was saved of the processes of a group before they were ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When.
    pub at: Timestamp,
    /// Where.
    pub node: NodeName,
    /// What.
    pub saved: EvidenceSaved,
}

/// A finding from before the start is found again within this time, or is over (60 s): agents are back after a few seconds, and the
/// slowest verdict takes some twenty.
const FOUND_AGAIN_US: u64 = 60_000_000;
/// The token of what is written down without anybody waiting for it.
pub(crate) const UNAWAITED: u64 = 0;
/// Evidence remembered.
const MAX_EVIDENCE: usize = 1000;
/// Memory is looked through for what can be forgotten this often (10 s).
const PRUNE_US: u64 = 10_000_000;
/// Jobs that are not in sight by then (an hour after the start) are gone.
const SETTLED_US: u64 = 3_600_000_000;
/// A finding whose restart failed ends after this time, if its job does not come back: a day.
const UNANSWERED_US: u64 = 24 * 3_600_000_000;

/// See the module.
pub struct Brain {
    config: Config,
    metrics: Arc<Metrics>,
    started: Timestamp,
    detector: Detector,
    nodes: Nodes,
    registry: Registry,
    groups: Groups,
    findings: Findings,
    ledger: Ledger,
    scenes: Scenes,
    steer: Steer,
    /// Where paths are planned.
    paths: Option<Paths>,
    /// What is shown of the policy.
    shown_policy: Shown,
    /// Nodes that are to be left alone, and why.
    wishes: std::collections::BTreeMap<NodeName, String>,
    /// What the scheduler last said of its nodes.
    scheduled: std::collections::BTreeMap<NodeName, SchedulerNode>,
    /// The jobs that it has, and why those are to be left alone that are.
    scheduled_jobs: std::collections::BTreeMap<JobId, Option<String>>,
    evidence: Arc<Vec<Evidence>>,
    /// Conflicts that were told, by job.
    conflicts: std::collections::BTreeMap<JobId, Vec<String>>,
    recording: bool,
    pruned: Timestamp,
    effects: Vec<Effect>,
}

impl Brain {
    /// A brain that knows nothing but what it had done before.
    #[must_use]
    pub fn new(config: Config, known: Known, metrics: Arc<Metrics>, now: Timestamp) -> Self {
        let steer = Steer::resume(config.steer.clone(), known.steer, now);
        Self {
            detector: Detector::new(config.detect.clone()),
            shown_policy: Shown::new(&steer),
            steer,
            recording: config.record.is_some(),
            config,
            metrics,
            started: now,
            nodes: Nodes::default(),
            registry: Registry::default(),
            groups: Groups::default(),
            findings: known.findings,
            scenes: Scenes::default(),
            paths: None,
            ledger: known.ledger,
            wishes: std::collections::BTreeMap::new(),
            scheduled: std::collections::BTreeMap::new(),
            scheduled_jobs: std::collections::BTreeMap::new(),
            evidence: Arc::default(),
            conflicts: std::collections::BTreeMap::new(),
            pruned: now,
            effects: Vec::new(),
        }
    }

    /// A brain that plans paths, too.
    #[must_use]
    pub fn with_paths(self, paths: Option<Paths>) -> Self {
        Self { paths, ..self }
    }

    /// Takes in what happened at `now`, which never decreases.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Effect> {
        match input {
            Input::Opened { stream, hello } => self.opened(stream, hello, now),
            Input::Message { stream, message } => self.message(stream, message, now),
            Input::Invalid { stream, sequence, reason } => self.invalid(stream, sequence, &reason, now),
            Input::Closed { stream } => {
                let key = self.nodes.session(stream).cloned();
                self.nodes.close(stream, now);
                if let Some(key) = key {
                    self.groups.set_stream(&key, None);
                    self.hear(&key.node, now);
                }
            }
            Input::Answered { order, result } => self.answered(&order, result, now),
            Input::Wanted { ticket, command, by, dry_run } => {
                self.wanted(ticket, &command, &by, dry_run, now)
            }
            Input::Checkpointed { job, iteration, took_us } => {
                // One that nobody has heard of would be kept for ever.
                if self.registry.incarnation(&job).is_some() || self.groups.incarnation(&job).is_some() {
                    self.ledger.checkpoint(&job, Checkpoint { iteration, at: now, took_us });
                    self.keep_ledger(&job);
                }
            }
            Input::Persisted { token, result } => {
                self.shown_policy.settled(token);
                let outputs = self.steer.persisted(token, result, now);
                self.carry(outputs, now);
            }
            Input::Looked { job } => self.scenes.look(job, now),
            Input::Planned(made) => {
                if let Some(paths) = &mut self.paths {
                    paths.made(*made, now);
                }
                self.plan(now);
            }
            Input::Compared(compared) => {
                if let Some(paths) = &mut self.paths {
                    paths.compared(*compared);
                }
            }
            Input::Scheduler(told) => self.scheduler(told, now),
            Input::Tick => self.tick(now),
        }
        let rows = self.findings.unwritten();
        if !rows.is_empty() {
            self.effects.push(Effect::Keep(rows));
        }
        std::mem::take(&mut self.effects)
    }

    /// The findings.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The policy.
    #[must_use]
    pub fn steer(&self) -> &Steer {
        &self.steer
    }

    /// The table of process groups.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    fn tick(&mut self, now: Timestamp) {
        let lost = self.nodes.tick(now, (self.config.ingest.node_lost_seconds * 1e6) as u64);
        for node in lost.nodes {
            self.say("node", "", format!("{} is out of sight: what its ranks do is unknown", node.0), now);
            self.registry.node_lost(&node);
            self.observe(Observation::NodeLost { node }, now);
        }
        for session in lost.sessions {
            self.groups.forget(&session);
        }
        self.observe(Observation::Tick, now);
        self.look_closer();
        for (job, change) in self.detector.take_changes() {
            self.say("job", &job.0, change.sentence(), now);
        }
        let outputs = self.steer.tick(now);
        self.carry(outputs, now);
        self.watch_conflicts(now);
        self.let_go(now);
        self.review(now);
        if let Some(paths) = &mut self.paths {
            paths.tick(&self.registry, now);
        }
        self.plan(now);
        self.shown_policy.refresh(&self.steer, now);
        if now.micros_since(self.pruned) >= PRUNE_US {
            self.pruned = now;
            self.registry.prune(now);
            // Agents have to come back first, and with them their jobs.
            if now.micros_since(self.started) > SETTLED_US {
                let registry = &self.registry;
                let forgotten = self.ledger.prune(|job| registry.incarnation(job).is_some(), now);
                self.effects.extend((!forgotten.is_empty()).then_some(Effect::Keep(forgotten)));
            }
        }
    }

    /// Passes on whose network steps the detector wants timed.
    fn look_closer(&mut self) {
        for wish in self.detector.wishes() {
            for stream in self.nodes.streams(&wish.node) {
                self.metrics.step_requests.inc_by(wish.processes.len() as u64);
                self.effects.push(Effect::TimeSteps(stream, wish.processes.clone(), wish.duration_us));
            }
        }
    }

    /// Tells the detector, and takes in what it says.
    fn observe(&mut self, observation: Observation, now: Timestamp) {
        if self.recording {
            self.effects.push(Effect::Record(Box::new(Line { now, observation: observation.clone() })));
        }
        let findings = self.detector.observe(observation, now);
        let changed = !findings.is_empty();
        for finding in findings {
            self.found(finding, now);
        }
        if changed {
            self.review(now);
        }
    }

    fn found(&mut self, finding: Finding, now: Timestamp) {
        let finding = self.findings.known_as(finding);
        // What ends because a restart ends it is no fault. The detector knows that of restarts that this controller began.
        let ended_on_purpose = self.steer.running(&finding.job).is_some_and(|action| action.ends(&finding));
        if ended_on_purpose && self.findings.get(&finding.id).is_none() {
            return;
        }
        let contested = self.registry.contested(&finding);
        let id = finding.id.clone();
        if finding.cleared.is_none()
            && self.scenes.is_due(&id, now)
            && let Some(scene) = self.detector.scene(&finding.job)
        {
            self.scenes.keep(id.clone(), Arc::new(scene));
        }
        match self.findings.take(finding.clone(), contested) {
            Change::Opened => self.opened_finding(&finding, now),
            Change::Updated => {
                self.ledger.fault(&finding, now);
                self.keep_ledger(&finding.job);
                self.say("finding", &finding.job.0, finding.summary, now);
                self.notify(&id);
            }
            Change::Cleared => self.cleared_finding(&finding, "", now),
            Change::Withheld => {
                tracing::debug!(finding = id.0, "withheld: the claims it rests on contradict each other");
            }
            Change::Same => self.notify(&id),
        }
    }

    fn cleared_finding(&mut self, finding: &Finding, how: &str, now: Timestamp) {
        self.say("finding", &finding.job.0, format!("cleared{how}: {}", finding.summary), now);
        let at = finding.cleared.unwrap_or(now);
        if self.steer.running(&finding.job).is_none() {
            self.ledger.cleared(&finding.job, &finding.id, at);
            self.keep_ledger(&finding.job);
        }
        self.notify(&finding.id);
    }

    /// Ends findings from before the start that are about what is no more, or that nobody has found again.
    fn let_go(&mut self, now: Timestamp) {
        let late = now.micros_since(self.started) > FOUND_AGAIN_US;
        let registry = &self.registry;
        let over = |finding: &Finding| {
            let present = registry.incarnation(&finding.job);
            // The dead do not come back, and nobody tells of them twice.
            let lasts = finding.kind == Kind::ProcessDeath && present == Some(finding.incarnation);
            (late && !lasts) || present > Some(finding.incarnation)
        };
        for finding in self.findings.let_go(over, now) {
            self.cleared_finding(&finding, " (not found again since the controller started)", now);
        }
        for finding in self.findings.settle(|_, failed| now.micros_since(failed) > UNANSWERED_US, now) {
            self.cleared_finding(
                &finding,
                " (its restart failed a day ago, and the job never came back)",
                now,
            );
        }
    }

    /// A job has new processes: whatever its restart was to answer, somebody has.
    fn goes_on(&mut self, job: &JobId, now: Timestamp) {
        for finding in self.findings.settle(|finding, _| finding.job == *job, now) {
            self.cleared_finding(&finding, " (the job was started again)", now);
        }
    }

    fn opened_finding(&mut self, finding: &Finding, now: Timestamp) {
        self.metrics.findings.with_label_values(&[finding.kind.name()]).inc();
        self.ledger.fault(finding, now);
        self.keep_ledger(&finding.job);
        self.say("finding", &finding.job.0, finding.summary.clone(), now);
        self.notify(&finding.id);
    }

    /// Tells when a job begins or ceases to contradict itself, and shows what was withheld meanwhile.
    fn watch_conflicts(&mut self, now: Timestamp) {
        let jobs: Vec<_> = self.registry.jobs().cloned().collect();
        self.conflicts.retain(|job, _| jobs.contains(job));
        for job in jobs {
            let current = self.registry.conflicts(&job);
            let before = self.conflicts.get(&job).cloned().unwrap_or_default();
            if current == before {
                continue;
            }
            for conflict in current.iter().filter(|conflict| !before.contains(conflict)) {
                self.say(
                    "job",
                    &job.0,
                    format!("conflict: {conflict}; its state is unknown until this ends"),
                    now,
                );
            }
            if current.is_empty() {
                self.say("job", &job.0, "nothing contradicts itself any more".into(), now);
            }
            self.conflicts.insert(job, current);
        }
        let registry = &self.registry;
        for id in self.findings.release(|finding| registry.contested(finding)) {
            if let Some(finding) = self.findings.get(&id).map(|record| record.finding.clone()) {
                self.opened_finding(&finding, now);
            }
        }
    }

    /// Has a job's account written down. Nothing waits for that.
    fn keep_ledger(&mut self, job: &JobId) {
        self.effects.extend(self.ledger.row(job).map(|row| Effect::Keep(vec![row])));
    }

    fn keep_evidence(&mut self, node: &NodeName, saved: EvidenceSaved, now: Timestamp) {
        let all = Arc::make_mut(&mut self.evidence);
        if all.len() >= MAX_EVIDENCE {
            all.remove(0);
        }
        all.push(Evidence { at: now, node: node.clone(), saved });
    }

    fn notify(&mut self, id: &FindingId) {
        if let Some(record) = self.findings.get(id) {
            let notice = Notice { finding: record.finding.clone(), actions: record.actions.clone() };
            self.effects.push(Effect::Notify(Box::new(notice)));
        }
    }

    fn say(&mut self, kind: &'static str, job: &str, text: String, now: Timestamp) {
        self.effects.push(Effect::Event(Event { at: now, kind, job: job.to_owned(), text }));
    }
}
