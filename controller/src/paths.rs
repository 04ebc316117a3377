//! Planned paths for the connections of every job: from what connections tell ([`evidence`], [`demand`]) to a plan over all
//! jobs ([`work`]), to orders for agents, and back from what their probes see to what the plan must avoid ([`links`]).
//!
//! A state machine without I/O, as the rest of the brain is. Planning itself may take longer than the brain may be held
//! up, so it is asked for as a piece of [`work::Work`] and comes back when it is done; whatever happens meanwhile is planned
//! for next. A plan waits until a job has shown all its connections. Where every member of its communicators sends, that is seen; where some
//! only receive, it waits for a moment of quiet, but not for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use c4_detect::{
    finding::Finding,
    observation::{JobId, NodeName, ProcessId, ProcessInfo, Timestamp},
};
use c4_traffic::{
    Flow, Flows, Plan, Previous, Topology,
    actuators::{Actuator, Document, Reach},
    document::{Problems, parse_topology_with_lines, topology_yaml},
    learned::Assumed,
    orders::Order,
    sightings::Pair,
    topology::Gbps,
    wires::Wires,
};

use crate::{
    config,
    convert::{Explored, OwnNic, PathReport, PathTrains, PeerTraffic},
    registry::Registry,
};

mod accused;
pub mod carried;
pub mod demand;
pub mod evidence;
pub mod export;
pub mod keep;
pub mod learning;
pub mod links;
pub mod lossy;
pub mod slow;
#[cfg(test)]
mod tests;
pub mod view;
pub mod work;
pub mod written;

use carried::Carried;
use evidence::Evidence;
use keep::Kept;
use learning::Learning;
use links::Links;
use work::{Compared, Made, Work};
use written::Written;

/// New connections of a job come within moments of each other: where it is not seen that all are there, a plan waits for so much quiet…
const QUIET_US: u64 = 500_000;
/// …but no longer than this.
const PATIENCE_US: u64 = 2_000_000;
/// What streams carry is looked at again this often: more of it may change shares.
const REVIEW_US: u64 = 30_000_000;
/// The network changes at most this often, as far as agents are concerned: they learn everything anew.
const EPOCH_US: u64 = 2_000_000;
/// An agent that follows other orders than the newest is told again after this time.
const AGAIN_US: u64 = 3_000_000;

/// Connections are told of this long after they were made, at most.
const TOLD_US: u64 = 2_000_000;

/// What is to be done about paths.
#[derive(Debug)]
pub enum Output {
    /// Somebody is to make a plan, and bring it to [`Paths::made`].
    Plan(Box<Work>),
    /// This node's agents are to have their orders.
    Order(NodeName),
    /// This node's agents are to explore paths.
    Explore(NodeName),
    /// The files of a plan, by its number, are to be written.
    Write(u64, Vec<Document>),
    /// The plan is to be kept over a restart.
    Keep(Box<Kept>),
    /// Something that people want to know.
    Said(String),
    /// A finding was opened or cleared.
    Finding(Box<Finding>),
}

/// The plan that is followed, and what it was made for.
#[derive(Clone, Debug)]
pub struct Current {
    /// The topology, with the states it was planned with.
    pub topology: Arc<Topology>,
    /// The flows.
    pub flows: Arc<Flows>,
    /// Their paths.
    pub plan: Arc<Plan>,
    /// Where they would go if switches hashed them, once that is worked out.
    pub hashed: Option<Arc<Plan>>,
    /// What each wire was planned to carry by the plan before this one, in Gbit/s.
    pub before: Option<Arc<Vec<f64>>>,
    /// When it was made.
    pub at: Timestamp,
}

/// What a node is told.
#[derive(Clone, Debug, Default)]
pub struct NodeOrders {
    /// Of the plan in which they changed last.
    pub revision: u64,
    /// The orders.
    pub orders: Vec<Order>,
    told: Timestamp,
}

/// What a node says.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// The report.
    pub report: PathReport,
    /// When it came.
    pub at: Timestamp,
}

