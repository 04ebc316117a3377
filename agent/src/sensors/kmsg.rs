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
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::PathBuf,
    time::Duration,
};

use c4_detect::catalogue;
pub use lines::parse_record;
pub use places::Places;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Instant;

use super::{Gpus, Sampled, Sensor};
use crate::report::Health;

/// Records taken in one look. The rest waits for the next: a log that is flooded must not flood the controller.
const MAX_RECORDS: usize = 256;

/// The same record within this time is told once.
const REPEAT: Duration = Duration::from_secs(10);

/// Records remembered as told; a flood of different ones is told as it comes.
const MAX_TOLD: usize = 1_024;

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
    told: Told,
    /// Whether the file tells when there is more to read; a plain file does not.
    wakes: bool,
    buffer: Vec<u8>,
}

impl KmsgSensor {
    /// Opens it at its end. `gpus` tells which address is which.
    ///
    /// # Errors
    /// It cannot be opened: why.
    pub fn open(settings: KmsgSettings, gpus: Gpus) -> Result<(Self, String), String> {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let path = settings.path.clone();
        let why = |error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).map_err(why)?;
        file.seek(SeekFrom::End(0)).map_err(why)?;
        let mut places = Places::new(gpus, BTreeMap::new());
        places.look(&settings.nics);
        let detail = format!("{}, {} GPUs known by address", path.display(), places.gpus());
        let wakes = file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device());
        Ok((Self { file, settings, places, told: Told::default(), wakes, buffer: vec![0; 8192] }, detail))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }

    /// Waits for a record, so that it is told at once: what happened just before a rank died may be why. Returns whether it
    /// has waited.
    fn wait(&self, interval: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(interval) else { return false };
        let mut wanted = [PollFd::new(&self.file, PollFlags::IN)];
        self.wakes && poll(&mut wanted, Some(&timeout)).is_ok()
    }

    fn parse(&mut self, line: &str) -> Option<Health> {
        let health = parse_record(line, &self.places)?;
        if health.gpu.is_some() || health.nic.is_some() || health.component == "host" {
            return Some(health);
        }
        self.places.look(&self.settings.nics);
        parse_record(line, &self.places)
    }
}

/// What makes two records the same trouble: code, GPU, NIC and process.
type Key = (String, Option<u32>, Option<String>, Option<u32>);

/// Moments that were told lately: a driver in trouble writes the same over and over. Conditions come and go, and each time counts.
#[derive(Debug, Default)]
struct Told(HashMap<Key, (Instant, u64)>);

impl Told {
    /// The event, if it was not told lately, with how often it has come again since it was told before.
    fn once(&mut self, mut health: Health, now: Instant) -> Option<Health> {
        self.0.retain(|_, (at, repeats)| *repeats > 0 || now.saturating_duration_since(*at) < REPEAT);
        let Health { code, gpu, nic, detail, .. } = &health;
        if !catalogue::entry(code, detail).is_some_and(|entry| entry.moment) {
            return Some(health);
        }
        let key = (code.clone(), *gpu, nic.clone(), catalogue::pid(detail));
        match self.0.get_mut(&key) {
            Some((at, repeats)) if now.saturating_duration_since(*at) < REPEAT => {
                *repeats += 1;
                return None;
            }
            Some((_, repeats)) if *repeats > 0 => {
                health.detail = format!("{} ({repeats} more since it was last told)", health.detail);
            }
            _ => {}
        }
        if self.0.len() >= MAX_TOLD {
            self.0.clear();
        }
        self.0.insert(key, (now, 0));
        Some(health)
    }
}

impl Sensor for KmsgSensor {
    fn sample(&mut self, now: Instant, interval: Duration) -> Sampled {
        let mut sampled = Sampled { waited: self.wait(interval), ..Sampled::default() };
        for record in 0..MAX_RECORDS {
            // What is more than that waits for the next turn.
            sampled.waited &= record + 1 < MAX_RECORDS;
            match self.file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
                    // `/dev/kmsg` gives one record, a plain file many lines. Continuation lines begin with a space.
                    for line in text.lines().filter(|line| !line.starts_with(' ')) {
                        let health = self.parse(line).and_then(|health| self.told.once(health, now));
                        sampled.health.extend(health);
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
