//! Dumps as a [`Recording`].
//!
//! What makes them treacherous: a dump may hold only what is pending; operations inside a coalesced batch have no
//! state of their own, only the batch has; `scheduled` says nothing about the GPU unless timing was on; and sequence
//! numbers of a group with point-to-point batches need not agree between ranks, nor does `pg_status` say which of its
//! two counters it means there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
};

use c4_detect::observation::{CommId, JobId, NodeName, OperationSignature, ProcessId, ProcessInfo};

use super::{
    batches::{Batch, batches},
    dump::{self, Dump, Entry, State, Status},
    groups::{Groups, groups},
    status::{self, Order},
};
use crate::analyze::{
    functions::{nccl_name, sizes_must_agree},
    problem::Problems,
    recording::{Comm, Operation, Process, Recording, Series, Transfer},
};

/// Operations made up for a rank of which only its status is known.
const MADE_UP: u64 = 256;

/// One recording of all dumps.
#[must_use]
pub fn recording(dumps: &[(PathBuf, Dump)], problems: &mut Problems) -> Recording {
    let groups = groups(dumps, problems);
    let order = Order::of(dumps.iter().map(|(_, dump)| dump));
    let statuses = dumps.iter().map(|(_, dump)| (dump.rank, status::by_name(dump, &order))).collect();
    let timed = dumps.iter().flat_map(|(_, dump)| &dump.entries).any(|entry| entry.duration_ns.is_some());
    let mut recording = Recording {
        never_finished: true,
        stands_for_itself: true,
        waits_unknown: !timed,
        coarse_times: true,
        ..Recording::default()
    };
    let index = comms(&groups, &mut recording);
    let mut builder = Builder {
        groups: &groups,
        statuses,
        index,
        signatures: HashMap::new(),
        by_position: HashMap::new(),
        recording,
    };
    let world = groups.all.iter().map(|group| group.ranks.len()).max().and_then(|n| u32::try_from(n).ok());
    for (_, dump) in dumps {
        let process = builder.process(dump, world);
        builder.recording.processes.push(process);
    }
    for (place, (_, dump)) in dumps.iter().enumerate() {
        builder.complete(place, dump);
    }
    let mut recording = builder.recording;
    note_missing(dumps, &groups, &mut recording);
    recording
}

/// Communicators for groups of at least two ranks.
fn comms(groups: &Groups, recording: &mut Recording) -> HashMap<usize, usize> {
    let mut described: HashMap<&str, u32> = HashMap::new();
    for group in &groups.all {
        *described.entry(&group.desc).or_default() += 1;
    }
    let mut index = HashMap::new();
    for (id, group) in groups.all.iter().enumerate() {
        if group.ranks.len() < 2 {
            continue;
        }
        let name = match group.desc.as_str() {
            "" | "undefined" => format!("group {}", group.name),
            desc if described.get(desc) == Some(&1) => desc.to_owned(),
            desc => format!("{desc} ({})", group.name),
        };
        index.insert(id, recording.comms.len());
        recording.comms.push(Comm {
            id: CommId(recording.comms.len() as u64 + 1),
            name,
            size: u32::try_from(group.ranks.len()).unwrap_or(u32::MAX),
        });
    }
    index
}

struct Builder<'a> {
    groups: &'a Groups,
    /// By rank and group: how far it came.
    statuses: HashMap<u32, HashMap<String, Status>>,
    /// Communicators by group.
    index: HashMap<usize, usize>,
    signatures: HashMap<OperationSignature, u32>,
    /// What ranks called at a position of a communicator, the first that told.
    by_position: HashMap<(usize, u64), u32>,
    recording: Recording,
}

