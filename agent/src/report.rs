//! What the agent has to say, in its own words. `convert.rs` turns these into wire messages; nothing else in the agent
//! knows the wire format, except the stream that carries it.

use std::{collections::BTreeMap, net::IpAddr};

use c4_daemon::trace::Trace;
use c4_detect::observation::{CommId, Membership, ProcessEnd, ProcessId, Severity, Window};
use tokio::time::Instant;
use tracing::{Span, error_span, field::Empty};

use crate::{
    paths::{
        discovery::{self, Hops},
        knowledge::Seen,
        nics::NicPort,
        trains::Tally,
    },
    recorders::PeerSums,
};

/// One thing to tell the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A training process was found.
    ProcessStarted(ProcessStart),
    /// A process joined a communicator.
    CommunicatorJoined {
        /// Who joined what.
        membership: Membership,
        /// Nodes in the communicator.
        nodes: u32,
    },
    /// What the processes of the node did in one window.
    Windows(Vec<Window>),
    /// A process ended.
    ProcessEnded(ProcessEnd),
    /// A sensor saw something.
    Health(Health),
    /// A supervised group changed its state.
    Group(GroupStatus),
    /// A command was carried out, or not.
    CommandResult {
        /// Id of the command.
        command_id: String,
        /// Whether it was carried out.
        ok: bool,
        /// What happened.
        detail: String,
    },
    /// Whom processes of the node send to.
    Traffic(Vec<PeerTraffic>),
    /// What is known of planned paths.
    Paths(Box<PathReport>),
    /// How paths fared that are measured.
    Ways(Box<WaysReport>),
    /// Where in the network the host is.
    Explored(Box<ExploredReport>),
    /// Something was saved of a group's processes before they were ended.
    Evidence {
        /// Job.
        job: String,
        /// Its incarnation.
        incarnation: u32,
        /// What, and where.
        saved: Saved,
    },
    /// Whether the node is to be left alone, and if so why.
    Wish(Option<String>),
}

/// Files that were saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Their directory.
    pub path: std::path::PathBuf,
    /// How many.
    pub files: u32,
    /// Their size together.
    pub bytes: u64,
}

/// What a process has sent to a peer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTraffic {
    /// The process.
    pub process: ProcessId,
    /// The communicator.
    pub comm: CommId,
    /// The peer's rank in it.
    pub peer: u32,
    /// How much.
    pub sums: PeerSums,
    /// How long ago the iteration began that the process is in, in microseconds; none where iterations are not recognised.
    pub turn_us: Option<u64>,
}

/// What probes have found out about the paths of this host's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Of the orders that are followed.
    pub revision: u64,
    /// Of the network, as the orders count.
    pub epoch: u64,
    /// Nothing more is being learned.
    pub settled: bool,
    /// Addresses that connections are ordered to.
    pub destinations: u32,
    /// Planned paths for which no port was found, each listening port by itself.
    pub missing: u32,
    /// How often a port was found to take another path than before.
    pub changes: u32,
    /// How learning went.
    pub figures: discovery::Report,
    /// Paths that probes took, and by how many ports.
    pub seen: BTreeMap<Seen, u32>,
}

/// How paths fared that are measured; those of which there is something new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaysReport {
    /// Of the network, as the orders count.
    pub epoch: u64,
    /// The paths.
    pub ways: Vec<MeasuredWay>,
    /// Bytes that planned connections have carried, by path.
    pub carried: BTreeMap<Seen, u64>,
}

/// A path that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredWay {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// The switches on the way up, above the first leaf.
    pub hops: Hops,
    /// What became of the trains that were sent since it is measured.
    pub tally: Tally,
    /// By how much it takes longer than the fastest path to the same address, at its best; none before that is known.
    pub behind_us: Option<u64>,
}

/// What was found out about where in the network this host is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExploredReport {
    /// What was to be explored; 0 if nothing was yet.
    pub round: u64,
    /// Whether that is done.
    pub done: bool,
    /// Its NICs' ports.
    pub ports: Vec<NicPort>,
    /// Paths that probes took.
    pub traces: Vec<ExploredPath>,
}

/// A path, switch by switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExploredPath {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// All switches, from the first leaf to the last.
    pub hops: discovery::Hops,
    /// Source ports that take it.
    pub ports: u32,
}

/// A report with the moment it was made, so that its age can be told when it is sent, however much later that is.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When it was made.
    pub at: Instant,
    /// What is to be told.
    pub report: Report,
}

impl Captured {
    /// Stamps a report with the present.
    #[must_use]
    pub fn now(report: Report) -> Self {
        Self { at: Instant::now(), report }
    }
}

