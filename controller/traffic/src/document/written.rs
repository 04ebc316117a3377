//! A topology as the document that says it: for those who find out how a network is wired and write it down.
//!
//! What is written here is read as the same topology again, number by number. Lines are short enough to be looked through by a
//! person, one link or NIC each.

use std::{borrow::Cow, collections::HashSet, fmt::Write, net::IpAddr};

use serde::Serialize;

use crate::topology::{Link, NicId, State, SwitchId, Topology};

/// The topology, for whoever wants JSON; it is read as YAML is.
#[must_use]
pub fn topology_json(topology: &Topology) -> impl Serialize + use<'_> {
    Document::new(topology)
}

/// The topology as YAML.
#[must_use]
pub fn topology_yaml(topology: &Topology) -> String {
    let document = Document::new(topology);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_yaml(&document, &mut text);
    text
}

#[derive(Serialize)]
struct Document<'t> {
    switches: Vec<SwitchEntry<'t>>,
    links: Vec<LinkEntry<'t>>,
    hosts: Vec<HostEntry<'t>>,
}

#[derive(Serialize)]
struct SwitchEntry<'t> {
    name: &'t str,
    tier: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
}

#[derive(Serialize)]
struct LinkEntry<'t> {
    a: &'t str,
    b: &'t str,
    gbps: f64,
    #[serde(skip_serializing_if = "is_one")]
    count: u32,
    #[serde(skip_serializing_if = "is_up")]
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    a_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b_address: Option<IpAddr>,
}

impl LinkEntry<'_> {
    /// Whether another link is one more of these.
    fn goes_on_with(&self, next: &Self) -> bool {
        let addresses = [self.a_address, self.b_address, next.a_address, next.b_address];
        let kind = |link: &Self| (link.gbps.to_bits(), link.state);
        (self.a, self.b) == (next.a, next.b)
            && kind(self) == kind(next)
            && addresses.iter().all(Option::is_none)
    }
}

#[derive(Serialize)]
struct HostEntry<'t> {
    name: &'t str,
    nics: Vec<NicEntry<'t>>,
}

#[derive(Serialize)]
struct NicEntry<'t> {
    name: &'t str,
    ports: Vec<PortEntry<'t>>,
}

#[derive(Serialize)]
struct PortEntry<'t> {
    switch: &'t str,
    gbps: f64,
    #[serde(skip_serializing_if = "is_up")]
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
}

fn is_one(count: &u32) -> bool {
    *count == 1
}

fn is_up(state: &&'static str) -> bool {
    *state == "up"
}

fn state(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Avoid => "avoid",
        State::Down => "down",
    }
}

impl<'t> Document<'t> {
    fn new(topology: &'t Topology) -> Self {
        let name = |id: SwitchId| topology.switch(id).name.as_str();
        let mut links: Vec<LinkEntry<'t>> = Vec::new();
        // Those on links are written there.
        let mut on_links: HashSet<IpAddr> = HashSet::new();
        for link in topology.links() {
            let Link { a, b, index, .. } = *link;
            let entry = LinkEntry {
                a: name(a),
                b: name(b),
                gbps: link.rate.get(),
                count: 1,
                state: state(link.state),
                a_address: topology.link_address(a, b, index),
                b_address: topology.link_address(b, a, index),
            };
            on_links.extend(entry.a_address.into_iter().chain(entry.b_address));
            match links.last_mut().filter(|last| last.goes_on_with(&entry)) {
                Some(last) => last.count += 1,
                None => links.push(entry),
            }
        }
        let switch = |(number, switch): (usize, &'t crate::topology::Switch)| {
            let own = topology.switch_addresses(SwitchId(number as u32)).iter().copied();
            let addresses = own.filter(|address| !on_links.contains(address)).collect();
            SwitchEntry { name: &switch.name, tier: switch.tier.name(), addresses }
        };
        let mut hosts: Vec<HostEntry<'t>> =
            topology.hosts().iter().map(|name| HostEntry { name, nics: Vec::new() }).collect();
        for (number, nic) in topology.nics().iter().enumerate() {
            let port = |(index, port): (usize, &crate::topology::Port)| PortEntry {
                switch: name(port.switch),
                gbps: port.rate.get(),
                state: state(port.state),
                address: topology.port_address(NicId(number as u32), index as u32),
            };
            let ports = nic.ports.iter().enumerate().map(port).collect();
            hosts[nic.host.index()].nics.push(NicEntry { name: &nic.name, ports });
        }
        let switches = topology.switches().iter().enumerate().map(switch).collect();
        Self { switches, links, hosts }
    }
}

