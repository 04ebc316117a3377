//! Planned paths, as the newest picture shows them. Link names come from the operator's topology, but may be very many: the
//! fullest have series of their own.

use std::sync::Arc;

use c4_metrics::{Collected, Family, Kind, Source};
use tokio::sync::watch;

use crate::snapshot::Snapshot;

/// Links that have series of their own.
const MAX_LINKS: usize = 1_024;

/// Name, labels and help of everything here.
const GAUGES: [(&str, &[&str], &str); 9] = [
    (
        "c4_paths_link_planned_utilization_ratio",
        &["from", "to", "index"],
        "What the plan has links between switches carry, as a share of their rate; the fullest only",
    ),
    ("c4_paths_max_utilization_ratio", &[], "Utilisation of the fullest link or NIC port by the plan"),
    ("c4_paths_lower_bound_ratio", &[], "What no plan could go below"),
    ("c4_paths_flows", &[], "Flows planned"),
    ("c4_paths_unplaced_flows", &[], "Flows that have no path"),
    ("c4_paths_avoided_links", &[], "Directed links that plans avoid or that are down"),
    ("c4_paths_nodes", &["state"], "Nodes with orders, by what their agents know"),
    ("c4_paths_without_port", &[], "Planned paths for which agents know no source port"),
    ("c4_paths_mistakes", &[], "Places where the topology and what is seen do not fit"),
];

const COUNTERS: [(&str, &[&str], &str); 2] = [
    ("c4_paths_plans_total", &[], "Plans made"),
    ("c4_paths_moves_total", &[], "Pieces of flows that plans moved"),
];

/// See the module.
pub(super) struct PlannedPaths(pub(super) watch::Receiver<Arc<Snapshot>>);

impl Source for PlannedPaths {
    fn families(&self) -> Vec<Family> {
        let of =
            |kind| move |(name, labels, help): &(&str, &[&str], &str)| Family::new(kind, name, labels, help);
        GAUGES.iter().map(of(Kind::Gauge)).chain(COUNTERS.iter().map(of(Kind::Counter))).collect()
    }

    fn collect(&self, into: &mut Collected<'_>) {
        let picture = self.0.borrow().clone();
        let Some(paths) = &picture.paths else { return };
        for link in paths.links.iter().take(MAX_LINKS) {
            let labels = [&*link.from, &*link.to, &link.index.to_string()];
            into.push("c4_paths_link_planned_utilization_ratio", &labels, link.planned);
        }
        into.push("c4_paths_max_utilization_ratio", &[], paths.max_link);
        into.push("c4_paths_lower_bound_ratio", &[], paths.lower_bound);
        into.push("c4_paths_flows", &[], paths.flows.len() as f64);
        let unplaced = paths.flows.iter().filter(|flow| flow.why.is_some()).count();
        into.push("c4_paths_unplaced_flows", &[], unplaced as f64);
        let avoided = paths.links.iter().filter(|link| link.state != c4_traffic::topology::State::Up).count();
        into.push("c4_paths_avoided_links", &[], avoided as f64);
        let settled = |report: &crate::paths::NodeReport| report.report.settled;
        let known =
            paths.nodes.iter().filter(|node| node.follows && node.report.as_ref().is_some_and(settled));
        let known = known.count();
        into.push("c4_paths_nodes", &["settled"], known as f64);
        into.push("c4_paths_nodes", &["learning"], (paths.nodes.len() - known) as f64);
        let missing = paths.nodes.iter().filter_map(|node| node.report.as_ref());
        let missing: f64 = missing.map(|report| f64::from(report.report.missing)).sum();
        into.push("c4_paths_without_port", &[], missing);
        into.push("c4_paths_mistakes", &[], paths.mistakes.len() as f64);
        into.push("c4_paths_plans_total", &[], paths.plans as f64);
        into.push("c4_paths_moves_total", &[], paths.moves as f64);
    }
}
