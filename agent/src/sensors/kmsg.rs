//! The kernel log: XIDs of NVIDIA's driver, links of mlx5, crashes inside NCCL. Read from `/dev/kmsg`, which gives one
//! record a read, from its present end on: what happened before this agent came is no news.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use c4_detect::{catalogue, observation::Severity};
use tokio::time::Instant;

use super::{Sampled, Sensor};
use crate::report::Health;

/// Records taken in one look. The rest waits for the next: a log that is flooded must not flood the controller.
const MAX_RECORDS: usize = 256;

/// Turns one record into a health event, if it is one that matters. Accepts the form of `/dev/kmsg`
/// (`6,1234,5678,-;text`) and bare text.
#[must_use]
pub fn parse_record(record: &str) -> Option<Health> {
    let text = match record.split_once(';') {
        Some((prefix, text)) if prefix.starts_with(|c: char| c.is_ascii_digit()) => text,
        _ => record,
    };
    let text = text.lines().next()?.trim();
    parse_xid(text).or_else(|| parse_mlx5(text)).or_else(|| parse_segfault(text))
}

fn event(component: &'static str, code: &str, severity: Severity, text: &str) -> Health {
    let detail: String = text.chars().take(300).collect();
    Health { component, gpu: None, nic: None, code: code.to_owned(), detail, severity, cleared: false }
}

/// `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.`, and SXIDs of NVSwitches:
/// `nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up`.
fn parse_xid(text: &str) -> Option<Health> {
    let (kind, rest) = match text.split_once("SXid (") {
        Some((_, rest)) => ("sxid", rest),
        None => ("xid", text.split_once("Xid (")?.1),
    };
    let (_, rest) = rest.split_once("):")?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let code = format!("{kind}-{}", digits.parse::<u32>().ok()?);
    let severity = catalogue::entry(&code, rest)?.severity;
    Some(event("gpu", &code, severity, text))
}

/// `mlx5_core 0000:3b:00.0 eth2: Link down`, and the driver's own health reports.
fn parse_mlx5(text: &str) -> Option<Health> {
    let (_, rest) = text.split_once("mlx5_core ")?;
    let device = rest.split([' ', ':']).next().unwrap_or_default();
    let lower = rest.to_ascii_lowercase();
    let (code, severity, cleared) = if lower.contains("link down") {
        ("mlx5-link-down", Severity::Warning, false)
    } else if lower.contains("link up") {
        ("mlx5-link-down", Severity::Warning, true)
    } else if lower.contains("health compromised") || lower.contains("device's health") {
        ("mlx5-health", Severity::Fatal, false)
    } else if lower.contains("high temperature") {
        ("mlx5-temperature", Severity::Warning, false)
    } else {
        return None;
    };
    // The interface, where the line names it, else the PCI address.
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let address = words.first().map_or(device, |word| word.trim_end_matches(':'));
    let name = words.get(1).and_then(|word| word.strip_suffix(':')).unwrap_or(address);
    Some(Health { nic: Some(name.to_owned()), cleared, ..event("nic", code, severity, text) })
}

/// `python[4711]: segfault at 0 ip 00007f… sp 00007f… error 4 in libnccl.so.2.28.9[7f…+…]`
fn parse_segfault(text: &str) -> Option<Health> {
    let crashed = text.contains("segfault at") && text.contains("libnccl");
    crashed.then(|| event("host", "nccl-segfault", Severity::Warning, text))
}

/// Reads the kernel log.
#[derive(Debug)]
pub struct KmsgSensor {
    file: File,
    buffer: Vec<u8>,
}

impl KmsgSensor {
    /// Opens it at its end.
    ///
    /// # Errors
    /// It cannot be opened: why.
    pub fn open(path: &Path) -> Result<(Self, String), String> {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let why = |error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(why)?;
        file.seek(SeekFrom::End(0)).map_err(why)?;
        Ok((Self { file, buffer: vec![0; 8192] }, path.display().to_string()))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }
}

