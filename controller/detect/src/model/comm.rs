//! A communicator and its members: how far each got, what it waits in, and what is normal there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    by_rank::ByRank,
    config::Config,
    desync::Order,
    observation::{Block, CommId, CommWindow, Edge, InFlight, PendingPeer, ProcessId, Timestamp},
    patience,
    rhythm::{Prior, Rhythm},
    signature,
    slow::{Counts, Setting, Slowness, Work},
    survey::Survey,
};

/// Part of a new window in the share of time that a member spends in collectives.
const BUSY_WEIGHT: f64 = 0.1;
/// Part of a new window in how much data it moves.
const RATE_WEIGHT: f64 = 0.3;
/// The same in what is usual of the share of time that a member spends by itself, and by how much that follows a window at most: what
/// is wrong for a minute does not become usual. Windows that make it known.
const USUAL_WEIGHT: f64 = 0.01;
const USUAL_STEP: f64 = 5e-4;
const USUAL_KNOWN: u32 = 30;
/// Names of functions remembered of a communicator.
const MAX_FUNCTIONS: usize = 4;

/// One process as a member of one communicator.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) process: ProcessId,
    pub(crate) enqueued: u64,
    pub(crate) started: u64,
    pub(crate) completed: u64,
    /// When the window was taken that was the first to show so many completed.
    completed_by: Timestamp,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) idle_us: u64,
    /// See [`CommWindow::unseen_us`].
    pub(crate) unseen_us: u64,
    pub(crate) edges: Vec<Edge>,
    /// When one of its connections last got on inside an operation that it was in before, too.
    pub(crate) moved: Option<Timestamp>,
    /// Sends and receives that have been open for long.
    pub(crate) pending_peers: Vec<PendingPeer>,
    /// When its last window was taken; absent before the first.
    pub(crate) at: Option<Timestamp>,
    /// Its process no longer reports the communicator: finalised or aborted there.
    pub(crate) left: bool,
    pub(crate) iterations: u64,
    /// Share of the time that it spends in collectives here, waits for others included.
    busy: f64,
    /// Share of the time that it spends by itself, where the agent tells.
    own: Option<f64>,
    /// The same as it usually is, and of how many windows.
    own_usual: (f64, u32),
    /// Bytes of its collectives here in a nanosecond.
    bytes_per_ns: f64,
}

impl Member {
    pub(super) fn new(process: ProcessId) -> Self {
        Self {
            process,
            enqueued: 0,
            started: 0,
            completed: 0,
            completed_by: Timestamp::default(),
            in_flight: None,
            idle_us: 0,
            unseen_us: 0,
            edges: Vec::new(),
            moved: None,
            pending_peers: Vec::new(),
            at: None,
            left: false,
            iterations: 0,
            busy: 0.0,
            own: None,
            own_usual: (0.0, 0),
            bytes_per_ns: 0.0,
        }
    }

    /// Notes how much of a window it spent in collectives.
    fn note_busy(&mut self, blocks: &[Block], duration_us: u64) {
        if duration_us == 0 {
            return;
        }
        let duration_ns = duration_us as f64 * 1e3;
        let sum =
            |of: fn(&Block) -> u64| blocks.iter().fold(0_u64, |sum, block| sum.saturating_add(of(block)));
        self.busy += (sum(|block| block.wait_ns) as f64 / duration_ns - self.busy) * BUSY_WEIGHT;
        let rate = sum(|block| block.bytes) as f64 / duration_ns;
        self.bytes_per_ns += (rate - self.bytes_per_ns) * RATE_WEIGHT;
        if self.own.is_some() || blocks.iter().any(|block| block.own_ns.is_some()) {
            self.note_own(sum(|block| block.own_ns.unwrap_or(0)) as f64 / duration_ns);
        }
    }

    /// Notes the share of a window that it spent by itself.
    fn note_own(&mut self, share: f64) {
        let own = self.own.get_or_insert(0.0);
        *own += (share - *own) * BUSY_WEIGHT;
        let (usual, windows) = &mut self.own_usual;
        *windows = windows.saturating_add(1);
        let step = (*own - *usual) * USUAL_WEIGHT.max(1.0 / f64::from(*windows));
        *usual += if *windows > USUAL_KNOWN { step.clamp(-USUAL_STEP, USUAL_STEP) } else { step };
    }

    /// By how much more of the time it works than most do, or than it did before if that is less: whoever waits in a collective
    /// beside which it computes seems to work less.
    fn works_more(&self, most_do: f64) -> f64 {
        let own = self.own.unwrap_or(0.0);
        let (usual, windows) = self.own_usual;
        if windows > USUAL_KNOWN { own - most_do.max(usual) } else { own - most_do }
    }

    /// Whether any of its connections has done steps since its last window, while it was in one operation.
    fn gets_on(&self, window: &CommWindow) -> bool {
        let position = |op: &Option<InFlight>| op.as_ref().map(|op| op.sequence);
        let same = window.in_flight.is_some() && position(&self.in_flight) == position(&window.in_flight);
        let steps =
            |edges: &[Edge]| edges.iter().fold(0_u64, |sum, edge| sum.saturating_add(edge.steps_done));
        same && !self.edges.is_empty() && steps(&window.edges) != steps(&self.edges)
    }

