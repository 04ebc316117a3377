//! A detector that begins in the middle of a job, as a controller's does that takes over from another: agents come one after
//! the other, each with all that it knows, the dead included.

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind},
    observation::{
        CommId, CommWindow, Hearing, InFlight, JobId, Membership, NodeName, Observation, OperationSignature,
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
        before: None,
    });
    let begun = completed + u64::from(in_flight.is_some());
    let comm = CommWindow {
        comm: CommId(9),
        enqueued: begun,
        started: begun,
        completed,
        in_flight,
        idle_us: 0,
        unseen_us: 0,
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
    let end =
        ProcessEnd { found: false, process: process(rank), ago_us, finalized: false, exit_code, signal };
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
    let last = ranks.iter().map(|(_, ms)| *ms).max().unwrap_or(0) + 25_000;
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

/// Tells of node 1, whose ranks failed, and 200 ms later of who there is on node 0, but of what happened there only after `pause_ms`
/// more; whether it is said how the nodes are heard.
fn told_bit_by_bit(pause_ms: u64, of_hearing: bool, killed: Option<i32>) -> Vec<Finding> {
    let mut detector = Detector::new(Config::default());
    let mut findings = Vec::new();
    for ms in (6_000..30_000).step_by(20) {
        let now = DIED.after(ms * MS);
        let mut say = |observation| findings.extend(detector.observe(observation, now));
        let heard =
            |node: u32, hearing| Observation::NodeHeard { node: NodeName(format!("node-{node}")), hearing };
        if ms == 6_000 && of_hearing {
            say(heard(1, Hearing::CatchingUp));
        }
        if ms == 6_000 {
            for mut observation in [1, 3].into_iter().flat_map(|rank| introduction(rank, now)) {
                if let Observation::ProcessEnded(end) = &mut observation {
                    end.signal = killed;
                }
                say(observation);
            }
        }
        if ms == 6_000 && of_hearing {
            say(heard(1, Hearing::AtOnce));
        }
        if ms == 6_200 && of_hearing {
            say(heard(0, Hearing::CatchingUp));
        }
        if ms == 6_200 {
            [0, CAUSE].into_iter().flat_map(identity).for_each(&mut say);
        }
        if ms == 6_200 + pause_ms {
            [0, CAUSE].into_iter().flat_map(|rank| introduction(rank, now)).for_each(&mut say);
        }
        if ms == 6_200 + pause_ms && of_hearing {
            say(heard(0, Hearing::AtOnce));
        }
        say(Observation::Tick);
    }
    findings
}

#[test]
fn who_is_there_but_was_not_heard_of_yet_may_be_the_cause() {
    for pause_ms in [20, 400, 800, 3_000] {
        names_the_cause_and_only_it(&told_bit_by_bit(pause_ms, false, None));
        names_the_cause_and_only_it(&told_bit_by_bit(pause_ms, true, None));
        // Others were killed as well, later: whoever starts jobs does that.
        names_the_cause_and_only_it(&told_bit_by_bit(pause_ms, true, Some(9)));
    }
}

#[test]
fn who_is_announced_and_never_heard_of_hides_nothing_for_ever() {
    let findings = told_bit_by_bit(60_000, false, None);
    assert_eq!(findings.first().expect("it is told").kind, Kind::ProcessDeath);
}

/// A detector that has long known all four ranks; the agent of node 0 goes away, the cause dies there, its peers fail of that 30 ms later,
/// and the agent comes back after `away_ms` and finds its ranks ended. What it knows of how the cause ended is given.
fn found_ended(away_ms: u64, signal: Option<i32>) -> Vec<Finding> {
    let mut detector = Detector::new(Config::default());
    let mut findings = Vec::new();
    for ms in (0..60_000 + away_ms + 5_000).step_by(20) {
        let now = DIED.before(60_000 * MS).after(ms * MS);
        let mut say = |observation| findings.extend(detector.observe(observation, now));
        let heard = |hearing| Observation::NodeHeard { node: NodeName("node-0".into()), hearing };
        if ms == 0 {
            (0..4).flat_map(identity).for_each(&mut say);
        }
        if ms == 59_500 {
            say(heard(Hearing::Away));
        }
        for rank in 0..4 {
            let seen = ms < 59_500 || rank % 2 == 1;
            if ms % 1_000 == u64::from(rank) * 20 && ms < 60_000 && seen {
                say(Observation::Window(window(rank, ProcessState::Running, ms / 100, 0)));
            }
        }
        let mut end = |rank: u32, ago_us: u64, exit_code, signal, found| {
            say(Observation::Window(window(rank, ProcessState::Zombie, 600, 20 * MS)));
            let end =
                ProcessEnd { process: process(rank), ago_us, finalized: false, exit_code, signal, found };
            say(Observation::ProcessEnded(end));
        };
        if ms == 60_040 {
            [1, 3].into_iter().for_each(|rank| end(rank, 10 * MS, Some(1), None, false));
        }
        if ms == 60_000 + away_ms {
            // Both last gave a sign of life a while before, the cause not before the other.
            end(0, (away_ms + 80) * MS, None, None, true);
            end(CAUSE, (away_ms + 60) * MS, None, signal, true);
        }
        if ms == 60_000 + away_ms {
            say(heard(Hearing::AtOnce));
        }
        say(Observation::Tick);
    }
    findings
}

#[test]
fn nobody_is_named_before_an_agent_that_was_away_has_said_what_it_found() {
    for away_ms in [200, 900, 4_000, 20_000] {
        let findings = found_ended(away_ms, Some(9));
        assert!(!findings.is_empty(), "it is told after {away_ms} ms");
        for finding in &findings {
            assert_eq!(finding.suspects[0].rank, Some(CAUSE), "after {away_ms} ms: {finding:#?}");
            assert_eq!((finding.cleared, &finding.id), (None, &findings[0].id));
        }
    }
}

#[test]
fn who_was_first_among_those_found_ended_is_not_certain_where_nothing_tells() {
    let findings = found_ended(4_000, None);
    let first = findings.first().expect("it is told");
    assert!(matches!(first.suspects[0].rank, Some(0 | CAUSE)), "not who is known to have failed: {first:#?}");
    assert!(first.confidence < 0.8, "{first:#?}");
    assert!(first.evidence.contains_key("ended_together_with"), "{first:#?}");
}

#[test]
fn a_node_that_never_comes_hides_nothing_for_ever() {
    let findings = told(&[(1, 6_000), (3, 6_000)]);
    let first = findings.first().expect("it is told");
    assert_eq!(first.kind, Kind::ProcessDeath);
    assert!(first.detected >= DIED.after(20_000 * MS), "the others might have come: {first:#?}");
    assert!(first.confidence <= 0.5 && first.certainty() > 0.9, "they may have been the first: {first:#?}");
}

/// Node 0 loses its power, if it does, or else only its agent; the ranks of node 1 fail 30 ms later. The agent is back after a while, if
/// at all, and the ranks of node 0 live on then, if they do. What was told, in order.
fn out_of_sight(back_ms: Option<u64>, lives: bool) -> Vec<Finding> {
    out_of_sight_until(30, 0, back_ms, lives)
}

/// The same where the ranks of node 1 fail so long after node 0 went out of sight, and so long after the job stands still.
fn out_of_sight_until(fail_ms: u64, on_ms: u64, back_ms: Option<u64>, lives: bool) -> Vec<Finding> {
    let mut detector = Detector::new(Config::default());
    let mut findings = Vec::new();
    for ms in (0..120_000).step_by(20) {
        let now = DIED.before(40_000 * MS).after(ms * MS);
        let mut say = |observation| findings.extend(detector.observe(observation, now));
        let node = || NodeName("node-0".into());
        if ms == 0 {
            (0..4).flat_map(identity).for_each(&mut say);
        }
        let back = back_ms.is_some_and(|back_ms| ms >= 40_000 + back_ms);
        if ms == 40_000 {
            say(Observation::NodeHeard { node: node(), hearing: Hearing::Away });
        }
        if ms == 43_000 {
            say(Observation::NodeLost { node: node() });
        }
        if back_ms.is_some_and(|back_ms| ms == 40_000 + back_ms) {
            say(Observation::NodeSeen { node: node(), nic_class: None });
            say(Observation::NodeHeard { node: node(), hearing: Hearing::AtOnce });
        }
        for rank in 0..4 {
            let seen = if rank % 2 == 0 { ms < 40_000 || (back && lives) } else { ms < 40_010 + fail_ms };
            if ms % 1_000 == u64::from(rank) * 20 && seen {
                let waits_us = ms.saturating_sub(40_000 + on_ms) * MS;
                let completed = ms.min(40_000 + on_ms) / 100;
                say(Observation::Window(window(rank, ProcessState::Running, completed, waits_us)));
            }
        }
        if ms == (40_010 + fail_ms) / 20 * 20 {
            for rank in [1, 3] {
                let (completed, waits_us) = ((40_000 + on_ms) / 100, (fail_ms - on_ms) * MS);
                say(Observation::Window(window(rank, ProcessState::Zombie, completed, waits_us)));
                let (process, exit_code) = (process(rank), Some(1));
                let (ago_us, finalized, signal, found) = (10 * MS, false, None, false);
                let end = ProcessEnd { process, ago_us, finalized, exit_code, signal, found };
                say(Observation::ProcessEnded(end));
            }
        }
        say(Observation::Tick);
    }
    findings
}

#[test]
fn a_node_that_is_gone_for_good_is_named_and_not_those_who_failed_of_that() {
    let findings = out_of_sight(None, false);
    let first = findings.first().expect("it is told");
    assert!((DIED.after(20_000 * MS)..DIED.after(25_000 * MS)).contains(&first.detected), "{first:#?}");
    for finding in &findings {
        assert_eq!((finding.kind, finding.cleared), (Kind::ProcessDeath, None), "{finding:#?}");
        let [suspect] = &finding.suspects[..] else { panic!("{finding:#?}") };
        assert_eq!((suspect.rank, &suspect.node), (None, &Some(NodeName("node-0".into()))), "{finding:#?}");
        assert!(
            finding.summary.contains("node-0 went out of sight")
                && finding.summary.contains("rank 0 and rank 2")
        );
        assert!(finding.confidence < 0.8 && finding.certainty() > 0.9, "{finding:#?}");
    }
    assert!(findings.last().unwrap().explains.iter().any(|text| text.contains("rank 1 ended as well")));
}

#[test]
fn a_node_for_which_the_job_has_stood_still_is_named_however_late_its_peers_fail() {
    let findings = out_of_sight_until(12_000, 0, None, false);
    let named = findings.iter().filter(|finding| finding.kind == Kind::ProcessDeath);
    let nodes: Vec<_> = named.map(|finding| finding.suspects[0].node.clone()).collect();
    assert!(
        !nodes.is_empty() && nodes.iter().all(|node| *node == Some(NodeName("node-0".into()))),
        "{findings:#?}"
    );
    assert!(findings.iter().all(|finding| finding.suspects.iter().all(|suspect| suspect.rank.is_none())));
    // Where the others went on for long after, its ranks were there, and one of those that failed was the first.
    let findings = out_of_sight_until(12_000, 11_900, None, true);
    let first = findings.first().expect("it is told");
    assert_eq!((first.kind, first.suspects[0].rank), (Kind::ProcessDeath, Some(1)), "{first:#?}");
}

#[test]
fn who_lives_after_all_is_no_longer_accused() {
    assert!(out_of_sight(Some(5_000), true).iter().all(|finding| {
        finding.suspects.iter().all(|suspect| suspect.rank.is_some_and(|rank| rank % 2 == 1))
    }));
    let findings = out_of_sight(Some(40_000), true);
    let about_gone = |finding: &&Finding| finding.suspects[0].rank.is_none();
    assert!(findings.iter().rfind(about_gone).is_some_and(|last| last.cleared.is_some()));
    let last = findings.last().expect("it is told");
    assert_eq!((last.suspects[0].rank, last.cleared), (Some(1), None), "{last:#?}");
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

#[test]
fn one_that_is_shown_as_ended_does_not_hang_before_its_end_is_told() {
    for told_after_us in [0, 1_000 * MS, u64::MAX] {
        let mut detector = Detector::new(Config { learning_hang_ms: 5_000, ..Config::default() });
        let mut findings = Vec::new();
        let mut say = |observation, now| findings.extend(detector.observe(observation, now));
        for rank in 0..4 {
            identity(rank).into_iter().for_each(|observation| say(observation, DIED));
        }
        // An agent that begins anew shows what it finds, and then tells that it has ended.
        let begins = DIED.after(6_400 * MS);
        for rank in [0, 1, 3] {
            say(Observation::Window(window(rank, ProcessState::Running, 40, 6_390 * MS)), begins);
        }
        for ms in (0..5_000).step_by(100) {
            let (since_us, now) = (ms * MS, begins.after(ms * MS));
            if ms.is_multiple_of(1_000) && since_us <= told_after_us {
                for rank in [0, 1, 3] {
                    let waits_us = 6_390 * MS + since_us;
                    say(Observation::Window(window(rank, ProcessState::Running, 40, waits_us)), now);
                }
                say(Observation::Window(window(CAUSE, ProcessState::Zombie, 40, 0)), now);
            }
            if since_us == told_after_us {
                let (process, ago_us) = (process(CAUSE), now.micros_since(DIED));
                let signal = Some(9);
                let end =
                    ProcessEnd { found: true, process, ago_us, finalized: false, exit_code: None, signal };
                say(Observation::ProcessEnded(end), now);
            }
            say(Observation::Tick, now);
        }
        let kinds: Vec<Kind> = findings.iter().map(|finding| finding.kind).collect();
        // One whose end is never told is stuck in ending, and holds the others up all the same.
        let expected = if told_after_us == u64::MAX { Kind::NonCommHang } else { Kind::ProcessDeath };
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == expected), "{findings:#?}");
        assert_eq!(findings[0].suspects[0].rank, Some(CAUSE));
    }
}
