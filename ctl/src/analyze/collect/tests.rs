use super::*;

fn collected(lines: &[&str]) -> (Recording, Problems) {
    let (mut collector, mut problems) = (Collector::default(), Problems::default());
    let file = Arc::new(PathBuf::from("t.jsonl"));
    for (index, line) in lines.iter().enumerate() {
        let place = Place { file: Arc::clone(&file), line: index as u64 + 1 };
        let line = trace::parse(line.as_bytes(), None).expect("a good line");
        collector.take(line, &place, &mut problems);
    }
    let recording = collector.finish(&mut problems);
    (recording, problems)
}

fn complaints(problems: &Problems) -> Vec<String> {
    problems.kept().iter().map(ToString::to_string).collect()
}

#[test]
fn members_and_meta_may_come_last() {
    let (recording, problems) = collected(&[
        r#"{"rank":4,"comm":"c","seq":1,"op":"all_reduce","start_us":10,"end_us":20}"#,
        r#"{"rank":0,"comm":"c","seq":1,"op":"all_reduce","start_us":11,"end_us":20}"#,
        r#"{"comm":"c","ranks":[4,0,8]}"#,
        r#"{"meta":{"job":"j","ranks":[{"rank":4,"node":"n1","gpu":2}]}}"#,
    ]);
    assert!(problems.is_empty(), "{:?}", complaints(&problems));
    assert_eq!(recording.comms[0].size, 3, "a member without a line is a member");
    let [zero, four] = &recording.processes[..] else { panic!("two ranks have lines") };
    assert_eq!((zero.info.rank, zero.series[0].comm_rank), (Some(0), 1));
    assert_eq!((four.info.rank, four.series[0].comm_rank), (Some(4), 0));
    assert_eq!((four.info.node.0.as_str(), four.info.gpu, four.info.job.0.as_str()), ("n1", Some(2), "j"));
    assert_eq!(four.series[0].operations[0].ended_ns, Some(20_000));
}

#[test]
fn the_same_operation_in_other_words_has_the_same_signature() {
    let (recording, _) = collected(&[
        r#"{"rank":0,"comm":"c","seq":0,"op":"all_reduce","bytes":8,"start_us":1,"end_us":2}"#,
        r#"{"rank":1,"comm":"c","seq":0,"op":"ncclAllReduce","bytes":8,"start_us":1,"end_us":2}"#,
    ]);
    assert_eq!(recording.signatures.len(), 1);
    assert_eq!(recording.signatures[0].function.as_ref(), "AllReduce");
}

#[test]
fn a_size_that_one_rank_does_not_give_disagrees_with_nobody() {
    let (recording, _) = collected(&[
        r#"{"rank":0,"comm":"c","seq":0,"op":"all_reduce","bytes":8,"start_us":1,"end_us":2}"#,
        r#"{"rank":1,"comm":"c","seq":0,"op":"all_reduce","start_us":1,"end_us":2}"#,
        r#"{"rank":0,"comm":"c","seq":1,"op":"all_to_all","bytes":8,"start_us":3,"end_us":4}"#,
        r#"{"rank":1,"comm":"c","seq":1,"op":"all_to_all","bytes":16,"start_us":3,"end_us":4}"#,
        r#"{"rank":0,"comm":"c","seq":2,"op":"all_reduce","bytes":8,"start_us":5,"end_us":6}"#,
        r#"{"rank":1,"comm":"c","seq":2,"op":"all_reduce","bytes":16,"start_us":5,"end_us":6}"#,
    ]);
    let signature = |rank: usize, n: usize| recording.processes[rank].series[0].operations[n].signature;
    assert_eq!(signature(0, 0), signature(1, 0), "not given");
    assert_eq!(signature(0, 1), signature(1, 1), "differs by right");
    assert_ne!(signature(0, 2), signature(1, 2), "a true disagreement");
}

