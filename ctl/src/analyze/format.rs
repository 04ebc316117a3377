//! Which format a file has, told from its first bytes: names and endings are what people got wrong first.

use std::{
    io::{self, BufRead},
    path::Path,
};

use super::lines;
use crate::cli::Format;

/// How much of a file is looked at.
const LOOKED_AT: usize = 1 << 16;

/// What a file seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Operations as JSON lines.
    OperationTrace,
    /// PyTorch's dump as a pickle.
    FlightRecorderPickle,
    /// PyTorch's dump as JSON.
    FlightRecorderJson,
    /// C4's own.
    Recorder,
}

impl Kind {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::OperationTrace => "an operation trace",
            Kind::FlightRecorderPickle => "a Flight Recorder dump (pickle)",
            Kind::FlightRecorderJson => "a Flight Recorder dump (JSON)",
            Kind::Recorder => "a flight recorder of C4",
        }
    }
}

/// Looks into a file.
///
/// # Errors
/// When it cannot be read.
pub fn detect(path: &Path, asked: Format) -> io::Result<Kind> {
    match asked {
        Format::OperationTrace => Ok(Kind::OperationTrace),
        Format::Recorder => Ok(Kind::Recorder),
        Format::FlightRecorder if path.extension().is_some_and(|ext| ext == "json") => {
            Ok(Kind::FlightRecorderJson)
        }
        Format::FlightRecorder => Ok(Kind::FlightRecorderPickle),
        Format::Auto if path.extension().is_some_and(|extension| extension == "c4r") => Ok(Kind::Recorder),
        Format::Auto => {
            let mut source = lines::open(path)?;
            Ok(look(&head(source.as_mut())?))
        }
    }
}

fn head(source: &mut dyn BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    io::Read::take(source, LOOKED_AT as u64).read_to_end_lossy(&mut head)?;
    Ok(head)
}

trait ReadWhatThereIs {
    fn read_to_end_lossy(&mut self, into: &mut Vec<u8>) -> io::Result<()>;
}

impl<R: io::Read> ReadWhatThereIs for R {
    /// Like `read_to_end`, but an error after the first bytes is left for the proper reader to report.
    fn read_to_end_lossy(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        match self.read_to_end(into) {
            Err(error) if into.is_empty() => Err(error),
            _ => Ok(()),
        }
    }
}

fn look(head: &[u8]) -> Kind {
    if matches!(head, [0x80, 2..=5, ..]) {
        return Kind::FlightRecorderPickle;
    }
    if head.starts_with(&c4_recorder::layout::MAGIC.to_le_bytes()) {
        return Kind::Recorder;
    }
    let text = String::from_utf8_lossy(head);
    let first_line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    let dump_keys = ["\"pg_config\"", "\"pg_status\"", "\"entries\"", "\"nccl_version\""];
    let says = dump_keys.iter().filter(|key| text.contains(**key)).count();
    // An operation is one object on one line; a dump is one object over the whole file.
    let one_operation = first_line.contains("\"op\"") || first_line.contains("\"meta\"");
    if says > 0 && !one_operation { Kind::FlightRecorderJson } else { Kind::OperationTrace }
}

/// The rank that a file's name gives: `nccl_trace_rank7.jsonl`, `_dump_7`.
#[must_use]
pub fn rank_of_name(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    ["rank", "_dump_"].iter().find_map(|marker| {
        let (start, _) = name.rmatch_indices(marker).next()?;
        let rest = name[start + marker.len()..].trim_start_matches(['_', '-', '.', '=']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_the_format() {
        assert_eq!(look(b"\x80\x04\x95..."), Kind::FlightRecorderPickle);
        assert_eq!(look(b"{\n \"version\": \"2.5\",\n \"entries\": []}"), Kind::FlightRecorderJson);
        assert_eq!(look(br#"{"rank":0,"op":"all_reduce","note":"\"entries\""}"#), Kind::OperationTrace);
        assert_eq!(look(b""), Kind::OperationTrace);
    }

    #[test]
    fn names_give_ranks() {
        for (name, rank) in [
            ("nccl_trace_rank7", Some(7)),
            ("tmp/nccl_trace_rank_12.json.gz", Some(12)),
            ("x_dump_3", Some(3)),
            ("rank-4.jsonl", Some(4)),
            ("trace.jsonl", None),
            ("rank99999999999", None),
        ] {
            assert_eq!(rank_of_name(Path::new(name)), rank, "{name}");
        }
    }
}
