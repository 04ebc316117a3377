//! Waits across communicators, incarnations, health, and claims that contradict each other: told by hand.

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind, Verdict},
    observation::{
        CommId, CommWindow, Edge, HealthEvent, InFlight, Iteration, JobId, Membership, NodeName, Observation,
        OperationSignature, ProcessEnd, ProcessId, ProcessInfo, ProcessState, Severity, StepState, Timestamp,
        Window,
    },
};

const S: u64 = 1_000_000;
const DP: [CommId; 2] = [CommId(0xd0), CommId(0xd1)];
const TP: [CommId; 2] = [CommId(0x70), CommId(0x71)];

/// Four ranks: tensor-parallel pairs (0, 1) and (2, 3), data-parallel pairs (0, 2) and (1, 3).
struct Story {
    detector: Detector,
    now: u64,
    told: Vec<Finding>,
}

fn info(rank: u32, incarnation: u32) -> ProcessInfo {
    ProcessInfo {
        process: ProcessId(u64::from(rank) + 100 * u64::from(incarnation)),
        job: JobId("llm".into()),
        incarnation,
        rank: Some(rank),
        world_size: Some(4),
        node: NodeName(format!("node-{}", rank / 2)),
        gpu: Some(rank % 2),
        pid: 4_000 + rank,
        blind_spots: Vec::new(),
    }
}

/// Where a rank stands in a communicator: completed, since when it waits in the next operation, and how many steps its
/// connection to the other one has done.
#[derive(Clone, Copy)]
enum At {
    Idle(u64),
    Waits(u64, u64),
    Moves(u64, u64, u64),
    /// Completed as far as is seen, enqueued, and since when: the ends of these are not seen.
    LeftOut(u64, u64, u64),
}

impl Story {
    fn new() -> Self {
        let mut story = Self { detector: Detector::new(Config::default()), now: 1_000 * S, told: Vec::new() };
        story.start(0);
        story
    }

    fn tell(&mut self, observation: Observation) {
        self.told.extend(self.detector.observe(observation, Timestamp(self.now)));
    }

    fn start(&mut self, incarnation: u32) {
        for rank in 0..4 {
            let info = info(rank, incarnation);
            let process = info.process;
            self.tell(Observation::ProcessStarted(info));
            let (tp, dp) = (rank as usize / 2, rank as usize % 2);
            for (comm, comm_rank) in [(TP[tp], rank % 2), (DP[dp], rank / 2)] {
                self.tell(Observation::CommunicatorJoined(Membership {
                    process,
                    comm,
                    name: String::new(),
                    size: 2,
                    comm_rank,
                }));
            }
        }
    }

    fn window(&mut self, rank: u32, tp: At, dp: At) {
        let comm = |comm: CommId, at: At| {
            let (completed, wait, steps) = match at {
                At::Idle(completed) | At::LeftOut(completed, _, _) => (completed, None, None),
                At::Waits(completed, us) => (completed, Some(us), None),
                At::Moves(completed, us, steps) => (completed, Some(us), Some(steps)),
            };
            let edge = |steps_done| Edge {
                peer: 1 - rank / 2,
                channel: 0,
                is_send: true,
                state: StepState::SendWait,
                state_age_us: 0,
                steps_done,
                bytes: 0,
            };
            CommWindow {
                pending_peers: Vec::new(),
                links: Vec::new(),
                comm,
                enqueued: match at {
                    At::LeftOut(_, enqueued, _) => enqueued,
                    _ => completed + u64::from(wait.is_some()),
                },
                started: completed + u64::from(wait.is_some()),
                completed,
                in_flight: wait.map(|us| InFlight {
                    sequence: completed,
                    signature: OperationSignature {
                        function: "AllReduce".into(),
                        count: 8,
                        datatype: "ncclFloat32".into(),
                        root: 0,
                    },
                    started: true,
                    age_us: us,
                    started_age_us: us,
                    before: None,
                }),
                idle_us: 0,
                unseen_us: if let At::LeftOut(_, _, us) = at { us } else { 0 },
                blocks: Vec::new(),
                edges: steps.map(edge).into_iter().collect(),
                iterations: (0..6)
                    .map(|i| Iteration { first: i, operations: 1, duration_ns: 100_000_000, count: 1 })
                    .filter(|_| completed == 10)
                    .collect(),
            }
        };
        let window = Window {
            process: ProcessId(u64::from(rank)),
            duration_us: S,
            state: ProcessState::Sleeping,
            kernel_events: true,
            profiling: true,
            dropped: 0,
            unread: 0,
            own: None,
            comms: vec![comm(TP[rank as usize / 2], tp), comm(DP[rank as usize % 2], dp)],
        };
        self.tell(Observation::Window(window));
    }

