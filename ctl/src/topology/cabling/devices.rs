//! Who is who: files are named by people, devices by themselves, some with their domain and some without.

use std::collections::{BTreeMap, BTreeSet};

use super::{Dump, Mistake};

/// All devices that have printed something.
pub(super) struct Devices<'d> {
    dumps: &'d [Dump],
    hosts: BTreeSet<&'d str>,
    files: BTreeSet<&'d str>,
    /// Files by the first part of their names; none where several have it.
    short: BTreeMap<&'d str, Option<&'d str>>,
}

fn first_part(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

impl<'d> Devices<'d> {
    pub(super) fn new(dumps: &'d [Dump]) -> Self {
        let mut short: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for dump in dumps {
            let known = short.entry(first_part(&dump.device)).or_insert(Some(&dump.device));
            if known.is_some_and(|other| other != dump.device) {
                *known = None;
            }
        }
        let hosts = dumps.iter().filter(|dump| !dump.is_switch).map(|dump| dump.device.as_str()).collect();
        let files = dumps.iter().map(|dump| dump.device.as_str()).collect();
        Self { dumps, hosts, files, short }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'d Dump> + use<'d> {
        self.dumps.iter()
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &'d Dump> + use<'d> {
        self.dumps.iter().filter(|dump| !dump.is_switch)
    }

    pub(super) fn switches(&self) -> impl Iterator<Item = &'d Dump> + use<'d> {
        self.dumps.iter().filter(|dump| dump.is_switch)
    }

    pub(super) fn is_host(&self, name: &str) -> bool {
        self.hosts.contains(name)
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// The name of the file of a device that calls itself so; or what it calls itself.
    pub(super) fn name(&self, device: &str) -> String {
        if self.has_file(device) {
            return device.to_owned();
        }
        let alone = self.short.get(first_part(device)).copied().flatten();
        // `a.x` and `a.y` are two devices, `a` and `a.x` are one.
        let same = alone.filter(|file| *file == first_part(device) || device == first_part(file));
        same.unwrap_or(device).to_owned()
    }

    /// Names that two devices have.
    pub(super) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut files: BTreeMap<&str, &Dump> = BTreeMap::new();
        let mut ids: BTreeMap<String, (&str, &Dump)> = BTreeMap::new();
        for dump in self.dumps {
            if let Some(other) = files.insert(&dump.device, dump) {
                let what = format!("{} has a file already: {}", dump.device, other.file.display());
                mistakes.push(Mistake::new(&dump.file, "", what));
            }
            for neighbour in &dump.neighbours {
                let name = self.name(&neighbour.device);
                match ids.get(&name) {
                    None => {
                        ids.insert(name, (&neighbour.chassis, dump));
                    }
                    Some((chassis, first)) if *chassis != neighbour.chassis => {
                        let what = format!(
                            "two devices call themselves {name}: {} here, {chassis} in {}",
                            neighbour.chassis,
                            first.file.display()
                        );
                        mistakes.push(Mistake::new(&dump.file, &neighbour.place, what));
                    }
                    Some(_) => {}
                }
            }
        }
        mistakes
    }
}
