//! Deaths, hangs and disagreements: right kind, right rank, in time, in jobs of many shapes.

mod common;

use c4_detect::{
    detector::{Config, Detector},
    finding::{Kind, Verdict},
    observation::{Observation, ProcessEnd, ProcessState},
};
use common::{Fault, Outcome, Shape, Sim, feed, run};

const S: u64 = 1_000_000;

/// Ranks and iteration times; all settle within the time before the fault.
const SHAPES: [(usize, u64); 5] = [(2, 20_000), (3, 500_000), (8, 100_000), (16, 250_000), (64, 500_000)];

fn each_shape(mut check: impl FnMut(Shape, usize, u64)) {
    for (i, (ranks, iteration_us)) in SHAPES.into_iter().enumerate() {
        for round in 0..2 {
            let seed = 1_000 + i as u64 * 10 + round;
            let rank = (seed as usize * 7) % ranks;
            check(Shape::new(ranks, iteration_us), rank, seed);
        }
    }
}

#[track_caller]
fn expect(outcome: &Outcome, kind: Kind, rank: usize, at: u64, within_s: f64, what: &str) {
    assert_eq!(outcome.kinds(), vec![kind], "{what}: {}", outcome.describe());
    assert_eq!(outcome.first_rank(), Some(rank as u32), "{what}: {}", outcome.describe());
    let delay = outcome.delay(at);
    assert!((0.0..=within_s).contains(&delay), "{what}: {delay} s\n{}", outcome.describe());
}

#[test]
fn a_supervised_death_is_named_within_a_second() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let outcome = run(seed, shape, vec![Fault::Kill { rank, at, supervised: true }], 40 * S);
        expect(&outcome, Kind::ProcessDeath, rank, at, 1.0, &format!("seed {seed}"));
        assert!(outcome.opened[0].summary.contains("died: killed by signal 9 (SIGKILL) at 22:13:"));
    });
}

#[test]
fn an_unsupervised_death_is_named_within_a_second() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let outcome = run(seed, shape, vec![Fault::Kill { rank, at, supervised: false }], 40 * S);
        expect(&outcome, Kind::ProcessDeath, rank, at, 1.0, &format!("seed {seed}"));
    });
}

#[test]
fn a_death_of_which_nothing_is_known_but_that_it_ended_is_named_within_a_second() {
    each_shape(|mut shape, rank, seed| {
        shape.final_window = false;
        let at = 20 * S + seed * 1_237 % S;
        let outcome = run(seed + 50, shape, vec![Fault::Kill { rank, at, supervised: false }], 40 * S);
        expect(&outcome, Kind::ProcessDeath, rank, at, 1.0, &format!("seed {seed}"));
    });
}

#[test]
fn peers_that_end_after_a_death_are_explained_by_it() {
    let at = 20 * S;
    let faults = vec![
        Fault::Kill { rank: 3, at, supervised: true },
        Fault::End { at: 25 * S, spread: S, finalized: false, exit_code: Some(1), signal: None },
    ];
    let outcome = run(1_100, Shape::new(8, 100_000), faults, 40 * S);
    assert_eq!(outcome.kinds(), vec![Kind::ProcessDeath], "{}", outcome.describe());
    let last = outcome.last.values().next().expect("one finding");
    assert_eq!(last.suspects[0].rank, Some(3));
    assert_eq!(last.explains.iter().filter(|text| text.contains("ended as well")).count(), 7, "{last:?}");
}

