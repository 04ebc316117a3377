use c4_detect::{
    finding::{FindingId, Suspect},
    observation::{CommId, JobId, OperationSignature, Timestamp},
};

use super::*;
use crate::analyze::testing;

fn recording(enter_ns: &[Option<i64>], end_ns: Option<i64>) -> Recording {
    let signature =
        OperationSignature { function: "AllReduce".into(), count: 1, datatype: "bytes".into(), root: 0 };
    let before = Operation {
        sequence: 6,
        signature: 0,
        bytes: 8,
        enqueued_ns: -10,
        started_ns: Some(-10),
        ended_ns: Some(-5),
    };
    let series = |(rank, enter): (usize, &Option<i64>)| {
        let entered = enter.map(|ns| Operation {
            sequence: 7,
            enqueued_ns: ns,
            started_ns: Some(ns),
            ended_ns: end_ns,
            ..before
        });
        let operations = [Some(before), entered].into_iter().flatten().collect();
        let series = Series { comm_rank: rank as u32, operations, ..Series::default() };
        testing::process(rank as u32, vec![series])
    };
    Recording {
        processes: enter_ns.iter().enumerate().map(series).collect(),
        comms: vec![Comm { id: CommId(1), name: "dp".into(), size: enter_ns.len() as u32 }],
        signatures: vec![signature],
        ..Recording::default()
    }
}

fn finding(kind: Kind, rank: u32) -> Finding {
    Finding {
        id: FindingId("f".into()),
        job: JobId("job".into()),
        incarnation: 0,
        kind,
        suspects: vec![Suspect { rank: Some(rank), ..Suspect::default() }],
        confidence: 1.0,
        since: Timestamp(0),
        detected: Timestamp(0),
        cleared: None,
        summary: String::new(),
        evidence: Default::default(),
        explains: Vec::new(),
        refuted_by: String::new(),
    }
}

#[test]
fn a_hang_shows_who_waits_and_who_never_came() {
    let recording = recording(&[Some(0), None, Some(40)], None);
    let lines = picture(&recording, &finding(Kind::NonCommHang, 1));
    assert!(lines[0].starts_with("AllReduce #7 on dp, never over"), "{lines:#?}");
    assert_eq!(lines[1], format!("  rank 0  {}▶ in it, never left", "█".repeat(40)));
    assert_eq!(lines[2], format!("* rank 1  {} never entered it, last finished #6", "·".repeat(41)));
    assert_eq!(lines[3], format!("  rank 2  {}{}▶ in it, never left", "·".repeat(32), "█".repeat(8)));
}

#[test]
fn a_straggler_shows_who_came_last() {
    let recording = recording(&[Some(0), Some(75), Some(25)], Some(100));
    let lines = picture(&recording, &finding(Kind::NonCommSlow, 1));
    assert!(lines[0].starts_with("AllReduce #7 on dp, 100 ns"), "{lines:#?}");
    assert_eq!(lines[1], format!("  rank 0  {}{}  waited 75 ns", "█".repeat(30), "▒".repeat(10)));
    assert_eq!(
        lines[2],
        format!("* rank 1  {}{}  came last, 75 ns after the first", "·".repeat(30), "▒".repeat(10))
    );
}

#[test]
fn many_ranks_are_cut_but_never_the_suspect() {
    let recording = recording(&[Some(0); 500], None);
    let lines = picture(&recording, &finding(Kind::CommHang, 499));
    assert_eq!(lines.len(), ROWS + 2);
    assert!(lines.iter().any(|line| line.starts_with("* rank 499")));
    assert_eq!(lines[ROWS + 1], "  … and 476 more ranks");
}

#[test]
fn nothing_to_show_is_no_picture() {
    let recording = recording(&[None, None], None);
    assert!(picture(&recording, &finding(Kind::NonCommHang, 1)).is_empty());
    assert!(picture(&Recording::default(), &finding(Kind::NonCommSlow, 1)).is_empty());
}
