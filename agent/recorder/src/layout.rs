//! The layout of a recorder file, version 1. `LAYOUT.md` beside this crate is the same as a table of offsets.
//!
//! The records are `repr(C)` structures of atomics, so that the offsets come from the compiler and cannot drift from what
//! the writer does; the reader takes the same offsets but never maps the structures over what it reads.
//!
//! Three rules keep writer and reader apart without a lock:
//! * The header and the labels are written before the file gets its name and never again; a checksum covers them.
//! * Every group of words that must be read together has a version word: odd while the writer is inside, and never the
//!   same twice. It has one writing thread, because NCCL calls about one object from one thread only.
//! * Counters that stand alone are single words.
//!
//! An operation has one cache line for each thread that writes to it: the launching thread describes it, the proxy thread
//! counts its network operations, and whoever polls the GPU (the proxy thread until NCCL 2.30, its own thread later)
//! tells about its kernel.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

pub mod table;

/// First word of a file: "C4FLIGHT" in bytes.
pub const MAGIC: u64 = u64::from_le_bytes(*b"C4FLIGHT");
/// Version of the layout. A reader takes no other.
pub const VERSION: u32 = 1;

/// Communicators a process may have at once.
pub const COMMUNICATORS: usize = 256;
/// Ranks of a communicator, at most: far more than anybody has.
pub const RANKS: u32 = 1 << 20;
/// Operations kept.
pub const OPERATIONS: usize = 4096;
/// Connections kept. One less than 2^11, so that the last number can mean "none".
pub const CONNECTIONS: usize = 2047;
/// Names of functions, element types, algorithms and protocols kept. Name 0 is the empty one.
pub const NAMES: usize = 128;
/// Bytes of one name; it ends at the first NUL or at the end.
pub const NAME_BYTES: usize = 32;
/// Steps of a connection that can be open at once (NCCL_STEPS).
pub const STEPS: usize = 8;
/// Bytes for the labels: `KEY=value`, each followed by a NUL.
pub const LABEL_BYTES: usize = 4096;

/// Offset of [`Header`].
pub const HEADER_AT: usize = 0;
/// Offset of the labels.
pub const LABELS_AT: usize = 0x1000;
/// Offset of [`Request`]: the one page that the agent writes.
pub const REQUEST_AT: usize = 0x2000;
/// Offset of [`Live`].
pub const LIVE_AT: usize = 0x3000;
/// Offset of the names.
pub const NAMES_AT: usize = 0x4000;
/// Offset of the [`Communicator`]s.
pub const COMMUNICATORS_AT: usize = 0x5000;
/// Offset of the [`Operation`]s.
pub const OPERATIONS_AT: usize = COMMUNICATORS_AT + COMMUNICATORS * size_of::<Communicator>();
/// Offset of the [`Connection`]s.
pub const CONNECTIONS_AT: usize = OPERATIONS_AT + OPERATIONS * size_of::<Operation>();
/// Size of a file.
pub const FILE_BYTES: usize =
    (CONNECTIONS_AT + CONNECTIONS * size_of::<Connection>()).next_multiple_of(0x1000);

/// Clock of the tick fields.
pub mod clock_kind {
    /// Ticks are nanoseconds of CLOCK_MONOTONIC.
    pub const MONOTONIC: u32 = 0;
    /// x86's invariant time stamp counter.
    pub const TSC: u32 = 1;
    /// ARM's virtual counter.
    pub const CNTVCT: u32 = 2;
}

