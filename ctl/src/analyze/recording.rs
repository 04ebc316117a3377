//! One job as files tell of it, whatever their format: who took part, and each rank's operations on each communicator.
//! Loaders fill it, [`super::align`] puts its clocks right, [`super::replay`] shows it to the detector. Times are in
//! nanoseconds of any origin and may be negative; only differences count until the replay.

use std::collections::{BTreeMap, HashMap};

use c4_detect::observation::{CommId, OperationSignature, ProcessInfo, StepState};

/// One job, or all that a directory of recorders holds.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Everybody heard of.
    pub processes: Vec<Process>,
    /// Every communicator heard of.
    pub comms: Vec<Comm>,
    /// Distinct signatures; operations refer to them.
    pub signatures: Vec<OperationSignature>,
    /// What is open at the end never finished. Otherwise the recording is a moment in a job that may go on.
    pub never_finished: bool,
    /// Nothing but these operations is known of the job, so what they say at their end is all there is to say.
    pub stands_for_itself: bool,
    /// Nothing is known after this moment, where there is such a moment.
    pub until_ns: Option<i64>,
    /// The recording's zero in microseconds since the Unix epoch, where known.
    pub epoch_us: Option<i64>,
    /// What a person must know about how far this can be trusted.
    pub notes: Vec<String>,
    /// Confidence that no finding may exceed, because the recording leaves another reading open.
    pub confidence_limit: Option<f64>,
    /// Times say in what order things were called, but not how long ranks waited.
    pub waits_unknown: bool,
    /// Times are when something was noticed, which may be long after it happened.
    pub coarse_times: bool,
    /// Names of the kinds of computation; computations refer to them.
    pub kinds_of_work: Vec<String>,
}

/// Who is where in a recording.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// By communicator: process and its series.
    pub members: Vec<Vec<(usize, usize)>>,
    /// Processes by their rank.
    pub by_rank: HashMap<u32, usize>,
}

/// One training process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Who it is.
    pub info: ProcessInfo,
    /// Which clock its times are of; processes with the same number share it.
    pub clock: u32,
    /// Whether starts come from the GPU.
    pub kernel_events: bool,
    /// Whether absence of an operation means that there was none.
    pub profiling: bool,
    /// Events lost.
    pub dropped: u64,
    /// When it ended, if it is known to have ended, and whether it had finalised its communicators.
    pub ended: Option<(i64, bool)>,
    /// Where it is in the parallel layout, by axis, where known.
    pub coords: BTreeMap<String, String>,
    /// Where in its program it last called an operation, where known.
    pub last_call: Option<String>,
    /// Its communicators.
    pub series: Vec<Series>,
    /// What it sent and received, in the order in which it began.
    pub transfers: Vec<Transfer>,
    /// What it computed, where that was recorded.
    pub computes: Vec<Compute>,
}

/// A send or receive of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Global rank of the other end.
    pub peer: u32,
    /// Whether this rank sends.
    pub is_send: bool,
    /// Sends and receives meet only on the same one.
    pub channel: u64,
    /// Position among the transfers between the two on this channel in this direction: equal places meet.
    pub place: u64,
    /// Bytes.
    pub bytes: u64,
    /// Transfers of one rank with the same number are one batch.
    pub batch: u32,
    /// When the host asked for it.
    pub enqueued_ns: i64,
    /// When the rank began to wait in it.
    pub started_ns: Option<i64>,
    /// When it was over, absent if never.
    pub ended_ns: Option<i64>,
}

impl Transfer {
    /// When the rank entered it, as well as is known.
    #[must_use]
    pub fn entered_ns(&self) -> i64 {
        self.started_ns.unwrap_or(self.enqueued_ns)
    }

    /// The last thing known of it.
    #[must_use]
    pub fn last_ns(&self) -> i64 {
        self.ended_ns.unwrap_or_else(|| self.entered_ns().max(self.enqueued_ns))
    }
}

/// A computation of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// Index of its name in the recording.
    pub kind: u32,
    /// The iteration it says it is of.
    pub iteration: Option<u64>,
    /// Begin.
    pub start_ns: i64,
    /// End, absent if never.
    pub end_ns: Option<i64>,
}

/// A communicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comm {
    /// Its id.
    pub id: CommId,
    /// Its name, may be empty.
    pub name: String,
    /// Ranks in it.
    pub size: u32,
}

impl Comm {
    /// What to call it.
    #[must_use]
    pub fn label(&self) -> String {
        if self.name.is_empty() { format!("communicator {:x}", self.id.0) } else { self.name.clone() }
    }
}

/// What one process did on one communicator.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Index of the communicator.
    pub comm: usize,
    /// The process's rank in it.
    pub comm_rank: u32,
    /// Operations enqueued before the first one below.
    pub base: u64,
    /// By position.
    pub operations: Vec<Operation>,
    /// Connections, as they are at the end.
    pub edges: Vec<RestingEdge>,
    /// What this rank did after its last operation is not known: its record breaks off.
    pub breaks_off: bool,
    /// The rank left the communicator properly after its last operation.
    pub finalized: bool,
}

impl Series {
    /// The oldest operation that has no end.
    #[must_use]
    pub fn open(&self) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.ended_ns.is_none())
    }

    /// Operations entered: one more than the last position.
    #[must_use]
    pub fn entered(&self) -> u64 {
        self.operations.last().map_or(self.base, |operation| operation.sequence.saturating_add(1))
    }
}

