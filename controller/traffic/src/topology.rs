//! The network as it is wired: hosts with NICs, switches in tiers, links with a rate and a state.
//!
//! A [`Topology`] can only be built by a [`Builder`], one checked step after the other, so the planner never meets a
//! port on a switch that does not exist. Things are numbered in the order they were added, and the planner breaks ties
//! by these numbers: the same input gives the same plan.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

/// A rate in Gbit/s: finite and positive.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Gbps(f64);

impl Gbps {
    /// The largest rate taken for real: a thousand times the fastest link there is, so that sums stay finite.
    pub const LARGEST: f64 = 1e9;
    /// The smallest rate taken for real (1 bit/s).
    pub const SMALLEST: f64 = 1e-9;

    /// A rate, unless it is not a number, not finite, not positive, or out of all proportion.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (Self::SMALLEST..=Self::LARGEST).contains(&value).then_some(Self(value))
    }

    /// The rate in Gbit/s.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Whether traffic may use a port or a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Yes.
    #[default]
    Up,
    /// Only where there is no other way.
    Avoid,
    /// No.
    Down,
}

/// Where a switch stands. Paths climb tiers, then descend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// NICs are attached here.
    Leaf,
    /// Joins leaves.
    Spine,
    /// Joins the spines of several pods.
    Core,
}

impl Tier {
    /// As written in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tier::Leaf => "leaf",
            Tier::Spine => "spine",
            Tier::Core => "core",
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Its place in the order of addition.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
id! {
    /// A host of one topology.
    HostId
}
id! {
    /// A NIC of one topology.
    NicId
}
id! {
    /// A switch of one topology.
    SwitchId
}

/// One port of a NIC. Its index among the NIC's ports is its plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Port {
    /// The leaf it is attached to.
    pub switch: SwitchId,
    /// Its rate in each direction.
    pub rate: Gbps,
    /// Whether traffic may use it.
    pub state: State,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// Its host.
    pub host: HostId,
    /// Its name, unique on the host.
    pub name: String,
    /// Its ports, by plane; at least one.
    pub ports: Vec<Port>,
}

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Its name, unique in the topology.
    pub name: String,
    /// Where it stands.
    pub tier: Tier,
}

/// One physical link between two switches, both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// One end: the switch that was added first.
    pub a: SwitchId,
    /// The other end.
    pub b: SwitchId,
    /// Its index among the links between the two.
    pub index: u32,
    /// Its rate in each direction.
    pub rate: Gbps,
    /// Whether traffic may use it.
    pub state: State,
}

/// Why something cannot be part of a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// The name is taken.
    #[error("{what} {name:?} is there already")]
    Duplicate {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// NICs are attached to leaves only.
    #[error("{name:?} is a {tier}: ports of a NIC are attached to leaves", tier = tier.name())]
    NotALeaf {
        /// The switch.
        name: String,
        /// What it is.
        tier: Tier,
    },
    /// A NIC without ports cannot send.
    #[error("NIC {name:?} has no ports")]
    NoPorts {
        /// The NIC.
        name: String,
    },
    /// More than can be planned with.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Two things cannot have one address.
    #[error("{address} is somebody's address already")]
    TakenAddress {
        /// The address.
        address: IpAddr,
    },
    /// A link from a switch to itself.
    #[error("a link from {name:?} to itself")]
    Loop {
        /// The switch.
        name: String,
    },
}

/// How many physical links, and how many NIC ports, one topology may have.
pub const MOST_LINKS: usize = 4_000_000;
/// How many ports (planes) one NIC may have.
pub const MOST_PORTS: usize = 16;

/// The network.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    hosts: Vec<String>,
    nics: Vec<Nic>,
    switches: Vec<Switch>,
    links: Vec<Link>,
    nic_by_name: HashMap<(u32, String), NicId>,
    host_by_name: HashMap<String, HostId>,
    switch_by_name: HashMap<String, SwitchId>,
    port_addresses: HashMap<(NicId, u32), IpAddr>,
    switch_addresses: HashMap<SwitchId, Vec<IpAddr>>,
    /// Of an end of a link: the link's lower switch, its upper one and its index, and whose end it is.
    link_addresses: HashMap<(SwitchId, SwitchId, u32, SwitchId), IpAddr>,
}

impl Topology {
    /// The names of all hosts, in order.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// All NICs, in order.
    #[must_use]
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// All switches, in order.
    #[must_use]
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// All physical links, in order.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// A NIC.
    #[must_use]
    pub fn nic(&self, id: NicId) -> &Nic {
        &self.nics[id.index()]
    }

