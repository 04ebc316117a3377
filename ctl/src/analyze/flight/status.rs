//! Which group a line of `pg_status` is about. It is keyed by an id that each process counts for itself, from the
//! groups it created; `pg_config` is keyed by the group's name, which is the same on all ranks. A rank's operations
//! name both. A rank without operations leaves only the order: ids count up in the order in which groups were created,
//! and so do names that are numbers; where names are hashes, other ranks tell in which order they created those groups,
//! or which ids these had.

use std::collections::{BTreeMap, HashMap};

use super::dump::{Dump, Status};

/// Names of groups in the order of their creation, as far as other ranks' operations tell.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Process-local ids that a group had, and on how many ranks.
    ids: HashMap<String, BTreeMap<u64, u64>>,
}

impl Order {
    pub(super) fn of<'a>(dumps: impl Iterator<Item = &'a Dump>) -> Self {
        let mut order = Order::default();
        for dump in dumps {
            for (id, name) in told(dump) {
                *order.ids.entry(name.to_owned()).or_default().entry(id).or_default() += 1;
            }
        }
        order
    }

    fn mean(&self, name: &str) -> Option<f64> {
        let ids = self.ids.get(name)?;
        let number: u64 = ids.values().sum();
        Some(ids.iter().map(|(id, ranks)| *id as f64 * *ranks as f64).sum::<f64>() / number as f64)
    }

    /// The id that all ranks which tell have for a group.
    fn unanimous(&self, name: &str) -> Option<u64> {
        let ids = self.ids.get(name)?;
        ids.keys().next().copied().filter(|_| ids.len() == 1)
    }

    /// Sorts names by creation, if that can be told.
    fn sort(&self, names: &mut [&str]) -> bool {
        let number = |name: &str| name.parse::<u64>().ok();
        if names.iter().all(|name| number(name).is_some()) {
            names.sort_by_key(|name| number(name));
            return true;
        }
        if names.iter().all(|name| self.mean(name).is_some()) {
            names.sort_by(|a, b| self.mean(a).unwrap_or(0.0).total_cmp(&self.mean(b).unwrap_or(0.0)));
            return true;
        }
        names.len() == 1
    }
}

/// What a rank's own operations say: process-local ids and names.
fn told(dump: &Dump) -> BTreeMap<u64, &str> {
    dump.entries.iter().map(|entry| (entry.pg_id, entry.group.0.as_str())).collect()
}

/// The status of each group by its name, as far as it can be told which is which.
pub(super) fn by_name(dump: &Dump, order: &Order) -> HashMap<String, Status> {
    let found = joined(dump, order);
    found.into_iter().map(|(name, status)| (name.to_owned(), status)).collect()
}

fn joined<'a>(dump: &'a Dump, order: &Order) -> HashMap<&'a str, Status> {
    let told = told(dump);
    let mut found = HashMap::new();
    let mut left = Vec::new();
    for (id, status) in dump.status.iter().flatten() {
        match told.get(id) {
            Some(name) => drop(found.insert(*name, *status)),
            None => left.push((*id, *status)),
        }
    }
    if left.is_empty() {
        return found;
    }
    let mut names: Vec<&str> = dump.groups.iter().map(|group| group.name.as_str()).collect();
    // If every id has its group, ids and names run in parallel; else what is left over must do so.
    let highest = dump.status.iter().flatten().map(|(id, _)| *id).max().unwrap_or(0);
    if highest.checked_add(1) == Some(names.len() as u64) && order.sort(&mut names) {
        let agrees = told.iter().all(|(id, name)| names.get(*id as usize) == Some(name));
        if agrees {
            for (id, status) in left {
                found.insert(names[id as usize], status);
            }
            return found;
        }
    }
    let mut names: Vec<&str> = names.into_iter().filter(|name| !found.contains_key(name)).collect();
    let world = dump.groups.iter().find(|group| group.desc == "default_pg").map(|group| group.name.as_str());
    names.retain(|name| {
        let id = if world == Some(*name) { Some(0) } else { order.unanimous(name) };
        let place = left.iter().position(|(other, _)| Some(*other) == id);
        let Some(place) = place else { return true };
        found.insert(*name, left.remove(place).1);
        false
    });
    if names.len() == left.len() && order.sort(&mut names) {
        found.extend(names.into_iter().zip(left.into_iter().map(|(_, status)| status)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::dump::Group, *};

    fn dump(groups: &[&str], status: &[(u64, u64)]) -> Dump {
        Dump {
            groups: groups
                .iter()
                .map(|name| Group { name: (*name).to_owned(), desc: String::new(), ranks: vec![0, 1] })
                .collect(),
            status: Some(
                status
                    .iter()
                    .map(|(id, at)| (*id, Status { enqueued: Some(*at), completed: Some(*at) }))
                    .collect(),
            ),
            ..Dump::default()
        }
    }

    fn at(dump: &Dump, order: &Order, name: &str) -> Option<u64> {
        by_name(dump, order).get(name).and_then(|status| status.enqueued)
    }

    #[test]
    fn ids_run_parallel_to_names_not_equal_to_them() {
        // "10" sorts before "3" as text, and 2 is the id of a group whose name is not "2".
        let dump = dump(&["0", "10", "3"], &[(0, 100), (1, 30), (2, 70)]);
        let order = Order::default();
        assert_eq!(at(&dump, &order, "3"), Some(30));
        assert_eq!(at(&dump, &order, "10"), Some(70));
    }

    #[test]
    fn hashed_names_are_in_the_order_of_other_ranks() {
        let dump = dump(&["aa", "bb"], &[(0, 1), (1, 2)]);
        assert_eq!(at(&dump, &Order::default(), "aa"), None, "nothing tells");
        let ids = |ids: &[(u64, u64)]| ids.iter().copied().collect::<BTreeMap<u64, u64>>();
        let told = [("bb".to_owned(), ids(&[(0, 1)])), ("aa".to_owned(), ids(&[(2, 1), (3, 1)]))];
        let order = Order { ids: HashMap::from(told) };
        assert_eq!(at(&dump, &order, "bb"), Some(1));
        assert_eq!(at(&dump, &order, "aa"), Some(2));
    }

    #[test]
    fn groups_never_used_do_not_shift_the_others() {
        let dump = dump(&["0", "3", "10"], &[(0, 100), (2, 70)]);
        assert_eq!(at(&dump, &Order::default(), "10"), Some(70));
        assert_eq!(at(&dump, &Order::default(), "3"), None);
    }
}
