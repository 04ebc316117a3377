//! Beginning and end of processes, jobs and agents.

use c4_detect::observation::{JobId, Membership, Observation, ProcessEnd, ProcessInfo, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Happens, SECOND_NS, Spec, Telemetry, node_name, process, timestamp};
use crate::simulator::{
    fault::FaultKind,
    noise::{mix, unit},
};

/// Name of the simulated job.
const JOB: &str = "simulated";
/// An agent looks for ended and stopped processes so often.
const SAMPLE_NS: u64 = 100_000_000;
/// Ranks of a job that is done end within this time.
const SPREAD_NS: u64 = 3 * SECOND_NS;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;

/// What happens to the job and its agents, beside faults of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// The agent of a node is out of sight.
    AgentLost {
        /// The node.
        node: u32,
        /// From when on.
        from_ns: u64,
        /// A new agent is there from this time on.
        until_ns: Option<u64>,
    },
    /// The job is done with the iteration that is running at this time.
    Ends {
        /// When.
        at_ns: u64,
    },
    /// Somebody ends the job: all processes get a signal.
    Stopped {
        /// When.
        at_ns: u64,
        /// Whether C4 is told before.
        is_announced: bool,
    },
}

/// The end of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) at_ns: u64,
    /// When its agent sees it.
    seen_ns: u64,
    finalized: bool,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

/// Since when a process is stopped.
pub(super) fn stopped_ns(spec: &Spec, rank: u32) -> Option<u64> {
    let stop = |f: &&crate::simulator::fault::Fault| f.rank == rank && f.kind == FaultKind::Stop;
    spec.faults.iter().find(stop).map(|fault| fault.start_ns)
}

impl Telemetry {
    /// Tells of a node and its processes.
    pub(super) fn announce(&self, node: u32, now: Timestamp, sink: &mut impl FnMut(Timestamp, Observation)) {
        let layout = &self.spec.layout;
        sink(now, Observation::NodeSeen { node: node_name(node), nic_class: None });
        for rank in self.ranks_of(node) {
            let state = &self.ranks[rank as usize];
            if state.is_gone {
                continue;
            }
            let info = ProcessInfo {
                process: process(rank),
                job: JobId(JOB.into()),
                incarnation: 0,
                rank: Some(rank),
                world_size: Some(layout.ranks()),
                node: node_name(node),
                gpu: Some(rank % layout.gpus_per_node),
                pid: 1000 + rank,
                blind_spots: Vec::new(),
            };
            sink(now, Observation::ProcessStarted(info));
            for comm in &state.comms {
                let name = format!("{:?}", comm.group()).to_lowercase();
                let membership = Membership {
                    process: process(rank),
                    comm: comm.id(),
                    name: if self.spec.names { name } else { String::new() },
                    size: layout.group_size(comm.group()),
                    comm_rank: comm.place,
                };
                sink(now, Observation::CommunicatorJoined(membership));
            }
        }
    }

    /// Plans how the processes of a job end that is done or stopped with the iteration just simulated.
    pub(super) fn end_if_due(&mut self) {
        let end_ns = self.progress.end_ns;
        for happening in self.spec.happenings.clone() {
            match happening {
                Happening::Ends { at_ns } if at_ns <= end_ns && !self.progress.is_stuck => {
                    self.is_over = true;
                    for rank in 0..self.spec.layout.ranks() {
                        let at_ns = end_ns + (self.chance(rank, 1) * SPREAD_NS as f64) as u64;
                        // Half of the jobs are not supervised, so nobody knows their exit codes.
                        let exit_code = self.spec.seed.is_multiple_of(2).then_some(0);
                        self.end(rank, at_ns, true, exit_code, None);
                    }
                }
                Happening::Stopped { at_ns, .. } if at_ns <= end_ns || self.progress.is_stuck => {
                    self.is_over = true;
                    for rank in 0..self.spec.layout.ranks() {
                        let at_ns = at_ns + (self.chance(rank, 2) * 200e6) as u64;
                        // The signal itself, or what a launcher makes of it.
                        let by_signal = self.spec.seed.is_multiple_of(2);
                        let (code, signal) =
                            if by_signal { (None, Some(SIGTERM)) } else { (Some(143), None) };
                        self.end(rank, at_ns, false, code, signal);
                    }
                }
                _ => {}
            }
        }
        if self.progress.is_stuck {
            self.let_die();
        }
    }

    /// Plans the ends of ranks that die. In every other job their peers, whose connections break, fail soon after. Of one
    /// job in four nobody learns exit codes and signals.
    fn let_die(&mut self) {
        let deaths = self.spec.faults.iter().filter(|fault| fault.kind == FaultKind::Death);
        let deaths: Vec<(u32, u64)> = deaths.map(|fault| (fault.rank, fault.start_ns)).collect();
        let is_supervised = !mix(self.spec.seed ^ 1).is_multiple_of(4);
        let Some(first_ns) = deaths.iter().map(|(_, at_ns)| *at_ns).min() else { return };
        for (rank, at_ns) in deaths {
            let (exit_code, signal) = match mix(self.spec.seed ^ u64::from(rank)) % 3 {
                _ if !is_supervised => (None, None),
                0 => (None, Some(SIGKILL)),
                1 => (None, Some(SIGSEGV)),
                _ => (Some(1), None),
            };
            self.end(rank, at_ns, false, exit_code, signal);
        }
        if mix(self.spec.seed).is_multiple_of(2) {
            for rank in 0..self.spec.layout.ranks() {
                let at_ns = first_ns + 300_000_000 + (self.chance(rank, 3) * 20e9) as u64;
                self.end(rank, at_ns, false, is_supervised.then_some(1), None);
            }
        }
    }

