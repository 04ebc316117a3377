//! Turns single collectives into blocks and iterations, on the node: what leaves it must be small.
//!
//! A rank may run ten collectives a second or twenty thousand; the controller wants some eight numbers a second of
//! it either way, and fewer of one among many thousands. Blocks are buddies: of power-of-two length and aligned to it by *sequence number*, so two ranks
//! that chose different lengths still nest and can be compared without any common clock.

mod coverage;
mod detail;
mod overlap;
mod pauses;
mod period;

use crate::{
    observation::{Before, Block, Iteration, OperationSignature},
    signature,
};
pub use coverage::Coverage;
pub use detail::Detail;
use overlap::{Overlap, Seems};
use pauses::Gap;
use period::{Hashes, PeriodFinder};

/// So many times as many are those below which it makes them shorter: a verdict takes some blocks, so they should not be longer than they
/// must. Less than half: doubling the length halves the rate, so a rank at a limit does not swing.
const LEAST_PART: f64 = 0.4375;
/// Longest block.
pub const MAX_BLOCK_LENGTH: u32 = 1024;
/// Span over which the rate is measured: longer than the bursts inside an iteration, short enough to follow a job
/// that speeds up.
const RATE_SPAN_NS: u64 = 1_000_000_000;
/// Blocks and iterations kept for a caller that does not take them; the oldest go first.
const MAX_UNTAKEN: usize = 4096;

/// A collective that has completed, as one rank saw it. Times are of any one clock of that rank.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletedOperation {
    /// Position on the communicator, from 0.
    pub sequence: u64,
    /// What it is.
    pub signature: OperationSignature,
    /// Start: on the GPU where known, else on the host.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Aggregates the operations of one rank on one communicator. Memory is bounded whatever is pushed.
#[derive(Debug, Default)]
pub struct Aggregator {
    rate: Rate,
    open: Option<Open>,
    next_sequence: Option<u64>,
    last_end_ns: u64,
    period: PeriodFinder,
    overlap: Overlap,
    blocks: Vec<Block>,
    iterations: Vec<Iteration>,
    detail: Detail,
    /// The last signature and its hash.
    hashed: Option<(OperationSignature, Hashes)>,
    /// What was expected in its place.
    expected: Option<u64>,
}

#[derive(Debug)]
struct Open {
    block: Block,
    filled: u32,
    start_ns: u64,
}

impl Aggregator {
    /// Of a rank of a job of so many, where that is known.
    #[must_use]
    pub fn in_job_of(ranks: Option<u32>) -> Self {
        Self { detail: Detail::in_job_of(ranks), ..Self::default() }
    }

    /// Takes in the next operation. A jump of `sequence` (operations that were not seen) starts a new block, and the
    /// unfinished one is dropped: half a block compares with nobody's. Operations that repeat or go back are ignored.
    pub fn push(&mut self, operation: &CompletedOperation) {
        self.take_in(operation, None);
    }

    /// The same, where everything that the process did on all communicators until now is known.
    pub fn push_within(&mut self, operation: &CompletedOperation, coverage: &Coverage) {
        self.take_in(operation, Some(coverage));
    }

    fn take_in(&mut self, operation: &CompletedOperation, coverage: Option<&Coverage>) {
        let continues = match self.next_sequence {
            Some(next) if operation.sequence < next => return,
            Some(next) => operation.sequence == next,
            None => false,
        };
        let Some(next) = operation.sequence.checked_add(1) else { return };
        self.next_sequence = Some(next);
        if !continues {
            self.open = None;
            self.period.interrupt();
        }
        let end_ns = operation.end_ns.max(operation.start_ns);
        let gap_ns = if continues { operation.start_ns.saturating_sub(self.last_end_ns) } else { 0 };
        let own_ns = coverage.map(|coverage| {
            let (waiting, all) = match gap_ns {
                0 => (0, 0),
                _ => coverage.within(self.last_end_ns, operation.start_ns),
            };
            (gap_ns.saturating_sub(waiting), gap_ns.saturating_sub(all))
        });
        let elsewhere = coverage.map(|coverage| coverage.begun(self.last_end_ns, operation.start_ns));
        let gap = Gap { ns: gap_ns, elsewhere };
        let hashes = self.hashes(&operation.signature);
        let seems = self.overlap.see(self.period.place(), operation.start_ns, gap_ns);
        self.last_end_ns = end_ns.max(if continues { self.last_end_ns } else { 0 });
        self.expected = self.period.expected();
        if let Some(iteration) = self.period.push(operation.sequence, hashes, operation.start_ns, gap) {
            self.add_iteration(iteration);
        }
        self.rate.push(end_ns, self.detail.blocks_per_second());
        self.add(operation, hashes.exact, end_ns, gap_ns, own_ns, seems);
    }

    /// What came before the operation at a position, if that is the next.
    #[must_use]
    pub fn before(&self, sequence: u64) -> Option<Before> {
        let (signature, _) = self.hashed.as_ref().filter(|_| self.next_sequence == Some(sequence))?;
        Some(Before {
            signature: signature.clone(),
            usual: self.period.expected(),
            usual_before: self.expected,
        })
    }

