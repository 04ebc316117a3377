//! What a flight recorder holds, once read and validated: plain data, all times in nanoseconds of the host's
//! `CLOCK_MONOTONIC` (so they compare across the processes of one node).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::GpuAddress;

/// Everything in one recorder at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// Who wrote it.
    pub identity: Identity,
    /// When it was read.
    pub taken_ns: u64,
    /// Whether the event mask is set, so that absence of events means absence of operations.
    pub profiling: bool,
    /// The event mask in force (NCCL's bits).
    pub event_mask: u32,
    /// Communicators, in order of creation.
    pub communicators: Vec<Communicator>,
    /// The last operations, oldest first.
    pub operations: Vec<Operation>,
    /// Connections.
    pub connections: Vec<Connection>,
    /// What was lost.
    pub losses: Losses,
    /// Records that could not be read in one piece: the writer was in the middle of them (for ever, if it died there).
    pub unreadable: Vec<Unreadable>,
}

/// A record that could not be read in one piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Table: "communicators", "operations" or "connections".
    pub table: &'static str,
    /// Slot in it.
    pub slot: u32,
    /// What was seen.
    pub why: String,
}

/// Who wrote a recorder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Identity {
    /// Random, unique for this process and this recorder.
    pub cookie: u64,
    /// Process id in its own PID namespace.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot, 0 if unknown.
    pub start_ticks: u64,
    /// Host name or `NCCL_HOSTID`.
    pub host_id: String,
    /// NCCL version as far as it can be told, such as "2.28" (from the API version) or empty.
    pub nccl_version: String,
    /// Profiler API version NCCL took: 1 to 7, 0 before the first init.
    pub profiler_api: u32,
    /// GPU index as C4_GPU, CUDA_VISIBLE_DEVICES and LOCAL_RANK tell, if they do. In a container they may count from 0.
    pub gpu: Option<u32>,
    /// Where that GPU is, if CUDA told the process: which of the node's it is, whatever the process is shown of them.
    pub gpu_address: Option<GpuAddress>,
    /// When the recorder was created.
    pub created_ns: u64,
    /// Labels from the environment: "RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID",
    /// "C4_JOB", "C4_INCARNATION", …
    pub labels: BTreeMap<String, String>,
    /// What this version of the interface does not show, so that silence about it is not read as absence.
    pub blind_spots: Vec<String>,
}

/// One communicator of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Communicator {
    /// Slot in the recorder's table; operations and connections refer to it.
    pub slot: u32,
    /// How often the slot has been used.
    pub generation: u32,
    /// NCCL's communicator id or hash.
    pub id: u64,
    /// Name given by the program, often empty.
    pub name: String,
    /// Ranks in it; 0 where NCCL does not tell (profiler API before v4).
    pub size: u32,
    /// This process's rank in it.
    pub rank: u32,
    /// Nodes in it.
    pub nodes: u32,
    /// Whether it was finalised.
    pub finalized: bool,
    /// Whether the end of its operations can be seen at all: with kernel events, or when network operations were seen.
    /// If not, `started` and `completed` say nothing.
    pub observable: bool,
    /// Collectives enqueued, started on the GPU (or, without kernel events, on the network) and completed.
    pub enqueued: u64,
    /// See `enqueued`.
    pub started: u64,
    /// See `enqueued`.
    pub completed: u64,
    /// Point-to-point operations enqueued, started and completed.
    pub p2p_enqueued: u64,
    /// See `p2p_enqueued`.
    pub p2p_started: u64,
    /// See `p2p_enqueued`.
    pub p2p_completed: u64,
}

impl Communicator {
    /// Whether it is known which one it is: before profiler API v4 only its first operation tells.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.size > 0 || self.id != 0
    }
}

