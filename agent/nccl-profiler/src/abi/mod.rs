//! The C interface between NCCL and a profiler plugin, versions 1 to 7.
//!
//! Each version is a file: `Descriptor`, `StateArgs` and `Table`, whose layouts follow NCCL's headers field by field (the
//! tests beside this file hold the offsets a C compiler gives). What several versions share is in [`payload`].
//! Two deliberate differences from the headers, which change no layout: C's `bool` is a byte here, since reading
//! anything but 0 or 1 from a Rust `bool` is undefined and old shims leave padding uninitialised; and the functions of a
//! table are `Option`, since a table may come from a foreign library.
//!
//! Nothing here is trusted or interpreted; that is the plugin's business.

use std::ffi::{c_char, c_int, c_ulong, c_void};

pub mod payload;
pub mod v1;
pub mod v2;
pub mod v3;
pub mod v4;
pub mod v5;
pub mod v6;
pub mod v7;

#[cfg(test)]
mod tests;

/// `ncclResult_t`.
pub type NcclResult = c_int;
/// `ncclSuccess`.
pub const SUCCESS: NcclResult = 0;
/// `ncclInternalError`.
pub const INTERNAL_ERROR: NcclResult = 3;

/// `ncclDebugLogger_t`: level, subsystem flags, file, line, printf format and its arguments.
pub type Logger = Option<unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, ...)>;

/// Levels of `ncclDebugLogLevel`.
pub mod log_level {
    use std::ffi::c_int;

    /// Nothing.
    pub const NONE: c_int = 0;
    /// The version line.
    pub const VERSION: c_int = 1;
    /// Warnings.
    pub const WARN: c_int = 2;
    /// Information.
    pub const INFO: c_int = 3;
    /// Aborts.
    pub const ABORT: c_int = 4;
    /// Trace.
    pub const TRACE: c_int = 5;
}

/// Subsystems of the debug logger (a set of bits); the one that a profiler plugin has use for.
pub mod log_subsystem {
    use std::ffi::c_ulong;

    /// `NCCL_INIT`.
    pub const INIT: c_ulong = 0x1;
}

/// Event types: the bits of `Descriptor::kind` and of the activation mask.
pub mod event {
    /// A group of operations that are launched together.
    pub const GROUP: u64 = 1 << 0;
    /// A collective. Its stop means that it was enqueued, not that it is done.
    pub const COLL: u64 = 1 << 1;
    /// A send or a receive. As for collectives.
    pub const P2P: u64 = 1 << 2;
    /// What the proxy thread does for one operation, channel, peer and direction.
    pub const PROXY_OP: u64 = 1 << 3;
    /// One network transfer of a proxy operation.
    pub const PROXY_STEP: u64 = 1 << 4;
    /// The proxy thread's own doings.
    pub const PROXY_CTRL: u64 = 1 << 5;
    /// A kernel on one channel (API v3).
    pub const KERNEL_CH: u64 = 1 << 6;
    /// Events of a network plugin (API v3).
    pub const NET_PLUGIN: u64 = 1 << 7;
    /// ncclGroupStart to ncclGroupEnd, explicit or implied (API v5).
    pub const GROUP_API: u64 = 1 << 8;
    /// The call of a collective (API v5).
    pub const COLL_API: u64 = 1 << 9;
    /// The call of a send or receive (API v5).
    pub const P2P_API: u64 = 1 << 10;
    /// The launch of a kernel (API v5).
    pub const KERNEL_LAUNCH: u64 = 1 << 11;
    /// A collective done by copy engines (API v6).
    pub const CE_COLL: u64 = 1 << 12;
    /// Its synchronisation (API v6).
    pub const CE_SYNC: u64 = 1 << 13;
    /// One of its batches (API v6).
    pub const CE_BATCH: u64 = 1 << 14;
    /// A phase of a symmetric kernel; asking for it implies `KERNEL_CH` (API v7).
    pub const KERNEL_PHASE: u64 = 1 << 15;
}

/// States of `recordEventState`.
pub mod state {
    use std::ffi::c_int;

