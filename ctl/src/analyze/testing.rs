//! What several tests need.

use std::collections::BTreeMap;

use c4_detect::observation::{JobId, NodeName, ProcessId, ProcessInfo};

use super::recording::{Process, Series};

/// A process of rank `rank` on a node and a clock of its own.
pub(crate) fn process(rank: u32, series: Vec<Series>) -> Process {
    Process {
        info: ProcessInfo {
            process: ProcessId(u64::from(rank) + 1),
            job: JobId("job".into()),
            incarnation: 0,
            rank: Some(rank),
            world_size: None,
            node: NodeName(format!("n{rank}")),
            gpu: None,
            pid: 100 + rank,
            blind_spots: Vec::new(),
        },
        clock: rank,
        kernel_events: true,
        profiling: true,
        dropped: 0,
        ended: None,
        coords: BTreeMap::new(),
        last_call: None,
        series,
        transfers: Vec::new(),
        computes: Vec::new(),
    }
}
