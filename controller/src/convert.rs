//! Where wire messages become domain types, and where they stop being believed.
//!
//! An agent may be old, broken or hostile. Everything that can be checked by looking at one message is checked here:
//! lengths, ranges, order of positions, alignment of blocks. An error names the field, so that whoever writes the
//! other side can find it. What needs knowledge of other messages (whose process this is, whether a rank is taken) is
//! the [`crate::registry`]'s.

use c4_detect::observation::{
    HealthEvent, JobId, Membership, NicClass, NodeName, ProcessEnd, ProcessId, ProcessInfo, Severity, Window,
};
use c4_proto::v1;
use thiserror::Error;

pub(crate) mod limits;
mod paths;
mod shared;
#[cfg(test)]
mod tests;
mod window;

use limits::{at_most, flat, name, text};
pub use paths::{
    CarriedPath, Explored, MeasuredPath, OwnNic, PathReport, PathTrains, PeerTraffic, SeenPath, explore,
    orders,
};
use shared::Shared;

/// A message that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field, as the `.proto` file names it, with the path to it.
    pub field: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same error, of a field inside `place`.
    fn within(self, place: &str) -> Self {
        Self { field: format!("{place}.{}", self.field), ..self }
    }
}

/// The first message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The node the agent speaks for.
    pub node: NodeName,
    /// Its version, for people.
    pub agent_version: String,
    /// Names this run of the agent.
    pub session: String,
    /// Sequence number of the first numbered message that follows.
    pub next_sequence: u64,
    /// What it can see.
    pub sensors: Vec<Sensor>,
    /// What the node's NICs are, where the agent knows.
    pub nic_class: Option<NicClass>,
    /// Number of the last message that was kept then: until it has come, the agent tells of the past. 0: none was, or an agent
    /// that does not tell.
    pub kept: u64,
}

/// A sensor of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sensor {
    /// "recorder", "host", …
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// What was found, or why it is missing.
    pub detail: String,
}

/// A message after the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// Its number, 0 when it is not numbered.
    pub sequence: u64,
    /// Time since it was captured, in microseconds.
    pub age_us: u64,
    /// When it was sent, by a clock of the agent's; 0: not told.
    pub sent_us: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A process appeared.
    ProcessStarted(ProcessInfo, Vec<OwnNic>),
    /// A process joined a communicator.
    CommunicatorJoined(Membership),
    /// What a process did.
    Window(Window),
    /// What the processes of a node did.
    Windows(Vec<Window>),
    /// A process ended.
    ProcessEnded(ProcessEnd),
    /// Something is wrong, or right again, with a node.
    Health(HealthEvent),
    /// A supervised process group changed.
    Group(GroupReport),
    /// A command was carried out, or was not.
    CommandResult(CommandResult),
    /// The agent had to drop so many messages.
    SpoolLoss(u64),
    /// Whom processes of the node send to.
    Traffic(Vec<PeerTraffic>),
    /// What is known of the paths of the node's connections.
    Paths(Box<PathReport>),
    /// How paths fared that the node measures.
    Trains(Box<PathTrains>),
    /// Where the node is in the network.
    Explored(Box<Explored>),
    /// Something was saved before processes were ended.
    Evidence(EvidenceSaved),
    /// The node is to be left alone, and why, or no longer.
    Wish(Option<String>),
}

impl Body {
    /// A word for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Body::ProcessStarted(..) => "process_started",
            Body::CommunicatorJoined(_) => "communicator_joined",
            Body::Window(_) => "window",
            Body::Windows(_) => "windows",
            Body::ProcessEnded(_) => "process_ended",
            Body::Health(_) => "health",
            Body::Group(_) => "group_report",
            Body::CommandResult(_) => "command_result",
            Body::SpoolLoss(_) => "spool_loss",
            Body::Traffic(_) => "traffic",
            Body::Paths(_) => "path_report",
            Body::Trains(_) => "path_trains",
            Body::Explored(_) => "paths_explored",
            Body::Evidence(_) => "evidence_saved",
            Body::Wish(_) => "node_wish",
        }
    }
}

