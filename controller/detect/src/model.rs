//! What the detector knows: jobs, their processes, and the communicators in which these meet.
//!
//! A job here is one incarnation of it. Nothing is carried into the next one but a prior for its rhythm, so a fault
//! of the last incarnation cannot accuse anybody in the new one.

mod comm;
mod memberships;
mod process;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use comm::{Comm, Member};
use process::LEVEL_WINDOWS;
pub(crate) use process::{End, Fate, Process};

use crate::{
    case::Cases,
    comm_slow::{Network, Place, Where},
    config::Config,
    deadlock::Circles,
    distribution::Distribution,
    nodes::Nodes,
    observation::{
        CommId, JobId, LinkTime, Membership, ProcessId, ProcessInfo, ProcessState, Timestamp, Window,
    },
    pace::Pace,
    rhythm::Prior,
    slow::Held,
    stages::Stages,
    stats::Histogram,
    survey::{self, Survey},
    tree::{Slot, Tree},
};

/// Communicators a process may be in; a bound on what a confused agent can make us remember.
const MAX_MEMBERSHIPS: usize = 1024;
/// Times without progress that are remembered.
const QUIET_SAMPLES: u32 = 8_192;

/// Communicators of a job.
pub(crate) type Comms = Tree<CommId, Comm>;
/// Processes of a job.
pub(crate) type Processes = Tree<ProcessId, Process>;

