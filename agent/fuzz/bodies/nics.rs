//! Any text as the variables by which a process tells NCCL which NICs to use: they choose among what the host has, and a list and its
//! opposite choose nothing together. The input is cut at zero bytes, one piece a variable.

use std::{collections::BTreeMap, sync::LazyLock};

use c4_agent::{
    recorders::{HostNics, chosen_nics},
    report::OwnNic,
    sensors::RdmaPort,
};

const VARIABLES: [&str; 4] = ["NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_NET", "NCCL_IB_DISABLE"];

static HOST: LazyLock<HostNics> = LazyLock::new(|| {
    let port = |device: &str, port, active, interface: &str| RdmaPort {
        device: device.to_owned(),
        port,
        active,
        interfaces: [interface.to_owned()].into(),
    };
    let address = |name: &str, text: &str| (name.to_owned(), text.parse().expect("an address"));
    HostNics {
        rdma: vec![
            port("mlx5_0", 1, true, "ens1"),
            port("mlx5_1", 1, true, "ens2"),
            port("mlx5_1", 2, true, "none"),
            port("mlx5_10", 1, false, "ens10"),
        ],
        addresses: vec![
            address("lo", "127.0.0.1"),
            address("eth0", "192.168.0.7"),
            address("ens1", "10.0.0.7"),
            address("ens1", "fd00::7"),
            address("ens2", "10.1.0.7"),
            address("six", "::1"),
        ],
    }
});

fn chosen(variables: &BTreeMap<String, String>) -> Vec<OwnNic> {
    let nics = chosen_nics(variables, &HOST);
    for nic in &nics {
        let known = HOST.rdma.iter().any(|port| port.device == nic.name && port.active)
            || HOST.addresses.iter().any(|(name, _)| *name == nic.name);
        assert!(known, "{nic:?}");
        assert!(nic.address.is_none_or(|address| HOST.addresses.iter().any(|(_, known)| *known == address)));
    }
    nics
}

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pieces = VARIABLES.iter().map(|name| (*name).to_owned()).zip(text.split('\0').map(str::to_owned));
    let variables: BTreeMap<String, String> = pieces.collect();
    let nics = chosen(&variables);
    if !variables.contains_key("NCCL_IB_HCA") && !variables.contains_key("NCCL_SOCKET_IFNAME") {
        assert!(nics.is_empty(), "nothing was asked for");
    }
    let Some(list) =
        variables.get("NCCL_SOCKET_IFNAME").filter(|list| list.len() > 1 && !list.starts_with('^'))
    else {
        return;
    };
    let over_sockets = |list: String| {
        chosen(&BTreeMap::from([
            ("NCCL_NET".to_owned(), "Socket".to_owned()),
            ("NCCL_SOCKET_IFNAME".to_owned(), list),
        ]))
    };
    let (these, others) = (over_sockets(list.clone()), over_sockets(format!("^{list}")));
    assert!(these.iter().all(|nic| others.iter().all(|other| other.name != nic.name)));
    // All but the one whose only address is the IPv6 loopback, which NCCL leaves out.
    assert_eq!(these.len() + others.len(), 4, "each is in one of the two");
}
