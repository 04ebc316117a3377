use c4_detect::observation::{CommWindow, Edge, ProcessState, StepState};

use super::*;

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

fn info(process: u64, on: &str, rank: u32) -> ProcessInfo {
    ProcessInfo {
        process: ProcessId(process),
        job: JobId("job".into()),
        incarnation: 0,
        rank: Some(rank),
        world_size: Some(2),
        node: node(on),
        gpu: None,
        pid: 100 + u32::try_from(process).unwrap(),
        blind_spots: Vec::new(),
    }
}

fn member(process: u64, comm: u64, comm_rank: u32) -> Membership {
    Membership { process: ProcessId(process), comm: CommId(comm), name: String::new(), size: 2, comm_rank }
}

fn window(process: u64, comm: u64, position: u64) -> Window {
    Window {
        process: ProcessId(process),
        duration_us: 1,
        state: ProcessState::Running,
        kernel_events: false,
        profiling: true,
        dropped: 0,
        unread: 0,
        own: None,
        comms: vec![CommWindow {
            pending_peers: Vec::new(),
            links: Vec::new(),
            comm: CommId(comm),
            enqueued: position,
            started: position,
            completed: position,
            in_flight: None,
            idle_us: 0,
            unseen_us: 0,
            blocks: Vec::new(),
            edges: Vec::new(),
            iterations: Vec::new(),
        }],
    }
}

fn ended(process: u64) -> ProcessEnd {
    ProcessEnd {
        found: false,
        process: ProcessId(process),
        ago_us: 0,
        finalized: false,
        exit_code: None,
        signal: None,
    }
}

fn job() -> JobId {
    JobId("job".into())
}

fn two_ranks() -> Registry {
    let mut registry = Registry::default();
    assert_eq!(registry.announce(&info(1, "a", 0)), Ok(Announced::NewRun));
    assert_eq!(registry.announce(&info(2, "b", 1)), Ok(Announced::NewProcess));
    registry.join(&member(1, 9, 0), &node("a")).unwrap();
    registry.join(&member(2, 9, 1), &node("b")).unwrap();
    assert_eq!(registry.conflicts(&job()), Vec::<String>::new());
    registry
}

#[test]
fn a_process_belongs_to_the_node_that_announced_it() {
    let mut registry = two_ranks();
    assert!(matches!(registry.window(&window(1, 9, 1), &node("b")), Err(Refusal::Foreign { .. })));
    assert!(matches!(registry.window(&window(7, 9, 1), &node("a")), Err(Refusal::NotAnnounced { .. })));
    assert!(matches!(registry.announce(&info(1, "b", 0)), Err(Refusal::Foreign { .. })));
    assert!(matches!(registry.end(&ended(1), &node("b"), Timestamp(9)), Err(Refusal::Foreign { .. })));
    assert_eq!(registry.window(&window(1, 9, 1), &node("a")), Ok(None));
}

#[test]
fn identity_may_be_completed_but_not_changed() {
    let mut registry = Registry::default();
    registry.announce(&ProcessInfo { rank: None, ..info(1, "a", 0) }).unwrap();
    assert_eq!(registry.announce(&info(1, "a", 0)), Ok(Announced::Known));
    assert!(matches!(registry.announce(&info(1, "a", 1)), Err(Refusal::Changed { .. })));
    let other = ProcessInfo { job: JobId("other".into()), ..info(1, "a", 0) };
    assert!(matches!(registry.announce(&other), Err(Refusal::Changed { .. })));
}

#[test]
fn positions_sizes_ranks_and_peers_are_held_to() {
    let mut registry = two_ranks();
    registry.window(&window(1, 9, 5), &node("a")).unwrap();
    assert!(matches!(
        registry.window(&window(1, 9, 4), &node("a")),
        Err(Refusal::WentBack { before: 5, now: 4, .. })
    ));
    assert!(matches!(registry.window(&window(1, 8, 6), &node("a")), Err(Refusal::NotJoined { comm: 8, .. })));
    let larger = Membership { size: 4, ..member(1, 9, 0) };
    assert!(matches!(
        registry.join(&larger, &node("a")),
        Err(Refusal::SizeChanged { before: 2, now: 4, .. })
    ));
    assert!(matches!(registry.join(&member(1, 9, 1), &node("a")), Err(Refusal::RankChanged { .. })));
    let mut wrong = window(1, 9, 6);
    wrong.comms[0].edges.push(Edge {
        peer: 2,
        channel: 0,
        is_send: true,
        state: StepState::Idle,
        state_age_us: 0,
        steps_done: 0,
        bytes: 0,
    });
    assert!(matches!(registry.window(&wrong, &node("a")), Err(Refusal::NoSuchPeer { peer: 2, size: 2, .. })));
    // What was refused has changed nothing.
    assert_eq!(registry.window(&window(1, 9, 5), &node("a")), Ok(None));
    // Where NCCL does not tell how many ranks there are, any may be one.
    registry.join(&Membership { size: 0, ..member(1, 7, 0) }, &node("a")).unwrap();
    wrong.comms[0].comm = CommId(7);
    assert_eq!(registry.window(&wrong, &node("a")), Ok(None));
}

