//! A controller's double: the real gRPC service with canned answers, on a port of its own, and a way to run the real
//! binary against it.

use std::{net::SocketAddr, process::Output};

use crate::support::command;
use c4_proto::v1::{
    self,
    alerting_server::{Alerting, AlertingServer},
    operations_server as server, pictures_server,
    steering_server::{Steering, SteeringServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// A finding as a controller would send it.
pub(crate) fn finding(id: &str, cleared: bool) -> v1::Finding {
    v1::Finding {
        id: id.into(),
        job: "train".into(),
        incarnation: 1,
        kind: "non_comm_hang".into(),
        suspects: vec![v1::Suspect {
            rank: Some(3),
            node: "n1".into(),
            gpu: Some(3),
            score: 0.97,
            ..Default::default()
        }],
        confidence: 0.97,
        since_unix_us: 1_764_000_000_000_000,
        detected_unix_us: 1_764_000_001_500_000,
        cleared_unix_us: cleared.then_some(1_764_000_060_000_000),
        summary: "Rank 3 on n1 never entered AllReduce #120 that 7 ranks wait in.".into(),
        evidence_json: r#"{"waiting_ranks":[0,1,2],"waited_seconds":{"median":1.5}}"#.into(),
        explains: vec!["rank 0 waits in AllReduce #120".into()],
        refuted_by: "rank 3 entering AllReduce #120".into(),
        actions: vec!["restart 1 of 3, from iteration 100".into()],
    }
}

struct Double;

#[tonic::async_trait]
impl Alerting for Double {
    async fn test_receivers(
        &self,
        _: Request<v1::TestReceiversRequest>,
    ) -> Result<Response<v1::TestReceiversResponse>, Status> {
        let receiver = |name: &str, kind: &str, detail: &str| v1::ReceiverTest {
            name: name.into(),
            kind: kind.into(),
            ok: detail.is_empty(),
            detail: detail.into(),
        };
        let receivers = vec![
            receiver("alerts[0]", "slack", ""),
            receiver("alerts[1]", "json", "it answered 503 Service Unavailable"),
        ];
        Ok(Response::new(v1::TestReceiversResponse { receivers }))
    }
}

#[tonic::async_trait]
impl Steering for Double {
    async fn list_actions(
        &self,
        _: Request<v1::ListActionsRequest>,
    ) -> Result<Response<v1::ListActionsResponse>, Status> {
        let action = v1::Action {
            id: "a-1".into(),
            deed: "restart".into(),
            text: "restart train in place".into(),
            state: "proposed".into(),
            job: "train".into(),
            finding: "f-1".into(),
            because: "rank 3 on n1 never entered AllReduce #120".into(),
            planned_unix_us: 1_764_000_002_000_000,
            ..Default::default()
        };
        let actions = vec![action];
        Ok(Response::new(v1::ListActionsResponse {
            actions,
            mode: "approve".into(),
            store_ok: true,
            ..Default::default()
        }))
    }

    async fn list_audit(
        &self,
        _: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let entry = v1::AuditEntry {
            unix_us: 1_764_000_002_000_000,
            who: "c4".into(),
            what: "propose".into(),
            text: "restart train, started with --token=abc".into(),
            action: "a-1".into(),
            ..Default::default()
        };
        Ok(Response::new(v1::ListAuditResponse { entries: vec![entry] }))
    }

    async fn list_evidence(
        &self,
        _: Request<v1::ListEvidenceRequest>,
    ) -> Result<Response<v1::ListEvidenceResponse>, Status> {
        Ok(Response::new(v1::ListEvidenceResponse::default()))
    }

    async fn get_ledger(
        &self,
        _: Request<v1::GetLedgerRequest>,
    ) -> Result<Response<v1::GetLedgerResponse>, Status> {
        Err(Status::failed_precondition("no ledger is kept"))
    }

    async fn report_checkpoint(
        &self,
        _: Request<v1::CheckpointReport>,
    ) -> Result<Response<v1::CheckpointTaken>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn decide(&self, _: Request<v1::Decision>) -> Result<Response<v1::Decided>, Status> {
        Err(Status::failed_precondition("this double decides nothing"))
    }
}

#[tonic::async_trait]
impl server::Operations for Double {
    type WatchEventsStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::Status>, Status> {
        let sensor =
            |name: &str, present| v1::NodeSensor { name: name.into(), present, detail: String::new() };
        let node = |name: &str, connected| v1::Node {
            name: name.into(),
            connected,
            last_seen_us: 300_000,
            agent_version: "0.1.0".into(),
            ranks: 4,
            sensors: vec![sensor("recorder", true), sensor("nvml", false)],
            spool_dropped: 0,
        };
        Ok(Response::new(v1::Status {
            version: "0.1.0".into(),
            uptime_us: 3_723_000_000,
            mode: "observe".into(),
            nodes: vec![node("n0", true), node("n1", false)],
            jobs: 1,
            ranks: 8,
            open_findings: 1,
            ..v1::Status::default()
        }))
    }

    async fn list_jobs(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        Ok(Response::new(v1::ListJobsResponse { jobs: vec![summary()] }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        if request.into_inner().name != "train" {
            return Err(Status::not_found("no such job"));
        }
        let downtime = v1::Downtime {
            finding: "f-1".into(),
            started_unix_us: 1_764_000_000_000_000,
            post_checkpoint_seconds: 2.5,
            detection_seconds: 0.5,
            diagnosis_isolation_seconds: 0.1,
            reinitialisation_seconds: 1.0,
            complete: true,
            ..Default::default()
        };
        let rank =
            v1::Rank { rank: 3, node: "n1".into(), state: "waiting".into(), pid: 77, ..Default::default() };
        Ok(Response::new(v1::Job {
            summary: Some(summary()),
            ranks: vec![rank],
            ledger: Some(v1::Ledger { entries: vec![downtime], total_seconds: 4.1 }),
            findings: vec![finding("f-1", false)],
            iteration_changes: vec![v1::IterationChange {
                at_unix_us: 1_764_000_000_000_000,
                before_seconds: 1.5,
                after_seconds: 2.0,
                gradual: false,
                grew: vec![v1::GrownPart {
                    communicator: "dp".into(),
                    communicators: 4,
                    part: "waiting".into(),
                    operations: vec!["AllReduce".into()],
                    before_seconds: 0.1,
                    after_seconds: 0.6,
                }],
            }],
        }))
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        let request = request.into_inner();
        let mut findings = vec![finding("f-1", false)];
        if request.include_cleared {
            findings.push(finding("f-0", true));
        }
        findings.retain(|finding| request.job.is_empty() || finding.job == request.job);
        Ok(Response::new(v1::ListFindingsResponse { findings }))
    }

    async fn get_finding(
        &self,
        request: Request<v1::GetFindingRequest>,
    ) -> Result<Response<v1::Finding>, Status> {
        match request.into_inner().id.as_str() {
            "f-1" => Ok(Response::new(finding("f-1", false))),
            "odd" => Ok(Response::new(v1::Finding { kind: "gremlins".into(), ..finding("odd", false) })),
            _ => Err(Status::not_found("no such finding")),
        }
    }

    async fn get_paths(&self, request: Request<v1::GetPathsRequest>) -> Result<Response<v1::Paths>, Status> {
        let v1::GetPathsRequest { job, topology } = request.into_inner();
        let link = |to: &str, planned, state: &str| v1::PathLink {
            from: "leaf0".into(),
            to: to.into(),
            index: 0,
            gbps: 400.0,
            planned_utilisation: planned,
            state: state.into(),
            probed_ports: 212,
            measured_utilisation: (planned > 0.0).then_some(planned / 2.0),
        };
        let piece = v1::PathPiece { share: 1.0, path: vec!["leaf0".into(), "spine1".into(), "leaf1".into()] };
        let flow = v1::PathFlow {
            job: "train".into(),
            from: "n1/mlx5_0".into(),
            to: "n2/mlx5_0".into(),
            gbps: 400.0,
            pieces: vec![piece],
            why: String::new(),
        };
        let about = v1::PathJob {
            job: "train".into(),
            pattern: "ring of 8 hosts".into(),
            flows: 8,
            running: true,
            period_seconds: 0.25,
            next_unix_us: 1_700_000_000_250_000,
        };
        let node = |name: &str, follows| v1::PathNode {
            name: name.into(),
            orders: 1,
            follows,
            settled: true,
            probes: 640,
            learning_seconds: 1.5,
            ..v1::PathNode::default()
        };
        Ok(Response::new(v1::Paths {
            configured: true,
            planned_unix_us: 1_764_000_000_000_000,
            max_link_utilisation: 1.0,
            max_fabric_utilisation: 0.5,
            lower_bound: 1.0,
            plans: 3,
            moves: 2,
            links: vec![link("spine1", 0.5, "up"), link("spine2", 0.0, "avoid"), link("spine3", 0.0, "up")],
            flows: [flow].into_iter().filter(|flow| job.is_empty() || flow.job == job).collect(),
            jobs: vec![about],
            nodes: vec![node("n1", true), node("n2", false)],
            mistakes: vec![
                "probes are answered by 10.9.9.9, which is no switch's address in the topology".into(),
            ],
            learned: topology.then(|| v1::LearnedTopology {
                yaml: "switches:\n  - {name: leaf-10.255.0.1, tier: leaf}\nlinks: []\nhosts: []\n".into(),
                notes: vec!["assumed: the rate of 2 ports of NICs, 400 Gbit/s".into()],
                mistakes: Vec::new(),
                nodes: 2,
                waiting: 1,
                planned: true,
            }),
            ..v1::Paths::default()
        }))
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (send, receive) = mpsc::channel(16);
        let history = request.into_inner().history.min(2);
        tokio::spawn(async move {
            for number in 0..history {
                let event = v1::Event {
                    unix_us: 1_764_000_000_000_000,
                    kind: "finding".into(),
                    job: "train".into(),
                    text: format!("event {number}"),
                };
                if send.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            // A controller keeps the stream open; it ends when the client goes away.
            send.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

#[tonic::async_trait]
impl pictures_server::Pictures for Double {
    async fn get_picture(
        &self,
        request: Request<v1::GetPictureRequest>,
    ) -> Result<Response<v1::Picture>, Status> {
        let v1::GetPictureRequest { job, finding } = request.into_inner();
        let json = format!(r#"{{"job":"{job}","finding":"{finding}","command":"train --api-key 12345"}}"#);
        // A clock that is far off.
        Ok(Response::new(v1::Picture { json, now_unix_us: 1_764_000_000_000_000 }))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::Report>, Status> {
        match request.into_inner().job.as_str() {
            "train" => Ok(Response::new(v1::Report { html: "<!doctype html><p>token=abc</p>".into() })),
            _ => Err(Status::not_found("no such job")),
        }
    }
}

fn summary() -> v1::JobSummary {
    v1::JobSummary {
        name: "train".into(),
        incarnation: 1,
        world_size: 8,
        ranks_seen: 7,
        state: "faulty".into(),
        missing: vec![],
        iteration_seconds: 0.25,
        iteration_noise: 0.012,
        open_findings: 1,
        restarts: 1,
    }
}

/// A double that runs until it is dropped.
pub(crate) struct Controller {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Controller {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(server::OperationsServer::new(Double))
                .add_service(AlertingServer::new(Double))
                .add_service(SteeringServer::new(Double))
                .add_service(pictures_server::PicturesServer::new(Double))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs the binary against this controller.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        command(args).env("C4_CONTROLLER", self.url()).output().expect("runs")
    }
}
