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
    /// PyTorch's dump, a pickle or JSON.
    FlightRecorder,
    /// C4's own.
    Recorder,
    /// What NCCL's RAS answers.
    Ras,
}

impl Kind {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::OperationTrace => "an operation trace",
            Kind::FlightRecorder => "a Flight Recorder dump",
            Kind::Recorder => "a flight recorder of C4",
            Kind::Ras => "an answer of NCCL's RAS",
        }
    }
}

/// Looks into a file; nothing if it could be anything, such as a file that is empty or damaged.
///
/// # Errors
/// When it cannot be read.
pub fn detect(path: &Path, asked: Format) -> io::Result<Option<Kind>> {
    match asked {
        Format::OperationTrace => Ok(Some(Kind::OperationTrace)),
        Format::Recorder => Ok(Some(Kind::Recorder)),
        Format::FlightRecorder => Ok(Some(Kind::FlightRecorder)),
        Format::Auto if path.extension().is_some_and(|extension| extension == "c4r") => {
            Ok(Some(Kind::Recorder))
        }
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

fn look(head: &[u8]) -> Option<Kind> {
    // Protocols 2 to 5 say so; a dict in one of the older two begins like this.
    if matches!(head, [0x80, 2..=5, ..]) || head.starts_with(b"(dp") || head.starts_with(b"}q") {
        return Some(Kind::FlightRecorder);
    }
    if head.starts_with(&c4_recorder::layout::MAGIC.to_le_bytes()) {
        return Some(Kind::Recorder);
    }
    let text = String::from_utf8_lossy(head);
    if text.contains("\"communicators_count\"") || text.starts_with("NCCL version ") {
        return Some(Kind::Ras);
    }
    let first_line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    let dump_keys = ["\"pg_config\"", "\"pg_status\"", "\"entries\"", "\"nccl_version\""];
    let says = dump_keys.iter().filter(|key| text.contains(**key)).count();
    // An operation is one object on one line; a dump is one object over the whole file.
    let one_operation = ["\"op\"", "\"meta\"", "\"ranks\""].iter().any(|key| first_line.contains(key));
    match says {
        _ if one_operation && !first_line.contains("\"pg_config\"") => Some(Kind::OperationTrace),
        0 => None,
        _ => Some(Kind::FlightRecorder),
    }
}

/// The rank that a file's name gives: `nccl_trace_rank7.jsonl`, `rank_7`, `job_dump_7`. The rank of a node, or the one
/// on its node, is not it.
#[must_use]
pub fn rank_of_name(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let number = |start: usize, marker: &str| -> Option<u32> {
        let rest = name[start + marker.len()..].trim_start_matches(['_', '-', '.', '=']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let of_a_node = |start: usize| {
        let before = name[..start].trim_end_matches(['_', '-', '.']);
        before.ends_with("node") || before.ends_with("local")
    };
    let dump = name.rmatch_indices("_dump_").find_map(|(start, marker)| number(start, marker));
    let rank = || {
        let mut found = name.rmatch_indices("rank").filter(|(start, _)| !of_a_node(*start));
        found.find_map(|(start, marker)| number(start, marker))
    };
    dump.or_else(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_the_format() {
        assert_eq!(look(b"\x80\x04\x95..."), Some(Kind::FlightRecorder));
        assert_eq!(look(b"{\n \"version\": \"2.5\",\n \"entries\": []}"), Some(Kind::FlightRecorder));
        assert_eq!(look(br#"{"rank":0,"op":"all_reduce","note":"\"entries\""}"#), Some(Kind::OperationTrace));
        assert_eq!(
            look(b"OK\n{\n  \"nccl_version\": \"2.28.9\",\n  \"communicators_count\": 5"),
            Some(Kind::Ras)
        );
        assert_eq!(look(b""), None);
    }

    #[test]
    fn names_give_ranks() {
        for (name, rank) in [
            ("nccl_trace_rank7", Some(7)),
            ("tmp/nccl_trace_rank_12.json.gz", Some(12)),
            ("x_dump_3", Some(3)),
            ("rank-4.jsonl", Some(4)),
            ("node_rank0_dump_9", Some(9)),
            ("rank12_local_rank4.json", Some(12)),
            ("trace.jsonl", None),
            ("rank99999999999", None),
        ] {
            assert_eq!(rank_of_name(Path::new(name)), rank, "{name}");
        }
    }
}
