//! What operators are shown of paths: links and what they carry, jobs and the paths of their flows, what agents know.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use c4_detect::observation::{NodeName, Timestamp};
use c4_traffic::{
    Plan, Topology,
    losses::Trains,
    sightings::Pair,
    topology::{State, Tier},
    wires::{Place, Wires},
};

use super::{Current, NodeReport, Paths, demand, evidence::pattern};

/// Links shown, the fullest first.
const MOST_LINKS: usize = 10_000;

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchView {
    /// Its name.
    pub name: String,
    /// Where in the network it is.
    pub tier: Tier,
    /// NIC ports under it.
    pub ports: u32,
}

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
    /// What it would carry if switches hashed the same flows, once that is known.
    pub hashed: Option<f64>,
    /// What the plan before this one had it carry.
    pub before: Option<f64>,
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
    /// When an iteration of it began, by what its processes told last.
    pub turned: Option<Timestamp>,
}

impl JobPaths {
    /// When its flows will be used next, at this time, by the length of its iterations.
    #[must_use]
    pub fn next(&self, iteration_us: u64, now: Timestamp) -> Option<Timestamp> {
        let turned = self.turned.filter(|_| self.running && iteration_us > 0)?;
        let turns = now.micros_since(turned) / iteration_us + 1;
        Some(turned.after(turns.saturating_mul(iteration_us)))
    }
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
    /// Of the fullest link between switches, if switches hashed the same flows, once that is known.
    pub max_hashed: Option<f64>,
    /// What no plan could go below.
    pub lower_bound: f64,
    /// Plans made since the controller started.
    pub plans: u64,
    /// Pieces of flows that plans moved.
    pub moves: u64,
    /// Trains of probes that were judged since the controller started.
    pub trains: Trains,
    /// Switches, in the order of the topology.
    pub switches: Arc<Vec<SwitchView>>,
    /// Links between switches, the fullest first.
    pub links: Arc<Vec<LinkView>>,
    /// What connections carry between switches, as a share of all links between the two; those of which agents tell.
    pub measured: Arc<HashMap<(String, String), f64>>,
    /// Links that are not shown.
    pub links_left_out: usize,
    /// Flows, by job.
    pub flows: Arc<Vec<FlowView>>,
    /// Jobs.
    pub jobs: Arc<Vec<JobPaths>>,
    /// Nodes.
    pub nodes: Vec<NodeView>,
    /// What does not fit the topology.
    pub mistakes: Vec<String>,
    /// What probes have found out of the network.
    pub learned: LearnedView,
}

/// The topology that probes have found out.
#[derive(Clone, Debug, Default)]
pub struct LearnedView {
    /// As a document; empty when there is none.
    pub yaml: Arc<str>,
    /// What was assumed, and what may be missing.
    pub notes: Vec<String>,
    /// Why there is none.
    pub mistakes: Vec<String>,
    /// Nodes that have told where they are.
    pub nodes: u32,
    /// Of these, nodes that still explore.
    pub waiting: u32,
    /// Whether paths are planned on it.
    pub planned: bool,
}

