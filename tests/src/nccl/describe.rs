//! Events and states as the double speaks of them, whatever the version of the interface.

use std::ffi::{c_char, c_int, c_void};

use nccl_profiler_c4::abi::event;

use super::plugin::Handle;
use super::proxy::ProxyOperationSpec;
use super::task::{Collective, PointToPoint};

/// An event, whatever the version.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are those of `nccl_profiler_c4::abi`")]
pub enum Event<'a> {
    Group,
    GroupApi {
        depth: u32,
        graph_captured: bool,
    },
    CollApi(&'a Collective),
    P2pApi(&'a PointToPoint),
    KernelLaunch,
    Coll {
        spec: &'a Collective,
        sequence: u64,
        group: Handle,
        comm: (u64, *const c_char),
    },
    P2p {
        spec: &'a PointToPoint,
        group: Handle,
        comm: (u64, *const c_char),
    },
    ProxyOp {
        pid: i32,
        spec: &'a ProxyOperationSpec,
    },
    ProxyStep {
        step: u32,
    },
    ProxyCtrl,
    KernelCh {
        channel: u8,
        gpu_ns: u64,
    },
    KernelPhase {
        channel: u8,
        phase: u8,
        gpu_ns: u64,
    },
    NetPlugin {
        id: i64,
    },
    CeColl(&'a Collective),
    CeSync {
        complete: bool,
        ranks: u32,
    },
    CeBatch {
        operations: u32,
        bytes: usize,
    },
    /// A type from NCCL's future.
    Other(u64),
}

/// What comes with a state.
#[derive(Clone, Copy, Debug)]
pub enum StateDetail {
    /// A null pointer.
    None,
    /// Proxy operation, v1 to v3: bytes and steps so far.
    ProxyOp {
        /// Bytes so far.
        bytes: usize,
        /// Steps so far.
        steps: u32,
    },
    /// Proxy operation from v4: arguments, but nothing in them.
    Empty,
    /// Bytes of a step.
    Step {
        /// Bytes.
        bytes: usize,
    },
    /// Operations the proxy thread took.
    Ctrl {
        /// How many.
        appended: u32,
    },
    /// Stop of a kernel, or of one of its phases.
    Kernel {
        /// Time on the GPU, ns.
        gpu_ns: u64,
    },
    /// A network plugin's record.
    Net,
}

/// What all descriptors begin with.
pub(super) struct Head {
    pub(super) parent: *mut c_void,
    pub(super) rank: c_int,
}

impl Event<'_> {
    pub(super) fn kind(&self) -> u64 {
        match *self {
            Self::Group => event::GROUP,
            Self::GroupApi { .. } => event::GROUP_API,
            Self::CollApi(_) => event::COLL_API,
            Self::P2pApi(_) => event::P2P_API,
            Self::KernelLaunch => event::KERNEL_LAUNCH,
            Self::Coll { .. } => event::COLL,
            Self::P2p { .. } => event::P2P,
            Self::ProxyOp { .. } => event::PROXY_OP,
            Self::ProxyStep { .. } => event::PROXY_STEP,
            Self::ProxyCtrl => event::PROXY_CTRL,
            Self::KernelCh { .. } => event::KERNEL_CH,
            Self::KernelPhase { .. } => event::KERNEL_PHASE,
            Self::NetPlugin { .. } => event::NET_PLUGIN,
            Self::CeColl(_) => event::CE_COLL,
            Self::CeSync { .. } => event::CE_SYNC,
            Self::CeBatch { .. } => event::CE_BATCH,
            Self::Other(kind) => kind,
        }
    }
}
