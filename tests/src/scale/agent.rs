//! What the agent costs a node: eight ranks of the ring job under one agent, with a controller connected.

use std::time::Duration;

use serde::Serialize;

use super::controller::usage;
use crate::{
    cluster::{Cluster, Spec},
    ringjob::clock,
};

/// Ranks of the node.
const RANKS: u32 = 8;

/// What the agent used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Ranks on its node.
    pub ranks: u32,
    /// CPU time per second.
    pub cores: f64,
    /// Most memory that it had resident, in bytes.
    pub rss_peak_bytes: u64,
}

impl Cost {
    /// Whether it stays below one per cent of a core and 50 MB.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.cores < 0.01 && self.rss_peak_bytes < 50_000_000
    }

    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        let (percent, megabytes) = (self.cores * 1e2, self.rss_peak_bytes as f64 / 1e6);
        format!("agent of {} ranks: {percent:.2} % of a core, {megabytes:.1} MB\n", self.ranks)
    }
}

/// Measures for `measure`, after `warm_up`.
///
/// # Errors
/// When a program does not come up or ends.
pub fn measure(warm_up: Duration, measure: Duration) -> anyhow::Result<Cost> {
    let spec = Spec { nodes: vec![("node-0".into(), 0..RANKS)], ..Spec::eight_ranks("scale") };
    let cluster = Cluster::start(spec)?;
    let pid = cluster.agents[0].pid();
    std::thread::sleep(warm_up);
    let (before, began) = (usage(pid)?, clock::now());
    std::thread::sleep(measure);
    let after = usage(pid)?;
    let seconds = clock::now().duration_since(began).as_secs_f64();
    let cores = (after.cpu - before.cpu).as_secs_f64() / seconds;
    Ok(Cost { ranks: RANKS, cores, rss_peak_bytes: after.rss_peak })
}
