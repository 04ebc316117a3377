//! Completions and manual pages, from the same description as the help.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    cli::Cli,
    failure::{Exit, Failure},
    output::Output,
};

/// Prints a script for a shell.
///
/// # Errors
/// When it cannot be written.
pub fn completions(shell: Shell, out: &mut Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "c4ctl", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())?;
    out.flush()?;
    Ok(Exit::Fine)
}

/// Writes the manual pages to a folder, which is made if there is none.
///
/// # Errors
/// When they cannot be written.
pub fn pages(dir: &Path, out: &mut Output) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| Failure::File { path: dir.to_owned(), problem: error.to_string() };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    out.line(format!("manual pages are in {}", dir.display()))?;
    out.flush()?;
    Ok(Exit::Fine)
}
