//! `libc4-path.so` in front of libibverbs, found as NCCL finds it: by `dlopen` and `dlvsym`. No RDMA hardware is there, so
//! libraries that say what they were told stand in for the real ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use c4_agent::paths::{
    discovery::{Answer, Discovery, Probe},
    knowledge::Knowledge,
    mailbox::Instructions,
    orders::{Listening, ROCE},
};
use c4_path_table::{self as table, ANY_RANK, Entry, Key, Table, publish};
use c4_proto::v1;
use c4_tests::{cc::compile, nccl::built};
use c4_traffic::document::{parse_flows, parse_topology};
use prost::Message;
use tempfile::TempDir;

/// What never takes this long has not happened.
const NEVER: Duration = Duration::from_secs(60);
/// Twice what a running queue pair takes to follow another plan, and some: for waiting for
/// what must not happen.
const SOON: Duration = Duration::from_millis(1200);
const PEER: &str = "10.0.1.1";

struct Scene {
    dir: TempDir,
}

/// A path by its ports.
fn path(bond: u8, ports: &[u16]) -> table::Path {
    table::Path { bond, ports: ports.to_vec() }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs");
        let script = format!("-Wl,--version-script={}", sources.join("library.map").display());
        let library = ["-shared", "-fPIC", "-ldl", "-Wl,-soname,libibverbs.so.1", &script];
        compile(&library, &[sources.join("library.c")], &dir.path().join("libibverbs.so.1"));
        let driver = ["-shared", "-fPIC", "-Wl,-soname,libmlx5.so.1"];
        compile(&driver, &[sources.join("mlx5.c")], &dir.path().join("libmlx5.so.1"));
        compile(&["-ldl"], &[sources.join("client.c")], &dir.path().join("client"));
        Self { dir }
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("paths")
    }

    /// Plans the paths to some addresses: connections take them in turn.
    fn plan(&self, generation: u64, to: &[&str], paths: &[table::Path]) -> Table {
        let entry = |to: &&str| {
            let to: IpAddr = to.parse().expect("an address");
            let slots = (0..paths.len() as u16).collect();
            Entry { key: Key::to(to, 4791, ANY_RANK), slots, paths: paths.to_vec() }
        };
        Table { generation, listen: None, entries: to.iter().map(entry).collect() }
    }

    fn publish(&self, table: &Table, until: u64) {
        publish(&self.table(), &table.encode(until).expect("fits")).expect("written");
    }

    /// The plan of most tests. The first port stands for a label of 0, which drivers take for none.
    fn usual(&self, until: u64) {
        self.publish(&self.plan(1, &[PEER], &[path(0, &[0xC000]), path(0, &[0xC123, 0xFFFF])]), until);
    }

    fn start(&self, environment: &[(&str, &str)]) -> Client {
        let mut command = Command::new(self.dir.path().join("client"));
        command.env("LD_LIBRARY_PATH", self.dir.path());
        command.env("LD_PRELOAD", built::path_shim().expect("the shim is built"));
        command.env("C4_PATH_TABLE", self.table());
        command.envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (said, hear) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let stdin = child.stdin.take();
        Client { child, stdin, hear, said: Vec::new() }
    }

    /// A queue pair to each of the peers, one after the other.
    fn run(&self, peers: &[&str], environment: &[(&str, &str)]) -> (Vec<u64>, String) {
        let mut client = self.start(environment);
        for (number, peer) in peers.iter().enumerate() {
            client.does(&format!("connect {number} {peer}"));
        }
        client.end();
        (client.ports(), client.said.join("\n"))
    }
}

struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    hear: Receiver<String>,
    said: Vec<String>,
}

impl Client {
    /// Has it do something, and waits until it is done.
    fn does(&mut self, what: &str) {
        let stdin = self.stdin.as_mut().expect("not ended");
        writeln!(stdin, "{what}").expect("it listens");
        while self.hear() != "done" {}
    }

    fn hear(&mut self) -> String {
        let line = self.hear.recv_timeout(NEVER).unwrap_or_else(|_| panic!("silent after {:#?}", self.said));
        for wrong in ["missing", "wrong", "not"] {
            assert!(!line.contains(wrong), "{line}");
        }
        self.said.push(line.clone());
        line
    }

    /// Waits until so many queue pairs were moved; where each went last.
    fn moves(&mut self, count: usize) -> BTreeMap<u32, u16> {
        self.moves_until(|moved| moved.len() >= count)
    }

