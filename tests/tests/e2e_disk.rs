//! A disk that takes seconds for every write: what the controller has decided it does once, whatever happens to it meanwhile.

use std::{fs, path::PathBuf, time::Duration};

use c4_tests::{
    cluster::{Cluster, Ctl, Programs, Spec, suspect_rank, wait_for},
    faults::inject,
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const JOB: &str = "slow-disk";

/// The disk's delay, in a file that the controller's disk obeys.
struct Disk(PathBuf);

impl Disk {
    fn takes(&self, ms: u64) {
        fs::write(&self.0, ms.to_string()).expect("written");
    }
}

fn cluster(dir: &tempfile::TempDir) -> (Cluster, Disk) {
    let disk = Disk(dir.path().join("disk"));
    let preload = Programs::built().expect("programs").clockfault();
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.ring_args = ["--compute-us", "50000", "--bytes", "4096"].map(str::to_owned).into();
    spec.controller_yaml = "  settle_seconds: 0\n".into();
    spec.controller_env = vec![
        ("LD_PRELOAD".into(), preload.display().to_string()),
        ("C4_DISK_FILE".into(), disk.0.display().to_string()),
    ];
    (Cluster::start(spec).expect("a cluster"), disk)
}

fn list(ctl: &Ctl, arguments: &[&str], name: &str) -> anyhow::Result<Vec<Value>> {
    Ok(ctl.json(arguments)?[name].as_array().cloned().unwrap_or_default())
}

/// After so many faults, the job has been restarted so often, and there is a finding, an action and an outage for each.
fn each_once(ctl: &Ctl, faults: usize) {
    ctl.wait_healthy(JOB, faults as u64, LIMIT).expect("healthy after the restart");
    let settled = wait_for("everything to be written down", LIMIT, || {
        let findings = ctl.findings(JOB)?;
        let actions = list(ctl, &["actions", "--all"], "actions")?;
        let ledger = ctl.json(&["ledger", JOB])?["jobs"][0]["entries"].clone();
        let entries = ledger.as_array().cloned().unwrap_or_default();
        let over = findings.iter().all(|finding| !finding["cleared"].is_null())
            && actions.iter().all(|action| action["state"] == "done")
            && entries.iter().all(|entry| entry["complete"] == true);
        Ok(over.then_some((findings, actions, entries)))
    });
    let (findings, actions, entries) = settled.expect("settled");
    assert_eq!(findings.len(), faults, "{findings:#?}");
    assert_eq!(actions.len(), faults, "{actions:#?}");
    assert_eq!(entries.len(), faults, "{entries:#?}");
    let job = ctl.job(JOB).expect("the job");
    assert_eq!(job["job"]["incarnation"], faults, "restarted as often as needed: {}", job["job"]);
}

fn kill(cluster: &Cluster, rank: u32) {
    inject::signal(&cluster.faults(), rank, Signal::KILL).expect("killed");
}

#[test]
fn what_is_written_slowly_is_neither_lost_nor_doubled() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut cluster, disk) = cluster(&dir);
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");

    // A fault while every write takes two seconds.
    disk.takes(2_000);
    kill(&cluster, 2);
    let finding = ctl.wait_finding(JOB, &[], LIMIT).expect("a slow disk does not keep it from being told");
    assert_eq!(suspect_rank(&finding), Some(2), "{finding:#}");
    each_once(&ctl, 1);

    // The same, and the controller is killed in the midst of the writing. The next one's disk is as slow.
    let known = ctl.findings(JOB).expect("findings");
    kill(&cluster, 1);
    ctl.wait_finding(JOB, &known, LIMIT).expect("told");
    cluster.controller.kill();
    cluster.restart_controller().expect("comes up");
    each_once(&ctl, 2);

    // And in the midst of what was decided.
    let known = ctl.findings(JOB).expect("findings");
    kill(&cluster, 3);
    ctl.wait_finding(JOB, &known, LIMIT).expect("told");
    wait_for("an action to be written down", LIMIT, || {
        let actions = list(&ctl, &["actions", "--all"], "actions")?;
        Ok((actions.len() == 3).then_some(()))
    })
    .expect("decided");
    cluster.controller.kill();
    disk.takes(0);
    cluster.restart_controller().expect("comes up");
    each_once(&ctl, 3);
}
