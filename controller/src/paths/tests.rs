//! From connections to orders and back, with a fabric of three leaves and two spines.

use std::net::IpAddr;

use c4_detect::observation::{CommId, JobId, Membership};
use c4_traffic::document::parse_topology;

use super::*;
use crate::convert::{MeasuredPath, SeenPath};

const LEAVES: u8 = 3;
const SPINES: u8 = 2;
const SECOND: u64 = 1_000_000;

fn host(leaf: u8, index: u8) -> IpAddr {
    [10, leaf, index, 1].into()
}

fn spine(number: u8) -> IpAddr {
    [172, 16, 0, number].into()
}

fn topology() -> Topology {
    parse_topology(&file()).expect("sound")
}

/// Two hosts under each leaf.
fn file() -> String {
    let mut text = "hosts:\n".to_owned();
    for leaf in 0..LEAVES {
        for index in 0..2 {
            let address = host(leaf, index);
            let port = format!("{{switch: l{leaf}, gbps: 100, address: {address}}}");
            text += &format!("  - {{name: h{leaf}{index}, nics: [{{name: n, ports: [{port}]}}]}}\n");
        }
    }
    text += "switches:\n";
    let switches: Vec<String> = (0..LEAVES)
        .map(|leaf| format!("  - {{name: l{leaf}, tier: leaf}}\n"))
        .chain((0..SPINES).map(|n| format!("  - {{name: s{n}, tier: spine, addresses: [{}]}}\n", spine(n))))
        .collect();
    text += &switches.concat();
    text += "links:\n";
    for leaf in 0..LEAVES {
        for spine in 0..SPINES {
            text += &format!("  - {{a: l{leaf}, b: s{spine}, gbps: 100}}\n");
        }
    }
    text
}

struct Scene {
    paths: Paths,
    registry: Registry,
    now: Timestamp,
    work: Option<Work>,
    told: Vec<NodeName>,
    explorers: Vec<NodeName>,
    findings: Vec<Finding>,
    kept: Option<Kept>,
    written: Vec<Document>,
}

impl Scene {
    fn new(kept: Option<Kept>) -> Self {
        Self::with(&config::Paths::default(), kept)
    }

    fn with(config: &config::Paths, kept: Option<Kept>) -> Self {
        let now = Timestamp(1_000 * SECOND);
        let paths = Paths::new(config, topology(), kept, now);
        Self::of(paths, now)
    }

    fn of(paths: Paths, now: Timestamp) -> Self {
        let (told, explorers, findings, written) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let registry = Registry::default();
        Self { paths, registry, now, work: None, told, explorers, findings, kept: None, written }
    }

    /// A job whose ranks, one on each of these hosts, send around a ring.
    fn ring(&mut self, job: &str, comm: u64, hosts: &[&str]) {
        for (rank, node) in hosts.iter().enumerate() {
            let info = ProcessInfo {
                process: ProcessId(comm * 100 + rank as u64),
                job: JobId(job.into()),
                incarnation: 0,
                rank: Some(rank as u32),
                world_size: Some(hosts.len() as u32),
                node: NodeName((*node).into()),
                gpu: None,
                pid: 1,
                blind_spots: Vec::new(),
            };
            self.registry.announce(&info).expect("new");
            let member = Membership {
                process: info.process,
                comm: CommId(comm),
                name: String::new(),
                size: hosts.len() as u32,
                comm_rank: rank as u32,
            };
            self.registry.join(&member, &info.node).expect("new");
            let peer = (rank as u32 + 1) % hosts.len() as u32;
            let told = PeerTraffic {
                process: info.process,
                comm: CommId(comm),
                peer,
                channels: 1,
                operations: 1,
                bytes: 1,
                turn_us: None,
            };
            self.paths.traffic(&info, told, self.now);
        }
    }

    fn run(&mut self, us: u64) {
        let end = self.now.after(us);
        while self.now < end {
            self.now = self.now.after(100_000);
            self.paths.tick(&self.registry, self.now);
            for output in self.paths.take_outputs() {
                match output {
                    Output::Plan(work) => self.work = Some(*work),
                    Output::Order(node) => self.told.push(node),
                    Output::Explore(node) => self.explorers.push(node),
                    Output::Keep(kept) => self.kept = Some(*kept),
                    Output::Write(_, documents) => self.written = documents,
                    Output::Said(_) => {}
                    Output::Finding(finding) => self.findings.push(*finding),
                }
            }
        }
    }

