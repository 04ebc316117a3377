//! Asking the agent's table.

use std::ffi::c_void;

use c4_path_table::{ANY_PORT, ANY_RANK, Buffer, Header, Key, Ports, ReadAt};

use crate::settings::{self, Settings};

/// The table, open for one question.
pub(crate) struct Table {
    file: Descriptor,
    header: Header,
    settings: &'static Settings,
}

/// A file that is closed at the end.
struct Descriptor(i32);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this one's own and not used again.
        unsafe { libc::close(self.0) };
    }
}

impl ReadAt for Descriptor {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let Ok(offset) = libc::off_t::try_from(offset) else { return false };
        // SAFETY: the buffer is writable for its length.
        let read = unsafe { libc::pread(self.0, buffer.as_mut_ptr().cast::<c_void>(), buffer.len(), offset) };
        usize::try_from(read) == Ok(buffer.len())
    }
}

impl Table {
    /// Opens the table, if there is one that may be believed.
    pub(crate) fn open() -> Option<Self> {
        let settings = settings::get()?;
        // O_NONBLOCK: a FIFO in its place must not hold the job up.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        // SAFETY: the path is NUL-terminated.
        let file = unsafe { libc::open(settings.table(), flags) };
        if file < 0 {
            return None;
        }
        let file = Descriptor(file);
        let header = Header::read(&file, boot_time()?).ok()?;
        Some(Self { file, header, settings })
    }

    /// The plan's number.
    pub(crate) fn generation(&self) -> u64 {
        self.header.generation()
    }

    /// Ports for sockets that listen on any port.
    pub(crate) fn listen(&self) -> Option<std::ops::Range<u16>> {
        self.header.listen()
    }

    /// The ports for a destination, and the key they are under: those for this rank and port before those for any.
    pub(crate) fn find<'b>(
        &self,
        address: [u8; 16],
        port: u16,
        buffer: &'b mut Buffer,
    ) -> Option<(Key, Ports<'b>)> {
        let rank = self.settings.rank;
        let keys = [(rank, port), (ANY_RANK, port), (rank, ANY_PORT), (ANY_RANK, ANY_PORT)];
        let keys = keys.map(|(rank, port)| Key { address, port, rank });
        let alone = rank == ANY_RANK;
        let known = |key: &&Key| self.header.find(&self.file, key, buffer).is_some();
        // Looked up twice, since the buffer can be lent but once.
        let key = *keys.iter().skip(usize::from(alone)).step_by(1 + usize::from(alone)).find(known)?;
        Some((key, self.header.find(&self.file, &key, buffer)?))
    }
}

/// Nanoseconds since boot.
fn boot_time() -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    (result == 0).then(|| seconds * 1_000_000_000 + time.tv_nsec as u64)
}
