//! Brings the blocks of different ranks together.
//!
//! Ranks choose block lengths for themselves, and change them. Since blocks are buddies, blocks of different ranks
//! are alike or nest; a cell is as long as the longest block in it, and shorter ones are summed up. A cell is handed
//! on once every member has filled it, or once it has waited for the others long enough.

use std::collections::VecDeque;

use crate::{
    by_rank::ByRank,
    makeup::Times,
    observation::{Block, Timestamp},
    signature,
};

/// Cells kept at once; the oldest is given up first.
const MAX_CELLS: usize = 128;
/// How long a cell waits for members that have sent nothing for it.
const PATIENCE_US: u64 = 2_500_000;
/// Longest block taken; longer ones are no agent's of ours.
const MAX_LENGTH: u32 = 1 << 16;

/// The blocks of one rank in one cell, summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) signature: u64,
    pub(super) wait_ns: u64,
    pub(super) span_ns: u64,
    pub(super) gap_ns: u64,
    pub(super) max_wait_ns: u64,
    /// Time by itself, beside sends and without them, where the agent tells.
    pub(super) own_ns: Option<[u64; 2]>,
    /// The longest stretch of it.
    pub(super) longest_ns: Option<u64>,
    /// Operations that seem to run beside computation, and that seem to be waited for.
    pub(super) seems: [u32; 2],
    /// Operations in it, and blocks.
    covered: u32,
    parts: u32,
}

impl Part {
    fn of(block: &Block) -> Self {
        Self {
            signature: block.signature,
            wait_ns: block.wait_ns,
            span_ns: block.span_ns,
            gap_ns: block.gap_ns,
            max_wait_ns: block.max_wait_ns,
            own_ns: block.own_ns.map(|own| [own, block.silent_ns.unwrap_or(own)]),
            longest_ns: block.longest_own_ns,
            seems: [block.beside, block.awaited],
            covered: block.length,
            parts: 1,
        }
    }

    /// Appends what follows directly.
    fn append(&mut self, next: &Part) {
        self.signature = signature::join(self.signature, next.signature, next.covered.into());
        self.covered += next.covered;
        self.wait_ns = self.wait_ns.saturating_add(next.wait_ns);
        self.span_ns = self.span_ns.saturating_add(next.span_ns);
        self.gap_ns = self.gap_ns.saturating_add(next.gap_ns);
        self.max_wait_ns = self.max_wait_ns.max(next.max_wait_ns);
        let add = |(own, more): ([u64; 2], [u64; 2])| {
            [own[0].saturating_add(more[0]), own[1].saturating_add(more[1])]
        };
        self.own_ns = self.own_ns.zip(next.own_ns).map(add);
        self.longest_ns = self.longest_ns.zip(next.longest_ns).map(|(longest, next)| longest.max(next));
        self.seems = [0, 1].map(|which| self.seems[which].saturating_add(next.seems[which]));
        self.parts += next.parts;
    }

    /// Wall time from the end of what came before to the end of this: all that was spent in operations and between them.
    /// Where operations overlap each other (the starts are the host's), that is too much, and the span is enough; it
    /// only lacks the pause before the first of them.
    pub(super) fn wall_ns(&self) -> u64 {
        self.wait_ns.min(self.span_ns).saturating_add(self.gap_ns)
    }
}

/// The same operations, as all ranks saw them.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) first: u64,
    pub(super) length: u64,
    opened: Timestamp,
    /// By rank in the communicator.
    parts: ByRank<Part>,
    full: usize,
}

impl Cell {
    /// Adds the part of a rank that begins with an operation, if it follows what is known of the rank. A first one that does not
    /// begin where the cell does can never fill it.
    fn add(&mut self, comm_rank: u32, first: u64, part: Part) {
        let covered = match self.parts.get_mut(&comm_rank) {
            Some(known) if self.first + u64::from(known.covered) == first => {
                known.append(&part);
                known.covered
            }
            None if self.first == first => {
                self.parts.insert(comm_rank, part);
                part.covered
            }
            _ => return,
        };
        self.full += usize::from(u64::from(covered) == self.length);
    }

