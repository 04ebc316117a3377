//! The topology's document.
//!
//! `address` of a port and `addresses` of a switch (those it answers probes by) are optional; whoever steers needs them.
//! So are `a_address` and `b_address` of a link (those that the two switches have on it), which policy routes need; a link with
//! them has no `count`.
//!
//! ```yaml
//! switches: [{name: leaf0, tier: leaf}, {name: leaf1, tier: leaf}, {name: spine0, tier: spine, addresses: [10.9.0.1]}]
//! links: [{a: leaf0, b: spine0, gbps: 400, count: 2}, {a: leaf1, b: spine0, gbps: 400, count: 2, state: avoid}]
//! hosts:
//!   - {name: h0, nics: [{name: nic0, ports: [{switch: leaf0, gbps: 200}]}]}
//!   - {name: h1, nics: [{name: nic0, ports: [{switch: leaf1, gbps: 200}]}]}
//! ```

use std::{collections::HashMap, net::IpAddr};

use super::{
    node::{Node, Tree},
    problem::Problems,
    reader::{At, Reader, Seen},
    yaml,
};
use crate::topology::{Builder, MOST_LINKS, NicId, Port, State, SwitchId, Tier, Topology};

const STATES: [(&str, State); 3] = [("up", State::Up), ("down", State::Down), ("avoid", State::Avoid)];
const TIERS: [(&str, Tier); 3] = [("leaf", Tier::Leaf), ("spine", Tier::Spine), ("core", Tier::Core)];

/// Where in its document a topology says what, so that who finds it wrong can name the line. Lines count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    switches: HashMap<SwitchId, u32>,
    links: HashMap<(SwitchId, SwitchId), u32>,
    ports: HashMap<(NicId, u32), u32>,
}

impl Lines {
    /// Where a switch stands.
    #[must_use]
    pub fn switch(&self, id: SwitchId) -> Option<u32> {
        self.switches.get(&id).copied()
    }

    /// Where the first of the links between two switches stands.
    #[must_use]
    pub fn link(&self, a: SwitchId, b: SwitchId) -> Option<u32> {
        self.links.get(&(a.min(b), a.max(b))).copied()
    }

    /// Where a port of a NIC stands.
    #[must_use]
    pub fn port(&self, nic: NicId, port: u32) -> Option<u32> {
        self.ports.get(&(nic, port)).copied()
    }
}

/// Reads a topology.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_topology(text: &str) -> Result<Topology, Problems> {
    parse_topology_with_lines(text).map(|(topology, _)| topology)
}

/// Reads a topology, and where its parts stand.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_topology_with_lines(text: &str) -> Result<(Topology, Lines), Problems> {
    let tree = yaml::parse(text)?;
    from_tree(&tree)
}

fn from_tree(tree: &Tree<'_>) -> Result<(Topology, Lines), Problems> {
    let mut reading = Reading { reader: Reader::new(tree), builder: Builder::new(), lines: Lines::default() };
    let at = At::ROOT;
    if let Some(fields) = reading.reader.fields(&tree.root, &at, ["hosts", "switches", "links"]) {
        reading.switches(fields.get(1), &at.field("switches"));
        reading.links(fields.get(2), &at.field("links"));
        reading.hosts(fields.get(0), &at.field("hosts"));
    }
    if reading.reader.problems.is_empty() {
        Ok((reading.builder.build(), reading.lines))
    } else {
        Err(reading.reader.problems)
    }
}

/// An address and where it stands.
type PlacedAddress = (u32, IpAddr);
/// A port, where it stands, and its address.
type PlacedPort = (Port, u32, Option<PlacedAddress>);

struct Reading<'t> {
    reader: Reader<'t>,
    builder: Builder,
    lines: Lines,
}

