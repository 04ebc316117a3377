//! Fabrics and flows for tests.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part, and is a crate of its own")]

use std::num::NonZeroU32;

use c4_traffic::{
    Flow, Flows, Topology,
    topology::{Builder, Gbps, NicId, Port, State, SwitchId, Tier},
};

pub fn gbps(rate: f64) -> Gbps {
    Gbps::new(rate).expect("a rate")
}

/// A symmetric leaf–spine fabric with one-port NICs.
pub struct LeafSpine {
    pub leaves: usize,
    pub spines: usize,
    pub nics_per_leaf: usize,
    pub nic_gbps: f64,
    pub link_gbps: f64,
    pub parallel: u32,
}

impl LeafSpine {
    pub fn build(&self) -> Topology {
        let mut builder = Builder::new();
        let mut add = |kind: &str, tier, count: usize| -> Vec<SwitchId> {
            (0..count).map(|n| builder.switch(&format!("{kind}{n}"), tier).expect("new")).collect()
        };
        let leaves = add("leaf", Tier::Leaf, self.leaves);
        let spines = add("spine", Tier::Spine, self.spines);
        for leaf in &leaves {
            for spine in &spines {
                builder.links(*leaf, *spine, gbps(self.link_gbps), self.parallel, State::Up).expect("fine");
            }
        }
        for (l, leaf) in leaves.iter().enumerate() {
            for n in 0..self.nics_per_leaf {
                let host = builder.host(&format!("h{l}-{n}")).expect("new");
                let port = Port { switch: *leaf, rate: gbps(self.nic_gbps), state: State::Up };
                builder.nic(host, "nic0", vec![port]).expect("new");
            }
        }
        builder.build()
    }
}

/// Pods of leaves and spines; spine `k` of every pod has links to the cores of group `k`.
pub struct ThreeTier {
    pub pods: usize,
    pub leaves: usize,
    pub spines: usize,
    pub cores_per_spine: usize,
    pub nics_per_leaf: usize,
    pub gbps: f64,
}

impl ThreeTier {
    pub fn build(&self) -> Topology {
        let mut builder = Builder::new();
        let mut cores = Vec::new();
        for core in 0..self.spines * self.cores_per_spine {
            cores.push(builder.switch(&format!("core{core}"), Tier::Core).expect("new"));
        }
        for pod in 0..self.pods {
            let mut spines = Vec::new();
            for k in 0..self.spines {
                let spine = builder.switch(&format!("spine{pod}-{k}"), Tier::Spine).expect("new");
                for c in 0..self.cores_per_spine {
                    let core = cores[k * self.cores_per_spine + c];
                    builder.links(spine, core, gbps(self.gbps), 1, State::Up).expect("fine");
                }
                spines.push(spine);
            }
            for l in 0..self.leaves {
                let leaf = builder.switch(&format!("leaf{pod}-{l}"), Tier::Leaf).expect("new");
                for spine in &spines {
                    builder.links(leaf, *spine, gbps(self.gbps), 1, State::Up).expect("fine");
                }
                for n in 0..self.nics_per_leaf {
                    let host = builder.host(&format!("h{pod}-{l}-{n}")).expect("new");
                    let port = Port { switch: leaf, rate: gbps(self.gbps), state: State::Up };
                    builder.nic(host, "nic0", vec![port]).expect("new");
                }
            }
        }
        builder.build()
    }
}

pub fn nic(topology: &Topology, host: &str) -> NicId {
    topology.find_nic(topology.find_host(host).expect("a host"), "nic0").expect("a NIC")
}

/// Flows between NICs by their numbers in the topology.
pub fn flows(topology: &Topology, list: &[(usize, usize, f64, u32)]) -> Flows {
    let mut flows = Flows::new();
    for (number, (src, dst, demand, pieces)) in list.iter().enumerate() {
        let id = |n: usize| {
            let nic = &topology.nics()[n];
            topology.find_nic(nic.host, &nic.name).expect("there")
        };
        let flow = Flow {
            id: format!("f{number}"),
            job: "job".into(),
            src: id(*src),
            dst: id(*dst),
            demand: gbps(*demand),
            max_pieces: NonZeroU32::new(*pieces).expect("not zero"),
        };
        flows.push(flow).expect("new");
    }
    flows
}

/// A small generator of numbers, the same for ever.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for index in (1..list.len()).rev() {
            list.swap(index, self.roll(index + 1));
        }
    }
}