    /// How many ranks have a part in it.
    pub(super) fn members(&self) -> usize {
        self.parts.len()
    }

    /// Whether the ranks that filled the cell called the same operations.
    pub(super) fn agrees(&self) -> bool {
        let mut signatures = self.whole().map(|(_, part)| part.signature);
        let first = signatures.next();
        signatures.all(|signature| Some(signature) == first)
    }

    /// The ranks that filled the cell.
    pub(super) fn whole(&self) -> impl Iterator<Item = (u32, &Part)> {
        self.parts.iter().filter(|(_, part)| u64::from(part.covered) == self.length)
    }
}

impl Cell {
    /// The median of the time that ranks spent between its operations, and before the first.
    pub(super) fn usual_gap_ns(&self) -> u64 {
        let mut gaps: Vec<u64> = self.whole().map(|(_, part)| part.gap_ns).collect();
        let middle = gaps.len() / 2;
        if gaps.is_empty() { 0 } else { *gaps.select_nth_unstable(middle).1 }
    }

    /// What the ranks that filled it did with their time, in the mean.
    pub(super) fn times(&self) -> Option<Times> {
        let mut times = Times { outside_ns: 0.0, own_ns: 0.0, inside_ns: 0.0, transfer_ns: f64::MAX };
        let mut ranks = 0.0;
        for (_, part) in self.whole() {
            ranks += 1.0;
            times.outside_ns += part.gap_ns as f64;
            times.own_ns += part.own_ns.map_or(part.gap_ns, |own| own[0]) as f64;
            times.inside_ns += part.wait_ns as f64;
            times.transfer_ns = times.transfer_ns.min(part.wait_ns as f64);
        }
        let mean = |sum: f64| sum / ranks;
        (ranks > 1.0).then(|| Times {
            outside_ns: mean(times.outside_ns),
            own_ns: mean(times.own_ns),
            inside_ns: mean(times.inside_ns),
            transfer_ns: times.transfer_ns,
        })
    }
}

/// Cells that are being filled.
#[derive(Debug, Default)]
pub(super) struct Cells {
    open: VecDeque<Cell>,
    done: u64,
    length: u64,
    /// How many ranks were expected of late.
    members: u32,
}

impl Cells {
    /// Puts a rank's block where it belongs.
    pub(super) fn add(&mut self, comm_rank: u32, block: &Block, now: Timestamp) {
        let length = u64::from(block.length);
        let valid = block.length.is_power_of_two()
            && block.length <= MAX_LENGTH
            && block.first.is_multiple_of(length)
            && block.first.checked_add(u64::from(MAX_LENGTH) * 2).is_some();
        if !valid || block.first < self.done {
            return;
        }
        let at = self.open.partition_point(|cell| cell.first + cell.length <= block.first);
        let covered =
            self.open.get(at).is_some_and(|cell| cell.first <= block.first && cell.length >= length);
        if !covered {
            self.make_room(at, block, now);
        }
        if let Some(cell) = self.open.get_mut(at) {
            cell.add(comm_rank, block.first, Part::of(block));
        }
        if self.open.len() > MAX_CELLS
            && let Some(lost) = self.open.pop_front()
        {
            self.done = lost.first + lost.length;
        }
    }

    /// Opens a cell for a block that none covers, taking in the smaller cells that it spans.
    fn make_room(&mut self, at: usize, block: &Block, now: Timestamp) {
        let end = |cell: &Cell| cell.first + cell.length;
        let mut length = self.length.max(u64::from(block.length));
        let before = at.checked_sub(1).and_then(|i| self.open.get(i)).map_or(self.done, end).max(self.done);
        let aligned = |length: u64| block.first & !(length - 1);
        // As long as the others, but not over what is done or open before.
        while length > u64::from(block.length) && aligned(length) < before {
            length /= 2;
        }
        let first = aligned(length);
        let mut cell = Cell { first, length, opened: now, parts: ByRank::of(self.members), full: 0 };
        while let Some(inner) = self.open.get(at)
            && inner.first < first + length
        {
            let Some(inner) = self.open.remove(at) else { break };
            cell.opened = cell.opened.min(inner.opened);
            for (comm_rank, part) in inner.parts.into_pairs() {
                cell.add(comm_rank, inner.first, part);
            }
        }
        self.open.insert(at, cell);
    }

