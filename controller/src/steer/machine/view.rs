//! What operators see of steering.

use c4_detect::observation::NodeName;

use super::Steer;
use crate::steer::{
    action::Action,
    journal::{AuditEntry, NodeRecord, Pause},
    modes::Setting,
};

/// Actions that have ended, and audit entries, that are shown.
const SHOWN: usize = 1000;

/// A picture of the machine.
#[derive(Clone, Debug, Default)]
pub struct SteerView {
    /// Actions, oldest first: the newest that have ended, then those that have not.
    pub actions: Vec<Action>,
    /// The end of the audit trail, oldest first.
    pub audit: Vec<AuditEntry>,
    /// The pause.
    pub pause: Option<Pause>,
    /// Why the circuit breaker is open, if it is.
    pub breaker: Option<String>,
    /// Modes that operators set.
    pub modes: Vec<Setting>,
    /// Nodes of which something is known.
    pub nodes: Vec<(NodeName, NodeRecord)>,
    /// Whether the store took what it was last given.
    pub store_ok: bool,
}

impl Steer {
    /// Grows with everything that changes [`Steer::view`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A picture.
    #[must_use]
    pub fn view(&self) -> SteerView {
        let ended = self.past.iter().skip(self.past.len().saturating_sub(SHOWN));
        let mut open: Vec<&Action> = self.open.values().map(|open| &open.action).collect();
        open.sort_by_key(|action| action.planned);
        SteerView {
            actions: ended.chain(open).cloned().collect(),
            audit: self.audit.iter().skip(self.audit.len().saturating_sub(SHOWN)).cloned().collect(),
            pause: self.pause.clone(),
            breaker: self.breaker.open().map(str::to_owned),
            modes: self.modes.settings().cloned().collect(),
            nodes: self.nodes.iter().map(|(node, record)| (node.clone(), record.clone())).collect(),
            store_ok: self.store_ok,
        }
    }
}