/// Something that a plan has to take in.
#[derive(Clone, Copy, Debug)]
struct News {
    first: Timestamp,
    last: Timestamp,
    /// There is nothing to wait for.
    complete: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Paths {
    topology: Arc<Topology>,
    actuator: Arc<dyn Actuator>,
    keep_us: u64,
    evidence: Evidence,
    /// Flows of a plan that was kept over a restart, until their jobs have shown theirs.
    kept: Vec<Flow>,
    kept_until: Timestamp,
    links: Links,
    carried: Carried,
    learning: Learning,
    /// Paths are planned on what was learned.
    on_learned: bool,
    current: Option<Current>,
    previous: Option<Arc<Previous>>,
    by_node: BTreeMap<NodeName, NodeOrders>,
    reports: BTreeMap<NodeName, NodeReport>,
    revision: u64,
    epoch: u64,
    changed: Timestamp,
    change_due: bool,
    news: Option<News>,
    /// Jobs that have shown connections since the last plan was asked for.
    fresh: BTreeSet<JobId>,
    reviewed: Timestamp,
    working: bool,
    /// Flows and avoided links of the last plan that was asked for.
    asked: Option<(Arc<Flows>, BTreeSet<Pair>)>,
    running: BTreeSet<JobId>,
    unplanned: demand::Unplanned,
    /// Since when connections of flows are made where the plan says.
    placed: BTreeMap<String, Timestamp>,
    plans: u64,
    moves: u64,
    outputs: Vec<Output>,
}

/// Reads the topology; says everything that is wrong with it, with lines.
///
/// # Errors
/// When it cannot be read, or does not make sense.
pub fn load(path: &Path) -> Result<(Topology, Written), Vec<String>> {
    let file = path.display().to_string();
    let named = |what: &dyn std::fmt::Display| format!("{file}: {what}");
    let text = fs::read_to_string(path).map_err(|error| vec![named(&error)])?;
    let problems =
        |problems: Problems| problems.kept().iter().map(|problem| named(&problem)).collect::<Vec<_>>();
    let (topology, lines) = parse_topology_with_lines(&text).map_err(problems)?;
    Ok((topology, Written { file, lines }))
}

impl Paths {
    /// Plans on this topology, from where an earlier controller left.
    #[must_use]
    pub fn new(config: &config::Paths, topology: Topology, kept: Option<Kept>, now: Timestamp) -> Self {
        let keep_us = (config.keep_seconds * 1e6) as u64;
        let kept = kept.map(|kept| kept.restore(&topology)).unwrap_or_default();
        let on_learned = config.topology == Some(config::TopologySource::Learned);
        Self {
            links: if on_learned { Links::learned(&topology) } else { Links::new(&topology) },
            carried: Carried::default(),
            learning: Learning::new(Assumed {
                nic_rate: config.assumed_gbps.and_then(Gbps::new),
                ..Assumed::default()
            }),
            on_learned,
            topology: Arc::new(topology),
            actuator: config.actuator.actuator(),
            keep_us,
            evidence: Evidence::default(),
            kept_until: now.after(keep_us),
            news: (!kept.flows.is_empty()).then_some(News { first: now, last: now, complete: false }),
            previous: kept.previous.map(Arc::new),
            revision: kept.revision,
            epoch: kept.epoch.max(1),
            kept: kept.flows,
            current: None,
            by_node: BTreeMap::new(),
            reports: BTreeMap::new(),
            changed: now,
            change_due: false,
            fresh: BTreeSet::new(),
            reviewed: now,
            working: false,
            asked: None,
            running: BTreeSet::new(),
            unplanned: demand::Unplanned::default(),
            placed: BTreeMap::new(),
            plans: 0,
            moves: 0,
            outputs: Vec::new(),
        }
    }

    /// Names the file of the topology where it is wrong.
    #[must_use]
    pub fn written(mut self, written: Written) -> Self {
        self.links.written = Some(written);
        self
    }

    /// A process has started: these NICs it may use, if it was told which.
    pub fn started(&mut self, process: ProcessId, nics: Vec<OwnNic>) {
        self.evidence.started(process, nics);
    }

    /// A process tells whom it sends to.
    pub fn traffic(&mut self, info: &ProcessInfo, told: PeerTraffic, now: Timestamp) {
        if self.evidence.traffic(info, told, now) {
            self.fresh.insert(info.job.clone());
            self.touch(now);
        }
    }

    /// A process has ended.
    pub fn ended(&mut self, process: ProcessId, now: Timestamp) {
        self.evidence.ended(process, now);
    }

