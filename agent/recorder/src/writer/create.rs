//! Making a recorder file.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::Relaxed;

use super::Recorder;
use crate::GpuAddress;
use crate::clock::{Calibration, TickSource};
use crate::layout::{self, FILE_BYTES, Header};
use crate::lock;

/// Who the new recorder is for.
#[derive(Clone, Debug, Default)]
pub struct NewRecorder {
    /// Host name or NCCL_HOSTID.
    pub host_id: String,
    /// GPU index, if the environment tells it.
    pub gpu: Option<u32>,
    /// Where the GPU is, if that is known.
    pub gpu_address: Option<GpuAddress>,
    /// Labels from the environment.
    pub labels: BTreeMap<String, String>,
}

/// Why a recorder could not be made. The job goes on without it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct CreateError {
    /// What was tried.
    pub what: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CreateError + 'a {
    move |source| CreateError { what, path: path.to_owned(), source }
}

impl Recorder {
    /// Makes a recorder for this process in `directory`, which is made if it is missing (its parent must exist).
    pub fn create(directory: &Path, new: &NewRecorder) -> Result<Self, CreateError> {
        make_directory(directory)?;
        let cookie = random_cookie().map_err(failed("read randomness for", directory))?;
        let pid = std::process::id();
        let name = format!("{pid}-{cookie:016x}.c4r");
        let draft = directory.join(format!(".{name}.new"));
        let path = directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            // Nobody else's business: the agent reads it as root, or as the same user.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&draft)
            .map_err(failed("create", &draft))?;
        let made = Self::fill(file, &draft, path, cookie, new).and_then(|recorder| {
            fs::rename(&draft, &recorder.path).map_err(failed("name", &recorder.path))?;
            Ok(recorder)
        });
        if made.is_err() {
            // The draft is of no use to anybody, and whatever went wrong, there is nothing to do if this fails too.
            let _ = fs::remove_file(&draft);
        }
        made
    }

    fn fill(
        file: File,
        draft: &Path,
        path: PathBuf,
        cookie: u64,
        new: &NewRecorder,
    ) -> Result<Self, CreateError> {
        // SAFETY: the descriptor is open; the call takes numbers only.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, FILE_BYTES as libc::off_t) } {
            0 => {}
            code => return Err(failed("reserve space for", draft)(io::Error::from_raw_os_error(code))),
        }
        lock::hold(&file).map_err(failed("lock", draft))?;
        // SAFETY: a fresh shared mapping of a file that is FILE_BYTES long; the address is the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                FILE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(failed("map", draft)(io::Error::last_os_error()));
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| failed("map", draft)(io::Error::other("at address 0")))?;
        let ticks = TickSource::detect();
        let recorder = Self { base, ticks, created: ticks.pair(), cookie, path, _file: file };
        recorder.write_header(new);
        recorder.first_calibration();
        Ok(recorder)
    }

    fn write_header(&self, new: &NewRecorder) {
        let labels = encode_labels(&new.labels);
        let mut host_id = [0; 64];
        let kept = prefix(&new.host_id, host_id.len());
        host_id[..kept.len()].copy_from_slice(kept.as_bytes());
        let header = Header {
            magic: 0,
            checksum: 0,
            version: layout::VERSION,
            pid: std::process::id(),
            file_bytes: FILE_BYTES as u64,
            cookie: self.cookie,
            start_ticks: process_start().unwrap_or(0),
            clock_kind: self.ticks.kind(),
            gpu: new.gpu.unwrap_or(u32::MAX),
            base_ticks: self.created.0,
            base_ns: self.created.1,
            boot_id: boot_id().unwrap_or_default(),
            label_bytes: labels.len() as u32,
            gpu_address: new.gpu_address.map_or(0, GpuAddress::bits),
            host_id,
        };
        // SAFETY: the mapping is FILE_BYTES long, the offsets lie inside it and are aligned, the header and the labels
        // (at most LABEL_BYTES) do not overlap, and nobody else knows of the file yet.
        unsafe {
            let at = self.base.as_ptr();
            ptr::copy_nonoverlapping(labels.as_ptr(), at.add(layout::LABELS_AT), labels.len());
            at.add(layout::HEADER_AT).cast::<Header>().write(header);
            let checked = std::slice::from_raw_parts(
                at.add(layout::CHECKED_FROM),
                layout::CHECKED_TO - layout::CHECKED_FROM,
            );
            let checksum = layout::checksum(checked);
            let header = at.add(layout::HEADER_AT).cast::<Header>();
            (*header).checksum = checksum;
            (*header).magic = layout::MAGIC;
        }
    }

    /// Spins for two milliseconds, once in the life of a process: the rate is then good to some 50 ppm.
    fn first_calibration(&self) {
        self.live().ns_per_tick.store(Calibration::ONE, Relaxed);
        if self.ticks.kind() != layout::clock_kind::MONOTONIC {
            while self.now_ns().wrapping_sub(self.created.1) < 2_000_000 {
                std::hint::spin_loop();
            }
            self.recalibrate();
        }
    }
}

/// Like /tmp: everybody may add files, nobody may remove another's.
fn make_directory(directory: &Path) -> Result<(), CreateError> {
    match DirBuilder::new().mode(0o777).create(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o1777))
            .map_err(failed("open up the directory", directory)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("create the directory", directory)(error)),
    }
}

fn random_cookie() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    loop {
        // SAFETY: the buffer is valid for its length.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match (got, u64::from_le_bytes(bytes)) {
            // The low 16 bits mark handles, where 0 means "not ours".
            (8, cookie) if cookie & 0xFFFF != 0 => return Ok(cookie),
            (8, _) => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

/// The longest prefix that fits into `bytes` and ends between characters.
pub fn prefix(text: &str, bytes: usize) -> &str {
    let fits = (0..=bytes.min(text.len())).rev().find_map(|end| text.get(..end));
    fits.unwrap_or_default()
}

/// `KEY=value` and a NUL for each label that fits whole.
fn encode_labels(labels: &BTreeMap<String, String>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (key, value) in labels {
        let bad = |text: &str| text.contains('\0');
        if key.is_empty() || key.contains('=') || bad(key) || bad(value) {
            continue;
        }
        if encoded.len() + key.len() + value.len() + 2 <= layout::LABEL_BYTES {
            encoded.extend_from_slice(key.as_bytes());
            encoded.push(b'=');
            encoded.extend_from_slice(value.as_bytes());
            encoded.push(0);
        }
    }
    encoded
}

/// Field 22 of /proc/self/stat; the command in field 2 may contain anything, so count from its closing bracket.
fn process_start() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// This boot of the kernel.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
}
