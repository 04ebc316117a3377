//! What is known of each rank of a communicator.
//!
//! Of a job of a hundred thousand ranks there are half a million such entries for each thing that is known, and most are looked up
//! once a second. Ranks are numbers in a row, so they are kept in rows of eight, as many as most communicators have: few nodes to
//! search, and none that is half empty. Rows are found by a tree, since whoever claims to be rank 1,000,000 is not to have a
//! million places made for him.

use std::collections::BTreeMap;

/// Ranks of a row.
const ROW: u32 = 8;

type Row<T> = [Option<T>; ROW as usize];

/// See the module. In the order of the ranks, and used like any other map.
#[derive(Clone, Debug)]
pub(crate) struct ByRank<T> {
    rows: BTreeMap<u32, Box<Row<T>>>,
    len: usize,
}

impl<T> Default for ByRank<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), len: 0 }
    }
}

impl<T> ByRank<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, rank: &u32) -> Option<&T> {
        self.rows.get(&(rank / ROW))?[place(*rank)].as_ref()
    }

    pub(crate) fn get_mut(&mut self, rank: &u32) -> Option<&mut T> {
        self.rows.get_mut(&(rank / ROW))?[place(*rank)].as_mut()
    }

    pub(crate) fn contains_key(&self, rank: &u32) -> bool {
        self.get(rank).is_some()
    }

    /// The place of a rank, to be filled or read.
    fn slot(&mut self, rank: u32) -> &mut Option<T> {
        let row = self.rows.entry(rank / ROW).or_insert_with(|| Box::new(std::array::from_fn(|_| None)));
        &mut row[place(rank)]
    }

    pub(crate) fn insert(&mut self, rank: u32, value: T) -> Option<T> {
        let before = self.slot(rank).replace(value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn get_or_default(&mut self, rank: u32) -> &mut T
    where
        T: Default,
    {
        if !self.contains_key(&rank) {
            self.len += 1;
        }
        self.slot(rank).get_or_insert_default()
    }

    pub(crate) fn remove(&mut self, rank: &u32) -> Option<T> {
        let before = self.rows.get_mut(&(rank / ROW))?[place(*rank)].take()?;
        self.len -= 1;
        if self.rows.get(&(rank / ROW)).is_some_and(|row| row.iter().all(Option::is_none)) {
            self.rows.remove(&(rank / ROW));
        }
        Some(before)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.rows.retain(|_, row| {
            row.iter_mut().for_each(|slot| drop(slot.take_if(|value| !keep(value))));
            row.iter().any(Option::is_some)
        });
        self.len = self.iter().count();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.rows.iter().flat_map(|(number, row)| {
            ranks(*number).zip(row.iter()).filter_map(|(rank, slot)| Some((rank, slot.as_ref()?)))
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.rows.iter_mut().flat_map(|(number, row)| {
            ranks(*number).zip(row.iter_mut()).filter_map(|(rank, slot)| Some((rank, slot.as_mut()?)))
        })
    }

    pub(crate) fn into_pairs(self) -> impl Iterator<Item = (u32, T)> {
        self.rows
            .into_iter()
            .flat_map(|(number, row)| ranks(number).zip(*row).filter_map(|(rank, slot)| Some((rank, slot?))))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> + Clone {
        self.rows.values().flat_map(|row| row.iter().flatten())
    }
}

/// The ranks of a row.
fn ranks(row: u32) -> impl Iterator<Item = u32> {
    (0..ROW).map(move |place| row * ROW + place)
}

fn place(rank: u32) -> usize {
    (rank % ROW) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, u8),
        Count(u32),
        Remove(u32),
        Retain(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let rank = || prop_oneof![0..40_u32, u32::MAX - 9..=u32::MAX];
        prop_oneof![
            (rank(), 0..9_u8).prop_map(|(rank, value)| Step::Insert(rank, value)),
            rank().prop_map(Step::Count),
            rank().prop_map(Step::Remove),
            (0..9_u8).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec(step(), 0..200)) {
            let (mut ours, mut model) = (ByRank::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(rank, value) => {
                        prop_assert_eq!(ours.insert(rank, value), model.insert(rank, value));
                    }
                    Step::Count(rank) => {
                        *ours.get_or_default(rank) += 1;
                        *model.entry(rank).or_default() += 1;
                    }
                    Step::Remove(rank) => prop_assert_eq!(ours.remove(&rank), model.remove(&rank)),
                    Step::Retain(least) => {
                        ours.retain(|value| *value >= least);
                        model.retain(|_, value| *value >= least);
                    }
                }
                prop_assert_eq!(ours.len(), model.len());
                prop_assert!(ours.values().eq(model.values()));
                prop_assert!(ours.rows.values().all(|row| row.iter().any(Option::is_some)));
            }
            let pairs: Vec<(u32, u8)> = model.iter().map(|(rank, value)| (*rank, *value)).collect();
            prop_assert!(ours.iter().map(|(rank, value)| (rank, *value)).eq(pairs.iter().copied()));
            prop_assert!(ours.iter_mut().map(|(rank, value)| (rank, *value)).eq(pairs.iter().copied()));
            for (rank, value) in &pairs {
                prop_assert_eq!(ours.get(rank), Some(value));
                prop_assert_eq!(ours.get_mut(rank).copied(), Some(*value));
                prop_assert!(ours.contains_key(rank));
            }
            prop_assert_eq!(ours.into_pairs().collect::<Vec<_>>(), pairs);
        }
    }
}
