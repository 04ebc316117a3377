//! The local actuator: process groups that agents supervise.
//!
//! It asks every agent that registered a group of the job, and watches the table of groups until all of them are
//! where they should be. Commands are said again every second to whoever is not there yet: an agent may have been
//! reconnecting, and it recognises a command by its id. After a start of the controller the agents come back one by one,
//! so somebody who is missing is waited for.

use std::{sync::Arc, time::Duration};

use c4_daemon::trace::Trace;
use c4_detect::observation::NodeName;
use c4_proto::v1::{
    Assignment, CheckNode, Command, ControllerMessage, StartGroup, StopGroup, command, controller_message,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{Instrument, field::Empty};

use super::{
    action::{Deed, Order, Step},
    actuator::{Actuator, ActuatorError, Answer},
    placement::Place,
};
use crate::{
    convert::GroupState,
    groups::{Group, Groups, at_rest},
    ingest::streams::Streams,
    nodes::StreamId,
};

#[cfg(test)]
mod tests;

/// How long an agent that supervised a part of the job may be away before its part counts as gone: agents connect again
/// within a few seconds.
const AWAY: Duration = Duration::from_secs(5);
/// How often a command is said again.
const REPEAT: Duration = Duration::from_secs(1);

/// See the module.
pub struct LocalActuator {
    groups: watch::Receiver<Arc<Groups>>,
    streams: Streams,
}

/// How far an order is.
#[derive(Debug, PartialEq)]
enum Progress {
    Done(String),
    Failed(String),
    /// These still have to be told this, or to answer.
    Pending(Vec<(StreamId, command::Body)>),
}

impl LocalActuator {
    /// An actuator that sees `groups` and speaks through `streams`.
    #[must_use]
    pub fn new(groups: watch::Receiver<Arc<Groups>>, streams: Streams) -> Self {
        Self { groups, streams }
    }

    /// Whether agents supervise a job.
    #[must_use]
    pub fn has(&self, order: &Order) -> bool {
        let Some((job, ..)) = order.restart() else { return false };
        self.groups.borrow().of(job).next().is_some()
    }

    async fn work(&self, order: &Order) -> Result<String, ActuatorError> {
        // Agents are told what their commands are a part of.
        let span = tracing::error_span!("agents", trace = Empty);
        let trace = Trace::of(&span, None).header();
        self.tell(order, &trace).instrument(span).await
    }

    async fn tell(&self, order: &Order, trace: &str) -> Result<String, ActuatorError> {
        let mut groups = self.groups.clone();
        let mut repeat = interval(REPEAT);
        let mut away = std::pin::pin!(sleep(AWAY));
        repeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pending = match progress(order, &groups.borrow_and_update(), away.is_elapsed()) {
                Progress::Done(detail) => return Ok(detail),
                Progress::Failed(why) => return Err(ActuatorError(why)),
                Progress::Pending(pending) => pending,
            };
            tokio::select! {
                changed = groups.changed() => {
                    if changed.is_err() {
                        return Err(ActuatorError("the controller is ending".into()));
                    }
                }
                () = &mut away, if !away.is_elapsed() => {}
                _ = repeat.tick() => {
                    for (stream, body) in pending {
                        let (id, trace) = (order.id.clone(), trace.to_owned());
                        let command = Command { id, body: Some(body), term: 0, trace };
                        let body = controller_message::Body::Command(command);
                        self.streams.send(stream, ControllerMessage { body: Some(body) });
                    }
                }
            }
        }
    }
}

impl Actuator for LocalActuator {
    fn carry_out<'a>(&'a self, order: &'a Order) -> Answer<'a> {
        Box::pin(self.work(order))
    }
}

/// `waited`: whoever was to come back would have by now.
fn progress(order: &Order, groups: &Groups, waited: bool) -> Progress {
    match (&order.action.deed, order.step) {
        (Deed::Release { node, .. }, Step::Check) => check(order, node, groups),
        // The machine itself keeps isolated nodes out of what it places.
        (_, Step::Isolate | Step::Release) => Progress::Done(String::new()),
        _ => restart(order, groups, waited),
    }
}