    fn learn(&mut self) {
        for rank in 0..4 {
            self.window(rank, At::Idle(10), At::Idle(10));
        }
        self.now += S;
    }

    fn tick(&mut self, us: u64) {
        self.now += us;
        self.tell(Observation::Tick);
    }
}

#[test]
fn a_late_tensor_parallel_rank_is_named_not_its_data_parallel_peers() {
    let mut story = Story::new();
    story.learn();
    // Rank 3 is stuck. Rank 2 waits for it in their tensor-parallel pair; 0 and 1 wait for 2 and 3.
    for second in 1..=6 {
        let us = second * S;
        story.window(0, At::Idle(20), At::Waits(20, us));
        story.window(1, At::Idle(20), At::Waits(20, us));
        story.window(2, At::Waits(20, us), At::Idle(20));
        story.window(3, At::Idle(20), At::Idle(20));
        story.tick(S);
    }
    assert_eq!(story.told[0].kind, Kind::NonCommHang, "{:?}", story.told);
    let ranks: Vec<_> = story.told[0].suspects.iter().map(|s| s.rank).collect();
    assert_eq!(ranks, vec![Some(3)], "{}", story.told[0].summary);
    let ids: std::collections::BTreeSet<_> = story.told.iter().map(|finding| &finding.id).collect();
    assert_eq!(ids.len(), 1, "one cause, one finding");
    assert!(story.told[0].explains.len() >= 2, "{:?}", story.told[0].explains);
}

#[test]
fn communicators_that_wait_for_each_other_are_the_programs_fault() {
    wait_in_a_circle(|story| story.learn());
}

#[test]
fn what_waits_for_itself_is_found_while_the_job_still_warms_up() {
    wait_in_a_circle(|_| {});
}

fn wait_in_a_circle(prepare: impl Fn(&mut Story)) {
    let mut story = Story::new();
    prepare(&mut story);
    // Rank 0 waits in its tensor pair for 1, 1 in its data pair for 3, 3 in its tensor pair for 2, 2 for 0.
    for second in 1..=6 {
        let us = second * S;
        story.window(0, At::Waits(20, us), At::Idle(20));
        story.window(1, At::Idle(20), At::Waits(20, us));
        story.window(2, At::Idle(20), At::Waits(20, us));
        story.window(3, At::Waits(20, us), At::Idle(20));
        story.tick(S);
    }
    assert_eq!(story.told.len(), 1, "{:?}", story.told);
    assert_eq!(story.told[0].kind, Kind::Desync);
    assert_eq!(story.told[0].suspects.len(), 4);
    assert!(story.told[0].summary.contains("waits for itself"), "{}", story.told[0].summary);
}

#[test]
fn who_does_not_come_is_named_where_ends_are_not_seen() {
    let mut story = Story::new();
    story.learn();
    // The pair of 0 and 1 calls so many operations that most have no end. Rank 1 stopped calling them, 0 went on for as long as it could.
    for second in 1..=6 {
        let us = second * S;
        story.window(0, At::LeftOut(20, 4_020, us), At::Idle(20));
        story.window(1, At::LeftOut(20, 3_900, us), At::Idle(20));
        story.window(2, At::LeftOut(20, 7_000, us), At::Idle(20));
        story.window(3, At::LeftOut(20, 7_000, us), At::Idle(20));
        story.tick(S);
    }
    let told: Vec<_> = story.told.iter().map(|finding| (finding.kind, finding.suspects[0].rank)).collect();
    assert_eq!(told[0], (Kind::NonCommHang, Some(1)), "{:?}", story.told);
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    assert!(story.told[0].summary.contains("operation #3900"), "{}", story.told[0].summary);
    // It comes, and all go on.
    for rank in 0..4 {
        story.window(rank, At::Idle(9_000), At::Idle(21));
    }
    story.tick(S);
    assert!(story.told.last().is_some_and(|finding| finding.cleared.is_some()), "{:?}", story.told.last());
}

