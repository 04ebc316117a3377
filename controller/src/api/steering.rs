//! What operators see of actions and decide about them: gRPC over the newest picture, and the desk.

use std::sync::Arc;

use c4_detect::{
    finding::Kind,
    observation::{JobId, NodeName, Timestamp},
};
use c4_proto::v1::{self, decision::What, steering_server::Steering};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::render;
use crate::{
    access::{Principal, Via},
    brain::desk::Desk,
    clock::Clock,
    config::Mode,
    snapshot::Snapshot,
    steer::{
        action::ActionId,
        machine::{Command, Refused},
        modes::Scope,
    },
};

/// Names and reasons that operators give are no longer than this.
const MAX_TEXT: usize = 1000;

/// A checkpoint that takes longer is a mistake.
const MAX_TOOK_US: u64 = 86_400_000_000;

/// The service.
pub struct SteeringService {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    desk: Desk,
    clock: Clock,
}

impl SteeringService {
    /// A service that shows `snapshot` and hands decisions to `desk`.
    #[must_use]
    pub fn new(snapshot: watch::Receiver<Arc<Snapshot>>, desk: Desk, clock: Clock) -> Self {
        Self { snapshot, desk, clock }
    }

    fn picture(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }
}

#[tonic::async_trait]
impl Steering for SteeringService {
    async fn list_actions(
        &self,
        request: Request<v1::ListActionsRequest>,
    ) -> Result<Response<v1::ListActionsResponse>, Status> {
        let include_ended = request.into_inner().include_ended;
        Ok(Response::new(render::actions(&self.picture(), include_ended)))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let picture = self.picture();
        let audit = &picture.steer.audit;
        let newest = audit.iter().skip(audit.len().saturating_sub(limit));
        Ok(Response::new(v1::ListAuditResponse { entries: newest.map(render::audit).collect() }))
    }

    async fn list_evidence(
        &self,
        request: Request<v1::ListEvidenceRequest>,
    ) -> Result<Response<v1::ListEvidenceResponse>, Status> {
        let job = request.into_inner().job;
        let picture = self.picture();
        let wanted = picture.evidence.iter().filter(|one| job.is_empty() || one.saved.job.0 == job);
        Ok(Response::new(v1::ListEvidenceResponse { evidence: wanted.map(render::evidence).collect() }))
    }

    async fn get_ledger(
        &self,
        request: Request<v1::GetLedgerRequest>,
    ) -> Result<Response<v1::GetLedgerResponse>, Status> {
        let name = request.into_inner().job;
        let picture = self.picture();
        let now = self.clock.now();
        let wanted = |job: &JobId| name.is_empty() || job.0 == name;
        let present = picture.jobs.values().filter(|job| wanted(&job.view.job));
        let past = picture.accounts.iter().filter(|(job, _)| wanted(job));
        let mut jobs: Vec<_> = present.map(|job| render::ledger(job, now)).collect();
        jobs.extend(past.map(|(job, account)| render::past_ledger(job, account, now)));
        jobs.sort_by(|one, other| one.job.cmp(&other.job));
        if jobs.is_empty() && !name.is_empty() {
            return Err(Status::not_found(format!("no job is called {name:?}")));
        }
        Ok(Response::new(v1::GetLedgerResponse { jobs }))
    }

    async fn decide(&self, request: Request<v1::Decision>) -> Result<Response<v1::Decided>, Status> {
        let known = request.extensions().get::<Principal>().cloned();
        let text = decide(&self.desk, known.as_ref(), request.into_inner(), self.clock.now()).await?;
        Ok(Response::new(v1::Decided { text }))
    }

