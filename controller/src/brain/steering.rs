//! What the policy is told and what it wants.

use std::collections::{BTreeMap, VecDeque};

use c4_detect::observation::{JobId, NodeName, Observation, Timestamp};

use super::{Brain, Effect};
use crate::{
    groups::Groups,
    ledger::Ledger,
    nodes::Nodes,
    registry::Registry,
    steer::{
        action::Order,
        breaker::ClusterFacts,
        kubernetes,
        machine::{Command, Output, World},
        rails::{JobFacts, Means},
        scheduler::{SchedulerNode, Told},
        slurm,
    },
};

/// What the policy may see of the brain.
struct Seen<'a> {
    registry: &'a Registry,
    groups: &'a Groups,
    ledger: &'a Ledger,
    nodes: &'a Nodes,
    wishes: &'a BTreeMap<NodeName, String>,
    scheduled: &'a BTreeMap<NodeName, SchedulerNode>,
    scheduled_jobs: &'a BTreeMap<JobId, Option<String>>,
    slurm: bool,
}

impl World for Seen<'_> {
    fn job(&self, job: &JobId) -> Option<JobFacts> {
        let (registry, groups) = (self.registry, self.groups);
        let incarnation = registry.incarnation(job).into_iter().chain(groups.incarnation(job)).max()?;
        let conflicts = registry.conflicts(job);
        let means = match groups.supervised(job, || registry.nodes_of(job)) {
            Ok(()) => Ok(Means::Agents(groups.layout(job))),
            Err(_) if self.slurm && slurm::number(job).is_some() => Ok(Means::Scheduler(slurm::NAME)),
            Err(_) if self.scheduled_jobs.contains_key(job) => Ok(Means::Scheduler(kubernetes::NAME)),
            Err(why) => Err(why),
        };
        Some(JobFacts {
            incarnation,
            means,
            conflict: (!conflicts.is_empty()).then(|| conflicts.join("; ")),
            checkpoint: self.ledger.newest_checkpoint(job),
            opted_out: groups.opted_out(job).or_else(|| self.scheduled_jobs.get(job).cloned().flatten()),
        })
    }

    fn cluster(&self) -> ClusterFacts {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ClusterFacts {
            jobs: count(self.registry.jobs().count()),
            nodes: count(self.nodes.iter().count()),
            lost: count(self.nodes.iter().filter(|(_, node)| node.lost).count()),
            opted_out: self.opted_out(),
        }
    }
}

impl Seen<'_> {
    /// Nodes that are to be left alone, whoever says so.
    fn opted_out(&self) -> BTreeMap<NodeName, String> {
        let by_scheduler = self.scheduled.values();
        let by_scheduler = by_scheduler.filter_map(|node| Some((node.name.clone(), node.opted_out.clone()?)));
        let by_agents = self.wishes.iter().map(|(node, why)| (node.clone(), why.clone()));
        by_scheduler.chain(by_agents).collect()
    }
}

/// The brain's parts, apart from its policy.
macro_rules! seen {
    ($brain:expr) => {
        Seen {
            registry: &$brain.registry,
            groups: &$brain.groups,
            ledger: &$brain.ledger,
            nodes: &$brain.nodes,
            wishes: &$brain.wishes,
            scheduled: &$brain.scheduled,
            scheduled_jobs: &$brain.scheduled_jobs,
            slurm: $brain.config.steer.slurm.is_some(),
        }
    };
}

impl Brain {
    pub(super) fn review(&mut self, now: Timestamp) {
        self.steer.expect(self.findings.recalled());
        let recalled = self.findings.recalled();
        let open = self.findings.open().filter(|finding| !recalled.contains(&finding.id));
        let outputs = self.steer.review(open, &seen!(self), now);
        self.carry(outputs, now);
    }

    pub(super) fn answered(&mut self, order: &Order, result: Result<String, String>, now: Timestamp) {
        let facts = order.restart().and_then(|(job, ..)| seen!(self).job(job));
        let outputs = self.steer.answered(order, result, facts.as_ref(), now);
        self.carry(outputs, now);
    }

    pub(super) fn wanted(&mut self, ticket: u64, command: &Command, by: &str, dry_run: bool, now: Timestamp) {
        let (result, outputs) = self.steer.command(command, by, dry_run, &seen!(self), now);
        self.carry(outputs, now);
        self.effects.push(Effect::Reply(ticket, result));
    }

    /// A scheduler tells of its nodes and jobs; what somebody gave back there is given back here.
    pub(super) fn scheduler(&mut self, told: Told, now: Timestamp) {
        let scheduler = words(told.scheduler);
        self.scheduled_jobs = told.jobs.unwrap_or_default();
        for node in told.nodes {
            let before = self.scheduled.insert(node.name.clone(), node.clone());
            let state = |node: &SchedulerNode| (node.drained, node.down);
            if before.as_ref().map(state) == Some(state(&node)) {
                continue;
            }
            let why = if node.reason.is_empty() { String::new() } else { format!(": {}", node.reason) };
            let words = match state(&node) {
                (_, true) => Some(format!("{scheduler} has {} down{why}", node.name.0)),
                (true, false) => Some(format!("{scheduler} drains {}{why}", node.name.0)),
                (false, false) => before.is_some().then(|| format!("{scheduler} uses {} again", node.name.0)),
            };
            if let Some(words) = words {
                self.say("node", "", words, now);
            }
            if before.is_some_and(|before| before.drained) && !node.drained {
                let outputs = self.steer.given_back(&node.name, &format!("somebody in {scheduler}"), now);
                self.carry(outputs, now);
            }
        }
    }

    /// Does what the policy wants. What follows from that (the detector hears of a stop) may want more.
    pub(super) fn carry(&mut self, outputs: Vec<Output>, now: Timestamp) {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Stopping { job, incarnation } => {
                    // The accusation that led here must not be cleared out of the ledger as "went away by itself".
                    self.observe(Observation::JobStopping { job, incarnation }, now);
                }
                Output::Stopped { job, incarnation } => {
                    let text = format!("every process of incarnation {incarnation} has stopped");
                    self.say("job", &job.0, text, now);
                    self.ledger.stopped(&job, incarnation, now);
                    self.keep_ledger(&job);
                }
                Output::Unanswered { finding } => {
                    self.findings.reopen(&finding, now);
                }
                Output::Persist { token, batch } => {
                    self.shown_policy.writing(token);
                    self.effects.push(Effect::Persist(token, batch));
                }
                Output::Order(order) => self.effects.push(Effect::Act(order)),
                Output::Halt => self.effects.push(Effect::Halt),
                Output::Said { finding, job, text, outcome } => {
                    self.metrics.actions.with_label_values(&[outcome]).inc();
                    let record = finding.as_ref().and_then(|finding| self.findings.get(finding));
                    let because = match (outcome, record) {
                        ("planned" | "proposed", Some(record)) => {
                            format!("{text} because {}", record.finding.summary)
                        }
                        _ => text.clone(),
                    };
                    self.say("action", &job, because, now);
                    if let Some(finding) = finding
                        && self.findings.acted(&finding, &text)
                    {
                        self.notify(&finding);
                    }
                }
            }
        }
    }
}

/// A scheduler's name, as people write it.
fn words(scheduler: &str) -> &str {
    match scheduler {
        slurm::NAME => "Slurm",
        kubernetes::NAME => "Kubernetes",
        other => other,
    }
}
