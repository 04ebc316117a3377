//! Executes the programs of all ranks, an iteration at a time.
//!
//! Times obey four rules and nothing else: a stream runs its operations in order; an operation starts once the host has
//! launched it and its stream has come to it; a collective ends for all its members at once, a transfer time after the
//! last of them came; an event is seen after it was recorded. A rank that is stuck simply never gets on, and with it
//! everybody who waits for it.
//!
//! Months of job time are simulated to count false alarms, so nothing is allocated in an iteration: times, events and
//! meetings are kept and overwritten.

mod meetings;
mod plans;

use super::{
    fault::{Fault, FaultKind, Place},
    layout::{Coordinates, Group, Layout},
    noise::{HostWork, Noise, RankNoise},
    program::{Function, Model, Op, Stream},
    workload::{self, Workload},
};
use meetings::Meetings;
use plans::{Plans, StagePlan};

/// Host time to launch one operation.
const LAUNCH_NS: u64 = 8_000;
/// What has not happened.
const NEVER: u64 = u64::MAX;

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
    /// When all members had come, if data then moved.
    pub moves_ns: Option<u64>,
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
    /// Whether the other one is the next stage.
    pub is_next: bool,
    /// When the host launched it.
    pub enqueued_ns: u64,
    /// When its stream came to it, if it did.
    pub start_ns: Option<u64>,
    /// When it ended, if it did.
    pub end_ns: Option<u64>,
}

/// Something that a rank did in an iteration. Each rank's are told in launch order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record {
    /// A collective.
    Collective(CollectiveRecord),
    /// A send or receive.
    Transfer(TransferRecord),
    /// Its host had other things to do before it began: until when.
    Host {
        /// The rank.
        rank: u32,
        /// What.
        work: HostWork,
        /// Its end.
        until_ns: u64,
    },
}

/// How an iteration went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether some rank did not finish: the job hangs from here on.
    pub is_stuck: bool,
    /// When the first rank began to wait in vain, if one did.
    pub stalled_ns: Option<u64>,
    /// When the last rank that finished did so.
    pub end_ns: u64,
    /// Whether it was an evaluation pass.
    pub is_evaluation: bool,
}

/// The job.
#[derive(Debug)]
pub struct Engine {
    layout: Layout,
    plans: Plans,
    workload: Workload,
    ranks: Vec<RankState>,
    faults: Vec<Fault>,
    meetings: Meetings,
    work: Vec<(u32, usize)>,
    seed: u64,
    /// Steps begun, evaluation passes among them.
    step: u64,
    iteration: u64,
}

#[derive(Debug)]
struct RankState {
    noise: RankNoise,
    at: Coordinates,
    plan: usize,
    is_faulty: bool,
    host: HostWork,
    /// How many times as long as the model says its kernels take in this iteration, and how long its sequences are.
    load: f64,
    length: f64,
    /// When the host begins the iteration.
    begin_ns: u64,
    free_ns: [u64; Stream::COUNT],
    position: [usize; Stream::COUNT],
    events: Vec<u64>,
    /// Start and end of each operation of the program in this iteration.
    times: Vec<(u64, u64)>,
    /// When data began to move in each operation that ranks meet in.
    moves_ns: Vec<u64>,
}

impl Engine {
    /// A job at time zero.
    #[must_use]
    pub fn new(
        layout: Layout,
        model: &Model,
        workload: Workload,
        noise: Noise,
        faults: Vec<Fault>,
        seed: u64,
    ) -> Self {
        let rank = |rank| {
            let is_faulty = faults.iter().any(|fault: &Fault| fault.rank == rank);
            RankState::new(RankNoise::new(noise, seed, rank), layout.coordinates(rank), is_faulty)
        };
        Self {
            plans: Plans::new(&layout, model, &workload),
            meetings: Meetings::new(&layout),
            ranks: (0..layout.ranks()).map(rank).collect(),
            work: Vec::new(),
            layout,
            workload,
            faults,
            seed,
            step: 0,
            iteration: 0,
        }
    }

    /// Number of the training iteration that is next.
    #[must_use]
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Runs one iteration, or one evaluation pass, and tells `sink` what each rank did.
    pub fn step(&mut self, sink: &mut impl FnMut(Record)) -> Progress {
        let is_evaluation = self.workload.evaluates(self.step);
        self.meetings.clear();
        for rank in 0..self.layout.ranks() {
            self.begin(rank, is_evaluation);
            self.work.extend((0..Stream::COUNT).map(|stream| (rank, stream)));
        }
        while let Some((rank, stream)) = self.work.pop() {
            self.advance(rank, stream);
        }
        let progress = self.tell(is_evaluation, sink);
        self.step += 1;
        self.iteration += u64::from(!is_evaluation);
        progress
    }