    /// Lets time pass and plans what is to be planned.
    fn settle(&mut self) -> bool {
        self.run(SECOND);
        let Some(work) = self.work.take() else { return false };
        self.paths.made(work.make(), self.now);
        self.run(100_000);
        true
    }

    /// The spines that a node's orders name, by destination.
    fn spines(&self, node: &str) -> Vec<(IpAddr, IpAddr)> {
        let (orders, _) = self.paths.orders(&NodeName(node.into())).expect("ordered");
        orders.orders.iter().map(|order| (order.to, order.routes[0].via[0][0])).collect()
    }

    /// All ordered nodes report what they see when some links are dead.
    fn report(&mut self, dead: &[(u8, u8)], changes: u32) {
        let nodes: Vec<NodeName> = self.paths.by_node.keys().cloned().collect();
        self.report_of(nodes, dead, changes, true);
        self.run(2 * SECOND);
    }

    /// These do.
    fn report_of(
        &mut self,
        nodes: impl IntoIterator<Item = NodeName>,
        dead: &[(u8, u8)],
        changes: u32,
        settled: bool,
    ) {
        for node in nodes {
            let (orders, epoch) = self.paths.orders(&node).expect("ordered");
            let mut seen = Vec::new();
            for order in &orders.orders {
                let leaf = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.octets()[1],
                    IpAddr::V6(_) => unreachable!("hosts have IPv4 addresses"),
                };
                let alive =
                    |n: &u8| !dead.contains(&(leaf(order.from), *n)) && !dead.contains(&(leaf(order.to), *n));
                let path = |n| SeenPath { from: order.from, to: order.to, hops: vec![spine(n)], ports: 40 };
                seen.extend((0..SPINES).filter(alive).map(path));
            }
            let (revision, ports) = (orders.revision, 40 * seen.len() as u32);
            let report =
                PathReport { revision, epoch, settled, changes, ports, seen, ..PathReport::default() };
            self.paths.report(&node, report, self.now);
        }
    }
}

#[test]
fn nobody_waits_for_what_hashing_would_do() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.run(SECOND);
    let made = scene.work.take().expect("something to plan").make();
    let comparison = work::Comparison::with(&made);
    scene.paths.made(made, scene.now);
    scene.run(100_000);
    assert_eq!(scene.told.len(), 3, "orders are out");
    let before = scene.paths.view(None);
    assert!(before.max_hashed.is_none() && before.links.iter().all(|link| link.hashed.is_none()));
    scene.paths.compared(comparison.clone().make());
    let view = scene.paths.view(Some(&before));
    assert!(view.max_hashed >= Some(view.max_fabric), "{:?}", view.max_hashed);
    assert!(view.links.iter().all(|link| link.hashed.is_some()));
    // Once there is another plan, it is of no use.
    scene.ring("k", 2, &["h01", "h11", "h21"]);
    assert!(scene.settle());
    scene.paths.compared(comparison.make());
    assert_eq!(scene.paths.view(Some(&view)).max_hashed, None);
}

#[test]
fn a_jobs_flows_are_planned_and_ordered_once_all_its_connections_are_there() {
    let mut scene = Scene::new(None);
    assert!(!scene.settle(), "nothing to plan");
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.run(100_000);
    assert!(scene.work.is_some(), "all three have shown whom they send to");
    assert!(scene.settle());
    let names: Vec<_> = scene.told.iter().map(|node| node.0.as_str()).collect();
    assert_eq!(names, ["h00", "h10", "h20"]);
    assert_eq!(scene.spines("h00").iter().map(|(to, _)| *to).collect::<Vec<_>>(), [host(1, 0)]);
    let view = scene.paths.view(None);
    assert_eq!((view.jobs[0].pattern.as_str(), view.jobs[0].running), ("ring of 3 hosts", true));
    assert!(view.links.iter().all(|link| link.before.is_none()));
    assert!(view.max_fabric <= 1.0 + 1e-9);
    // The same again is no news.
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    assert!(!scene.settle());
}

