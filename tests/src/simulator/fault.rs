//! Faults, as they act on the job: on the time a kernel takes, or on whether something goes on at all.

use serde::{Deserialize, Serialize};

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
    /// The GPU computes slower by `factor`, in one iteration out of `every`.
    SlowCompute {
        /// More than 1.
        factor: f64,
        /// 1 for all iterations.
        every: u64,
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
    /// All transfers that this rank takes part in take `factor` times as long.
    SlowNic {
        /// More than 1.
        factor: f64,
    },
    /// Not a fault: the whole pipeline stage of this rank has more to do.
    HeavyStage {
        /// More than 1.
        factor: f64,
    },
    /// Not a fault: in each iteration another rank has more to do (long sequences).
    TakingTurns {
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
}
