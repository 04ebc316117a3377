//! The circuit breaker: when many nodes turn bad at once, that is the network or us, not them.

use std::collections::{BTreeMap, BTreeSet};

use c4_detect::observation::{NodeName, Timestamp};

use crate::config::Steer as Config;

/// Fewer agents out of sight than this are no sign of anything, however small the cluster.
const LEAST_LOST: u32 = 3;

/// What the policy needs to know of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Jobs known.
    pub jobs: u32,
    /// Nodes known.
    pub nodes: u32,
    /// Those whose agents are out of sight.
    pub lost: u32,
    /// Nodes that want to be left alone, and why.
    pub opted_out: BTreeMap<NodeName, String>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    blamed: BTreeMap<NodeName, Timestamp>,
    open: Option<(String, Timestamp)>,
}

impl Breaker {
    /// Looks at the nodes that open findings suspect first, with the times they were detected. Returns a sentence when
    /// the breaker opens or closes.
    pub fn look(
        &mut self,
        suspects: impl IntoIterator<Item = (NodeName, Timestamp)>,
        cluster: &ClusterFacts,
        config: &Config,
        now: Timestamp,
    ) -> Option<String> {
        let window_us = (config.breaker_seconds * 1e6) as u64;
        for (node, detected) in suspects {
            let known = self.blamed.entry(node).or_insert(detected);
            *known = detected.max(*known);
        }
        self.blamed.retain(|_, detected| now.micros_since(*detected) <= window_us);
        let why = self.why(cluster, config);
        let was_open = self.open.is_some();
        match why {
            Some(why) => {
                let said = format!(
                    "the circuit breaker opens: {why}; nothing is done to jobs and nodes until this is over"
                );
                self.open = Some((why, now.after(window_us)));
                (!was_open).then_some(said)
            }
            None => {
                let (_, until) = self.open.as_ref()?;
                if now < *until {
                    return None;
                }
                self.open = None;
                Some("the circuit breaker closes".into())
            }
        }
    }

    /// Why nothing may be done, if so.
    #[must_use]
    pub fn open(&self) -> Option<&str> {
        self.open.as_ref().map(|(why, _)| why.as_str())
    }

    fn why(&self, cluster: &ClusterFacts, config: &Config) -> Option<String> {
        let blamed: BTreeSet<&str> = self.blamed.keys().map(|node| node.0.as_str()).collect();
        if blamed.len() >= config.breaker_nodes as usize {
            return Some(format!("{} nodes turned bad within {:.0} s", blamed.len(), config.breaker_seconds));
        }
        let share = f64::from(cluster.lost) / f64::from(cluster.nodes.max(1));
        (cluster.lost >= LEAST_LOST && share >= config.breaker_lost_share)
            .then(|| format!("the agents of {} of {} nodes are out of sight", cluster.lost, cluster.nodes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn many_nodes_at_once_open_it_and_quiet_closes_it() {
        let (config, cluster) = (Config::default(), ClusterFacts { nodes: 500, ..ClusterFacts::default() });
        let mut breaker = Breaker::default();
        let bad = |count: u64| (0..count).map(|n| (NodeName(format!("n{n}")), at(10)));
        assert_eq!(breaker.look(bad(3), &cluster, &config, at(10)), None);
        assert!(breaker.look(bad(4), &cluster, &config, at(11)).expect("opens").contains("4 nodes"));
        assert_eq!(breaker.look(bad(4), &cluster, &config, at(12)), None, "it is said once");
        assert_eq!(breaker.look([], &cluster, &config, at(71)), None, "they have just been bad");
        assert!(breaker.open().is_some());
        assert!(breaker.look([], &cluster, &config, at(140)).expect("closes").contains("closes"));
        assert_eq!(breaker.open(), None);
    }

    #[test]
    fn losing_sight_of_many_agents_opens_it_of_a_few_does_not() {
        let config = Config::default();
        let lost = |lost, nodes| {
            let cluster = ClusterFacts { nodes, lost, ..ClusterFacts::default() };
            Breaker::default().look([], &cluster, &config, at(0)).is_some()
        };
        assert!(lost(60, 500) && lost(3, 8));
        assert!(!lost(2, 3) && !lost(10, 500));
    }
}