impl Sensor for KmsgSensor {
    fn sample(&mut self, _now: Instant, _interval: Duration) -> Sampled {
        let mut sampled = Sampled::default();
        for _ in 0..MAX_RECORDS {
            match self.file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&self.buffer[..length]);
                    // `/dev/kmsg` gives one record, a plain file many lines. Continuation lines begin with a space.
                    let lines = text.lines().filter(|line| !line.starts_with(' '));
                    sampled.health.extend(lines.filter_map(parse_record));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // EPIPE: records were overwritten before they were read; the next read goes on with what is left.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(error) => {
                    sampled.lost = Some(format!("cannot be read any more: {error}"));
                    break;
                }
            }
        }
        sampled
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn xids_as_the_driver_writes_them() {
        let record = "4,1203,998877,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n SUBSYSTEM=pci";
        let health = parse_record(record).unwrap();
        assert_eq!(
            (health.code.as_str(), health.severity, health.component),
            ("xid-79", Severity::Fatal, "gpu")
        );
        assert!(health.detail.starts_with("NVRM: Xid (PCI:0000:3b:00): 79"));
        let mmu = "NVRM: Xid (PCI:0000:65:00): 31, pid=9, name=python, Ch 00000010, intr 00000000. MMU Fault";
        assert_eq!(parse_record(mmu).unwrap().severity, Severity::Info);
        let switch = "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up";
        assert_eq!(parse_record(switch).unwrap().code, "sxid-20034");
    }

    #[test]
    fn mlx5_links_and_health() {
        let down = parse_record("6,99,1,-;mlx5_core 0000:3b:00.0 eth2: Link down").unwrap();
        assert_eq!(
            (down.code.as_str(), down.nic.as_deref(), down.cleared),
            ("mlx5-link-down", Some("eth2"), false)
        );
        let up = parse_record("6,99,1,-;mlx5_core 0000:3b:00.0 eth2: Link up").unwrap();
        assert!(up.cleared && up.nic == down.nic);
        let health = "mlx5_core 0000:5e:00.0: poll_health:825:(pid 0): device's health compromised - reached miss count";
        let health = parse_record(health).unwrap();
        assert_eq!((health.code.as_str(), health.nic.as_deref()), ("mlx5-health", Some("0000:5e:00.0")));
    }

    #[test]
    fn crashes_inside_nccl() {
        let text =
            "6,1,1,-;python[4711]: segfault at 0 ip 00007f sp 00007f error 4 in libnccl.so.2.28.9[7f00+100]";
        assert_eq!(parse_record(text).unwrap().code, "nccl-segfault");
        assert_eq!(parse_record("python[1]: segfault at 0 in libc.so.6"), None);
    }

    #[test]
    fn everything_else_is_ignored() {
        for text in [
            "",
            ";",
            "6,1,1,-;",
            "usb 1-1: new device",
            "NVRM: Xid (PCI",
            "NVRM: Xid (PCI:1): x",
            "mlx5_core ",
        ] {
            assert_eq!(parse_record(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_what_is_written_after_the_start_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "4,1,1,-;NVRM: Xid (PCI:0000:3b:00): 48, old").unwrap();
        let (mut sensor, _) = KmsgSensor::open(file.path()).unwrap();
        let codes =
            |sampled: Sampled| sampled.health.into_iter().map(|health| health.code).collect::<Vec<_>>();
        assert!(codes(sensor.sample(Instant::now(), Duration::ZERO)).is_empty());
        writeln!(file, "4,2,2,-;NVRM: Xid (PCI:0000:3b:00): 79, new\n SUBSYSTEM=pci\n6,3,3,-;other").unwrap();
        assert_eq!(codes(sensor.sample(Instant::now(), Duration::ZERO)), ["xid-79"]);
        assert!(codes(sensor.sample(Instant::now(), Duration::ZERO)).is_empty());
    }
}
