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
    ladder::{self, Blame, Ladder},
    modes::Modes,
    rails::{History, Hold, JobFacts},
};
use crate::{
    config::{Mode, Steer as Config},
    store::Write,
};

mod commands;
mod notes;
mod proposals;
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
    /// The restart that was the answer to a finding has failed.
    Unanswered {
        /// The finding.
        finding: FindingId,
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
            self.persist(vec![Write::json(journal::BLAMES, key, &blame)], out);
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
}
