//! A lockstep job, simulated: ranks compute, meet in collectives and wait for the last. What its agents would see is
//! turned into observations through the real `Aggregator` and fed to the real `Detector`, in simulated time.
//!
//! Noise is drawn from a seeded generator and has heavy tails (one operation in a few hundred is late by up to three
//! times its compute time), because healthy clusters are like that. **All seeds below 1000000 were looked at while
//! thresholds were chosen**, those of the tests here among them: they show that nothing broke, not how good the detector is.
//! `sweep` counts on seeds that were not looked at.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of this"
)]

mod outcome;
mod recording;
mod shape;

use std::collections::{BTreeMap, VecDeque};

use c4_detect::{
    aggregate::{Aggregator, CompletedOperation, Coverage},
    observation::{
        CommId, CommWindow, Edge, InFlight, JobId, Membership, NicClass, NodeName, Observation,
        OperationSignature, OwnTime, ProcessEnd, ProcessId, ProcessInfo, ProcessState, StepState, Timestamp,
        Window,
    },
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use outcome::{Outcome, assert_sound, feed, run};
pub use recording::{Line, cases, read_input, recordings};
pub use shape::{Fault, Shape};

/// 2023-11-14 22:13:20 UTC.
pub const EPOCH_US: u64 = 1_700_000_000_000_000;
const NEVER: u64 = u64::MAX;

/// How many seeds are tried: so many, or what C4_SEEDS says.
pub fn seeds(usually: u64) -> u64 {
    std::env::var("C4_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usually)
}

/// Elements of the operation that belongs to an optimizer step.
const OPTIMIZER: u64 = 3_333;

struct Operation {
    sequence: u64,
    signature: OperationSignature,
    start: u64,
    end: u64,
}

struct Rank {
    operations: VecDeque<Operation>,
    enqueued: VecDeque<u64>,
    completed: u64,
    aggregator: Aggregator,
    coverage: Coverage,
    last_end: u64,
    ended: bool,
    ends_at: Option<u64>,
}

/// The simulation.
pub struct Sim {
    pub shape: Shape,
    pub faults: Vec<Fault>,
    pub job: JobId,
    pub incarnation: u32,
    pub comm: CommId,
    rng: ChaCha8Rng,
    ranks: Vec<Rank>,
    iteration: u64,
    op: usize,
    sequence: u64,
    /// When everybody left the last operation.
    free_at: u64,
    stalled: bool,
    start: u64,
    /// A link that blocks the last operation.
    blocked: Option<usize>,
    slept: BTreeMap<usize, u64>,
}

impl Sim {
    pub fn new(seed: u64, shape: Shape, faults: Vec<Fault>) -> Self {
        Self::of_job(seed, shape, faults, "llm", 0, 0)
    }

    pub fn of_job(
        seed: u64,
        shape: Shape,
        faults: Vec<Fault>,
        job: &str,
        incarnation: u32,
        start: u64,
    ) -> Self {
        let ranks = (0..shape.ranks)
            .map(|_| Rank {
                operations: VecDeque::new(),
                enqueued: VecDeque::new(),
                completed: 0,
                aggregator: Aggregator::default(),
                coverage: Coverage::default(),
                last_end: start,
                ended: false,
                ends_at: None,
            })
            .collect();
        Self {
            shape,
            faults,
            job: JobId(job.into()),
            incarnation,
            comm: CommId(0xc0 + u64::from(incarnation)),
            rng: ChaCha8Rng::seed_from_u64(seed),
            ranks,
            iteration: 0,
            op: 0,
            sequence: 0,
            free_at: start,
            stalled: false,
            start,
            blocked: None,
            slept: BTreeMap::new(),
        }
    }

    pub fn process(&self, rank: usize) -> ProcessId {
        ProcessId(u64::from(self.incarnation) * 1_000_000 + rank as u64 + 1)
    }

    pub fn node_name(&self, node: usize) -> NodeName {
        NodeName(format!("node-{node}"))
    }

    fn noise(&mut self, base: u64) -> u64 {
        let (a, b): (f64, f64) = (self.rng.random(), self.rng.random());
        let normal = (-2.0 * a.max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let mut factor = (1.0 + self.shape.noise * normal).max(0.2);
        if self.rng.random::<f64>() < 0.003 {
            // Pareto with shape 1.5: pauses of ten to three hundred per cent.
            factor += (0.1 / (1.0 - self.rng.random::<f64>()).powf(1.0 / 1.5)).min(3.0);
        }
        (base as f64 * factor) as u64
    }

    /// Produces the next collective. Times are absolute.
    fn step(&mut self) {
        let optimizes = self.shape.accumulate.is_some_and(|every| (self.iteration + 1).is_multiple_of(every));
        let n = (self.shape.operations.len() + usize::from(optimizes)) as u64;
        let over = |f: &Fault| matches!(*f, Fault::End { at, .. } if self.start + at <= self.free_at);
        if self.op == 0 && self.faults.iter().any(over) {
            // The last iteration is over; what is left is tearing down.
            self.stalled = true;
            return;
        }
        let evaluates = self.op == 0
            && self.iteration > 0
            && self.shape.evaluation.is_some_and(|every| self.iteration.is_multiple_of(every));
        let mut count = self.shape.operations.get(self.op).copied().unwrap_or(OPTIMIZER);
        if evaluates {
            count = 7;
        }
        let growth = 1.0 + self.shape.growth * self.iteration as f64 / 1_000.0;
        let from = |slower: Option<(u64, f64)>| {
            slower.filter(|(at, _)| self.free_at >= self.start + at).map_or(1.0, |(_, factor)| factor)
        };
        let factor = growth * from(self.shape.slower);
        let transfer_us = (self.shape.transfer_us as f64 * from(self.shape.slower_transfers)) as u64;
        let compute = (self.shape.compute_us as f64 * factor) as u64 / self.shape.operations.len() as u64;
        let turn = self.rng.random_range(0..self.shape.ranks);
        let mut arrivals = Vec::new();
        for rank in 0..self.shape.ranks {
            let mut at = self.free_at + self.noise(compute);
            if self.iteration == 0 && self.op == 0 {
                at += self.rng.random_range(0..=self.shape.warm_up_us);
            }
            if let Some((iteration, us)) = self.shape.recompile
                && (self.iteration, self.op) == (iteration, 0)
            {
                at += self.rng.random_range(0..=us);
            }
            if let Some((node, us)) = self.shape.slow_class
                && self.op == 0
                && rank / self.shape.ranks_per_node >= node
            {
                at += us;
            }
            if self.op == 0 && self.iteration > 0 {
                if let Some((every, us)) = self.shape.checkpoint
                    && rank == 0
                    && self.iteration.is_multiple_of(every)
                {
                    at += us;
                }
                if let Some((every, us)) = self.shape.all_pause
                    && self.iteration.is_multiple_of(every)
                {
                    at += us;
                }
            }
            arrivals.push(self.delayed(rank, at, turn));
        }
        let (last, counts) = self.disturb(count, transfer_us, &arrivals);
        for (rank, arrival) in arrivals.iter().enumerate() {
            if *arrival == NEVER {
                continue;
            }
            let sequence = self.sequence;
            let start = if self.busy(rank, *arrival) { NEVER } else { *arrival };
            self.ranks[rank].operations.push_back(Operation {
                sequence,
                signature: signature(counts[rank]),
                start,
                end: last,
            });
            self.ranks[rank].enqueued.push_back(*arrival);
        }
        if last == NEVER {
            self.stalled = true;
            return;
        }
        self.free_at = last;
        self.sequence += 1;
        self.op += 1;
        if evaluates {
            self.op = 0;
            self.shape.evaluation = self.shape.evaluation.map(|every| every + self.iteration);
        }
        if self.op == n as usize {
            self.op = 0;
            self.iteration += 1;
        }
    }

    fn delayed(&self, rank: usize, mut at: u64, turn: usize) -> u64 {
        for fault in &self.faults {
            match *fault {
                Fault::Kill { rank: r, at: t, .. } | Fault::Spins { rank: r, at: t }
                    if r == rank && self.start + t < at =>
                {
                    return NEVER;
                }
                Fault::Stuck { rank: r, at: t, until, .. } | Fault::Stop { rank: r, at: t, until }
                    if r == rank && self.start + t < at =>
                {
                    match until {
                        None => return NEVER,
                        Some(until) => at = at.max(self.start + until),
                    }
                }
                Fault::Slow { rank: r, at: t, until, us }
                    if r == rank
                        && self.op == 0
                        && self.start + t <= self.free_at
                        && self.free_at < self.start + until =>
                {
                    at += us;
                }
                Fault::Turns { us } if self.op == 0 && turn == rank => at += us,
                _ => {}
            }
        }
        at
    }

    fn busy(&self, rank: usize, arrival: u64) -> bool {
        self.faults.iter().any(
            |fault| matches!(*fault, Fault::Busy { rank: r, at } if r == rank && self.start + at < arrival),
        )
    }

    /// When the operation ends, and what each rank calls it with.
    fn disturb(&mut self, count: u64, transfer_us: u64, arrivals: &[u64]) -> (u64, Vec<u64>) {
        let mut counts = vec![count; arrivals.len()];
        let last = arrivals.iter().copied().max().unwrap_or(0);
        if last == NEVER {
            return (NEVER, counts);
        }
        let mut end = last + self.noise(transfer_us).max(1);
        let next = self.shape.operations[(self.op + 1) % self.shape.operations.len()];
        for (i, fault) in self.faults.iter().enumerate() {
            match *fault {
                Fault::Kill { at, .. } if self.start + at < end => end = NEVER,
                Fault::Stop { at, until, .. } if self.start + at < end => {
                    end = until.map_or(NEVER, |until| end.max(self.start + until));
                }
                Fault::Link { src, at } if self.start + at < end => {
                    self.blocked = Some(src);
                    end = NEVER;
                }
                Fault::Busy { rank, .. } if self.busy(rank, arrivals[rank]) => end = NEVER,
                Fault::Resize { rank, at, hangs }
                    if self.start + at < last && !self.slept.contains_key(&i) =>
                {
                    counts[rank] = count * 2 + 1;
                    self.slept.insert(i, self.sequence);
                    if hangs {
                        end = NEVER;
                    }
                }
                // It comes to the next operation where the others are in this one. Sizes differ: nobody leaves.
                Fault::Skip { rank, at } if self.start + at < last && next != count => {
                    counts[rank] = next;
                    end = NEVER;
                }
                _ => {}
            }
        }
        (end, counts)
    }

    fn advance(&mut self, to: u64) {
        while !self.stalled && self.free_at <= to {
            self.step();
        }
    }

    fn state(&self, rank: usize, now: u64) -> ProcessState {
        for fault in &self.faults {
            match *fault {
                Fault::Stop { rank: r, at, until }
                    if r == rank && self.start + at <= now && until.is_none_or(|u| now < self.start + u) =>
                {
                    return ProcessState::Stopped;
                }
                Fault::Stuck { rank: r, at, until, state }
                    if r == rank && self.start + at <= now && until.is_none_or(|u| now < self.start + u) =>
                {
                    return state;
                }
                Fault::Spins { rank: r, at } if r == rank && self.start + at <= now => {
                    return ProcessState::Running;
                }
                _ => {}
            }
        }
        // A rank that writes a checkpoint is on a CPU or in disk wait; the others spin in the synchronisation.
        if now.is_multiple_of(3) { ProcessState::DiskWait } else { ProcessState::Running }
    }

    fn window(&mut self, rank: usize, now: u64) -> Window {
        let has = |f: &dyn Fn(&Fault) -> bool| self.faults.iter().any(f);
        let start = self.start;
        let dropped = has(&|f| matches!(*f, Fault::Drops { rank: r, at } if r == rank && start + at <= now));
        let unprofiled =
            has(&|f| matches!(*f, Fault::Unprofiled { rank: r, at } if r == rank && start + at <= now));
        let (state, edges) = (self.state(rank, now), self.edges(rank, now));
        let (kernel_events, duration_us) = (self.shape.kernel_events, self.shape.window_us);
        // Where the host stands still, or the program is over, nothing is enqueued ahead.
        let held = has(&|f| match *f {
            Fault::Stuck { rank: r, at, .. }
            | Fault::Stop { rank: r, at, .. }
            | Fault::Spins { rank: r, at } => r == rank && start + at <= now,
            Fault::End { at, .. } => start + at <= now,
            _ => false,
        }) || (rank == 0 && self.shape.checkpoint.is_some());
        // Its sensor looks once a second.
        let spins_us = |fault: &Fault| match *fault {
            Fault::Spins { rank: r, at } if r == rank => now.saturating_sub(start + at + 2_000_000),
            _ => 0,
        };
        let gpu_spins_us = self.faults.iter().map(spins_us).max().unwrap_or(0);
        let me = &mut self.ranks[rank];
        while let Some(op) = me.operations.front()
            && op.end <= now
        {
            me.coverage.add(op.start * 1_000, op.end * 1_000, false);
            me.aggregator.push(&CompletedOperation {
                sequence: op.sequence,
                signature: op.signature.clone(),
                start_ns: op.start * 1_000,
                end_ns: op.end * 1_000,
                bytes: op.signature.count * 4,
            });
            me.completed = op.sequence + 1;
            me.last_end = op.end;
            me.operations.pop_front();
            me.enqueued.pop_front();
        }
        if let Some(op) = me.operations.front().filter(|op| op.start <= now) {
            me.coverage.add(op.start * 1_000, now * 1_000, false);
        }
        let own = me.coverage.own(now.saturating_sub(duration_us) * 1_000, now * 1_000);
        let own = own.map(|own| OwnTime { gpu_spins_us, ..own });
        let in_flight = me.operations.front().zip(me.enqueued.front()).and_then(|(op, enqueued)| {
            (*enqueued <= now).then(|| InFlight {
                sequence: op.sequence,
                signature: op.signature.clone(),
                started: op.start <= now,
                age_us: now - *enqueued,
                started_age_us: now.saturating_sub(op.start),
                before: me.aggregator.before(op.sequence).map(Box::new),
            })
        });
        let (blocks, iterations) = me.aggregator.take();
        let mut enqueued = me.completed + u64::from(in_flight.is_some());
        let in_flight = match in_flight {
            // An evaluation shifts the pattern, and then what comes next is not known here.
            None if self.shape.run_ahead && self.shape.is_even() && !held => {
                let n = self.shape.operations.len() as u64;
                enqueued = (me.completed / n + 1) * n;
                Some(InFlight {
                    sequence: me.completed,
                    signature: signature(self.shape.operations[(me.completed % n) as usize]),
                    started: false,
                    age_us: now - me.last_end,
                    started_age_us: 0,
                    before: me.aggregator.before(me.completed).map(Box::new),
                })
            }
            other => other,
        };
        let started = me.completed + u64::from(in_flight.as_ref().is_some_and(|op| op.started));
        let idle_us = if in_flight.is_some() { 0 } else { now - me.last_end };
        Window {
            process: self.process(rank),
            duration_us,
            state,
            kernel_events,
            profiling: !unprofiled,
            dropped: u64::from(dropped) * (1 + now / 1_000_000),
            unread: 0,
            own,
            comms: vec![CommWindow {
                pending_peers: Vec::new(),
                links: Vec::new(),
                comm: self.comm,
                enqueued,
                started,
                completed: self.ranks[rank].completed,
                in_flight,
                idle_us,
                unseen_us: 0,
                blocks,
                edges,
                iterations,
            }],
        }
    }

    /// The open steps of a ring: what is behind the blocked link waits for its GPU, what is before it for credits.
    fn edges(&self, rank: usize, now: u64) -> Vec<Edge> {
        let (Some(src), Some(op)) = (self.blocked, self.ranks[rank].operations.front()) else {
            return Vec::new();
        };
        if op.start > now || now - op.start < 1_000_000 {
            return Vec::new();
        }
        let n = self.shape.ranks;
        let edge = |peer: usize, is_send: bool, state: StepState, steps_done: u64| Edge {
            peer: peer as u32,
            channel: 0,
            is_send,
            state,
            state_age_us: 900_000,
            steps_done,
            bytes: steps_done << 17,
        };
        let (next, before) = ((rank + 1) % n, (rank + n - 1) % n);
        let send = match rank {
            r if r == src => edge(next, true, StepState::SendWait, 108),
            r if (r + 1) % n == src => edge(next, true, StepState::SendWait, 104),
            _ => edge(next, true, StepState::SendGpuWait, 100),
        };
        let receive = match before {
            b if b == src => edge(before, false, StepState::RecvWait, 100),
            b if (b + 1) % n == src => edge(before, false, StepState::RecvGpuWait, 96),
            _ => edge(before, false, StepState::RecvWait, 100),
        };
        vec![send, receive]
    }

    /// Runs for `duration_us` and returns everything that was observed.
    pub fn observations(&mut self, duration_us: u64) -> Vec<(Timestamp, Observation)> {
        let (n, start) = (self.shape.ranks, self.start);
        let nodes = n.div_ceil(self.shape.ranks_per_node);
        let mut out: Vec<(u64, Observation)> = Vec::new();
        for rank in 0..n {
            let node = self.node_name(rank / self.shape.ranks_per_node);
            if rank % self.shape.ranks_per_node == 0 {
                let nic_class = self.shape.slow_class.map(|(first, _)| {
                    let slow = rank / self.shape.ranks_per_node >= first;
                    NicClass(if slow { "eth-25" } else { "ib-400" }.into())
                });
                out.push((start, Observation::NodeSeen { node: node.clone(), nic_class }));
            }
            out.push((
                start,
                Observation::ProcessStarted(ProcessInfo {
                    process: self.process(rank),
                    job: self.job.clone(),
                    incarnation: self.incarnation,
                    rank: Some(rank as u32),
                    world_size: Some(n as u32),
                    node,
                    gpu: Some((rank % self.shape.ranks_per_node) as u32),
                    pid: 4_000 + rank as u32,
                    blind_spots: Vec::new(),
                }),
            ));
            out.push((
                start,
                Observation::CommunicatorJoined(Membership {
                    process: self.process(rank),
                    comm: self.comm,
                    name: "dp".into(),
                    size: n as u32,
                    comm_rank: rank as u32,
                }),
            ));
        }
        self.plan_ends();
        let offsets: Vec<u64> = (0..nodes).map(|_| self.rng.random_range(0..self.shape.window_us)).collect();
        let mut at = start;
        while at < start + duration_us {
            at += 50_000;
            self.advance(at);
            for rank in 0..n {
                self.end_rank(rank, at, &mut out);
            }
            for (node, offset) in offsets.iter().enumerate() {
                let due = (at - start + self.shape.window_us - offset) / 50_000 * 50_000;
                if !due.is_multiple_of(self.shape.window_us) || self.silent(node, at) {
                    continue;
                }
                let first = node * self.shape.ranks_per_node;
                for rank in first..(first + self.shape.ranks_per_node).min(n) {
                    if !self.ranks[rank].ended {
                        let window = self.window(rank, at);
                        out.push((at, Observation::Window(window)));
                    }
                }
            }
            if at.is_multiple_of(200_000) {
                out.push((at, Observation::Tick));
            }
        }
        out.into_iter().map(|(at, observation)| (Timestamp(EPOCH_US + at), observation)).collect()
    }

    fn silent(&self, node: usize, now: u64) -> bool {
        self.faults.iter().any(|fault| match *fault {
            Fault::AgentLost { node: n, at } | Fault::AgentFrozen { node: n, at } => {
                n == node && self.start + at <= now
            }
            _ => false,
        })
    }

    fn plan_ends(&mut self) {
        for fault in self.faults.clone() {
            match fault {
                Fault::Kill { rank, at, .. } => self.ranks[rank].ends_at = Some(self.start + at),
                Fault::End { at, spread, .. } => {
                    for rank in 0..self.shape.ranks {
                        let later = 2 * self.shape.iteration_us() + self.rng.random_range(0..=spread);
                        self.ranks[rank].ends_at.get_or_insert(self.start + at + later);
                    }
                }
                _ => {}
            }
        }
    }

    /// What the agent tells when it finds a process ended, some tens of milliseconds later.
    fn end_rank(&mut self, rank: usize, now: u64, out: &mut Vec<(u64, Observation)>) {
        for fault in self.faults.clone() {
            match fault {
                Fault::AgentLost { node, at }
                    if self.start + at <= now && self.start + at + 50_000 > now && rank == 0 =>
                {
                    out.push((now, Observation::NodeLost { node: self.node_name(node) }));
                }
                Fault::Stopping { at }
                    if self.start + at <= now && self.start + at + 50_000 > now && rank == 0 =>
                {
                    let (job, incarnation) = (self.job.clone(), self.incarnation);
                    out.push((now, Observation::JobStopping { job, incarnation }));
                }
                _ => {}
            }
        }
        let Some(ends_at) = self.ranks[rank].ends_at else { return };
        if self.ranks[rank].ended || now < ends_at + 50_000 {
            return;
        }
        self.ranks[rank].ended = true;
        let (mut finalized, mut exit_code, mut signal) = (false, None, None);
        for fault in &self.faults {
            match *fault {
                Fault::Kill { rank: r, supervised: true, .. } if r == rank => signal = Some(9),
                Fault::End { finalized: f, exit_code: e, signal: s, .. } => {
                    (finalized, exit_code, signal) = (f, e, s);
                }
                _ => {}
            }
        }
        if self.silent(rank / self.shape.ranks_per_node, now) {
            return;
        }
        if self.shape.final_window {
            let mut window = self.window(rank, ends_at);
            if finalized {
                window.comms.clear();
            }
            out.push((now, Observation::Window(window)));
        }
        out.push((
            now,
            Observation::ProcessEnded(ProcessEnd {
                found: false,
                process: self.process(rank),
                ago_us: now - ends_at,
                finalized,
                exit_code,
                signal,
            }),
        ));
    }
}

pub fn signature(count: u64) -> OperationSignature {
    OperationSignature { function: "AllReduce".into(), count, datatype: "ncclFloat32".into(), root: 0 }
}
