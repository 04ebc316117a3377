//! What readings of a node's GPUs mean. Pure: readings and time in, events out; `nvml` reads them.
//!
//! A GPU is compared with what it was when the agent came (errors of before are no news), with what it can do (lanes,
//! PCIe generation), and with its neighbours: GPUs of one job do the same at the same time, so one whose clock is lower than
//! theirs is not well, whatever its reason. A power cap and idleness lower the clocks of healthy GPUs every day.

use std::{collections::BTreeMap, time::Duration};

use c4_detect::{catalogue, observation::Severity};
use tokio::time::Instant;

use super::{
    Reading, Transitions,
    limits::{Gain, GainLimit, Share, ShareLimit},
};
use crate::report::Health;

#[cfg(test)]
mod tests;

/// When a GPU is not well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuLimits {
    /// Memory errors that were corrected.
    pub ecc_corrected: GainLimit,
    /// PCIe packets sent again.
    pub pcie_replays: GainLimit,
    /// Looks at which an NVLink had recovered from errors.
    pub nvlink_errors: ShareLimit,
    /// Looks at which hardware or heat lowered the clocks.
    pub slowdown: ShareLimit,
    /// Looks at which PCIe lanes or generation were less than they can be.
    pub pcie_degraded: ShareLimit,
    /// A clock below this share of the neighbours' median is low.
    pub clock_share: f64,
    /// Looks at which it was.
    pub clock_low: ShareLimit,
}

impl Default for GpuLimits {
    fn default() -> Self {
        let looks = ShareLimit { bad: 5, of: 10 };
        Self {
            ecc_corrected: GainLimit { more_than: 100, within: Duration::from_secs(3_600) },
            pcie_replays: GainLimit { more_than: 100, within: Duration::from_secs(10) },
            nvlink_errors: ShareLimit { bad: 15, of: 30 },
            slowdown: looks,
            pcie_degraded: looks,
            clock_share: 0.75,
            clock_low: ShareLimit { bad: 20, of: 30 },
        }
    }
}

/// From this utilisation on, in percent, a GPU is busy: then its clocks and its PCIe link are not saving power.
const BUSY_PERCENT: u32 = 50;
/// With fewer busy GPUs than this nobody can be told from the others.
const LEAST_NEIGHBOURS: usize = 3;

/// What was read of one GPU. A field the GPU does not have is `None` and says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct GpuReading {
    /// The GPU does not answer: why.
    pub lost: Option<String>,
    /// Uncorrectable memory errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// The same, ever.
    pub ecc_uncorrected_ever: Option<u64>,
    /// Corrected memory errors since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Rows wait for the next reset to be remapped.
    pub remap_pending: Option<bool>,
    /// Rows could not be remapped.
    pub remap_failed: Option<bool>,
    /// The code of what lowers the clocks, if that is not everyday.
    pub slowdown: Option<&'static str>,
    /// SM clock in MHz.
    pub sm_mhz: Option<u32>,
    /// Time its SMs were busy, in percent.
    pub busy_percent: Option<u32>,
    /// Time its memory was read or written, in percent.
    pub memory_percent: Option<u32>,
    /// Temperature in °C.
    pub celsius: Option<u32>,
    /// Power in mW.
    pub milliwatts: Option<u32>,
    /// PCIe packets sent again since the driver was loaded.
    pub pcie_replays: Option<u32>,
    /// PCIe lanes in use, and of how many.
    pub pcie_width: Option<(u32, u32)>,
    /// PCIe generation in use, and of which.
    pub pcie_generation: Option<(u32, u32)>,
    /// What the driver asks for (570 and later), as NVML numbers it.
    pub recovery: Option<u64>,
    /// NVLinks, by number: active, and errors since the driver was loaded. GPUs without NVLink have none. `None` at a look
    /// that leaves them out.
    pub nvlinks: Option<BTreeMap<u32, (bool, u64)>>,
}

impl GpuReading {
    fn busy(&self) -> bool {
        self.busy_percent.is_some_and(|percent| percent >= BUSY_PERCENT)
    }

    /// Whether its SMs were busy all the time and its memory never.
    pub(super) fn spins(&self) -> bool {
        self.busy_percent.is_some_and(|percent| percent >= 99) && self.memory_percent == Some(0)
    }