    /// Waits until it is so; where each queue pair went last.
    fn moves_until(&mut self, so: impl Fn(&BTreeMap<u32, u16>) -> bool) -> BTreeMap<u32, u16> {
        let mut moved = BTreeMap::new();
        while !so(&moved) {
            let line = self.hear();
            if let Some((qp, port)) =
                line.strip_prefix("moved qp=").and_then(|rest| rest.split_once(" port="))
            {
                moved.insert(qp.parse().expect("a number"), port.parse().expect("a port"));
            }
        }
        moved
    }

    /// Nothing is moved for some time.
    fn stays(&mut self) {
        while let Ok(line) = self.hear.recv_timeout(SOON) {
            assert!(!line.starts_with("moved") && !line.starts_with("bonded"), "{line}");
        }
    }

    fn end(&mut self) {
        drop(self.stdin.take());
        while let Ok(line) = self.hear.recv_timeout(NEVER) {
            self.said.push(line);
        }
        assert!(self.child.wait().expect("waited for").success(), "{:#?}", self.said);
        // What the caller wrote is there again after each call.
        let results = self.said.iter().filter(|line| line.starts_with("result "));
        assert!(results.clone().all(|line| line == "result 0 label 0"), "{:#?}", self.said);
    }

    /// Ports that the library was told on the way to "ready to receive", 0 standing for no label at all.
    fn ports(&self) -> Vec<u64> {
        let lines = self.said.iter().filter_map(|line| line.strip_prefix("modify state=2 "));
        let port = |line: &str| {
            let value = |name: &str| {
                let text = line.split(' ').find_map(|word| word.strip_prefix(name)).expect(name);
                text.parse::<u64>().expect("a number")
            };
            if value("label=") == 0 { 0 } else { value("port=") }
        };
        lines.map(port).collect()
    }
}

#[test]
fn queue_pairs_to_planned_peers_get_planned_ports() {
    let scene = Scene::new();
    scene.usual(u64::MAX);
    let (ports, said) = scene.run(&[PEER, PEER, "10.0.1.2", PEER], &[]);
    assert_eq!(ports, [0xC000, 0xC123, 0, 0xC000], "{said}");
    assert_eq!(said.matches("state=3").count(), 4, "other changes are passed on\n{said}");
}

#[test]
fn a_library_that_nccl_was_told_of_is_stood_before_too() {
    let scene = Scene::new();
    scene.usual(u64::MAX);
    let (here, there) = (scene.dir.path().join("libibverbs.so.1"), scene.dir.path().join("other.so"));
    fs::rename(here, &there).expect("renamed");
    let (ports, said) =
        scene.run(&[PEER], &[("NCCL_IBVERBS_LIB", there.to_str().expect("UTF-8")), ("LD_LIBRARY_PATH", "")]);
    assert_eq!(ports, [0xC000], "{said}");
}

#[test]
fn without_a_plan_everything_is_as_it_was() {
    let scene = Scene::new();
    assert_eq!(scene.run(&[PEER], &[]).0, [0], "no table");
    scene.usual(1);
    assert_eq!(scene.run(&[PEER], &[]).0, [0], "nobody renews it");
    scene.usual(u64::MAX);
    assert_eq!(scene.run(&[PEER], &[("C4_PATH", "off")]).0, [0]);
    let whole = fs::read(scene.table()).expect("read");
    for torn in [&whole[..0], &whole[..40], &whole[..whole.len() - 1]] {
        fs::write(scene.table(), torn).expect("written");
        assert_eq!(scene.run(&[PEER], &[]).0, [0], "{} bytes", torn.len());
    }
}

#[test]
fn peers_have_ipv6_addresses_too() {
    let scene = Scene::new();
    scene.publish(&scene.plan(1, &["fd00::1:1"], &[path(0, &[0xC123])]), u64::MAX);
    assert_eq!(scene.run(&["fd00::1:1", "fd00::1:2"], &[]).0, [0xC123, 0]);
}

#[test]
fn a_label_that_is_refused_is_taken_back() {
    let scene = Scene::new();
    scene.usual(u64::MAX);
    let (ports, said) = scene.run(&[PEER], &[("STUB_REFUSES_LABELS", "1")]);
    assert_eq!(ports, [0xC000, 0], "tried, and then as the caller had it\n{said}");
}

const MLX5: (&str, &str) = ("STUB_HAS_MLX5", "1");

