//! Who claims which rank. Contested ranks are kept apart, so asking for them costs nothing when there are none, and
//! what others claim too, so that the usual rank costs no allocation: a job of a hundred thousand has half a million.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use c4_detect::observation::ProcessId;

/// Claims of live processes to ranks.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The first to claim a rank.
    first: HashMap<u32, ProcessId>,
    /// All who claim it, where they are several.
    contested: BTreeMap<u32, BTreeSet<ProcessId>>,
}

impl Claims {
    pub(super) fn add(&mut self, rank: u32, process: ProcessId) {
        let first = *self.first.entry(rank).or_insert(process);
        if first != process {
            self.contested.entry(rank).or_insert_with(|| BTreeSet::from([first])).insert(process);
        }
    }

    pub(super) fn set(&mut self, rank: u32, process: ProcessId, live: bool) {
        if live {
            return self.add(rank, process);
        }
        let Some(claimants) = self.contested.get_mut(&rank) else {
            if self.first.get(&rank) == Some(&process) {
                self.first.remove(&rank);
            }
            return;
        };
        claimants.remove(&process);
        if let Some(left) = claimants.first().copied() {
            self.first.insert(rank, left);
        }
        if claimants.len() < 2 {
            self.contested.remove(&rank);
        }
    }

    /// Who claims a rank, if it is one only.
    pub(super) fn undisputed(&self, rank: u32) -> Option<ProcessId> {
        self.first.get(&rank).copied().filter(|_| !self.contested.contains_key(&rank))
    }

    pub(super) fn any_contested(&self) -> bool {
        !self.contested.is_empty()
    }

    pub(super) fn contested(&self) -> impl Iterator<Item = (u32, &BTreeSet<ProcessId>)> {
        self.contested.iter().map(|(rank, claimants)| (*rank, claimants))
    }
}