/// Static facts about the process; covered by `checksum` together with the labels.
#[repr(C, align(64))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`checksum`] of the bytes from `version` to the end of the labels.
    pub checksum: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Process id in its own PID namespace.
    pub pid: u32,
    /// [`FILE_BYTES`].
    pub file_bytes: u64,
    /// Random; also in the file's name.
    pub cookie: u64,
    /// Start time of the process in clock ticks since boot, 0 if unknown.
    pub start_ticks: u64,
    /// Clock of all tick fields, see [`clock_kind`].
    pub clock_kind: u32,
    /// GPU index as the environment tells it, `u32::MAX` if it does not.
    pub gpu: u32,
    /// A moment in ticks (the file's creation) …
    pub base_ticks: u64,
    /// … and the same moment in ns of CLOCK_MONOTONIC.
    pub base_ns: u64,
    /// Kernel's boot id: the two clocks belong together only on this boot.
    pub boot_id: [u8; 16],
    /// Bytes of labels in use.
    pub label_bytes: u32,
    /// PCI address of the GPU as [`GpuAddress::bits`](crate::GpuAddress::bits), 0 if unknown.
    pub gpu_address: u32,
    /// Host name or NCCL_HOSTID, NUL-padded UTF-8.
    pub host_id: [u8; 64],
}

/// What the agent asks of the plugin, which validates it.
#[repr(C, align(64))]
pub struct Request {
    /// Time the network steps of every operation until then, in ns of CLOCK_MONOTONIC; at most [`Request::LONGEST_NS`] ahead.
    pub all_steps_until_ns: AtomicU64,
}

impl Request {
    /// Longest time a request may ask for; anything beyond is taken for garbage.
    pub const LONGEST_NS: u64 = 600 * 1_000_000_000;
}

/// Words about the whole process that change.
#[repr(C, align(64))]
pub struct Live {
    /// Profiler API that NCCL took, 0 before the first init.
    pub api: AtomicU32,
    /// Event mask in force.
    pub event_mask: AtomicU32,
    /// Not 0 while a communicator is profiled.
    pub profiling: AtomicU32,
    /// NCCL's version as its own code (23105 is 2.31.5), 0 if unknown.
    pub nccl_version: AtomicU32,
    /// Nanoseconds per tick times 2^32, as the writer measured it.
    pub ns_per_tick: AtomicU64,
    /// Names in use.
    pub names: AtomicU32,
    /// Communicator slots ever used.
    pub communicators: AtomicU32,
    /// Connection slots ever used.
    pub connections: AtomicU32,
    /// Unused, 0.
    pub reserved: AtomicU32,
    /// Operations ever begun; operation `i` is in slot `i % OPERATIONS`.
    pub operations: Padded,
    /// Operations overwritten while in flight.
    pub lost_operations: Padded,
    /// Communicators without a slot.
    pub lost_communicators: Padded,
    /// Connections without a slot.
    pub lost_connections: Padded,
    /// Events with an unknown or outdated handle.
    pub stale_handles: Padded,
    /// Events of an unknown type.
    pub unknown_events: Padded,
    /// Events of other processes.
    pub foreign_events: Padded,
}

/// A counter on a cache line of its own.
#[repr(C, align(64))]
pub struct Padded(pub AtomicU64);

/// States of a communicator slot.
pub mod communicator_state {
    /// Never used.
    pub const FREE: u32 = 0;
    /// In use.
    pub const LIVE: u32 = 1;
    /// Finalised; kept until the slot is needed.
    pub const FINALIZED: u32 = 2;
}

/// One communicator.
#[repr(C, align(64))]
pub struct Communicator {
    /// Version of the fields up to `name`.
    pub version: AtomicU32,
    /// See [`communicator_state`].
    pub state: AtomicU32,
    /// How often the slot has been used.
    pub generation: AtomicU32,
    /// Ranks.
    pub size: AtomicU32,
    /// Own rank.
    pub rank: AtomicU32,
    /// Nodes.
    pub nodes: AtomicU32,
    /// NCCL's id or hash.
    pub id: AtomicU64,
    /// Name, NUL-padded UTF-8.
    pub name: [AtomicU8; 64],
    /// When it was created, in ticks.
    pub created: AtomicU64,
    /// Unused, 0.
    pub reserved: [AtomicU64; 3],
    /// Launching thread: collectives enqueued …
    pub enqueued: AtomicU64,
    /// … point-to-point operations enqueued …
    pub p2p_enqueued: AtomicU64,
    /// … and groups.
    pub groups: AtomicU64,
    /// Point-to-point operations whose end cannot be seen (to oneself), which count as started and completed.
    pub p2p_unobservable: AtomicU64,
    /// Unused, 0.
    pub reserved_launch: [AtomicU64; 4],
    /// Thread that sees progress: one more than the latest collective that started …
    pub started: AtomicU64,
    /// … and that completed.
    pub completed: AtomicU64,
    /// Point-to-point operations that started …
    pub p2p_started: AtomicU64,
    /// … and that completed.
    pub p2p_completed: AtomicU64,
    /// Not 0 once a kernel event or network operation was seen.
    pub observed: AtomicU64,
    /// Unused, 0.
    pub reserved_progress: [AtomicU64; 3],
}

