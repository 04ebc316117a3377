//! What can be wrong with a recorder, said so that a person can act on it.

use std::io;
use std::path::PathBuf;

/// Why a recorder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else than a file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which one.
        path: PathBuf,
    },
    /// Truncated, grown, or something else altogether.
    #[error("{} is {found} bytes long, a recorder of version {} is {expected}", path.display(), crate::layout::VERSION)]
    Size {
        /// Which file.
        path: PathBuf,
        /// Bytes of a recorder.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A field holds what no writer writes.
    #[error("{field} at offset {offset:#x} is {found}, expected {expected}")]
    Field {
        /// Table, slot and field.
        field: String,
        /// Offset in the file.
        offset: usize,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The static part changed since the file was opened.
    #[error("the header changed after the recorder was opened: the file was overwritten")]
    Overwritten,
}
