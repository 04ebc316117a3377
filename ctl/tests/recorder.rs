//! `c4ctl recorder …` and `analyze` on real recorders: written by this process, which holds their locks, and read by the
//! real binary.

use std::{collections::BTreeMap, fs, path::Path, sync::atomic::Ordering::Relaxed};

use c4_recorder::{
    layout::{operation_flag, operation_kind},
    writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder},
};

mod support;

use support::{command, json, text};

/// The recorder of rank `rank` of four, with nothing done yet.
fn recorder(dir: &Path, rank: u32) -> Recorder {
    let labels = [("C4_JOB", "train\x1b[2J".to_owned()), ("RANK", rank.to_string())];
    let labels = labels.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>();
    let new = NewRecorder { host_id: "n0".to_owned(), gpu: Some(rank), gpu_address: None, labels };
    let recorder = Recorder::create(dir, &new).expect("made");
    recorder.set_interface(5, 22_809);
    recorder.set_mask(0x4e, true);
    let facts = CommunicatorFacts { id: 77, name: "dp", size: 4, rank, nodes: 1 };
    recorder.communicator(0).open(1, &facts, recorder.tick_source().now());
    recorder.live().communicators.store(1, Relaxed);
    recorder
}

/// Four ranks that have done some all-reduces; all but rank 2 wait in another.
fn job(dir: &Path, done: u64) -> Vec<Recorder> {
    let ranks: Vec<Recorder> = (0..4).map(|rank| recorder(dir, rank)).collect();
    for number in 0..done {
        ranks.iter().for_each(|rank| operation(rank, number, true));
    }
    for (_, rank) in ranks.iter().enumerate().filter(|(rank, _)| *rank != 2) {
        operation(rank, done, false);
    }
    ranks
}

fn operation(recorder: &Recorder, number: u64, ends: bool) {
    let names = recorder.names();
    let clock = recorder.tick_source();
    let comm = recorder.communicator(0);
    let index = recorder.next_operation();
    let sequence = comm.next_sequence(true);
    let facts = OperationFacts {
        comm_slot: 0,
        comm_generation: 1,
        kind: operation_kind::COLLECTIVE,
        function: names.add(b"AllReduce").expect("room"),
        datatype: names.add(b"ncclFloat32").expect("room"),
        algorithm: names.add(b"RING").expect("room"),
        protocol: names.add(b"SIMPLE").expect("room"),
        flags: operation_flag::KERNEL_EVENTS,
        channels: 1,
        sequence,
        count: 1 << (number % 4),
        bytes: 4 << (number % 4),
        root_or_peer: 0,
        peer_number: 0,
        enqueued: clock.now(),
    };
    let slot = recorder.operation(index);
    slot.publish(index, &facts);
    slot.kernel_started(0, 0, clock);
    comm.observed.store(1, Relaxed);
    comm.operation_started(true, sequence);
    if ends {
        slot.kernel_stopped(0, clock);
        comm.operation_completed(true, sequence);
    }
}

/// Copies of the recorders of a job in which rank 2 did not come into the last operation.
fn copies_of_a_hang() -> tempfile::TempDir {
    let (live, copies) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    for recorder in job(live.path(), 400) {
        let name = recorder.path().file_name().expect("a name");
        fs::copy(recorder.path(), copies.path().join(name)).expect("copied");
    }
    copies
}

#[test]
fn a_living_recorder_is_shown_to_a_person() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = &job(dir.path(), 20)[3];
    let output = command(&["recorder", "show"]).arg(recorder.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for expected in [
        "alive",
        "GPU           3",
        "profiler API v5",
        "RANK=3",
        "dp",
        "AllReduce #20 on dp, 4 B: started",
        "Last operations",
        "RING SIMPLE",
        "Losses\n  none",
    ] {
        assert!(shown.contains(expected), "{expected:?} in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "labels cannot steer the terminal");
}

#[test]
fn for_scripts_it_is_the_whole_snapshot() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = &job(dir.path(), 20)[3];
    let output = command(&["recorder", "show", "--json"]).arg(recorder.path()).output().expect("runs");
    let document = json(&output);
    assert_eq!(document["identity"]["labels"]["RANK"], "3");
    assert_eq!(document["communicators"][0]["enqueued"], 21);
    assert_eq!(document["operations"].as_array().map(Vec::len), Some(21));
    assert!(document["operations"][20]["completed_ns"].is_null());
}

#[test]
fn a_spoilt_file_is_an_error_that_names_it() {
    let copies = copies_of_a_hang();
    let whole =
        fs::read_dir(copies.path()).expect("listed").next().expect("a file").expect("an entry").path();
    let bytes = fs::read(&whole).expect("read");
    let spoilt = copies.path().join("spoilt.c4r");
    let mut wrong_magic = bytes.clone();
    wrong_magic[0] ^= 0xff;
    for contents in [&bytes[..bytes.len() / 2], &wrong_magic, b""] {
        fs::write(&spoilt, contents).expect("written");
        let output = command(&["recorder", "show"]).arg(&spoilt).output().expect("runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("spoilt.c4r"), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_list_shows_who_lives_and_what_is_spoilt() {
    let dir = copies_of_a_hang();
    let _alive = recorder(dir.path(), 0);
    let list = |args: &[&str]| {
        let mut list = command(&["recorder", "list"]);
        list.args(args).env("C4_RECORDER_DIR", dir.path()).output().expect("runs")
    };
    let output = list(&[]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    assert_eq!(shown.lines().count(), 6, "{shown}");
    assert_eq!((shown.matches(" alive ").count(), shown.matches(" gone ").count()), (1, 4), "{shown}");
    fs::write(dir.path().join("bad.c4r"), b"nothing").expect("written");
    let output = list(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "one of them cannot be read");
    let document = json(&output);
    let errors =
        document["recorders"].as_array().expect("a list").iter().filter(|r| r.get("error").is_some());
    assert_eq!(errors.count(), 1);
    let nowhere = command(&["recorder", "list", "/nowhere"]).output().expect("runs");
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn a_directory_of_copies_is_diagnosed_as_one_job() {
    let copies = copies_of_a_hang();
    let output = command(&["analyze", "--json"]).arg(copies.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let document = json(&output);
    let finding = &document["findings"][0];
    assert_eq!(finding["kind"], "non_comm_hang", "{document:#}");
    assert_eq!(finding["suspects"][0]["rank"], 2);
    assert_eq!(document["findings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn living_ranks_in_the_middle_of_their_work_accuse_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let _job = job(dir.path(), 400);
    let output = command(&["analyze", "--json"]).arg(dir.path()).output().expect("runs");
    assert_eq!(json(&output)["findings"], serde_json::json!([]), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_is_spoilt_is_named_and_the_rest_is_analysed() {
    let copies = copies_of_a_hang();
    fs::write(copies.path().join("bad.c4r"), b"nothing").expect("written");
    let output = command(&["analyze", "--json"]).arg(copies.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let document = json(&output);
    assert_eq!(document["findings"][0]["suspects"][0]["rank"], 2);
    assert!(text(&output.stderr).contains("bad.c4r"), "{}", text(&output.stderr));
}
