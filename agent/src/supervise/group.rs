//! One incarnation of a job's part on this node: its processes, from the spawn to the last exit.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    ops::RangeInclusive,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use thiserror::Error;
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

use super::{members, output};
use crate::{
    procfs,
    recorders::{ExitStatus, Exits},
};

/// What to start, each time.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Job.
    pub job: String,
    /// Program and its arguments.
    pub command: Vec<OsString>,
    /// One process for each of these ranks; without them one process in all, which starts its own.
    pub ranks: Option<RangeInclusive<u32>>,
    /// Ranks in the whole job, 0 where unknown.
    pub world_size: u32,
    /// Ranks that the job can do with, 0: all of them.
    pub least_world_size: u32,
    /// Why the job is to be left alone; empty: it is not.
    pub opted_out: String,
    /// The node's place in the job, where the controller has given it one.
    pub place: Option<Place>,
    /// Where the job says which checkpoint is its newest.
    pub checkpoint_marker: PathBuf,
    /// Further environment: the recorder directory, the plugin.
    pub environment: BTreeMap<String, OsString>,
    /// Output goes to files in this directory instead of through the agent.
    pub log_dir: Option<PathBuf>,
}

impl Spec {
    /// The ranks, as reported.
    #[must_use]
    pub fn rank_list(&self) -> Vec<u32> {
        self.ranks.clone().map(Iterator::collect).unwrap_or_default()
    }
}

/// A node's place among the nodes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which, from 0.
    pub node_rank: u32,
    /// How many nodes there are.
    pub nodes: u32,
    /// Name of the node with rank 0.
    pub master: String,
}

/// A process that cannot be started.
#[derive(Debug, Error)]
#[error("cannot start {command:?}: {why}")]
pub struct SpawnError {
    command: OsString,
    why: std::io::Error,
}

impl SpawnError {
    /// Exit code that shells give for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.why.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

/// A process has ended.
#[derive(Clone, Copy, Debug)]
pub struct Exited {
    /// Of which incarnation.
    pub incarnation: u32,
    /// Its rank, where the agent assigns ranks.
    pub rank: Option<u32>,
    /// Its id.
    pub pid: u32,
    /// How.
    pub status: ExitStatus,
}

/// Running processes. Dropping it kills them all: none outlives an agent that ends in any way but SIGKILL.
#[derive(Debug)]
pub struct Group {
    /// Which restart this is.
    pub incarnation: u32,
    token: String,
    running: BTreeSet<i32>,
    /// What was left of leaders that have ended, with start times: process ids are used again.
    left: BTreeMap<i32, u64>,
    output: Vec<JoinHandle<()>>,
}

impl Group {
    /// Starts all processes. When one cannot be started the others are killed again.
    ///
    /// # Errors
    /// One cannot be started: why.
    pub fn spawn(
        spec: &Spec,
        incarnation: u32,
        token: &str,
        exits: &Exits,
        ended: &mpsc::Sender<Exited>,
    ) -> Result<Self, SpawnError> {
        let token = format!("{token}-{incarnation}");
        let mut group =
            Self { incarnation, token, running: BTreeSet::new(), left: BTreeMap::new(), output: Vec::new() };
        let ranks: Vec<Option<u32>> = match &spec.ranks {
            Some(ranks) => ranks.clone().map(Some).collect(),
            None => vec![None],
        };
        let first = spec.ranks.as_ref().map_or(0, |ranks| *ranks.start());
        for rank in ranks {
            let mut child = group.start(spec, rank, first)?;
            // A child that has not been waited for has an id.
            let Some(pid) = child.id() else { continue };
            group.running.extend(i32::try_from(pid));
            exits.started(pid);
            group.output.extend(pass_output(&mut child, rank));
            let (exits, ended) = (exits.clone(), ended.clone());
            tokio::spawn(async move {
                let status = match child.wait().await {
                    Ok(status) => ExitStatus { code: status.code(), signal: status.signal() },
                    Err(_) => ExitStatus { code: None, signal: None },
                };
                exits.ended(pid, status);
                let _ = ended.send(Exited { incarnation, rank, pid, status }).await;
            });
        }
        Ok(group)
    }

