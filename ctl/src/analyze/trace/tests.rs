use super::*;

fn line(text: &str) -> Result<Line<'_>, LineError> {
    parse(text.as_bytes(), None)
}

fn complaint(text: &str) -> String {
    line(text).expect_err("not acceptable").to_string()
}

#[test]
fn a_collective_with_everything() {
    let text = r#"{"rank":0,"comm":"dp0","seq":12,"op":"all_reduce","bytes":1048576,"enqueued_us":0.5,
        "start_us":1.0,"end_us":2.0,"iteration":3,"color":{"nested":[1,2]}}"#;
    let expected = Collective {
        rank: 0,
        comm: "dp0".into(),
        sequence: 12,
        op: "all_reduce".into(),
        bytes: Some(1_048_576),
        enqueued_ns: Some(500),
        start_ns: 1_000,
        end_ns: Some(2_000),
    };
    assert_eq!(line(text), Ok(Line::Collective(expected)));
}

#[test]
fn what_is_optional_may_be_absent_or_null() {
    let text = r#"{"rank":3.0,"comm":7,"seq":0,"op":"barrier","bytes":null,"start_us":-5,"end_us":null}"#;
    let Ok(Line::Collective(collective)) = line(text) else { panic!("{:?}", line(text)) };
    assert_eq!((collective.rank, collective.comm.as_ref()), (3, "7"));
    assert_eq!((collective.start_ns, collective.end_ns, collective.bytes), (-5_000, None, None));
}

#[test]
fn every_other_kind_of_line() {
    assert_eq!(
        line(r#"{"comm":"dp0","ranks":[0,4]}"#),
        Ok(Line::Members { comm: "dp0".into(), ranks: vec![0, 4] })
    );
    let text = r#"{"rank":0,"peer":4,"op":"isend","tag":3,"seq":9,"group":"g","iteration":2,"start_us":1}"#;
    let Ok(Line::PointToPoint(transfer)) = line(text) else { panic!("{:?}", line(text)) };
    assert_eq!((transfer.rank, transfer.peer, transfer.is_send, transfer.sequence), (0, 4, true, Some(9)));
    assert_eq!((transfer.tag.as_deref(), transfer.group.as_deref()), (Some("3"), Some("g")));
    let text = r#"{"rank":0,"op":"compute","name":"forward","iteration":7,"start_us":1}"#;
    let Ok(Line::Compute(compute)) = line(text) else { panic!("{:?}", line(text)) };
    assert_eq!((compute.rank, compute.name.as_ref(), compute.iteration), (0, "forward", Some(7)));
    let meta =
        line(r#"{"meta":{"job":"j","world_size":2,"ranks":[{"rank":1,"node":"n0","coords":{"pp":0}}]}}"#);
    let Ok(Line::Meta(meta)) = meta else { panic!("{meta:?}") };
    assert_eq!((meta.world_size, meta.ranks[0].rank, meta.ranks[0].gpu), (Some(2), 1, None));
}

#[test]
fn the_file_name_gives_the_rank_where_the_line_does_not() {
    let text = br#"{"comm":"c","seq":1,"op":"x","start_us":1}"#;
    let parsed = parse(text, Some(7));
    assert!(matches!(parsed, Ok(Line::Collective(Collective { rank: 7, .. }))), "{parsed:?}");
}

#[test]
fn complaints_name_the_field_and_what_was_expected() {
    let cases = [
        (r#"{"rank":0,"comm":"c","seq":1,"op":"all_reduce","sta"#, "ends in the middle"),
        (r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":NaN}"#, "not a JSON object"),
        (r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":1e999}"#, "number out of range"),
        (r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":1e17}"#, "start_us is 1"),
        (r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":"soon"}"#, "start_us: invalid type"),
        (
            r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":2,"end_us":1}"#,
            "end_us is 1, expected a time not before",
        ),
        (r#"{"rank":-1,"comm":"c","seq":1,"op":"x","start_us":2}"#, "rank: invalid value: integer `-1`"),
        (r#"{"rank":4294967296,"comm":"c","seq":1,"op":"x","start_us":2}"#, "rank is 4294967296"),
        (r#"{"rank":0.5,"comm":"c","seq":1,"op":"x","start_us":2}"#, "expected a whole number"),
        (r#"{"comm":"c","seq":1,"op":"x","start_us":2}"#, "rank is missing"),
        (r#"{"rank":0,"comm":"c","op":"x","start_us":2}"#, "seq is missing"),
        (r#"{"rank":0,"op":"x","start_us":2}"#, "`comm` with `seq`"),
        (r#"{"rank":0,"comm":"c","seq":1,"start_us":2}"#, "op is missing"),
        (r#"{"rank":0,"comm":"c","seq":1,"op":"x"}"#, "start_us is missing"),
        (r#"{"rank":0,"comm":"c","seq":1,"op":"x","start_us":1} {"#, "more than one"),
        (r#"{"rank":0,"peer":0,"op":"send","start_us":1}"#, "peer is 0, expected another rank"),
        (r#"{"rank":0,"peer":1,"op":"all_reduce","start_us":1}"#, "op is all_reduce, expected send or recv"),
        ("[1,2]", "not a JSON object"),
        ("hello", "not a JSON object"),
    ];
    for (text, expected) in cases {
        let said = complaint(text);
        assert!(said.contains(expected), "{text}: {said}");
    }
}
