use std::collections::BTreeMap;

use c4_detect::finding::{Finding, Kind};
use c4_recorder::snapshot::{Communicator, Connection, Identity, Losses};

use super::*;
use crate::analyze::diagnose;

const RANKS: u32 = 8;
const PERIOD_NS: u64 = 10_000_000;
const LAST: u64 = 3_000;
/// When operation [`LAST`] begins.
const LAST_NS: u64 = LAST * PERIOD_NS;

/// Rank `rank` after operations 0 to [`LAST`] − 1 of a healthy job, of which the ring still holds 1000.
fn healthy(rank: u32) -> Seen {
    let operations = (LAST - 1_000..LAST).map(|n| operation(n, Some(n * PERIOD_NS + 2_000_000))).collect();
    let comm = Communicator {
        id: 77,
        name: "dp".into(),
        size: RANKS,
        rank,
        observable: true,
        enqueued: LAST,
        started: LAST,
        completed: LAST,
        ..Communicator::default()
    };
    let labels = [("C4_JOB", "train".to_owned()), ("RANK", rank.to_string())];
    let snapshot = Snapshot {
        identity: Identity {
            cookie: u64::from(rank) + 1,
            pid: 100 + rank,
            host_id: format!("n{}", rank / 4),
            labels: labels
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            ..Identity::default()
        },
        taken_ns: LAST_NS + 5_000_000,
        profiling: true,
        event_mask: 0x4e,
        communicators: vec![comm],
        operations,
        connections: Vec::<Connection>::new(),
        losses: Losses::default(),
        unreadable: Vec::new(),
    };
    Seen { snapshot, held: true }
}

fn operation(n: u64, completed_ns: Option<u64>) -> snapshot::Operation {
    snapshot::Operation {
        index: n,
        comm_slot: 0,
        comm_generation: 0,
        kind: OperationKind::Collective,
        sequence: n,
        function: "AllReduce".into(),
        datatype: "ncclFloat32".into(),
        count: 1 << (n % 4),
        bytes: 4 << (n % 4),
        root_or_peer: 0,
        peer_number: None,
        algorithm: String::new(),
        protocol: String::new(),
        channels: 2,
        graph_captured: false,
        left_out: false,
        enqueued_ns: n * PERIOD_NS,
        started_ns: Some(n * PERIOD_NS + 10_000),
        started_on_gpu: true,
        completed_ns,
        observable: true,
    }
}

/// The same, waiting in operation [`LAST`].
fn waiting(rank: u32) -> Seen {
    let mut seen = healthy(rank);
    seen.snapshot.operations.push(operation(LAST, None));
    let comm = &mut seen.snapshot.communicators[0];
    (comm.enqueued, comm.started) = (LAST + 1, LAST + 1);
    seen
}

/// The job, with its ranks as `seen` says, read `after_ns` after operation [`LAST`] began.
fn job(seen: impl Fn(u32) -> Seen, after_ns: u64) -> Vec<(PathBuf, Seen)> {
    (0..RANKS)
        .map(|rank| {
            let mut seen = seen(rank);
            seen.snapshot.taken_ns = LAST_NS + after_ns;
            (PathBuf::from(format!("{rank}.c4r")), seen)
        })
        .collect()
}

fn copied(mut files: Vec<(PathBuf, Seen)>) -> Vec<(PathBuf, Seen)> {
    for (_, seen) in &mut files {
        seen.held = false;
    }
    files
}

fn findings(files: Vec<(PathBuf, Seen)>) -> Vec<Finding> {
    diagnose(recorded(files)).findings
}

