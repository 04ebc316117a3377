//! The real source: a directory of recorder files that training processes map.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
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

/// Like `/tmp`: everybody may add files, nobody may remove another's.
const SHARED: u32 = 0o1777;

/// As kubelet makes a directory for a mount: root's alone.
const OF_ROOT: (u32, u32) = (0, 0o755);

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

    /// Makes the directory, open to every user: training processes are not the agent's user. One that is there stays as it is,
    /// unless nobody but root could write and nothing else lives in it.
    ///
    /// # Errors
    /// When processes of other users will not be able to leave their recorders there.
    pub fn share(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(found) if (found.uid(), found.mode() & 0o7777) != OF_ROOT => return Ok(()),
            Ok(_) if !self.holds_only_recorders()? => {
                return Err(io::Error::other("it is root's, and other files are in it"));
            }
            Ok(_) => {}
            Err(_) => DirBuilder::new().recursive(true).mode(0o777).create(&self.path)?,
        }
        fs::set_permissions(&self.path, Permissions::from_mode(SHARED))
    }

    /// Recorders, and the table of planned paths.
    fn holds_only_recorders(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().ends_with(SUFFIX) && name != "paths" {
                return Ok(false);
            }
        }
        Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_directory_is_everybodys_or_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("above/c4");
        RecorderDirectory::new(&made).share().unwrap();
        assert_eq!(mode(&made), SHARED);

        fs::set_permissions(&made, Permissions::from_mode(0o700)).unwrap();
        RecorderDirectory::new(&made).share().unwrap();
        assert_eq!(mode(&made), 0o700, "somebody wants it so");

        fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        if fs::metadata(&made).unwrap().uid() != 0 {
            return;
        }
        fs::write(made.join("passwd"), "").unwrap();
        assert!(RecorderDirectory::new(&made).share().is_err());
        assert_eq!(mode(&made), 0o755, "not meant for recorders");
        fs::remove_file(made.join("passwd")).unwrap();
        fs::write(made.join("1-2.c4r"), "").unwrap();
        RecorderDirectory::new(&made).share().unwrap();
        assert_eq!(mode(&made), SHARED, "as kubelet made it");
    }
}
