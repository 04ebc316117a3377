//! What operators are shown of paths: links and what they carry, jobs and the paths of their flows, what agents know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use c4_detect::observation::{NodeName, Timestamp};
use c4_traffic::{
    sightings::Pair,
    topology::State,
    wires::{Place, Wires},
};

use super::{Current, NodeReport, Paths, demand, evidence::pattern};

/// Links shown, the fullest first.
const MOST_LINKS: usize = 10_000;

/// A link between switches, in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkView {
    /// Where it comes from.
    pub from: String,
    /// Where it goes.
    pub to: String,
    /// Its index among the links between the two.
    pub index: u32,
    /// Its rate.
    pub gbps: f64,
    /// What the plan has it carry, as a share of that.
    pub planned: f64,
    /// Whether it may be used.
    pub state: State,
    /// Source ports whose probes crossed it, in either direction.
    pub probed: u32,
}

/// Part of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceView {
    /// Its share.
    pub share: f64,
    /// The switches it crosses.
    pub path: Vec<String>,
}

/// A flow and its paths.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowView {
    /// Its job.
    pub job: String,
    /// Host and NIC that send.
    pub from: String,
    /// Host and NIC that receive.
    pub to: String,
    /// What it is planned to send.
    pub gbps: f64,
    /// Its paths; none if there is none.
    pub pieces: Vec<PieceView>,
    /// Why there is none.
    pub why: Option<String>,
}

/// How a job communicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPaths {
    /// The job.
    pub job: String,
    /// "ring of 8 hosts".
    pub pattern: String,
    /// Its flows.
    pub flows: u32,
    /// Whether it runs; if not, its paths are kept for when it is started again.
    pub running: bool,
}

/// What a node's agent knows.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The node.
    pub node: NodeName,
    /// Orders it has.
    pub orders: u32,
    /// Whether it follows the newest.
    pub follows: bool,
    /// What it reported last, if anything.
    pub report: Option<NodeReport>,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct PathsView {
    /// Of the orders.
    pub revision: u64,
    /// Of the network.
    pub epoch: u64,
    /// When the plan was made, if there is one.
    pub planned: Option<Timestamp>,
    /// Utilisation of the fullest link or NIC port.
    pub max_link: f64,
    /// Of the fullest link between switches.
    pub max_fabric: f64,
    /// What no plan could go below.
    pub lower_bound: f64,
    /// Plans made since the controller started.
    pub plans: u64,
    /// Pieces of flows that plans moved.
    pub moves: u64,
    /// Links between switches, the fullest first.
    pub links: Arc<Vec<LinkView>>,
    /// Flows, by job.
    pub flows: Arc<Vec<FlowView>>,
    /// Jobs.
    pub jobs: Arc<Vec<JobPaths>>,
    /// Nodes.
    pub nodes: Vec<NodeView>,
    /// What does not fit the topology.
    pub mistakes: Vec<String>,
}

impl Paths {
    /// The picture. What only a new plan changes is taken from `before`, if that is of the same one.
    #[must_use]
    pub fn view(&self, before: Option<&PathsView>) -> PathsView {
        let nodes = self.by_node.iter().map(|(node, orders)| {
            let report = self.reports.get(node).cloned();
            let follows = report.as_ref().is_some_and(|report| {
                report.report.revision == orders.revision && report.report.epoch == self.epoch
            });
            NodeView { node: node.clone(), orders: orders.orders.len() as u32, follows, report }
        });
        let mut view = PathsView {
            revision: self.revision,
            epoch: self.epoch,
            plans: self.plans,
            moves: self.moves,
            nodes: nodes.collect(),
            mistakes: self.links.mistakes(&self.topology),
            ..PathsView::default()
        };
        view.mistakes.extend(
            self.unplanned
                .nodes
                .iter()
                .map(|node| format!("jobs run on {node}, which is not in the topology")),
        );
        let Some(current) = &self.current else { return view };
        view.planned = Some(current.at);
        view.max_link = current.plan.max_link_utilisation;
        view.max_fabric = current.plan.max_fabric_utilisation;
        view.lower_bound = current.plan.lower_bound;
        view.jobs = Arc::new(self.jobs(current));
        match before.filter(|before| before.planned == view.planned && before.plans == view.plans) {
            Some(before) => {
                view.flows = before.flows.clone();
                view.links = before.links.clone();
            }
            None => {
                view.flows = Arc::new(flows(current));
                view.links = Arc::new(links(current, &self.links.picture().crossed));
            }
        }
        view
    }

    fn jobs(&self, current: &Current) -> Vec<JobPaths> {
        let mut flows: BTreeMap<&str, u32> = BTreeMap::new();
        let mut edges: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
        for flow in current.flows.as_slice() {
            let host = |nic| current.topology.host_name(current.topology.nic(nic).host);
            *flows.entry(&flow.job).or_default() += 1;
            edges.entry(&flow.job).or_default().insert((host(flow.src), host(flow.dst)));
        }
        let job = |(job, edges): (&str, BTreeSet<_>)| JobPaths {
            job: job.to_owned(),
            pattern: pattern(&edges),
            flows: flows.get(job).copied().unwrap_or(0),
            running: self.running.iter().any(|running| running.0 == job),
        };
        edges.into_iter().map(job).collect()
    }
}

fn flows(current: &Current) -> Vec<FlowView> {
    let topology = &current.topology;
    let of = current.flows.as_slice().iter().zip(&current.plan.flows).map(|(flow, planned)| FlowView {
        job: flow.job.clone(),
        from: demand::name(topology, flow.src),
        to: demand::name(topology, flow.dst),
        gbps: flow.demand.get(),
        pieces: planned
            .pieces
            .iter()
            .map(|piece| PieceView {
                share: piece.share(),
                path: piece.path.iter().map(|id| topology.switch(*id).name.clone()).collect(),
            })
            .collect(),
        why: planned.unplaced.map(|why| why.to_string()),
    });
    of.collect()
}

fn links(current: &Current, probed: &BTreeMap<Pair, u32>) -> Vec<LinkView> {
    let topology = &current.topology;
    let wires = Wires::new(topology);
    let loads = wires.loads(&current.flows, &current.plan);
    let states: BTreeMap<(Pair, u32), State> = topology
        .links()
        .iter()
        .map(|link| (((link.a.min(link.b), link.a.max(link.b)), link.index), link.state))
        .collect();
    let mut links: Vec<LinkView> = wires
        .places()
        .iter()
        .zip(loads.iter().zip(wires.capacity()))
        .filter_map(|(place, (load, capacity))| {
            let Place::Between(from, to, index) = *place else { return None };
            let pair = (from.min(to), from.max(to));
            let name = |id| topology.switch(id).name.clone();
            Some(LinkView {
                from: name(from),
                to: name(to),
                index,
                gbps: *capacity,
                planned: load / capacity,
                state: states.get(&(pair, index)).copied().unwrap_or_default(),
                probed: probed.get(&pair).copied().unwrap_or(0),
            })
        })
        .collect();
    links.sort_by(|a, b| b.planned.total_cmp(&a.planned));
    links.truncate(MOST_LINKS);
    links
}
