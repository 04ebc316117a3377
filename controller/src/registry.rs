//! Whose process, rank and communicator is whose, and who contradicts whom.
//!
//! The detector believes what it is told. This is where it is decided what it is told: a process belongs to the node
//! that announced it, positions only grow, a communicator has one size. What breaks such a rule is refused. Two claims
//! that each could be true (one rank claimed by two live processes, one name used by two jobs) are both kept and
//! reported as a conflict: no finding is made of them, and nothing is done to the job, until one of them is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use c4_detect::{
    finding::Finding,
    observation::{
        CommId, CommWindow, JobId, Membership, NodeName, ProcessEnd, ProcessId, ProcessInfo, Timestamp,
        Window,
    },
};

mod claims;
mod refusal;
#[cfg(test)]
mod tests;

use claims::Claims;
pub use refusal::Refusal;

/// Processes remembered at most; more are refused. Above the 100,000 ranks a controller is made for.
const MAX_PROCESSES: usize = 300_000;
/// Communicators of one process, at most. Of a process that makes new ones all the time those are forgotten that were not told of for longest.
const MAX_PLACES: usize = 1024;
/// Ended processes are forgotten after this time (10 min), when nobody can still be talking of them.
const FORGET_US: u64 = 600 * 1_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Positions {
    enqueued: u64,
    started: u64,
    completed: u64,
}

/// Where a process is in a communicator, and how far it has come there.
#[derive(Debug)]
struct Place {
    comm: CommId,
    rank: u32,
    /// The process's last window that told of it, by number, or the one before it joined.
    told: u32,
    positions: Positions,
}

#[derive(Debug)]
struct Process {
    info: ProcessInfo,
    /// By communicator. Few, so a sorted array is quickest, and small.
    comms: Vec<Place>,
    /// Windows that it has told.
    windows: u32,
    ended_at: Option<Timestamp>,
    progressed: bool,
    /// Whether its claims count: it has not ended and its node is in sight.
    live: bool,
}

impl Process {
    /// The index of its place in a communicator, or the one where that belongs.
    fn find(&self, comm: CommId) -> Result<usize, usize> {
        self.comms.binary_search_by_key(&comm, |place| place.comm)
    }

    fn place(&self, comm: CommId) -> Option<&Place> {
        self.find(comm).ok().map(|index| &self.comms[index])
    }

    /// Takes out the communicators that were not told of for longest, at most half of them.
    fn take_oldest(&mut self) -> Vec<Place> {
        let mut told: Vec<u32> = self.comms.iter().map(|place| place.told).collect();
        told.sort_unstable();
        let middle = told.get(told.len() / 2).copied().unwrap_or(0);
        self.comms.extract_if(.., |place| place.told < middle).collect()
    }
}

#[derive(Debug)]
struct Comm {
    /// 0 where NCCL does not tell.
    size: u32,
    members: HashSet<ProcessId>,
    claims: Claims,
}

/// One incarnation of one job.
#[derive(Debug, Default)]
struct Run {
    processes: HashSet<ProcessId>,
    ranks: Claims,
    sizes: BTreeMap<u32, usize>,
    progressed: usize,
    progress_told: bool,
}

impl Run {
    fn expected(&self) -> usize {
        let size = self.sizes.keys().next_back().copied().unwrap_or(0) as usize;
        if size > 0 { size } else { self.processes.len() }
    }
}

/// What an announcement was.
#[derive(Debug, PartialEq, Eq)]
pub enum Announced {
    /// The first of its incarnation of the job.
    NewRun,
    /// Another process of a known incarnation.
    NewProcess,
    /// A process known before.
    Known,
    /// A process that has ended: its agent has not heard yet that this is known.
    Gone,
}

/// All ranks of an incarnation have completed a collective, for the first time.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// The job.
    pub job: JobId,
    /// The incarnation.
    pub incarnation: u32,
}