/// One collective of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Position on the communicator.
    pub sequence: u64,
    /// Index of its signature.
    pub signature: u32,
    /// Bytes.
    pub bytes: u64,
    /// When the host asked for it.
    pub enqueued_ns: i64,
    /// When the rank began to wait in it.
    pub started_ns: Option<i64>,
    /// When it was over, absent if never.
    pub ended_ns: Option<i64>,
}

impl Operation {
    /// When the rank entered it, as well as is known.
    #[must_use]
    pub fn entered_ns(&self) -> i64 {
        self.started_ns.unwrap_or(self.enqueued_ns)
    }

    /// The last thing known of it.
    #[must_use]
    pub fn last_ns(&self) -> i64 {
        self.ended_ns.unwrap_or_else(|| self.entered_ns().max(self.enqueued_ns))
    }
}

/// A connection at the end of the recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestingEdge {
    /// The peer's rank in the communicator.
    pub peer: u32,
    /// NCCL channel.
    pub channel: u32,
    /// Whether this rank sends.
    pub is_send: bool,
    /// What it waits for.
    pub state: StepState,
    /// Since when.
    pub since_ns: i64,
    /// Steps done.
    pub steps_done: u64,
    /// Bytes moved.
    pub bytes: u64,
}

impl Recording {
    /// First and last moment that anything speaks of.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        let mut span: Option<(i64, i64)> = None;
        let mut add = |from: i64, until: i64| {
            let (first, last) = span.unwrap_or((from, until));
            span = Some((first.min(from), last.max(until).max(from)));
        };
        for operation in self.operations() {
            add(operation.enqueued_ns.min(operation.entered_ns()), operation.last_ns());
        }
        for process in &self.processes {
            for transfer in &process.transfers {
                add(transfer.enqueued_ns.min(transfer.entered_ns()), transfer.last_ns());
            }
            for compute in &process.computes {
                add(compute.start_ns, compute.end_ns.unwrap_or(compute.start_ns));
            }
        }
        span
    }

    /// Every operation of everybody.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.processes.iter().flat_map(|process| &process.series).flat_map(|series| &series.operations)
    }

    /// Who is on which communicator. Asking each process for each communicator would be quadratic in a job of 100,000.
    #[must_use]
    pub fn index(&self) -> Index {
        let mut index = Index { members: vec![Vec::new(); self.comms.len()], by_rank: HashMap::new() };
        for (place, process) in self.processes.iter().enumerate() {
            for (number, series) in process.series.iter().enumerate() {
                if let Some(members) = index.members.get_mut(series.comm) {
                    members.push((place, number));
                }
            }
            if let Some(rank) = process.info.rank {
                index.by_rank.entry(rank).or_insert(place);
            }
        }
        index
    }

    /// Everybody on one communicator.
    pub fn members<'a>(
        &'a self,
        index: &'a Index,
        comm: usize,
    ) -> impl Iterator<Item = (&'a Process, &'a Series)> {
        index.members.get(comm).into_iter().flatten().map(|(process, series)| {
            let process = &self.processes[*process];
            (process, &process.series[*series])
        })
    }

    /// Puts ends where later operations show that there was one: nobody can be in an operation and have finished the
    /// next one on the same communicator.
    pub fn mend(&mut self) {
        for series in self.processes.iter_mut().flat_map(|process| &mut process.series) {
            let Some(last) = series.operations.iter().rposition(|op| op.ended_ns.is_some()) else { continue };
            for operation in &mut series.operations[..last] {
                let at = operation.entered_ns();
                operation.ended_ns.get_or_insert(at);
            }
        }
    }

    /// Marks ranks whose record breaks off: their peers have *finished* operations that, by the record, they never
    /// entered. That cannot have happened, so the record is older than the peers' or has lost its end, and the
    /// absence of operations in it is no evidence. Returns a sentence for each, the first ones.
    pub fn mark_broken_off(&mut self) -> Vec<String> {
        const TOLD: usize = 8;
        let index = self.index();
        let mut notes = Vec::new();
        let mut untold = 0;
        for comm in 0..self.comms.len() {
            let finished = self
                .members(&index, comm)
                .filter_map(|(_, series)| {
                    let done = |op: &&Operation| op.ended_ns.is_some() && self.synchronises(op);
                    series.operations.iter().rev().find(done).map(|op| op.sequence.saturating_add(1))
                })
                .max();
            let Some(finished) = finished else { continue };
            let label = self.comms[comm].label();
            for (process, series) in &index.members[comm] {
                let process = &mut self.processes[*process];
                let entered = process.series[*series].entered();
                if entered >= finished {
                    continue;
                }
                process.series[*series].breaks_off = true;
                if notes.len() >= TOLD {
                    untold += 1;
                    continue;
                }
                let info = &process.info;
                let who = info.rank.map_or_else(|| format!("pid {}", info.pid), |r| format!("rank {r}"));
                notes.push(format!(
                    "the record of {who} on {label} stops at position {entered}, but its peers have finished \
                     position {finished}: it is older than theirs or has lost its end, so what {who} did \
                     afterwards is unknown"
                ));
            }
        }
        if untold > 0 {
            notes.push(format!("{untold} more records stop before their peers'"));
        }
        notes
    }

    /// Whether nobody can leave the operation before everybody has entered it.
    #[must_use]
    pub fn synchronises(&self, operation: &Operation) -> bool {
        let function = self.signatures.get(operation.signature as usize).map(|s| &*s.function);
        matches!(function, Some("AllReduce" | "AllGather" | "ReduceScatter" | "AllToAll" | "Barrier"))
    }
}
