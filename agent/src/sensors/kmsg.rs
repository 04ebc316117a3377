//! The kernel log: XIDs and SXIDs of NVIDIA's driver, links of mlx5, PCIe and machine-check errors, processes that ran out of
//! memory or crashed inside NCCL. Read from `/dev/kmsg`, which gives one record a read, from its present end on: what
//! happened before this agent came is no news.
//!
//! The log names devices by PCI address; a finding needs "GPU 4". Which address is which is looked up when the agent
//! starts, and again when an unknown one turns up, but never forgotten: a GPU that fell off the bus may be gone from there.

mod lines;
mod places;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

pub use lines::parse_record;
pub use places::{Address, Places};
use tokio::time::Instant;

use super::{Sampled, Sensor};
use crate::report::Health;

/// Records taken in one look. The rest waits for the next: a log that is flooded must not flood the controller.
const MAX_RECORDS: usize = 256;

/// Where the kernel log is, and where to look up what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsgSettings {
    /// The log.
    pub path: PathBuf,
    /// Directory with an entry for the PCI address of each GPU.
    pub gpus: PathBuf,
    /// Directory of RDMA devices.
    pub nics: PathBuf,
}

impl Default for KmsgSettings {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/dev/kmsg"),
            gpus: PathBuf::from("/proc/driver/nvidia/gpus"),
            nics: PathBuf::from("/sys/class/infiniband"),
        }
    }
}

/// Reads the kernel log.
#[derive(Debug)]
pub struct KmsgSensor {
    file: File,
    settings: KmsgSettings,
    places: Places,
    buffer: Vec<u8>,
}

impl KmsgSensor {
    /// Opens it at its end.
    ///
    /// # Errors
    /// It cannot be opened: why.
    pub fn open(settings: KmsgSettings) -> Result<(Self, String), String> {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let path = settings.path.clone();
        let why = |error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).map_err(why)?;
        file.seek(SeekFrom::End(0)).map_err(why)?;
        let mut places = Places::default();
        places.look(&settings.gpus, &settings.nics);
        let detail = format!("{}, {} GPUs known by address", path.display(), places.gpus());
        Ok((Self { file, settings, places, buffer: vec![0; 8192] }, detail))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }

    fn parse(&mut self, line: &str) -> Option<Health> {
        let health = parse_record(line, &self.places)?;
        if health.gpu.is_some() || health.nic.is_some() || health.component == "host" {
            return Some(health);
        }
        self.places.look(&self.settings.gpus, &self.settings.nics);
        parse_record(line, &self.places)
    }
}

impl Sensor for KmsgSensor {
    fn sample(&mut self, _now: Instant, _interval: Duration) -> Sampled {
        let mut sampled = Sampled::default();
        let mut told = HashSet::new();
        for _ in 0..MAX_RECORDS {
            match self.file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
                    // `/dev/kmsg` gives one record, a plain file many lines. Continuation lines begin with a space.
                    for line in text.lines().filter(|line| !line.starts_with(' ')) {
                        let Some(health) = self.parse(line) else { continue };
                        // A driver in trouble writes the same over and over.
                        let same = (
                            health.code.clone(),
                            health.gpu,
                            health.nic.clone(),
                            lines::pid(&health.detail),
                            health.cleared,
                        );
                        if told.insert(same) {
                            sampled.health.push(health);
                        }
                    }
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