#[test]
fn a_new_plan_reaches_queue_pairs_that_run_and_moves_no_more_than_it_must() {
    let scene = Scene::new();
    let mut client = scene.start(&[MLX5]);
    // Connected before anything was planned, as at the beginning of every job.
    for number in 0..4 {
        client.does(&format!("connect {number} {PEER}"));
    }
    client.does("connect 9 10.0.1.2");
    let halves = [path(0, &[0xC001, 0xC002]), path(0, &[0xC003])];
    scene.publish(&scene.plan(1, &[PEER], &halves), u64::MAX);
    let first = client.moves(4);
    let on = |moved: &BTreeMap<u32, u16>, port: u16| moved.values().filter(|at| **at == port).count();
    assert_eq!((on(&first, 0xC001), on(&first, 0xC003)), (2, 2), "{first:?}");
    // What was learned anew takes the same paths: who has one of their ports stays.
    let again = [path(0, &[0xC002, 0xC001]), path(0, &[0xC003])];
    scene.publish(&scene.plan(2, &[PEER], &again), u64::MAX);
    client.stays();
    // One path is no more.
    scene.publish(&scene.plan(3, &[PEER], &[path(0, &[0xC001]), path(0, &[0xC004])]), u64::MAX);
    let second = client.moves(2);
    assert!(second.values().all(|port| *port == 0xC004), "{second:?}");
    assert!(second.keys().all(|qp| first[qp] == 0xC003), "{second:?} after {first:?}");
    // Nobody moves what was destroyed or reset. (Those that are left may be evened out once more before the next plan.)
    client.does("destroy 0");
    client.does("reset 1");
    scene.publish(&scene.plan(4, &[PEER], &[path(0, &[0xC005])]), u64::MAX);
    let third = client.moves_until(|moved| [2, 3].iter().all(|qp| moved.get(qp) == Some(&0xC005)));
    assert_eq!(third.len(), 2, "{third:?}");
    // A plan that says nothing of them any more, a torn one, a dead agent.
    scene.publish(&scene.plan(5, &["10.9.9.9"], &[path(0, &[0xC006])]), u64::MAX);
    client.stays();
    fs::write(scene.table(), "C4PATHS\0, and then nothing").expect("written");
    client.stays();
    scene.publish(&scene.plan(6, &[PEER], &[path(0, &[0xC006])]), 1);
    client.stays();
    // New ones come to their places at once, old ones follow.
    scene.publish(&scene.plan(7, &[PEER], &[path(0, &[0xC006])]), u64::MAX);
    client.moves(2);
    client.does(&format!("connect 20 {PEER}"));
    client.stays();
    client.end();
    assert_eq!(client.ports().last(), Some(&0xC006));
}

#[test]
fn what_cannot_be_moved_is_left_alone() {
    let scene = Scene::new();
    for environment in [
        &[][..],
        &[MLX5, ("STUB_OTHER_NIC", "1")],
        &[MLX5, ("C4_PATH_LIVE", "off")],
        &[MLX5, ("C4_PATH", "off")],
    ] {
        let mut client = scene.start(environment);
        client.does(&format!("connect 0 {PEER}"));
        scene.usual(u64::MAX);
        client.stays();
        client.end();
        fs::remove_file(scene.table()).expect("there");
    }
    // Asked once, not again and again.
    let mut client = scene.start(&[MLX5, ("STUB_REFUSES_MOVES", "1")]);
    client.does(&format!("connect 0 {PEER}"));
    scene.usual(u64::MAX);
    client.moves(1);
    client.stays();
    client.end();
}

#[test]
fn queue_pairs_leave_by_the_planned_port_of_a_bond() {
    let scene = Scene::new();
    let paths = [path(1, &[0xC001]), path(2, &[0xC002])];
    scene.publish(&scene.plan(1, &[PEER], &paths), u64::MAX);
    let mut client = scene.start(&[MLX5]);
    client.does(&format!("connect 0 {PEER}"));
    client.does(&format!("connect 1 {PEER}"));
    assert_eq!(client.moves(2), BTreeMap::from([(0, 0xC001), (1, 0xC002)]));
    let bonded: Vec<&String> = client.said.iter().filter(|line| line.starts_with("bonded")).collect();
    assert_eq!(bonded.len(), 2, "{bonded:?}");
    assert!(bonded.iter().any(|line| *line == "bonded qp=0 port=1"), "{bonded:?}");
    assert!(bonded.iter().any(|line| *line == "bonded qp=1 port=2"), "{bonded:?}");
    client.end();
    // Where there is no bond after all, the plan is not for this host.
    let mut client = scene.start(&[MLX5, ("STUB_WITHOUT_BOND", "1")]);
    client.does(&format!("connect 0 {PEER}"));
    client.stays();
    client.end();
}

/// A host with a bond of two ports, in two planes.
const BONDED: &str = r#"
switches:
  - {name: l0a, tier: leaf}
  - {name: l1a, tier: leaf}
  - {name: l0b, tier: leaf}
  - {name: l1b, tier: leaf}
  - {name: s0, tier: spine, addresses: [172.16.0.1]}
  - {name: s1, tier: spine, addresses: [172.16.0.2]}
