//! The section `sensors`. Every threshold can be set; deploy/agent.yaml has them all, with the reason for each default.
//!
//! Where the defaults come from: those of NIC counters, link flaps and NVLink windows are in common use (NVSentinel, gpud, the
//! NVIDIA resiliency extension), so that operators find what they know; the others are C4's own, and lie well above what
//! healthy nodes show. None of them accuses anybody by itself: an event becomes a cause only where a rank suffers.

use super::{
    Mistake,
    fields::{Fields, number, or_null, path, seconds, text, truth, whole},
};
use crate::sensors::{
    CounterRule, GainLimit, GpuLimits, HostSettings, KmsgSettings, NicSettings, NvmlSettings, SensorSettings,
    ShareLimit,
};

const DAY_S: u64 = 86_400;
const MOST_LOOKS: u64 = 10_000;

/// Takes what the section says. A sensor is on unless `enabled: false`; where it looks can be said even then.
pub(super) fn read(sensors: &mut SensorSettings, mut section: Fields, mistakes: &mut Vec<Mistake>) {
    section.value("interval_ms", &mut sensors.interval, mistakes, super::milliseconds(100, 600_000));
    sensor(&mut section, "host", &mut sensors.host, mistakes, host);
    sensor(&mut section, "nvml", &mut sensors.nvml, mistakes, nvml);
    sensor(&mut section, "nic", &mut sensors.nic, mistakes, nic);
    sensor(&mut section, "kmsg", &mut sensors.kmsg, mistakes, kmsg);
    section.finish(mistakes);
}

fn sensor<T>(
    section: &mut Fields,
    name: &'static str,
    settings: &mut Option<T>,
    mistakes: &mut Vec<Mistake>,
    read: impl FnOnce(&mut T, &mut Fields, &mut Vec<Mistake>),
) {
    let mut keys = section.section(name, mistakes);
    let mut on = true;
    keys.value("enabled", &mut on, mistakes, truth);
    if let Some(settings) = settings {
        read(settings, &mut keys, mistakes);
    }
    keys.finish(mistakes);
    if !on {
        *settings = None;
    }
}

fn host(host: &mut HostSettings, keys: &mut Fields, mistakes: &mut Vec<Mistake>) {
    keys.value("proc_root", &mut host.proc_root, mistakes, path);
    keys.value("looks", &mut host.looks, mistakes, looks);
    keys.value("steal_percent", &mut host.steal_percent, mistakes, number(0.0, 100.0));
    keys.value("memory_available_percent", &mut host.memory_available_percent, mistakes, number(0.0, 100.0));
    keys.value("memory_pressure_percent", &mut host.memory_pressure_percent, mistakes, number(0.0, 100.0));
    keys.value("load_per_cpu", &mut host.load_per_cpu, mistakes, number(0.0, 1e6));
    keys.value("blocked_after_s", &mut host.blocked_after, mistakes, seconds(1, DAY_S));
}

fn nvml(nvml: &mut NvmlSettings, keys: &mut Fields, mistakes: &mut Vec<Mistake>) {
    keys.value("library", &mut nvml.library, mistakes, or_null(path));
    let GpuLimits {
        ecc_corrected,
        pcie_replays,
        nvlink_errors,
        slowdown,
        pcie_degraded,
        clock_share,
        clock_low,
    } = &mut nvml.limits;
    gain(keys, "ecc_corrected", ecc_corrected, mistakes);
    gain(keys, "pcie_replays", pcie_replays, mistakes);
    share(keys, "nvlink_errors", nvlink_errors, mistakes);
    share(keys, "slowdown", slowdown, mistakes);
    share(keys, "pcie_degraded", pcie_degraded, mistakes);
    keys.value("clock_share", clock_share, mistakes, number(0.0, 1.0));
    share(keys, "clock_low", clock_low, mistakes);
}

fn nic(nic: &mut NicSettings, keys: &mut Fields, mistakes: &mut Vec<Mistake>) {
    keys.value("sys_root", &mut nic.sys_root, mistakes, path);
    keys.value("down_after_s", &mut nic.down_after, mistakes, seconds(0, DAY_S));
    keys.value("loss_told_for_s", &mut nic.loss_told_for, mistakes, seconds(0, DAY_S));
    let mut flap = keys.section("flap", mistakes);
    flap.value("losses", &mut nic.flap.losses, mistakes, looks);
    flap.value("within_s", &mut nic.flap.within, mistakes, seconds(1, DAY_S));
    flap.value("sticky", &mut nic.flap.sticky, mistakes, truth);
    flap.finish(mistakes);
    for (name, rule) in keys.entries("counters", mistakes) {
        match rule {
            Some(rule) => counter(nic, name, rule, mistakes),
            None => drop(nic.counters.remove(&name)),
        }
    }
}

/// Changes a rule, or adds one.
fn counter(nic: &mut NicSettings, name: String, mut keys: Fields, mistakes: &mut Vec<Mistake>) {
    let known = nic.counters.contains_key(&name);
    let rule = nic.counters.entry(name).or_insert_with(|| CounterRule {
        counter: String::new(),
        gain: GainLimit { more_than: 0, within: std::time::Duration::from_secs(60) },
        fatal: false,
    });
    keys.value("counter", &mut rule.counter, mistakes, file_name);
    keys.value("more_than", &mut rule.gain.more_than, mistakes, whole(0, u64::MAX));
    keys.value("within_s", &mut rule.gain.within, mistakes, seconds(1, DAY_S));
    keys.value("fatal", &mut rule.fatal, mistakes, truth);
    if !known && rule.counter.is_empty() {
        keys.missing("counter", mistakes);
    }
    keys.finish(mistakes);
}

fn kmsg(kmsg: &mut KmsgSettings, keys: &mut Fields, mistakes: &mut Vec<Mistake>) {
    keys.value("path", &mut kmsg.path, mistakes, path);
    keys.value("gpus", &mut kmsg.gpus, mistakes, path);
    keys.value("nics", &mut kmsg.nics, mistakes, path);
}

/// `{more_than: 100, within_s: 3600}`.
fn gain(keys: &mut Fields, name: &'static str, limit: &mut GainLimit, mistakes: &mut Vec<Mistake>) {
    let mut keys = keys.section(name, mistakes);
    keys.value("more_than", &mut limit.more_than, mistakes, whole(0, u64::MAX));
    keys.value("within_s", &mut limit.within, mistakes, seconds(1, DAY_S));
    keys.finish(mistakes);
}

/// `{bad: 5, of: 10}`.
fn share(keys: &mut Fields, name: &'static str, limit: &mut ShareLimit, mistakes: &mut Vec<Mistake>) {
    let mut keys = keys.section(name, mistakes);
    keys.value("bad", &mut limit.bad, mistakes, count(0));
    keys.value("of", &mut limit.of, mistakes, looks);
    if limit.bad >= limit.of {
        mistakes
            .push(Mistake { path: format!("sensors.nvml.{name}.bad"), what: "less than `of`".to_owned() });
    }
    keys.finish(mistakes);
}

fn looks(value: &serde_yaml::Value) -> Result<u32, String> {
    count(1)(value)
}

fn count(low: u64) -> impl FnOnce(&serde_yaml::Value) -> Result<u32, String> {
    move |value| {
        let number = whole(low, MOST_LOOKS)(value)?;
        u32::try_from(number).map_err(|error| error.to_string())
    }
}

/// A counter is a file in a directory that is known; it leads nowhere else.
fn file_name(value: &serde_yaml::Value) -> Result<String, String> {
    let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text(value).ok().filter(plain).ok_or_else(|| "the name of a counter".to_owned())
}
