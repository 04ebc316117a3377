//! From whom each port sees to a topology: who is a host, a leaf, a spine, a core, and how many cables there are between them.
//!
//! Hosts are those whose files lie in the folder itself. What their ports see are leaves. Everything above is only known as far as
//! switches have told it. What is not told is not made up: it is a mistake where planning needs it, else a note.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use c4_traffic::{
    Topology,
    differences::Scope,
    topology::{Builder, Gbps, Port, State, SwitchId, Tier},
};

use super::{files::SWITCHES, lldp::Neighbour};
use crate::cli::Cabling as Options;

mod devices;
mod nics;
mod order;
#[cfg(test)]
mod tests;

use devices::Devices;
use order::natural;

/// What one device has printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    /// The file.
    pub file: PathBuf,
    /// The device, by the name of the file.
    pub device: String,
    /// Whether it is among the switches' files.
    pub is_switch: bool,
    /// Whom its ports see.
    pub neighbours: Vec<Neighbour>,
}

/// Something that keeps a topology from being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub place: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl Mistake {
    pub(super) fn new(file: &Path, place: &str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), place: place.to_owned(), what: what.into() }
    }
}

/// A topology, and what is to be known about it.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The topology.
    pub topology: Topology,
    /// What was assumed, left out, or told by one side only.
    pub notes: Vec<String>,
    /// What was looked at.
    pub scope: Scope,
}

/// One end of a cable between switches.
struct End<'d> {
    dump: &'d Dump,
    neighbour: &'d Neighbour,
}

/// Cables between two switches, by the one that tells of them.
#[derive(Default)]
struct Cables<'d>(BTreeMap<String, Vec<End<'d>>>);

/// Makes a topology of what devices have printed.
///
/// # Errors
/// Everything that is wrong.
pub fn topology(dumps: &[Dump], options: &Options) -> Result<Found, Vec<Mistake>> {
    let mut making = Making {
        devices: Devices::new(dumps),
        options,
        mistakes: Vec::new(),
        notes: Vec::new(),
        builder: Builder::new(),
        cables: BTreeMap::new(),
        assumed: BTreeSet::new(),
    };
    making.mistakes.extend(making.devices.mistakes());
    making.look_at_hosts();
    let tiers = making.look_at_switches();
    if making.mistakes.is_empty() {
        making.build(&tiers);
    }
    making.finish()
}

struct Making<'d> {
    devices: Devices<'d>,
    options: &'d Options,
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
    builder: Builder,
    cables: BTreeMap<(String, String), Cables<'d>>,
    /// Options that had to stand in for what was not told.
    assumed: BTreeSet<&'static str>,
}

impl<'d> Making<'d> {
    fn wrong(&mut self, dump: &Dump, place: &str, what: String) {
        self.mistakes.push(Mistake::new(&dump.file, place, what));
    }

