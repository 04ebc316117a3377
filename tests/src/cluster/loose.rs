//! Agents as node services and jobs that C4 did not start: what a site has that only watches.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{Child, Programs};
use crate::faults::FaultDir;

/// Names and values.
pub type Environment<'a> = &'a [(&'a str, String)];

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
    environment: Vec<(String, String)>,
}

impl Daemon {
    /// Starts the agent of `node`. `controllers` are addresses of gRPC, separated by commas; files are below `dir`, flight
    /// recorders below `shared_memory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        programs: &Programs,
        node: &str,
        controllers: &str,
        dir: &Path,
        shared_memory: &Path,
        environment: Environment,
    ) -> anyhow::Result<Self> {
        let recorders = shared_memory.join(node);
        fs::create_dir_all(&recorders).with_context(|| format!("cannot create {}", recorders.display()))?;
        let config = dir.join(format!("{node}.yaml"));
        let text = format!(
            "node: {node}\ncontroller: {controllers}\nrecorder_dir: {}\nhttp: null\n",
            recorders.display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let log = dir.join(format!("{node}.log"));
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let (program, node) = (programs.agent(), node.to_owned());
        let process = spawn(&program, &config, &log, &node, &environment)?;
        Ok(Self { process, recorders, program, config, log, node, environment })
    }

    /// Kills the agent and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        self.process = spawn(&self.program, &self.config, &self.log, &self.node, &self.environment)?;
        Ok(())
    }
}

fn spawn(
    program: &Path,
    config: &Path,
    log: &Path,
    node: &str,
    environment: &[(String, String)],
) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).envs(environment.iter().map(|(name, value)| (name, value)));
    Child::start(node, &mut command, log)
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
    /// A job whose files are below `dir`.
    #[must_use]
    pub fn new(programs: &Programs, name: &str, dir: &Path) -> Self {
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
        labels: Environment,
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