#[test]
fn where_it_is_not_seen_that_all_connections_are_there_a_plan_waits_for_quiet() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    // A member that has shown nothing yet, and may never send.
    let info = ProcessInfo {
        process: ProcessId(103),
        job: JobId("k".into()),
        incarnation: 0,
        rank: Some(0),
        world_size: Some(2),
        node: NodeName("h01".into()),
        gpu: None,
        pid: 1,
        blind_spots: Vec::new(),
    };
    for (process, comm_rank) in [(103, 0), (104, 1)] {
        let info = ProcessInfo { process: ProcessId(process), ..info.clone() };
        scene.registry.announce(&info).expect("new");
        let (process, comm, name) = (info.process, CommId(2), String::new());
        let member = Membership { process, comm, name, size: 2, comm_rank };
        scene.registry.join(&member, &info.node).expect("new");
    }
    let (process, comm) = (info.process, CommId(2));
    let told = PeerTraffic { process, comm, peer: 1, channels: 1, operations: 1, bytes: 1, turn_us: None };
    scene.paths.traffic(&info, told, scene.now);
    scene.run(300_000);
    assert!(scene.work.is_none(), "there may be more connections in a moment");
    assert!(scene.settle());
}

#[test]
fn the_next_use_follows_from_when_iterations_begin() {
    let job = |turned, running| view::JobPaths {
        job: "j".into(),
        pattern: String::new(),
        flows: 1,
        running,
        turned,
    };
    let at = |ms: u64| Timestamp(1_000 * SECOND + ms * 1_000);
    let ring = job(Some(at(0)), true);
    assert_eq!(ring.next(250_000, at(100)), Some(at(250)));
    assert_eq!(ring.next(250_000, at(250)), Some(at(500)), "it has begun");
    assert_eq!(ring.next(250_000, at(5_100)), Some(at(5_250)));
    assert_eq!(ring.next(0, at(100)), None, "the length of iterations is being learned");
    assert_eq!(job(Some(at(0)), false).next(250_000, at(100)), None);
    assert_eq!(job(None, true).next(250_000, at(100)), None);
}

#[test]
fn jobs_share_the_fabric_and_a_new_one_moves_nobody() {
    let mut scene = Scene::new(None);
    scene.ring("a", 1, &["h00", "h10"]);
    assert!(scene.settle());
    let before = scene.spines("h00");
    let alone: BTreeMap<_, _> = scene
        .paths
        .view(None)
        .links
        .iter()
        .map(|link| ((link.from.clone(), link.to.clone()), link.planned))
        .collect();
    scene.told.clear();
    scene.ring("b", 2, &["h01", "h11"]);
    assert!(scene.settle());
    assert_eq!(scene.spines("h00"), before);
    assert_ne!(scene.spines("h01")[0].1, before[0].1, "two flows, two spines");
    let names: Vec<_> = scene.told.iter().map(|node| node.0.as_str()).collect();
    assert_eq!(names, ["h01", "h11"], "others have what they had");
    assert_eq!(scene.paths.moves, 0);
    let view = scene.paths.view(None);
    assert!(view.links.iter().all(|link| link.before == Some(alone[&(link.from.clone(), link.to.clone())])));
    let used =
        |load: &dyn Fn(&view::LinkView) -> f64| view.links.iter().filter(|link| load(link) > 0.0).count();
    assert!(
        used(&|link| link.before.unwrap_or_default()) < used(&|link| link.planned),
        "there is more to carry"
    );
}

#[test]
fn a_link_that_probes_no_longer_cross_is_told_of_avoided_and_mended() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.ring("k", 2, &["h21", "h11", "h01"]);
    assert!(scene.settle());
    scene.report(&[], 0);
    assert_eq!((scene.findings.len(), scene.paths.epoch), (0, 1));
    // Ports take other paths: agents forget everything and learn anew.
    scene.told.clear();
    scene.report(&[], 1);
    assert_eq!(scene.paths.epoch, 2);
    assert_eq!(scene.told.len(), 6, "all nodes hear of it");
    scene.report(&[(0, 1)], 1);
    let finding = scene.findings.first().expect("told");
    let link = finding.suspects[0].link.as_ref().expect("a link");
    assert_eq!((link.src.as_str(), link.dst.as_str()), ("l0", "s1"));
    assert_eq!((finding.kind, scene.findings.len()), (c4_detect::finding::Kind::PathFault, 1));
    assert!(finding.summary.contains("any more"), "{}", finding.summary);
    assert!(scene.settle());
    for (node, orders) in &scene.paths.by_node {
        for order in &orders.orders {
            let touches = [order.from, order.to].iter().any(|end| [host(0, 0), host(0, 1)].contains(end));
            assert!(!touches || order.routes[0].via[0] == [spine(0)], "{node:?} {order:?}");
        }
    }
    scene.report(&[], 2);
    scene.report(&[], 2);
    let last = scene.findings.last().expect("told");
    assert!(last.cleared.is_some() && last.id == finding_id(&scene), "{last:?}");
    assert!(scene.settle(), "it may be used again");
}

