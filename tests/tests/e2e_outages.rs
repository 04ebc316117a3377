//! C4's own parts fail or come and go while a job runs: nothing is lost, nobody is accused.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use c4_detect::observation::{Observation, ProcessId};
use c4_tests::{
    cluster::{Cluster, Spec, suspect_rank, wait_for},
    faults::inject,
};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const JOB: &str = "outage";

fn spec() -> Spec {
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.ring_args = ["--compute-us", "50000", "--bytes", "4096,65536"].map(str::to_owned).into();
    spec
}

/// A controller and no supervised job.
fn watching_only() -> Spec {
    Spec { nodes: Vec::new(), mode: "observe", ..spec() }
}

/// A line of the controller's record.
#[derive(Deserialize)]
struct Line {
    observation: Observation,
}

/// Positions of the collectives that blocks told of, by process: `[first, end)` of each block, in order of arrival.
fn told_blocks(record: &Path) -> BTreeMap<ProcessId, Vec<(u64, u64)>> {
    let mut told: BTreeMap<ProcessId, Vec<(u64, u64)>> = BTreeMap::new();
    for line in fs::read_to_string(record).expect("the record").lines() {
        // A controller that was killed may have left half a line.
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        // What was kept over the outage is told late.
        if let Observation::Window(window) | Observation::LateWindow { window, .. } = line.observation {
            let blocks = window.comms.iter().flat_map(|comm| &comm.blocks);
            told.entry(window.process)
                .or_default()
                .extend(blocks.map(|block| (block.first, block.first + u64::from(block.length))));
        }
    }
    told
}

#[test]
fn a_controller_killed_in_mid_job_loses_nothing() {
    let mut cluster = Cluster::start(spec()).expect("a cluster");
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    let reached = cluster.faults().read_iteration(0).expect("an iteration").0;
    cluster.controller.kill();
    wait_for("the job to go on by itself", LIMIT, || {
        Ok(cluster.faults().read_iteration(0).filter(|(iteration, _)| *iteration > reached + 40))
    })
    .expect("the job does not need C4");
    cluster.restart_controller().expect("back again");
    let job = ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy again");
    assert_eq!(job["job"]["ranks_seen"], 4);
    assert_eq!(
        ctl.findings(JOB).expect("findings"),
        Vec::<Value>::new(),
        "an outage of C4 is nobody's fault"
    );

    // What was not acknowledged is told again, so a position may be told twice; none may be missing.
    let wanted = reached * 2 + 80;
    let told = wait_for("blocks from after the outage", LIMIT, || {
        let told = told_blocks(&cluster.record());
        let all = told.values().all(|blocks| blocks.iter().any(|(_, end)| *end > wanted));
        Ok((told.len() == 4 && all).then_some(told))
    })
    .expect("blocks");
    for (process, mut blocks) in told {
        blocks.sort_unstable();
        let mut next = blocks.first().expect("blocks").0;
        assert!(next <= 64, "{process:?} is told of from the beginning, not from {next}");
        for (first, end) in blocks {
            assert!(first <= next, "{process:?}: collectives {next}..{first} are missing");
            next = next.max(end);
        }
    }

    // And the new controller detects like the old one.
    inject::signal(&cluster.faults(), 1, Signal::KILL).expect("killed");
    let finding = ctl.wait_finding(JOB, &[], LIMIT).expect("a finding");
    assert_eq!(
        (finding["kind"].as_str(), suspect_rank(&finding)),
        (Some("process_death"), Some(1)),
        "{finding:#}"
    );
    ctl.wait_healthy(JOB, 1, LIMIT).expect("restarted by the new controller");
}

#[test]
fn an_agent_that_dies_makes_its_ranks_unknown_and_not_guilty() {
    let cluster = Cluster::start(watching_only()).expect("a controller");
    let ctl = cluster.ctl();
    let mut daemons = [cluster.start_daemon("a").expect("agent"), cluster.start_daemon("b").expect("agent")];
    let mut job = cluster.loose_job(JOB);
    for rank in 0..4 {
        let labels = [("C4_JOB", JOB.to_owned()), ("RANK", rank.to_string()), ("WORLD_SIZE", "4".to_owned())];
        job.start_rank(&daemons[rank as usize / 2], rank, 4, &labels).expect("a rank");
    }
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    daemons[1].process.kill();
    let unknown = wait_for("the job to be unknown", LIMIT, || {
        let job = ctl.job(JOB)?;
        Ok((job["job"]["state"] == "unknown").then_some(job))
    })
    .expect("unknown");
    assert!(unknown["job"]["missing"].to_string().contains('b'), "says what is missing: {}", unknown["job"]);

    daemons[1].restart().expect("the agent is back");
    let job = ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy again");
    assert_eq!(job["job"]["ranks_seen"], 4);
    assert_eq!(ctl.findings(JOB).expect("findings"), Vec::<Value>::new());
}

#[test]
fn jobs_and_ranks_are_named_by_their_environment() {
    let cluster = Cluster::start(watching_only()).expect("a controller");
    let ctl = cluster.ctl();
    let daemon = cluster.start_daemon("slurm-node").expect("agent");
    let mut job = cluster.loose_job("slurm");
    for rank in 0..2 {
        let labels = [
            ("SLURM_JOB_ID", "77".to_owned()),
            ("SLURM_PROCID", rank.to_string()),
            ("SLURM_NTASKS", "2".to_owned()),
            ("SLURM_LOCALID", rank.to_string()),
        ];
        job.start_rank(&daemon, rank, 2, &labels).expect("a rank");
    }
    let document = ctl.wait_healthy("slurm-77", 0, LIMIT).expect("known by Slurm's number");
    let ranks = document["ranks"].as_array().expect("ranks");
    let named: Vec<_> = ranks.iter().map(|rank| (rank["rank"].as_u64(), rank["node"].as_str())).collect();
    assert_eq!(named, [(Some(0), Some("slurm-node")), (Some(1), Some("slurm-node"))]);

    // Without any label the job is named by its communicator, and ranks by their place in it.
    let mut bare = cluster.loose_job("bare");
    for rank in 0..2 {
        bare.start_rank(&daemon, rank, 2, &[]).expect("a rank");
    }
    let found = wait_for("a job named by its communicator", LIMIT, || {
        let jobs = ctl.json(&["jobs"])?;
        let name =
            |job: &Value| job["name"].as_str().filter(|name| name.starts_with("comm-")).map(str::to_owned);
        Ok(jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find_map(name)))
    });
    ctl.wait_healthy(&found.expect("a name"), 0, LIMIT).expect("healthy");
}
