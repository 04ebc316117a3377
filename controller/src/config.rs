//! The controller's configuration.
//!
//! A person who edits a file wants every mistake at once, not one an attempt. serde stops at the first, so each leaf
//! of the document is deserialised *by itself* into the whole configuration (every field has a default, so a
//! document with one leaf is complete): what that leaf gets wrong, whether an unknown key or a wrong type, is reported
//! with its path, and the remaining leaves make the configuration whose values are then checked.
//!
//! `null` and an empty value mean "the default", so a key may be written with everything under it commented out.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use access::{Access, REREAD, Tls};
use c4_detect::{detector, finding::Kind};
use c4_traffic::actuators::{
    Actuator, Export, SourcePort, Spraying,
    policy::{PolicyRoutes, Words},
};
pub use ha::{EtcdTls, Ha};
pub use oidc::{Algorithm as OidcAlgorithm, Oidc};
use serde::{Deserialize, Serialize};

mod access;
mod check;
mod ha;
mod leaves;
pub mod moved;
mod oidc;
mod steer;
#[cfg(test)]
mod tests;

pub use steer::{Hook, Kubernetes, KubernetesJobs, Maintenance, Modes, Slurm, Steer};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where agents and operators connect (gRPC). Default: this machine only, since there is no `tls` by default.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` are. Default: this machine only.
    pub http: SocketAddr,
    /// What connections are protected with. Default: nothing, and then only this machine may connect.
    pub tls: Option<Tls>,
    /// Whether to listen beyond this machine without `tls`, or with everything open to anybody. Default: no.
    pub insecure: bool,
    /// Who may do what.
    pub access: Access,
    /// File that everything the detector was told is appended to, as JSON lines, for replay. Default: none, since it
    /// grows without bound.
    pub record: Option<PathBuf>,
    /// Directory in which the controller keeps what must survive it: findings, actions, audit trail, pauses and modes, the
    /// downtime ledger, the plan of paths. Default: the one that systemd gives it (`STATE_DIRECTORY`); without one, all that is kept in memory only.
    pub state: Option<PathBuf>,
    /// Several controllers, of which one leads. Default: this is the only one.
    pub ha: Option<Ha>,
    /// How long open work may take to end after SIGTERM. Default 5 s: well under the 10 s or more that service
    /// managers grant.
    pub drain_seconds: f64,
    /// What agents may do.
    pub ingest: Ingest,
    /// Thresholds of the detector.
    pub detect: detector::Config,
    /// What to do about findings.
    pub steer: Steer,
    /// Planned paths for jobs' connections.
    pub paths: Paths,
    /// Who is told about findings. Default: nobody.
    pub alerts: Vec<Alert>,
    /// What is logged, to standard error.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4400)),
            http: SocketAddr::from(([127, 0, 0, 1], 4401)),
            tls: None,
            insecure: false,
            access: Access::default(),
            record: None,
            state: None,
            ha: None,
            drain_seconds: 5.0,
            ingest: Ingest::default(),
            detect: detector::Config::default(),
            steer: Steer::default(),
            paths: Paths::default(),
            alerts: Vec::new(),
            log: Log::default(),
        }
    }
}

/// What agents may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// A node counts as lost this long after its last stream closed. Default 3 s: longer than an agent needs to
    /// reconnect after its connection broke, shorter than anybody wants to wait for "unknown".
    pub node_lost_seconds: f64,
    /// Streams open at once; more are turned away. Default 20,000: one for each node of the largest clusters, twice.
    pub max_streams: usize,
    /// A stream is closed after this many refused messages. Default 100: an agent that is wrong that often will not
    /// become right, and its log should not be our load.
    pub max_refused: u32,
}

impl Default for Ingest {
    fn default() -> Self {
        Self { node_lost_seconds: 3.0, max_streams: 20_000, max_refused: 100 }
    }
}

/// Planned paths for jobs' connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Hosts, switches and links, with the addresses of NICs and switches (YAML, as for `c4ctl plan`), or `learned`: what
    /// probes find out. Default: none, and no paths are planned.
    pub topology: Option<TopologySource>,
    /// Rate in Gbit/s of NICs' ports whose hosts do not know it, where the topology is learned. Default: none, since a wrong
    /// one makes wrong plans.
    pub assumed_gbps: Option<f64>,
    /// How a plan reaches the network. Default: by source ports.
    pub actuator: PathActuator,
    /// Directory that files for switches, or the plan, are written to. Required where the actuator writes any; default:
    /// none.
    pub export: Option<PathBuf>,
    /// No setting any more; who still has it is told what to do instead.
    #[serde(skip_serializing)]
    pub state: moved::PlanFile,
    /// The paths of a job are kept for so long after its last process has ended. Default 600 s: it is restarted on the
    /// same hosts more often than not, and its connections then have planned paths from the beginning.
    pub keep_seconds: f64,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            topology: None,
            assumed_gbps: None,
            actuator: PathActuator::default(),
            export: None,
            state: moved::PlanFile,
            keep_seconds: 600.0,
        }
    }
}

/// Where the topology comes from that paths are planned on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum TopologySource {
    /// From a file.
    File(PathBuf),
    /// From probes: agents explore the network, where they are configured to.
    Learned,
}

/// How it is written.
const LEARNED: &str = "learned";

impl From<PathBuf> for TopologySource {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == LEARNED { TopologySource::Learned } else { TopologySource::File(path) }
    }
}

impl From<TopologySource> for PathBuf {
    fn from(source: TopologySource) -> Self {
        match source {
            TopologySource::File(path) => path,
            TopologySource::Learned => LEARNED.into(),
        }
    }
}

impl TopologySource {
    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            TopologySource::File(path) => Some(path),
            TopologySource::Learned => None,
        }
    }
}

/// How a plan reaches the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathActuator {
    /// Source ports, by agents and `libc4-path.so`: a connection follows a plan when it is made.
    #[default]
    SourcePort,
    /// The same where all connections are RoCE queue pairs of mlx5, which also follow a new plan while they run: nothing
    /// has to be planned around.
    SourcePortLive,
    /// Policy routes for leaves that are Linux routers, as `ip -batch` takes them: a file for each.
    PolicyRoutes,
    /// The same as FRR takes them.
    Frr,
    /// The plan, as JSON.
    Export,
    /// Nothing: the fabric sprays packets over all paths.
    None,
}

impl PathActuator {
    /// Whoever carries plans out.
    #[must_use]
    pub fn actuator(self) -> Arc<dyn Actuator> {
        match self {
            PathActuator::SourcePort => Arc::new(SourcePort { live: false }),
            PathActuator::SourcePortLive => Arc::new(SourcePort { live: true }),
            PathActuator::PolicyRoutes => Arc::new(PolicyRoutes(Words::Iproute)),
            PathActuator::Frr => Arc::new(PolicyRoutes(Words::Frr)),
            PathActuator::Export => Arc::new(Export),
            PathActuator::None => Arc::new(Spraying),
        }
    }

    /// Whether it writes files.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, PathActuator::PolicyRoutes | PathActuator::Frr | PathActuator::Export)
    }
}

/// Who decides that something is done about a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is done; what would have been done is said.
    #[default]
    Observe,
    /// Each action waits for an operator's yes.
    Approve,
    /// Actions that pass the rails are carried out.
    Auto,
}

impl Mode {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Approve => "approve",
            Mode::Auto => "auto",
        }
    }

    /// The mode of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Mode::Observe, Mode::Approve, Mode::Auto].into_iter().find(|mode| mode.name() == name)
    }
}

/// How an alert is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// Alertmanager's v2 API; `url` is its base, such as `http://alertmanager:9093`.
    Alertmanager,
    /// A POST of the findings document to `url`, or of what `template_file` makes of it.
    Json,
    /// Slack's incoming webhooks, and what is compatible with them.
    Slack,
    /// PagerDuty's Events API v2; `secret_file` holds the integration key.
    Pagerduty,
}