/// One job, in one incarnation.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) incarnation: u32,
    pub(crate) world_size: Option<u32>,
    pub(crate) processes: Processes,
    pub(crate) by_rank: BTreeMap<u32, ProcessId>,
    pub(crate) comms: Comms,
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
    /// How many members of communicators were looked at then, those of several counted for each.
    pub(crate) looks: usize,
    /// Ends that wait for a verdict.
    pub(crate) pending_ends: BTreeSet<ProcessId>,
    /// Ranks that seem to wait for each other.
    pub(crate) circles: Circles,
    /// What was missing when a stall could not be pinned on anybody.
    pub(crate) undecided: Vec<String>,
    /// Claims that contradict each other.
    pub(crate) conflicts: BTreeSet<String>,
    pub(crate) last_heard: Timestamp,
    /// Whether anybody has ended or left a communicator: before that there is nothing to forget.
    pub(crate) anybody_gone: bool,
    /// For how long processes usually show no progress.
    pub(crate) quiet_us: Histogram,
    /// For how long its ranks are usually by themselves at a stretch.
    pub(crate) own_us: Histogram,
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
            processes: Tree::default(),
            by_rank: BTreeMap::new(),
            comms: Tree::default(),
            cases: Cases::default(),
            prior,
            stopping: false,
            stopping_since: Timestamp(0),
            stopped_for_cause: false,
            suspicious: BTreeSet::new(),
            examined: Timestamp(0),
            looks: 0,
            pending_ends: BTreeSet::new(),
            circles: Circles::default(),
            undecided: Vec::new(),
            conflicts: BTreeSet::new(),
            last_heard: now,
            anybody_gone: false,
            quiet_us: Histogram::new(QUIET_SAMPLES),
            own_us: Histogram::new(QUIET_SAMPLES),
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
            && self.process(before).is_some_and(Process::alive)
        {
            self.conflict(format!("rank {rank} is claimed by two processes that both live"));
        }
        self.processes.insert(info.process, Process::new(info, now));
    }

    pub(crate) fn join(&mut self, membership: Membership) {
        let Some(process) = self.processes.get_mut(&membership.process) else { return };
        let Membership { process: id, comm, name, size, comm_rank } = membership;
        if size > 0 && comm_rank >= size {
            self.conflict(format!("rank {comm_rank} of a communicator of {size}"));
            return;
        }
        if process.memberships.len() >= MAX_MEMBERSHIPS && !process.memberships.contains_key(&comm) {
            // A job that makes communicators all the time has left most of them.
            let comms = &self.comms;
            let member = |comm: &CommId, rank: &u32| comms.get(comm)?.members.get(rank);
            process.memberships.retain(|comm, rank| member(comm, rank).is_some_and(|member| !member.left));
            if process.memberships.len() >= MAX_MEMBERSHIPS {
                return;
            }
        }
        let (prior, survey) = (&self.prior, &self.survey);
        let slot = self.comms.slot(&comm).unwrap_or_else(|| {
            let mut fresh = Comm::new(comm, name, size, prior.clone());
            fresh.elsewhere = survey.elsewhere(fresh.kind, &fresh.counted);
            self.comms.insert(comm, fresh)
        });
        let Some(entry) = self.comms.at_mut(slot, &comm) else { return };
        if entry.tells_size != (size > 0) || (entry.tells_size && entry.size != size) {
            let text = format!("communicator {:x} has {} ranks, or {size}", comm.0, entry.size);
            self.conflict(text);
            return;
        }
        if !entry.tells_size {
            entry.size = entry.size.max(comm_rank.saturating_add(1));
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
            process.memberships.insert(comm, comm_rank, slot);
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

    /// Takes in a window that ended at `taken`, and marks communicators in which its process waits for long.
    pub(crate) fn take(
        &mut self,
        mut window: Window,
        nodes: &Nodes,
        config: &Config,
        taken: Timestamp,
        now: Timestamp,
    ) {
        survey::look(self, nodes, now);
        let Some(process) = self.processes.get_mut(&window.process) else { return };
        if process.end.is_some() {
            return;
        }
        process.take(&window, taken, now);
        self.last_heard = now;
        let (kernel_events, stopped) = (window.kernel_events, window.state == ProcessState::Stopped);
        let lossy = process.level_since_loss.is_some_and(|level| level < LEVEL_WINDOWS);
        let mut level = process.level_since_loss;
        let mut told: Vec<(CommId, Slot, u32, Vec<LinkTime>)> = Vec::new();
        if let Some(own) = window.own.filter(|own| own.longest_us > 0 && self.survey.settled) {
            self.own_us.push(own.longest_us as f64);
        }
        let paces = self.by_rank.first_key_value().is_some_and(|(_, first)| *first == window.process);
        let mut progressed = None;
        let mut named = 0;
        for comm_window in &mut window.comms {
            let Some((comm_rank, slot)) = process.memberships.place(&comm_window.comm) else { continue };
            named += 1;
            let Some(comm) = self.comms.at_mut(slot, &comm_window.comm) else { continue };
            if !lossy && !comm_window.links.is_empty() {
                told.push((comm.id, slot, comm_rank, std::mem::take(&mut comm_window.links)));
            }
            if paces {
                let (whole_us, undisturbed) = (self.survey.iteration_us, self.cases.is_empty());
                self.network.pace(comm.id, &comm_window.iterations, whole_us, undisturbed);
            }
            if self.pace.clock() == Some(comm.id) {
                self.pace.take(&comm_window.iterations, taken);
            }
            let duration_us = window.duration_us;
            let survey = &self.survey;
            let said =
                comm.take(comm_rank, comm_window, duration_us, kernel_events, lossy, survey, config, taken);
            progressed = progressed.max(said.progressed);
            if let Some(level) = level.as_mut().filter(|_| said.is_level) {
                *level = level.saturating_add(1);
            }
            for seconds in comm.slowness.take_latest() {
                self.lateness.add(seconds, 1);
            }
            if !comm.slowness.news.is_empty() {
                self.news.push(comm.id);
            }
            if said.waits || (stopped && comm.size > 1) {
                self.suspicious.insert(comm.id);
            }
        }
        if named < process.memberships.len() {
            // Seldom: it has left one, or has only just joined it.
            let absent = |id: &CommId| window.comms.iter().all(|comm| comm.comm != *id);
            for (id, comm_rank) in process.memberships.iter().filter(|(id, _)| absent(id)) {
                if let Some(comm) = self.comms.get_mut(id) {
                    self.anybody_gone = true;
                    comm.set_left(*comm_rank, true);
                }
            }
        }
        process.level_since_loss = level;
        if let Some(at) = progressed
            && let Some(before) = process.progressed.replace(at)
        {
            self.quiet_us.push(at.micros_since(before) as f64);
        }
        for (comm, slot, comm_rank, links) in told {
            if let Some(comm) = self.comms.at(slot, &comm) {
                take_links(&mut self.network, &self.processes, comm, comm_rank, &links, nodes, now);
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
        if !self.anybody_gone {
            return Vec::new();
        }
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
        let (processes, before) = (&self.processes, self.comms.len());
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
        if self.comms.len() < before {
            for process in self.processes.values_mut() {
                process.memberships.retain(|comm, _| self.comms.contains_key(comm));
            }
        }
        old
    }

    /// Whether a process that is told of belongs to those that are known: it is one of them, or has a rank that nobody had
    /// so far. A detector that begins in the middle of a job hears of its ranks, dead ones too, in any order.
    pub(crate) fn is_missing(&self, info: &ProcessInfo) -> bool {
        let free = info.rank.is_some_and(|rank| !self.by_rank.contains_key(&rank));
        self.processes.contains_key(&info.process) || (free && self.lacks_ranks())
    }

    /// Whether it has ranks of which nothing was ever heard.
    pub(crate) fn lacks_ranks(&self) -> bool {
        self.lacking_ranks() > 0
    }

    /// How many ranks it has of which nothing was ever heard.
    pub(crate) fn lacking_ranks(&self) -> usize {
        self.world_size.map_or(0, |size| (size as usize).saturating_sub(self.by_rank.len()))
    }

    pub(crate) fn all_ended(&self) -> bool {
        !self.processes.is_empty() && self.processes.values().all(|process| !process.alive())
    }
}

/// Takes in what a member of a communicator tells of its network links.
fn take_links(
    network: &mut Network,
    processes: &Processes,
    comm: &Comm,
    comm_rank: u32,
    links: &[LinkTime],
    nodes: &Nodes,
    now: Timestamp,
) {
    let place = |comm_rank: u32| {
        let process = comm.members.get(&comm_rank)?.process;
        let node = &processes.get(&process)?.info.node;
        Some(Place { process, node, nodes: Some(nodes) })
    };
    let at = Where { comm: comm.id, size: comm.size, name: &comm.name };
    for link in links {
        network.take(at, comm_rank, link, place, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::NodeName;

    #[test]
    fn a_process_that_makes_communicators_all_the_time_is_followed_into_the_newest() {
        let (id, now) = (ProcessId(1), Timestamp(5));
        let mut job = Job::new(JobId("j".into()), 0, None, now);
        let info = ProcessInfo {
            process: id,
            job: JobId("j".into()),
            incarnation: 0,
            rank: Some(0),
            world_size: Some(2),
            node: NodeName("n".into()),
            gpu: None,
            pid: 7,
            blind_spots: Vec::new(),
        };
        job.add_process(info, now);
        for number in 0..2 * MAX_MEMBERSHIPS as u64 {
            let comm = CommId(number);
            job.join(Membership { process: id, comm, name: String::new(), size: 2, comm_rank: 0 });
            assert!(job.process(id).expect("known").memberships.contains_key(&comm), "{number}");
            let comm = job.comms.get_mut(&comm).expect("joined");
            comm.members.get_mut(&0).expect("a member").at = Some(now);
            // The first stays.
            comm.set_left(0, number > 0);
        }
        assert!(job.process(id).expect("known").memberships.contains_key(&CommId(0)));
    }
}