/// State of a supervised process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Its processes run.
    Running,
    /// They are being stopped.
    Stopping,
    /// They were stopped.
    Stopped,
    /// They ended by themselves with exit code 0.
    Finished,
    /// They ended by themselves otherwise.
    Failed,
    /// There are none: it waits for ranks.
    Standby,
}

/// The part of a job that one agent supervises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The job.
    pub job: JobId,
    /// Its incarnation.
    pub incarnation: u32,
    /// What it is doing.
    pub state: GroupState,
    /// Its ranks; empty when the agent does not know them (a launcher starts them).
    pub ranks: Vec<u32>,
    /// Number of ranks in the job, 0 when not known.
    pub world_size: u32,
    /// In words.
    pub detail: String,
    /// Newest checkpoint: its iteration and how long ago it was left, at capture, in microseconds.
    pub checkpoint: Option<(u64, u64)>,
    /// How long that kept the job from its work, in microseconds, where it says so.
    pub checkpoint_took_us: Option<u64>,
    /// Ranks that the job can do with; 0: all of them.
    pub least_ranks: u32,
    /// Why the job is to be left alone, if it is.
    pub opted_out: Option<String>,
}

/// What was saved of the processes of a group before they were ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceSaved {
    /// The job.
    pub job: JobId,
    /// Its incarnation.
    pub incarnation: u32,
    /// Directory on the node.
    pub path: String,
    /// How much it is.
    pub bytes: u64,
    /// In how many files.
    pub files: u32,
}

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandResult {
    /// The command.
    pub id: String,
    /// Whether it was carried out.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

/// The protocol version this controller speaks.
pub const PROTOCOL: u32 = 1;

impl TryFrom<v1::Hello> for Hello {
    type Error = Invalid;

    fn try_from(hello: v1::Hello) -> Result<Self, Invalid> {
        if hello.protocol != PROTOCOL {
            let problem = format!("is {}, this controller speaks {PROTOCOL}", hello.protocol);
            return Err(Invalid::new("hello.protocol", problem));
        }
        at_most("hello.sensors", hello.sensors.len() as u64, limits::SENSORS)?;
        let sensors = hello.sensors.into_iter().map(|sensor| {
            Ok(Sensor {
                name: name("hello.sensors.name", sensor.name)?,
                present: sensor.present,
                detail: text("hello.sensors.detail", sensor.detail)?,
            })
        });
        Ok(Self {
            node: NodeName(name("hello.node", hello.node)?),
            agent_version: flat("hello.agent_version", hello.agent_version)?,
            session: name("hello.session_id", hello.session_id)?,
            next_sequence: at_most("hello.next_sequence", hello.next_sequence, limits::COUNT)?,
            sensors: sensors.collect::<Result<_, _>>()?,
            nic_class: match hello.nic_class {
                class if class.is_empty() => None,
                class => Some(NicClass(name("hello.nic_class", class)?)),
            },
            kept: at_most("hello.kept", hello.kept, limits::COUNT)?,
        })
    }
}

impl Incoming {
    /// It was on its way for so long.
    pub fn delayed(&mut self, us: u64) {
        self.age_us = self.age_us.saturating_add(us);
        match &mut self.body {
            Body::ProcessEnded(end) => end.ago_us = end.ago_us.saturating_add(us),
            Body::Health(event) => event.ago_us = event.ago_us.saturating_add(us),
            _ => {}
        }
    }

    /// Checks a message of the agent of `node`.
    pub fn from_wire(message: v1::AgentMessage, node: &NodeName) -> Result<Self, Invalid> {
        use v1::agent_message::Body as Wire;

        let age_us = at_most("age_us", message.age_us, limits::AGE_US)?;
        let sequence = at_most("sequence", message.sequence, limits::COUNT)?;
        let sent_us = at_most("sent_us", message.sent_us, limits::COUNT)?;
        let body = match message
            .body
            .ok_or_else(|| Invalid::new("body", "is missing or of an unknown kind"))?
        {
            Wire::Hello(_) => return Err(Invalid::new("hello", "may only be the first message of a stream")),
            Wire::ProcessStarted(mut m) => {
                let nics = paths::own_nics(std::mem::take(&mut m.nics))?;
                Body::ProcessStarted(process_started(m, node)?, nics)
            }
            Wire::CommunicatorJoined(m) => Body::CommunicatorJoined(communicator_joined(m)?),
            Wire::Window(m) => Body::Window(
                window::window(m, &Shared::default()).map_err(|invalid| invalid.within("window"))?,
            ),
            Wire::Windows(m) => {
                Body::Windows(window::windows(m).map_err(|invalid| invalid.within("windows"))?)
            }
            Wire::ProcessEnded(m) => Body::ProcessEnded(ProcessEnd {
                process: process("process_ended.process", m.process)?,
                ago_us: age_us,
                finalized: m.finalized,
                exit_code: m.exit_code,
                signal: m.signal,
                found: m.found,
            }),
            Wire::Health(m) => Body::Health(health(m, node, age_us)?),
            Wire::GroupReport(m) => Body::Group(group_report(m)?),
            Wire::EvidenceSaved(m) => Body::Evidence(EvidenceSaved {
                job: JobId(name("evidence_saved.job", m.job)?),
                incarnation: m.incarnation,
                path: text("evidence_saved.path", m.path)?,
                bytes: at_most("evidence_saved.bytes", m.bytes, limits::BYTES)?,
                files: m.files,
            }),
            Wire::NodeWish(m) => {
                let reason = text("node_wish.reason", m.reason)?;
                Body::Wish(m.opted_out.then_some(reason))
            }
            Wire::CommandResult(m) => Body::CommandResult(CommandResult {
                id: name("command_result.command_id", m.command_id)?,
                ok: m.ok,
                detail: text("command_result.detail", m.detail)?,
            }),
            Wire::Traffic(m) => Body::Traffic(paths::traffic(m)?),
            Wire::PathReport(m) => Body::Paths(Box::new(paths::report(m)?)),
            Wire::PathTrains(m) => Body::Trains(Box::new(paths::trains(m)?)),
            Wire::PathsExplored(m) => Body::Explored(Box::new(paths::explored(m)?)),
            Wire::SpoolLoss(m) => Body::SpoolLoss(at_most("spool_loss.dropped", m.dropped, limits::COUNT)?),
        };
        Ok(Self { sequence, age_us, sent_us, body })
    }
}

pub(crate) fn process(field: &str, id: u64) -> Result<ProcessId, Invalid> {
    if id == 0 { Err(Invalid::new(field, "is 0, which names no process")) } else { Ok(ProcessId(id)) }
}

fn process_started(message: v1::ProcessStarted, node: &NodeName) -> Result<ProcessInfo, Invalid> {
    let at = |field: &str| format!("process_started.{field}");
    if let Some(size) = message.world_size {
        limits::between(&at("world_size"), size.into(), 1, limits::RANKS)?;
    }
    if let Some(rank) = message.rank {
        rank_below(&at("rank"), rank, message.world_size)?;
    }
    if let Some(local_rank) = message.local_rank {
        rank_below(&at("local_rank"), local_rank, message.world_size)?;
    }
    if let Some(gpu) = message.gpu {
        at_most(&at("gpu"), gpu.into(), limits::GPUS)?;
    }
    at_most(&at("incarnation"), message.incarnation.into(), limits::INCARNATIONS)?;
    at_most(&at("blind_spots"), message.blind_spots.len() as u64, limits::BLIND_SPOTS)?;
    at_most(&at("labels"), message.labels.len() as u64, limits::LABELS)?;
    flat(&at("gpu_uuid"), message.gpu_uuid)?;
    flat(&at("nccl_version"), message.nccl_version)?;
    let blind_spots = message.blind_spots.into_iter().map(|spot| text(&at("blind_spots"), spot));
    Ok(ProcessInfo {
        process: process(&at("process"), message.process)?,
        job: JobId(name(&at("job"), message.job)?),
        incarnation: message.incarnation,
        rank: message.rank,
        world_size: message.world_size,
        node: node.clone(),
        gpu: message.gpu,
        pid: message.pid,
        blind_spots: blind_spots.collect::<Result<_, _>>()?,
    })
}

fn rank_below(field: &str, rank: u32, size: Option<u32>) -> Result<(), Invalid> {
    at_most(field, rank.into(), limits::RANKS - 1)?;
    match size {
        Some(size) if rank >= size => Err(Invalid::new(field, format!("is {rank} in a job of {size} ranks"))),
        _ => Ok(()),
    }
}

fn communicator_joined(message: v1::CommunicatorJoined) -> Result<Membership, Invalid> {
    let at = |field: &str| format!("communicator_joined.{field}");
    at_most(&at("size"), message.size.into(), limits::RANKS)?;
    at_most(&at("comm_rank"), message.comm_rank.into(), limits::RANKS - 1)?;
    if message.size > 0 && message.comm_rank >= message.size {
        let problem = format!("is {} in a communicator of {} ranks", message.comm_rank, message.size);
        return Err(Invalid::new(at("comm_rank"), problem));
    }
    Ok(Membership {
        process: process(&at("process"), message.process)?,
        comm: c4_detect::observation::CommId(message.comm),
        name: flat(&at("name"), message.name)?,
        size: message.size,
        comm_rank: message.comm_rank,
    })
}

fn health(message: v1::Health, node: &NodeName, age_us: u64) -> Result<HealthEvent, Invalid> {
    let severity = match message.severity() {
        v1::Severity::Unknown => {
            return Err(Invalid::new("health.severity", format!("is {}, expected 1 to 3", message.severity)));
        }
        v1::Severity::Info => Severity::Info,
        v1::Severity::Warning => Severity::Warning,
        v1::Severity::Fatal => Severity::Fatal,
    };
    if let Some(gpu) = message.gpu {
        at_most("health.gpu", gpu.into(), limits::GPUS)?;
    }
    let nic = flat("health.nic", message.nic)?;
    Ok(HealthEvent {
        node: node.clone(),
        gpu: message.gpu,
        nic: (!nic.is_empty()).then_some(nic),
        code: name("health.code", message.code)?,
        detail: text("health.detail", message.detail)?,
        severity,
        cleared: message.cleared,
        ago_us: age_us,
    })
}

fn group_report(message: v1::GroupReport) -> Result<GroupReport, Invalid> {
    let at = |field: &str| format!("group_report.{field}");
    let state = match message.state() {
        v1::GroupState::Unknown => {
            return Err(Invalid::new(at("state"), format!("is {}, expected 1 to 6", message.state)));
        }
        v1::GroupState::Running => GroupState::Running,
        v1::GroupState::Stopping => GroupState::Stopping,
        v1::GroupState::Stopped => GroupState::Stopped,
        v1::GroupState::Finished => GroupState::Finished,
        v1::GroupState::Failed => GroupState::Failed,
        v1::GroupState::Standby => GroupState::Standby,
    };
    at_most(&at("incarnation"), message.incarnation.into(), limits::INCARNATIONS)?;
    at_most(&at("world_size"), message.world_size.into(), limits::RANKS)?;
    at_most(&at("ranks"), message.ranks.len() as u64, limits::GROUP_RANKS)?;
    let mut ranks = message.ranks;
    for rank in &ranks {
        rank_below(&at("ranks"), *rank, (message.world_size > 0).then_some(message.world_size))?;
    }
    ranks.sort_unstable();
    if let Some(twice) = ranks.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Invalid::new(at("ranks"), format!("names rank {} twice", twice[0])));
    }
    let checkpoint = match (message.checkpoint_iteration, message.checkpoint_age_us) {
        (Some(iteration), Some(age_us)) => {
            Some((iteration, at_most(&at("checkpoint_age_us"), age_us, limits::AGE_US)?))
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err(Invalid::new(at("checkpoint_age_us"), "is missing beside checkpoint_iteration"));
        }
        (None, Some(_)) => {
            return Err(Invalid::new(at("checkpoint_iteration"), "is missing beside checkpoint_age_us"));
        }
    };
    Ok(GroupReport {
        job: JobId(name(&at("job"), message.job)?),
        incarnation: message.incarnation,
        state,
        ranks,
        world_size: message.world_size,
        detail: text(&at("detail"), message.detail)?,
        checkpoint,
        checkpoint_took_us: match message.checkpoint_took_us {
            Some(us) => Some(at_most(&at("checkpoint_took_us"), us, limits::AGE_US)?),
            None => None,
        },
        least_ranks: message.least_world_size,
        opted_out: match text(&at("opted_out"), message.opted_out)? {
            why if why.is_empty() => None,
            why => Some(why),
        },
    })
}
