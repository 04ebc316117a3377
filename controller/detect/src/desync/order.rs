//! The order in which the members of a communicator call its operations, learned from what they told while they agreed.
//!
//! Where as many ranks say one thing as say another, counting them does not tell who is wrong; that one of them does what
//! all have done at this place of every iteration does.

use crate::{aggregate::MAX_BLOCK_LENGTH, signature};

/// Pieces of the order that are remembered of a communicator.
const MAX_PIECES: usize = 512;
/// How often a piece must have been told to be known.
const KNOWN: u8 = 3;
/// However often it was told, it is given up when so many in a row say otherwise.
const MAX_AGAINST: u8 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Operations in an iteration; 0 while that is not known.
    operations: u32,
    /// By place. An array, and small numbers in it: a job of a hundred thousand ranks has half as many communicators, and of
    /// most of them as many pieces are remembered as may be.
    pieces: Vec<Piece>,
}

/// What operations at a place of the iteration, a power of two in a row, hash to.
#[derive(Debug)]
struct Piece {
    signature: u64,
    place: u32,
    log_length: u8,
    /// How often it was told, as far as that matters.
    told: u8,
    /// Told otherwise in a row since.
    against: u8,
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
        let Some((place, log_length)) = self.place(first, length) else { return };
        let new = Piece { signature, place, log_length, told: 1, against: 0 };
        match self.find((place, log_length)) {
            Ok(at) => {
                let piece = &mut self.pieces[at];
                if piece.signature == signature {
                    piece.told = piece.told.saturating_add(1);
                    piece.against = 0;
                    return;
                }
                piece.against += 1;
                if piece.against > piece.told.min(MAX_AGAINST) {
                    *piece = new;
                }
            }
            Err(at) if self.pieces.len() < MAX_PIECES => self.pieces.insert(at, new),
            Err(_) => {}
        }
    }

    /// None where no iteration is known, or for a length that no block has.
    fn place(&self, first: u64, length: u64) -> Option<(u32, u8)> {
        let place = u32::try_from(first.checked_rem(self.operations.into())?).ok()?;
        length.is_power_of_two().then(|| (place, length.ilog2() as u8))
    }

    fn find(&self, at: (u32, u8)) -> Result<usize, usize> {
        self.pieces.binary_search_by_key(&at, |piece| (piece.place, piece.log_length))
    }

    /// What operations from `first` on, `length` of them (a power of two), usually hash to.
    pub(crate) fn usual(&self, first: u64, length: u64) -> Option<u64> {
        let known = self.find(self.place(first, length)?).ok().map(|at| &self.pieces[at]);
        if let Some(piece) = known.filter(|piece| piece.told >= KNOWN) {
            return Some(piece.signature);
        }
        if length < 2 || length > MAX_BLOCK_LENGTH.into() {
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