impl PathsView {
    /// What connections carry over a link, as a share of its rate; none where no agent tells of any.
    #[must_use]
    pub fn measured(&self, link: &LinkView) -> Option<f64> {
        if self.measured.is_empty() {
            return None;
        }
        // Those over which nothing goes are told by nobody.
        Some(self.measured.get(&(link.from.clone(), link.to.clone())).copied().unwrap_or(0.0))
    }
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
            trains: self.links.trains(),
            nodes: nodes.collect(),
            mistakes: self.links.mistakes(&self.topology),
            measured: Arc::new(self.carried_shares()),
            learned: self.learned(before),
            ..PathsView::default()
        };
        view.mistakes.extend(
            self.unplanned
                .nodes
                .iter()
                .map(|node| format!("jobs run on {node}, which is not in the topology")),
        );
        if let Some(current) = &self.current {
            view.planned = Some(current.at);
            view.max_link = current.plan.max_link_utilisation;
            view.max_fabric = current.plan.max_fabric_utilisation;
            view.max_hashed = current.hashed.as_ref().map(|hashed| hashed.max_fabric_utilisation);
            view.lower_bound = current.plan.lower_bound;
            view.jobs = Arc::new(self.jobs(current));
        }
        let same = |before: &&PathsView| {
            (before.planned, before.plans, before.max_hashed) == (view.planned, view.plans, view.max_hashed)
        };
        match before.filter(same) {
            Some(before) => {
                view.flows = before.flows.clone();
                view.switches = before.switches.clone();
                view.links = before.links.clone();
                view.links_left_out = before.links_left_out;
            }
            None => {
                view.flows = Arc::new(self.current.as_ref().map(flows).unwrap_or_default());
                view.switches = Arc::new(switches(&self.topology));
                let mut links = self.wires();
                view.links_left_out = links.len().saturating_sub(MOST_LINKS);
                links.truncate(MOST_LINKS);
                view.links = Arc::new(links);
            }
        }
        view
    }

    /// What links carry by what connections have sent, as a share of their rates.
    fn carried_shares(&self) -> HashMap<(String, String), f64> {
        let name = |id| self.topology.switch(id).name.clone();
        let shares = self.carried.shares(&self.topology).into_iter();
        shares.map(|((from, to), share)| ((name(from), name(to)), share)).collect()
    }

    fn learned(&self, before: Option<&PathsView>) -> LearnedView {
        let (nodes, waiting) = self.learning.progress();
        let Some(outcome) = self.learning.outcome() else {
            return LearnedView { nodes, waiting, ..LearnedView::default() };
        };
        let same = before.map(|before| &before.learned.yaml).filter(|yaml| ***yaml == *outcome.yaml);
        LearnedView {
            yaml: same.cloned().unwrap_or_else(|| outcome.yaml.as_str().into()),
            notes: outcome.notes.clone(),
            mistakes: outcome.mistakes.clone(),
            nodes,
            waiting,
            planned: self.on_learned && outcome.topology.is_some(),
        }
    }

    /// The links between switches and what they carry, the fullest first.
    fn wires(&self) -> Vec<LinkView> {
        let current = self.current.as_ref();
        let topology = current.map_or(&self.topology, |current| &current.topology);
        let wires = Wires::new(topology);
        let loads = |plan: &Plan| current.map(|current| wires.loads(&current.flows, plan));
        let planned = current.and_then(|current| loads(&current.plan));
        let hashed = current.and_then(|current| loads(current.hashed.as_deref()?));
        let before = current.and_then(|current| current.before.clone());
        let probed = &self.links.picture().crossed;
        let states: BTreeMap<(Pair, u32), State> = topology
            .links()
            .iter()
            .map(|link| (((link.a.min(link.b), link.a.max(link.b)), link.index), link.state))
            .collect();
        let link = |(wire, (place, capacity)): (usize, (&Place, &f64))| {
            let Place::Between(from, to, index) = *place else { return None };
            let pair = (from.min(to), from.max(to));
            let name = |id| topology.switch(id).name.clone();
            let share = |loads: &[f64]| loads.get(wire).map_or(0.0, |load| load / capacity);
            Some(LinkView {
                from: name(from),
                to: name(to),
                index,
                gbps: *capacity,
                planned: planned.as_deref().map_or(0.0, share),
                hashed: hashed.as_deref().map(share),
                before: before.as_ref().map(|loads| share(loads.as_slice())),
                state: states.get(&(pair, index)).copied().unwrap_or_default(),
                probed: probed.get(&pair).copied().unwrap_or(0),
            })
        };
        let mut links: Vec<LinkView> =
            wires.places().iter().zip(wires.capacity()).enumerate().filter_map(link).collect();
        links.sort_by(|a, b| b.planned.total_cmp(&a.planned));
        links
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
            turned: self.evidence.turned(job),
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

fn switches(topology: &Topology) -> Vec<SwitchView> {
    let mut ports: BTreeMap<usize, u32> = BTreeMap::new();
    for port in topology.nics().iter().flat_map(|nic| &nic.ports) {
        *ports.entry(port.switch.index()).or_default() += 1;
    }
    let view = |(number, switch): (usize, &c4_traffic::topology::Switch)| SwitchView {
        name: switch.name.clone(),
        tier: switch.tier,
        ports: ports.get(&number).copied().unwrap_or(0),
    };
    topology.switches().iter().enumerate().map(view).collect()
}
