//! Network interfaces and RDMA devices, from sysfs: link state, flaps and error counters.
//!
//! A link that was never up is a free port, not a fault: only one that was seen up and is down is reported. Counters
//! count since boot, so only what they gain between two looks is news.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use c4_detect::observation::Severity;
use tokio::time::Instant;

use super::{Sampled, Sensor, Transitions};
use crate::report::Health;

/// A flap: the link was lost this often within [`FLAP_SPAN`].
const FLAPS: u64 = 3;

/// See [`FLAPS`].
const FLAP_SPAN: Duration = Duration::from_secs(600);

/// Error counters: name, code, severity, and the gain per second above which it is told. The limits are those in
/// common use (NVSentinel's): for the first ones any gain is a fault of the hardware.
const COUNTERS: [(&str, &str, Severity, f64); 10] = [
    ("local_link_integrity_errors", "link-integrity", Severity::Fatal, 0.0),
    ("excessive_buffer_overrun_errors", "buffer-overrun", Severity::Fatal, 0.0),
    ("rnr_nak_retry_err", "rnr-retry-exceeded", Severity::Fatal, 0.0),
    ("link_error_recovery", "link-error-recovery", Severity::Warning, 5.0 / 60.0),
    ("symbol_error", "symbol-errors", Severity::Warning, 10.0),
    ("port_rcv_errors", "receive-errors", Severity::Warning, 10.0),
    ("port_xmit_discards", "transmit-discards", Severity::Warning, 100.0),
    ("local_ack_timeout_err", "ack-timeouts", Severity::Warning, 1.0),
    ("out_of_sequence", "out-of-sequence", Severity::Warning, 1000.0),
    ("roce_slow_restart", "roce-slow-restart", Severity::Warning, 10.0),
];

/// What sysfs says about one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicReading {
    /// Whether the link is up, where that is known.
    pub up: Option<bool>,
    /// How often the link was lost since boot.
    pub losses: u64,
    /// Error counters.
    pub counters: BTreeMap<String, u64>,
}

/// Reads all ports below `root`: interfaces that have a device (virtual ones have none), and ports of RDMA devices.
#[must_use]
pub(super) fn read_all(root: &Path) -> BTreeMap<String, NicReading> {
    let mut readings = BTreeMap::new();
    for (name, path) in children(&root.join("class/net")) {
        if path.join("device").exists() {
            readings.insert(name, read_interface(&path));
        }
    }
    for (device, path) in children(&root.join("class/infiniband")) {
        for (port, path) in children(&path.join("ports")) {
            readings.insert(format!("{device}:{port}"), read_rdma_port(&path));
        }
    }
    readings
}

