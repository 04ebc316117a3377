//! When operations started and completed, as far as the recorded parts tell.
//!
//! The rules, from the strongest:
//! 1. With kernel events, the kernel decides: started when it started on the first channel, completed when it stopped on
//!    all of them. The times are the GPU's, exact among each other. Network operations do not matter then: some
//!    transports start them and never stop them, and a sender's last transfer may outlive its kernel. But a receive is not complete
//!    before its network operations have ended, where those from its peer were seen to end: NCCL 2.28 tells of a send and a
//!    receive in one group that both kernels have stopped once the send has.
//! 2. Without, the network decides: started when the first network operation began to move, completed when all that were
//!    started have ended.
//! 3. The kernels of one communicator run one after the other. So a collective is complete when a later one of its communicator
//!    is, and a point-to-point operation when a later collective is, whatever their own parts say.
//! 4. An operation with neither kernel events nor network operations (inside a node, old interface) shows no end:
//!    it is not observable, and its being open says nothing. Where kernel events are switched on, it was *left out*, and is
//!    complete by rule 3 at no known time.
//!
//! 5. Kernel events that tell of a kernel before it was enqueued are not believed, nor any others of that communicator from
//!    then on: NCCL 2.28 takes them from counters that replays of CUDA graphs leave behind, so that they tell of older
//!    kernels and seem complete at once. The network decides there, as in 2.
//!
//! GPU time becomes host time by the least difference between the moment at which an event was heard of and its GPU time:
//! hearing takes a varying while, but never less than nothing. Least over ten to twenty seconds, since the two clocks
//! drift, and by communicator, since each is on one GPU. Both ends of an operation are moved by the same difference.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::RawOperation;
use crate::clock::Calibration;
use crate::layout::operation_flag;
use crate::snapshot::{Communicator, Operation, OperationKind};

/// A communicator: slot and generation.
type CommKey = (u32, u32);

/// Least differences between host and GPU time, in ns, by communicator and span of time.
#[derive(Clone, Debug, Default)]
pub(super) struct GpuClocks {
    least: BTreeMap<(CommKey, u64), i128>,
    /// Kernels that started before they were enqueued.
    too_early: BTreeMap<CommKey, u32>,
    /// Communicators with network operations.
    networked: BTreeSet<CommKey>,
    /// Of these, peers from which receives were seen to end in the network.
    ending: BTreeSet<(CommKey, u32)>,
}

/// Kernels cannot start before they are enqueued, but the clocks' difference is known only so well.
const TOO_EARLY_NS: u64 = 10_000_000;
/// So many of them that did discredit the kernel events of their communicator.
const DISCREDITED: u32 = 3;

/// Length of a span of time.
const SPAN_NS: u64 = 10_000_000_000;
/// Spans that are kept: operations older than that are not read any more, or no better known.
const SPANS: u64 = 64;
/// Differences remembered, of communicators that are there or not: twice as many as a recorder has communicators, in all spans.
const LEAST: usize = 32_768;
/// Peers remembered of whom a receive has been seen to end: more than a process receives from, whatever its recorder says.
const ENDING: usize = 65_536;

