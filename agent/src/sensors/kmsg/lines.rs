//! One record of the kernel log: is it about health, and about whose? Pure. Anything can be in a log, and programs can
//! write into it, so what is taken from a line is short and checked.

use c4_detect::{catalogue, observation::Severity};

use super::Places;
use crate::report::Health;

/// Longest text that is kept of a line.
const MAX_DETAIL: usize = 300;

/// Turns one record into a health event, if it is one that matters. Accepts the form of `/dev/kmsg`
/// (`6,1234,5678,-;text`) and bare text.
#[must_use]
pub fn parse_record(record: &str, places: &Places) -> Option<Health> {
    let text = match record.split_once(';') {
        Some((prefix, text)) if prefix.starts_with(|c: char| c.is_ascii_digit()) => text,
        _ => record,
    };
    let text = text.lines().next()?.trim();
    xid(text, places)
        .or_else(|| mlx5(text, places))
        .or_else(|| pcie(text, places))
        .or_else(|| out_of_memory(text))
        .or_else(|| machine_check(text))
        .or_else(|| segfault(text))
}

fn event(component: &'static str, code: &str, text: &str) -> Health {
    let detail: String = text.chars().take(MAX_DETAIL).collect();
    let severity = catalogue::entry(code, text).map_or(Severity::Warning, |entry| entry.severity);
    Health { component, gpu: None, nic: None, code: code.to_owned(), detail, severity, cleared: false }
}

/// `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.`, and SXIDs of NVSwitches:
/// `nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up`.
fn xid(text: &str, places: &Places) -> Option<Health> {
    let (kind, rest) = match text.split_once("SXid (") {
        Some((_, rest)) => ("sxid", rest),
        None => ("xid", text.split_once("Xid (")?.1),
    };
    let (address, rest) = rest.split_once("):")?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().ok()?;
    let gpu = if kind == "xid" { places.gpu(address.trim_start_matches("PCI:")) } else { None };
    Some(Health { gpu, ..event("gpu", &format!("{kind}-{number}"), text) })
}

/// `mlx5_core 0000:3b:00.0 eth2: Link down`, and the driver's own health reports.
fn mlx5(text: &str, places: &Places) -> Option<Health> {
    let (_, rest) = text.split_once("mlx5_core ")?;
    let lower = rest.to_ascii_lowercase();
    let (code, cleared) = if lower.contains("link down") {
        ("mlx5-link-down", false)
    } else if lower.contains("link up") {
        ("mlx5-link-down", true)
    } else if lower.contains("health compromised") || lower.contains("device's health") {
        ("mlx5-health", false)
    } else if lower.contains("high temperature") {
        ("mlx5-temperature", false)
    } else {
        return None;
    };
    let mut words = rest.split_ascii_whitespace();
    let address = words.next()?.trim_end_matches(':');
    // The RDMA device, as NCCL names it; else the interface, where the line names it, else the address.
    let interface = words.next().and_then(|word| word.strip_suffix(':')).filter(|word| !word.contains(':'));
    let name: String = places.nic(address).or(interface).unwrap_or(address).chars().take(64).collect();
    Some(Health { nic: Some(name), cleared, ..event("nic", code, text) })
}

/// `pcieport 0000:3a:00.0: AER: Uncorrectable (Fatal) error message received from 0000:3b:00.0`.
fn pcie(text: &str, places: &Places) -> Option<Health> {
    let (_, rest) = text.split_once("AER: ")?;
    let lower = rest.to_ascii_lowercase();
    let code = if lower.contains("uncorrect") {
        "pcie-error"
    } else if lower.contains("correct") && lower.contains("error") {
        "pcie-corrected"
    } else {
        return None;
    };
    let words = || text.split([' ', ',']).map(|word| word.trim_end_matches(':'));
    let gpu = words().find_map(|word| places.gpu(word));
    let nic = words().find_map(|word| places.nic(word)).filter(|_| gpu.is_none()).map(str::to_owned);
    let component = match (gpu, &nic) {
        (Some(_), _) => "gpu",
        (None, Some(_)) => "nic",
        (None, None) => "host",
    };
    Some(Health { gpu, nic, ..event(component, code, text) })
}

/// `Out of memory: Killed process 4711 (python) total-vm:…`, of the node or of a control group.
fn out_of_memory(text: &str) -> Option<Health> {
    let killed = text.contains("ut of memory: Killed process ");
    killed.then(|| event("host", "oom-kill", text))
}

/// `mce: [Hardware Error]: CPU 5: Machine Check Exception: …` and uncorrected memory errors of EDAC.
fn machine_check(text: &str) -> Option<Health> {
    let exception = text.contains("Machine Check Exception");
    let memory = text.starts_with("EDAC ") && text.contains(" UE ");
    (exception || memory).then(|| event("host", "machine-check", text))
}

/// `python[4711]: segfault at 0 ip 00007f… sp 00007f… error 4 in libnccl.so.2.28.9[7f…+…]`
fn segfault(text: &str) -> Option<Health> {
    let crashed = text.contains("segfault at") && text.contains("libnccl");
    crashed.then(|| event("host", "nccl-segfault", text))
}
