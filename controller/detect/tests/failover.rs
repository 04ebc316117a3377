//! A detector that begins in the middle of a job, as a controller's does that takes over from another: agents come one after
//! the other, each with all that it knows, the dead included.

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind},
    observation::{
        CommId, CommWindow, InFlight, JobId, Membership, NodeName, Observation, OperationSignature,
        ProcessEnd, ProcessId, ProcessInfo, ProcessState, Timestamp, Window,
    },
};

const MS: u64 = 1_000;
/// When the rank that takes the others along is killed.
const DIED: Timestamp = Timestamp(1_000_000_000);
const CAUSE: u32 = 2;

fn process(rank: u32) -> ProcessId {
    ProcessId(u64::from(rank) + 1)
}

/// Who a rank is.
fn identity(rank: u32) -> [Observation; 2] {
    let info = ProcessInfo {
        process: process(rank),
        job: JobId("llm".into()),
        incarnation: 0,
        rank: Some(rank),
        world_size: Some(4),
        node: NodeName(format!("node-{}", rank % 2)),
        gpu: None,
        pid: 4_000 + rank,
        blind_spots: Vec::new(),
    };
    let membership =
        Membership { process: process(rank), comm: CommId(9), name: "dp".into(), size: 4, comm_rank: rank };
    [Observation::ProcessStarted(info), Observation::CommunicatorJoined(membership)]
}

/// A window of a rank that has completed so many collectives, and waits in the next one for so long.
fn window(rank: u32, state: ProcessState, completed: u64, waits_us: u64) -> Window {
    let signature =
        OperationSignature { function: "AllReduce".into(), count: 8, datatype: "f32".into(), root: 0 };
    let in_flight = (waits_us > 0).then_some(InFlight {
        sequence: completed,
        signature,
        started: true,
        age_us: waits_us,
        started_age_us: waits_us,
    });
    let begun = completed + u64::from(in_flight.is_some());
    let comm = CommWindow {
        comm: CommId(9),
        enqueued: begun,
        started: begun,
        completed,
        in_flight,
        idle_us: 0,
        blocks: Vec::new(),
        edges: Vec::new(),
        iterations: Vec::new(),
        pending_peers: Vec::new(),
        links: Vec::new(),
    };
    Window {
        process: process(rank),
        duration_us: 1_000 * MS,
        state,
        kernel_events: true,
        profiling: true,
        dropped: 0,
        unread: 0,
        own: None,
        comms: vec![comm],
    }
}

/// What the agent of a rank's node says of it at `now`: the others have failed 30 ms after the cause.
fn introduction(rank: u32, now: Timestamp) -> Vec<Observation> {
    let window = window(rank, ProcessState::Running, 40, 0);
    let (signal, exit_code, at) =
        if rank == CAUSE { (Some(9), None, DIED) } else { (None, Some(1), DIED.after(30 * MS)) };
    let ago_us = now.micros_since(at);
    let end = ProcessEnd { process: process(rank), ago_us, finalized: false, exit_code, signal };
    let [started, joined] = identity(rank);
    vec![
        started,
        joined,
        // Taken at the death: agents send one because of it.
        Observation::LateWindow { window, ago_us: now.micros_since(at.before(10 * MS)) },
        Observation::ProcessEnded(end),
    ]
}

/// Tells of the ranks, each so many milliseconds after the death; time goes on for a while after the last.
fn told(ranks: &[(u32, u64)]) -> Vec<Finding> {
    let mut detector = Detector::new(Config::default());
    let mut findings = Vec::new();
    let last = ranks.iter().map(|(_, ms)| *ms).max().unwrap_or(0) + 15_000;
    for ms in (0..last).step_by(100) {
        let now = DIED.after(ms * MS);
        for (rank, _) in ranks.iter().filter(|(_, at)| *at == ms) {
            for observation in introduction(*rank, now) {
                findings.extend(detector.observe(observation, now));
            }
        }
        findings.extend(detector.observe(Observation::Tick, now));
    }
    findings
}

