//! What steering keeps in the store, and how it is read back.
//!
//! An action's row is its whole state, so the newest row is the truth. Nothing is carried out before the store has said
//! that the action is in it; what comes after (its steps) is written before it is done, but a disk that fails in the
//! middle does not leave a job half restarted: every step can be repeated without harm.

use c4_detect::{
    finding::FindingId,
    observation::{JobId, NodeName, Timestamp},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{
    action::{Action, ActionId},
    ladder::Blame,
    modes::Setting,
};
use crate::store::{Store, StoreError};

/// Actions, by id.
pub const ACTIONS: &str = "steer.actions";
/// The audit trail, by time.
pub const AUDIT: &str = "steer.audit";
/// What is known of nodes, by name.
pub const NODES: &str = "steer.nodes";
/// Blames, by finding and node.
pub const BLAMES: &str = "steer.blames";
/// What operators have set.
pub const SETTINGS: &str = "steer.settings";
/// The key of [`SETTINGS`] with the pause.
pub const PAUSE: &str = "pause";
/// The key of [`SETTINGS`] with the modes.
pub const MODES: &str = "modes";
/// Actions and audit entries kept.
pub const KEPT: usize = 20_000;

/// Somebody did something, or something was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When; no two entries have the same time.
    pub at: Timestamp,
    /// Who: an operator, or "policy".
    pub who: String,
    /// What, in one word: "planned", "approved", "paused", …
    pub what: String,
    /// The same as a sentence.
    pub text: String,
    /// The action, if one is concerned.
    pub action: Option<ActionId>,
    /// The finding that was the reason.
    pub finding: Option<FindingId>,
    /// The job.
    pub job: Option<JobId>,
    /// The nodes.
    pub nodes: Vec<NodeName>,
}

/// All actions are stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who did it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// It is isolated.
    pub isolated: Option<Isolation>,
    /// It came back a while ago, and one more fault isolates it again.
    pub probation_until: Option<Timestamp>,
    /// A person took an action on it back: it is not repeated without one. Who.
    pub undone_by: Option<String>,
}

/// A node is isolated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// Since when.
    pub since: Timestamp,
    /// By which action.
    pub action: ActionId,
    /// Why.
    pub why: String,
}

/// Everything that is read at the start.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Actions.
    pub actions: Vec<Action>,
    /// The end of the audit trail, oldest first.
    pub audit: Vec<AuditEntry>,
    /// Nodes.
    pub nodes: Vec<(NodeName, NodeRecord)>,
    /// Blames.
    pub blames: Vec<Blame>,
    /// The pause.
    pub pause: Option<Pause>,
    /// The modes.
    pub modes: Vec<Setting>,
}

/// The journal cannot be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The store.
    #[error("the journal of actions: {0}")]
    Store(#[from] StoreError),
    /// A row.
    #[error("the journal of actions: {table} {key}: {problem}")]
    Row {
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

impl Loaded {
    /// Reads everything.
    ///
    /// # Errors
    /// The store cannot be read or holds what nobody understands: acting on half a journal would be worse than not to start.
    pub fn read(store: &dyn Store) -> Result<Self, LoadError> {
        let nodes = rows(store, NODES, usize::MAX)?;
        Ok(Self {
            actions: rows(store, ACTIONS, KEPT)?.into_iter().map(|(_, action)| action).collect(),
            audit: rows(store, AUDIT, KEPT)?.into_iter().map(|(_, entry)| entry).collect(),
            nodes: nodes.into_iter().map(|(name, record)| (NodeName(name), record)).collect(),
            blames: rows(store, BLAMES, usize::MAX)?.into_iter().map(|(_, blame)| blame).collect(),
            pause: one(store, PAUSE)?,
            modes: one(store, MODES)?.unwrap_or_default(),
        })
    }
}

fn rows<T: DeserializeOwned>(
    store: &dyn Store,
    table: &'static str,
    limit: usize,
) -> Result<Vec<(String, T)>, LoadError> {
    let read = |(key, value): (String, Vec<u8>)| match parse(table, &key, &value) {
        Ok(value) => Ok((key, value)),
        Err(error) => Err(error),
    };
    store.last(table, limit)?.into_iter().map(read).collect()
}

fn one<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<Option<T>, LoadError> {
    store.get(SETTINGS, key)?.map(|value| parse(SETTINGS, key, &value)).transpose()
}

fn parse<T: DeserializeOwned>(table: &'static str, key: &str, value: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(value).map_err(|error| LoadError::Row {
        table,
        key: key.to_owned(),
        problem: error.to_string(),
    })
}

/// The key of an audit entry: numbers of one length, so that keys are in the order of time.
#[must_use]
pub fn audit_key(at: Timestamp) -> String {
    format!("{:020}", at.0)
}

/// The key of an action: in the order of time.
#[must_use]
pub fn action_key(action: &Action) -> String {
    format!("{:020} {}", action.planned.0, action.id.0)
}

/// The key of a blame.
#[must_use]
pub fn blame_key(finding: &FindingId, node: &NodeName) -> String {
    format!("{} {}", finding.0, node.0)
}
