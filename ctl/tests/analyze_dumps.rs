//! `c4ctl analyze` on PyTorch's Flight Recorder dumps, through the real binary. The dumps are beside this file; what
//! each case shows is in its `.what`, and `make.py` wrote them.

use std::{fs, path::PathBuf, process::Output};

use serde_json::{Value, json};

mod support;

use support::{command, json, text};

fn case(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name)
}

fn analyze(paths: &[PathBuf]) -> Output {
    command(&["analyze", "--json"]).args(paths).output().expect("runs")
}

/// The only finding of a case: kind and suspects.
fn verdict(name: &str) -> (Value, Value) {
    let output = analyze(&[case(name)]);
    let document = json(&output);
    let findings = document["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 1, "{name}: {document:#}");
    assert_eq!(document["problems"], json!([]), "{name}");
    assert_eq!(output.status.code(), Some(1), "{name}");
    let ranks = findings[0]["suspects"].as_array().expect("suspects").iter().map(|s| s["rank"].clone());
    (findings[0]["kind"].clone(), ranks.collect())
}

#[test]
fn the_rank_that_nobody_holds_up_is_named() {
    for (name, kind, suspects) in [
        ("late-tensor-rank", "non_comm_hang", json!([5])),
        ("late-tensor-rank-pending", "non_comm_hang", json!([5])),
        ("only-status", "non_comm_hang", json!([2])),
        ("all-to-all", "non_comm_hang", json!([3])),
        ("pipeline", "non_comm_hang", json!([1])),
        ("desync", "desync", json!([1])),
        ("cycle", "desync", json!([1, 0])),
        ("all-stuck", "comm_hang", json!([0, 1, 2, 3])),
        ("real-nccl-2.28.9", "non_comm_hang", json!([2])),
        ("real-nccl-2.28.9-json", "non_comm_hang", json!([2])),
    ] {
        assert_eq!(verdict(name), (json!(kind), suspects), "{name}");
    }
}

/// An operation trace of four ranks in which `stuck` does not come to the third all-reduce.
fn trace(stuck: u32) -> String {
    let line = |rank: u32, seq: u32| {
        let (start, end) = (f64::from(seq) * 1e6, f64::from(seq) * 1e6 + 1e5);
        let end = if seq == 2 { String::new() } else { format!(r#","end_us":{end}"#) };
        format!(r#"{{"rank":{rank},"comm":"world","seq":{seq},"op":"all_reduce","start_us":{start}{end}}}"#)
    };
    let meta = r#"{"meta":{"job":"llm","world_size":4}}"#.to_owned();
    let operations = (0..3).flat_map(|seq| (0..4).map(move |rank| (rank, seq)));
    let lines =
        operations.filter(|(rank, seq)| !(*rank == stuck && *seq == 2)).map(|(rank, seq)| line(rank, seq));
    // A line much later says that time went on.
    let later = (0..4).filter(|rank| *rank != stuck).map(|rank| {
        format!(r#"{{"rank":{rank},"op":"compute","name":"other","start_us":9e7,"end_us":9.1e7}}"#)
    });
    [meta].into_iter().chain(lines).chain(later).collect::<Vec<_>>().join("\n")
}

#[test]
fn dumps_and_ras_beside_a_recording_corroborate_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let ras = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ras/behind.json.gz");
    let verdict = |stuck: u32, beside: &[PathBuf]| {
        let file = dir.path().join("trace.jsonl");
        fs::write(&file, trace(stuck)).expect("written");
        let mut paths = vec![file];
        paths.extend_from_slice(beside);
        let document = json(&analyze(&paths));
        let finding = document["findings"][0].clone();
        assert_eq!(finding["suspects"][0]["rank"], stuck, "{document:#}");
        let agrees: Vec<(String, bool)> = finding["evidence"]["corroboration"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| (one["by"].as_str().unwrap_or_default().to_owned(), one["agrees"] == true))
            .collect();
        (finding["confidence"].as_f64().expect("a confidence"), agrees)
    };
    let (alone, nobody) = verdict(2, &[]);
    assert!(nobody.is_empty());
    let both = [case("real-nccl-2.28.9"), ras.clone()];
    let (surer, agree) = verdict(2, &both);
    assert_eq!(agree, [("flight-recorder".to_owned(), true), ("ras".to_owned(), true)]);
    assert!(surer > alone, "{surer} {alone}");
    let (as_before, disagree) = verdict(1, &both);
    assert!(
        disagree.iter().all(|(_, agrees)| !agrees) && disagree.len() == 2 && (as_before - alone).abs() < 1e-9
    );
    // Dumps with RAS in one directory, and RAS by itself.
    let document = json(&analyze(&both));
    assert_eq!(document["findings"][0]["evidence"]["corroboration"][0]["by"], "ras", "{document:#}");
    assert_eq!(analyze(&[ras]).status.code(), Some(2));
}

#[test]
fn a_healthy_job_and_one_whose_culprit_left_no_dump_accuse_nobody() {
    let healthy = analyze(&[case("healthy")]);
    assert_eq!(healthy.status.code(), Some(0), "{}", text(&healthy.stdout));
    let document = json(&analyze(&[case("no-dump")]));
    assert_eq!(document["findings"], json!([]), "{document:#}");
    assert_eq!(document["jobs"][0]["verdict"]["state"], "unknown", "{document:#}");
    assert!(document["notes"].to_string().contains("no dump of rank 2"), "{document:#}");
}

#[test]
fn symptoms_and_the_way_to_the_root_are_told() {
    let document = json(&analyze(&[case("late-tensor-rank")]));
    let finding = &document["findings"][0];
    let chain = finding["evidence"]["chain"].to_string();
    assert!(chain.contains("rank 4 waits in AllReduce #13 of TENSOR (3)"), "{chain}");
    assert!(chain.contains("rank 5 waits in nothing"), "{chain}");
    let explains = finding["explains"].to_string();
    assert!(explains.contains("rank 0 waits in a receive from rank 4"), "{explains}");
    assert_eq!(finding["evidence"]["last_called_at"], "train_step (train.py:88)");
}

#[test]
fn broken_dumps_are_told_and_the_others_analysed() {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(case("pipeline")).expect("the case") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
    }
    let whole = fs::read(dir.path().join("nccl_trace_rank_4")).expect("a dump");
    let half = whole.len() / 2;
    fs::write(dir.path().join("nccl_trace_rank_4"), &whole[..half]).expect("written");
    let code = b"\x80\x02}q\x00X\x07\x00\x00\x00entriescos\nsystem\nX\x02\x00\x00\x00id\x85Rs.";
    fs::write(dir.path().join("nccl_trace_rank_5"), code).expect("written");
    fs::write(dir.path().join("nccl_trace_rank_6"), b"\x80\x02]q\x00.").expect("written");
    fs::write(dir.path().join("nccl_trace_rank_7"), b"{\"version\":\"2.5\",\"entr").expect("written");
    let output = analyze(&[dir.path().to_owned()]);
    let document = json(&output);
    assert_eq!(document["findings"][0]["suspects"][0]["rank"], 1, "{document:#}");
    let said = text(&output.stderr);
    for what in [
        format!("nccl_trace_rank_4: the pickle ends at byte {half} in the middle of"),
        "nccl_trace_rank_5: this pickle holds code (GLOBAL 'os system' at byte 17)".to_owned(),
        "nccl_trace_rank_6: the file holds a list; expected a dict".to_owned(),
        "nccl_trace_rank_7: not the JSON of a Flight Recorder dump".to_owned(),
    ] {
        assert!(said.contains(&what), "{what} in\n{said}");
    }
}

#[test]
fn wrong_entries_are_told_by_number_and_field() {
    let dir = tempfile::tempdir().expect("a directory");
    let entry = |fields: Value| {
        let mut entry = json!({
            "record_id": 0, "pg_id": 0, "process_group": ["0", "default_pg"], "collective_seq_id": 1, "p2p_seq_id": 0,
            "op_id": 1, "profiling_name": "nccl:all_reduce", "time_created_ns": 1_724_779_239_000_000_000_u64,
            "input_sizes": [[4]], "input_dtypes": ["Float"], "output_sizes": [[4]], "output_dtypes": ["Float"],
            "state": "completed", "time_discovered_started_ns": 0,
            "time_discovered_completed_ns": 1_724_779_239_000_100_000_u64, "retired": true, "is_p2p": false,
        });
        for (key, value) in fields.as_object().expect("fields") {
            entry[key] = value.clone();
        }
        entry
    };
    for rank in 0..2 {
        let dump = json!({
            "version": "2.10",
            "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": if rank == 0 { "[0, 1]" } else { "[0, 1, 2]" }}},
            "pg_status": {"0": {"last_enqueued_collective": "1", "last_completed_collective": "1"}},
            "entries": [
                entry(json!({})),
                entry(json!({"collective_seq_id": -1})),
                entry(json!({"time_created_ns": 1e30})),
                entry(json!({"state": "asleep"})),
                entry(json!({"process_group": null})),
            ],
        });
        fs::write(dir.path().join(format!("x_dump_{rank}")), dump.to_string()).expect("written");
    }
    let output = analyze(&[dir.path().to_owned()]);
    assert_eq!(json(&output)["findings"], json!([]));
    let said = text(&output.stderr);
    for what in [
        "entry 1: collective_seq_id is -1, expected a number from 0 on",
        "entry 2: time_created_ns is",
        "entry 3: state is asleep, expected scheduled, started or completed",
        "entry 4: process_group is missing",
        "ranks of group 0 are 0-2, but another dump says 0-1",
    ] {
        assert!(said.contains(what), "{what} in\n{said}");
    }
}

#[test]
fn whose_dump_it_is_must_be_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let dump = fs::read(case("pipeline").join("nccl_trace_rank_1")).expect("a dump");
    fs::write(dir.path().join("dump"), &dump).expect("written");
    let output = analyze(&[dir.path().join("dump")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("whose dump this is cannot be told"), "{}", text(&output.stderr));
}

#[test]
fn the_picture_shows_the_chain_and_the_image_is_well_formed() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("waits.svg");
    let output =
        command(&["analyze", "--svg"]).arg(&image).arg(case("late-tensor-rank")).output().expect("runs");
    let said = text(&output.stdout);
    let picture = said.split("Who waited for whom").nth(1).expect("a picture");
    let lane = |name: &str| {
        picture.lines().find(|line| line.trim_start().starts_with(name)).expect("a lane").to_owned()
    };
    assert!(lane("rank 0").ends_with("▶ in receive from rank 4"), "{said}");
    assert!(lane("rank 4").ends_with("▶ in AllReduce #13 of TENSOR (3)"), "{said}");
    assert!(lane("* rank 5").ends_with('·'), "{said}");
    let image = fs::read_to_string(&image).expect("the image");
    assert!(image.starts_with("<svg ") && image.ends_with("</svg>\n"), "{image}");
    assert!(image.contains("waits in AllReduce #13 of TENSOR (3): never ended"), "{image}");
    assert_eq!(image.matches("<text").count(), image.matches("</text>").count());

    let nowhere = dir.path().join("no/such/directory.svg");
    let output = command(&["analyze", "--svg"]).arg(&nowhere).arg(case("pipeline")).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write the image"), "{}", text(&output.stderr));
}

#[test]
fn names_in_an_image_are_only_text() {
    let dir = tempfile::tempdir().expect("a directory");
    for rank in 0..2 {
        let desc = "<script>alert(1)</script>&\"'";
        let mut entries = Vec::new();
        if rank == 0 {
            entries.push(json!({
                "record_id": 0, "pg_id": 0, "process_group": ["0", desc], "collective_seq_id": 1, "p2p_seq_id": 0,
                "op_id": 1, "profiling_name": "nccl:<all&reduce>", "time_created_ns": 1_724_779_239_000_000_000_u64,
                "input_sizes": [[4]], "input_dtypes": ["Float"], "output_sizes": [[4]], "output_dtypes": ["Float"],
                "state": "scheduled", "retired": false, "is_p2p": false,
            }));
        }
        let dump = json!({
            "version": "2.10", "pg_status": {}, "entries": entries,
            "pg_config": {"0": {"name": "0", "desc": desc, "ranks": "[0, 1]"}},
        });
        fs::write(dir.path().join(format!("x_dump_{rank}")), dump.to_string()).expect("written");
    }
    let image = dir.path().join(".image.svg");
    let output = command(&["analyze", "--json", "--svg"]).arg(&image).arg(dir.path()).output().expect("runs");
    assert_eq!(json(&output)["findings"][0]["suspects"][0]["rank"], 1, "{}", text(&output.stdout));
    let image = fs::read_to_string(&image).expect("the image");
    assert!(!image.contains("<script") && image.contains("&lt;script&gt;"), "{image}");
}

/// A value as a pickle, in the words of its oldest protocol. Text that is "NaN" becomes the number that is none.
fn pickled(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(value) => out.extend(if *value { b"I01\n" } else { b"I00\n" }),
        Value::Number(number) => out.extend(format!("I{number}\n").bytes()),
        Value::String(text) if text == "NaN" => {
            out.push(b'G');
            out.extend(f64::NAN.to_be_bytes());
        }
        Value::String(text) => out.extend(format!("V{text}\n").bytes()),
        Value::Array(items) => {
            out.extend(b"(l");
            for item in items {
                pickled(item, out);
                out.push(b'a');
            }
        }
        Value::Object(pairs) => {
            out.extend(b"(d");
            for (key, value) in pairs {
                pickled(&Value::from(key.as_str()), out);
                pickled(value, out);
                out.push(b's');
            }
        }
    }
}

