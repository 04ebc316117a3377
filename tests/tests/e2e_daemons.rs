//! What a service manager sees of the daemons: ready, alive, told to reload, told to end.

use std::{
    collections::BTreeMap, fs, os::unix::net::UnixDatagram, path::Path, process::Command, time::Duration,
};

use c4_tests::cluster::{Child, Cluster, Programs, Spec, wait_for};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for a message to the manager that has this line.
fn told(socket: &UnixDatagram, line: &str) {
    let mut bytes = [0; 4096];
    loop {
        let length = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{line} never came: {error}"));
        if String::from_utf8_lossy(&bytes[..length]).lines().any(|said| said == line) {
            return;
        }
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.pid().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("sent");
}

/// Runs a daemon as systemd would, and changes its log's level from `info` to `debug`.
fn plays_its_part(name: &str, program: &Path, config: &str, level: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let (socket, file) = (dir.path().join("notify"), dir.path().join("config.yaml"));
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("set");
    let write = |log: &str| {
        let config = config.replace("DIR", &dir.path().display().to_string());
        fs::write(&file, format!("{config}\nlog: {{{level}: {log}, format: json}}\n")).expect("written");
    };
    write("info");
    let log = dir.path().join("log");
    let mut command = Command::new(program);
    command.arg("--config").arg(&file).env_remove("RUST_LOG").env_remove("WATCHDOG_PID");
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    let mut child = Child::start(name, &mut command, &log).expect("starts");
    told(&manager, "READY=1");
    told(&manager, "WATCHDOG=1");

    let logged = |words: &str| {
        wait_for(words, LIMIT, || Ok(fs::read_to_string(&log)?.contains(words).then_some(())))
            .expect("it is logged");
    };
    write("debug");
    send(&child, Signal::HUP);
    logged("the log's level was changed");
    fs::write(&file, "no: such: thing").expect("written");
    send(&child, Signal::HUP);
    logged("the configuration is wrong, nothing was changed");

    send(&child, Signal::TERM);
    told(&manager, "STOPPING=1");
    assert_eq!(child.wait(LIMIT).expect("it ends").code(), Some(0));
    let text = fs::read_to_string(&log).expect("a log");
    for line in text.lines().filter(|line| line.starts_with('{')) {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn the_controller_plays_its_part() {
    let programs = Programs::built().expect("programs");
    plays_its_part("controller", &programs.controller(), "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0", "level");
}

#[test]
fn the_agent_plays_its_part() {
    let programs = Programs::built().expect("programs");
    let config = "controller: null\nhttp: null\nrecorder_dir: DIR/recorders";
    plays_its_part("agent", &programs.agent(), config, "filter");
}

/// What all programs of a cluster have logged.
fn logs(dir: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("a file").path());
    let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a log"))).collect()
}

#[test]
fn nothing_is_logged_while_nothing_happens() {
    let mut spec = Spec::eight_ranks("quiet");
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    // What becomes of the machine that this runs on is told, as it should be.
    spec.agent_yaml = "sensors: {host: {enabled: false}, kmsg: {enabled: false}}\n".into();
    let cluster = Cluster::start(spec).expect("a cluster");
    cluster.ctl().wait_healthy("quiet", 0, LIMIT).expect("healthy");
    let iteration = || Ok(cluster.faults().read_iteration(0).map(|(iteration, _)| iteration));
    let reached = wait_for("an iteration", LIMIT, iteration).expect("it iterates");
    let before = logs(cluster.dir());
    assert_eq!(before.len(), 3, "{:?}", before.keys());
    wait_for("a hundred more", LIMIT, || Ok(iteration()?.filter(|now| *now > reached + 100)))
        .expect("it goes on");
    assert_eq!(logs(cluster.dir()), before);
}
