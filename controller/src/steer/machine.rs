//! The policy machine: findings become proposals, proposals pass the rails, actions go through their steps.
//!
//! ```text
//!            ┌▶ proposed ─▶┐ (an operator's yes)
//! finding ──▶┴────────────▶┴▶ planned ─▶ isolating? ─▶ stopping ─▶ starting ─▶ done
//!            │                   └────────────┴───────────┴───────────┴──────▶ failed
//!            └▶ held: said once, with the reason        (each step: several attempts, each with a deadline)
//! ```
//! Each arrow is written down before anything follows from it: the machine asks for it with [`Output::Persist`] and goes
//! on when [`Steer::persisted`] is called. An action that was not begun is withdrawn when its finding clears; one that
//! was begun is finished, since a job that is half stopped is worse than either.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use c4_detect::{
    finding::{Finding, FindingId},
    observation::{JobId, NodeName, Timestamp},
};

use super::{
    action::{Action, ActionId, Blamed, Deed, Order, State},
    breaker::{Breaker, ClusterFacts},
    journal::{self, AuditEntry, Loaded, NodeRecord, Pause},
    kubernetes,
    ladder::{self, Blame, Ladder, Rung},
    modes::Modes,
    placement::{self, Place},
    rails::{self, History, Hold, JobFacts, Means, Weather},
};
use crate::{
    config::{Mode, Steer as Config},
    store::Write,
};

mod commands;
mod running;
#[cfg(test)]
mod tests;
mod view;

pub use commands::{Command, Refused};
pub use view::SteerView;

/// Who decided what no person decided.
const POLICY: &str = "policy";
/// An hour.
const HOUR_US: u64 = 3_600_000_000;
/// An action that was planned before the controller ended is begun if that is no longer ago than this.
const FRESH_US: u64 = 60_000_000;

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
    /// This is to be written down; [`Steer::persisted`] is told with the token.
    Persist {
        /// Names the batch.
        token: u64,
        /// What.
        batch: Vec<Write>,
    },
    /// An actuator is to carry this out.
    Order(Box<Order>),
    /// Whatever actuators are carrying out is to be left where it is, now.
    Halt,
    /// Something worth telling.
    Said {
        /// The finding it is about, if any.
        finding: Option<FindingId>,
        /// The job it is about; may be empty.
        job: String,
        /// A sentence without an end and, where the finding is known, without the reason.
        text: String,
        /// Outcome for metrics: "proposed", "held", "planned", "withdrawn", "done", "failed", "step", "operator".
        outcome: &'static str,
    },
}

/// What the policy sees of everything else.
pub trait World {
    /// A job, if it is known.
    fn job(&self, job: &JobId) -> Option<JobFacts>;
    /// The cluster.
    fn cluster(&self) -> ClusterFacts;
}

/// How an action that has not ended waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For an operator.
    Proposed,
    /// For the store.
    Writing { token: u64, deadline: Timestamp },
    /// For an actuator, until then.
    Ordered { deadline: Timestamp },
    /// For the job's next incarnation to appear, which an actuator has said is started.
    Awaited { deadline: Timestamp },
    /// Until then, to try again.
    Retry { at: Timestamp },
    /// For the end of the pause.
    Suspended,
}

#[derive(Debug)]
struct Open {
    action: Action,
    phase: Phase,
}

/// What could be done about a finding.
struct Proposal {
    deed: Deed,
    blamed: Option<Blamed>,
    /// Why it is less than the ladder asks for; may be empty.
    note: String,
    /// Whether an operator has to say yes.
    ask: bool,
}

/// The machine.
pub struct Steer {
    config: Config,
    started: Timestamp,
    modes: Modes,
    pause: Option<Pause>,
    breaker: Breaker,
    ladder: Ladder,
    nodes: BTreeMap<NodeName, NodeRecord>,
    open: BTreeMap<ActionId, Open>,
    past: VecDeque<Action>,
    audit: VecDeque<AuditEntry>,
    histories: HashMap<JobId, (u32, History)>,
    said: HashMap<FindingId, (JobId, Hold)>,
    /// See [`Steer::expect`].
    expected: BTreeSet<FindingId>,
    /// Findings about which an operator said no.
    rejected: BTreeMap<FindingId, String>,
    token: u64,
    version: u64,
    /// What everybody was last told of the store.
    store_ok: bool,
}

