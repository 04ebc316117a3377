//! The table of planned source ports: a file that the agent writes and `libc4-path` reads inside job processes.
//!
//! It is read with `pread`, never mapped: whoever truncates a mapped file kills its readers with SIGBUS, and a training
//! job must not die of its planner. A reader trusts nothing, and believes an entry only when three things hold: the
//! header's checksum, a lease that the agent renews as long as it lives, and a checksum over the entry, its key and the
//! table's generation. Anything else (a torn write, rubbish, a dead agent) is the same as no table: connections stay as
//! they are.
//!
//! The agent replaces the file as a whole (write beside it, rename), so readers see the old one or the new one. Only the
//! lease is written in place.
//!
//! Layout, little-endian. Header, 64 bytes: magic, version `u32`, buckets `u32`, generation `u64`, first listening port
//! `u16` and how many `u16`, zero `u32`, FNV-1a of these; lease `u64`, the lease mixed with the generation `u64`, zeros.
//! Then the buckets, 32 bytes each (address as IPv6, rank `u32`, port `u16`, words `u16`, offset `u32`, zero `u32`); a
//! key lies in one of the [`PROBES`] buckets from where its hash points. Then records: FNV-1a `u64` over generation, key
//! and words, and the words `u16`: slots, paths, the path of each slot, of each path how many ports it has
//! and then by which port of a bond it leaves (from 1, 0 for any), the ports.

mod encode;
mod file;
mod format;
mod lookup;

pub use encode::{Entry, Path, Table, TooLarge};
pub use file::{publish, renew};
pub use format::{ANY_PORT, ANY_RANK, Key, MOST_WORDS, PROBES};
pub use lookup::{Buffer, Header, Ports, ReadAt, Refusal};
