//! Directories that belong to this user alone.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Names tried before giving up.
const ATTEMPTS: usize = 100;

/// Makes `path`, and what is above it; one that is there already must be this user's own directory, and no link to one.
///
/// # Errors
/// It cannot be made, or is somebody else's.
pub(crate) fn own(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() && found.uid() == rustix::process::getuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is not a directory of this user", path.display())))
}

/// Makes a directory in `parent` under the first of `name`, `name-1`, `name-2`… that is not taken.
///
/// # Errors
/// It cannot be made, or every name is taken.
pub(crate) fn free(parent: &Path, name: &str) -> io::Result<PathBuf> {
    for attempt in 0..ATTEMPTS {
        let suffix = if attempt == 0 { String::new() } else { format!("-{attempt}") };
        let path = parent.join(format!("{name}{suffix}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Err(io::Error::other(format!("{} and every name after it are taken", parent.join(name).display())))
}
