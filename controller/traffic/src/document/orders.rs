//! The orders' document, for agents: `{"orders":[{"host","from","to","paths":[{"units","bond":1,"via":[["10.9.0.1"]]}]}]}`; `bond`
//! is there where a path leaves by a certain port of a bond.

use std::net::IpAddr;

use serde::Serialize;

use crate::orders::Order;

#[derive(Serialize)]
struct OrdersDocument<'a> {
    orders: Vec<OrderDocument<'a>>,
}

#[derive(Serialize)]
struct OrderDocument<'a> {
    host: &'a str,
    from: IpAddr,
    to: IpAddr,
    paths: Vec<RouteDocument<'a>>,
}

#[derive(Serialize)]
struct RouteDocument<'a> {
    units: u32,
    #[serde(skip_serializing_if = "is_none")]
    bond: u8,
    via: &'a [Vec<IpAddr>],
}

fn is_none(bond: &u8) -> bool {
    *bond == 0
}

/// Orders as a document.
#[must_use]
pub fn orders_json(orders: &[Order]) -> impl Serialize + use<'_> {
    let orders = orders.iter().map(|order| OrderDocument {
        host: &order.host,
        from: order.from,
        to: order.to,
        paths: order
            .routes
            .iter()
            .map(|route| RouteDocument { units: route.units, bond: route.bond, via: &route.via })
            .collect(),
    });
    OrdersDocument { orders: orders.collect() }
}