#[test]
fn the_cause_of_a_cascade_is_named_in_whatever_order_the_ends_are_told() {
    const CAUSE: usize = 3;
    let failed = (None, Some(1));
    for cause in [(Some(9), None), (Some(6), None), failed] {
        for order in [vec![3_usize, 2, 4], vec![2, 4, 3], vec![4, 2, 3, 1, 0, 7, 5, 6]] {
            let mut sim = Sim::new(1_200, Shape::new(8, 100_000), Vec::new());
            let mut told = sim.observations(20 * S);
            let died = told.last().expect("observations").0.after(1_000);
            for (place, rank) in order.iter().enumerate() {
                // Its neighbours fail two milliseconds after the cause, theirs later; all is told with some delay.
                let at = died.after(2_000 * rank.abs_diff(CAUSE) as u64);
                let now = died.after(20_000 + 3_000 * place as u64);
                let (signal, exit_code) = if *rank == CAUSE { cause } else { failed };
                let process = sim.process(*rank);
                let end = ProcessEnd {
                    found: false,
                    process,
                    ago_us: now.micros_since(at),
                    finalized: false,
                    exit_code,
                    signal,
                };
                told.push((now, Observation::ProcessEnded(end)));
            }
            told.extend((1..10).map(|tick| (died.after(100_000 * tick), Observation::Tick)));
            let outcome = feed(Detector::new(Config::default()), told);
            let what = format!("{cause:?} told in order {order:?}");
            expect(&outcome, Kind::ProcessDeath, CAUSE, 20 * S, 1.0, &what);
            let last = outcome.last.values().next().expect("one finding");
            let explained = last.explains.iter().filter(|text| text.contains("ended as well")).count();
            assert_eq!(explained, order.len() - 1, "{what}: {last:?}");
        }
    }
}

#[test]
fn a_killed_rank_is_named_although_its_peers_were_seen_to_end_before_it() {
    // Its GPU has much to give back. Exit statuses may come a moment later than those of the peers, or after a finding.
    for late_us in [0, 50_000, 120_000] {
        let mut sim = Sim::new(1_250, Shape::new(8, 100_000), Vec::new());
        let mut told = sim.observations(20 * S);
        let start = told.last().expect("observations").0.after(1_000);
        for rank in [2, 4, 3] {
            let (after_us, exit_code, signal) =
                if rank == 3 { (late_us, None, Some(9)) } else { (0, Some(1), None) };
            let process = sim.process(rank);
            let end = ProcessEnd { found: false, process, ago_us: 0, finalized: false, exit_code, signal };
            told.push((start.after(after_us), Observation::ProcessEnded(end)));
        }
        told.extend((2..10).map(|tick| (start.after(100_000 * tick), Observation::Tick)));
        let outcome = feed(Detector::new(Config::default()), told);
        expect(&outcome, Kind::ProcessDeath, 3, 20 * S, 1.0, &format!("{late_us} us late"));
    }
}

#[test]
fn ranks_that_fail_because_one_node_was_asked_to_end_are_no_deaths() {
    // Peers notice that connections close, which is before the end of the one who was asked is complete.
    for (asked_us, failed_us) in [(0, 2_000), (3_000, 1_000)] {
        let mut sim = Sim::new(1_300, Shape::new(8, 100_000), Vec::new());
        let mut told = sim.observations(20 * S);
        let start = told.last().expect("observations").0.after(1_000);
        for rank in 0..8 {
            // Ranks 4 and up get SIGTERM; the others lose their peers, and are told of first.
            let (after_us, exit_code, signal) =
                if rank < 4 { (failed_us, Some(1), None) } else { (asked_us, None, Some(15)) };
            let now = start.after(20_000 + 1_000 * rank as u64);
            let (process, ago_us) = (sim.process(rank), now.micros_since(start.after(after_us)));
            let end = ProcessEnd { found: false, process, ago_us, finalized: false, exit_code, signal };
            told.push((now, Observation::ProcessEnded(end)));
        }
        told.extend((1..100).map(|tick| (start.after(100_000 * tick), Observation::Tick)));
        let outcome = feed(Detector::new(Config::default()), told);
        assert!(outcome.opened.is_empty(), "{}", outcome.describe());
        assert_eq!(outcome.detector.jobs()[0].verdict, Verdict::Ended);
    }
}

