//! A topology from probes alone: every switch on the way to another host has answered, from the first leaf to the last, for
//! enough source ports.
//!
//! What an answer says is an address, not a switch, and most switches have many. Which addresses are one switch follows from what cannot be
//! otherwise (`aliases`): a port of a NIC is cabled to one leaf, so whoever answers first on the way from it, last on the way
//! to it, or alone between two of them, is that leaf. Above leaves, a switch that always answers by one address is known by it,
//! and one that answers by its address on the link is known by the other end of that link (/31, /30). Where neither holds, there is
//! no topology, but a sentence that says so: spines that are taken for two would be planned twice as wide as they are.
//!
//! What probes cannot tell is assumed, and said: how fast links are, and how many of them run between two switches.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::topology::{Builder, Gbps, Port, State, SwitchId, Tier, Topology, TopologyError};

mod aliases;
#[cfg(test)]
mod tests;

use aliases::Aliases;

/// A port of a NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct HostPort {
    /// Its host.
    pub host: String,
    /// Its NIC.
    pub nic: String,
    /// Its address.
    pub address: IpAddr,
    /// Its rate, where the host knows.
    pub rate: Option<Gbps>,
}

/// A path that probes took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// Who answered, from the first leaf to the last.
    pub hops: Vec<IpAddr>,
    /// Source ports that took it.
    pub ports: u32,
}

/// What is assumed where probes cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Assumed {
    /// Rate of ports whose hosts do not know.
    pub nic_rate: Option<Gbps>,
    /// Rate of links between switches; without it, that of the fastest port.
    pub link_rate: Option<Gbps>,
}

/// A topology, and what is to be known about it.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The topology. Switches are named by their lowest addresses.
    pub topology: Topology,
    /// What was assumed, and what may be missing.
    pub notes: Vec<String>,
}

/// Paths longer than from leaf over spine and core to leaf are nobody's fabric.
const MOST_HOPS: usize = 5;
/// With so many source ports for each link of a leaf, one that none took is not there: by chance, that is e⁻¹⁶.
const PORTS_A_LINK: u32 = 16;

/// Makes a topology of what was seen. NICs are in the order of `ports`, those of one NIC are its planes.
///
/// # Errors
/// Everything that keeps a topology from being made.
pub fn learn(ports: &[HostPort], traces: &[Trace], assumed: Assumed) -> Result<Learned, Vec<String>> {
    let mut learning = Learning { ports, traces, assumed, mistakes: Vec::new(), notes: Vec::new() };
    let paths = learning.paths();
    let mut aliases = Aliases::default();
    learning.mistakes.extend(aliases.find(&paths));
    let tiers = learning.tiers(&paths, &aliases);
    learning.look_for_twins(&paths, &aliases);
    let built = learning.build(&paths, &aliases, &tiers);
    if learning.mistakes.is_empty()
        && let Some(topology) = built
    {
        return Ok(Learned { topology, notes: learning.notes });
    }
    learning.mistakes.sort();
    learning.mistakes.dedup();
    Err(learning.mistakes)
}

struct Learning<'a> {
    ports: &'a [HostPort],
    traces: &'a [Trace],
    assumed: Assumed,
    mistakes: Vec<String>,
    notes: Vec<String>,
}

/// The lowest of a switch's addresses stands for it.
type Switch = IpAddr;

