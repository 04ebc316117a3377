//! The local actuator: process groups that agents supervise.
//!
//! It asks every agent that registered a group of the job, and watches the table of groups until all of them are
//! where they should be. Commands are said again every second to whoever is not there yet: an agent may have been
//! reconnecting, and it recognises a command by its id.

use std::{sync::Arc, time::Duration};

use c4_proto::v1::{Command, ControllerMessage, StartGroup, StopGroup, command, controller_message};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    action::{Order, Step},
    actuator::{Actuator, ActuatorError, Answer},
};
use crate::{
    convert::GroupState,
    groups::{Groups, at_rest},
    ingest::streams::Streams,
    nodes::StreamId,
};

#[cfg(test)]
mod tests;

/// How often a command is said again.
const REPEAT: Duration = Duration::from_secs(1);

/// See the module.
pub struct LocalActuator {
    groups: watch::Receiver<Arc<Groups>>,
    streams: Streams,
}

/// How far an order is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Failed(String),
    /// These still have to be told, or to answer.
    Pending(Vec<StreamId>),
}

impl LocalActuator {
    /// An actuator that sees `groups` and speaks through `streams`.
    #[must_use]
    pub fn new(groups: watch::Receiver<Arc<Groups>>, streams: Streams) -> Self {
        Self { groups, streams }
    }

    async fn work(&self, order: &Order) -> Result<(), ActuatorError> {
        let mut groups = self.groups.clone();
        let mut repeat = interval(REPEAT);
        repeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pending = match progress(order, &groups.borrow_and_update()) {
                Progress::Done => return Ok(()),
                Progress::Failed(why) => return Err(ActuatorError(why)),
                Progress::Pending(streams) => streams,
            };
            tokio::select! {
                changed = groups.changed() => {
                    if changed.is_err() {
                        return Err(ActuatorError("the controller is ending".into()));
                    }
                }
                _ = repeat.tick() => {
                    for stream in pending {
                        self.streams.send(stream, message(order));
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

fn progress(order: &Order, groups: &Groups) -> Progress {
    let next = order.incarnation.saturating_add(1);
    let mut waiting = false;
    let mut pending = Vec::new();
    let mut any = false;
    for (key, group) in groups.of(&order.job) {
        any = true;
        let (state, incarnation) = (group.report.state, group.report.incarnation);
        let answer = groups.answer(key, &order.id);
        if let Some(refused) = answer.filter(|answer| !answer.ok) {
            return Progress::Failed(format!("the agent on {} said: {}", key.node.0, refused.detail));
        }
        let there = match order.step {
            // A group that ended by itself still has to be told: some of its processes may be left.
            Step::Stop => {
                incarnation > order.incarnation
                    || state == GroupState::Stopped
                    || (at_rest(state) && answer.is_some())
            }
            Step::Start if incarnation < next => false,
            Step::Start if state == GroupState::Failed => {
                let detail = &group.report.detail;
                return Progress::Failed(format!("the group on {} failed at once: {detail}", key.node.0));
            }
            Step::Start => matches!(state, GroupState::Running | GroupState::Finished),
        };
        if !there {
            waiting = true;
            pending.extend(group.stream);
        }
    }
    match (any, waiting) {
        (false, _) => Progress::Failed("no agent supervises this job any more".into()),
        (true, true) => Progress::Pending(pending),
        (true, false) => Progress::Done,
    }
}

fn message(order: &Order) -> ControllerMessage {
    let job = order.job.0.clone();
    let body = match order.step {
        Step::Stop => command::Body::StopGroup(StopGroup {
            job,
            incarnation: order.incarnation,
            grace_us: order.grace_us,
        }),
        Step::Start => {
            command::Body::StartGroup(StartGroup { job, incarnation: order.incarnation.saturating_add(1) })
        }
    };
    let command = Command { id: order.id.clone(), body: Some(body) };
    ControllerMessage { body: Some(controller_message::Body::Command(command)) }
}
