//! `c4ctl analyze` on operation traces, through the real binary.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Output,
};

mod support;
#[path = "support/trace.rs"]
mod trace;

use support::{command, json, text};
use trace::{Fate, Job, OPERATIONS};

fn write(dir: &Path, name: &str, lines: &[String]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, lines.join("\n") + "\n").expect("written");
    path
}

fn analyze(path: &Path) -> Output {
    command(&["analyze", "--json"]).arg(path).output().expect("runs")
}

/// The only finding of a trace.
fn only_finding(job: &Job) -> serde_json::Value {
    let dir = tempfile::tempdir().expect("a directory");
    let output = analyze(&write(dir.path(), "trace.jsonl", &job.lines()));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let document = json(&output);
    let findings = document["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 1, "{document:#}");
    findings[0].clone()
}

/// The operation at which things go wrong.
const FAULT: u64 = 150 * OPERATIONS + 1;

#[test]
fn a_healthy_job_has_no_findings() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = analyze(&write(dir.path(), "trace.jsonl", &Job::default().lines()));
    let document = json(&output);
    assert_eq!(document["findings"], serde_json::json!([]), "{document:#}");
    assert_eq!(document["problems"], serde_json::json!([]));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_rank_that_never_enters_is_named() {
    for culprit in [0, 5] {
        let finding = only_finding(&Job {
            fate: match culprit {
                0 => |rank, n| hang(rank == 0, n),
                _ => |rank, n| hang(rank == 5, n),
            },
            ..Job::default()
        });
        assert_eq!(finding["kind"], "non_comm_hang", "{finding:#}");
        assert_eq!(finding["suspects"][0]["rank"], culprit, "{finding:#}");
        assert!(finding["cleared"].is_null(), "it never resolved");
    }
}

fn hang(culprit: bool, operation: u64) -> Fate {
    match operation {
        n if n < FAULT => Fate::Done,
        FAULT if !culprit => Fate::Stuck,
        _ => Fate::Absent,
    }
}

#[test]
fn a_hang_in_which_all_ranks_are_is_of_communication() {
    let finding = only_finding(&Job {
        fate: |_, n| match n {
            n if n < FAULT => Fate::Done,
            FAULT => Fate::Stuck,
            _ => Fate::Absent,
        },
        ..Job::default()
    });
    assert_eq!(finding["kind"], "comm_hang", "{finding:#}");
}

#[test]
fn a_rank_with_another_size_is_named() {
    let finding = only_finding(&Job {
        fate: |rank, n| match n {
            n if n < FAULT => Fate::Done,
            FAULT if rank == 2 => Fate::StuckWithOtherSize,
            FAULT => Fate::Stuck,
            _ => Fate::Absent,
        },
        ..Job::default()
    });
    assert_eq!(finding["kind"], "desync", "{finding:#}");
    assert_eq!(finding["suspects"][0]["rank"], 2, "{finding:#}");
}

#[test]
fn a_straggler_is_named() {
    let finding = only_finding(&Job {
        iterations: 400,
        late_us: |rank, n| if rank == 6 && n >= FAULT { 1_500.0 } else { 0.0 },
        ..Job::default()
    });
    assert_eq!(finding["kind"], "non_comm_slow", "{finding:#}");
    assert_eq!(finding["suspects"][0]["rank"], 6, "{finding:#}");
}

#[test]
fn for_a_person_the_sentence_comes_first_and_a_picture_follows() {
    let dir = tempfile::tempdir().expect("a directory");
    let job = Job { fate: |rank, n| hang(rank == 5, n), ..Job::default() };
    let path = write(dir.path(), "trace.jsonl", &job.lines());
    let output = command(&["analyze"]).arg(&path).output().expect("runs");
    let shown = text(&output.stdout);
    assert!(shown.lines().next().is_some_and(|line| line.contains("ank 5")), "{shown}");
    let culprit = shown.lines().find(|line| line.starts_with("  * rank 5")).expect("in the picture");
    assert!(culprit.contains(&format!("never entered it, last finished #{}", FAULT - 1)), "{shown}");
    let peer = shown.lines().find(|line| line.starts_with("    rank 4")).expect("in the picture");
    assert!(peer.contains("▶ in it, never left"), "{shown}");
}

#[test]
fn order_compression_and_number_of_files_do_not_matter() {
    let dir = tempfile::tempdir().expect("a directory");
    let job = Job { fate: |rank, n| hang(rank == 5, n), ..Job::default() };
    let lines = job.lines();
    let expected = json(&analyze(&write(dir.path(), "trace.jsonl", &lines)))["findings"].take();

    let mut backwards = lines.clone();
    backwards.reverse();
    assert_eq!(json(&analyze(&write(dir.path(), "backwards", &backwards)))["findings"], expected);

    let many = dir.path().join("many");
    fs::create_dir(&many).expect("made");
    for part in 0..3 {
        let lines: Vec<String> = lines.iter().skip(part).step_by(3).cloned().collect();
        let file = fs::File::create(many.join(format!("part{part}.jsonl.gz"))).expect("made");
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all((lines.join("\n") + "\n").as_bytes()).expect("written");
        gzip.finish().expect("written");
    }
    assert_eq!(json(&analyze(&many))["findings"], expected);

    let zstd = ruzstd::encoding::compress_to_vec(
        lines.join("\n").as_bytes(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    fs::write(dir.path().join("trace.zst"), zstd).expect("written");
    assert_eq!(json(&analyze(&dir.path().join("trace.zst")))["findings"], expected);
}

#[test]
fn absence_is_not_evidence() {
    let dir = tempfile::tempdir().expect("a directory");
    // Rank 3 was not recorded at all; rank 6's record ends long before its peers'; and operations are missing that
    // all ranks lack.
    let kept = |line: &&String| {
        let part = |key: &str| -> Option<u64> {
            let rest = &line[line.find(key)? + key.len()..];
            rest[..rest.find([',', '}'])?].parse().ok()
        };
        let (Some(rank), Some(seq)) = (part("\"rank\":"), part("\"seq\":")) else { return true };
        rank != 3 && !(rank == 6 && seq > 400) && seq % 40 < 32
    };
    let lines: Vec<String> = Job::default().lines().iter().filter(kept).cloned().collect();
    let document = json(&analyze(&write(dir.path(), "trace.jsonl", &lines)));
    assert_eq!(document["findings"], serde_json::json!([]), "{document:#}");
    let notes = document["notes"].to_string();
    assert!(notes.contains("the record of rank 6 on dp0 stops at position 401"), "{notes}");
}

#[test]
fn bad_lines_are_named_and_the_rest_is_still_analysed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut lines = Job { fate: |rank, n| hang(rank == 5, n), ..Job::default() }.lines();
    let bad = [
        r#"{"rank":0,"comm":"dp0","seq":7,"op":"all_re"#,
        r#"{"rank":0,"comm":"dp0","seq":7,"op":"all_reduce","start_us":NaN}"#,
        r#"{"rank":99,"comm":"dp0","seq":7,"op":"all_reduce","start_us":1}"#,
        "\u{0}\u{0}\u{0}",
    ];
    for (index, line) in bad.iter().enumerate() {
        lines.insert(10 + index, (*line).to_owned());
    }
    let path = write(dir.path(), "trace.jsonl", &lines);
    let output = analyze(&path);
    assert_eq!(output.status.code(), Some(1));
    let document = json(&output);
    assert_eq!(document["findings"][0]["suspects"][0]["rank"], 5, "{document:#}");
    let said = text(&output.stderr);
    for (line, what) in [
        (11, "the line ends in the middle of its JSON object"),
        (12, "not a JSON object"),
        (13, "rank is 99, expected less than world_size 8"),
        (14, "not a JSON object"),
    ] {
        let place = format!("{}:{line}: ", path.display());
        let found = said.lines().any(|l| l.contains(&place) && l.contains(what));
        assert!(found, "{place}{what} in\n{said}");
    }
    assert_eq!(document["problems_total"], 4);
}

/// Gigabytes on one line, in a process that may not have half of one: they are passed over, not kept.
#[test]
fn gigabytes_on_one_line_cost_no_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let lines = Job { fate: |rank, n| hang(rank == 5, n), ..Job::default() }.lines();
    let path = write(dir.path(), "trace.jsonl", &lines);
    // A hole in the file reads as zeros and takes no room on the disk.
    let mut file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
    let end = file.seek(SeekFrom::End(2 << 30)).expect("seeks");
    file.write_all(b"\n{\"rank\":0,\"com").expect("written");
    let dump = dir.path().join("nccl_trace_rank_0");
    let mut file = fs::File::create(&dump).expect("created");
    file.write_all(b"\x80\x02").expect("written");
    file.set_len(2 << 30).expect("grown");
    drop(file);
    let limited = |path: &Path| {
        let program = command(&[]).get_program().to_owned();
        let limit = "ulimit -v 500000 && exec \"$0\" analyze --json \"$1\"";
        std::process::Command::new("sh").args(["-c", limit]).arg(program).arg(path).output().expect("runs")
    };
    let output = limited(&path);
    let said = text(&output.stderr);
    assert_eq!(json(&output)["findings"][0]["suspects"][0]["rank"], 5, "{said}");
    let long = format!(":{}: the line is longer than", lines.len() + 1);
    let half = format!(":{}: the line ends in the middle", lines.len() + 2);
    assert!(said.contains(&long) && said.contains(&half), "{said} ({end} bytes)");
    let said = text(&limited(&dump).stderr);
    assert!(said.contains("expected the dump of one rank"), "{said}");
}

#[test]
fn a_healthy_trace_with_a_bad_line_is_not_called_fine() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut lines = Job::default().lines();
    lines.push(r#"{"rank":0,"com"#.to_owned());
    let output = analyze(&write(dir.path(), "trace.jsonl", &lines));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["findings"], serde_json::json!([]));
}

#[test]
fn one_wrong_time_does_not_make_it_endless() {
    let dir = tempfile::tempdir().expect("a directory");
    for wrong in [
        r#"{"rank":1,"comm":"dp0","seq":800,"op":"all_reduce","start_us":8e15,"end_us":8.1e15}"#,
        r#"{"rank":1,"peer":0,"op":"send","start_us":8e15,"end_us":8.1e15}"#,
        r#"{"rank":1,"op":"compute","name":"forward","start_us":8e15,"end_us":8.1e15}"#,
    ] {
        let mut lines = Job::default().lines();
        lines.push(wrong.to_owned());
        let output = analyze(&write(dir.path(), "trace.jsonl", &lines));
        assert!(output.status.code().is_some(), "it ended by itself");
    }
}

#[test]
fn what_cannot_be_analysed_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let cases = [
        (dir.path().join("nowhere"), "No such file", 1),
        (file("empty", b""), "is empty", 1),
        (file("noise", &[0xff; 100]), "no line of the trace could be read", 1),
        (file("x_dump_0", b"\x80\x04\x95\x00"), "the pickle ends at byte 4", 1),
        (file("bad.c4r", b"too short"), "bad.c4r", 1),
    ];
    for (path, expected, code) in cases {
        let output = command(&["analyze"]).arg(&path).output().expect("runs");
        assert_eq!(output.status.code(), Some(code), "{}", path.display());
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    let trace = write(dir.path(), "t.jsonl", &Job { iterations: 1, ..Job::default() }.lines());
    let mixed = command(&["analyze"]).arg(&trace).arg(dir.path().join("bad.c4r")).output().expect("runs");
    assert_eq!(mixed.status.code(), Some(2));
    assert!(text(&mixed.stderr).contains("one format"), "{}", text(&mixed.stderr));
    // A dump beside a trace is taken along, and a broken one is told, no more.
    let beside = command(&["analyze"]).arg(&trace).arg(dir.path().join("x_dump_0")).output().expect("runs");
    assert_eq!(beside.status.code(), Some(1));
    assert!(text(&beside.stderr).contains("the pickle ends at byte 4"), "{}", text(&beside.stderr));
}

#[test]
fn a_closed_pipe_is_quiet() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = write(dir.path(), "t.jsonl", &Job { iterations: 5, ..Job::default() }.lines());
    let mut child = command(&["analyze", "--json"])
        .arg(&path)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
