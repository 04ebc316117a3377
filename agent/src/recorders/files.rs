//! The real source: a directory of recorder files that training processes map.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use c4_recorder::{
    reader::{Liveness, Reader},
    snapshot::Identity,
};

use super::{
    owner::Origin,
    source::{RecorderHandle, RecorderSource, Sample, SourceError},
};

/// Recorder files end in this.
const SUFFIX: &str = ".c4r";

/// Files looked at in one directory. A node has some ten ranks; ten thousand files are somebody's mistake.
const MAX_FILES: usize = 10_000;

/// A directory of recorders. It need not exist yet: the first training process makes it.
#[derive(Debug)]
pub struct RecorderDirectory {
    path: PathBuf,
}

impl RecorderDirectory {
    /// The recorders in `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl RecorderSource for RecorderDirectory {
    type Recorder = Reader;

    fn list(&mut self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries.take(MAX_FILES) {
            if let Ok(name) = entry?.file_name().into_string()
                && name.ends_with(SUFFIX)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&mut self, name: &str) -> Result<Reader, SourceError> {
        Reader::open(&self.path.join(name)).map_err(source_error)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }
}

impl RecorderHandle for Reader {
    fn identity(&mut self) -> Result<Identity, SourceError> {
        self.snapshot().map(|snapshot| snapshot.identity).map_err(source_error)
    }

    fn origin(&mut self) -> Result<Origin, SourceError> {
        let uid = self.owner().map_err(source_error)?;
        Ok(Origin { uid, holder: self.holder().map_err(source_error)? })
    }

    fn poll(&mut self, cursor: u64) -> Result<Sample, SourceError> {
        let poll = Reader::poll(self, cursor).map_err(source_error)?;
        Ok(Sample {
            profiling: poll.profiling,
            event_mask: poll.event_mask,
            communicators: poll.communicators,
            connections: poll.connections,
            operations: poll.operations,
            next_cursor: poll.next_cursor,
            overwritten: poll.overwritten,
            losses: poll.losses,
        })
    }

    fn alive(&mut self) -> Result<bool, SourceError> {
        self.liveness().map(|liveness| liveness == Liveness::Alive).map_err(source_error)
    }

    fn request_all_steps(&mut self, until_ns: u64) -> Result<(), SourceError> {
        Reader::request_all_steps(self, until_ns).map_err(source_error)
    }
}

fn source_error(error: impl std::fmt::Display) -> SourceError {
    SourceError(error.to_string())
}
