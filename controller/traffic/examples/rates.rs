//! The table a network engineer asks for: what flows get from hashing, from local splitting, from a plan, and at best.
//!
//! ```text
//! cargo run --release -p c4-traffic --example rates
//! ```
//!
//! The fabric is the one of the C4 paper's test bed in outline: hosts of eight NICs, each with two ports of 200 Gbit/s in
//! two planes, and all-reduce jobs over two hosts that sit in different segments, so that all their traffic crosses the
//! spines. A NIC sends at most 360 Gbit/s: that is what NVLink inside the hosts leaves. The model is max-min fairness. A
//! collective is cut evenly over its channels and waits for the slowest, so a job's bus bandwidth is what its slowest flow would
//! give a whole NIC. The column "shared" says what it would be if the flows of a NIC could take work from each other, so that
//! only the sum of them counts: then hashing costs less. The rows at 2:1 have links of half the rate; those with half as many spines say what
//! that would be.

use std::{collections::BTreeMap, num::NonZeroU32};

use c4_traffic::{
    Flow, Flows, Plan, Topology, baseline,
    compare::Gain,
    plan, rates,
    topology::{Builder, Gbps, Port, State, Tier},
    wires::Wires,
};

const HOSTS: usize = 16;
const NICS: usize = 8;
const DEMAND: f64 = 360.0;
const SEEDS: u64 = 50;

fn gbps(rate: f64) -> Gbps {
    Gbps::new(rate).expect("a rate")
}

/// Two segments of eight hosts. A leaf serves one plane of one rail pair of its segment.
fn fabric(spines: usize, rate: f64) -> Topology {
    let mut builder = Builder::new();
    let spines: Vec<_> =
        (0..spines).map(|n| builder.switch(&format!("spine{n}"), Tier::Spine).expect("new")).collect();
    // Eight leaves a segment: rails 2k and 2k + 1, plane p.
    let mut leaves = Vec::new();
    for segment in 0..2 {
        for pair in 0..NICS / 2 {
            for plane in 0..2 {
                let leaf = builder.switch(&format!("leaf{segment}-{pair}-{plane}"), Tier::Leaf).expect("new");
                for spine in &spines {
                    // Down: 8 hosts × 2 NICs × 200. Up: 16 spines × 200, or less.
                    builder.links(leaf, *spine, gbps(rate), 1, State::Up).expect("fine");
                }
                leaves.push(leaf);
            }
        }
    }
    for h in 0..HOSTS {
        let host = builder.host(&format!("host{h}")).expect("new");
        for n in 0..NICS {
            let leaf = |plane: usize| leaves[(h / 8) * NICS + n / 2 * 2 + plane];
            let port = |plane| Port { switch: leaf(plane), rate: gbps(200.0), state: State::Up };
            builder.nic(host, &format!("nic{n}"), vec![port(0), port(1)]).expect("new");
        }
    }
    builder.build()
}

/// Each job is an all-reduce between host j of one segment and host j of the other, on all NICs. NCCL opens several
/// connections; here there is one for each port, so a flow has half a NIC.
fn jobs(topology: &Topology, count: usize, max_pieces: u32) -> Flows {
    let mut flows = Flows::new();
    for job in 0..count {
        for n in 0..NICS {
            let nic = |host: usize| {
                let host = topology.find_host(&format!("host{host}")).expect("there");
                topology.find_nic(host, &format!("nic{n}")).expect("there")
            };
            for (src, dst) in [(job, job + 8), (job + 8, job)] {
                for half in 0..2 {
                    let flow = Flow {
                        id: format!("job{job}-{src}-nic{n}-{half}"),
                        job: format!("job{job}"),
                        src: nic(src),
                        dst: nic(dst),
                        demand: gbps(DEMAND / 2.0),
                        max_pieces: NonZeroU32::new(max_pieces).expect("some"),
                    };
                    flows.push(flow).expect("new");
                }
            }
        }
    }
    flows
}

/// What flows get, and what jobs would if the flows of a NIC shared its work.
struct Row {
    gain: Gain,
    shared: f64,
}

impl Row {
    fn of(flows: &Flows, rates: &[f64]) -> Self {
        let mut jobs: BTreeMap<&str, BTreeMap<_, f64>> = BTreeMap::new();
        for (flow, rate) in flows.as_slice().iter().zip(rates) {
            *jobs.entry(&flow.job).or_default().entry(flow.src).or_default() += rate;
        }
        let slowest = |nics: &BTreeMap<_, f64>| nics.values().copied().fold(f64::INFINITY, f64::min);
        let shared = jobs.values().map(slowest).sum::<f64>() / jobs.len().max(1) as f64;
        Self { gain: Gain::of(flows, rates), shared }
    }

