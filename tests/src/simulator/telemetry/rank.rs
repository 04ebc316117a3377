//! One rank as its agent sees it. The engine runs whole iterations ahead, so what is kept here reaches into the future,
//! and a window shows what of it lies before the moment it is closed.

use std::collections::VecDeque;

use c4_detect::{
    aggregate::{Aggregator, Coverage},
    observation::{CommId, CommWindow, InFlight, OperationSignature, PendingPeer, ProcessState, Window},
};

use super::{
    Clock, CompletedOperation, FaultKind, Layout, OLD_NS, SECOND_NS, Scratch, Spec, edges, life,
    links::Links, process,
};
use crate::simulator::{
    engine::{CollectiveRecord, TransferRecord},
    layout::Group,
    noise::HostWork,
    program::Function,
};

#[derive(Debug)]
pub(super) struct RankTelemetry {
    rank: u32,
    pub(super) comms: Vec<CommTelemetry>,
    /// Sends and receives that have not ended, by direction and neighbour, with their position among all of them.
    transfers: [VecDeque<(u64, TransferRecord)>; 4],
    transferred: u64,
    /// Until when the host was busy, from when on, and with what.
    host: VecDeque<(u64, u64, ProcessState)>,
    coverage: Coverage,
    /// Ranks of the job, for all that its agent knows.
    job_ranks: u32,
    /// Until when the steps of all operations are timed.
    pub(super) all_steps_until_ns: u64,
    /// How its process ends, once that is known.
    pub(super) end: Option<life::End>,
    /// Its end has been told.
    pub(super) is_gone: bool,
}

#[derive(Debug)]
pub(super) struct CommTelemetry {
    group: Group,
    id: CommId,
    pub(super) place: u32,
    completed: u64,
    pending: VecDeque<CollectiveRecord>,
    aggregator: Aggregator,
    links: Links,
    last_end_ns: Option<u64>,
}

impl RankTelemetry {
    pub(super) fn new(layout: &Layout, groups: &[Group], rank: u32) -> Self {
        Self {
            rank,
            comms: groups.iter().map(|group| CommTelemetry::new(layout, *group, rank)).collect(),
            transfers: Default::default(),
            transferred: 0,
            host: VecDeque::new(),
            coverage: Coverage::default(),
            job_ranks: layout.ranks(),
            all_steps_until_ns: 0,
            end: None,
            is_gone: false,
        }
    }

    pub(super) fn push_transfer(&mut self, record: TransferRecord) {
        let queue = usize::from(record.is_send) * 2 + usize::from(record.is_next);
        self.transfers[queue].push_back((self.transferred, record));
        self.transferred += 1;
    }

    pub(super) fn push_host(&mut self, work: HostWork, until_ns: u64) {
        let disk_from_ns = until_ns - work.disk_ns;
        let from_ns = until_ns - work.ns;
        for (from, until, state) in
            [(from_ns, disk_from_ns, ProcessState::Running), (disk_from_ns, until_ns, ProcessState::DiskWait)]
        {
            if until > from {
                self.host.push_back((until, from, state));
            }
        }
    }

    /// It is told that the job has so many ranks.
    pub(super) fn set_job_ranks(&mut self, ranks: u32) {
        self.job_ranks = ranks;
        self.comms.iter_mut().for_each(|comm| comm.links.set_job_ranks(ranks));
        self.forget();
    }

    /// A new agent knows nothing of what its predecessor has seen.
    pub(super) fn forget(&mut self) {
        self.coverage = Coverage::default();
        for comm in &mut self.comms {
            comm.aggregator = Aggregator::in_job_of(Some(self.job_ranks));
        }
    }

