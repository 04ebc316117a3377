//! `c4-agent run`: a whole agent for one job, that also starts, stops and restarts the job's processes.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{Agent, Alone, Signals, session_id};
use crate::{
    checks::CheckSettings,
    cli::Run,
    config::{Config, check_protection},
    directories, plugin,
    recorders::{Exits, named_job},
    supervise::{First, Spec, Supervisor},
};

/// NCCL's variable for the profiler plugin.
const NCCL_PLUGIN: &str = "NCCL_PROFILER_PLUGIN";

/// Runs a job to its end and returns its exit code.
///
/// # Errors
/// The job cannot be started, an address is in use, or the process lacks something basic.
pub async fn run_job(mut config: Config, options: Run) -> Result<u8> {
    let mut signals = Signals::new()?;
    let session = session_id();
    // Several runs share a node; only one could have the daemon's address.
    config.http = options.http;
    if options.no_controller {
        config.controller = None;
    } else if options.controller.is_some() {
        config.controller.clone_from(&options.controller);
    }
    if let Some(address) = &config.controller
        && let Err(what) =
            check_protection(address, config.tls.is_some(), config.insecure || options.insecure)
    {
        bail!("controller: {what}");
    }
    config.token_file = options.token_file.clone().or(config.token_file);
    let directory = Directory::new(options.recorder_dir.as_deref())?;
    config.recorder_dir.clone_from(&directory.path);
    let job = job_name(&options, &session);
    info!(node = %config.node, %job, recorders = %directory.path.display(), %session, "c4-agent runs a job");

    let exits = Exits::default();
    let mut agent = Agent::start(&config, &session, exits.clone(), Alone::Diagnose).await?;
    let spec = Spec {
        job,
        environment: environment(&options, &directory.path),
        checkpoint_marker: marker(&options, &directory.path),
        world_size: options.world_size.unwrap_or(0),
        least_world_size: options.least_world_size.unwrap_or(0),
        opted_out: options.leave_alone.unwrap_or_default(),
        place: None,
        ranks: options.ranks,
        command: options.command,
        log_dir: options.log_dir,
    };
    let (interrupt, interrupts) = mpsc::channel(4);
    let forward = tokio::spawn(async move {
        loop {
            let _ = interrupt.send(signals.next().await).await;
        }
    });
    let (_, nothing) = mpsc::channel(1);
    let commands = std::mem::replace(&mut agent.commands, nothing);
    let has_controller = config.controller.is_some();
    let reports = agent.reports.clone();
    let supervisor = Supervisor::new(
        spec,
        config.supervise,
        CheckSettings { sensors: config.sensors, ..config.checks },
        has_controller,
        session,
        exits,
        reports,
    );
    let first = if options.spare { First::StandBy } else { First::Run(incarnation()) };
    let ended = supervisor.run(first, commands, interrupts).await;
    agent.finish().await;
    forward.abort();
    Ok(ended.unwrap_or_else(|failure| {
        error!("{failure}");
        failure.exit_code()
    }))
}

/// The job's name, as its processes will find it in C4_JOB, by the same rules by which a recorder names its job.
fn job_name(options: &Run, session: &str) -> String {
    let variable =
        |name: &str| env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let named = options.job.clone().or_else(|| named_job(variable));
    named.unwrap_or_else(|| format!("run-{}", &session[..8.min(session.len())]))
}

/// A job that a scheduler has restarted says so.
fn incarnation() -> u32 {
    let number = |name: &str| env::var(name).ok()?.trim().parse().ok();
    number("C4_INCARNATION").or_else(|| number("SLURM_RESTART_COUNT")).unwrap_or(0)
}

fn marker(options: &Run, directory: &Path) -> PathBuf {
    let given = options.checkpoint_marker.clone();
    let given = given.or_else(|| env::var_os("C4_CHECKPOINT_MARKER").map(PathBuf::from));
    given.unwrap_or_else(|| directory.join("checkpoint"))
}

fn environment(options: &Run, directory: &Path) -> BTreeMap<String, OsString> {
    let mut environment = BTreeMap::from([("C4_RECORDER_DIR".to_owned(), directory.into())]);
    if let Some(theirs) = env::var_os(NCCL_PLUGIN) {
        if options.plugin.is_some() {
            warn!(plugin = ?theirs, "{NCCL_PLUGIN} is set already and stays as it is");
        }
    } else if let Some(plugin) = options.plugin.clone().or_else(plugin::find) {
        environment.insert(NCCL_PLUGIN.to_owned(), plugin.into());
    } else {
        warn!(
            "no {} beside this program and no --plugin: NCCL's operations will not be seen",
            plugin::NAMES[0]
        );
    }
    environment
}

/// The recorder directory: the user's, or one of this run's own that is removed at its end.
struct Directory {
    path: PathBuf,
    own: bool,
}

impl Directory {
    fn new(given: Option<&Path>) -> Result<Self> {
        if let Some(path) = given {
            let path = std::path::absolute(path).context("cannot tell the recorder directory's path")?;
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            return Ok(Self { path, own: false });
        }
        // Memory if there is any; a name that is taken was left by a killed agent whose job may still run.
        let name = format!("c4-run-{}", std::process::id());
        directories::free(Path::new("/dev/shm"), &name)
            .or_else(|_| directories::free(&env::temp_dir(), &name))
            .map(|path| Self { path, own: true })
            .context("cannot make a recorder directory")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.own
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            warn!(path = %self.path.display(), %error, "cannot remove the recorder directory");
        }
    }
}
