use std::collections::BTreeMap;

use c4_detect::{
    finding::{FindingId, Kind, Suspect, Verdict},
    observation::{JobId, NodeName, ProcessId, Timestamp},
    view::{JobView, LinkView, RankState, RankView},
};

use super::*;
use crate::{
    config::Mode,
    findings::Record,
    ledger::Parts,
    nodes::Node,
    snapshot::{JobState, NodeState},
};

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn node(name: String) -> NodeState {
    let node = Node {
        agent_version: "1".into(),
        sensors: Vec::new(),
        last_seen: NOW,
        streams: 1,
        lost: false,
        spool_dropped: 0,
        behind: 0,
        told: c4_detect::observation::Hearing::AtOnce,
    };
    NodeState { name: NodeName(name), node, ranks: 8 }
}

fn rank(rank: u32) -> RankView {
    RankView {
        rank: Some(rank),
        process: ProcessId(rank.into()),
        node: NodeName(format!("node-{:05}", rank / 8)),
        gpu: Some(rank % 8),
        pid: 1,
        state: RankState::Running,
        enqueued: 0,
        started: 0,
        completed: 0,
        blind_spots: Vec::new(),
    }
}

fn job(name: &str, ranks: u32, links: u32) -> JobState {
    let mut iteration_times = c4_detect::distribution::Distribution::default();
    iteration_times.add(0.5, 20);
    let view = JobView {
        job: JobId(name.into()),
        incarnation: 1,
        world_size: Some(ranks),
        verdict: Verdict::Healthy,
        iteration_ns: Some(500_000_000),
        iteration_noise: Some(0.01),
        iterations: 20,
        ranks: (0..ranks).map(rank).collect(),
        changes: Vec::new(),
        iteration_times,
        lateness: c4_detect::distribution::Distribution::default(),
        links: (0..links).map(|i| LinkView { src: i, dst: i + 1, times_usual: 2.0, slow: true }).collect(),
    };
    JobState {
        view,
        state: "healthy",
        missing: Vec::new(),
        open_findings: 0,
        restarts: 1,
        outages: Vec::new(),
        downtime: Parts { detection_us: 1_500_000, ..Parts::default() },
        account: crate::ledger::Summary::default(),
    }
}

fn finding(number: usize, cleared: bool) -> Record {
    let finding = c4_detect::finding::Finding {
        id: FindingId(format!("f-{number:04}")),
        job: JobId("gpt".into()),
        incarnation: 1,
        kind: Kind::NonCommSlow,
        suspects: vec![Suspect {
            rank: Some(3),
            node: Some(NodeName("node-00000".into())),
            ..Suspect::default()
        }],
        confidence: 0.75,
        since: NOW,
        detected: NOW,
        cleared: cleared.then_some(NOW),
        summary: "rank 3 is late".into(),
        evidence: [("lateness_ms_per_iteration".to_owned(), serde_json::json!(40.0))].into(),
        explains: Vec::new(),
        refuted_by: String::new(),
    };
    Record { finding, actions: Vec::new(), shown: true }
}

fn page(jobs: Vec<JobState>, nodes: Vec<NodeState>, findings: Vec<Record>) -> String {
    let mut picture = Snapshot::empty(Mode::Observe, NOW);
    picture.nodes = Arc::new(nodes);
    picture.jobs = Arc::new(jobs.into_iter().map(|job| (job.view.job.clone(), job)).collect());
    let by_id = |record: Record| (record.finding.id.clone(), record);
    picture.findings = findings.into_iter().map(by_id).collect::<BTreeMap<_, _>>();
    let (_sender, receiver) = watch::channel(Arc::new(picture));
    let mut metrics = Metrics::new().unwrap();
    metrics.show(receiver).unwrap();
    metrics.text().unwrap()
}

#[test]
fn a_picture_is_told_in_series() {
    let page = page(
        vec![job("gpt", 8, 2)],
        vec![node("node-00000".into())],
        vec![finding(1, false), finding(2, true)],
    );
    for line in [
        r#"c4_jobs{state="healthy"} 1"#,
        r#"c4_jobs{state="faulty"} 0"#,
        r#"c4_ranks 8"#,
        r#"c4_node_up{node="node-00000"} 1"#,
        r#"c4_job_ranks{job="gpt",state="running"} 8"#,
        r#"c4_job_iteration_seconds_bucket{job="gpt",le="0.5"} 20"#,
        r#"c4_job_iteration_seconds_sum{job="gpt"} 10"#,
        r#"c4_job_downtime_seconds{job="gpt",part="detection"} 1.5"#,
        r#"c4_findings_open{kind="non_comm_slow"} 1"#,
        r#"c4_findings_open{kind="desync"} 0"#,
        r#"c4_finding_confidence_ratio{finding="f-0001",job="gpt",kind="non_comm_slow",node="node-00000",rank="3",gpu=""} 0.75"#,
        r#"c4_rank_late_seconds{job="gpt",rank="3",node="node-00000"} 0.04"#,
        r#"c4_link_slowness_ratio{job="gpt",src="1",dst="2"} 2"#,
    ] {
        assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("f-0002"), "what is cleared has no series");
}

#[test]
fn a_hundred_thousand_ranks_fit_on_the_page() {
    let nodes = (0..12_500).map(|n| node(format!("gpu-node-with-a-long-name-{n:05}"))).collect();
    let mut jobs: Vec<JobState> =
        (0..200).map(|n| job(&format!("a-job-with-a-long-name-{n}"), 8, 128)).collect();
    jobs.push(job("the-large-one", 100_000, 128));
    let findings = (0..1_000).map(|n| finding(n, false)).collect();
    let page = page(jobs, nodes, findings);
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    println!("{} bytes, {} lines", page.len(), page.lines().count());
}

#[test]
fn agents_cannot_make_the_page_grow_without_bound() {
    let nodes = (0..60_000).map(|n| node(format!("n{n}"))).collect();
    let mut jobs: Vec<JobState> = (0..5_000).map(|n| job(&format!("j{n}"), 1, 128)).collect();
    jobs[4_321].open_findings = 1;
    let page = page(jobs, nodes, (0..1_000).map(|n| finding(n, false)).collect());
    for (about, number) in [("job", 4_000), ("node", 40_000), ("finding", 500), ("link", 5_000 * 128 - 1_024)]
    {
        let line = format!("c4_series_left_out{{about=\"{about}\"}} {number}");
        assert!(page.lines().any(|known| known == line), "{line}");
    }
    assert!(page.contains("c4_job_state{job=\"j4321\""), "those with findings come first");
    assert!(page.len() < 12_000_000, "{} bytes", page.len());
}
