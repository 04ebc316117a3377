//! Which ranks do the same work, and may be compared.
//!
//! The stages of a pipeline have different work, and so do their ranks; the ranks of one stage divide the same work among
//! themselves. Nobody tells us which rank is which, but communicators show it: ranks that reduce gradients with each other
//! hold the same parameters, and ranks that exchange activations inside a layer hold parts of the same layers. So all
//! members of such a communicator have one role, and so have communicators that share a rank.
//!
//! Some communicators cross the stages, and must not count: those that hold smaller ones whole and only exchange a few
//! numbers (the norm of the gradients, the loss); those that exchange so little beside what their members exchange in others
//! that it says nothing of what these hold, if the others show that they have different roles; and those whose names say
//! so: the first and the last stage share an embedding, and its group looks just like one more data-parallel group.
//! PyTorch gives communicators no names, so mostly what goes over them has to tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    model::{Comm, Comms, Processes},
    observation::{CommId, ProcessId},
};

/// Bytes of an operation, in the mean, from which on it exchanges parameters, gradients or activations.
const LARGE_BYTES: f64 = 1_048_576.0;

/// Below this part of what each of its members exchanges in some other communicator, one exchanges a few numbers only.
const FEW: f64 = 1.0 / 64.0;

/// Ranks that do the same work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// In the order of their ranks.
    pub(crate) processes: Vec<ProcessId>,
    /// The communicators among them.
    pub(crate) comms: Vec<CommId>,
}

/// Communicators whose members have different roles.
pub(crate) fn apart(comms: &Comms, processes: &Processes) -> BTreeSet<CommId> {
    let outer = outer(comms, processes);
    let is_apart = |comm: &Comm| {
        crosses_by_name(&comm.name) || (outer.contains(&comm.id) && comm.mean_bytes() < LARGE_BYTES)
    };
    let (slight, telling): (Vec<&Comm>, Vec<&Comm>) =
        comms.values().filter(|comm| !is_apart(comm)).partition(|comm| is_slight(comm, comms, processes));
    let mut sets = Sets::uniting(telling.into_iter());
    let crossing = slight.into_iter().filter(|comm| {
        let roles: BTreeSet<ProcessId> =
            comm.members.values().map(|member| sets.find(member.process)).collect();
        roles.len() > 1
    });
    let crossing: Vec<CommId> = crossing.map(|comm| comm.id).collect();
    comms.values().filter(|comm| is_apart(comm)).map(|comm| comm.id).chain(crossing).collect()
}

/// Whether only a few numbers are exchanged in a communicator, beside what each of its members exchanges in another one.
fn is_slight(comm: &Comm, comms: &Comms, processes: &Processes) -> bool {
    let least = comm.bytes_each() / FEW;
    let is_more =
        |id: &CommId| comms.get(id).is_some_and(|other| other.size > 1 && other.bytes_each() > least);
    let exchanges_more =
        |id: &ProcessId| processes.get(id).is_some_and(|process| process.memberships.keys().any(is_more));
    comm.members.values().all(|member| exchanges_more(&member.process))
}

/// Whether the name is that of a group along or across the pipeline, as Megatron, DeepSpeed and device meshes call it.
fn crosses_by_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("embed")
        || name.contains("pipe")
        || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "pp")
}

/// Communicators that hold all members of a smaller one, in which something goes on, and others beside.
fn outer(comms: &Comms, processes: &Processes) -> BTreeSet<CommId> {
    let mut outer = BTreeSet::new();
    for inner in comms.values().filter(|comm| comm.rhythm.known() && comm.size > 1 && comm.members.len() > 1)
    {
        let mut members = inner.members.values().filter_map(|member| processes.get(&member.process));
        let Some(first) = members.next() else { continue };
        let larger =
            |id: &&CommId| !outer.contains(*id) && comms.get(id).is_some_and(|comm| comm.size > inner.size);
        let mut around: Vec<CommId> = first.memberships.keys().filter(larger).copied().collect();
        for process in members {
            around.retain(|id| process.memberships.contains_key(id));
        }
        outer.extend(around);
    }
    outer
}

