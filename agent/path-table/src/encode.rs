//! Writing a table.

use std::ops::Range;

use crate::format::{
    BUCKET, CHECKED, FNV, HEADER, Key, LEASE, MAGIC, MOST_BUCKETS, MOST_WORDS, PROBES, VERSION, fnv,
    lease_check, record_check,
};

/// The plan for connections with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What connections it is for.
    pub key: Key,
    /// Whose turn it is: each connection takes the next slot, and with it one of the paths.
    pub slots: Vec<u16>,
    /// The paths.
    pub paths: Vec<Path>,
}

/// One of several paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The port of a bond that it leaves by, counted from 1; 0 when that is nobody's business.
    pub bond: u8,
    /// The source ports that take it, the preferred one first.
    pub ports: Vec<u16>,
}

impl From<Vec<u16>> for Path {
    fn from(ports: Vec<u16>) -> Self {
        Self { bond: 0, ports }
    }
}

/// All that a host's processes are to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Grows with each plan.
    pub generation: u64,
    /// Ports for sockets that listen on any port: few, so that paths towards them can be learned beforehand.
    pub listen: Option<Range<u16>>,
    /// Entries with different keys.
    pub entries: Vec<Entry>,
}

/// A plan that the table has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// More words than a reader reads.
    #[error("entry {0} has more than {MOST_WORDS} ports, slots and paths, or a slot without a path")]
    Entry(usize),
    /// Keys that do not find a bucket.
    #[error("too many entries, or one key twice")]
    Table,
}

impl Table {
    /// The file's bytes, valid until `until` (nanoseconds since boot, `CLOCK_BOOTTIME`).
    ///
    /// # Errors
    /// When something does not fit.
    pub fn encode(&self, until: u64) -> Result<Vec<u8>, TooLarge> {
        let records: Vec<Vec<u8>> =
            self.entries.iter().enumerate().map(|(n, entry)| words(n, entry)).collect::<Result<_, _>>()?;
        let mut buckets = (self.entries.len() as u32).next_power_of_two().max(8);
        let places = loop {
            match self.places(buckets) {
                Some(places) => break places,
                None if buckets < MOST_BUCKETS => buckets *= 2,
                None => return Err(TooLarge::Table),
            }
        };
        let mut bytes = self.header(buckets, until);
        bytes.resize(HEADER + places.len() * BUCKET, 0);
        for (at, entry) in places.iter().enumerate().filter_map(|(at, entry)| Some((at, (*entry)?))) {
            let (key, words) = (self.entries[entry].key, &records[entry]);
            let offset = u32::try_from(bytes.len()).map_err(|_| TooLarge::Table)?;
            let bucket = &mut bytes[HEADER + at * BUCKET..][..BUCKET];
            bucket[..22].copy_from_slice(&key.bytes());
            // No more than MOST_WORDS.
            bucket[22..24].copy_from_slice(&((words.len() / 2) as u16).to_le_bytes());
            bucket[24..28].copy_from_slice(&offset.to_le_bytes());
            bytes.extend(record_check(self.generation, &key, words).to_le_bytes());
            bytes.extend(words);
        }
        Ok(bytes)
    }

    fn header(&self, buckets: u32, until: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(buckets.to_le_bytes());
        bytes.extend(self.generation.to_le_bytes());
        let listen = self.listen.clone().unwrap_or_default();
        bytes.extend(listen.start.to_le_bytes());
        bytes.extend((listen.len() as u16).to_le_bytes());
        bytes.resize(CHECKED, 0);
        bytes.extend(fnv(FNV, &bytes).to_le_bytes());
        bytes.extend(lease(until, self.generation));
        debug_assert!(bytes.len() == LEASE + 16);
        bytes.resize(HEADER, 0);
        bytes
    }

    /// Which entry is in each bucket; none when there are too few buckets.
    fn places(&self, buckets: u32) -> Option<Vec<Option<usize>>> {
        let mut places = vec![None; buckets as usize + PROBES];
        let mut keys: Vec<&Key> = self.entries.iter().map(|entry| &entry.key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|two| two[0] == two[1]) {
            return None;
        }
        for (number, entry) in self.entries.iter().enumerate() {
            let first = (entry.key.hash() & u64::from(buckets - 1)) as usize;
            let free = places[first..first + PROBES].iter_mut().find(|place| place.is_none())?;
            *free = Some(number);
        }
        Some(places)
    }
}

/// The bytes of a lease.
pub(crate) fn lease(until: u64, generation: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&until.to_le_bytes());
    bytes[8..].copy_from_slice(&lease_check(until, generation).to_le_bytes());
    bytes
}

fn words(number: usize, entry: &Entry) -> Result<Vec<u8>, TooLarge> {
    let ports: usize = entry.paths.iter().map(|path| path.ports.len()).sum();
    let fits = 2 + entry.slots.len() + 2 * entry.paths.len() + ports <= MOST_WORDS;
    if !fits
        || entry.slots.is_empty()
        || entry.slots.iter().any(|path| usize::from(*path) >= entry.paths.len())
    {
        return Err(TooLarge::Entry(number));
    }
    let counts = [entry.slots.len() as u16, entry.paths.len() as u16];
    let lengths: Vec<u16> = entry.paths.iter().map(|path| path.ports.len() as u16).collect();
    let bonds: Vec<u16> = entry.paths.iter().map(|path| path.bond.into()).collect();
    let ports = entry.paths.iter().flat_map(|path| &path.ports);
    let words = counts.iter().chain(&entry.slots).chain(&lengths).chain(&bonds).chain(ports);
    Ok(words.flat_map(|word| word.to_le_bytes()).collect())
}
