//! What is checked before an isolated node comes back, and whenever somebody asks: `c4-agent check`.
//!
//! The sensors look once, a disk is written to and read back, memory is looked at, and a test of the GPUs is run where
//! one is configured (such as deploy/checks/nccl_loopback.py). What this node does not have is skipped
//! and said; a check that does not end counts as failed.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};

use c4_detect::observation::Severity;
use serde_json::{Value, json};
use tokio::{process::Command, sync::mpsc, time::Instant};
use tracing::{Instrument, Span};

use crate::{
    report::{Captured, Report},
    sensors::{HostSensor, KmsgSensor, NicSensor, NvmlSensor, Sensor, SensorSettings, Spinning, gpus_on_bus},
};

/// Written to the disk and read back.
const DISK_BYTES: usize = 8 << 20;
/// A node with less of its memory free than this, while no job runs on it, has lost it somewhere.
const LEAST_FREE: f64 = 0.1;
/// A look of a sensor that waits for events itself.
const LOOK: Duration = Duration::from_millis(200);

/// What is checked, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSettings {
    /// The sensors that look.
    pub sensors: SensorSettings,
    /// A command line for `sh` that tests the GPUs: exit code 0 if they are well.
    pub gpu_test: Option<String>,
    /// How long any one check may take.
    pub timeout: Duration,
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self { sensors: SensorSettings::default(), gpu_test: None, timeout: Duration::from_secs(120) }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Passed,
    /// It is not.
    Failed,
    /// There is nothing to check.
    Skipped,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// What was checked.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
}

/// Runs all checks, one after the other.
pub async fn run(settings: CheckSettings) -> Vec<CheckResult> {
    let sensors = settings.sensors.clone();
    let mut results = Vec::new();
    let limit = settings.timeout;
    results.push(blocking("disk", limit, || disk(&std::env::temp_dir())).await);
    results.push(blocking("memory", limit, memory).await);
    let host = sensors.host.clone();
    results
        .push(blocking("host", limit, move || sensor(host.map(|host| boxed(HostSensor::open(host))))).await);
    let (nvml, sys_root, gpus) = (sensors.nvml.clone(), sensors.sys_root(), sensors.gpus());
    let named = gpus.clone();
    results.push(
        blocking("gpu", limit, move || {
            let opened = nvml.map(|nvml| boxed(NvmlSensor::open(&nvml, false, Spinning::default(), &gpus)));
            match opened {
                // A driver that is gone is what nodes are isolated for.
                Some(Err(missing)) if gpus_on_bus(&sys_root) > 0 => {
                    (Outcome::Failed, format!("{missing}; the node has {} GPUs", gpus_on_bus(&sys_root)))
                }
                opened => sensor(opened),
            }
        })
        .await,
    );
    let nic = sensors.nic.clone();
    results.push(blocking("nic", limit, move || sensor(nic.map(|nic| boxed(NicSensor::open(nic))))).await);
    let kmsg = sensors.kmsg.clone();
    results.push(
        blocking("kernel log", limit, move || sensor(kmsg.map(|log| boxed(KmsgSensor::open(log, named)))))
            .await,
    );
    results.push(gpu_test(&settings).await);
    results
}

/// Runs all checks for a command, whose span is `span`, and answers it.
pub fn answer(command_id: String, settings: CheckSettings, reports: mpsc::Sender<Captured>, span: Span) {
    let work = async move {
        let results = run(settings).await;
        let bad = |result: &&CheckResult| result.outcome == Outcome::Failed;
        let failed: Vec<String> =
            results.iter().filter(bad).map(|r| format!("{}: {}", r.name, r.detail)).collect();
        let ok = failed.is_empty();
        let detail = if ok { "its checks passed".to_owned() } else { failed.join("; ") };
        // Nobody listens any more only when the agent is ending.
        let _ = reports.send(Captured::now(Report::CommandResult { command_id, ok, detail })).await;
    };
    tokio::spawn(work.instrument(span));
}

