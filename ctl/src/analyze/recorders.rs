//! Flight recorders as a [`Recording`].
//!
//! What may be claimed depends on who holds them. While a process lives it holds its recorder's lock, so:
//! - *Some are held*: the files are on their own machine. What nobody holds any more belonged to a process that has
//!   died or finished. The recording is the moment of the first reading, nothing is assumed of what comes after.
//! - *None is held*: the job is over, or these are copies. That a process is gone accuses nobody, since all are. What is
//!   evidence is that positions differ: a rank that never entered what its peers were in when their records end. But a
//!   healthy job that is ended at once leaves the same picture, if only of one operation; so confidence is limited
//!   unless one rank's record ends well before its peers'.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use c4_detect::observation::{
    CommId, JobId, NodeName, OperationSignature, ProcessId, ProcessInfo, StepState,
};
use c4_recorder::snapshot::{self, OperationKind, Snapshot};

use super::{
    problem::Problems,
    recording::{Comm, Operation, Process, Recording, RestingEdge, Series},
};
use crate::recorder::Seen;

mod agreement;

/// Confidence that nothing read from unheld recorders alone may exceed: "as likely as not".
const UNHELD_CONFIDENCE: f64 = 0.5;
/// A record that ends this much before its peers', counted in the longest collective seen, ends well before them…
const WELL_BEFORE_OPERATIONS: i64 = 20;
/// …but never less than this.
const WELL_BEFORE_NS: i64 = 1_000_000_000;

/// The job a recorder belongs to.
#[must_use]
pub fn job_of(snapshot: &Snapshot) -> String {
    let labels = &snapshot.identity.labels;
    let label = |name: &str| labels.get(name).filter(|value| !value.is_empty());
    if let Some(job) = label("C4_JOB") {
        return job.clone();
    }
    if let Some(id) = label("SLURM_JOB_ID") {
        return format!("slurm-{id}");
    }
    if let Some(id) = label("TORCHELASTIC_RUN_ID") {
        return id.clone();
    }
    match largest(snapshot) {
        Some(comm) => format!("comm-{:x}", comm.id),
        None => "unknown".to_owned(),
    }
}

fn largest(snapshot: &Snapshot) -> Option<&snapshot::Communicator> {
    // The first of the largest: all ranks create them in the same order.
    snapshot.communicators.iter().rev().max_by_key(|comm| comm.size)
}

fn number(snapshot: &Snapshot, label: &str) -> Option<u32> {
    snapshot.identity.labels.get(label)?.trim().parse().ok()
}

fn incarnation(snapshot: &Snapshot) -> u32 {
    number(snapshot, "C4_INCARNATION").or_else(|| number(snapshot, "TORCHELASTIC_RESTART_COUNT")).unwrap_or(0)
}

/// One recording of all recorders. Of each job only the newest incarnation counts.
#[must_use]
pub fn recording(mut files: Vec<(PathBuf, Seen)>, problems: &mut Problems) -> Recording {
    let mut recording = Recording::default();
    drop_older_incarnations(&mut files, &mut recording.notes);
    agreement::keep_agreeing(&mut files, problems);
    let held: Vec<&Seen> = files.iter().map(|(_, seen)| seen).filter(|seen| seen.held).collect();
    recording.until_ns = held.iter().map(|seen| signed(seen.snapshot.taken_ns)).min();
    let any_held = !held.is_empty();
    let mut comms = HashMap::new();
    let mut signatures = HashMap::new();
    let mut clocks = BTreeMap::new();
    for (path, seen) in &files {
        let next = u32::try_from(clocks.len()).unwrap_or(u32::MAX);
        // Held recorders are all of this machine, whatever NCCL_HOSTID made of its name.
        let host = if any_held { "" } else { seen.snapshot.identity.host_id.as_str() };
        let clock = *clocks.entry(host).or_insert(next);
        let process = process(path, seen, clock, any_held, &mut comms, &mut signatures, &mut recording);
        recording.processes.push(process);
    }
    recording.processes.sort_by_key(|process| (process.info.job.clone(), process.info.rank));
    if !any_held {
        post_mortem(&mut recording);
    }
    recording
}

