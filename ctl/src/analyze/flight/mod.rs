//! PyTorch's Flight Recorder dumps: one file a rank, a pickle or JSON, usually written when a collective timed out.

mod batches;
pub mod dump;
mod groups;
mod recording;
mod status;
pub mod view;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use dump::Dump;
pub use recording::recording;
use view::View;

use super::{format, lines, pickle, problem::Problems};

/// Largest dump read, in bytes after decompression. PyTorch's ring of 20,000 entries with stack traces is some tens of
/// millions.
const LARGEST_DUMP: u64 = 512 << 20;
/// Problems told of one dump.
const PROBLEMS_OF_ONE: usize = 10;

/// Reads dumps, each by itself, so that one that is broken leaves the others.
pub fn load(files: &[PathBuf], problems: &mut Problems) -> Vec<(PathBuf, Dump)> {
    let mut dumps: Vec<(PathBuf, Dump)> = Vec::new();
    for path in files {
        let shared = Arc::new(path.clone());
        let mut told = 0;
        let mut complain = |what: String| {
            told += 1;
            if told <= PROBLEMS_OF_ONE {
                problems.add(&shared, None, what);
            }
        };
        match read(path, &mut complain) {
            Err(why) => complain(why),
            Ok(dump) => {
                let before = dumps.iter().find(|(_, other)| other.rank == dump.rank);
                match before.map(|(before, _)| before.display().to_string()) {
                    Some(before) => complain(format!(
                        "a second dump of rank {}, which {before} is of as well; expected one dump a rank",
                        dump.rank
                    )),
                    None => dumps.push((path.clone(), dump)),
                }
            }
        }
        if told > PROBLEMS_OF_ONE {
            problems.add(
                &shared,
                None,
                format!("… and {} more problems in this file", told - PROBLEMS_OF_ONE),
            );
        }
    }
    dumps.sort_by_key(|(_, dump)| dump.rank);
    dumps
}

fn read(path: &Path, complain: &mut impl FnMut(String)) -> Result<Dump, String> {
    let bytes = lines::read_whole(path, LARGEST_DUMP, "the dump of one rank")?;
    parse(&bytes, format::rank_of_name(path), complain)
}

/// Understands the bytes of a dump. `rank` is whose it is, as far as the file's name tells.
///
/// # Errors
/// When nothing of it can be used.
pub fn parse(bytes: &[u8], rank: Option<u32>, complain: &mut impl FnMut(String)) -> Result<Dump, String> {
    let is_json = bytes.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'['));
    if is_json {
        let value = serde_json::from_slice(bytes)
            .map_err(|error| format!("not the JSON of a Flight Recorder dump: {error}"))?;
        return understand(View::Json(&value), rank, complain);
    }
    let pickle = pickle::parse(bytes).map_err(|error| error.to_string())?;
    understand(View::Pickle(&pickle, pickle.root()), rank, complain)
}

fn understand(root: View<'_>, rank: Option<u32>, complain: &mut impl FnMut(String)) -> Result<Dump, String> {
    // Tools that collect dumps may write the rank into them.
    let told = || root.get("rank").and_then(View::whole).and_then(|rank| u32::try_from(rank).ok());
    let rank = rank.or_else(told).ok_or(
        "whose dump this is cannot be told; expected a file name such as nccl_trace_rank_7 or job_dump_7",
    )?;
    dump::read(root, rank, complain)
}
