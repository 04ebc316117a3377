//! What the detector knows of jobs and ranks, for interfaces that show it.

use serde::{Deserialize, Serialize};

use crate::{
    change::ChangePoint,
    comm_slow,
    config::Config,
    distribution::Distribution,
    finding::Verdict,
    model::{Comm, Fate, Job, Member, Process},
    names,
    nodes::Nodes,
    observation::{JobId, NodeName, ProcessId, ProcessState, Timestamp},
};

/// Every state that a job is shown in, whoever needs attention first.
pub const JOB_STATES: [&str; 6] = ["faulty", "restarting", "unknown", "learning", "healthy", "ended"];

/// Where jobs in this state belong in a list: the place in [`JOB_STATES`], or behind all of them.
#[must_use]
pub fn urgency(state: &str) -> usize {
    JOB_STATES.iter().position(|known| *known == state).unwrap_or(JOB_STATES.len())
}

/// One job, in its newest incarnation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Its newest incarnation.
    pub incarnation: u32,
    /// Number of ranks, where known.
    pub world_size: Option<u32>,
    /// What can be said of it.
    pub verdict: Verdict,
    /// Learned duration of an iteration.
    pub iteration_ns: Option<u64>,
    /// How much iterations usually differ from each other: a standard deviation, as a share.
    #[serde(default)]
    pub iteration_noise: Option<f64>,
    /// Iterations seen to end since this incarnation began (the least over its ranks).
    pub iterations: u64,
    /// Its ranks, by rank.
    pub ranks: Vec<RankView>,
    /// When its iteration time changed, oldest first.
    #[serde(default)]
    pub changes: Vec<ChangePoint>,
    /// How long its iterations took, in seconds.
    #[serde(default)]
    pub iteration_times: Distribution,
    /// How late the latest rank of a communicator was, in seconds an iteration.
    #[serde(default)]
    pub lateness: Distribution,
    /// The delay matrix: directed links between ranks, the slowest in comparison with their kind first.
    #[serde(default)]
    pub links: Vec<LinkView>,
}

/// A directed link between two ranks, as its network steps were measured last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    /// Global rank that sends.
    pub src: u32,
    /// Global rank that receives.
    pub dst: u32,
    /// Its network time in that of links of its kind.
    pub times_usual: f64,
    /// Whether it is called slow.
    pub slow: bool,
}

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    /// Making progress, or between collectives.
    Running,
    /// In a collective for longer than usual.
    Waiting,
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Ended while needed.
    Dead,
    /// Ended properly.
    Ended,
    /// Its agent is out of sight, or it cannot be observed.
    Unknown,
}

impl RankState {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RankState::Running => "running",
            RankState::Waiting => "waiting",
            RankState::Stopped => "stopped",
            RankState::Dead => "dead",
            RankState::Ended => "ended",
            RankState::Unknown => "unknown",
        }
    }
}

/// One rank of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankView {
    /// Global rank, where known.
    pub rank: Option<u32>,
    /// Its process.
    pub process: ProcessId,
    /// Its node.
    pub node: NodeName,
    /// Its GPU.
    pub gpu: Option<u32>,
    /// Its process id, for people.
    pub pid: u32,
    /// What it is doing.
    pub state: RankState,
    /// Positions on its largest communicator.
    pub enqueued: u64,
    /// See `enqueued`.
    pub started: u64,
    /// See `enqueued`.
    pub completed: u64,
    /// What its NCCL does not show.
    pub blind_spots: Vec<String>,
}

/// Links of the delay matrix that are shown.
const MAX_LINKS: usize = 128;
/// How many reasons for not knowing are listed.
const MAX_MISSING: usize = 16;

/// What is known of one job at `now`.
pub(crate) fn of(job: &Job, nodes: &Nodes, config: &Config, now: Timestamp) -> JobView {
    let largest = largest_comm(job);
    let mut ranks: Vec<RankView> =
        job.processes.iter().map(|(id, process)| rank_view(job, *id, process, nodes, config, now)).collect();
    ranks.sort_by_key(|rank| (rank.rank.is_none(), rank.rank, rank.process));
    let any_unknown = ranks.iter().any(|rank| rank.state == RankState::Unknown);
    let members = largest.map(|comm| &comm.members);
    let iterations = members.and_then(|members| members.values().map(|m| m.iterations).min()).unwrap_or(0);
    JobView {
        job: job.id.clone(),
        incarnation: job.incarnation,
        world_size: job.world_size,
        verdict: crate::detector::verdict(job, missing(job, nodes, config, now, any_unknown)),
        iteration_ns: largest.and_then(|comm| comm.rhythm.iteration_us()).map(|us| us.saturating_mul(1_000)),
        iteration_noise: job.pace.noise(),
        iterations,
        ranks,
        changes: job.pace.history().cloned().collect(),
        iteration_times: job.pace.durations().clone(),
        lateness: job.lateness.clone(),
        links: links(job),
    }
}

