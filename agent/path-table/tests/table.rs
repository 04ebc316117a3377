//! What is written is found again; what is damaged is not believed.

use std::{net::IpAddr, os::unix::fs::MetadataExt};

use c4_path_table::{
    ANY_PORT, ANY_RANK, Buffer, Entry, Header, Key, Path, Refusal, Table, TooLarge, publish, renew,
};
use proptest::prelude::*;

fn address(n: u32) -> IpAddr {
    if n.is_multiple_of(2) {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    } else {
        IpAddr::from((0xfd00_u128 << 112 | u128::from(n)).to_be_bytes())
    }
}

fn table(hosts: u32) -> Table {
    let entry = |n: u32| Entry {
        key: Key::to(address(n), if n.is_multiple_of(3) { ANY_PORT } else { 4000 + n as u16 % 7 }, ANY_RANK),
        slots: vec![0, 1, 0],
        paths: vec![vec![50_000 + n as u16 % 1000, 50_001].into(), Path { bond: 2, ports: vec![51_000] }],
    };
    Table { generation: 7, listen: Some(30_000..30_016), entries: (0..hosts).map(entry).collect() }
}

fn ports(bytes: &[u8], now: u64, key: &Key, turn: u32) -> Option<Vec<u16>> {
    let header = Header::read(bytes, now).ok()?;
    let mut buffer = Buffer::default();
    Some(header.find(bytes, key, &mut buffer)?.turn(turn).collect())
}

#[test]
fn thousands_of_entries_are_found() {
    let table = table(5000);
    let bytes = table.encode(1000).expect("fits");
    assert_eq!(Header::read(&bytes[..], 999).expect("sound").listen(), Some(30_000..30_016));
    for entry in &table.entries {
        assert_eq!(ports(&bytes, 999, &entry.key, 0).as_ref(), Some(&entry.paths[0].ports));
        assert_eq!(ports(&bytes, 999, &entry.key, 4).as_ref(), Some(&entry.paths[1].ports));
        let other = Key { rank: 3, ..entry.key };
        assert_eq!(ports(&bytes, 999, &other, 0), None);
    }
}

#[test]
fn paths_are_found_with_their_ports_of_a_bond() {
    let bytes = table(10).encode(1000).expect("fits");
    let header = Header::read(&bytes[..], 0).expect("sound");
    let mut buffer = Buffer::default();
    let ports = header.find(&bytes[..], &table(10).entries[4].key, &mut buffer).expect("there");
    assert_eq!((ports.slots(), ports.paths(), ports.path(4), ports.path(5)), (3, 2, 1, 0));
    assert_eq!([0, 1, 2].map(|path| ports.bond(path)), [0, 2, 0]);
    assert_eq!(ports.of(1).collect::<Vec<_>>(), [51_000]);
    assert_eq!(ports.of(2).count(), 0, "there is no such path");
}

#[test]
fn a_dead_agents_table_is_stale_until_renewed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("paths");
    publish(&path, &table(3).encode(1000).expect("fits")).expect("written");
    let read = |now| Header::read(&std::fs::File::open(&path).expect("there"), now);
    assert_eq!(read(1000).expect_err("too late"), Refusal::Stale);
    renew(&path, 2000).expect("sound");
    assert_eq!(read(1500).expect("renewed").generation(), 7);
    std::fs::write(&path, b"C4PATHS\0").expect("written");
    assert!(renew(&path, 3000).is_err());
}

#[test]
fn a_file_that_waits_beside_the_table_does_not_become_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, beside) = (dir.path().join("paths"), dir.path().join("paths.new"));
    std::fs::write(&beside, "").expect("written");
    let waiting = std::fs::File::open(&beside).expect("there");
    publish(&path, &table(3).encode(1000).expect("fits")).expect("written");
    let (table, waiting) = (std::fs::metadata(&path).expect("there"), waiting.metadata().expect("open"));
    assert_ne!(table.ino(), waiting.ino());
    assert_eq!(table.mode() & 0o777, 0o644, "everybody may read it");
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let mut one = table(1);
    one.entries.push(one.entries[0].clone());
    assert_eq!(one.encode(1).expect_err("one key twice"), TooLarge::Table);
    let mut many = table(1);
    many.entries[0].paths[0] = vec![1; 5000].into();
    assert_eq!(many.encode(1).expect_err("too many"), TooLarge::Entry(0));
    let mut nowhere = table(1);
    nowhere.entries[0].slots = vec![2];
    assert_eq!(nowhere.encode(1).expect_err("no such path"), TooLarge::Entry(0));
}

proptest! {
    /// Each byte of header, bucket and record counts: a damaged one gives the right ports, or none.
    #[test]
    fn damage_is_found(at in 0usize..4096, bit in 0u8..8, cut in 0usize..4096) {
        let table = table(6);
        let whole = table.encode(1000).expect("fits");
        let mut bytes = whole.clone();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        bytes.truncate(cut.max(at));
        for entry in &table.entries {
            for turn in 0..3 {
                if let Some(found) = ports(&bytes, 999, &entry.key, turn) {
                    prop_assert_eq!(Some(found), ports(&whole, 999, &entry.key, turn));
                }
            }
        }
    }

    /// Rubbish behind a sound header: no panic, and nothing found.
    #[test]
    fn rubbish_is_no_plan(rubbish: Vec<u8>, key_port: u16) {
        let mut bytes = table(6).encode(1000).expect("fits");
        bytes.truncate(64);
        bytes.extend(rubbish);
        bytes.resize(4096, 0xff);
        prop_assert_eq!(ports(&bytes, 0, &Key::to(address(0), key_port, ANY_RANK), 0), None);
    }
}
