//! Whatever is told, in whatever order: no panic, bounded memory, and findings that hold together.

mod common;

use c4_detect::{
    detector::{Config, Detector},
    observation::*,
};
use common::{Fault, Shape, Sim, assert_sound, feed};
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, 0..64u64, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, Just(u32::MAX)]
}

fn block() -> impl Strategy<Value = Block> {
    (number(), prop_oneof![Just(1u32), Just(2), Just(4), small()], 0..3u64, number(), number(), number())
        .prop_map(|(first, length, signature, wait_ns, span_ns, gap_ns)| Block {
            first,
            length,
            signature,
            wait_ns,
            min_wait_ns: 0,
            max_wait_ns: wait_ns,
            span_ns,
            gap_ns,
            bytes: 0,
            own_ns: (wait_ns % 2 == 0).then_some(gap_ns / 2),
            silent_ns: (wait_ns % 4 == 0).then_some(gap_ns / 3),
            longest_own_ns: (wait_ns % 4 == 0).then_some(gap_ns / 5),
            beside: (wait_ns % 7) as u32,
            awaited: (wait_ns % 5) as u32,
        })
}

fn comm_window() -> impl Strategy<Value = CommWindow> {
    let edge = (small(), small(), any::<bool>(), 0..3usize, number()).prop_map(
        |(peer, channel, is_send, state, n)| Edge {
            peer,
            channel,
            is_send,
            state: [StepState::SendWait, StepState::RecvWait, StepState::RecvGpuWait][state],
            state_age_us: n,
            steps_done: n,
            bytes: n,
        },
    );
    let in_flight =
        (number(), 0..3u64, any::<bool>(), number()).prop_map(|(sequence, count, started, age_us)| {
            InFlight {
                sequence,
                signature: common::signature(count),
                started,
                age_us,
                started_age_us: age_us,
                before: None,
            }
        });
    let iteration = (number(), small(), number()).prop_map(|(first, operations, duration_ns)| Iteration {
        first,
        operations,
        duration_ns,
        count: operations % 5,
    });
    (
        (0..3u64, number(), number(), number(), number()),
        proptest::option::of(in_flight),
        proptest::collection::vec(block(), 0..4),
        proptest::collection::vec(edge, 0..3),
        proptest::collection::vec(iteration, 0..4),
    )
        .prop_map(
            |((comm, enqueued, started, completed, idle_us), in_flight, blocks, edges, iterations)| {
                CommWindow {
                    pending_peers: Vec::new(),
                    links: Vec::new(),
                    comm: CommId(comm),
                    enqueued,
                    started,
                    completed,
                    in_flight,
                    idle_us,
                    unseen_us: 0,
                    blocks,
                    edges,
                    iterations,
                }
            },
        )
}

fn observation() -> impl Strategy<Value = Observation> {
    let process = 0..6u64;
    let job = (0..2usize).prop_map(|i| JobId(["a", "b"][i].into()));
    let node = || (0..3u32).prop_map(|i| NodeName(format!("node-{i}")));
    let started = (process.clone(), job.clone(), 0..3u32, proptest::option::of(small()), node(), number())
        .prop_map(|(process, job, incarnation, rank, node, pid)| {
            Observation::ProcessStarted(ProcessInfo {
                process: ProcessId(process),
                job,
                incarnation,
                rank,
                world_size: rank,
                node,
                gpu: rank,
                pid: pid as u32,
                blind_spots: Vec::new(),
            })
        });
    let joined = (process.clone(), 0..3u64, small(), small()).prop_map(|(process, comm, size, comm_rank)| {
        let (process, comm) = (ProcessId(process), CommId(comm));
        Observation::CommunicatorJoined(Membership { process, comm, name: String::new(), size, comm_rank })
    });
    let states = [ProcessState::Unknown, ProcessState::Running, ProcessState::Stopped, ProcessState::Zombie];
    let window = (
        process.clone(),
        (any::<bool>(), any::<bool>(), number(), 0..4usize),
        proptest::collection::vec(comm_window(), 0..4),
    )
        .prop_map(move |(process, (kernel_events, profiling, lost, state), comms)| {
            Observation::Window(Window {
                process: ProcessId(process),
                duration_us: lost,
                state: states[state],
                kernel_events,
                profiling,
                dropped: lost,
                unread: lost,
                own: None,
                comms,
            })
        });
    let code = || proptest::option::of(-2..140i32);
    let ended = (process, number(), any::<bool>(), code(), code()).prop_map(
        |(process, ago_us, finalized, exit_code, signal)| {
            let process = ProcessId(process);
            Observation::ProcessEnded(ProcessEnd {
                found: false,
                process,
                ago_us,
                finalized,
                exit_code,
                signal,
            })
        },
    );
    let health = (node(), proptest::option::of(small()), any::<bool>(), number()).prop_map(
        |(node, gpu, cleared, ago_us)| {
            Observation::Health(HealthEvent {
                node,
                gpu,
                nic: None,
                code: "xid-79".into(),
                detail: String::new(),
                severity: Severity::Fatal,
                cleared,
                ago_us,
            })
        },
    );
    prop_oneof![
        3 => started,
        3 => joined,
        8 => window,
        1 => ended,
        1 => health,
        1 => node().prop_map(|node| {
            let nic_class = (node.0.len() % 2 == 0).then(|| NicClass("eth-25".into()));
            Observation::NodeSeen { node, nic_class }
        }),
        1 => node().prop_map(|node| Observation::NodeLost { node }),
        1 => (job, 0..3u32).prop_map(|(job, incarnation)| Observation::JobStopping { job, incarnation }),
        3 => Just(Observation::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_panics_and_findings_hold_together(
        story in proptest::collection::vec((observation(), prop_oneof![0..2_000_000u64, Just(4_000_000_000)]), 1..200),
    ) {
        let mut detector = Detector::new(Config::default());
        let mut now = Timestamp(1_700_000_000_000_000);
        for (observation, later) in story {
            now = now.after(later);
            detector.observe(observation, now).iter().for_each(|finding| assert_sound(finding, now));
            prop_assert!(detector.jobs().len() <= 2);
        }
    }
}

#[test]
fn time_that_goes_back_is_taken_for_standing_still() {
    let mut observations = Sim::new(5_000, Shape::new(4, 100_000), vec![]).observations(30_000_000);
    for (i, (now, _)) in observations.iter_mut().enumerate() {
        if i % 97 == 0 {
            *now = now.before(5_000_000);
        }
    }
    assert!(feed(Detector::new(Config::default()), observations).opened.is_empty());
}

#[test]
fn jobs_that_are_over_are_forgotten() {
    let mut detector = Detector::new(Config::default());
    for round in 0..5u64 {
        let end =
            Fault::End { at: 10_000_000, spread: 100_000, finalized: true, exit_code: None, signal: None };
        let start = round * 7_200_000_000;
        let mut sim =
            Sim::of_job(5_100 + round, Shape::new(4, 100_000), vec![end], &format!("job-{round}"), 0, start);
        let outcome = feed(detector, sim.observations(20_000_000));
        assert!(outcome.opened.is_empty());
        detector = outcome.detector;
        assert_eq!(detector.jobs().len(), 1, "the last one was forgotten after an hour");
    }
}
