//! A topology that is learned by the agent's own probes, on a fabric of network namespaces: the kernel forwards, hashes and answers. Where
//! namespaces may not be had, that is said.

use std::{collections::BTreeSet, net::IpAddr, sync::atomic::AtomicBool, thread};

use c4_agent::paths::explore::{ExploreSettings, trace};
use c4_tests::fabric::{Fabric, Shape, acquire_rights, host_address, spine_address};
use c4_traffic::{
    Topology,
    learned::{Assumed, HostPort, Learned, Trace, learn},
    topology::{Gbps, Tier},
};

const SHAPE: Shape = Shape { leaves: 3, spines: 2, hosts: 2, mbit: 100, slow: 0, icmp_every_ms: 0 };

fn fabric() -> Option<Fabric> {
    let built = acquire_rights().and_then(|()| Fabric::build(SHAPE));
    match built {
        Ok(fabric) => Some(fabric),
        Err(error) => {
            let said = format!("{error:#}");
            let excused = said.contains("network namespaces need root") || said.contains("(CONFIG_");
            assert!(excused, "{said}");
            println!("not on this machine: {said}");
            None
        }
    }
}

fn hosts() -> Vec<(usize, usize)> {
    (0..SHAPE.leaves).flat_map(|leaf| (0..SHAPE.hosts).map(move |host| (leaf, host))).collect()
}

/// Each host explores the way to the next three.
fn explored(fabric: &Fabric) -> Vec<Trace> {
    let settings = ExploreSettings { interfaces: Vec::new(), ports: 20_000..30_000, to: 30_000 };
    let from_one = |at: usize| {
        let hosts = hosts();
        let address = |(leaf, host): (usize, usize)| IpAddr::from(host_address(leaf, host));
        let (leaf, host) = hosts[at];
        let explore = || {
            let others = (1..=3).map(|step| address(hosts[(at + step) % hosts.len()]));
            let never = AtomicBool::new(false);
            others.flat_map(|to| trace(&settings, address(hosts[at]), to, &never)).collect::<Vec<_>>()
        };
        fabric.host(leaf, host).run(explore).expect("a namespace")
    };
    let found = thread::scope(|scope| {
        let from_one = &from_one;
        let explorers: Vec<_> = (0..hosts().len()).map(|at| scope.spawn(move || from_one(at))).collect();
        explorers.into_iter().flat_map(|explorer| explorer.join().expect("no panic")).collect::<Vec<_>>()
    });
    let trace = |trace: c4_agent::report::ExploredPath| Trace {
        from: trace.from,
        to: trace.to,
        hops: trace.hops,
        ports: trace.ports,
    };
    found.into_iter().map(trace).collect()
}

fn learned(traces: &[Trace]) -> Result<Learned, Vec<String>> {
    let port = |(leaf, host): (usize, usize)| HostPort {
        host: format!("host{leaf}-{host}"),
        nic: "eth0".into(),
        address: host_address(leaf, host).into(),
        rate: Gbps::new(0.1),
    };
    learn(&hosts().into_iter().map(port).collect::<Vec<_>>(), traces, Assumed::default())
}

/// It is wired as it was built: every host under its leaf, every spine one switch by all its addresses.
fn check(topology: &Topology) {
    let of_tier = |tier| topology.switches().iter().filter(|switch| switch.tier == tier).count();
    assert_eq!((of_tier(Tier::Leaf), of_tier(Tier::Spine)), (SHAPE.leaves, SHAPE.spines));
    assert_eq!(topology.links().len(), SHAPE.leaves * SHAPE.spines);
    for (number, nic) in topology.nics().iter().enumerate() {
        let beside = number / SHAPE.hosts * SHAPE.hosts;
        assert_eq!(nic.ports[0].switch, topology.nics()[beside].ports[0].switch, "{nic:?}");
    }
    let owner = |leaf: usize, spine: usize| {
        let address = IpAddr::from(spine_address(leaf, spine));
        let owner = topology.switches().iter().find(|switch| {
            let id = topology.find_switch(&switch.name).expect("there");
            topology.switch_addresses(id).contains(&address)
        });
        owner.expect("every spine was met from under every leaf").name.as_str()
    };
    let mut spines = BTreeSet::new();
    for spine in 0..SHAPE.spines {
        let owners: BTreeSet<&str> = (0..SHAPE.leaves).map(|leaf| owner(leaf, spine)).collect();
        assert_eq!(owners.len(), 1, "{owners:?}");
        spines.extend(owners);
    }
    assert_eq!(spines.len(), SHAPE.spines);
}

#[test]
fn the_agents_probes_tell_how_a_real_fabric_is_wired_or_that_they_cannot() {
    let Some(fabric) = fabric() else { return };
    // As Linux answers by itself, a leaf answers by the link that its own hash would take back: if that is another than the one that the
    // probe came by, nobody can tell two spines from one, and it has to be said.
    match learned(&explored(&fabric)) {
        Ok(learned) => check(&learned.topology),
        Err(mistakes) => {
            assert!(mistakes.iter().any(|what| what.contains("cannot be told")), "{mistakes:#?}");
        }
    }
    fabric.sign_by_links().expect("a setting of the kernel");
    let traces = explored(&fabric);
    let learned = learned(&traces).unwrap_or_else(|mistakes| panic!("{mistakes:#?}\n{traces:#?}"));
    check(&learned.topology);
}