/// Kinds of an operation.
pub mod operation_kind {
    /// A collective.
    pub const COLLECTIVE: u8 = 1;
    /// A send.
    pub const SEND: u8 = 2;
    /// A receive.
    pub const RECEIVE: u8 = 3;
}

/// Flags of an operation.
pub mod operation_flag {
    /// Captured into a CUDA graph.
    pub const GRAPH_CAPTURED: u8 = 1;
    /// Kernel events were switched on for it, so they decide when it starts and completes.
    pub const KERNEL_EVENTS: u8 = 2;
    /// `channels` is not to be relied on (API below 4, or point-to-point in API 3).
    pub const CHANNELS_UNKNOWN: u8 = 4;
    /// NCCL tells nothing about its end (a send to oneself, some symmetric kernels).
    pub const UNOBSERVABLE: u8 = 8;
}

/// One operation.
#[repr(C, align(64))]
pub struct Operation {
    /// Launching thread: position among all operations, plus one; 0 while the slot is being rewritten or unused.
    pub number: AtomicU64,
    /// Communicator's slot.
    pub comm_slot: AtomicU32,
    /// Communicator's generation.
    pub comm_generation: AtomicU32,
    /// See [`operation_kind`].
    pub kind: AtomicU8,
    /// Name of the function.
    pub function: AtomicU8,
    /// Name of the element type.
    pub datatype: AtomicU8,
    /// Name of the algorithm.
    pub algorithm: AtomicU8,
    /// Name of the protocol.
    pub protocol: AtomicU8,
    /// See [`operation_flag`].
    pub flags: AtomicU8,
    /// Channels.
    pub channels: AtomicU16,
    /// Position among the collectives, or the point-to-point operations, of its communicator.
    pub sequence: AtomicU64,
    /// Elements.
    pub count: AtomicU64,
    /// Bytes.
    pub bytes: AtomicU64,
    /// Root, or peer.
    pub root_or_peer: AtomicU32,
    /// Which one of the sends to, or receives from, its peer, from 1; 0 if not counted.
    pub peer_number: AtomicU32,
    /// When the host began to enqueue it, in ticks.
    pub enqueued: AtomicU64,

    /// Version of the kernel's fields.
    pub kernel_version: AtomicU32,
    /// Unused, 0.
    pub kernel_reserved: AtomicU32,
    /// Channels whose kernel started, as bits.
    pub kernel_started: AtomicU64,
    /// Channels whose kernel stopped, as bits.
    pub kernel_stopped: AtomicU64,
    /// Earliest start in ns of the GPU's timer, 0 if it has none.
    pub gpu_start: AtomicU64,
    /// Latest stop in ns of the GPU's timer, 0 if it has none.
    pub gpu_stop: AtomicU64,
    /// When the first start was heard of, in ticks.
    pub host_start: AtomicU64,
    /// When the last stop was heard of, in ticks; 0 before.
    pub host_stop: AtomicU64,
    /// Unused, 0.
    pub kernel_reserved2: AtomicU64,