#[test]
fn all_that_rest_after_operations_whose_ends_are_not_seen_are_left_alone() {
    let mut story = Story::new();
    story.learn();
    for second in 1..=120 {
        for rank in 0..4 {
            story.window(rank, At::LeftOut(20, 4_000, second * S), At::Idle(20));
        }
        story.tick(S);
    }
    assert_eq!(story.told, [], "a checkpoint, or the end");
}

impl Story {
    /// Rank 0 and 2 are in the operation of their data-parallel pair.
    fn both(&mut self, at: impl Fn(u64) -> At) {
        for rank in [0, 2] {
            let us = if rank == 0 { 0 } else { 100 };
            self.window(rank, At::Idle(20), at(us));
        }
        self.tick(S);
    }
}

#[test]
fn an_operation_whose_data_still_moves_is_no_hang() {
    let mut story = Story::new();
    story.learn();
    (1..=20).for_each(|second| story.both(|us| At::Moves(20, second * S + us, second)));
    assert_eq!(story.told, []);
    (21..=26).for_each(|second| story.both(|us| At::Moves(20, second * S + us, 20)));
    assert_eq!(story.told[0].kind, Kind::CommHang, "{:?}", story.told);
}

#[test]
fn an_operation_that_some_are_out_of_is_no_hang() {
    let mut story = Story::new();
    story.learn();
    for second in 1..=3 {
        story.window(0, At::Idle(20), At::Waits(20, second * S));
        story.window(2, At::Idle(20), At::Idle(20));
        story.tick(S);
    }
    // The window of the one that came last is taken after the end, that of the other one before it.
    story.window(0, At::Idle(20), At::Waits(20, 4 * S));
    story.window(2, At::Idle(20), At::Idle(21));
    story.tick(S / 10);
    assert_eq!(story.told, []);
    // But it is one if the other does not come out of it.
    for second in 5..=9 {
        story.now += S;
        story.window(2, At::Idle(20), At::Waits(21, (second - 4) * S));
        story.window(0, At::Idle(20), At::Waits(20, second * S));
        story.tick(0);
    }
    assert_eq!(story.told.first().map(|finding| finding.kind), Some(Kind::CommHang), "{:?}", story.told);
}

#[test]
fn an_operation_that_ended_after_all_was_slow() {
    let mut story = Story::new();
    story.learn();
    (1..=5).for_each(|second| story.both(|us| At::Waits(20, second * S + us)));
    story.both(|_| At::Idle(21));
    let told: Vec<_> = story.told.iter().map(|finding| (finding.kind, finding.cleared.is_some())).collect();
    assert_eq!(told, [(Kind::CommHang, false), (Kind::CommHang, true)]);
    (1..=8).for_each(|second| story.both(|us| At::Waits(21, second * S + us)));
    assert_eq!(story.told.len(), 2, "{:?}", story.told);
    (9..=15).for_each(|second| story.both(|us| At::Waits(21, second * S + us)));
    assert_eq!(story.told.len(), 3, "{:?}", story.told);
}

fn fell_off(gpu: u32, cleared: bool) -> Observation {
    Observation::Health(HealthEvent {
        node: NodeName("node-1".into()),
        gpu: Some(gpu),
        nic: None,
        code: "xid-79".into(),
        detail: "GPU has fallen off the bus".into(),
        severity: Severity::Fatal,
        cleared,
        ago_us: 0,
    })
}

#[test]
fn a_health_event_becomes_the_cause() {
    let mut story = Story::new();
    story.learn();
    story.tell(fell_off(1, false));
    for second in 1..=6 {
        story.window(0, At::Idle(20), At::Idle(20));
        story.window(1, At::Idle(20), At::Waits(20, second * S));
        story.window(2, At::Waits(20, second * S), At::Idle(20));
        story.window(3, At::Idle(20), At::Idle(20));
        story.tick(S);
    }
    assert_eq!(story.told[0].kind, Kind::NonCommHang);
    let summary = &story.told[0].summary;
    assert!(summary.starts_with("rank 3, GPU 1 of node-1, fell off the bus at "), "{summary}");
    assert!(summary.contains(" UTC (XID 79): "), "{summary}");
    assert!(
        story.told[0].evidence["recommended_action"].as_str().is_some_and(|action| action.contains("reboot")),
        "{:?}",
        story.told[0].evidence
    );
    assert_eq!(story.told[0].evidence["health"][0]["code"], "xid-79");
    story.tick(60 * S);
    assert!(story.told.iter().all(|finding| finding.kind != Kind::Health), "the hang already tells of it");
}

