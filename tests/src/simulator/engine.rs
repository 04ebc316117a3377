//! Executes the programs of all ranks, an iteration at a time.
//!
//! Times obey four rules and nothing else: a stream runs its operations in order; an operation starts once the host has
//! launched it and its stream has come to it; a collective ends for all its members at once, a transfer time after the
//! last of them came; an event is seen after it was recorded. A rank that is stuck simply never gets on, and with it
//! everybody who waits for it.

use std::collections::HashMap;

use super::{
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::{Noise, RankNoise},
    program::{Function, Model, Op, Program, Stream},
};

/// Host time to launch one operation.
const LAUNCH_NS: u64 = 8_000;
/// Latency of a transfer, and bandwidth of a NIC in bytes per nanosecond.
const LATENCY_NS: u64 = 30_000;
const BYTES_PER_NS: f64 = 40.0;

/// A collective as one rank saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectiveRecord {
    /// The rank.
    pub rank: u32,
    /// Its communicator.
    pub group: Group,
    /// Function.
    pub function: Function,
    /// Bytes.
    pub bytes: u64,
    /// When the host launched it.
    pub enqueued_ns: u64,
    /// When its stream came to it, if it did.
    pub start_ns: Option<u64>,
    /// When it ended, if it did.
    pub end_ns: Option<u64>,
}

/// A send or receive as one rank saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferRecord {
    /// The rank.
    pub rank: u32,
    /// The other one.
    pub peer: u32,
    /// Whether this rank sends.
    pub is_send: bool,
    /// When the host launched it.
    pub enqueued_ns: u64,
    /// When its stream came to it, if it did.
    pub start_ns: Option<u64>,
    /// When it ended, if it did.
    pub end_ns: Option<u64>,
}

/// What the ranks did in one iteration.
#[derive(Debug, Default)]
pub struct IterationRecord {
    /// Collectives, in launch order for each rank.
    pub collectives: Vec<CollectiveRecord>,
    /// Sends and receives, in launch order for each rank.
    pub transfers: Vec<TransferRecord>,
    /// Whether some rank did not finish: the job hangs from here on.
    pub stuck: bool,
    /// When the last rank that finished did so.
    pub end_ns: u64,
}

/// The job.
#[derive(Debug)]
pub struct Engine {
    layout: Layout,
    programs: Vec<StagePlan>,
    ranks: Vec<RankState>,
    faults: Vec<Fault>,
    iteration: u64,
}

#[derive(Debug)]
struct StagePlan {
    program: Program,
    /// Indices into the program, by stream.
    streams: [Vec<u32>; Stream::COUNT],
}

#[derive(Debug)]
struct RankState {
    noise: RankNoise,
    /// When the host begins the iteration.
    begin_ns: u64,
    free_ns: [u64; Stream::COUNT],
    position: [usize; Stream::COUNT],
    events: Vec<Option<u64>>,
    /// Start and end of each operation of the program in this iteration.
    times: Vec<(Option<u64>, Option<u64>)>,
}

#[derive(Debug, Default)]
struct Meeting {
    members: Vec<(u32, usize, usize)>,
    latest_ns: u64,
}

/// Whom an operation meets: a group, or one direction between two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Group(Group, u32),
    Pair(u32, u32),
}

impl Engine {
    /// A job at time zero.
    #[must_use]
    pub fn new(layout: Layout, model: &Model, noise: Noise, faults: Vec<Fault>, seed: u64) -> Self {
        let programs = (0..layout.pp).map(|stage| StagePlan::new(Program::of_stage(&layout, model, stage)));
        let ranks = (0..layout.ranks()).map(|rank| RankState::new(RankNoise::new(noise, seed, rank)));
        Self { programs: programs.collect(), ranks: ranks.collect(), layout, faults, iteration: 0 }
    }

    /// Number of the iteration that [`Engine::step`] will run.
    #[must_use]
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Runs one iteration.
    pub fn step(&mut self) -> IterationRecord {
        let mut work = Vec::new();
        for rank in 0..self.layout.ranks() {
            self.begin(rank);
            work.extend((0..Stream::COUNT).map(|stream| (rank, stream)));
        }
        let mut meetings: HashMap<Place, Meeting> = HashMap::new();
        while let Some((rank, stream)) = work.pop() {
            self.advance(rank, stream, &mut meetings, &mut work);
        }
        let record = self.record();
        self.iteration += 1;
        record
    }

    fn plan(&self, rank: u32) -> &StagePlan {
        &self.programs[self.layout.coordinates(rank).pp as usize]
    }

    fn begin(&mut self, rank: u32) {
        let iteration = self.iteration;
        let (ops, events) = {
            let program = &self.plan(rank).program;
            (program.ops.len(), program.events as usize)
        };
        let late: u64 = self.faults.iter().map(|fault| self.lateness(fault, rank)).sum();
        let state = &mut self.ranks[rank as usize];
        state.begin_ns = state.free_ns.into_iter().max().unwrap_or(0);
        state.begin_ns += state.noise.host(rank, iteration) + late;
        state.free_ns = [state.begin_ns; Stream::COUNT];
        state.position = [0; Stream::COUNT];
        state.events = vec![None; events];
        state.times = vec![(None, None); ops];
    }