    /// The oldest cell, if it is full or has waited long enough.
    pub(super) fn next(&mut self, members: usize, now: Timestamp) -> Option<Cell> {
        self.members = u32::try_from(members).unwrap_or(0);
        let cell = self.open.front()?;
        if cell.full < members && now.micros_since(cell.opened) < PATIENCE_US {
            return None;
        }
        let cell = self.open.pop_front()?;
        self.done = cell.first + cell.length;
        // The next cells are as long as the longest block in this one.
        self.length =
            cell.whole().map(|(_, part)| cell.length / u64::from(part.parts.max(1))).max().unwrap_or(1);
        self.length = self.length.next_power_of_two();
        Some(cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(first: u64, length: u32) -> Block {
        Block {
            first,
            length,
            signature: (first..first + u64::from(length)).fold(0, |h, i| signature::join(h, i + 1, 1)),
            wait_ns: u64::from(length) * 10,
            min_wait_ns: 10,
            max_wait_ns: 10,
            span_ns: u64::from(length) * 100,
            gap_ns: u64::from(length) * 50,
            bytes: 0,
            own_ns: None,
            silent_ns: None,
            longest_own_ns: None,
            beside: 0,
            awaited: 0,
        }
    }

    fn drain(cells: &mut Cells, members: usize) -> Vec<(u64, u64, usize)> {
        std::iter::from_fn(|| cells.next(members, Timestamp(0)))
            .map(|cell| {
                let signatures: Vec<u64> = cell.whole().map(|(_, part)| part.signature).collect();
                assert!(signatures.windows(2).all(|pair| pair[0] == pair[1]), "joined hashes agree");
                (cell.first, cell.length, signatures.len())
            })
            .collect()
    }

    #[test]
    fn blocks_of_different_lengths_meet() {
        let mut cells = Cells::default();
        for first in 8..16 {
            cells.add(0, &block(first, 1), Timestamp(0));
        }
        cells.add(1, &block(8, 8), Timestamp(0));
        cells.add(2, &block(8, 4), Timestamp(0));
        assert_eq!(drain(&mut cells, 3), vec![]);
        cells.add(2, &block(12, 4), Timestamp(0));
        assert_eq!(drain(&mut cells, 3), vec![(8, 8, 3)]);
        // Cells stay as long as the longest block was, so that short ones need not be joined later.
        cells.add(0, &block(16, 1), Timestamp(0));
        assert_eq!(cells.open[0].length, 8);
    }

    #[test]
    fn a_missing_rank_delays_but_does_not_stop() {
        let mut cells = Cells::default();
        cells.add(0, &block(0, 4), Timestamp(0));
        cells.add(1, &block(0, 2), Timestamp(0));
        assert!(cells.next(2, Timestamp(1_000_000)).is_none());
        let cell = cells.next(2, Timestamp(3_000_000)).map(|cell| cell.whole().count());
        assert_eq!(cell, Some(1));
        cells.add(1, &block(2, 2), Timestamp(3_000_000));
        assert!(cells.open.is_empty(), "what comes too late is dropped");
    }

    #[test]
    fn lies_are_ignored_and_memory_is_bounded() {
        let mut cells = Cells::default();
        for lie in [block(1, 3), Block { length: 0, ..block(0, 1) }, Block { first: u64::MAX, ..block(0, 1) }]
        {
            cells.add(0, &lie, Timestamp(0));
        }
        assert!(cells.open.is_empty());
        for i in 0..10_000 {
            cells.add((i % 7) as u32, &block(i * 64, 64), Timestamp(0));
        }
        assert!(cells.open.len() <= MAX_CELLS);
    }
}
