//! Turns what the simulated ranks did into what their agents would tell: a window a second from every rank, each node
//! at its own phase of the second, aggregated by the very code that the agent uses.

use std::collections::VecDeque;

use c4_detect::{
    aggregate::{Aggregator, CompletedOperation, Coverage},
    observation::{
        CommWindow, Edge, InFlight, JobId, Membership, NodeName, Observation, OperationSignature,
        PendingPeer, ProcessEnd, ProcessId, ProcessInfo, ProcessState, StepState, Timestamp, Window,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    engine::{CollectiveRecord, Engine, TransferRecord},
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::Noise,
    program::Model,
};

const SECOND_NS: u64 = 1_000_000_000;
/// How old the oldest operation is when an agent begins to report connections.
const OLD_NS: u64 = SECOND_NS;
/// Where simulated time begins on the controller's clock, in microseconds since the epoch.
pub const EPOCH_US: u64 = 1_700_000_000_000_000;
/// What it takes an agent to see a death.
const DEATH_SEEN_NS: u64 = 100_000_000;

/// A job to simulate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Parallel layout.
    pub layout: Layout,
    /// Model.
    pub model: Model,
    /// Noise.
    pub noise: Noise,
    /// Faults.
    pub faults: Vec<Fault>,
    /// Seed.
    pub seed: u64,
}

/// The job as its agents see it.
#[derive(Debug)]
pub struct Telemetry {
    spec: Spec,
    engine: Engine,
    stuck: bool,
    simulated_ns: u64,
    ranks: Vec<RankTelemetry>,
}

#[derive(Debug)]
struct RankTelemetry {
    comms: Vec<CommTelemetry>,
    /// Sends and receives that have not ended.
    transfers: VecDeque<TransferRecord>,
    coverage: Coverage,
    ended: bool,
}

#[derive(Debug)]
struct CommTelemetry {
    group: Group,
    completed: u64,
    pending: VecDeque<CollectiveRecord>,
    aggregator: Aggregator,
    last_end_ns: u64,
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
        let engine = Engine::new(spec.layout, &spec.model, spec.noise, spec.faults.clone(), spec.seed);
        let ranks = (0..spec.layout.ranks()).map(|_| RankTelemetry::new(&spec.layout)).collect();
        Self { engine, stuck: false, simulated_ns: 0, ranks, spec }
    }

    /// Number of the iteration that the fastest ranks are in.
    #[must_use]
    pub fn iteration(&self) -> u64 {
        self.engine.iteration()
    }

    /// Tells `sink` of everything until `until_ns`, in the order in which the controller would hear it.
    pub fn run(&mut self, until_ns: u64, mut sink: impl FnMut(Timestamp, Observation)) {
        self.announce(&mut sink);
        let nodes = self.spec.layout.node(self.spec.layout.ranks() - 1) + 1;
        let mut order: Vec<u32> = (0..nodes).collect();
        order.sort_by_key(|&node| phase_ns(node));
        for second in 0.. {
            for &node in &order {
                let now_ns = second * SECOND_NS + phase_ns(node);
                if now_ns >= until_ns {
                    return;
                }
                self.simulate(now_ns);
                self.report_node(node, now_ns, &mut sink);
            }
            sink(timestamp((second + 1) * SECOND_NS), Observation::Tick);
        }
    }

    fn announce(&self, sink: &mut impl FnMut(Timestamp, Observation)) {
        let layout = &self.spec.layout;
        for node in 0..=layout.node(layout.ranks() - 1) {
            sink(timestamp(0), Observation::NodeSeen { node: node_name(node), nic_class: None });
        }
        for rank in 0..layout.ranks() {
            sink(
                timestamp(0),
                Observation::ProcessStarted(ProcessInfo {
                    process: process(rank),
                    job: JobId("simulated".into()),
                    incarnation: 0,
                    rank: Some(rank),
                    world_size: Some(layout.ranks()),
                    node: node_name(layout.node(rank)),
                    gpu: Some(rank % layout.gpus_per_node),
                    pid: 1000 + rank,
                    blind_spots: Vec::new(),
                }),
            );
            for comm in &self.ranks[rank as usize].comms {
                let (index, comm_rank) = layout.membership(rank, comm.group);
                sink(
                    timestamp(0),
                    Observation::CommunicatorJoined(Membership {
                        process: process(rank),
                        comm: layout.comm_id(comm.group, index),
                        name: format!("{:?}", comm.group).to_lowercase(),
                        size: layout.group_size(comm.group),
                        comm_rank,
                    }),
                );
            }
        }
    }

    /// Runs iterations until everything up to `now_ns` is known.
    fn simulate(&mut self, now_ns: u64) {
        while !self.stuck && self.simulated_ns <= now_ns {
            let record = self.engine.step();
            self.stuck = record.stuck;
            // Ranks leave an iteration together with the last all-reduce, so all before its end is final.
            self.simulated_ns = self.simulated_ns.max(record.end_ns);
            for transfer in record.transfers {
                self.ranks[transfer.rank as usize].transfers.push_back(transfer);
            }
            for collective in record.collectives {
                let comms = &mut self.ranks[collective.rank as usize].comms;
                if let Some(comm) = comms.iter_mut().find(|comm| comm.group == collective.group) {
                    comm.pending.push_back(collective);
                }
            }
        }
    }

    fn report_node(&mut self, node: u32, now_ns: u64, sink: &mut impl FnMut(Timestamp, Observation)) {
        let layout = self.spec.layout;
        let first = node * layout.gpus_per_node;
        for rank in first..(first + layout.gpus_per_node).min(layout.ranks()) {
            if self.ranks[rank as usize].ended {
                continue;
            }
            let fault = self.spec.faults.iter().find(|f| f.rank == rank && f.catches(now_ns)).copied();
            if let Some(Fault { kind: FaultKind::Death, start_ns, .. }) = fault {
                self.ranks[rank as usize].ended = true;
                let seen = start_ns + DEATH_SEEN_NS;
                let end = ProcessEnd {
                    process: process(rank),
                    ago_us: (now_ns.max(seen) - start_ns) / 1000,
                    finalized: false,
                    exit_code: None,
                    signal: Some(9),
                };
                sink(timestamp(now_ns.max(seen)), Observation::ProcessEnded(end));
                continue;
            }
            let stopped_since = fault.filter(|f| f.kind == FaultKind::Stop).map(|f| f.start_ns);
            let window = self.window(rank, now_ns, stopped_since);
            sink(timestamp(now_ns), Observation::Window(window));
        }
    }

    fn window(&mut self, rank: u32, now_ns: u64, stopped_since: Option<u64>) -> Window {
        let spec = &self.spec;
        let state = &mut self.ranks[rank as usize];
        // A stopped process writes nothing more: its recorder shows the moment of the stop.
        let seen_ns = stopped_since.map_or(now_ns, |since| since.min(now_ns));
        state.cover(seen_ns);
        let pending = state.pending(seen_ns, now_ns);
        let RankTelemetry { comms, coverage, .. } = state;
        let mut comms = comms
            .iter_mut()
            .map(|comm| comm.window(spec, rank, coverage, seen_ns, now_ns))
            .collect::<Vec<_>>();
        // The communicator of all ranks, the last one, carries the pipeline's traffic: its ranks are the job's.
        if let Some(world) = comms.last_mut() {
            world.pending_peers = pending;
        }
        Window {
            process: process(rank),
            duration_us: SECOND_NS / 1000,
            state: if stopped_since.is_some() { ProcessState::Stopped } else { ProcessState::Sleeping },
            kernel_events: true,
            profiling: true,
            dropped: 0,
            unread: 0,
            comms,
        }
    }
}

