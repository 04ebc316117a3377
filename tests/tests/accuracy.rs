//! A small part of what `c4-accuracy` simulates, for every run of the tests: faults that are never to be missed, in jobs of
//! up to sixteen ranks, and sound jobs in which nobody is ever to be accused.
//!
//! The seeds belong to this test, but for a job that was once judged wrongly: no threshold was chosen on them. Whoever changes
//! the detector and fails here has broken something that anybody would see; the finer figures come from the program.

use c4_tests::accuracy::{
    cases::{self, Case, Expected},
    judge::judge,
    shapes::{Shape, shapes},
    sound::{Variety, sound},
    suite::Suite,
};

const SEED: u64 = 3_000_000;
/// Sound jobs run for so long here.
const SOUND_NS: u64 = 1_200_000_000_000;

fn small() -> Vec<Shape> {
    shapes().into_iter().filter(|shape| shape.layout.ranks() <= 16).collect()
}

/// Every fault with this name and severity, in one job of each small shape.
fn faulty(fault: &str, severity: &str) -> Vec<Case> {
    let entries = cases::faults();
    let entries = entries.iter().filter(|entry| entry.fault == fault && entry.severity == severity);
    let cases: Vec<Case> = entries
        .flat_map(|entry| {
            (SEED..).zip(small()).filter_map(move |(seed, shape)| cases::case(&shape, entry, seed))
        })
        .collect();
    assert!(!cases.is_empty(), "there is no {fault} {severity}");
    cases
}

fn all_right(fault: &str, severity: &str) {
    for case in faulty(fault, severity) {
        let outcome = judge(&case);
        assert!(
            outcome.is_right_suspect && outcome.is_right_kind,
            "{:?} seed {}: expected {:?}, got {outcome:?}",
            case.row,
            case.spec.seed,
            case.expected
        );
    }
}

#[test]
fn deaths_are_named() {
    all_right("death", "");
}

#[test]
fn hangs_are_named() {
    all_right("stop", "");
    all_right("host hang", "");
    all_right("desync", "");
    all_right("deadlock", "");
}

#[test]
fn gross_stragglers_are_named() {
    all_right("slow compute", "2 x");
}

#[test]
fn nobody_is_accused_in_sound_jobs() {
    let varieties = [Variety::Evaluation, Variety::Checkpoints, Variety::Ends, Variety::Stopped];
    for (seed, variety) in (SEED..).zip(varieties) {
        for shape in small().into_iter().filter(|shape| shape.layout.pp > 1) {
            let Some(case) = sound(&shape, variety, seed) else { continue };
            let case = Case { length_ns: SOUND_NS, ..case };
            let outcome = judge(&case);
            assert!(outcome.false_alarms.is_empty(), "{:?}: {:?}", case.row, outcome.false_alarms);
        }
    }
}

#[test]
fn what_was_once_judged_wrongly_is_judged_rightly() {
    for (first_seed, once_wrong) in [
        // A slow NIC. Of one rank the whole time that it computes showed, since what hid it lasted longer.
        (18_000_000, 18_001_592),
        // One far from a slow NIC seemed to work longer than before.
        (16_000_000, 16_000_572),
        // A late host, of which nothing was said in either of two communicators because of the other.
        (19_000_000, 19_001_348),
        // A peer that failed of a death was named for it, since others waited for that peer.
        (19_000_000, 19_000_772),
        // The same in a checkpoint, where nobody misses who has ended.
        (20_000_000, 20_001_828),
        // Two ranks, each of another pipeline.
        (20_000_000, 20_001_716),
        // A peer was named for a death that went with its agent: its next collective began late, as if the one before had ended then.
        (22_000_000, 22_002_876),
    ] {
        let only_seed = Some(once_wrong);
        let suite =
            Suite { seed: first_seed, jobs: 3, sound_days: 0.0, ranks: (0, 64), only: None, only_seed };
        let cases = suite.cases();
        assert!(!cases.is_empty(), "no job has the seed {once_wrong}");
        for case in cases {
            let outcome = judge(&case);
            assert!(
                outcome.is_right_suspect && outcome.is_right_kind,
                "seed {once_wrong}, {:?}: {outcome:?}",
                case.row
            );
        }
    }
}

#[test]
fn the_judge_says_no_to_a_wrong_suspect_and_to_an_accusation_out_of_nowhere() {
    let Some(case) = faulty("death", "").into_iter().next() else { panic!("no death") };
    let Expected::Faults(mut truths) = case.expected.clone() else { panic!("no fault is expected") };
    truths[0].ranks = vec![(truths[0].ranks[0] + 1) % case.row.ranks];
    let wrong = judge(&Case { expected: Expected::Faults(truths), ..case.clone() });
    assert!(wrong.is_found && !wrong.is_right_suspect, "{wrong:?}");
    let sound = judge(&Case { expected: Expected::Silence, ..case });
    assert!(sound.false_alarms.iter().any(|alarm| alarm.contains("died")), "{sound:?}");
}
