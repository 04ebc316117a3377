//! `c4ctl paths` while a job runs under agents and a controller: its flows and when they are used next, from what its own
//! processes tell, over a restart of the controller, and by the NICs that the job's environment names.

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
fn flows_are_of_the_nics_that_the_jobs_environment_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let topology = dir.path().join("topology.yaml");
    let two = |n: u8| {
        format!(
            "eth0, ports: [{{switch: leaf{n}, gbps: 10, address: 10.0.{n}.2}}]}}, \
             {{name: lo, ports: [{{switch: leaf{n}, gbps: 10, address: 10.0.{n}.3}}]}}]}}"
        )
    };
    let one = |n: u8| format!("eth0, ports: [{{switch: leaf{n}, gbps: 10, address: 10.0.{n}.2}}]}}]}}");
    let text = [0, 1].into_iter().fold(TOPOLOGY.to_owned(), |text, n| text.replace(&one(n), &two(n)));
    assert_eq!(text.matches("name: lo").count(), 2);
    fs::write(&topology, text).expect("written");
    // The first of the GPUs gets the first of the NICs, unless the job has another for it: one that every machine has.
    for (variables, nic) in [(&[][..], "eth0"), (&[("NCCL_SOCKET_IFNAME", "=lo")], "lo")] {
        let mut spec = Spec::eight_ranks(JOB);
        spec.nodes = vec![("node-0".into(), 0..1), ("node-1".into(), 1..2)];
        spec.netfault = false;
        spec.ring_args = ["--compute-us", "1000000", "--noise", "0"].map(str::to_owned).into();
        spec.ring_env = vec![("NCCL_IB_DISABLE".into(), "1".into())];
        spec.ring_env.extend(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        spec.controller_yaml = format!("paths: {{topology: {}}}\n", topology.display());
        let cluster = Cluster::start(spec).expect("a cluster");
        let ctl = cluster.ctl();
        let flows = wait_for("flows", LIMIT, || {
            let flows = ctl.json(&["paths"])?["flows"].clone();
            Ok(flows.as_array().filter(|flows| flows.len() == 2).cloned())
        })
        .expect("in time");
        let ends: Vec<(&Value, &Value)> = flows.iter().map(|flow| (&flow["from"], &flow["to"])).collect();
        let [a, b] = [0, 1].map(|n| Value::from(format!("node-{n}/{nic}")));
        assert_eq!(ends, [(&a, &b), (&b, &a)], "{variables:?}");
        let (iteration, _) = cluster.faults().read_iteration(0).expect("it runs");
        assert!(iteration < 3, "planned within the job's first three iterations, not after {iteration}");
    }
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
