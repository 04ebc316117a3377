//! `c4ctl paths` while a job runs under agents and a controller: its flows and when they are used next, from what its own
//! processes tell, and over a restart of the controller.

use std::{fs, process::Output, time::Duration};

use c4_tests::{
    cluster::{Cluster, Ctl, Spec, wait_for},
    ringjob::clock,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const JOB: &str = "foretold";
/// An iteration takes so long before it sends anything, and then some milliseconds.
const COMPUTE_US: u64 = 400_000;

const TOPOLOGY: &str = "hosts:
  - {name: node-0, nics: [{name: eth0, ports: [{switch: leaf0, gbps: 10, address: 10.0.0.2}]}]}
  - {name: node-1, nics: [{name: eth0, ports: [{switch: leaf1, gbps: 10, address: 10.0.1.2}]}]}
switches:
  - {name: leaf0, tier: leaf}
  - {name: leaf1, tier: leaf}
  - {name: spine0, tier: spine, addresses: [172.16.0.1]}
  - {name: spine1, tier: spine, addresses: [172.16.0.2]}
links:
  - {a: leaf0, b: spine0, gbps: 10}
  - {a: leaf0, b: spine1, gbps: 10}
  - {a: leaf1, b: spine0, gbps: 10}
  - {a: leaf1, b: spine1, gbps: 10}
";

/// The job in what `c4ctl paths` says, once its next use is known.
fn foretold(ctl: &Ctl) -> Value {
    wait_for("the job's next use", LIMIT, || {
        let paths = ctl.json(&["paths"])?;
        let job = paths["jobs"].as_array().into_iter().flatten().find(|job| job["job"] == JOB);
        Ok(job.filter(|job| job["next_unix_us"].is_u64()).cloned())
    })
    .expect("in time")
}

/// What stands under NEXT for the job, for people; columns are at least two spaces apart.
fn next_column(ctl: &Ctl) -> String {
    let Output { status, stdout, .. } = ctl.command().arg("paths").output().expect("runs");
    assert!(status.success());
    let text = String::from_utf8(stdout).expect("UTF-8");
    let cells = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let header = text.lines().find(|line| line.contains("NEXT")).unwrap_or_else(|| panic!("{text}"));
    let row = text.lines().find(|line| line.starts_with(JOB)).unwrap_or_else(|| panic!("{text}"));
    let at = cells(header).iter().position(|cell| cell == "NEXT").expect("a column");
    cells(row)[at].clone()
}

#[test]
fn the_next_use_of_a_running_jobs_flows_is_foretold_and_a_restart_of_the_controller_moves_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let topology = dir.path().join("topology.yaml");
    fs::write(&topology, TOPOLOGY).expect("written");
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.netfault = false;
    let compute = COMPUTE_US.to_string();
    spec.ring_args = ["--compute-us", &compute, "--noise", "0", "--bytes", "65536"].map(str::to_owned).into();
    spec.controller_yaml = format!("paths: {{topology: {}}}\n", topology.display());
    let mut cluster = Cluster::start(spec).expect("a cluster");
    let ctl = cluster.ctl();
    foretell(&ctl);

    let flows = || ctl.json(&["paths"]).expect("answers")["flows"].clone();
    let before = flows();
    assert_eq!(before.as_array().map(Vec::len), Some(2), "one each way: {before}");
    cluster.restart_controller().expect("comes up");
    foretell(&ctl);
    let paths = ctl.json(&["paths"]).expect("answers");
    assert_eq!((&paths["flows"], &paths["moves"]), (&before, &Value::from(0)), "nobody has moved");
}

/// Looks a few times what is foretold.
fn foretell(ctl: &Ctl) {
    for _ in 0..5 {
        let job = foretold(ctl);
        let now = clock::unix_us();
        assert_eq!((&job["pattern"], &job["running"]), (&"ring of 2 hosts".into(), &true.into()), "{job}");
        let period = (job["period_seconds"].as_f64().expect("a number") * 1e6) as u64;
        // After few iterations, and on a machine that does much else, it is known roughly.
        assert!((COMPUTE_US / 2..4 * COMPUTE_US).contains(&period), "{job}");
        let next = job["next_unix_us"].as_u64().expect("a time");
        assert!(next.abs_diff(now) <= period, "{next} is no iteration from {now}: {job}");
        let shown = next_column(ctl);
        let ms: f64 = shown
            .strip_prefix("in ")
            .and_then(|text| text.strip_suffix(" ms").or_else(|| text.strip_suffix(" µs").map(|_| "0")))
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{shown:?} is no time of milliseconds"));
        assert!(ms * 1e3 <= period as f64, "{shown} is more than an iteration of {period} us");
    }
}