/// The table of processes, communicators and jobs.
#[derive(Debug, Default)]
pub struct Registry {
    processes: HashMap<ProcessId, Process>,
    comms: HashMap<CommId, Comm>,
    jobs: BTreeMap<JobId, BTreeMap<u32, Run>>,
    by_node: HashMap<NodeName, HashSet<ProcessId>>,
    /// Communicators with a rank that is claimed twice: normally none, so that looking for conflicts costs nothing.
    contested_comms: BTreeSet<CommId>,
}

impl Registry {
    /// A process is announced by the node in `info`.
    pub fn announce(&mut self, info: &ProcessInfo) -> Result<Announced, Refusal> {
        let announced = if let Some(known) = self.processes.get(&info.process) {
            unchanged(&known.info, info)?;
            if known.ended_at.is_some() {
                return Ok(Announced::Gone);
            }
            Announced::Known
        } else {
            if self.processes.len() >= MAX_PROCESSES {
                return Err(Refusal::Full);
            }
            let runs = self.jobs.entry(info.job.clone()).or_default();
            let fresh = !runs.contains_key(&info.incarnation);
            runs.entry(info.incarnation).or_default().processes.insert(info.process);
            self.by_node.entry(info.node.clone()).or_default().insert(info.process);
            if fresh { Announced::NewRun } else { Announced::NewProcess }
        };
        self.set_live(info.process, false);
        let process = self.processes.entry(info.process).or_insert_with(|| Process {
            info: info.clone(),
            comms: Vec::new(),
            windows: 0,
            ended_at: None,
            progressed: false,
            live: false,
        });
        process.info = info.clone();
        self.set_live(info.process, true);
        Ok(announced)
    }

    /// `node` says that a process joined a communicator. Returns false if the process has ended meanwhile.
    pub fn join(&mut self, member: &Membership, node: &NodeName) -> Result<bool, Refusal> {
        match self.owned(member.process, node) {
            Err(Refusal::Ended { .. }) => return Ok(false),
            other => other?,
        }
        self.make_room(member)?;
        let comm = self.comms.entry(member.comm).or_insert_with(|| Comm {
            size: member.size,
            members: HashSet::new(),
            claims: Claims::default(),
        });
        if comm.size != member.size {
            return Err(Refusal::SizeChanged { comm: member.comm.0, before: comm.size, now: member.size });
        }
        let Some(process) = self.processes.get_mut(&member.process) else { return Ok(false) };
        match process.find(member.comm).map(|index| process.comms[index].rank) {
            Ok(before) if before != member.comm_rank => {
                return Err(Refusal::RankChanged {
                    process: member.process.0,
                    comm: member.comm.0,
                    before,
                    now: member.comm_rank,
                });
            }
            Ok(_) => {}
            Err(index) => {
                let (id, rank, told) = (member.comm, member.comm_rank, process.windows);
                process.comms.insert(index, Place { comm: id, rank, told, positions: Positions::default() });
                comm.members.insert(member.process);
                comm.claims.add(member.comm_rank, member.process);
                if comm.claims.any_contested() {
                    self.contested_comms.insert(member.comm);
                }
            }
        }
        Ok(true)
    }

    /// Has a process that is to join a communicator forget others, if it is in too many.
    fn make_room(&mut self, member: &Membership) -> Result<(), Refusal> {
        let Some(process) = self.processes.get_mut(&member.process) else { return Ok(()) };
        if process.comms.len() < MAX_PLACES || process.find(member.comm).is_ok() {
            return Ok(());
        }
        let forgotten = process.take_oldest();
        if forgotten.is_empty() {
            return Err(Refusal::TooManyCommunicators { process: member.process.0 });
        }
        forgotten.iter().for_each(|place| self.leave(member.process, place));
        Ok(())
    }

    /// A process is no longer in a communicator; one without members is forgotten.
    fn leave(&mut self, process: ProcessId, place: &Place) {
        let Some(comm) = self.comms.get_mut(&place.comm) else { return };
        comm.members.remove(&process);
        comm.claims.set(place.rank, process, false);
        if !comm.claims.any_contested() {
            self.contested_comms.remove(&place.comm);
        }
        if comm.members.is_empty() {
            self.comms.remove(&place.comm);
        }
    }

