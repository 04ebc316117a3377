//! The journal: what was decided, in order, before it was done.
//!
//! An action that could not be written down is not carried out. Kept in memory for now: a controller that is killed
//! forgets its actions, and what protects the job then is that commands name the incarnation they are for, so agents
//! refuse those of a past one. The trait is the place where a store goes.

use c4_detect::observation::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::action::Action;

/// An action as it was after a step. The newest entry of an action is its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub at: Timestamp,
    /// The action, whole.
    pub action: Action,
}

/// The journal could not take an entry.
#[derive(Debug, Error)]
#[error("journal: {0}")]
pub struct JournalError(pub String);

/// An append-only list of entries.
pub trait Journal: Send {
    /// Writes an entry. Once this returns, the entry survives whatever the journal survives.
    fn append(&mut self, entry: Entry) -> Result<(), JournalError>;
}

/// Entries kept in memory at most: an action has about four.
const MAX_ENTRIES: usize = 65_536;

/// A journal that lives as long as the controller.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    entries: Vec<Entry>,
}

impl MemoryJournal {
    /// Everything written, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, entry: Entry) -> Result<(), JournalError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(JournalError(format!("full ({MAX_ENTRIES} entries)")));
        }
        self.entries.push(entry);
        Ok(())
    }
}
