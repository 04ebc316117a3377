//! What the detector knows: jobs, their processes, and the communicators in which these meet.
//!
//! A job here is one incarnation of it. Nothing is carried into the next one but a prior for its rhythm, so a fault
//! of the last incarnation cannot accuse anybody in the new one.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    case::Cases,
    comm_slow::{Network, Place, Where},
    config::Config,
    desync::Order,
    distribution::Distribution,
    nodes::Nodes,
    observation::{
        Block, CommId, CommWindow, InFlight, JobId, LinkTime, Membership, PendingPeer, ProcessId,
        ProcessInfo, ProcessState, Timestamp, Window,
    },
    pace::Pace,
    patience,
    rhythm::{Prior, Rhythm},
    signature,
    slow::{Counts, Held, Setting, Slowness},
    stages::Stages,
    stats::Histogram,
    survey::{self, Survey},
};

/// Communicators a process may be in; a bound on what a confused agent can make us remember.
const MAX_MEMBERSHIPS: usize = 1024;
/// Part of a new window in the share of time that a member spends in collectives.
const BUSY_WEIGHT: f64 = 0.1;
/// Names of functions remembered of a communicator.
const MAX_FUNCTIONS: usize = 4;
/// Times without progress that are remembered.
const QUIET_SAMPLES: u32 = 8_192;
/// Windows in which a rank that lost events must be level with its peers before its positions count again.
const LEVEL_WINDOWS: u32 = 5;

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) at: Timestamp,
    /// When the detector learned of it.
    pub(crate) told: Timestamp,
    pub(crate) finalized: bool,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) fate: Fate,
}

/// What the detector made of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not decided.
    Pending,
    /// A proper end, unless others turn out to need it.
    Orderly,
    /// A death, or the consequence of another fault.
    Death,
}

/// One training process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) info: ProcessInfo,
    /// Communicators it is in, with its rank there.
    pub(crate) memberships: BTreeMap<CommId, u32>,
    pub(crate) first_seen: Timestamp,
    /// When its last window was taken.
    pub(crate) seen: Option<Timestamp>,
    pub(crate) state: ProcessState,
    pub(crate) kernel_events: bool,
    pub(crate) profiling: bool,
    dropped: u64,
    unread: u64,
    /// Windows in which it was level with its peers since it last lost events; absent if it never did.
    pub(crate) level_since_loss: Option<u32>,
    pub(crate) end: Option<End>,
    /// When it last showed progress.
    pub(crate) progressed: Option<Timestamp>,
}

impl Process {
    fn new(info: ProcessInfo, now: Timestamp) -> Self {
        Self {
            info,
            memberships: BTreeMap::new(),
            first_seen: now,
            seen: None,
            state: ProcessState::Unknown,
            kernel_events: false,
            profiling: false,
            dropped: 0,
            unread: 0,
            level_since_loss: None,
            end: None,
            progressed: None,
        }
    }

    pub(crate) fn alive(&self) -> bool {
        self.end.is_none()
    }

    fn take(&mut self, window: &Window, now: Timestamp) {
        self.seen = Some(now);
        self.state = window.state;
        self.kernel_events = window.kernel_events;
        self.profiling = window.profiling;
        if window.dropped > self.dropped || window.unread > self.unread {
            self.level_since_loss = Some(0);
        }
        self.dropped = self.dropped.max(window.dropped);
        self.unread = self.unread.max(window.unread);
    }

    /// Why the absence of events from this process says nothing at the moment, if so.
    pub(crate) fn blind_because(&self, nodes: &Nodes, config: &Config, now: Timestamp) -> Option<String> {
        if !self.alive() {
            return None;
        }
        let node = &self.info.node.0;
        if nodes.is_lost(&self.info.node) {
            return Some(format!("the agent of {node} is out of sight"));
        }
        let since = self.seen.unwrap_or(self.first_seen);
        if now.micros_since(since) > config.stale_ms.saturating_mul(1_000) {
            return Some(format!("nothing was heard of it from the agent of {node} for a while"));
        }
        if self.seen.is_some() && !self.profiling {
            return Some("profiling is off in it".to_owned());
        }
        match self.level_since_loss {
            Some(level) if level < LEVEL_WINDOWS => Some("its events were dropped".to_owned()),
            _ => None,
        }
    }
}

