//! What sysfs says about ports. Files that are missing, empty or full of rubbish say nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::super::Reading;

/// Longest file that is read: sysfs has no longer ones.
const LONGEST: u64 = 4_096;

/// What sysfs says about one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicReading {
    /// Whether the link is up, where that is known.
    pub up: Option<bool>,
    /// How often the link was lost since boot.
    pub losses: u64,
    /// Its rate, where that is known.
    pub mbps: Option<u64>,
    /// Bytes received and sent since boot.
    pub bytes: Option<(u64, u64)>,
    /// Counters, those that were asked for and are there.
    pub counters: BTreeMap<String, u64>,
}

impl NicReading {
    /// What people look at.
    pub(super) fn shown(&self, nic: &str) -> Vec<Reading> {
        let values = [
            ("c4_agent_nic_up", self.up.map(|up| f64::from(u8::from(up)))),
            ("c4_agent_nic_rate_bytes_per_second", self.mbps.map(|mbps| mbps as f64 * 1e6 / 8.0)),
            ("c4_agent_nic_receive_bytes_total", self.bytes.map(|(received, _)| received as f64)),
            ("c4_agent_nic_transmit_bytes_total", self.bytes.map(|(_, sent)| sent as f64)),
            ("c4_agent_nic_link_losses_total", Some(self.losses as f64)),
        ];
        values.into_iter().filter_map(|(name, value)| Reading::of(name, nic, value)).collect()
    }
}

fn both(received: Option<u64>, sent: Option<u64>) -> Option<(u64, u64)> {
    Some((received?, sent?))
}

/// Reads all ports below `root`: interfaces that have a device (virtual ones have none), and ports of RDMA devices.
#[must_use]
pub fn read_all(root: &Path, counters: &[String]) -> BTreeMap<String, NicReading> {
    let mut readings = BTreeMap::new();
    for (name, path) in children(&root.join("class/net")) {
        if path.join("device").exists() {
            readings.insert(name, read_interface(&path, counters));
        }
    }
    for (device, path) in children(&root.join("class/infiniband")) {
        for (port, path) in children(&path.join("ports")) {
            readings.insert(format!("{device}:{port}"), read_rdma_port(&path, counters));
        }
    }
    readings
}

/// Names and paths of what is in a directory.
pub(in crate::sensors) fn children(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

/// The text of a short file.
pub(in crate::sensors) fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

fn read_interface(path: &Path, counters: &[String]) -> NicReading {
    let up = match text(&path.join("operstate")).as_deref() {
        Some("up") => Some(true),
        Some("down" | "lowerlayerdown" | "notpresent") => Some(false),
        _ => None,
    };
    NicReading {
        up,
        losses: number(&path.join("carrier_down_count")).unwrap_or(0),
        // -1 where the driver does not know.
        mbps: number(&path.join("speed")).filter(|mbps| *mbps > 0),
        bytes: both(number(&path.join("statistics/rx_bytes")), number(&path.join("statistics/tx_bytes"))),
        counters: read_counters(path, &["statistics"], counters),
    }
}

fn read_rdma_port(path: &Path, counters: &[String]) -> NicReading {
    // They count in words of four bytes.
    let words = |file: &str| number(&path.join(file)).map(|words| words.saturating_mul(4));
    NicReading {
        // "4: ACTIVE"
        up: text(&path.join("state")).map(|state| state.starts_with('4')),
        losses: number(&path.join("counters/link_downed")).unwrap_or(0),
        mbps: text(&path.join("rate")).and_then(|rate| mbps(&rate)),
        bytes: both(words("counters/port_rcv_data"), words("counters/port_xmit_data")),
        counters: read_counters(path, &["counters", "hw_counters"], counters),
    }
}

fn read_counters(path: &Path, places: &[&str], names: &[String]) -> BTreeMap<String, u64> {
    let read = |name: &String| {
        let value = places.iter().find_map(|place| number(&path.join(place).join(name)))?;
        Some((name.clone(), value))
    };
    names.iter().filter_map(read).collect()
}

/// "400 Gb/sec (4X NDR)"; some rates have a fraction.
fn mbps(rate: &str) -> Option<u64> {
    let gbps: f64 = rate.split_whitespace().next()?.parse().ok()?;
    (gbps.is_finite() && gbps > 0.0).then_some((gbps * 1_000.0).round() as u64)
}