#[test]
fn a_link_is_named_as_soon_as_nobody_else_can_be_blamed() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.ring("k", 2, &["h21", "h11", "h01"]);
    assert!(scene.settle());
    scene.report(&[], 0);
    scene.report(&[], 1);
    assert_eq!(scene.paths.epoch, 2);
    let node = |name: &str| NodeName(name.into());
    // h00 meets s1 no more on its way to l1: it may be either half of the way, and who may tell has not reported yet.
    scene.report_of([node("h00")], &[(0, 1)], 1, true);
    scene.run(3 * SECOND);
    assert!(scene.findings.is_empty(), "{:?}", scene.findings);
    // h10 has met s1 from l1. That it goes on learning, and that four others have told nothing, is not waited for.
    scene.report_of([node("h10")], &[(0, 1)], 1, false);
    scene.run(SECOND);
    let links: Vec<_> = scene.findings.iter().flat_map(|finding| &finding.suspects[0].link).collect();
    assert_eq!(links.iter().map(|link| (&*link.src, &*link.dst)).collect::<Vec<_>>(), [("l0", "s1")]);
    assert!(scene.settle(), "it is avoided");
    // What another saw before it heard of the change is no other change.
    let (orders, _) = scene.paths.orders(&node("h20")).expect("ordered");
    let late = PathReport { revision: orders.revision, epoch: 1, changes: 7, ..PathReport::default() };
    scene.paths.report(&node("h20"), late, scene.now);
    scene.run(3 * SECOND);
    assert_eq!(scene.paths.epoch, 2);
}

#[test]
fn a_link_of_the_file_that_no_probe_ever_crosses_is_told_with_its_line() {
    let mut scene = Scene::new(None);
    let (_, lines) = c4_traffic::document::parse_topology_with_lines(&file()).expect("sound");
    scene.paths = scene.paths.written(Written { file: "topology.yaml".into(), lines });
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.ring("k", 2, &["h21", "h11", "h01"]);
    assert!(scene.settle());
    // The cable of l0 to s1 was never there.
    scene.report(&[(0, 1)], 0);
    let line = 1 + file().lines().position(|line| line.contains("{a: l0, b: s1,")).expect("there");
    let sentence = format!("topology.yaml:{line}: l0–s1 is in the file, no probe ever crosses it (");
    let finding = scene.findings.first().expect("told");
    assert!(finding.summary.starts_with(&sentence), "{}", finding.summary);
    let mistakes = scene.paths.view(None).mistakes;
    assert_eq!(mistakes.iter().filter(|mistake| mistake.starts_with(&sentence)).count(), 1, "{mistakes:?}");
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    scene.report(&[], 1);
    scene.report(&[], 1);
    assert_eq!(scene.paths.view(None).mistakes, [""; 0], "somebody has put it in");
}

fn finding_id(scene: &Scene) -> c4_detect::finding::FindingId {
    scene.findings[0].id.clone()
}

/// What cannot be moved when a second job comes, the first having been started again since its paths were known.
fn pinned(actuator: config::PathActuator) -> Vec<String> {
    let mut scene = Scene::with(&config::Paths { actuator, ..config::Paths::default() }, None);
    scene.ring("a", 1, &["h00", "h10"]);
    assert!(scene.settle());
    scene.report(&[], 0);
    assert!(!scene.settle(), "nothing is new");
    // The same job, started again: its connections now have the ports of the plan.
    for process in [100, 101] {
        scene.paths.ended(ProcessId(process), scene.now);
    }
    let again = |process: u64, rank: u32, node: &str| ProcessInfo {
        process: ProcessId(process),
        job: JobId("a".into()),
        incarnation: 1,
        rank: Some(rank),
        world_size: Some(2),
        node: NodeName(node.into()),
        gpu: None,
        pid: 1,
        blind_spots: Vec::new(),
    };
    scene.run(TOLD_US);
    for (rank, node) in ["h00", "h10"].into_iter().enumerate() {
        let info = again(900 + rank as u64, rank as u32, node);
        scene.registry.announce(&info).expect("new");
        let (process, comm, size, comm_rank) = (info.process, CommId(9), 2, rank as u32);
        let member = Membership { process, comm, name: String::new(), size, comm_rank };
        scene.registry.join(&member, &info.node).expect("new");
        let told = PeerTraffic {
            process,
            comm,
            peer: 1 - comm_rank,
            channels: 1,
            operations: 1,
            bytes: 1,
            turn_us: None,
        };
        scene.paths.traffic(&info, told, scene.now);
    }
    assert!(!scene.settle(), "the same flows");
    scene.ring("b", 2, &["h01", "h11"]);
    scene.run(SECOND);
    scene.work.take().expect("planned").pinned
}

