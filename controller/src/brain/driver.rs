//! The task around the brain.
//!
//! | channel | holds | depth | when full |
//! |---|---|---|---|
//! | inputs | what streams and actuators say, a node's windows being one | 1024 | the stream waits, and HTTP/2 makes its agent wait: nothing is lost |
//! | snapshot (`watch`) | the newest picture | 1 | readers see the newest only |
//! | groups (`watch`) | the newest table of process groups | 1 | likewise |
//! | notices, one for each receiver of alerts | findings to tell | 1024 | dropped and counted |
//! | recording | lines | 8192 | dropped and counted |
//! | store (a thread) | batches to write | 1024 | refused; the policy hears that nothing was written |
//! | operators' answers | one each | 1 | whoever has gone does not hear it |
//!
//! Orders are carried out by tasks of their own, each bounded by its order's time-out; their answers come back as
//! inputs, as do plans of paths, which are made on threads of their own, one at a time. Cancelling the task loses inputs that no agent had acknowledged, so their agents send them again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use c4_proto::v1::{ControllerMessage, Refused, TimeSteps, controller_message::Body};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, field::Empty};

use c4_detect::observation::Timestamp;
use c4_traffic::actuators::Document;

use super::{Brain, Effect, Input, UNAWAITED, desk::Desk};
use crate::{
    alerts::Notice,
    clock::Clock,
    events::EventLog,
    groups::Groups,
    ha::fence::Fence,
    ingest::streams::Streams,
    metrics::Metrics,
    nodes::StreamId,
    paths::{
        export::Exporter,
        work::{Comparison, Work},
    },
    record::Recorder,
    snapshot::Snapshot,
    steer::{action::Order, actuator::Actuator},
    store::{StoreError, Write, owed::Owed, writer::Writer},
};

#[cfg(test)]
mod tests;

/// Inputs that may wait.
pub const DEPTH: usize = 1024;
/// The detector and the policy hear this often that time goes on.
const TICK: Duration = Duration::from_millis(100);
/// What could not be written down is tried again this often (1 s).
const KEEP_AGAIN_US: u64 = 1_000_000;
/// Inputs taken before a tick gets its turn.
const BATCH: usize = 512;
/// A picture takes at most one part in so many of the time, if it is then made once a second at least: agents tell no more often.
const PICTURE_SHARE: u64 = 1_000;
/// Of a very large cluster it is made less often, and takes at most one part in so many.
const LARGEST_SHARE: u64 = 40;

/// The table of process groups is made at most so often that it takes one part in so many of the time: while thousands of agents
/// reconnect it changes with each of them.
const GROUPS_SHARE: u64 = 50;

/// Everything the task works with.
pub struct Driver {
    /// The brain.
    pub brain: Brain,
    /// The time.
    pub clock: Clock,
    /// Inputs.
    pub inputs: mpsc::Receiver<Input>,
    /// Where answers of actuators go: the other end of `inputs`.
    pub answers: mpsc::Sender<Input>,
    /// Streams of agents.
    pub streams: Streams,
    /// Writes what must survive.
    pub store: Writer,
    /// Operators who wait for an answer.
    pub desk: Desk,
    /// Whether anything may be done at all.
    pub fence: Fence,
    /// Carries orders out.
    pub actuator: Arc<dyn Actuator>,
    /// Where files for switches are written, if anywhere.
    pub exporter: Option<Exporter>,
    /// The table of process groups, for the actuator.
    pub groups: watch::Sender<Arc<Groups>>,
    /// The picture, for readers.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// What happened.
    pub events: EventLog,
    /// Receivers of alerts.
    pub notices: Vec<mpsc::Sender<Notice>>,
    /// The recording.
    pub recorder: Option<Recorder>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// When the brain last took a turn, for `/readyz`.
    pub heartbeat: Arc<AtomicU64>,
    /// Runs the tasks of actuators.
    pub tasks: TaskTracker,
    /// What is to be written down.
    pub debts: Debts,
}

/// What a driver still has to write down. Empty at first.
#[derive(Debug, Default)]
pub struct Debts {
    owed: Arc<Mutex<Owed>>,
    tried: Timestamp,
}