    /// What people look at.
    pub(super) fn shown(&self, gpu: u32) -> Vec<Reading> {
        let gpu = gpu.to_string();
        let values = [
            ("c4_agent_gpu_temperature_celsius", self.celsius.map(f64::from)),
            ("c4_agent_gpu_power_watts", self.milliwatts.map(|milliwatts| f64::from(milliwatts) / 1e3)),
            ("c4_agent_gpu_sm_clock_hertz", self.sm_mhz.map(|mhz| f64::from(mhz) * 1e6)),
            ("c4_agent_gpu_busy_ratio", self.busy_percent.map(|percent| f64::from(percent) / 100.0)),
            ("c4_agent_gpu_ecc_corrected_total", self.ecc_corrected.map(|errors| errors as f64)),
            ("c4_agent_gpu_ecc_uncorrected_total", self.ecc_uncorrected.map(|errors| errors as f64)),
            ("c4_agent_gpu_pcie_replays_total", self.pcie_replays.map(f64::from)),
        ];
        values.into_iter().filter_map(|(name, value)| Reading::of(name, &gpu, value)).collect()
    }

    fn clocks(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.sm_mhz.map(|mhz| format!("{mhz} MHz")));
        parts.extend(self.celsius.map(|celsius| format!("{celsius} °C")));
        parts.extend(self.milliwatts.map(|power| format!("{} W", power / 1_000)));
        parts.join(", ")
    }
}

/// What is remembered of one NVLink.
#[derive(Debug, Default)]
struct Link {
    was_active: bool,
    errors: u64,
    erring: Share,
}

/// What is remembered of one GPU.
#[derive(Debug, Default)]
struct Gpu {
    first: GpuReading,
    corrected: Gain,
    replays: Gain,
    slowdown: BTreeMap<&'static str, Share>,
    width: Share,
    generation: Share,
    clock: Share,
    links: BTreeMap<u32, Link>,
    down: Vec<String>,
    erring: Vec<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Judge {
    gpus: BTreeMap<u32, Gpu>,
    transitions: Transitions,
}

/// Takes a code and what was seen.
type Tell<'a> = dyn FnMut(&str, String) + 'a;

impl Judge {
    pub(super) fn update(
        &mut self,
        limits: &GpuLimits,
        readings: &BTreeMap<u32, GpuReading>,
        now: Instant,
    ) -> Vec<Health> {
        let median = median_clock(readings);
        let mut conditions = Vec::new();
        for (index, reading) in readings {
            let mut tell = |code: &str, detail: String| conditions.push(condition(*index, code, detail));
            if let Some(why) = &reading.lost {
                tell("gpu-lost", why.clone());
                continue;
            }
            let gpu =
                self.gpus.entry(*index).or_insert_with(|| Gpu { first: reading.clone(), ..Gpu::default() });
            gpu.memory(limits, reading, now, &mut tell);
            gpu.clocks(limits, reading, median, &mut tell);
            gpu.pcie(limits, reading, now, &mut tell);
            gpu.nvlinks(limits, reading, &mut tell);
        }
        self.transitions.update(conditions)
    }
}

impl Gpu {
    fn memory(&mut self, limits: &GpuLimits, reading: &GpuReading, now: Instant, tell: &mut Tell<'_>) {
        let gained = |now: Option<u64>, first: Option<u64>| now?.checked_sub(first?).filter(|gain| *gain > 0);
        let uncorrected = gained(reading.ecc_uncorrected, self.first.ecc_uncorrected)
            .max(gained(reading.ecc_uncorrected_ever, self.first.ecc_uncorrected_ever));
        if let Some(gain) = uncorrected {
            let ever = reading.ecc_uncorrected_ever.map_or_else(String::new, |ever| format!(", {ever} ever"));
            tell("ecc-uncorrectable", format!("{gain} since the agent started{ever}"));
        }
        if let Some(value) = reading.ecc_corrected
            && let Some(gain) = self.corrected.look(value, now, limits.ecc_corrected)
        {
            tell("ecc-correctable", within("errors", gain, limits.ecc_corrected));
        }
        if reading.remap_failed == Some(true) {
            tell("row-remap-failed", "says its driver".to_owned());
        }
        if reading.remap_pending == Some(true) {
            tell("row-remap-pending", "says its driver".to_owned());
        }
        match reading.recovery {
            Some(1 | 4) => tell("recovery-reset", "NVML's recovery action".to_owned()),
            Some(2) => tell("recovery-reboot", "NVML's recovery action".to_owned()),
            Some(3) => tell("recovery-drain", "NVML's recovery action".to_owned()),
            _ => {}
        }
    }

