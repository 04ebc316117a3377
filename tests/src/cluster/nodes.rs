//! One "node": an agent that supervises its part of the ring job, with a directory for its flight recorders.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;

use super::{Child, Programs, Spec, wait_for};

/// What an agent is started with.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) programs: &'a Programs,
    pub(super) spec: &'a Spec,
    pub(super) node: &'a str,
    /// None: it stands by.
    pub(super) ranks: Option<&'a Range<u32>>,
    pub(super) grpc: &'a str,
    pub(super) dir: &'a Path,
    pub(super) shared_memory: &'a Path,
}

/// How to start the agent of one node, again and again.
#[derive(Clone, Debug)]
pub struct AgentPlace {
    node: String,
    program: PathBuf,
    arguments: Vec<String>,
    faults: PathBuf,
    log: PathBuf,
}

impl AgentPlace {
    pub(super) fn new(request: &Request<'_>) -> anyhow::Result<Self> {
        let Request { programs, spec, node, ranks, grpc, dir, shared_memory } = request;
        let recorders = shared_memory.join(node);
        fs::create_dir_all(&recorders).with_context(|| format!("cannot create {}", recorders.display()))?;
        let config = dir.join(format!("{node}.yaml"));
        let evidence = dir.join(format!("{node}.evidence"));
        let own = spec.agent_yaml.replace("{node}", node);
        let yaml = format!("{own}supervise: {{evidence_dir: {}}}\n", evidence.display());
        fs::write(&config, yaml).with_context(|| format!("cannot write {}", config.display()))?;
        let text = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = ["run", "--config"].map(str::to_owned).into();
        arguments.push(text(&config));
        arguments.extend([
            "--controller".into(),
            format!("http://{grpc}"),
            "--node".into(),
            (*node).to_owned(),
        ]);
        arguments.extend(["--http".into(), "127.0.0.1:0".into()]);
        arguments.extend(["--job".into(), spec.job.clone()]);
        match ranks {
            Some(ranks) => {
                arguments.extend(["--ranks".into(), format!("{}-{}", ranks.start, ranks.end - 1)]);
                arguments.extend(["--world-size".into(), spec.world_size().to_string()]);
            }
            None => arguments.push("--spare".into()),
        }
        arguments.extend(["--recorder-dir".into(), text(&recorders)]);
        arguments.extend(["--checkpoint-marker".into(), text(&dir.join(format!("{node}.checkpoint")))]);
        arguments.extend(["--plugin".into(), text(&programs.plugin()), "--".into()]);
        arguments.push("env".into());
        arguments.extend(spec.ring_env.iter().map(|(name, value)| format!("{name}={value}")));
        if spec.netfault {
            // Only the job is preloaded, not its agent.
            arguments.push(format!("LD_PRELOAD={}", programs.netfault().display()));
        }
        arguments.push(text(&programs.ringjob()));
        arguments.extend(["--rendezvous".into(), text(&dir.join("rendezvous"))]);
        arguments.extend(["--checkpoint-dir".into(), text(&dir.join("checkpoints"))]);
        arguments.extend(["--nodes".into(), spec.nodes.len().to_string()]);
        arguments.extend(spec.ring_args.iter().cloned());
        Ok(Self {
            node: (*node).to_owned(),
            program: programs.agent(),
            arguments,
            faults: dir.join("faults"),
            log: dir.join(format!("{node}.log")),
        })
    }

    /// Address of the agent's own page, as it says when it has one.
    pub(super) fn page(&self) -> anyhow::Result<String> {
        wait_for("the agent's page", Duration::from_secs(30), || {
            let log = fs::read_to_string(&self.log)?;
            let line = log.lines().rfind(|line| line.contains("serving /metrics"));
            let address = line.and_then(|line| line.split_once("address=")?.1.split_whitespace().next());
            Ok(address.map(str::to_owned))
        })
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("C4_FAULT_DIR", &self.faults);
        Child::start(&self.node, &mut command, &self.log)
    }
}
