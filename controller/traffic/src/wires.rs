//! Every wire of the network by number, each direction by itself, and which of them a piece of a flow crosses.
//!
//! The planner has its own, coarser view. This one is for those who look at a plan from outside: per-link utilisation
//! for people and metrics, and the rates that flows get ([`crate::rates`]).

use std::collections::HashMap;

use crate::{
    flows::{Flow, Flows},
    plan::{Piece, Plan},
    topology::{NicId, State, SwitchId, Topology},
};

/// Number of a wire.
pub type Wire = usize;

/// What a wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// From a NIC's port to its leaf.
    Out(NicId, u32),
    /// From a leaf to a NIC's port.
    Into(NicId, u32),
    /// From one switch to another, by the link of this index between the two.
    Between(SwitchId, SwitchId, u32),
}

/// All wires of a topology.
#[derive(Clone, Debug)]
pub struct Wires {
    places: Vec<Place>,
    capacity: Vec<f64>,
    first_port: Vec<usize>,
    /// For each pair of switches, smaller number first, the links between them by index: number of the wire from the
    /// first to the second; the other direction is the next one.
    trunks: HashMap<(SwitchId, SwitchId), Vec<(Wire, State)>>,
}

impl Wires {
    /// The wires of a topology.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let (mut places, mut capacity, mut first_port) = (Vec::new(), Vec::new(), Vec::new());
        for (number, nic) in topology.nics().iter().enumerate() {
            first_port.push(places.len());
            let id = NicId(number as u32);
            for (index, port) in nic.ports.iter().enumerate() {
                places.extend([Place::Out(id, index as u32), Place::Into(id, index as u32)]);
                capacity.extend([port.rate.get(); 2]);
            }
        }
        let mut trunks: HashMap<_, Vec<(Wire, State)>> = HashMap::new();
        for link in topology.links() {
            let (a, b) = (link.a.min(link.b), link.a.max(link.b));
            // Links come in the order of their indices.
            trunks.entry((a, b)).or_default().push((places.len(), link.state));
            places.extend([Place::Between(a, b, link.index), Place::Between(b, a, link.index)]);
            capacity.extend([link.rate.get(); 2]);
        }
        Self { places, capacity, first_port, trunks }
    }

    /// What each wire is.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What each wire can carry, in Gbit/s.
    #[must_use]
    pub fn capacity(&self) -> &[f64] {
        &self.capacity
    }

    /// The wires that a piece of a flow crosses, each with the part of the piece's traffic that it carries. Traffic that
    /// is spread over a trunk is spread over those of its links that are up.
    #[must_use]
    pub fn crossed(&self, flow: &Flow, piece: &Piece) -> Vec<(Wire, f64)> {
        let mut crossed = vec![(self.first_port[flow.src.index()] + 2 * piece.src_port as usize, 1.0)];
        for (hop, ends) in piece.path.windows(2).enumerate() {
            let (from, to) = (ends[0], ends[1]);
            let Some(trunk) = self.trunks.get(&(from.min(to), from.max(to))) else { continue };
            let back = usize::from(from > to);
            let index = piece.link.as_ref().and_then(|link| link.get(hop).copied()).flatten();
            match index {
                Some(index) => crossed.extend(trunk.get(index as usize).map(|(wire, _)| (wire + back, 1.0))),
                None => {
                    let up: Vec<Wire> = trunk
                        .iter()
                        .filter(|(_, state)| *state == State::Up || trunk.len() == 1)
                        .map(|(wire, _)| *wire)
                        .collect();
                    crossed.extend(up.iter().map(|wire| (wire + back, 1.0 / up.len() as f64)));
                }
            }
        }
        crossed.push((self.first_port[flow.dst.index()] + 2 * piece.dst_port as usize + 1, 1.0));
        crossed
    }

    /// What each wire carries under a plan, in Gbit/s.
    #[must_use]
    pub fn loads(&self, flows: &Flows, plan: &Plan) -> Vec<f64> {
        let mut loads = vec![0.0; self.places.len()];
        for (flow, planned) in flows.as_slice().iter().zip(&plan.flows) {
            for piece in &planned.pieces {
                for (wire, part) in self.crossed(flow, piece) {
                    loads[wire] += flow.demand.get() * piece.share() * part;
                }
            }
        }
        loads
    }

    /// A wire in words.
    #[must_use]
    pub fn describe(&self, topology: &Topology, wire: Wire) -> String {
        let port = |nic: NicId, port: u32| {
            let at = topology.nic(nic);
            let leaf = at.ports.get(port as usize).map_or("?", |port| &topology.switch(port.switch).name);
            (format!("{}/{}:{port}", topology.host_name(at.host), at.name), leaf)
        };
        match self.places[wire] {
            Place::Out(nic, index) => {
                let (port, leaf) = port(nic, index);
                format!("{port} → {leaf}")
            }
            Place::Into(nic, index) => {
                let (port, leaf) = port(nic, index);
                format!("{leaf} → {port}")
            }
            Place::Between(from, to, index) => {
                let trunk = self.trunks.get(&(from.min(to), from.max(to))).map_or(0, Vec::len);
                let index = if trunk > 1 { format!(" #{index}") } else { String::new() };
                format!("{} → {}{index}", topology.switch(from).name, topology.switch(to).name)
            }
        }
    }
}