fn pickle(value: &Value) -> Vec<u8> {
    let mut bytes = b"\x80\x02".to_vec();
    pickled(value, &mut bytes);
    bytes.push(b'.');
    bytes
}

/// How a version of the format lays a dump out. Minor versions add fields and take none away.
#[derive(Clone, Copy, Debug)]
struct Layout {
    version: &'static str,
    /// Under which key the version of the communication library is, if it is told.
    library: Option<&'static str>,
    /// Whether entries name the thread that called.
    threads: bool,
}

/// Every version that PyTorch 2.5 to 2.11 may write, and the one before. Which builds have the later fields differs within a
/// release, so each that may have them is there with and without.
fn layouts() -> Vec<Layout> {
    let layout = |version, library, threads| Layout { version, library, threads };
    let plain = ["2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8"].map(|version| layout(version, None, false));
    let with_library =
        ["2.6", "2.7", "2.8", "2.9"].map(|version| layout(version, Some("nccl_version"), false));
    let with_threads = ["2.7", "2.8", "2.9"].map(|version| layout(version, Some("nccl_version"), true));
    let latest = ["2.9", "2.10", "2.11"].map(|version| layout(version, Some("comm_lib_version"), true));
    [&plain[..], &with_library, &with_threads, &latest].concat()
}

