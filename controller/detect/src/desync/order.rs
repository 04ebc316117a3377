//! The order in which the members of a communicator call its operations, learned from what they told while they agreed.
//!
//! Where as many ranks say one thing as say another, counting them does not tell who is wrong; that one of them does what
//! all have done at this place of every iteration does.

use std::collections::BTreeMap;

use crate::{aggregate::MAX_BLOCK_LENGTH, signature};

/// Pieces of the order that are remembered of a communicator.
const MAX_PIECES: usize = 512;
/// How often a piece must have been told to be known.
const KNOWN: u32 = 3;
/// However often it was told, it is given up when so many in a row say otherwise.
const MAX_AGAINST: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Operations in an iteration; 0 while that is not known.
    operations: u32,
    /// What operations at a place of the iteration, so many in a row, hash to.
    pieces: BTreeMap<(u64, u64), Piece>,
}

#[derive(Debug)]
struct Piece {
    signature: u64,
    told: u32,
    /// Told otherwise in a row since.
    against: u32,
}

impl Order {
    /// Places are those of an iteration of so many operations.
    pub(crate) fn set_iteration(&mut self, operations: u32) {
        if operations != self.operations {
            self.operations = operations;
            self.pieces.clear();
        }
    }

    /// Takes in what operations from `first` on, `length` of them, hash to.
    pub(crate) fn take(&mut self, first: u64, length: u64, signature: u64) {
        let Some(place) = first.checked_rem(self.operations.into()) else { return };
        let (key, room) = ((place, length), self.pieces.len() < MAX_PIECES);
        match self.pieces.get_mut(&key) {
            Some(piece) if piece.signature == signature => {
                piece.told = piece.told.saturating_add(1);
                piece.against = 0;
            }
            Some(piece) => {
                piece.against += 1;
                if piece.against > piece.told.min(MAX_AGAINST) {
                    *piece = Piece { signature, told: 1, against: 0 };
                }
            }
            None if room => {
                self.pieces.insert(key, Piece { signature, told: 1, against: 0 });
            }
            None => {}
        }
    }

    /// What operations from `first` on, `length` of them (a power of two), usually hash to.
    pub(crate) fn usual(&self, first: u64, length: u64) -> Option<u64> {
        let place = first.checked_rem(self.operations.into())?;
        let piece = self.pieces.get(&(place, length)).filter(|piece| piece.told >= KNOWN);
        if let Some(piece) = piece {
            return Some(piece.signature);
        }
        if length < 2 || length > MAX_BLOCK_LENGTH.into() || !length.is_power_of_two() {
            return None;
        }
        let half = length / 2;
        Some(signature::join(self.usual(first, half)?, self.usual(first.checked_add(half)?, half)?, half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_often_is_known_at_its_place_of_the_iteration() {
        let mut order = Order::default();
        order.take(0, 1, 7);
        assert_eq!(order.usual(0, 1), None, "no iteration is known");
        order.set_iteration(3);
        for first in 0..9 {
            assert_eq!(order.usual(first, 1), None);
            order.take(first, 1, first % 3);
        }
        assert_eq!([9, 10, 11].map(|first| order.usual(first, 1)), [Some(0), Some(1), Some(2)]);
        let two = signature::join(1, 2, 1);
        assert_eq!(order.usual(10, 2), Some(two), "joined from pieces");
        order.set_iteration(2);
        assert_eq!(order.usual(0, 1), None, "places are others now");
    }

    #[test]
    fn one_that_differs_changes_nothing_and_many_do() {
        let mut order = Order::default();
        order.set_iteration(1);
        for _ in 0..100 {
            order.take(0, 4, 7);
        }
        for _ in 0..MAX_AGAINST {
            order.take(0, 4, 8);
        }
        assert_eq!(order.usual(0, 4), Some(7));
        for _ in 0..KNOWN {
            order.take(0, 4, 8);
        }
        assert_eq!(order.usual(0, 4), Some(8));
    }
}
