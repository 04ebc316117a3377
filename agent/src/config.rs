//! The agent's configuration: every key with its default and the reason for it. A file is checked as a whole before
//! anything is bound or started, and all of its mistakes are told at once.

mod fields;
mod paths;
mod sensors;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use c4_tls::ClientFiles;
pub use fields::Mistake;
use fields::{Fields, milliseconds, or_null, path, text, truth, whole};
use thiserror::Error;
pub use tls::check_protection;
use tonic::transport::Endpoint;

use crate::{
    checks::CheckSettings,
    paths::service::PathSettings,
    recorders::{Overdue, Retention},
    sensors::SensorSettings,
    stream::{BackoffPolicy, SpoolLimits},
    supervise::EvidenceSettings,
};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node. Default: what `C4_NODE` says (Kubernetes' name of it, from the downward API), else the host's name.
    pub node: String,
    /// The controller, or several of which one leads, with commas between them. Default: one on this host, so that a first
    /// try needs no file. `None`: none at all.
    pub controller: Option<String>,
    /// How connections are protected. Default: not at all, and then only within this machine.
    pub tls: Option<ClientFiles>,
    /// File of the token by which the controller knows this agent. Default: none, a certificate is better.
    pub token_file: Option<PathBuf>,
    /// Whether to talk to other machines without protection. Default: no.
    pub insecure: bool,
    /// Where training processes leave their recorders. Default `/dev/shm/c4`, the plugin's default: memory, so that
    /// a full or slow disk cannot hold up a rank.
    pub recorder_dir: PathBuf,
    /// Where `/metrics` and `/healthz` are served. Default: this host only, since they are not protected. `None`: not.
    pub http: Option<SocketAddr>,
    /// Time between two looks at the recorders. Default 100 ms: a death is told within a tenth of a second, and eight
    /// ranks cost well under one percent of a core.
    pub sample_interval: Duration,
    /// Length of a window. Default 1 s: an order of magnitude below the time in which a hang must be found.
    pub window: Duration,
    /// When an operation in flight is worth an extra window. Default: older than a second and than four times the longest
    /// recent one, so that long iterations are no alarm.
    pub overdue: Overdue,
    /// Recorders of dead processes. Default: an hour, 64 files: time to look at them, without filling the memory.
    pub evidence: Retention,
    /// What is kept for a controller that is away. Default 10,000 messages, 48 MiB: an hour of eight ranks.
    pub spool: SpoolLimits,
    /// Reconnects. Default: from 250 ms, doubling to 5 s: after a long outage all agents are back with the controller, and it with
    /// its work, within 10 s, and ten thousand of them do not trample on one that struggles: spread by jitter, they are 2,700 calls a second.
    pub reconnect: BackoffPolicy,
    /// Longest time to make a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// How long to go on at the end, to deliver what is left. Default 2 s.
    pub drain: Duration,
    /// The sensors. Default: all, each second; `sensors` says from where the thresholds are.
    pub sensors: SensorSettings,
    /// Supervision (`c4-agent run`).
    pub supervise: Supervise,
    /// What is checked before an isolated node comes back.
    pub checks: CheckSettings,
    /// While this file is there, C4 takes no action on the node; its first line says why.
    pub leave_alone: PathBuf,
    /// Planned paths. Default: none, since somebody has to plan them.
    pub paths: Option<PathSettings>,
    /// Form of the log. Default: text.
    pub log_format: LogFormat,
    /// What is logged, as tracing's filter. Default "info".
    pub log_filter: String,
    /// Collector of spans (OTLP over gRPC). Default: none.
    pub otlp: Option<String>,
    /// File with the certificate of who signs the collector's. Default: none.
    pub otlp_ca: Option<PathBuf>,
}

fn node_name() -> String {
    let given = std::env::var("C4_NODE").ok().filter(|name| !name.trim().is_empty());
    given.or_else(|| sysinfo::System::host_name().ok()).unwrap_or_else(|| "localhost".to_owned())
}

