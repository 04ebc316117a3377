//! What to do about findings, and the rails around it.

use std::{collections::BTreeMap, path::PathBuf};

use c4_detect::{finding::Kind, observation::Timestamp};
use serde::{Deserialize, Serialize};

use super::Mode;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steer {
    /// Default `observe`: nothing that was not asked for touches a job.
    pub mode: Mode,
    /// Exceptions from it. Default: none.
    pub modes: Modes,
    /// Restarts of one job at most. Default 3: a fourth fault in one run is rarely bad luck.
    pub max_restarts: u32,
    /// Kinds of findings that a restart can help. Default: those in which the job makes no progress any more.
    pub restart_on: Vec<Kind>,
    /// Kinds of findings that can cost a node its job or its place. Default: all that can be the node's fault; `desync` and
    /// `workload_imbalance` never can, whatever is written here.
    pub isolate_on: Vec<Kind>,
    /// Time between the beginnings of two restarts of one job. Default 30 s: a job that cannot even initialise in
    /// that time would otherwise be restarted in a loop.
    pub cooldown_seconds: f64,
    /// Findings of which it is less sure that the job suffers, whoever is to blame, are not acted on (0 to 1). Default
    /// 0.8: a hang is that sure once it has lasted twice as long as anything that ever resolved by itself.
    pub min_confidence: f64,
    /// Findings that are less sure than this of who is to blame cost no node anything. Default 0.9: what is taken away
    /// should be wrong less than once in ten times even before it has to happen twice.
    pub isolate_confidence: f64,
    /// Restarts of jobs that C4 may begin by its own decision within an hour, over all jobs. Default 12: more faults than that in
    /// an hour, or what looks like them, are something that a person should see.
    pub restarts_per_hour: u32,
    /// Share of all jobs that C4 may so restart within an hour (but three always may). Default 0.1: who accuses nodes of many jobs
    /// may be the fault itself.
    pub jobs_share: f64,
    /// Nodes that may be out, or may be taken within an hour, by C4's own decision. Default 2: more faults than that in an
    /// hour are something that a person should see.
    pub nodes_per_hour: u32,
    /// The same as a share of all nodes (but one node always may). Default 0.05.
    pub nodes_share: f64,
    /// Nothing is done for so long after the controller has started. Default 10 s: agents are back after a few.
    pub settle_seconds: f64,
    /// The circuit breaker opens when so many nodes turn bad within `breaker_seconds`. Default 4.
    pub breaker_nodes: u32,
    /// See `breaker_nodes`. Default 60.
    pub breaker_seconds: f64,
    /// The circuit breaker also opens when this share of all agents (and at least three) is out of sight. Default 0.1.
    pub breaker_lost_share: f64,
    /// How long a fault is remembered against its node: the next one there within this time goes a rung up. Default 21600
    /// s, six hours.
    pub watch_seconds: f64,
    /// The same kind of fault on so many nodes of one job within `watch_seconds` is the job's own, and stops its restarts.
    /// Default 3.
    pub job_fault_nodes: u32,
    /// A node that was given back is on probation for so long: one more fault isolates it. Default 86400 s, a day.
    pub probation_seconds: f64,
    /// When nothing is done to jobs or nodes. Default: never.
    pub maintenance: Vec<Maintenance>,
    /// What processes get between SIGTERM and SIGKILL. Default 5 s; a hung rank does not react to SIGTERM anyway.
    pub stop_grace_seconds: f64,
    /// How long all process groups may take to stop, grace included. Default 20 s.
    pub stop_timeout_seconds: f64,
    /// How long all process groups may take to start. Default 30 s.
    pub start_timeout_seconds: f64,
    /// How long a job's next incarnation may take to appear once it was started. Default 900 s: the largest jobs need minutes
    /// before their first communicator.
    pub appear_timeout_seconds: f64,
    /// How long isolating or releasing a node, or filing a ticket, may take. Default 30 s.
    pub node_timeout_seconds: f64,
    /// How long the checks of a node that is to come back may take. Default 300 s.
    pub check_timeout_seconds: f64,
    /// How often a step (stop, start, isolate, …) is tried. Default 2: one lost message should not cost a night.
    pub attempts: u32,
    /// The program that is run for what C4 cannot do itself. Default: none.
    pub hook: Option<Hook>,
    /// The Slurm cluster that jobs and nodes belong to. Default: none.
    pub slurm: Option<Slurm>,
    /// The Kubernetes cluster that jobs and nodes belong to. Default: none.
    pub kubernetes: Option<Kubernetes>,
}