/// Whether an operation is a collective or point-to-point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A collective.
    Collective,
    /// A send.
    Send,
    /// A receive.
    Receive,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    /// Position among all operations of the process, from 0.
    pub index: u64,
    /// Slot of its communicator.
    pub comm_slot: u32,
    /// Generation of that slot.
    pub comm_generation: u32,
    /// Kind.
    pub kind: OperationKind,
    /// Position on the communicator among operations of the same class (collectives, or point-to-point), from 0.
    pub sequence: u64,
    /// NCCL's name: "AllReduce", "Send", …
    pub function: String,
    /// NCCL's name of the element type.
    pub datatype: String,
    /// Elements.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
    /// Root of a collective or peer of a point-to-point operation.
    pub root_or_peer: u32,
    /// Which one it is of the sends to (or receives from) its peer on the communicator, from 1: the peer's receive (or send) of
    /// the same number is its other end. `None` if it was not counted.
    pub peer_number: Option<u32>,
    /// "RING", "TREE", …; may be empty.
    pub algorithm: String,
    /// "LL", "LL128", "SIMPLE"; may be empty.
    pub protocol: String,
    /// Channels.
    pub channels: u32,
    /// Whether it was captured into a CUDA graph.
    pub graph_captured: bool,
    /// Whether it was left without kernel events while others have them, as happens while operations come thick and fast. Nothing
    /// of its own tells then when it starts and ends: that it has ended is known from later ones, and when is not known at all.
    pub left_out: bool,
    /// When the host began to enqueue it.
    pub enqueued_ns: u64,
    /// When its kernel (or, without kernel events, its first network operation) started.
    pub started_ns: Option<u64>,
    /// Whether `started_ns` is from the GPU.
    pub started_on_gpu: bool,
    /// When all its parts had ended.
    pub completed_ns: Option<u64>,
    /// Whether its end can be seen: it has kernel events or network operations. If not, no end is no evidence.
    pub observable: bool,
}

/// State of a network step. Numbers are NCCL's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// No step is open.
    #[default]
    Idle,
    /// Sender waits for its own GPU.
    SendGpuWait,
    /// Sender waits for the receiver's buffer.
    SendPeerWait,
    /// With the network.
    SendWait,
    /// Receiver waits for data.
    RecvWait,
    /// Receiver flushes.
    RecvFlushWait,
    /// Receiver waits for its GPU.
    RecvGpuWait,
}

/// One direction of a connection to a peer on one channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Connection {
    /// Slot of its communicator.
    pub comm_slot: u32,
    /// Generation of that slot.
    pub comm_generation: u32,
    /// Peer's rank in the communicator.
    pub peer: u32,
    /// Channel.
    pub channel: u32,
    /// Whether this process sends.
    pub is_send: bool,
    /// Bytes moved in the steps that were seen (NCCL tells no bytes where steps are not sampled).
    pub bytes: u64,
    /// Steps ended, of those that were seen.
    pub steps_done: u64,
    /// Network operations (proxy operations) started and ended.
    pub operations_started: u64,
    /// See `operations_started`.
    pub operations_done: u64,
    /// State of the oldest open step, `Idle` if no step is open (or none is sampled).
    pub state: StepState,
    /// Since when; 0 if not timed.
    pub state_since_ns: u64,
    /// Steps ended whose times were measured; the sums below are over these only.
    pub timed_steps: u64,
    /// Bytes of the timed steps.
    pub timed_bytes: u64,
    /// Time spent waiting for the own GPU (send: to fill, receive: to take), in ns over the timed steps.
    pub gpu_wait_ns: u64,
    /// Time spent waiting for the peer's buffer (send only).
    pub peer_wait_ns: u64,
    /// Time spent with the network.
    pub network_wait_ns: u64,
    /// Time spent flushing (receive only).
    pub flush_wait_ns: u64,
}

/// What the plugin could not keep. All counts since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Operations overwritten in the ring while still in flight.
    pub operations: u64,
    /// Communicators that found no free slot.
    pub communicators: u64,
    /// Connections that found no free slot.
    pub connections: u64,
    /// Events that named an unknown or outdated handle.
    pub stale_handles: u64,
    /// Events of a type this plugin does not know.
    pub unknown_events: u64,
    /// Events that belong to another process (PXN) and were counted only.
    pub foreign_events: u64,
}