    fn begin(&mut self, rank: u32, is_evaluation: bool) {
        let (iteration, seed) = (self.iteration, self.seed);
        let state = &mut self.ranks[rank as usize];
        let free_ns = state.free_ns.into_iter().max().unwrap_or(0);
        state.host = if is_evaluation { HostWork::default() } else { state.noise.host(rank, iteration) };
        state.begin_ns = free_ns + state.host.ns;
        let of_rank = |fault: &&Fault| state.is_faulty && fault.rank == rank;
        let mut is_disordered = false;
        for fault in self.faults.iter().filter(of_rank) {
            match fault.kind {
                FaultKind::LateHost { ns } if fault.acts(free_ns) => state.begin_ns += ns,
                FaultKind::Deadlock => is_disordered |= fault.catches(free_ns),
                _ => {}
            }
        }
        let phase = self.workload.phase(iteration);
        state.plan = self.plans.find(phase, state.at.pp, is_evaluation, is_disordered);
        state.length = self.workload.length(state.at, iteration, seed);
        state.load = self.workload.load(&self.layout, state.at, iteration, seed)
            * state.noise.pace(state.begin_ns, iteration);
        let program = &self.plans[state.plan].program;
        state.free_ns = [state.begin_ns; Stream::COUNT];
        state.position = [0; Stream::COUNT];
        state.events.clear();
        state.events.resize(program.events as usize, NEVER);
        state.times.clear();
        state.times.resize(program.ops.len(), (NEVER, NEVER));
        state.moves_ns.clear();
        state.moves_ns.resize(program.ops.len(), NEVER);
    }

    fn plan(&self, rank: u32) -> &StagePlan {
        &self.plans[self.ranks[rank as usize].plan]
    }

    /// Takes a stream of a rank as far as it goes.
    fn advance(&mut self, rank: u32, stream: usize) {
        loop {
            let state = &self.ranks[rank as usize];
            let plan = &self.plans[state.plan];
            let Some(&index) = plan.streams[stream].get(state.position[stream]) else { return };
            let index = index as usize;
            let op = plan.program.ops[index].1;
            if state.times[index].0 != NEVER {
                return; // It has come and waits for the others.
            }
            let launched = state.launched_ns(index);
            if state.is_faulty && !self.launches(rank, launched) {
                return;
            }
            let start = state.free_ns[stream].max(launched);
            match op {
                Op::Compute { ns } => {
                    let end = self.compute(rank, ns, start);
                    self.ranks[rank as usize].times[index].0 = start;
                    if end == NEVER {
                        return;
                    }
                    self.finish(rank, stream, index, start, end);
                }
                Op::Record { event } => {
                    let waiter = plan.waiters[event as usize];
                    self.ranks[rank as usize].events[event as usize] = start;
                    self.finish(rank, stream, index, start, start);
                    self.work.extend(waiter.map(|waiter| (rank, waiter)));
                }
                Op::Wait { event } => match state.events[event as usize] {
                    NEVER => return,
                    at => self.finish(rank, stream, index, start, start.max(at)),
                },
                Op::Collective { .. } | Op::Send { .. } | Op::Recv { .. } => {
                    self.ranks[rank as usize].times[index].0 = start;
                    self.meet(rank, stream, index, op, start);
                    return;
                }
            }
        }
    }

