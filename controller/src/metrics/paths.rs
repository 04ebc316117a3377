//! Planned paths, as the newest picture shows them. Link names come from the operator's topology, but may be very many: the
//! fullest have series of their own.

use std::{collections::BTreeMap, sync::Arc};

use c4_metrics::{Collected, Family, Kind, Source};
use tokio::sync::watch;

use crate::{paths::view::FlowView, snapshot::Snapshot};

/// Links that have series of their own.
const MAX_LINKS: usize = 1_024;

/// NICs that have series of their own, in each direction.
const MAX_NICS: usize = 1_024;
/// A planner thinks in Gbit/s, Prometheus in bytes.
const BYTES_PER_GBIT: f64 = 1e9 / 8.0;

/// Name, labels and help of everything here.
const GAUGES: [(&str, &[&str], &str); 14] = [
    (
        "c4_paths_link_planned_utilization_ratio",
        &["from", "to", "index"],
        "What the plan has links between switches carry, as a share of their rate; the fullest only",
    ),
    (
        "c4_paths_link_measured_utilization_ratio",
        &["from", "to", "index"],
        "What planned TCP connections have links between switches carry, as a share of their rate, as agents count; of links that the plan fills most only",
    ),
    (
        "c4_paths_nic_planned_transmit_bytes_per_second",
        &["node", "nic"],
        "What the plan has a NIC send to other hosts; of those that send most only",
    ),
    (
        "c4_paths_nic_planned_receive_bytes_per_second",
        &["node", "nic"],
        "What the plan has a NIC receive from other hosts; of those that receive most only",
    ),
    ("c4_paths_max_utilization_ratio", &[], "Utilisation of the fullest link or NIC port by the plan"),
    ("c4_paths_lower_bound_ratio", &[], "What no plan could go below"),
    ("c4_paths_flows", &[], "Flows planned"),
    ("c4_paths_unplaced_flows", &[], "Flows that have no path"),
    ("c4_paths_avoided_links", &[], "Directed links that plans avoid or that are down"),
    ("c4_paths_nodes", &["state"], "Nodes with orders, by what their agents know"),
    ("c4_paths_ports_tried", &[], "Source ports that agents have tried since the network changed last"),
    ("c4_paths_seen", &[], "Paths that agents know, each pair of addresses by itself"),
    ("c4_paths_without_port", &[], "Planned paths for which agents know no source port"),
    ("c4_paths_mistakes", &[], "Places where the topology and what is seen do not fit"),
];

const COUNTERS: [(&str, &[&str], &str); 3] = [
    ("c4_paths_plans_total", &[], "Plans made"),
    (
        "c4_paths_trains_total",
        &["result"],
        "Trains of probes between agents that were judged, by whether some of them were lost",
    ),
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
            if let Some(measured) = paths.measured(link) {
                into.push("c4_paths_link_measured_utilization_ratio", &labels, measured);
            }
        }
        nics(into, "c4_paths_nic_planned_transmit_bytes_per_second", &paths.flows, |flow| &flow.from);
        nics(into, "c4_paths_nic_planned_receive_bytes_per_second", &paths.flows, |flow| &flow.to);
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
        let reports = || paths.nodes.iter().filter_map(|node| node.report.as_ref());
        let tried: f64 = reports().map(|report| f64::from(report.report.ports)).sum();
        into.push("c4_paths_ports_tried", &[], tried);
        let seen: usize = reports().map(|report| report.report.seen.len()).sum();
        into.push("c4_paths_seen", &[], seen as f64);
        let missing = paths.nodes.iter().filter_map(|node| node.report.as_ref());
        let missing: f64 = missing.map(|report| f64::from(report.report.missing)).sum();
        into.push("c4_paths_without_port", &[], missing);
        into.push("c4_paths_mistakes", &[], paths.mistakes.len() as f64);
        into.push("c4_paths_plans_total", &[], paths.plans as f64);
        into.push("c4_paths_trains_total", &["good"], paths.trains.good as f64);
        into.push("c4_paths_trains_total", &["bad"], paths.trains.bad as f64);
        into.push("c4_paths_moves_total", &[], paths.moves as f64);
    }
}

/// What flows that have a path make NICs at one end of them carry.
fn nics(into: &mut Collected<'_>, family: &str, flows: &[FlowView], end: impl Fn(&FlowView) -> &String) {
    let mut loads: BTreeMap<&str, f64> = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow.why.is_none()) {
        *loads.entry(end(flow)).or_default() += flow.gbps * BYTES_PER_GBIT;
    }
    let mut loads: Vec<(&str, f64)> = loads.into_iter().collect();
    loads.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (name, load) in loads.into_iter().take(MAX_NICS) {
        // A host's name has no slash (it is a node's), a NIC's may.
        if let Some((node, nic)) = name.split_once('/') {
            into.push(family, &[node, nic], load);
        }
    }
}

#[cfg(test)]
mod tests {
    use c4_metrics::Catalogue;

    use super::*;
    use crate::{config::Mode, paths::view::PathsView};

    #[test]
    fn nics_carry_all_flows_that_have_a_path() {
        let flow = |from: &str, to: &str, gbps, why: Option<&str>| FlowView {
            job: "j".into(),
            from: from.into(),
            to: to.into(),
            gbps,
            pieces: Vec::new(),
            why: why.map(str::to_owned),
        };
        let flows = vec![
            flow("a/mlx5_0", "b/mlx5_0", 100.0, None),
            flow("a/mlx5_0", "c/mlx5_0", 50.0, None),
            flow("b/mlx5_0", "c/mlx5_0", 400.0, Some("no path")),
        ];
        let mut picture = Snapshot::empty(Mode::Observe, c4_detect::observation::Timestamp(1));
        picture.paths = Some(Arc::new(PathsView { flows: Arc::new(flows), ..PathsView::default() }));
        let (_sender, receiver) = watch::channel(Arc::new(picture));
        let mut catalogue = Catalogue::default();
        catalogue.source(PlannedPaths(receiver)).unwrap();
        let page = catalogue.text().unwrap();
        for line in [
            r#"c4_paths_nic_planned_transmit_bytes_per_second{node="a",nic="mlx5_0"} 18750000000"#,
            r#"c4_paths_nic_planned_receive_bytes_per_second{node="c",nic="mlx5_0"} 6250000000"#,
            "c4_paths_flows 3",
            "c4_paths_unplaced_flows 1",
        ] {
            assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains(r#"transmit_bytes_per_second{node="b""#), "what has no path carries nothing");
    }
}
