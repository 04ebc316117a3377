//! Which NICs a process's NCCL may use, where its own variables say so.
//!
//! The variables come with the recorder, so anybody may have written them; they only choose among what sysfs and the kernel
//! name. What they mean is NCCL's to say ("Environment Variables" of its user guide): `NCCL_IB_HCA` chooses RDMA devices,
//! and their ports. Where that leaves any, they carry all data, and `NCCL_SOCKET_IFNAME` is only for meeting; where it leaves none, or
//! RDMA is switched off, `NCCL_SOCKET_IFNAME` chooses the interfaces that carry it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::{
    interfaces,
    report::OwnNic,
    sensors::{RdmaPort, rdma_ports},
};

/// A list of names as NCCL reads it: names that begin with one of these, or (`=` in front) are one of these; all others, if `^` comes
/// first of all. `:1` after a name is a port; newer versions have a rail and a plane after that, which choose nothing.
#[derive(Debug, PartialEq, Eq)]
struct Filter<'t> {
    except: bool,
    exact: bool,
    names: Vec<(&'t str, Option<u32>)>,
}

impl<'t> Filter<'t> {
    fn parse(text: &'t str) -> Self {
        let (except, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (exact, text) = text.strip_prefix('=').map_or((false, text), |rest| (true, rest));
        let name = |entry: &'t str| match entry.split_once(':') {
            // What is no number is port 0 to NCCL, which no device has.
            Some((name, rest)) if !rest.is_empty() && !rest.starts_with(':') => {
                (name, Some(leading_number(rest)))
            }
            Some((name, _)) => (name, None),
            None => (entry, None),
        };
        let names = text.split(',').map(name).filter(|(name, _)| !name.is_empty());
        Self { except, exact, names: names.collect() }
    }

    fn takes(&self, name: &str, port: Option<u32>) -> bool {
        let fits = |(wanted, on): &(&str, Option<u32>)| {
            let named = if self.exact { name == *wanted } else { name.starts_with(wanted) };
            named && (port.is_none() || on.is_none() || port == *on)
        };
        // An empty list names all.
        (self.names.is_empty() || self.names.iter().any(fits)) != self.except
    }
}

/// As `atoi` has it.
fn leading_number(text: &str) -> u32 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().unwrap_or(0)
}

/// What a host has.
#[derive(Debug, Default)]
pub struct HostNics {
    /// Ports of RDMA devices.
    pub rdma: Vec<RdmaPort>,
    /// Addresses and their interfaces, in the kernel's order.
    pub addresses: Vec<(String, IpAddr)>,
}

/// The NICs of the host that a process with these variables (names and values) may use; none where they leave it to NCCL.
#[must_use]
pub fn chosen(labels: &BTreeMap<String, String>, host: &HostNics) -> Vec<OwnNic> {
    let variable = |name: &str| labels.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let network = variable("NCCL_NET").unwrap_or_default();
    let is = |name: &str| network.eq_ignore_ascii_case(name);
    if !(network.is_empty() || is("IB") || is("Socket")) {
        // A network plugin's own: it may use whatever it likes.
        return Vec::new();
    }
    let off = variable("NCCL_IB_DISABLE").is_some_and(|text| leading_number(text.trim()) != 0);
    let hca = variable("NCCL_IB_HCA");
    let filter = Filter::parse(hca.unwrap_or_default());
    let rdma: Vec<&RdmaPort> =
        host.rdma.iter().filter(|port| port.active && filter.takes(&port.device, Some(port.port))).collect();
    if !off && !is("Socket") && !rdma.is_empty() {
        let of_port = |port: &&RdmaPort| {
            let own = host.addresses.iter().filter(|(name, _)| port.interfaces.contains(name));
            let addresses: Vec<Option<IpAddr>> = own.map(|(_, address)| Some(*address)).collect();
            let name = port.device.clone();
            // A port of InfiniBand need not have one.
            let addresses = if addresses.is_empty() { vec![None] } else { addresses };
            addresses
                .into_iter()
                .map(move |address| OwnNic { name: name.clone(), address })
                .collect::<Vec<_>>()
        };
        return if hca.is_some() { rdma.iter().flat_map(of_port).collect() } else { Vec::new() };
    }
    // One letter is no list to NCCL.
    let Some(list) = variable("NCCL_SOCKET_IFNAME").filter(|list| list.len() > 1 && !is("IB")) else {
        return Vec::new();
    };
    let filter = Filter::parse(list);
    let mut nics: Vec<OwnNic> = Vec::new();
    let none = |address: &IpAddr| address.is_ipv6() && address.is_loopback();
    let allowed = host.addresses.iter().filter(|(name, address)| filter.takes(name, None) && !none(address));
    for (name, address) in allowed {
        // The first address of each.
        if !nics.iter().any(|known| known.name == *name) {
            nics.push(OwnNic { name: name.clone(), address: Some(*address) });
        }
    }
    nics
}