impl Steer {
    /// A machine that goes on where a journal ends. Steps that were begun are ordered again on the next
    /// [`Steer::tick`]: an order carried out twice does no harm.
    #[must_use]
    pub fn resume(config: Config, loaded: Loaded, now: Timestamp) -> Self {
        let mut modes = Modes::new(config.mode, &config.modes);
        for setting in loaded.modes {
            modes.set(setting);
        }
        let mut steer = Self {
            config,
            started: now,
            modes,
            pause: loaded.pause,
            breaker: Breaker::default(),
            ladder: Ladder::new(loaded.blames),
            nodes: loaded.nodes.into_iter().collect(),
            open: BTreeMap::new(),
            past: VecDeque::new(),
            audit: loaded.audit.into(),
            histories: HashMap::new(),
            said: HashMap::new(),
            expected: BTreeSet::new(),
            rejected: BTreeMap::new(),
            token: 0,
            version: 1,
            store_ok: true,
        };
        let mut actions = loaded.actions;
        actions.sort_by_key(|action| action.planned);
        for action in actions {
            steer.recall(action);
        }
        steer
    }

    /// A machine that has done nothing.
    #[must_use]
    pub fn new(config: Config, now: Timestamp) -> Self {
        Self::resume(config, Loaded::default(), now)
    }

    fn recall(&mut self, action: Action) {
        if let Deed::Restart { job, incarnation, .. } = &action.deed
            && action.state.began()
        {
            let (known, history) = self.histories.entry(job.clone()).or_default();
            if *incarnation < *known {
                *history = History::default();
            }
            *known = *incarnation;
            history.restarts += 1;
            history.last = Some(action.planned);
            history.failed_here = matches!(action.state, State::Failed { .. }).then_some(action.planned);
        }
        if let (State::Rejected { by }, Some(finding)) = (&action.state, &action.finding) {
            self.rejected.insert(finding.clone(), by.clone());
        }
        if action.state.is_final() {
            self.past.push_back(action);
            return;
        }
        let phase =
            if action.state == State::Proposed { Phase::Proposed } else { Phase::Retry { at: Timestamp(0) } };
        self.open.insert(action.id.clone(), Open { action, phase });
    }

    /// Restarts begun of a job.
    #[must_use]
    pub fn restarts(&self, job: &JobId) -> u32 {
        self.histories.get(job).map_or(0, |(_, history)| history.restarts)
    }

    /// The restart of a job that was decided and has not ended.
    #[must_use]
    pub fn running(&self, job: &JobId) -> Option<&Action> {
        let decided = |action: &&Action| action.state != State::Proposed && action.deed.job() == Some(job);
        self.open.values().map(|open| &open.action).find(decided)
    }

