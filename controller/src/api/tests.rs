use c4_detect::{
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::{NodeName, Timestamp},
};

use super::*;
use crate::{config::Mode, findings::Record, server::Term};

fn record(id: &str, job: &str, cleared: bool) -> Record {
    Record {
        finding: Finding {
            id: FindingId(id.into()),
            job: JobId(job.into()),
            incarnation: 2,
            kind: Kind::CommHang,
            suspects: vec![Suspect {
                node: Some(NodeName("n1".into())),
                link: Some(Link { src: "rank 1".into(), dst: "rank 2".into() }),
                ..Suspect::default()
            }],
            confidence: 0.9,
            since: Timestamp(1_000_000),
            detected: Timestamp(2_000_000),
            cleared: cleared.then_some(Timestamp(3_000_000)),
            summary: "nothing moves".into(),
            evidence: [("waiting".to_owned(), serde_json::json!(4))].into(),
            explains: Vec::new(),
            refuted_by: String::new(),
        },
        actions: vec!["would restart".into()],
        shown: true,
    }
}

fn service() -> OperationsService {
    let mut snapshot = Snapshot::empty(Mode::Observe, Timestamp(0));
    for record in [record("a", "x", false), record("b", "x", true), record("c", "y", false)] {
        snapshot.findings.insert(record.finding.id.clone(), record);
    }
    let (_, see) = watch::channel(Arc::new(snapshot));
    let tasks = (TaskTracker::new(), CancellationToken::new());
    OperationsService::new(see, EventLog::default(), Clock::anchored(), Term::alone(), tasks.0, tasks.1)
}

async fn listed(job: &str, include_cleared: bool) -> Vec<String> {
    let request = v1::ListFindingsRequest { job: job.into(), include_cleared };
    let answer = service().list_findings(Request::new(request)).await.unwrap().into_inner();
    answer.findings.into_iter().map(|finding| finding.id).collect()
}

#[tokio::test]
async fn findings_are_filtered_by_job_and_state() {
    assert_eq!(listed("", false).await, ["a", "c"]);
    assert_eq!(listed("", true).await, ["a", "b", "c"]);
    assert_eq!(listed("x", true).await, ["a", "b"]);
    assert_eq!(listed("nobody", true).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_finding_is_shown_whole() {
    let request = Request::new(v1::GetFindingRequest { id: "b".into() });
    let finding = service().get_finding(request).await.unwrap().into_inner();
    assert_eq!(finding.summary, "nothing moves; would restart");
    assert_eq!((finding.kind.as_str(), finding.incarnation), ("comm_hang", 2));
    assert_eq!((finding.since_unix_us, finding.cleared_unix_us), (1_000_000, Some(3_000_000)));
    assert_eq!(finding.evidence_json, r#"{"waiting":4}"#);
    assert_eq!(finding.suspects[0].link.as_ref().unwrap().dst, "rank 2");
    assert_eq!(finding.suspects[0].rank, None);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let status = service().get_job(Request::new(v1::GetJobRequest { name: "z".into() })).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "no job is called \"z\""));
    let status =
        service().get_finding(Request::new(v1::GetFindingRequest { id: "z".into() })).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}
