//! A controller that is given no topology: what it makes of the agents' probes.

use std::{collections::BTreeMap, thread};

use anyhow::{Context, ensure};
use c4_traffic::{document::parse_topology, topology::Tier};
use serde::Serialize;

use super::{LIMIT, LOOK_AGAIN, Scene};
use crate::ringjob::clock;

/// The fabric as it was learned.
#[derive(Clone, Debug, Serialize)]
pub struct LearnedFabric {
    /// From the controller's start until it planned on it, in seconds.
    pub seconds: f64,
    /// Leaves that it found.
    pub leaves: usize,
    /// Spines.
    pub spines: usize,
    /// Links between them.
    pub links: usize,
    /// The hosts under each leaf, by their names, in order.
    pub under: Vec<Vec<String>>,
}

impl Scene<'_> {
    /// Waits until the controller plans on a topology that it has learned.
    pub(super) fn wait_learned(&self) -> anyhow::Result<LearnedFabric> {
        let start = clock::now();
        let said = loop {
            let said = self.ask(&["topology", "--probed"]);
            match said.as_ref().filter(|said| said["planned"] == true && said["waiting"] == 0) {
                Some(said) => break said["topology"].clone(),
                None => {
                    let late = start.elapsed() > 3 * LIMIT;
                    ensure!(!late, "no topology is learned: {said:?} {}", self.logs());
                    thread::sleep(LOOK_AGAIN);
                }
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        // JSON is YAML.
        let topology = parse_topology(&said.to_string())
            .map_err(|problems| anyhow::anyhow!("{problems}"))
            .context("what was learned is no topology")?;
        let of_tier = |tier| topology.switches().iter().filter(|switch| switch.tier == tier).count();
        let mut under: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for nic in topology.nics() {
            let host = topology.host_name(nic.host).to_owned();
            nic.ports
                .iter()
                .for_each(|port| under.entry(port.switch.index()).or_default().push(host.clone()));
        }
        let mut under: Vec<Vec<String>> = under.into_values().collect();
        under.iter_mut().for_each(|hosts| hosts.sort());
        under.sort();
        let links = topology.links().len();
        Ok(LearnedFabric { seconds, leaves: of_tier(Tier::Leaf), spines: of_tier(Tier::Spine), links, under })
    }
}
