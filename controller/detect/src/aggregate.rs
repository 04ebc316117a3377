//! Turns single collectives into blocks and iterations, on the node: what leaves it must be small.

use crate::observation::{Block, Iteration, OperationSignature};

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

/// Aggregates the operations of one rank on one communicator.
#[derive(Debug, Default)]
pub struct Aggregator {}

impl Aggregator {
    /// Takes in the next operation. A jump of `sequence` (operations that were not seen) starts a new block.
    pub fn push(&mut self, _operation: &CompletedOperation) {}

    /// The blocks and iterations that closed since the last call.
    pub fn take(&mut self) -> (Vec<Block>, Vec<Iteration>) {
        (Vec::new(), Vec::new())
    }
}
