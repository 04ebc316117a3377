//! One training process, from the moment its recorder is opened to the moment its writer's lock is gone.

use std::collections::BTreeMap;

use c4_detect::{
    aggregate::Coverage,
    observation::{CommId, Membership, ProcessId, ProcessState, Window},
};
use c4_recorder::snapshot::{Connection, Identity, Operation, OperationKind};
use tracing::warn;

use super::{
    ExitStatus,
    collectives::Collectives,
    communicator::{CommTrack, Overdue},
    identity::{self, KERNEL_EVENTS},
    nics::Nics,
    owner::Owners,
    source::{RecorderHandle, Sample, SourceError},
    transfers::{Receives, Transfers},
};
use crate::{
    report::{PeerTraffic, ProcessStart, Report},
    sensors::Gpus,
};

/// How long it is remembered when the process was in communication: longer than an operation waits for an older one to
/// be complete before both are aggregated.
const REMEMBERED_NS: u64 = 120_000_000_000;

/// A recorder that is being read.
#[derive(Debug)]
pub(super) struct Tracked<H> {
    /// The open recorder.
    pub handle: H,
    /// Who writes it.
    pub identity: Identity,
    /// Whose process it is, where that can be told.
    pub uid: Option<u32>,
    /// Set once the process was announced.
    pub process: Option<ProcessId>,
    /// Scheduler state at the last look.
    pub state: ProcessState,
    /// What ended it, as far as the kernel shows that.
    pub ended_by: ExitStatus,
    /// Since when every look has failed.
    pub failing_since_ns: Option<u64>,
    /// Whether that has been reported.
    pub failure_reported: bool,
    /// Whether the end was seen and waits for the supervisor to tell the exit status.
    pub waited_for_exit: bool,
    /// Whether it had ended before the first look.
    pub found: bool,
    /// When it last gave a sign of life, of one that ended while nobody looked.
    pub lived_ns: Option<u64>,
    /// Whether it was seen to be several ranks of one communicator.
    several_ranks: bool,
    /// The job it was announced for, and its ranks, where that is known.
    job: String,
    job_ranks: Option<u32>,
    /// Collectives that were completed since somebody took them.
    collectives: Collectives,
    cursor: u64,
    profiling: bool,
    event_mask: u32,
    dropped: u64,
    unread: u64,
    comms: BTreeMap<(u32, u32), CommTrack>,
    coverage: Coverage,
    receives: Receives,
    /// Whether there were operations since the last window of which is not known when they were under way.
    left_out: bool,
    window_opened_ns: u64,
    read_since_window: bool,
}

impl<H: RecorderHandle> Tracked<H> {
    /// Starts to follow a recorder.
    ///
    /// # Errors
    /// Its identity cannot be read, or is not its writer's to claim.
    pub(super) fn new(mut handle: H, owners: &Owners, now_ns: u64) -> Result<Self, SourceError> {
        let identity = handle.identity()?;
        let uid = owners.check(handle.origin()?, &identity)?;
        Ok(Self {
            handle,
            identity,
            uid,
            process: None,
            state: ProcessState::Unknown,
            ended_by: ExitStatus::default(),
            failing_since_ns: None,
            failure_reported: false,
            waited_for_exit: false,
            found: false,
            lived_ns: None,
            several_ranks: false,
            job: String::new(),
            job_ranks: None,
            collectives: Collectives::default(),
            cursor: 0,
            profiling: false,
            event_mask: 0,
            dropped: 0,
            unread: 0,
            comms: BTreeMap::new(),
            coverage: Coverage::default(),
            receives: Receives::default(),
            left_out: false,
            window_opened_ns: now_ns,
            read_since_window: false,
        })
    }

    /// Reads what changed.
    ///
    /// # Errors
    /// The recorder cannot be read.
    pub(super) fn read(&mut self) -> Result<Sample, SourceError> {
        let sample = self.handle.poll(self.cursor)?;
        self.cursor = sample.next_cursor;
        Ok(sample)
    }

