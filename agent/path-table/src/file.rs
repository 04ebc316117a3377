//! The table as a file.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use crate::{
    encode::lease,
    format::LEASE,
    lookup::{Header, ReadAt},
};

impl ReadAt for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.read_exact_at(buffer, offset).is_ok()
    }
}

/// Replaces the table: readers see the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // Everybody may make files beside it: another's file would stay another's, and be the table.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
    // Job processes of other users read it, whatever the agent's umask; only the agent writes.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)
}

/// Renews the lease of a table that is sound but for its lease: valid until `until`, in nanoseconds since boot.
///
/// # Errors
/// When there is no such table, or it cannot be written.
pub fn renew(path: &Path, until: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let header = Header::read(&file, 0).map_err(io::Error::other)?;
    file.write_all_at(&lease(until, header.generation()), LEASE as u64)
}