    fn finish(&mut self, rank: u32, stream: usize, index: usize, start: u64, end: u64) {
        let state = &mut self.ranks[rank as usize];
        state.times[index] = (start, end);
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

    /// When a kernel ends, `NEVER` if it does not.
    fn compute(&mut self, rank: u32, ns: u64, start: u64) -> u64 {
        let state = &mut self.ranks[rank as usize];
        let ns = state.noise.kernel(ns as f64 * state.load);
        if !state.is_faulty {
            return start + ns as u64;
        }
        let (seed, iteration) = (self.seed, self.iteration);
        let happens = |every| workload::happens(seed, iteration, every);
        let own = || self.faults.iter().filter(|fault| fault.rank == rank);
        let factor: f64 = own().map(|fault| fault.slows(start, happens)).product();
        let end = start + (ns * factor) as u64;
        let is_lost = own()
            .any(|fault| fault.catches(end) && matches!(fault.kind, FaultKind::Death | FaultKind::GpuHang));
        if is_lost { NEVER } else { end }
    }

    fn meet(&mut self, rank: u32, stream: usize, index: usize, op: Op, start: u64) {
        let (place, bytes) = match op {
            Op::Collective { group, bytes, .. } => {
                (Place::Group(group, self.layout.membership(rank, group).0), bytes)
            }
            Op::Send { next, bytes } => (Place::Pair(rank, self.layout.stage_neighbour(rank, next)), bytes),
            Op::Recv { next, bytes } => (Place::Pair(self.layout.stage_neighbour(rank, next), rank), bytes),
            Op::Compute { .. } | Op::Record { .. } | Op::Wait { .. } => return,
        };
        // What goes to the next stage and what comes back are two queues, even between the same two ranks.
        let is_forward = matches!(op, Op::Send { next: true, .. } | Op::Recv { next: false, .. });
        let slot = self.meetings.slot(place, is_forward);
        if !self.meetings.join(slot, (rank, stream, index), start) {
            return;
        }
        let (members, latest_ns) = self.meetings.take(slot);
        let end = self.transfer(place, &members, latest_ns, bytes);
        if end != NEVER {
            for &(rank, stream, index) in &members {
                let start = self.ranks[rank as usize].times[index].0;
                self.finish(rank, stream, index, start, end);
                self.ranks[rank as usize].moves_ns[index] = latest_ns;
                self.work.push((rank, stream));
            }
        }
        self.meetings.give_back(slot, members);
    }

    /// When a transfer among the members ends, `NEVER` if it does not.
    fn transfer(&mut self, place: Place, members: &[(u32, usize, usize)], latest_ns: u64, bytes: u64) -> u64 {
        let first = &mut self.ranks[members[0].0 as usize];
        let mut ns = self.meetings.usual_ns(place, bytes as f64 * first.length) * first.noise.transfer();
        for fault in &self.faults {
            ns *= fault.delays(&self.layout, place, latest_ns);
        }
        let end = latest_ns + ns as u64;
        let is_lost = self.faults.iter().any(|fault| match fault.kind {
            FaultKind::Death | FaultKind::Stop => fault.catches(end) && place.has(&self.layout, fault.rank),
            // What was launched before the fault is still alike on all ranks.
            FaultKind::Desync => members.iter().any(|&(rank, _, index)| {
                rank == fault.rank && fault.catches(self.ranks[rank as usize].launched_ns(index))
            }),
            FaultKind::LinkBlocked { peer } => {
                fault.catches(end) && place.links(&self.layout, fault.rank, peer)
            }
            _ => false,
        });
        if is_lost { NEVER } else { end }
    }

    fn tell(&self, is_evaluation: bool, sink: &mut impl FnMut(Record)) -> Progress {
        let mut progress = Progress { is_evaluation, ..Progress::default() };
        for (rank, state) in (0u32..).zip(&self.ranks) {
            let plan = self.plan(rank);
            for (stream, ops) in plan.streams.iter().enumerate() {
                progress.is_stuck |= state.position[stream] < ops.len();
            }
            if state.host.ns > 0 {
                sink(Record::Host { rank, work: state.host, until_ns: state.begin_ns });
            }
            for &index in &plan.told {
                let enqueued_ns = state.launched_ns(index as usize);
                if state.is_faulty && !self.launches(rank, enqueued_ns) {
                    break;
                }
                let (start, end) = state.times[index as usize];
                if end != NEVER {
                    progress.end_ns = progress.end_ns.max(end);
                } else if start != NEVER {
                    progress.stalled_ns = Some(progress.stalled_ns.unwrap_or(NEVER).min(start));
                }
                let times = (start, state.moves_ns[index as usize], end);
                sink(self.record(rank, plan.program.ops[index as usize].1, enqueued_ns, times));
            }
        }
        progress
    }

    fn record(&self, rank: u32, op: Op, enqueued_ns: u64, (start, moves, end): (u64, u64, u64)) -> Record {
        let happened = |at: u64| (at != NEVER).then_some(at);
        let (start_ns, end_ns) = (happened(start), happened(end));
        match op {
            Op::Collective { group, function, bytes } => {
                let state = &self.ranks[rank as usize];
                // Experts take tokens up to a fixed capacity.
                let scaled = matches!(group, Group::Tensor | Group::Context);
                let bytes = if scaled { (bytes as f64 * state.length) as u64 } else { bytes };
                let is_desynced = state.is_faulty && self.desynced(rank, enqueued_ns);
                let bytes = if is_desynced { bytes / 2 } else { bytes };
                Record::Collective(CollectiveRecord {
                    rank,
                    group,
                    function,
                    bytes,
                    enqueued_ns,
                    start_ns,
                    moves_ns: happened(moves),
                    end_ns,
                })
            }
            op => {
                let is_send = matches!(op, Op::Send { .. });
                let is_next = matches!(op, Op::Send { next: true, .. } | Op::Recv { next: true, .. });
                let peer = self.layout.stage_neighbour(rank, is_next);
                Record::Transfer(TransferRecord {
                    rank,
                    peer,
                    is_send,
                    is_next,
                    enqueued_ns,
                    start_ns,
                    end_ns,
                })
            }
        }
    }

    fn desynced(&self, rank: u32, at_ns: u64) -> bool {
        self.faults.iter().any(|f| f.rank == rank && f.kind == FaultKind::Desync && f.catches(at_ns))
    }
}

impl RankState {
    fn new(noise: RankNoise, at: Coordinates, is_faulty: bool) -> Self {
        Self {
            noise,
            at,
            plan: 0,
            is_faulty,
            host: HostWork::default(),
            load: 1.0,
            length: 1.0,
            begin_ns: 0,
            free_ns: [0; Stream::COUNT],
            position: [0; Stream::COUNT],
            events: Vec::new(),
            times: Vec::new(),
            moves_ns: Vec::new(),
        }
    }

    /// When the host launches an operation of its program in this iteration.
    fn launched_ns(&self, index: usize) -> u64 {
        self.begin_ns + LAUNCH_NS * index as u64
    }
}
