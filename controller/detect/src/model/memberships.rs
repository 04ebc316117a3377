//! The communicators that a process is in. Few, so a sorted array is quickest, and small.

use crate::{observation::CommId, tree::Slot};

#[derive(Debug)]
struct Membership {
    comm: CommId,
    comm_rank: u32,
    /// Where the job has the communicator.
    slot: Slot,
}

/// See the module: by communicator, the process's rank there. Used like any other map.
#[derive(Debug, Default)]
pub(crate) struct Memberships(Vec<Membership>);

impl Memberships {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, comm: &CommId) -> Result<usize, usize> {
        self.0.binary_search_by_key(comm, |known| known.comm)
    }

    pub(crate) fn get(&self, comm: &CommId) -> Option<&u32> {
        self.find(comm).ok().map(|at| &self.0[at].comm_rank)
    }

    /// The rank in a communicator, and where the job had that when the process joined it.
    pub(crate) fn place(&self, comm: &CommId) -> Option<(u32, Slot)> {
        let known = self.find(comm).ok().map(|at| &self.0[at])?;
        Some((known.comm_rank, known.slot))
    }

    pub(crate) fn contains_key(&self, comm: &CommId) -> bool {
        self.find(comm).is_ok()
    }

    pub(super) fn insert(&mut self, comm: CommId, comm_rank: u32, slot: Slot) {
        let joined = Membership { comm, comm_rank, slot };
        match self.find(&comm) {
            Ok(at) => self.0[at] = joined,
            Err(at) => self.0.insert(at, joined),
        }
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&CommId, &u32) -> bool) {
        self.0.retain(|known| stays(&known.comm, &known.comm_rank));
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &CommId> + Clone {
        self.0.iter().map(|known| &known.comm)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CommId, &u32)> {
        self.0.iter().map(|known| (&known.comm, &known.comm_rank))
    }
}