    fn clocks(&mut self, limits: &GpuLimits, reading: &GpuReading, median: Option<u32>, tell: &mut Tell<'_>) {
        if let Some(code) = reading.slowdown {
            self.slowdown.entry(code).or_default();
        }
        for (code, share) in &mut self.slowdown {
            if share.look(reading.slowdown == Some(*code), limits.slowdown) {
                tell(code, reading.clocks());
            }
        }
        let low = |mhz: u32, median: u32| f64::from(mhz) < limits.clock_share * f64::from(median);
        let clock = reading.sm_mhz.zip(median).filter(|(mhz, median)| reading.busy() && low(*mhz, *median));
        if self.clock.look(clock.is_some(), limits.clock_low)
            && let Some(median) = median
        {
            tell("clock-low", format!("{}; busy neighbours run at {median} MHz", reading.clocks()));
        }
    }

    fn pcie(&mut self, limits: &GpuLimits, reading: &GpuReading, now: Instant, tell: &mut Tell<'_>) {
        if let Some(value) = reading.pcie_replays
            && let Some(gain) = self.replays.look(value.into(), now, limits.pcie_replays)
        {
            tell("pcie-replay", within("packets", gain, limits.pcie_replays));
        }
        let less = |of: Option<(u32, u32)>| of.filter(|(now, most)| *now > 0 && now < most);
        let width = less(reading.pcie_width);
        if self.width.look(width.is_some(), limits.pcie_degraded)
            && let Some((now, most)) = reading.pcie_width
        {
            tell("pcie-width", format!("{now} of {most} lanes"));
        }
        // An idle GPU lowers the generation to save power.
        let generation = less(reading.pcie_generation).filter(|_| reading.busy());
        if self.generation.look(generation.is_some(), limits.pcie_degraded)
            && let Some((now, most)) = reading.pcie_generation
        {
            tell("pcie-generation", format!("generation {now} of {most}, while it is busy"));
        }
    }

    /// A link that was never active (a PCIe board, a free bridge) is not down.
    fn nvlinks(&mut self, limits: &GpuLimits, reading: &GpuReading, tell: &mut Tell<'_>) {
        if let Some(nvlinks) = &reading.nvlinks {
            (self.down, self.erring) = (Vec::new(), Vec::new());
            for (number, (active, errors)) in nvlinks {
                let new = || Link { errors: *errors, ..Link::default() };
                let link = self.links.entry(*number).or_insert_with(new);
                link.was_active |= *active;
                if link.was_active && !active {
                    self.down.push(number.to_string());
                }
                let grew = *errors > std::mem::replace(&mut link.errors, *errors);
                if link.erring.look(grew, limits.nvlink_errors) {
                    self.erring.push(number.to_string());
                }
            }
        }
        for (code, links) in [("nvlink-down", &self.down), ("nvlink-errors", &self.erring)] {
            if !links.is_empty() {
                tell(code, format!("link {}", links.join(", ")));
            }
        }
    }
}

fn within(what: &str, gained: u64, limit: GainLimit) -> String {
    format!("{gained} {what} within {} s", limit.within.as_secs_f64())
}

/// The clock that busy GPUs of this node run at.
fn median_clock(readings: &BTreeMap<u32, GpuReading>) -> Option<u32> {
    let busy = readings.values().filter(|reading| reading.busy());
    let mut clocks: Vec<u32> = busy.filter_map(|reading| reading.sm_mhz).collect();
    clocks.sort_unstable();
    (clocks.len() >= LEAST_NEIGHBOURS).then(|| clocks[clocks.len() / 2])
}

fn condition(gpu: u32, code: &str, detail: String) -> Health {
    let severity = catalogue::entry(code, &detail).map_or(Severity::Warning, |entry| entry.severity);
    let (component, gpu, code) = ("gpu", Some(gpu), code.to_owned());
    Health { component, gpu, nic: None, code, detail, severity, cleared: false }
}
