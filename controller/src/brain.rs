//! The controller's one place of decision: what agents say goes in, what is to be done comes out.
//!
//! Detector, registry, ledger and policy are all touched by every message, so they share one owner instead of locks.
//! The brain itself does no I/O and has no clock: [`driver`] is the task around it that owns the channels, and tests
//! hand it inputs directly.

use std::{collections::VecDeque, sync::Arc};

use c4_detect::{
    detector::Detector,
    finding::{Finding, FindingId},
    observation::{JobId, Observation, ProcessId, Timestamp},
};
use c4_proto::v1::PathOrders;

use crate::{
    alerts::Notice,
    config::Config,
    convert::{Hello, Incoming},
    events::Event,
    findings::{Change, Findings},
    groups::Groups,
    ledger::Ledger,
    metrics::Metrics,
    nodes::{Nodes, StreamId},
    paths::{
        Paths,
        keep::Kept,
        work::{Made, Work},
    },
    record::Line,
    registry::Registry,
    scenes::Scenes,
    steer::{
        action::Order,
        journal::Journal,
        machine::{Output, Steer},
        rails::JobFacts,
    },
};

pub mod driver;
mod messages;
mod plan;
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
        result: Result<(), String>,
    },
    /// Somebody looks at a job.
    Looked {
        /// The job.
        job: JobId,
    },
    /// Paths were planned.
    Planned(Box<Made>),
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
    Act(Order),
    /// The agents at the other end are to have all network steps of these processes timed, for so many microseconds.
    TimeSteps(StreamId, Vec<ProcessId>, u64),
    /// Somebody is to plan paths.
    Plan(Box<Work>),
    /// An agent is to have its orders for paths.
    OrderPaths(StreamId, Box<PathOrders>),
    /// The plan of paths is to be kept over a restart.
    KeepPaths(Box<Kept>),
    /// Receivers of alerts are to know this.
    Notify(Box<Notice>),
    /// The recording gets a line.
    Record(Box<Line>),
    /// Something happened.
    Event(Event),
}

/// Memory is looked through for what can be forgotten this often (10 s).
const PRUNE_US: u64 = 10_000_000;

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
    /// Conflicts that were told, by job.
    conflicts: std::collections::BTreeMap<JobId, Vec<String>>,
    recording: bool,
    pruned: Timestamp,
    effects: Vec<Effect>,
}

impl Brain {
    /// A brain that knows nothing.
    #[must_use]
    pub fn new(config: Config, journal: Box<dyn Journal>, metrics: Arc<Metrics>, now: Timestamp) -> Self {
        Self {
            detector: Detector::new(config.detect.clone()),
            steer: Steer::new(config.steer.clone(), journal),
            recording: config.record.is_some(),
            config,
            metrics,
            started: now,
            nodes: Nodes::default(),
            registry: Registry::default(),
            groups: Groups::default(),
            findings: Findings::default(),
            ledger: Ledger::default(),
            scenes: Scenes::default(),
            paths: None,
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
                if let Some(key) = self.nodes.session(stream).cloned() {
                    self.groups.set_stream(&key, None);
                }
                self.nodes.close(stream, now);
            }
            Input::Answered { order, result } => {
                let facts = self.facts(&order.job);
                let outputs = self.steer.answered(&order, result, facts.as_ref(), now);
                self.carry(outputs, now);
            }
            Input::Looked { job } => self.scenes.look(job, now),
            Input::Planned(made) => {
                if let Some(paths) = &mut self.paths {
                    paths.made(*made, now);
                }
                self.plan(now);
            }
            Input::Tick => self.tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    /// The findings.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
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
        self.review(now);
        if let Some(paths) = &mut self.paths {
            paths.tick(&self.registry, now);
        }
        self.plan(now);
        if now.micros_since(self.pruned) >= PRUNE_US {
            self.pruned = now;
            self.registry.prune(now);
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
                self.say("finding", &finding.job.0, finding.summary, now);
                self.notify(&id);
            }
            Change::Cleared => {
                self.say("finding", &finding.job.0, format!("cleared: {}", finding.summary), now);
                let at = finding.cleared.unwrap_or(now);
                if self.steer.running(&finding.job).is_none() {
                    self.ledger.cleared(&finding.job, &id, at);
                }
                self.notify(&id);
            }
            Change::Withheld => {
                tracing::debug!(finding = id.0, "withheld: the claims it rests on contradict each other");
            }
            Change::Same => self.notify(&id),
        }
    }

    fn opened_finding(&mut self, finding: &Finding, now: Timestamp) {
        self.metrics.findings.with_label_values(&[finding.kind.name()]).inc();
        self.ledger.fault(finding, now);
        self.say("finding", &finding.job.0, finding.summary.clone(), now);
        self.notify(&finding.id);
    }

    fn review(&mut self, now: Timestamp) {
        let (registry, groups, ledger) = (&self.registry, &self.groups, &self.ledger);
        let facts = |job: &JobId| facts(registry, groups, ledger, job);
        let outputs = self.steer.review(self.findings.open(), facts, now);
        self.carry(outputs, now);
    }

    fn facts(&self, job: &JobId) -> Option<JobFacts> {
        facts(&self.registry, &self.groups, &self.ledger, job)
    }

    /// Does what the policy wants. What follows from that (the detector hears of a stop) may want more.
    fn carry(&mut self, outputs: Vec<Output>, now: Timestamp) {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Stopping { job, incarnation } => {
                    // The accusation that led here must not be cleared out of the ledger as "went away by itself".
                    self.observe(Observation::JobStopping { job, incarnation }, now);
                }
                Output::Stopped { job, incarnation } => {
                    self.say(
                        "job",
                        &job.0,
                        format!("every process of incarnation {incarnation} has stopped"),
                        now,
                    );
                    self.ledger.stopped(&job, incarnation, now);
                }
                Output::Order(order) => self.effects.push(Effect::Act(order)),
                Output::Said { finding, job, text, outcome } => {
                    self.metrics.actions.with_label_values(&[outcome]).inc();
                    let because = match (outcome, self.findings.get(&finding)) {
                        ("planned" | "proposed", Some(record)) => {
                            format!("{text} because {}", record.finding.summary)
                        }
                        _ => text.clone(),
                    };
                    self.say("action", &job.0, because, now);
                    if self.findings.acted(&finding, &text) {
                        self.notify(&finding);
                    }
                }
            }
        }
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

fn facts(registry: &Registry, groups: &Groups, ledger: &Ledger, job: &JobId) -> Option<JobFacts> {
    let incarnation = registry.incarnation(job).into_iter().chain(groups.incarnation(job)).max()?;
    let conflicts = registry.conflicts(job);
    Some(JobFacts {
        incarnation,
        supervised: groups.supervised(job, || registry.nodes_of(job)),
        conflict: (!conflicts.is_empty()).then(|| conflicts.join("; ")),
        checkpoint: ledger.newest_checkpoint(job),
    })
}
