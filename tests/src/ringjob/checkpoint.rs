//! Checkpoints: one file, replaced atomically, that holds the iteration to go on from.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

/// Replaces `path` in one step, so that a reader sees the old content or the new, never a part.
///
/// # Errors
/// The I/O error of writing or renaming.
pub fn replace_file(path: &Path, content: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}

/// The newest checkpoint in `dir`: iterations done; 0 when there is none yet.
///
/// # Errors
/// When the file is there but cannot be read or does not hold a number.
pub fn newest(dir: &Path) -> anyhow::Result<u64> {
    let path = dir.join("checkpoint");
    match fs::read_to_string(&path) {
        Ok(content) => content
            .trim()
            .parse()
            .with_context(|| format!("{}: {content:?} is not an iteration number", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes the checkpoint after `iterations` iterations.
///
/// # Errors
/// When the directory or file cannot be written.
pub fn write(dir: &Path, iterations: u64) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("checkpoint");
    replace_file(&path, &format!("{iterations}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Tells the node's agent of new checkpoints through its marker file. One node has the rank that writes checkpoints, but
/// every node's agent wants to know.
#[derive(Debug)]
pub struct Marker {
    path: Option<PathBuf>,
    told: u64,
}

impl Marker {
    /// Writes to `path`, or nowhere.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, told: 0 }
    }

    /// Says that the newest checkpoint is after `iterations` iterations and, where this process has written it, how long that took,
    /// unless it has said so before.
    ///
    /// # Errors
    /// When the marker cannot be written.
    pub fn tell(&mut self, iterations: u64, took: Option<Duration>) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if iterations > self.told {
            let took = took.map_or(String::new(), |took| format!(" {:.6}", took.as_secs_f64()));
            replace_file(path, &format!("{iterations}{took}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
            self.told = iterations;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resumes_from_the_newest_and_refuses_nonsense() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(newest(dir.path()).expect("none yet"), 0);
        write(dir.path(), 10).expect("first");
        write(dir.path(), 20).expect("second");
        assert_eq!(newest(dir.path()).expect("newest"), 20);
        fs::write(dir.path().join("checkpoint"), "twenty").expect("spoil it");
        let error = newest(dir.path()).expect_err("not a number").to_string();
        assert!(error.contains("twenty"), "{error}");
    }

    #[test]
    fn marker_is_written_once_a_checkpoint() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("marker");
        let mut marker = Marker::new(Some(path.clone()));
        marker.tell(0, None).expect("nothing to tell");
        assert!(!path.exists());
        marker.tell(10, Some(Duration::from_millis(250))).expect("told");
        assert_eq!(fs::read_to_string(&path).expect("written"), "10 0.250000\n");
        fs::remove_file(&path).expect("taken away");
        marker.tell(10, None).expect("told already");
        assert!(!path.exists());
    }
}
