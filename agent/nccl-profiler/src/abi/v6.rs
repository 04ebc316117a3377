//! API v6, native in NCCL 2.29 and 2.30: copy-engine collectives.

use std::ffi::{c_int, c_void};

use super::payload::{
    CeColl, CeCollBatch, CeCollSync, CollApi, CollV5, GroupApi, KernelCh, KernelLaunch, NetPlugin, P2pApi,
    P2pV5, ProxyOp, ProxyStep,
};
pub use super::v4::StateArgs;

/// An event, as `startEvent` describes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Descriptor {
    /// Event type: one bit of [`super::event`].
    pub kind: u64,
    /// Handle of the parent event, may be null.
    pub parent: *mut c_void,
    /// Rank it comes from.
    pub rank: c_int,
    /// Which member is valid follows from `kind`.
    pub detail: Detail,
}

/// The part of a [`Descriptor`] that depends on its event type; other types have none.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Detail {
    /// `GROUP_API`.
    pub group_api: GroupApi,
    /// `COLL_API`.
    pub coll_api: CollApi,
    /// `P2P_API`.
    pub p2p_api: P2pApi,
    /// `KERNEL_LAUNCH`.
    pub kernel_launch: KernelLaunch,
    /// `COLL`.
    pub coll: CollV5,
    /// `P2P`.
    pub p2p: P2pV5,
    /// `PROXY_OP`.
    pub proxy_op: ProxyOp,
    /// `PROXY_STEP`.
    pub proxy_step: ProxyStep,
    /// `KERNEL_CH`.
    pub kernel_ch: KernelCh,
    /// `NET_PLUGIN`.
    pub net_plugin: NetPlugin,
    /// `CE_COLL`.
    pub ce_coll: CeColl,
    /// `CE_SYNC`.
    pub ce_coll_sync: CeCollSync,
    /// `CE_BATCH`.
    pub ce_coll_batch: CeCollBatch,
}

/// The table a plugin exports as `ncclProfiler_v6`.
pub type Table = super::Table<super::InitV5, Descriptor, StateArgs>;