/// Ranks that were idle for a moment end at these times; nothing else is known of their ends.
fn ended_between_operations(after_us: &[u64]) -> Outcome {
    let mut sim = Sim::new(1_400, Shape::new(after_us.len(), 100_000), Vec::new());
    let mut told = sim.observations(20 * S);
    let start = told.last().expect("observations").0.after(1_000);
    for (rank, after) in after_us.iter().enumerate() {
        let process = sim.process(rank);
        let last = told.iter().rev().find_map(|(_, observation)| match observation {
            Observation::Window(window) if window.process == process => Some(window.clone()),
            _ => None,
        });
        let mut window = last.expect("a window");
        for comm in &mut window.comms {
            (comm.in_flight, comm.idle_us) = (None, 50_000 + after);
            (comm.started, comm.completed) = (comm.enqueued, comm.enqueued);
        }
        let now = start.after(*after);
        told.push((now, Observation::Window(window)));
        let (finalized, exit_code, signal) = (false, None, None);
        told.push((
            now,
            Observation::ProcessEnded(ProcessEnd {
                found: false,
                process,
                ago_us: 300,
                finalized,
                exit_code,
                signal,
            }),
        ));
    }
    told.sort_by_key(|(now, _)| *now);
    told.extend((1..20).map(|tick| (start.after(600_000 + 100_000 * tick), Observation::Tick)));
    feed(Detector::new(Config::default()), told)
}

#[test]
fn a_death_between_operations_is_told_by_how_the_others_end() {
    let outcome =
        ended_between_operations(&[0, 601_000, 600_000, 500_000, 532_000, 532_000, 532_000, 533_000]);
    expect(&outcome, Kind::ProcessDeath, 0, 20 * S, 1.0, "the others end together");
    let outcome =
        ended_between_operations(&[0, 90_000, 150_000, 250_000, 320_000, 410_000, 480_000, 560_000]);
    assert!(outcome.opened.is_empty(), "one by one: {}", outcome.describe());
}

#[test]
fn a_stopped_rank_is_named_wherever_it_stands() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let outcome = run(seed, shape, vec![Fault::Stop { rank, at, until: None }], 40 * S);
        expect(&outcome, Kind::NonCommHang, rank, at, 5.0, &format!("seed {seed}"));
        let finding = &outcome.opened[0];
        assert!(finding.summary.contains("stopped by a signal (state T)"), "{}", finding.summary);
        assert_eq!(finding.suspects.len(), 1);
    });
}

#[test]
fn a_rank_that_does_not_come_is_named_within_five_seconds() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let stuck = Fault::Stuck { rank, at, until: None, state: ProcessState::Sleeping };
        let outcome = run(seed, shape, vec![stuck], 60 * S);
        expect(&outcome, Kind::NonCommHang, rank, at, 5.0, &format!("seed {seed}"));
        assert!(outcome.opened[0].summary.contains("has not entered AllReduce #"));
    });
}

#[test]
fn a_busy_gpu_is_told_from_a_rank_that_does_not_come() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let outcome = run(seed, shape, vec![Fault::Busy { rank, at }], 60 * S);
        expect(&outcome, Kind::NonCommHang, rank, at, 5.5, &format!("seed {seed}"));
        assert!(outcome.opened[0].summary.contains("not started it on the GPU"), "{}", outcome.describe());
    });
}

#[test]
fn a_host_that_waits_for_its_gpu_on_a_cpu_writes_no_checkpoint() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let outcome = run(seed, shape.clone(), vec![Fault::Spins { rank, at }], 60 * S);
        expect(&outcome, Kind::NonCommHang, rank, at, 5.5, &format!("seed {seed}"));
        let summary = &outcome.opened[0].summary;
        assert!(summary.contains("its GPU is busy and touches no memory"), "{summary}");
        let stuck = Fault::Stuck { rank, at, until: Some(at + 12 * S), state: ProcessState::Running };
        let outcome = run(seed, shape, vec![stuck], 60 * S);
        assert!(outcome.opened.is_empty(), "it may write: {}", outcome.describe());
    });
}

