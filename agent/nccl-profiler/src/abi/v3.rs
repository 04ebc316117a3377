//! API v3, native in NCCL 2.26: kernel and network plugin events.

use std::ffi::{c_char, c_int, c_void};

use super::payload::{KernelChV3, NetPlugin, P2pV2, ProxyCtrlState, ProxyOp, ProxyOpState, ProxyStep};

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
    pub coll: Coll,
    /// `P2P`.
    pub p2p: P2pV2,
    /// `PROXY_OP`.
    pub proxy_op: ProxyOp,
    /// `PROXY_STEP`.
    pub proxy_step: ProxyStep,
    /// `KERNEL_CH`.
    pub kernel_ch: KernelChV3,
    /// `NET_PLUGIN`.
    pub net_plugin: NetPlugin,
}

/// A collective.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Coll {
    /// Communicator's name, may be null.
    pub name: *const c_char,
    /// Communicator's hash.
    pub comm_hash: u64,
    /// NCCL's sequence number: per communicator and function.
    pub seq_number: u64,
    /// Function, such as "AllReduce".
    pub func: *const c_char,
    /// Send buffer.
    pub send_buff: *const c_void,
    /// Receive buffer.
    pub recv_buff: *mut c_void,
    /// Elements.
    pub count: usize,
    /// Root.
    pub root: c_int,
    /// Element type, such as "ncclFloat32".
    pub datatype: *const c_char,
    /// Channels at most.
    pub n_max_channels: u8,
    /// Warps.
    pub n_warps: u8,
    /// Algorithm, such as "RING".
    pub algo: *const c_char,
    /// Protocol, such as "SIMPLE".
    pub proto: *const c_char,
}

/// What comes with a state.
#[derive(Clone, Copy)]
#[repr(C)]
pub union StateArgs {
    /// Proxy operations, and steps (bytes of the operation so far).
    pub proxy_op: ProxyOpState,
    /// `PROXY_CTRL`.
    pub proxy_ctrl: ProxyCtrlState,
}

/// The table a plugin exports as `ncclProfiler_v3`.
pub type Table = super::Table<super::InitV1, Descriptor, StateArgs>;
