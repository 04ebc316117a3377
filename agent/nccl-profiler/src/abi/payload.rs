//! Parts of descriptors and state arguments that several versions of the interface have in common.

use std::ffi::{c_char, c_int, c_void};

/// A collective in v4; later versions begin with the same fields.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CollV4 {
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
    /// Channels.
    pub n_channels: u8,
    /// Warps.
    pub n_warps: u8,
    /// Algorithm, such as "RING".
    pub algo: *const c_char,
    /// Protocol, such as "SIMPLE".
    pub proto: *const c_char,
}

/// A collective in v5 and v6.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CollV5 {
    /// The fields of v4.
    pub base: CollV4,
    /// Handle of the group event (`parent` is the API event).
    pub parent_group: *mut c_void,
}

/// A send or receive in v4; later versions begin with the same fields.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2pV4 {
    /// Function: "Send" or "Recv".
    pub func: *const c_char,
    /// Buffer.
    pub buff: *mut c_void,
    /// Element type.
    pub datatype: *const c_char,
    /// Elements.
    pub count: usize,
    /// Peer's rank.
    pub peer: c_int,
    /// Channels. Newer NCCL calling through its v4 shim leaves this uninitialised.
    pub n_channels: u8,
}

/// A send or receive in v5 and v6.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2pV5 {
    /// The fields of v4.
    pub base: P2pV4,
    /// Handle of the group event (`parent` is the API event).
    pub parent_group: *mut c_void,
}

/// A send or receive in v2 and v3.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2pV2 {
    /// Communicator's name, may be null.
    pub name: *const c_char,
    /// Communicator's hash.
    pub comm_hash: u64,
    /// Function.
    pub func: *const c_char,
    /// Buffer.
    pub buff: *mut c_void,
    /// Element type.
    pub datatype: *const c_char,
    /// Elements.
    pub count: usize,
    /// Peer's rank.
    pub peer: c_int,
}

/// What the proxy thread does for one operation, channel, peer and direction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProxyOp {
    /// Process whose operation it is; another one's under PXN, and then the parent handle means nothing here.
    pub pid: c_int,
    /// Channel.
    pub channel_id: u8,
    /// Peer's rank.
    pub peer: c_int,
    /// Network transfers it will take.
    pub n_steps: c_int,
    /// Bytes of a full transfer.
    pub chunk_size: c_int,
    /// Not 0 if it sends.
    pub is_send: c_int,
}

/// One network transfer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProxyStep {
    /// Which one of its operation.
    pub step: c_int,
}

/// A kernel on one channel, v3: no time.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelChV3 {
    /// Channel.
    pub channel_id: u8,
}

/// A kernel on one channel, from v4.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelCh {
    /// Channel.
    pub channel_id: u8,
    /// Start, in ns of the GPU's global timer.
    pub p_timer: u64,
}

/// An event of a network plugin.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NetPlugin {
    /// Which plugin and version.
    pub id: i64,
    /// Its own descriptor.
    pub data: *mut c_void,
}

/// ncclGroupStart to ncclGroupEnd.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GroupApi {
    /// Not 0 while a graph is captured.
    pub graph_captured: u8,
    /// Nesting.
    pub group_depth: c_int,
}

/// The call of a collective, v5 and v6.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CollApi {
    /// Function.
    pub func: *const c_char,
    /// Elements.
    pub count: usize,
    /// Element type.
    pub datatype: *const c_char,
    /// Root.
    pub root: c_int,
    /// CUDA stream.
    pub stream: *mut c_void,
    /// Not 0 while a graph is captured.
    pub graph_captured: u8,
}

/// The call of a send or receive, v5 and v6.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct P2pApi {
    /// Function.
    pub func: *const c_char,
    /// Elements.
    pub count: usize,
    /// Element type.
    pub datatype: *const c_char,
    /// CUDA stream.
    pub stream: *mut c_void,
    /// Not 0 while a graph is captured.
    pub graph_captured: u8,
}

/// The launch of a kernel.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelLaunch {
    /// CUDA stream.
    pub stream: *mut c_void,
}

/// A collective done by copy engines, v6.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CeColl {
    /// NCCL's sequence number.
    pub seq_number: u64,
    /// Function.
    pub func: *const c_char,
    /// Send buffer.
    pub send_buff: *const c_void,
    /// Receive buffer.
    pub recv_buff: *mut c_void,
    /// Elements.
    pub count: usize,
    /// Root.
    pub root: c_int,
    /// Element type.
    pub datatype: *const c_char,
    /// How it synchronises.
    pub sync_strategy: *const c_char,
    /// Not 0 if it synchronises inside a batch.
    pub intra_batch_sync: u8,
    /// Copies in a batch.
    pub batch_size: u32,
    /// Batches.
    pub num_batches: u32,
    /// Position among copy-engine collectives.
    pub ce_seq_num: u32,
    /// CUDA stream.
    pub stream: *mut c_void,
}

/// Synchronisation of a copy-engine collective.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CeCollSync {
    /// Not 0 for the one that ends the collective.
    pub is_complete: u8,
    /// Ranks.
    pub n_ranks: c_int,
}

/// A batch of copies of a copy-engine collective.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CeCollBatch {
    /// Copies.
    pub num_ops: c_int,
    /// Bytes.
    pub total_bytes: usize,
    /// Not 0 if it synchronises inside.
    pub use_intra_sync: u8,
}

/// State of a proxy operation, v1 to v3.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProxyOpState {
    /// Bytes so far.
    pub trans_size: usize,
    /// Steps so far.
    pub steps: c_int,
}

/// State of a step, from v4.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProxyStepState {
    /// Bytes of this step; to be trusted at SEND_WAIT and RECV_FLUSH_WAIT only.
    pub trans_size: usize,
}

/// State of the proxy thread.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProxyCtrlState {
    /// Operations it took.
    pub appended_proxy_ops: c_int,
}

/// News of a network plugin's event, from v4.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NetPluginState {
    /// The plugin's own record.
    pub data: *mut c_void,
}

/// End of a kernel on a channel, from v4.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelChState {
    /// Stop, in ns of the GPU's global timer.
    pub p_timer: u64,
}