/// Identity of a training process.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessStart {
    /// Unique for ever.
    pub process: ProcessId,
    /// Job it belongs to.
    pub job: String,
    /// How often the job had been restarted.
    pub incarnation: u32,
    /// Global rank, where known.
    pub rank: Option<u32>,
    /// Rank on its node, where known.
    pub local_rank: Option<u32>,
    /// Ranks in the job, where known.
    pub world_size: Option<u32>,
    /// Index of its GPU on the node, where known.
    pub gpu: Option<u32>,
    /// Process id in its own PID namespace.
    pub pid: u32,
    /// Whose it is, where that means the same on other machines.
    pub uid: Option<u32>,
    /// It had ended when this agent began to look.
    pub found_ended: bool,
    /// NCCL version, as far as it can be told.
    pub nccl_version: String,
    /// Profiler API version NCCL took.
    pub profiler_api: u32,
    /// What this NCCL does not show.
    pub blind_spots: Vec<String>,
    /// Labels from its environment.
    pub labels: BTreeMap<String, String>,
    /// NICs that its NCCL may use, where its own variables say so.
    pub nics: Vec<OwnNic>,
}

/// A NIC of this node that a process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNic {
    /// The RDMA device, or the interface.
    pub name: String,
    /// An address of it, where it has one.
    pub address: Option<IpAddr>,
}

/// Something a sensor saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Kind of component: "gpu", "nic" or "host".
    pub component: &'static str,
    /// GPU index, where it concerns one.
    pub gpu: Option<u32>,
    /// NIC name, where it concerns one.
    pub nic: Option<String>,
    /// Stable code: "xid-79", "link-down", …
    pub code: String,
    /// What was seen.
    pub detail: String,
    /// How bad.
    pub severity: Severity,
    /// Whether this takes the event back.
    pub cleared: bool,
}

/// State of a supervised group of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Its processes run.
    Running,
    /// They are being ended on purpose.
    Stopping,
    /// They were ended on purpose.
    Stopped,
    /// All ended by themselves with exit code 0.
    Finished,
    /// One ended otherwise, and nobody had asked it to.
    Failed,
    /// There are none: the agent waits to be given ranks.
    Standby,
}

/// A supervised group, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Job.
    pub job: String,
    /// How often it has been restarted.
    pub incarnation: u32,
    /// State.
    pub state: GroupState,
    /// Its ranks, where the agent assigns them.
    pub ranks: Vec<u32>,
    /// Ranks in the whole job, 0 where unknown.
    pub world_size: u32,
    /// What happened, for people.
    pub detail: String,
    /// Newest checkpoint, where the job says so.
    pub checkpoint: Option<Checkpoint>,
    /// Ranks that the job can do with; 0: all.
    pub least_world_size: u32,
    /// Why the job is to be left alone; empty: it is not.
    pub opted_out: String,
}

/// The newest checkpoint a job has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Iteration after which it was written.
    pub iteration: u64,
    /// How long ago; unknown when it was there before the agent.
    pub age_us: Option<u64>,
    /// How long it kept the job from its work, where the job says so.
    pub took_us: Option<u64>,
}

/// A sensor, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensorStatus {
    /// "recorder", "host", "nvml", "nic", "kmsg".
    pub name: &'static str,
    /// Whether it works.
    pub present: bool,
    /// What was found, or why it is missing.
    pub detail: String,
}

/// What a controller may ask of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Id; the same id is carried out once.
    pub id: String,
    /// What to do.
    pub action: CommandAction,
    /// What it is a part of, as a controller calls it.
    pub trace: Option<String>,
}

impl Command {
    /// The span of carrying it out, in the trace that it belongs to.
    #[must_use]
    pub fn span(&self) -> Span {
        let span = error_span!("command", id = self.id, trace = Empty);
        let _ = Trace::of(&span, self.trace.as_deref());
        span
    }
}

/// See [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandAction {
    /// End the processes of one incarnation.
    StopGroup {
        /// Job.
        job: String,
        /// Only this incarnation is stopped.
        incarnation: u32,
        /// Time between SIGTERM and SIGKILL.
        grace: std::time::Duration,
    },
    /// Start the job's part on this node as a new incarnation.
    StartGroup {
        /// Job.
        job: String,
        /// The new incarnation.
        incarnation: u32,
        /// What this node does in it.
        part: Part,
    },
    /// Check the node.
    CheckNode,
}

/// What a node does in a new incarnation of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The same as before.
    AsBefore,
    /// Nothing.
    StandBy,
    /// This.
    Assigned(Assignment),
}

/// A node's part in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its first rank.
    pub first_rank: u32,
    /// Processes to start, one a rank; 0: one process in all, which starts its own.
    pub ranks: u32,
    /// Ranks in the whole job.
    pub world_size: u32,
    /// Place of the node among the job's nodes.
    pub node_rank: u32,
    /// How many nodes there are.
    pub nodes: u32,
    /// Name of the node with rank 0.
    pub master: String,
}

/// All network steps of these processes are to be timed for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeSteps {
    /// Processes, of which some may not be of this node.
    pub processes: Vec<ProcessId>,
    /// For how long; zero ends it now.
    pub duration: std::time::Duration,
}
