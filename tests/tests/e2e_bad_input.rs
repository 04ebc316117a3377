//! What people and programs get wrong: a clear error, or "unknown"; nothing lost, nothing crashed.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use c4_tests::{
    cluster::{Cluster, Programs, Spec, wait_for},
    ringjob::checkpoint,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const CONFIG_ERROR: i32 = 64;
const UNREACHABLE: i32 = 69;

fn programs() -> Programs {
    Programs::built().expect("programs")
}

fn run(program: PathBuf, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().expect("the program starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// Runs a program with a configuration and expects every one of `mistakes` to be named, and exit code 64.
fn assert_refused(program: PathBuf, config: &str, mistakes: &[&str]) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("config.yaml");
    fs::write(&file, config).expect("written");
    let file = file.to_str().expect("a name");
    for check in [&["--config", file][..], &["--config", file, "--check-config"][..]] {
        let output = run(program.clone(), check);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(CONFIG_ERROR), "{check:?}: {said}");
        for mistake in mistakes {
            assert!(said.contains(mistake), "{mistake:?} is not named in: {said}");
        }
    }
}

#[test]
fn the_controller_names_all_mistakes_of_its_configuration_at_once() {
    let config = "listen: nonsense\nlisten_to: 1\nsteer:\n  mode: sometimes\n  max_restart: 3\nalerts:\n  - {kind: pager}\n";
    let mistakes = ["listen", "listen_to", "steer.mode", "max_restart", "alerts"];
    assert_refused(programs().controller(), config, &mistakes);
}

#[test]
fn the_agent_names_all_mistakes_of_its_configuration_at_once() {
    let config =
        "node: 7\ncontroler: http://x\nsample_interval_ms: fast\nwindow_ms: 0\nspool: {message: 3}\n";
    let mistakes = ["controler", "sample_interval_ms", "window_ms", "message"];
    assert_refused(programs().agent(), config, &mistakes);
}

#[test]
fn a_configuration_that_is_missing_or_no_yaml_is_refused() {
    for program in [programs().controller(), programs().agent()] {
        let output = run(program.clone(), &["--config", "/nonexistent/c4.yaml"]);
        assert_eq!(output.status.code(), Some(CONFIG_ERROR), "{}", said(&output));
        assert!(said(&output).contains("/nonexistent/c4.yaml"), "{}", said(&output));
        assert_refused(program, "listen: [unclosed\n", &["config.yaml"]);
    }
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("listening");
    let address = taken.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("config.yaml");
    for (listen, http) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", address.as_str())] {
        fs::write(&file, format!("listen: {listen}\nhttp: {http}\n")).expect("written");
        let output = run(programs().controller(), &["--config", file.to_str().expect("a name")]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(&address), "{}", said(&output));
        assert!(said(&output).to_lowercase().contains("in use"), "{}", said(&output));
    }
}

/// An address where nobody listens: one that was free a moment ago.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[test]
fn c4ctl_says_that_no_controller_answers() {
    let nobody = nobody();
    let output = run(programs().ctl(), &["--controller", &nobody, "findings"]);
    assert_eq!(output.status.code(), Some(UNREACHABLE), "{}", said(&output));
    assert!(said(&output).contains(&nobody), "{}", said(&output));
}

#[test]
fn a_job_runs_to_its_end_without_a_controller() {
    let programs = programs();
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let ringjob = programs.ringjob().display().to_string();
    let plugin = programs.plugin().display().to_string();
    let (rendezvous, checkpoints, recorders) = (path("rendezvous"), path("checkpoints"), path("recorders"));
    let nobody = nobody();
    let agent = ["run", "--controller", &nobody, "--node", "alone", "--job", "alone", "--ranks", "0-1"];
    let more = ["--world-size", "2", "--recorder-dir", &recorders, "--plugin", &plugin, "--", &ringjob];
    let job = ["--rendezvous", &rendezvous, "--checkpoint-dir", &checkpoints, "--iterations", "20"];
    let arguments = [&agent[..], &more[..], &job[..], &["--compute-us", "5000"][..]].concat();
    let output = run(programs.agent(), &arguments);
    assert!(output.status.success(), "{}: {}", output.status, said(&output));
    assert_eq!(checkpoint::newest(Path::new(&checkpoints)).expect("a checkpoint"), 20);
}

fn watching_only() -> Spec {
    let mut spec = Spec::eight_ranks("none");
    spec.nodes.clear();
    spec.mode = "observe";
    spec
}

fn labels(job: &str, rank: u32, size: u32) -> [(&'static str, String); 3] {
    [("C4_JOB", job.to_owned()), ("RANK", rank.to_string()), ("WORLD_SIZE", size.to_string())]
}

fn wait_unknown(cluster: &Cluster, job: &str) -> Value {
    let ctl = cluster.ctl();
    wait_for("the job to be unknown", LIMIT, || {
        let job = ctl.job(job)?;
        Ok((job["job"]["state"] == "unknown").then_some(job))
    })
    .expect("unknown")
}

#[test]
fn two_jobs_of_one_name_are_unknown_until_one_of_them_ends() {
    let cluster = Cluster::start(watching_only()).expect("a controller");
    let ctl = cluster.ctl();
    let (a, b) = (cluster.start_daemon("a").expect("agent"), cluster.start_daemon("b").expect("agent"));
    let (mut first, mut second) = (cluster.loose_job("first"), cluster.loose_job("second"));
    for rank in 0..2 {
        first.start_rank(&a, rank, 2, &labels("twin", rank, 2)).expect("a rank");
    }
    ctl.wait_healthy("twin", 0, LIMIT).expect("healthy alone");
    for rank in 0..2 {
        second.start_rank(&b, rank, 2, &labels("twin", rank, 2)).expect("a rank");
    }
    let job = wait_unknown(&cluster, "twin");
    let missing = job["job"]["missing"].to_string();
    assert!(missing.contains("claimed"), "says why: {missing}");
    assert_eq!(ctl.findings("twin").expect("findings"), Vec::<Value>::new(), "nobody is accused");
}

#[test]
fn a_rank_claimed_twice_is_unknown() {
    let cluster = Cluster::start(watching_only()).expect("a controller");
    let ctl = cluster.ctl();
    let daemon = cluster.start_daemon("a").expect("agent");
    let mut job = cluster.loose_job("claims");
    // Rank 2 says that it is rank 1.
    for (rank, claimed) in [(0, 0), (1, 1), (2, 1)] {
        job.start_rank(&daemon, rank, 3, &labels("claims", claimed, 3)).expect("a rank");
    }
    let document = wait_unknown(&cluster, "claims");
    let missing = document["job"]["missing"].to_string();
    assert!(missing.contains("rank 1"), "names the rank: {missing}");
    assert_eq!(ctl.findings("claims").expect("findings"), Vec::<Value>::new(), "nobody is accused");
}