/// How supervised processes are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervise {
    /// After a failure: how long the controller has to restart the job. Default 30 s: detection, diagnosis and a
    /// careful controller take a few.
    pub restart_grace: Duration,
    /// Between SIGTERM and SIGKILL when the agent itself ends the job. Default 10 s: enough to flush, too short to forget.
    pub stop_grace: Duration,
    /// Time between two reports of an unchanged group. Default 10 s.
    pub report_interval: Duration,
    /// What is saved before a job is stopped. Default: eight sets of at most 256 MiB under /var/tmp.
    pub evidence: EvidenceSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: node_name(),
            controller: Some("http://127.0.0.1:4400".to_owned()),
            tls: None,
            token_file: None,
            insecure: false,
            recorder_dir: PathBuf::from("/dev/shm/c4"),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 4402))),
            sample_interval: Duration::from_millis(100),
            window: Duration::from_secs(1),
            overdue: Overdue { floor_ns: 1_000_000_000, factor: 4 },
            evidence: Retention { keep: Duration::from_secs(3600), files: 64 },
            spool: SpoolLimits { messages: 10_000, bytes: 48 << 20 },
            reconnect: BackoffPolicy {
                first: Duration::from_millis(250),
                max: Duration::from_secs(5),
                stable: Duration::from_secs(5),
            },
            connect_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(2),
            sensors: SensorSettings::default(),
            supervise: Supervise {
                restart_grace: Duration::from_secs(30),
                stop_grace: Duration::from_secs(10),
                report_interval: Duration::from_secs(10),
                evidence: EvidenceSettings::default(),
            },
            checks: CheckSettings::default(),
            leave_alone: PathBuf::from("/etc/c4/leave-alone"),
            paths: None,
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            otlp: None,
            otlp_ca: None,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no YAML.
    #[error("not YAML: {0}")]
    Syntax(#[from] serde_yaml::Error),
    /// It says what cannot be.
    #[error("{0}")]
    Mistakes(Mistakes),
}

/// All mistakes of a configuration.
#[derive(Debug)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mistake{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no YAML, or has mistakes: all of them.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads a document. Keys that are not there have their defaults.
    ///
    /// # Errors
    /// It is no YAML, or has mistakes: all of them.
    pub fn parse(document: &str) -> Result<Self, ConfigError> {
        let value: serde_yaml::Value = serde_yaml::from_str(document)?;
        let mut config = Self::default();
        let mut found = Vec::new();
        let mistakes = &mut found;
        let mut root = Fields::root(value, mistakes);

        root.value("node", &mut config.node, mistakes, text);
        root.value("controller", &mut config.controller, mistakes, or_null(address));
        config.tls = tls::tls(root.section("tls", mistakes), mistakes);
        root.value("token_file", &mut config.token_file, mistakes, or_null(path));
        root.value("insecure", &mut config.insecure, mistakes, truth);
        root.value("recorder_dir", &mut config.recorder_dir, mistakes, path);
        root.value("http", &mut config.http, mistakes, or_null(socket));
        root.value("sample_interval_ms", &mut config.sample_interval, mistakes, milliseconds(10, 10_000));
        root.value("window_ms", &mut config.window, mistakes, milliseconds(100, 60_000));

        let mut overdue = root.section("overdue", mistakes);
        let mut floor = Duration::from_nanos(config.overdue.floor_ns);
        overdue.value("floor_ms", &mut floor, mistakes, milliseconds(10, 600_000));
        config.overdue.floor_ns = u64::try_from(floor.as_nanos()).unwrap_or(u64::MAX);
        overdue.value("factor", &mut config.overdue.factor, mistakes, whole(1, 1000));
        overdue.finish(mistakes);

        let mut evidence = root.section("evidence", mistakes);
        let mut seconds = config.evidence.keep.as_secs();
        evidence.value("keep_seconds", &mut seconds, mistakes, whole(0, 30 * 86_400));
        config.evidence.keep = Duration::from_secs(seconds);
        evidence.value("keep_files", &mut config.evidence.files, mistakes, size(0, 10_000));
        evidence.finish(mistakes);

        let mut spool = root.section("spool", mistakes);
        spool.value("messages", &mut config.spool.messages, mistakes, size(16, 10_000_000));
        spool.value("bytes", &mut config.spool.bytes, mistakes, size(64 << 10, 16 << 30));
        spool.finish(mistakes);

        let mut reconnect = root.section("reconnect", mistakes);
        reconnect.value("first_ms", &mut config.reconnect.first, mistakes, milliseconds(10, 60_000));
        reconnect.value("max_ms", &mut config.reconnect.max, mistakes, milliseconds(10, 600_000));
        reconnect.value(
            "connect_timeout_ms",
            &mut config.connect_timeout,
            mistakes,
            milliseconds(100, 60_000),
        );
        reconnect.value("drain_ms", &mut config.drain, mistakes, milliseconds(0, 60_000));
        reconnect.finish(mistakes);

        sensors::read(&mut config.sensors, root.section("sensors", mistakes), mistakes);

        let mut supervise = root.section("supervise", mistakes);
        let knobs = &mut config.supervise;
        supervise.value("restart_grace_ms", &mut knobs.restart_grace, mistakes, milliseconds(0, 86_400_000));
        supervise.value("stop_grace_ms", &mut knobs.stop_grace, mistakes, milliseconds(0, 600_000));
        supervise.value(
            "report_interval_ms",
            &mut knobs.report_interval,
            mistakes,
            milliseconds(100, 600_000),
        );
        supervise.value("evidence_dir", &mut knobs.evidence.directory, mistakes, path);
        supervise.value("evidence_sets", &mut knobs.evidence.sets, mistakes, size(0, 10_000));
        let mut mebibytes = knobs.evidence.bytes >> 20;
        supervise.value("evidence_mib", &mut mebibytes, mistakes, whole(1, 1 << 20));
        knobs.evidence.bytes = mebibytes << 20;
        supervise.finish(mistakes);

        root.value("leave_alone", &mut config.leave_alone, mistakes, path);
        let mut checks = root.section("checks", mistakes);
        checks.value("gpu_test", &mut config.checks.gpu_test, mistakes, or_null(text));
        checks.value("timeout_ms", &mut config.checks.timeout, mistakes, milliseconds(100, 3_600_000));
        checks.finish(mistakes);

        config.paths = paths::paths(&config.node, root.section("paths", mistakes), mistakes);

        let mut log = root.section("log", mistakes);
        log.value("format", &mut config.log_format, mistakes, log_format);
        log.value("filter", &mut config.log_filter, mistakes, log_filter);
        log.value("otlp", &mut config.otlp, mistakes, or_null(text));
        log.value("otlp_ca", &mut config.otlp_ca, mistakes, or_null(path));
        log.finish(mistakes);

        root.finish(mistakes);
        tls::check(&config, mistakes);
        if config.window < config.sample_interval {
            let what = "a window is at least as long as `sample_interval_ms`".to_owned();
            mistakes.push(Mistake { path: "window_ms".to_owned(), what });
        }
        if config.reconnect.max < config.reconnect.first {
            let what = "at least as long as `reconnect.first_ms`".to_owned();
            mistakes.push(Mistake { path: "reconnect.max_ms".to_owned(), what });
        }
        if found.is_empty() { Ok(config) } else { Err(ConfigError::Mistakes(Mistakes(found))) }
    }
}