    /// The latest at which the last operation that it completed may have ended.
    pub(crate) fn completed_at(&self) -> Timestamp {
        let began_us = |op: &InFlight| if op.started { op.started_age_us } else { 0 };
        let next = self.at.unwrap_or_default().before(self.in_flight.as_ref().map_or(self.idle_us, began_us));
        next.min(self.completed_by)
    }

    /// Whether it has, for all that can be seen, got past the operation at this position.
    pub(crate) fn is_past(&self, operation: u64) -> bool {
        self.completed > operation || (self.enqueued > operation && self.in_flight.is_none())
    }

    /// How long it has waited inside its oldest collective: on the GPU where that is known.
    pub(crate) fn wait_us(&self, kernel_events: bool) -> u64 {
        match &self.in_flight {
            None => 0,
            Some(op) if op.started => op.started_age_us,
            Some(_) if kernel_events => 0,
            Some(op) => op.age_us,
        }
    }
}

/// What a member's window says.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// When it made progress.
    pub(super) progressed: Option<Timestamp>,
    /// It waits for longer than is normal here.
    pub(super) waits: bool,
    /// Nobody has completed more than it.
    pub(super) is_level: bool,
}

/// One communicator.
#[derive(Debug)]
pub(crate) struct Comm {
    pub(crate) id: CommId,
    pub(crate) name: String,
    pub(crate) size: u32,
    /// NCCL told its size; otherwise it is as large as its members' ranks show.
    pub(crate) tells_size: bool,
    /// The same for communicators of one name and size.
    pub(crate) kind: u64,
    /// By rank in the communicator.
    pub(crate) members: ByRank<Member>,
    pub(crate) completed_max: u64,
    pub(crate) enqueued_max: u64,
    /// Members that report: seen, not gone. Kept as a count, since every window needs it.
    reporting: usize,
    pub(crate) rhythm: Rhythm,
    /// What its members call, in which order.
    pub(crate) order: Order,
    pub(crate) slowness: Slowness,
    /// Whether its members do the same work, so that their lateness is judged here.
    pub(crate) judged: bool,
    /// The rank here of the job's rank 0.
    pub(crate) first: Option<u32>,
    /// The class of NICs of each member; empty where all have the same.
    pub(crate) classes: BTreeMap<u32, u16>,
    /// How often ranks were late here, and in others of the kind, when the job was last looked at as a whole.
    pub(crate) counted: Counts,
    pub(crate) elsewhere: Counts,
    /// How long members of others like it work, which do the same, if it has few members.
    pub(crate) work_elsewhere: Option<Work>,
    /// Functions seen in it.
    pub(crate) functions: BTreeSet<Arc<str>>,
    /// Operations and bytes told of, by all members.
    moved: (u64, u64),
}