    /// `node` says what a process did. Tells when with this all ranks of the run have made progress.
    pub fn window(&mut self, window: &Window, node: &NodeName) -> Result<Option<Progress>, Refusal> {
        let known = self.processes.get_mut(&window.process);
        check_owner(window.process, known.as_deref(), node)?;
        let Some(process) = known else { return Ok(None) };
        for seen in &window.comms {
            let (id, comm) = (window.process.0, seen.comm.0);
            let Some(Place { positions: before, .. }) = process.place(seen.comm) else {
                return Err(Refusal::NotJoined { process: id, comm });
            };
            for (what, before, now) in [
                ("enqueued", before.enqueued, seen.enqueued),
                ("started", before.started, seen.started),
                ("completed", before.completed, seen.completed),
            ] {
                if now < before {
                    return Err(Refusal::WentBack { process: id, comm, what, before, now });
                }
            }
            let size =
                if seen.edges.is_empty() { 0 } else { self.comms.get(&seen.comm).map_or(0, |c| c.size) };
            // 0: NCCL does not tell.
            if let Some(edge) = seen.edges.iter().find(|edge| size > 0 && edge.peer >= size) {
                return Err(Refusal::NoSuchPeer { process: id, comm, peer: edge.peer, size });
            }
        }
        let mut completed = 0;
        process.windows = process.windows.saturating_add(1);
        for seen in &window.comms {
            if let Ok(index) = process.find(seen.comm) {
                let CommWindow { enqueued, started, completed, .. } = *seen;
                let place = &mut process.comms[index];
                place.positions = Positions { enqueued, started, completed };
                place.told = process.windows;
            }
            completed = completed.max(seen.completed);
        }
        if completed == 0 || process.progressed {
            return Ok(None);
        }
        process.progressed = true;
        let (job, incarnation) = (process.info.job.clone(), process.info.incarnation);
        let Some(run) = self.jobs.get_mut(&job).and_then(|runs| runs.get_mut(&incarnation)) else {
            return Ok(None);
        };
        run.progressed += 1;
        if run.progress_told || run.progressed < run.expected() {
            return Ok(None);
        }
        run.progress_told = true;
        Ok(Some(Progress { job, incarnation }))
    }

    /// `node` says that a process ended. Returns whether that was news.
    pub fn end(&mut self, end: &ProcessEnd, node: &NodeName, now: Timestamp) -> Result<bool, Refusal> {
        match self.owned(end.process, node) {
            Err(Refusal::Ended { .. }) => return Ok(false),
            other => other?,
        }
        self.set_live(end.process, false);
        if let Some(process) = self.processes.get_mut(&end.process) {
            process.ended_at = Some(now.before(end.ago_us));
        }
        Ok(true)
    }

    /// The node is out of sight: what its processes claim no longer stands against anybody else.
    pub fn node_lost(&mut self, node: &NodeName) {
        let processes: Vec<_> = self.by_node.get(node).into_iter().flatten().copied().collect();
        for process in processes {
            self.set_live(process, false);
        }
    }

    /// The job of a process.
    #[must_use]
    pub fn job_of(&self, process: ProcessId) -> Option<&JobId> {
        self.processes.get(&process).map(|process| &process.info.job)
    }

    /// The job's newest incarnation.
    #[must_use]
    pub fn incarnation(&self, job: &JobId) -> Option<u32> {
        self.jobs.get(job)?.keys().next_back().copied()
    }

    /// The process of that id, if it is `node`'s and has not ended.
    pub fn of(&self, process: ProcessId, node: &NodeName) -> Result<&ProcessInfo, Refusal> {
        self.owned(process, node)?;
        self.processes.get(&process).map(|known| &known.info).ok_or(Refusal::Ended { process: process.0 })
    }