impl Default for Steer {
    fn default() -> Self {
        use Kind::{CommHang, CommSlow, Desync, Health, NonCommHang, NonCommSlow, PathFault, ProcessDeath};
        Self {
            mode: Mode::Observe,
            modes: Modes::default(),
            max_restarts: 3,
            restart_on: vec![ProcessDeath, NonCommHang, CommHang, Desync],
            isolate_on: vec![ProcessDeath, NonCommHang, CommHang, NonCommSlow, CommSlow, Health, PathFault],
            cooldown_seconds: 30.0,
            min_confidence: 0.8,
            isolate_confidence: 0.9,
            restarts_per_hour: 12,
            jobs_share: 0.1,
            nodes_per_hour: 2,
            nodes_share: 0.05,
            settle_seconds: 10.0,
            breaker_nodes: 4,
            breaker_seconds: 60.0,
            breaker_lost_share: 0.1,
            watch_seconds: 21_600.0,
            job_fault_nodes: 3,
            probation_seconds: 86_400.0,
            maintenance: Vec::new(),
            stop_grace_seconds: 5.0,
            stop_timeout_seconds: 20.0,
            start_timeout_seconds: 30.0,
            appear_timeout_seconds: 900.0,
            node_timeout_seconds: 30.0,
            check_timeout_seconds: 300.0,
            attempts: 2,
            hook: None,
            slurm: None,
            kubernetes: None,
        }
    }
}

/// Modes for some jobs, nodes or kinds of findings. Where several concern one action, the most careful one holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modes {
    /// By name of the job.
    pub jobs: BTreeMap<String, Mode>,
    /// By name of the node.
    pub nodes: BTreeMap<String, Mode>,
    /// By kind of finding. Kinds other than `process_death`, the hangs and `desync` are only observed unless named here.
    pub kinds: BTreeMap<Kind, Mode>,
}

/// A time in which nothing is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// When it begins, such as 2026-03-01T02:00:00Z. Required.
    pub from: Option<jiff::Timestamp>,
    /// When it ends. Required.
    pub until: Option<jiff::Timestamp>,
    /// Nodes it is for.
    pub nodes: Vec<String>,
    /// Jobs it is for. Neither nodes nor jobs: everybody.
    pub jobs: Vec<String>,
}

impl Maintenance {
    /// Whether it is maintenance now.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        let us = |at: jiff::Timestamp| u64::try_from(at.as_microsecond()).unwrap_or(0);
        let (Some(from), Some(until)) = (self.from, self.until) else { return false };
        (us(from)..us(until)).contains(&now.0)
    }
}

/// A program that is given a JSON document on standard input. See deploy/examples for one that files tickets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hook {
    /// Program and arguments. Required.
    pub command: Vec<String>,
    /// How long one run may take; then it is killed. Default 20 s. Keep it below `node_timeout_seconds`.
    pub timeout_seconds: f64,
    /// Whether it is run when a node is isolated or released. Default false.
    pub nodes: bool,
    /// Whether it is run to ask for a repair once a node is isolated. Default true.
    pub tickets: bool,
}

impl Default for Hook {
    fn default() -> Self {
        Self { command: Vec::new(), timeout_seconds: 20.0, nodes: false, tickets: true }
    }
}

/// How Slurm is spoken to. The controller must run as a Slurm operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slurm {
    /// The program. Default `scontrol`, from the path.
    pub scontrol: PathBuf,
    /// Slurm's configuration file, if it is not where Slurm looks for it.
    pub conf: Option<PathBuf>,
    /// How often Slurm is asked what became of its nodes. Default 10 s.
    pub poll_seconds: f64,
}

impl Default for Slurm {
    fn default() -> Self {
        Self { scontrol: "scontrol".into(), conf: None, poll_seconds: 10.0 }
    }
}

/// How Kubernetes is spoken to. What the controller must be allowed there is in deploy/kubernetes/actuator.yaml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// A kubeconfig. Default: what `KUBECONFIG` names, else the service account of the pod that the controller runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces of the jobs. Default: `default`.
    pub namespaces: Vec<String>,
    /// What jobs are: `jobset` (the default), `kubeflow` (PyTorchJob of the training operator) or `volcano`.
    pub jobs: KubernetesJobs,
    /// The label by which pods name their job. Default: the one that the jobs' controller sets.
    pub job_label: Option<String>,
    /// Whether pods are evicted from a node that is isolated, as far as their disruption budgets allow it; those of DaemonSets
    /// stay. Default false: what runs there may run to its end.
    pub evict: bool,
    /// Whether pods of a job that is stopped are deleted at once if they do not end and their node is not ready. Default false:
    /// nobody can know that their processes do not run on.
    pub delete_stuck_pods: bool,
}

/// What jobs are in Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KubernetesJobs {
    /// JobSets.
    #[default]
    Jobset,
    /// PyTorchJobs of Kubeflow's training operator.
    Kubeflow,
    /// Jobs of Volcano.
    Volcano,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            namespaces: vec!["default".into()],
            jobs: KubernetesJobs::default(),
            job_label: None,
            evict: false,
            delete_stuck_pods: false,
        }
    }
}
