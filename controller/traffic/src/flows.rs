//! Who sends how much to whom.

use std::{collections::HashMap, num::NonZeroU32};

use crate::topology::{Gbps, NicId, Topology};

/// A flow: what one NIC sends to another for one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Its name, unique among all flows.
    pub id: String,
    /// The job it belongs to.
    pub job: String,
    /// The sender.
    pub src: NicId,
    /// The receiver, another NIC.
    pub dst: NicId,
    /// How much it sends while it sends.
    pub demand: Gbps,
    /// How many queue pairs it may be spread over.
    pub max_pieces: NonZeroU32,
}

/// Why a flow cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The id is taken.
    #[error("flow {0:?} is there already")]
    Duplicate(String),
    /// It would not cross the network.
    #[error("flow {0:?} goes from a NIC to itself")]
    ToItself(String),
}

/// All flows there are, of all jobs, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    flows: Vec<Flow>,
    by_id: HashMap<String, usize>,
}

impl Flows {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a flow.
    ///
    /// # Errors
    /// When its id is taken, or it goes from a NIC to itself.
    pub fn push(&mut self, flow: Flow) -> Result<(), FlowError> {
        if flow.src == flow.dst {
            return Err(FlowError::ToItself(flow.id));
        }
        if self.by_id.contains_key(&flow.id) {
            return Err(FlowError::Duplicate(flow.id));
        }
        self.by_id.insert(flow.id.clone(), self.flows.len());
        self.flows.push(flow);
        Ok(())
    }

    /// All of them, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Flow] {
        &self.flows
    }

    /// The place of the flow of that id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

/// What a flow sends when nobody says how much: the smallest port rate of its two NICs, whatever the ports' state, so
/// that a failure does not look like a job that wants less.
#[must_use]
pub fn default_demand(topology: &Topology, src: NicId, dst: NicId) -> Gbps {
    let ports = topology.nic(src).ports.iter().chain(&topology.nic(dst).ports);
    let rates = ports.map(|port| port.rate);
    // Every NIC has a port, so the fold never ends with its start.
    rates.fold(topology.nic(src).ports[0].rate, |least, rate| if rate < least { rate } else { least })
}