/// One all-reduce of a group of three, as `rank` has it in a dump of this version: what is not known is absent, `None` in a
/// pickle and 0 in JSON, and JSON tells numbers of `pg_status` as text.
fn all_reduce(layout: Layout, seq: u64, is_done: bool, is_json: bool) -> Value {
    let unknown = if is_json { json!(0) } else { Value::Null };
    let created_ns = 1_724_779_239_000_000_000 + seq * 2_000_000;
    let mut entry = json!({
        "record_id": seq, "pg_id": 0, "process_group": ["0", "default_pg"], "collective_seq_id": seq, "p2p_seq_id": 0,
        "op_id": seq, "profiling_name": "nccl:all_reduce", "time_created_ns": created_ns,
        "input_sizes": [[4]], "input_dtypes": ["Float"], "output_sizes": [[4]], "output_dtypes": ["Float"],
        "state": if is_done { "completed" } else { "scheduled" }, "time_discovered_started_ns": unknown,
        "time_discovered_completed_ns": if is_done { json!(created_ns + 100_000) } else { unknown.clone() },
        "retired": is_done, "timeout_ms": 600_000, "is_p2p": false,
    });
    // The JSON form has no stack traces.
    if !is_json {
        entry["frames"] = json!([{"name": "step", "filename": "train.py", "line": 7}]);
    }
    if layout.threads {
        entry["thread_name"] = json!("python");
        entry["thread_id"] = json!("1");
    }
    entry
}

