//! Commands that look into flight recorders on this machine. They only read, and never through the writer's lock.

use std::path::Path;

use c4_recorder::{
    reader::{Liveness, Reader},
    snapshot::Snapshot,
};

use crate::{
    cli::Recorder,
    failure::{Exit, Failure},
    output::Output,
};

mod list;
pub(crate) use list::{files, number};
pub(crate) use show::last_record_ns;
mod show;

/// Runs one of them.
///
/// # Errors
/// When a file cannot be read, or is not a valid recorder.
pub fn run(command: &Recorder, json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let exit = match command {
        Recorder::Show { file, operations } => show::run(file, *operations, json, out)?,
        Recorder::List { dir } => list::run(dir, json, out)?,
    };
    out.flush()?;
    Ok(exit)
}

/// What a recorder's file says, and whether a living process still holds it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Everything in it.
    pub snapshot: Snapshot,
    /// Whether its writer lives (in any container on this machine). False also for a copy.
    pub held: bool,
}

/// Reads one recorder.
///
/// # Errors
/// In the reader's words when the file is missing, truncated, from another version or hostile.
pub fn read(path: &Path) -> Result<Seen, Failure> {
    let bad = |problem: String| Failure::File { path: path.to_owned(), problem };
    let reader = Reader::open(path).map_err(|error| bad(error.to_string()))?;
    // The lock first: a process that ends in between has then left a complete recorder behind.
    let held = matches!(reader.liveness().map_err(|error| bad(error.to_string()))?, Liveness::Alive);
    let snapshot = reader.snapshot().map_err(|error| bad(error.to_string()))?;
    Ok(Seen { snapshot, held })
}
