//! A whole C4 on one machine, of the programs as they are shipped: a controller, an agent for every "node", and a ring
//! job under the agents' supervision. The demo shows it, the end-to-end tests assert on it.
//!
//! Every process is in a group of its own below this one, ports are taken as the system gives them, and all files are
//! below one temporary directory, so clusters run side by side. [`Cluster`] takes everything down when it is dropped;
//! this process adopts orphans (it is a child subreaper), so that even a rank whose agent was killed is found and
//! ended.
//!
//! Waiting is always for something to become true, with a limit that only a broken program reaches.

mod child;
mod ctl;
mod loose;
mod nodes;
mod programs;

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

pub use child::{Child, end_orphans};
pub use ctl::{Ctl, suspect_rank};
pub use loose::{Daemon, Loose};
pub use nodes::AgentPlace;
pub use programs::Programs;

use crate::{faults::FaultDir, ringjob::clock};

/// Time between two looks of [`wait_for`].
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name of the job.
    pub job: String,
    /// Nodes, and the ranks on each: `0..3` are ranks 0, 1 and 2.
    pub nodes: Vec<(String, Range<u32>)>,
    /// Nodes that stand by for the job.
    pub spares: Vec<String>,
    /// The controller's `steer.mode`.
    pub mode: &'static str,
    /// Further lines of the controller's configuration, YAML.
    pub controller_yaml: String,
    /// Further variables of the controller's environment.
    pub controller_env: Vec<(String, String)>,
    /// Further lines of every agent's configuration, YAML; `{node}` is the name of its node.
    pub agent_yaml: String,
    /// Further arguments of the ring job.
    pub ring_args: Vec<String>,
    /// Further variables of the ring job's environment.
    pub ring_env: Vec<(String, String)>,
    /// Whether the ring job's connections can be broken.
    pub netfault: bool,
}

impl Spec {
    /// Eight ranks on three nodes, an iteration of about 100 ms, restarted automatically.
    #[must_use]
    pub fn eight_ranks(job: &str) -> Self {
        Self {
            job: job.to_owned(),
            nodes: vec![("node-0".into(), 0..3), ("node-1".into(), 3..6), ("node-2".into(), 6..8)],
            spares: Vec::new(),
            mode: "auto",
            controller_yaml: String::new(),
            controller_env: Vec::new(),
            agent_yaml: String::new(),
            ring_args: Vec::new(),
            ring_env: Vec::new(),
            netfault: true,
        }
    }

    /// Number of ranks.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.nodes.iter().map(|(_, ranks)| ranks.len() as u32).sum()
    }

    /// Name of the node that has a rank.
    #[must_use]
    pub fn node_of(&self, rank: u32) -> Option<&str> {
        self.nodes.iter().find(|(_, ranks)| ranks.contains(&rank)).map(|(name, _)| name.as_str())
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// What was started.
    pub spec: Spec,
    /// The controller.
    pub controller: Child,
    /// Its gRPC address.
    pub grpc: String,
    /// Its HTTP address.
    pub http: String,
    /// Agents, in the order of `spec.nodes`.
    pub agents: Vec<Child>,
    places: Vec<AgentPlace>,
    programs: Programs,
    dir: TempDir,
    shared_memory: TempDir,
}

impl Cluster {
    /// Starts controller, agents and job.
    ///
    /// # Errors
    /// When a program is missing or does not come up; the message has the end of its log.
    pub fn start(spec: Spec) -> anyhow::Result<Self> {
        let programs = Programs::built()?;
        child::adopt_orphans()?;
        let dir =
            tempfile::Builder::new().prefix("c4-cluster-").tempdir().context("no temporary directory")?;
        let shared_memory = shared_memory_dir()?;
        fs::create_dir_all(dir.path().join("faults"))?;
        let config = dir.path().join("controller.yaml");
        fs::write(&config, controller_config(&spec, dir.path(), "127.0.0.1:0", "127.0.0.1:0"))?;
        let (controller, grpc, http) =
            start_controller(&programs, &config, dir.path(), &spec.controller_env)?;
        let mut cluster = Self {
            spec,
            controller,
            grpc,
            http,
            agents: Vec::new(),
            places: Vec::new(),
            programs,
            dir,
            shared_memory,
        };
        for index in 0..cluster.spec.nodes.len() + cluster.spec.spares.len() {
            let place = cluster.place(index)?;
            cluster.agents.push(place.start()?);
            cluster.places.push(place);
        }
        Ok(cluster)
    }