#[test]
fn a_rank_that_stands_still_is_named_as_soon_where_iterations_take_long() {
    for (iteration_us, seed) in [(2_000_000, 1), (2_800_000, 2), (3_500_000, 3)] {
        let at = 60 * S + seed * 1_237 % S;
        let stuck = Fault::Stuck { rank: 5, at, until: None, state: ProcessState::Sleeping };
        for fault in [stuck, Fault::Busy { rank: 5, at }] {
            let outcome = run(1_600 + seed, Shape::new(8, iteration_us), vec![fault.clone()], 80 * S);
            // Until its peers wait for it, it may still compute what it had begun.
            let within_s = 5.0 + iteration_us as f64 / S as f64 / 4.0;
            expect(&outcome, Kind::NonCommHang, 5, at, within_s, &format!("{fault:?} in {iteration_us}"));
        }
    }
}

#[test]
fn long_checkpoints_do_not_excuse_a_gpu_that_is_busy_nor_a_host_that_sleeps() {
    let shape = Shape { checkpoint: Some((40, 8 * S)), ..Shape::new(8, 200_000) };
    // Between two checkpoints.
    let at = 68 * S;
    let stuck = Fault::Stuck { rank: 3, at, until: None, state: ProcessState::Sleeping };
    for fault in [stuck, Fault::Busy { rank: 3, at }] {
        let outcome = run(1_650, shape.clone(), vec![fault.clone()], 88 * S);
        expect(&outcome, Kind::NonCommHang, 3, at, 5.5, &format!("{fault:?}"));
    }
    // A host that looks as it does when it writes may do so for twice as long as ever.
    let writes = Fault::Stuck { rank: 3, at, until: Some(at + 14 * S), state: ProcessState::DiskWait };
    let outcome = run(1_651, shape, vec![writes], 88 * S);
    assert!(outcome.opened.is_empty(), "{}", outcome.describe());
}

#[test]
fn a_hang_clears_when_the_rank_goes_on() {
    for (fault, kind) in [
        (Fault::Stop { rank: 5, at: 20 * S, until: Some(32 * S) }, Kind::NonCommHang),
        (
            Fault::Stuck { rank: 5, at: 20 * S, until: Some(32 * S), state: ProcessState::Sleeping },
            Kind::NonCommHang,
        ),
    ] {
        let outcome = run(1_200, Shape::new(8, 200_000), vec![fault], 60 * S);
        assert_eq!(outcome.kinds(), vec![kind], "{}", outcome.describe());
        let last = outcome.last.values().next().expect("one finding");
        let cleared = last.cleared.expect("cleared").0 - common::EPOCH_US;
        assert!((32 * S..35 * S).contains(&cleared), "cleared at {cleared}");
    }
}

#[test]
fn a_dead_link_is_named_with_its_ends() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        let ranks = shape.ranks;
        let outcome = run(seed, shape, vec![Fault::Link { src: rank, at }], 60 * S);
        expect(&outcome, Kind::CommHang, rank, at, 5.5, &format!("seed {seed}"));
        let link = outcome.opened[0].suspects[0].link.clone().expect("a link");
        assert_eq!(link.src, format!("rank {rank}"), "{}", outcome.describe());
        assert_eq!(link.dst, format!("rank {}", (rank + 1) % ranks));
    });
}

#[test]
fn a_skipped_or_resized_collective_is_a_disagreement() {
    each_shape(|shape, rank, seed| {
        let at = 20 * S + seed * 1_237 % S;
        for fault in [Fault::Skip { rank, at }, Fault::Resize { rank, at, hangs: true }] {
            let outcome = run(seed, shape.clone(), vec![fault.clone()], 60 * S);
            assert_eq!(outcome.kinds(), vec![Kind::Desync], "{fault:?} {}", outcome.describe());
            let suspects = &outcome.opened[0].suspects;
            let ranks: Vec<_> = suspects.iter().filter_map(|s| s.rank).collect();
            assert_eq!(ranks, vec![rank as u32], "also of two: {}", outcome.describe());
            assert!(outcome.delay(at) <= 6.0);
        }
    });
}

