//! Fields of a record that was copied out of the file. Nothing here trusts a value, only positions, and those are the
//! layout's own.

use std::fmt::Display;

use super::ReadError;

/// A copy of one record, and where it came from.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub table: &'static str,
    pub slot: usize,
    pub offset: usize,
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.part(at))
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.part(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.part(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.part(at))
    }

    /// The bytes of a field.
    pub(super) fn raw(&self, at: usize, length: usize) -> &'a [u8] {
        self.bytes.get(at..at + length).unwrap_or_default()
    }

    /// A NUL-padded text.
    pub(super) fn text(&self, field: &str, at: usize, length: usize) -> Result<&'a str, ReadError> {
        let raw = self.raw(at, length);
        let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
        let (text, padding) = raw.split_at(end);
        if padding.iter().any(|&byte| byte != 0) {
            return Err(self.wrong(field, at, "text padded with NULs", "bytes after its end"));
        }
        std::str::from_utf8(text).map_err(|_| self.wrong(field, at, "UTF-8", text.escape_ascii().to_string()))
    }

    /// A field that holds what no writer writes.
    pub(super) fn wrong(
        &self,
        field: &str,
        at: usize,
        expected: impl Display,
        found: impl Display,
    ) -> ReadError {
        ReadError::Field {
            field: format!("{}[{}].{field}", self.table, self.slot),
            offset: self.offset + at,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// Demands that a field is in order.
    pub(super) fn demand(
        &self,
        holds: bool,
        field: &str,
        at: usize,
        expected: impl Display,
        found: impl Display,
    ) -> Result<(), ReadError> {
        if holds { Ok(()) } else { Err(self.wrong(field, at, expected, found)) }
    }
}