#[test]
fn progress_is_told_once_when_all_ranks_have_made_some() {
    let mut registry = two_ranks();
    assert_eq!(registry.window(&window(1, 9, 0), &node("a")), Ok(None));
    assert_eq!(registry.window(&window(1, 9, 3), &node("a")), Ok(None));
    assert_eq!(registry.window(&window(1, 9, 4), &node("a")), Ok(None));
    let progress = Progress { job: job(), incarnation: 0 };
    assert_eq!(registry.window(&window(2, 9, 1), &node("b")), Ok(Some(progress)));
    assert_eq!(registry.window(&window(2, 9, 2), &node("b")), Ok(None));
}

#[test]
fn a_rank_claimed_twice_is_a_conflict_until_one_claimant_is_gone() {
    let mut registry = two_ranks();
    registry.announce(&info(3, "c", 1)).unwrap();
    let said = registry.conflicts(&job());
    assert_eq!(said, ["rank 1 is claimed by pid 102 on b and pid 103 on c"]);
    registry.end(&ended(3), &node("c"), Timestamp(9)).unwrap();
    assert!(registry.conflicts(&job()).is_empty());

    registry.announce(&info(4, "c", 1)).unwrap();
    assert_eq!(registry.conflicts(&job()).len(), 1);
    registry.node_lost(&node("c"));
    assert!(registry.conflicts(&job()).is_empty());
    registry.announce(&info(4, "c", 1)).unwrap();
    assert_eq!(registry.conflicts(&job()).len(), 1, "the node is back, and so is its claim");
}

#[test]
fn two_jobs_with_one_name_are_recognised() {
    let mut registry = two_ranks();
    registry.announce(&ProcessInfo { world_size: Some(4), ..info(3, "c", 3) }).unwrap();
    assert!(registry.conflicts(&job())[0].contains("world sizes 2 and 4"));

    let mut registry = two_ranks();
    registry.announce(&info(3, "c", 0)).unwrap();
    registry.join(&member(3, 77, 0), &node("c")).unwrap();
    assert!(
        registry.conflicts(&job())[0].contains("share no communicator"),
        "{:?}",
        registry.conflicts(&job())
    );
}

#[test]
fn a_restart_is_no_conflict_with_the_run_before() {
    let mut registry = two_ranks();
    assert_eq!(registry.announce(&ProcessInfo { incarnation: 1, ..info(3, "a", 0) }), Ok(Announced::NewRun));
    assert!(registry.conflicts(&job()).is_empty());
    assert_eq!(registry.incarnation(&job()), Some(1));
}

#[test]
fn what_ended_is_refused_and_later_forgotten() {
    let mut registry = two_ranks();
    assert_eq!(registry.end(&ended(1), &node("a"), Timestamp(1)), Ok(true));
    assert_eq!(registry.end(&ended(1), &node("a"), Timestamp(1)), Ok(false));
    assert!(matches!(registry.window(&window(1, 9, 1), &node("a")), Err(Refusal::Ended { .. })));
    // An agent that missed the acknowledgement introduces it once more, which revives nothing.
    assert_eq!(registry.announce(&info(1, "a", 0)), Ok(Announced::Gone));
    assert_eq!(registry.join(&member(1, 9, 0), &node("a")), Ok(false));
    registry.end(&ended(2), &node("b"), Timestamp(1)).unwrap();
    registry.prune(Timestamp(FORGET_US + 2));
    assert!(registry.processes.is_empty() && registry.comms.is_empty());
    assert!(registry.jobs.is_empty() && registry.by_node.is_empty());
}

#[test]
fn a_rank_of_a_communicator_claimed_twice_is_a_conflict_until_one_claimant_is_gone() {
    let mut registry = two_ranks();
    registry.announce(&ProcessInfo { rank: None, ..info(3, "c", 0) }).unwrap();
    registry.join(&member(3, 9, 1), &node("c")).unwrap();
    let said = registry.conflicts(&job());
    assert_eq!(said, ["on communicator 9, rank 1 is claimed by more than one live process"]);
    registry.end(&ended(3), &node("c"), Timestamp(9)).unwrap();
    assert!(registry.conflicts(&job()).is_empty());
}

#[test]
fn a_process_that_makes_communicators_all_the_time_is_known_in_the_newest() {
    let mut registry = two_ranks();
    for comm in 100..100 + 3 * MAX_PLACES as u64 {
        for (process, rank, on) in [(1, 0, "a"), (2, 1, "b")] {
            registry.join(&member(process, comm, rank), &node(on)).unwrap();
            let mut both = window(process, 9, comm);
            both.comms.extend(window(process, comm, 1).comms);
            registry.window(&both, &node(on)).unwrap();
        }
    }
    let newest = CommId(99 + 3 * MAX_PLACES as u64);
    for comm in [CommId(9), newest] {
        assert_eq!(registry.at(comm, 1).map(|info| info.process), Some(ProcessId(2)));
    }
    assert!(registry.at(CommId(100), 1).is_none() && registry.comms.len() <= MAX_PLACES);
    assert_eq!(registry.conflicts(&job()), Vec::<String>::new());
}

#[test]
fn a_process_cannot_be_in_any_number_of_communicators_at_once() {
    let mut registry = two_ranks();
    let join = |comm| registry.join(&member(1, comm, 0), &node("a"));
    let refused = (100..101 + MAX_PLACES as u64).map(join).find_map(Result::err);
    assert_eq!(refused, Some(Refusal::TooManyCommunicators { process: 1 }));
}
