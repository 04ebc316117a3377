//! Orders for paths from the wire, and reports on them to it.

use std::{collections::BTreeSet, net::IpAddr};

use c4_proto::v1 as wire;
use thiserror::Error;

use crate::{
    paths::{
        discovery::Hops,
        explore::Wish,
        mailbox::Instructions,
        nics::NicPort,
        orders::{Order, Route},
        trains::Tally,
    },
    report::{ExploredPath, ExploredReport, MeasuredWay, PathReport, WaysReport},
};

/// More orders than one host's connections could need.
const MOST_ORDERS: usize = 16_384;
/// Paths of one order, switches of one path and addresses of one switch, at most.
const MOST_PARTS: usize = 1_024;
/// Destinations to be explored at once, each from one of the host's addresses.
const MOST_EXPLORED: usize = 4_096;
/// Paths in one report.
const MOST_SEEN: usize = 8_192;

/// What is said of paths and cannot be followed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{list}[{index}]: {problem}")]
pub struct BadPaths {
    /// The list that it is in.
    list: &'static str,
    /// Which one.
    index: usize,
    /// What is wrong with it.
    problem: String,
}

impl TryFrom<wire::PathOrders> for Instructions {
    type Error = BadPaths;

    fn try_from(orders: wire::PathOrders) -> Result<Self, BadPaths> {
        let mut seen = BTreeSet::new();
        let sound = |(index, order): (usize, wire::PathOrder)| {
            let wrong = |problem: String| BadPaths { list: "path_orders.orders", index, problem };
            let order = order_of(order).map_err(wrong)?;
            if index >= MOST_ORDERS {
                return Err(wrong(format!("more than {MOST_ORDERS} orders")));
            }
            if !seen.insert((order.from, order.to)) {
                return Err(wrong(format!("the order from {} to {} is there twice", order.from, order.to)));
            }
            Ok(order)
        };
        let (revision, epoch, trusted_after) = (orders.revision, orders.epoch, orders.trusted_after);
        let orders = orders.orders.into_iter().enumerate().map(sound).collect::<Result<_, _>>()?;
        Ok(Self { revision, epoch, orders, trusted_after })
    }
}

fn order_of(order: wire::PathOrder) -> Result<Order, String> {
    let paths: Vec<Route> = order.routes.into_iter().map(route).collect::<Result<_, _>>()?;
    let length = paths.first().map_or(0, |route| route.via.len());
    if length == 0 || paths.len() > MOST_PARTS || paths.iter().any(|route| route.via.len() != length) {
        return Err("no routes, too many, or some of different lengths".to_owned());
    }
    Ok(Order { host: String::new(), from: address(&order.from)?, to: address(&order.to)?, paths })
}

fn route(route: wire::PathRoute) -> Result<Route, String> {
    let hop = |hop: wire::PathHop| {
        if hop.addresses.is_empty() || hop.addresses.len() > MOST_PARTS {
            return Err("a switch without an address, or with too many".to_owned());
        }
        hop.addresses.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()
    };
    if route.units == 0 || route.via.len() > MOST_PARTS {
        return Err("a route without units, or over too many switches".to_owned());
    }
    let bond = u8::try_from(route.bond).map_err(|_| format!("port {} of a bond", route.bond))?;
    let via = route.via.into_iter().map(hop).collect::<Result<_, _>>()?;
    Ok(Route { units: route.units, bond, via })
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address"))
}

/// A path's ends and who answers between them, as text.
fn spelled(from: IpAddr, to: IpAddr, hops: &Hops) -> (String, String, Vec<String>) {
    (from.to_string(), to.to_string(), hops.iter().map(IpAddr::to_string).collect())
}

fn seen(from: IpAddr, to: IpAddr, hops: &Hops, ports: u32) -> wire::SeenPath {
    let (from, to, hops) = spelled(from, to, hops);
    wire::SeenPath { from, to, hops, ports }
}

pub(super) fn report(report: PathReport) -> wire::PathReport {
    let paths = report.seen.iter().take(MOST_SEEN);
    let seen = paths.map(|(path, ports)| seen(path.from, path.to, &path.hops, *ports));
    wire::PathReport {
        revision: report.revision,
        epoch: report.epoch,
        settled: report.settled,
        destinations: report.destinations,
        missing: report.missing,
        changes: report.changes,
        ports: report.figures.ports,
        probes: report.figures.probes,
        silent: report.figures.silent,
        unsteady: report.figures.unsteady,
        busy: report.figures.busy,
        lost: report.figures.lost,
        learning_us: report.figures.elapsed_us,
        seen: seen.collect(),
    }
}

