//! Faults at awkward moments: two at once, during start-up or a checkpoint, or where the evidence goes with them.

use rand::RngExt as _;

use super::{
    cases::{Case, Class, Draft, Expected, SECOND_NS, Truth},
    shapes::Shape,
};
use crate::simulator::{fault::FaultKind, telemetry::Happening};

/// What comes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// Two ranks are slow from the same moment on.
    TwoSlow,
    /// A rank is slow, and while it is, another dies.
    SlowThenDeath,
    /// Two processes die within a second.
    TwoDeaths,
    /// A rank hangs, and shortly after another dies.
    HangThenDeath,
    /// A process dies in the first iterations.
    DeathAtStart,
    /// A host hangs in the first iterations.
    HangAtStart,
    /// A process dies while checkpoints are written.
    DeathInCheckpoint,
    /// A host never comes back from a checkpoint.
    HangInCheckpoint,
    /// A process dies, and its agent with it.
    DeathAgentLost,
    /// A host hangs, and its agent is lost.
    HangAgentLost,
    /// An agent is lost and comes back; the job goes on.
    AgentLost,
}

impl Combination {
    /// All of them.
    pub const ALL: [Combination; 11] = [
        Combination::TwoSlow,
        Combination::SlowThenDeath,
        Combination::TwoDeaths,
        Combination::HangThenDeath,
        Combination::DeathAtStart,
        Combination::HangAtStart,
        Combination::DeathInCheckpoint,
        Combination::HangInCheckpoint,
        Combination::DeathAgentLost,
        Combination::HangAgentLost,
        Combination::AgentLost,
    ];

    /// In words: what, and when or with what.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Combination::TwoSlow => ("slow + slow", "1.5 x each"),
            Combination::SlowThenDeath => ("slow, death", ""),
            Combination::TwoDeaths => ("death + death", "within 1 s"),
            Combination::HangThenDeath => ("hang, death", "2 s later"),
            Combination::DeathAtStart => ("death", "at start"),
            Combination::HangAtStart => ("host hang", "at start"),
            Combination::DeathInCheckpoint => ("death", "in checkpoint"),
            Combination::HangInCheckpoint => ("host hang", "in checkpoint"),
            Combination::DeathAgentLost => ("death", "agent lost"),
            Combination::HangAgentLost => ("host hang", "agent lost"),
            Combination::AgentLost => ("agent lost", "comes back"),
        }
    }

    /// When what is wrong begins, and how long a checkpoint is written around it.
    fn onset_ns(self, draft: &mut Draft) -> u64 {
        match self {
            Combination::DeathAtStart | Combination::HangAtStart => {
                draft.rng.random_range(SECOND_NS..5 * draft.iteration_ns + 2 * SECOND_NS)
            }
            Combination::DeathInCheckpoint | Combination::HangInCheckpoint => {
                // All noise but checkpoints is small, so the first one after the onset begins about here.
                let iterations = draft.onset_ns() / draft.iteration_ns;
                draft.spec.noise.checkpoint_every = iterations;
                draft.spec.noise.checkpoint_ns = 4 * SECOND_NS;
                checkpoint_ns(draft, iterations) + SECOND_NS
            }
            _ => draft.onset_ns(),
        }
    }

    fn expected(self, draft: &mut Draft, at_ns: u64) -> Option<Expected> {
        let slow = FaultKind::SlowCompute { factor: 1.5, every: 1 };
        let first = draft.any_rank();
        let other = other_rank(draft, first);
        let mut inject = |kind, rank, at_ns| draft.inject(kind, rank, at_ns, None);
        let mut truths = match self {
            Combination::TwoSlow => vec![inject(slow, first, at_ns)?, inject(slow, other?, at_ns)?],
            Combination::SlowThenDeath => {
                let later_ns = at_ns + 30 * SECOND_NS;
                vec![inject(slow, first, at_ns)?, inject(FaultKind::Death, other?, later_ns)?]
            }
            Combination::TwoDeaths => {
                let later_ns = at_ns + SECOND_NS / 2;
                vec![inject(FaultKind::Death, first, at_ns)?, inject(FaultKind::Death, other?, later_ns)?]
            }
            Combination::HangThenDeath => {
                let later_ns = at_ns + 2 * SECOND_NS;
                vec![inject(FaultKind::HostHang, first, at_ns)?, inject(FaultKind::Death, other?, later_ns)?]
            }
            Combination::DeathAtStart | Combination::DeathInCheckpoint => {
                vec![inject(FaultKind::Death, first, at_ns)?]
            }
            Combination::HangAtStart | Combination::HangInCheckpoint => {
                vec![inject(FaultKind::HostHang, first, at_ns)?]
            }
            Combination::DeathAgentLost | Combination::HangAgentLost | Combination::AgentLost => {
                return self.unseen(draft, first, at_ns);
            }
        };
        if matches!(self, Combination::TwoDeaths | Combination::HangThenDeath) {
            // The job is down after either of them: there is nothing left to see of the other.
            truths.iter_mut().for_each(|truth| truth.is_required = false);
        }
        Some(Expected::Faults(truths))
    }

    fn unseen(self, draft: &mut Draft, rank: u32, at_ns: u64) -> Option<Expected> {
        let node = draft.spec.layout.node(rank);
        let kind = match self {
            Combination::DeathAgentLost => Some(FaultKind::Death),
            Combination::HangAgentLost => Some(FaultKind::HostHang),
            _ => None,
        };
        let until_ns = kind.is_none().then_some(at_ns + 40 * SECOND_NS);
        let mut truth: Option<Truth> = match kind {
            Some(kind) => Some(draft.inject(kind, rank, at_ns, None)?),
            None => None,
        };
        // More than that the node is gone nobody can see.
        truth.iter_mut().for_each(|truth| truth.nodes.push(format!("node-{node}")));
        draft.spec.happenings.push(Happening::AgentLost { node, from_ns: at_ns, until_ns });
        Some(Expected::Unknown { truth, from_ns: at_ns, until_ns })
    }
}

/// A rank on another node where there is one, and of another tensor-parallel group.
fn other_rank(draft: &mut Draft, first: u32) -> Option<u32> {
    let layout = draft.spec.layout;
    let away = |rank: &u32| {
        rank / layout.tp != first / layout.tp
            && (layout.nodes() == 1 || layout.node(*rank) != layout.node(first))
    };
    (0..32).map(|_| draft.any_rank()).find(away)
}

/// When the ranks of a job begin to write their checkpoint of iteration `iteration`: found out by running the job.
fn checkpoint_ns(draft: &Draft, iteration: u64) -> u64 {
    use crate::simulator::engine::Engine;
    let spec = &draft.spec;
    let mut engine =
        Engine::new(spec.layout, &spec.model, spec.workload.clone(), spec.noise, Vec::new(), spec.seed);
    (0..iteration).map(|_| engine.step(&mut |_| {}).end_ns).last().unwrap_or(0)
}

/// A combined case in a job of this shape; `None` if such a job cannot have it.
#[must_use]
pub fn combined(shape: &Shape, combination: Combination, seed: u64) -> Option<Case> {
    let mut draft = Draft::new(shape, seed);
    let at_ns = combination.onset_ns(&mut draft);
    let expected = combination.expected(&mut draft, at_ns)?;
    let (fault, severity) = combination.names();
    let iterations = if combination == Combination::TwoSlow { 150 } else { 40 };
    Some(Case {
        row: draft.row(Class::Combined, fault, severity),
        length_ns: at_ns + (iterations * draft.iteration_ns).max(120 * SECOND_NS),
        spec: draft.spec,
        expected,
    })
}