#[test]
fn a_health_event_nobody_suffers_from_is_a_warning_that_clears() {
    let mut story = Story::new();
    story.learn();
    story.tell(fell_off(1, false));
    story.tick(S);
    assert!(story.told.is_empty());
    story.tick(11 * S);
    assert_eq!(story.told.len(), 1);
    let warning = &story.told[0];
    assert_eq!((warning.kind, warning.job.0.as_str()), (Kind::Health, "llm"));
    assert!(warning.confidence < 0.5);
    assert_eq!(warning.suspects[0].rank, Some(3));
    story.tell(fell_off(1, true));
    assert!(story.told[1].cleared.is_some());
}

#[test]
fn a_new_incarnation_clears_what_the_old_one_did() {
    let mut story = Story::new();
    story.learn();
    story.tell(Observation::ProcessEnded(ProcessEnd {
        found: false,
        process: ProcessId(2),
        ago_us: 0,
        finalized: false,
        exit_code: None,
        signal: Some(9),
    }));
    assert_eq!(story.told[0].kind, Kind::ProcessDeath);
    story.start(1);
    assert!(story.told.last().is_some_and(|finding| finding.cleared.is_some()));
    let view = &story.detector.jobs()[0];
    assert_eq!((view.incarnation, view.ranks.len()), (1, 4));
    assert!(view.iteration_ns.is_some(), "the rhythm is inherited as a prior");
    assert_eq!(view.verdict, Verdict::Learning);
    // What still comes from the old one is ignored.
    let before = story.told.len();
    story.tell(Observation::ProcessEnded(ProcessEnd {
        found: false,
        process: ProcessId(3),
        ago_us: 0,
        finalized: false,
        exit_code: None,
        signal: Some(9),
    }));
    story.tick(10 * S);
    assert_eq!(story.told.len(), before);
}

#[test]
fn a_restart_without_a_new_number_is_a_new_life_all_the_same() {
    let mut story = Story::new();
    story.learn();
    for rank in 0..4 {
        let signal = (rank == 2).then_some(9);
        story.tell(Observation::ProcessEnded(ProcessEnd {
            found: false,
            process: ProcessId(rank),
            ago_us: 0,
            finalized: false,
            exit_code: None,
            signal,
        }));
    }
    for rank in 0..4 {
        let mut info = info(rank, 0);
        info.process = ProcessId(1_000 + u64::from(rank));
        story.tell(Observation::ProcessStarted(info));
    }
    story.tick(S);
    let open: Vec<_> = story.told.iter().filter(|finding| finding.cleared.is_none()).collect();
    assert_eq!(open.len(), story.told.len() - 1, "the death was cleared");
    assert_eq!(story.detector.jobs()[0].verdict, Verdict::Learning);
}

#[test]
fn contradictions_make_the_verdict_unknown_and_break_nothing() {
    let mut story = Story::new();
    let mut twin = info(1, 0);
    twin.process = ProcessId(77);
    story.tell(Observation::ProcessStarted(twin));
    for (comm, size, comm_rank) in [(TP[0], 2, 0), (TP[0], 3, 2), (TP[0], 2, 9), (CommId(1), 0, 0)] {
        story.tell(Observation::CommunicatorJoined(Membership {
            process: ProcessId(77),
            comm,
            name: String::new(),
            size,
            comm_rank,
        }));
    }
    let Verdict::Unknown { missing } = story.detector.jobs()[0].verdict.clone() else {
        panic!("{:?}", story.detector.jobs()[0].verdict)
    };
    for part in [
        "rank 1 is claimed by two processes",
        "has 2 ranks, or 3",
        "rank 9 of",
        "rank 0 of communicator 70 is claimed",
    ] {
        assert!(missing.iter().any(|text| text.contains(part)), "{part}: {missing:?}");
    }
    assert!(story.told.is_empty());
}
