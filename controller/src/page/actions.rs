//! What is done about findings, and what holds it back, as JSON; and decisions about it, as the page hands them in.

use axum::{
    Extension, Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use c4_detect::{finding::FindingId, observation::JobId};
use c4_proto::v1::{self, decision::What};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::Page;
use crate::{
    access::{Principal, Role},
    api::steering::decide,
    snapshot::Snapshot,
    steer::{action::Action, journal::AuditEntry},
};

/// Actions listed.
const MAX_ACTIONS: usize = 50;
/// Entries of the audit trail listed.
const MAX_TRAIL: usize = 100;
/// Isolated nodes that are named.
const MAX_ISOLATED: usize = 100;

/// A decision about a proposed action.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decision {
    /// The action's id.
    action: String,
    /// Approve, or reject.
    approve: bool,
    /// Who decides, if nothing better is known of who asks.
    #[serde(default)]
    by: String,
    /// Only says what would happen.
    #[serde(default)]
    dry_run: bool,
}

impl From<Decision> for v1::Decision {
    fn from(decision: Decision) -> Self {
        let Decision { action, approve, by, dry_run } = decision;
        let what = if approve { What::Approve(action) } else { What::Reject(action) };
        Self { by, dry_run, what: Some(what) }
    }
}

/// Takes a decision. The gate has seen to it that an operator asks, from a page of ours; that it has to be JSON keeps other
/// sites' forms out once more.
pub(super) async fn post(
    State(page): State<Page>,
    known: Option<Extension<Principal>>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Response {
    let decided = match decision {
        Ok(Json(decision)) => {
            let known = known.as_ref().map(|Extension(known)| known);
            decide(&page.desk, known, decision.into(), page.clock.now()).await
        }
        Err(wrong) => Err(Status::invalid_argument(wrong.body_text())),
    };
    match decided {
        Ok(text) => Json(json!({"text": text})).into_response(),
        Err(status) => (http_status(status.code()), Json(json!({"error": status.message()}))).into_response(),
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Who it is that asks.
pub(super) async fn you(known: Option<Extension<Principal>>) -> Json<Value> {
    let known = known.map(|Extension(known)| known);
    Json(json!({
        "name": known.as_ref().map(|who| &who.name),
        "via": known.as_ref().map(|who| who.via.name()),
        "role": known.as_ref().and_then(|who| who.role).map(Role::name),
        "decides": known.as_ref().and_then(|who| who.role).is_some_and(|role| role >= Role::Operator),
    }))
}

/// What waits for a yes, what is being done, and what holds everything back. Of one job, or of all.
pub(super) fn weather(picture: &Snapshot, job: Option<&JobId>) -> Value {
    let view = &picture.steer;
    let wanted = |action: &&Action| {
        !action.state.is_final()
            && job.is_none_or(|job| action.job.as_ref() == Some(job) || action.deed.job() == Some(job))
    };
    let open: Vec<&Action> = view.actions.iter().filter(wanted).collect();
    let isolated: Vec<Value> = view
        .nodes
        .iter()
        .filter_map(|(node, record)| {
            let isolation = record.isolated.as_ref()?;
            Some(json!({"node": node.0, "why": isolation.why, "since_us": isolation.since.0}))
        })
        .collect();
    json!({
        "actions": open.iter().take(MAX_ACTIONS).map(|one| action(one)).collect::<Vec<_>>(),
        "actions_total": open.len(),
        "pause": view.pause.as_ref().map(|pause| json!({"by": pause.by, "why": pause.why, "since_us": pause.since.0})),
        "breaker": view.breaker,
        "isolated": isolated.iter().take(MAX_ISOLATED).collect::<Vec<_>>(),
        "isolated_total": isolated.len(),
    })
}

/// The actions about a finding, the newest first, and what was written down about it, oldest first.
pub(super) fn about(picture: &Snapshot, finding: &FindingId) -> (Value, Value) {
    let view = &picture.steer;
    let of_it = view.actions.iter().rev().filter(|action| action.finding.as_ref() == Some(finding));
    let trail: Vec<&AuditEntry> =
        view.audit.iter().filter(|entry| entry.finding.as_ref() == Some(finding)).collect();
    let newest = trail.iter().skip(trail.len().saturating_sub(MAX_TRAIL));
    (
        of_it.take(MAX_ACTIONS).map(action).collect(),
        newest
            .map(|entry| json!({"at_us": entry.at.0, "who": entry.who, "what": entry.what, "text": entry.text}))
            .collect(),
    )
}

fn action(action: &Action) -> Value {
    json!({
        "id": action.id.0,
        "deed": action.deed.name(),
        "text": action.deed.to_string(),
        "state": action.state.name(),
        "detail": action.state.detail(),
        "because": action.because,
        "by": action.by,
        "attempt": action.attempt,
        "planned_us": action.planned.0,
        "ended_us": action.ended.map(|at| at.0),
        "job": action.job.as_ref().map(|job| &job.0),
        "finding": action.finding.as_ref().map(|finding| &finding.0),
    })
}
