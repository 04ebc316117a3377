//! The topology as the planner works with it: resources with a capacity, and lanes across them.
//!
//! A *resource* is what can be full: one direction of a NIC port, or one direction of a link. A *lane* is a way from a
//! switch to one of a higher tier (and back down): one link, or a trunk of parallel links that are spread over evenly.
//! A trunk whose links are all up and equal is one lane and one resource, as wide as its links together; only where an
//! earlier plan pinned pieces to its links it is both, lanes link by link and a lane over all. A trunk that is not whole
//! has a lane for each link that is left: how a switch would spread over those is nobody's promise.

use std::{cell::LazyCell, collections::HashSet};

use crate::{
    plan::Previous,
    topology::{State, SwitchId, Topology},
};

/// Number of a resource.
pub(crate) type Resource = u32;

/// A way across a trunk. Going up it uses resources `first`, `first + 2`…; going down the odd ones beside them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) low: u32,
    pub(crate) high: u32,
    pub(crate) first: Resource,
    /// How many resources it is spread over.
    pub(crate) width: u16,
    /// Which link of the trunk; none for all of them.
    pub(crate) label: Option<u32>,
    pub(crate) avoid: bool,
    /// Whether the trunk has but one link, so that its index and none say the same.
    pub(crate) alone: bool,
}

/// Step of a path: a lane and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hop(u32);

impl Hop {
    pub(crate) const NONE: Hop = Hop(u32::MAX);

    pub(crate) fn up(lane: u32) -> Self {
        Self(lane << 1)
    }

    pub(crate) fn down(lane: u32) -> Self {
        Self(lane << 1 | 1)
    }

    pub(crate) fn lane(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub(crate) fn is_down(self) -> bool {
        self.0 & 1 == 1
    }
}

/// A path: two ports and up to four hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    /// Port the flow leaves by, numbered over all NICs.
    pub(crate) src: u32,
    /// Port it arrives by.
    pub(crate) dst: u32,
    hops: [Hop; 4],
    length: u8,
}

impl Path {
    pub(crate) fn new(src: u32, dst: u32, steps: &[Hop]) -> Self {
        let mut hops = [Hop::NONE; 4];
        hops[..steps.len()].copy_from_slice(steps);
        // At most four, or the copy above had failed.
        Self { src, dst, hops, length: steps.len() as u8 }
    }

    pub(crate) fn hops(&self) -> &[Hop] {
        &self.hops[..usize::from(self.length)]
    }
}

/// An upward lane of a switch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Up {
    pub(crate) high: u32,
    pub(crate) lane: u32,
    /// First resource on the way up; the way down is beside it.
    pub(crate) first: Resource,
    pub(crate) width: u16,
}

/// Upward lanes of all switches, each switch's in the order of the upper ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ups {
    start: Vec<u32>,
    list: Vec<Up>,
}

impl Ups {
    fn new(switches: usize, lanes: &[Lane], wanted: impl Fn(&Lane) -> bool) -> Self {
        let mut start = vec![0u32; switches + 1];
        for lane in lanes.iter().filter(|lane| wanted(lane)) {
            start[lane.low as usize + 1] += 1;
        }
        for index in 0..switches {
            start[index + 1] += start[index];
        }
        // Lanes come sorted by their ends, so each switch's own stay sorted.
        let mut list = Vec::with_capacity(start[switches] as usize);
        for (number, lane) in lanes.iter().enumerate().filter(|(_, lane)| wanted(lane)) {
            list.push(Up { high: lane.high, lane: number as u32, first: lane.first, width: lane.width });
        }
        Self { start, list }
    }

    pub(crate) fn of(&self, switch: u32) -> &[Up] {
        let switch = switch as usize;
        &self.list[self.start[switch] as usize..self.start[switch + 1] as usize]
    }

    /// The lanes from one switch to another above it.
    pub(crate) fn between(&self, low: u32, high: u32) -> &[Up] {
        let all = self.of(low);
        let from = all.partition_point(|up| up.high < high);
        let len = all[from..].iter().take_while(|up| up.high == high).count();
        &all[from..from + len]
    }
}

/// One NIC port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortInfo {
    pub(crate) leaf: u32,
    pub(crate) plane: u32,
    pub(crate) state: State,
}

/// The compiled topology.
#[derive(Debug)]
pub(crate) struct Fabric {
    /// Capacity of each resource in Gbit/s. Two for each port come first: out of the NIC, into it.
    pub(crate) capacity: Vec<f64>,
    pub(crate) ports: Vec<PortInfo>,
    /// First port of each NIC, and one more.
    first_port: Vec<u32>,
    pub(crate) lanes: Vec<Lane>,
    /// Lanes that are up.
    pub(crate) strict: Ups,
    /// With those to be avoided; empty when there are none.
    lenient: Option<Ups>,
    pub(crate) is_spine: Vec<bool>,
    /// Whether there are lanes above spines.
    pub(crate) has_cores: bool,
}

