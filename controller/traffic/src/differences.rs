//! One topology held against another: what is written in a file, and what was found of the network itself.
//!
//! Only what was looked at is compared. A host whose cabling nobody has told may be as the file says.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    document::Lines,
    topology::{Gbps, NicId, SwitchId, Topology},
};

/// What of a network was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Switches all of whose links were found.
    pub switches: BTreeSet<String>,
    /// Whether the rates of NICs' ports were told, not assumed.
    pub nic_rates: bool,
    /// Whether those of links were.
    pub link_rates: bool,
}

/// Something that is not as the file says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Where the file says so; none where it does not say anything.
    pub line: Option<u32>,
    /// What differs, in a sentence.
    pub what: String,
}

/// What differs, and which hosts of the file nobody has looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What differs, by line.
    pub differences: Vec<Difference>,
    /// Hosts of the file that were not found.
    pub unseen: Vec<String>,
}

/// Holds what was found against a file.
#[must_use]
pub fn compare(file: &Topology, lines: &Lines, found: &Topology, scope: &Scope) -> Comparison {
    let mut comparing = Comparing { file, lines, found, scope, differences: Vec::new() };
    comparing.hosts();
    comparing.switches();
    comparing.links();
    let mut differences = comparing.differences;
    differences.sort();
    let unseen = file.hosts().iter().filter(|name| found.find_host(name).is_none()).cloned().collect();
    Comparison { differences, unseen }
}

struct Comparing<'a> {
    file: &'a Topology,
    lines: &'a Lines,
    found: &'a Topology,
    scope: &'a Scope,
    differences: Vec<Difference>,
}

fn nics<'t>(topology: &'t Topology) -> BTreeMap<&'t str, Vec<NicId>> {
    let mut by_host: BTreeMap<&'t str, Vec<NicId>> = BTreeMap::new();
    for (number, nic) in topology.nics().iter().enumerate() {
        by_host.entry(topology.host_name(nic.host)).or_default().push(NicId(number as u32));
    }
    by_host
}

fn differ(a: Gbps, b: Gbps) -> bool {
    (a.get() - b.get()).abs() > 1e-6 * a.get().max(b.get())
}