/// For people.
#[must_use]
pub fn lines(results: &[CheckResult]) -> String {
    let line = |result: &CheckResult| {
        let word = match result.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        format!("{word:<8} {:<11} {}", result.name, result.detail)
    };
    results.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// For scripts.
#[must_use]
pub fn document(results: &[CheckResult]) -> Value {
    let check = |result: &CheckResult| {
        let outcome = match result.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        };
        json!({"name": result.name, "outcome": outcome, "detail": result.detail})
    };
    json!({"checks": results.iter().map(check).collect::<Vec<_>>()})
}

type Checked = (Outcome, String);

async fn blocking(
    name: &'static str,
    limit: Duration,
    check: impl FnOnce() -> Checked + Send + 'static,
) -> CheckResult {
    let (outcome, detail) = match tokio::time::timeout(limit, tokio::task::spawn_blocking(check)).await {
        Ok(Ok(checked)) => checked,
        Ok(Err(error)) => (Outcome::Failed, error.to_string()),
        Err(_) => (Outcome::Failed, format!("did not end within {} s", limit.as_secs())),
    };
    CheckResult { name, outcome, detail }
}

type Opened = Result<(Box<dyn Sensor>, String), String>;

fn boxed<S: Sensor + 'static>(opened: Result<(S, String), String>) -> Opened {
    opened.map(|(sensor, detail)| (Box::new(sensor) as Box<dyn Sensor>, detail))
}

/// One look of a sensor; whatever is fatal fails.
fn sensor(opened: Option<Opened>) -> Checked {
    let (mut sensor, detail) = match opened {
        None => return (Outcome::Skipped, "turned off".to_owned()),
        Some(Err(missing)) => return (Outcome::Skipped, missing),
        Some(Ok(opened)) => opened,
    };
    let sampled = sensor.sample(Instant::now(), LOOK);
    if let Some(lost) = sampled.lost {
        return (Outcome::Failed, lost);
    }
    let fatal = sampled.health.iter().filter(|event| event.severity == Severity::Fatal && !event.cleared);
    let fatal: Vec<String> = fatal.map(|event| format!("{} ({})", event.code, event.detail)).collect();
    if fatal.is_empty() { (Outcome::Passed, detail) } else { (Outcome::Failed, fatal.join(", ")) }
}

fn disk(directory: &Path) -> Checked {
    let check = || -> std::io::Result<bool> {
        let path = directory.join(format!("c4-check-{}", std::process::id()));
        let written: Vec<u8> = (0..DISK_BYTES).map(|index| (index % 251) as u8).collect();
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        let mut read = Vec::new();
        let done = file
            .write_all(&written)
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(&path)?.read_to_end(&mut read).map(|_| ()));
        fs::remove_file(&path)?;
        done.map(|()| read == written)
    };
    let place = directory.display();
    match check() {
        Ok(true) => (Outcome::Passed, format!("{} MiB written to {place} and read back", DISK_BYTES >> 20)),
        Ok(false) => (Outcome::Failed, format!("{place} does not give back what was written to it")),
        Err(error) => (Outcome::Failed, format!("{place}: {error}")),
    }
}

fn memory() -> Checked {
    let text = match fs::read_to_string("/proc/meminfo") {
        Ok(text) => text,
        Err(error) => return (Outcome::Skipped, format!("/proc/meminfo: {error}")),
    };
    free_memory(&text)
}

fn free_memory(meminfo: &str) -> Checked {
    let field = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<f64>().ok()
    };
    match (field("MemTotal:"), field("MemAvailable:")) {
        (Some(total), Some(free)) if total > 0.0 => {
            let detail = format!("{:.0} of {:.0} MiB are free", free / 1024.0, total / 1024.0);
            (if free / total < LEAST_FREE { Outcome::Failed } else { Outcome::Passed }, detail)
        }
        _ => (Outcome::Skipped, "/proc/meminfo does not tell".to_owned()),
    }
}