    pub(super) fn window(
        &mut self,
        spec: &Spec,
        clock: &Clock,
        scratch: &mut Scratch,
        (opened_ns, now_ns): (u64, u64),
    ) -> Window {
        let stopped_ns = life::stopped_ns(spec, self.rank).filter(|since| *since <= now_ns);
        // A stopped or dead process writes nothing more: its recorder shows its last moment.
        let last_ns = stopped_ns.into_iter().chain(self.end.map(|end| end.at_ns)).min();
        let seen_ns = last_ns.map_or(now_ns, |last| last.min(now_ns));
        let state = if stopped_ns.is_some() { ProcessState::Stopped } else { self.state(spec, now_ns) };
        self.cover(spec, clock, seen_ns);
        let all_steps = seen_ns < self.all_steps_until_ns;
        let (own_rank, coverage) = (self.rank, &self.coverage);
        let comms = self.comms.iter_mut();
        let mut comms: Vec<CommWindow> = comms
            .map(|comm| comm.window(spec, own_rank, all_steps, clock, coverage, scratch, seen_ns, now_ns))
            .collect();
        if let Some(pipeline) = self.comms.iter().position(|comm| comm.group == Group::Pipeline) {
            comms[pipeline].pending_peers = self.pending(&spec.layout, seen_ns, now_ns);
        }
        Window {
            process: process(self.rank),
            duration_us: SECOND_NS / 1000,
            state,
            kernel_events: true,
            profiling: true,
            dropped: 0,
            unread: 0,
            own: self.coverage.own(clock.shows(opened_ns), clock.shows(now_ns)),
            comms,
        }
    }

    /// What the scheduler says of the process. One that waits for its GPU spins.
    fn state(&mut self, spec: &Spec, now_ns: u64) -> ProcessState {
        while self.host.front().is_some_and(|(until, ..)| *until <= now_ns) {
            self.host.pop_front();
        }
        let hangs = |kind| matches!(kind, FaultKind::HostHang);
        if spec.faults.iter().any(|f| f.rank == self.rank && f.acts(now_ns) && hangs(f.kind)) {
            return ProcessState::Sleeping;
        }
        match self.host.front() {
            Some((_, from, state)) if *from <= now_ns => *state,
            _ => ProcessState::Running,
        }
    }

    /// Notes when the rank was in communication, as far as its recorder shows it, and forgets transfers that are over.
    fn cover(&mut self, spec: &Spec, clock: &Clock, seen_ns: u64) {
        let all_steps = seen_ns < self.all_steps_until_ns;
        // Nothing asks what was before the last operation of each communicator.
        let oldest_ns = self.comms.iter().filter_map(|comm| comm.last_end_ns).min().unwrap_or(0);
        self.coverage.forget_before(clock.shows(oldest_ns));
        let mut add = |start_ns: Option<u64>, end_ns: Option<u64>, is_send: bool| {
            let Some(start_ns) = start_ns.filter(|start| *start <= seen_ns) else { return false };
            let end_ns = end_ns.unwrap_or(seen_ns).min(seen_ns);
            self.coverage.add(clock.shows(start_ns), clock.shows(end_ns), is_send);
            true
        };
        for comm in &self.comms {
            // They start in order, so the first that has not started is the end of what there is.
            let _ = comm.pending.iter().take_while(|r| add(r.start_ns, r.end_ns, false)).count();
        }
        for queue in &mut self.transfers {
            let _ = queue.iter().take_while(|(_, r)| add(r.start_ns, r.end_ns, r.is_send)).count();
            while queue.front().is_some_and(|(_, r)| r.end_ns.is_some_and(|end| end <= seen_ns)) {
                let Some((position, record)) = queue.pop_front() else { break };
                if let Some(pipeline) = self.comms.iter_mut().find(|comm| comm.group == Group::Pipeline) {
                    pipeline.links.transfer(spec, position, all_steps, &record);
                }
            }
        }
    }

    /// The sends and receives that have been open for long, the oldest for each peer and direction.
    fn pending(&self, layout: &Layout, seen_ns: u64, now_ns: u64) -> Vec<PendingPeer> {
        let mut pending: Vec<PendingPeer> = Vec::new();
        for (position, transfer) in self.transfers.iter().filter_map(VecDeque::front) {
            let started_ns = transfer.start_ns.filter(|start| *start <= seen_ns);
            let since_ns = started_ns.unwrap_or(transfer.enqueued_ns);
            if since_ns > seen_ns || now_ns.saturating_sub(since_ns) < OLD_NS / 2 {
                continue;
            }
            let open = PendingPeer {
                peer: layout.membership(transfer.peer, Group::Pipeline).1,
                is_send: transfer.is_send,
                started: started_ns.is_some(),
                age_us: now_ns.saturating_sub(since_ns) / 1000,
                position: *position,
            };
            // Two stages that hold several chunks meet on both sides.
            match pending.iter_mut().find(|p| (p.peer, p.is_send) == (open.peer, open.is_send)) {
                Some(known) if known.position > open.position => *known = open,
                Some(_) => {}
                None => pending.push(open),
            }
        }
        pending
    }
}

