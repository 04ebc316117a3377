//! Small networks, told port by port.

use c4_traffic::document::topology_yaml;

use super::*;
use crate::topology::glob::Globs;

fn neighbour((port, device, their_port): (&str, &str, &str)) -> Neighbour {
    Neighbour {
        port: port.into(),
        device: device.into(),
        chassis: format!("mac of {device}"),
        forwards: device.starts_with(['l', 's', 'c']),
        addresses: Vec::new(),
        their_port: their_port.into(),
        gbps: Some(100.0),
        place: format!("at {port}"),
    }
}

fn dump(device: &str, is_switch: bool, cables: &[(&str, &str, &str)]) -> Dump {
    Dump {
        file: format!("{device}.json").into(),
        device: device.into(),
        is_switch,
        neighbours: cables.iter().copied().map(neighbour).collect(),
    }
}

/// Two hosts with a port in each of two planes, two leaves, a spine, parallel links.
fn fabric() -> Vec<Dump> {
    vec![
        dump("h1", false, &[("ens1f0", "l0", "1"), ("ens1f1", "l1", "1")]),
        dump("h0", false, &[("ens1f1", "l1", "0"), ("ens1f0", "l0", "0")]),
        dump("l0", true, &[("0", "h0", "ens1f0"), ("1", "h1", "ens1f0"), ("8", "s0", "0"), ("9", "s0", "1")]),
        dump("l1", true, &[("0", "h0", "ens1f1"), ("1", "h1", "ens1f1"), ("8", "s0", "2")]),
        dump("s0", true, &[("0", "l0", "8"), ("1", "l0", "9"), ("2", "l1", "8")]),
    ]
}

fn made(dumps: &[Dump], options: &Options) -> (String, Vec<String>) {
    let found = topology(dumps, options).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    (topology_yaml(&found.topology), found.notes)
}

fn wrong(dumps: &[Dump], options: &Options) -> Vec<String> {
    let mistakes = topology(dumps, options).expect_err("wrong");
    mistakes.iter().map(|m| format!("{}: {}: {}", m.file.display(), m.place, m.what)).collect()
}

#[test]
fn hosts_leaves_and_spines_are_told_apart() {
    let (yaml, notes) = made(&fabric(), &Options::default());
    let expected = "switches:
  - {name: l0, tier: leaf}
  - {name: l1, tier: leaf}
  - {name: s0, tier: spine}
links:
  - {a: l0, b: s0, gbps: 100, count: 2}
  - {a: l1, b: s0, gbps: 100}
hosts:
  - name: h0
    nics:
      - {name: ens1, ports: [{switch: l0, gbps: 100}, {switch: l1, gbps: 100}]}
  - name: h1
    nics:
      - {name: ens1, ports: [{switch: l0, gbps: 100}, {switch: l1, gbps: 100}]}
";
    assert_eq!(yaml, expected);
    assert_eq!(notes.len(), 1, "only that addresses are missing: {notes:?}");
}

#[test]
fn without_files_of_switches_hosts_and_leaves_are_there() {
    let hosts: Vec<Dump> = fabric().into_iter().filter(|dump| !dump.is_switch).collect();
    let found = topology(&hosts, &Options::default()).expect("sound");
    assert_eq!((found.topology.switches().len(), found.topology.links().len()), (2, 0));
    assert!(
        found.notes.iter().any(|note| note.starts_with("of l0, l1 there is no file")),
        "{:?}",
        found.notes
    );
    assert!(found.scope.switches.is_empty());
}

#[test]
fn a_third_tier_and_links_that_lead_sideways() {
    let mut dumps = fabric();
    dumps[2].neighbours.push(neighbour(("10", "l1", "10")));
    dumps[3].neighbours.push(neighbour(("10", "l0", "10")));
    dumps[4].neighbours.push(neighbour(("9", "c0", "0")));
    let (yaml, notes) = made(&dumps, &Options::default());
    assert!(yaml.contains("{name: c0, tier: core}") && yaml.contains("{a: s0, b: c0, gbps: 100}"), "{yaml}");
    assert!(!yaml.contains("b: l1"), "{yaml}");
    assert!(notes.iter().any(|note| note.contains("l0 and l1, each a leaf, are left out")), "{notes:?}");
}

#[test]
fn names_with_and_without_a_domain_are_one_device() {
    let mut dumps = fabric();
    for dump in &mut dumps {
        for neighbour in &mut dump.neighbours {
            neighbour.device += ".example.com";
        }
    }
    assert_eq!(made(&dumps, &Options::default()).0, made(&fabric(), &Options::default()).0);
}

