//! Making a plan: the part that takes time, on its own, so that it can be done beside everything else.

use std::{collections::BTreeSet, sync::Arc};

use c4_traffic::{
    Flows, Plan, Previous, Topology,
    orders::{Order, Unknown, orders},
    plan,
    sightings::Pair,
    topology::State,
};

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
}

/// A plan and what follows from it.
#[derive(Debug)]
pub struct Made {
    /// The network as it was planned for.
    pub topology: Arc<Topology>,
    /// What it is a plan for.
    pub flows: Arc<Flows>,
    /// The plan.
    pub plan: Plan,
    /// What agents are to do.
    pub orders: Result<Vec<Order>, Unknown>,
}

impl Work {
    /// Makes the plan.
    #[must_use]
    pub fn make(self) -> Made {
        let Self { mut topology, flows, avoided, mut previous, pinned } = self;
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
        let orders = orders(&topology, &flows, &plan);
        Made { topology, flows, plan, orders }
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
