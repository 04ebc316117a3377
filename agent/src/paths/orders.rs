//! What is wanted: orders as `c4ctl plan --orders` writes them, and the table they come to with what is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use c4_path_table::{ANY_RANK, Entry, Key, Path, Table};
use serde::Deserialize;

use super::discovery::Hops;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    orders: Vec<Order>,
}

/// What connections from one address to another are to do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The host that sends.
    pub host: String,
    /// Its address.
    pub from: IpAddr,
    /// Where to.
    pub to: IpAddr,
    /// The paths.
    pub paths: Vec<Route>,
}

/// One of several paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its part of all connections, in proportion to the others'.
    pub units: u32,
    /// The port of a bond that it leaves by, counted from 1; 0 if that is left open.
    #[serde(default)]
    pub bond: u8,
    /// For each switch above the first leaf the addresses it may answer by.
    pub via: Vec<Vec<IpAddr>>,
}

impl Route {
    /// Whether these answers are from its switches.
    #[must_use]
    pub fn matches(&self, hops: &Hops) -> bool {
        self.via.len() == hops.len() && self.via.iter().zip(hops).all(|(switch, hop)| switch.contains(hop))
    }
}

/// Why orders cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// Not the format.
    #[error("not orders: {0}")]
    Format(#[from] serde_json::Error),
    /// Two orders for the same connections, or one that says nothing.
    #[error("the order from {from} to {to} {what}")]
    Sense {
        /// Its source.
        from: IpAddr,
        /// Its destination.
        to: IpAddr,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Reads orders and keeps a host's.
///
/// # Errors
/// When they are not what they should be.
pub fn parse(text: &str, host: &str) -> Result<Vec<Order>, OrdersError> {
    let document: Document = serde_json::from_str(text)?;
    let mut seen = BTreeSet::new();
    for order in &document.orders {
        let wrong = |what| OrdersError::Sense { from: order.from, to: order.to, what };
        if !seen.insert((order.from, order.to)) {
            return Err(wrong("is there twice"));
        }
        let length = order.paths.first().map_or(0, |route| route.via.len());
        if order
            .paths
            .iter()
            .any(|route| route.units == 0 || route.via.len() != length || route.via.is_empty())
        {
            return Err(wrong("has a path without units or switches, or paths of different lengths"));
        }
        if length == 0 {
            return Err(wrong("has no paths"));
        }
    }
    Ok(document.orders.into_iter().filter(|order| order.host == host).collect())
}

/// Ports by path, towards each destination.
pub type Known = BTreeMap<SocketAddr, BTreeMap<Hops, Vec<u16>>>;

/// The UDP port that all RoCE packets go to.
pub const ROCE: u16 = 4791;

/// The ports that connections go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Of sockets that listen on any port.
    pub tcp: Range<u16>,
    /// Whether there is RoCE, too.
    pub roce: bool,
}

impl Listening {
    /// All of them.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        self.tcp.clone().chain(self.roce.then_some(ROCE))
    }
}

/// The table that orders come to, and how many paths in it have no port.
#[must_use]
pub fn table(orders: &[Order], known: &Known, listen: &Listening, generation: u64) -> (Table, usize) {
    let mut table = Table { generation, listen: Some(listen.tcp.clone()), entries: Vec::new() };
    let mut missing = 0;
    for order in orders {
        for port in listen.ports() {
            let to = SocketAddr::new(order.to, port);
            let empty = BTreeMap::new();
            let ports = known.get(&to).unwrap_or(&empty);
            let mut paths = Vec::new();
            let mut units = Vec::new();
            for route in &order.paths {
                let own: Vec<u16> = ports
                    .iter()
                    .filter(|(hops, _)| route.matches(hops))
                    .flat_map(|(_, own)| own.clone())
                    .collect();
                if own.is_empty() {
                    missing += 1;
                } else {
                    paths.push(Path { bond: route.bond, ports: own });
                    units.push(route.units);
                }
            }
            // A part of the plan would be another plan: all connections on the paths that happen to be known.
            if paths.len() == order.paths.len() {
                let key = Key::to(order.to, port, ANY_RANK);
                table.entries.push(Entry { key, slots: turns(&units), paths });
            }
        }
    }
    (table, missing)
}

/// Who takes which turn: each path as often as it has units, as evenly as it goes.
fn turns(units: &[u32]) -> Vec<u16> {
    let divisor = units.iter().copied().fold(0, gcd).max(1);
    let mut left: Vec<u32> = units.iter().map(|units| units / divisor).collect();
    let mut turns = Vec::new();
    while left.iter().any(|units| *units > 0) && turns.len() < MOST_TURNS {
        for (path, units) in left.iter_mut().enumerate().filter(|(_, units)| **units > 0) {
            *units -= 1;
            turns.push(path as u16);
        }
    }
    turns
}

/// More turns than this are not told apart.
const MOST_TURNS: usize = 256;

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = r#"{"orders":[
        {"host":"a","from":"10.0.0.1","to":"10.0.1.1","paths":[
            {"units":4,"via":[["172.16.0.1","172.16.0.2"]]},{"units":2,"bond":2,"via":[["172.16.0.9"]]}]},
        {"host":"b","from":"10.0.1.1","to":"10.0.0.1","paths":[{"units":1,"via":[["172.16.0.1"]]}]}]}"#;

    #[test]
    fn a_host_gets_its_own_orders_and_their_ports() {
        let orders = parse(ORDERS, "a").expect("sound");
        assert_eq!(orders.len(), 1);
        let hop = |last: u8| vec![IpAddr::from([172, 16, 0, last])];
        let to: SocketAddr = "10.0.1.1:30000".parse().expect("an address");
        let ports = BTreeMap::from([(hop(1), vec![20_000]), (hop(2), vec![20_001]), (hop(9), vec![20_002])]);
        let known = Known::from([(to, ports)]);
        let listen = Listening { tcp: 30_000..30_002, roce: false };
        let (found, missing) = table(&orders, &known, &listen, 3);
        // Nothing is known of the second listening port: connections there stay as they are.
        assert_eq!((found.entries.len(), missing), (1, 2));
        assert_eq!(found.entries[0].slots, [0, 1, 0]);
        let second = Path { bond: 2, ports: vec![20_002] };
        assert_eq!(found.entries[0].paths, [vec![20_000, 20_001].into(), second]);
        assert!(found.encode(1).is_ok());
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        for (from, to) in [
            ("\"units\":4", "\"units\":0"),
            ("[[\"172.16.0.9\"]]", "[]"),
            (
                "\"host\":\"b\",\"from\":\"10.0.1.1\",\"to\":\"10.0.0.1\"",
                "\"host\":\"b\",\"from\":\"10.0.0.1\",\"to\":\"10.0.1.1\"",
            ),
            ("\"orders\"", "\"order\""),
            ("10.0.0.1", "10.0.0"),
        ] {
            assert!(parse(&ORDERS.replacen(from, to, 1), "a").is_err(), "{to}");
        }
    }
}
