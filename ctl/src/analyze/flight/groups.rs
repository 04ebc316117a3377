//! The process groups of a job, as all its dumps tell of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use super::dump::{self, Dump};
use crate::analyze::problem::Problems;

/// A process group of the job: ranks that split from different parents may give theirs the same name.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) desc: String,
    pub(super) ranks: Vec<u32>,
    /// Somebody calls collectives on it.
    pub(super) collectives: bool,
    /// Somebody sends or receives on it.
    pub(super) point_to_point: bool,
}

#[derive(Default)]
pub(super) struct Groups {
    pub(super) all: Vec<Group>,
    pub(super) ids: HashMap<(String, Vec<u32>), usize>,
    pub(super) by_name: HashMap<String, Vec<usize>>,
    /// Somebody sends or receives in batches.
    pub(super) batches: bool,
}

impl Groups {
    pub(super) fn add(&mut self, name: &str, desc: &str, ranks: &[u32]) -> usize {
        *self.ids.entry((name.to_owned(), ranks.to_vec())).or_insert_with(|| {
            self.by_name.entry(name.to_owned()).or_default().push(self.all.len());
            self.all.push(Group {
                name: name.to_owned(),
                desc: desc.to_owned(),
                ranks: ranks.to_vec(),
                collectives: false,
                point_to_point: false,
            });
            self.all.len() - 1
        })
    }

    /// The group that a rank calls by this name.
    pub(super) fn find(&self, name: &str, rank: u32) -> Option<usize> {
        let all = self.by_name.get(name)?;
        let mine = all.iter().find(|id| self.all[**id].ranks.contains(&rank));
        mine.or_else(|| all.iter().find(|id| self.all[**id].ranks.is_empty())).copied()
    }
}

pub(super) fn groups(dumps: &[(PathBuf, Dump)], problems: &mut Problems) -> Groups {
    let mut groups = Groups::default();
    for (path, dump) in dumps {
        for group in dump.groups.iter().filter(|group| !group.ranks.is_empty()) {
            if !group.ranks.contains(&dump.rank) {
                let what = format!(
                    "rank {} is not among the ranks of group {}, which are {}; left out",
                    dump.rank,
                    group.name,
                    crate::words::ranks(group.ranks.iter().copied())
                );
                problems.add(&Arc::new(path.clone()), None, what);
                continue;
            }
            if let Some(other) = disagreeing(&groups, group) {
                let what = format!(
                    "ranks of group {} are {}, but another dump says {}; expected one list on all ranks",
                    group.name,
                    crate::words::ranks(group.ranks.iter().copied()),
                    crate::words::ranks(other.iter().copied()),
                );
                problems.add(&Arc::new(path.clone()), None, what);
                continue;
            }
            groups.add(&group.name, &group.desc, &group.ranks);
        }
    }
    // Groups that no configuration has: their ranks are whoever uses them.
    let mut users: BTreeMap<&str, (&str, BTreeSet<u32>)> = BTreeMap::new();
    for (_, dump) in dumps {
        for entry in &dump.entries {
            if groups.find(&entry.group.0, dump.rank).is_none() {
                let user = users.entry(&entry.group.0).or_default();
                user.0 = &entry.group.1;
                user.1.insert(dump.rank);
            }
        }
    }
    for (name, (desc, ranks)) in users {
        groups.add(name, desc, &ranks.into_iter().collect::<Vec<_>>());
    }
    for (_, dump) in dumps {
        for entry in &dump.entries {
            let Some(id) = groups.find(&entry.group.0, dump.rank) else { continue };
            let group = &mut groups.all[id];
            group.collectives |= !entry.is_p2p;
            group.point_to_point |= entry.is_p2p;
            groups.batches |= entry.is_p2p && entry.name == "coalesced";
        }
    }
    groups
}

/// Ranks of a known group of the same name that share a rank with this one, but not all.
fn disagreeing<'a>(groups: &'a Groups, group: &dump::Group) -> Option<&'a [u32]> {
    let same = groups.by_name.get(&group.name)?;
    let own: HashSet<u32> = group.ranks.iter().copied().collect();
    same.iter()
        .map(|id| groups.all[*id].ranks.as_slice())
        .find(|ranks| *ranks != group.ranks.as_slice() && ranks.iter().any(|rank| own.contains(rank)))
}
