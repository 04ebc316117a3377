//! Flight recorders in a directory that everybody may write to.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
};

use c4_tests::cluster::{Child, Programs, wait_for};

use crate::site::LIMIT;

/// Whose testimony it is. Needs root, since it takes two users.
#[test]
fn a_recorder_that_is_not_its_writers_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: two users cannot be played");
        return;
    }
    let programs = Programs::built().expect("programs");
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let recorders = dir.path().join("recorders");
    fs::create_dir(&recorders).expect("made");
    fs::set_permissions(&recorders, fs::Permissions::from_mode(0o1777)).expect("shared");
    let config = dir.path().join("agent.yaml");
    let text = format!(
        "controller: null\nhttp: null\nrecorder_dir: {}\nlog: {{filter: debug}}\n",
        recorders.display()
    );
    fs::write(&config, text).expect("written");
    let log = dir.path().join("agent.log");

    // A rank of user 4001 alone in its job, as the only one of its world; its file then goes to user 4002.
    let scratch = dir.path().join("scratch");
    fs::create_dir(&scratch).expect("made");
    chown(&scratch, Some(4001), Some(4001)).expect("given");
    let mut command = Command::new(programs.ringjob());
    command
        .env("NCCL_PROFILER_PLUGIN", programs.plugin())
        .env("C4_RECORDER_DIR", &recorders)
        .env("C4_JOB", "theirs");
    command.args(["--rank", "0", "--world-size", "1", "--rendezvous"]).arg(scratch.join("rendezvous"));
    std::os::unix::process::CommandExt::uid(&mut command, 4001);
    let _rank = Child::start("rank", &mut command, &dir.path().join("rank.log")).expect("starts");
    let file = wait_for("the recorder", LIMIT, || {
        let found = fs::read_dir(&recorders)?.flatten().map(|entry| entry.path());
        Ok(found.into_iter().find(|path| path.extension().is_some_and(|suffix| suffix == "c4r")))
    })
    .expect("it is made");
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "no other user reads it");
    chown(&file, Some(4002), Some(4002)).expect("given");

    let mut command = Command::new(programs.agent());
    let _agent = Child::start("agent", command.arg("--config").arg(&config), &log).expect("starts");
    wait_for("the refusal", LIMIT, || {
        let log = fs::read_to_string(&log)?;
        Ok((log.contains("belongs to user 4002") && log.contains("is user 4001's: not believed"))
            .then_some(()))
    })
    .expect("it is refused and said so");
    let log = fs::read_to_string(&log).expect("a log");
    assert!(!log.contains("job: \"theirs\""), "nothing of what it says is passed on: {log}");
}
