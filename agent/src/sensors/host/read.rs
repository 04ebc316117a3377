//! What `/proc` says. Text in, numbers out; what cannot be parsed says nothing.

use std::{collections::BTreeMap, fs, path::Path};

/// CPU time since boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    /// All of it.
    pub total: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
}

/// A line of `/proc/PID/stat`, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name, as the kernel cuts it.
    pub name: String,
    /// Its state: 'R', 'S', 'D'…
    pub state: char,
    /// Its parent.
    pub parent: u32,
}

/// The kernel's own threads are children of this process, and wait in state D by design.
const KERNEL_THREADS: u32 = 2;

/// Parses the first line of `/proc/stat`.
#[must_use]
pub fn parse_cpu(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let total = fields.iter().take(8).fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    Some(CpuTimes { total, steal: *fields.get(7)? })
}

/// The ten-second average of the line "full" of a file below `/proc/pressure`, in percent.
#[must_use]
pub fn parse_full_pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    let value = line.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
    value.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

/// Parses `/proc/PID/stat`. The name is in brackets and may hold brackets and spaces itself.
#[must_use]
pub fn parse_task(text: &str) -> Option<Task> {
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let mut state = fields.next()?.chars();
    let (state, None) = (state.next()?, state.next()) else { return None };
    Some(Task { name: name.to_owned(), state, parent: fields.next()?.parse().ok()? })
}

pub(super) fn cpu(root: &Path) -> Result<CpuTimes, String> {
    let path = root.join("stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse_cpu(&text).ok_or_else(|| format!("{}: no line of CPU times", path.display()))
}

/// CPUs of the host, whatever this process may use of them.
pub(super) fn cpus(root: &Path) -> usize {
    let text = fs::read_to_string(root.join("stat")).unwrap_or_default();
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.lines().filter(is_cpu).count().max(1)
}

/// Kernels without pressure information have no such file.
pub(super) fn memory_pressure(root: &Path) -> Option<f64> {
    parse_full_pressure(&fs::read_to_string(root.join("pressure/memory")).ok()?)
}

/// Processes in state D, without the kernel's own threads.
pub(super) fn blocked(root: &Path) -> BTreeMap<u32, String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let blocked = pids.filter_map(|pid| {
        let task = parse_task(&fs::read_to_string(root.join(pid.to_string()).join("stat")).ok()?)?;
        (task.state == 'D' && task.parent != KERNEL_THREADS).then_some((pid, task.name))
    });
    blocked.collect()
}