async fn gpu_test(settings: &CheckSettings) -> CheckResult {
    let name = "GPU test";
    let Some(line) = &settings.gpu_test else {
        let detail = "none is configured (checks.gpu_test)".to_owned();
        return CheckResult { name, outcome: Outcome::Skipped, detail };
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let (outcome, detail) = match tokio::time::timeout(settings.timeout, command.output()).await {
        Err(_) => (Outcome::Failed, format!("did not end within {} s", settings.timeout.as_secs())),
        Ok(Err(error)) => (Outcome::Failed, error.to_string()),
        Ok(Ok(output)) if output.status.success() => (Outcome::Passed, line.clone()),
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let last = words.trim().lines().next_back().unwrap_or_default().to_owned();
            (Outcome::Failed, format!("{}: {last}", output.status))
        }
    };
    CheckResult { name, outcome, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::{NicSettings, NvmlSettings};

    #[test]
    fn little_free_memory_fails() {
        let text = |free: u32| format!("MemTotal: 1000000 kB\nMemFree: 1 kB\nMemAvailable: {free} kB\n");
        assert_eq!(free_memory(&text(500_000)).0, Outcome::Passed);
        assert_eq!(free_memory(&text(50_000)).0, Outcome::Failed);
        assert_eq!(free_memory("nonsense").0, Outcome::Skipped);
    }

    #[test]
    fn a_disk_that_cannot_be_written_to_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk(dir.path()).0, Outcome::Passed);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(disk(&dir.path().join("absent")).0, Outcome::Failed);
    }

    #[tokio::test]
    async fn gpus_without_a_driver_fail() {
        let sys = tempfile::tempdir().unwrap();
        let nvml = NvmlSettings { library: Some("/no/such/library".into()), ..NvmlSettings::default() };
        let nic = NicSettings { sys_root: sys.path().to_owned(), ..NicSettings::default() };
        let sensors = SensorSettings {
            host: None,
            nvml: Some(nvml),
            nic: Some(nic),
            kmsg: None,
            ..SensorSettings::default()
        };
        let settings = CheckSettings { sensors, ..CheckSettings::default() };
        let gpu = async || run(settings.clone()).await.into_iter().find(|check| check.name == "gpu").unwrap();
        let device = |address: &str, vendor: &str, class: &str| {
            let device = sys.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), vendor).unwrap();
            fs::write(device.join("class"), class).unwrap();
        };
        device("0000:00:01.0", "0x10de\n", "0x068000\n"); // an NVSwitch
        device("0000:00:02.0", "0x1a03\n", "0x030000\n"); // a server's own graphics
        assert_eq!(gpu().await.outcome, Outcome::Skipped, "a node without GPUs");
        device("0000:18:00.0", "0x10de\n", "0x030200\n");
        let failed = gpu().await;
        assert_eq!(failed.outcome, Outcome::Failed);
        assert!(failed.detail.ends_with("the node has 1 GPUs"), "{}", failed.detail);
    }

    #[tokio::test]
    async fn the_test_of_the_gpus_decides_by_its_exit_code() {
        let none =
            SensorSettings { host: None, nvml: None, nic: None, kmsg: None, ..SensorSettings::default() };
        let settings = CheckSettings {
            sensors: none,
            gpu_test: Some("echo broken >&2; exit 3".into()),
            ..CheckSettings::default()
        };
        let results = run(settings.clone()).await;
        let test = results.last().unwrap();
        assert_eq!((test.outcome, test.detail.contains("broken")), (Outcome::Failed, true), "{test:?}");
        assert!(lines(&results).contains("FAILED   GPU test"));
        assert_eq!(document(&results)["checks"][0]["outcome"], "passed");
        let hangs = CheckSettings {
            gpu_test: Some("sleep 1000".into()),
            timeout: Duration::from_millis(100),
            ..settings
        };
        assert!(gpu_test(&hangs).await.detail.contains("did not end"));
    }
}
