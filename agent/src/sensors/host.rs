//! The host: CPU time stolen by the hypervisor, memory, load. Conditions must hold for several looks, since one busy second
//! is nothing.

use std::{fs, path::PathBuf, time::Duration};

use c4_detect::observation::Severity;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};
use tokio::time::Instant;

use super::{Sampled, Sensor, Transitions};
use crate::report::Health;

/// Looks in a row that a condition must hold (and, to end, must not hold).
const PERSISTENCE: u32 = 5;

/// When a host is not well.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSettings {
    /// Where `/proc` is.
    pub proc_root: PathBuf,
    /// Share of CPU time stolen, in percent.
    pub steal_percent: f64,
    /// Memory still available, in percent.
    pub memory_available_percent: f64,
    /// Load average over one minute, per CPU.
    pub load_per_cpu: f64,
}

/// CPU time since boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    /// All of it.
    pub total: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
}

/// Parses the first line of `/proc/stat`.
#[must_use]
pub fn parse_cpu(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let total = fields.iter().take(8).fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    Some(CpuTimes { total, steal: *fields.get(7)? })
}

/// One look at the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostReading {
    /// Share of CPU time stolen since the last look, in percent.
    pub steal_percent: f64,
    /// Memory available, in percent.
    pub memory_available_percent: f64,
    /// Load average over one minute, per CPU.
    pub load_per_cpu: f64,
}

/// Counts how long something has been so.
#[derive(Debug, Default)]
struct Persistent {
    holds: bool,
    streak: u32,
}

impl Persistent {
    fn update(&mut self, now: bool) -> bool {
        self.streak = if now == self.holds { 0 } else { self.streak + 1 };
        if self.streak >= PERSISTENCE {
            *self = Self { holds: now, streak: 0 };
        }
        self.holds
    }
}

#[derive(Debug, Default)]
struct Judge {
    steal: Persistent,
    memory: Persistent,
    load: Persistent,
    transitions: Transitions,
}

impl Judge {
    fn update(&mut self, settings: &HostSettings, reading: HostReading) -> Vec<Health> {
        let mut conditions = Vec::new();
        let mut hold = |holds: bool, code: &str, detail: String| {
            if holds {
                let (component, severity) = ("host", Severity::Warning);
                let code = code.to_owned();
                conditions.push(Health {
                    component,
                    gpu: None,
                    nic: None,
                    code,
                    detail,
                    severity,
                    cleared: false,
                });
            }
        };
        let steal = self.steal.update(reading.steal_percent > settings.steal_percent);
        hold(steal, "cpu-steal", format!("{:.1} % of the CPU time is stolen", reading.steal_percent));
        let memory = self.memory.update(reading.memory_available_percent < settings.memory_available_percent);
        hold(
            memory,
            "memory-low",
            format!("{:.1} % of the memory is available", reading.memory_available_percent),
        );
        let load = self.load.update(reading.load_per_cpu > settings.load_per_cpu);
        hold(load, "load-high", format!("load average is {:.1} per CPU", reading.load_per_cpu));
        self.transitions.update(conditions)
    }
}

/// Reads the host.
pub struct HostSensor {
    settings: HostSettings,
    system: System,
    cpus: f64,
    last: CpuTimes,
    judge: Judge,
}

impl HostSensor {
    /// Opens it.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read: why.
    pub fn open(settings: HostSettings) -> Result<(Self, String), String> {
        let last = read_cpu(&settings)?;
        let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(refresh).map_err(|error| error.to_string())?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let detail = format!("{cpus} CPUs, {} GiB of memory", system.total_memory() >> 30);
        let judge = Judge::default();
        Ok((Self { settings, system, cpus: cpus as f64, last, judge }, detail))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }

    fn read(&mut self) -> Result<HostReading, String> {
        let now = read_cpu(&self.settings)?;
        let total = now.total.saturating_sub(self.last.total);
        let steal = now.steal.saturating_sub(self.last.steal);
        self.last = now;
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let memory = self.system.total_memory().max(1) as f64;
        Ok(HostReading {
            steal_percent: if total == 0 { 0.0 } else { 100.0 * steal as f64 / total as f64 },
            memory_available_percent: 100.0 * self.system.available_memory() as f64 / memory,
            load_per_cpu: System::load_average().map_or(0.0, |load| load.one) / self.cpus,
        })
    }
}

fn read_cpu(settings: &HostSettings) -> Result<CpuTimes, String> {
    let path = settings.proc_root.join("stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse_cpu(&text).ok_or_else(|| format!("{}: no line of CPU times", path.display()))
}

impl Sensor for HostSensor {
    fn sample(&mut self, _now: Instant, _interval: Duration) -> Sampled {
        match self.read() {
            Ok(reading) => {
                Sampled { health: self.judge.update(&self.settings, reading), ..Sampled::default() }
            }
            Err(why) => Sampled { lost: Some(why), ..Sampled::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_of_a_virtual_machine() {
        let text = "cpu  100 5 50 800 20 0 5 20 7 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(parse_cpu(text), Some(CpuTimes { total: 1000, steal: 20 }));
        for bad in ["", "cpu0 1 2 3", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x"] {
            assert_eq!(parse_cpu(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn one_bad_second_is_nothing_five_are_told_once_and_taken_back() {
        let settings = HostSettings {
            proc_root: PathBuf::new(),
            steal_percent: 10.0,
            memory_available_percent: 5.0,
            load_per_cpu: 4.0,
        };
        let good = HostReading { steal_percent: 0.0, memory_available_percent: 50.0, load_per_cpu: 1.0 };
        let bad = HostReading { steal_percent: 30.0, ..good };
        let mut judge = Judge::default();
        let mut told = |reading| judge.update(&settings, reading);
        assert!(told(bad).is_empty() && told(good).is_empty());
        let events: Vec<_> = std::iter::repeat_n(bad, 10).flat_map(&mut told).collect();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].code.as_str(), events[0].cleared), ("cpu-steal", false));
        let events: Vec<_> = std::iter::repeat_n(good, 10).flat_map(&mut told).collect();
        assert_eq!(events.len(), 1);
        assert!(events[0].cleared);
    }
}