pub(super) fn trains(report: WaysReport) -> wire::PathTrains {
    let way = |way: &MeasuredWay| {
        let (from, to, hops) = spelled(way.from, way.to, &way.hops);
        let Tally { good, bad, busy, unknown, .. } = way.tally;
        wire::MeasuredPath { from, to, hops, good, bad, busy, unknown, behind_us: way.behind_us }
    };
    let carried = report.carried.iter().take(MOST_SEEN).map(|(path, bytes)| {
        let (from, to, hops) = spelled(path.from, path.to, &path.hops);
        wire::CarriedPath { from, to, hops, bytes: *bytes }
    });
    wire::PathTrains {
        epoch: report.epoch,
        paths: report.ways.iter().map(way).collect(),
        carried: carried.collect(),
    }
}

impl TryFrom<wire::ExplorePaths> for Wish {
    type Error = BadPaths;

    fn try_from(wish: wire::ExplorePaths) -> Result<Self, BadPaths> {
        let ends = wish.ends.into_iter().enumerate().map(|(index, ends)| {
            let wrong = |problem: String| BadPaths { list: "explore_paths.ends", index, problem };
            if index >= MOST_EXPLORED {
                return Err(wrong(format!("more than {MOST_EXPLORED} to explore")));
            }
            Ok((address(&ends.from).map_err(wrong)?, address(&ends.to).map_err(wrong)?))
        });
        Ok(Self { round: wish.round, ends: ends.collect::<Result<_, _>>()? })
    }
}

pub(super) fn explored(report: ExploredReport) -> wire::PathsExplored {
    let port = |port: NicPort| wire::NicPort {
        nic: port.nic,
        address: port.address.to_string(),
        gbps: port.gbps.unwrap_or(0.0),
    };
    let trace = |trace: &ExploredPath| seen(trace.from, trace.to, &trace.hops, trace.ports);
    wire::PathsExplored {
        round: report.round,
        done: report.done,
        ports: report.ports.into_iter().map(port).collect(),
        traces: report.traces.iter().take(MOST_SEEN).map(trace).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_checked() {
        let ends = |to: &str| wire::PathEnds { from: "10.0.0.1".into(), to: to.into() };
        let sound = wire::ExplorePaths { round: 4, ends: vec![ends("10.0.1.1"), ends("fd00::1")] };
        let wish = Wish::try_from(sound).expect("sound");
        assert_eq!((wish.round, wish.ends.len()), (4, 2));
        let wrong = wire::ExplorePaths { round: 4, ends: vec![ends("10.0.1.1"), ends("h1")] };
        assert_eq!(Wish::try_from(wrong).map_err(|error| error.index), Err(1));
        let many = wire::ExplorePaths { round: 4, ends: vec![ends("10.0.1.1"); MOST_EXPLORED + 1] };
        assert!(Wish::try_from(many).is_err());
    }

    fn orders() -> wire::PathOrders {
        let hop = |address: &str| wire::PathHop { addresses: vec![address.to_owned()] };
        let route = |via: &str| wire::PathRoute { units: 2, via: vec![hop(via)], bond: 1 };
        let order = |to: &str| wire::PathOrder {
            from: "10.0.0.1".into(),
            to: to.into(),
            routes: vec![route("172.16.0.1"), route("fd00::1")],
        };
        let orders = vec![order("10.0.1.1"), order("10.0.1.2")];
        wire::PathOrders { revision: 7, epoch: 3, orders, trusted_after: 253 }
    }

    #[test]
    fn sound_orders_are_taken() {
        let taken = Instructions::try_from(orders()).expect("sound");
        assert_eq!((taken.revision, taken.epoch, taken.orders.len()), (7, 3, 2));
        assert_eq!(taken.trusted_after, 253);
        assert_eq!(taken.orders[0].paths[0].bond, 1);
        assert_eq!(taken.orders[0].paths[1].via, [["fd00::1".parse::<IpAddr>().expect("an address")]]);
    }

    #[test]
    fn orders_that_make_no_sense_name_the_one_that_is_wrong() {
        let spoil: [fn(&mut wire::PathOrder); 7] = [
            |order| order.to = "10.0.1.1".into(),
            |order| order.from = "10.0.1".into(),
            |order| order.routes.clear(),
            |order| order.routes[1].units = 0,
            |order| order.routes[1].bond = 256,
            |order| order.routes[1].via.clear(),
            |order| order.routes[1].via[0].addresses.clear(),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut orders = orders();
            spoil(&mut orders.orders[1]);
            let error = Instructions::try_from(orders).expect_err("refused");
            assert_eq!(error.index, 1, "{number}: {error}");
        }
    }
}