    /// The neighbours of a device that count.
    fn neighbours(&self, dump: &'d Dump) -> Vec<&'d Neighbour> {
        let globs =
            if dump.is_switch { self.options.switch_ports.as_ref() } else { self.options.ports.as_ref() };
        let counts = |neighbour: &&Neighbour| globs.is_none_or(|globs| globs.fit(&neighbour.port));
        let mut seen = BTreeSet::new();
        // Whoever speaks two protocols is seen twice.
        let is_new = |neighbour: &&Neighbour| {
            seen.insert((neighbour.port.clone(), self.devices.name(&neighbour.device)))
        };
        dump.neighbours.iter().filter(counts).filter(is_new).collect()
    }

    /// Each port of a host sees one switch.
    fn look_at_hosts(&mut self) {
        let hosts: Vec<&'d Dump> = self.devices.hosts().collect();
        if hosts.is_empty() {
            let what = format!(
                "there is no host among the files: hosts' lie in the folder itself, switches' in {SWITCHES}/"
            );
            self.mistakes.push(Mistake::new(Path::new("."), "", what));
        }
        let mut rates: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
        for dump in &hosts {
            let neighbours = self.neighbours(dump);
            if neighbours.is_empty() {
                let others = dump.neighbours.len();
                let why = if others > 0 {
                    format!(": none of the ports with a neighbour ({others}) fits --ports")
                } else {
                    " at all: does a daemon run at the other end?".to_owned()
                };
                self.wrong(dump, "", format!("sees no neighbour{why}"));
            }
            for (index, neighbour) in neighbours.iter().enumerate() {
                let place = neighbour.place.as_str();
                if let Some(other) = neighbours[..index].iter().find(|other| other.port == neighbour.port) {
                    let what = format!(
                        "{} has two neighbours, {} and {}: a cable has one",
                        neighbour.port, other.device, neighbour.device
                    );
                    self.wrong(dump, place, what);
                }
                let name = self.devices.name(&neighbour.device);
                if self.devices.is_host(&name) {
                    let what = format!(
                        "{} sees {name}, which is a host, too, as its file lies: if it is a switch, its file belongs in {SWITCHES}/",
                        neighbour.port
                    );
                    self.wrong(dump, place, what);
                }
                if neighbour.gbps.is_none() && self.options.nic_gbps.is_none() {
                    rates.entry(&dump.file).or_default().push(&neighbour.port);
                }
            }
        }
        for (file, ports) in rates {
            let what = format!(
                "how fast {} is run, is not told (port.auto-negotiation.current): say it with --nic-gbps",
                ports.join(", ")
            );
            self.mistakes.push(Mistake::new(file, "", what));
        }
    }

    /// Sorts switches into tiers, and their cables by pairs.
    fn look_at_switches(&mut self) -> BTreeMap<String, Tier> {
        let mut tiers: BTreeMap<String, Tier> = BTreeMap::new();
        let hosts: Vec<&'d Dump> = self.devices.hosts().collect();
        for dump in hosts {
            for neighbour in self.neighbours(dump) {
                tiers.insert(self.devices.name(&neighbour.device), Tier::Leaf);
            }
        }
        let switches: Vec<&'d Dump> = self.devices.switches().collect();
        let mut strangers: BTreeMap<String, String> = BTreeMap::new();
        for dump in &switches {
            let own = self.devices.name(&dump.device);
            for neighbour in self.neighbours(dump) {
                let other = self.devices.name(&neighbour.device);
                if self.devices.is_host(&other) {
                    continue;
                }
                if !self.devices.has_file(&other) && !tiers.contains_key(&other) && !neighbour.forwards {
                    strangers.entry(other).or_insert_with(|| format!("{own} ({})", neighbour.port));
                    continue;
                }
                if other == own {
                    let what = format!("{} sees the switch itself: a cable leads back", neighbour.port);
                    self.wrong(dump, &neighbour.place, what);
                    continue;
                }
                let pair = if own < other { (own.clone(), other) } else { (other, own.clone()) };
                let cables = self.cables.entry(pair).or_default();
                cables.0.entry(own.clone()).or_default().push(End { dump, neighbour });
            }
        }
        for (name, at) in strangers {
            self.notes.push(format!("{name}, at {at}, forwards nothing and has no file: it is left out"));
        }
        self.climb(&mut tiers, Tier::Leaf, Tier::Spine);
        self.climb(&mut tiers, Tier::Spine, Tier::Core);
        for dump in switches {
            let own = self.devices.name(&dump.device);
            if !tiers.contains_key(&own) {
                let what = "is cabled to no leaf and no spine: no host's paths can cross it".to_owned();
                self.wrong(dump, "", what);
            }
        }
        self.look_at_cables(&tiers);
        tiers
    }

    /// What is cabled to one tier and has no place yet is of the next.
    fn climb(&self, tiers: &mut BTreeMap<String, Tier>, from: Tier, to: Tier) {
        let is_from = |name: &String| tiers.get(name) == Some(&from);
        let ends = self.cables.keys().flat_map(|(a, b)| [(a, b), (b, a)]);
        let next: Vec<String> = ends
            .filter(|(below, above)| is_from(below) && !tiers.contains_key(*above))
            .map(|(_, above)| above.clone())
            .collect();
        tiers.extend(next.into_iter().map(|name| (name, to)));
    }

    /// Both ends of a cable ought to tell of it, and one of them how fast it is.
    fn look_at_cables(&mut self, tiers: &BTreeMap<String, Tier>) {
        let mut level = Vec::new();
        let mut unrated = Vec::new();
        for ((a, b), cables) in &self.cables {
            if tiers.get(a) == tiers.get(b) {
                level.push((a.clone(), b.clone()));
                continue;
            }
            let told = |name: &String| cables.0.get(name).map(Vec::as_slice).unwrap_or_default();
            let ports = |ends: &[End<'_>]| {
                let names: Vec<&str> = ends.iter().map(|end| end.neighbour.port.as_str()).collect();
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            };
            let both = self.devices.has_file(a) && self.devices.has_file(b);
            if both && told(a).len() != told(b).len() {
                self.notes.push(format!(
                    "{a} and {b} disagree about the cables between them: {a} sees {b} on {}, {b} sees {a} on {}; the larger number is taken",
                    ports(told(a)),
                    ports(told(b))
                ));
            }
            let is_rated = cables.0.values().flatten().any(|end| end.neighbour.gbps.is_some());
            if let (false, None) = (is_rated, self.options.link_gbps)
                && let Some(end) = cables.0.values().flatten().next()
            {
                let what = format!(
                    "how fast the cables between {a} and {b} are run, is told by neither: say it with --link-gbps"
                );
                unrated.push(Mistake::new(&end.dump.file, &end.neighbour.place, what));
            }
        }
        self.mistakes.extend(unrated);
        for pair in level {
            self.cables.remove(&pair);
            let (a, b) = pair;
            let tier = tiers.get(&a).map_or("switch", |tier| tier.name());
            self.notes.push(format!(
                "the cables between {a} and {b}, each a {tier}, are left out: paths go up and down"
            ));
        }
    }

    fn build(&mut self, tiers: &BTreeMap<String, Tier>) {
        let mut names: Vec<(&String, &Tier)> = tiers.iter().collect();
        names.sort_by_key(|(name, tier)| (**tier, natural(name)));
        let mut ids: BTreeMap<String, SwitchId> = BTreeMap::new();
        for (name, tier) in names {
            match self.builder.switch(name, *tier) {
                Ok(id) => {
                    ids.insert(name.clone(), id);
                }
                Err(error) => self.cannot_be(error.to_string()),
            }
        }
        self.addresses(&ids);
        self.links(&ids);
        self.hosts(&ids);
    }

    fn cannot_be(&mut self, what: String) {
        self.mistakes.push(Mistake::new(Path::new("."), "", what));
    }

    /// Addresses that switches tell of, if they are their own.
    fn addresses(&mut self, ids: &BTreeMap<String, SwitchId>) {
        let mut owners: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for neighbour in self.devices.all().flat_map(|dump| &dump.neighbours) {
            for address in neighbour.addresses.iter().filter(|address| is_global(**address)) {
                owners.entry(*address).or_default().insert(self.devices.name(&neighbour.device));
            }
        }
        for (address, names) in owners {
            let own: Vec<SwitchId> = names.iter().filter_map(|name| ids.get(name).copied()).collect();
            if let ([only], 1) = (own.as_slice(), names.len()) {
                // Every address is somebody's once here.
                let _ = self.builder.switch_address(*only, address);
            } else if !own.is_empty() {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.notes.push(format!(
                    "{address} is told to be the address of {}: it is left out",
                    names.join(" and ")
                ));
            }
        }
    }

    fn links(&mut self, ids: &BTreeMap<String, SwitchId>) {
        let mut links = Vec::new();
        for ((a, b), cables) in &self.cables {
            let (Some(a_id), Some(b_id)) = (ids.get(a), ids.get(b)) else { continue };
            let Some(ends) = cables.0.values().max_by_key(|ends| ends.len()) else { continue };
            let told = cables.0.values().flatten().find_map(|end| end.neighbour.gbps);
            // By rate, so that parallel cables of one rate are one entry.
            let mut rates: Vec<f64> = ends
                .iter()
                .filter_map(|end| self.options.link_gbps.or(end.neighbour.gbps).or(told))
                .collect();
            rates.sort_by(f64::total_cmp);
            links.extend(rates.into_iter().map(|rate| (*a_id, *b_id, rate)));
        }
        if self.options.link_gbps.is_some() && !links.is_empty() {
            self.assumed.insert("--link-gbps");
        }
        // In the order of switches, as a person would write them.
        links.sort_by_key(|(a, b, _)| (*a.min(b), *a.max(b)));
        for (a, b, rate) in links {
            let Some(rate) = Gbps::new(rate) else { continue };
            if let Err(error) = self.builder.links(a.min(b), a.max(b), rate, 1, State::Up) {
                self.cannot_be(error.to_string());
                return;
            }
        }
    }

    fn hosts(&mut self, ids: &BTreeMap<String, SwitchId>) {
        let mut hosts: Vec<&'d Dump> = self.devices.hosts().collect();
        hosts.sort_by_key(|dump| natural(&dump.device));
        let mut counts: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for dump in hosts {
            let neighbours = self.neighbours(dump);
            counts.entry(neighbours.len()).or_default().push(&dump.device);
            let host = match self.builder.host(&dump.device) {
                Ok(host) => host,
                Err(error) => {
                    self.wrong(dump, "", error.to_string());
                    continue;
                }
            };
            let grouped = match nics::group(&neighbours, self.options.ports_per_nic) {
                Ok(grouped) => grouped,
                Err(what) => {
                    self.wrong(dump, "", what);
                    continue;
                }
            };
            for (name, neighbours) in grouped {
                let port = |neighbour: &&Neighbour| {
                    let rate = self.options.nic_gbps.or(neighbour.gbps).and_then(Gbps::new)?;
                    let switch = *ids.get(&self.devices.name(&neighbour.device))?;
                    Some(Port { switch, rate, state: State::Up })
                };
                let ports = neighbours.iter().filter_map(port).collect();
                if let Err(error) = self.builder.nic(host, &name, ports) {
                    self.wrong(dump, "", error.to_string());
                }
            }
        }
        if self.options.nic_gbps.is_some() {
            self.assumed.insert("--nic-gbps");
        }
        self.tell_odd_ones(&counts);
    }

    /// A host with fewer ports than most may have a cable out.
    fn tell_odd_ones(&mut self, counts: &BTreeMap<usize, Vec<&str>>) {
        let Some((usual, most)) = counts.iter().max_by_key(|(_, hosts)| hosts.len()) else { return };
        for (count, hosts) in counts.iter().filter(|(count, _)| *count != usual) {
            for host in hosts {
                self.notes.push(format!(
                    "{host} sees neighbours on {count} ports, most hosts ({}) on {usual}",
                    most.len()
                ));
            }
        }
    }

    fn finish(mut self) -> Result<Found, Vec<Mistake>> {
        if !self.mistakes.is_empty() {
            return Err(self.mistakes);
        }
        let mut notes: Vec<String> = Vec::new();
        for option in &self.assumed {
            notes.push(format!("rates are those of {option}, whatever was told"));
        }
        let surveyed: BTreeSet<String> =
            self.devices.switches().map(|dump| self.devices.name(&dump.device)).collect();
        let untold: Vec<&str> = self
            .builder
            .topology()
            .switches()
            .iter()
            .map(|switch| switch.name.as_str())
            .filter(|name| !surveyed.contains(*name))
            .collect();
        if !untold.is_empty() {
            let few: Vec<&str> = untold.iter().take(5).copied().collect();
            let more = if untold.len() > few.len() { ", …" } else { "" };
            notes.push(format!(
                "of {}{more} there is no file in {SWITCHES}/: links between switches are known from other ends only, or not at all",
                few.join(", ")
            ));
        }
        notes.push(
            "LLDP does not tell the addresses of NICs' ports: whoever steers needs them (`address`)"
                .to_owned(),
        );
        notes.append(&mut self.notes);
        let scope = Scope {
            switches: surveyed,
            nic_rates: self.options.nic_gbps.is_none(),
            link_rates: self.options.link_gbps.is_none(),
        };
        Ok(Found { topology: self.builder.build(), notes, scope })
    }
}

fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}
