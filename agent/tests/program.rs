//! The program as its users meet it: exit codes, messages, what it leaves behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c4-agent"));
    for variable in ["RUST_LOG", "C4_JOB", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "C4_INCARNATION"] {
        command.env_remove(variable);
    }
    command
}

/// Runs a job without a controller to its end.
fn run(options: &[&str], script: &str) -> Output {
    agent().args(["run", "--no-controller"]).args(options).args(["--", "sh", "-c", script]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_bad_configuration_exits_with_64_and_all_its_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    fs::write(&path, "nod: a\nhttp: nowhere\nspool: {messages: 0}\n").unwrap();
    for options in [&["--check-config"][..], &[]] {
        let output = agent().arg("--config").arg(&path).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        let said = text(&output.stderr);
        for part in
            ["agent.yaml", "3 mistakes", "nod: unknown key", "http: expected", "spool.messages: expected"]
        {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
    let missing = agent().args(["--config", "/nonexistent.yaml", "--check-config"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(64));
}

#[test]
fn the_sample_configuration_is_good() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/agent.yaml");
    let output = agent().arg("--config").arg(sample).arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for options in [&["--ranks", "0-3"][..], &["--ranks", "0-3", "--world-size", "2"], &["--nonsense"]] {
        assert_eq!(run(options, "true").status.code(), Some(2), "{options:?}");
    }
}

#[test]
fn an_address_in_use_is_said_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("started");
    let output = run(&["--http", &address], &format!("touch {}", trace.display()));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    assert!(!trace.exists());
}

#[test]
fn the_exit_code_is_the_jobs() {
    assert_eq!(run(&[], "exit 0").status.code(), Some(0));
    assert_eq!(run(&[], "exit 42").status.code(), Some(42));
    assert_eq!(run(&[], "kill -KILL $$").status.code(), Some(137));
    let output = agent().args(["run", "--no-controller", "--", "/nonexistent/train"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).contains("/nonexistent/train"));
}

#[test]
fn output_is_whole_and_says_whose_it_is() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2";
    let output = run(&["--ranks", "2-3", "--world-size", "4"], script);
    let said = text(&output.stdout);
    for rank in [2, 3] {
        let lines: Vec<_> =
            said.lines().filter(|line| line.starts_with(&format!("[rank {rank}] line "))).collect();
        assert_eq!(lines.len(), 2000, "of rank {rank}");
        assert!(text(&output.stderr).contains(&format!("[rank {rank}] oops")));
    }
    assert_eq!(said.lines().count(), 4000, "nothing else is on stdout");
}

#[test]
fn a_run_has_a_private_directory_and_removes_it() {
    let output =
        run(&["--job", "llm"], "stat -c '%a %n' $C4_RECORDER_DIR; echo $C4_JOB; ls $C4_CHECKPOINT_MARKER");
    let said = text(&output.stdout);
    let mut lines = said.lines();
    let (mode, directory) = lines.next().unwrap().split_once(' ').unwrap();
    assert_eq!(mode, "700");
    assert_eq!(lines.next(), Some("llm"));
    assert!(!Path::new(directory).exists(), "{directory} is left");
}

#[test]
fn the_plugin_is_the_users_choice_before_ours() {
    let print = "echo $NCCL_PROFILER_PLUGIN";
    assert_eq!(text(&run(&["--plugin", "/opt/p.so"], print).stdout), "/opt/p.so\n");
    let output = agent()
        .env("NCCL_PROFILER_PLUGIN", "/theirs.so")
        .args(["run", "--no-controller", "--plugin", "/opt/p.so", "--", "sh", "-c", print])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "/theirs.so\n");
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[test]
fn a_terminated_agent_takes_its_job_along() {
    let mut child = agent()
        .args(["run", "--no-controller", "--", "sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let job = first_line(&mut child);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!Path::new("/proc").join(job).exists());
}

#[test]
fn an_absent_controller_does_not_keep_a_job_from_running() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("http://{free}");
    let output =
        agent().args(["run", "--controller", &address, "--", "sh", "-c", "echo fine"]).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "fine\n"));
    assert_eq!(text(&output.stderr).matches("no controller;").count(), 1, "once, not at each attempt");
}