/// Time from one picture to the next, if one takes `spent_us`.
fn until_next_picture_us(spent_us: u64) -> u64 {
    let usual_us = spent_us.saturating_mul(PICTURE_SHARE).min(1_000_000);
    spent_us.saturating_mul(LARGEST_SHARE).max(usual_us)
}

impl Driver {
    /// Runs until cancelled. Returns the recording, to be closed.
    pub async fn run(mut self, cancel: CancellationToken) -> Option<Recorder> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut next_picture = self.clock.now();
        let mut shown = 0;
        let mut next_groups = self.clock.now();
        loop {
            // Ticks first: under load, time must go on all the same.
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                _ = ticks.tick() => {
                    self.turn(Input::Tick, &cancel);
                    self.keep_again();
                    let now = self.clock.now();
                    if now >= next_picture {
                        self.publish();
                        let spent_us = self.clock.now().micros_since(now);
                        next_picture = now.after(until_next_picture_us(spent_us));
                        shown = self.brain.findings().version();
                    } else if shown != self.brain.findings().version() {
                        shown = self.brain.findings().version();
                        let with_findings = self.brain.with_findings(&self.snapshot.borrow());
                        self.snapshot.send_replace(Arc::new(with_findings));
                    }
                }
                taken = self.inputs.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    let began = self.clock.now();
                    for input in batch.drain(..) {
                        self.turn(input, &cancel);
                    }
                    self.metrics.turns.observe(self.clock.now().micros_since(began) as f64 / 1e6);
                }
            }
            let now = self.clock.now();
            if now >= next_groups && self.publish_groups() {
                let done = self.clock.now();
                next_groups = done.after(done.micros_since(now).saturating_mul(GROUPS_SHARE));
            }
            self.metrics.queue.set(i64::try_from(self.inputs.len()).unwrap_or(i64::MAX));
        }
        // The store may work again by now; its thread ends once it has written what it was given.
        let again = self.owed().all();
        self.pay(again);
        self.publish();
        self.recorder
    }

    /// Shows everything as it is now.
    pub fn publish(&self) {
        let before = self.snapshot.borrow().paths.clone();
        let paths = self.brain.paths_view(before.as_deref());
        let snapshot = Snapshot { paths, ..self.brain.snapshot(self.clock.now()) };
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Shows actuators the process groups as they are now. Returns whether they had changed.
    fn publish_groups(&self) -> bool {
        let changed = self.groups.borrow().version() != self.brain.groups().version();
        if changed {
            self.groups.send_replace(Arc::new(self.brain.groups().clone()));
        }
        changed
    }

    fn turn(&mut self, input: Input, cancel: &CancellationToken) {
        if !self.fence.holds() {
            return;
        }
        let now = self.clock.now();
        self.heartbeat.store(now.0, Ordering::Relaxed);
        for effect in self.brain.handle(input, now) {
            match effect {
                Effect::Taken(stream, sequence) => self.streams.taken(stream, sequence),
                Effect::Refuse(stream, sequence, reason) => {
                    self.reply(stream, Body::Refused(Refused { sequence, reason }));
                }
                Effect::Close(stream, reason) => {
                    self.metrics.streams_closed.with_label_values(&[reason]).inc();
                    self.streams.close(stream, reason);
                }
                Effect::TimeSteps(stream, processes, duration_us) => {
                    let processes = processes.into_iter().map(|process| process.0).collect();
                    self.reply(stream, Body::TimeSteps(TimeSteps { processes, duration_us }));
                }
                Effect::OrderPaths(stream, orders) => self.reply(stream, Body::PathOrders(*orders)),
                Effect::ExplorePaths(stream, wish) => self.reply(stream, Body::ExplorePaths(*wish)),
                Effect::Plan(work) => self.plan(*work),
                Effect::WritePaths(plan, documents) => self.write_paths(plan, documents),
                // The policy tells people when a store begins to fail, and when it works again.
                Effect::Keep(batch) => self.persist(UNAWAITED, batch),
                Effect::Act(order) => self.act(*order, cancel.clone()),
                Effect::Halt => self.desk.halt(),
                Effect::Persist(token, batch) => self.persist(token, batch),
                Effect::Reply(ticket, result) => self.desk.answer(ticket, result),
                Effect::Notify(notice) => {
                    for receiver in &self.notices {
                        if receiver.try_send((*notice).clone()).is_err() {
                            self.metrics.alerts.with_label_values(&["any", "dropped"]).inc();
                        }
                    }
                }
                Effect::Record(line) => {
                    if self.recorder.as_ref().is_some_and(|recorder| !recorder.line(*line)) {
                        self.metrics.record_dropped.inc();
                    }
                }
                Effect::Event(event) => self.events.push(event),
            }
        }
    }

    /// Answers an agent; what its stream has no room for is dropped and counted.
    fn reply(&self, stream: StreamId, body: Body) {
        if !self.streams.send(stream, ControllerMessage { body: Some(body) }) {
            self.metrics.replies_dropped.inc();
        }
    }

    /// Plans on a thread of its own: a large plan takes a second. What hashing would have done is worked out once the plan is
    /// on its way.
    fn plan(&self, work: Work) {
        let answers = self.answers.clone();
        self.tasks.spawn_blocking(move || {
            let made = work.make();
            let comparison = Comparison::with(&made);
            // If the brain is gone, nobody waits for the plan.
            if answers.blocking_send(Input::Planned(Box::new(made))).is_ok() {
                let _ = answers.blocking_send(Input::Compared(Box::new(comparison.make())));
            }
        });
    }

    fn write_paths(&self, plan: u64, documents: Vec<Document>) {
        let Some(exporter) = self.exporter.clone() else { return };
        let fence = self.fence.clone();
        self.tasks.spawn_blocking(move || exporter.write(plan, &documents, || fence.holds()));
    }

    /// Writes down, behind what is owed to the same tables.
    fn persist(&self, token: u64, batch: Vec<Write>) {
        let late = self.owed().before(&batch);
        self.pay(late);
        self.write(token, batch);
    }

    /// Writes down what is owed, if anything is. Nobody waits for it.
    fn pay(&self, owed: Vec<Write>) {
        if !owed.is_empty() {
            self.write(UNAWAITED, owed);
        }
    }

    /// Writes down, and tells the brain what came of it; what fails is owed.
    fn write(&self, token: u64, batch: Vec<Write>) {
        let number = self.owed().begin(&batch);
        let (owed, answers) = (self.debts.owed.clone(), self.answers.clone());
        let told = move |written: Result<(), StoreError>| {
            owed.lock().unwrap_or_else(PoisonError::into_inner).done(number, written.is_ok());
            Input::Persisted { token, result: written.map_err(|error| error.to_string()) }
        };
        let then = told.clone();
        // The store's thread may wait for the brain; the brain never waits for the store.
        let sent = self.store.write(batch, move |written| drop(answers.blocking_send(then(written))));
        if let Err(refused) = sent {
            let answers = self.answers.clone();
            let refused = told(Err(refused));
            self.tasks.spawn(async move { drop(answers.send(refused).await) });
        }
    }

    /// Tries again to write down what could not be.
    fn keep_again(&mut self) {
        let now = self.clock.now();
        if now < self.debts.tried.after(KEEP_AGAIN_US) {
            return;
        }
        self.debts.tried = now;
        let again = self.owed().all();
        self.pay(again);
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.debts.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, order: Order, cancel: CancellationToken) {
        // It is carried out on what it was decided on.
        self.publish_groups();
        let (actuator, answers) = (self.actuator.clone(), self.answers.clone());
        let fence = self.fence.clone();
        let halted = self.desk.halted();
        let job = order.action.deed.job().map(|job| job.0.as_str());
        let span = tracing::info_span!("order", id = order.id, step = ?order.step, job, ok = Empty);
        let work = async move {
            // A program that was stopped between the decision and here may lead no longer.
            if !fence.holds() {
                return;
            }
            // The policy machine has the same deadline; this one only ends the task.
            let work = timeout(Duration::from_micros(order.timeout_us), actuator.carry_out(&order));
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = halted.cancelled() => return,
                () = fence.lost() => return,
                result = work => match result {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => return,
                },
            };
            tracing::Span::current().record("ok", result.is_ok());
            // If the brain is gone, nobody waits for the answer.
            let _ = answers.send(Input::Answered { order: Box::new(order), result }).await;
        };
        self.tasks.spawn(work.instrument(span));
    }
}
