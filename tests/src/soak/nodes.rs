//! Real agents, as node services, and small real jobs beside them, one after the other: what simulated agents leave out.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use super::truth::Fault;
use crate::{
    cluster::{Daemon, Loose, Programs, shared_memory_dir},
    faults::inject,
};

/// Agents.
pub(super) const AGENTS: usize = 2;
/// Ranks of a job.
const RANKS: u32 = 4;
/// A job runs for so long before anything happens to it.
const RUNS: Duration = Duration::from_secs(6);
/// A job with a dead rank is cleaned away after this.
const CLEANED: Duration = Duration::from_secs(20);
/// Jobs with a stopped rank stay as they are, since to end them would be one more death: no more than so many.
const STOPPED: usize = 8;

/// See the module.
pub(super) struct Nodes {
    programs: Programs,
    pub(super) agents: Vec<Daemon>,
    dir: TempDir,
    _shared_memory: TempDir,
    job: Option<(String, Loose, Instant)>,
    hurt: Vec<(Loose, Fault, Instant)>,
    started: u32,
    kill: bool,
}

impl Nodes {
    /// Starts the agents. Unless ranks are to be killed, they are only stopped.
    pub(super) fn start(programs: Programs, controllers: &str, kill: bool) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("c4-soak-").tempdir()?;
        let shared_memory = shared_memory_dir()?;
        let clock = clock(&programs, dir.path());
        let agent = |index: usize| {
            let node = node(index);
            Daemon::start(&programs, &node, controllers, dir.path(), shared_memory.path(), &clock)
        };
        let agents = (0..AGENTS).map(agent).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            programs,
            agents,
            dir,
            _shared_memory: shared_memory,
            job: None,
            hurt: Vec::new(),
            started: 0,
            kill,
        })
    }

    /// Sets the wall clock of agents, and of ranks that start from now on, wrong by so many seconds.
    pub(super) fn set_clock(&self, seconds_off: i64) -> anyhow::Result<()> {
        Ok(std::fs::write(clock_file(self.dir.path()), seconds_off.to_string())?)
    }

    /// Where logs are.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Goes on: a job is started, and one that ran for long enough is hurt at this rank. Returns what happened to which.
    pub(super) fn step(&mut self, rank: u32) -> anyhow::Result<Option<(String, u32, Fault)>> {
        self.hurt.retain(|(_, fault, when)| *fault == Fault::RealStop || when.elapsed() < CLEANED);
        let stopped = self.hurt.iter().filter(|(_, fault, _)| *fault == Fault::RealStop).count();
        let may_stop = stopped < STOPPED;
        let Some((name, job, started)) = self.job.take() else {
            self.job = if may_stop || self.kill { Some(self.start_job()?) } else { None };
            return Ok(None);
        };
        // Whoever is hurt while it starts was never seen in a collective.
        let iterates = job.faults().read_iteration(0).is_some_and(|(iteration, _)| iteration > 20);
        if started.elapsed() < RUNS || !iterates {
            self.job = Some((name, job, started));
            return Ok(None);
        }
        let rank = rank % RANKS;
        let stop = may_stop && (self.started.is_multiple_of(2) || !self.kill);
        let (fault, signal) =
            if stop { (Fault::RealStop, Signal::STOP) } else { (Fault::RealDeath, Signal::KILL) };
        inject::signal(&job.faults(), rank, signal)?;
        self.hurt.push((job, fault, Instant::now()));
        Ok(Some((name, rank, fault)))
    }

    fn start_job(&mut self) -> anyhow::Result<(String, Loose, Instant)> {
        self.started += 1;
        let name = format!("real-{}", self.started);
        let mut job = Loose::new(&self.programs, &name, self.dir.path());
        for rank in 0..RANKS {
            let mut labels = clock(&self.programs, self.dir.path()).to_vec();
            labels.extend([
                ("C4_JOB", name.clone()),
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", RANKS.to_string()),
            ]);
            let daemon = &self.agents[rank as usize % AGENTS];
            job.start_rank(daemon, rank, RANKS, &labels).with_context(|| name.clone())?;
        }
        Ok((name, job, Instant::now()))
    }
}

fn clock_file(dir: &Path) -> PathBuf {
    dir.join("clock")
}

/// What processes need so that their clocks can be set wrong.
fn clock(programs: &Programs, dir: &Path) -> [(&'static str, String); 2] {
    [
        ("LD_PRELOAD", programs.clockfault().display().to_string()),
        ("C4_CLOCK_FILE", clock_file(dir).display().to_string()),
    ]
}

/// Name of a node.
fn node(index: usize) -> String {
    format!("real-node-{index}")
}