/// Three ranks, of which the last has not come to the second all-reduce.
fn dump_of_version(layout: Layout, rank: u64, is_json: bool) -> Value {
    let (enqueued, completed) = (if rank == 2 { 1 } else { 2 }, 1);
    let number = |n: i64| if is_json { json!(n.to_string()) } else { json!(n) };
    let mut dump = json!({
        "version": layout.version,
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2]"}},
        "pg_status": {"0": {
            "last_enqueued_collective": number(enqueued), "last_started_collective": number(-1),
            "last_completed_collective": number(completed),
        }},
        "entries": (1..=enqueued.unsigned_abs())
            .map(|seq| all_reduce(layout, seq, seq == 1, is_json)).collect::<Vec<_>>(),
    });
    if let Some(key) = layout.library {
        dump[key] = json!("2.28.9");
    }
    dump
}

#[test]
fn every_version_of_the_format_says_the_same_as_a_pickle_and_as_json() {
    for layout in layouts() {
        for is_json in [false, true] {
            let dir = tempfile::tempdir().expect("a directory");
            for rank in 0..3 {
                let dump = dump_of_version(layout, rank, is_json);
                let bytes = if is_json { dump.to_string().into_bytes() } else { pickle(&dump) };
                fs::write(dir.path().join(format!("nccl_trace_rank_{rank}")), bytes).expect("written");
            }
            let document = json(&analyze(&[dir.path().to_owned()]));
            let finding = &document["findings"][0];
            assert_eq!(finding["kind"], "non_comm_hang", "{layout:?}, JSON {is_json}: {document:#}");
            assert_eq!(finding["suspects"][0]["rank"], 2, "{layout:?}, JSON {is_json}: {document:#}");
            assert_eq!(document["problems"], json!([]), "{layout:?}, JSON {is_json}");
        }
    }
}

