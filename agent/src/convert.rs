//! Domain types to wire messages, and commands from them. The only place besides the stream that knows the wire format.

use std::time::Duration;

use c4_detect::observation as detect;
use c4_proto::v1 as wire;
use thiserror::Error;

use crate::report::{
    Assignment, Command, CommandAction, GroupState, GroupStatus, Health, OwnNic, Part, PeerTraffic,
    ProcessStart, Report, SensorStatus, TimeSteps,
};

mod paths;
mod windows;

pub use paths::BadPaths;

/// Longest time a controller may leave between SIGTERM and SIGKILL: ten minutes, so that a garbled number cannot keep
/// a dead job on its GPUs.
const MAX_GRACE: Duration = Duration::from_secs(600);

/// Longest time that all steps are timed for one wish: a controller that still wants it says it again.
const MAX_TIMING: Duration = Duration::from_secs(60);

/// Longest name a controller takes, in bytes.
const MAX_NAME: usize = 256;

/// Addresses of NICs of one process that are told, at most: far more than a node has.
const MAX_NICS: usize = 256;

/// A command that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadCommand {
    /// `id` is empty.
    #[error("the command has no id")]
    NoId,
    /// No known body.
    #[error("command {id}: this agent knows no such command")]
    Unknown {
        /// Id of the command.
        id: String,
    },
    /// A part of a job that makes no sense.
    #[error("command {id}: no node can have this part of a job")]
    Assignment {
        /// Id of the command.
        id: String,
    },
}

/// The body of a message that says `report`.
#[must_use]
pub fn body(report: Report) -> wire::agent_message::Body {
    use wire::agent_message::Body;
    match report {
        Report::ProcessStarted(start) => Body::ProcessStarted(process_started(start)),
        Report::CommunicatorJoined { membership, nodes } => {
            Body::CommunicatorJoined(wire::CommunicatorJoined {
                process: membership.process.0,
                comm: membership.comm.0,
                name: clean(membership.name),
                size: membership.size,
                comm_rank: membership.comm_rank,
                nodes,
            })
        }
        Report::Windows(windows) => Body::Windows(windows::windows(windows)),
        Report::ProcessEnded(end) => Body::ProcessEnded(wire::ProcessEnded {
            process: end.process.0,
            finalized: end.finalized,
            exit_code: end.exit_code,
            signal: end.signal,
            found: end.found,
        }),
        Report::Health(health) => Body::Health(self::health(health)),
        Report::Group(status) => Body::GroupReport(group(status)),
        Report::Evidence { job, incarnation, saved } => Body::EvidenceSaved(wire::EvidenceSaved {
            job: clean(job),
            incarnation,
            path: clean(saved.path.display().to_string()),
            bytes: saved.bytes,
            files: saved.files,
        }),
        Report::Wish(reason) => Body::NodeWish(wire::NodeWish {
            opted_out: reason.is_some(),
            reason: clean(reason.unwrap_or_default()),
        }),
        Report::CommandResult { command_id, ok, detail } => {
            Body::CommandResult(wire::CommandResult { command_id, ok, detail })
        }
        Report::Traffic(peers) => {
            Body::Traffic(wire::Traffic { peers: peers.into_iter().map(peer).collect() })
        }
        Report::Paths(report) => Body::PathReport(paths::report(*report)),
        Report::Ways(report) => Body::PathTrains(paths::trains(*report)),
        Report::Explored(report) => Body::PathsExplored(paths::explored(*report)),
    }
}

fn peer(peer: PeerTraffic) -> wire::PeerTraffic {
    wire::PeerTraffic {
        process: peer.process.0,
        comm: peer.comm.0,
        peer: peer.peer,
        channels: peer.sums.channels,
        operations: peer.sums.operations,
        bytes: peer.sums.bytes,
        turn_us: peer.turn_us,
    }
}

/// Text from an environment or a file, made fit for a name: short, and nothing that could forge a line of a log.
fn clean(text: String) -> String {
    if text.len() <= MAX_NAME && !text.chars().any(char::is_control) {
        return text;
    }
    let mut short = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        short.push(c);
    }
    short
}

fn process_started(start: ProcessStart) -> wire::ProcessStarted {
    wire::ProcessStarted {
        process: start.process.0,
        job: clean(start.job),
        incarnation: start.incarnation,
        rank: start.rank,
        local_rank: start.local_rank,
        world_size: start.world_size,
        gpu: start.gpu,
        gpu_uuid: String::new(),
        pid: start.pid,
        nccl_version: clean(start.nccl_version),
        profiler_api: start.profiler_api,
        blind_spots: start.blind_spots.into_iter().map(clean).collect(),
        // No user has that number.
        uid: Some(start.uid.unwrap_or(u32::MAX)),
        found_ended: start.found_ended,
        labels: start.labels.into_iter().map(|(key, value)| (clean(key), clean(value))).collect(),
        nics: start.nics.into_iter().take(MAX_NICS).map(own_nic).collect(),
    }
}

fn own_nic(nic: OwnNic) -> wire::NicPort {
    let address = nic.address.map(|address| address.to_string()).unwrap_or_default();
    wire::NicPort { nic: clean(nic.name), address, gbps: 0.0 }
}

