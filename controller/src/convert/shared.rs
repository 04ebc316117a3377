//! What the windows of one message have in common: operations in flight, hashes of blocks, and the form of their rows.

use c4_detect::observation::OperationSignature;
use c4_proto::v1;

use super::{
    Invalid,
    limits::{self, at_most, flat},
};

/// Columns that every row has; later ones may be left out.
const LEAST_COLUMNS: usize = 11;
/// Columns that this controller knows.
const COLUMNS: usize = 14;
/// Columns that a later agent may send.
const MOST_COLUMNS: usize = 64;

/// See the module. A window that came by itself has nothing in common with others.
#[derive(Default)]
pub(super) struct Shared {
    operations: Vec<OperationSignature>,
    signatures: Vec<u64>,
    columns: usize,
}

impl Shared {
    /// Checks what a message shares among its windows.
    pub(super) fn new(
        operations: Vec<v1::OperationSignature>,
        signatures: Vec<u64>,
        columns: u32,
    ) -> Result<Self, Invalid> {
        let columns = columns as usize;
        if columns != 0 && !(LEAST_COLUMNS..=MOST_COLUMNS).contains(&columns) {
            let problem = format!("is {columns}, expected {LEAST_COLUMNS} to {MOST_COLUMNS}");
            return Err(Invalid::new("block_columns", problem));
        }
        let operations = operations.into_iter().map(|m| operation(m).map_err(|e| e.within("operations")));
        Ok(Self { operations: operations.collect::<Result<_, _>>()?, signatures, columns })
    }

    /// An operation by its number, from 1.
    pub(super) fn operation(&self, number: u32) -> Result<OperationSignature, Invalid> {
        let known = (number as usize).checked_sub(1).and_then(|index| self.operations.get(index));
        known.cloned().ok_or_else(|| {
            let problem = format!("is {number}, but only {} are listed", self.operations.len());
            Invalid::new("operation", problem)
        })
    }

    /// Rows of numbers, one for each block.
    pub(super) fn rows<'a>(&self, numbers: &'a [u64]) -> Result<std::slice::ChunksExact<'a, u64>, Invalid> {
        let columns = self.columns.max(1);
        if !numbers.is_empty() && (self.columns == 0 || !numbers.len().is_multiple_of(columns)) {
            let problem = format!("has {} numbers, expected rows of {}", numbers.len(), self.columns);
            return Err(Invalid::new("packed_blocks", problem));
        }
        at_most("packed_blocks", (numbers.len() / columns) as u64, limits::ENTRIES)?;
        Ok(numbers.chunks_exact(columns))
    }

    /// The block in a row of numbers; whether it makes sense is seen later.
    pub(super) fn unpack(&self, row: &[u64]) -> Result<v1::Block, Invalid> {
        let mut numbers = [0; COLUMNS];
        let known = row.len().min(COLUMNS);
        numbers[..known].copy_from_slice(&row[..known]);
        let [
            first,
            log,
            signature,
            wait_ns,
            min_wait_ns,
            max_wait_ns,
            span_ns,
            gap_ns,
            bytes,
            own,
            loud,
            longest,
            beside,
            awaited,
        ] = numbers;
        let length = u32::try_from(log).ok().and_then(|log| 1_u32.checked_shl(log));
        let length = length.ok_or_else(|| Invalid::new("length", format!("is 2^{log}")))?;
        let listed = usize::try_from(signature).ok().and_then(|index| self.signatures.get(index));
        let signature = *listed.ok_or_else(|| {
            let problem = format!("is {signature}, but only {} are listed", self.signatures.len());
            Invalid::new("signature", problem)
        })?;
        let own_ns = own.checked_sub(1);
        Ok(v1::Block {
            first,
            length,
            signature,
            wait_ns,
            min_wait_ns,
            max_wait_ns,
            span_ns,
            gap_ns,
            bytes,
            own_ns,
            silent_ns: own_ns.map(|own_ns| own_ns.saturating_sub(loud)),
            longest_own_ns: longest.checked_sub(1),
            beside: u32::try_from(beside).unwrap_or(length).min(length),
            awaited: u32::try_from(awaited).unwrap_or(length).min(length),
        })
    }
}

/// What a collective is.
pub(super) fn operation(message: v1::OperationSignature) -> Result<OperationSignature, Invalid> {
    Ok(OperationSignature {
        function: flat("function", message.function)?,
        count: at_most("count", message.count, limits::BYTES)?,
        datatype: flat("datatype", message.datatype)?,
        root: message.root,
    })
}
