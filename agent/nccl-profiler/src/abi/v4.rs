//! API v4, native in NCCL 2.27: `init` describes the communicator, kernel events carry the GPU's time.

use std::ffi::{c_int, c_void};

use super::payload::{
    CollV4, KernelCh, KernelChState, NetPlugin, NetPluginState, P2pV4, ProxyCtrlState, ProxyOp, ProxyStep,
    ProxyStepState,
};

/// An event, as `startEvent` describes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Descriptor {
    /// Event type: one bit of [`super::event`].
    pub kind: u8,
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
    /// `COLL`.
    pub coll: CollV4,
    /// `P2P`.
    pub p2p: P2pV4,
    /// `PROXY_OP`.
    pub proxy_op: ProxyOp,
    /// `PROXY_STEP`.
    pub proxy_step: ProxyStep,
    /// `KERNEL_CH`.
    pub kernel_ch: KernelCh,
    /// `NET_PLUGIN`.
    pub net_plugin: NetPlugin,
}

/// What comes with a state.
#[derive(Clone, Copy)]
#[repr(C)]
pub union StateArgs {
    /// `PROXY_STEP`.
    pub proxy_step: ProxyStepState,
    /// `PROXY_CTRL`.
    pub proxy_ctrl: ProxyCtrlState,
    /// `NET_PLUGIN`.
    pub net_plugin: NetPluginState,
    /// `KERNEL_CH`, and `KERNEL_PHASE` in v7.
    pub kernel_ch: KernelChState,
}

/// The table a plugin exports as `ncclProfiler_v4`.
pub type Table = super::Table<super::InitV4, Descriptor, StateArgs>;
