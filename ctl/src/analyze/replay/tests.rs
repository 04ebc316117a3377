use c4_detect::observation::{CommId, OperationSignature};

use super::*;
use crate::analyze::{recording::Comm, testing};

const MS: i64 = 1_000_000;

fn operation(sequence: u64, enqueued_ns: i64, started_ns: Option<i64>, ended_ns: Option<i64>) -> Operation {
    Operation { sequence, signature: 0, bytes: 8, enqueued_ns, started_ns, ended_ns }
}

fn recording(operations: Vec<Vec<Operation>>) -> Recording {
    let signature =
        OperationSignature { function: "AllReduce".into(), count: 1, datatype: "bytes".into(), root: 0 };
    let size = operations.len() as u32;
    let series = |(rank, operations): (usize, Vec<Operation>)| {
        let base = operations.first().map_or(0, |operation| operation.sequence);
        let series = Series { comm_rank: rank as u32, base, operations, ..Series::default() };
        testing::process(rank as u32, vec![series])
    };
    Recording {
        processes: operations.into_iter().enumerate().map(series).collect(),
        comms: vec![Comm { id: CommId(1), name: "c".into(), size }],
        signatures: vec![signature],
        ..Recording::default()
    }
}

#[test]
fn a_window_shows_the_state_at_its_end_and_nothing_later() {
    let operations = vec![
        operation(10, 0, Some(MS), Some(2 * MS)),
        operation(11, 3 * MS, Some(4 * MS), Some(8 * MS)),
        operation(12, 5 * MS, None, None),
        operation(13, 20 * MS, None, None),
    ];
    let recording = recording(vec![operations]);
    let mut cursor = Cursor::new(&recording.processes[0].series[0], 0, 1);
    let mut at = |now: i64| {
        cursor.advance(&recording, &mut [], now);
        let window = cursor.window(&recording, now, false);
        (window.enqueued, window.started, window.completed, window.in_flight, window.idle_us)
    };
    assert_eq!(at(-1), (10, 10, 10, None, 0), "before the first operation");
    assert_eq!(at(2 * MS + MS / 2), (11, 11, 11, None, 500));
    let (enqueued, started, completed, in_flight, idle_us) = at(6 * MS);
    assert_eq!((enqueued, started, completed, idle_us), (13, 12, 11, 0));
    let in_flight = in_flight.expect("operation 11");
    assert_eq!((in_flight.sequence, in_flight.started), (11, true));
    assert_eq!((in_flight.age_us, in_flight.started_age_us), (3_000, 2_000));
    let (.., in_flight, _) = at(10 * MS);
    let in_flight = in_flight.expect("operation 12");
    assert_eq!((in_flight.sequence, in_flight.started, in_flight.started_age_us), (12, false, 0));
}

#[test]
fn times_before_the_epoch_are_shifted_not_cut() {
    let recording = recording(vec![vec![operation(0, -5 * MS, Some(-5 * MS), Some(-MS))]]);
    let show = Show::new(&recording, Config::default(), -5 * MS, MS);
    assert_eq!(show.shift_ns, 5 * MS);
}

#[test]
fn a_silence_of_years_takes_a_bounded_number_of_windows() {
    let year = 365 * 86_400 * 1_000 * MS;
    let operations =
        |_| vec![operation(0, 0, Some(0), Some(MS)), operation(1, year, Some(year), Some(year + MS))];
    let recording = recording((0..2).map(operations).collect());
    let mut show = Show::new(&recording, Config::default(), 0, 1_000 * MS);
    let (mut now, mut windows) = (0, 0);
    while now < year + MS {
        now = show.next_boundary(now).min(year + MS);
        show.window(now);
        windows += 1;
        assert!(windows < 2_000, "still at {now}");
    }
    assert!(windows > LONGEST_SILENCE_WINDOWS, "the silence is shown before it is cut");
}

#[test]
fn an_empty_recording_says_nothing() {
    let outcome = replay(&recording(vec![Vec::new(), Vec::new()]), Config::default());
    assert!(outcome.findings.is_empty() && outcome.jobs.is_empty());
}
