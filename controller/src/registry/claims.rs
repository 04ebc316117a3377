//! Who claims which rank. Contested ranks are kept apart, so asking for them costs nothing when there are none.

use std::collections::{BTreeSet, HashMap};

use c4_detect::observation::ProcessId;

/// Claims of live processes to ranks.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimants: HashMap<u32, BTreeSet<ProcessId>>,
    contested: BTreeSet<u32>,
}

impl Claims {
    pub(super) fn add(&mut self, rank: u32, process: ProcessId) {
        let claimants = self.claimants.entry(rank).or_default();
        claimants.insert(process);
        if claimants.len() > 1 {
            self.contested.insert(rank);
        }
    }

    pub(super) fn set(&mut self, rank: u32, process: ProcessId, live: bool) {
        if live {
            return self.add(rank, process);
        }
        let Some(claimants) = self.claimants.get_mut(&rank) else { return };
        claimants.remove(&process);
        if claimants.len() < 2 {
            self.contested.remove(&rank);
        }
        if claimants.is_empty() {
            self.claimants.remove(&rank);
        }
    }

    pub(super) fn any_contested(&self) -> bool {
        !self.contested.is_empty()
    }

    pub(super) fn contested(&self) -> impl Iterator<Item = (u32, &BTreeSet<ProcessId>)> {
        self.contested.iter().filter_map(|rank| Some((*rank, self.claimants.get(rank)?)))
    }
}
