//! Whatever is in a file, the reader says what is wrong with it or reads it; it never panics and never hands out a record that
//! contradicts itself.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::{self, operation_flag, operation_kind, step_state};
use c4_recorder::reader::{ReadError, Reader};
use c4_recorder::snapshot::Snapshot;
use c4_recorder::writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder, StepKey};
use proptest::prelude::*;

/// A copy of [`written`], without the cost of writing it anew.
fn valid(directory: &Path) -> PathBuf {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| fs::read(written(directory)).expect("reads"));
    let path = directory.join("recorder.c4r");
    fs::write(&path, bytes).expect("writes");
    path
}

/// A file with something in every table.
fn written(directory: &Path) -> PathBuf {
    let labels = [("RANK", "0"), ("WORLD_SIZE", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let new = NewRecorder { host_id: "host".to_owned(), labels: labels.into(), ..NewRecorder::default() };
    let recorder = Recorder::create(&directory.join("c4"), &new).expect("creates");
    let clock = recorder.tick_source();
    recorder.set_interface(5, 0);
    recorder.set_mask(0x4e, true);
    for slot in 0..3_u64 {
        let facts = CommunicatorFacts { id: slot, name: "a name", size: 2, rank: 0, nodes: 2 };
        recorder.communicator(slot as usize).open(1, &facts, clock.now());
    }
    recorder.live().communicators.store(3, Relaxed);
    for index in 0..40 {
        let flags = if index % 2 == 0 { operation_flag::KERNEL_EVENTS } else { 0 };
        let facts = OperationFacts {
            comm_slot: (index % 3) as u32,
            comm_generation: 1,
            kind: [operation_kind::COLLECTIVE, operation_kind::SEND, operation_kind::RECEIVE]
                [index as usize % 3],
            function: recorder.names().add(b"AllReduce").expect("room"),
            flags,
            channels: 2,
            sequence: index / 3,
            enqueued: clock.now(),
            ..OperationFacts::default()
        };
        assert_eq!(recorder.next_operation(), index);
        let record = recorder.operation(index);
        record.publish(index, &facts);
        record.kernel_started(0, 1000 + index, clock);
        record.kernel_stop_time(0, 2000 + index);
        record.kernel_stopped(0, clock);
        record.proxy_started(false, clock);
        record.proxy_active(clock);
    }
    for slot in 0..4 {
        let connection = recorder.connection(slot).expect("in the table");
        connection.open((0, 1), 1, slot as u16, slot % 2 == 0);
        connection.operation_started();
        let key = StepKey::new(slot as u64, 3);
        connection.step_begin(key, true);
        connection.step_state(key, step_state::SEND_GPU_WAIT, 0, clock);
    }
    recorder.live().connections.store(4, Relaxed);
    recorder.path().to_owned()
}

fn read(path: &Path) -> Result<Snapshot, ReadError> {
    let mut reader = Reader::open(path)?;
    let snapshot = reader.snapshot()?;
    let poll = reader.poll(0)?;
    reader.poll(poll.next_cursor)?;
    Ok(snapshot)
}

/// What must hold of anything that is read.
fn assert_sane(snapshot: &Snapshot) {
    for operation in &snapshot.operations {
        assert!(operation.completed_ns.is_none() || operation.observable, "{operation:?}");
        assert!(operation.comm_slot < layout::COMMUNICATORS as u32);
    }
    for comm in &snapshot.communicators {
        assert!(comm.completed <= comm.started && comm.started <= comm.enqueued, "{comm:?}");
        assert!(comm.size == 0 || comm.rank < comm.size, "{comm:?}");
    }
    for connection in &snapshot.connections {
        assert!(connection.operations_done <= connection.operations_started, "{connection:?}");
        assert!(connection.timed_steps <= connection.steps_done, "{connection:?}");
    }
}

fn edit(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).expect("opens for writing")
}

fn error_of(path: &Path) -> String {
    read(path).expect_err("the file is wrong").to_string()
}

#[test]
fn a_valid_file_reads() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let snapshot = read(&valid(directory.path())).expect("reads");
    assert_sane(&snapshot);
    assert_eq!(
        (snapshot.communicators.len(), snapshot.operations.len(), snapshot.connections.len()),
        (3, 40, 4)
    );
}

#[test]
fn truncated_grown_or_empty() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = valid(directory.path());
    for size in [0, 1, 4096, layout::FILE_BYTES as u64 - 1, layout::FILE_BYTES as u64 + 1, 1 << 40] {
        edit(&path).set_len(size).expect("resizes");
        let error = error_of(&path);
        let wanted = format!("is {size} bytes long, a recorder of version 1 is {}", layout::FILE_BYTES);
        assert!(error.contains(&wanted), "{error}");
    }
}

#[test]
fn truncated_while_it_is_open() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = valid(directory.path());
    let mut reader = Reader::open(&path).expect("opens");
    edit(&path).set_len(20_000).expect("truncates");
    for error in [reader.snapshot().err(), reader.poll(0).err()] {
        let error = error.expect("truncated").to_string();
        assert!(error.contains("is 20000 bytes long"), "{error}");
    }
}

#[test]
fn overwritten_while_it_is_open() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = valid(directory.path());
    let reader = Reader::open(&path).expect("opens");
    let other = written(directory.path());
    fs::write(&path, fs::read(other).expect("reads")).expect("overwrites");
    let error = reader.snapshot().expect_err("another recorder").to_string();
    assert!(error.contains("overwritten"), "{error}");
}