#[test]
fn one_rank_alone_accuses_nobody() {
    let (recording, problems) = collected(&[r#"{"rank":0,"comm":"c","seq":0,"op":"x","start_us":1}"#]);
    assert!(recording.comms.is_empty() && problems.is_empty());
    assert_eq!(recording.notes, ["only one rank of c is known, so there is nothing to compare"]);
}

#[test]
fn strangers_are_left_out_and_named() {
    let (recording, problems) = collected(&[
        r#"{"meta":{"world_size":4}}"#,
        r#"{"comm":"c","ranks":[0,1]}"#,
        r#"{"rank":0,"comm":"c","seq":0,"op":"x","start_us":1}"#,
        r#"{"rank":3,"comm":"c","seq":0,"op":"x","start_us":1}"#,
        r#"{"rank":7,"comm":"c","seq":0,"op":"x","start_us":1}"#,
    ]);
    assert_eq!(recording.processes.len(), 1);
    assert_eq!(
        complaints(&problems),
        [
            "t.jsonl:4: rank 3 is not on c, whose ranks are 0-1; its 1 operations there are left out",
            "t.jsonl:5: rank is 7, expected less than world_size 4; its 1 operations there are left out",
        ]
    );
}

#[test]
fn contradictions_are_named_and_the_first_word_counts() {
    let (recording, problems) = collected(&[
        r#"{"meta":{"job":"a"}}"#,
        r#"{"meta":{"job":"b"}}"#,
        r#"{"comm":"c","ranks":[0,1]}"#,
        r#"{"comm":"c","ranks":[0,1,2]}"#,
        r#"{"comm":"d","ranks":[0,0]}"#,
        r#"{"rank":0,"comm":"c","seq":0,"op":"x","start_us":1,"end_us":2}"#,
        r#"{"rank":0,"comm":"c","seq":0,"op":"x","start_us":1,"end_us":2}"#,
        r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":3,"end_us":4}"#,
        r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":5,"end_us":6}"#,
    ]);
    assert_eq!(recording.processes[0].info.job.0, "a");
    assert_eq!(recording.comms[0].size, 2);
    let operations = &recording.processes[0].series[0].operations;
    assert_eq!((operations.len(), operations[1].ended_ns), (2, Some(4_000)));
    let said = complaints(&problems).join("\n");
    for expected in [
        "t.jsonl:2: a second meta line",
        "t.jsonl:4: ranks of c differ from those in t.jsonl:3",
        "t.jsonl:5: ranks of d name a rank twice",
        "rank 0 has 1 operations more than once and different, such as seq 1",
    ] {
        assert!(said.contains(expected), "{expected:?} in\n{said}");
    }
    assert_eq!(problems.total(), 4);
}

#[test]
fn a_long_trace_is_analysed_from_the_same_position_on_all_ranks() {
    let (mut collector, mut problems) = (Collector::with_room_for(4_000), Problems::default());
    let place = Place { file: Arc::new(PathBuf::from("t.jsonl")), line: 1 };
    // Rank 1 stops early and must not seem never to have been there.
    for sequence in 0..20_000_u64 {
        for rank in 0..2 {
            if rank == 1 && sequence > 19_990 {
                continue;
            }
            let text = format!(
                r#"{{"rank":{rank},"comm":"c","seq":{sequence},"op":"x","start_us":{sequence},"end_us":{sequence}}}"#
            );
            let line = trace::parse(text.as_bytes(), None).expect("a good line");
            collector.take(line, &place, &mut problems);
        }
    }
    let recording = collector.finish(&mut problems);
    let [zero, one] = &recording.processes[..] else { panic!("two ranks") };
    let first = |process: &Process| process.series[0].operations[0].sequence;
    assert_eq!(first(zero), first(one));
    assert!(recording.operations().count() < 5_000);
    assert_eq!((zero.series[0].entered(), one.series[0].entered()), (20_000, 19_991));
    assert!(recording.notes[0].contains("the trace is long"), "{:?}", recording.notes);
}

#[test]
fn a_rank_that_is_recorded_elsewhere_is_on_all_its_communicators() {
    let (recording, _) = collected(&[
        r#"{"comm":"c","ranks":[0,1,2]}"#,
        r#"{"rank":0,"comm":"c","seq":5,"op":"x","start_us":1}"#,
        r#"{"rank":1,"op":"compute","name":"forward","start_us":1}"#,
    ]);
    let [zero, one] = &recording.processes[..] else { panic!("rank 2 was not recorded") };
    assert_eq!((zero.series[0].entered(), one.series[0].entered()), (6, 5));
    assert_eq!(one.computes.len(), 1);
}
