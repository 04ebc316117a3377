//! What planning costs: a large fabric from nothing, and what happens every day from the plan before it.

use std::{hint::black_box, num::NonZeroU32};

use c4_traffic::{
    Flow, Flows, Previous, Topology, plan,
    topology::{Builder, Gbps, Port, State, SwitchId, Tier},
};
use criterion::{Criterion, criterion_group, criterion_main};

fn fabric(leaves: usize, spines: usize, nics: usize) -> Topology {
    let rate = Gbps::new(400.0).expect("a rate");
    let mut builder = Builder::new();
    let mut switches = |kind: &str, tier, count: usize| -> Vec<SwitchId> {
        (0..count).map(|n| builder.switch(&format!("{kind}{n}"), tier).expect("new")).collect()
    };
    let leaves = switches("leaf", Tier::Leaf, leaves);
    let spines = switches("spine", Tier::Spine, spines);
    for leaf in &leaves {
        for spine in &spines {
            builder.links(*leaf, *spine, rate, 1, State::Up).expect("few enough");
        }
    }
    for (l, leaf) in leaves.iter().enumerate() {
        for n in 0..nics {
            let host = builder.host(&format!("h{l}-{n}")).expect("new");
            builder.nic(host, "nic0", vec![Port { switch: *leaf, rate, state: State::Up }]).expect("new");
        }
    }
    builder.build()
}

/// Racks of NICs with two ports, each on a leaf of its own; planes share the spines.
fn two_planes(racks: usize, spines: usize, nics: usize) -> Topology {
    let rate = Gbps::new(200.0).expect("a rate");
    let mut builder = Builder::new();
    let mut switches = |kind: &str, tier, count: usize| -> Vec<SwitchId> {
        (0..count).map(|n| builder.switch(&format!("{kind}{n}"), tier).expect("new")).collect()
    };
    let leaves = switches("leaf", Tier::Leaf, 2 * racks);
    let spines = switches("spine", Tier::Spine, spines);
    for leaf in &leaves {
        for spine in &spines {
            builder.links(*leaf, *spine, rate, 1, State::Up).expect("few enough");
        }
    }
    for (rack, pair) in leaves.chunks(2).enumerate() {
        for n in 0..nics {
            let host = builder.host(&format!("h{rack}-{n}")).expect("new");
            let port = |switch: &SwitchId| Port { switch: *switch, rate, state: State::Up };
            builder.nic(host, "nic0", pair.iter().map(port).collect()).expect("new");
        }
    }
    builder.build()
}

/// Pods whose spine `k` shares the cores of group `k` with those of other pods.
fn three_tiers(pods: usize, leaves: usize, spines: usize) -> Topology {
    let rate = Gbps::new(400.0).expect("a rate");
    let mut builder = Builder::new();
    let cores: Vec<SwitchId> =
        (0..spines * leaves).map(|n| builder.switch(&format!("core{n}"), Tier::Core).expect("new")).collect();
    for pod in 0..pods {
        let mut above = Vec::new();
        for k in 0..spines {
            let spine = builder.switch(&format!("spine{pod}-{k}"), Tier::Spine).expect("new");
            for core in &cores[k * leaves..(k + 1) * leaves] {
                builder.links(spine, *core, rate, 1, State::Up).expect("few enough");
            }
            above.push(spine);
        }
        for l in 0..leaves {
            let leaf = builder.switch(&format!("leaf{pod}-{l}"), Tier::Leaf).expect("new");
            for spine in &above {
                builder.links(leaf, *spine, rate, 1, State::Up).expect("few enough");
            }
            for n in 0..spines {
                let host = builder.host(&format!("h{pod}-{l}-{n}")).expect("new");
                builder.nic(host, "nic0", vec![Port { switch: leaf, rate, state: State::Up }]).expect("new");
            }
        }
    }
    builder.build()
}