    fn mean(of: &[Self]) -> Self {
        let gains: Vec<Gain> = of.iter().map(|row| row.gain).collect();
        let shared = of.iter().map(|row| row.shared).sum::<f64>() / of.len().max(1) as f64;
        Self { gain: Gain::mean(&gains), shared }
    }
}

fn print(name: &str, Row { gain, shared }: &Row) {
    println!("  {name:<44} {:>8.1} {:>10.0} {:>8.1} {shared:>8.1}", gain.slowest, gain.sum, gain.bus);
}

fn main() {
    let fabrics = [("1:1", 16, 200.0), ("2:1", 16, 100.0), ("2:1 by half as many spines", 8, 200.0)];
    for (name, spines, rate) in fabrics {
        for (health, dead) in [("all links up", false), ("one uplink dead", true)] {
            for count in [1, 8] {
                table(&format!("{name}, {health}, {count} job(s)"), fabric(spines, rate), dead, count);
            }
        }
    }
}

fn table(title: &str, whole: Topology, dead: bool, count: usize) {
    println!("{title}: Gbit/s a flow, all flows, a NIC");
    println!("  {:<44} {:>8} {:>10} {:>8} {:>8}", "", "slowest", "sum", "bus", "shared");
    let mut topology = whole.clone();
    if dead {
        let switch = |name: &str| topology.find_switch(name).expect("there");
        let (leaf, spine) = (switch("leaf0-0-0"), switch("spine3"));
        topology.set_link_state(leaf, spine, None, State::Down);
    }
    let wires = Wires::new(&topology);
    let got = |flows: &Flows, plan: &Plan| Row::of(flows, &rates::planned(&wires, flows, plan));
    let mean = |plan: &dyn Fn(u64) -> Row| Row::mean(&(0..SEEDS).map(plan).collect::<Vec<_>>());
    let flows = jobs(&topology, count, 1);
    // Two flows a NIC: a queue pair each is two a NIC.
    for (name, queue_pairs) in
        [("ECMP, 2 queue pairs a NIC", 1), ("ECMP, 4", 2), ("ECMP, 16", 8), ("ECMP, 32", 16)]
    {
        print(name, &mean(&|seed| got(&flows, &baseline::ecmp(&topology, &flows, queue_pairs, seed))));
    }
    print("Ethereal alone", &mean(&|seed| got(&flows, &baseline::ethereal(&topology, &flows, seed))));
    let before = plan(&whole, &flows, None);
    let known = before.as_previous(&flows);
    if dead {
        let hashed = |seed| {
            let spare = baseline::ecmp(&topology, &flows, 1, seed);
            got(&flows, &fallen_back(&topology, &before, &spare))
        };
        print("plan of before, dead link's flows hashed", &mean(&hashed));
    }
    let placed = plan(&topology, &flows, dead.then_some(&known));
    print(if dead { "plan, re-placed" } else { "plan, whole flows" }, &got(&flows, &placed));
    let cut = jobs(&topology, count, 16);
    let weighted = plan(&topology, &cut, dead.then_some(&known));
    print(
        if dead { "plan, weighted by queue pairs" } else { "plan, flows may be cut" },
        &got(&cut, &weighted),
    );
    print("ideal spraying", &Row::of(&flows, &baseline::spraying(&topology, &flows)));
    println!();
}

/// An old plan on a new topology: what crossed a dead link goes where hashing puts it.
fn fallen_back(topology: &Topology, before: &Plan, spare: &Plan) -> Plan {
    let dead: Vec<_> = topology
        .links()
        .iter()
        .filter(|link| link.state == State::Down)
        .map(|link| [link.a, link.b])
        .collect();
    let mut plan = before.clone();
    for (planned, spare) in plan.flows.iter_mut().zip(&spare.flows) {
        let crosses = planned.pieces.iter().any(|piece| {
            piece
                .path
                .windows(2)
                .any(|ends| dead.iter().any(|link| link.contains(&ends[0]) && link.contains(&ends[1])))
        });
        if crosses {
            planned.clone_from(spare);
        }
    }
    plan
}
