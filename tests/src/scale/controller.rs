//! The controller under load: the program as it is shipped, confined to its cores, and what the kernel says of it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use tempfile::TempDir;

use crate::{cluster::Child, ringjob::clock};

/// What `/proc` counts CPU time in (`USER_HZ`), the same on every architecture that has GPUs.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a page may take.
const SCRAPE_LIMIT: Duration = Duration::from_secs(30);

/// The page of metrics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scrape {
    /// Its size.
    pub bytes: usize,
    /// Its series.
    pub series: usize,
    /// From the request to its last byte.
    pub seconds: f64,
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    /// Where agents and operators connect.
    pub grpc: String,
    http: String,
    _dir: TempDir,
}

/// Cores of the controller and of the agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The controller's.
    pub controller: Vec<usize>,
    /// The agents'.
    pub agents: Vec<usize>,
}

impl Cores {
    /// Two cores for the controller unless it is said which, and the others for the agents; the same if there are none.
    ///
    /// # Errors
    /// When a core was asked for that this program may not use.
    pub fn divide(wanted: &[usize]) -> anyhow::Result<Self> {
        let set = sched_getaffinity(None).context("cannot tell which cores there are")?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
        let controller: Vec<usize> =
            if wanted.is_empty() { all.iter().copied().take(2).collect() } else { wanted.to_vec() };
        if let Some(missing) = controller.iter().find(|core| !all.contains(core)) {
            anyhow::bail!("--cores: this program may not use core {missing}, only {all:?}");
        }
        let others: Vec<usize> = all.iter().copied().filter(|core| !controller.contains(core)).collect();
        let agents = if others.is_empty() { all } else { others };
        Ok(Self { controller, agents })
    }
}

/// Confines this thread, and what it starts from now on.
pub fn confine(cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).with_context(|| format!("cannot use cores {cores:?}"))
}

/// CPU time and memory of a process until now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory now and at its peak, in bytes.
    pub rss: u64,
    /// See `rss`.
    pub rss_peak: u64,
}

impl Controller {
    /// Starts `program` on `cores`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(program: &Path, cores: &Cores) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("c4-scale-").tempdir().context("no temporary directory")?;
        let config = dir.path().join("controller.yaml");
        fs::write(&config, "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nlog:\n  level: warn\n")?;
        confine(&cores.controller)?;
        let mut command = Command::new(program);
        // As its unit and its image have it.
        let allocator = [("MIMALLOC_PURGE_DELAY", "2000"), ("MIMALLOC_ARENA_EAGER_COMMIT", "0")];
        command.arg("--config").arg(&config).envs(allocator);
        let child = Child::start("controller", &mut command, &dir.path().join("controller.log"));
        confine(&cores.agents)?;
        let mut child = child?;
        let line = child.first_line(Duration::from_secs(30), |line| line.starts_with("listening "))?;
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value
                .map(str::to_owned)
                .with_context(|| format!("controller said {line:?}, expected {name}=ADDRESS"))
        };
        let (grpc, http) = (field("grpc")?, field("http")?);
        Ok(Self { child, grpc, http, _dir: dir })
    }

    /// What it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&mut self) -> anyhow::Result<Usage> {
        ensure!(self.child.try_wait().is_none(), "the controller has ended:\n{}", self.child.log_tail());
        usage(self.child.pid())
    }

    /// Reads its page of metrics as Prometheus does.
    ///
    /// # Errors
    /// When there is none.
    pub fn scrape(&self) -> anyhow::Result<Scrape> {
        let began = clock::now();
        let mut stream = TcpStream::connect(&self.http).context("cannot connect to /metrics")?;
        stream.set_read_timeout(Some(SCRAPE_LIMIT))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", self.http)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("cannot read /metrics")?;
        let (head, page) = text.split_once("\r\n\r\n").context("/metrics: no HTTP")?;
        ensure!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "/metrics: {head}");
        let seconds = clock::now().duration_since(began).as_secs_f64();
        Ok(Scrape {
            bytes: page.len(),
            series: page.lines().filter(|l| !l.starts_with('#')).count(),
            seconds,
        })
    }

    /// Its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.child.log_tail()
    }
}

/// What the kernel says that a process has used.
///
/// # Errors
/// When there is no such process.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    // The name, in parentheses, may hold spaces; user and system time are fields 14 and 15.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks = |field: usize| {
        fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).context("/proc/PID/stat")
    };
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).context("/proc/PID/status")
    };
    Ok(Usage {
        cpu: Duration::from_secs_f64((ticks(14)? + ticks(15)?) as f64 / TICKS_PER_SECOND),
        rss: kib("VmRSS:")? * 1024,
        rss_peak: kib("VmHWM:")? * 1024,
    })
}
