//! Fabrics with jobs on them, planned as the controller plans.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

use c4_controller::{
    config::{self, PathActuator},
    paths::{
        Paths,
        view::PathsView,
        work::{Comparison, Work},
    },
};
use c4_detect::observation::Timestamp;
use c4_traffic::{
    Flow, Flows, Topology,
    sightings::Pair,
    topology::{Builder, Gbps, Port, State, SwitchId, Tier},
};

/// Under each leaf.
const HOSTS: u32 = 8;
/// Nodes of a job that are neighbours in its ring are this far apart, so that all traffic crosses the fabric.
const APART: usize = 7;

fn gbps(value: f64) -> Gbps {
    Gbps::new(value).expect("a rate")
}

fn switches(builder: &mut Builder, tier: Tier, count: u32) -> Vec<SwitchId> {
    (0..count).map(|n| builder.switch(&format!("{}{n}", tier.name()), tier).expect("a new name")).collect()
}

fn hosts(builder: &mut Builder, leaves: &[SwitchId]) {
    for (leaf, switch) in leaves.iter().enumerate() {
        for n in 0..HOSTS {
            let host = builder.host(&format!("h{leaf}-{n}")).expect("a new name");
            let port = Port { switch: *switch, rate: gbps(100.0), state: State::Up };
            builder.nic(host, "mlx0", vec![port]).expect("sound");
        }
    }
}

/// Every leaf with a link to every spine, as much up as there is down.
pub(crate) fn two_tiers(leaves: u32, spines: u32) -> Topology {
    let mut builder = Builder::new();
    let leaves = switches(&mut builder, Tier::Leaf, leaves);
    let spines = switches(&mut builder, Tier::Spine, spines);
    hosts(&mut builder, &leaves);
    let rate = gbps(100.0 * f64::from(HOSTS) / spines.len() as f64);
    for leaf in &leaves {
        for spine in &spines {
            builder.links(*leaf, *spine, rate, 1, State::Up).expect("sound");
        }
    }
    builder.build()
}

/// Pods of leaves and spines, and cores that join the spines of all pods.
pub(crate) fn three_tiers(pods: u32, leaves_each: u32, spines_each: u32, cores: u32) -> Topology {
    let mut builder = Builder::new();
    let leaves = switches(&mut builder, Tier::Leaf, pods * leaves_each);
    let spines = switches(&mut builder, Tier::Spine, pods * spines_each);
    let tops = switches(&mut builder, Tier::Core, cores);
    hosts(&mut builder, &leaves);
    let up = gbps(100.0 * f64::from(HOSTS) / f64::from(spines_each));
    let over = gbps(100.0 * f64::from(HOSTS * leaves_each) / f64::from(spines_each * cores));
    for pod in 0..pods {
        let pods_spines = &spines[(pod * spines_each) as usize..][..spines_each as usize];
        for leaf in &leaves[(pod * leaves_each) as usize..][..leaves_each as usize] {
            for spine in pods_spines {
                builder.links(*leaf, *spine, up, 1, State::Up).expect("sound");
            }
        }
        for spine in pods_spines {
            for top in &tops {
                builder.links(*spine, *top, over, 1, State::Up).expect("sound");
            }
        }
    }
    builder.build()
}

/// Two jobs, each a ring over half of the NICs.
fn flows(topology: &Topology) -> Flows {
    let nics: Vec<_> = (0..topology.nics().len())
        .map(|n| {
            let host = topology.find_host(&format!("h{}-{}", n / HOSTS as usize, n % HOSTS as usize));
            topology.find_nic(host.expect("a host"), "mlx0").expect("its NIC")
        })
        .collect();
    let mut flows = Flows::new();
    for (number, job) in ["gpt-22b", "llama"].into_iter().enumerate() {
        let of_job: Vec<_> = nics.iter().skip(number).step_by(2).collect();
        for (at, src) in of_job.iter().enumerate() {
            let dst = *of_job[(at + APART) % of_job.len()];
            let flow = Flow {
                id: format!("{job} {at}"),
                job: job.into(),
                src: **src,
                dst,
                demand: gbps(95.0),
                max_pieces: NonZeroU32::new(4).expect("four"),
            };
            flows.push(flow).expect("sound");
        }
    }
    flows
}

/// A plan for these jobs; then, with `dead`, another one that avoids that link.
pub(crate) fn planned(topology: Topology, dead: Option<(&str, &str)>) -> Arc<PathsView> {
    let now = Timestamp(1_700_000_000_000_000);
    let mut paths = Paths::new(&config::Paths::default(), topology.clone(), None, now);
    let (flows, topology) = (Arc::new(flows(&topology)), Arc::new(topology));
    let mut previous = None;
    let mut plan = |avoided: BTreeSet<Pair>, at| {
        let (topology, flows) = (topology.clone(), flows.clone());
        let actuator = PathActuator::default().actuator();
        let work = Work { topology, flows, avoided, previous: previous.take(), pinned: Vec::new(), actuator };
        let made = work.make();
        previous = Some(Arc::new(made.plan.as_previous(&made.flows)));
        let comparison = Comparison::with(&made);
        paths.made(made, at);
        paths.compared(comparison.make());
    };
    plan(BTreeSet::new(), now);
    if let Some((a, b)) = dead {
        let id = |name| topology.find_switch(name).expect("a switch");
        plan([(id(a).min(id(b)), id(a).max(id(b)))].into(), now.after(60_000_000));
    }
    Arc::new(paths.view(None))
}