/// One process as a member of one communicator.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) process: ProcessId,
    pub(crate) enqueued: u64,
    pub(crate) started: u64,
    pub(crate) completed: u64,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) idle_us: u64,
    pub(crate) edges: Vec<crate::observation::Edge>,
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
}

impl Member {
    fn new(process: ProcessId) -> Self {
        Self {
            process,
            enqueued: 0,
            started: 0,
            completed: 0,
            in_flight: None,
            idle_us: 0,
            edges: Vec::new(),
            pending_peers: Vec::new(),
            at: None,
            left: false,
            iterations: 0,
            busy: 0.0,
            own: None,
        }
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

/// One communicator.
#[derive(Debug)]
pub(crate) struct Comm {
    pub(crate) id: CommId,
    pub(crate) name: String,
    pub(crate) size: u32,
    /// The same for communicators of one name and size.
    pub(crate) kind: u64,
    /// By rank in the communicator.
    pub(crate) members: BTreeMap<u32, Member>,
    pub(crate) completed_max: u64,
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
    pub(crate) counted: Counts,
    /// Functions seen in it.
    pub(crate) functions: BTreeSet<String>,
    /// Operations and bytes told of, by all members.
    moved: (u64, u64),
}

/// One job, in one incarnation.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) incarnation: u32,
    pub(crate) world_size: Option<u32>,
    pub(crate) processes: BTreeMap<ProcessId, Process>,
    pub(crate) by_rank: BTreeMap<u32, ProcessId>,
    pub(crate) comms: BTreeMap<CommId, Comm>,
    pub(crate) cases: Cases,
    pub(crate) prior: Option<Prior>,
    /// Somebody is stopping it on purpose.
    pub(crate) stopping: bool,
    /// Since when.
    pub(crate) stopping_since: Timestamp,
    /// Somebody had died or hung before it was stopped.
    pub(crate) stopped_for_cause: bool,
    /// Communicators in which somebody has waited for long.
    pub(crate) suspicious: BTreeSet<CommId>,
    pub(crate) examined: Timestamp,
    /// Ends that wait for a verdict.
    pub(crate) pending_ends: BTreeSet<ProcessId>,
    /// What was missing when a stall could not be pinned on anybody.
    pub(crate) undecided: Vec<String>,
    /// Claims that contradict each other.
    pub(crate) conflicts: BTreeSet<String>,
    pub(crate) last_heard: Timestamp,
    /// For how long processes usually show no progress.
    pub(crate) quiet_us: Histogram,
    /// Communicators whose blocks have told something.
    pub(crate) news: Vec<CommId>,
    pub(crate) network: Network,
    /// Late ranks that may be late because of a slow link.
    pub(crate) held: Vec<Held>,
    pub(crate) survey: Survey,
    /// How its iteration time went.
    pub(crate) pace: Pace,
    /// How late the latest rank of a communicator was, in seconds an iteration.
    pub(crate) lateness: Distribution,
    /// What its roles are, and whether one has more to do.
    pub(crate) stages: Stages,
}

impl Job {
    pub(crate) fn new(id: JobId, incarnation: u32, prior: Option<Prior>, now: Timestamp) -> Self {
        Self {
            id,
            incarnation,
            world_size: None,
            processes: BTreeMap::new(),
            by_rank: BTreeMap::new(),
            comms: BTreeMap::new(),
            cases: Cases::default(),
            prior,
            stopping: false,
            stopping_since: Timestamp(0),
            stopped_for_cause: false,
            suspicious: BTreeSet::new(),
            examined: Timestamp(0),
            pending_ends: BTreeSet::new(),
            undecided: Vec::new(),
            conflicts: BTreeSet::new(),
            last_heard: now,
            quiet_us: Histogram::new(QUIET_SAMPLES),
            news: Vec::new(),
            network: Network::default(),
            held: Vec::new(),
            survey: Survey::default(),
            pace: Pace::default(),
            lateness: Distribution::default(),
            stages: Stages::default(),
        }
    }