links:
  - {a: l0a, b: s0, gbps: 200}
  - {a: l0b, b: s0, gbps: 200}
  - {a: l1a, b: s1, gbps: 200}
  - {a: l1b, b: s1, gbps: 200}
hosts:
  - {name: a, nics: [{name: n, ports: [{switch: l0a, gbps: 200, address: 10.0.0.1}, {switch: l1a, gbps: 200, address: 10.0.0.1}]}]}
  - {name: b, nics: [{name: n, ports: [{switch: l0b, gbps: 200, address: 10.0.1.1}, {switch: l1b, gbps: 200, address: 10.0.1.1}]}]}
"#;

#[test]
fn a_plans_port_of_a_bond_reaches_the_queue_pair() {
    // What a controller plans for a flow of two queue pairs, and sends…
    let topology = parse_topology(BONDED).unwrap_or_else(|problems| panic!("{problems}"));
    let flows = r#"{"flows":[{"id":"f","job":"j","gbps":400,"max_pieces":2,
        "src":{"host":"a","nic":"n"},"dst":{"host":"b","nic":"n"}}]}"#;
    let flows = parse_flows(flows, &topology).unwrap_or_else(|problems| panic!("{problems}"));
    let plan = c4_traffic::plan(&topology, &flows, None);
    let orders = c4_traffic::orders::orders(&topology, &flows, &plan).expect("addresses are known");
    let sent = c4_controller::convert::orders(1, 1, &orders).encode_to_vec();
    // …an agent takes, and makes a table of with the ports that it has learned.
    let taken = v1::PathOrders::decode(sent.as_slice()).expect("as it was sent");
    let taken = Instructions::try_from(taken).expect("sound");
    let listen = Listening { tcp: 30_000..30_001, roce: true };
    let mut knowledge = Knowledge::default();
    knowledge.order(taken.orders, &listen);
    let to = SocketAddr::new(PEER.parse().expect("an address"), ROCE);
    // Port 0xC001 takes spine 1, the next one spine 2.
    let answer = |probe: Probe| Answer::Hop([172, 16, 0, (probe.port - 0xC000) as u8].into());
    let learned = Discovery::in_model(knowledge.task(to, 0xC001..0xC003, 1), answer);
    knowledge.learned(to, &learned, true);
    let scene = Scene::new();
    let (table, _) = knowledge.table(&listen, 1);
    scene.publish(&table, u64::MAX);
    // The queue pairs of a process there leave by these ports, and by those of the bond that lead to them.
    let mut client = scene.start(&[MLX5]);
    client.does(&format!("connect 0 {PEER}"));
    client.does(&format!("connect 1 {PEER}"));
    let moved = client.moves(2);
    let bonded: BTreeSet<&str> =
        client.said.iter().filter(|line| line.starts_with("bonded")).map(String::as_str).collect();
    for (pair, port) in &moved {
        let bond = u32::from(*port) - 0xC000;
        assert!(bonded.contains(format!("bonded qp={pair} port={bond}").as_str()), "{moved:?} {bonded:?}");
    }
    assert_eq!(moved.values().copied().collect::<BTreeSet<_>>(), [0xC001, 0xC002].into());
    assert_eq!(bonded.len(), 2, "{bonded:?}");
    client.end();
}

#[test]
fn a_forked_child_neither_waits_nor_moves() {
    let scene = Scene::new();
    scene.usual(u64::MAX);
    let mut client = scene.start(&[MLX5]);
    client.does(&format!("connect 0 {PEER}"));
    for _ in 0..20 {
        client.does(&format!("fork {PEER}"));
    }
    let children = client.said.iter().filter(|line| *line == "child 0").count();
    assert_eq!(children, 20);
    // The parent goes on to follow.
    scene.publish(&scene.plan(2, &[PEER], &[path(0, &[0xC777])]), u64::MAX);
    assert_eq!(client.moves(1), BTreeMap::from([(0, 0xC777)]));
    client.end();
}

#[test]
fn thousands_of_queue_pairs_follow_and_more_than_are_known_stay() {
    let scene = Scene::new();
    let mut client = scene.start(&[MLX5]);
    client.does(&format!("many 4500 {PEER}"));
    let ports = [0xC001, 0xC002, 0xC003, 0xC004];
    scene.publish(&scene.plan(1, &[PEER], &ports.map(|port| path(0, &[port]))), u64::MAX);
    let moved = client.moves(4096);
    for port in ports {
        assert_eq!(moved.values().filter(|at| **at == port).count(), 1024);
    }
    client.stays();
    client.end();
}