impl<'t> Reading<'t> {
    fn switches(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) {
        let mut seen = Seen::default();
        for (index, node) in self.reader.list(node, at).iter().enumerate() {
            let at = at.item(index);
            let Some(fields) = self.reader.fields(node, &at, ["name", "tier", "addresses"]) else { continue };
            let name = self.reader.name(fields.get(0), &at.field("name"), fields.place);
            let tier_at = at.field("tier");
            let tier = match fields.get(1) {
                Some(node) => self.reader.word(node, &tier_at, &TIERS),
                None => {
                    self.reader.missing(fields.place, &tier_at, "leaf, spine or core");
                    None
                }
            };
            let addresses_at = at.field("addresses");
            let addresses = self.addresses(fields.get(2), &addresses_at);
            let Some(name) = name else { continue };
            let line = self.reader.line(fields.place);
            if let Some(first) = seen.again(name, line) {
                self.duplicate(fields.get(0).map_or(fields.place, |n| n.place), &at, "switch", name, first);
                continue;
            }
            // A switch of unknown tier is known all the same, or its every link would be a mistake.
            match self.builder.switch(name, tier.unwrap_or(Tier::Leaf)) {
                Ok(switch) => {
                    self.lines.switches.insert(switch, line);
                    for (index, (place, address)) in addresses {
                        if let Err(error) = self.builder.switch_address(switch, address) {
                            self.reader.wrong(place, &addresses_at.item(index), error);
                        }
                    }
                }
                Err(error) => self.reader.wrong(fields.place, &at, error),
            }
        }
    }

    fn address(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) -> Option<PlacedAddress> {
        node.and_then(|node| Some((node.place, self.reader.address(node, at)?)))
    }

    /// Those that are addresses, by their places in the list.
    fn addresses(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) -> Vec<(usize, PlacedAddress)> {
        let items = self.reader.list(node, at).iter().enumerate();
        items.filter_map(|(index, node)| Some((index, self.address(Some(node), &at.item(index))?))).collect()
    }

    fn duplicate(&mut self, place: u32, at: &At<'_>, what: &str, name: &str, first: u32) {
        let what = format_args!("{what} {name:?} is there already, on line {first}");
        self.reader.wrong(place, &at.field("name"), what);
    }

    fn switch(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, parent: u32) -> Option<SwitchId> {
        let name = self.reader.name(node, at, parent)?;
        let found = self.builder.topology().find_switch(name);
        if found.is_none() {
            let place = node.map_or(parent, |node| node.place);
            self.reader.wrong(place, at, format_args!("there is no switch {name:?}"));
        }
        found
    }

    fn state(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) -> State {
        node.and_then(|node| self.reader.word(node, at, &STATES)).unwrap_or_default()
    }

    fn links(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) {
        for (index, node) in self.reader.list(node, at).iter().enumerate() {
            let at = at.item(index);
            let names = ["a", "b", "gbps", "count", "state", "a_address", "b_address"];
            let Some(fields) = self.reader.fields(node, &at, names) else { continue };
            let a = self.switch(fields.get(0), &at.field("a"), fields.place);
            let b = self.switch(fields.get(1), &at.field("b"), fields.place);
            let rate = self.reader.required_gbps(fields.get(2), &at.field("gbps"), fields.place);
            let most = u32::try_from(MOST_LINKS).unwrap_or(u32::MAX);
            let count = match fields.get(3) {
                Some(node) => self.reader.whole(node, &at.field("count"), 1, most),
                None => Some(1),
            };
            let state = self.state(fields.get(4), &at.field("state"));
            let own = [(5, "a_address"), (6, "b_address")];
            let own = own.map(|(field, name)| (name, self.address(fields.get(field), &at.field(name))));
            let (Some(a), Some(b), Some(rate), Some(count)) = (a, b, rate, count) else { continue };
            if let Err(error) = self.builder.links(a, b, rate, count, state) {
                self.reader.wrong(fields.place, &at, error);
                continue;
            }
            self.lines.links.entry((a.min(b), a.max(b))).or_insert(self.reader.line(fields.place));
            for ((name, address), (of, to)) in own.into_iter().zip([(a, b), (b, a)]) {
                let Some((place, address)) = address else { continue };
                if count > 1 {
                    let what = "parallel links with addresses are written one by one";
                    self.reader.wrong(place, &at.field(name), what);
                } else if let Err(error) = self.builder.link_address(of, to, address) {
                    self.reader.wrong(place, &at.field(name), error);
                }
            }
        }
    }