/// The recording of recorders with which nothing is wrong.
fn recorded(files: Vec<(PathBuf, Seen)>) -> Recording {
    let mut problems = Problems::default();
    let recording = recording(files, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    recording
}

const LONG: u64 = 30_000_000_000;
const SHORT: u64 = 5_000_000;

#[test]
fn a_healthy_job_at_any_moment_is_healthy() {
    assert_eq!(findings(job(healthy, SHORT)), []);
    // In the middle of an operation, some in it, some not yet.
    let half = |rank| if rank % 2 == 0 { waiting(rank) } else { healthy(rank) };
    assert_eq!(findings(job(half, SHORT)), []);
}

#[test]
fn a_living_rank_that_has_not_come_for_long_is_named() {
    let found = findings(job(|rank| if rank == 5 { healthy(rank) } else { waiting(rank) }, LONG));
    let [finding] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(finding.kind, Kind::NonCommHang);
    assert_eq!(finding.suspects[0].rank, Some(5));
}

#[test]
fn a_dead_rank_among_living_ones_is_named() {
    let one_gone = |rank| match rank {
        5 => Seen { held: false, ..healthy(rank) },
        _ => waiting(rank),
    };
    let found = findings(job(one_gone, LONG));
    let [finding] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(finding.kind, Kind::ProcessDeath);
    assert_eq!(finding.suspects[0].rank, Some(5));
}

#[test]
fn ranks_that_all_are_gone_with_nothing_open_accuse_nobody() {
    assert_eq!(findings(copied(job(healthy, LONG))), []);
}

#[test]
fn positions_that_differ_in_copies_are_evidence_but_weak() {
    let files = copied(job(|rank| if rank == 5 { healthy(rank) } else { waiting(rank) }, LONG));
    let diagnosis = diagnose(recorded(files));
    let [finding] = &diagnosis.findings[..] else { panic!("{:#?}", diagnosis.findings) };
    assert_eq!(finding.kind, Kind::NonCommHang, "that all are gone is no death of one");
    assert_eq!(finding.suspects[0].rank, Some(5));
    assert!(finding.confidence <= UNHELD_CONFIDENCE);
    let notes = diagnosis.recording.notes.join("\n");
    assert!(notes.contains("confidence is limited"), "{notes}");
}

#[test]
fn a_record_that_ends_well_before_its_peers_is_strong_evidence() {
    let later = |rank| {
        let mut seen = waiting(rank);
        if rank == 5 {
            return healthy(rank);
        }
        // The peers came into the operation only ten seconds later.
        let last = seen.snapshot.operations.last_mut().expect("an operation");
        last.enqueued_ns += 10_000_000_000;
        last.started_ns = last.started_ns.map(|ns| ns + 10_000_000_000);
        seen
    };
    let diagnosis = diagnose(recorded(copied(job(later, LONG))));
    assert_eq!(diagnosis.recording.confidence_limit, None);
    assert_eq!(diagnosis.findings[0].suspects[0].rank, Some(5));
}

#[test]
fn nothing_is_claimed_from_copies_in_which_all_are_in_the_same_operation() {
    let diagnosis = diagnose(recorded(copied(job(waiting, LONG))));
    assert_eq!(diagnosis.findings, []);
    assert!(diagnosis.recording.notes[0].contains("nothing is claimed"), "{:?}", diagnosis.recording.notes);
}

#[test]
fn copies_of_a_running_job_taken_at_different_moments_accuse_nobody() {
    // Rank 5 was copied first, when it was fifty operations behind what the others show.
    let files = job(
        |rank| {
            let mut seen = waiting(rank);
            if rank == 5 {
                seen.snapshot.operations.truncate(950);
                let comm = &mut seen.snapshot.communicators[0];
                (comm.enqueued, comm.started, comm.completed) = (LAST - 50, LAST - 50, LAST - 50);
            }
            seen
        },
        LONG,
    );
    let diagnosis = diagnose(recorded(copied(files)));
    assert_eq!(diagnosis.findings, []);
    let notes = diagnosis.recording.notes.join("\n");
    assert!(notes.contains("rank 5 on dp stops at position 2950"), "{notes}");
}

#[test]
fn an_end_that_cannot_be_seen_is_not_a_hang() {
    let unseen = |rank| {
        let mut seen = waiting(rank);
        if rank != 5 {
            seen.snapshot.operations.last_mut().expect("an operation").observable = false;
        }
        seen
    };
    assert_eq!(findings(job(unseen, LONG)), []);
}

#[test]
fn of_a_restarted_job_only_the_newest_incarnation_counts() {
    let mut files = copied(job(|rank| if rank == 5 { healthy(rank) } else { waiting(rank) }, LONG));
    for (path, mut seen) in job(healthy, SHORT) {
        seen.snapshot.identity.cookie += 100;
        seen.snapshot.identity.labels.insert("C4_INCARNATION".into(), "1".into());
        files.push((path, seen));
    }
    let diagnosis = diagnose(recorded(files));
    assert_eq!(diagnosis.findings, []);
    assert_eq!(diagnosis.recording.processes.len(), RANKS as usize);
    assert_eq!(diagnosis.recording.notes, ["8 recorders of earlier incarnations left out"]);
}

#[test]
fn the_job_comes_from_the_labels_in_their_order() {
    let mut snapshot = healthy(0).snapshot;
    assert_eq!(job_of(&snapshot), "train");
    snapshot.identity.labels = BTreeMap::from([("TORCHELASTIC_RUN_ID".into(), "run7".into())]);
    assert_eq!(job_of(&snapshot), "run7");
    snapshot.identity.labels.insert("SLURM_JOB_ID".into(), "12".into());
    assert_eq!(job_of(&snapshot), "slurm-12");
    snapshot.identity.labels.clear();
    assert_eq!(job_of(&snapshot), "comm-4d");
}

#[test]
fn recorders_that_disagree_are_named_and_the_others_analysed() {
    let mut files = job(|rank| if rank == 5 { healthy(rank) } else { waiting(rank) }, LONG);
    // Rank 3 has another size; somebody is rank 4 a second time; somebody is rank 9 of eight; and rank 12 is of no such job.
    files[3].1.snapshot.communicators[0].size = 4;
    for (name, rank) in [("again", 4), ("beyond", 9), ("stranger", 6)] {
        let mut other = waiting(rank);
        other.snapshot.taken_ns = LAST_NS + LONG;
        other.snapshot.identity.cookie = 100 + u64::from(rank);
        if name == "stranger" {
            let labels =
                [("RANK", "12"), ("WORLD_SIZE", "8")].map(|(name, v)| (name.to_owned(), v.to_owned()));
            other.snapshot.identity.labels.extend(labels);
        } else {
            other.snapshot.identity.labels.remove("RANK");
        }
        files.push((PathBuf::from(format!("{name}.c4r")), other));
    }
    let mut problems = Problems::default();
    let recorded = recording(files, &mut problems);
    let said: Vec<String> = problems.kept().iter().map(ToString::to_string).collect();
    let expected = [
        "stranger.c4r: rank is 12, expected less than the job's 8 ranks; left out",
        "3.c4r: communicator dp (4d) has 4 ranks here, but 8 in most recorders; expected the same on all its ranks",
        "again.c4r: rank 4 of communicator dp (4d), which 4.c4r is as well; expected one recorder a rank; its operations \
         there are left out",
        "beyond.c4r: rank 9 of communicator dp (4d), expected less than its 8 ranks; its operations there are left out",
    ];
    assert_eq!(said, expected);
    assert_eq!(recorded.comms.iter().map(|comm| comm.size).collect::<Vec<_>>(), [RANKS]);
    let findings = diagnose(recorded).findings;
    let found: Vec<_> = findings.iter().map(|f| (f.kind, f.suspects.first().and_then(|s| s.rank))).collect();
    assert_eq!(found, [(Kind::NonCommHang, Some(5))]);
}
