//! How a topology is found out.

use std::path::PathBuf;

use clap::Args;

use crate::topology::glob::Globs;

/// A topology from the network itself.
#[derive(Debug, Args)]
#[command(after_help = "\
DIR holds what `lldpctl -f json` prints, a file for each host under the host's name (node0.json), and, for links between \
switches, what switches that run lldpd print, in DIR/switches. The forms json0 and keyvalue are read, too. For example:
  ssh node0 lldpctl -f json > cables/node0.json
  ssh leaf0 lldpctl -f json > cables/switches/leaf0.json
  c4ctl topology --lldp cables --ports 'enp*' --switch-ports 'swp*' > topology.yaml
With --probed, the controller tells what probes between agents have found out that are configured to explore.")]
#[group(id = "source", required = true, multiple = false, args = ["lldp", "probed"])]
pub struct Topology {
    /// Folder of what hosts and switches have printed
    #[arg(long, value_name = "DIR")]
    pub lldp: Option<PathBuf>,
    /// Ask the controller what probes have found out
    #[arg(long, conflicts_with_all = ["against", "ports", "switch_ports", "ports_per_nic", "nic_gbps", "link_gbps"])]
    pub probed: bool,
    /// Print what differs from this topology instead (YAML); exit 1 if anything does
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// How cables are read
    #[command(flatten)]
    pub cabling: Cabling,
}

/// What cables mean, where LLDP does not say.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct Cabling {
    /// Ports of hosts that count: patterns such as enp*,eth?; without it all do, those of a management network, too
    #[arg(long, value_name = "PATTERNS")]
    pub ports: Option<Globs>,
    /// Ports of switches that count, likewise
    #[arg(long, value_name = "PATTERNS")]
    pub switch_ports: Option<Globs>,
    /// Each so many ports of a host, in order, are one NIC; without it, functions of one PCI device are (enp65s0f0, enp65s0f1)
    #[arg(long, value_name = "N", value_parser = ports_per_nic)]
    pub ports_per_nic: Option<usize>,
    /// Rate of NICs' ports in Gbit/s, instead of what LLDP tells (lldpd knows rates up to 100 Gbit/s)
    #[arg(long, value_name = "RATE", value_parser = gbps)]
    pub nic_gbps: Option<f64>,
    /// Rate of links between switches in Gbit/s, likewise
    #[arg(long, value_name = "RATE", value_parser = gbps)]
    pub link_gbps: Option<f64>,
}

fn ports_per_nic(text: &str) -> Result<usize, String> {
    let most = c4_traffic::topology::MOST_PORTS;
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("expected a number of ports from 1 to {most}"))
}

fn gbps(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().and_then(c4_traffic::topology::Gbps::new);
    rate.map(c4_traffic::topology::Gbps::get)
        .ok_or_else(|| "expected a rate in Gbit/s, such as 400".to_owned())
}
