//! API v7, native in NCCL 2.31: tags of the program, kernel variants, phases of symmetric kernels.

use std::ffi::{c_char, c_int, c_void};

use super::payload::{
    self, CeCollBatch, CeCollSync, GroupApi, KernelCh, KernelLaunch, NetPlugin, ProxyOp, ProxyStep,
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
    pub coll: Coll,
    /// `P2P`.
    pub p2p: P2p,
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
    /// `KERNEL_PHASE`.
    pub kernel_phase: KernelPhase,
}

/// The call of a collective.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CollApi {
    /// The fields of earlier versions.
    pub base: payload::CollApi,
    /// Tag the program gave this call, 0 if none.
    pub user_tag: u64,
}

/// The call of a send or receive.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2pApi {
    /// The fields of earlier versions.
    pub base: payload::P2pApi,
    /// Tag the program gave this call, 0 if none.
    pub user_tag: u64,
}

/// A collective.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Coll {
    /// The fields of earlier versions.
    pub base: payload::CollV5,
    /// Which kernel.
    pub kernel_variant: *const c_char,
    /// Not 0 for a symmetric kernel.
    pub is_sym_coll: u8,
    /// Tag the program gave this call, 0 if none.
    pub user_tag: u64,
}

/// A send or receive.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2p {
    /// The fields of earlier versions.
    pub base: payload::P2pV5,
    /// Tag the program gave this call, 0 if none.
    pub user_tag: u64,
}

/// A collective done by copy engines.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CeColl {
    /// The fields of earlier versions.
    pub base: payload::CeColl,
    /// Tag the program gave this call, 0 if none.
    pub user_tag: u64,
}

/// A phase of a symmetric kernel on one channel.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelPhase {
    /// Channel.
    pub channel_id: u8,
    /// 0 first synchronisation, 1 compute, 2 last synchronisation.
    pub phase_id: u8,
    /// Its name.
    pub phase_name: *const c_char,
    /// Start, in ns of the GPU's global timer.
    pub p_timer: u64,
}

/// The table a plugin exports as `ncclProfiler_v7`.
pub type Table = super::Table<super::InitV5, Descriptor, StateArgs>;