#[test]
fn what_is_no_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let fifo = directory.path().join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: a C string and a mode.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(Reader::open(&fifo).expect_err("a FIFO").to_string().contains("is not a regular file"));
    assert!(
        Reader::open(directory.path())
            .expect_err("a directory")
            .to_string()
            .contains("is not a regular file")
    );
    let missing = directory.path().join("missing");
    assert!(Reader::open(&missing).expect_err("missing").to_string().contains("cannot open"));
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(valid(directory.path()), &link).expect("links");
    assert!(Reader::open(&link).expect_err("a link").to_string().contains("cannot open"));
}

#[test]
fn errors_name_the_field() {
    use std::mem::offset_of;
    let directory = tempfile::tempdir().expect("temporary directory");
    let operation = |slot: usize| layout::OPERATIONS_AT + slot * size_of::<layout::Operation>();
    let connection = |slot: usize| layout::CONNECTIONS_AT + slot * size_of::<layout::Connection>();
    let communicator = |slot: usize| layout::COMMUNICATORS_AT + slot * size_of::<layout::Communicator>();
    let checksum = offset_of!(layout::Header, checksum);
    let another_checksum = [!fs::read(valid(directory.path())).expect("reads")[checksum]];
    let cases: [(usize, &[u8], &str); 17] = [
        (0, b"JUNKJUNK", "header[0].magic at offset 0x0"),
        (16, &[9], "header[0].version at offset 0x10 is 9, expected 1"),
        (checksum, &another_checksum, "header[0].checksum"),
        (layout::LABELS_AT, b"X", "header[0].checksum"),
        (layout::LIVE_AT, &[8], "live[0].api at offset 0x3000 is 8, expected at most 7"),
        (layout::LIVE_AT + offset_of!(layout::Live, communicators), &[1, 1], "live[0].communicators"),
        (layout::NAMES_AT + layout::NAME_BYTES, &[0xFF], "names[1].text at offset 0x4020"),
        (communicator(1) + 4, &[7], "communicators[1].state"),
        (
            communicator(2) + 16,
            &[5],
            "communicators[2].rank at offset 0x5210 is 5, expected less than its size, 2",
        ),
        (communicator(1) + offset_of!(layout::Communicator, size), &[2, 0, 0x10, 0], "communicators[1].size"),
        (operation(7), &[9], "operations[7].number"),
        (operation(7) + offset_of!(layout::Operation, kind), &[0], "operations[7].kind"),
        (operation(0) + offset_of!(layout::Operation, flags), &[0xF0], "operations[0].flags"),
        (
            operation(1) + offset_of!(layout::Operation, root_or_peer),
            &[0, 0, 0x10, 0],
            "operations[1].root_or_peer",
        ),
        (connection(2) + offset_of!(layout::Connection, used), &[2], "connections[2].used"),
        (connection(1) + offset_of!(layout::Connection, peer), &[0, 0, 0x10, 0], "connections[1].peer"),
        (connection(3) + offset_of!(layout::Connection, steps), &[0x55], "connections[3].steps"),
    ];
    for (at, bytes, wanted) in cases {
        let path = valid(directory.path());
        edit(&path).write_all_at(bytes, at as u64).expect("writes");
        let error = error_of(&path);
        assert!(error.contains(wanted), "{wanted:?} is not in {error:?}");
    }
}

#[test]
fn a_record_left_in_the_middle_is_named_and_the_rest_is_read() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = valid(directory.path());
    let at = layout::CONNECTIONS_AT + size_of::<layout::Connection>();
    edit(&path).write_all_at(&[0xFF], at as u64).expect("an odd version");
    let snapshot = read(&path).expect("reads");
    assert_eq!((snapshot.operations.len(), snapshot.connections.len()), (40, 3));
    let [torn] = snapshot.unreadable.as_slice() else { panic!("one record: {:?}", snapshot.unreadable) };
    assert_eq!((torn.table, torn.slot), ("connections", 1));
    assert!(torn.why.contains("is odd"), "{}", torn.why);
}

/// Bytes to put at a place: often near the beginning of a table, where something is.
fn mutation() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let near = |at: usize| at..(at + 2048).min(layout::FILE_BYTES - 64);
    let place = prop_oneof![
        near(layout::LIVE_AT),
        near(layout::NAMES_AT),
        near(layout::COMMUNICATORS_AT),
        near(layout::OPERATIONS_AT),
        near(layout::CONNECTIONS_AT),
        0..layout::FILE_BYTES - 64,
    ];
    (place, prop::collection::vec(any::<u8>(), 1..32))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutations_of_a_valid_file(mutations in prop::collection::vec(mutation(), 1..12)) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = valid(directory.path());
        for (at, bytes) in &mutations {
            edit(&path).write_all_at(bytes, *at as u64).expect("writes");
        }
        match read(&path) {
            Ok(snapshot) => assert_sane(&snapshot),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_valid_header_before_random_bytes(seed in any::<u64>(), from in prop::sample::select(vec![
        layout::REQUEST_AT, layout::LIVE_AT, layout::NAMES_AT, layout::COMMUNICATORS_AT, layout::OPERATIONS_AT,
        layout::CONNECTIONS_AT,
    ])) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = valid(directory.path());
        let mut state = seed | 1;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        }).take(layout::FILE_BYTES - from).collect();
        edit(&path).write_all_at(&noise, from as u64).expect("writes");
        if let Ok(snapshot) = read(&path) {
            assert_sane(&snapshot);
        }
    }
}
