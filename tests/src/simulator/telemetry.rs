//! Turns what the simulated ranks did into what their agents would tell: a window a second from every rank, each node
//! at its own phase of the second, aggregated by the very code that the agent uses.
//!
//! Between windows an agent speaks up when a process ends or is stopped, and the controller's clock ticks. Windows come as
//! late as their way to the controller takes, and times in them are of the node's own clock.

mod edges;
mod life;
pub mod links;
mod rank;

use std::{cell::RefCell, rc::Rc};

use c4_detect::{
    aggregate::CompletedOperation,
    detector::Wish,
    observation::{NodeName, Observation, ProcessId, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{
    engine::{Engine, Progress, Record},
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::{self, Clock, Noise},
    program::Model,
    workload::Workload,
};
pub use life::Happening;
use rank::RankTelemetry;

const SECOND_NS: u64 = 1_000_000_000;
/// How old the oldest operation is when an agent begins to report connections.
const OLD_NS: u64 = SECOND_NS;
/// How often the controller looks at its clock.
const TICK_NS: u64 = 100_000_000;
/// Where simulated time begins on the controller's clock, in microseconds since the epoch.
pub const EPOCH_US: u64 = 1_700_000_000_000_000;

/// A job to simulate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Parallel layout.
    pub layout: Layout,
    /// Model.
    pub model: Model,
    /// How work is spread over ranks and time.
    #[serde(default)]
    pub workload: Workload,
    /// Whether communicators have names: Megatron and DeepSpeed give them some, PyTorch gives none.
    #[serde(default)]
    pub names: bool,
    /// Noise.
    pub noise: Noise,
    /// Faults.
    pub faults: Vec<Fault>,
    /// What else happens to the job and its agents.
    #[serde(default)]
    pub happenings: Vec<Happening>,
    /// Seed.
    pub seed: u64,
}

/// What is known of the job itself, to judge by what is said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When each training iteration ended.
    pub iteration_ends_ns: Vec<u64>,
    /// When the first rank began to wait in vain, if one did.
    pub stalled_ns: Option<u64>,
}

/// The job as its agents see it.
#[derive(Debug)]
pub struct Telemetry {
    spec: Spec,
    engine: Engine,
    progress: Progress,
    /// Whether no further iteration follows.
    is_over: bool,
    simulated_ns: u64,
    /// The second that is told next.
    second: u64,
    history: History,
    ranks: Vec<RankTelemetry>,
    nodes: Vec<NodeTelemetry>,
    /// Where in a rank's list its communicator of each kind is.
    comm_of: [Option<usize>; Group::ALL.len()],
    scratch: Scratch,
    wishes: Rc<RefCell<Vec<Wish>>>,
}

#[derive(Clone, Copy, Debug)]
struct NodeTelemetry {
    clock: Clock,
    /// When its last windows were closed.
    closed_ns: u64,
    is_lost: bool,
}

/// What is used again for every window.
#[derive(Debug)]
struct Scratch {
    operation: CompletedOperation,
    /// Function and bytes that the operation is set to.
    set_to: Option<(super::program::Function, u64)>,
}

/// Something that the controller hears of, in a second of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    AgentLost(u32),
    AgentBack(u32),
    Windows(u32),
    /// A process ended: its agent speaks up at once.
    End(u32),
    Stopping,
    Tick,
}

/// The controller's clock at a simulated time.
#[must_use]
pub fn timestamp(ns: u64) -> Timestamp {
    Timestamp(EPOCH_US + ns / 1000)
}

