//! What operators ask: gRPC over the newest picture. Nothing here can hold up or change anything.

use std::{pin::Pin, sync::Arc};

use c4_detect::{finding::FindingId, observation::JobId};
use c4_proto::v1::{self, operations_server::Operations};
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use crate::{
    clock::Clock,
    events::{Event, EventLog},
    server::Term,
    snapshot::Snapshot,
};

pub mod backup;
mod paths;
mod render;
pub mod steering;
#[cfg(test)]
mod tests;

/// Events that may wait for a follower to read them; a slower one makes its task wait, and then misses some.
const FOLLOW_DEPTH: usize = 256;

/// The service.
pub struct OperationsService {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    events: EventLog,
    clock: Clock,
    term: Term,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl OperationsService {
    /// A service that shows `snapshot` and `events`.
    #[must_use]
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        events: EventLog,
        clock: Clock,
        term: Term,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self { snapshot, events, clock, term, tasks, cancel }
    }

    fn picture(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }
}

#[tonic::async_trait]
impl Operations for OperationsService {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::Status>, Status> {
        let mut status = render::status(&self.picture(), self.clock.now());
        if let Some(view) = &self.term.view {
            render::among_others(&mut status, &view.borrow(), self.term.fence.term());
        }
        Ok(Response::new(status))
    }

    async fn list_jobs(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let jobs = self.picture().jobs.values().map(render::summary).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let name = request.into_inner().name;
        let picture = self.picture();
        match picture.jobs.get(&JobId(name.clone())) {
            Some(job) => Ok(Response::new(render::job(&picture, job, self.clock.now()))),
            None => Err(Status::not_found(format!("no job is called {name:?}"))),
        }
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        let wanted = request.into_inner();
        let picture = self.picture();
        let mut records: Vec<_> = picture
            .findings
            .values()
            .filter(|record| wanted.include_cleared || record.finding.cleared.is_none())
            .filter(|record| wanted.job.is_empty() || record.finding.job.0 == wanted.job)
            .collect();
        records.sort_by(|a, b| (a.finding.detected, &a.finding.id).cmp(&(b.finding.detected, &b.finding.id)));
        Ok(Response::new(v1::ListFindingsResponse {
            findings: records.into_iter().map(render::finding).collect(),
        }))
    }

    async fn get_finding(
        &self,
        request: Request<v1::GetFindingRequest>,
    ) -> Result<Response<v1::Finding>, Status> {
        let id = request.into_inner().id;
        match self.picture().findings.get(&FindingId(id.clone())) {
            Some(record) => Ok(Response::new(render::finding(record))),
            None => Err(Status::not_found(format!("no finding is called {id:?}"))),
        }
    }

    async fn get_paths(&self, request: Request<v1::GetPathsRequest>) -> Result<Response<v1::Paths>, Status> {
        Ok(Response::new(paths::paths(&self.picture(), request.get_ref())))
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (past, mut live) = self.events.follow(request.into_inner().history as usize);
        let (send, receive) = mpsc::channel(FOLLOW_DEPTH);
        let (cancel, clock) = (self.cancel.clone(), self.clock);
        let follow = async move {
            for event in past {
                if send.send(Ok(render::event(event))).await.is_err() {
                    return;
                }
            }
            loop {
                let event = match live.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(missed)) => Event {
                        at: clock.now(),
                        kind: "job",
                        job: String::new(),
                        text: format!("{missed} events were missed: they came faster than they were read"),
                    },
                };
                if send.send(Ok(render::event(event))).await.is_err() {
                    return;
                }
            }
        };
        self.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = follow => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