    /// A switch.
    #[must_use]
    pub fn switch(&self, id: SwitchId) -> &Switch {
        &self.switches[id.index()]
    }

    /// A host's name.
    #[must_use]
    pub fn host_name(&self, id: HostId) -> &str {
        &self.hosts[id.index()]
    }

    /// The host of that name.
    #[must_use]
    pub fn find_host(&self, name: &str) -> Option<HostId> {
        self.host_by_name.get(name).copied()
    }

    /// The NIC of that name.
    #[must_use]
    pub fn find_nic(&self, host: HostId, name: &str) -> Option<NicId> {
        self.nic_by_name.get(&(host.0, name.to_owned())).copied()
    }

    /// The switch of that name.
    #[must_use]
    pub fn find_switch(&self, name: &str) -> Option<SwitchId> {
        self.switch_by_name.get(name).copied()
    }

    /// The address of a NIC's port, where it is known.
    #[must_use]
    pub fn port_address(&self, nic: NicId, port: u32) -> Option<IpAddr> {
        self.port_addresses.get(&(nic, port)).copied()
    }

    /// The port of a bond that a NIC's port is, counted from 1: other ports of the NIC have its address, too. 0 if it is none,
    /// or its address is not known.
    #[must_use]
    pub fn bond_port(&self, nic: NicId, port: u32) -> u8 {
        let address = self.port_address(nic, port);
        let ports = 0..self.nic(nic).ports.len() as u32;
        let shared =
            ports.filter(|other| *other != port).any(|other| self.port_address(nic, other) == address);
        // A NIC has no more ports than a byte can number.
        if shared && address.is_some() { port as u8 + 1 } else { 0 }
    }

    /// The addresses by which a switch signs what it says about packets, as far as they are known.
    #[must_use]
    pub fn switch_addresses(&self, id: SwitchId) -> &[IpAddr] {
        self.switch_addresses.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The address that `of` has on a link to another switch, where it is known.
    #[must_use]
    pub fn link_address(&self, of: SwitchId, to: SwitchId, index: u32) -> Option<IpAddr> {
        self.link_addresses.get(&(of.min(to), of.max(to), index, of)).copied()
    }

    /// Sets the state of the links between two switches: of all of them, or of one. Returns how many there are.
    pub fn set_link_state(&mut self, a: SwitchId, b: SwitchId, index: Option<u32>, state: State) -> usize {
        let (a, b) = (a.min(b), a.max(b));
        let wanted = |link: &&mut Link| link.a == a && link.b == b && index.is_none_or(|i| i == link.index);
        self.links.iter_mut().filter(wanted).map(|link| link.state = state).count()
    }

    /// Has the links between two switches that are up avoided.
    pub fn avoid(&mut self, a: SwitchId, b: SwitchId) {
        let (a, b) = (a.min(b), a.max(b));
        let wanted = |link: &&mut Link| link.a == a && link.b == b && link.state == State::Up;
        self.links.iter_mut().filter(wanted).for_each(|link| link.state = State::Avoid);
    }
}

/// Builds a [`Topology`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    topology: Topology,
    parallel: HashMap<(SwitchId, SwitchId), u32>,
    ports: usize,
    addresses: HashSet<IpAddr>,
    on_links: HashSet<IpAddr>,
}

