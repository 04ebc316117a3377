//! What the detector is told. Every input is serialisable and carries no clock of its own, so that a run can be
//! recorded as `{now, observation}` lines and replayed into the same findings.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A moment on the controller's clock, in microseconds since the Unix epoch. The controller derives it from a
/// monotonic clock anchored once, so it never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Microseconds from `earlier` to `self`, zero if `earlier` is later.
    #[must_use]
    pub fn micros_since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment, `us` microseconds earlier.
    #[must_use]
    pub fn before(self, us: u64) -> Timestamp {
        Timestamp(self.0.saturating_sub(us))
    }

    /// This moment, `us` microseconds later.
    #[must_use]
    pub fn after(self, us: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(us))
    }
}

/// Name of a job, from the environment of its processes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub String);

/// Name of a node, as its agent gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

/// The kind of network that a node's training traffic uses: link and Gbit/s of the ports that most of its NICs have, such
/// as "ib-400", "roce-200" or "eth-25". Nodes of different classes are not expected to be equally fast.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NicClass(pub String);

/// One training process, unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

/// NCCL's communicator id or hash, the same on all ranks of the communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommId(pub u64);

/// What happened, or what was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Observation {
    /// A training process appeared (or is told of again after a reconnect).
    ProcessStarted(ProcessInfo),
    /// A process joined a communicator (or is told of again).
    CommunicatorJoined(Membership),
    /// What one process did in one window.
    Window(Window),
    /// The same, told late: its agent had nobody to tell it to.
    LateWindow {
        /// The window.
        window: Window,
        /// How long ago it was taken, at the time this is observed.
        ago_us: u64,
    },
    /// A process ended.
    ProcessEnded(ProcessEnd),
    /// A health event on a node.
    Health(HealthEvent),
    /// The agent of a node is connected and in sight.
    NodeSeen {
        /// The node.
        node: NodeName,
        /// What its NICs are, where the agent knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nic_class: Option<NicClass>,
    },
    /// The agent of a node is out of sight: what its ranks do is unknown from now on.
    NodeLost {
        /// The node.
        node: NodeName,
    },
    /// Whether what the agents of a node have to say is heard at once.
    NodeHeard {
        /// The node.
        node: NodeName,
        /// How it is heard from now on.
        hearing: Hearing,
    },
    /// Somebody is stopping or restarting the job on purpose: what ends now accuses nobody.
    JobStopping {
        /// The job.
        job: JobId,
        /// The incarnation that ends.
        incarnation: u32,
    },
    /// Nothing happened; time went on.
    Tick,
}

/// How the agents of a node are heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hearing {
    /// What happens there is told at once.
    #[default]
    AtOnce,
    /// They tell of what happened while they had nobody to tell it to. There is more to come.
    CatchingUp,
    /// They are not connected.
    Away,
}

/// Identity of a training process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// The process.
    pub process: ProcessId,
    /// Its job.
    pub job: JobId,
    /// How often the job had been restarted when this process started.
    pub incarnation: u32,
    /// Global rank, where known.
    pub rank: Option<u32>,
    /// Number of ranks in the job, where known.
    pub world_size: Option<u32>,
    /// Node it runs on; empty where not known (a trace may not say).
    pub node: NodeName,
    /// Index of its GPU on the node, where known.
    pub gpu: Option<u32>,
    /// Process id in its own namespace, for people; 0 where not known.
    pub pid: u32,
    /// What this process's NCCL does not show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blind_spots: Vec<String>,
}

/// A process's place in a communicator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// The process.
    pub process: ProcessId,
    /// The communicator.
    pub comm: CommId,
    /// Its name, may be empty.
    pub name: String,
    /// Number of ranks in it; 0 where NCCL does not tell (profiler API before v4).
    pub size: u32,
    /// This process's rank in it, less than `size` where that is known.
    pub comm_rank: u32,
}

/// Scheduler state of a process, as the operating system shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// Not visible from the agent.
    #[default]
    Unknown,
    /// On a CPU or ready to be.
    Running,
    /// Waiting, interruptibly.
    Sleeping,
    /// Waiting for a device, uninterruptibly (D).
    DiskWait,
    /// Stopped by a signal or a debugger (T).
    Stopped,
    /// Ended, not reaped.
    Zombie,
}

/// What one process did in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The process.
    pub process: ProcessId,
    /// Length of the window.
    pub duration_us: u64,
    /// Scheduler state at its end.
    #[serde(default)]
    pub state: ProcessState,
    /// Whether `started` comes from the GPU (kernel events) or from the host.
    pub kernel_events: bool,
    /// Whether the plugin's event mask was set: only then does absence of events mean absence of operations.
    pub profiling: bool,
    /// Events the plugin has dropped since the process started.
    pub dropped: u64,
    /// Operations overwritten before the agent read them, since the process started.
    pub unread: u64,
    /// When the process was by itself; absent where the agent does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnTime>,
    /// One entry for each communicator.
    pub comms: Vec<CommWindow>,
}