    pub(crate) fn add_process(&mut self, info: ProcessInfo, now: Timestamp) {
        if let Some(known) = self.processes.get_mut(&info.process) {
            known.info = info;
            return;
        }
        self.world_size = self.world_size.max(info.world_size);
        if let Some(rank) = info.rank
            && let Some(before) = self.by_rank.insert(rank, info.process)
            && self.processes.get(&before).is_some_and(Process::alive)
        {
            self.conflict(format!("rank {rank} is claimed by two processes that both live"));
        }
        self.processes.insert(info.process, Process::new(info, now));
    }

    pub(crate) fn join(&mut self, membership: Membership) {
        let Some(process) = self.processes.get_mut(&membership.process) else { return };
        let Membership { process: id, comm, name, size, comm_rank } = membership;
        if comm_rank >= size {
            self.conflict(format!("rank {comm_rank} of a communicator of {size}"));
            return;
        }
        if process.memberships.len() >= MAX_MEMBERSHIPS && !process.memberships.contains_key(&comm) {
            return;
        }
        let prior = self.prior.clone();
        let kind =
            signature::fnv(signature::fnv(signature::fnv_start(), name.as_bytes()), &size.to_le_bytes());
        let entry = self.comms.entry(comm).or_insert_with(|| Comm {
            id: comm,
            name,
            size,
            kind,
            members: BTreeMap::new(),
            completed_max: 0,
            reporting: 0,
            rhythm: Rhythm::new(prior),
            order: Order::default(),
            slowness: Slowness::default(),
            judged: true,
            first: None,
            classes: BTreeMap::new(),
            counted: Counts::default(),
            functions: BTreeSet::new(),
            moved: (0, 0),
        });
        if entry.size != size {
            let text = format!("communicator {:x} has {} ranks, or {size}", comm.0, entry.size);
            self.conflict(text);
            return;
        }
        match entry.members.get(&comm_rank) {
            Some(member) if member.process == id => {}
            Some(member) if self.processes.get(&member.process).is_some_and(Process::alive) => {
                let text = format!("rank {comm_rank} of communicator {:x} is claimed twice", comm.0);
                self.conflict(text);
                return;
            }
            _ => {
                entry.slowness.forget(comm_rank);
                entry.members.insert(comm_rank, Member::new(id));
            }
        }
        self.survey.changed = true;
        if let Some(process) = self.processes.get_mut(&id) {
            process.memberships.insert(comm, comm_rank);
        }
    }

    /// Whether it is past its first iterations.
    pub(crate) fn settled(&self) -> bool {
        self.survey.settled
    }

    /// When it was first looked at.
    pub(crate) fn began(&self) -> Option<Timestamp> {
        self.survey.began
    }

    fn conflict(&mut self, text: String) {
        if self.conflicts.len() < 16 {
            self.conflicts.insert(text);
        }
    }

