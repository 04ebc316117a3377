//! API v1, native in NCCL 2.23: functions, types, algorithms and protocols are NCCL's own numbers, not names, and `init`
//! says nothing about the communicator: its name and hash come with each operation.

use std::ffi::{c_char, c_int, c_void};

use super::payload::{ProxyCtrlState, ProxyOp, ProxyOpState, ProxyStep};

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
    pub p2p: P2p,
    /// `PROXY_OP`.
    pub proxy_op: ProxyOp,
    /// `PROXY_STEP`.
    pub proxy_step: ProxyStep,
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
    /// Function as `ncclFunc_t`.
    pub func: u8,
    /// Send buffer.
    pub send_buff: *const c_void,
    /// Receive buffer.
    pub recv_buff: *mut c_void,
    /// Elements.
    pub count: usize,
    /// Root.
    pub root: c_int,
    /// Element type as `ncclDataType_t`.
    pub datatype: u8,
    /// Reduction.
    pub op: u32,
    /// Bytes over the wire, as NCCL reckons them.
    pub traffic_bytes: usize,
    /// Channels at most.
    pub n_max_channels: u8,
    /// Warps.
    pub n_warps: u8,
    /// Algorithm as NCCL's `NCCL_ALGO_*`.
    pub algo: u8,
    /// Protocol as NCCL's `NCCL_PROTO_*`.
    pub proto: u8,
    /// Not 0 for CollNet.
    pub is_collnet: c_int,
    /// Not 0 for NVLink SHARP.
    pub is_nvls: c_int,
}

/// A send or receive.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2p {
    /// Communicator's name, may be null.
    pub name: *const c_char,
    /// Communicator's hash.
    pub comm_hash: u64,
    /// Function as `ncclFunc_t`.
    pub func: u8,
    /// Buffer.
    pub buff: *mut c_void,
    /// Element type as `ncclDataType_t`.
    pub datatype: u8,
    /// Elements.
    pub count: usize,
    /// Peer's rank.
    pub peer: c_int,
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

/// The table a plugin exports as `ncclProfiler_v1`.
pub type Table = super::Table<super::InitV1, Descriptor, StateArgs>;
