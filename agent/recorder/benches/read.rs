//! What looking at a recorder costs the agent, which does it ten times a second for each process. Printed, not judged.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use c4_recorder::layout::{operation_flag, operation_kind};
use c4_recorder::monotonic_now_ns;
use c4_recorder::reader::Reader;
use c4_recorder::writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder};

fn main() {
    let directory =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory");
    let recorder = Recorder::create(&directory.path().join("c4"), &NewRecorder::default()).expect("creates");
    for slot in 0..4 {
        let facts = CommunicatorFacts { id: slot, name: "dp", size: 8, rank: 0, nodes: 2 };
        recorder.communicator(slot as usize).open(1, &facts, 0);
    }
    recorder.live().communicators.store(4, Relaxed);
    for slot in 0..64 {
        recorder.connection(slot).expect("in the table").open((0, 1), 1, slot as u16, true);
    }
    recorder.live().connections.store(64, Relaxed);
    let mut reader = Reader::open(recorder.path()).expect("opens");
    let mut cursor = 0;
    let mut costs = Vec::new();
    for _ in 0..500 {
        // A hundred operations between two looks.
        for _ in 0..100 {
            write(&recorder);
        }
        let before = monotonic_now_ns();
        cursor = reader.poll(cursor).expect("polls").next_cursor;
        costs.push(monotonic_now_ns() - before);
    }
    report("poll: 4 communicators, 64 connections, 100 new operations", costs);
    let costs = (0..100).map(|_| {
        let before = monotonic_now_ns();
        reader.snapshot().expect("reads");
        monotonic_now_ns() - before
    });
    report("snapshot: the same, 4096 operations", costs.collect());
}

fn write(recorder: &Recorder) {
    let clock = recorder.tick_source();
    let index = recorder.next_operation();
    let facts = OperationFacts {
        comm_generation: 1,
        kind: operation_kind::COLLECTIVE,
        flags: operation_flag::KERNEL_EVENTS,
        channels: 1,
        sequence: index,
        enqueued: clock.now(),
        ..OperationFacts::default()
    };
    let record = recorder.operation(index);
    record.publish(index, &facts);
    record.kernel_started(0, 1000 + index, clock);
    record.kernel_stop_time(0, 1500 + index);
    record.kernel_stopped(0, clock);
}

fn report(what: &str, mut costs: Vec<u64>) {
    costs.sort_unstable();
    let at = |share: usize| Duration::from_nanos(costs[(costs.len() * share / 100).min(costs.len() - 1)]);
    println!("{what}: median {:?}, 95 % {:?}", at(50), at(95));
}
