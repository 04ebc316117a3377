//! What writer and reader have in common.

use std::net::{IpAddr, Ipv6Addr};

pub(crate) const MAGIC: [u8; 8] = *b"C4PATHS\0";
pub(crate) const VERSION: u32 = 2;
pub(crate) const HEADER: usize = 64;
/// Where the header's checksum is, and so how much it covers.
pub(crate) const CHECKED: usize = 32;
pub(crate) const LEASE: usize = 40;
pub(crate) const BUCKET: usize = 32;
/// Buckets that a key may lie in.
pub const PROBES: usize = 16;
/// Most words of a record.
pub const MOST_WORDS: usize = 4096;
pub(crate) const MOST_BUCKETS: u32 = 1 << 20;

/// Port of an entry for all ports of a destination.
pub const ANY_PORT: u16 = 0;
/// Rank of an entry for all processes.
pub const ANY_RANK: u32 = u32::MAX;

/// What a connection is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Destination, IPv4 as a mapped IPv6 address.
    pub address: [u8; 16],
    /// Destination port, or [`ANY_PORT`].
    pub port: u16,
    /// Rank of the connecting process, or [`ANY_RANK`].
    pub rank: u32,
}

impl Key {
    /// A key for connections to an address.
    #[must_use]
    pub fn to(address: IpAddr, port: u16, rank: u32) -> Self {
        let address: Ipv6Addr = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Self { address: address.octets(), port, rank }
    }

    pub(crate) fn bytes(&self) -> [u8; 22] {
        let mut bytes = [0; 22];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..20].copy_from_slice(&self.rank.to_le_bytes());
        bytes[20..].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }

    /// A hash that does not change from build to build.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let hash = fnv(FNV, &self.bytes());
        // FNV's low bits are its best; a bucket number takes them after some stirring.
        hash ^ (hash >> 32)
    }
}

pub(crate) const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: it is to find torn writes and rubbish, not attackers, who could do no more than choose source ports.
pub(crate) fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// What stands beside a lease, so that a torn one is found out.
pub(crate) fn lease_check(until: u64, generation: u64) -> u64 {
    !until ^ generation.rotate_left(32)
}

/// The checksum of a record.
pub(crate) fn record_check(generation: u64, key: &Key, words: &[u8]) -> u64 {
    fnv(fnv(fnv(FNV, &generation.to_le_bytes()), &key.bytes()), words)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}