/// Time in which a process is in no collective and receives nothing, on any communicator: it computes, or it hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTime {
    /// For how long it has been so at the end of the window, 0 if it is not.
    pub now_us: u64,
    /// The longest stretch of it that ended in the window, 0 if none did.
    pub longest_us: u64,
    /// For how long its GPU has been busy all the time and touched no memory, which nothing does that computes; 0 if it has not, or
    /// nobody knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpu_spins_us: u64,
}

/// One communicator as one process saw it. Positions count collectives on the communicator since its creation;
/// `completed <= started <= enqueued`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommWindow {
    /// The communicator.
    pub comm: CommId,
    /// Collectives enqueued by this rank.
    pub enqueued: u64,
    /// Collectives started.
    pub started: u64,
    /// Collectives completed.
    pub completed: u64,
    /// The oldest collective that has not completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<InFlight>,
    /// Time since the last collective completed, when nothing is in flight.
    #[serde(default)]
    pub idle_us: u64,
    /// Time since the last collective was enqueued, where that was long ago, nothing is known to be in flight, and the end of that
    /// one cannot be seen: it may have ended or not. Else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unseen_us: u64,
    /// Blocks of operations that closed in this window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<Block>,
    /// Connections with an open step, reported when the oldest operation is older than expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<Edge>,
    /// Iterations that ended in this window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iterations: Vec<Iteration>,
    /// Sends and receives that have not ended for long: the oldest for each peer and direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_peers: Vec<PendingPeer>,
    /// Where the time of timed network steps went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkTime>,
}

/// Where the time of the timed network steps to or from one peer went, over all channels, since this was last told of
/// that peer. Steps of very different size have entries of their own, so that like can be compared with like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTime {
    /// The peer's rank in the communicator.
    pub peer: u32,
    /// Whether this rank sends.
    pub is_send: bool,
    /// Channels that had timed steps.
    pub channels: u32,
    /// Timed steps.
    pub steps: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// Time with the network. Sending: handed over, not acknowledged. Receiving: a buffer was posted, nothing came.
    pub network_ns: u64,
    /// Time the own GPU took. Sending: to fill a buffer. Receiving: to take what had come.
    #[serde(default)]
    pub gpu_ns: u64,
    /// Sending: time until the receiver had posted a buffer.
    #[serde(default)]
    pub peer_ns: u64,
    /// Receiving: time to flush what had come to the GPU.
    #[serde(default)]
    pub flush_ns: u64,
}

impl LinkTime {
    /// Steps within a factor of four of each other in size are alike: the power of four below their mean size.
    #[must_use]
    pub fn size_class(&self) -> u32 {
        self.bytes.checked_div(self.steps).and_then(u64::checked_ilog2).unwrap_or(0) / 2
    }
}

/// A send or receive that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingPeer {
    /// The peer's rank in the communicator.
    pub peer: u32,
    /// Whether this rank sends.
    pub is_send: bool,
    /// Whether it has started: on the GPU where that is known.
    pub started: bool,
    /// Time since it started, or was enqueued if it has not.
    pub age_us: u64,
    /// Its position among the sends and receives of this rank on the communicator.
    pub position: u64,
}

/// What a collective is, as far as all ranks must agree on it. There are few, and each rank tells of one every second, so their names
/// are shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OperationSignature {
    /// NCCL's name: "AllReduce", "ReduceScatter", …
    pub function: Arc<str>,
    /// Elements.
    pub count: u64,
    /// NCCL's name of the type: "ncclFloat32", …
    pub datatype: Arc<str>,
    /// Root rank, 0 where the function has none.
    pub root: u32,
}

/// The oldest collective of a rank that has not completed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InFlight {
    /// Its position on the communicator, from 0.
    pub sequence: u64,
    /// What it is.
    pub signature: OperationSignature,
    /// Whether it has started.
    pub started: bool,
    /// Time since it was enqueued.
    pub age_us: u64,
    /// Time since it started, 0 when it has not.
    pub started_age_us: u64,
    /// What came before, told when the operation is older than expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Before>>,
}

/// What a rank called before the operation that it is in, and what it usually calls: where ranks disagree, one that has got past
/// the operation, and what tells who is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The operation just before.
    pub signature: OperationSignature,
    /// Hash ([`crate::signature::hash`]) of what its iterations have at the place of the operation that it is in; absent where it
    /// is not known to be in an iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<u64>,
    /// The same, of the operation just before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_before: Option<u64>,
}