fn health(health: Health) -> wire::Health {
    let severity = match health.severity {
        detect::Severity::Info => wire::Severity::Info,
        detect::Severity::Warning => wire::Severity::Warning,
        detect::Severity::Fatal => wire::Severity::Fatal,
    };
    wire::Health {
        component: health.component.to_owned(),
        gpu: health.gpu,
        nic: clean(health.nic.unwrap_or_default()),
        code: clean(health.code),
        detail: health.detail,
        severity: severity as i32,
        cleared: health.cleared,
    }
}

fn group(status: GroupStatus) -> wire::GroupReport {
    let state = match status.state {
        GroupState::Running => wire::GroupState::Running,
        GroupState::Stopping => wire::GroupState::Stopping,
        GroupState::Stopped => wire::GroupState::Stopped,
        GroupState::Finished => wire::GroupState::Finished,
        GroupState::Failed => wire::GroupState::Failed,
        GroupState::Standby => wire::GroupState::Standby,
    };
    // One whose age is unknown (it was there before this agent) cannot be set against a fault's time: it is not told.
    let checkpoint = status
        .checkpoint
        .and_then(|checkpoint| Some((checkpoint.iteration, checkpoint.age_us?, checkpoint.took_us)));
    wire::GroupReport {
        job: clean(status.job),
        incarnation: status.incarnation,
        state: state as i32,
        ranks: status.ranks,
        world_size: status.world_size,
        detail: status.detail,
        checkpoint_iteration: checkpoint.map(|(iteration, ..)| iteration),
        checkpoint_age_us: checkpoint.map(|(_, age_us, _)| age_us),
        checkpoint_took_us: checkpoint.and_then(|(.., took_us)| took_us),
        least_world_size: status.least_world_size,
        opted_out: status.opted_out,
    }
}

/// The wire form of a sensor's state.
#[must_use]
pub fn sensor(status: &SensorStatus) -> wire::Sensor {
    wire::Sensor { name: status.name.to_owned(), present: status.present, detail: status.detail.clone() }
}

impl TryFrom<wire::Command> for Command {
    type Error = BadCommand;

    fn try_from(command: wire::Command) -> Result<Self, BadCommand> {
        use wire::command::Body;
        if command.id.is_empty() {
            return Err(BadCommand::NoId);
        }
        let action = match command.body {
            Some(Body::StopGroup(stop)) => CommandAction::StopGroup {
                job: stop.job,
                incarnation: stop.incarnation,
                grace: Duration::from_micros(stop.grace_us).min(MAX_GRACE),
            },
            Some(Body::StartGroup(start)) => {
                let part = match (start.assignment, start.stand_by) {
                    (_, true) => Part::StandBy,
                    (Some(assignment), false) => Part::Assigned(self::assignment(&command.id, assignment)?),
                    (None, false) => Part::AsBefore,
                };
                CommandAction::StartGroup { job: start.job, incarnation: start.incarnation, part }
            }
            Some(Body::CheckNode(_)) => CommandAction::CheckNode,
            None => return Err(BadCommand::Unknown { id: command.id }),
        };
        let trace = (!command.trace.is_empty()).then_some(command.trace);
        Ok(Command { id: command.id, action, trace })
    }
}

/// Most processes one agent starts; a node has some ten GPUs.
const MAX_RANKS: u32 = 1024;

fn assignment(id: &str, wire: wire::Assignment) -> Result<Assignment, BadCommand> {
    let wire::Assignment { first_rank, ranks, world_size, node_rank, nodes, master } = wire;
    let fits = ranks <= MAX_RANKS
        && first_rank.checked_add(ranks).is_some_and(|end| ranks == 0 || end <= world_size)
        && node_rank < nodes;
    if !fits {
        return Err(BadCommand::Assignment { id: id.to_owned() });
    }
    Ok(Assignment { first_rank, ranks, world_size, node_rank, nodes, master: clean(master) })
}

impl From<wire::TimeSteps> for TimeSteps {
    fn from(wish: wire::TimeSteps) -> Self {
        Self {
            processes: wish.processes.into_iter().map(detect::ProcessId).collect(),
            duration: Duration::from_micros(wish.duration_us).min(MAX_TIMING),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_without_id_or_body_is_refused_by_name() {
        assert_eq!(Command::try_from(wire::Command::default()), Err(BadCommand::NoId));
        let empty = wire::Command { id: "c1".into(), ..wire::Command::default() };
        assert_eq!(Command::try_from(empty), Err(BadCommand::Unknown { id: "c1".into() }));
    }

    #[test]
    fn names_are_made_fit() {
        assert_eq!(clean("llm-70b".to_owned()), "llm-70b");
        assert_eq!(clean("a\nb\0".to_owned()), "a b ");
        let long = clean("ü".repeat(1000));
        assert!(long.len() <= MAX_NAME && long.chars().all(|c| c == 'ü'));
    }

    #[test]
    fn a_grace_of_centuries_is_cut() {
        let stop = wire::StopGroup { job: "j".into(), incarnation: 1, grace_us: u64::MAX };
        let command = wire::Command {
            id: "c1".into(),
            body: Some(wire::command::Body::StopGroup(stop)),
            ..wire::Command::default()
        };
        let CommandAction::StopGroup { grace, .. } = Command::try_from(command).unwrap().action else {
            panic!("not a stop")
        };
        assert_eq!(grace, MAX_GRACE);
    }

    #[test]
    fn steps_are_not_timed_for_ever() {
        let wish = TimeSteps::from(wire::TimeSteps { processes: vec![7], duration_us: u64::MAX });
        assert_eq!(wish, TimeSteps { processes: vec![detect::ProcessId(7)], duration: MAX_TIMING });
    }
}
