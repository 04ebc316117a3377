//! Which of a rank's entries NCCL launched together.

use std::collections::HashMap;

use super::{
    dump::{Dump, Entry},
    groups::Groups,
};

/// Operations that NCCL launches together; a single one is a batch of itself.
pub(super) struct Batch<'a> {
    pub(super) members: Vec<&'a Entry>,
    /// The entry that has the state of them all.
    pub(super) whole: Option<&'a Entry>,
}

/// A rank's entries in the batches in which NCCL launched them. A batch is recorded as its operations, without any state
/// of their own, and then an entry "coalesced" that has it; depending on PyTorch's version the sequence number goes up
/// before the first of them or before the last.
pub(super) fn batches<'a>(dump: &'a Dump, groups: &Groups) -> Vec<(usize, Batch<'a>)> {
    let mut all: Vec<(usize, Batch<'a>)> = Vec::new();
    // By group: the entries that may yet turn out to be of a batch, by their place in `all`.
    let mut open: HashMap<usize, Vec<usize>> = HashMap::new();
    for entry in &dump.entries {
        let Some(group) = groups.find(&entry.group.0, dump.rank) else { continue };
        let open = open.entry(group).or_default();
        let stateless = entry.completed_ns.is_none() && entry.started_ns.is_none();
        if entry.name != "coalesced" {
            if !stateless {
                open.clear();
            } else {
                let same = |place: &usize| {
                    all[*place].1.members.first().is_some_and(|before| numbers(before) == numbers(entry))
                };
                if !open.last().is_none_or(same) {
                    open.clear();
                }
                open.push(all.len());
            }
            all.push((group, Batch { members: vec![entry], whole: None }));
            continue;
        }
        let follows = |place: &usize| {
            let before = all[*place].1.members.first().map(|before| numbers(before));
            before.is_some_and(|(collective, p2p)| {
                let (whole_collective, whole_p2p) = numbers(entry);
                whole_collective.wrapping_sub(collective) <= 1 && whole_p2p.wrapping_sub(p2p) <= 1
            })
        };
        let members: Vec<usize> = open.drain(..).filter(follows).collect();
        let members =
            members.into_iter().flat_map(|place| std::mem::take(&mut all[place].1.members)).collect();
        all.push((group, Batch { members, whole: Some(entry) }));
    }
    all.retain(|(_, batch)| batch.whole.is_some() || !batch.members.is_empty());
    all
}

pub(super) fn numbers(entry: &Entry) -> (u64, u64) {
    (entry.collective_seq, entry.p2p_seq)
}