impl Comm {
    pub(super) fn new(id: CommId, name: String, size: u32, prior: Option<Prior>) -> Self {
        let kind =
            signature::fnv(signature::fnv(signature::fnv_start(), name.as_bytes()), &size.to_le_bytes());
        Self {
            id,
            name,
            size,
            tells_size: size > 0,
            kind,
            members: ByRank::of(size),
            completed_max: 0,
            enqueued_max: 0,
            reporting: 0,
            rhythm: Rhythm::new(prior),
            order: Order::default(),
            slowness: Slowness::of(size),
            judged: true,
            first: None,
            classes: BTreeMap::new(),
            counted: Counts::default(),
            elsewhere: Counts::default(),
            work_elsewhere: None,
            functions: BTreeSet::new(),
            moved: (0, 0),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, which passes everything on")]
    /// Takes in what a member did in a window of so many microseconds.
    pub(super) fn take(
        &mut self,
        comm_rank: u32,
        window: &mut CommWindow,
        duration_us: u64,
        kernel_events: bool,
        lossy: bool,
        survey: &Survey,
        config: &Config,
        now: Timestamp,
    ) -> Taken {
        let Some(member) = self.members.get_mut(&comm_rank) else { return Taken::default() };
        let progressed = patience::progress(member, window, now);
        member.note_busy(&window.blocks, duration_us);
        if member.at.replace(now).is_none() || std::mem::take(&mut member.left) {
            self.reporting += 1;
        }
        member.enqueued = window.enqueued;
        member.started = window.started.min(window.enqueued);
        let completed = window.completed.min(member.started);
        if std::mem::replace(&mut member.completed, completed) != completed {
            member.completed_by = now;
        }
        if member.gets_on(window) {
            member.moved = Some(now);
        }
        // What stands still is told of again and again, by whoever is wrong, too.
        let passed = std::mem::replace(&mut member.in_flight, window.in_flight.take());
        let passed = passed.filter(|op| op.sequence < member.completed);
        member.idle_us = window.idle_us;
        member.unseen_us = window.unseen_us;
        member.edges = std::mem::take(&mut window.edges);
        member.edges.truncate(1024);
        member.pending_peers = std::mem::take(&mut window.pending_peers);
        member.pending_peers.truncate(1024);
        let ended = window.iterations.iter().map(|iteration| u64::from(iteration.count)).sum();
        member.iterations = member.iterations.saturating_add(ended);
        self.completed_max = self.completed_max.max(member.completed);
        self.enqueued_max = self.enqueued_max.max(member.enqueued);
        let is_level = member.completed >= self.completed_max;
        let pending = member.pending_peers.iter().filter(|pending| pending.started).map(|p| p.age_us).max();
        let wait_us = member.wait_us(kernel_events).max(pending.unwrap_or(0)).max(member.unseen_us);
        if let Some(function) = member.in_flight.as_ref().map(|op| &op.signature.function)
            && self.functions.len() < MAX_FUNCTIONS
            && !self.functions.contains(function)
        {
            self.functions.insert(function.clone());
        }
        for block in &window.blocks {
            self.moved.0 = self.moved.0.saturating_add(block.length.into());
            self.moved.1 = self.moved.1.saturating_add(block.bytes);
        }
        self.rhythm.take(
            &window.iterations,
            &window.blocks,
            member.iterations,
            member.completed,
            config,
            now,
        );
        if !lossy {
            self.order.set_iteration(self.rhythm.shape().map_or(0, |shape| shape.operations));
            for block in &window.blocks {
                self.order.take(block.first, block.length.into(), block.signature);
            }
            if let Some(op) = passed {
                self.order.take(op.sequence, 1, signature::hash(&op.signature));
            }
            let setting = Setting {
                members: self.reporting,
                shape: self.rhythm.shape(),
                iteration_us: survey.iteration_us,
                judged: self.judged && survey.settled,
                first: self.first,
                elsewhere: self.elsewhere,
                work_elsewhere: self.work_elsewhere,
                classes: &self.classes,
            };
            self.slowness.take(comm_rank, &window.blocks, &setting, config, now);
        }
        // Half the threshold: a wait that is the consequence of another may be younger than it.
        let waits =
            wait_us.saturating_mul(2) >= self.rhythm.hang_us(config).min(config.stopped_floor_ms * 2_000);
        Taken { progressed, waits, is_level }
    }

    /// Share of the time that its operations take by themselves: whoever comes last waits for nobody.
    pub(crate) fn busy(&self) -> f64 {
        let reporting = self.members.values().filter(|member| member.at.is_some() && !member.left);
        reporting.map(|member| member.busy).min_by(f64::total_cmp).map_or(0.0, |busy| busy.min(1.0))
    }

    /// Bytes of collectives in a nanosecond, as the slowest to tell of them has it.
    pub(crate) fn bytes_per_ns(&self) -> f64 {
        let reporting = self.members.values().filter(|member| member.at.is_some() && !member.left);
        reporting.map(|member| member.bytes_per_ns).min_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// By how much some member seems to be late, as a share of the time: it waits less than most do, and, where that is
    /// told, some member spends more time by itself than most do and than it did before.
    pub(crate) fn lateness(&self) -> f64 {
        let reporting = || self.members.values().filter(|member| member.at.is_some() && !member.left);
        let mut busy: Vec<f64> = reporting().map(|member| member.busy).collect();
        busy.sort_by(f64::total_cmp);
        let waits_less = busy.first().map_or(0.0, |least| busy[busy.len() / 2] - least);
        let Some(mut own) = reporting().map(|member| member.own).collect::<Option<Vec<f64>>>() else {
            return waits_less;
        };
        own.sort_by(f64::total_cmp);
        let most_do = own.get(own.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
        let works_more = reporting().map(|member| member.works_more(most_do)).fold(0.0, f64::max);
        waits_less.min(works_more)
    }

    /// A member has left the communicator, or is back.
    pub(crate) fn set_left(&mut self, comm_rank: u32, left: bool) {
        let Some(member) = self.members.get_mut(&comm_rank) else { return };
        // A communicator is only gone once it had been there.
        if member.at.is_none() || member.left == left {
            return;
        }
        member.left = left;
        self.reporting = if left { self.reporting.saturating_sub(1) } else { self.reporting + 1 };
    }

    /// A member's process has ended: nothing more will come from it.
    pub(crate) fn set_ended(&mut self, comm_rank: u32) {
        let Some(member) = self.members.get(&comm_rank) else { return };
        if member.at.is_some() && !member.left {
            self.reporting = self.reporting.saturating_sub(1);
        }
        self.slowness.forget(comm_rank);
    }

    /// Whether its members divide the same work among themselves.
    pub(crate) fn is_inner(&self) -> bool {
        self.judged
    }

    /// Bytes of an operation, in the mean.
    pub(crate) fn mean_bytes(&self) -> f64 {
        let (operations, bytes) = self.moved;
        bytes as f64 / operations.max(1) as f64
    }

    /// Bytes of all operations that each member has told of, in the mean.
    pub(crate) fn bytes_each(&self) -> f64 {
        self.moved.1 as f64 / self.members.len().max(1) as f64
    }

    /// Its name as a person knows it.
    pub(crate) fn label(&self) -> String {
        if self.name.is_empty() { format!("communicator {:x}", self.id.0) } else { self.name.clone() }
    }
}
