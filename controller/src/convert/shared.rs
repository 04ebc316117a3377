//! What the windows of one message have in common: operations in flight, hashes of blocks, and the form of their rows.

use c4_detect::observation::OperationSignature;
use c4_proto::v1;
use prost::{DecodeError, encoding::decode_varint};

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

    /// Rows of numbers, one for each block, read where they lie.
    pub(super) fn rows<'a>(&self, packed: &'a [u8]) -> Result<Rows<'a>, Invalid> {
        // The last byte of each number has its highest bit clear.
        let numbers = packed.iter().filter(|byte| **byte < 0x80).count();
        let columns = self.columns.max(1);
        if !packed.is_empty() && (self.columns == 0 || !numbers.is_multiple_of(columns)) {
            let problem = format!("has {numbers} numbers, expected rows of {}", self.columns);
            return Err(Invalid::new("packed_blocks", problem));
        }
        at_most("packed_blocks", (numbers / columns) as u64, limits::ENTRIES)?;
        Ok(Rows { packed, columns, left: numbers / columns })
    }

    /// The block in a row of numbers; whether it makes sense is seen later.
    pub(super) fn unpack(&self, row: [u64; COLUMNS]) -> Result<v1::Block, Invalid> {
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
        ] = row;
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

/// See [`Shared::rows`]. Columns that are missing are 0, those that nobody knows are left out.
pub(super) struct Rows<'a> {
    packed: &'a [u8],
    columns: usize,
    left: usize,
}

impl Rows<'_> {
    fn row(&mut self) -> Result<[u64; COLUMNS], DecodeError> {
        let mut row = [0; COLUMNS];
        for column in 0..self.columns {
            let number = decode_varint(&mut self.packed)?;
            if let Some(place) = row.get_mut(column) {
                *place = number;
            }
        }
        Ok(row)
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<[u64; COLUMNS], Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            // Half a number at the end is none.
            let rest = std::mem::take(&mut self.packed);
            return (!rest.is_empty()).then(|| Err(Invalid::new("packed_blocks", "ends within a number")));
        }
        self.left -= 1;
        Some(self.row().map_err(|error| Invalid::new("packed_blocks", error.to_string())))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, None)
    }
}

/// What a collective is.
pub(super) fn operation(message: v1::OperationSignature) -> Result<OperationSignature, Invalid> {
    Ok(OperationSignature {
        function: flat("function", message.function)?.into(),
        count: at_most("count", message.count, limits::BYTES)?,
        datatype: flat("datatype", message.datatype)?.into(),
        root: message.root,
    })
}
