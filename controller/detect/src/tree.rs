//! A map of large values, in the order of their keys, in which each is found at once.
//!
//! The standard library's tree keeps eleven values in a node: where they are large, half of the room is unused, and among a hundred
//! thousand of them a search jumps six times to what is in no cache, which takes longer than all that is done with what it finds.
//! Here values are boxed and lie in slots. A hash map knows the slot of each key, and whoever looks for the same one every
//! second keeps its slot; a tree of slots has them in order.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    hash::Hash,
    ops::RangeBounds,
};

use foldhash::fast::RandomState;

/// Where a value lies, until it is removed. Then another may lie there, so whoever asks says whose it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: Box<V>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tree<K, V> {
    entries: Vec<Option<Entry<K, V>>>,
    free: Vec<Slot>,
    order: BTreeMap<K, Slot>,
    slots: HashMap<K, Slot, RandomState>,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            order: BTreeMap::new(),
            slots: HashMap::with_hasher(RandomState::default()),
        }
    }
}

impl<K: Copy + Ord + Hash, V> Tree<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Where the value of a key lies.
    pub(crate) fn slot(&self, key: &K) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    fn entry(&self, slot: Slot) -> Option<&Entry<K, V>> {
        self.entries.get(slot.0)?.as_ref()
    }

    /// The slot of a key, which was this one when it was last looked for.
    fn still(&self, slot: Slot, key: &K) -> Option<Slot> {
        let lies_there = self.entry(slot).is_some_and(|entry| entry.key == *key);
        if lies_there { Some(slot) } else { self.slot(key) }
    }

    /// The value of a key, which lay in this slot when it was last looked for.
    pub(crate) fn at(&self, slot: Slot, key: &K) -> Option<&V> {
        self.entry(self.still(slot, key)?).map(|entry| &*entry.value)
    }

    /// The same, to be changed.
    pub(crate) fn at_mut(&mut self, slot: Slot, key: &K) -> Option<&mut V> {
        let slot = self.still(slot, key)?;
        self.entries.get_mut(slot.0)?.as_mut().map(|entry| &mut *entry.value)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entry(self.slot(key)?).map(|entry| &*entry.value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.slot(key)?;
        self.at_mut(slot, key)
    }

    pub(crate) fn get_key_value(&self, key: &K) -> Option<(&K, &V)> {
        self.entry(self.slot(key)?).map(|entry| (&entry.key, &*entry.value))
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.slots.contains_key(key)
    }

    /// Puts a value in the place of the one that the key had, if any.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Slot {
        self.remove(&key);
        let entry = Some(Entry { key, value: Box::new(value) });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot.0] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                Slot(self.entries.len() - 1)
            }
        };
        self.order.insert(key, slot);
        self.slots.insert(key, slot);
        slot
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.order.remove(key);
            self.entries[slot.0] = None;
            self.free.push(slot);
        }
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let gone: Vec<K> =
            self.iter_mut().filter_map(|(key, value)| (!keep(key, value)).then_some(*key)).collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.order.keys()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.order.iter().filter_map(|(key, slot)| Some((key, &*self.entry(*slot)?.value)))
    }

    pub(crate) fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.order.range(keys).filter_map(|(key, slot)| Some((key, &*self.entry(*slot)?.value)))
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let entries = self.entries.iter_mut().flatten();
        let mut all: Vec<_> = entries.map(|entry| (&entry.key, &mut *entry.value)).collect();
        all.sort_unstable_by_key(|(key, _)| **key);
        all.into_iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..3_u8, 0..30_u32, 0..9_u8), 0..200)) {
            let (mut ours, mut model) = (Tree::default(), BTreeMap::new());
            let mut known = BTreeMap::new();
            for (step, key, value) in steps {
                match step {
                    0 => {
                        known.insert(key, ours.insert(key, value));
                        model.insert(key, value);
                    }
                    1 => {
                        ours.remove(&key);
                        model.remove(&key);
                    }
                    _ => {
                        ours.retain(|other, known| *other < key || *known >= value);
                        model.retain(|other, known| *other < key || *known >= value);
                    }
                }
                prop_assert_eq!(ours.len(), model.len());
                prop_assert!(ours.entries.len() <= 30);
                for (key, slot) in &known {
                    prop_assert_eq!(ours.at(*slot, key), model.get(key));
                    prop_assert_eq!(ours.at_mut(*slot, key).copied(), model.get(key).copied());
                    prop_assert_eq!(ours.get(key), model.get(key));
                    prop_assert_eq!(ours.contains_key(key), model.contains_key(key));
                }
            }
            prop_assert!(ours.iter().eq(model.iter()));
            prop_assert!(ours.range(7..20).eq(model.range(7..20)));
            prop_assert!(ours.iter_mut().map(|(key, value)| (key, &*value)).eq(model.iter()));
        }
    }
}
