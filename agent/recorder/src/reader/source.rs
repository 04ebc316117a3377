//! Copies out of the file.
//!
//! The file is read with `pread`, not mapped: it belongs to somebody else, who may truncate it at any moment, and a mapping would
//! then kill the agent with SIGBUS where `pread` merely returns less. A few microseconds of copying a second are a good
//! price for that.
//!
//! A record counts as whole when two copies made one after the other are equal and its version words are even. Equality
//! means that no word changed between its first and its second reading, and an even, unchanged version that no writer
//! was inside meanwhile; so it holds whatever the order in which the kernel copies bytes. A record that is being written is
//! copied again, a bounded number of times.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

use super::ReadError;
use super::bytes::Record;
use crate::layout::FILE_BYTES;
use crate::snapshot::Unreadable;

/// Copies of a busy record before it is called unreadable. A writer is inside for some ten nanoseconds at a time and a pair of copies
/// takes about a microsecond, so this many fail only when the writer died or never pauses.
const ATTEMPTS: usize = 200;

/// How records of a table are laid out and told to be whole.
pub(super) struct Table {
    pub name: &'static str,
    pub at: usize,
    pub stride: usize,
    /// Bytes at the beginning of a record that must be whole; words after them stand alone.
    pub whole: usize,
    /// Offsets of the version words.
    pub versions: &'static [usize],
}

/// An open file.
#[derive(Debug)]
pub(super) struct Source {
    pub file: File,
    pub path: PathBuf,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |what| move |source| ReadError::Io { what, path: path.to_owned(), source };
        // O_NONBLOCK: opening a FIFO that somebody put there must not wait.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(io("open"))?;
        if !file.metadata().map_err(io("stat"))?.is_file() {
            return Err(ReadError::NotAFile { path: path.to_owned() });
        }
        let source = Self { file, path: path.to_owned() };
        source.check_size()?;
        Ok(source)
    }

    pub(super) fn io(&self, what: &'static str, source: io::Error) -> ReadError {
        ReadError::Io { what, path: self.path.clone(), source }
    }

    pub(super) fn check_size(&self) -> Result<(), ReadError> {
        let found = self.file.metadata().map_err(|error| self.io("stat", error))?.size();
        let expected = FILE_BYTES as u64;
        if found == expected {
            Ok(())
        } else {
            Err(ReadError::Size { path: self.path.clone(), expected, found })
        }
    }

    pub(super) fn read(&self, offset: usize, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length];
        self.read_into(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&self, offset: usize, bytes: &mut [u8]) -> Result<(), ReadError> {
        match self.file.read_exact_at(bytes, offset as u64) {
            // Truncated since it was opened: say so by its size.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.check_size()?;
                Err(self.io("read", error))
            }
            Err(error) => Err(self.io("read", error)),
            Ok(()) => Ok(()),
        }
    }

    /// Hands `take` each record of `slots`, whole, and lists in `unreadable` those that never were.
    pub(super) fn records(
        &self,
        table: &Table,
        slots: std::ops::Range<usize>,
        unreadable: &mut Vec<Unreadable>,
        mut take: impl FnMut(Record<'_>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if slots.is_empty() {
            return Ok(());
        }
        let offset = table.at + slots.start * table.stride;
        let first = self.read(offset, slots.len() * table.stride)?;
        // On processors that reorder loads, so that the second copy is the later one in every word.
        fence(SeqCst);
        let mut second = self.read(offset, slots.len() * table.stride)?;
        for ((slot, first), second) in
            slots.zip(first.chunks_exact(table.stride)).zip(second.chunks_exact_mut(table.stride))
        {
            let offset = table.at + slot * table.stride;
            if !is_whole(table, first, second) && !self.insist(table, offset, second)? {
                unreadable.push(Unreadable { table: table.name, slot: slot as u32, why: why(table, second) });
                continue;
            }
            take(Record { table: table.name, slot, offset, bytes: second })?;
        }
        Ok(())
    }

    /// Copies one record until it is whole.
    fn insist(&self, table: &Table, offset: usize, record: &mut [u8]) -> Result<bool, ReadError> {
        let mut before = record.to_vec();
        for _ in 0..ATTEMPTS {
            fence(SeqCst);
            self.read_into(offset, record)?;
            if is_whole(table, &before, record) {
                return Ok(true);
            }
            before.copy_from_slice(record);
        }
        Ok(false)
    }
}

fn versions<'a>(table: &'a Table, record: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    table.versions.iter().map(|&at| {
        record.get(at..).and_then(<[u8]>::first_chunk).map_or(1, |version| u32::from_le_bytes(*version))
    })
}

fn is_whole(table: &Table, first: &[u8], second: &[u8]) -> bool {
    first.get(..table.whole) == second.get(..table.whole)
        && versions(table, second).all(|version| version.is_multiple_of(2))
}

fn why(table: &Table, record: &[u8]) -> String {
    let versions: Vec<_> = versions(table, record).collect();
    if versions.iter().any(|version| !version.is_multiple_of(2)) {
        format!("torn: the writer is in the middle of it (version {versions:?} is odd)")
    } else {
        format!("torn: it changed between all of {ATTEMPTS} readings")
    }
}