    async fn report_checkpoint(
        &self,
        request: Request<v1::CheckpointReport>,
    ) -> Result<Response<v1::CheckpointTaken>, Status> {
        let only = request.extensions().get::<Principal>().and_then(|who| who.only_job().cloned());
        let v1::CheckpointReport { job, iteration, took_us } = request.into_inner();
        let job = JobId(text("job", job)?);
        if let Some(only) = only.filter(|only| *only != job) {
            return Err(Status::permission_denied(format!(
                "job: this token speaks of job {:?} only",
                only.0
            )));
        }
        if took_us.is_some_and(|us| us > MAX_TOOK_US) {
            return Err(Status::invalid_argument("took_us: is more than a day"));
        }
        if !self.picture().jobs.contains_key(&job) {
            return Err(Status::not_found(format!("no job is called {:?}", job.0)));
        }
        if self.desk.checkpointed(job, iteration, took_us).await {
            Ok(Response::new(v1::CheckpointTaken {}))
        } else {
            Err(Status::unavailable("the controller is ending"))
        }
    }
}

/// Hands a decision in, in the name of whoever is known to ask; says what became of it.
pub(crate) async fn decide(
    desk: &Desk,
    known: Option<&Principal>,
    decision: v1::Decision,
    now: Timestamp,
) -> Result<String, Status> {
    // Whoever is known by more than what it says is called by that.
    let known = known.filter(|who| who.via != Via::Nothing);
    let v1::Decision { by, dry_run, what } = decision;
    let by = known.map_or_else(|| text("by", by), |who| Ok(who.name.clone()))?;
    if by.is_empty() {
        return Err(Status::invalid_argument("by: is missing: who decides?"));
    }
    match desk.ask(command(what, now)?, by, dry_run).await {
        Some(Ok(text)) => Ok(text),
        Some(Err(Refused::Unknown(why))) => Err(Status::not_found(why)),
        Some(Err(Refused::Not(why))) => Err(Status::failed_precondition(why)),
        None => Err(Status::unavailable("the controller is ending")),
    }
}

fn command(what: Option<What>, now: Timestamp) -> Result<Command, Status> {
    Ok(match what.ok_or_else(|| Status::invalid_argument("what: is missing"))? {
        What::Approve(id) => Command::Approve(ActionId(text("approve", id)?)),
        What::Reject(id) => Command::Reject(ActionId(text("reject", id)?)),
        What::Pause(pause) => Command::Pause { why: text("pause.why", pause.why)? },
        What::Resume(_) => Command::Resume,
        What::SetMode(set) => {
            let mode = match set.mode.as_str() {
                "" => None,
                name => Some(Mode::named(name).ok_or_else(|| {
                    let why = format!("set_mode.mode: {name:?} is not observe, approve or auto");
                    Status::invalid_argument(why)
                })?),
            };
            let until = (set.for_us > 0).then(|| now.after(set.for_us));
            Command::SetMode { scope: scope(&set.scope, set.name)?, mode, until }
        }
        What::Isolate(isolate) => {
            Command::Isolate { node: node(isolate.node)?, why: text("isolate.why", isolate.why)? }
        }
        What::Release(release) => Command::Release { node: node(release.node)?, check: release.check },
    })
}

fn scope(scope: &str, name: String) -> Result<Scope, Status> {
    let name = text("set_mode.name", name)?;
    match scope {
        "cluster" => Ok(Scope::Cluster),
        _ if name.is_empty() => Err(Status::invalid_argument("set_mode.name: is missing")),
        "job" => Ok(Scope::Job(JobId(name))),
        "node" => Ok(Scope::Node(NodeName(name))),
        "kind" => match serde_json::from_value::<Kind>(name.clone().into()) {
            Ok(kind) => Ok(Scope::Kind(kind)),
            Err(_) => Err(Status::invalid_argument(format!("set_mode.name: no kind is called {name:?}"))),
        },
        other => Err(Status::invalid_argument(format!(
            "set_mode.scope: {other:?} is not cluster, job, node or kind"
        ))),
    }
}

fn node(name: String) -> Result<NodeName, Status> {
    let name = text("node", name)?;
    if name.is_empty() { Err(Status::invalid_argument("node: is missing")) } else { Ok(NodeName(name)) }
}

/// What operators type ends up in logs and on other people's terminals.
fn text(field: &str, text: String) -> Result<String, Status> {
    if text.len() > MAX_TEXT {
        return Err(Status::invalid_argument(format!("{field}: is longer than {MAX_TEXT} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("{field}: has control characters")));
    }
    Ok(text)
}