    /// Plans the end of a process, unless it ends before.
    fn end(&mut self, rank: u32, at_ns: u64, finalized: bool, exit_code: Option<i32>, signal: Option<i32>) {
        let seen_ns = at_ns + (self.chance(rank, 4) * SAMPLE_NS as f64) as u64;
        let state = &mut self.ranks[rank as usize];
        if state.end.is_none_or(|end| end.at_ns > at_ns) {
            state.end = Some(End { at_ns, seen_ns, finalized, exit_code, signal });
        }
    }

    /// A random number from 0 to 1 that depends on rank and purpose only.
    fn chance(&self, rank: u32, purpose: u64) -> f64 {
        unit(mix(self.spec.seed ^ mix(u64::from(rank) << 8 | purpose)))
    }

    /// What of all this an agent or the controller hears of between two moments.
    pub(super) fn plan_lives(&self, from_ns: u64, to_ns: u64, agenda: &mut Vec<(u64, Happens)>) {
        let mut add = |at_ns: u64, event| {
            if (from_ns..to_ns).contains(&at_ns) {
                agenda.push((at_ns, event));
            }
        };
        for happening in &self.spec.happenings {
            match *happening {
                Happening::AgentLost { node, from_ns, until_ns } => {
                    add(from_ns, Happens::AgentLost(node));
                    until_ns.into_iter().for_each(|at_ns| add(at_ns, Happens::AgentBack(node)));
                }
                Happening::Stopped { at_ns, is_announced: true } => {
                    add(at_ns.saturating_sub(SECOND_NS / 2), Happens::Stopping);
                }
                _ => {}
            }
        }
        if self.is_over {
            let ranks = (0u32..).zip(&self.ranks);
            ranks.filter_map(|(rank, state)| Some((rank, state.end?))).for_each(|(rank, end)| {
                add(end.seen_ns, Happens::End(rank));
            });
        }
        for rank in self.spec.faults.iter().filter(|f| f.kind == FaultKind::Stop).map(|f| f.rank) {
            if let Some(at_ns) = stopped_ns(&self.spec, rank) {
                let seen_ns = at_ns + (self.chance(rank, 5) * SAMPLE_NS as f64) as u64;
                add(seen_ns, Happens::Windows(self.spec.layout.node(rank)));
            }
        }
    }

    pub(super) fn live(
        &mut self,
        now_ns: u64,
        event: Happens,
        sink: &mut impl FnMut(Timestamp, Observation),
    ) {
        let now = timestamp(now_ns);
        match event {
            Happens::AgentLost(node) => {
                self.nodes[node as usize].is_lost = true;
                sink(now, Observation::NodeLost { node: node_name(node) });
            }
            Happens::AgentBack(node) => {
                self.nodes[node as usize].is_lost = false;
                self.nodes[node as usize].closed_ns = now_ns;
                for rank in self.ranks_of(node) {
                    self.ranks[rank as usize].forget();
                }
                self.announce(node, now, sink);
                // Its first look shows what has ended in the meantime.
                let ended =
                    |rank: &u32| self.ranks[*rank as usize].end.is_some_and(|end| end.at_ns <= now_ns);
                let ended: Vec<u32> = self.ranks_of(node).filter(ended).collect();
                ended.into_iter().for_each(|rank| self.bury(rank, now_ns, sink));
            }
            Happens::End(rank) => self.bury(rank, now_ns, sink),
            Happens::Stopping => {
                sink(now, Observation::JobStopping { job: JobId(JOB.into()), incarnation: 0 })
            }
            Happens::Windows(_) | Happens::Tick => {}
        }
    }

    /// An agent that sees a process end closes the windows of its node first.
    fn bury(&mut self, rank: u32, now_ns: u64, sink: &mut impl FnMut(Timestamp, Observation)) {
        let node = self.spec.layout.node(rank);
        let state = &self.ranks[rank as usize];
        let Some(end) = state.end.filter(|_| !state.is_gone) else { return };
        if self.nodes[node as usize].is_lost {
            return;
        }
        self.report_node(node, now_ns, sink);
        self.ranks[rank as usize].is_gone = true;
        let told = ProcessEnd {
            found: false,
            process: process(rank),
            ago_us: 0,
            finalized: end.finalized,
            exit_code: end.exit_code,
            signal: end.signal,
        };
        sink(timestamp(now_ns), Observation::ProcessEnded(told));
    }
}