    /// Version of the network's fields.
    pub proxy_version: AtomicU32,
    /// Network operations started …
    pub proxy_started: AtomicU32,
    /// … that began to progress …
    pub proxy_active: AtomicU32,
    /// … and that ended.
    pub proxy_stopped: AtomicU32,
    /// When the first began to progress (or, where NCCL does not say, started), in ticks; 0 before.
    pub proxy_first: AtomicU64,
    /// When the last ended, in ticks; 0 before.
    pub proxy_last: AtomicU64,
    /// 1 once its end was counted.
    pub proxy_told: AtomicU32,
    /// Unused, 0.
    pub proxy_reserved: AtomicU32,
    /// Unused, 0.
    pub proxy_reserved2: [AtomicU64; 3],
}

/// States of a step; also the index of the time spent in it.
pub mod step_state {
    /// No step in this place.
    pub const NONE: u8 = 0;
    /// Begun; a receiver has not posted its buffer.
    pub const BEGUN: u8 = 1;
    /// Sender waits for its GPU.
    pub const SEND_GPU_WAIT: u8 = 2;
    /// Sender waits for the peer's credit.
    pub const SEND_PEER_WAIT: u8 = 3;
    /// With the network.
    pub const SEND_WAIT: u8 = 4;
    /// Receiver waits for data.
    pub const RECV_WAIT: u8 = 5;
    /// Receiver flushes.
    pub const RECV_FLUSH_WAIT: u8 = 6;
    /// Receiver waits for its GPU.
    pub const RECV_GPU_WAIT: u8 = 7;
    /// Bit of a step that is timed.
    pub const TIMED: u8 = 0x80;
}

/// One direction of a connection on one channel.
#[repr(C, align(64))]
pub struct Connection {
    /// Version of the whole record.
    pub version: AtomicU32,
    /// Communicator's slot.
    pub comm_slot: AtomicU32,
    /// Communicator's generation.
    pub comm_generation: AtomicU32,
    /// Peer's rank.
    pub peer: AtomicU32,
    /// Channel.
    pub channel: AtomicU16,
    /// 1 if this process sends.
    pub is_send: AtomicU8,
    /// 1 if the slot is in use.
    pub used: AtomicU8,
    /// How often the slot has been used.
    pub generation: AtomicU32,
    /// Network operations started …
    pub operations_started: AtomicU64,
    /// … and ended.
    pub operations_done: AtomicU64,
    /// Steps ended.
    pub steps_done: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Bytes of the timed ones.
    pub timed_bytes: AtomicU64,
    /// Timed steps that ended.
    pub timed_steps: AtomicU64,
    /// Ticks that timed steps spent in the states 1 to 7 of [`step_state`].
    pub waits: [AtomicU64; 7],
    /// Open steps, by step number modulo 8: `key << 8 | timed | state`; the key is 16 bits of the operation's index, then 17
    /// bits of the step number.
    pub steps: [AtomicU64; STEPS],
    /// Since when the timed ones are in their state, in ticks.
    pub since: [AtomicU64; STEPS],
}

const _: () = {
    assert!(size_of::<Header>() <= LABELS_AT && offset_of!(Header, version) == 16);
    assert!(LIVE_AT + size_of::<Live>() <= NAMES_AT);
    assert!(NAMES * NAME_BYTES <= COMMUNICATORS_AT - NAMES_AT);
    assert!(size_of::<Communicator>() == 256);
    assert!(offset_of!(Communicator, enqueued) == 128 && offset_of!(Communicator, started) == 192);
    assert!(size_of::<Operation>() == 192);
    assert!(offset_of!(Operation, kernel_version) == 64 && offset_of!(Operation, proxy_version) == 128);
    assert!(size_of::<Connection>() == 256);
    assert!(offset_of!(Connection, steps) == 128 && offset_of!(Connection, since) == 192);
};

/// Checksum of the static part: FNV-1a over 64-bit words, which finds overwriting, not malice.
pub fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in
        words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest.iter().map(|&byte| u64::from(byte)))
    {
        hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}

/// Offset of the first byte that the checksum covers; it goes on to the end of the labels.
pub const CHECKED_FROM: usize = offset_of!(Header, version);
/// Offset after the last byte that the checksum covers.
pub const CHECKED_TO: usize = LABELS_AT + LABEL_BYTES;