fn drop_older_incarnations(files: &mut Vec<(PathBuf, Seen)>, notes: &mut Vec<String>) {
    let mut newest: HashMap<String, u32> = HashMap::new();
    for (_, seen) in files.iter() {
        let incarnation = incarnation(&seen.snapshot);
        let known = newest.entry(job_of(&seen.snapshot)).or_insert(incarnation);
        *known = (*known).max(incarnation);
    }
    let before = files.len();
    files.retain(|(_, seen)| newest.get(&job_of(&seen.snapshot)) == Some(&incarnation(&seen.snapshot)));
    let older = before - files.len();
    if older > 0 {
        notes.push(format!("{} of earlier incarnations left out", crate::recorder::number(older)));
    }
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// A post-mortem: nobody holds any of these files.
fn post_mortem(recording: &mut Recording) {
    let index = recording.index();
    let differ = (0..recording.comms.len()).any(|comm| {
        let mut entered = recording.members(&index, comm).map(|(_, series)| series.entered());
        let first = entered.next();
        entered.any(|other| Some(other) != first)
    });
    let open = recording.processes.iter().flat_map(|p| &p.series).any(|series| series.open().is_some());
    recording.never_finished = differ && open;
    if !open {
        return;
    }
    if !recording.never_finished {
        recording.notes.push(
            "no process holds these recorders: all ranks were in the same operation when their records end, which a \
             job that was ended at once looks like as well; nothing is claimed from that alone"
                .to_owned(),
        );
        return;
    }
    if !one_ends_well_before(recording) {
        recording.confidence_limit = Some(UNHELD_CONFIDENCE);
        recording.notes.push(
            "no process holds these recorders (the job is over, or they are copies), and their records end at about \
             the same time: a job that was ended at once can look like this as well, so confidence is limited"
                .to_owned(),
        );
    }
}

/// Whether some process's record ends long before the others': then time has passed in which it did nothing.
fn one_ends_well_before(recording: &Recording) -> bool {
    let longest = recording
        .operations()
        .filter_map(|operation| Some(operation.ended_ns?.saturating_sub(operation.entered_ns())))
        .max()
        .unwrap_or(0);
    let ends = recording.processes.iter().filter_map(|process| {
        let operations = process.series.iter().flat_map(|series| &series.operations).map(Operation::last_ns);
        let edges = process.series.iter().flat_map(|series| &series.edges).map(|edge| edge.since_ns);
        operations.chain(edges).max()
    });
    let ends: Vec<i64> = ends.collect();
    let (Some(first), Some(last)) = (ends.iter().min(), ends.iter().max()) else { return false };
    last.saturating_sub(*first) > longest.saturating_mul(WELL_BEFORE_OPERATIONS).max(WELL_BEFORE_NS)
}

fn process(
    path: &Path,
    seen: &Seen,
    clock: u32,
    any_held: bool,
    comms: &mut HashMap<u64, usize>,
    signatures: &mut HashMap<OperationSignature, u32>,
    recording: &mut Recording,
) -> Process {
    let snapshot = &seen.snapshot;
    let identity = &snapshot.identity;
    let largest = largest(snapshot);
    let rank = number(snapshot, "RANK")
        .or_else(|| number(snapshot, "SLURM_PROCID"))
        .or(largest.map(|comm| comm.rank));
    let world_size = number(snapshot, "WORLD_SIZE").or_else(|| number(snapshot, "SLURM_NTASKS"));
    let series: Vec<Series> = snapshot
        .communicators
        .iter()
        .filter(|comm| comm.size > 1)
        .map(|comm| series(comm, snapshot, comms, signatures, recording))
        .collect();
    if !snapshot.profiling {
        recording
            .notes
            .push(format!("{}: profiling was off, absence of operations means nothing", path.display()));
    }
    for torn in &snapshot.unreadable {
        recording.notes.push(format!("{}: {} slot {}: {}", path.display(), torn.table, torn.slot, torn.why));
    }
    let finalized = snapshot.communicators.iter().all(|comm| comm.finalized);
    let ended =
        (any_held && !seen.held).then(|| (signed(crate::recorder::last_record_ns(snapshot)), finalized));
    Process {
        info: ProcessInfo {
            process: ProcessId(identity.cookie),
            job: JobId(job_of(snapshot)),
            incarnation: incarnation(snapshot),
            rank,
            world_size,
            node: NodeName(identity.host_id.clone()),
            gpu: identity.gpu,
            pid: identity.pid,
            blind_spots: identity.blind_spots.clone(),
        },
        clock,
        kernel_events: snapshot.operations.iter().any(|operation| operation.started_on_gpu),
        profiling: snapshot.profiling,
        dropped: snapshot.losses.operations,
        ended,
        coords: BTreeMap::new(),
        last_call: None,
        series,
        transfers: Vec::new(),
        computes: Vec::new(),
    }
}

fn series(
    comm: &snapshot::Communicator,
    snapshot: &Snapshot,
    comms: &mut HashMap<u64, usize>,
    signatures: &mut HashMap<OperationSignature, u32>,
    recording: &mut Recording,
) -> Series {
    let index = *comms.entry(comm.id).or_insert_with(|| {
        recording.comms.push(Comm { id: CommId(comm.id), name: comm.name.clone(), size: comm.size });
        recording.comms.len() - 1
    });
    let mine = |slot: u32, generation: u32| slot == comm.slot && generation == comm.generation;
    let mut operations: Vec<Operation> = snapshot
        .operations
        .iter()
        .filter(|op| op.kind == OperationKind::Collective && mine(op.comm_slot, op.comm_generation))
        // An end that cannot be seen must not look like an operation that never ended.
        .filter(|op| op.completed_ns.is_some() || op.observable)
        .filter(|op| !op.left_out)
        .map(|op| Operation {
            sequence: op.sequence,
            signature: signature(op, signatures, recording),
            bytes: op.bytes,
            enqueued_ns: signed(op.enqueued_ns),
            started_ns: op.started_ns.map(signed),
            ended_ns: op.completed_ns.map(signed),
        })
        .collect();
    operations.sort_by_key(|operation| operation.sequence);
    operations.dedup_by_key(|operation| operation.sequence);
    let edges = snapshot
        .connections
        .iter()
        .filter(|connection| mine(connection.comm_slot, connection.comm_generation))
        .filter(|connection| connection.state != snapshot::StepState::Idle)
        .map(|connection| RestingEdge {
            peer: connection.peer,
            channel: connection.channel,
            is_send: connection.is_send,
            state: step_state(connection.state),
            since_ns: signed(connection.state_since_ns),
            steps_done: connection.steps_done,
            bytes: connection.bytes,
        })
        .collect();
    let base = operations.first().map_or(comm.enqueued, |operation| operation.sequence);
    let known = operations.last().map_or(base, |operation| operation.sequence.saturating_add(1));
    // The rank is further than its operations tell: their records were lost, or their ends cannot be seen.
    let breaks_off = !comm.observable || comm.enqueued > known;
    Series {
        comm: index,
        comm_rank: comm.rank,
        base,
        operations,
        edges,
        breaks_off,
        finalized: comm.finalized,
    }
}

fn signature(
    operation: &snapshot::Operation,
    known: &mut HashMap<OperationSignature, u32>,
    recording: &mut Recording,
) -> u32 {
    let signature = OperationSignature {
        function: operation.function.as_str().into(),
        count: operation.count,
        datatype: operation.datatype.as_str().into(),
        root: operation.root_or_peer,
    };
    *known.entry(signature).or_insert_with_key(|signature| {
        recording.signatures.push(signature.clone());
        u32::try_from(recording.signatures.len() - 1).unwrap_or(u32::MAX)
    })
}

fn step_state(state: snapshot::StepState) -> StepState {
    match state {
        snapshot::StepState::Idle => StepState::Idle,
        snapshot::StepState::SendGpuWait => StepState::SendGpuWait,
        snapshot::StepState::SendPeerWait => StepState::SendPeerWait,
        snapshot::StepState::SendWait => StepState::SendWait,
        snapshot::StepState::RecvWait => StepState::RecvWait,
        snapshot::StepState::RecvFlushWait => StepState::RecvFlushWait,
        snapshot::StepState::RecvGpuWait => StepState::RecvGpuWait,
    }
}

#[cfg(test)]
mod tests;