    /// A node's agent tells what its probes have seen.
    pub fn report(&mut self, node: &NodeName, report: PathReport, now: Timestamp) {
        // Of an epoch before this one, everybody forgets what was known anyway.
        let before = self.reports.get(node).map(|known| known.report.changes);
        if report.epoch == self.epoch && before.is_some_and(|before| report.changes > before) {
            self.change_due = true;
        }
        if report.epoch == self.epoch {
            self.links.report(node, &report);
        }
        if let Some(orders) = self.by_node.get(node) {
            let follows = report.revision == orders.revision && report.epoch == self.epoch;
            let knows = follows && report.settled && report.missing == 0;
            if !follows && now.micros_since(orders.told) >= AGAIN_US {
                self.tell(node.clone(), now);
            }
            if knows {
                self.place(node, now);
            }
        }
        self.reports.insert(node.clone(), NodeReport { report, at: now });
    }

    /// A node's agent tells how paths fare that it measures.
    pub fn measured(&mut self, node: &NodeName, trains: &PathTrains, at: Timestamp) {
        let current = trains.epoch == self.epoch;
        self.links.measured(&self.topology, node, trains, current, at);
        if current && !trains.carried.is_empty() {
            self.carried.told(&self.topology, self.links.locator(), node, &trains.carried, at);
        }
    }

    /// A node's agent has connected: it may know nothing. A node that sends nothing has orders, too, if only empty ones:
    /// its jobs have to listen where others have learned the way to.
    pub fn connected(&mut self, node: &NodeName, now: Timestamp) {
        if self.learning.waits_for(node) {
            self.outputs.push(Output::Explore(node.clone()));
        }
        if self.topology.find_host(&node.0).is_some() {
            self.by_node.entry(node.clone()).or_default();
            self.tell(node.clone(), now);
        }
    }

    /// A node tells where in the network it is.
    pub fn explored(&mut self, node: &NodeName, explored: Explored, now: Timestamp) {
        self.learning.explored(node, explored, now);
    }

    /// What a node is to explore.
    #[must_use]
    pub fn to_explore(&self, node: &NodeName) -> Option<(u64, Vec<(IpAddr, IpAddr)>)> {
        self.learning.to_explore(node)
    }

    /// Has nodes explore, and plans on what they have found, if that is what paths are planned on.
    fn learn(&mut self, now: Timestamp) {
        let (explorers, is_new) = self.learning.tick(now);
        self.outputs.extend(explorers.into_iter().map(Output::Explore));
        let Some(outcome) = self.learning.outcome().filter(|_| is_new).cloned() else { return };
        match outcome.topology {
            Some(topology) if self.on_learned => {
                if topology_yaml(&self.topology) != outcome.yaml {
                    self.adopt(topology, now);
                }
            }
            Some(_) => {}
            None => {
                let text = format!("probes tell no topology: {}", outcome.mistakes.join("; "));
                self.outputs.push(Output::Said(text));
            }
        }
    }

    /// Plans on another topology from now on. What was planned is kept as far as it can be said in the names of the new one.
    fn adopt(&mut self, topology: Topology, now: Timestamp) {
        let text = format!(
            "paths are planned on what probes found out: {} hosts, {} switches, {} links between them",
            topology.hosts().len(),
            topology.switches().len(),
            topology.links().len()
        );
        self.outputs.push(Output::Said(text));
        let before = self.current.take().map(|current| {
            Kept::new(self.revision, self.epoch, &current.topology, &current.flows, &current.plan)
        });
        self.previous = before.and_then(|kept| kept.restore(&topology).previous).map(Arc::new);
        let ended = self.links.end(now).into_iter();
        self.outputs.extend(ended.map(|finding| Output::Finding(Box::new(finding))));
        self.links = Links::learned(&topology);
        self.topology = Arc::new(topology);
        (self.asked, self.placed) = (None, BTreeMap::new());
        let known: Vec<NodeName> = self.learning.nodes().cloned().collect();
        for node in known {
            self.by_node.entry(node).or_default();
        }
        self.network_changed(now);
        self.touch(now);
    }

    /// What a node is to be told, and the epoch.
    #[must_use]
    pub fn orders(&self, node: &NodeName) -> Option<(&NodeOrders, u64)> {
        self.by_node.get(node).map(|orders| (orders, self.epoch))
    }

    /// Time has passed.
    pub fn tick(&mut self, registry: &Registry, now: Timestamp) {
        let forgot = self.evidence.prune(now, self.keep_us);
        let late = now >= self.kept_until && !self.kept.is_empty();
        if late {
            self.kept.clear();
        }
        if now.micros_since(self.reviewed) >= REVIEW_US {
            self.reviewed = now;
            self.touch(now);
        }
        if forgot || late {
            self.touch(now);
        }
        if self.change_due && now.micros_since(self.changed) >= EPOCH_US {
            self.network_changed(now);
        }
        self.look_at_links(now);
        self.carried.prune(now);
        self.learn(now);
        if self.news.is_some() && !self.fresh.is_empty() {
            self.fresh.retain(|job| !self.evidence.is_complete(registry, job));
            if self.fresh.is_empty() {
                self.hurry(now);
            }
        }
        let due = |news: &News| {
            news.complete
                || now.micros_since(news.last) >= QUIET_US
                || now.micros_since(news.first) >= PATIENCE_US
        };
        if !self.working && self.news.as_ref().is_some_and(due) {
            self.news = None;
            self.fresh.clear();
            self.ask(registry, now);
        }
    }