/// Each of the first NICs of every leaf sends to `peers` others, and hears from as many: rings of several jobs whose
/// ranks are scattered over the fabric.
fn flows(
    topology: &Topology,
    (peers, each): (usize, usize),
    gbps: f64,
    max_pieces: u32,
    job: &str,
    into: &mut Flows,
) {
    let ids: Vec<_> =
        topology.nics().iter().map(|nic| topology.find_nic(nic.host, &nic.name).expect("there")).collect();
    let members: Vec<_> = ids.iter().step_by(each).collect();
    let mut seed = 7u64;
    for peer in 0..peers {
        let mut ring = members.clone();
        for index in (1..ring.len()).rev() {
            // Knuth's constants will do.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ring.swap(index, (seed >> 33) as usize % (index + 1));
        }
        for (index, src) in ring.iter().enumerate() {
            let dst = ring[(index + 1) % ring.len()];
            let demand = Gbps::new(gbps).expect("a rate");
            let max_pieces = NonZeroU32::new(max_pieces).expect("some");
            let id = format!("{job}-{peer}-{index}");
            into.push(Flow { id, job: job.into(), src: **src, dst: *dst, demand, max_pieces }).expect("new");
        }
    }
}

fn report(name: &str, plan: &c4_traffic::Plan) {
    eprintln!(
        "{name}: {} flows, fullest {:.4} (bound {:.4}), fabric {:.4} (bound {:.4}), {} moves",
        plan.flows.len(),
        plan.max_link_utilisation,
        plan.lower_bound,
        plan.max_fabric_utilisation,
        plan.fabric_lower_bound,
        plan.moves
    );
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    for (name, leaves, spines, nics, peers, pieces) in [
        ("100k flows, 960 leaves, 64 spines", 960, 64, 64, 2, 1),
        ("100k flows, 512 leaves, 512 spines", 512, 512, 64, 3, 1),
        ("100k flows, 960 leaves, 64 spines, 4 pieces", 960, 64, 64, 2, 4),
    ] {
        let topology = fabric(leaves, spines, nics);
        let mut all = Flows::new();
        flows(&topology, (peers, 1), 400.0 / peers as f64, pieces, "a", &mut all);
        report(name, &plan(&topology, &all, None));
        group.bench_function(name, |bench| bench.iter(|| plan(black_box(&topology), &all, None)));
    }
    for (name, topology) in [
        ("98k flows, two planes, 1024 leaves, 64 spines", two_planes(512, 64, 64)),
        ("98k flows, three tiers, 1024 leaves", three_tiers(32, 32, 32)),
    ] {
        let mut all = Flows::new();
        let each = all_alike(&topology);
        flows(&topology, (3, 1), each / 3.0, 1, "a", &mut all);
        report(name, &plan(&topology, &all, None));
        group.bench_function(name, |bench| bench.iter(|| plan(black_box(&topology), &all, None)));
    }
    group.finish();
}

/// What all ports of a NIC send together.
fn all_alike(topology: &Topology) -> f64 {
    topology.nics()[0].ports.iter().map(|port| port.rate.get()).sum()
}

fn replan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replan");
    group.sample_size(20);
    for pieces in [1, 4] {
        let topology = fabric(128, 32, 32);
        let mut all = Flows::new();
        flows(&topology, (4, 1), 75.0, pieces, "a", &mut all);
        let first = plan(&topology, &all, None);
        report("16k flows", &first);
        let previous: Previous = first.as_previous(&all);

        let mut broken = topology.clone();
        let (leaf, spine) = (broken.find_switch("leaf3"), broken.find_switch("spine5"));
        broken.set_link_state(leaf.expect("there"), spine.expect("there"), None, State::Down);
        report("16k flows, a link dies", &plan(&broken, &all, Some(&previous)));
        let name = format!("16k flows, a link dies, {pieces} pieces");
        group.bench_function(name, |bench| bench.iter(|| plan(black_box(&broken), &all, Some(&previous))));

        let mut more = all.clone();
        flows(&topology, (1, 8), 75.0, pieces, "b", &mut more);
        report("16k flows, a job arrives", &plan(&topology, &more, Some(&previous)));
        let name = format!("16k flows, a job arrives, {pieces} pieces");
        group.bench_function(name, |bench| bench.iter(|| plan(black_box(&topology), &more, Some(&previous))));

        let name = format!("16k flows, nothing new, {pieces} pieces");
        group.bench_function(name, |bench| bench.iter(|| plan(black_box(&topology), &all, Some(&previous))));
    }
    group.finish();
}

criterion_group!(benches, bench, replan);
criterion_main!(benches);