#[test]
fn connections_made_on_planned_paths_are_planned_around_unless_they_can_be_moved() {
    use config::PathActuator::{SourcePort, SourcePortLive};
    assert_eq!(pinned(SourcePort), ["a: h00/n→h10/n", "a: h10/n→h00/n"]);
    assert_eq!(pinned(SourcePortLive), [""; 0]);
}

#[test]
fn a_plan_reaches_the_network_as_configured() {
    use config::PathActuator::{Export, Frr, None as Nothing, PolicyRoutes, SourcePort};
    let made = |actuator| {
        let mut scene = Scene::with(&config::Paths { actuator, ..config::Paths::default() }, None);
        scene.ring("j", 1, &["h00", "h10"]);
        assert!(scene.settle());
        let names: Vec<String> = scene.written.iter().map(|document| document.name.clone()).collect();
        (scene.told.len(), names)
    };
    assert_eq!(made(SourcePort), (2, vec![]));
    assert_eq!(made(Nothing), (0, vec![]));
    assert_eq!(made(Export), (0, vec!["plan.json".to_owned()]));
    // Policy routes need the addresses of links, which this topology does not have.
    assert_eq!([made(PolicyRoutes), made(Frr)], [(0, vec![]), (0, vec![])]);
}

#[test]
fn a_restart_of_the_controller_moves_nobody() {
    let mut before = Scene::new(None);
    before.ring("j", 1, &["h00", "h10", "h20"]);
    before.ring("k", 2, &["h01", "h11"]);
    assert!(before.settle());
    let kept = before.kept.clone().expect("kept");
    let text = serde_json::to_string(&kept).expect("JSON");
    let mut after = Scene::new(Some(serde_json::from_str(&text).expect("the same")));
    assert!(after.settle());
    let nodes: Vec<NodeName> = before.paths.by_node.keys().cloned().collect();
    for node in &nodes {
        assert_eq!(after.spines(&node.0), before.spines(&node.0));
    }
    assert_eq!((after.paths.moves, after.paths.epoch), (0, before.paths.epoch));
    // Jobs show their flows one after the other.
    after.ring("j", 1, &["h00", "h10", "h20"]);
    after.settle();
    for node in &nodes {
        assert_eq!(after.spines(&node.0), before.spines(&node.0));
    }
}

#[test]
fn a_job_that_is_gone_for_long_is_planned_for_no_more() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10"]);
    assert!(scene.settle());
    for process in [100, 101] {
        scene.paths.ended(ProcessId(process), scene.now);
    }
    scene.run(500 * SECOND);
    assert_eq!(scene.spines("h00").len(), 1, "it may be started again");
    scene.work = None;
    scene.run(101 * SECOND);
    assert!(scene.settle() || scene.work.is_some());
    assert_eq!(scene.spines("h00").len(), 0);
}

#[test]
fn an_agent_that_follows_other_orders_is_told_again() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10"]);
    assert!(scene.settle());
    scene.told.clear();
    let node = NodeName("h00".into());
    scene.paths.report(&node, PathReport::default(), scene.now);
    scene.run(100_000);
    assert_eq!(scene.told, [], "it was told just now");
    scene.run(AGAIN_US);
    scene.paths.report(&node, PathReport::default(), scene.now);
    scene.run(100_000);
    assert_eq!(scene.told.as_slice(), std::slice::from_ref(&node));
    scene.told.clear();
    let (idle, stranger) = (NodeName("h21".into()), NodeName("elsewhere".into()));
    for node in [&node, &idle, &stranger] {
        scene.paths.connected(node, scene.now);
    }
    scene.run(100_000);
    assert_eq!(scene.told, [node, idle.clone()], "also one that sends nothing, since it may listen");
    assert_eq!(scene.spines("h21").len(), 0);
    assert!(scene.paths.orders(&stranger).is_none());
}

