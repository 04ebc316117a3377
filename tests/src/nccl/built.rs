//! Where the built libraries are: beside the running executable, where cargo puts what it depends on.

use std::io;
use std::path::{Path, PathBuf};

use crate::cargo::cargo;

/// The profiler plugin under test, `libnccl_profiler_c4.so`, built with the profile of this executable.
///
/// # Errors
/// It is not there and cargo cannot build it.
pub fn plugin() -> io::Result<PathBuf> {
    library("libnccl_profiler_c4.so", "c4-nccl-profiler")
}

/// The plugin that only counts, to chain behind the other.
///
/// # Errors
/// It is not there and cargo cannot build it.
pub fn chained() -> io::Result<PathBuf> {
    library("libc4_chained_profiler.so", "c4-chained-profiler")
}

/// `libc4-path.so`, which chooses source ports.
///
/// # Errors
/// It is not there and cargo cannot build it.
pub fn path_shim() -> io::Result<PathBuf> {
    library("libc4_path.so", "c4-path-shim")
}

/// A library beside this executable. Tests lie in `deps/`, programs above it; cargo keeps the copy in `deps/`, which
/// every build of this crate brings up to date, so it is looked for first.
fn library(file: &str, package: &str) -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let directory = executable.parent().unwrap_or(Path::new("."));
    let places = [directory.join("deps").join(file), directory.join(file), directory.join("..").join(file)];
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let release = directory.components().any(|part| part.as_os_str() == "release");
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", package]);
    command.args(release.then_some("--release"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command.status()?;
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        io::Error::other(format!(
            "{file} is not beside {} and building it ended with {status}",
            executable.display()
        ))
    })
}
