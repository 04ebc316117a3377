//! The host: CPU time stolen by the hypervisor, memory and the pressure on it, load, and processes that wait for a device
//! without end. Conditions must hold for several looks, since one busy second is nothing.

mod read;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use c4_detect::{catalogue, observation::Severity};
use read::CpuTimes;
pub use read::{parse_cpu, parse_full_pressure, parse_task};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};
use tokio::time::Instant;

use super::{Sampled, Sensor, Transitions};
use crate::report::Health;

/// Time between two looks at all processes: each costs some microseconds a process.
const SCAN: Duration = Duration::from_secs(10);
/// Blocked processes named in one event.
const NAMED: usize = 3;

/// When a host is not well.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSettings {
    /// Where `/proc` is.
    pub proc_root: PathBuf,
    /// Looks in a row that a condition must hold, and, to end, must not hold.
    pub looks: u32,
    /// Share of CPU time stolen, in percent.
    pub steal_percent: f64,
    /// Memory still available, in percent.
    pub memory_available_percent: f64,
    /// Time in which all processes waited for memory, over ten seconds, in percent.
    pub memory_pressure_percent: f64,
    /// Load average over one minute, per CPU.
    pub load_per_cpu: f64,
    /// How long a process may wait for a device (state D).
    pub blocked_after: Duration,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            proc_root: PathBuf::from("/proc"),
            looks: 5,
            steal_percent: 10.0,
            memory_available_percent: 3.0,
            memory_pressure_percent: 10.0,
            load_per_cpu: 4.0,
            blocked_after: Duration::from_secs(30),
        }
    }
}

/// One look at the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostReading {
    /// Share of CPU time stolen since the last look, in percent.
    pub steal_percent: f64,
    /// Memory available, in percent.
    pub memory_available_percent: f64,
    /// Time in which all processes waited for memory, where the kernel tells.
    pub memory_pressure_percent: Option<f64>,
    /// Load average over one minute, per CPU.
    pub load_per_cpu: f64,
    /// Processes in state D, by id, at a look that looked at them.
    pub blocked: Option<BTreeMap<u32, String>>,
}

/// Counts how long something has been so.
#[derive(Debug, Default)]
struct Persistent {
    holds: bool,
    streak: u32,
}

impl Persistent {
    fn update(&mut self, now: bool, looks: u32) -> bool {
        self.streak = if now == self.holds { 0 } else { self.streak + 1 };
        if self.streak >= looks {
            *self = Self { holds: now, streak: 0 };
        }
        self.holds
    }
}

/// Decides what is news. Pure: readings and time in, events out.
#[derive(Debug, Default)]
struct Judge {
    steal: Persistent,
    memory: Persistent,
    pressure: Persistent,
    load: Persistent,
    /// Processes in state D at each look since the time given.
    blocked: BTreeMap<u32, (String, Instant)>,
    transitions: Transitions,
}

impl Judge {
    fn update(&mut self, settings: &HostSettings, reading: &HostReading, now: Instant) -> Vec<Health> {
        let looks = settings.looks;
        let mut conditions = Vec::new();
        let mut hold = |holds: bool, code: &str, detail: String| {
            if holds {
                conditions.push(condition(code, detail));
            }
        };
        let steal = self.steal.update(reading.steal_percent > settings.steal_percent, looks);
        hold(steal, "cpu-steal", format!("{:.1} % of it", reading.steal_percent));
        let available = reading.memory_available_percent;
        let memory = self.memory.update(available < settings.memory_available_percent, looks);
        hold(memory, "memory-low", format!("{available:.1} % is available"));
        let waits = reading.memory_pressure_percent.unwrap_or(0.0);
        let pressure = self.pressure.update(waits > settings.memory_pressure_percent, looks);
        hold(pressure, "memory-pressure", format!("{waits:.1} % of the time"));
        let load = self.load.update(reading.load_per_cpu > settings.load_per_cpu, looks);
        hold(load, "load-high", format!("load average is {:.1} per CPU", reading.load_per_cpu));
        if let Some(blocked) = &reading.blocked {
            self.blocked.retain(|pid, (name, _)| blocked.get(pid) == Some(name));
            for (pid, name) in blocked {
                self.blocked.entry(*pid).or_insert_with(|| (name.clone(), now));
            }
        }
        let long = |(_, (_, since)): &(&u32, &(String, Instant))| {
            now.saturating_duration_since(*since) >= settings.blocked_after
        };
        let stuck: Vec<String> =
            self.blocked.iter().filter(long).map(|(pid, (name, _))| format!("{name} (pid {pid})")).collect();
        let shown = stuck[..stuck.len().min(NAMED)].join(", ");
        hold(!stuck.is_empty(), "blocked-processes", format!("{} in state D: {shown}", stuck.len()));
        self.transitions.update(conditions)
    }
}

fn condition(code: &str, detail: String) -> Health {
    let severity = catalogue::entry(code, &detail).map_or(Severity::Warning, |entry| entry.severity);
    Health {
        component: "host",
        gpu: None,
        nic: None,
        code: code.to_owned(),
        detail,
        severity,
        cleared: false,
    }
}

/// Reads the host.
pub struct HostSensor {
    settings: HostSettings,
    system: System,
    cpus: f64,
    last: CpuTimes,
    scanned: Option<Instant>,
    judge: Judge,
}

impl HostSensor {
    /// Opens it.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read: why.
    pub fn open(settings: HostSettings) -> Result<(Self, String), String> {
        let last = read::cpu(&settings.proc_root)?;
        let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(refresh).map_err(|error| error.to_string())?;
        let cpus = read::cpus(&settings.proc_root);
        let detail = format!("{cpus} CPUs, {} GiB of memory", system.total_memory() >> 30);
        let judge = Judge::default();
        Ok((Self { settings, system, cpus: cpus as f64, last, scanned: None, judge }, detail))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }

    fn read(&mut self, at: Instant) -> Result<HostReading, String> {
        let root = &self.settings.proc_root;
        let now = read::cpu(root)?;
        let total = now.total.saturating_sub(self.last.total);
        let steal = now.steal.saturating_sub(self.last.steal);
        self.last = now;
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let memory = self.system.total_memory().max(1) as f64;
        let scan = self.scanned.is_none_or(|last| at.saturating_duration_since(last) >= SCAN);
        if scan {
            self.scanned = Some(at);
        }
        Ok(HostReading {
            steal_percent: if total == 0 { 0.0 } else { 100.0 * steal as f64 / total as f64 },
            memory_available_percent: 100.0 * self.system.available_memory() as f64 / memory,
            memory_pressure_percent: read::memory_pressure(root),
            load_per_cpu: System::load_average().map_or(0.0, |load| load.one) / self.cpus,
            blocked: scan.then(|| read::blocked(root)),
        })
    }
}

impl Sensor for HostSensor {
    fn sample(&mut self, now: Instant, _interval: Duration) -> Sampled {
        match self.read(now) {
            Ok(reading) => {
                Sampled { health: self.judge.update(&self.settings, &reading, now), ..Sampled::default() }
            }
            Err(why) => Sampled { lost: Some(why), ..Sampled::default() },
        }
    }
}