/// All ordered nodes tell of trains over all their paths; those over a link lose some, if it is told which.
fn trains(scene: &mut Scene, seconds: u64, counts: &mut (u64, u64), bad: Option<(u8, u8)>) {
    for _ in 0..seconds {
        counts.0 += 9;
        counts.1 += 1;
        let nodes: Vec<NodeName> = scene.paths.by_node.keys().cloned().collect();
        for node in nodes {
            let (orders, epoch) = scene.paths.orders(&node).expect("ordered");
            let leaf = |address: IpAddr| match address {
                IpAddr::V4(address) => address.octets()[1],
                IpAddr::V6(_) => unreachable!("hosts have IPv4 addresses"),
            };
            let all = orders.orders.iter().flat_map(|order| (0..SPINES).map(move |spine| (order, spine)));
            let path = |(order, n): (&Order, u8)| {
                let lossy = bad == Some((leaf(order.from), n));
                MeasuredPath {
                    from: order.from,
                    to: order.to,
                    hops: vec![spine(n)],
                    good: if lossy { counts.0 } else { counts.0 + counts.1 },
                    bad: if lossy { counts.1 } else { 0 },
                    busy: 0,
                    behind_us: None,
                }
            };
            let paths = all.map(path).collect();
            scene.paths.measured(&node, &PathTrains { epoch, paths, carried: vec![] }, scene.now);
        }
        scene.run(SECOND);
    }
}

#[test]
fn a_link_that_loses_packets_is_named_avoided_and_cleared() {
    let mut scene = Scene::new(None);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.ring("k", 2, &["h21", "h11", "h01"]);
    assert!(scene.settle());
    let mut counts = (0, 0);
    trains(&mut scene, 60, &mut counts, None);
    assert_eq!(scene.findings, []);
    counts = (0, 0);
    trains(&mut scene, 60, &mut counts, Some((1, 0)));
    let finding = scene.findings.first().expect("told").clone();
    assert_eq!((finding.kind, scene.findings.len()), (c4_detect::finding::Kind::PathFault, 1));
    let links: Vec<_> = finding.suspects.iter().filter_map(|suspect| suspect.link.clone()).collect();
    assert_eq!(links, [c4_detect::finding::Link { src: "l1".into(), dst: "s0".into() }], "{finding:?}");
    assert!(finding.summary.contains("l1 → s0 loses") && finding.summary.contains("avoid"), "{finding:?}");
    let work = scene.work.take().expect("planned anew");
    scene.paths.made(work.make(), scene.now);
    for order in scene.paths.by_node.values().flat_map(|orders| &orders.orders) {
        let touches = [order.from, order.to].iter().any(|end| [host(1, 0), host(1, 1)].contains(end));
        assert!(!touches || order.routes[0].via[0] == [spine(1)], "{order:?}");
    }
    // What was measured on another network says nothing of this one.
    let (node, epoch) = (NodeName("h00".into()), 99);
    let stale = MeasuredPath {
        from: host(0, 0),
        to: host(1, 0),
        hops: vec![spine(0)],
        good: 0,
        bad: 1_000_000,
        busy: 0,
        behind_us: None,
    };
    for _ in 0..20 {
        let told = PathTrains { epoch, paths: vec![stale.clone()], carried: vec![] };
        scene.paths.measured(&node, &told, scene.now);
        scene.run(SECOND);
    }
    assert_eq!(scene.findings.len(), 1);
    counts = (0, 0);
    trains(&mut scene, 60, &mut counts, None);
    let cleared = scene.findings.last().expect("told");
    assert!(cleared.cleared.is_some() && cleared.id == finding.id, "{cleared:?}");
    assert!(scene.settle() || scene.work.is_some(), "it may be used again");
}

/// What a host of the usual fabric has explored: leaves and spines have an address each.
fn has_explored(paths: &Paths, node: &str) -> Explored {
    let number = |at: usize| node.as_bytes()[at] - b'0';
    let own = host(number(1), number(2));
    let leaf = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::from([10, 255, 0, address.octets()[1]]),
        IpAddr::V6(_) => unreachable!("hosts have IPv4 addresses"),
    };
    let (round, ends) = paths.to_explore(&NodeName(node.into())).unwrap_or_default();
    let mut traces = Vec::new();
    for (from, to) in ends {
        let trace = |hops| c4_traffic::learned::Trace { from, to, hops, ports: 40 };
        match leaf(from) == leaf(to) {
            true => traces.push(trace(vec![leaf(from)])),
            false => traces.extend((0..SPINES).map(|n| trace(vec![leaf(from), spine(n), leaf(to)]))),
        }
    }
    Explored { round, done: round > 0, ports: vec![("n".into(), own, Gbps::new(100.0))], traces }
}