    /// Whether a node is isolated by our doing.
    #[must_use]
    pub fn is_isolated(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|record| record.isolated.is_some())
    }

    /// The cluster's mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.modes.cluster()
    }

    /// Findings from before the start that may be found again: nothing follows from them, and nothing is withdrawn for them.
    pub fn expect(&mut self, findings: &BTreeSet<FindingId>) {
        if self.expected != *findings {
            self.expected = findings.clone();
        }
    }

    /// Goes through the open findings of all jobs. To be called when one changes, and with every tick.
    pub fn review<'a>(
        &mut self,
        open: impl IntoIterator<Item = &'a Finding>,
        world: &dyn World,
        now: Timestamp,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        let findings: Vec<&Finding> = open.into_iter().collect();
        let cluster = world.cluster();
        let suspects = findings.iter().filter_map(|finding| {
            let node = finding.suspects.first()?.node.clone()?;
            Some((node, finding.detected))
        });
        if let Some(text) = self.breaker.look(suspects, &cluster, &self.config, now) {
            self.announce(None, "", text, "breaker", POLICY, now, &mut out);
        }
        self.look_for_awaited(world, now, &mut out);
        for finding in &findings {
            self.blame(finding, now, &mut out);
        }
        for finding in &findings {
            if let Some(facts) = world.job(&finding.job) {
                self.consider(finding, &facts, &cluster, now, &mut out);
            }
        }
        let open = findings.iter().map(|finding| finding.id.clone());
        let still_open: HashSet<FindingId> = open.chain(self.expected.iter().cloned()).collect();
        self.withdraw(&still_open, now, &mut out);
        out
    }

    /// Remembers whom a finding blames.
    fn blame(&mut self, finding: &Finding, now: Timestamp, out: &mut Vec<Output>) {
        let Some(blamed) = self.blamed(finding) else { return };
        let blame = Blame::new(finding, blamed, now);
        if self.ladder.note(&blame) {
            let key = journal::blame_key(&blame.finding, &blame.blamed.node);
            self.persist(vec![journal::row(journal::BLAMES, key, &blame)], out);
        }
    }

    fn blamed(&self, finding: &Finding) -> Option<Blamed> {
        ladder::blamed(finding, &self.config.isolate_on, self.config.isolate_confidence)
    }

    /// A job that starts over with a smaller incarnation is a new run under the old name.
    fn notice_run(&mut self, job: &JobId, incarnation: u32) {
        let busy = self.running(job).is_some();
        let (known, history) = self.histories.entry(job.clone()).or_insert((incarnation, History::default()));
        if busy {
            return;
        }
        if incarnation < *known {
            *history = History::default();
        }
        if incarnation != *known {
            *known = incarnation;
            history.failed_here = None;
        }
    }

    fn consider(
        &mut self,
        finding: &Finding,
        facts: &JobFacts,
        cluster: &ClusterFacts,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        self.notice_run(&finding.job, facts.incarnation);
        if self.open.values().any(|open| open.action.finding.as_ref() == Some(&finding.id)) {
            return;
        }
        match self.propose(finding, facts, cluster, now) {
            Ok(proposal) => self.take_up(finding, proposal, now, out),
            Err(held) => self.hold(finding, facts, held.0, held.1, now, out),
        }
    }

    /// What could be done about a finding, or why nothing is done; with what would have been done otherwise.
    fn propose(
        &self,
        finding: &Finding,
        facts: &JobFacts,
        cluster: &ClusterFacts,
        now: Timestamp,
    ) -> Result<Proposal, Box<(Deed, Hold)>> {
        let in_place = Deed::Restart {
            job: finding.job.clone(),
            incarnation: finding.incarnation,
            without: BTreeSet::new(),
            isolate: false,
            ran_on: match &facts.means {
                Ok(Means::Agents(layout)) => layout.places.iter().map(|place| place.node.clone()).collect(),
                _ => BTreeSet::new(),
            },
            placement: Vec::new(),
        };
        let blamed = self.blamed(finding);
        let rung = blamed.as_ref().map_or(Rung::InPlace, |blamed| self.rung(finding, &blamed.node, now));
        if !self.config.restart_on.contains(&finding.kind) {
            return match blamed {
                Some(blamed) if rung == Rung::Isolate => {
                    self.propose_isolation(finding, blamed, cluster, now)
                }
                _ => Err(Box::new((in_place, Hold::Kind))),
            };
        }
        if self.running(&finding.job).is_some() {
            return Err(Box::new((in_place, Hold::Busy)));
        }
        let history = self.histories.get(&finding.job).map_or_else(History::default, |(_, history)| *history);
        let weather = self.weather(now);
        if let Some(hold) = rails::check(finding, facts, &history, &weather, &self.config, now) {
            return Err(Box::new((in_place, hold)));
        }
        if let Some(by) = self.rejected.get(&finding.id) {
            return Err(Box::new((in_place, Hold::Rejected(by.clone()))));
        }
        if let Some(how) = self.ladder.follows_job(finding, self.config.job_fault_nodes) {
            return Err(Box::new((in_place, Hold::JobsOwn(how))));
        }
        let mode = self.modes.effective(Some(finding.kind), Some(&finding.job), None);
        let mut proposal =
            Proposal { deed: in_place, blamed, note: String::new(), ask: mode == Mode::Approve };
        if let Some(blamed) = &proposal.blamed
            && rung > Rung::InPlace
        {
            let node_mode = self.modes.effective(Some(finding.kind), Some(&finding.job), Some(&blamed.node));
            match self.leave_out(&blamed.node, rung, facts, cluster, now) {
                Ok(placement) if node_mode >= mode => {
                    let Deed::Restart { without, isolate, placement: places, .. } = &mut proposal.deed else {
                        return Err(Box::new((proposal.deed, Hold::Busy)));
                    };
                    without.insert(blamed.node.clone());
                    *isolate = rung == Rung::Isolate;
                    *places = placement;
                }
                Ok(_) => proposal.note = format!("{} stays: its mode is {}", blamed.node.0, node_mode.name()),
                Err(why) => proposal.note = format!("{} stays: {why}", blamed.node.0),
            }
        }
        // Whoever says yes to a restart has seen how many there were.
        let hold = match mode {
            Mode::Auto => {
                rails::restarts_spent(&self.config, cluster.jobs, &self.restarted(now), &finding.job)
            }
            mode => rails::mode(mode),
        };
        match hold {
            Some(hold) => Err(Box::new((proposal.deed, hold))),
            None => Ok(proposal),
        }
    }

    /// The jobs of restarts that were begun within the last hour or are about to be, unless a person said yes to them.
    fn restarted(&self, now: Timestamp) -> Vec<&JobId> {
        let open = self.open.values().map(|open| &open.action);
        let open = open.filter(|action| action.state != State::Proposed);
        let recent = self.past.iter().rev().take_while(|action| now.micros_since(action.planned) < HOUR_US);
        let recent = recent.filter(|action| action.state.began());
        let unasked = open.chain(recent).filter(|action| action.by.is_none());
        unasked.filter_map(|action| action.deed.job()).collect()
    }

    fn propose_isolation(
        &self,
        finding: &Finding,
        blamed: Blamed,
        cluster: &ClusterFacts,
        now: Timestamp,
    ) -> Result<Proposal, Box<(Deed, Hold)>> {
        let node = blamed.node.clone();
        let deed = Deed::Isolate { node: node.clone() };
        let mode = self.modes.effective(Some(finding.kind), Some(&finding.job), Some(&node));
        let busy = self.is_isolated(&node) || self.taken_by_open(&node);
        let hold = if busy { Some(Hold::Busy) } else { rails::storm(&self.weather(now)) };
        let hold = hold.or_else(|| self.node_rail(&node, cluster, now).map(Hold::Node));
        let hold = hold.or_else(|| self.rejected.get(&finding.id).cloned().map(Hold::Rejected));
        match hold.or_else(|| rails::mode(mode)) {
            Some(hold) => Err(Box::new((deed, hold))),
            None => {
                Ok(Proposal { deed, blamed: Some(blamed), note: String::new(), ask: mode == Mode::Approve })
            }
        }
    }

    fn rung(&self, finding: &Finding, node: &NodeName, now: Timestamp) -> Rung {
        let probation = self.nodes.get(node).and_then(|record| record.probation_until);
        self.ladder.rung(finding, node, probation.is_some_and(|until| now < until))
    }

    /// Where a job runs without a node, or why that cannot be. A node that is left out without a scheduler's help is
    /// out of this job only.
    fn leave_out(
        &self,
        node: &NodeName,
        rung: Rung,
        facts: &JobFacts,
        cluster: &ClusterFacts,
        now: Timestamp,
    ) -> Result<Vec<Place>, String> {
        if let Some(why) = self.node_rail(node, cluster, now) {
            return Err(why);
        }
        match &facts.means {
            Ok(Means::Agents(layout)) => {
                let unfit =
                    |spare: &NodeName| self.is_isolated(spare) || cluster.opted_out.contains_key(spare);
                placement::place(layout, &BTreeSet::from([node.clone()]), unfit)
            }
            Ok(Means::Scheduler(name)) if rung < Rung::Isolate && *name == kubernetes::NAME => {
                Err("Kubernetes keeps a job from a node only by cordoning it".into())
            }
            Ok(Means::Scheduler(_)) => Ok(Vec::new()),
            Err(why) => Err(why.clone()),
        }
    }

    /// Why a node may not be taken away.
    fn node_rail(&self, node: &NodeName, cluster: &ClusterFacts, now: Timestamp) -> Option<String> {
        if let Some(why) = cluster.opted_out.get(node) {
            return Some(format!("it is to be left alone ({why})"));
        }
        if let Some(until) = rails::maintenance(&self.config, None, Some(node), now) {
            return Some(format!("it is in maintenance until {until}"));
        }
        if let Some(by) = self.nodes.get(node).and_then(|record| record.undone_by.as_ref()) {
            return Some(format!("{by} gave it back, and only a person takes it again"));
        }
        let budget = rails::node_budget(&self.config, cluster.nodes);
        let taken = self.taken(now);
        (!taken.contains(node) && taken.len() >= budget as usize).then(|| {
            format!("{} nodes were taken within an hour or are out, and {budget} may be", taken.len())
        })
    }

    /// Nodes that are out by our doing, are being taken, or were taken within the last hour.
    fn taken(&self, now: Timestamp) -> BTreeSet<NodeName> {
        let open =
            self.open.values().map(|open| &open.action).filter(|action| action.state != State::Proposed);
        let recent = self.past.iter().rev().take_while(|action| now.micros_since(action.planned) < HOUR_US);
        let recent = recent.filter(|action| action.state.began() && action.by.is_none());
        let by_actions = open.chain(recent).filter(|action| action.deed.takes_nodes());
        let isolated =
            self.nodes.iter().filter(|(_, record)| record.isolated.is_some()).map(|(node, _)| node);
        by_actions.flat_map(|action| action.deed.nodes()).chain(isolated).cloned().collect()
    }

    fn taken_by_open(&self, node: &NodeName) -> bool {
        self.open
            .values()
            .any(|open| open.action.deed.takes_nodes() && open.action.deed.nodes().contains(&node))
    }

    fn weather(&self, now: Timestamp) -> Weather {
        Weather {
            paused: self.pause.as_ref().map(|pause| pause.by.clone()),
            breaker: self.breaker.open().map(str::to_owned),
            settling: now.micros_since(self.started) < (self.config.settle_seconds * 1e6) as u64,
        }
    }

    fn take_up(&mut self, finding: &Finding, proposal: Proposal, now: Timestamp, out: &mut Vec<Output>) {
        let Proposal { deed, blamed, note, ask } = proposal;
        let state = if ask { State::Proposed } else { State::Planned };
        let action = Action {
            id: self.new_id(&deed, now),
            deed,
            job: Some(finding.job.clone()),
            finding: Some(finding.id.clone()),
            kind: Some(finding.kind),
            blamed,
            because: finding.summary.clone(),
            by: None,
            planned: now,
            ended: None,
            state,
            attempt: 1,
        };
        self.said.remove(&finding.id);
        let mut text = match &action.deed {
            _ if ask => format!("waiting for a yes to {}: c4ctl approve {}", action.deed, action.id.0),
            Deed::Restart { job, .. } => format!("restarting job {}{}", job.0, suffix(&action.deed)),
            deed => format!("going to {deed}"),
        };
        if !note.is_empty() {
            text += &format!(" in place ({note})");
        }
        self.begin(action, text, now, out);
    }

    fn new_id(&self, deed: &Deed, now: Timestamp) -> ActionId {
        let subject = match deed {
            Deed::Restart { job, incarnation, .. } => format!("{}-{}", job.0, incarnation.saturating_add(1)),
            other => other.nodes().first().map_or_else(String::new, |node| node.0.clone()),
        };
        ActionId(format!("{}-{subject}-{:x}", deed.name(), now.0))
    }

    fn hold(
        &mut self,
        finding: &Finding,
        facts: &JobFacts,
        deed: Deed,
        hold: Hold,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        if !hold.worth_saying() || self.said.get(&finding.id).is_some_and(|(_, said)| *said == hold) {
            return;
        }
        let (text, outcome) = match (&hold, &deed) {
            (Hold::Observing, Deed::Restart { .. }) => {
                let from = facts.checkpoint.map_or(String::new(), |i| format!(" from checkpoint {i}"));
                (format!("would {deed}{from} (mode observe)"), "proposed")
            }
            (Hold::Observing, _) => (format!("would {deed} (mode observe)"), "proposed"),
            (hold, Deed::Restart { job, .. }) => (format!("not restarting job {}: {hold}", job.0), "held"),
            (hold, deed) => (format!("not going to {deed}: {hold}"), "held"),
        };
        self.said.insert(finding.id.clone(), (finding.job.clone(), hold));
        self.announce(Some(finding.id.clone()), &finding.job.0, text, outcome, POLICY, now, out);
    }

    /// Proposals whose findings have cleared are withdrawn; one that was spoken of, audibly.
    fn withdraw(&mut self, open: &HashSet<FindingId>, now: Timestamp, out: &mut Vec<Output>) {
        let gone: Vec<_> = self.said.keys().filter(|id| !open.contains(*id)).cloned().collect();
        for finding in gone {
            let Some((job, _)) = self.said.remove(&finding) else { continue };
            let text = format!("not restarting job {}: the cause is gone", job.0);
            self.announce(Some(finding), &job.0, text, "withdrawn", POLICY, now, out);
        }
        let cleared = |open_action: &&Open| {
            let not_begun = matches!(open_action.action.state, State::Proposed | State::Planned);
            let settled = now.micros_since(self.started) >= (self.config.settle_seconds * 1e6) as u64;
            let finding = open_action.action.finding.as_ref();
            // After a start, findings have to come back first.
            not_begun && settled && finding.is_some_and(|finding| !open.contains(finding))
        };
        let withdrawn: Vec<ActionId> =
            self.open.values().filter(cleared).map(|open| open.action.id.clone()).collect();
        for id in withdrawn {
            self.finish(&id, State::Withdrawn { why: "the cause is gone".into() }, now, out);
        }
    }

    /// Says something and writes it into the audit trail.
    #[expect(clippy::too_many_arguments, reason = "each is a field of what is said")]
    fn announce(
        &mut self,
        finding: Option<FindingId>,
        job: &str,
        text: String,
        outcome: &'static str,
        who: &str,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let entry = AuditEntry {
            at: now,
            who: who.to_owned(),
            what: outcome.to_owned(),
            text: text.clone(),
            action: None,
            finding: finding.clone(),
            job: (!job.is_empty()).then(|| JobId(job.to_owned())),
            nodes: Vec::new(),
        };
        let rows = self.note(entry);
        self.persist(rows, out);
        out.push(Output::Said { finding, job: job.to_owned(), text, outcome });
    }

    /// Takes an entry into the audit trail, and returns the rows to write.
    fn note(&mut self, mut entry: AuditEntry) -> Vec<Write> {
        if let Some(last) = self.audit.back() {
            entry.at = entry.at.max(last.at.after(1));
        }
        self.version += 1;
        let mut rows = vec![journal::row(journal::AUDIT, journal::audit_key(entry.at), &entry)];
        self.audit.push_back(entry);
        if self.audit.len() > journal::KEPT
            && let Some(old) = self.audit.pop_front()
        {
            rows.push(Write::remove(journal::AUDIT, journal::audit_key(old.at)));
        }
        rows
    }

    /// Has something written down that nothing waits for.
    fn persist(&mut self, batch: Vec<Write>, out: &mut Vec<Output>) {
        self.token += 1;
        out.push(Output::Persist { token: self.token, batch });
    }

    /// Somebody else than C4 gave a node back that C4 had isolated, and says why, or where.
    pub fn given_back(&mut self, node: &NodeName, by: &str, now: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        let concerned = |open: &Open| open.action.deed.nodes().contains(&node);
        // What is seen while C4 itself takes it or gives it back says nothing of others.
        if !self.is_isolated(node) || self.open.values().any(concerned) {
            return out;
        }
        let record = self.nodes.entry(node.clone()).or_default();
        record.isolated = None;
        record.undone_by = Some(by.to_owned());
        self.save_node(node, &mut out);
        let text = format!(
            "{} is no longer isolated: {by} gave it back; C4 does not take it again by itself",
            node.0
        );
        self.announce(None, "", text, "undone", by, now, &mut out);
        out
    }

    /// Nodes that are isolated by our doing.
    pub fn isolated_nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(|(_, record)| record.isolated.is_some()).map(|(node, _)| node)
    }

    fn save_node(&mut self, node: &NodeName, out: &mut Vec<Output>) {
        let record = self.nodes.entry(node.clone()).or_default();
        let row = if *record == NodeRecord::default() {
            Write::remove(journal::NODES, node.0.clone())
        } else {
            journal::row(journal::NODES, node.0.clone(), record)
        };
        self.version += 1;
        self.persist(vec![row], out);
    }
}

/// " without n3", or nothing.
fn suffix(deed: &Deed) -> String {
    let (Deed::Restart { job, .. }, words) = (deed, deed.to_string()) else { return String::new() };
    words.strip_prefix(&format!("restart job {}", job.0)).unwrap_or_default().to_owned()
}
