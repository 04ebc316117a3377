//! A plan as it is kept over a restart of the controller: in the words of the planning documents, so that a topology that
//! has changed meanwhile is met by name. What cannot be read any more is forgotten: the next plan is then a new one.

use c4_traffic::{
    Flow, Flows, Plan, Previous, Topology,
    document::{flows_json, parse_flows, parse_previous, parse_topology, plan_json, topology_yaml},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::{Store, StoreError, Write};

/// The table of the store with the plan.
pub const TABLE: &str = "paths";
/// Its only key.
pub const KEY: &str = "plan";

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    revision: u64,
    epoch: u64,
    flows: Value,
    plan: Value,
    /// The topology, where it was learned and not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topology: Option<String>,
}

/// What a kept plan comes to.
#[derive(Debug, Default)]
pub struct Restored {
    /// Of the last orders.
    pub revision: u64,
    /// Of the network.
    pub epoch: u64,
    /// What the plan was made for.
    pub flows: Vec<Flow>,
    /// The plan.
    pub previous: Option<Previous>,
}

impl Kept {
    /// Keeps a plan.
    #[must_use]
    pub fn new(revision: u64, epoch: u64, topology: &Topology, flows: &Flows, plan: &Plan) -> Self {
        // Neither holds anything that JSON could not say.
        let value = |document: Result<Value, serde_json::Error>| document.unwrap_or(Value::Null);
        Self {
            revision,
            epoch,
            flows: value(serde_json::to_value(flows_json(flows, topology))),
            plan: value(serde_json::to_value(plan_json(plan, flows, topology))),
            topology: None,
        }
    }

    /// Keeps the topology with it.
    #[must_use]
    pub fn on(self, topology: &Topology) -> Self {
        Self { topology: Some(topology_yaml(topology)), ..self }
    }

    /// The topology that was learned, if one was.
    #[must_use]
    pub fn topology(&self) -> Option<Topology> {
        parse_topology(self.topology.as_deref()?).ok()
    }

    /// The plan that was kept, if there is one that can be read.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn load(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        Ok(store.get(TABLE, KEY)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// As it is to be written.
    #[must_use]
    pub fn row(&self) -> Write {
        Write::json(TABLE, KEY, self)
    }

    /// What of it still makes sense.
    #[must_use]
    pub fn restore(&self, topology: &Topology) -> Restored {
        let (revision, epoch) = (self.revision, self.epoch);
        let flows = parse_flows(&self.flows.to_string(), topology);
        let previous = parse_previous(&self.plan.to_string(), topology);
        match (flows, previous) {
            (Ok(flows), Ok(previous)) => {
                Restored { revision, epoch, flows: flows.as_slice().to_vec(), previous: Some(previous) }
            }
            _ => {
                tracing::warn!(
                    "the plan of before does not fit the topology any more: paths are planned anew"
                );
                Restored { revision, epoch, ..Restored::default() }
            }
        }
    }
}