    /// What is to be done since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    fn touch(&mut self, now: Timestamp) {
        let (first, complete) = self.news.map_or((now, false), |news| (news.first, news.complete));
        self.news = Some(News { first, last: now, complete });
    }

    /// Something is to be planned for at once.
    fn hurry(&mut self, now: Timestamp) {
        self.touch(now);
        self.news = self.news.map(|news| News { complete: true, ..news });
    }

    /// What agents know of ports is stale.
    fn network_changed(&mut self, now: Timestamp) {
        (self.change_due, self.changed) = (false, now);
        self.epoch += 1;
        self.links.forget();
        self.carried.forget();
        self.outputs.push(Output::Said("the network has changed: agents learn paths anew".to_owned()));
        let nodes: Vec<NodeName> = self.by_node.keys().cloned().collect();
        for node in nodes {
            self.tell(node, now);
        }
    }

    fn look_at_links(&mut self, now: Timestamp) {
        let expected = self.by_node.iter().filter(|(_, orders)| !orders.orders.is_empty());
        let expected = expected.map(|(node, _)| node);
        let mut changes =
            self.links.judge(&self.topology, self.epoch, self.changed, expected, now).unwrap_or_default();
        if self.links.is_due(now) {
            let busy = self.carried.busy(&self.topology);
            changes.extend(self.links.judge_measured(&self.topology, &busy, now));
        }
        let avoid_others = self.links.take_turned() || !changes.is_empty();
        self.outputs.extend(changes.into_iter().map(|finding| Output::Finding(Box::new(finding))));
        if avoid_others {
            self.hurry(now);
        }
    }

    /// Asks for a plan, unless it would be made for what the last one was.
    fn ask(&mut self, registry: &Registry, now: Timestamp) {
        let (streams, running) = self.evidence.streams(registry, now);
        let demand::Demand { mut flows, running: since, unplanned } = demand::flows(&self.topology, &streams);
        let new = unplanned.nodes.difference(&self.unplanned.nodes).cloned().collect::<Vec<_>>();
        if !new.is_empty() {
            let text = format!("jobs run on nodes that the topology does not name: {}", new.join(", "));
            self.outputs.push(Output::Said(text));
        }
        (self.unplanned, self.running) = (unplanned, running);
        let shown: BTreeSet<String> = flows.as_slice().iter().map(|flow| flow.job.clone()).collect();
        self.kept.retain(|flow| !shown.contains(&flow.job));
        for flow in &self.kept {
            // Their jobs have no others, so their ids are nobody else's.
            let _ = flows.push(flow.clone());
        }
        let avoided = self.links.avoided(&self.topology);
        let asked = self.asked.as_ref();
        if asked.is_some_and(|(before, avoid)| before.as_slice() == flows.as_slice() && *avoid == avoided) {
            return;
        }
        if asked.is_none() && flows.is_empty() {
            return;
        }
        let flows = Arc::new(flows);
        self.asked = Some((flows.clone(), avoided.clone()));
        self.working = true;
        let (topology, previous) = (self.topology.clone(), self.previous.clone());
        let (pinned, actuator) = (self.pinned(&since), self.actuator.clone());
        let work = Work { topology, flows, avoided, previous, pinned, actuator };
        self.outputs.push(Output::Plan(Box::new(work)));
    }

    /// Flows whose connections were made when their ports were known: they are where the plan says, and cannot be moved
    /// where plans reach connections only when they are made.
    fn pinned(&self, since: &BTreeMap<String, Timestamp>) -> Vec<String> {
        if self.actuator.reach() != Reach::NextConnection {
            return Vec::new();
        }
        let made_planned = |(id, since): &(&String, &Timestamp)| {
            self.placed.get(*id).is_some_and(|placed| **since >= placed.after(TOLD_US))
        };
        since.iter().filter(made_planned).map(|(id, _)| id.clone()).collect()
    }