#[test]
fn a_version_that_is_not_known_is_told_and_read_all_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    for rank in 0..3 {
        let mut dump = dump_of_version(layouts()[0], rank, true);
        dump["version"] = if rank == 1 { json!("3.0") } else { json!("2.10") };
        fs::write(dir.path().join(format!("nccl_trace_rank_{rank}")), dump.to_string()).expect("written");
    }
    let output = analyze(&[dir.path().to_owned()]);
    let said = text(&output.stderr);
    assert!(said.contains("nccl_trace_rank_1: version is 3.0, expected 2.x"), "{said}");
    assert_eq!(json(&output)["findings"][0]["suspects"][0]["rank"], 2, "{said}");
}

#[test]
fn times_that_are_no_numbers_are_told_and_the_rest_is_analysed() {
    let dir = tempfile::tempdir().expect("a directory");
    for rank in 0..3 {
        let mut dump = dump_of_version(layouts()[0], rank, false);
        if rank == 1 {
            dump["entries"][0]["time_created_ns"] = json!("NaN");
        }
        fs::write(dir.path().join(format!("nccl_trace_rank_{rank}")), pickle(&dump)).expect("written");
    }
    let output = analyze(&[dir.path().to_owned()]);
    let said = text(&output.stderr);
    let what = "nccl_trace_rank_1: entry 0: time_created_ns is a number that is not finite, expected nanoseconds since 1970";
    assert!(said.contains(what), "{said}");
    assert_eq!(json(&output)["findings"][0]["suspects"][0]["rank"], 2, "{said}");
}
