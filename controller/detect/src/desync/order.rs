//! The order in which the members of a communicator call its operations, learned from what they told while they agreed.
//!
//! Where as many ranks say one thing as say another, counting them does not tell who is wrong; that one of them does what
//! all have done at this place of every iteration does.
//!
//! Operations that are not part of an iteration (a check of the sums every fifty, an evaluation) move those that follow to other
//! places. That all members then say what is known of other places tells by how many.

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
    /// How many operations the places are off from those that positions alone would give.
    shift: u32,
    /// Where what was told last is not what is known of its place.
    search: Option<Box<Search>>,
    /// By place. An array, and small numbers in it: a job of a hundred thousand ranks has half as many communicators, and of
    /// most of them as many pieces are remembered as may be.
    pieces: Vec<Piece>,
    /// Behind the piece that was told of last: what is told of next is mostly there.
    next: usize,
}

/// For the shift with which what was told fits again.
#[derive(Debug)]
struct Search {
    /// The first operation that they fit.
    from: u64,
    /// All that fit what was told since.
    shifts: Vec<u32>,
    /// How many pieces they fit.
    fitting: u8,
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
            *self = Self { operations, ..Self::default() };
        }
    }

    /// Takes in what operations from `first` on, `length` of them, hash to.
    pub(crate) fn take(&mut self, first: u64, length: u64, signature: u64) {
        let Some(at) = self.place(first, length) else { return };
        let (fits, known) = match self.find(at) {
            Ok(index) => {
                self.next = index + 1;
                let piece = &mut self.pieces[index];
                let fits = piece.signature == signature;
                if fits {
                    piece.told = piece.told.saturating_add(1);
                    piece.against = 0;
                } else {
                    piece.against += 1;
                }
                if piece.against > piece.told.min(MAX_AGAINST) {
                    *piece = Piece::new(at, signature);
                }
                (fits, true)
            }
            // What is off would be learned at the wrong place.
            Err(index) if self.pieces.len() < MAX_PIECES && self.search.is_none() => {
                self.pieces.insert(index, Piece::new(at, signature));
                (true, false)
            }
            Err(_) => (true, false),
        };
        if !fits || (known && self.search.is_some()) {
            self.seek(first, at, signature);
        }
    }

    /// Seeks the shift with which a piece is where it is known.
    fn seek(&mut self, first: u64, (place, log_length): (u32, u8), signature: u64) {
        let alike = self.pieces.iter().filter(|piece| {
            piece.log_length == log_length && piece.signature == signature && piece.told >= KNOWN
        });
        let [shift, operations, place] = [self.shift, self.operations, place].map(u64::from);
        // Less than an iteration, which is of 32 bits.
        let off = |other: u32| ((shift + operations + u64::from(other) - place) % operations) as u32;
        let here: Vec<u32> = alike.map(|piece| off(piece.place)).collect();
        let search = match self.search.take() {
            Some(mut search) if search.shifts.iter().any(|shift| here.contains(shift)) => {
                search.shifts.retain(|shift| here.contains(shift));
                search.fitting = search.fitting.saturating_add(1);
                search
            }
            _ => Box::new(Search { from: first, shifts: here, fitting: 1 }),
        };
        // Shifts that all fit a whole iteration are as good as each other.
        let whole = first.saturating_sub(search.from) >= self.operations.into();
        match search.shifts[..] {
            [shift, ref others @ ..] if search.fitting >= KNOWN && (others.is_empty() || whole) => {
                self.shift = shift
            }
            _ => self.search = Some(search),
        }
    }

    /// None where no iteration is known, or for a length that no block has.
    fn place(&self, first: u64, length: u64) -> Option<(u32, u8)> {
        let place = first.checked_add(self.shift.into())?.checked_rem(self.operations.into())?;
        let place = u32::try_from(place).ok()?;
        length.is_power_of_two().then(|| (place, length.ilog2() as u8))
    }

    fn find(&self, at: (u32, u8)) -> Result<usize, usize> {
        let place = |piece: &Piece| (piece.place, piece.log_length);
        if self.pieces.get(self.next).map(place) == Some(at) {
            return Ok(self.next);
        }
        self.pieces.binary_search_by_key(&at, place)
    }

    /// What operations from `first` on, `length` of them (a power of two), usually hash to. None also where what all told last
    /// is not what is known of its place.
    pub(crate) fn usual(&self, first: u64, length: u64) -> Option<u64> {
        self.search.is_none().then(|| self.known(first, length))?
    }

    fn known(&self, first: u64, length: u64) -> Option<u64> {
        let piece = self.find(self.place(first, length)?).ok().map(|at| &self.pieces[at]);
        if let Some(piece) = piece.filter(|piece| piece.told >= KNOWN) {
            return Some(piece.signature);
        }
        if length < 2 || length > MAX_BLOCK_LENGTH.into() {
            return None;
        }
        let half = length / 2;
        Some(signature::join(self.known(first, half)?, self.known(first.checked_add(half)?, half)?, half))
    }
}

impl Piece {
    fn new((place, log_length): (u32, u8), signature: u64) -> Self {
        Self { signature, place, log_length, told: 1, against: 0 }
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
        assert_eq!(order.usual(0, 4), None);
        for _ in 0..KNOWN {
            order.take(0, 4, 7);
        }
        assert_eq!(order.usual(0, 4), Some(7));
        for _ in 0..=MAX_AGAINST {
            order.take(0, 4, 8);
        }
        for _ in 0..2 * KNOWN {
            order.take(0, 4, 8);
        }
        assert_eq!(order.usual(0, 4), Some(8));
    }

    /// An order that knows iterations of A A B C, and the position of the next.
    fn iterations() -> (Order, u64) {
        let mut order = Order::default();
        order.set_iteration(4);
        let end = tell(&mut order, 0, &[1, 1, 2, 3].repeat(8));
        (order, end)
    }

    fn tell(order: &mut Order, first: u64, operations: &[u64]) -> u64 {
        (first..).zip(operations).for_each(|(first, signature)| order.take(first, 1, *signature));
        first + operations.len() as u64
    }

    #[test]
    fn operations_between_iterations_move_the_places() {
        for extra in [&[9][..], &[1, 1, 9], &[2, 2, 2, 2, 2], &[9, 1, 1, 2, 3, 9], &[9, 9, 9, 9]] {
            let (mut order, end) = iterations();
            let end = tell(&mut order, end, extra);
            let end = tell(&mut order, end, &[1, 1, 2, 3].repeat(2));
            let usual = (end..end + 4).map(|first| order.usual(first, 1).unwrap()).collect::<Vec<_>>();
            assert_eq!(usual, [1, 1, 2, 3], "after {extra:?}");
        }
    }

    #[test]
    fn nothing_is_usual_until_it_is_known_where_the_job_is() {
        let (mut order, end) = iterations();
        let end = tell(&mut order, end, &[9]);
        assert_eq!(order.usual(end, 1), None);
    }

    #[test]
    fn of_shifts_that_are_the_same_any_will_do() {
        let mut order = Order::default();
        order.set_iteration(6);
        let end = tell(&mut order, 0, &[1, 1, 2].repeat(8));
        let end = tell(&mut order, end, &[9]);
        let end = tell(&mut order, end, &[1, 1, 2].repeat(3));
        assert_eq!([0, 1, 2].map(|more| order.usual(end + more, 1)), [Some(1), Some(1), Some(2)]);
    }
}