    /// Takes in what was read, and what all processes of the node send, and says what is new about the process's identity.
    ///
    /// # Errors
    /// The recorder cannot be read.
    pub(super) fn look(
        &mut self,
        sample: &Sample,
        transfers: &Transfers,
        node: &str,
        nics: &Nics,
        gpus: &Gpus,
        now_ns: u64,
    ) -> Result<Vec<Report>, SourceError> {
        self.profiling = sample.profiling;
        self.event_mask = sample.event_mask;
        let losses = sample.losses;
        self.dropped =
            losses.operations.saturating_add(losses.communicators).saturating_add(losses.connections);
        self.unread = self.unread.saturating_add(sample.overwritten);
        self.read_since_window = true;

        let mut news = Vec::new();
        if self.process.is_none() {
            // Re-read: the API version is known only after NCCL's first init.
            self.identity = self.handle.identity()?;
            self.identity.gpu = identity::gpu(&self.identity, gpus);
            if let Some(start) =
                identity::describe(node, &self.identity, &sample.communicators, sample.event_mask)
            {
                // Whose process the dead were is not seen any more, but whose file they left.
                let uid = if self.found { Some(self.handle.origin()?.uid) } else { self.uid };
                let nics = nics.of(&start.labels);
                let start = ProcessStart { uid, found_ended: self.found, nics, ..start };
                self.process = Some(start.process);
                self.job.clone_from(&start.job);
                self.job_ranks = start.world_size;
                self.window_opened_ns = now_ns;
                news.push(Report::ProcessStarted(start));
            }
        }
        self.follow(sample, transfers, now_ns, &mut news);
        Ok(news)
    }

    /// When a process that ended while nobody looked last gave a sign of life: it ended then, or later.
    pub(super) fn lived_until(&mut self, now_ns: u64) -> u64 {
        let created_ns = self.identity.created_ns;
        let last_ns = self.handle.poll(0).map_or(created_ns, |sample| {
            let operations = sample
                .operations
                .iter()
                .flat_map(|op| [Some(op.enqueued_ns), op.started_ns, op.completed_ns].into_iter().flatten());
            let connections = sample.connections.iter().map(|connection| connection.state_since_ns);
            operations.chain(connections).filter(|ns| *ns <= now_ns).max().unwrap_or(0).max(created_ns)
        });
        *self.lived_ns.insert(last_ns.min(now_ns))
    }

    fn follow(&mut self, sample: &Sample, transfers: &Transfers, now_ns: u64, news: &mut Vec<Report>) {
        let Some(process) = self.process else { return };
        // A slot that was used again belongs to another communicator; what was known of the old one is told by now.
        self.comms
            .retain(|key, _| sample.communicators.iter().any(|comm| (comm.slot, comm.generation) == *key));
        let mut operations: BTreeMap<(u32, u32), Vec<&Operation>> = BTreeMap::new();
        for op in sample.operations.iter().filter(|op| op.kind == OperationKind::Collective) {
            operations.entry((op.comm_slot, op.comm_generation)).or_default().push(op);
        }
        let mut pending: BTreeMap<(u32, u32), Vec<&Operation>> = BTreeMap::new();
        for op in sample.operations.iter().filter(|op| op.kind != OperationKind::Collective) {
            pending.entry((op.comm_slot, op.comm_generation)).or_default().push(op);
        }
        let mut connections: BTreeMap<(u32, u32), Vec<&Connection>> = BTreeMap::new();
        for connection in &sample.connections {
            let key = (connection.comm_slot, connection.comm_generation);
            connections.entry(key).or_default().push(connection);
        }
        self.cover(sample, transfers, now_ns);
        for comm in sample.communicators.iter().filter(|comm| comm.is_known()) {
            let key = (comm.slot, comm.generation);
            let is_new = !self.comms.contains_key(&key);
            if is_new {
                // A slot is used again long after its communicator was finalised.
                self.comms.retain(|(slot, _), _| *slot != comm.slot);
            }
            // One process with several GPUs is several ranks of one communicator. It is told of as one, the first that was seen.
            if is_new && self.comms.values().any(|track| track.last.id == comm.id) {
                if !std::mem::replace(&mut self.several_ranks, true) {
                    let (pid, name) = (self.identity.pid, &comm.name);
                    warn!(pid, communicator = %name, "this process is several ranks of one communicator: C4 follows the first of them only");
                }
                continue;
            }
            let track = self.comms.entry(key).or_insert_with(|| {
                news.push(Report::CommunicatorJoined {
                    membership: Membership {
                        process,
                        comm: CommId(comm.id),
                        name: comm.name.clone(),
                        size: comm.size,
                        comm_rank: comm.rank,
                    },
                    nodes: comm.nodes,
                });
                CommTrack::in_job_of(self.job_ranks)
            });
            let operations = operations.get(&key).map_or(&[][..], Vec::as_slice);
            track.update_pending(pending.get(&key).map_or(&[][..], Vec::as_slice));
            let connections = connections.get(&key).map_or(&[][..], Vec::as_slice);
            track.update(comm, operations, connections, &self.coverage, &mut self.collectives, now_ns);
        }
    }