fn size(low: usize, high: usize) -> impl FnOnce(&serde_yaml::Value) -> Result<usize, String> {
    move |value| {
        let number = whole(low as u64, high as u64)(value)?;
        usize::try_from(number).map_err(|error| error.to_string())
    }
}

/// The addresses in a list with commas.
pub fn addresses(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// Whether `text` can be the address of a controller, or a list of such addresses with commas between them.
///
/// # Errors
/// It cannot: what was expected.
pub fn check_address(text: &str) -> Result<(), String> {
    let good = |address: &str| {
        let endpoint = Endpoint::from_shared(address.to_owned()).ok();
        endpoint.is_some_and(|endpoint| {
            matches!(endpoint.uri().scheme_str(), Some("http" | "https")) && endpoint.uri().host().is_some()
        })
    };
    if addresses(text).all(good) {
        Ok(())
    } else {
        Err("an address such as https://controller:4400".to_owned())
    }
}

fn address(value: &serde_yaml::Value) -> Result<String, String> {
    let list = value.as_sequence().map(|list| list.iter().map(|one| one.as_str().unwrap_or_default()));
    let text = match list {
        Some(list) => list.collect::<Vec<_>>().join(","),
        None => value.as_str().unwrap_or_default().to_owned(),
    };
    check_address(&text).map(|()| text)
}

fn socket(value: &serde_yaml::Value) -> Result<SocketAddr, String> {
    let address = value.as_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| "an address and port such as 127.0.0.1:4402".to_owned())
}

fn log_format(value: &serde_yaml::Value) -> Result<LogFormat, String> {
    match value.as_str() {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}

fn log_filter(value: &serde_yaml::Value) -> Result<String, String> {
    let filter = text(value)?;
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(format!("a filter such as info,c4_agent=debug ({error})")),
    }
}