    /// Takes a window in and marks communicators in which its process waits for long.
    pub(crate) fn take(&mut self, window: Window, nodes: &Nodes, config: &Config, now: Timestamp) {
        survey::look(self, nodes, now);
        let Some(process) = self.processes.get_mut(&window.process) else { return };
        if process.end.is_some() {
            return;
        }
        process.take(&window, now);
        self.last_heard = now;
        let (kernel_events, stopped) = (window.kernel_events, window.state == ProcessState::Stopped);
        let lossy = process.level_since_loss.is_some_and(|level| level < LEVEL_WINDOWS);
        let mut level = process.level_since_loss;
        let mut told: Vec<(CommId, u32, Vec<LinkTime>)> = Vec::new();
        if let Some(at) = patience::progress(&self.comms, process, &window, now)
            && let Some(before) = process.progressed.replace(at)
        {
            self.quiet_us.push(at.micros_since(before) as f64);
        }
        let named = window.comms.iter().filter(|comm| process.memberships.contains_key(&comm.comm)).count();
        if named < process.memberships.len() {
            // Seldom: it has left one, or has only just joined it.
            let absent = |id: &CommId| window.comms.iter().all(|comm| comm.comm != *id);
            for (id, comm_rank) in process.memberships.iter().filter(|(id, _)| absent(id)) {
                if let Some(comm) = self.comms.get_mut(id) {
                    comm.set_left(*comm_rank, true);
                }
            }
        }
        let paces = self.by_rank.first_key_value().is_some_and(|(_, first)| *first == window.process);
        for mut comm_window in window.comms {
            let Some(comm_rank) = process.memberships.get(&comm_window.comm) else { continue };
            let Some(comm) = self.comms.get_mut(&comm_window.comm) else { continue };
            if !lossy && !comm_window.links.is_empty() {
                told.push((comm.id, *comm_rank, std::mem::take(&mut comm_window.links)));
            }
            if paces {
                self.network.pace(&comm_window.iterations, self.survey.iteration_us, self.cases.is_empty());
            }
            comm.note_busy(*comm_rank, &comm_window.blocks, window.duration_us);
            if self.pace.clock() == Some(comm.id) {
                self.pace.take(&comm_window.iterations, now);
            }
            let waits = comm.take(*comm_rank, comm_window, kernel_events, lossy, &self.survey, config, now);
            if let Some(level) = &mut level
                && comm.members.get(comm_rank).is_some_and(|m| m.completed >= comm.completed_max)
            {
                *level = level.saturating_add(1);
            }
            for seconds in comm.slowness.take_latest() {
                self.lateness.add(seconds, 1);
            }
            if !comm.slowness.news.is_empty() {
                self.news.push(comm.id);
            }
            if waits || (stopped && comm.size > 1) {
                self.suspicious.insert(comm.id);
            }
        }
        process.level_since_loss = level;
        for (comm, comm_rank, links) in told {
            self.take_links(comm, comm_rank, &links, nodes, now);
        }
    }

    /// Takes in what a member of a communicator tells of its network links.
    fn take_links(&mut self, id: CommId, comm_rank: u32, links: &[LinkTime], nodes: &Nodes, now: Timestamp) {
        let Some(comm) = self.comms.get(&id) else { return };
        let place = |comm_rank: u32| {
            let process = comm.members.get(&comm_rank)?.process;
            let node = &self.processes.get(&process)?.info.node;
            Some(Place { comm_rank, process, node, nics: nodes.nic_class(node) })
        };
        let Some(own) = place(comm_rank) else { return };
        let name = signature::fnv(signature::fnv_start(), comm.name.as_bytes());
        let at = Where { comm: id, size: comm.size, name };
        for link in links {
            if let Some(peer) = place(link.peer) {
                self.network.take(at, own, peer, link, now);
            }
        }
    }

    /// How long an iteration of the job takes, 0 while that is not known.
    pub(crate) fn iteration_us(&self) -> u64 {
        self.survey.iteration_us
    }

    /// The process of a member.
    pub(crate) fn process(&self, id: ProcessId) -> Option<&Process> {
        self.processes.get(&id)
    }

    /// Forgets processes that ended long ago, and communicators that nobody is in any more.
    pub(crate) fn forget_ended(&mut self, now: Timestamp, forget_us: u64) -> Vec<ProcessId> {
        let gone = |process: &Process| {
            let end = process.end.as_ref();
            end.is_some_and(|end| now.micros_since(end.told) >= forget_us)
        };
        let old: Vec<ProcessId> =
            self.processes.iter().filter(|(_, process)| gone(process)).map(|(id, _)| *id).collect();
        for id in &old {
            self.processes.remove(id);
            self.pending_ends.remove(id);
        }
        if !old.is_empty() {
            self.by_rank.retain(|_, id| self.processes.contains_key(id));
        }
        let processes = &self.processes;
        self.comms.retain(|id, comm| {
            comm.members.values().any(|member| {
                // A communicator that its process has left is kept as long as others may wait in it.
                processes.get(&member.process).is_some_and(|process| {
                    !member.left && process.alive() && process.memberships.contains_key(id)
                })
            }) || comm.members.values().any(|member| {
                let at = member.at.unwrap_or_default();
                processes.contains_key(&member.process) && now.micros_since(at) < forget_us
            })
        });
        old
    }

