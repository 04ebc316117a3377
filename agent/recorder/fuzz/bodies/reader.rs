//! Patches a valid recorder with the fuzzer's bytes and reads it: an error is fine, a panic or a record that contradicts itself
//! is not.
//!
//! A whole file as input would be 1.3 MB of mostly zeroes, so the input is a list of patches: where (a table, a record in it,
//! an offset) and what. The header's checksum is made right again for every other input, so that the fuzzer gets past it.
//!

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::{self, operation_flag, operation_kind, step_state, table::SECTIONS};
use c4_recorder::reader::Reader;
use c4_recorder::writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder, StepKey};

struct Base {
    directory: tempfile::TempDir,
    bytes: Vec<u8>,
    file: File,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("temporary directory");
        let bytes = valid(directory.path());
        let path = directory.path().join("patched.c4r");
        std::fs::write(&path, &bytes).expect("writes");
        let file = File::options().write(true).open(&path).expect("opens");
        Base { directory, bytes, file }
    })
}

/// A file with something in every table.
fn valid(directory: &Path) -> Vec<u8> {
    let labels = [("RANK".to_owned(), "0".to_owned())].into();
    let new = NewRecorder { host_id: "host".to_owned(), gpu: Some(1), gpu_address: None, labels };
    let recorder = Recorder::create(&directory.join("c4"), &new).expect("creates");
    let clock = recorder.tick_source();
    recorder.set_interface(5, 22809);
    recorder.set_mask(0x4e, true);
    for slot in 0..4_u64 {
        let facts = CommunicatorFacts { id: slot, name: "name", size: 2, rank: 0, nodes: 2 };
        recorder.communicator(slot as usize).open(1, &facts, clock.now());
        let connection = recorder.connection(slot as usize).expect("in the table");
        connection.open((0, 1), 1, slot as u16, true);
        connection.operation_started();
        connection.step_begin(StepKey::new(slot, 3), true);
        connection.step_state(StepKey::new(slot, 3), step_state::SEND_WAIT, 9, clock);
    }
    recorder.live().communicators.store(4, Relaxed);
    recorder.live().connections.store(4, Relaxed);
    let function = recorder.names().add(b"AllReduce").expect("room");
    for index in 0..8 {
        let flags = if index % 2 == 0 { operation_flag::KERNEL_EVENTS } else { 0 };
        let facts = OperationFacts {
            comm_generation: 1,
            kind: operation_kind::COLLECTIVE,
            function,
            flags,
            channels: 1,
            sequence: index,
            enqueued: clock.now(),
            ..OperationFacts::default()
        };
        let index = recorder.next_operation();
        let record = recorder.operation(index);
        record.publish(index, &facts);
        record.kernel_started(0, 1000, clock);
        record.kernel_stop_time(0, 2000);
        record.kernel_stopped(0, clock);
        record.proxy_started(true, clock);
    }
    std::fs::read(recorder.path()).expect("reads")
}

/// Where a patch goes: section, record (the first few are in use), offset in it.
fn place(section: u8, record: u8, offset: u8) -> usize {
    let section = &SECTIONS[section as usize % SECTIONS.len()];
    let record = record as usize % section.count;
    (section.at + record * section.stride + offset as usize % section.stride).min(layout::FILE_BYTES - 16)
}

/// Plays one input.
pub fn run(data: &[u8]) {
    let base = base();
    let [repair, patches @ ..] = data else { return };
    let mut patched = Vec::new();
    for patch in patches.chunks_exact(12) {
        let at = place(patch[0], patch[1], patch[2]);
        let length = 1 + patch[3] as usize % 8;
        base.file.write_all_at(&patch[4..4 + length], at as u64).expect("writes");
        patched.push((at, length));
    }
    if repair & 1 == 1 {
        let path = base.directory.path().join("patched.c4r");
        let all = std::fs::read(path).expect("reads");
        let sum = layout::checksum(&all[layout::CHECKED_FROM..layout::CHECKED_TO]).to_le_bytes();
        base.file.write_all_at(&sum, 8).expect("writes");
        patched.push((8, 8));
    }
    read(&base.directory.path().join("patched.c4r"));
    for (at, length) in patched {
        base.file.write_all_at(&base.bytes[at..at + length], at as u64).expect("restores");
    }
}

fn read(path: &Path) {
    let Ok(mut reader) = Reader::open(path) else { return };
    if let Ok(snapshot) = reader.snapshot() {
        for comm in &snapshot.communicators {
            assert!(comm.completed <= comm.started && comm.started <= comm.enqueued);
        }
        for connection in &snapshot.connections {
            assert!(connection.operations_done <= connection.operations_started);
        }
    }
    if let Ok(poll) = reader.poll(0) {
        let _ = reader.poll(poll.next_cursor);
    }
}