    /// Who has a rank of a communicator, unless several claim it.
    #[must_use]
    pub fn at(&self, comm: CommId, rank: u32) -> Option<&ProcessInfo> {
        let process = self.comms.get(&comm)?.claims.undisputed(rank)?;
        self.processes.get(&process).map(|known| &known.info)
    }

    /// How many members a communicator has, if all of them are known.
    #[must_use]
    pub fn members(&self, comm: CommId) -> Option<usize> {
        let comm = self.comms.get(&comm)?;
        (comm.members.len() == comm.size as usize).then_some(comm.members.len())
    }

    /// Every job of which processes are known.
    pub fn jobs(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.keys()
    }

    /// Nodes on which processes of the job's newest incarnation were announced.
    #[must_use]
    pub fn nodes_of(&self, job: &JobId) -> BTreeSet<NodeName> {
        let Some(run) = self.jobs.get(job).and_then(|runs| runs.values().next_back()) else {
            return BTreeSet::new();
        };
        let runs_on = |ids: &HashSet<ProcessId>| ids.iter().any(|id| run.processes.contains(id));
        self.by_node.iter().filter(|(_, ids)| runs_on(ids)).map(|(node, _)| node.clone()).collect()
    }

    /// Ranks announced and alive, by node.
    #[must_use]
    pub fn live_by_node(&self) -> HashMap<&NodeName, u32> {
        let count = |ids: &HashSet<ProcessId>| {
            ids.iter().filter(|id| self.processes.get(id).is_some_and(|process| process.live)).count()
        };
        self.by_node.iter().map(|(node, ids)| (node, u32::try_from(count(ids)).unwrap_or(u32::MAX))).collect()
    }

    /// What contradicts itself in the job's newest incarnation, in words; empty when nothing does.
    #[must_use]
    pub fn conflicts(&self, job: &JobId) -> Vec<String> {
        let Some((incarnation, run)) = self.jobs.get(job).and_then(|runs| runs.iter().next_back()) else {
            return Vec::new();
        };
        let mut said = Vec::new();
        if run.sizes.len() > 1 {
            let sizes: Vec<_> = run.sizes.keys().map(ToString::to_string).collect();
            said.push(format!(
                "two jobs seem to use the name {} (incarnation {incarnation}): live processes claim world sizes {}",
                job.0,
                sizes.join(" and ")
            ));
        }
        for (rank, claimants) in run.ranks.contested().take(8) {
            said.push(self.contest(rank, claimants));
        }
        let of_run = |comm: &&CommId| {
            self.comms.get(comm).is_some_and(|comm| comm.members.iter().any(|id| run.processes.contains(id)))
        };
        for comm in self.contested_comms.iter().filter(of_run).take(8) {
            let ranks = self.comms.get(comm).into_iter().flat_map(|comm| comm.claims.contested());
            let ranks: Vec<_> = ranks.take(8).map(|(rank, _)| rank.to_string()).collect();
            said.push(format!(
                "on communicator {:x}, rank {} is claimed by more than one live process",
                comm.0,
                ranks.join(", ")
            ));
        }
        said
    }

    /// Whether a finding rests on claims that contradict each other.
    #[must_use]
    pub fn contested(&self, finding: &Finding) -> bool {
        self.incarnation(&finding.job) == Some(finding.incarnation)
            && !self.conflicts(&finding.job).is_empty()
    }

    /// Forgets what ended long ago. Call now and then.
    pub fn prune(&mut self, now: Timestamp) {
        let old = |process: &Process| process.ended_at.is_some_and(|at| now.micros_since(at) > FORGET_US);
        let gone: Vec<_> = self.processes.iter().filter(|(_, p)| old(p)).map(|(id, _)| *id).collect();
        for id in gone {
            let Some(process) = self.processes.remove(&id) else { continue };
            process.comms.iter().for_each(|place| self.leave(id, place));
            if let Some(of_node) = self.by_node.get_mut(&process.info.node) {
                of_node.remove(&id);
            }
            if let Some(runs) = self.jobs.get_mut(&process.info.job) {
                if let Some(run) = runs.get_mut(&process.info.incarnation) {
                    run.processes.remove(&id);
                    if run.processes.is_empty() {
                        runs.remove(&process.info.incarnation);
                    }
                }
                if runs.is_empty() {
                    self.jobs.remove(&process.info.job);
                }
            }
        }
        self.by_node.retain(|_, ids| !ids.is_empty());
    }