    pub(crate) fn all_ended(&self) -> bool {
        !self.processes.is_empty() && self.processes.values().all(|process| !process.alive())
    }
}

impl Comm {
    #[expect(clippy::too_many_arguments, reason = "one call, which passes everything on")]
    /// Returns whether the member waits for longer than is normal here.
    fn take(
        &mut self,
        comm_rank: u32,
        window: CommWindow,
        kernel_events: bool,
        lossy: bool,
        survey: &Survey,
        config: &Config,
        now: Timestamp,
    ) -> bool {
        let Some(member) = self.members.get_mut(&comm_rank) else { return false };
        if member.at.replace(now).is_none() || std::mem::take(&mut member.left) {
            self.reporting += 1;
        }
        member.enqueued = window.enqueued;
        member.started = window.started.min(window.enqueued);
        member.completed = window.completed.min(member.started);
        member.in_flight = window.in_flight;
        member.idle_us = window.idle_us;
        member.edges = window.edges;
        member.edges.truncate(1024);
        member.pending_peers = window.pending_peers;
        member.pending_peers.truncate(1024);
        let ended = window.iterations.iter().map(|iteration| u64::from(iteration.count)).sum();
        member.iterations = member.iterations.saturating_add(ended);
        self.completed_max = self.completed_max.max(member.completed);
        let pending = member.pending_peers.iter().filter(|pending| pending.started).map(|p| p.age_us).max();
        let wait_us = member.wait_us(kernel_events).max(pending.unwrap_or(0));
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
            if let Some(op) = &member.in_flight {
                self.order.take(op.sequence, 1, signature::hash(&op.signature));
            }
            let setting = Setting {
                members: self.reporting,
                shape: self.rhythm.shape(),
                iteration_us: survey.iteration_us,
                judged: self.judged && survey.settled,
                first: self.first,
                elsewhere: survey.elsewhere(self.kind, &self.counted),
                classes: &self.classes,
            };
            self.slowness.take(comm_rank, &window.blocks, &setting, config, now);
        }
        // Half the threshold: a wait that is the consequence of another may be younger than it.
        wait_us.saturating_mul(2) >= self.rhythm.hang_us(config).min(config.stopped_floor_ms * 2_000)
    }

    /// Notes how much of a window a member spent in collectives.
    fn note_busy(&mut self, comm_rank: u32, blocks: &[Block], duration_us: u64) {
        let Some(member) = self.members.get_mut(&comm_rank) else { return };
        if duration_us == 0 {
            return;
        }
        let wait_ns: u64 = blocks.iter().fold(0, |sum, block| sum.saturating_add(block.wait_ns));
        let share = wait_ns as f64 / (duration_us as f64 * 1e3);
        member.busy += (share - member.busy) * BUSY_WEIGHT;
        if blocks.iter().any(|block| block.own_ns.is_some()) || member.own.is_some() {
            let own_ns =
                blocks.iter().fold(0, |sum: u64, block| sum.saturating_add(block.own_ns.unwrap_or(0)));
            let own = member.own.get_or_insert(0.0);
            *own += (own_ns as f64 / (duration_us as f64 * 1e3) - *own) * BUSY_WEIGHT;
        }
    }

    /// Share of the time that its operations take by themselves: whoever comes last waits for nobody.
    pub(crate) fn busy(&self) -> f64 {
        let reporting = self.members.values().filter(|member| member.at.is_some() && !member.left);
        reporting.map(|member| member.busy).min_by(f64::total_cmp).map_or(0.0, |busy| busy.min(1.0))
    }

    /// By how much some member seems to be late, as a share of the time: it waits less than most do, and, where that is
    /// told, some member spends more time by itself than most do.
    pub(crate) fn lateness(&self) -> f64 {
        let reporting = || self.members.values().filter(|member| member.at.is_some() && !member.left);
        let mut busy: Vec<f64> = reporting().map(|member| member.busy).collect();
        busy.sort_by(f64::total_cmp);
        let waits_less = busy.first().map_or(0.0, |least| busy[busy.len() / 2] - least);
        let Some(mut own) = reporting().map(|member| member.own).collect::<Option<Vec<f64>>>() else {
            return waits_less;
        };
        own.sort_by(f64::total_cmp);
        let works_more = own.last().map_or(0.0, |most| most - own[(own.len() - 1) / 2]);
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

    /// Its name as a person knows it.
    pub(crate) fn label(&self) -> String {
        if self.name.is_empty() { format!("communicator {:x}", self.id.0) } else { self.name.clone() }
    }
}