    /// Proxy operation states 0 to 7 exist until API v3 (send: posted, waits for the remote FIFO, transmitted, done; receive: posted,
    /// received, transmitted, done).
    pub const PROXY_OP_SEND_POSTED: c_int = 0;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_SEND_REM_FIFO_WAIT: c_int = 1;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_SEND_TRANSMITTED: c_int = 2;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_SEND_DONE: c_int = 3;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_RECV_POSTED: c_int = 4;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_RECV_RECEIVED: c_int = 5;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_RECV_TRANSMITTED: c_int = 6;
    /// See [`PROXY_OP_SEND_POSTED`].
    pub const PROXY_OP_RECV_DONE: c_int = 7;
    /// The sender waits for its own GPU to fill the buffer.
    pub const SEND_GPU_WAIT: c_int = 8;
    /// The sender gave the buffer to the network.
    pub const SEND_WAIT: c_int = 9;
    /// The receiver posted a buffer and waits for data.
    pub const RECV_WAIT: c_int = 10;
    /// The receiver flushes what arrived.
    pub const RECV_FLUSH_WAIT: c_int = 11;
    /// The receiver waits for its own GPU to take the data.
    pub const RECV_GPU_WAIT: c_int = 12;
    /// The proxy thread: idle.
    pub const PROXY_CTRL_IDLE: c_int = 13;
    /// The proxy thread: active.
    pub const PROXY_CTRL_ACTIVE: c_int = 14;
    /// The proxy thread: asleep.
    pub const PROXY_CTRL_SLEEP: c_int = 15;
    /// The proxy thread: woken.
    pub const PROXY_CTRL_WAKEUP: c_int = 16;
    /// The proxy thread: takes new operations.
    pub const PROXY_CTRL_APPEND: c_int = 17;
    /// The proxy thread: took them.
    pub const PROXY_CTRL_APPEND_END: c_int = 18;
    /// A proxy operation began to progress (API v4).
    pub const PROXY_OP_IN_PROGRESS: c_int = 19;
    /// The sender waits for the receiver's credit (API v4).
    pub const SEND_PEER_WAIT: c_int = 20;
    /// A network plugin's event has news (API v4).
    pub const NET_PLUGIN_UPDATE: c_int = 21;
    /// A kernel stopped on a channel; carries the GPU's time (API v4).
    pub const KERNEL_CH_STOP: c_int = 22;
    /// ncclGroupStart returned (API v5).
    pub const GROUP_START_API_STOP: c_int = 23;
    /// ncclGroupEnd was called (API v5).
    pub const GROUP_END_API_START: c_int = 24;
    /// Copy-engine states 25 to 30 are defined by API v6, but never recorded.
    pub const CE_COLL_START: c_int = 25;
    /// See [`CE_COLL_START`].
    pub const CE_COLL_COMPLETE: c_int = 26;
    /// See [`CE_COLL_START`].
    pub const CE_SYNC_START: c_int = 27;
    /// See [`CE_COLL_START`].
    pub const CE_SYNC_COMPLETE: c_int = 28;
    /// See [`CE_COLL_START`].
    pub const CE_BATCH_START: c_int = 29;
    /// See [`CE_COLL_START`].
    pub const CE_BATCH_COMPLETE: c_int = 30;
    /// A phase of a symmetric kernel stopped; carries the GPU's time as `KERNEL_CH_STOP` does (API v7).
    pub const KERNEL_PHASE_STOP: c_int = 31;
}

/// `stopEvent`, the same in all versions.
pub type StopEvent = unsafe extern "C" fn(handle: *mut c_void) -> NcclResult;
/// `finalize`, the same in all versions.
pub type Finalize = unsafe extern "C" fn(context: *mut c_void) -> NcclResult;
/// `startEvent` for the descriptor of a version.
pub type StartEvent<D> =
    unsafe extern "C" fn(context: *mut c_void, handle: *mut *mut c_void, descriptor: *mut D) -> NcclResult;
/// `recordEventState` for the arguments of a version.
pub type RecordEventState<A> =
    unsafe extern "C" fn(handle: *mut c_void, state: c_int, args: *mut A) -> NcclResult;

/// `init` of v1 to v3.
pub type InitV1 = unsafe extern "C" fn(context: *mut *mut c_void, mask: *mut c_int) -> NcclResult;
/// `init` of v4: mask before the communicator's name and hash; then nodes, ranks, own rank.
pub type InitV4 = unsafe extern "C" fn(
    context: *mut *mut c_void,
    mask: *mut c_int,
    comm_name: *const c_char,
    comm_hash: u64,
    nodes: c_int,
    ranks: c_int,
    rank: c_int,
    log: Logger,
) -> NcclResult;
/// `init` of v5 to v7: the communicator's id moved to before the mask.
pub type InitV5 = unsafe extern "C" fn(
    context: *mut *mut c_void,
    comm_id: u64,
    mask: *mut c_int,
    comm_name: *const c_char,
    nodes: c_int,
    ranks: c_int,
    rank: c_int,
    log: Logger,
) -> NcclResult;

/// The function table `ncclProfiler_vN`: exported by the plugin, called by NCCL.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Table<I, D, A> {
    /// Name of the plugin, NUL-terminated, lives as long as the library.
    pub name: *const c_char,
    /// A communicator is made.
    pub init: Option<I>,
    /// An event starts.
    pub start_event: Option<StartEvent<D>>,
    /// An event ends.
    pub stop_event: Option<StopEvent>,
    /// An event changes state.
    pub record_event_state: Option<RecordEventState<A>>,
    /// A communicator goes.
    pub finalize: Option<Finalize>,
}

// SAFETY: a table is written once, by the linker; `name` points at immutable bytes of the same library and the rest are
// function addresses, so sharing it between threads is sharing constants.
unsafe impl<I, D, A> Sync for Table<I, D, A> {}

/// Symbol of a version's table, NUL-terminated as `dlsym` wants it, or `None` for a version that is not known.
pub fn symbol(version: u32) -> Option<&'static std::ffi::CStr> {
    Some(match version {
        1 => c"ncclProfiler_v1",
        2 => c"ncclProfiler_v2",
        3 => c"ncclProfiler_v3",
        4 => c"ncclProfiler_v4",
        5 => c"ncclProfiler_v5",
        6 => c"ncclProfiler_v6",
        7 => c"ncclProfiler_v7",
        _ => return None,
    })
}