/// The roles, in the order of their first ranks.
pub(crate) fn of<'a>(joining: impl Iterator<Item = &'a Comm> + Clone, processes: &Processes) -> Vec<Role> {
    let mut sets = Sets::uniting(joining.clone());
    let mut roles: BTreeMap<ProcessId, Role> = BTreeMap::new();
    let empty = || Role { processes: Vec::new(), comms: Vec::new() };
    for comm in joining {
        let Some(member) = comm.members.values().next() else { continue };
        roles.entry(sets.find(member.process)).or_insert_with(empty).comms.push(comm.id);
    }
    let mut ranked: Vec<(Option<u32>, ProcessId)> =
        processes.iter().map(|(id, process)| (process.info.rank, *id)).collect();
    ranked.sort_unstable();
    for (_, id) in &ranked {
        let root = sets.find(*id);
        if let Some(role) = roles.get_mut(&root) {
            role.processes.push(*id);
        }
    }
    let first = |role: &Role| {
        let first = role.processes.first().and_then(|id| processes.get(id));
        first.and_then(|process| process.info.rank)
    };
    let mut roles: Vec<Role> = roles.into_values().collect();
    roles.sort_by_key(first);
    roles
}

/// Whether communicators that share ranks join all of these processes.
pub(crate) fn joins<'a>(
    comms: impl Iterator<Item = &'a Comm>,
    mut processes: impl Iterator<Item = ProcessId>,
) -> bool {
    let mut sets = Sets::uniting(comms);
    let first = processes.next().map(|first| sets.find(first));
    processes.all(|process| Some(sets.find(process)) == first)
}

/// Disjoint sets of processes.
#[derive(Debug, Default)]
struct Sets {
    parents: HashMap<ProcessId, ProcessId>,
}

impl Sets {
    /// The members of each communicator in one set.
    fn uniting<'a>(comms: impl Iterator<Item = &'a Comm>) -> Self {
        let mut sets = Self::default();
        for comm in comms {
            let mut members = comm.members.values().map(|member| member.process);
            let Some(first) = members.next() else { continue };
            members.for_each(|other| sets.unite(first, other));
        }
        sets
    }

    fn find(&mut self, id: ProcessId) -> ProcessId {
        let mut root = id;
        while let Some(parent) = self.parents.get(&root) {
            root = *parent;
        }
        // The next search takes one step.
        let mut at = id;
        while at != root
            && let Some(parent) = self.parents.insert(at, root)
        {
            at = parent;
        }
        root
    }

    fn unite(&mut self, a: ProcessId, b: ProcessId) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            self.parents.insert(b, a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups_across_stages_are_known() {
        for name in ["PIPELINE_MODEL_PARALLEL_GROUP", "EMBEDDING_GROUP", "mesh_pp", "pp", "pipe_parallel 3"] {
            assert!(crosses_by_name(name), "{name}");
        }
        for name in ["", "default_pg", "DATA_PARALLEL_GROUP", "TENSOR_MODEL_PARALLEL_GROUP", "happy", "dp0"] {
            assert!(!crosses_by_name(name), "{name}");
        }
    }

    #[test]
    fn sets_unite() {
        let mut sets = Sets::default();
        for (a, b) in [(1, 2), (3, 4), (2, 4), (5, 6), (6, 6)] {
            sets.unite(ProcessId(a), ProcessId(b));
        }
        assert!((2..=4).all(|id| sets.find(ProcessId(id)) == sets.find(ProcessId(1))));
        assert_ne!(sets.find(ProcessId(5)), sets.find(ProcessId(1)));
        assert_eq!(sets.find(ProcessId(9)), ProcessId(9));
    }
}