    fn owned(&self, process: ProcessId, node: &NodeName) -> Result<(), Refusal> {
        check_owner(process, self.processes.get(&process), node)
    }

    fn set_live(&mut self, id: ProcessId, live: bool) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.live == live {
            return;
        }
        process.live = live;
        for Place { comm: comm_id, rank, .. } in &process.comms {
            if let Some(comm) = self.comms.get_mut(comm_id) {
                comm.claims.set(*rank, id, live);
                if comm.claims.any_contested() {
                    self.contested_comms.insert(*comm_id);
                } else {
                    self.contested_comms.remove(comm_id);
                }
            }
        }
        let info = &process.info;
        let Some(run) = self.jobs.get_mut(&info.job).and_then(|runs| runs.get_mut(&info.incarnation)) else {
            return;
        };
        if let Some(rank) = info.rank {
            run.ranks.set(rank, id, live);
        }
        if let Some(size) = info.world_size {
            let count = run.sizes.entry(size).or_default();
            *count = if live { *count + 1 } else { count.saturating_sub(1) };
            // The last size stays known, or a run whose processes all ended would forget how large it was.
            if run.sizes.values().any(|count| *count > 0) {
                run.sizes.retain(|_, count| *count > 0);
            }
        }
    }

    fn contest(&self, rank: u32, claimants: &BTreeSet<ProcessId>) -> String {
        let known: Vec<_> = claimants.iter().filter_map(|id| self.processes.get(id)).collect();
        let who: Vec<_> = known.iter().map(|p| format!("pid {} on {}", p.info.pid, p.info.node.0)).collect();
        let strangers = known.windows(2).any(|pair| {
            let [a, b] = [pair[0], pair[1]];
            let joins = |place: &Place| b.place(place.comm).is_some();
            !a.comms.is_empty() && !b.comms.is_empty() && !a.comms.iter().any(joins)
        });
        let hint =
            if strangers { "; they share no communicator, so two jobs seem to use this name" } else { "" };
        format!("rank {rank} is claimed by {}{hint}", who.join(" and "))
    }
}

/// Whether a process is `node`'s and has not ended.
fn check_owner(process: ProcessId, known: Option<&Process>, node: &NodeName) -> Result<(), Refusal> {
    match known {
        None => Err(Refusal::NotAnnounced { process: process.0, node: node.0.clone() }),
        Some(known) if known.info.node != *node => Err(Refusal::Foreign {
            process: process.0,
            owner: known.info.node.0.clone(),
            node: node.0.clone(),
        }),
        Some(known) if known.ended_at.is_some() => Err(Refusal::Ended { process: process.0 }),
        Some(_) => Ok(()),
    }
}

/// An announcement may add what was not known; it may not change what was.
fn unchanged(before: &ProcessInfo, now: &ProcessInfo) -> Result<(), Refusal> {
    let process = now.process.0;
    if before.node != now.node {
        return Err(Refusal::Foreign { process, owner: before.node.0.clone(), node: now.node.0.clone() });
    }
    let identity = |info: &ProcessInfo| format!("job {} incarnation {}", info.job.0, info.incarnation);
    if (&before.job, before.incarnation) != (&now.job, now.incarnation) {
        return Err(Refusal::Changed { process, before: identity(before), now: identity(now) });
    }
    for (what, before, now) in
        [("rank", before.rank, now.rank), ("world size", before.world_size, now.world_size)]
    {
        if let Some(before) = before
            && now != Some(before)
        {
            let now = now.map_or("unknown".into(), |now| now.to_string());
            return Err(Refusal::Changed {
                process,
                before: format!("{what} {before}"),
                now: format!("{what} {now}"),
            });
        }
    }
    Ok(())
}