    fn start(&self, spec: &Spec, rank: Option<u32>, first: u32) -> Result<Child, SpawnError> {
        let program = spec.command.first().cloned().unwrap_or_default();
        let failed = |why| SpawnError { command: program.clone(), why };
        let mut command = Command::new(&program);
        command.args(spec.command.iter().skip(1)).envs(&spec.environment);
        command.env("C4_JOB", &spec.job).env("C4_INCARNATION", self.incarnation.to_string());
        command.env("C4_CHECKPOINT_MARKER", &spec.checkpoint_marker).env(members::TOKEN, &self.token);
        if let Some(place) = &spec.place {
            // As torchrun and most launchers read them.
            for (name, value) in [("NODE_RANK", place.node_rank), ("NNODES", place.nodes)] {
                command.env(name, value.to_string()).env(format!("PET_{name}"), value.to_string());
            }
            command.env("MASTER_ADDR", &place.master).env("PET_MASTER_ADDR", &place.master);
        }
        if let Some(rank) = rank {
            command.env("RANK", rank.to_string()).env("LOCAL_RANK", (rank - first).to_string());
            command.env("WORLD_SIZE", spec.world_size.to_string());
        }
        if let Some(directory) = &spec.log_dir {
            let name = rank.map_or_else(|| "job".to_owned(), |rank| format!("rank-{rank}"));
            let file = output::log_file(directory, &name).map_err(failed)?;
            command.stdout(file.try_clone().map_err(failed)?).stderr(file);
        } else if rank.is_some() {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        // A group of its own, so that everything it starts can be ended with it.
        command.stdin(Stdio::null()).process_group(0).spawn().map_err(failed)
    }

    /// Notes that a leader has ended, and what it has left behind.
    pub fn note(&mut self, pid: u32) {
        // Its process group is looked at now, while nobody can have taken over its id.
        for member in self.members() {
            if let Some(stat) =
                u32::try_from(member).ok().and_then(|pid| procfs::read_stat(Path::new("/proc"), pid))
            {
                self.left.insert(member, stat.start_ticks);
            }
        }
        if let Ok(pid) = i32::try_from(pid) {
            self.running.remove(&pid);
            self.left.remove(&pid);
        }
    }

    /// Everything that belongs to the group now.
    #[must_use]
    pub fn members(&self) -> BTreeSet<i32> {
        members::find(&self.running, &self.left, &self.token)
    }

    /// Leaders that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Signals everything that belongs to the group, and says how many processes that were.
    pub fn signal(&self, signal: Signal) -> usize {
        let members = self.members();
        members::signal(&members, signal);
        members.len()
    }

    /// Asks everything to end. A process that is stopped is woken up to hear it.
    pub fn terminate(&self) {
        let members = self.members();
        members::signal(&members, Signal::TERM);
        members::signal(&members, Signal::CONT);
    }

    /// Waits until everything its processes have written was passed on, but no longer than `limit`.
    pub async fn flush(&mut self, limit: Duration) {
        let all = async {
            for pump in self.output.drain(..) {
                let _ = pump.await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }

    /// Whether nothing of it is left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.running.is_empty() && self.members().is_empty()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Twice: a process may have been starting another while the first list was read.
        if self.signal(Signal::KILL) > 0 {
            self.signal(Signal::KILL);
        }
    }
}

fn pass_output(child: &mut Child, rank: Option<u32>) -> Vec<JoinHandle<()>> {
    let prefix = rank.map(|rank| format!("[rank {rank}] ")).unwrap_or_default();
    let out = child.stdout.take().map(|out| tokio::spawn(output::pump(out, prefix.clone(), &output::STDOUT)));
    let err = child.stderr.take().map(|err| tokio::spawn(output::pump(err, prefix, &output::STDERR)));
    out.into_iter().chain(err).collect()
}