impl Comparing<'_> {
    fn say(&mut self, line: Option<u32>, what: String) {
        self.differences.push(Difference { line, what });
    }

    fn hosts(&mut self) {
        let (of_file, of_found) = (nics(self.file), nics(self.found));
        for host in self.found.hosts() {
            if self.file.find_host(host).is_none() {
                self.say(None, format!("host {host} is there, and not in the file"));
                continue;
            }
            let none = Vec::new();
            let [wanted, there] =
                [&of_file, &of_found].map(|of| of.get(host.as_str()).unwrap_or(&none).as_slice());
            let name = |topology: &Topology, id: NicId| topology.nic(id).name.clone();
            let known = |id: &NicId| wanted.iter().any(|own| name(self.file, *own) == name(self.found, *id));
            // A file may have other names for NICs than the kernel has for their ports: then their order counts.
            if !there.iter().any(known) && wanted.len() == there.len() {
                for (own, other) in wanted.iter().zip(there) {
                    self.nic(host, *own, *other);
                }
                continue;
            }
            for id in there {
                match wanted.iter().find(|own| name(self.file, **own) == name(self.found, *id)) {
                    Some(own) => self.nic(host, *own, *id),
                    None => {
                        let nic = name(self.found, *id);
                        self.say(None, format!("{host} has a NIC {nic}, which is not in the file"));
                    }
                }
            }
            for own in wanted {
                let nic = name(self.file, *own);
                if !there.iter().any(|id| name(self.found, *id) == nic) {
                    let what = format!("{host}: no cable is seen on the NIC {nic}");
                    self.say(self.lines.port(*own, 0), what);
                }
            }
        }
    }

    fn nic(&mut self, host: &str, own: NicId, other: NicId) {
        let (file, found) = (self.file, self.found);
        let (wanted, there) = (file.nic(own), found.nic(other));
        let nic = &wanted.name;
        for (index, port) in wanted.ports.iter().enumerate() {
            let line = self.lines.port(own, index as u32);
            let expected = &file.switch(port.switch).name;
            let Some(seen) = there.ports.get(index) else {
                self.say(line, format!("{host}: no cable is seen on port {index} of {nic}"));
                continue;
            };
            let leaf = &found.switch(seen.switch).name;
            if leaf != expected {
                let what = format!("{host}: port {index} of {nic} is cabled to {leaf}, not to {expected}");
                self.say(line, what);
            } else if self.scope.nic_rates && differ(seen.rate, port.rate) {
                let (is, said) = (seen.rate.get(), port.rate.get());
                self.say(line, format!("{host}: port {index} of {nic} has {is} Gbit/s, not {said}"));
            }
        }
        for (index, port) in there.ports.iter().enumerate().skip(wanted.ports.len()) {
            let leaf = &found.switch(port.switch).name;
            let line = self.lines.port(own, 0);
            self.say(line, format!("{host}: {nic} has a port {index}, to {leaf}, which is not in the file"));
        }
    }

    fn switches(&mut self) {
        for switch in self.found.switches() {
            let (name, tier) = (&switch.name, switch.tier.name());
            match self.file.find_switch(name) {
                None => self.say(None, format!("the {tier} {name} is there, and not in the file")),
                Some(id) if self.file.switch(id).tier != switch.tier => {
                    let what = format!(
                        "{name} is a {} in the file, and cabled as a {tier}",
                        self.file.switch(id).tier.name()
                    );
                    self.say(self.lines.switch(id), what);
                }
                Some(_) => {}
            }
        }
    }

    /// Links between switches of which at least one has told all of its own.
    fn links(&mut self) {
        type Rates = Vec<Gbps>;
        fn by_names(topology: &Topology) -> BTreeMap<(String, String), (Rates, (SwitchId, SwitchId))> {
            let mut by_names = BTreeMap::new();
            for link in topology.links() {
                let (a, b) = (&topology.switch(link.a).name, &topology.switch(link.b).name);
                let names = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
                let entry = by_names.entry(names).or_insert((Rates::new(), (link.a, link.b)));
                entry.0.push(link.rate);
            }
            by_names
        }
        let (wanted, there) = (by_names(self.file), by_names(self.found));
        let looked_at =
            |(a, b): &(String, String)| [a, b].iter().any(|name| self.scope.switches.contains(*name));
        let pairs: BTreeSet<_> = wanted.keys().chain(there.keys()).filter(|pair| looked_at(pair)).collect();
        let mut found = Vec::new();
        for pair in pairs {
            let (a, b) = pair;
            let line = wanted.get(pair).and_then(|(_, (a, b))| self.lines.link(*a, *b));
            let said = wanted.get(pair).map_or(&[][..], |(rates, _)| rates);
            let is = there.get(pair).map_or(&[][..], |(rates, _)| rates);
            let what = match (said.len(), is.len()) {
                (0, n) => format!("{a}–{b} is there ({}), and not in the file", links(n)),
                (_, 0) => format!("{a}–{b} is in the file, and there is no such cable"),
                (m, n) if m != n => {
                    format!(
                        "{a}–{b}: {} in the file, {n} {} there",
                        links(m),
                        if n == 1 { "is" } else { "are" }
                    )
                }
                _ => {
                    let sum = |rates: &[Gbps]| rates.iter().map(|rate| rate.get()).sum::<f64>();
                    let (said, is) = (sum(said), sum(is));
                    let far = (said - is).abs() > 1e-6 * said.max(is);
                    if !(self.scope.link_rates && far) {
                        continue;
                    }
                    format!("{a}–{b} has {is} Gbit/s, not {said}")
                }
            };
            found.push((line, what));
        }
        for (line, what) in found {
            self.say(line, what);
        }
    }
}

