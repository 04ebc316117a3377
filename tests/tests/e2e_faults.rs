//! Each kind of fault on a whole C4: the right rank, the right kind, nobody else accused, and the job comes back.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use c4_tests::{
    cluster::{Cluster, Ctl, Spec, suspect_rank, wait_for},
    faults::{NetMode, WorkerFault, inject},
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const JOB: &str = "e2e";

/// Four ranks on two nodes.
fn spec() -> Spec {
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.ring_args = ["--compute-us", "80000", "--bytes", "4096,262144"].map(str::to_owned).into();
    spec
}

/// Does something to a rank.
type Inject = Box<dyn Fn(&Cluster, u32)>;

/// What is injected, and what must be said about it.
struct Case {
    inject: Inject,
    kinds: &'static [&'static str],
    restart: bool,
}

impl Case {
    fn restarted(kinds: &'static [&'static str], inject: impl Fn(&Cluster, u32) + 'static) -> Self {
        Self { inject: Box::new(inject), kinds, restart: true }
    }

    fn borne(kinds: &'static [&'static str], inject: impl Fn(&Cluster, u32) + 'static) -> Self {
        Self { inject: Box::new(inject), kinds, restart: false }
    }

    /// Injects the fault at each of the ranks, one after the other, in one run of a job.
    fn check(&self, ranks: &[u32]) {
        self.check_in(spec(), ranks);
    }

    fn check_in(&self, spec: Spec, ranks: &[u32]) {
        let cluster = Cluster::start(spec).expect("a cluster");
        let ctl = cluster.ctl();
        let mut incarnation = 0;
        for &rank in ranks {
            ctl.wait_healthy(JOB, incarnation, LIMIT).expect("healthy before the fault");
            let known = ctl.findings(JOB).expect("findings");
            (self.inject)(&cluster, rank);
            let finding = ctl.wait_finding(JOB, &known, LIMIT).expect("a finding");
            assert_eq!(suspect_rank(&finding), Some(rank.into()), "{finding:#}");
            assert!(self.kinds.contains(&finding["kind"].as_str().expect("a kind")), "{finding:#}");
            if self.restart {
                incarnation += 1;
            } else {
                inject::behave(&cluster.faults(), rank).expect("taken back");
            }
            ctl.wait_cleared(JOB, &finding["id"], LIMIT).expect("cleared");
            let job = ctl.wait_healthy(JOB, incarnation, LIMIT).expect("healthy again");
            assert_eq!(job["job"]["incarnation"], incarnation, "restarted as often as needed");
            let found = ctl.findings(JOB).expect("findings");
            assert_eq!(found.len(), known.len() + 1, "nobody else was accused: {found:#?}");
        }
        if self.restart {
            assert_ledger(&ctl, ranks.len());
        }
    }
}

/// The ledger has an entry for each restart, whose parts are there.
fn assert_ledger(ctl: &Ctl, restarts: usize) {
    let ledger = wait_for("a complete ledger", LIMIT, || {
        let ledger = ctl.job(JOB)?["ledger"].clone();
        let entries = ledger["entries"]
            .as_array()
            .map_or(0, |entries| entries.iter().filter(|entry| entry["complete"] == true).count());
        Ok((entries == restarts).then_some(ledger))
    });
    let ledger = ledger.expect("a ledger");
    let mut total = 0.0;
    for entry in ledger["entries"].as_array().expect("entries") {
        let part = |name: &str| entry[name].as_f64().unwrap_or(-1.0);
        let parts = [
            part("post_checkpoint_seconds"),
            part("detection_seconds"),
            part("diagnosis_isolation_seconds"),
            part("reinitialisation_seconds"),
        ];
        assert!(parts.iter().all(|seconds| *seconds >= 0.0), "{entry:#}");
        assert!(part("reinitialisation_seconds") > 0.0, "a restart takes time: {entry:#}");
        total += parts.iter().sum::<f64>();
    }
    let stated = ledger["total_seconds"].as_f64().expect("a total");
    assert!((total - stated).abs() < 0.01, "parts add up to {total}, total is {stated}");
}

fn told(fault: WorkerFault) -> impl Fn(&Cluster, u32) {
    move |cluster, rank| inject::misbehave(&cluster.faults(), rank, &fault).expect("told")
}

#[test]
fn a_killed_rank_is_a_process_death() {
    let kill =
        |cluster: &Cluster, rank| inject::signal(&cluster.faults(), rank, Signal::KILL).expect("killed");
    Case::restarted(&["process_death"], kill).check(&[0, 3]);
}

#[test]
fn a_stopped_rank_is_a_hang() {
    // Stopped at any moment: mostly before it enters the collective, sometimes inside.
    let stop =
        |cluster: &Cluster, rank| inject::signal(&cluster.faults(), rank, Signal::STOP).expect("stopped");
    Case::restarted(&["non_comm_hang", "comm_hang"], stop).check(&[1, 2]);
}

/// Before API v4 NCCL names a communicator with its first operation only, and never tells its size.
#[test]
fn a_stopped_rank_is_a_hang_with_the_oldest_profiler_interface_too() {
    let stop =
        |cluster: &Cluster, rank| inject::signal(&cluster.faults(), rank, Signal::STOP).expect("stopped");
    let mut spec = spec();
    spec.ring_args.extend(["--profiler-api", "1"].map(str::to_owned));
    Case::restarted(&["non_comm_hang", "comm_hang"], stop).check_in(spec, &[2]);
}

#[test]
fn a_skipped_collective_is_a_desync() {
    Case::restarted(&["desync"], told(WorkerFault::Skip { once: true })).check(&[2]);
}