    /// A node knows ports for all that it was ordered: connections that it makes from now on are where the plan says.
    fn place(&mut self, node: &NodeName, now: Timestamp) {
        let Some(current) = &self.current else { return };
        let Some(host) = current.topology.find_host(&node.0) else { return };
        for flow in current.flows.as_slice() {
            if current.topology.nic(flow.src).host == host {
                self.placed.entry(flow.id.clone()).or_insert(now);
            }
        }
    }

    /// A plan was made.
    pub fn made(&mut self, made: Made, now: Timestamp) {
        self.working = false;
        if self.on_learned && !Arc::ptr_eq(&made.asked_for, &self.topology) {
            // Another topology was learned meanwhile: there the numbers of this one mean others.
            self.touch(now);
            return;
        }
        self.plans += 1;
        self.moves += made.plan.moves as u64;
        let changed: Vec<NodeName> = match made.deeds {
            Ok(deeds) => {
                if !deeds.documents.is_empty() {
                    self.outputs.push(Output::Write(self.plans, deeds.documents));
                }
                self.take_orders(deeds.orders)
            }
            Err(failed) => {
                self.outputs.push(Output::Said(format!("paths are planned, but not ordered: {failed}")));
                Vec::new()
            }
        };
        let text = format!(
            "planned paths of {} flows: fullest link {:.0} %, {} moved, {} without a path; {} nodes have new orders",
            made.flows.len(),
            made.plan.max_link_utilisation * 100.0,
            made.plan.moves,
            made.plan.unplaced(),
            changed.len()
        );
        self.outputs.push(Output::Said(text));
        for node in changed {
            self.tell(node, now);
        }
        let mut kept = Kept::new(self.revision, self.epoch, &made.topology, &made.flows, &made.plan);
        if self.on_learned {
            kept = kept.on(&self.topology);
        }
        self.outputs.push(Output::Keep(Box::new(kept)));
        self.forget_moved(&made.flows, &made.plan);
        self.previous = Some(Arc::new(made.plan.as_previous(&made.flows)));
        let before =
            self.current.take().map(|old| Arc::new(Wires::new(&old.topology).loads(&old.flows, &old.plan)));
        let (topology, flows) = (made.topology, made.flows);
        let plan = Arc::new(made.plan);
        self.current = Some(Current { topology, flows, plan, hashed: None, before, at: now });
    }

    /// What hashing would do was worked out; for a plan of before, it comes too late.
    pub fn compared(&mut self, compared: Compared) {
        if let Some(current) = &mut self.current
            && compared.of.is_of(&current.topology, &current.flows)
        {
            current.hashed = Some(Arc::new(compared.hashed));
        }
    }

    /// Forgets the places of flows that this plan puts elsewhere, or that are no more.
    fn forget_moved(&mut self, flows: &Flows, plan: &Plan) {
        let Some(previous) = &self.previous else { return };
        let stays = |id: &str| {
            let Some(number) = flows.find(id) else { return false };
            let paths = |pieces: &mut dyn Iterator<Item = &c4_traffic::plan::Piece>| {
                pieces.map(|piece| piece.path.clone()).collect::<BTreeSet<_>>()
            };
            let before = previous.get(id).map(|pieces| paths(&mut pieces.iter().map(|was| &was.piece)));
            before == Some(paths(&mut plan.flows[number].pieces.iter()))
        };
        self.placed.retain(|id, _| stays(id));
    }

    /// Sorts orders by node; returns the nodes whose orders are new.
    fn take_orders(&mut self, orders: Vec<Order>) -> Vec<NodeName> {
        let mut by_node: BTreeMap<NodeName, Vec<Order>> = BTreeMap::new();
        for order in orders {
            by_node.entry(NodeName(order.host.clone())).or_default().push(order);
        }
        // Who has none any more has to hear that, too.
        for node in self.by_node.keys() {
            by_node.entry(node.clone()).or_default();
        }
        by_node.retain(|node, orders| self.by_node.get(node).is_none_or(|known| known.orders != *orders));
        self.revision += u64::from(!by_node.is_empty());
        let changed = by_node.keys().cloned().collect();
        for (node, orders) in by_node {
            let revision = self.revision;
            self.by_node.insert(node, NodeOrders { revision, orders, told: Timestamp(0) });
        }
        changed
    }

    fn tell(&mut self, node: NodeName, now: Timestamp) {
        if let Some(orders) = self.by_node.get_mut(&node) {
            orders.told = now;
        }
        self.outputs.push(Output::Order(node));
    }
}
