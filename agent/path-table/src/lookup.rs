//! Reading a table, somebody else's process around: nothing is allocated, nothing believed.

use std::ops::Range;

use crate::format::{
    BUCKET, CHECKED, FNV, HEADER, Key, LEASE, MAGIC, MOST_BUCKETS, MOST_WORDS, PROBES, VERSION, fnv,
    lease_check, record_check, u16_at, u32_at, u64_at,
};

/// Where a table is read from.
pub trait ReadAt {
    /// Fills the whole buffer from an offset; false if that cannot be.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        match from.and_then(|from| from.get(..buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// Why a table is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too short.
    #[error("shorter than a table")]
    Short,
    /// Another format, or torn.
    #[error("not a table of this version, or torn")]
    Foreign,
    /// The agent that wrote it is gone.
    #[error("its lease has run out: no agent renews it")]
    Stale,
}

/// Room for a record.
#[derive(Debug)]
pub struct Buffer([u8; 8 + 2 * MOST_WORDS]);

impl Default for Buffer {
    fn default() -> Self {
        Self([0; 8 + 2 * MOST_WORDS])
    }
}

/// A table's header, found to be sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    buckets: u32,
    generation: u64,
    listen: (u16, u16),
}

impl Header {
    /// Reads and checks it; `now` is nanoseconds since boot.
    ///
    /// # Errors
    /// When the table is not to be used.
    pub fn read(source: &(impl ReadAt + ?Sized), now: u64) -> Result<Self, Refusal> {
        let mut bytes = [0; HEADER];
        if !source.read_at(0, &mut bytes) {
            return Err(Refusal::Short);
        }
        let u64s = |at| u64_at(&bytes, at).unwrap_or_default();
        let u32s = |at| u32_at(&bytes, at).unwrap_or_default();
        let u16s = |at| u16_at(&bytes, at).unwrap_or_default();
        let (buckets, generation) = (u32s(12), u64s(16));
        let known = bytes[..8] == MAGIC && u32s(8) == VERSION && u64s(CHECKED) == fnv(FNV, &bytes[..CHECKED]);
        if !known || !buckets.is_power_of_two() || buckets > MOST_BUCKETS {
            return Err(Refusal::Foreign);
        }
        let until = u64s(LEASE);
        if u64s(LEASE + 8) != lease_check(until, generation) {
            return Err(Refusal::Foreign);
        }
        if now >= until {
            return Err(Refusal::Stale);
        }
        Ok(Self { buckets, generation, listen: (u16s(24), u16s(26)) })
    }

    /// The plan's number.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Ports for sockets that listen on any port.
    #[must_use]
    pub fn listen(&self) -> Option<Range<u16>> {
        let (first, count) = self.listen;
        let end = first.checked_add(count)?;
        (count > 0 && first > 0).then_some(first..end)
    }

    /// The ports for a key.
    pub fn find<'b>(
        &self,
        source: &(impl ReadAt + ?Sized),
        key: &Key,
        buffer: &'b mut Buffer,
    ) -> Option<Ports<'b>> {
        let first = key.hash() & u64::from(self.buckets - 1);
        let mut buckets = [0; PROBES * BUCKET];
        if !source.read_at(HEADER as u64 + first * BUCKET as u64, &mut buckets) {
            return None;
        }
        let wanted = key.bytes();
        let bucket = buckets.chunks_exact(BUCKET).find(|bucket| bucket.starts_with(&wanted))?;
        let (words, offset) = (usize::from(u16_at(bucket, 22)?), u64::from(u32_at(bucket, 24)?));
        let record = buffer.0.get_mut(..8 + 2 * words)?;
        if !source.read_at(offset, record) {
            return None;
        }
        let (check, words) = record.split_first_chunk()?;
        if u64::from_le_bytes(*check) != record_check(self.generation, key, words) {
            return None;
        }
        Ports::new(words)
    }
}

/// Ports by path, and paths by turn.
#[derive(Clone, Copy, Debug)]
pub struct Ports<'b> {
    slots: &'b [u8],
    lengths: &'b [u8],
    bonds: &'b [u8],
    ports: &'b [u8],
}

impl<'b> Ports<'b> {
    fn new(words: &'b [u8]) -> Option<Self> {
        let (slots, paths) = (usize::from(u16_at(words, 0)?), usize::from(u16_at(words, 2)?));
        let (slots, rest) = words.get(4..)?.split_at_checked(2 * slots)?;
        let (lengths, rest) = rest.split_at_checked(2 * paths)?;
        let (bonds, ports) = rest.split_at_checked(2 * paths)?;
        (!slots.is_empty()).then_some(Self { slots, lengths, bonds, ports })
    }

    /// How many connections it takes until the first path comes round again.
    #[must_use]
    pub fn slots(&self) -> u32 {
        (self.slots.len() / 2) as u32
    }

    /// How many paths there are.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.lengths.len() / 2
    }

    /// The path for the connection whose turn it is; one that is not there if the table makes no sense.
    #[must_use]
    pub fn path(&self, turn: u32) -> usize {
        let slot = (turn % self.slots().max(1)) as usize;
        usize::from(u16_at(self.slots, 2 * slot).unwrap_or(u16::MAX))
    }

    /// The port of a bond that a path leaves by, counted from 1; 0 when it does not matter.
    #[must_use]
    pub fn bond(&self, path: usize) -> u16 {
        u16_at(self.bonds, 2 * path).unwrap_or(0)
    }

    /// The ports that take a path.
    pub fn of(&self, path: usize) -> impl Iterator<Item = u16> + 'b {
        let lengths = self.lengths;
        let length = move |path: usize| u16_at(lengths, 2 * path).map(usize::from);
        let ports = length(path).and_then(|count| {
            let before: usize = (0..path).filter_map(length).sum();
            self.ports.get(2 * before..2 * (before + count))
        });
        let ports = ports.unwrap_or_default().chunks_exact(2);
        ports.map(|port| u16::from_le_bytes([port[0], port[1]])).filter(|port| *port != 0)
    }

    /// The ports for the connection whose turn it is: all take the same path.
    pub fn turn(&self, turn: u32) -> impl Iterator<Item = u16> + 'b {
        self.of(self.path(turn))
    }
}