impl Builder<'_> {
    fn process(&mut self, dump: &Dump, world: Option<u32>) -> Process {
        let mut series: BTreeMap<usize, Series> = BTreeMap::new();
        let mut transfers = Vec::new();
        let mut next_place: HashMap<(u32, bool, usize), u64> = HashMap::new();
        for (group, batch) in batches(dump, self.groups) {
            let Some(comm) = self.index.get(&group).copied() else { continue };
            let info = &self.groups.all[group];
            let Some(comm_rank) = info.ranks.iter().position(|rank| *rank == dump.rank) else { continue };
            let number = u32::try_from(transfers.len()).unwrap_or(u32::MAX);
            let is_p2p = batch.members.iter().chain(batch.whole.as_ref()).any(|entry| entry.is_p2p);
            if !is_p2p {
                let operation = self.collective(comm, &batch);
                let mine = series.entry(comm).or_insert_with(|| Series {
                    comm,
                    comm_rank: u32::try_from(comm_rank).unwrap_or(u32::MAX),
                    ..Series::default()
                });
                mine.operations.push(operation);
                continue;
            }
            if batch.whole.is_none() && self.left_over(group, dump, &batch) {
                continue;
            }
            for entry in &batch.members {
                let Some((is_send, _, peer)) = dump::transfer(&entry.name) else { continue };
                let Some(peer) = info.ranks.get(peer as usize).copied() else { continue };
                let state = batch.whole.unwrap_or(entry);
                if state.state == State::Completed {
                    continue;
                }
                // All that is done has met its counterpart, so the oldest that is pending meets the oldest.
                let place = next_place.entry((peer, is_send, comm)).or_default();
                transfers.push(Transfer {
                    peer,
                    is_send,
                    channel: comm as u64,
                    place: *place,
                    bytes: bytes(entry),
                    batch: number,
                    enqueued_ns: entry.created_ns,
                    started_ns: state.started_ns,
                    ended_ns: None,
                });
                *place += 1;
            }
        }
        let kernel_events = dump.entries.iter().any(|entry| entry.started_ns.is_some());
        Process {
            info: ProcessInfo {
                process: ProcessId(u64::from(dump.rank) + 1),
                job: JobId("flight-recorder".to_owned()),
                incarnation: 0,
                rank: Some(dump.rank),
                world_size: world,
                node: NodeName(String::new()),
                gpu: None,
                pid: 0,
                blind_spots: Vec::new(),
            },
            clock: dump.rank,
            kernel_events,
            profiling: true,
            dropped: 0,
            ended: None,
            coords: BTreeMap::new(),
            last_call: dump.entries.last().and_then(|entry| entry.called_at.clone()),
            series: series.into_values().collect(),
            transfers,
            computes: Vec::new(),
        }
    }

    /// Whether a transfer that has no state is what is left of a batch that is done: the batch's own entry is not in
    /// a dump that holds only what is pending.
    fn left_over(&self, group: usize, dump: &Dump, batch: &Batch<'_>) -> bool {
        if self.groups.batches {
            return true;
        }
        // On a group that has only transfers, the status counts these.
        let info = &self.groups.all[group];
        let done = self.statuses.get(&dump.rank).and_then(|status| status.get(&info.name)?.completed);
        !info.collectives && batch.members.iter().all(|entry| done.is_some_and(|done| entry.p2p_seq <= done))
    }

    fn collective(&mut self, comm: usize, batch: &Batch<'_>) -> Operation {
        let signature = self.signature(batch);
        let first = batch.members.first().or(batch.whole.as_ref());
        let sequence = batch.whole.or(first.copied()).map_or(0, |entry| entry.collective_seq);
        self.by_position.entry((comm, sequence)).or_insert(signature);
        let created_ns = first.map_or(0, |entry| entry.created_ns);
        let state = batch.whole.or(first.copied());
        let completed = state.is_some_and(|entry| entry.state == State::Completed);
        let ended_ns = state.and_then(|entry| entry.completed_ns.or(entry.started_ns)).unwrap_or(created_ns);
        let ended_ns = completed.then_some(ended_ns.max(created_ns));
        let by_duration =
            ended_ns.zip(state.and_then(|entry| entry.duration_ns)).map(|(end, ns)| end.saturating_sub(ns));
        let started_ns = by_duration.or_else(|| state.and_then(|entry| entry.started_ns));
        let started_ns =
            started_ns.map(|ns| ns.max(created_ns)).map(|ns| ended_ns.map_or(ns, |end| ns.min(end)));
        let bytes = batch.members.iter().map(|entry| bytes(entry)).fold(0, u64::saturating_add);
        Operation { sequence, signature, bytes, enqueued_ns: created_ns, started_ns, ended_ns }
    }

    fn signature(&mut self, batch: &Batch<'_>) -> u32 {
        let mut names: Vec<&str> = batch.members.iter().map(|entry| nccl_name(&entry.name)).collect();
        names.sort_unstable();
        names.dedup();
        let name = if names.is_empty() { "coalesced".to_owned() } else { names.join("+") };
        let agree = !names.is_empty() && names.iter().all(|name| sizes_must_agree(name));
        let elements = |entry: &&Entry| match nccl_name(&entry.name) {
            "ReduceScatter" => entry.elements.1,
            _ => entry.elements.0,
        };
        let count = batch.members.iter().map(elements).fold(0, u64::saturating_add);
        let dtype = batch.members.first().map_or("", |entry| entry.dtype.as_str());
        self.intern(OperationSignature {
            function: name.into(),
            count: if agree { count } else { 0 },
            datatype: (if agree { dtype } else { "" }).into(),
            root: 0,
        })
    }

    fn intern(&mut self, signature: OperationSignature) -> u32 {
        *self.signatures.entry(signature).or_insert_with_key(|signature| {
            self.recording.signatures.push(signature.clone());
            u32::try_from(self.recording.signatures.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// Adds what the status tells beyond the operations, once every rank's operations are known.
    fn complete(&mut self, place: usize, dump: &Dump) {
        let statuses = self.statuses.remove(&dump.rank).unwrap_or_default();
        let mut series = std::mem::take(&mut self.recording.processes[place].series);
        for group in &dump.groups {
            let Some(id) = self.groups.find(&group.name, dump.rank) else { continue };
            let Some(comm) = self.index.get(&id).copied() else { continue };
            let info = &self.groups.all[id];
            if !info.collectives {
                continue;
            }
            let Some(comm_rank) = info.ranks.iter().position(|rank| *rank == dump.rank) else { continue };
            let at = match series.iter().position(|series| series.comm == comm) {
                Some(at) => at,
                None => {
                    let comm_rank = u32::try_from(comm_rank).unwrap_or(u32::MAX);
                    series.push(Series { comm, comm_rank, ..Series::default() });
                    series.len() - 1
                }
            };
            let mine = &mut series[at];
            // A group without a line in the status has seen no operation of this rank.
            let known = match statuses.get(&group.name) {
                Some(status) => Some(*status),
                None if unused(dump, &statuses) => Some(Status::default()),
                None => None,
            };
            let known = known.filter(|_| !info.point_to_point);
            let recorded = !mine.operations.is_empty();
            match known {
                Some(status) => self.by_status(comm, mine, status),
                None if !recorded => mine.breaks_off = true,
                None => {}
            }
            tidy(mine);
            if !recorded && let Some(status) = known {
                self.told_by_status(dump.rank, comm, status);
            }
        }
        for series in &mut series {
            tidy(series);
        }
        series.sort_by_key(|series| series.comm);
        self.recording.processes[place].series = series;
    }

    fn told_by_status(&mut self, rank: u32, comm: usize, status: Status) {
        let label = self.recording.comms[comm].label();
        let far = match status.enqueued {
            Some(at) => format!("#{at} was the last it called"),
            None => "it has called nothing there".to_owned(),
        };
        self.recording.notes.push(format!(
            "the dump of rank {rank} holds no operation on {label}; that {far} is known from its pg_status"
        ));
    }

    fn by_status(&mut self, comm: usize, series: &mut Series, status: Status) {
        let operations = &mut series.operations;
        let latest = operations.iter().map(Operation::last_ns).max();
        let done = status.completed.map_or(0, |at| at.saturating_add(1));
        for operation in operations.iter_mut().filter(|operation| operation.sequence < done) {
            let at = operation.last_ns();
            operation.ended_ns.get_or_insert(at);
        }
        let entered = status.enqueued.map_or(0, |at| at.saturating_add(1)).max(done);
        let next = operations.iter().map(|op| op.sequence.saturating_add(1)).max().unwrap_or(done);
        let from = next.max(done).max(entered.saturating_sub(MADE_UP));
        // Pending operations of which there is no record: they are what other ranks call at these positions.
        for sequence in from..entered {
            let signature = match self.by_position.get(&(comm, sequence)) {
                Some(signature) => *signature,
                None => continue,
            };
            let at = latest.unwrap_or_else(|| self.time_of(comm, sequence));
            operations.push(Operation {
                sequence,
                signature,
                bytes: 0,
                enqueued_ns: at,
                started_ns: None,
                ended_ns: None,
            });
        }
        if operations.is_empty() {
            series.base = entered;
        }
    }

    /// When others were at this position.
    fn time_of(&self, comm: usize, sequence: u64) -> i64 {
        let all = self.recording.processes.iter().flat_map(|process| &process.series);
        let there = all.filter(|series| series.comm == comm).flat_map(|series| &series.operations);
        there.filter(|op| op.sequence == sequence).map(|op| op.enqueued_ns).min().unwrap_or(0)
    }
}

/// Whether all lines of the status are accounted for, so that a group without one was never used.
fn unused(dump: &Dump, statuses: &HashMap<String, Status>) -> bool {
    dump.status.as_ref().is_some_and(|status| status.len() == statuses.len())
}

fn tidy(series: &mut Series) {
    series.operations.sort_by_key(|operation| operation.sequence);
    series.operations.dedup_by_key(|operation| operation.sequence);
    if let Some(first) = series.operations.first() {
        series.base = first.sequence;
    }
}

fn bytes(entry: &Entry) -> u64 {
    entry.elements.0.saturating_mul(dump::element_bytes(&entry.dtype))
}

/// Says whose dumps are not there.
fn note_missing(dumps: &[(PathBuf, Dump)], groups: &Groups, recording: &mut Recording) {
    let present: HashSet<u32> = dumps.iter().map(|(_, dump)| dump.rank).collect();
    let all: BTreeSet<u32> = groups.all.iter().flat_map(|group| group.ranks.iter().copied()).collect();
    let missing: Vec<u32> = all.into_iter().filter(|rank| !present.contains(rank)).collect();
    if !missing.is_empty() {
        recording.notes.push(format!(
            "there is no dump of {} {}: what {} did is unknown",
            if missing.len() == 1 { "rank" } else { "ranks" },
            crate::words::ranks(missing.iter().copied()),
            if missing.len() == 1 { "it" } else { "they" },
        ));
    }
    if recording.waits_unknown && !recording.notes.iter().any(|note| note.contains("timing")) {
        recording.notes.push(
            "timing was off (TORCH_NCCL_ENABLE_TIMING), so how long ranks waited is not known: slow ranks cannot be \
             told from these dumps, only stuck ones"
                .to_owned(),
        );
    }
}