    /// Addresses of the agents' own pages, in the order of `spec.nodes`.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn agent_pages(&self) -> anyhow::Result<Vec<String>> {
        self.places.iter().map(AgentPlace::page).collect()
    }

    /// Directory that all files of the cluster are in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where faults of the job are injected.
    #[must_use]
    pub fn faults(&self) -> FaultDir {
        FaultDir(self.dir.path().join("faults"))
    }

    /// File with everything the detector was told.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.dir.path().join("observations.jsonl")
    }

    /// `c4ctl`, pointed at this controller.
    #[must_use]
    pub fn ctl(&self) -> Ctl {
        Ctl::new(&self.programs.ctl(), &self.grpc)
    }

    /// Starts the agent of a node again; the one before must have ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_agent(&mut self, index: usize) -> anyhow::Result<()> {
        self.agents[index] = self.places[index].start()?;
        Ok(())
    }

    /// An agent that supervises nothing and watches a directory of its own, as a node's service does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_daemon(&self, node: &str) -> anyhow::Result<Daemon> {
        let controller = format!("http://{}", self.grpc);
        Daemon::start(&self.programs, node, &controller, self.dir.path(), self.shared_memory.path(), &[])
    }

    /// A ring job that nobody supervises, not started yet.
    #[must_use]
    pub fn loose_job(&self, name: &str) -> Loose {
        Loose::new(&self.programs, name, self.dir.path())
    }

    /// Kills the controller (SIGKILL) and starts it again at the same addresses, with nothing but its configuration.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_controller(&mut self) -> anyhow::Result<()> {
        self.controller.kill();
        let config = self.dir.path().join("controller.yaml");
        fs::write(&config, controller_config(&self.spec, self.dir.path(), &self.grpc, &self.http))?;
        let environment = &self.spec.controller_env;
        let (controller, ..) = start_controller(&self.programs, &config, self.dir.path(), environment)?;
        self.controller = controller;
        Ok(())
    }

    /// Ends everything in good order: agents first, which end their ranks.
    pub fn stop(&mut self) {
        for agent in &self.agents {
            agent.terminate();
        }
        for agent in &mut self.agents {
            agent.wait_or_kill(Duration::from_secs(10));
        }
        self.controller.terminate();
        self.controller.wait_or_kill(Duration::from_secs(10));
        child::end_orphans();
    }

    /// The ends of all logs, for when something went wrong.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for child in std::iter::once(&self.controller).chain(&self.agents) {
            text += &format!("--- {}\n{}\n", child.name(), child.log_tail());
        }
        text
    }

    fn place(&self, index: usize) -> anyhow::Result<AgentPlace> {
        let spec = &self.spec;
        let (node, ranks) = match spec.nodes.get(index) {
            Some((node, ranks)) => (node, Some(ranks)),
            None => (&spec.spares[index - spec.nodes.len()], None),
        };
        AgentPlace::new(&nodes::Request {
            programs: &self.programs,
            spec: &self.spec,
            node,
            ranks,
            grpc: &self.grpc,
            dir: self.dir.path(),
            shared_memory: self.shared_memory.path(),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// A directory in shared memory where there is such a thing, else an ordinary one.
///
/// # Errors
/// There is none.
pub fn shared_memory_dir() -> anyhow::Result<TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("c4-cluster-");
        builder
    };
    builder()
        .tempdir_in("/dev/shm")
        .or_else(|_| builder().tempdir())
        .context("no directory for flight recorders")
}

/// One job after another has its faults here, all over its nodes, and nobody is to conclude from that that it is the job.
fn controller_config(spec: &Spec, dir: &Path, grpc: &str, http: &str) -> String {
    format!(
        "listen: {grpc}\nhttp: {http}\nrecord: {}\nstate: {}\nsteer:\n  mode: {}\n  max_restarts: 20\n  \
         cooldown_seconds: 0\n  job_fault_nodes: 1000\n{}",
        dir.join("observations.jsonl").display(),
        dir.join("state").display(),
        spec.mode,
        spec.controller_yaml,
    )
}

/// Starts a controller, whose log is in `dir`, with these further variables in its environment; its addresses of gRPC and of HTTP.
///
/// # Errors
/// When it does not come up.
pub fn start_controller(
    programs: &Programs,
    config: &Path,
    dir: &Path,
    environment: &[(String, String)],
) -> anyhow::Result<(Child, String, String)> {
    let mut command = std::process::Command::new(programs.controller());
    command.arg("--config").arg(config).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = Child::start("controller", &mut command, &dir.join("controller.log"))?;
    let line = child.first_line(Duration::from_secs(30), |line| line.starts_with("listening "))?;
    let field = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.map(str::to_owned).with_context(|| format!("controller said {line:?}, expected {name}=ADDRESS"))
    };
    let (grpc, http) = (field("grpc")?, field("http")?);
    Ok((child, grpc, http))
}

/// Somebody wants the program to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// Has everything that waits with [`wait_for`] give up, now and from now on.
pub fn interrupt() {
    INTERRUPT.store(true, Ordering::Relaxed);
}

/// Looks again and again until `look` finds something.
///
/// # Errors
/// When it does not in time (the message says what was waited for), or [`Interrupted`].
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = clock::now() + limit;
    loop {
        let found = look();
        anyhow::ensure!(!INTERRUPT.load(Ordering::Relaxed), Interrupted);
        match found {
            Ok(Some(found)) => return Ok(found),
            other if clock::now() >= deadline => {
                let why = other.err().map(|error| format!(": {error:#}")).unwrap_or_default();
                anyhow::bail!("waited {} s for {what}, in vain{why}", limit.as_secs());
            }
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
}