#[test]
fn paths_are_planned_on_what_probes_have_found_out() {
    const NODES: [&str; 6] = ["h00", "h01", "h10", "h11", "h20", "h21"];
    let config =
        config::Paths { topology: Some(config::TopologySource::Learned), ..config::Paths::default() };
    let now = Timestamp(1_000 * SECOND);
    let mut scene = Scene::of(Paths::new(&config, Topology::default(), None, now), now);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    assert!(!scene.settle(), "nothing is known of the network");
    let tell = |scene: &mut Scene| {
        for node in NODES {
            let explored = has_explored(&scene.paths, node);
            scene.paths.explored(&NodeName(node.into()), explored, scene.now);
        }
    };
    tell(&mut scene);
    scene.run(11 * SECOND);
    assert_eq!(scene.explorers.len(), NODES.len());
    assert!(scene.work.is_none() && scene.told.is_empty());
    tell(&mut scene);
    assert!(scene.settle(), "now there is something to plan on");
    let view = scene.paths.view(None);
    assert_eq!((view.switches.len(), view.jobs[0].pattern.as_str()), (5, "ring of 3 hosts"));
    assert!(view.learned.planned && view.learned.waiting == 0 && !view.learned.yaml.is_empty());
    assert_eq!(view.mistakes, [""; 0]);
    let ordered: BTreeSet<&str> = scene.told.iter().map(|node| node.0.as_str()).collect();
    assert_eq!(ordered, NODES.into(), "those who send nothing hear that they have no orders");
    assert_eq!(scene.spines("h00").len(), 1);
    // What was learned survives a restart, and the plan with it.
    let kept = scene.kept.take().expect("kept");
    let topology = kept.topology().expect("learned");
    let mut again = Scene::of(Paths::new(&config, topology, Some(kept), scene.now), scene.now);
    again.ring("j", 1, &["h00", "h10", "h20"]);
    assert!(again.settle());
    assert_eq!((again.paths.moves, again.spines("h00")), (0, scene.spines("h00")));
    // Exploring again finds the same: nobody has to learn anything anew.
    let epoch = again.paths.epoch;
    tell(&mut again);
    again.run(11 * SECOND);
    tell(&mut again);
    assert!(!again.settle());
    assert_eq!(again.paths.epoch, epoch);
    // A host more is another topology; the plan stays.
    let more = |scene: &mut Scene| {
        let explored = has_explored(&scene.paths, "h22");
        scene.paths.explored(&NodeName("h22".into()), explored, scene.now);
        tell(scene);
    };
    more(&mut again);
    again.run(11 * SECOND);
    more(&mut again);
    again.settle();
    assert_eq!((again.paths.moves, again.spines("h00")), (0, scene.spines("h00")));
    assert_eq!(again.paths.epoch, epoch + 1);
}

#[test]
fn a_plan_for_a_topology_that_is_no_more_is_not_followed() {
    let config =
        config::Paths { topology: Some(config::TopologySource::Learned), ..config::Paths::default() };
    let now = Timestamp(1_000 * SECOND);
    let mut scene = Scene::of(Paths::new(&config, topology(), None, now), now);
    scene.ring("j", 1, &["h00", "h10", "h20"]);
    scene.run(SECOND);
    let late = scene.work.take().expect("something to plan").make();
    for round in 0..2 {
        for node in ["h00", "h10", "h20"] {
            let explored = has_explored(&scene.paths, node);
            assert_eq!(explored.round, round);
            scene.paths.explored(&NodeName(node.into()), explored, scene.now);
        }
        scene.run(if round == 0 { 11 * SECOND } else { SECOND });
    }
    assert!(scene.paths.view(None).switches.iter().any(|switch| switch.name == "leaf-10.255.0.0"));
    scene.paths.made(late, scene.now);
    assert!(scene.paths.view(None).planned.is_none());
    assert!(scene.settle(), "it is planned again");
    assert_eq!(scene.paths.view(None).jobs.len(), 1);
}
