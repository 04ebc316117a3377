//! A leaf–spine fabric of network namespaces: every host, leaf and spine is one; cables are veth pairs with shapers at both
//! ends of those between switches; leaves send by the kernel's own layer-4 ECMP, each with a hash seed of its own, as
//! real switches have. The kernel's forwarding is real, so what is shown here about hashing and planning is, too.
//!
//! No routing daemon runs: what one would do when a link dies (withdraw the routes over it everywhere) is done by
//! [`Fabric::set_link`].

pub mod experiment;
pub mod jobs;
mod namespace;
mod netlink;
mod requests;
mod signing;
pub mod steering;
pub mod traffic;

use std::{fs, io, net::Ipv4Addr};

use anyhow::Context;
pub use namespace::{Namespace, acquire_rights};
use netlink::Netlink;
use requests::End;

/// How large, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Leaves; at most 200.
    pub leaves: usize,
    /// Spines; at most 64.
    pub spines: usize,
    /// Hosts under each leaf; at most 64.
    pub hosts: usize,
    /// Rate of the links between switches, and of every host's, in Mbit/s.
    pub mbit: u32,
    /// So many spines, the last ones, have links of half that rate.
    pub slow: usize,
    /// Least time between two ICMP errors of a switch to one host, after six at once.
    pub icmp_every_ms: u32,
}

impl Shape {
    /// Rate of a spine's links in Mbit/s.
    #[must_use]
    pub fn spine_mbit(&self, spine: usize) -> u32 {
        if spine + self.slow < self.spines { self.mbit } else { self.mbit / 2 }
    }
}

/// What a packet may have, as on the fabrics of clusters. With 1,500 bytes, the acknowledgements of one flow would be two percent of
/// what crosses a link the other way, where they go by a hash.
const MTU: u32 = 9000;
/// Of what a shaper counts, this part is payload: all but the headers of Ethernet, IP and TCP with time stamps.
pub const PAYLOAD: f64 = (MTU - 52) as f64 / (MTU + 14) as f64;

/// Every kernel has it, and it shares links evenly.
const CONGESTION_CONTROL: &str = "reno";

/// Bytes a shaper lets through at once.
const BURST: u32 = 32 << 10;
/// What a shaper keeps, in milliseconds of its rate: a switch's buffer.
const QUEUE_MS: u32 = 40;

/// Interfaces are numbered by what they lead to.
const TO_HOST: u32 = 100;
const TO_SPINE: u32 = 200;
const TO_LEAF: u32 = 300;
const HOST_SIDE: u32 = 10;
const MANAGEMENT: u32 = 11;

/// A fabric. It is gone when this is dropped.
#[derive(Debug)]
pub struct Fabric {
    shape: Shape,
    /// By leaf, then place under it.
    hosts: Vec<Vec<Namespace>>,
    leaves: Vec<Namespace>,
    spines: Vec<Namespace>,
    /// Where the controller runs: joined to hosts by cables of their own, as management networks are.
    management: Namespace,
    /// Whether the link of a leaf to a spine is up.
    up: Vec<Vec<bool>>,
}

/// Address of a host.
#[must_use]
pub fn host_address(leaf: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, leaf as u8, host as u8, 2)
}

fn leaf_address(leaf: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, leaf as u8, host as u8, 1)
}

/// All hosts under a leaf.
fn network(leaf: usize) -> (Ipv4Addr, u8) {
    (Ipv4Addr::new(10, leaf as u8, 0, 0), 16)
}

/// The leaf's address on the link to a spine.
fn up_address(leaf: usize, spine: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, leaf as u8, 4 * spine as u8 + 1)
}

/// The spine's address on the link to a leaf: with it the spine signs what it says about packets from under that leaf.
#[must_use]
pub fn spine_address(leaf: usize, spine: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, leaf as u8, 4 * spine as u8 + 2)
}

fn several(count: usize) -> io::Result<Vec<Namespace>> {
    (0..count).map(|_| Namespace::new()).collect()
}

