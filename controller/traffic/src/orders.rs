//! A plan in addresses: what an agent must know to put a host's connections on their paths. Switches are named by the
//! addresses they answer probes by, since that is all that a host can see of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    flows::Flows,
    plan::Plan,
    topology::{NicId, SwitchId, Topology},
};

/// One of the paths between two addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// How many queue pairs take it, in proportion to those on the order's other routes.
    pub units: u32,
    /// The switches on the way up, beyond the first leaf: for each, the addresses it may answer by.
    pub via: Vec<Vec<IpAddr>>,
}

/// What connections from one address to another are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The host that sends.
    pub host: String,
    /// Its address.
    pub from: IpAddr,
    /// Where to.
    pub to: IpAddr,
    /// The paths; several when flows are spread, or several flows have these ends.
    pub routes: Vec<Route>,
}

/// Addresses that the topology does not tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("addresses are not known of {}", of.join(", "))]
pub struct Unknown {
    /// NIC ports and switches.
    pub of: Vec<String>,
}

/// The orders for a plan. Flows inside one leaf need none, flows without a path have none.
///
/// # Errors
/// When addresses are missing: all that are.
pub fn orders(topology: &Topology, flows: &Flows, plan: &Plan) -> Result<Vec<Order>, Unknown> {
    type Ends = ((NicId, u32), (NicId, u32));
    let mut routes: BTreeMap<Ends, BTreeMap<Vec<SwitchId>, u32>> = BTreeMap::new();
    for (flow, planned) in flows.as_slice().iter().zip(&plan.flows) {
        for piece in planned.pieces.iter().filter(|piece| piece.path.len() > 1) {
            // Up to the highest switch; from there only one way leads down.
            let up = piece.path[1..=piece.path.len() / 2].to_vec();
            let ends = ((flow.src, piece.src_port), (flow.dst, piece.dst_port));
            *routes.entry(ends).or_default().entry(up).or_default() += piece.units;
        }
    }
    let mut unknown = BTreeSet::new();
    let mut port = |(nic, port): (NicId, u32)| {
        let address = topology.port_address(nic, port);
        if address.is_none() {
            let nic = topology.nic(nic);
            unknown.insert(format!("{}/{}:{port}", topology.host_name(nic.host), nic.name));
        }
        address
    };
    let ends: Vec<_> = routes.keys().map(|(from, to)| (port(*from), port(*to))).collect();
    for switch in routes.values().flat_map(BTreeMap::keys).flatten() {
        if topology.switch_addresses(*switch).is_empty() {
            unknown.insert(topology.switch(*switch).name.clone());
        }
    }
    if !unknown.is_empty() {
        return Err(Unknown { of: unknown.into_iter().collect() });
    }
    let orders = routes.into_iter().zip(ends).filter_map(|((ends, routes), (from, to))| {
        let via = |up: Vec<SwitchId>| up.iter().map(|id| topology.switch_addresses(*id).to_vec()).collect();
        let routes = routes.into_iter().map(|(up, units)| Route { units, via: via(up) }).collect();
        let host = topology.host_name(topology.nic(ends.0.0).host).to_owned();
        Some(Order { host, from: from?, to: to?, routes })
    });
    Ok(orders.collect())
}