    /// Notes when the process was in any communication. What has not ended covers everything until now.
    fn cover(&mut self, sample: &Sample, transfers: &Transfers, now_ns: u64) {
        self.coverage.forget_before(now_ns.saturating_sub(REMEMBERED_NS));
        self.left_out |= sample.operations.iter().any(|op| op.left_out);
        for op in sample.operations.iter().filter(|op| op.observable) {
            if let Some(started_ns) = op.started_ns {
                self.coverage.add(
                    started_ns,
                    op.completed_ns.unwrap_or(now_ns).min(now_ns),
                    op.kind == OperationKind::Send,
                );
            }
        }
        let (comms, operations) = (&sample.communicators, &sample.operations);
        self.receives.cover(self.uid, comms, operations, transfers, &mut self.coverage, now_ns);
    }

    /// The communicators that it is in: user, communicator, rank.
    pub(super) fn memberships(&self) -> impl Iterator<Item = (Option<u32>, u64, u32)> {
        self.comms.values().map(|comm| (self.uid, comm.last.id, comm.last.rank))
    }

    /// True once for each collective that has been in flight for longer than usual.
    pub(super) fn becomes_urgent(&mut self, rule: Overdue, now_ns: u64) -> bool {
        let mut urgent = false;
        for comm in self.comms.values_mut() {
            urgent |= comm.becomes_urgent(rule, now_ns);
        }
        urgent
    }

    /// Closes the window. Nothing is said of a process that is not announced, or could not be read since the last
    /// window: silence means unknown, and unknown it is.
    pub(super) fn close_window(&mut self, rule: Overdue, now_ns: u64) -> Option<Window> {
        let process = self.process?;
        if !std::mem::take(&mut self.read_since_window) {
            return None;
        }
        let opened_ns = std::mem::replace(&mut self.window_opened_ns, now_ns);
        let duration_us = now_ns.saturating_sub(opened_ns) / 1000;
        let left_out = std::mem::take(&mut self.left_out);
        Some(Window {
            process,
            duration_us,
            state: self.state,
            kernel_events: self.event_mask & KERNEL_EVENTS != 0,
            profiling: self.profiling,
            dropped: self.dropped,
            unread: self.unread,
            own: (!left_out).then(|| self.coverage.own(opened_ns, now_ns)).flatten(),
            comms: self.comms.values_mut().filter_map(|comm| comm.close(rule, now_ns)).collect(),
        })
    }

    /// What found no room in the recorder, and what was overwritten before it was read.
    #[must_use]
    pub(super) fn losses(&self) -> (u64, u64) {
        (self.dropped, self.unread)
    }

    /// Whether it is announced, and nothing is recorded.
    #[must_use]
    pub(super) fn is_silent(&self) -> bool {
        self.process.is_some() && !self.profiling
    }

    /// Collectives that completed since the last call, with the name of the job.
    pub(super) fn take_collectives(&mut self) -> Option<(String, Collectives)> {
        let some = self.process.is_some() && !self.collectives.is_empty();
        some.then(|| (self.job.clone(), std::mem::take(&mut self.collectives)))
    }

    /// Whom the process sends to, as far as that is to be told now.
    pub(super) fn peers(&mut self, now_ns: u64) -> Vec<PeerTraffic> {
        let Some(process) = self.process else { return Vec::new() };
        let of = |track: &mut CommTrack| {
            let comm = CommId(track.last.id);
            let turn_us = track.turn_us(now_ns);
            let peers = track.peers(now_ns).into_iter();
            peers
                .map(move |(peer, sums)| PeerTraffic { process, comm, peer, sums, turn_us })
                .collect::<Vec<_>>()
        };
        self.comms.values_mut().flat_map(of).collect()
    }

    /// Whether every communicator was finalised: then the end was not an accident.
    #[must_use]
    pub(super) fn finalized(&self) -> bool {
        !self.comms.is_empty() && self.comms.values().all(|comm| comm.last.finalized)
    }
}