impl Fabric {
    /// Builds a fabric.
    ///
    /// # Errors
    /// When the kernel lacks something (veth pairs, token buckets, multipath routes); says what it was doing.
    pub fn build(shape: Shape) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=200).contains(&shape.leaves)
                && (1..=60).contains(&shape.spines)
                && (1..=90).contains(&shape.hosts),
            "a fabric has 1 to 200 leaves, 1 to 60 spines and 1 to 90 hosts under each leaf"
        );
        let hosts = (0..shape.leaves).map(|_| several(shape.hosts)).collect::<io::Result<_>>()?;
        let up = vec![vec![true; shape.spines]; shape.leaves];
        let fabric = Self {
            shape,
            hosts,
            leaves: several(shape.leaves)?,
            spines: several(shape.spines)?,
            management: Namespace::new()?,
            up,
        };
        for switch in fabric.leaves.iter().chain(&fabric.spines) {
            switch.run(|| settings(shape))?.context("cannot set up a switch")?;
        }
        fabric.management.run(|| requests::set_up(&mut Netlink::route()?, 1, true))??;
        for leaf in 0..shape.leaves {
            for host in 0..shape.hosts {
                fabric
                    .attach(leaf, host)
                    .with_context(|| format!("cannot attach host {host} of leaf {leaf}"))?;
            }
            for spine in 0..shape.spines {
                fabric
                    .join(leaf, spine)
                    .with_context(|| format!("cannot join leaf {leaf} and spine {spine}"))?;
            }
        }
        for leaf in 0..shape.leaves {
            fabric.routes_to(leaf).with_context(|| format!("cannot set routes to leaf {leaf}"))?;
        }
        Ok(fabric)
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// A host's namespace.
    #[must_use]
    pub fn host(&self, leaf: usize, host: usize) -> &Namespace {
        &self.hosts[leaf][host]
    }

    /// Where the controller runs.
    #[must_use]
    pub fn management(&self) -> &Namespace {
        &self.management
    }

    /// Joins a host to the management network; returns the address by which it reaches the controller.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn manage(&self, leaf: usize, host: usize) -> anyhow::Result<Ipv4Addr> {
        let number = (leaf * self.shape.hosts + host) as u16;
        let [high, low] = (number * 4).to_be_bytes();
        let (above, below) = (Ipv4Addr::new(192, 168, high, low + 1), Ipv4Addr::new(192, 168, high, low + 2));
        let index = TO_HOST + u32::from(number);
        let name = format!("host{number}");
        let there = End { name: "mgmt0", index: MANAGEMENT };
        let cable = || {
            let mut link = Netlink::route()?;
            let host = self.hosts[leaf][host].descriptor();
            requests::cable(&mut link, End { name: &name, index }, there, host, MTU)?;
            requests::address(&mut link, index, above, 30)?;
            requests::set_up(&mut link, index, true)
        };
        self.management.run(cable)??;
        self.hosts[leaf][host].run(|| {
            let mut link = Netlink::route()?;
            requests::address(&mut link, MANAGEMENT, below, 30)?;
            requests::set_up(&mut link, MANAGEMENT, true)
        })??;
        Ok(above)
    }

    /// Whether a link is up.
    #[must_use]
    pub fn is_up(&self, leaf: usize, spine: usize) -> bool {
        self.up[leaf][spine]
    }

    fn attach(&self, leaf: usize, host: usize) -> anyhow::Result<()> {
        let (below, above) = (&self.hosts[leaf][host], &self.leaves[leaf]);
        let index = TO_HOST + host as u32;
        let name = format!("host{host}");
        above.run(|| {
            let mut link = Netlink::route()?;
            let there = End { name: "eth0", index: HOST_SIDE };
            requests::cable(&mut link, End { name: &name, index }, there, below.descriptor(), MTU)
                .context("a veth pair (CONFIG_VETH)")?;
            requests::address(&mut link, index, leaf_address(leaf, host), 30).context("an address")?;
            requests::set_up(&mut link, index, true).context("an interface")?;
            self.shape_link(&mut link, index, self.shape.mbit)
        })??;
        below.run(|| {
            let mut link = Netlink::route()?;
            requests::set_up(&mut link, 1, true).context("the loopback interface")?;
            // Jobs are started again within seconds: the few ports that they listen on must not be taken by what is over.
            set("tcp_max_tw_buckets", "0")?;
            // What the machine itself uses may be one for other networks: BBR takes the time that acknowledgements spend in queues
            // for a lack of bandwidth.
            set("tcp_congestion_control", CONGESTION_CONTROL)?;
            requests::address(&mut link, HOST_SIDE, host_address(leaf, host), 30).context("an address")?;
            requests::set_up(&mut link, HOST_SIDE, true).context("an interface")?;
            let everywhere = (Ipv4Addr::UNSPECIFIED, 0);
            requests::route(&mut link, everywhere, &[(HOST_SIDE, leaf_address(leaf, host))])
                .context("the default route")?;
            self.shape_link(&mut link, HOST_SIDE, self.shape.mbit)
        })?
    }

    fn join(&self, leaf: usize, spine: usize) -> anyhow::Result<()> {
        let (below, above) = (&self.leaves[leaf], &self.spines[spine]);
        let (up, down) = (TO_SPINE + spine as u32, TO_LEAF + leaf as u32);
        let (up_name, down_name) = (format!("spine{spine}"), format!("leaf{leaf}"));
        below.run(|| {
            let mut link = Netlink::route()?;
            let there = End { name: &down_name, index: down };
            requests::cable(&mut link, End { name: &up_name, index: up }, there, above.descriptor(), MTU)?;
            requests::address(&mut link, up, up_address(leaf, spine), 30)?;
            requests::set_up(&mut link, up, true)?;
            self.shape_link(&mut link, up, self.shape.spine_mbit(spine))
        })??;
        above.run(|| {
            let mut link = Netlink::route()?;
            requests::address(&mut link, down, spine_address(leaf, spine), 30)?;
            requests::set_up(&mut link, down, true)?;
            self.shape_link(&mut link, down, self.shape.spine_mbit(spine))
        })?
    }

    fn shape_link(&self, link: &mut Netlink, index: u32, mbit: u32) -> anyhow::Result<()> {
        let rate = mbit * 125_000;
        let queue = rate / 1000 * QUEUE_MS;
        requests::shape(link, index, rate, BURST, queue.max(2 * BURST))
            .context("a token bucket (CONFIG_NET_SCH_TBF)")
    }

    /// Sets the routes of all switches to the hosts under a leaf.
    fn routes_to(&self, leaf: usize) -> anyhow::Result<()> {
        for from in (0..self.shape.leaves).filter(|from| *from != leaf) {
            let spines =
                (0..self.shape.spines).filter(|spine| self.up[leaf][*spine] && self.up[from][*spine]);
            let hops: Vec<_> =
                spines.map(|spine| (TO_SPINE + spine as u32, spine_address(from, spine))).collect();
            self.leaves[from]
                .run(|| requests::route(&mut Netlink::route()?, network(leaf), &hops))?
                .context("a route over several links (CONFIG_IP_ROUTE_MULTIPATH)")?;
        }
        for spine in 0..self.shape.spines {
            let hop = (TO_LEAF + leaf as u32, up_address(leaf, spine));
            let hops: &[_] = if self.up[leaf][spine] { &[hop] } else { &[] };
            self.spines[spine].run(|| requests::route(&mut Netlink::route()?, network(leaf), hops))??;
        }
        Ok(())
    }

    /// Cuts a link or mends it, and has all switches route accordingly.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_link(&mut self, leaf: usize, spine: usize, up: bool) -> anyhow::Result<()> {
        self.up[leaf][spine] = up;
        let index = TO_LEAF + leaf as u32;
        self.spines[spine].run(|| requests::set_up(&mut Netlink::route()?, index, up))??;
        self.routes_to(leaf)?;
        for other in (0..self.shape.leaves).filter(|other| *other != leaf) {
            self.routes_to(other)?;
        }
        Ok(())
    }

    /// Has a link lose one in so many of the packets that cross it, in both directions.
    ///
    /// # Errors
    /// When the kernel has no packet filter that can.
    pub fn lose(&self, leaf: usize, spine: usize, one_in: u32) -> anyhow::Result<()> {
        let index = TO_LEAF + leaf as u32;
        self.spines[spine]
            .run(|| requests::lose(&mut Netlink::filter()?, index, one_in))?
            .context("a rule that loses packets (CONFIG_NF_TABLES, CONFIG_NFT_NUMGEN)")
    }

    /// Has a spine keep silent: it forwards, and answers no probe.
    ///
    /// # Errors
    /// When the kernel has no packet filter.
    pub fn hush(&self, spine: usize) -> anyhow::Result<()> {
        let done = self.spines[spine].run(|| requests::hush(&mut Netlink::filter()?))?;
        done.context("a rule that drops packets (CONFIG_NF_TABLES)")
    }

    /// Has no link of a spine lose packets any more.
    ///
    /// # Errors
    /// When none did.
    pub fn mend(&self, spine: usize) -> anyhow::Result<()> {
        let done = self.spines[spine].run(|| requests::lose_nothing(&mut Netlink::filter()?))?;
        done.context("cannot take back the rules that lose packets")
    }
}

/// What a switch is set to.
fn settings(shape: Shape) -> anyhow::Result<()> {
    let mut link = Netlink::route()?;
    requests::set_up(&mut link, 1, true)?;
    let icmp = shape.icmp_every_ms.to_string();
    for (name, value) in [
        ("ip_forward", "1"),
        // Layer 4, read from the packet: addresses, ports and protocol. Policy 1 is the same from outside, but believes a
        // hash that comes with a packet, and between namespaces the sender's socket's comes with it: a random number.
        ("fib_multipath_hash_policy", "3"),
        ("fib_multipath_hash_fields", "55"),
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "0"),
        ("icmp_ratelimit", &icmp),
        ("conf/all/ignore_routes_with_linkdown", "1"),
        ("conf/default/ignore_routes_with_linkdown", "1"),
    ] {
        set(name, value)?;
    }
    Ok(())
}

/// Sets something of IPv4 in the namespace that this is called in.
fn set(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    fs::write(&path, value).with_context(|| format!("cannot set {path} to {value}"))
}
