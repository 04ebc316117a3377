//! Which ranks do the same work, and may be compared. Where the trace tells coordinates it is the pipeline stage;
//! else stages are found from who sends to whom, and ranks that call different things are apart anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::analyze::recording::{Index, Recording};

/// Axes that set ranks apart. Along all others ranks do the same.
const STAGES: [&str; 6] = ["pp", "pipeline", "stage", "pipeline_stage", "pipeline_parallel", "vpp"];
/// Operations that make up less than this share of a rank's most frequent one do not characterise it: rank 0 says and
/// saves a thing now and then.
const CHARACTERISTIC: f64 = 0.2;

/// Ranks by role, with a name for each: places of processes in the recording.
pub(super) fn roles(recording: &Recording, index: &Index) -> Vec<(String, Vec<usize>)> {
    let mut roles: BTreeMap<(String, Vec<u32>), Vec<usize>> = BTreeMap::new();
    let told = recording.processes.iter().all(|process| !process.coords.is_empty());
    let stages = if told { Vec::new() } else { stages(recording, index) };
    for (place, process) in recording.processes.iter().enumerate() {
        let key = if told {
            let axes = process
                .coords
                .iter()
                .filter(|(axis, _)| STAGES.contains(&axis.to_ascii_lowercase().as_str()));
            let words: Vec<String> = axes.map(|(axis, value)| format!("{axis} {value}")).collect();
            (words.join(", "), Vec::new())
        } else {
            let name = stages[place].map_or_else(String::new, |stage| format!("stage {stage}"));
            (name, characteristic(recording, place))
        };
        roles.entry(key).or_default().push(place);
    }
    roles.into_iter().map(|((name, _), places)| (name, places)).collect()
}

/// What a rank calls often.
fn characteristic(recording: &Recording, place: usize) -> Vec<u32> {
    let mut counts: HashMap<u32, u64> = HashMap::new();
    for operation in recording.processes[place].series.iter().flat_map(|series| &series.operations) {
        *counts.entry(operation.signature).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0) as f64;
    let often: BTreeSet<u32> = counts
        .into_iter()
        .filter(|(_, count)| *count as f64 >= most * CHARACTERISTIC)
        .map(|(signature, _)| signature)
        .collect();
    often.into_iter().collect()
}

/// How far each rank is from the beginning of its pipeline: whoever sends before it ever receives is at the beginning.
fn stages(recording: &Recording, index: &Index) -> Vec<Option<u32>> {
    let mut stages: Vec<Option<u32>> = vec![None; recording.processes.len()];
    let mut queue = VecDeque::new();
    for (place, process) in recording.processes.iter().enumerate() {
        // The first of each iteration would do as well, but only the first of all is sure to be recorded whole.
        if process.transfers.first().is_some_and(|first| first.is_send) {
            stages[place] = Some(0);
            queue.push_back((place, 0_u32));
        }
    }
    while let Some((place, stage)) = queue.pop_front() {
        let process = &recording.processes[place];
        let peers: BTreeSet<u32> = process.transfers.iter().map(|transfer| transfer.peer).collect();
        for peer in peers.iter().filter_map(|peer| index.by_rank.get(peer)) {
            if stages[*peer].is_none() {
                stages[*peer] = Some(stage + 1);
                queue.push_back((*peer, stage + 1));
            }
        }
    }
    stages
}