#[test]
fn ports_of_other_networks_can_be_left_out() {
    let mut dumps = fabric();
    dumps[0].neighbours.push(neighbour(("eth0", "lan", "1")));
    dumps[4].neighbours.push(neighbour(("mgmt", "lan", "2")));
    let options = Options {
        ports: Some("ens*".parse::<Globs>().expect("a pattern")),
        switch_ports: Some("?".parse::<Globs>().expect("a pattern")),
        ..Options::default()
    };
    assert_eq!(made(&dumps, &options).0, made(&fabric(), &Options::default()).0);
    assert!(made(&dumps, &Options::default()).0.contains("lan"));
}

#[test]
fn ports_are_nics_as_the_kernel_names_them_or_by_number() {
    let plain = |ports: &[&str]| -> Vec<Dump> {
        let cables: Vec<_> = ports.iter().map(|port| (*port, "l0", "")).collect();
        vec![dump("h", false, &cables)]
    };
    let nics = |dumps: &[Dump], count| {
        let found = topology(dumps, &Options { ports_per_nic: count, ..Options::default() });
        found.map(|found| {
            found.topology.nics().iter().map(|nic| (nic.name.clone(), nic.ports.len())).collect::<Vec<_>>()
        })
    };
    let ports = ["eth10", "eth2", "enp1s0f0np0", "enp1s0f1np1", "enp9s0np0"];
    let expected = [("enp1s0", 2), ("enp9s0np0", 1), ("eth2", 1), ("eth10", 1)];
    assert_eq!(nics(&plain(&ports), None).expect("sound"), expected.map(|(name, n)| (name.to_owned(), n)));
    let pairs = nics(&plain(&["eth0", "eth1", "eth2", "eth3"]), Some(2)).expect("sound");
    assert_eq!(pairs, [("eth0".to_owned(), 2), ("eth2".to_owned(), 2)]);
    assert!(nics(&plain(&["eth0", "eth1", "eth2"]), Some(2)).is_err());
    assert!(nics(&plain(&["enp1s0f1np1"]), None).is_err(), "is it plane 0 or 1?");
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_file() {
    let mut dumps = fabric();
    dumps[0].neighbours[0].gbps = None;
    dumps[0].neighbours.push(neighbour(("ens1f1", "l0", "7")));
    dumps[1].neighbours[1].chassis = "mac of another".into();
    dumps[4].neighbours.iter_mut().for_each(|neighbour| neighbour.gbps = None);
    dumps[3].neighbours[2].gbps = None;
    dumps.push(dump("h2", false, &[]));
    dumps.push(dump("h3", false, &[("eth0", "h0", "eth0")]));
    dumps.push(dump("s9", true, &[("0", "lan", "1")]));
    let mistakes = wrong(&dumps, &Options::default());
    for expected in [
        "h1.json: : how fast ens1f0 is run",
        "h1.json: at ens1f1: ens1f1 has two neighbours, l1 and l0",
        "h0.json: at ens1f0: two devices call themselves l0: mac of another here, mac of l0 in h1.json",
        "how fast the cables between l1 and s0 are run",
        "h2.json: : sees no neighbour at all",
        "h3.json: at eth0: eth0 sees h0, which is a host, too",
        "s9.json: : is cabled to no leaf and no spine",
    ] {
        assert_eq!(mistakes.iter().filter(|m| m.contains(expected)).count(), 1, "{expected}: {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 7, "{mistakes:#?}");
}

#[test]
fn what_one_side_tells_alone_is_taken_and_said() {
    let mut dumps = fabric();
    dumps[4].neighbours.remove(1);
    dumps[2].neighbours.push(neighbour(("7", "printer", "0")));
    dumps[1].neighbours.remove(0);
    let (yaml, notes) = made(&dumps, &Options::default());
    assert!(yaml.contains("{a: l0, b: s0, gbps: 100, count: 2}"), "{yaml}");
    for expected in [
        "l0 sees s0 on 8, 9, s0 sees l0 on 0;",
        "printer, at l0 (7), forwards nothing",
        "h0 sees neighbours on 1 ports, most hosts (1) on 2",
    ] {
        assert!(notes.iter().any(|note| note.contains(expected)), "{expected}: {notes:#?}");
    }
}

#[test]
fn addresses_of_switches_are_kept_unless_two_have_them() {
    let mut dumps = fabric();
    let mut give = |dump: usize, at: usize, address: &str| {
        dumps[dump].neighbours[at].addresses.push(address.parse().expect("an address"));
    };
    give(0, 0, "10.255.0.1");
    give(0, 0, "fe80::1");
    give(0, 1, "10.255.0.9");
    give(2, 2, "10.255.0.9");
    let (yaml, notes) = made(&dumps, &Options::default());
    assert!(yaml.contains("{name: l0, tier: leaf, addresses: [\"10.255.0.1\"]}"), "{yaml}");
    assert!(!yaml.contains("10.255.0.9") && notes.iter().any(|n| n.contains("of l1 and s0")), "{notes:?}");
}