impl GpuClocks {
    /// Takes in what these operations show.
    pub(super) fn learn<'a>(
        &mut self,
        operations: impl IntoIterator<Item = &'a RawOperation>,
        clock: &Calibration,
    ) {
        for operation in operations {
            for (gpu, host) in
                [(operation.gpu_start, operation.host_start), (operation.gpu_stop, operation.host_stop)]
            {
                if gpu != 0 && host != 0 {
                    let host_ns = clock.ns(host);
                    let difference = i128::from(host_ns) - i128::from(gpu);
                    let key = (operation.comm_slot, operation.comm_generation);
                    let least = self.least.entry((key, host_ns / SPAN_NS)).or_insert(difference);
                    *least = difference.min(*least);
                }
            }
        }
    }

    /// Counts kernels that cannot have started when their events say. The difference of the clocks is never taken for less
    /// than it is, so true events only ever seem late.
    pub(super) fn doubt<'a>(
        &mut self,
        operations: impl IntoIterator<Item = &'a RawOperation>,
        clock: &Calibration,
    ) {
        for operation in operations {
            let key = (operation.comm_slot, operation.comm_generation);
            if operation.proxy_started > 0 {
                self.networked.insert(key);
                if operation.kind == OperationKind::Receive
                    && has_ended(operation)
                    && self.ending.len() < ENDING
                {
                    self.ending.insert((key, operation.root_or_peer));
                }
            }
            let started = host_ns(operation.gpu_start, self.difference(key, clock.ns(operation.host_start)));
            let enqueued = clock.ns(operation.enqueued);
            if started.is_some_and(|started| started.saturating_add(TOO_EARLY_NS) < enqueued) {
                let count = self.too_early.entry(key).or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    /// Whether the kernel events of a communicator are not to be believed.
    fn is_discredited(&self, key: CommKey) -> bool {
        self.too_early.get(&key).is_some_and(|count| *count >= DISCREDITED)
    }

    /// Forgets what is long past.
    pub(super) fn forget(&mut self, now_ns: u64, communicators: &[Communicator]) {
        let present = now_ns / SPAN_NS;
        let live = |key: &CommKey| communicators.iter().any(|comm| (comm.slot, comm.generation) == *key);
        // A recorder may say anything of times that have not come, and of communicators that are not there. A few of those have been there
        // a moment ago.
        let near = present.saturating_sub(SPANS)..=present;
        self.least.retain(|(_, span), _| near.contains(span));
        if self.least.len() > LEAST {
            self.least.retain(|(key, _), _| live(key));
        }
        self.too_early.retain(|key, _| live(key));
        self.networked.retain(live);
        self.ending.retain(|(key, _)| live(key));
    }

    /// What to add to the GPU's time of an operation whose start was heard of at `heard_ns`.
    fn difference(&self, key: CommKey, heard_ns: u64) -> Option<i128> {
        let span = heard_ns / SPAN_NS;
        let near = (key, span.saturating_sub(1))..=(key, span);
        self.least.range(near).map(|(_, difference)| *difference).min()
    }
}

/// Whether nothing of its own is to be heard of it.
fn is_silent(raw: &RawOperation) -> bool {
    let told = operation_flag::KERNEL_EVENTS | operation_flag::UNOBSERVABLE;
    raw.flags & told == 0 && raw.kernel_started == 0 && raw.proxy_started == 0
}

/// Whether the network operations that were started have ended.
fn has_ended(raw: &RawOperation) -> bool {
    raw.proxy_started != 0 && raw.proxy_stopped >= raw.proxy_started
}

/// A moment of the GPU's clock as host time.
fn host_ns(gpu_ns: u64, difference: Option<i128>) -> Option<u64> {
    let moved = i128::from(gpu_ns) + difference?;
    (gpu_ns != 0).then(|| moved.clamp(0, i128::from(i64::MAX)) as u64)
}

/// What the communicators say about the order of their operations.
#[derive(Default)]
pub(super) struct Order {
    completed: BTreeMap<CommKey, u64>,
    latest_complete_collective: BTreeMap<CommKey, u64>,
    /// Starts of collectives: (communicator, sequence) to ns, for ends that only a successor shows.
    starts: BTreeMap<(CommKey, u64), u64>,
}

/// Everything that is needed to read operations.
pub(super) struct Context<'a> {
    pub clock: Calibration,
    pub gpu: &'a GpuClocks,
    pub names: &'a [String],
    pub now_ns: u64,
    /// Whether kernel events are switched on at all.
    pub kernel_events: bool,
}

struct Progress {
    started_ns: Option<u64>,
    started_on_gpu: bool,
    completed_ns: Option<u64>,
    observable: bool,
    last_heard_ns: Option<u64>,
}

fn own_progress(raw: &RawOperation, context: &Context<'_>) -> Progress {
    let key = (raw.comm_slot, raw.comm_generation);
    let heard = |ticks: u64| (ticks != 0).then(|| context.clock.ns(ticks));
    let flag = |flag: u8| raw.flags & flag != 0;
    let kernel_seen = raw.kernel_started != 0;
    if (flag(operation_flag::KERNEL_EVENTS) || kernel_seen) && !context.gpu.is_discredited(key) {
        let difference = context.gpu.difference(key, context.clock.ns(raw.host_start));
        let gpu_start = host_ns(raw.gpu_start, difference);
        let gpu_stop = host_ns(raw.gpu_stop, difference);
        let stopped = heard(raw.host_stop).map(|heard| gpu_stop.unwrap_or(heard));
        let waits = raw.kind == OperationKind::Receive
            && raw.proxy_started != 0
            && context.gpu.ending.contains(&(key, raw.root_or_peer));
        let received = if waits { heard(raw.proxy_last).filter(|_| has_ended(raw)) } else { stopped };
        return Progress {
            started_ns: gpu_start.or(heard(raw.host_start)),
            started_on_gpu: gpu_start.is_some(),
            completed_ns: stopped.zip(received).map(|(stopped, received)| stopped.max(received)),
            observable: !flag(operation_flag::UNOBSERVABLE) || kernel_seen,
            last_heard_ns: gpu_stop.or(heard(raw.host_start)),
        };
    }
    Progress {
        started_ns: heard(raw.proxy_first),
        started_on_gpu: false,
        completed_ns: heard(raw.proxy_last).filter(|_| has_ended(raw)),
        observable: raw.proxy_started != 0,
        last_heard_ns: heard(raw.proxy_last).or(heard(raw.proxy_first)),
    }
}

impl Order {
    pub(super) fn new<'a>(
        communicators: &[Communicator],
        operations: impl IntoIterator<Item = &'a RawOperation>,
        context: &Context<'_>,
    ) -> Self {
        let mut order = Self::default();
        for comm in communicators {
            let key = (comm.slot, comm.generation);
            if !context.gpu.is_discredited(key) {
                order.completed.insert(key, comm.completed);
            }
        }
        for raw in operations {
            if raw.kind != OperationKind::Collective {
                continue;
            }
            let key = (raw.comm_slot, raw.comm_generation);
            let progress = own_progress(raw, context);
            if let Some(started) = progress.started_ns {
                order.starts.insert((key, raw.sequence), started);
            }
            if progress.completed_ns.is_some() {
                let latest = order.latest_complete_collective.entry(key).or_insert(raw.index);
                *latest = raw.index.max(*latest);
                let completed = order.completed.entry(key).or_insert(raw.sequence + 1);
                *completed = (*completed).max(raw.sequence + 1);
            }
        }
        order
    }

    /// Corrects what communicators say of their progress where that comes from kernel events that are not believed.
    /// `operations` are all that are open, at least.
    pub(super) fn correct(
        &self,
        communicators: &mut [Communicator],
        operations: &[RawOperation],
        context: &Context<'_>,
    ) {
        for comm in communicators {
            let key = (comm.slot, comm.generation);
            if !context.gpu.is_discredited(key) {
                continue;
            }
            let here = operations.iter().filter(|raw| {
                raw.kind == OperationKind::Collective && (raw.comm_slot, raw.comm_generation) == key
            });
            let seen = here.map(|raw| (raw.sequence, self.operation(raw, context)));
            let open: Vec<(u64, Operation)> = seen
                .filter(|(_, operation)| operation.observable && operation.completed_ns.is_none())
                .collect();
            let first_open = open.iter().map(|(sequence, _)| *sequence).min();
            let moving = open.iter().filter(|(_, operation)| operation.started_ns.is_some());
            let last_moving = moving.map(|(sequence, _)| sequence + 1).max();
            comm.completed = first_open.unwrap_or(comm.enqueued).min(comm.enqueued);
            comm.started = last_moving.unwrap_or(comm.completed).clamp(comm.completed, comm.enqueued);
            comm.observable = context.gpu.networked.contains(&key);
        }
    }

    /// Whether a later operation of the communicator shows that this one is complete.
    fn implies(&self, raw: &RawOperation) -> bool {
        let key = (raw.comm_slot, raw.comm_generation);
        match raw.kind {
            OperationKind::Collective => {
                self.completed.get(&key).is_some_and(|&completed| raw.sequence < completed)
            }
            _ => self.latest_complete_collective.get(&key).is_some_and(|&latest| raw.index < latest),
        }
    }

    /// When the next collective of the communicator started.
    fn successor_start(&self, raw: &RawOperation) -> Option<u64> {
        let key = (raw.comm_slot, raw.comm_generation);
        if raw.kind != OperationKind::Collective {
            return None;
        }
        self.starts.range((key, raw.sequence + 1)..=(key, u64::MAX)).map(|(_, &start)| start).next()
    }

    /// The operation as others see it.
    pub(super) fn operation(&self, raw: &RawOperation, context: &Context<'_>) -> Operation {
        let own = own_progress(raw, context);
        let implied = || {
            self.implies(raw)
                .then(|| own.last_heard_ns.or_else(|| self.successor_start(raw)).unwrap_or(context.now_ns))
        };
        let completed_ns = own.completed_ns.or_else(implied);
        let name = |number: u8| context.names.get(usize::from(number)).cloned().unwrap_or_default();
        Operation {
            index: raw.index,
            comm_slot: raw.comm_slot,
            comm_generation: raw.comm_generation,
            kind: raw.kind,
            sequence: raw.sequence,
            function: name(raw.function),
            datatype: name(raw.datatype),
            count: raw.count,
            bytes: raw.bytes,
            root_or_peer: raw.root_or_peer,
            peer_number: (raw.peer_number != 0).then_some(raw.peer_number),
            algorithm: name(raw.algorithm),
            protocol: name(raw.protocol),
            channels: u32::from(raw.channels),
            graph_captured: raw.flags & operation_flag::GRAPH_CAPTURED != 0,
            left_out: context.kernel_events && is_silent(raw),
            enqueued_ns: context.clock.ns(raw.enqueued),
            started_ns: own.started_ns,
            started_on_gpu: own.started_on_gpu,
            completed_ns,
            observable: own.observable || completed_ns.is_some(),
        }
    }
}
