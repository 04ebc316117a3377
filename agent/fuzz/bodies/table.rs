//! A table of planned ports that somebody has written into, read as a job's process reads it: what it says is no connection's harm.
//! The input is a list of patches to a sound table, three bytes of place and one of value; every other input has the header's checksum
//! made right again, so that the fuzzer gets past it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
};

use c4_path_table::{ANY_PORT, ANY_RANK, Buffer, Entry, Header, Key, Table};

const HEADER_CHECKED: usize = 32;

fn key(last: u8) -> Key {
    Key::to(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), ANY_PORT, ANY_RANK)
}

static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let entry = |last: u8| Entry { key: key(last), slots: vec![0, 1, 1], paths: vec![vec![20_000].into(), vec![20_001, 20_002].into()] };
    let table = Table { generation: 7, listen: Some(30_000..30_008), entries: (0..6).map(entry).collect() };
    table.encode(1_000).expect("a table")
});

/// FNV-1a.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let Some((repair, patches)) = bytes.split_first() else { return };
    let mut table = SOUND.clone();
    for patch in patches.chunks_exact(4) {
        let at = usize::from(patch[0]) << 16 | usize::from(patch[1]) << 8 | usize::from(patch[2]);
        let length = table.len();
        table[at % length] = patch[3];
    }
    if repair & 1 == 1 {
        let right = sum(&table[..HEADER_CHECKED]).to_le_bytes();
        table[HEADER_CHECKED..HEADER_CHECKED + 8].copy_from_slice(&right);
    }
    // As short as a torn write leaves it.
    let whole = table.len();
    table.truncate(if repair & 2 == 2 { usize::from(*repair) * whole / 255 } else { whole });
    let Ok(header) = Header::read(table.as_slice(), 999) else { return };
    assert!(header.listen().is_none_or(|ports| ports.start > 0 && !ports.is_empty()));
    let mut buffer = Buffer::default();
    for last in 0..8 {
        let Some(ports) = header.find(table.as_slice(), &key(last), &mut buffer) else { continue };
        assert!(ports.slots() > 0);
        for turn in [0, 1, 2, 3, u32::MAX] {
            assert!(ports.turn(turn).all(|port| port != 0));
        }
    }
}