impl CommTelemetry {
    fn new(layout: &Layout, group: Group, rank: u32) -> Self {
        let (index, place) = layout.membership(rank, group);
        Self {
            group,
            id: layout.comm_id(group, index),
            place,
            completed: 0,
            pending: VecDeque::new(),
            aggregator: Aggregator::in_job_of(Some(layout.ranks())),
            links: Links::new(layout, group, rank),
            last_end_ns: None,
        }
    }

    pub(super) fn push(&mut self, record: CollectiveRecord) {
        self.pending.push_back(record);
    }

    pub(super) fn group(&self) -> Group {
        self.group
    }

    pub(super) fn id(&self) -> CommId {
        self.id
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a rank and of its node, borrowed one by one")]
    fn window(
        &mut self,
        spec: &Spec,
        rank: u32,
        all_steps: bool,
        clock: &Clock,
        coverage: &Coverage,
        scratch: &mut Scratch,
        seen_ns: u64,
        now_ns: u64,
    ) -> CommWindow {
        while let Some(record) = self.pending.front().filter(|r| r.end_ns.is_some_and(|end| end <= seen_ns)) {
            let end_ns = record.end_ns.unwrap_or(0);
            let operation = scratch.set(record);
            operation.sequence = self.completed;
            operation.start_ns = clock.shows(record.start_ns.unwrap_or(0));
            operation.end_ns = clock.shows(end_ns);
            self.aggregator.push_within(operation, coverage);
            self.links.collective(spec, self.completed, all_steps, record);
            self.completed += 1;
            self.last_end_ns = Some(end_ns);
            self.pending.pop_front();
        }
        let started = self.pending.partition_point(|r| r.start_ns.is_some_and(|start| start <= seen_ns));
        let enqueued = self.pending.partition_point(|r| r.enqueued_ns <= seen_ns);
        let in_flight = self.pending.front().filter(|record| record.enqueued_ns <= seen_ns);
        let is_old = in_flight.is_some_and(|record| now_ns.saturating_sub(record.enqueued_ns) >= OLD_NS);
        let (blocks, iterations) = self.aggregator.take();
        let idle_since_ns = self.last_end_ns.filter(|_| in_flight.is_none());
        CommWindow {
            pending_peers: Vec::new(),
            links: self.links.take(),
            comm: self.id,
            enqueued: self.completed + enqueued as u64,
            started: self.completed + started as u64,
            completed: self.completed,
            in_flight: in_flight.map(|record| InFlight {
                sequence: self.completed,
                signature: signature(record.function, record.bytes),
                started: started > 0,
                age_us: now_ns.saturating_sub(record.enqueued_ns) / 1000,
                started_age_us: record
                    .start_ns
                    .filter(|_| started > 0)
                    .map_or(0, |start| now_ns.saturating_sub(start) / 1000),
                before: is_old.then(|| self.aggregator.before(self.completed)).flatten().map(Box::new),
            }),
            idle_us: idle_since_ns.map_or(0, |since| now_ns.saturating_sub(since) / 1000),
            unseen_us: 0,
            blocks,
            edges: in_flight.map_or_else(Vec::new, |record| edges::of(spec, rank, record, now_ns)),
            iterations,
        }
    }
}

impl Scratch {
    pub(super) fn new() -> Self {
        let signature = signature(Function::AllReduce, 0);
        let operation = CompletedOperation { sequence: 0, signature, start_ns: 0, end_ns: 0, bytes: 0 };
        Self { operation, set_to: None }
    }

    /// The operation of a record, made anew only if it differs from the last one.
    fn set(&mut self, record: &CollectiveRecord) -> &mut CompletedOperation {
        let wanted = Some((record.function, record.bytes));
        if self.set_to != wanted {
            self.set_to = wanted;
            self.operation.signature = signature(record.function, record.bytes);
            self.operation.bytes = record.bytes;
        }
        &mut self.operation
    }
}

fn signature(function: Function, bytes: u64) -> OperationSignature {
    OperationSignature {
        function: function.name().into(),
        count: bytes / 2,
        datatype: "ncclBfloat16".into(),
        root: 0,
    }
}
