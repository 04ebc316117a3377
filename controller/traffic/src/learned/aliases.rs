//! Which addresses are one switch.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Trace;

/// Addresses in sets, each a switch.
#[derive(Clone, Debug, Default)]
pub(super) struct Aliases {
    parents: BTreeMap<IpAddr, IpAddr>,
}

impl Aliases {
    /// The lowest address of the switch that has this one.
    pub(super) fn of(&self, mut address: IpAddr) -> IpAddr {
        while let Some(parent) = self.parents.get(&address).filter(|parent| **parent != address) {
            address = *parent;
        }
        address
    }

    /// All addresses of a switch.
    pub(super) fn all(&self, switch: IpAddr) -> Vec<IpAddr> {
        self.parents.keys().copied().filter(|address| self.of(*address) == switch).collect()
    }

    fn join(&mut self, a: IpAddr, b: IpAddr) {
        let (a, b) = (self.of(a), self.of(b));
        self.parents.insert(a.max(b), a.min(b));
        self.parents.entry(a.min(b)).or_insert(a.min(b));
    }

    /// Sorts the addresses of these paths; says what cannot be.
    pub(super) fn find(&mut self, paths: &[&Trace]) -> Vec<String> {
        for hop in paths.iter().flat_map(|path| &path.hops) {
            self.parents.entry(*hop).or_insert(*hop);
        }
        // A port is cabled to one leaf.
        let mut leaves: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
        for path in paths {
            let ends = [(path.from, path.hops[0]), (path.to, path.hops[path.hops.len() - 1])];
            for (port, hop) in ends {
                let leaf = *leaves.entry(port).or_insert(hop);
                self.join(leaf, hop);
            }
        }
        self.join_ends_of_links(paths);
        let mut wrong = Vec::new();
        for path in paths {
            let switches: BTreeSet<IpAddr> = path.hops.iter().map(|hop| self.of(*hop)).collect();
            if switches.len() < path.hops.len() {
                wrong.push(format!(
                    "on the way from {} to {} one switch answers twice, by two of its addresses: somebody answers for another",
                    path.from, path.to
                ));
            }
        }
        wrong
    }

    /// A switch that answers by its address on the link towards the asker names the link, and with it the address that the
    /// switch before has on it. That is only believed if it is so throughout: whoever answers above a leaf by such an address
    /// is reached from that leaf alone, further on, from under one leaf, always over the same switch, and other ends are as high
    /// up as they must be. Switches that always answer by one address do none of that, however their addresses are numbered.
    fn join_ends_of_links(&mut self, paths: &[&Trace]) {
        let mut above: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
        let mut beyond: BTreeMap<(IpAddr, IpAddr), IpAddr> = BTreeMap::new();
        for path in paths {
            let leaf = self.of(path.hops[0]);
            for (at, ends) in path.hops.windows(2).enumerate() {
                let (own, next) = (ends[0], ends[1]);
                let always = match at {
                    0 => *above.entry(next).or_insert(leaf) == leaf,
                    _ => *beyond.entry((leaf, next)).or_insert(own) == own,
                };
                if !always {
                    return;
                }
            }
        }
        let on_links: BTreeSet<IpAddr> = paths.iter().flat_map(|path| &path.hops[1..]).copied().collect();
        let is_wide = on_links.iter().all(|address| may_be_wide(*address));
        // How far from the nearer end of a path an address was met: two addresses of one switch are as far.
        let mut heights: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for path in paths {
            for (at, hop) in path.hops.iter().enumerate() {
                heights.insert(*hop, at.min(path.hops.len() - 1 - at));
            }
        }
        let windows = paths.iter().flat_map(|path| path.hops.windows(2));
        let joins: BTreeSet<(IpAddr, IpAddr)> = windows
            .map(|ends| (mate(ends[1], is_wide), ends[0]))
            .filter(|(mate, _)| heights.contains_key(mate))
            .collect();
        if joins.iter().all(|(mate, own)| heights.get(mate) == heights.get(own)) {
            for (mate, own) in joins {
                self.join(mate, own);
            }
        }
    }
}

/// Whether an address can be that of a host in a /30, whose first and last addresses are nobody's.
fn may_be_wide(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if matches!(address.to_bits() % 4, 1 | 2))
}

/// The other end of a link that has this address at one: of a /30, or of a /31 (IPv6: /127).
fn mate(address: IpAddr, is_wide: bool) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() ^ if is_wide { 3 } else { 1 }).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() ^ 1).into(),
    }
}