/// Aggregate of the consecutive collectives `first .. first + length` of one rank on one communicator. `length` is a
/// power of two and `first` a multiple of it, so blocks of different ranks are alike or nest, and can be compared
/// without any common clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Position of the first operation.
    pub first: u64,
    /// Number of operations.
    pub length: u32,
    /// Hash over the operations' signatures, in order.
    pub signature: u64,
    /// Sum over the operations of (end − start). Inside one collective all ranks finish together, so the rank that
    /// came last has waited least.
    pub wait_ns: u64,
    /// Smallest (end − start).
    pub min_wait_ns: u64,
    /// Largest (end − start).
    pub max_wait_ns: u64,
    /// From the first operation's start to the last one's end.
    pub span_ns: u64,
    /// Sum over the operations of the time between the previous operation's end and this one's start: what this rank
    /// spent outside collectives.
    pub gap_ns: u64,
    /// Bytes of all operations.
    pub bytes: u64,
    /// The part of `gap_ns` in which the rank was in no collective and received nothing, on any communicator: time that
    /// it spent by itself. Absent where the agent does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_ns: Option<u64>,
    /// The part of `own_ns` in which it sent nothing either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ns: Option<u64>,
    /// The longest stretch of `own_ns` between two operations: a pause is one stretch, slow work is many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_own_ns: Option<u64>,
    /// Operations that seem to have run beside computation, since the time from their start to the next one's did not
    /// follow how long they took…
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beside: u32,
    /// … and those that seem to have been waited for, since it did.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub awaited: u32,
}

/// One turn of the repeating pattern of a rank's collectives, or several in a row where they are short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iteration {
    /// Position of its first operation.
    pub first: u64,
    /// Operations in it.
    pub operations: u32,
    /// Time from its first operation's start to the next iteration's; the mean where this stands for several.
    pub duration_ns: u64,
    /// How many iterations this stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u32,
}

fn is_zero<N: PartialEq + Default>(number: &N) -> bool {
    *number == N::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_false(is: &bool) -> bool {
    !*is
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_one(count: &u32) -> bool {
    *count == 1
}

/// State of the oldest open network step of a connection, as NCCL's proxy reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not known.
    #[default]
    Unknown,
    /// No step is open.
    Idle,
    /// The sender's proxy waits for its own GPU to fill the buffer.
    SendGpuWait,
    /// The sender waits for the receiver to post a buffer.
    SendPeerWait,
    /// The data is with the network, not yet acknowledged.
    SendWait,
    /// The receiver has posted a buffer, nothing came.
    RecvWait,
    /// The receiver flushes what came to its GPU.
    RecvFlushWait,
    /// The data has arrived, the GPU has not taken it.
    RecvGpuWait,
}

/// One direction of a connection to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The peer's rank in the communicator.
    pub peer: u32,
    /// NCCL channel.
    pub channel: u32,
    /// Whether this rank sends.
    pub is_send: bool,
    /// State of the oldest open step.
    pub state: StepState,
    /// Time since it entered that state.
    pub state_age_us: u64,
    /// Steps done since the communicator was created.
    pub steps_done: u64,
    /// Bytes moved since the communicator was created.
    pub bytes: u64,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessEnd {
    /// The process.
    pub process: ProcessId,
    /// How long ago, at the time this is observed.
    pub ago_us: u64,
    /// Whether all its communicators had been finalised.
    pub finalized: bool,
    /// Exit code, where the agent supervised it.
    pub exit_code: Option<i32>,
    /// Signal that ended it, where the agent supervised it.
    pub signal: Option<i32>,
    /// Whether its agent found it ended when it began to look: then `ago_us` is since its last sign of life.
    #[serde(default, skip_serializing_if = "is_false")]
    pub found: bool,
}

/// How bad a health event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// May hurt.
    Warning,
    /// The component is broken.
    Fatal,
}

/// Something a sensor saw on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthEvent {
    /// The node.
    pub node: NodeName,
    /// GPU index, where it concerns one.
    pub gpu: Option<u32>,
    /// NIC, where it concerns one.
    pub nic: Option<String>,
    /// Stable code: "xid-79", "link-down", …
    pub code: String,
    /// What was seen.
    pub detail: String,
    /// How bad.
    pub severity: Severity,
    /// Whether this takes the event back.
    #[serde(default)]
    pub cleared: bool,
    /// How long ago, at the time this is observed.
    pub ago_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_alike_within_a_factor_of_four() {
        let class = |bytes, steps| LinkTime { bytes, steps, ..LinkTime::default() }.size_class();
        assert_eq!(class(8 << 20, 16), class(1 << 20, 2));
        assert_eq!(class(256 << 10, 1), class((1 << 20) - 1, 1));
        assert_eq!(class(1 << 20, 1), class(256 << 10, 1) + 1);
        assert_eq!((class(0, 3), class(5, 0)), (0, 0), "nothing odd breaks it");
    }

    #[test]
    fn recordings_made_before_links_were_told_are_read() {
        let old = r#"{"comm":7,"enqueued":3,"started":3,"completed":3}"#;
        let window: CommWindow = serde_json::from_str(old).unwrap();
        assert_eq!(window.links, Vec::new());
        assert!(!serde_json::to_string(&window).unwrap().contains("links"));
    }
}