fn links(count: usize) -> String {
    if count == 1 { "1 link".to_owned() } else { format!("{count} links") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_topology_with_lines;

    const FILE: &str = "switches:
  - {name: l0, tier: leaf}
  - {name: l1, tier: leaf}
  - {name: s0, tier: spine}
  - {name: s1, tier: spine}
links:
  - {a: l0, b: s0, gbps: 400, count: 2}
  - {a: l1, b: s0, gbps: 400}
  - {a: l0, b: s1, gbps: 400}
  - {a: l1, b: s1, gbps: 400}
hosts:
  - name: a
    nics:
      - {name: n0, ports: [{switch: l0, gbps: 200}, {switch: l1, gbps: 200}]}
      - {name: n1, ports: [{switch: l0, gbps: 200}]}
  - {name: b, nics: [{name: n0, ports: [{switch: l1, gbps: 200}]}]}
";

    fn compared(changes: &[(&str, &str)], scope: &Scope) -> Vec<String> {
        let found = changes.iter().fold(FILE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        let (file, lines) = parse_topology_with_lines(FILE).expect("sound");
        let (found, _) = parse_topology_with_lines(&found).expect("sound");
        let line = |difference: &Difference| {
            format!("{}: {}", difference.line.map_or("–".into(), |line| line.to_string()), difference.what)
        };
        compare(&file, &lines, &found, scope).differences.iter().map(line).collect()
    }

    fn all() -> Scope {
        let switches = ["l0", "l1", "s0", "s1"].map(String::from).into();
        Scope { switches, nic_rates: true, link_rates: true }
    }

    #[test]
    fn the_same_network_does_not_differ_however_it_is_written() {
        assert_eq!(compared(&[], &all()), Vec::<String>::new());
        let turned = [("{a: l0, b: s0, gbps: 400, count: 2}", "{a: s0, b: l0, gbps: 400, count: 2}")];
        assert_eq!(compared(&turned, &all()), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_one_sentence_with_its_line() {
        let changes = [
            ("{switch: l1, gbps: 200}]}\n      - {name: n1", "{switch: l0, gbps: 100}]}\n      - {name: n1"),
            ("{name: b,", "{name: c,"),
            ("count: 2", "count: 1"),
            ("{a: l1, b: s0, gbps: 400}", "{a: l1, b: s0, gbps: 100}"),
            ("  - {a: l0, b: s1, gbps: 400}\n", ""),
            ("{name: s1, tier: spine}", "{name: s1, tier: core}"),
        ];
        assert_eq!(
            compared(&changes, &all()),
            [
                "–: host c is there, and not in the file",
                "5: s1 is a spine in the file, and cabled as a core",
                "7: l0–s0: 2 links in the file, 1 is there",
                "8: l1–s0 has 100 Gbit/s, not 400",
                "9: l0–s1 is in the file, and there is no such cable",
                "14: a: port 1 of n0 is cabled to l0, not to l1",
            ]
        );
    }

    #[test]
    fn what_nobody_looked_at_does_not_differ() {
        let changes = [
            ("  - {a: l0, b: s1, gbps: 400}\n", ""),
            ("{a: l1, b: s1, gbps: 400}", "{a: l1, b: s1, gbps: 100}"),
            ("{switch: l0, gbps: 200}]}", "{switch: l0, gbps: 100}]}"),
        ];
        assert_eq!(compared(&changes, &Scope::default()), Vec::<String>::new());
        let scope = Scope { switches: ["l1".to_owned()].into(), ..Scope::default() };
        assert_eq!(compared(&changes, &scope), Vec::<String>::new());
        let scope = Scope { nic_rates: true, ..Scope::default() };
        assert_eq!(compared(&changes, &scope), ["15: a: port 0 of n1 has 100 Gbit/s, not 200"]);
    }

    #[test]
    fn nics_of_other_names_are_told_by_their_order_and_missing_ones_are_told() {
        let renamed = [("n0, ports: [{switch: l1", "mlx5_0, ports: [{switch: l0")];
        assert_eq!(compared(&renamed, &all()), ["16: b: port 0 of n0 is cabled to l0, not to l1"]);
        let gone = [("      - {name: n1, ports: [{switch: l0, gbps: 200}]}\n", "")];
        assert_eq!(compared(&gone, &all()), ["15: a: no cable is seen on the NIC n1"]);
    }
}