fn write_yaml(document: &Document<'_>, text: &mut String) -> std::fmt::Result {
    let list = |text: &mut String, name: &str, is_empty: bool| {
        if is_empty { writeln!(text, "{name}: []") } else { writeln!(text, "{name}:") }
    };
    list(text, "switches", document.switches.is_empty())?;
    for SwitchEntry { name, tier, addresses } in &document.switches {
        write!(text, "  - {{name: {}, tier: {tier}", word(name))?;
        if !addresses.is_empty() {
            let all: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
            write!(text, ", addresses: [{}]", all.join(", "))?;
        }
        writeln!(text, "}}")?;
    }
    list(text, "links", document.links.is_empty())?;
    for link in &document.links {
        write!(text, "  - {{a: {}, b: {}, gbps: {}", word(link.a), word(link.b), link.gbps)?;
        if link.count != 1 {
            write!(text, ", count: {}", link.count)?;
        }
        rest(text, link.state, [("a_address", link.a_address), ("b_address", link.b_address)])?;
        writeln!(text, "}}")?;
    }
    list(text, "hosts", document.hosts.is_empty())?;
    for HostEntry { name, nics } in &document.hosts {
        writeln!(text, "  - name: {}", word(name))?;
        list(text, "    nics", nics.is_empty())?;
        for NicEntry { name, ports } in nics {
            write!(text, "      - {{name: {}, ports: [", word(name))?;
            for (index, port) in ports.iter().enumerate() {
                let comma = if index > 0 { ", " } else { "" };
                write!(text, "{comma}{{switch: {}, gbps: {}", word(port.switch), port.gbps)?;
                rest(text, port.state, [("address", port.address)])?;
                text.write_char('}')?;
            }
            writeln!(text, "]}}")?;
        }
    }
    Ok(())
}

fn rest<const N: usize>(
    text: &mut String,
    state: &str,
    addresses: [(&str, Option<IpAddr>); N],
) -> std::fmt::Result {
    if state != "up" {
        write!(text, ", state: {state}")?;
    }
    for (name, address) in addresses {
        if let Some(address) = address {
            // In quotes, since an IPv6 address may end in a colon.
            write!(text, ", {name}: \"{address}\"")?;
        }
    }
    Ok(())
}

/// A name as it may stand in YAML: in quotes, unless it is plainly a word.
fn word(name: &str) -> Cow<'_, str> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|first| first.is_ascii_alphabetic());
    let plain =
        begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain && !special.iter().any(|word| word.eq_ignore_ascii_case(name)) {
        Cow::Borrowed(name)
    } else {
        // A JSON string is one in YAML, too, once the letters that YAML will not have are written as numbers.
        let mut text = String::from("\"");
        for c in name.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                ' '..='~' => text.push(c),
                c => {
                    let code = u32::from(c);
                    let _ = if code > 0xFFFF {
                        write!(text, "\\U{code:08x}")
                    } else {
                        write!(text, "\\u{code:04x}")
                    };
                }
            }
        }
        text.push('"');
        Cow::Owned(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_topology;

    const TOPOLOGY: &str = r#"
switches:
  - {name: l0, tier: leaf}
  - {name: "7", tier: leaf, addresses: [10.9.0.7]}
  - {name: "no", tier: spine, addresses: ["fd00::1", "fe80::"]}
  - {name: "a: \"b\" ü\t😀", tier: core}
links:
  - {a: l0, b: "no", gbps: 100, count: 3}
  - {a: l0, b: "no", gbps: 100, state: avoid}
  - {a: "no", b: "7", gbps: 12.5, a_address: 10.8.0.0, b_address: 10.8.0.1}
  - {a: "no", b: "7", gbps: 12.5, b_address: 10.8.0.3}
  - {a: "no", b: "a: \"b\" ü\t😀", gbps: 400, state: down}
hosts:
  - {name: empty}
  - {name: h0, nics: [{name: n, ports: [{switch: l0, gbps: 200, address: 10.0.0.1}, {switch: "7", gbps: 200, state: down}]}]}
  - {name: "1.5", nics: [{name: "-", ports: [{switch: l0, gbps: 1e-9}]}]}
"#;

    /// Everything that a topology says.
    fn said(topology: &Topology) -> String {
        let text = serde_json::to_string(&topology_json(topology)).expect("JSON");
        let nics: Vec<_> = topology.nics().iter().collect();
        format!("{text} {nics:?} {:?} {:?}", topology.links(), topology.switches())
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let topology = parse_topology(TOPOLOGY).expect("sound");
        let yaml = topology_yaml(&topology);
        let again = parse_topology(&yaml).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
        assert_eq!(said(&again), said(&topology), "{yaml}");
        let json = serde_json::to_string_pretty(&topology_json(&topology)).expect("JSON");
        let again = parse_topology(&json).unwrap_or_else(|problems| panic!("{problems}\n{json}"));
        assert_eq!(said(&again), said(&topology));
        assert!(yaml.contains("  - {a: l0, b: \"no\", gbps: 100, count: 3}\n"), "{yaml}");
        for address in ["10.8.0.0", "10.8.0.1", "10.8.0.3", "fd00::1", "10.0.0.1"] {
            assert_eq!(yaml.matches(&format!("\"{address}\"")).count(), 1, "{yaml}");
        }
    }

    #[test]
    fn nothing_is_written_as_nothing() {
        let yaml = topology_yaml(&Topology::default());
        assert_eq!(yaml, "switches: []\nlinks: []\nhosts: []\n");
        assert!(parse_topology(&yaml).is_ok());
    }
}
