//! Writes down everything the detector is told, for replay.
//!
//! One thread owns the file. Its channel holds lines (`8192`: several seconds of a large cluster); a disk that does
//! not keep up costs lines, which are counted, and never holds up detection. The file is appended to, flushed
//! whenever the channel runs empty, and flushed at the end.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use c4_detect::observation::{Observation, Timestamp};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::mpsc::{self, error::TryRecvError};

/// Lines that may wait for the disk.
const DEPTH: usize = 8192;

/// The file could not be opened.
#[derive(Debug, Error)]
#[error("record: cannot open {} for appending", path.display())]
pub struct RecordError {
    path: PathBuf,
    source: std::io::Error,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// When it was observed.
    pub now: Timestamp,
    /// What.
    pub observation: Observation,
}

/// Takes lines.
pub struct Recorder {
    lines: mpsc::Sender<Line>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Opens the file and starts writing to it.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let failed = |source| RecordError { path: path.to_owned(), source };
        let file = File::options().append(true).create(true).open(path).map_err(failed)?;
        let (lines, waiting) = mpsc::channel(DEPTH);
        let path = path.to_owned();
        let builder = std::thread::Builder::new().name("c4-record".into());
        let failed = {
            let path = path.clone();
            move |source| RecordError { path, source }
        };
        let thread = builder.spawn(move || write(file, waiting, &path)).map_err(failed)?;
        Ok(Self { lines, thread })
    }

    /// Takes a line; returns false if there was no room.
    #[must_use]
    pub fn line(&self, line: Line) -> bool {
        self.lines.try_send(line).is_ok()
    }

    /// Ends when everything is on its way to the disk. Blocks.
    pub fn close(self) {
        drop(self.lines);
        // A thread that panicked has nothing left to write.
        let _ = self.thread.join();
    }
}

fn write(file: File, mut lines: mpsc::Receiver<Line>, path: &Path) {
    let mut file = BufWriter::new(file);
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                if let Err(error) = file.flush() {
                    return tracing::error!("recording to {} ends: {error}", path.display());
                }
                match lines.blocking_recv() {
                    Some(line) => line,
                    None => break,
                }
            }
        };
        let written =
            serde_json::to_writer(&mut file, &line).map_err(Into::into).and_then(|()| file.write_all(b"\n"));
        if let Err(error) = written {
            return tracing::error!("recording to {} ends: {error}", path.display());
        }
    }
    if let Err(error) = file.flush() {
        tracing::error!("the end of the recording {} is lost: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.jsonl");
        for round in 0..2 {
            let recorder = Recorder::open(&path).unwrap();
            for n in 0..100 {
                assert!(
                    recorder.line(Line { now: Timestamp(round * 100 + n), observation: Observation::Tick })
                );
            }
            recorder.close();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 200);
        assert_eq!(text.lines().next(), Some(r#"{"now":0,"observation":{"type":"tick"}}"#));
        for (n, line) in text.lines().enumerate() {
            assert!(line.starts_with(&format!(r#"{{"now":{n},"#)), "{line}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_says_which() {
        let Err(error) = Recorder::open(Path::new("/no/such/dir/x")) else { panic!("opened") };
        assert!(error.to_string().contains("/no/such/dir/x"));
    }
}