#[test]
fn a_job_that_ends_accuses_nobody() {
    let ends = [
        (true, None, None, 3 * S),
        (true, Some(0), None, 5 * S),
        (false, Some(0), None, 5 * S),
        (false, None, None, 500_000),
        (false, None, Some(15), 400_000),
    ];
    for (i, (finalized, exit_code, signal, spread)) in ends.into_iter().enumerate() {
        each_shape(|mut shape, _, seed| {
            shape.final_window = seed % 2 == 0;
            let end = Fault::End { at: 20 * S, spread, finalized, exit_code, signal };
            let outcome = run(seed + 100 * i as u64, shape, vec![end], 40 * S);
            assert!(outcome.opened.is_empty(), "end {i}, seed {seed}: {}", outcome.describe());
            assert_eq!(outcome.detector.jobs()[0].verdict, Verdict::Ended);
        });
    }
}

#[test]
fn what_ends_after_a_stop_on_purpose_accuses_nobody() {
    let faults = vec![
        Fault::Stopping { at: 20 * S },
        Fault::End { at: 20 * S + 50_000, spread: 8 * S, finalized: false, exit_code: None, signal: Some(9) },
    ];
    let outcome = run(1_300, Shape::new(8, 100_000), faults, 40 * S);
    assert!(outcome.opened.is_empty(), "{}", outcome.describe());
}

#[test]
fn nobody_is_accused_by_evidence_that_is_missing() {
    let at = 20 * S;
    let shape = || Shape::new(16, 200_000);
    let hidden = [
        Fault::AgentLost { node: 1, at },
        Fault::AgentFrozen { node: 1, at },
        Fault::Drops { rank: 12, at },
        Fault::Unprofiled { rank: 12, at },
    ];
    for (i, fault) in hidden.into_iter().enumerate() {
        let stuck = Fault::Stuck { rank: 12, at: at + S, until: None, state: ProcessState::Sleeping };
        let outcome = run(1_400 + i as u64, shape(), vec![fault.clone(), stuck], 60 * S);
        assert!(outcome.opened.is_empty(), "{fault:?}: {}", outcome.describe());
        let verdict = outcome.detector.jobs()[0].verdict.clone();
        let Verdict::Unknown { missing } = verdict else { panic!("{fault:?}: {verdict:?}") };
        assert!(missing.iter().any(|text| text.contains("rank 12")), "{missing:?}");
        assert!(missing[0].contains("wait in AllReduce #"), "{missing:?}");
    }
}

/// As before profiler API v4, where NCCL does not tell how many ranks a communicator has; of the first `seen` ranks.
fn without_sizes(seed: u64, faults: Vec<Fault>, seen: u64) -> Outcome {
    let mut sim = Sim::new(seed, Shape::new(8, 200_000), faults);
    let hidden: Vec<_> = (seen as usize..8).map(|rank| sim.process(rank)).collect();
    let mut observations = sim.observations(40 * S);
    observations.retain_mut(|(_, observation)| match observation {
        Observation::CommunicatorJoined(membership) => {
            membership.size = 0;
            !hidden.contains(&membership.process)
        }
        Observation::ProcessStarted(info) => !hidden.contains(&info.process),
        Observation::Window(window) => !hidden.contains(&window.process),
        _ => true,
    });
    feed(Detector::new(Config::default()), observations)
}

#[test]
fn a_communicator_that_does_not_tell_its_size_has_the_members_that_were_seen() {
    let at = 20 * S;
    let stuck = |rank| Fault::Stuck { rank, at, until: None, state: ProcessState::Sleeping };
    expect(&without_sizes(1_500, vec![stuck(5)], 8), Kind::NonCommHang, 5, at, 5.0, "all seen");
    assert!(without_sizes(1_501, Vec::new(), 8).opened.is_empty());
    // The one that is not seen may be the one that does not come.
    let outcome = without_sizes(1_502, vec![stuck(7)], 7);
    assert!(outcome.opened.is_empty(), "{}", outcome.describe());
}
