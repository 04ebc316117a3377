//! Which ports this host's NICs have. No I/O: what the kernel says is handed in.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

/// A port of a NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct NicPort {
    /// The NIC, by the interface of its first port.
    pub nic: String,
    /// Its address.
    pub address: IpAddr,
    /// Its rate in Gbit/s, where the kernel knows.
    pub gbps: Option<f64>,
}

/// The ports of NICs among interfaces with addresses, those of one NIC in a row: functions of one PCI device are one NIC. An
/// interface with several addresses counts once, with the first that leads anywhere.
pub fn ports(
    addresses: impl Iterator<Item = (String, IpAddr)>,
    wanted: &[String],
    speed: impl Fn(&str) -> Option<String>,
    device: impl Fn(&str) -> Option<PathBuf>,
) -> Vec<NicPort> {
    let mut interfaces: BTreeMap<String, IpAddr> = BTreeMap::new();
    for (name, address) in addresses {
        if fits(&name, wanted) && !is_local(address) {
            let known = interfaces.entry(name).or_insert(address);
            // IPv4 before IPv6, as NCCL takes them.
            if known.is_ipv6() && address.is_ipv4() {
                *known = address;
            }
        }
    }
    let mut names: Vec<&String> = interfaces.keys().collect();
    names.sort_by_key(|name| natural(name));
    // By the PCI device without its function: `0000:41:00` of `0000:41:00.1`.
    let of_device = |name: &str| {
        let device = device(name)?;
        let (device, _) = device.file_name()?.to_str()?.rsplit_once('.')?;
        Some(device.to_owned())
    };
    let mut nics: Vec<(Option<String>, Vec<&String>)> = Vec::new();
    for name in names {
        let own = of_device(name);
        match nics.iter_mut().find(|(device, _)| own.is_some() && *device == own) {
            Some((_, ports)) => ports.push(name),
            None => nics.push((own, vec![name])),
        }
    }
    let port = |nic: &str, name: &str| NicPort {
        nic: nic.to_owned(),
        address: interfaces[name],
        // The kernel says -1 or nothing where it does not know.
        gbps: speed(name)
            .and_then(|mbps| mbps.trim().parse::<f64>().ok())
            .filter(|mbps| *mbps > 0.0)
            .map(|mbps| mbps / 1000.0),
    };
    nics.iter().flat_map(|(_, names)| names.iter().map(|name| port(names[0], name))).collect()
}

fn fits(name: &str, wanted: &[String]) -> bool {
    wanted.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    })
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

/// eth2 before eth10.
fn natural(name: &str) -> (String, u64, &str) {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (stem, number) = name.split_at(name.len() - digits);
    (stem.to_owned(), number.parse().unwrap_or(u64::MAX), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_a_device_are_one_nic_and_others_are_left_out() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let told = [
            ("lo", "127.0.0.1"),
            ("eth10", "10.0.10.1"),
            ("enp65s0f1np1", "10.1.0.1"),
            ("enp65s0f0np0", "fe80::1"),
            ("enp65s0f0np0", "fd00::1"),
            ("enp65s0f0np0", "10.0.0.1"),
            ("enp65s0f0np0", "10.0.0.2"),
            ("eth2", "10.0.2.1"),
            ("mgmt0", "192.168.0.1"),
        ];
        let told = told.into_iter().map(|(name, own)| (name.to_owned(), address(own)));
        let wanted = ["enp*", "eth*"].map(String::from);
        let speed = |name: &str| match name {
            "enp65s0f0np0" => Some("400000\n".to_owned()),
            "eth2" => Some("-1\n".to_owned()),
            _ => None,
        };
        let device = |name: &str| {
            let function = name.strip_prefix("enp65s0f")?.chars().next()?;
            Some(PathBuf::from(format!("/sys/devices/pci0000:40/0000:41:00.{function}")))
        };
        let found = ports(told, &wanted, speed, device);
        let port = |nic: &str, own: &str, gbps| NicPort { nic: nic.into(), address: address(own), gbps };
        let expected = [
            port("enp65s0f0np0", "10.0.0.1", Some(400.0)),
            port("enp65s0f0np0", "10.1.0.1", None),
            port("eth2", "10.0.2.1", None),
            port("eth10", "10.0.10.1", None),
        ];
        assert_eq!(found, expected);
    }
}