impl Builder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a switch.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn switch(&mut self, name: &str, tier: Tier) -> Result<SwitchId, TopologyError> {
        let topology = &mut self.topology;
        let id = SwitchId(number(topology.switches.len(), "switches")?);
        if topology.switch_by_name.contains_key(name) {
            return Err(TopologyError::Duplicate { what: "switch", name: name.to_owned() });
        }
        topology.switch_by_name.insert(name.to_owned(), id);
        topology.switches.push(Switch { name: name.to_owned(), tier });
        Ok(id)
    }

    /// Adds a host.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn host(&mut self, name: &str) -> Result<HostId, TopologyError> {
        let topology = &mut self.topology;
        let id = HostId(number(topology.hosts.len(), "hosts")?);
        if topology.host_by_name.contains_key(name) {
            return Err(TopologyError::Duplicate { what: "host", name: name.to_owned() });
        }
        topology.host_by_name.insert(name.to_owned(), id);
        topology.hosts.push(name.to_owned());
        Ok(id)
    }

    /// Adds a NIC to a host.
    ///
    /// # Errors
    /// When the host has a NIC of that name, or the ports cannot be: none, too many, or not on leaves.
    pub fn nic(&mut self, host: HostId, name: &str, ports: Vec<Port>) -> Result<NicId, TopologyError> {
        let topology = &mut self.topology;
        let id = NicId(number(topology.nics.len(), "NICs")?);
        let key = (host.0, name.to_owned());
        if topology.nic_by_name.contains_key(&key) {
            return Err(TopologyError::Duplicate { what: "NIC", name: name.to_owned() });
        }
        if ports.is_empty() {
            return Err(TopologyError::NoPorts { name: name.to_owned() });
        }
        if ports.len() > MOST_PORTS {
            return Err(TopologyError::TooMany { what: "ports on a NIC", limit: MOST_PORTS });
        }
        for port in &ports {
            let switch = topology.switch(port.switch);
            if switch.tier != Tier::Leaf {
                return Err(TopologyError::NotALeaf { name: switch.name.clone(), tier: switch.tier });
            }
        }
        self.ports += ports.len();
        if self.ports > MOST_LINKS {
            return Err(TopologyError::TooMany { what: "ports", limit: MOST_LINKS });
        }
        topology.nic_by_name.insert(key, id);
        topology.nics.push(Nic { host, name: name.to_owned(), ports });
        Ok(id)
    }

    /// Gives a port of a NIC its address. Ports of one NIC that are a bond have the same.
    ///
    /// # Errors
    /// When something else has that address already.
    pub fn port_address(&mut self, nic: NicId, port: u32, address: IpAddr) -> Result<(), TopologyError> {
        let ports = 0..self.topology.nic(nic).ports.len() as u32;
        if !ports.into_iter().any(|other| self.topology.port_address(nic, other) == Some(address)) {
            self.take(address)?;
        }
        self.topology.port_addresses.insert((nic, port), address);
        Ok(())
    }

    /// Gives a switch one more address.
    ///
    /// # Errors
    /// When something has that address already.
    pub fn switch_address(&mut self, switch: SwitchId, address: IpAddr) -> Result<(), TopologyError> {
        self.take(address)?;
        self.topology.switch_addresses.entry(switch).or_default().push(address);
        Ok(())
    }

    /// Gives a switch an address on the link to another that was added last. It is one of the switch's addresses, too.
    ///
    /// # Errors
    /// When something else has that address already.
    pub fn link_address(&mut self, of: SwitchId, to: SwitchId, address: IpAddr) -> Result<(), TopologyError> {
        let pair = (of.min(to), of.max(to));
        let Some(next) = self.parallel.get(&pair) else { return Ok(()) };
        let key = (pair.0, pair.1, next.saturating_sub(1), of);
        if !self.on_links.insert(address) {
            return Err(TopologyError::TakenAddress { address });
        }
        if !self.topology.switch_addresses(of).contains(&address) {
            self.switch_address(of, address)?;
        }
        self.topology.link_addresses.insert(key, address);
        Ok(())
    }

    fn take(&mut self, address: IpAddr) -> Result<(), TopologyError> {
        if self.addresses.insert(address) { Ok(()) } else { Err(TopologyError::TakenAddress { address }) }
    }

    /// Adds `count` parallel links between two switches; their indices run on from those already there.
    ///
    /// # Errors
    /// When the ends are the same switch, or there are too many links.
    pub fn links(
        &mut self,
        a: SwitchId,
        b: SwitchId,
        rate: Gbps,
        count: u32,
        state: State,
    ) -> Result<(), TopologyError> {
        if a == b {
            return Err(TopologyError::Loop { name: self.topology.switch(a).name.clone() });
        }
        if self.topology.links.len() + count as usize > MOST_LINKS {
            return Err(TopologyError::TooMany { what: "links", limit: MOST_LINKS });
        }
        let (a, b) = (a.min(b), a.max(b));
        let next = self.parallel.entry((a, b)).or_default();
        for _ in 0..count {
            self.topology.links.push(Link { a, b, index: *next, rate, state });
            *next += 1;
        }
        Ok(())
    }

    /// The topology so far.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The topology.
    #[must_use]
    pub fn build(self) -> Topology {
        self.topology
    }
}

fn number(count: usize, what: &'static str) -> Result<u32, TopologyError> {
    if count >= MOST_LINKS {
        return Err(TopologyError::TooMany { what, limit: MOST_LINKS });
    }
    u32::try_from(count).map_err(|_| TopologyError::TooMany { what, limit: MOST_LINKS })
}
