//! Readings of sensors for people who look at graphs. What they mean is decided elsewhere, from the same readings.

use c4_metrics::Kind;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// One of [`READINGS`].
    pub name: &'static str,
    /// Index of the GPU, or name of the NIC.
    pub of: String,
    /// The value, in the unit of the name.
    pub value: f64,
}

impl Reading {
    /// A value, if it was read.
    pub(super) fn of(name: &'static str, of: &str, value: Option<f64>) -> Option<Self> {
        value.map(|value| Self { name, of: of.to_owned(), value })
    }
}

/// What may be read.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Name of the metric.
    pub name: &'static str,
    /// What its values mean.
    pub kind: Kind,
    /// `gpu` or `nic`.
    pub label: &'static str,
    /// One line for people.
    pub help: &'static str,
}

const fn gpu(name: &'static str, kind: Kind, help: &'static str) -> Declared {
    Declared { name, kind, label: "gpu", help }
}

const fn nic(name: &'static str, kind: Kind, help: &'static str) -> Declared {
    Declared { name, kind, label: "nic", help }
}

/// Everything that may be read.
pub const READINGS: [Declared; 12] = [
    gpu("c4_agent_gpu_temperature_celsius", Kind::Gauge, "Temperature of a GPU"),
    gpu("c4_agent_gpu_power_watts", Kind::Gauge, "Power that a GPU draws"),
    gpu("c4_agent_gpu_sm_clock_hertz", Kind::Gauge, "Clock of a GPU's SMs"),
    gpu("c4_agent_gpu_busy_ratio", Kind::Gauge, "Part of the time that a kernel ran on a GPU"),
    gpu(
        "c4_agent_gpu_ecc_corrected_total",
        Kind::Counter,
        "Memory errors corrected since the driver was loaded",
    ),
    gpu(
        "c4_agent_gpu_ecc_uncorrected_total",
        Kind::Counter,
        "Memory errors not corrected since the driver was loaded",
    ),
    gpu(
        "c4_agent_gpu_pcie_replays_total",
        Kind::Counter,
        "PCIe packets sent again since the driver was loaded",
    ),
    nic("c4_agent_nic_up", Kind::Gauge, "Whether the link of a NIC is up"),
    nic("c4_agent_nic_rate_bytes_per_second", Kind::Gauge, "Rate of a NIC's link"),
    nic("c4_agent_nic_receive_bytes_total", Kind::Counter, "Bytes received since boot"),
    nic("c4_agent_nic_transmit_bytes_total", Kind::Counter, "Bytes sent since boot"),
    nic("c4_agent_nic_link_losses_total", Kind::Counter, "Times the link was lost since boot"),
];