impl Telemetry {
    /// A job at time zero.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        let layout = spec.layout;
        let workload = spec.workload.clone();
        let engine = Engine::new(layout, &spec.model, workload, spec.noise, spec.faults.clone(), spec.seed);
        let groups: Vec<Group> = Group::ALL
            .into_iter()
            .filter(|group| layout.group_size(*group) > 1 || *group == Group::World)
            .collect();
        let comm_of = Group::ALL.map(|group| groups.iter().position(|used| *used == group));
        let node = |node| NodeTelemetry {
            clock: Clock::new(&spec.noise, spec.seed, node),
            closed_ns: 0,
            is_lost: false,
        };
        Self {
            engine,
            progress: Progress::default(),
            is_over: false,
            simulated_ns: 0,
            second: 0,
            history: History::default(),
            ranks: (0..layout.ranks()).map(|rank| RankTelemetry::new(&layout, &groups, rank)).collect(),
            nodes: (0..layout.nodes()).map(node).collect(),
            comm_of,
            scratch: Scratch::new(),
            wishes: Rc::default(),
            spec,
        }
    }

    /// The same as a part of a job of so many ranks, before anything has happened in it.
    #[must_use]
    pub fn in_job_of(mut self, ranks: u32) -> Self {
        self.ranks.iter_mut().for_each(|rank| rank.set_job_ranks(ranks));
        self
    }

    /// Number of the iteration that the fastest ranks are in.
    #[must_use]
    pub fn iteration(&self) -> u64 {
        self.engine.iteration()
    }

    /// Where to put whose network steps are all to be timed, while the job runs: agents heed it with their next windows.
    #[must_use]
    pub fn wishes(&self) -> Rc<RefCell<Vec<Wish>>> {
        Rc::clone(&self.wishes)
    }

    fn heed_wishes(&mut self, now_ns: u64) {
        for wish in self.wishes.take() {
            for id in wish.processes {
                let rank = usize::try_from(id.0 - 1).ok().and_then(|rank| self.ranks.get_mut(rank));
                if let Some(rank) = rank {
                    rank.all_steps_until_ns = now_ns + wish.duration_us * 1_000;
                }
            }
        }
    }

    /// How the job went so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Tells `sink` of everything that it was not told yet until `until_ns`, rounded up to a second, in the order in which
    /// the controller would hear it.
    pub fn run(&mut self, until_ns: u64, mut sink: impl FnMut(Timestamp, Observation)) {
        if self.second == 0 {
            for node in 0..self.spec.layout.nodes() {
                self.announce(node, timestamp(0), &mut sink);
            }
        }
        let mut agenda = Vec::new();
        while self.second * SECOND_NS < until_ns {
            self.simulate((self.second + 1) * SECOND_NS);
            self.plan(self.second, &mut agenda);
            for &(now_ns, event) in &agenda {
                self.happen(now_ns, event, &mut sink);
            }
            self.second += 1;
        }
    }

    /// Runs iterations until everything up to `now_ns` is known.
    fn simulate(&mut self, now_ns: u64) {
        while !self.is_over && self.simulated_ns <= now_ns {
            let (ranks, comm_of) = (&mut self.ranks, &self.comm_of);
            self.progress = self.engine.step(&mut |record| match record {
                Record::Collective(record) => {
                    if let Some(comm) = comm_of[record.group as usize] {
                        ranks[record.rank as usize].comms[comm].push(record);
                    }
                }
                Record::Transfer(record) => ranks[record.rank as usize].push_transfer(record),
                Record::Host { rank, work, until_ns } => ranks[rank as usize].push_host(work, until_ns),
            });
            // Ranks leave an iteration together with the last all-reduce, so all before its end is final.
            self.simulated_ns = self.simulated_ns.max(self.progress.end_ns);
            if self.progress.is_stuck {
                self.history.stalled_ns = self.progress.stalled_ns;
                self.is_over = true;
            } else if !self.progress.is_evaluation {
                self.history.iteration_ends_ns.push(self.progress.end_ns);
            }
            self.end_if_due();
        }
    }

    /// Everything that happens in a second, in order.
    fn plan(&self, second: u64, agenda: &mut Vec<(u64, Happens)>) {
        agenda.clear();
        let (from, to) = (second * SECOND_NS, (second + 1) * SECOND_NS);
        agenda.extend((from..to).step_by(TICK_NS as usize).map(|now_ns| (now_ns, Happens::Tick)));
        for node in 0..self.spec.layout.nodes() {
            let late_ns = noise::delivery_ns(&self.spec.noise, self.spec.seed, node, second);
            agenda.push((from + phase_ns(node) + late_ns, Happens::Windows(node)));
        }
        self.plan_lives(from, to, agenda);
        agenda.sort_unstable();
    }

    fn happen(&mut self, now_ns: u64, event: Happens, sink: &mut impl FnMut(Timestamp, Observation)) {
        match event {
            Happens::Tick => sink(timestamp(now_ns), Observation::Tick),
            Happens::Windows(node) => self.report_node(node, now_ns, sink),
            event => self.live(now_ns, event, sink),
        }
    }

    /// The windows of all ranks of a node.
    fn report_node(&mut self, node: u32, now_ns: u64, sink: &mut impl FnMut(Timestamp, Observation)) {
        if self.nodes[node as usize].is_lost {
            return;
        }
        self.heed_wishes(now_ns);
        let closed_ns = std::mem::replace(&mut self.nodes[node as usize].closed_ns, now_ns);
        for rank in self.ranks_of(node) {
            let state = &mut self.ranks[rank as usize];
            if state.is_gone {
                continue;
            }
            let clock = &self.nodes[node as usize].clock;
            let mut window = state.window(&self.spec, clock, &mut self.scratch, (closed_ns, now_ns));
            window.duration_us = (now_ns - closed_ns) / 1000;
            sink(timestamp(now_ns), Observation::Window(window));
        }
    }

    fn ranks_of(&self, node: u32) -> std::ops::Range<u32> {
        let (layout, first) = (&self.spec.layout, node * self.spec.layout.gpus_per_node);
        first..(first + layout.gpus_per_node).min(layout.ranks())
    }
}

fn process(rank: u32) -> ProcessId {
    ProcessId(u64::from(rank) + 1)
}

fn node_name(node: u32) -> NodeName {
    NodeName(format!("node-{node}"))
}

/// When in each second the agent of a node closes its windows: in its first half, so that what is delivered late is
/// still delivered in the same second.
fn phase_ns(node: u32) -> u64 {
    noise::mix(u64::from(node)) % (SECOND_NS / 2)
}