#[test]
fn a_collective_of_another_size_is_a_desync() {
    Case::restarted(&["desync"], told(WorkerFault::Resize { once: true })).check(&[1]);
}

#[test]
fn a_rank_that_never_comes_is_a_non_communication_hang() {
    let hour = WorkerFault::Sleep { us: 3_600_000_000, until_iteration: None };
    let inject = move |cluster: &Cluster, rank| {
        told(hour.clone())(cluster, rank);
        wait_for("the rank to fall asleep", LIMIT, || {
            // The worker reads the fault once an iteration; then it must be gone, or the restarted one would sleep too.
            let before = cluster.faults().read_iteration(rank);
            std::thread::sleep(Duration::from_millis(500));
            Ok((before == cluster.faults().read_iteration(rank)).then_some(()))
        })
        .expect("asleep");
        inject::behave(&cluster.faults(), rank).expect("taken back");
    };
    Case::restarted(&["non_comm_hang"], inject).check(&[3]);
}

#[test]
fn a_blocked_connection_is_a_communication_hang() {
    let block = |cluster: &Cluster, rank: u32| {
        inject::break_link(&cluster.faults(), rank, (rank + 1) % 4, NetMode::Block, 0, false)
            .expect("blocked");
    };
    Case::restarted(&["comm_hang"], block).check(&[1]);
}

#[test]
fn a_late_rank_is_non_communication_slow_until_it_is_not_late_any_more() {
    Case::borne(&["non_comm_slow"], told(WorkerFault::Sleep { us: 80_000, until_iteration: None }))
        .check(&[0, 3]);
}

#[test]
fn a_busy_stream_is_non_communication_slow() {
    Case::borne(&["non_comm_slow"], told(WorkerFault::Busy { us: 80_000, until_iteration: None }))
        .check(&[2]);
}

#[test]
fn observe_mode_says_what_it_would_have_done_and_does_nothing() {
    let spec = Spec { mode: "observe", ..spec() };
    let cluster = Cluster::start(spec).expect("a cluster");
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy");
    inject::signal(&cluster.faults(), 2, Signal::STOP).expect("stopped");
    let finding = ctl.wait_finding(JOB, &[], LIMIT).expect("a finding");
    assert_eq!(suspect_rank(&finding), Some(2), "{finding:#}");
    let actions = wait_for("what would have been done", LIMIT, || {
        let findings = ctl.findings(JOB)?;
        let actions = findings.iter().find(|f| f["id"] == finding["id"]).map(|f| f["actions"].to_string());
        Ok(actions.filter(|actions| actions.contains("would")))
    })
    .expect("a word on it");
    assert!(actions.contains("restart"), "{actions}");
    inject::signal(&cluster.faults(), 2, Signal::CONT).expect("goes on");
    ctl.wait_cleared(JOB, &finding["id"], LIMIT).expect("cleared when the cause is gone");
    let job = ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy again");
    assert_eq!(job["job"]["incarnation"], 0, "nothing was done");
}

#[test]
fn a_healthy_job_has_no_findings_and_ends_as_such() {
    let mut spec = spec();
    spec.ring_args.extend(["--iterations", "150", "--noise", "0.2"].map(str::to_owned));
    let mut cluster = Cluster::start(spec).expect("a cluster");
    for agent in &mut cluster.agents {
        let status = agent.wait(LIMIT).expect("the job ends");
        assert!(status.success(), "{status}: {}", agent.log_tail());
    }
    let ctl = cluster.ctl();
    let ended = wait_for("the job to count as ended", LIMIT, || {
        let job = ctl.job(JOB)?;
        Ok((job["job"]["state"] == "ended").then_some(job))
    });
    ended.expect("ended");
    assert_eq!(ctl.findings(JOB).expect("findings"), Vec::<Value>::new());
}

#[test]
fn a_slow_link_is_communication_slow_until_it_is_fast_again() {
    let cluster = Cluster::start(spec()).expect("a cluster");
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy before the fault");
    // What is usual for a link is known after some dozens of timed operations, one in sixteen.
    wait_for("links to be known", LIMIT, || {
        Ok(cluster.faults().read_iteration(0).filter(|(iteration, _)| *iteration > 300))
    })
    .expect("iterations");
    inject::break_link(&cluster.faults(), 1, 2, NetMode::Slow, 1_000_000, false).expect("slowed");
    let finding = ctl.wait_finding(JOB, &[], LIMIT).expect("a finding");
    assert_eq!(finding["kind"], "comm_slow", "{finding:#}");
    assert_eq!(suspect_rank(&finding), Some(1), "{finding:#}");
    let link = serde_json::json!({"src": "rank 1", "dst": "rank 2"});
    assert_eq!(finding["suspects"][0]["link"], link, "{finding:#}");
    let number = |name: &str| finding["evidence"][name].as_f64().expect("a number");
    assert!(number("ns_per_mib") > 2.0 * number("peers_median_ns_per_mib") || number("times_as_slow") > 2.0);
    assert!(number("lost_percent_of_iteration") > 20.0, "{finding:#}");
    let asked = metric(&cluster.http, "c4_controller_step_requests_total");
    assert!(asked >= 2.0, "both ends were asked to time all steps: {asked}");

    inject::mend_links(&cluster.faults(), 1).expect("mended");
    ctl.wait_cleared(JOB, &finding["id"], LIMIT).expect("cleared");
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy again");
    let found = ctl.findings(JOB).expect("findings");
    assert_eq!(found.len(), 1, "one cause, one finding: {found:#?}");
}

/// A figure of the controller's own.
fn metric(address: &str, name: &str) -> f64 {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("the figure");
    value.trim().parse().expect("a number")
}