impl RankTelemetry {
    fn new(layout: &Layout) -> Self {
        let used = |group: &Group| layout.group_size(*group) > 1 || *group == Group::World;
        let comms = Group::ALL.into_iter().filter(used).map(CommTelemetry::new).collect();
        Self { comms, transfers: VecDeque::new(), coverage: Coverage::default(), ended: false }
    }
}

impl RankTelemetry {
    /// Notes when the rank was in communication, as far as its recorder shows it.
    fn cover(&mut self, seen_ns: u64) {
        self.coverage.forget_before(seen_ns.saturating_sub(60 * SECOND_NS));
        let collectives =
            self.comms.iter().flat_map(|comm| &comm.pending).map(|r| (r.start_ns, r.end_ns, false));
        let transfers = self.transfers.iter().map(|r| (r.start_ns, r.end_ns, r.is_send));
        for (start_ns, end_ns, is_send) in collectives.chain(transfers) {
            if let Some(start_ns) = start_ns.filter(|start| *start <= seen_ns) {
                self.coverage.add(start_ns, end_ns.unwrap_or(seen_ns).min(seen_ns), is_send);
            }
        }
        self.transfers.retain(|transfer| transfer.end_ns.is_none_or(|end| end > seen_ns));
    }
}

impl RankTelemetry {
    /// The sends and receives that have been open for long, the oldest for each peer and direction.
    fn pending(&self, seen_ns: u64, now_ns: u64) -> Vec<PendingPeer> {
        let mut pending: Vec<PendingPeer> = Vec::new();
        for (position, transfer) in self.transfers.iter().enumerate() {
            let since = transfer.start_ns.filter(|start| *start <= seen_ns).unwrap_or(transfer.enqueued_ns);
            let age_us = now_ns.saturating_sub(since) / 1000;
            let known = pending.iter().any(|p| (p.peer, p.is_send) == (transfer.peer, transfer.is_send));
            if since > seen_ns || age_us * 1000 < OLD_NS / 2 || known {
                continue;
            }
            pending.push(PendingPeer {
                peer: transfer.peer,
                is_send: transfer.is_send,
                started: transfer.start_ns.is_some_and(|start| start <= seen_ns),
                age_us,
                position: position as u64,
            });
        }
        pending
    }
}