    fn lateness(&self, fault: &Fault, rank: u32) -> u64 {
        let now = self.ranks[rank as usize].free_ns[0];
        match fault.kind {
            FaultKind::LateHost { ns } if fault.rank == rank && fault.acts(now) => ns,
            _ => 0,
        }
    }

    /// Takes a stream of a rank as far as it goes.
    fn advance(
        &mut self,
        rank: u32,
        stream: usize,
        meetings: &mut HashMap<Place, Meeting>,
        work: &mut Vec<(u32, usize)>,
    ) {
        loop {
            let plan = self.plan(rank);
            let state = &self.ranks[rank as usize];
            let Some(&index) = plan.streams[stream].get(state.position[stream]) else { return };
            let index = index as usize;
            let op = plan.program.ops[index].1;
            if state.times[index].0.is_some() && !matches!(op, Op::Record { .. } | Op::Wait { .. }) {
                return; // It has come and waits for the others.
            }
            let launched = state.launched_ns(index);
            if !self.launches(rank, launched) {
                return;
            }
            let start = state.free_ns[stream].max(launched);
            match op {
                Op::Compute { ns } => match self.compute(rank, ns, start) {
                    Some(end) => self.finish(rank, stream, index, start, end),
                    None => {
                        self.ranks[rank as usize].times[index].0 = Some(start);
                        return;
                    }
                },
                Op::Record { event } => {
                    self.ranks[rank as usize].events[event as usize] = Some(start);
                    self.finish(rank, stream, index, start, start);
                    work.extend(
                        (0..Stream::COUNT).filter(|&other| other != stream).map(|other| (rank, other)),
                    );
                }
                Op::Wait { event } => match self.ranks[rank as usize].events[event as usize] {
                    Some(at) => self.finish(rank, stream, index, start, start.max(at)),
                    None => return,
                },
                Op::Collective { .. } | Op::Send { .. } | Op::Recv { .. } => {
                    self.ranks[rank as usize].times[index].0 = Some(start);
                    self.meet(rank, stream, index, op, start, meetings, work);
                    return;
                }
            }
        }
    }

    fn finish(&mut self, rank: u32, stream: usize, index: usize, start: u64, end: u64) {
        let state = &mut self.ranks[rank as usize];
        state.times[index] = (Some(start), Some(end));
        state.free_ns[stream] = end;
        state.position[stream] += 1;
    }

    /// Whether the host of a rank is able to launch something at this time.
    fn launches(&self, rank: u32, at_ns: u64) -> bool {
        !self.faults.iter().any(|fault| {
            fault.rank == rank
                && fault.catches(at_ns)
                && matches!(fault.kind, FaultKind::Death | FaultKind::Stop | FaultKind::HostHang)
        })
    }

    /// When a kernel ends, if it does.
    fn compute(&mut self, rank: u32, ns: u64, start: u64) -> Option<u64> {
        let iteration = self.iteration;
        let mut factor = 1.0;
        for fault in &self.faults {
            let here = fault.rank == rank;
            let turn = u64::from(self.layout.ranks());
            match fault.kind {
                FaultKind::SlowCompute { factor: by, every }
                    if here && fault.acts(start) && iteration.is_multiple_of(every.max(1)) =>
                {
                    factor *= by;
                }
                FaultKind::HeavyStage { factor: by }
                    if self.layout.coordinates(rank).pp == self.layout.coordinates(fault.rank).pp
                        && fault.acts(start) =>
                {
                    factor *= by;
                }
                // A multiplicative hash, so that turns follow no pattern over the ranks.
                FaultKind::TakingTurns { factor: by }
                    if (iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) % turn == u64::from(rank)
                        && fault.acts(start) =>
                {
                    factor *= by;
                }
                _ => {}
            }
        }
        let took = self.ranks[rank as usize].noise.kernel((ns as f64 * factor) as u64, start, iteration);
        let end = start + took;
        let lost = self.faults.iter().any(|fault| {
            fault.rank == rank
                && fault.catches(end)
                && matches!(fault.kind, FaultKind::Death | FaultKind::GpuHang)
        });
        (!lost).then_some(end)
    }

    #[expect(clippy::too_many_arguments, reason = "the state of the search is passed along, not kept")]
    fn meet(
        &mut self,
        rank: u32,
        stream: usize,
        index: usize,
        op: Op,
        start: u64,
        meetings: &mut HashMap<Place, Meeting>,
        work: &mut Vec<(u32, usize)>,
    ) {
        let (place, size, bytes) = match op {
            Op::Collective { group, bytes, .. } => {
                let (index, _) = self.layout.membership(rank, group);
                (Place::Group(group, index), self.layout.group_size(group), bytes)
            }
            Op::Send { next, bytes } => match self.layout.stage_neighbour(rank, next) {
                Some(peer) => (Place::Pair(rank, peer), 2, bytes),
                None => return,
            },
            Op::Recv { next, bytes } => match self.layout.stage_neighbour(rank, next) {
                Some(peer) => (Place::Pair(peer, rank), 2, bytes),
                None => return,
            },
            Op::Compute { .. } | Op::Record { .. } | Op::Wait { .. } => return,
        };
        let meeting = meetings.entry(place).or_default();
        meeting.members.push((rank, stream, index));
        meeting.latest_ns = meeting.latest_ns.max(start);
        if meeting.members.len() < size as usize {
            return;
        }
        let Some(meeting) = meetings.remove(&place) else { return };
        let Some(end) = self.transfer(&meeting, bytes) else { return };
        for (rank, stream, index) in meeting.members {
            let start = self.ranks[rank as usize].times[index].0.unwrap_or(end);
            self.finish(rank, stream, index, start, end);
            work.push((rank, stream));
        }
    }

