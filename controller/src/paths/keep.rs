//! A plan as it is kept over a restart of the controller: in the words of the planning documents, so that a topology that
//! has changed meanwhile is met by name. What cannot be read any more is forgotten: the next plan is then a new one.

use std::{path::Path, sync::Arc};

use c4_traffic::{
    Flow, Flows, Plan, Previous, Topology,
    document::{flows_json, parse_flows, parse_previous, plan_json},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::{Store, StoreError, Write, file::FileStore, writer::Writer};

const TABLE: &str = "paths";
const KEY: &str = "plan";

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    revision: u64,
    epoch: u64,
    flows: Value,
    plan: Value,
}

/// Where the plan is kept.
#[derive(Clone)]
pub struct Keeper(Writer);

impl Keeper {
    /// Opens the file; and the plan in it, if there is one that can be read.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(path: &Path) -> Result<(Self, Option<Kept>), StoreError> {
        let store = Arc::new(FileStore::open(path)?);
        let kept = store.get(TABLE, KEY)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let writer = Writer::new(store).map_err(|error| StoreError::Access(error.to_string()))?;
        Ok((Self(writer), kept))
    }

    /// Keeps a plan. One that cannot be written is no reason to stop: the next one is tried again.
    pub fn keep(&self, kept: &Kept) {
        let Ok(bytes) = serde_json::to_vec(kept) else { return };
        let told = |written| {
            if let Err(error) = written {
                tracing::warn!(%error, "the plan of paths cannot be kept");
            }
        };
        let handed_over = self.0.write(vec![Write::put(TABLE, KEY, bytes)], told);
        if handed_over.is_err() {
            told(handed_over);
        }
    }
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
        }
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
