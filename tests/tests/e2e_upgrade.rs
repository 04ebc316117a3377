//! C4 is brought up to date while a job runs: the job does not notice, and nothing that happens meanwhile is lost or told wrong,
//! not even for a moment.

use std::{fs, time::Duration};

use c4_tests::{
    cluster::{Cluster, Ctl, Daemon, Loose, Programs, Spec, suspect_rank, wait_for},
    faults::inject,
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const JOB: &str = "upgrade";
const RANKS: u32 = 4;

/// A controller that only watches, and two nodes with an agent each as their service.
fn site() -> (Cluster, Vec<Daemon>) {
    let spec = Spec { nodes: Vec::new(), mode: "observe", ..Spec::eight_ranks(JOB) };
    let cluster = Cluster::start(spec).expect("a controller");
    let daemons = ["a", "b"].map(|node| cluster.start_daemon(node).expect("an agent"));
    (cluster, daemons.into())
}

/// A job of four ranks: 0 and 1 on node a, 2 and 3 on node b.
fn start_job(cluster: &Cluster, daemons: &[Daemon], more: &[(&str, String)]) -> Loose {
    let mut job = cluster.loose_job(JOB);
    for rank in 0..RANKS {
        let mut labels = more.to_vec();
        labels.extend([
            ("C4_JOB", JOB.to_owned()),
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", RANKS.to_string()),
        ]);
        job.start_rank(&daemons[rank as usize / 2], rank, RANKS, &labels).expect("a rank");
    }
    job
}

/// The job has gone on for some iterations since this was called.
fn goes_on(job: &Loose) {
    let reached = || job.faults().read_iteration(0).map_or(0, |(iteration, _)| iteration);
    let before = reached();
    wait_for("the job to go on", LIMIT, || Ok((reached() > before + 20).then_some(()))).expect("undisturbed");
}

/// Waits until all ranks but those have ended of the loss.
fn others_end(job: &mut Loose) {
    for rank in &mut job.ranks {
        rank.wait(LIMIT).expect("it fails when it has lost a peer");
    }
}

/// Every sentence that the controller has said about faults since it began.
fn sentences(ctl: &Ctl) -> Vec<String> {
    let document = ctl.json(&["events", "--history", "10000"]).expect("events");
    let events = document["events"].as_array().expect("events").iter();
    let findings = events.filter(|event| event["kind"] == "finding");
    findings.map(|event| event["text"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The death of a rank was told once, and no other word was said of anybody.
fn told_right(ctl: &Ctl, rank: u32) {
    ctl.wait_finding(JOB, &[], LIMIT).expect("a finding");
    // What is wrong may come a little later than what is right.
    std::thread::sleep(Duration::from_secs(3));
    let findings = ctl.findings(JOB).expect("findings");
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let finding = &findings[0];
    assert_eq!(
        (finding["kind"].as_str(), suspect_rank(finding)),
        (Some("process_death"), Some(rank.into())),
        "{finding:#}"
    );
    let (said, wanted) = (sentences(ctl), format!("rank {rank} "));
    assert!(!said.is_empty() && said.iter().all(|text| text.starts_with(&wanted)), "{said:#?}");
}

fn assert_silent(ctl: &Ctl) {
    assert_eq!(ctl.findings(JOB).expect("findings"), Vec::<Value>::new());
}

/// Ends the controller as a service manager does.
fn end_controller(cluster: &mut Cluster) {
    cluster.controller.terminate();
    cluster.controller.wait(LIMIT).expect("it ends");
}

#[test]
fn agents_are_replaced_one_by_one_while_a_job_runs() {
    let (cluster, mut daemons) = site();
    let ctl = cluster.ctl();
    let job = start_job(&cluster, &daemons, &[]);
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    for daemon in &mut daemons {
        daemon.process.terminate();
        daemon.process.wait(LIMIT).expect("it ends");
        goes_on(&job);
        daemon.restart().expect("the new one");
        let document = ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy again");
        assert_eq!(document["job"]["ranks_seen"], RANKS);
        goes_on(&job);
    }
    assert_silent(&ctl);
    inject::signal(&job.faults(), 3, Signal::KILL).expect("killed");
    told_right(&ctl, 3);
}

#[test]
fn a_rank_that_dies_while_its_agent_is_replaced_is_told() {
    let (cluster, mut daemons) = site();
    let ctl = cluster.ctl();
    let job = start_job(&cluster, &daemons, &[]);
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    daemons[0].process.terminate();
    daemons[0].process.wait(LIMIT).expect("it ends");
    inject::signal(&job.faults(), 1, Signal::KILL).expect("killed");
    // Its peers fail of that, on the node whose agent tells of it, too.
    wait_for("both ends there to be told", LIMIT, || {
        let ranks = ctl.job(JOB)?["ranks"].clone();
        let ended = |rank: &&Value| matches!(rank["state"].as_str(), Some("dead" | "ended"));
        let ended = ranks.as_array().map_or(0, |ranks| ranks.iter().filter(ended).count());
        Ok((ended >= 2).then_some(()))
    })
    .expect("told");
    daemons[0].restart().expect("the new one");
    told_right(&ctl, 1);
}

#[test]
fn the_plugins_file_is_replaced_while_a_job_runs() {
    let (cluster, daemons) = site();
    let ctl = cluster.ctl();
    let plugin = Programs::built().expect("programs").plugin();
    let installed = cluster.dir().join("libnccl-profiler-c4.so");
    fs::copy(&plugin, &installed).expect("installed");
    let of_job = [("NCCL_PROFILER_PLUGIN", installed.display().to_string())];
    let job = start_job(&cluster, &daemons, &of_job);
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    // As package managers do: a new file takes the name; who has mapped the old one keeps it.
    let new = cluster.dir().join("libnccl-profiler-c4.so.new");
    fs::copy(&plugin, &new).expect("unpacked");
    fs::rename(&new, &installed).expect("upgraded");
    goes_on(&job);
    fs::remove_file(&installed).expect("removed");
    goes_on(&job);
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy still");
    assert_silent(&ctl);
    inject::signal(&job.faults(), 2, Signal::KILL).expect("killed");
    told_right(&ctl, 2);
}

#[test]
fn a_fault_while_the_controller_is_replaced_is_told_once_and_right_from_the_first_sentence() {
    let (mut cluster, daemons) = site();
    let ctl = cluster.ctl();
    let mut job = start_job(&cluster, &daemons, &[]);
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    end_controller(&mut cluster);
    goes_on(&job);
    inject::signal(&job.faults(), 2, Signal::KILL).expect("killed");
    others_end(&mut job);
    cluster.restart_controller().expect("the new one");
    told_right(&ctl, 2);

    // And the one after that tells of nothing anew, and knows what it has cost.
    let before = ctl.findings(JOB).expect("findings");
    end_controller(&mut cluster);
    cluster.restart_controller().expect("the next one");
    let ledger = ctl.json(&["ledger", JOB]).expect("known, though the job is gone");
    assert_eq!(ledger["jobs"][0]["job"], JOB, "{ledger:#}");
    assert_eq!(ledger["jobs"][0]["entries"].as_array().map(Vec::len), Some(1), "{ledger:#}");
    std::thread::sleep(Duration::from_secs(3));
    let after = ctl.findings(JOB).expect("findings");
    assert_eq!((after.len(), &after[0]["id"]), (1, &before[0]["id"]), "{after:#?}");
}