impl Fabric {
    pub(crate) fn new(topology: &Topology, previous: Option<&Previous>) -> Self {
        let (mut capacity, mut ports, mut first_port) = (Vec::new(), Vec::new(), Vec::new());
        for nic in topology.nics() {
            first_port.push(ports.len() as u32);
            for (plane, port) in nic.ports.iter().enumerate() {
                capacity.extend([port.rate.get(); 2]);
                ports.push(PortInfo { leaf: port.switch.0, plane: plane as u32, state: port.state });
            }
        }
        first_port.push(ports.len() as u32);
        let lanes = lanes(topology, previous, &mut capacity);
        let switches = topology.switches().len();
        let strict = Ups::new(switches, &lanes, |lane| !lane.avoid);
        let lenient = lanes.iter().any(|lane| lane.avoid).then(|| Ups::new(switches, &lanes, |_| true));
        let tiers = topology.switches().iter().map(|switch| switch.tier);
        let is_spine: Vec<bool> = tiers.map(|tier| tier == crate::topology::Tier::Spine).collect();
        let has_cores = lanes.iter().any(|lane| is_spine[lane.low as usize]);
        Self { capacity, ports, first_port, lanes, strict, lenient, is_spine, has_cores }
    }

    /// Upward lanes: those that are up, or (lenient) also those to be avoided.
    pub(crate) fn ups(&self, lenient: bool) -> &Ups {
        match &self.lenient {
            Some(ups) if lenient => ups,
            _ => &self.strict,
        }
    }

    /// The ports of a NIC.
    pub(crate) fn ports_of(&self, nic: usize) -> std::ops::Range<u32> {
        self.first_port[nic]..self.first_port[nic + 1]
    }

    pub(crate) fn first_port(&self, nic: usize) -> u32 {
        self.first_port[nic]
    }

    /// Whether it is a link between switches, not a NIC's port.
    pub(crate) fn in_fabric(&self, resource: Resource) -> bool {
        resource as usize >= 2 * self.ports.len()
    }

    /// Calls with every resource of a path, and the part of the traffic that it bears.
    pub(crate) fn each(&self, path: &Path, mut call: impl FnMut(Resource, f64)) {
        call(2 * path.src, 1.0);
        call(2 * path.dst + 1, 1.0);
        for hop in path.hops() {
            let lane = &self.lanes[hop.lane()];
            let first = lane.first + u32::from(hop.is_down());
            if lane.width == 1 {
                call(first, 1.0);
            } else {
                let part = 1.0 / f64::from(lane.width);
                for index in 0..u32::from(lane.width) {
                    call(first + 2 * index, part);
                }
            }
        }
    }

    /// The switches of a path, leaf to leaf.
    pub(crate) fn switches(&self, path: &Path) -> Vec<SwitchId> {
        let mut switches = vec![SwitchId(self.ports[path.src as usize].leaf)];
        for hop in path.hops() {
            let lane = &self.lanes[hop.lane()];
            switches.push(SwitchId(if hop.is_down() { lane.low } else { lane.high }));
        }
        switches
    }
}

/// All lanes, in the order of their ends; adds their resources.
fn lanes(topology: &Topology, previous: Option<&Previous>, capacity: &mut Vec<f64>) -> Vec<Lane> {
    let mut links: Vec<u32> = (0..topology.links().len() as u32).collect();
    let link = |number: &u32| &topology.links()[*number as usize];
    links.sort_by_key(|number| {
        let link = link(number);
        let (low, high) = ends(topology, link);
        (low, high, link.index)
    });
    // Asked only where links run side by side.
    let pinned = LazyCell::new(|| previous.map(Previous::pinned).unwrap_or_default());
    let mut lanes = Vec::new();
    for trunk in links.chunk_by(|a, b| (link(a).a, link(a).b) == (link(b).a, link(b).b)) {
        let first = link(&trunk[0]);
        let (low, high) = ends(topology, first);
        if topology.switch(SwitchId(low)).tier == topology.switch(SwitchId(high)).tier {
            // No path that goes up, then down, uses a link between equals.
            continue;
        }
        let whole = trunk.iter().all(|n| link(n).state == State::Up && link(n).rate == first.rate);
        let alone = trunk.len() == 1;
        let lane = |first, width, label, avoid| Lane { low, high, first, width, label, avoid, alone };
        let width = u16::try_from(trunk.len()).ok();
        if let (true, Some(width)) = (whole, width) {
            let base = capacity.len() as Resource;
            if alone || !pinned.contains(&(first.a, first.b)) {
                capacity.extend([first.rate.get() * f64::from(width); 2]);
                lanes.push(lane(base, 1, alone.then_some(first.index), false));
                continue;
            }
            lanes.push(lane(base, width, None, false));
        }
        for number in trunk {
            let link = link(number);
            if link.state != State::Down {
                lanes.push(lane(capacity.len() as Resource, 1, Some(link.index), link.state == State::Avoid));
                capacity.extend([link.rate.get(); 2]);
            }
        }
    }
    lanes
}

/// Lower and upper end of a link.
fn ends(topology: &Topology, link: &crate::topology::Link) -> (u32, u32) {
    let (a, b) = (link.a, link.b);
    if topology.switch(a).tier <= topology.switch(b).tier { (a.0, b.0) } else { (b.0, a.0) }
}

impl Previous {
    /// The trunks of which some piece uses one link by its index, each end's smaller number first.
    fn pinned(&self) -> HashSet<(SwitchId, SwitchId)> {
        let mut pinned = HashSet::new();
        for previous in self.pieces() {
            for (ends, link) in previous.piece.path.windows(2).zip(previous.piece.link.iter().flatten()) {
                if link.is_some() {
                    pinned.insert((ends[0].min(ends[1]), ends[0].max(ends[1])));
                }
            }
        }
        pinned
    }
}