impl CommTelemetry {
    fn new(group: Group) -> Self {
        Self {
            group,
            completed: 0,
            pending: VecDeque::new(),
            aggregator: Aggregator::default(),
            last_end_ns: 0,
        }
    }

    fn window(
        &mut self,
        spec: &Spec,
        rank: u32,
        coverage: &Coverage,
        seen_ns: u64,
        now_ns: u64,
    ) -> CommWindow {
        while let Some(record) = self.pending.front().filter(|r| r.end_ns.is_some_and(|end| end <= seen_ns)) {
            let (start_ns, end_ns) = (record.start_ns.unwrap_or(0), record.end_ns.unwrap_or(0));
            let operation = CompletedOperation {
                sequence: self.completed,
                signature: signature(record),
                start_ns,
                end_ns,
                bytes: record.bytes,
            };
            self.aggregator.push_within(&operation, coverage);
            self.completed += 1;
            self.last_end_ns = end_ns;
            self.pending.pop_front();
        }
        let before = |time: Option<u64>| time.is_some_and(|at| at <= seen_ns);
        let count = |test: &dyn Fn(&CollectiveRecord) -> bool| {
            self.completed + self.pending.iter().take_while(|record| test(record)).count() as u64
        };
        let in_flight = self.pending.front().filter(|record| record.enqueued_ns <= seen_ns);
        let (blocks, iterations) = self.aggregator.take();
        let (index, _) = spec.layout.membership(rank, self.group);
        CommWindow {
            pending_peers: Vec::new(),
            links: Vec::new(),
            comm: spec.layout.comm_id(self.group, index),
            enqueued: count(&|record| record.enqueued_ns <= seen_ns),
            started: count(&|record| before(record.start_ns)),
            completed: self.completed,
            in_flight: in_flight.map(|record| InFlight {
                sequence: self.completed,
                signature: signature(record),
                started: before(record.start_ns),
                age_us: (now_ns - record.enqueued_ns) / 1000,
                started_age_us: record.start_ns.map_or(0, |start| now_ns.saturating_sub(start) / 1000),
            }),
            idle_us: if in_flight.is_none() { (now_ns - self.last_end_ns) / 1000 } else { 0 },
            blocks,
            edges: in_flight.map_or_else(Vec::new, |record| edges(spec, rank, record, now_ns)),
            iterations,
        }
    }
}

/// The connections of a rank in a ring all-reduce that has stood still for long.
fn edges(spec: &Spec, rank: u32, record: &CollectiveRecord, now_ns: u64) -> Vec<Edge> {
    let layout = &spec.layout;
    let Some(start) = record.start_ns.filter(|start| now_ns.saturating_sub(*start) >= OLD_NS) else {
        return Vec::new();
    };
    let (index, own) = layout.membership(rank, record.group);
    let size = layout.group_size(record.group);
    let member = |place: u32| {
        (0..layout.ranks()).find(|&other| layout.membership(other, record.group) == (index, place))
    };
    let (next, previous) = ((own + 1) % size, (own + size - 1) % size);
    let blocked = |src: u32, dst: Option<u32>| {
        spec.faults.iter().any(|fault| match fault.kind {
            FaultKind::LinkBlocked { peer } => fault.rank == src && Some(peer) == dst && fault.acts(now_ns),
            _ => false,
        })
    };
    let absent = |peer: Option<u32>| {
        spec.faults.iter().any(|fault| {
            Some(fault.rank) == peer
                && fault.acts(now_ns)
                && matches!(fault.kind, FaultKind::Death | FaultKind::Stop | FaultKind::HostHang)
        })
    };
    let send_state = match member(next) {
        peer if blocked(rank, peer) => StepState::SendWait,
        peer if absent(peer) => StepState::SendPeerWait,
        _ => StepState::SendGpuWait,
    };
    let edge = |peer, is_send, state| Edge {
        peer,
        channel: 0,
        is_send,
        state,
        state_age_us: (now_ns - start) / 1000,
        steps_done: 0,
        bytes: 0,
    };
    vec![edge(next, true, send_state), edge(previous, false, StepState::RecvWait)]
}

fn signature(record: &CollectiveRecord) -> OperationSignature {
    OperationSignature {
        function: record.function.name().into(),
        count: record.bytes / 2,
        datatype: "ncclBfloat16".into(),
        root: 0,
    }
}

fn process(rank: u32) -> ProcessId {
    ProcessId(u64::from(rank) + 1)
}

fn node_name(node: u32) -> NodeName {
    NodeName(format!("node-{node}"))
}

/// When in each second the agent of a node closes its windows.
fn phase_ns(node: u32) -> u64 {
    u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15) % SECOND_NS
}