impl<'a> Learning<'a> {
    /// Traces that can be of a fabric.
    fn paths(&mut self) -> Vec<&'a Trace> {
        let known: BTreeSet<IpAddr> = self.ports.iter().map(|port| port.address).collect();
        if known.len() != self.ports.len() {
            self.mistakes.push("two ports of NICs have one address".to_owned());
        }
        let (mut strange, mut odd) = (BTreeSet::new(), 0u32);
        let mut paths = Vec::new();
        for trace in self.traces {
            let distinct: BTreeSet<&IpAddr> = trace.hops.iter().collect();
            for end in [trace.from, trace.to] {
                if !known.contains(&end) {
                    strange.insert(end);
                }
            }
            if !known.contains(&trace.from) || !known.contains(&trace.to) || trace.from == trace.to {
                continue;
            }
            // Up and down again, and never through a switch twice.
            if trace.hops.len() % 2 == 0 || trace.hops.len() > MOST_HOPS || distinct.len() != trace.hops.len()
            {
                odd += 1;
            } else {
                paths.push(trace);
            }
        }
        for address in strange {
            self.notes
                .push(format!("probes lead from or to {address}, which is no port's address: left out"));
        }
        if odd > 0 {
            self.notes.push(format!(
                "{odd} paths do not go up and down again over one, three or five switches: left out"
            ));
        }
        paths
    }

    /// Where each switch stands: at the ends of paths leaves, then spines, then cores.
    fn tiers(&mut self, paths: &[&Trace], aliases: &Aliases) -> BTreeMap<Switch, Tier> {
        let mut tiers: BTreeMap<Switch, Tier> = BTreeMap::new();
        for path in paths {
            for (at, hop) in path.hops.iter().enumerate() {
                let tier = [Tier::Leaf, Tier::Spine, Tier::Core][at.min(path.hops.len() - 1 - at)];
                let switch = aliases.of(*hop);
                let known = *tiers.entry(switch).or_insert(tier);
                if known != tier {
                    self.mistakes.push(format!(
                        "{switch} is met as a {} and as a {}: a switch answers by another's address, or two tiers share one",
                        known.min(tier).name(),
                        known.max(tier).name()
                    ));
                }
            }
        }
        tiers
    }

    /// Two leaves that lead to a third over switches of which none is known to be the same: nobody can tell whether they are.
    fn look_for_twins(&mut self, paths: &[&Trace], aliases: &Aliases) {
        // By the last leaf and the one before it on the way: who stands highest.
        let mut over: BTreeMap<Switch, BTreeMap<Switch, BTreeSet<Switch>>> = BTreeMap::new();
        for path in paths.iter().filter(|path| path.hops.len() > 1) {
            let (first, last) = (aliases.of(path.hops[0]), aliases.of(path.hops[path.hops.len() - 1]));
            // The switch that leads down to the leaf: of a path over a spine, that spine.
            let down = aliases.of(path.hops[path.hops.len() - 2]);
            over.entry(last).or_default().entry(first).or_default().insert(down);
        }
        for (last, from) in &over {
            let mut from = from.iter();
            let Some((first, known)) = from.next() else { continue };
            if let Some((other, others)) = from.find(|(_, others)| others.is_disjoint(known)) {
                let one =
                    |switches: &BTreeSet<Switch>| switches.first().map(IpAddr::to_string).unwrap_or_default();
                self.mistakes.push(format!(
                    "from under the leaf {first} and from under {other} probes reach {last} over switches with other addresses \
                     ({}, {}, …): whether they are the same switches cannot be told. Have switches sign ICMP with one address each \
                     (loopback), or with those of links that are /31 or /30",
                    one(known),
                    one(others)
                ));
                // One such sentence is enough: it is the same everywhere.
                return;
            }
        }
    }

    fn build(
        &mut self,
        paths: &[&Trace],
        aliases: &Aliases,
        tiers: &BTreeMap<Switch, Tier>,
    ) -> Option<Topology> {
        let leaves = self.leaves(paths, aliases);
        let rates = self.rates()?;
        let mut builder = Builder::new();
        match self.assemble(&mut builder, paths, aliases, tiers, &leaves, &rates) {
            Ok(()) => Some(builder.build()),
            Err(error) => {
                self.mistakes.push(error.to_string());
                None
            }
        }
    }

    /// The leaf of each port.
    fn leaves(&mut self, paths: &[&Trace], aliases: &Aliases) -> BTreeMap<IpAddr, Switch> {
        let mut leaves = BTreeMap::new();
        for path in paths {
            leaves.insert(path.from, aliases.of(path.hops[0]));
            leaves.entry(path.to).or_insert_with(|| aliases.of(path.hops[path.hops.len() - 1]));
        }
        for port in self.ports {
            if !leaves.contains_key(&port.address) {
                self.mistakes.push(format!(
                    "{}/{} ({}): no probe from or to it was answered all the way",
                    port.host, port.nic, port.address
                ));
            }
        }
        leaves
    }

    /// The rate of each port.
    fn rates(&mut self) -> Option<Vec<Gbps>> {
        let unknown: Vec<&HostPort> = self.ports.iter().filter(|port| port.rate.is_none()).collect();
        if let (Some(port), None) = (unknown.first(), self.assumed.nic_rate) {
            self.mistakes.push(format!(
                "the rate of {} ports is not known (the first: {}/{}), and none is assumed",
                unknown.len(),
                port.host,
                port.nic
            ));
            return None;
        }
        if let (false, Some(rate)) = (unknown.is_empty(), self.assumed.nic_rate) {
            let (count, rate) = (unknown.len(), rate.get());
            self.notes.push(format!("assumed: the rate of {count} ports of NICs, {rate} Gbit/s"));
        }
        Some(self.ports.iter().filter_map(|port| port.rate.or(self.assumed.nic_rate)).collect())
    }

    fn assemble(
        &mut self,
        builder: &mut Builder,
        paths: &[&Trace],
        aliases: &Aliases,
        tiers: &BTreeMap<Switch, Tier>,
        leaves: &BTreeMap<IpAddr, Switch>,
        rates: &[Gbps],
    ) -> Result<(), TopologyError> {
        let mut ids: BTreeMap<Switch, SwitchId> = BTreeMap::new();
        let mut sorted: Vec<(&Switch, &Tier)> = tiers.iter().collect();
        sorted.sort_by_key(|(switch, tier)| (**tier, **switch));
        for (switch, tier) in sorted {
            let id = builder.switch(&format!("{}-{switch}", tier.name()), *tier)?;
            for address in aliases.all(*switch) {
                builder.switch_address(id, address)?;
            }
            ids.insert(*switch, id);
        }
        let mut links: BTreeSet<(SwitchId, SwitchId)> = BTreeSet::new();
        let mut left: BTreeMap<SwitchId, (u32, BTreeSet<SwitchId>)> = BTreeMap::new();
        for path in paths {
            let crossed: Vec<SwitchId> =
                path.hops.iter().filter_map(|hop| ids.get(&aliases.of(*hop)).copied()).collect();
            links.extend(crossed.windows(2).map(|ends| (ends[0].min(ends[1]), ends[0].max(ends[1]))));
            if let [leaf, up, ..] = crossed[..] {
                let of = left.entry(leaf).or_default();
                of.0 = of.0.saturating_add(path.ports);
                of.1.insert(up);
            }
        }
        let fastest = rates.iter().copied().reduce(|a, b| if b.get() > a.get() { b } else { a });
        if let Some(rate) = self.assumed.link_rate.or(fastest) {
            for (a, b) in &links {
                builder.links(*a, *b, rate, 1, State::Up)?;
            }
            if !links.is_empty() {
                let (count, rate) = (links.len(), rate.get());
                self.notes.push(format!(
                    "assumed: {count} links between switches have {rate} Gbit/s each, and no two run side by side; probes tell \
                     neither"
                ));
            }
        }
        for (leaf, (ports, ups)) in &left {
            let needed = PORTS_A_LINK * ups.len() as u32;
            if *ports < needed {
                self.notes.push(format!(
                    "only {ports} source ports left {} over {} links: there may be links that none took ({needed} would tell)",
                    builder.topology().switch(*leaf).name,
                    ups.len()
                ));
            }
        }
        self.add_hosts(builder, &ids, leaves, rates)
    }

    fn add_hosts(
        &self,
        builder: &mut Builder,
        ids: &BTreeMap<Switch, SwitchId>,
        leaves: &BTreeMap<IpAddr, Switch>,
        rates: &[Gbps],
    ) -> Result<(), TopologyError> {
        let mut at = 0;
        let mut hosts = BTreeMap::new();
        while at < self.ports.len() {
            let (host, nic) = (&self.ports[at].host, &self.ports[at].nic);
            let own =
                self.ports[at..].iter().take_while(|port| (&port.host, &port.nic) == (host, nic)).count();
            let own = at..at + own;
            at = own.end;
            let id = match hosts.get(host) {
                Some(id) => *id,
                None => *hosts.entry(host).or_insert(builder.host(host)?),
            };
            let port = |number: usize| {
                let leaf = leaves.get(&self.ports[number].address)?;
                Some(Port { switch: *ids.get(leaf)?, rate: rates[number], state: State::Up })
            };
            // Where a leaf is missing, there is a mistake that says so, and nothing is built of this.
            let ports: Vec<Port> = own.clone().filter_map(port).collect();
            if ports.len() != own.len() {
                continue;
            }
            let nic = builder.nic(id, nic, ports)?;
            for (plane, number) in own.enumerate() {
                builder.port_address(nic, plane as u32, self.ports[number].address)?;
            }
        }
        Ok(())
    }
}