fn names_the_cause_and_only_it(findings: &[Finding]) {
    assert!(!findings.is_empty(), "it is told");
    for finding in findings {
        assert_eq!(finding.kind, Kind::ProcessDeath, "{finding:#?}");
        assert_eq!(finding.suspects[0].rank, Some(CAUSE), "{finding:#?}");
        assert_eq!((finding.cleared, &finding.id), (None, &findings[0].id), "{finding:#?}");
        assert_eq!(finding.since, DIED, "when it died, and not when this was heard");
    }
}

#[test]
fn the_dead_of_one_node_are_of_the_same_life_as_those_of_the_next() {
    // All that are known at first have ended: whoever comes then is no new life of the job.
    names_the_cause_and_only_it(&told(&[(0, 6_000), (2, 6_000), (1, 6_200), (3, 6_200)]));
    names_the_cause_and_only_it(&told(&[(2, 6_000), (0, 6_000), (3, 9_500), (1, 9_500)]));
}

#[test]
fn who_failed_because_of_a_rank_that_is_not_there_yet_is_not_accused() {
    names_the_cause_and_only_it(&told(&[(1, 6_000), (3, 6_000), (0, 9_000), (2, 9_000)]));
}

#[test]
fn a_node_that_never_comes_hides_nothing_for_ever() {
    let findings = told(&[(1, 6_000), (3, 6_000)]);
    let first = findings.first().expect("it is told");
    assert_eq!(first.kind, Kind::ProcessDeath);
    assert!(first.detected >= DIED.after(15_000 * MS), "the others might have come: {first:#?}");
}

#[test]
fn a_rank_that_comes_again_after_all_have_ended_begins_a_new_life() {
    let mut detector = Detector::new(Config::default());
    let now = DIED.after(1_000 * MS);
    for observation in (0..4).flat_map(|rank| introduction(rank, now)) {
        detector.observe(observation, now);
    }
    let mut again = introduction(0, now).remove(0);
    if let Observation::ProcessStarted(info) = &mut again {
        info.process = ProcessId(100);
    }
    let cleared = detector.observe(again, now.after(60_000 * MS));
    assert_eq!(cleared.iter().filter(|finding| finding.cleared.is_some()).count(), 1, "{cleared:#?}");
}

#[test]
fn a_hang_lasts_while_those_in_it_cannot_be_seen() {
    let mut detector = Detector::new(Config::default());
    let mut findings = Vec::new();
    let began = Timestamp(1_000_000_000);
    for observation in (0..4).flat_map(identity) {
        detector.observe(observation, began);
    }
    for ms in (0..40_000).step_by(100) {
        let now = began.after(ms * MS);
        // Rank 1 is stopped; rank 2 waits for it, the others are out of that operation and wait in the next one. In the middle,
        // the agents of both nodes are silent for a while, and one of them is for longer.
        let silent =
            |rank: u32| (10_000..(if rank.is_multiple_of(2) { 22_000 } else { 18_000 })).contains(&ms);
        for rank in (0..4).filter(|rank| ms % 1_000 == 0 && !silent(*rank)) {
            let (state, completed, waits_us) = match rank {
                1 => (ProcessState::Stopped, 160, 0),
                2 => (ProcessState::Running, 160, ms * MS + 1),
                _ => (ProcessState::Running, 161, ms * MS + 1),
            };
            let window = window(rank, state, completed, waits_us);
            findings.extend(detector.observe(Observation::Window(window), now));
        }
        findings.extend(detector.observe(Observation::Tick, now));
    }
    let first = findings.first().expect("it is told");
    assert_eq!((first.kind, first.suspects[0].rank), (Kind::NonCommHang, Some(1)));
    for finding in &findings {
        assert_eq!((finding.cleared, &finding.id), (None, &first.id), "{finding:#?}");
    }
}
