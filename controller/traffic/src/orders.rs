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
    /// The port of a bond that it leaves by, counted from 1; 0 where the source address is one port's alone.
    pub bond: u8,
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
    // By the port of a bond and the switches.
    let mut routes: BTreeMap<Ends, BTreeMap<(u8, Vec<SwitchId>), u32>> = BTreeMap::new();
    for (flow, planned) in flows.as_slice().iter().zip(&plan.flows) {
        for piece in planned.pieces.iter().filter(|piece| piece.path.len() > 1) {
            // Up to the highest switch; from there only one way leads down.
            let up = piece.path[1..=piece.path.len() / 2].to_vec();
            let bond = topology.bond_port(flow.src, piece.src_port);
            // Two ports of a bond are one address: what goes by either is one order.
            let ends = (end(topology, flow.src, piece.src_port), end(topology, flow.dst, piece.dst_port));
            *routes.entry(ends).or_default().entry((bond, up)).or_default() += piece.units;
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
    for switch in routes.values().flat_map(BTreeMap::keys).flat_map(|(_, up)| up) {
        if topology.switch_addresses(*switch).is_empty() {
            unknown.insert(topology.switch(*switch).name.clone());
        }
    }
    if !unknown.is_empty() {
        return Err(Unknown { of: unknown.into_iter().collect() });
    }
    let orders = routes.into_iter().zip(ends).filter_map(|((ends, routes), (from, to))| {
        let via = |up: Vec<SwitchId>| up.iter().map(|id| topology.switch_addresses(*id).to_vec()).collect();
        let route = |((bond, up), units)| Route { units, bond, via: via(up) };
        let routes = routes.into_iter().map(route).collect();
        let host = topology.host_name(topology.nic(ends.0.0).host).to_owned();
        Some(Order { host, from: from?, to: to?, routes })
    });
    Ok(orders.collect())
}

/// A port of a NIC; of a bond's ports, which are one end to whoever connects, the first.
fn end(topology: &Topology, nic: NicId, port: u32) -> (NicId, u32) {
    let address = topology.port_address(nic, port);
    let first = (0..port).find(|other| address.is_some() && topology.port_address(nic, *other) == address);
    (nic, first.unwrap_or(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{parse_flows, parse_topology};

    /// Two hosts with two ports each, in two planes; `address` says which of the ports have one of their own.
    fn ordered(addresses: [[&str; 2]; 2]) -> Vec<Order> {
        let host = |name: &str, own: [&str; 2]| {
            let port =
                |plane: usize| format!("{{switch: l{plane}{name}, gbps: 100, address: {}}}", own[plane]);
            format!("  - {{name: {name}, nics: [{{name: n, ports: [{}, {}]}}]}}\n", port(0), port(1))
        };
        let plane = |n: usize| {
            format!(
                "  - {{name: l{n}a, tier: leaf}}\n  - {{name: l{n}b, tier: leaf}}\n  - {{name: s{n}, tier: spine, addresses: [172.16.0.{n}]}}\n"
            )
        };
        let wires = |n: usize| {
            format!("  - {{a: l{n}a, b: s{n}, gbps: 100}}\n  - {{a: l{n}b, b: s{n}, gbps: 100}}\n")
        };
        let text = format!(
            "switches:\n{}{}links:\n{}{}hosts:\n{}{}",
            plane(0),
            plane(1),
            wires(0),
            wires(1),
            host("a", addresses[0]),
            host("b", addresses[1])
        );
        let topology = parse_topology(&text).unwrap_or_else(|problems| panic!("{problems}"));
        let flows = r#"{"flows":[{"id":"f","job":"j","gbps":200,"max_pieces":2,
            "src":{"host":"a","nic":"n"},"dst":{"host":"b","nic":"n"}}]}"#;
        let flows = parse_flows(flows, &topology).unwrap_or_else(|problems| panic!("{problems}"));
        let plan = crate::plan(&topology, &flows, None);
        orders(&topology, &flows, &plan).expect("addresses are known")
    }

    #[test]
    fn ports_of_a_bond_are_one_address_and_each_route_says_which() {
        let orders = ordered([["10.0.0.1", "10.0.0.1"], ["10.0.1.1", "10.0.1.1"]]);
        assert_eq!(orders.len(), 1, "{orders:?}");
        let spine = |n: u8| vec![vec![IpAddr::from([172, 16, 0, n])]];
        let route = |bond: u8| Route { units: 1, bond, via: spine(bond - 1) };
        assert_eq!(orders[0].routes, [route(1), route(2)]);
    }

    #[test]
    fn ports_with_addresses_of_their_own_are_no_bond() {
        let orders = ordered([["10.0.0.1", "10.0.0.2"], ["10.0.1.1", "10.0.1.2"]]);
        assert_eq!(orders.len(), 2, "{orders:?}");
        assert!(orders.iter().all(|order| order.routes.len() == 1 && order.routes[0].bond == 0));
    }

    #[test]
    fn two_nics_cannot_share_an_address() {
        let text = "switches: [{name: l, tier: leaf}]
links: []
hosts:
  - name: a
    nics:
      - {name: n0, ports: [{switch: l, gbps: 1, address: 10.0.0.1}, {switch: l, gbps: 1, address: 10.0.0.1}]}
      - {name: n1, ports: [{switch: l, gbps: 1, address: 10.0.0.1}]}
";
        let problems = parse_topology(text).expect_err("two NICs").to_string();
        assert!(
            problems.contains("line 7") && problems.contains("10.0.0.1 is somebody's address"),
            "{problems}"
        );
    }
}
