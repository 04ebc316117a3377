//! What is known of each rank of a communicator.
//!
//! Of a job of a hundred thousand ranks there are half a million such entries for each thing that is known, and most are looked up
//! once a second. Ranks are numbers in a row, so they are kept in rows of eight, as many as most communicators have, and these by
//! their number: what is looked up is where it is expected, and a communicator of five has room for five. Whoever claims to be rank
//! 1,000,000 is not to have a million places made for him: rows far beyond those that are filled are found by a tree.

use std::collections::BTreeMap;

/// Ranks of a row.
const ROW: u32 = 8;
/// Rows for which there may always be places; beyond, one for each rank that is known.
const NEAR: usize = 64;

type Row<T> = Box<[Option<T>]>;

/// See the module. In the order of the ranks, and used like any other map.
#[derive(Clone, Debug)]
pub(crate) struct ByRank<T> {
    /// By number; a row that holds nobody is empty.
    rows: Vec<Row<T>>,
    /// Rows with greater numbers than these.
    #[expect(
        clippy::box_collection,
        reason = "hardly any has such rows, and there are millions of these maps"
    )]
    far: Option<Box<BTreeMap<u32, Row<T>>>>,
    /// How many ranks are expected: a row has no places beyond, until one is needed. 0: nobody knows.
    expected: u32,
    len: u32,
}

impl<T> Default for ByRank<T> {
    fn default() -> Self {
        Self::of(0)
    }
}

impl<T> ByRank<T> {
    /// An empty map that so many ranks are expected in.
    pub(crate) fn of(expected: u32) -> Self {
        Self { rows: Vec::new(), far: None, expected, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn get(&self, rank: &u32) -> Option<&T> {
        let row = match self.rows.get((rank / ROW) as usize) {
            Some(row) => row,
            None => self.far.as_ref()?.get(&(rank / ROW))?,
        };
        row.get(place(*rank))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, rank: &u32) -> Option<&mut T> {
        let row = match self.rows.get_mut((rank / ROW) as usize) {
            Some(row) => row,
            None => self.far.as_mut()?.get_mut(&(rank / ROW))?,
        };
        row.get_mut(place(*rank))?.as_mut()
    }

    pub(crate) fn contains_key(&self, rank: &u32) -> bool {
        self.get(rank).is_some()
    }

    /// The place of a rank, to be filled.
    fn slot(&mut self, rank: u32) -> &mut Option<T> {
        let number = rank / ROW;
        let near = number as usize;
        if near >= self.rows.len() && near < NEAR.max(self.len as usize) {
            self.rows.resize_with(near + 1, Row::default);
            if let Some(far) = &mut self.far {
                let beyond = far.split_off(&(number + 1));
                for (number, row) in std::mem::replace(&mut **far, beyond) {
                    self.rows[number as usize] = row;
                }
            }
        }
        let row = match self.rows.get_mut(near) {
            Some(row) => row,
            None => self.far.get_or_insert_default().entry(number).or_default(),
        };
        if row.len() <= place(rank) {
            let expected = self.expected.saturating_sub(number * ROW).min(ROW) as usize;
            let width = if place(rank) < expected { expected } else { ROW as usize };
            let mut wide = std::mem::take(row).into_vec();
            wide.reserve_exact(width - wide.len());
            wide.resize_with(width, || None);
            *row = wide.into_boxed_slice();
        }
        &mut row[place(rank)]
    }

    pub(crate) fn insert(&mut self, rank: u32, value: T) -> Option<T> {
        let before = self.slot(rank).replace(value);
        self.len += u32::from(before.is_none());
        before
    }

    pub(crate) fn get_or_default(&mut self, rank: u32) -> &mut T
    where
        T: Default,
    {
        self.len += u32::from(!self.contains_key(&rank));
        self.slot(rank).get_or_insert_default()
    }

    pub(crate) fn remove(&mut self, rank: &u32) -> Option<T> {
        let number = rank / ROW;
        let near = self.rows.get_mut(number as usize);
        let is_near = near.is_some();
        let row = near.or_else(|| self.far.as_mut()?.get_mut(&number))?;
        let before = row.get_mut(place(*rank))?.take()?;
        self.len -= 1;
        if row.iter().all(Option::is_none) {
            *row = Row::default();
            if let Some(far) = self.far.as_mut().filter(|_| !is_near) {
                far.remove(&number);
            }
        }
        Some(before)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let sift = |row: &mut Row<T>| {
            row.iter_mut().for_each(|slot| drop(slot.take_if(|value| !keep(value))));
            let any = row.iter().any(Option::is_some);
            if !any {
                *row = Row::default();
            }
            any
        };
        self.rows.iter_mut().for_each(|row| _ = sift(row));
        if let Some(far) = &mut self.far {
            far.retain(|_, row| sift(row));
        }
        self.len = u32::try_from(self.values().count()).unwrap_or(u32::MAX);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let far = self.far.iter().flat_map(|far| far.iter()).map(|(number, row)| (*number, row));
        (0..).zip(&self.rows).chain(far).flat_map(|(number, row)| {
            ranks(number).zip(row.iter()).filter_map(|(rank, slot)| Some((rank, slot.as_ref()?)))
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let far = self.far.iter_mut().flat_map(|far| far.iter_mut()).map(|(number, row)| (*number, row));
        (0..).zip(&mut self.rows).chain(far).flat_map(|(number, row)| {
            ranks(number).zip(row.iter_mut()).filter_map(|(rank, slot)| Some((rank, slot.as_mut()?)))
        })
    }

    pub(crate) fn into_pairs(self) -> impl Iterator<Item = (u32, T)> {
        let far = self.far.into_iter().flat_map(|far| far.into_iter());
        (0..).zip(self.rows).chain(far).flat_map(|(number, row)| {
            ranks(number).zip(row.into_vec()).filter_map(|(rank, slot)| Some((rank, slot?)))
        })
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> + Clone {
        let far = self.far.iter().flat_map(|far| far.values());
        self.rows.iter().chain(far).flat_map(|row| row.iter().flatten())
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
        let rank = || prop_oneof![0..40_u32, 480..600_u32, u32::MAX - 9..=u32::MAX];
        prop_oneof![
            (rank(), 0..9_u8).prop_map(|(rank, value)| Step::Insert(rank, value)),
            rank().prop_map(Step::Count),
            rank().prop_map(Step::Remove),
            (0..9_u8).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map(expected in 0..20_u32, steps in prop::collection::vec(step(), 0..200)) {
            let (mut ours, mut model) = (ByRank::of(expected), BTreeMap::new());
            let mut most = 0;
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
                let far = ours.far.iter().flat_map(|far| far.keys());
                prop_assert!(far.clone().all(|number| *number as usize >= ours.rows.len()));
                prop_assert!(ours.far.iter().flat_map(|far| far.values()).all(|row| !row.is_empty()));
                most = most.max(model.len());
                prop_assert!(ours.rows.len() <= NEAR.max(most));
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
