//! What NCCL's RAS says of a job: for each communicator, how many collectives each rank has launched, and which ranks do not
//! answer. Read from a file only (`ncclras -f json`, NCCL 2.28.7 or later): asking RAS of a running job has crashed jobs of NCCL
//! 2.26 and 2.27, which is the operator's risk to take, not ours.
//!
//! RAS counts launches. A rank that has launched as much as its peers may hang all the same, so RAS can confirm a suspect but not
//! clear one.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::lines;

/// Largest document read, in bytes: 100,000 ranks in some communicators each.
const LARGEST: u64 = 512 << 20;

/// A RAS document.
#[derive(Clone, Debug, Deserialize)]
pub struct Ras {
    communicators: Vec<Communicator>,
}

#[derive(Clone, Debug, Deserialize)]
struct Communicator {
    size: u32,
    #[serde(default)]
    ranks: Vec<Rank>,
    #[serde(default)]
    missing_ranks: Vec<Missing>,
}

#[derive(Clone, Debug, Deserialize)]
struct Rank {
    rank: u32,
    #[serde(default)]
    status: RankStatus,
    #[serde(default)]
    collective_counts: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RankStatus {
    async_error: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct Missing {
    rank: u32,
    #[serde(default)]
    status: MissingStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct MissingStatus {
    considered_dead: bool,
}

/// NCCL's results that are no errors: success, and "in progress".
const NO_ERRORS: [i64; 2] = [0, 7];

/// Reads a document from a file.
///
/// # Errors
/// Says what is wrong and what was expected.
pub fn load(path: &Path) -> Result<Ras, String> {
    parse(&lines::read_whole(path, LARGEST, "a RAS document")?)
}

/// Understands the bytes of a document. What RAS answers before it, such as "OK", may be there.
///
/// # Errors
/// Says what is wrong and what was expected.
pub fn parse(bytes: &[u8]) -> Result<Ras, String> {
    let start = bytes.iter().position(|byte| *byte == b'{');
    let start = start.ok_or("no JSON; expected what `ncclras -f json` prints (NCCL 2.28.7 or later)")?;
    serde_json::from_slice(&bytes[start..]).map_err(|error| format!("not the JSON of NCCL's RAS: {error}"))
}

impl Ras {
    /// What RAS holds against ranks of a job of `world_size`, by global rank: only the communicator of all ranks numbers them
    /// so. Nothing where half of them or more are behind: then it cannot be told who is.
    #[must_use]
    pub fn against(&self, world_size: usize) -> BTreeMap<u32, String> {
        let world = self.communicators.iter().filter(|comm| comm.size as usize == world_size);
        let world = world.max_by_key(|comm| comm.ranks.iter().map(launched).max());
        let told = world.map(Communicator::against).unwrap_or_default();
        if told.len() * 2 < world_size { told } else { BTreeMap::new() }
    }
}

fn launched(rank: &Rank) -> u64 {
    rank.collective_counts.values().fold(0, |sum, count| sum.saturating_add(*count))
}

impl Communicator {
    fn against(&self) -> BTreeMap<u32, String> {
        let mut most: BTreeMap<&str, u64> = BTreeMap::new();
        for (function, count) in self.ranks.iter().flat_map(|rank| &rank.collective_counts) {
            let most = most.entry(function).or_default();
            *most = (*most).max(*count);
        }
        let mut told = BTreeMap::new();
        for rank in &self.ranks {
            let mut behind =
                rank.collective_counts.iter().filter(|(function, count)| most[function.as_str()] > **count);
            let error = rank.status.async_error;
            if let Some((function, count)) = behind.next() {
                let most = most[function.as_str()];
                told.insert(
                    rank.rank,
                    format!("rank {} has launched {count} {function}, others {most}", rank.rank),
                );
            } else if !NO_ERRORS.contains(&error) {
                told.insert(rank.rank, format!("NCCL has error {error} on rank {}", rank.rank));
            }
        }
        for missing in &self.missing_ranks {
            let what = if missing.status.considered_dead { "is considered dead" } else { "does not answer" };
            told.insert(missing.rank, format!("rank {} {what}", missing.rank));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_answer_tells_who_is_behind() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ras/behind.json.gz");
        let told = load(&path).expect("RAS of NCCL 2.28.9").against(4);
        assert_eq!(
            told.into_iter().collect::<Vec<_>>(),
            [(2, "rank 2 has launched 4 AllReduce, others 5".to_owned())]
        );
    }

    #[test]
    fn ranks_that_do_not_answer_are_told_unless_they_are_most() {
        let document = |missing: &str| {
            parse(format!(r#"{{"nccl_version":"2.29.1","communicators":[{{"size":4,"ranks":[{{"rank":0}}],"missing_ranks":[{missing}]}}]}}"#).as_bytes())
                .expect("a document")
        };
        let dead = document(r#"{"rank":3,"status":{"unresponsive":true,"considered_dead":true}}"#);
        assert_eq!(dead.against(4)[&3], "rank 3 is considered dead");
        assert!(dead.against(8).is_empty(), "another job's, or not of all ranks");
        assert!(document(r#"{"rank":1},{"rank":2},{"rank":3}"#).against(4).is_empty());
    }

    #[test]
    fn what_is_no_document_says_what_was_expected() {
        assert!(parse(b"NCCL version 2.28.9 compiled").is_err_and(|why| why.contains("ncclras -f json")));
        assert!(parse(b"OK\n{\"communicators\": 5}").is_err_and(|why| why.contains("line 1")));
    }
}
