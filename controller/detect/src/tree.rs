//! A sorted map of large values.
//!
//! The standard library's tree keeps eleven values in a node. Where they are large, a search jumps from page to page, which takes
//! longer than all that is done with what it finds, and half of the room is unused. So values are boxed here, and nobody who
//! uses the map has to know.

use std::{
    borrow::Borrow,
    collections::btree_map::{BTreeMap, Iter, IterMut},
    iter::Map,
};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Tree<K, V>(BTreeMap<K, Box<V>>);

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

type Pair<'a, K, V> = fn((&'a K, &'a Box<V>)) -> (&'a K, &'a V);
type PairMut<'a, K, V> = fn((&'a K, &'a mut Box<V>)) -> (&'a K, &'a mut V);

impl<K: Ord, V> Tree<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(Box::as_ref)
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key).map(Box::as_mut)
    }

    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.0.entry(key).or_insert_with(|| Box::new(make()))
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, Box::new(value));
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain(|key, value| keep(key, value));
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub(crate) fn iter(&self) -> Map<Iter<'_, K, Box<V>>, Pair<'_, K, V>> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.0.values().map(Box::as_ref)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.values_mut().map(Box::as_mut)
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Tree<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Map<Iter<'a, K, Box<V>>, Pair<'a, K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a mut Tree<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = Map<IterMut<'a, K, Box<V>>, PairMut<'a, K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut().map(|(key, value)| (key, value))
    }
}