fn check(order: &Order, node: &NodeName, groups: &Groups) -> Progress {
    match groups.node_answer(node, &order.id) {
        Some(answer) if answer.ok => Progress::Done(answer.detail.clone()),
        Some(answer) => Progress::Failed(answer.detail.clone()),
        None => {
            let told = groups.stream_of(node).map(|stream| (stream, command::Body::CheckNode(CheckNode {})));
            Progress::Pending(told.into_iter().collect())
        }
    }
}

fn restart(order: &Order, groups: &Groups, waited: bool) -> Progress {
    let Some((job, incarnation, placement)) = order.restart() else {
        return Progress::Failed("agents only stop and start jobs".into());
    };
    let mut pending = Vec::new();
    let mut waiting = false;
    // Whoever has been placed has to be there; without a placement, whoever is there.
    let mut missing: Vec<&NodeName> = placement.iter().map(|place| &place.node).collect();
    let mut away: Vec<&NodeName> = match &order.action.deed {
        Deed::Restart { ran_on, .. } if !waited => ran_on.iter().collect(),
        _ => Vec::new(),
    };
    let mut any = false;
    for (key, group) in groups.of(job) {
        any = true;
        missing.retain(|node| **node != key.node);
        away.retain(|node| **node != key.node);
        let place = placement.iter().position(|place| place.node == key.node);
        let answer = groups.answer(key, &order.id);
        if let Some(refused) = answer.filter(|answer| !answer.ok) {
            return Progress::Failed(format!("the agent on {} said: {}", key.node.0, refused.detail));
        }
        let there = match order.step {
            Step::Stop => stopped(group, incarnation, answer.is_some()),
            _ => match started(group, incarnation.saturating_add(1), part(placement, place)) {
                Ok(there) => there,
                Err(detail) => {
                    return Progress::Failed(format!("the group on {} failed at once: {detail}", key.node.0));
                }
            },
        };
        if !there {
            waiting = true;
            pending.extend(group.stream.map(|stream| (stream, body(order, incarnation, placement, place))));
        }
    }
    // For a stop, whoever is gone has stopped.
    let complete = any && away.is_empty() && (order.step == Step::Stop || missing.is_empty());
    if complete && !waiting { Progress::Done(String::new()) } else { Progress::Pending(pending) }
}

fn part(placement: &[Place], place: Option<usize>) -> Part {
    match place {
        Some(_) => Part::Placed,
        None if placement.is_empty() => Part::AsBefore,
        None => Part::Out,
    }
}

fn stopped(group: &Group, incarnation: u32, answered: bool) -> bool {
    let state = group.report.state;
    // A group that ended by itself still has to be told: some of its processes may be left.
    group.report.incarnation > incarnation
        || matches!(state, GroupState::Stopped | GroupState::Standby)
        || (at_rest(state) && answered)
}

/// What a start wants of a group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What it did before.
    AsBefore,
    /// The ranks it is given.
    Placed,
    /// Nothing.
    Out,
}

/// Whether a group is where a start wants it; an error if it is not and will not be.
fn started(group: &Group, next: u32, part: Part) -> Result<bool, &str> {
    let (state, at) = (group.report.state, group.report.incarnation);
    match (part, state) {
        (Part::Out, _) => Ok(state == GroupState::Standby || group.stream.is_none()),
        (Part::AsBefore, GroupState::Standby) => Ok(true),
        (Part::Placed, GroupState::Standby) => Ok(false),
        _ if at < next => Ok(false),
        (_, GroupState::Failed) => Err(&group.report.detail),
        (_, state) => Ok(matches!(state, GroupState::Running | GroupState::Finished)),
    }
}

fn body(order: &Order, incarnation: u32, placement: &[Place], place: Option<usize>) -> command::Body {
    let job = order.action.deed.job().map_or_else(String::new, |job| job.0.clone());
    if order.step == Step::Stop {
        return command::Body::StopGroup(StopGroup { job, incarnation, grace_us: order.grace_us });
    }
    let assignment = place.map(|index| Assignment {
        first_rank: placement[index].first_rank,
        ranks: placement[index].ranks,
        world_size: placement.iter().map(|place| place.ranks).sum(),
        node_rank: index as u32,
        nodes: placement.len() as u32,
        master: placement[0].node.0.clone(),
    });
    command::Body::StartGroup(StartGroup {
        job,
        incarnation: incarnation.saturating_add(1),
        stand_by: assignment.is_none() && !placement.is_empty(),
        assignment,
    })
}