/// The delay matrix by global ranks: of several communicators and sizes of steps, what stands out most.
fn links(job: &Job) -> Vec<LinkView> {
    let rank = |process: ProcessId| job.process(process).and_then(|process| process.info.rank);
    let mut delays = comm_slow::delays_at_once(job, MAX_LINKS);
    delays.sort_by(|a, b| b.times.total_cmp(&a.times));
    let mut links: Vec<LinkView> = Vec::new();
    for delay in delays {
        let (Some(src), Some(dst)) = (rank(delay.src), rank(delay.dst)) else { continue };
        if !links.iter().any(|link| (link.src, link.dst) == (src, dst)) {
            links.push(LinkView { src, dst, times_usual: delay.times, slow: delay.slow });
        }
    }
    links
}

/// The communicator with most ranks, and of those the one that got furthest.
fn largest_comm(job: &Job) -> Option<&Comm> {
    job.comms.values().max_by_key(|comm| (comm.size, comm.completed_max))
}

fn rank_view(
    job: &Job,
    id: ProcessId,
    process: &Process,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
) -> RankView {
    // Below this nobody hangs anywhere, so what is normal in each communicator need not be asked.
    let least_us = config.hang_floor_ms.min(config.learning_hang_ms).saturating_mul(500).max(1);
    let (mut largest, mut waits): (Option<(&Comm, &Member)>, bool) = (None, false);
    for (id, rank) in process.memberships.iter() {
        let Some(comm) = job.comms.get(id) else { continue };
        let Some(member) = comm.members.get(rank) else { continue };
        let wait_us = member.wait_us(process.kernel_events);
        waits |= wait_us >= least_us && wait_us >= comm.rhythm.hang_us(config) / 2;
        let extent = |comm: &Comm| (comm.size, comm.completed_max);
        if largest.is_none_or(|(known, _)| extent(comm) >= extent(known)) {
            largest = Some((comm, member));
        }
    }
    let member = largest.map(|(_, member)| member);
    let state = match &process.end {
        Some(end) if end.fate == Fate::Death => RankState::Dead,
        Some(_) => RankState::Ended,
        None if process.blind_because(nodes, config, now).is_some() => RankState::Unknown,
        None if process.state == ProcessState::Stopped => RankState::Stopped,
        None if waits => RankState::Waiting,
        None => RankState::Running,
    };
    RankView {
        rank: process.info.rank,
        process: id,
        node: process.info.node.clone(),
        gpu: process.info.gpu,
        pid: process.info.pid,
        state,
        enqueued: member.map_or(0, |m| m.enqueued),
        started: member.map_or(0, |m| m.started),
        completed: member.map_or(0, |m| m.completed),
        blind_spots: process.info.blind_spots.clone(),
    }
}

/// Evidence that is missing for a verdict on the job.
fn missing(job: &Job, nodes: &Nodes, config: &Config, now: Timestamp, any_unknown: bool) -> Vec<String> {
    let mut missing = job.undecided.clone();
    missing.extend(job.conflicts.iter().cloned());
    for (id, process) in job.processes.iter().filter(|_| any_unknown) {
        if missing.len() >= MAX_MISSING {
            break;
        }
        if let Some(why) = process.blind_because(nodes, config, now) {
            let text = format!("{}: {why}", names::short(job, *id));
            if !missing.contains(&text) {
                missing.push(text);
            }
        }
    }
    if let Some(world_size) = job.world_size {
        let known = job.by_rank.len();
        let oldest = job.processes.values().map(|process| process.first_seen).min().unwrap_or(now);
        let waited = now.micros_since(oldest) > config.stale_ms.saturating_mul(1_000);
        if known > 0 && (known as u64) < u64::from(world_size) && waited {
            missing.push(format!("only {known} of {world_size} ranks were ever seen"));
        }
    }
    missing
}
