//! Faults, as they act on the job: on the time a kernel or a transfer takes, or on whether something goes on at all.

use serde::{Deserialize, Serialize};

use super::layout::{Group, Layout};

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process is killed: host, GPU and network of the rank end.
    Death,
    /// The process is stopped: its GPU finishes what was launched, its host and network stand still.
    Stop,
    /// The host never launches anything more (a deadlock in the input pipeline, say), the network goes on.
    HostHang,
    /// A kernel never ends.
    GpuHang,
    /// Nothing comes through any more between this rank and `peer`.
    LinkBlocked {
        /// The other end.
        peer: u32,
    },
    /// The rank launches an operation of another size than its peers.
    Desync,
    /// The rank launches the last operations of an iteration, on two communicators, in the opposite order: those of one
    /// communicator wait for it, and it waits for them in the other.
    Deadlock,
    /// The GPU computes slower by `factor`, in one iteration out of `every`, at random.
    SlowCompute {
        /// More than 1.
        factor: f64,
        /// 1 for all iterations.
        every: u64,
    },
    /// The GPU throttles: it gets slower by and by, and after `ramp_ns` takes `factor` times as long.
    Throttle {
        /// More than 1.
        factor: f64,
        /// Time it takes to get there.
        ramp_ns: u64,
    },
    /// The host is late by this time in each iteration.
    LateHost {
        /// Delay.
        ns: u64,
    },
    /// Transfers that cross from this rank to `peer` take `factor` times as long.
    SlowLink {
        /// The receiving end.
        peer: u32,
        /// More than 1.
        factor: f64,
    },
    /// All transfers between nodes that this rank takes part in take `factor` times as long.
    SlowNic {
        /// More than 1.
        factor: f64,
    },
    /// All transfers in which one of the `ranks` ranks from this one on takes part with others take `factor` times as
    /// long.
    SlowSwitch {
        /// How many ranks are connected through the switch.
        ranks: u32,
        /// More than 1.
        factor: f64,
    },
}

/// A fault with its place and time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Where.
    pub rank: u32,
    /// From when on, in simulated time.
    pub start_ns: u64,
    /// Until when; for ever if absent.
    pub end_ns: Option<u64>,
}

/// A group of ranks, or a pair of them, that meet in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A communicator: which of its kind.
    Group(Group, u32),
    /// From one rank to another.
    Pair(u32, u32),
}

impl Fault {
    /// Whether it acts at this time.
    #[must_use]
    pub fn acts(&self, now_ns: u64) -> bool {
        now_ns >= self.start_ns && self.end_ns.is_none_or(|end| now_ns < end)
    }

    /// Whether something that ends at `end_ns` would be caught by it.
    #[must_use]
    pub fn catches(&self, end_ns: u64) -> bool {
        end_ns >= self.start_ns && self.end_ns.is_none()
    }

    /// How many times as long the rank computes at this time, in an iteration in which it would be slow or not.
    #[must_use]
    pub fn slows(&self, now_ns: u64, happens: impl Fn(u64) -> bool) -> f64 {
        match self.kind {
            FaultKind::SlowCompute { factor, every } if self.acts(now_ns) && happens(every) => factor,
            FaultKind::Throttle { factor, ramp_ns } if self.acts(now_ns) => {
                let part = (now_ns - self.start_ns) as f64 / ramp_ns.max(1) as f64;
                1.0 + (factor - 1.0) * part.min(1.0)
            }
            _ => 1.0,
        }
    }

    /// How many times as long a transfer takes at this place.
    #[must_use]
    pub fn delays(&self, layout: &Layout, place: Place, now_ns: u64) -> f64 {
        match self.kind {
            FaultKind::SlowNic { factor }
                if place.crosses_nodes(layout) && place.has(layout, self.rank) && self.acts(now_ns) =>
            {
                factor
            }
            FaultKind::SlowLink { peer, factor }
                if place.links(layout, self.rank, peer) && self.acts(now_ns) =>
            {
                factor
            }
            FaultKind::SlowSwitch { ranks, factor }
                if place.straddles(layout, self.rank, ranks) && self.acts(now_ns) =>
            {
                factor
            }
            _ => 1.0,
        }
    }
}

impl Place {
    /// Whether a rank takes part.
    #[must_use]
    pub fn has(self, layout: &Layout, rank: u32) -> bool {
        match self {
            Place::Group(group, index) => layout.membership(rank, group).0 == index,
            Place::Pair(src, dst) => rank == src || rank == dst,
        }
    }

    /// Whether data goes from `src` to `dst`: in a ring, from each rank to the next.
    #[must_use]
    pub fn links(self, layout: &Layout, src: u32, dst: u32) -> bool {
        match self {
            Place::Group(group, index) => {
                let ((of_src, from), (of_dst, to)) =
                    (layout.membership(src, group), layout.membership(dst, group));
                of_src == index && of_dst == index && (from + 1) % layout.group_size(group) == to
            }
            Place::Pair(from, to) => (from, to) == (src, dst),
        }
    }

    /// Whether the network between nodes is used.
    #[must_use]
    pub fn crosses_nodes(self, layout: &Layout) -> bool {
        match self {
            Place::Group(group, _) => !layout.within_node(group),
            Place::Pair(src, dst) => layout.node(src) != layout.node(dst),
        }
    }

    /// Whether some of the ranks lie in a run of them, and some outside.
    fn straddles(self, layout: &Layout, first: u32, ranks: u32) -> bool {
        let inside = |rank: u32| (first..first + ranks).contains(&rank);
        match self {
            Place::Pair(src, dst) => inside(src) != inside(dst),
            Place::Group(group, index) => {
                let size = layout.group_size(group);
                let members = (0..size).filter(|place| inside(layout.member(group, index, *place))).count();
                members > 0 && members < size as usize
            }
        }
    }
}
