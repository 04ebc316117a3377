//! Which rank belongs to which parallel group. Ranks are numbered as Megatron does by default: tensor parallelism
//! varies fastest, then context parallelism, data parallelism and pipeline stages. Gradients are reduced over the ranks
//! of context and data parallelism together; expert groups are runs of `ep` neighbours in data parallelism.

use c4_detect::observation::CommId;
use serde::{Deserialize, Serialize};

/// Sizes of the parallel dimensions. The job has `tp × cp × dp × pp` ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Tensor-parallel ranks.
    pub tp: u32,
    /// Context-parallel ranks, which share a sequence.
    pub cp: u32,
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
    /// Context-parallel rank.
    pub cp: u32,
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
    /// Context parallel.
    Context,
    /// Data parallel, together with context parallel: those who share their parameters.
    Data,
    /// Expert parallel.
    Expert,
    /// The stages of one pipeline: sends and receives only.
    Pipeline,
    /// All ranks.
    World,
}

impl Group {
    /// All groups, in the order of their communicators' numbers.
    pub const ALL: [Group; 6] =
        [Group::Tensor, Group::Context, Group::Data, Group::Expert, Group::Pipeline, Group::World];
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
        Self { tp: 1, cp: 1, dp: ranks, pp: 1, ep: 1, gpus_per_node: 8 }
    }

    /// Checks that the dimensions fit.
    ///
    /// # Errors
    /// Names the dimension that does not.
    pub fn check(&self) -> Result<(), LayoutError> {
        for (name, value) in [
            ("tp", self.tp),
            ("cp", self.cp),
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
        self.tp * self.cp * self.dp * self.pp
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.ranks().div_ceil(self.gpus_per_node)
    }

    /// Where a rank stands.
    #[must_use]
    pub fn coordinates(&self, rank: u32) -> Coordinates {
        let (tp, rest) = (rank % self.tp, rank / self.tp);
        let (cp, rest) = (rest % self.cp, rest / self.cp);
        Coordinates { tp, cp, dp: rest % self.dp, pp: rest / self.dp }
    }

    /// The rank at a position.
    #[must_use]
    pub fn rank(&self, at: Coordinates) -> u32 {
        at.tp + self.tp * (at.cp + self.cp * (at.dp + self.dp * at.pp))
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
            Group::Context => self.cp,
            Group::Data => self.cp * self.dp,
            Group::Expert => self.ep,
            Group::Pipeline => self.pp,
            Group::World => self.ranks(),
        }
    }

    /// Which group of its kind a rank is in, and its rank there.
    #[must_use]
    pub fn membership(&self, rank: u32, group: Group) -> (u32, u32) {
        let at = self.coordinates(rank);
        match group {
            Group::Tensor => (rank / self.tp, at.tp),
            Group::Context => (at.tp + self.tp * (at.dp + self.dp * at.pp), at.cp),
            Group::Data => (at.tp + self.tp * at.pp, at.cp + self.cp * at.dp),
            Group::Expert => {
                let line = at.tp + self.tp * (at.cp + self.cp * at.pp);
                (line * (self.dp / self.ep) + at.dp / self.ep, at.dp % self.ep)
            }
            Group::Pipeline => (at.tp + self.tp * (at.cp + self.cp * at.dp), at.pp),
            Group::World => (0, rank),
        }
    }

    /// The rank with a place in a group: the inverse of [`Layout::membership`].
    #[must_use]
    pub fn member(&self, group: Group, index: u32, place: u32) -> u32 {
        let (tp, rest) = (index % self.tp, index / self.tp);
        let at = match group {
            Group::Tensor => return index * self.tp + place,
            Group::World => return place,
            Group::Context => Coordinates { tp, cp: place, dp: rest % self.dp, pp: rest / self.dp },
            Group::Data => Coordinates { tp, cp: place % self.cp, dp: place / self.cp, pp: rest },
            Group::Expert => {
                let runs = self.dp / self.ep;
                let (line, run) = (index / runs, index % runs);
                let (tp, rest) = (line % self.tp, line / self.tp);
                Coordinates { tp, cp: rest % self.cp, dp: run * self.ep + place, pp: rest / self.cp }
            }
            Group::Pipeline => Coordinates { tp, cp: rest % self.cp, dp: rest / self.cp, pp: place },
        };
        self.rank(at)
    }

    /// Whether groups of a kind stay within a node, where transfers are quick.
    #[must_use]
    pub fn within_node(&self, group: Group) -> bool {
        let reach = match group {
            Group::Tensor => self.tp,
            Group::Context => self.tp * self.cp,
            Group::Data => self.tp * self.cp * self.dp,
            Group::Expert => self.tp * self.cp * self.ep,
            Group::Pipeline | Group::World => self.ranks(),
        };
        reach <= self.gpus_per_node
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

    /// The rank that holds the next (or previous) stage of the same pipeline. After the last stage comes the first, as
    /// it does where stages hold several chunks of the model.
    #[must_use]
    pub fn stage_neighbour(&self, rank: u32, next: bool) -> u32 {
        let at = self.coordinates(rank);
        let pp = if next { at.pp + 1 } else { at.pp + self.pp - 1 } % self.pp;
        self.rank(Coordinates { pp, ..at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_each_place_once() {
        let layout = Layout { tp: 2, cp: 2, dp: 6, pp: 3, ep: 3, gpus_per_node: 4 };
        layout.check().unwrap();
        for group in Group::ALL {
            let mut places: Vec<_> = (0..layout.ranks()).map(|rank| layout.membership(rank, group)).collect();
            for (rank, (index, place)) in places.iter().enumerate() {
                assert_eq!(layout.member(group, *index, *place), rank as u32, "{group:?}");
            }
            places.sort_unstable();
            let expected: Vec<_> = (0..layout.groups(group))
                .flat_map(|index| (0..layout.group_size(group)).map(move |place| (index, place)))
                .collect();
            assert_eq!(places, expected, "{group:?}");
        }
    }

    #[test]
    fn coordinates_and_ranks_are_inverse() {
        let layout = Layout { tp: 4, cp: 1, dp: 3, pp: 2, ep: 1, gpus_per_node: 8 };
        for rank in 0..layout.ranks() {
            assert_eq!(layout.rank(layout.coordinates(rank)), rank);
        }
        assert_eq!(layout.stage_neighbour(0, true), 12);
        assert_eq!(layout.stage_neighbour(0, false), 12);
        assert_eq!(layout.stage_neighbour(12, true), 0);
        assert!(layout.within_node(Group::Tensor) && !layout.within_node(Group::Data));
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
