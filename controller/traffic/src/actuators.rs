//! How a plan reaches the network. The planner does not know how a path is chosen; whoever stands behind [`Actuator`] does.
//!
//! Source ports are for switches that hash: agents learn which port takes which path, and a library gives connections those
//! ports. Policy routes are for leaves that are Linux routers: they are told the next hop of each pair of addresses. An export
//! leaves it to somebody else, and a fabric that sprays packets needs nothing.

use crate::{
    document::plan_json,
    flows::Flows,
    orders::{Order, Unknown, orders},
    plan::Plan,
    topology::Topology,
};

pub mod policy;

/// Whom a new plan reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Connections that run, at once.
    Running,
    /// Each connection when it is made: those that run stay where they are.
    NextConnection,
    /// Nobody knows, or it does not matter.
    Nobody,
}

/// A plan and what it was made for.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The network.
    pub topology: &'a Topology,
    /// The flows.
    pub flows: &'a Flows,
    /// Their paths.
    pub plan: &'a Plan,
}

/// A file for somebody outside: a switch, or whoever reads exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name: the switch and a suffix that says what it is.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What follows from a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// What agents are to do.
    pub orders: Vec<Order>,
    /// What others are to be given.
    pub documents: Vec<Document>,
}

/// Why a plan cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Addresses are missing in the topology.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// A switch takes no more rules.
    #[error("{switch} would need {needed} rules, and takes {most}")]
    TooMany {
        /// The switch.
        switch: String,
        /// Rules of the plan.
        needed: usize,
        /// Rules that it takes.
        most: usize,
    },
    /// The plan cannot be written as JSON.
    #[error("the plan cannot be written: {0}")]
    Written(String),
}

/// Carries plans out. Pure: it says what is to be done, and others do it.
pub trait Actuator: std::fmt::Debug + Send + Sync {
    /// Whom a new plan reaches. What cannot be reached is planned around.
    fn reach(&self) -> Reach;

    /// What follows from a plan.
    ///
    /// # Errors
    /// The topology does not say enough, or a switch cannot take it.
    fn carry_out(&self, planned: &Planned<'_>) -> Result<Deeds, Failed>;
}

/// Source ports, by agents and `libc4-path.so`.
#[derive(Clone, Copy, Debug)]
pub struct SourcePort {
    /// Whether ports of connections that run can be changed: RoCE on mlx5.
    pub live: bool,
}

impl Actuator for SourcePort {
    fn reach(&self) -> Reach {
        if self.live { Reach::Running } else { Reach::NextConnection }
    }

    fn carry_out(&self, planned: &Planned<'_>) -> Result<Deeds, Failed> {
        let orders = orders(planned.topology, planned.flows, planned.plan)?;
        Ok(Deeds { orders, documents: Vec::new() })
    }
}

/// The plan as JSON, for somebody else's means.
#[derive(Clone, Copy, Debug)]
pub struct Export;

impl Actuator for Export {
    fn reach(&self) -> Reach {
        Reach::Nobody
    }

    fn carry_out(&self, planned: &Planned<'_>) -> Result<Deeds, Failed> {
        let document = plan_json(planned.plan, planned.flows, planned.topology);
        let text = serde_json::to_string(&document).map_err(|error| Failed::Written(error.to_string()))?;
        let document = Document { name: "plan.json".into(), text: text + "\n" };
        Ok(Deeds { orders: Vec::new(), documents: vec![document] })
    }
}

/// Nothing: the fabric spreads every flow by itself.
#[derive(Clone, Copy, Debug)]
pub struct Spraying;

impl Actuator for Spraying {
    fn reach(&self) -> Reach {
        Reach::Nobody
    }

    fn carry_out(&self, _: &Planned<'_>) -> Result<Deeds, Failed> {
        Ok(Deeds::default())
    }
}
