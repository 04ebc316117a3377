//! Where recorders come from: a directory in production, a table in tests. The trait is as narrow as the sampler's need,
//! so that everything above it is tested as it ships.

use std::io;

use c4_recorder::snapshot::{Communicator, Connection, Identity, Losses, Operation};
use thiserror::Error;

use super::owner::Origin;

/// A recorder could not be opened or read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SourceError(pub String);

/// What changed in a recorder since the last look.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Whether the plugin's event mask is set.
    pub profiling: bool,
    /// NCCL's bits of that mask.
    pub event_mask: u32,
    /// All communicators.
    pub communicators: Vec<Communicator>,
    /// All connections.
    pub connections: Vec<Connection>,
    /// Completed operations from the cursor on, and every open one.
    pub operations: Vec<Operation>,
    /// Cursor for the next look.
    pub next_cursor: u64,
    /// Operations that were overwritten before they could be read, since the last look.
    pub overwritten: u64,
    /// What the plugin could not keep, since the process started.
    pub losses: Losses,
}

/// A directory of recorders.
pub trait RecorderSource {
    /// One open recorder.
    type Recorder: RecorderHandle;

    /// Names of the recorders that are there now.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// Opens and validates one.
    ///
    /// # Errors
    /// It is no recorder, or not yet one.
    fn open(&mut self, name: &str) -> Result<Self::Recorder, SourceError>;

    /// Removes one for good.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// One open recorder.
pub trait RecorderHandle {
    /// Who writes it.
    ///
    /// # Errors
    /// It cannot be read or holds nonsense.
    fn identity(&mut self) -> Result<Identity, SourceError>;

    /// What the kernel says about it.
    ///
    /// # Errors
    /// It does not say.
    fn origin(&mut self) -> Result<Origin, SourceError>;

    /// What changed since `cursor`.
    ///
    /// # Errors
    /// It cannot be read or holds nonsense.
    fn poll(&mut self, cursor: u64) -> Result<Sample, SourceError>;

    /// Whether its writer lives.
    ///
    /// # Errors
    /// The lock cannot be tested.
    fn alive(&mut self) -> Result<bool, SourceError>;

    /// Asks the writer to time all network steps until `until_ns` (the host's monotonic clock); 0 takes it back.
    ///
    /// # Errors
    /// The wish cannot be written.
    fn request_all_steps(&mut self, until_ns: u64) -> Result<(), SourceError>;
}
