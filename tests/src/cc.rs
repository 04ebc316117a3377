//! C programs and libraries that tests are made of.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Makes `to` of these sources with the system's C compiler.
///
/// # Panics
/// There is none, or it does not like them.
pub fn compile(arguments: &[&str], from: &[PathBuf], to: &Path) {
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall"]).args(from).args(arguments).arg("-o").arg(to);
    let output = command.output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