    /// The hashes of a signature. Layers repeat, so they are often the ones before.
    fn hashes(&mut self, signature: &OperationSignature) -> Hashes {
        match &self.hashed {
            Some((known, hashes)) if known == signature => *hashes,
            _ => {
                let hashes = Hashes {
                    exact: signature::hash(signature),
                    inexact: signature::hash_without_size(signature),
                };
                self.hashed = Some((signature.clone(), hashes));
                hashes
            }
        }
    }

    fn add(
        &mut self,
        operation: &CompletedOperation,
        hash: u64,
        end_ns: u64,
        gap_ns: u64,
        own_ns: Option<(u64, u64)>,
        seems: Option<Seems>,
    ) {
        let wait_ns = end_ns - operation.start_ns;
        let length = self.rate.length;
        let open = self.open.get_or_insert_with(|| Open {
            block: Block {
                first: operation.sequence,
                length: aligned_length(operation.sequence, length),
                signature: 0,
                wait_ns: 0,
                min_wait_ns: u64::MAX,
                max_wait_ns: 0,
                span_ns: 0,
                gap_ns: 0,
                bytes: 0,
                own_ns: Some(0),
                silent_ns: Some(0),
                longest_own_ns: Some(0),
                beside: 0,
                awaited: 0,
            },
            filled: 0,
            start_ns: operation.start_ns,
        });
        let block = &mut open.block;
        block.signature = signature::join(block.signature, hash, 1);
        block.wait_ns = block.wait_ns.saturating_add(wait_ns);
        block.min_wait_ns = block.min_wait_ns.min(wait_ns);
        block.max_wait_ns = block.max_wait_ns.max(wait_ns);
        block.gap_ns = block.gap_ns.saturating_add(gap_ns);
        // It is about the operation before, which may be in another block: there are many of both.
        block.beside += u32::from(seems == Some(Seems::Beside));
        block.awaited += u32::from(seems == Some(Seems::Awaited));
        let add = |sum: Option<u64>, more: Option<u64>| Some(sum?.saturating_add(more?));
        block.own_ns = add(block.own_ns, own_ns.map(|(own, _)| own));
        block.silent_ns = add(block.silent_ns, own_ns.map(|(_, silent)| silent));
        block.longest_own_ns = block.longest_own_ns.zip(own_ns).map(|(longest, (own, _))| longest.max(own));
        block.bytes = block.bytes.saturating_add(operation.bytes);
        block.span_ns = block.span_ns.max(end_ns.saturating_sub(open.start_ns));
        open.filled += 1;
        if open.filled == block.length
            && let Some(open) = self.open.take()
        {
            push_bounded(&mut self.blocks, open.block);
        }
    }

    /// Short iterations are told several at a time.
    fn add_iteration(&mut self, iteration: Iteration) {
        if let Some(last) = self.iterations.last_mut()
            && last.operations == iteration.operations
            && last.first.saturating_add(u64::from(last.operations) * u64::from(last.count))
                == iteration.first
            && last.duration_ns.saturating_mul(u64::from(last.count)) < self.detail.told_ns()
        {
            let sum =
                last.duration_ns.saturating_mul(u64::from(last.count)).saturating_add(iteration.duration_ns);
            last.count += 1;
            last.duration_ns = sum / u64::from(last.count);
        } else {
            push_bounded(&mut self.iterations, iteration);
        }
    }

    /// When the iteration began of which operations have completed last, if iterations are recognised.
    #[must_use]
    pub fn turned_ns(&self) -> Option<u64> {
        self.period.begun_ns()
    }

    /// The blocks and iterations that closed since the last call.
    pub fn take(&mut self) -> (Vec<Block>, Vec<Iteration>) {
        (std::mem::take(&mut self.blocks), std::mem::take(&mut self.iterations))
    }
}

fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= MAX_UNTAKEN {
        list.drain(..MAX_UNTAKEN / 2);
    }
    list.push(item);
}

/// The longest block of at most `wanted` operations that may begin at `sequence`.
fn aligned_length(sequence: u64, wanted: u32) -> u32 {
    let alignment = sequence.trailing_zeros().min(MAX_BLOCK_LENGTH.ilog2());
    wanted.min(1 << alignment)
}

/// How many operations complete in a second, and the block length that follows from it.
#[derive(Debug)]
struct Rate {
    length: u32,
    count: u64,
    since_ns: Option<u64>,
}

impl Default for Rate {
    fn default() -> Self {
        Self { length: 1, count: 0, since_ns: None }
    }
}

impl Rate {
    /// An operation ended; above `most` blocks a second they are made longer.
    fn push(&mut self, end_ns: u64, most: f64) {
        let since = *self.since_ns.get_or_insert(end_ns);
        self.count += 1;
        let elapsed = end_ns.saturating_sub(since);
        if elapsed < RATE_SPAN_NS {
            // A burst needs no full second to show that the blocks are too short.
            let limit = most * f64::from(self.length) * 2.0;
            if (self.count as f64) > limit && self.length < MAX_BLOCK_LENGTH {
                self.length *= 2;
            }
            return;
        }
        let blocks_per_second = self.count as f64 / (elapsed as f64 * 1e-9) / f64::from(self.length);
        if blocks_per_second > most && self.length < MAX_BLOCK_LENGTH {
            self.length *= 2;
        } else if blocks_per_second < most * LEAST_PART && self.length > 1 {
            self.length /= 2;
        }
        self.count = 0;
        self.since_ns = Some(end_ns);
    }
}

#[cfg(test)]
mod tests;
