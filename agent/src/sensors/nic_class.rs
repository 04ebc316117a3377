//! What kind of network the node's training traffic uses: InfiniBand, RoCE or plain Ethernet, and how fast.
//!
//! Clusters grow, and old and new NICs work side by side. Ranks on slower ones are slow by design; to tell that from a
//! fault, the detector compares nodes of one class. The class is that of most ports, since the network of the training
//! has one port for each GPU or two, and storage and management have few. It is looked up when the agent starts, and then
//! stays: a link that comes up at half its speed later has not become another kind of link.

use std::{collections::BTreeMap, path::Path};

use super::nic::{children, text};

/// The class of the node whose sysfs is at `root`: "ib-400", "roce-200", "eth-25". `None` where no port is up.
#[must_use]
pub fn nic_class(root: &Path) -> Option<String> {
    let rdma = rdma_ports(root);
    // Interfaces of RDMA devices are the same ports once more; without RDMA, NCCL takes what there is.
    let ports = if rdma.is_empty() { interfaces(root) } else { rdma };
    let mut counts: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for (link, gbps) in ports {
        *counts.entry((link, gbps)).or_default() += 1;
    }
    let ((link, gbps), _) = counts.into_iter().max_by_key(|((_, gbps), count)| (*count, *gbps))?;
    Some(if gbps == 0 { link.to_owned() } else { format!("{link}-{gbps}") })
}

fn rdma_ports(root: &Path) -> Vec<(&'static str, u64)> {
    let devices = children(&root.join("class/infiniband"));
    let ports = devices.iter().flat_map(|(_, device)| children(&device.join("ports")));
    ports
        // "4: ACTIVE"
        .filter(|(_, port)| text(&port.join("state")).is_some_and(|state| state.starts_with('4')))
        .map(|(_, port)| {
            let link = match text(&port.join("link_layer")).as_deref() {
                Some("InfiniBand") => "ib",
                Some("Ethernet") => "roce",
                _ => "rdma",
            };
            (link, text(&port.join("rate")).and_then(|rate| gbps(&rate)).unwrap_or(0))
        })
        .collect()
}

/// "400 Gb/sec (4X NDR)"; some rates have a fraction.
fn gbps(rate: &str) -> Option<u64> {
    let number: f64 = rate.split_whitespace().next()?.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number.round() as u64)
}

fn interfaces(root: &Path) -> Vec<(&'static str, u64)> {
    children(&root.join("class/net"))
        .into_iter()
        .filter(|(_, path)| path.join("device").exists())
        .filter(|(_, path)| text(&path.join("operstate")).as_deref() == Some("up"))
        // In Mbit/s; -1 where the driver does not know.
        .map(|(_, path)| {
            ("eth", text(&path.join("speed")).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) / 1_000)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, file: &str, content: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn rdma(root: &Path, device: &str, state: &str, link: &str, rate: &str) {
        for (name, content) in [("state", state), ("link_layer", link), ("rate", rate)] {
            write(root, &format!("class/infiniband/{device}/ports/1/{name}"), content);
        }
    }

    #[test]
    fn the_class_is_that_of_most_rdma_ports_that_are_up() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        assert_eq!(nic_class(at), None);
        for device in ["mlx5_0", "mlx5_1", "mlx5_2"] {
            rdma(at, device, "4: ACTIVE\n", "InfiniBand\n", "400 Gb/sec (4X NDR)\n");
        }
        rdma(at, "mlx5_3", "4: ACTIVE\n", "Ethernet\n", "200 Gb/sec (4X HDR)\n");
        for device in ["mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7"] {
            rdma(at, device, "1: DOWN\n", "Ethernet\n", "40 Gb/sec (4X QDR)\n");
        }
        assert_eq!(nic_class(at).as_deref(), Some("ib-400"));
    }

    #[test]
    fn without_rdma_it_is_the_interfaces() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        for (name, state, speed) in
            [("eth0", "up", "25000"), ("eth1", "down", "100000"), ("eth2", "up", "1000")]
        {
            write(at, &format!("class/net/{name}/operstate"), state);
            write(at, &format!("class/net/{name}/speed"), speed);
            write(at, &format!("class/net/{name}/device/vendor"), "0x15b3");
        }
        write(at, "class/net/docker0/operstate", "up");
        assert_eq!(nic_class(at).as_deref(), Some("eth-25"), "of equally many, the faster");
        write(at, "class/net/eth0/speed", "-1");
        write(at, "class/net/eth2/operstate", "down");
        assert_eq!(nic_class(at).as_deref(), Some("eth"));
    }

    #[test]
    fn half_a_number_is_none() {
        assert_eq!(gbps("2.5 Gb/sec (1X SDR)"), Some(3));
        for odd in ["", "NaN Gb/sec", "-1 Gb/sec", "fast"] {
            assert_eq!(gbps(odd), None, "{odd}");
        }
    }
}
