//! Ports of RDMA devices, and the interfaces that are the same ports to everybody else.

use std::{collections::BTreeSet, path::Path};

use super::nic::{children, text};

/// A port of an RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaPort {
    /// The device.
    pub device: String,
    /// Its number there, from 1.
    pub port: u32,
    /// Whether it is up.
    pub active: bool,
    /// Names of its interfaces.
    pub interfaces: BTreeSet<String>,
}

/// The ports below `root` (`/sys`), those of one device in a row. What is missing or full of rubbish is not there.
#[must_use]
pub fn rdma_ports(root: &Path) -> Vec<RdmaPort> {
    let mut ports = Vec::new();
    for (device, path) in children(&root.join("class/infiniband")) {
        for (number, at) in children(&path.join("ports")) {
            let Ok(port) = number.parse() else { continue };
            // Of RoCE, each address says whose it is: the bond's, where two ports are one.
            let told = children(&at.join("gid_attrs/ndevs")).into_iter();
            let mut interfaces: BTreeSet<String> = told.filter_map(|(_, file)| text(&file)).collect();
            interfaces.remove("");
            if interfaces.is_empty() {
                interfaces = children(&path.join("device/net")).into_iter().map(|(name, _)| name).collect();
            }
            // "4: ACTIVE"
            let active = text(&at.join("state")).is_some_and(|state| state.starts_with('4'));
            ports.push(RdmaPort { device: device.clone(), port, active, interfaces });
        }
    }
    ports.sort_by(|a, b| (&a.device, a.port).cmp(&(&b.device, b.port)));
    ports
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn interfaces_are_those_of_the_ports_addresses_else_the_devices() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |file: &str, content: &str| {
            let path = root.path().join("class/infiniband").join(file);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            fs::write(path, content).expect("written");
        };
        write("mlx5_0/ports/1/state", "4: ACTIVE\n");
        write("mlx5_0/device/net/ens1/mtu", "1500");
        write("mlx5_bond_0/ports/1/state", "4: ACTIVE\n");
        for (number, name) in ["bond0\n", "bond0\n", "", "bond0.7\n"].into_iter().enumerate() {
            write(&format!("mlx5_bond_0/ports/1/gid_attrs/ndevs/{number}"), name);
        }
        write("mlx5_bond_0/device/net/ens2/mtu", "1500");
        write("mlx5_1/ports/1/state", "1: DOWN\n");
        write("mlx5_1/ports/rubbish/state", "4: ACTIVE\n");
        let port = |device: &str, active, interfaces: &[&str]| RdmaPort {
            device: device.into(),
            port: 1,
            active,
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        };
        let expected = [
            port("mlx5_0", true, &["ens1"]),
            port("mlx5_1", false, &[]),
            port("mlx5_bond_0", true, &["bond0", "bond0.7"]),
        ];
        assert_eq!(rdma_ports(root.path()), expected);
        assert_eq!(rdma_ports(&root.path().join("nowhere")), []);
    }
}
