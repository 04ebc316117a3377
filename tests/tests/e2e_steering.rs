//! What is done about faults on a whole C4: spare nodes take over, operators decide, and what it cost is accounted for.

use std::{process::Output, time::Duration};

use c4_tests::{
    cluster::{Cluster, Ctl, Spec, wait_for},
    faults::inject,
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const JOB: &str = "steered";

fn spec(mode: &'static str) -> Spec {
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.mode = mode;
    spec.ring_args = ["--compute-us", "50000", "--bytes", "4096,65536", "--checkpoint-every", "10"]
        .map(str::to_owned)
        .into();
    spec
}

fn run(ctl: &Ctl, arguments: &[&str]) -> Output {
    ctl.command().args(arguments).output().expect("c4ctl runs")
}

fn node_of(job: &Value, rank: u64) -> Option<String> {
    let ranks = job["ranks"].as_array()?;
    let found = ranks.iter().find(|found| found["rank"].as_u64() == Some(rank))?;
    found["node"].as_str().map(str::to_owned)
}

/// The first action in this state.
fn action(ctl: &Ctl, state: &str) -> Value {
    wait_for(&format!("an action that is {state}"), LIMIT, || {
        let document = ctl.json(&["actions", "--all"])?;
        let actions = document["actions"].as_array().cloned().unwrap_or_default();
        Ok(actions.into_iter().find(|action| action["state"] == state))
    })
    .expect("an action")
}

/// Two faults on one node: the job is restarted in place, then without the node, on the spare one.
#[test]
fn a_spare_takes_over_from_a_node_that_fails_twice() {
    let mut spec = spec("auto");
    spec.spares = vec!["spare-0".into()];
    // The first fault comes while the controller would still wait for its agents.
    spec.controller_yaml = "  settle_seconds: 0\n".into();
    let cluster = Cluster::start(spec).expect("a cluster");
    let ctl = cluster.ctl();
    for incarnation in 0..2 {
        ctl.wait_healthy(JOB, incarnation, LIMIT).expect("healthy before the fault");
        inject::signal(&cluster.faults(), 2, Signal::KILL).expect("killed");
        // A finding that blames somebody else first would send the ladder elsewhere.
        let known: Vec<Value> = Vec::new();
        ctl.wait_finding(JOB, &known, LIMIT).expect("a finding");
        wait_for("the next incarnation", LIMIT, || {
            let job = ctl.job(JOB)?;
            Ok((job["job"]["incarnation"].as_u64() > Some(incarnation)).then_some(()))
        })
        .expect("restarted");
    }
    let job = ctl.wait_healthy(JOB, 2, LIMIT).expect("healthy on the spare");
    assert_eq!(node_of(&job, 0).as_deref(), Some("node-0"), "{job:#}");
    assert_eq!(node_of(&job, 2).as_deref(), Some("spare-0"), "{job:#}");
    assert_eq!(node_of(&job, 3).as_deref(), Some("spare-0"), "{job:#}");

    let ledger = wait_for("both outages to be over", LIMIT, || {
        let ledger = ctl.json(&["ledger", JOB])?;
        let entries = ledger["jobs"][0]["entries"].as_array().cloned().unwrap_or_default();
        Ok(entries.iter().all(|entry| entry["complete"] == true).then_some(ledger))
    })
    .expect("a ledger");
    let job = &ledger["jobs"][0];
    let entries = job["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), 2, "{ledger:#}");
    for entry in entries {
        let part = |name: &str| entry[name].as_f64().unwrap_or(0.0);
        let wall = part("detection_seconds")
            + part("diagnosis_isolation_seconds")
            + part("reinitialisation_seconds");
        println!("fault to first new iteration of all ranks: {wall:.2} s ({entry})");
        assert_eq!(entry["complete"], true, "{entry}");
    }
    assert!(job["lost_share"].as_f64() > Some(0.0), "{ledger:#}");

    // The job's marker says how long each checkpoint took; two faults make a rate.
    let advice = &job["checkpoint"];
    let said = |name: &str| advice[name].as_f64().unwrap_or_else(|| panic!("no {name}: {ledger:#}"));
    assert!(said("cost_seconds") > 0.0 && said("interval_seconds") > 0.0, "{advice}");
    assert!(said("saves_share") >= 0.0 && said("mean_time_between_failures_seconds") > 1.0, "{advice}");
    let shown = run(&ctl, &["ledger", JOB]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    println!("{shown}");
    assert!(shown.contains("a checkpoint every"), "{shown}");

    // A job may also say so itself.
    let told = run(&ctl, &["checkpoint", JOB, "1000000", "--took", "2.5"]);
    assert!(told.status.success(), "{told:?}");
    let unknown = run(&ctl, &["checkpoint", "no-such-job", "1"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");

    let evidence = ctl.json(&["evidence", "--job", JOB]).expect("evidence");
    let sets = evidence["evidence"].as_array().expect("sets");
    assert!(sets.len() >= 2, "one from each node at least: {evidence:#}");
    let path = sets[0]["path"].as_str().expect("a path");
    let again = run(&ctl, &["analyze", path]);
    assert!(!String::from_utf8_lossy(&again.stdout).is_empty(), "recorders in it can be read again");
}

#[test]
fn operators_say_yes_no_and_stop() {
    let cluster = Cluster::start(spec("approve")).expect("a cluster");
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    inject::signal(&cluster.faults(), 1, Signal::KILL).expect("killed");
    let waiting = action(&ctl, "proposed");
    let id = waiting["id"].as_str().expect("an id");
    // Without a terminal nothing is done by accident, and a dry run does nothing at all.
    let refused = run(&ctl, &["approve", id]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let dry = run(&ctl, &["approve", id, "--dry-run"]);
    assert!(
        dry.status.success() && String::from_utf8_lossy(&dry.stdout).contains("would restart"),
        "{dry:?}"
    );
    assert_eq!(action(&ctl, "proposed")["id"], waiting["id"]);

    // In a pause nobody's yes counts.
    let paused = run(&ctl, &["pause", "--why", "fire drill", "--by", "eve"]);
    assert!(paused.status.success(), "{paused:?}");
    let held = run(&ctl, &["approve", id, "--yes"]);
    assert_eq!(held.status.code(), Some(1), "{held:?}");
    assert!(String::from_utf8_lossy(&held.stderr).contains("paused by eve"), "{held:?}");
    assert!(run(&ctl, &["resume", "--yes"]).status.success());
    let said = ctl.json(&["approve", id, "--yes", "--by", "bob"]).expect("approved");
    assert!(said["text"].as_str().expect("text").contains("restart job"), "{said}");
    ctl.wait_healthy(JOB, 1, LIMIT).expect("restarted");
    assert_eq!(action(&ctl, "done")["by"], "bob");
    let audit = ctl.json(&["audit"]).expect("an audit trail");
    let who: Vec<_> = audit["audit"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| (entry["who"].as_str().unwrap_or(""), entry["what"].as_str().unwrap_or("")))
        .collect();
    for wanted in [("eve", "paused"), ("bob", "approved"), ("policy", "done")] {
        assert!(who.contains(&wanted), "{wanted:?} is not in {who:?}");
    }
    let unknown = run(&ctl, &["reject", "no-such-action", "--yes"]);
    assert_eq!(unknown.status.code(), Some(1));
}
