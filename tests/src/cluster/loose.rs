//! Agents as node services and jobs that C4 did not start: what a site has that only watches.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{Child, Programs};
use crate::faults::FaultDir;

/// An agent that watches one directory of flight recorders.
#[derive(Debug)]
pub struct Daemon {
    /// Its process.
    pub process: Child,
    /// Where its node's jobs leave their flight recorders.
    pub recorders: PathBuf,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    node: String,
}

impl Daemon {
    pub(super) fn start(
        programs: &Programs,
        node: &str,
        grpc: &str,
        dir: &Path,
        shared_memory: &Path,
    ) -> anyhow::Result<Self> {
        let recorders = shared_memory.join(node);
        fs::create_dir_all(&recorders).with_context(|| format!("cannot create {}", recorders.display()))?;
        let config = dir.join(format!("{node}.yaml"));
        let text = format!(
            "node: {node}\ncontroller: http://{grpc}\nrecorder_dir: {}\nhttp: null\n",
            recorders.display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let log = dir.join(format!("{node}.log"));
        let process = spawn(&programs.agent(), &config, &log, node)?;
        Ok(Self { process, recorders, program: programs.agent(), config, log, node: node.to_owned() })
    }

    /// Kills the agent and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        self.process = spawn(&self.program, &self.config, &self.log, &self.node)?;
        Ok(())
    }
}

fn spawn(program: &Path, config: &Path, log: &Path, node: &str) -> anyhow::Result<Child> {
    Child::start(node, Command::new(program).arg("--config").arg(config), log)
}

/// A ring job whose ranks are started one by one, each wherever and with whatever environment a test wants.
#[derive(Debug)]
pub struct Loose {
    dir: PathBuf,
    ringjob: PathBuf,
    plugin: PathBuf,
    /// The ranks that were started, in that order.
    pub ranks: Vec<Child>,
}

impl Loose {
    pub(super) fn new(programs: &Programs, name: &str, dir: &Path) -> Self {
        let (ringjob, plugin) = (programs.ringjob(), programs.plugin());
        Self { dir: dir.join(format!("loose-{name}")), ringjob, plugin, ranks: Vec::new() }
    }

    /// Where faults of the job are injected.
    #[must_use]
    pub fn faults(&self) -> FaultDir {
        FaultDir(self.dir.join("faults"))
    }

    /// Starts a rank of a job of `size` ranks under the eyes of `daemon`. What the rank is called comes from `labels`
    /// alone, as it would from a scheduler's environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_rank(
        &mut self,
        daemon: &Daemon,
        rank: u32,
        size: u32,
        labels: &[(&str, String)],
    ) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        let mut command = Command::new(&self.ringjob);
        for name in ["RANK", "LOCAL_RANK", "WORLD_SIZE", "C4_JOB", "C4_INCARNATION", "SLURM_JOB_ID"] {
            command.env_remove(name);
        }
        command.env("NCCL_PROFILER_PLUGIN", &self.plugin).env("C4_RECORDER_DIR", &daemon.recorders);
        command.env("C4_FAULT_DIR", self.dir.join("faults"));
        command.envs(labels.iter().map(|(name, value)| (name, value)));
        command.args(["--rank", &rank.to_string(), "--world-size", &size.to_string()]);
        command.arg("--rendezvous").arg(self.dir.join("rendezvous"));
        let name = format!("rank {rank}");
        self.ranks.push(Child::start(&name, &mut command, &self.dir.join("ranks.log"))?);
        Ok(())
    }
}