/// Looks NICs up in sysfs and among the kernel's addresses.
#[derive(Debug)]
pub(super) struct Nics {
    sys_root: PathBuf,
}

impl Nics {
    pub(super) fn new(sys_root: &Path) -> Self {
        Self { sys_root: sys_root.to_owned() }
    }

    /// The NICs that a process with these variables may use, as this host has them now; none where they leave it to NCCL.
    pub(super) fn of(&self, labels: &BTreeMap<String, String>) -> Vec<OwnNic> {
        if !["NCCL_IB_HCA", "NCCL_SOCKET_IFNAME"].iter().any(|name| labels.contains_key(*name)) {
            return Vec::new();
        }
        let addresses = match interfaces::addresses() {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                warn!(%error, "cannot list addresses: which NICs a process uses is guessed");
                return Vec::new();
            }
        };
        chosen(labels, &HostNics { rdma: rdma_ports(&self.sys_root), addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list, and the devices with their ports that it takes and does not take.
    type List<'t> = (&'t str, &'t [(&'t str, u32)], &'t [(&'t str, u32)]);
    /// Variables, and what is chosen by them.
    type Choice<'t> = (&'t [(&'t str, &'t str)], &'t [&'t str]);

    /// Two HCAs of two ports each for training, one for storage, one that is down; Ethernet for meeting.
    fn host() -> HostNics {
        let port = |device: &str, port, active, interfaces: &[&str]| RdmaPort {
            device: device.to_owned(),
            port,
            active,
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        };
        let addresses = [
            ("lo", "127.0.0.1"),
            ("eth0", "192.168.0.7"),
            ("ens1np0", "10.0.0.7"),
            ("ens2np0", "10.1.0.7"),
            ("ens10np0", "10.9.0.7"),
            ("docker0", "172.17.0.1"),
            ("lo", "::1"),
            ("six", "::1"),
            ("eth0", "fe80::7"),
            ("ens1np0", "fd00::7"),
        ];
        HostNics {
            rdma: vec![
                port("mlx5_1", 1, true, &["ens1np0"]),
                port("mlx5_2", 1, true, &["ens2np0"]),
                port("mlx5_2", 2, true, &[]),
                port("mlx5_10", 1, true, &["ens10np0"]),
                port("mlx5_3", 1, false, &["ens3np0"]),
            ],
            addresses: addresses
                .map(|(name, address)| (name.to_owned(), address.parse().expect("an address")))
                .into(),
        }
    }

    /// What is chosen, as `name address` in order.
    fn said(host: &HostNics, variables: &[(&str, &str)]) -> Vec<String> {
        let labels = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let word = |nic: OwnNic| match nic.address {
            Some(address) => format!("{} {address}", nic.name),
            None => nic.name,
        };
        chosen(&labels.collect(), host).into_iter().map(word).collect()
    }

    #[test]
    fn lists_are_read_as_nccl_reads_them() {
        let cases: [List<'_>; 13] = [
            ("mlx5", &[("mlx5_0", 1), ("mlx5_17", 2)], &[("bnxt_re0", 1)]),
            ("mlx5_1", &[("mlx5_1", 1), ("mlx5_10", 1)], &[("mlx5_0", 1)]),
            ("=mlx5_1", &[("mlx5_1", 2)], &[("mlx5_10", 1)]),
            ("^mlx5_1", &[("mlx5_0", 1)], &[("mlx5_1", 1), ("mlx5_10", 1)]),
            ("^=mlx5_1", &[("mlx5_10", 1)], &[("mlx5_1", 1)]),
            ("=mlx5_0:1,mlx5_1:2", &[("mlx5_0", 1), ("mlx5_1", 2)], &[("mlx5_0", 2), ("mlx5_1", 1)]),
            ("^=mlx5_0:1", &[("mlx5_0", 2), ("mlx5_1", 1)], &[("mlx5_0", 1)]),
            // `=` counts for the whole list, and only in front.
            ("=mlx5_0,mlx5_1", &[("mlx5_1", 1)], &[("mlx5_10", 1)]),
            ("mlx5_0,=mlx5_1", &[("mlx5_0", 1)], &[("mlx5_1", 1)]),
            (",,mlx5_2,:1,", &[("mlx5_2", 1)], &[("mlx5_0", 1)]),
            ("mlx5_0:x", &[], &[("mlx5_0", 1)]),
            ("=mlx5_0::3:1,mlx5_1:2:3:0", &[("mlx5_0", 2), ("mlx5_1", 2)], &[("mlx5_1", 1)]),
            ("^", &[], &[("mlx5_0", 1)]),
        ];
        for (list, taken, not) in cases {
            let filter = Filter::parse(list);
            for (name, port) in taken {
                assert!(filter.takes(name, Some(*port)), "{list} takes {name}:{port}");
            }
            for (name, port) in not {
                assert!(!filter.takes(name, Some(*port)), "{list} does not take {name}:{port}");
            }
        }
        assert!(Filter::parse("eth0:1").takes("eth0", None), "interfaces have no ports");
    }

    #[test]
    fn hcas_carry_the_data_where_there_are_any() {
        let all: [Choice<'_>; 9] = [
            (&[("NCCL_IB_HCA", "=mlx5_1")], &["mlx5_1 10.0.0.7", "mlx5_1 fd00::7"]),
            (&[("NCCL_IB_HCA", "mlx5_2,mlx5_3")], &["mlx5_2 10.1.0.7", "mlx5_2"]),
            (&[("NCCL_IB_HCA", "^=mlx5_10,mlx5_1")], &["mlx5_2 10.1.0.7", "mlx5_2"]),
            // The one that NCCL meets by is not the one that data goes by.
            (&[("NCCL_SOCKET_IFNAME", "eth0")], &[]),
            (&[("NCCL_IB_HCA", "=mlx5_10"), ("NCCL_SOCKET_IFNAME", "eth0")], &["mlx5_10 10.9.0.7"]),
            (&[("NCCL_IB_HCA", "=mlx5_3"), ("NCCL_SOCKET_IFNAME", "eth0")], &["eth0 192.168.0.7"]),
            (&[("NCCL_IB_DISABLE", "1"), ("NCCL_SOCKET_IFNAME", "^docker,lo,ens")], &["eth0 192.168.0.7"]),
            (&[("NCCL_NET", "socket"), ("NCCL_SOCKET_IFNAME", "=lo")], &["lo 127.0.0.1"]),
            (&[("NCCL_NET", "AWS Libfabric"), ("NCCL_IB_HCA", "=mlx5_1")], &[]),
        ];
        for (variables, expected) in all {
            assert_eq!(said(&host(), variables), expected, "{variables:?}");
        }
    }

    #[test]
    fn without_rdma_interfaces_do() {
        let host = HostNics { rdma: Vec::new(), ..host() };
        let all: [Choice<'_>; 7] = [
            (&[("NCCL_IB_HCA", "=mlx5_1")], &[]),
            (&[("NCCL_SOCKET_IFNAME", "ens1")], &["ens1np0 10.0.0.7", "ens10np0 10.9.0.7"]),
            (&[("NCCL_SOCKET_IFNAME", "=ens2np0,eth0")], &["eth0 192.168.0.7", "ens2np0 10.1.0.7"]),
            (&[("NCCL_SOCKET_IFNAME", "e")], &[]),
            (&[("NCCL_SOCKET_IFNAME", "six")], &[]),
            (&[("NCCL_SOCKET_IFNAME", "=nothing")], &[]),
            (&[("NCCL_NET", "IB"), ("NCCL_SOCKET_IFNAME", "eth0")], &[]),
        ];
        for (variables, expected) in all {
            assert_eq!(said(&host, variables), expected, "{variables:?}");
        }
    }
}