    fn hosts(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) {
        let mut seen = Seen::default();
        for (index, node) in self.reader.list(node, at).iter().enumerate() {
            let at = at.item(index);
            let Some(fields) = self.reader.fields(node, &at, ["name", "nics"]) else { continue };
            let name = self.reader.name(fields.get(0), &at.field("name"), fields.place);
            let again = name.and_then(|name| seen.again(name, self.reader.line(fields.place)));
            if let (Some(name), Some(first)) = (name, again) {
                self.duplicate(fields.get(0).map_or(fields.place, |n| n.place), &at, "host", name, first);
            }
            // A host that cannot be named or added is one of its own, so that its NICs are looked at, too.
            let own = format!("\0{index}");
            let name = if again.is_some() { None } else { name };
            match self.builder.host(name.unwrap_or(&own)) {
                Ok(host) => self.nics(host, fields.get(1), &at.field("nics")),
                Err(error) => self.reader.wrong(fields.place, &at, error),
            }
        }
    }

    fn nics(&mut self, host: crate::topology::HostId, node: Option<&'t Node<'t>>, at: &At<'_>) {
        let mut seen = Seen::default();
        for (index, node) in self.reader.list(node, at).iter().enumerate() {
            let at = at.item(index);
            let Some(fields) = self.reader.fields(node, &at, ["name", "ports"]) else { continue };
            let name = self.reader.name(fields.get(0), &at.field("name"), fields.place);
            let ports = self.ports(fields.get(1), &at.field("ports"), fields.place);
            let Some(name) = name else { continue };
            let line = self.reader.line(fields.place);
            if let Some(first) = seen.again(name, line) {
                self.duplicate(fields.get(0).map_or(fields.place, |n| n.place), &at, "NIC", name, first);
                continue;
            }
            let Some(placed) = ports else { continue };
            let ports = placed.iter().map(|(port, ..)| *port).collect();
            let nic = match self.builder.nic(host, name, ports) {
                Ok(nic) => nic,
                Err(error) => {
                    self.reader.wrong(fields.place, &at, error);
                    continue;
                }
            };
            for (index, (_, place, address)) in placed.into_iter().enumerate() {
                let port = index as u32;
                self.lines.ports.insert((nic, port), self.reader.line(place));
                if let Some((place, address)) = address
                    && let Err(error) = self.builder.port_address(nic, port, address)
                {
                    self.reader.wrong(place, &at.field("ports").item(index).field("address"), error);
                }
            }
        }
    }

    /// The ports of a NIC; none when one of them is wrong (and reported).
    fn ports(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, parent: u32) -> Option<Vec<PlacedPort>> {
        let items = self.reader.list(node, at);
        if items.is_empty() {
            let place = node.map_or(parent, |node| node.place);
            self.reader.wrong(place, at, "a NIC has at least one port");
            return None;
        }
        let mut ports = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            let at = at.item(index);
            let Some(fields) = self.reader.fields(node, &at, ["switch", "gbps", "state", "address"]) else {
                continue;
            };
            let switch_at = at.field("switch");
            let switch = self.switch(fields.get(0), &switch_at, fields.place);
            let rate = self.reader.required_gbps(fields.get(1), &at.field("gbps"), fields.place);
            let state = self.state(fields.get(2), &at.field("state"));
            let address = self.address(fields.get(3), &at.field("address"));
            let (Some(switch), Some(rate)) = (switch, rate) else { continue };
            let attached = self.builder.topology().switch(switch);
            if attached.tier != Tier::Leaf {
                let what =
                    format!("{:?} is a {}: NICs are attached to leaves", attached.name, attached.tier.name());
                self.reader.wrong(fields.get(0).map_or(fields.place, |node| node.place), &switch_at, what);
                continue;
            }
            ports.push((Port { switch, rate, state }, fields.place, address));
        }
        (ports.len() == items.len()).then_some(ports)
    }
}
