//! What a controller must not forget goes on in another: `c4ctl backup`, `c4-controller --restore`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use c4_tests::{
    cluster::{Cluster, Ctl, Programs, Spec, start_controller, wait_for},
    faults::inject,
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const JOB: &str = "kept";

/// The rows of a backup: all its lines but the head, which tells the time, and the end, which has the hash of all.
fn rows(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a backup");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 2, "{text}");
    lines[1..lines.len() - 1].iter().map(|line| (*line).to_owned()).collect()
}

fn backup(ctl: &Ctl, file: &Path) -> Vec<String> {
    let _ = fs::remove_file(file);
    let said = ctl.json(&["backup", &file.display().to_string()]).expect("a backup");
    assert_eq!(said["bytes"].as_u64(), fs::metadata(file).ok().map(|file| file.len()), "{said}");
    rows(file)
}

/// What people see of it: findings, actions and the pause, the audit trail.
fn shown(ctl: &Ctl) -> anyhow::Result<[Value; 3]> {
    Ok([ctl.json(&["findings", "--all"])?, ctl.json(&["actions", "--all"])?, ctl.json(&["audit"])?])
}

#[test]
fn what_one_controller_knows_goes_on_in_another() {
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.ring_args = ["--compute-us", "50000", "--bytes", "4096,65536"].map(str::to_owned).into();
    let mut cluster = Cluster::start(spec).expect("a cluster");
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    inject::signal(&cluster.faults(), 1, Signal::KILL).expect("killed");
    ctl.wait_healthy(JOB, 1, LIMIT).expect("restarted");
    ctl.json(&["pause", "--why", "moving house", "--yes"]).expect("paused");

    // It is running, and what is shown may not be written yet: until everything is over and nothing changes any more.
    let file = cluster.dir().join("backup");
    let (before, kept) = wait_for("everything to be over and written", LIMIT, || {
        let first = backup(&ctl, &file);
        let seen = shown(&ctl)?;
        let any = |all: &Value, what: &dyn Fn(&Value) -> bool| {
            all.as_array().is_some_and(|all| all.iter().any(what))
        };
        let done = any(&seen[1]["actions"], &|action| action["state"] == "done")
            && seen[1]["paused"]["why"] == "moving house";
        let ledger = ctl.json(&["ledger", JOB])?;
        let over = any(&ledger["jobs"][0]["entries"], &|outage| outage["complete"] == true);
        std::thread::sleep(Duration::from_millis(300));
        Ok((done && over && backup(&ctl, &file) == first).then_some((seen, first)))
    })
    .expect("it settles");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    cluster.stop();

    let dir = tempfile::tempdir().expect("a directory");
    let programs = Programs::built().expect("programs");
    let config = dir.path().join("controller.yaml");
    let state = dir.path().join("state");
    let text = format!(
        "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nstate: {}\nsteer: {{mode: auto}}\n",
        state.display()
    );
    fs::write(&config, text).expect("written");
    let restore = |file: &Path| {
        let mut command = Command::new(programs.controller());
        let output = command.arg("--config").arg(&config).arg("--restore").arg(file).output().expect("runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let half = dir.path().join("half");
    let whole = fs::read(&file).expect("a backup");
    fs::write(&half, &whole[..whole.len() / 2]).expect("written");
    let (restored, said) = restore(&half);
    assert!(!restored && said.contains("changed or cut short"), "{said}");
    let (restored, said) = restore(&file);
    assert!(restored && said.contains(&format!("restored {} rows", kept.len() - 1)), "{said}");

    let (_fresh, grpc, _) = start_controller(&programs, &config, dir.path(), &[]).expect("it takes it");
    let ctl = Ctl::new(&programs.ctl(), &grpc);
    let seen =
        wait_for("what is restored to be shown", LIMIT, || shown(&ctl).map(Some)).expect("it is shown");
    assert_eq!(seen, before, "what people see is the same");
    assert_eq!(backup(&ctl, &dir.path().join("again")), kept, "and so is every row");
}
