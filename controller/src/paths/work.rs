//! Making a plan: the part that takes time, on its own, so that it can be done beside everything else.

use std::{collections::BTreeSet, sync::Arc};

use c4_traffic::{
    Flows, Plan, Previous, Topology,
    actuators::{Actuator, Deeds, Failed, Planned},
    baseline, plan,
    sightings::Pair,
    topology::State,
};

/// Which of the many ways that hashes could fall is shown beside a plan; always the same, so that only networks and jobs
/// change it.
const DRAW: u64 = 1;
/// Queue pairs of a flow that are hashed at most: with more, hashing comes no nearer to a plan.
const MOST_PAIRS: u32 = 16;

/// What to plan.
#[derive(Clone, Debug)]
pub struct Work {
    /// The network as it is written down.
    pub topology: Arc<Topology>,
    /// What jobs send.
    pub flows: Arc<Flows>,
    /// Links that are to be used only where there is no other way.
    pub avoided: BTreeSet<Pair>,
    /// The plan so far.
    pub previous: Option<Arc<Previous>>,
    /// Flows that cannot be moved now.
    pub pinned: Vec<String>,
    /// Who carries it out.
    pub actuator: Arc<dyn Actuator>,
}

/// A plan and what follows from it.
#[derive(Debug)]
pub struct Made {
    /// The network that it was asked for.
    pub asked_for: Arc<Topology>,
    /// The network as it was planned for.
    pub topology: Arc<Topology>,
    /// What it is a plan for.
    pub flows: Arc<Flows>,
    /// The plan.
    pub plan: Plan,
    /// What is to be done for it.
    pub deeds: Result<Deeds, Failed>,
}

impl Work {
    /// Makes the plan.
    #[must_use]
    pub fn make(self) -> Made {
        let Self { mut topology, flows, avoided, mut previous, pinned, actuator } = self;
        let asked_for = topology.clone();
        if let Some(previous) = &mut previous {
            let previous = Arc::make_mut(previous);
            pinned.iter().for_each(|id| previous.pin(id));
        }
        if !avoided.is_empty() {
            let changed = Arc::make_mut(&mut topology);
            for (a, b) in avoided {
                changed.avoid(a, b);
            }
        }
        let plan = plan(&topology, &flows, previous.as_deref());
        let deeds = actuator.carry_out(&Planned { topology: &topology, flows: &flows, plan: &plan });
        Made { asked_for, topology, flows, plan, deeds }
    }
}

/// What hashing would do to the flows of a plan. Nobody who waits for orders waits for this: it takes its time after the plan
/// is out.
#[derive(Clone, Debug)]
pub struct Comparison {
    topology: Arc<Topology>,
    flows: Arc<Flows>,
}

/// Where flows would go if switches hashed them.
#[derive(Clone, Debug)]
pub struct Compared {
    /// What was compared.
    pub of: Comparison,
    /// Their paths.
    pub hashed: Plan,
}

impl Comparison {
    /// For a plan that was made.
    #[must_use]
    pub fn with(made: &Made) -> Self {
        Self { topology: made.topology.clone(), flows: made.flows.clone() }
    }

    /// Whether it is for the plan of these flows on this network.
    #[must_use]
    pub fn is_of(&self, topology: &Arc<Topology>, flows: &Arc<Flows>) -> bool {
        Arc::ptr_eq(&self.topology, topology) && Arc::ptr_eq(&self.flows, flows)
    }

    /// Makes it.
    #[must_use]
    pub fn make(self) -> Compared {
        // As many queue pairs as any flow has, so that hashing is not made to look worse than it is.
        let pairs = self.flows.as_slice().iter().map(|flow| flow.max_pieces.get()).max().unwrap_or(1);
        let hashed = baseline::ecmp(&self.topology, &self.flows, pairs.min(MOST_PAIRS), DRAW);
        Compared { of: self, hashed }
    }
}

/// Says what state a link has, as documents do.
#[must_use]
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Avoid => "avoid",
        State::Down => "down",
    }
}
