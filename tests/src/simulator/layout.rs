//! Which rank belongs to which parallel group. Ranks are numbered as Megatron does by default: tensor parallelism
//! varies fastest, then data parallelism, then pipeline stages; expert groups are runs of `ep` neighbours inside a
//! data-parallel group.

use c4_detect::observation::CommId;
use serde::{Deserialize, Serialize};

/// Sizes of the parallel dimensions. The job has `tp × dp × pp` ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Tensor-parallel ranks.
    pub tp: u32,
    /// Data-parallel replicas.
    pub dp: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Expert-parallel ranks; divides `dp`; 1 for a dense model.
    pub ep: u32,
    /// GPUs on a node.
    pub gpus_per_node: u32,
}

/// Position of a rank in the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinates {
    /// Tensor-parallel rank.
    pub tp: u32,
    /// Data-parallel rank.
    pub dp: u32,
    /// Pipeline stage.
    pub pp: u32,
}

/// The groups a rank has a communicator for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Group {
    /// Tensor parallel.
    Tensor,
    /// Data parallel.
    Data,
    /// Expert parallel.
    Expert,
    /// All ranks.
    World,
}

impl Group {
    /// All groups, in the order of their communicators' numbers.
    pub const ALL: [Group; 4] = [Group::Tensor, Group::Data, Group::Expert, Group::World];
}

/// A layout that no job can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// A dimension is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// Expert groups do not tile the data-parallel group.
    #[error("ep {ep} must divide dp {dp}")]
    Experts {
        /// As given.
        ep: u32,
        /// As given.
        dp: u32,
    },
}

impl Layout {
    /// A purely data-parallel job.
    #[must_use]
    pub fn data_parallel(ranks: u32) -> Self {
        Self { tp: 1, dp: ranks, pp: 1, ep: 1, gpus_per_node: 8 }
    }

    /// Checks that the dimensions fit.
    ///
    /// # Errors
    /// Names the dimension that does not.
    pub fn check(&self) -> Result<(), LayoutError> {
        for (name, value) in [
            ("tp", self.tp),
            ("dp", self.dp),
            ("pp", self.pp),
            ("ep", self.ep),
            ("gpus_per_node", self.gpus_per_node),
        ] {
            if value == 0 {
                return Err(LayoutError::Zero(name));
            }
        }
        if !self.dp.is_multiple_of(self.ep) {
            return Err(LayoutError::Experts { ep: self.ep, dp: self.dp });
        }
        Ok(())
    }

    /// Number of ranks.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.tp * self.dp * self.pp
    }

    /// Where a rank stands.
    #[must_use]
    pub fn coordinates(&self, rank: u32) -> Coordinates {
        Coordinates { tp: rank % self.tp, dp: rank / self.tp % self.dp, pp: rank / (self.tp * self.dp) }
    }

    /// The rank at a position.
    #[must_use]
    pub fn rank(&self, at: Coordinates) -> u32 {
        at.tp + self.tp * (at.dp + self.dp * at.pp)
    }

    /// Node of a rank.
    #[must_use]
    pub fn node(&self, rank: u32) -> u32 {
        rank / self.gpus_per_node
    }

    /// Number of ranks in each group of a kind.
    #[must_use]
    pub fn group_size(&self, group: Group) -> u32 {
        match group {
            Group::Tensor => self.tp,
            Group::Data => self.dp,
            Group::Expert => self.ep,
            Group::World => self.ranks(),
        }
    }

    /// Which group of its kind a rank is in, and its rank there.
    #[must_use]
    pub fn membership(&self, rank: u32, group: Group) -> (u32, u32) {
        let at = self.coordinates(rank);
        match group {
            Group::Tensor => (at.dp + self.dp * at.pp, at.tp),
            Group::Data => (at.tp + self.tp * at.pp, at.dp),
            Group::Expert => {
                ((at.tp + self.tp * at.pp) * (self.dp / self.ep) + at.dp / self.ep, at.dp % self.ep)
            }
            Group::World => (0, rank),
        }
    }

    /// Number of groups of a kind.
    #[must_use]
    pub fn groups(&self, group: Group) -> u32 {
        self.ranks() / self.group_size(group)
    }

    /// The communicator of a group: an id that all its members share.
    #[must_use]
    pub fn comm_id(&self, group: Group, index: u32) -> CommId {
        CommId((group as u64 + 1) << 32 | u64::from(index))
    }

    /// The neighbour of a rank in the pipeline, if there is one.
    #[must_use]
    pub fn stage_neighbour(&self, rank: u32, forward: bool) -> Option<u32> {
        let at = self.coordinates(rank);
        let pp = if forward { at.pp + 1 } else { at.pp.checked_sub(1)? };
        (pp < self.pp).then(|| self.rank(Coordinates { pp, ..at }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_each_place_once() {
        let layout = Layout { tp: 2, dp: 6, pp: 3, ep: 3, gpus_per_node: 4 };
        layout.check().unwrap();
        for group in Group::ALL {
            let mut places: Vec<_> = (0..layout.ranks()).map(|rank| layout.membership(rank, group)).collect();
            places.sort_unstable();
            let expected: Vec<_> = (0..layout.groups(group))
                .flat_map(|index| (0..layout.group_size(group)).map(move |place| (index, place)))
                .collect();
            assert_eq!(places, expected, "{group:?}");
        }
    }

    #[test]
    fn coordinates_and_ranks_are_inverse() {
        let layout = Layout { tp: 4, dp: 3, pp: 2, ep: 1, gpus_per_node: 8 };
        for rank in 0..layout.ranks() {
            assert_eq!(layout.rank(layout.coordinates(rank)), rank);
        }
        assert_eq!(layout.stage_neighbour(0, true), Some(12));
        assert_eq!(layout.stage_neighbour(0, false), None);
        assert_eq!(layout.stage_neighbour(12, true), None);
    }

    #[test]
    fn impossible_layouts_are_refused() {
        assert_eq!(Layout { tp: 0, ..Layout::data_parallel(4) }.check(), Err(LayoutError::Zero("tp")));
        assert_eq!(
            Layout { ep: 3, ..Layout::data_parallel(4) }.check(),
            Err(LayoutError::Experts { ep: 3, dp: 4 })
        );
    }
}