impl AlertKind {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AlertKind::Alertmanager => "alertmanager",
            AlertKind::Json => "json",
            AlertKind::Slack => "slack",
            AlertKind::Pagerduty => "pagerduty",
        }
    }
}

/// One receiver of alerts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alert {
    /// How it is delivered. Required.
    pub kind: Option<AlertKind>,
    /// Where to. Required, or `url_file`; PagerDuty's is known.
    pub url: String,
    /// File that holds the address, where it is a secret, as Slack's are. Default: none.
    pub url_file: Option<PathBuf>,
    /// File with a secret: for `json` and `slack` the key that requests are signed with, for `pagerduty` the integration key.
    /// Default: none; nothing is signed.
    pub secret_file: Option<PathBuf>,
    /// File with a token that is sent as `Authorization: Bearer`. Default: none.
    pub token_file: Option<PathBuf>,
    /// For `json`: file with a template (Jinja) of what is sent instead of the findings document. Default: none.
    pub template_file: Option<PathBuf>,
    /// Kinds of findings that this receiver is told about. Default: all.
    pub kinds: Vec<Kind>,
    /// News waits so long for other news of the same job, to be told together. Default 1 s; Alertmanager groups by itself
    /// and PagerDuty takes one event at a time, so for them nothing waits.
    pub group_seconds: f64,
    /// An open finding is sent to Alertmanager again after this time, or it would count as resolved there. Default
    /// 60 s, well under Alertmanager's `resolve_timeout` of 5 min.
    pub repeat_seconds: f64,
    /// How long one request may take. Default 5 s.
    pub timeout_seconds: f64,
    /// Attempts at one delivery, with exponentially growing pauses, before it is given up and counted. Default 12:
    /// about a quarter of an hour.
    pub attempts: u32,
    /// Findings waiting or open at once; what does not fit is counted and left out. Default 1000.
    pub queue: usize,
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            kind: None,
            url: String::new(),
            url_file: None,
            secret_file: None,
            token_file: None,
            template_file: None,
            kinds: Vec::new(),
            group_seconds: 1.0,
            repeat_seconds: 60.0,
            timeout_seconds: 5.0,
            attempts: 12,
            queue: 1000,
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as `info,c4_controller=debug`. Default
    /// `info`.
    pub level: String,
    /// Default `text`.
    pub format: LogFormat,
    /// Collector of spans (OpenTelemetry's OTLP over gRPC), such as `http://127.0.0.1:4317`: calls, agents' streams, and each action
    /// with what agents did about it. Default: none.
    pub otlp: Option<String>,
    /// File with the certificate of who signs the collector's, where its address begins with `https`. Default: none.
    pub otlp_ca: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, otlp: None, otlp_ca: None }
    }
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Path of the key, such as `alerts[1].url`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.path, self.problem)
        }
    }
}

impl Config {
    /// Reads a YAML document and checks every value; on failure returns everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let (config, mut mistakes) = leaves::parse(text)?;
        for mistake in check::check(&config) {
            // A leaf that could not be read has been left out; that its default is wrong too is no second mistake.
            if !mistakes.iter().any(|m| m.path == mistake.path) {
                mistakes.push(mistake);
            }
        }
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }
}
