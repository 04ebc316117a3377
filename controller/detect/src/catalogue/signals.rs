//! What C4's own sensors report: conditions that begin and end, and a few moments.

use Action::{
    CheckCooling, CheckHost, CheckNetwork, CheckNvlink, CheckPower, CheckSeating, ContactSupport, ReplaceGpu,
    ResetAndDiagnose, ResetGpu, RestartNode,
};
use Effect::{Nothing, Slows, Stops};
use Origin::{Application, Driver, Hardware};
use Severity::{Fatal, Info, Warning};

use super::{Action, Effect, Entry, Origin, Part};
use crate::observation::Severity;

type Row = (&'static str, &'static str, Origin, Part, Effect, Severity, Action);

#[rustfmt::skip]
const CONDITIONS: &[Row] = &[
    // A GPU, by NVML.
    ("gpu-lost", "does not answer any more", Hardware, Part::Pcie, Stops, Fatal, RestartNode),
    ("ecc-uncorrectable", "had uncorrectable memory errors", Hardware, Part::Gpu, Stops, Fatal, ResetAndDiagnose),
    ("ecc-correctable", "corrects many memory errors", Hardware, Part::Gpu, Slows, Warning, ContactSupport),
    ("row-remap-failed", "cannot replace a bad row of its memory", Hardware, Part::Gpu, Stops, Fatal, ReplaceGpu),
    ("row-remap-pending", "waits for a reset to replace a bad row of its memory", Hardware, Part::Gpu, Nothing, Warning, ResetGpu),
    ("recovery-reset", "needs a reset, says its driver", Hardware, Part::Gpu, Stops, Fatal, ResetGpu),
    ("recovery-reboot", "needs its node rebooted, says its driver", Hardware, Part::Gpu, Stops, Fatal, RestartNode),
    ("recovery-drain", "must not talk to its peers any more, says its driver", Hardware, Part::Fabric, Stops, Warning, ResetGpu),
    ("thermal-slowdown", "is too hot and lowered its clocks", Hardware, Part::Gpu, Slows, Warning, CheckCooling),
    ("power-brake", "lowered its clocks because the power supply asked for it", Hardware, Part::Gpu, Slows, Warning, CheckPower),
    ("hw-slowdown", "was slowed down by its hardware", Hardware, Part::Gpu, Slows, Warning, CheckPower),
    ("clock-low", "runs at lower clocks than its neighbours", Hardware, Part::Gpu, Slows, Warning, CheckCooling),
    ("pcie-replay", "sends many PCIe packets again", Hardware, Part::Pcie, Slows, Warning, CheckSeating),
    ("pcie-width", "has lost PCIe lanes", Hardware, Part::Pcie, Slows, Warning, CheckSeating),
    ("pcie-generation", "runs at a lower PCIe generation than it can", Hardware, Part::Pcie, Slows, Warning, CheckSeating),
    ("nvlink-down", "lost an NVLink", Hardware, Part::Fabric, Stops, Fatal, CheckNvlink),
    ("nvlink-errors", "recovers from errors on an NVLink again and again", Hardware, Part::Fabric, Slows, Warning, CheckNvlink),
    // A NIC, by sysfs and the kernel log.
    ("nic-lost", "is no longer there", Hardware, Part::Nic, Stops, Fatal, RestartNode),
    ("link-down", "has its link down", Hardware, Part::Nic, Stops, Fatal, CheckNetwork),
    ("link-lost", "lost its link", Hardware, Part::Nic, Stops, Warning, CheckNetwork),
    ("link-flap", "loses its link again and again", Hardware, Part::Nic, Slows, Warning, CheckNetwork),
    ("link-slow", "runs at a lower rate than it did", Hardware, Part::Nic, Slows, Warning, CheckNetwork),
    ("mlx5-link-down", "has its link down, says its driver", Hardware, Part::Nic, Stops, Warning, CheckNetwork),
    // The node.
    ("cpu-steal", "has its CPU time taken by the hypervisor", Hardware, Part::Host, Slows, Warning, CheckHost),
    ("memory-low", "is short of memory", Application, Part::Host, Slows, Warning, CheckHost),
    ("memory-pressure", "waits for memory to be freed", Application, Part::Host, Slows, Warning, CheckHost),
    ("load-high", "has more to do than its CPUs can", Application, Part::Host, Slows, Warning, CheckHost),
    ("blocked-processes", "has processes that wait for a device or a file system that does not answer", Hardware, Part::Host, Stops, Warning, CheckHost),
];

#[rustfmt::skip]
const MOMENTS: &[Row] = &[
    ("mlx5-health", "had its NIC's firmware fail", Hardware, Part::Nic, Stops, Fatal, RestartNode),
    ("mlx5-temperature", "became too hot", Hardware, Part::Nic, Slows, Warning, CheckCooling),
    ("pcie-error", "had an uncorrectable PCIe error", Hardware, Part::Pcie, Stops, Fatal, CheckSeating),
    ("pcie-corrected", "corrected PCIe errors", Hardware, Part::Pcie, Nothing, Info, ContactSupport),
    ("machine-check", "had a hardware error in CPU or memory", Hardware, Part::Host, Stops, Warning, RestartNode),
    ("oom-kill", "ran out of memory, and the kernel killed a process", Application, Part::Host, Stops, Warning, CheckHost),
    ("nccl-segfault", "had a process crash inside NCCL", Driver, Part::Host, Stops, Warning, ContactSupport),
];

/// Conditions that healthy components are in for a while, under full load.
const COME_AND_GO: &[&str] = &["thermal-slowdown"];

/// Counters of a NIC have codes of the operator's choice; what can be said of one is that it grew.
const COUNTER: Row =
    ("", "counts more errors than are normal", Hardware, Part::Nic, Slows, Warning, CheckNetwork);

/// Codes of NIC counters begin with this.
const COUNTER_PREFIX: &str = "nic-";

pub(super) fn comes_and_goes(code: &str) -> bool {
    COME_AND_GO.contains(&code)
}

pub(super) fn entry(code: &str) -> Option<Entry> {
    let find = |rows: &'static [Row]| rows.iter().find(|row| row.0 == code);
    let (row, moment) = match (find(CONDITIONS), find(MOMENTS)) {
        (Some(row), _) => (row, false),
        (None, Some(row)) => (row, true),
        (None, None) if code.starts_with(COUNTER_PREFIX) => (&COUNTER, false),
        (None, None) => return None,
    };
    let (_, said, origin, part, effect, severity, action) = *row;
    Some(Entry { said, origin, part, effect, severity, action, moment })
}
