//! Planned paths for a fabric's flows: what is learned by probes, what the planner says, and the tables that hosts get.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
};

use anyhow::{Context, bail};
use c4_agent::paths::{
    discovery::{Discovery, Report, Settings},
    probe::{Protocol, Target, learn},
};
use c4_path_table::{ANY_RANK, Entry, Key, Table, publish};
use c4_traffic::{Flow as Planned, Flows, Plan, Topology, document::parse_topology, topology::Gbps};

use super::{Fabric, host_address, spine_address, traffic::Flow};

/// Which source ports of a flow take which spine.
pub type Ports = BTreeMap<usize, Vec<u16>>;

/// The fabric as the planner knows it.
///
/// # Panics
/// Not for a shape that a fabric can have.
#[must_use]
pub fn topology(fabric: &Fabric) -> Topology {
    parse_topology(&topology_yaml(fabric)).expect("a fabric makes sense")
}

/// The same, as an operator would write it.
#[must_use]
pub fn topology_yaml(fabric: &Fabric) -> String {
    let shape = fabric.shape();
    let gbps = f64::from(shape.mbit) / 1000.0;
    let (mut switches, mut links, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    for s in 0..shape.spines {
        let addresses: Vec<_> = (0..shape.leaves).map(|l| spine_address(l, s).to_string()).collect();
        switches.push(format!("  - {{name: spine{s}, tier: spine, addresses: [{}]}}", addresses.join(", ")));
    }
    for l in 0..shape.leaves {
        switches.insert(l, format!("  - {{name: leaf{l}, tier: leaf}}"));
        for s in 0..shape.spines {
            let state = if fabric.is_up(l, s) { "up" } else { "down" };
            let gbps = f64::from(shape.spine_mbit(s)) / 1000.0;
            links.push(format!("  - {{a: leaf{l}, b: spine{s}, gbps: {gbps}, state: {state}}}"));
        }
        for h in 0..shape.hosts {
            let port = format!("{{switch: leaf{l}, gbps: {gbps}, address: {}}}", host_address(l, h));
            hosts.push(format!("  - {{name: host{l}-{h}, nics: [{{name: eth0, ports: [{port}]}}]}}"));
        }
    }
    let [switches, links, hosts] = [switches, links, hosts].map(|lines| lines.join("\n"));
    format!("switches:\n{switches}\nlinks:\n{links}\nhosts:\n{hosts}\n")
}

/// The experiment's flows as the planner knows them.
///
/// # Panics
/// Not for flows of this fabric.
#[must_use]
pub fn flows(fabric: &Fabric, topology: &Topology, flows: &[Flow]) -> Flows {
    let hosts = fabric.shape().hosts;
    let rate = Gbps::new(f64::from(fabric.shape().mbit) / 1000.0).expect("a shape has a rate");
    let mut all = Flows::new();
    for flow in flows {
        let nic = |(leaf, host): (usize, usize)| {
            let nic = &topology.nics()[leaf * hosts + host];
            topology.find_nic(nic.host, &nic.name).expect("it has this NIC")
        };
        let id = format!("{:?}-{:?}", flow.from, flow.to);
        let max_pieces = NonZeroU32::MIN;
        let (src, dst) = (nic(flow.from), nic(flow.to));
        all.push(Planned { id, job: String::new(), src, dst, demand: rate, max_pieces })
            .expect("a flow once");
    }
    all
}

/// Learns by probes which ports take which spine, all hosts at the same time.
///
/// # Errors
/// When a host cannot probe.
pub fn discover(fabric: &Fabric, flows: &[Flow], first_port: u16) -> anyhow::Result<Vec<(Ports, Report)>> {
    thread::scope(|scope| {
        let learners: Vec<_> =
            flows.iter().map(|flow| scope.spawn(move || discover_one(fabric, flow, first_port))).collect();
        learners
            .into_iter()
            .map(|learner| learner.join().unwrap_or_else(|_| panic!("a prober panicked")))
            .collect()
    })
}

fn discover_one(fabric: &Fabric, flow: &Flow, first_port: u16) -> anyhow::Result<(Ports, Report)> {
    let spines = 0..fabric.shape().spines;
    let paths =
        spines.clone().filter(|s| fabric.is_up(flow.from.0, *s) && fabric.is_up(flow.to.0, *s)).count();
    let ports = first_port..first_port + 2000;
    let mut discovery = Discovery::new(Settings { ports, paths: Some(paths), ..Settings::default() });
    let target = Target { protocol: Protocol::Tcp, from: None, to: flow.destination() };
    fabric
        .host(flow.from.0, flow.from.1)
        .run(|| learn(target, &mut discovery, &AtomicBool::new(false)))?
        .context("cannot probe")?;
    let spine =
        |hop: &IpAddr| spines.clone().find(|spine| IpAddr::V4(spine_address(flow.from.0, *spine)) == *hop);
    let mut known = Ports::new();
    for (hops, ports) in discovery.paths() {
        let spine =
            hops.first().and_then(spine).with_context(|| format!("{hops:?} is no spine of this fabric"))?;
        known.insert(spine, ports.clone());
    }
    Ok((known, discovery.report()))
}

/// Tables by host.
#[derive(Debug)]
pub struct Tables {
    dir: PathBuf,
    generation: u64,
}

impl Tables {
    /// Tables in a directory.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), generation: 0 }
    }

    /// A host's table.
    #[must_use]
    pub fn of(&self, (leaf, host): (usize, usize)) -> PathBuf {
        self.dir.join(format!("paths-{leaf}-{host}"))
    }

    /// Gives each sending host the ports of its flow's path. Says which spine each flow takes.
    ///
    /// # Errors
    /// When a path has no port, or a table cannot be written.
    pub fn publish(
        &mut self,
        fabric: &Fabric,
        flows: &[Flow],
        ports: &[Ports],
        plan: &Plan,
    ) -> anyhow::Result<Vec<usize>> {
        self.generation += 1;
        let mut spines = Vec::new();
        let mut tables: BTreeMap<(usize, usize), Table> = BTreeMap::new();
        for ((flow, ports), planned) in flows.iter().zip(ports).zip(&plan.flows) {
            let path = planned.pieces.first().map(|piece| piece.path.as_slice());
            let Some([_, spine, _]) = path else { bail!("{flow:?} has no path over a spine") };
            // The topology names leaves first.
            let spine = spine.index() - fabric.shape().leaves;
            let own = ports.get(&spine).with_context(|| format!("{flow:?}: no port takes spine {spine}"))?;
            let to = flow.destination();
            let key = Key::to(to.ip(), to.port(), ANY_RANK);
            let entry = Entry { key, slots: vec![0], paths: vec![own.clone().into()] };
            tables.entry(flow.from).or_default().entries.push(entry);
            spines.push(spine);
        }
        for (host, mut table) in tables {
            table.generation = self.generation;
            // No agent renews it, and nobody outlives the experiment.
            publish(&self.of(host), &table.encode(u64::MAX)?).context("cannot write a table")?;
        }
        Ok(spines)
    }
}
