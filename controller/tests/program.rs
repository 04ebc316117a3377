//! The program itself: exit codes, what it prints, how it ends.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c4-controller"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn with_config(yaml: &str, arguments: &[&str]) -> (tempfile::TempDir, Command) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c4.yaml");
    std::fs::write(&path, yaml).expect("written");
    let mut command = program(&["--config", path.to_str().expect("a path")]);
    command.args(arguments);
    (dir, command)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_configuration_is_64_with_every_mistake() {
    for arguments in [&["--check-config"][..], &[]] {
        let (_dir, mut command) = with_config("listen: nowhere\nsteer: {mode: maybe}\nbogus: 1\n", arguments);
        let output = command.output().expect("runs");
        assert_eq!(output.status.code(), Some(64));
        let said = words(&output);
        for path in ["listen: ", "steer.mode: ", "bogus: "] {
            assert!(said.contains(path), "{said}");
        }
        assert_eq!(said.lines().count(), 3, "{said}");
    }
    let output = program(&["--config", "/no/such/file"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(words(&output).contains("/no/such/file"));
}

#[test]
fn a_right_configuration_is_0() {
    let (_dir, mut command) = with_config("steer: {mode: auto}\n", &["--check-config"]);
    assert_eq!(command.output().expect("runs").status.code(), Some(0));
}

#[test]
fn an_address_in_use_is_one_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let (_dir, mut command) = with_config(&format!("listen: 127.0.0.1:0\nhttp: {address}\n"), &[]);
    let output = command.output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("http: cannot listen on {address}: Address already in use")), "{said}");
    assert!(output.stdout.is_empty(), "never said to be listening");
}

#[test]
fn it_says_where_it_listens_and_drains_on_sigterm() {
    let (dir, mut command) = with_config("listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\n", &[]);
    let mut child = command.spawn().expect("runs");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    output.read_line(&mut line).expect("a line");
    assert!(line.starts_with("listening grpc=127.0.0.1:") && line.contains(" http=127.0.0.1:"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    drop(dir);
}