pub(super) fn children(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

pub(super) fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

fn read_interface(path: &Path) -> NicReading {
    let up = match text(&path.join("operstate")).as_deref() {
        Some("up") => Some(true),
        Some("down" | "lowerlayerdown" | "notpresent") => Some(false),
        _ => None,
    };
    let losses = number(&path.join("carrier_down_count")).unwrap_or(0);
    NicReading { up, losses, counters: BTreeMap::new() }
}

fn read_rdma_port(path: &Path) -> NicReading {
    // "4: ACTIVE"
    let up = text(&path.join("state")).map(|state| state.starts_with('4'));
    let counters = COUNTERS.iter().filter_map(|(name, ..)| {
        let value =
            ["counters", "hw_counters"].iter().find_map(|place| number(&path.join(place).join(name)))?;
        Some(((*name).to_owned(), value))
    });
    NicReading {
        up,
        losses: number(&path.join("counters/link_downed")).unwrap_or(0),
        counters: counters.collect(),
    }
}

#[derive(Debug, Default)]
struct Port {
    last: NicReading,
    was_up: bool,
    lost_at: Vec<Instant>,
}

/// Decides what is news. Pure: readings and time in, events out.
#[derive(Debug, Default)]
struct Judge {
    ports: BTreeMap<String, Port>,
    last: Option<Instant>,
    transitions: Transitions,
}

impl Judge {
    fn update(&mut self, readings: BTreeMap<String, NicReading>, now: Instant) -> Vec<Health> {
        let seconds = self.last.map(|last| now.saturating_duration_since(last).as_secs_f64());
        self.last = Some(now);
        let mut conditions = Vec::new();
        for (name, port) in &self.ports {
            if port.was_up && !readings.contains_key(name) {
                conditions.push(condition(
                    name,
                    "nic-lost",
                    Severity::Fatal,
                    "it is no longer there".to_owned(),
                ));
            }
        }
        for (name, reading) in readings {
            let known = self.ports.contains_key(&name);
            let port = self.ports.entry(name.clone()).or_default();
            if let (true, Some(seconds)) = (known, seconds) {
                let lost = reading.losses.saturating_sub(port.last.losses).min(FLAPS);
                port.lost_at.extend((0..lost).map(|_| now));
                conditions.extend(gains(&name, &port.last, &reading, seconds));
            }
            port.lost_at.retain(|at| now.saturating_duration_since(*at) < FLAP_SPAN);
            if port.lost_at.len() as u64 >= FLAPS {
                let detail =
                    format!("the link was lost {} times in {} s", port.lost_at.len(), FLAP_SPAN.as_secs());
                conditions.push(condition(&name, "link-flap", Severity::Warning, detail));
            }
            if port.was_up && reading.up == Some(false) {
                conditions.push(condition(
                    &name,
                    "link-down",
                    Severity::Fatal,
                    "the link is down".to_owned(),
                ));
            }
            port.was_up |= reading.up == Some(true);
            port.last = reading;
        }
        self.transitions.update(conditions)
    }
}

fn gains(name: &str, before: &NicReading, now: &NicReading, seconds: f64) -> Vec<Health> {
    let mut conditions = Vec::new();
    for (counter, code, severity, limit) in COUNTERS {
        let (Some(before), Some(value)) = (before.counters.get(counter), now.counters.get(counter)) else {
            continue;
        };
        let gained = value.saturating_sub(*before);
        if gained > 0 && gained as f64 > limit * seconds {
            conditions.push(condition(
                name,
                code,
                severity,
                format!("{counter} grew by {gained} in {seconds:.1} s"),
            ));
        }
    }
    conditions
}

fn condition(nic: &str, code: &str, severity: Severity, detail: String) -> Health {
    let (nic, code) = (Some(nic.to_owned()), code.to_owned());
    Health { component: "nic", gpu: None, nic, code, detail, severity, cleared: false }
}

/// Watches the ports.
#[derive(Debug)]
pub struct NicSensor {
    root: PathBuf,
    judge: Judge,
}

impl NicSensor {
    /// Opens it; `root` is where sysfs is.
    ///
    /// # Errors
    /// There is no port: why.
    pub fn open(root: &Path) -> Result<(Self, String), String> {
        let names: Vec<String> = read_all(root).into_keys().collect();
        if names.is_empty() {
            return Err(format!("{}: no network device", root.display()));
        }
        Ok((Self { root: root.to_owned(), judge: Judge::default() }, names.join(", ")))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }
}

impl Sensor for NicSensor {
    fn sample(&mut self, now: Instant, _interval: Duration) -> Sampled {
        Sampled { health: self.judge.update(read_all(&self.root), now), ..Sampled::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn fixture() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        write(at, "class/net/eth0/operstate", "up\n");
        write(at, "class/net/eth0/carrier_down_count", "1\n");
        write(at, "class/net/eth0/device/vendor", "0x15b3\n");
        write(at, "class/net/docker0/operstate", "down\n");
        write(at, "class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
        write(at, "class/infiniband/mlx5_0/ports/1/counters/symbol_error", "7\n");
        write(at, "class/infiniband/mlx5_0/ports/1/counters/link_downed", "0\n");
        write(at, "class/infiniband/mlx5_0/ports/1/hw_counters/rnr_nak_retry_err", "0\n");
        root
    }

    fn codes(events: &[Health]) -> Vec<(String, String, bool)> {
        let told =
            |event: &Health| (event.nic.clone().unwrap_or_default(), event.code.clone(), event.cleared);
        events.iter().map(told).collect()
    }

    #[test]
    fn physical_ports_are_found_virtual_ones_are_not() {
        let root = fixture();
        let readings = read_all(root.path());
        assert_eq!(readings.keys().collect::<Vec<_>>(), ["eth0", "mlx5_0:1"]);
        assert_eq!(readings["eth0"].up, Some(true));
        assert_eq!(readings["mlx5_0:1"].counters["symbol_error"], 7);
    }

    #[test]
    fn links_and_counters_change() {
        let root = fixture();
        let (mut sensor, detail) = NicSensor::open(root.path()).unwrap();
        assert_eq!(detail, "eth0, mlx5_0:1");
        let start = Instant::now();
        let mut look =
            |second| codes(&sensor.sample(start + Duration::from_secs(second), Duration::ZERO).health);
        assert_eq!(look(0), []);
        write(root.path(), "class/net/eth0/operstate", "down\n");
        write(root.path(), "class/infiniband/mlx5_0/ports/1/hw_counters/rnr_nak_retry_err", "1\n");
        let told = look(1);
        assert_eq!(
            told,
            [
                ("eth0".to_owned(), "link-down".to_owned(), false),
                ("mlx5_0:1".to_owned(), "rnr-retry-exceeded".to_owned(), false)
            ]
        );
        write(root.path(), "class/net/eth0/operstate", "up\n");
        assert!(look(2).iter().all(|(_, _, cleared)| *cleared));
        write(root.path(), "class/infiniband/mlx5_0/ports/1/counters/symbol_error", "12\n");
        assert_eq!(look(3), [], "five errors in a second are below the limit");
        fs::remove_dir_all(root.path().join("class/infiniband/mlx5_0")).unwrap();
        assert_eq!(look(4), [("mlx5_0:1".to_owned(), "nic-lost".to_owned(), false)]);
    }

    #[test]
    fn three_losses_in_ten_minutes_are_a_flap() {
        let root = fixture();
        let (mut sensor, _) = NicSensor::open(root.path()).unwrap();
        let start = Instant::now();
        let mut look =
            |second| codes(&sensor.sample(start + Duration::from_secs(second), Duration::ZERO).health);
        look(0);
        for (second, count, expected) in [(1, "2", 0), (2, "3", 0), (3, "4", 1)] {
            write(root.path(), "class/net/eth0/carrier_down_count", count);
            assert_eq!(look(second).len(), expected);
        }
        assert_eq!(look(700), [("eth0".to_owned(), "link-flap".to_owned(), true)]);
    }

    #[test]
    fn no_device_is_a_missing_sensor_with_a_reason() {
        let root = tempfile::tempdir().unwrap();
        assert!(NicSensor::open(root.path()).unwrap_err().contains("no network device"));
    }
}