    /// When a transfer among the members ends, if it does.
    fn transfer(&mut self, meeting: &Meeting, bytes: u64) -> Option<u64> {
        let first = meeting.members[0].0;
        let size = meeting.members.len() as f64;
        let mut ns = LATENCY_NS as f64 + 2.0 * (size - 1.0) / size * bytes as f64 / BYTES_PER_NS;
        ns *= self.ranks[first as usize].noise.transfer();
        let has = |rank: u32| meeting.members.iter().any(|member| member.0 == rank);
        // In a ring, a link is used if its ends are neighbours among the members, by rank.
        let mut ring: Vec<u32> = meeting.members.iter().map(|member| member.0).collect();
        ring.sort_unstable();
        let linked = |src: u32, dst: u32| {
            ring.iter().position(|&rank| rank == src).is_some_and(|at| ring[(at + 1) % ring.len()] == dst)
        };
        for fault in &self.faults {
            let acts = fault.acts(meeting.latest_ns);
            match fault.kind {
                FaultKind::SlowNic { factor } if acts && has(fault.rank) => ns *= factor,
                FaultKind::SlowLink { peer, factor } if acts && linked(fault.rank, peer) => ns *= factor,
                _ => {}
            }
        }
        let end = meeting.latest_ns + ns as u64;
        let lost = self.faults.iter().any(|fault| match fault.kind {
            FaultKind::Death | FaultKind::Stop => fault.catches(end) && has(fault.rank),
            // What was launched before the fault is still alike on all ranks.
            FaultKind::Desync => meeting.members.iter().any(|&(rank, _, index)| {
                rank == fault.rank && fault.catches(self.ranks[rank as usize].launched_ns(index))
            }),
            FaultKind::LinkBlocked { peer } => fault.catches(end) && linked(fault.rank, peer),
            _ => false,
        });
        (!lost).then_some(end)
    }

    fn record(&self) -> IterationRecord {
        let mut record = IterationRecord::default();
        for rank in 0..self.layout.ranks() {
            let plan = self.plan(rank);
            let state = &self.ranks[rank as usize];
            for (stream, ops) in plan.streams.iter().enumerate() {
                record.stuck |= state.position[stream] < ops.len();
            }
            for (index, (_, op)) in plan.program.ops.iter().enumerate() {
                let enqueued_ns = state.launched_ns(index);
                if !self.launches(rank, enqueued_ns) {
                    break;
                }
                let (start_ns, end_ns) = state.times[index];
                if let Op::Send { next, .. } | Op::Recv { next, .. } = *op
                    && let Some(peer) = self.layout.stage_neighbour(rank, next)
                {
                    let is_send = matches!(op, Op::Send { .. });
                    record.transfers.push(TransferRecord {
                        rank,
                        peer,
                        is_send,
                        enqueued_ns,
                        start_ns,
                        end_ns,
                    });
                }
                let Op::Collective { group, function, bytes } = *op else { continue };
                let bytes = if self.desynced(rank, enqueued_ns) { bytes / 2 } else { bytes };
                record.collectives.push(CollectiveRecord {
                    rank,
                    group,
                    function,
                    bytes,
                    enqueued_ns,
                    start_ns,
                    end_ns,
                });
                record.end_ns = record.end_ns.max(end_ns.unwrap_or(0));
            }
        }
        record
    }

    fn desynced(&self, rank: u32, at_ns: u64) -> bool {
        self.faults.iter().any(|f| f.rank == rank && f.kind == FaultKind::Desync && f.catches(at_ns))
    }
}

impl StagePlan {
    fn new(program: Program) -> Self {
        let mut streams: [Vec<u32>; Stream::COUNT] = Default::default();
        for (index, (stream, _)) in program.ops.iter().enumerate() {
            streams[*stream as usize].push(index as u32);
        }
        Self { program, streams }
    }
}

impl RankState {
    fn new(noise: RankNoise) -> Self {
        Self {
            noise,
            begin_ns: 0,
            free_ns: [0; Stream::COUNT],
            position: [0; Stream::COUNT],
            events: Vec::new(),
            times: Vec::new(),
        }
    }

    /// When the host launches an operation of its program in this iteration.
    fn launched_ns(&self, index: usize) -> u64 {
        self.begin_ns + LAUNCH_NS * index as u64
    }
}
