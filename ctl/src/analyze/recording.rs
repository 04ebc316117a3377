//! One job as files tell of it, whatever their format: who took part, and each rank's operations on each communicator.
//! Loaders fill it, [`super::align`] puts its clocks right, [`super::replay`] shows it to the detector. Times are in
//! nanoseconds of any origin and may be negative; only differences count until the replay.

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
    /// Nothing is known after this moment, where there is such a moment.
    pub until_ns: Option<i64>,
    /// The recording's zero in microseconds since the Unix epoch, where known.
    pub epoch_us: Option<i64>,
    /// What a person must know about how far this can be trusted.
    pub notes: Vec<String>,
    /// Confidence that no finding may exceed, because the recording leaves another reading open.
    pub confidence_limit: Option<f64>,
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
    /// Its communicators.
    pub series: Vec<Series>,
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
    /// First and last moment that any operation speaks of.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        let operations = || self.operations();
        let first = operations().map(|operation| operation.enqueued_ns.min(operation.entered_ns())).min()?;
        let last = operations().map(Operation::last_ns).max()?;
        Some((first, last.max(first)))
    }

    /// Every operation of everybody.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.processes.iter().flat_map(|process| &process.series).flat_map(|series| &series.operations)
    }

    /// Everybody on one communicator.
    pub fn members(&self, comm: usize) -> impl Iterator<Item = (usize, &Process, &Series)> {
        self.processes.iter().enumerate().flat_map(move |(index, process)| {
            process.series.iter().filter(move |s| s.comm == comm).map(move |series| (index, process, series))
        })
    }

    /// Marks ranks whose record breaks off: their peers have *finished* operations that, by the record, they never
    /// entered. That cannot have happened, so the record is older than the peers' or has lost its end, and the
    /// absence of operations in it is no evidence. Returns a sentence for each.
    pub fn mark_broken_off(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        for comm in 0..self.comms.len() {
            let finished = self
                .members(comm)
                .filter_map(|(_, _, series)| {
                    let done = |op: &&Operation| op.ended_ns.is_some() && self.synchronises(op);
                    series.operations.iter().rev().find(done).map(|op| op.sequence.saturating_add(1))
                })
                .max();
            let Some(finished) = finished else { continue };
            let label = self.comms[comm].label();
            for process in &mut self.processes {
                let rank = process.info.rank;
                for series in process.series.iter_mut().filter(|series| series.comm == comm) {
                    let entered = series.entered();
                    if entered >= finished {
                        continue;
                    }
                    series.breaks_off = true;
                    let who =
                        rank.map_or_else(|| format!("pid {}", process.info.pid), |r| format!("rank {r}"));
                    notes.push(format!(
                        "the record of {who} on {label} stops at position {entered}, but its peers have finished \
                         position {finished}: it is older than theirs or has lost its end, so what {who} did \
                         afterwards is unknown"
                    ));
                }
            }
        }
        notes
    }

    /// Whether nobody can leave the operation before everybody has entered it.
    #[must_use]
    pub fn synchronises(&self, operation: &Operation) -> bool {
        let function = self.signatures.get(operation.signature as usize).map(|s| s.function.as_str());
        matches!(function, Some("AllReduce" | "AllGather" | "ReduceScatter" | "AllToAll" | "Barrier"))
    }
}
