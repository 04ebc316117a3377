//! How an action goes through its steps.

use c4_detect::observation::{NodeName, Timestamp};

use super::{Blame, FRESH_US, Open, Output, POLICY, Phase, Steer, World};
use crate::{
    steer::{
        action::{Action, ActionId, Deed, Order, State, Step},
        journal::{self, AuditEntry, Isolation},
        rails::JobFacts,
    },
    store::Write,
};

/// Pause before a failed step is tried again.
const RETRY_US: u64 = 1_000_000;
/// The store may take this long to write a plan, without which nothing is done; a disk that busy is no reason to wake anybody yet.
const PLAN_WRITE_US: u64 = 30_000_000;
/// The store may take this long to write a step, which is done then all the same.
const STEP_WRITE_US: u64 = 2_000_000;
/// Finished actions remembered.
const MAX_PAST: usize = journal::KEPT;

impl Steer {
    /// An actuator has answered.
    pub fn answered(
        &mut self,
        order: &Order,
        result: Result<String, String>,
        facts: Option<&JobFacts>,
        now: Timestamp,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        let id = &order.action.id;
        let Some(open) = self.open.get(id) else { return out };
        // A late answer to an attempt that was given up says nothing about the present one.
        let expected = open.action.state == State::Doing { step: order.step }
            && open.action.attempt == order.action.attempt
            && matches!(open.phase, Phase::Ordered { .. });
        if !expected {
            return out;
        }
        match result {
            Ok(detail) => self.step_done(id, order.step, &detail, facts, now, &mut out),
            Err(why) => self.attempt_failed(&id.clone(), &why, now, &mut out),
        }
        out
    }

    /// A batch was written, or was not.
    pub fn persisted(&mut self, token: u64, result: Result<(), String>, now: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        if result.is_ok() != self.store_ok {
            self.store_ok = result.is_ok();
            let text = match &result {
                Ok(()) => "the store works again".to_owned(),
                Err(why) => format!("the store fails ({why}): no action is begun until it works"),
            };
            out.push(Output::Said { finding: None, job: String::new(), text, outcome: "store" });
        }
        let waits =
            |open: &&Open| matches!(open.phase, Phase::Writing { token: waited, .. } if waited == token);
        if let Some(id) = self.open.values().find(waits).map(|open| open.action.id.clone()) {
            self.written(&id, result, now, &mut out);
        }
        out
    }

    /// Ends the waiting for incarnations that have appeared.
    pub(super) fn look_for_awaited(&mut self, world: &dyn World, now: Timestamp, out: &mut Vec<Output>) {
        let awaited = |open: &&Open| matches!(open.phase, Phase::Awaited { .. });
        let awaited: Vec<Action> =
            self.open.values().filter(awaited).map(|open| open.action.clone()).collect();
        for action in awaited {
            let Deed::Restart { job, incarnation, .. } = &action.deed else { continue };
            let facts = world.job(job);
            if facts.as_ref().is_some_and(|facts| facts.incarnation > *incarnation) {
                self.step_done(&action.id, Step::Start, "", facts.as_ref(), now, out);
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        for setting in self.modes.expire(now) {
            self.save_modes(&mut out);
            let text = format!("mode {} for {} ends", setting.mode.name(), setting.scope.words());
            self.announce(None, "", text, "mode", POLICY, now, &mut out);
        }
        let forgotten = self.ladder.forget((self.config.watch_seconds * 1e6) as u64, now);
        let key = |blame: &Blame| journal::blame_key(&blame.finding, &blame.blamed.node);
        let rows: Vec<_> = forgotten.iter().map(|blame| Write::remove(journal::BLAMES, key(blame))).collect();
        if !rows.is_empty() {
            self.persist(rows, &mut out);
        }
        let ids: Vec<ActionId> = self.open.keys().cloned().collect();
        for id in ids {
            let Some(open) = self.open.get_mut(&id) else { continue };
            match open.phase {
                Phase::Writing { deadline, .. } if deadline <= now => {
                    self.written(&id, Err("the disk does not answer".into()), now, &mut out);
                }
                Phase::Ordered { deadline } if deadline <= now => {
                    self.attempt_failed(&id, "no answer in time", now, &mut out);
                }
                Phase::Awaited { deadline } if deadline <= now => {
                    let why = "it was said to be started, and its next incarnation never appeared";
                    self.finish(&id, State::Failed { why: why.into() }, now, &mut out);
                }
                Phase::Retry { at } if at <= now => self.try_again(&id, now, &mut out),
                _ => {}
            }
        }
        out
    }

    /// Writes a new action down; what follows comes when that is done.
    pub(super) fn begin(&mut self, action: Action, text: String, now: Timestamp, out: &mut Vec<Output>) {
        let id = action.id.clone();
        let outcome = if action.state == State::Proposed { "proposed" } else { "planned" };
        self.open.insert(id.clone(), Open { action, phase: Phase::Suspended });
        self.say_of(&id, text, outcome, now, out);
        self.save(&id, now, out);
    }

    /// Writes an action as it is now; it goes on when that is done.
    pub(super) fn save(&mut self, id: &ActionId, now: Timestamp, out: &mut Vec<Output>) {
        let Some(open) = self.open.get_mut(id) else { return };
        self.token += 1;
        self.version += 1;
        let most_us = if open.action.state == State::Planned { PLAN_WRITE_US } else { STEP_WRITE_US };
        open.phase = Phase::Writing { token: self.token, deadline: now.after(most_us) };
        let row = Write::json(journal::ACTIONS, journal::action_key(&open.action), &open.action);
        out.push(Output::Persist { token: self.token, batch: vec![row] });
    }

    fn written(&mut self, id: &ActionId, result: Result<(), String>, now: Timestamp, out: &mut Vec<Output>) {
        let paused = self.pause.is_some();
        let Some(open) = self.open.get_mut(id) else { return };
        match (&open.action.state, result) {
            (State::Proposed, _) => open.phase = Phase::Proposed,
            // What cannot be written down is not done.
            (State::Planned, Err(why)) => {
                let why = format!("it could not be written down: {why}");
                self.finish(id, State::Failed { why }, now, out);
            }
            _ if paused => open.phase = Phase::Suspended,
            (State::Planned, Ok(())) => self.start(id, now, out),
            // The plan is written down, and every step can be repeated: this one is not held up by the disk.
            (State::Doing { .. }, _) => self.order(id, now, out),
            _ => {}
        }
    }

    /// Goes on with an action that was interrupted: by a failure, a pause, or the end of the controller.
    pub(super) fn try_again(&mut self, id: &ActionId, now: Timestamp, out: &mut Vec<Output>) {
        if self.pause.is_some() {
            if let Some(open) = self.open.get_mut(id) {
                open.phase = Phase::Suspended;
            }
            return;
        }
        let Some(open) = self.open.get(id) else { return };
        match open.action.state {
            State::Planned if now.micros_since(open.action.planned) > FRESH_US => {
                let why = "it was planned too long ago, before the controller was started again or resumed";
                self.finish(id, State::Withdrawn { why: why.into() }, now, out);
            }
            State::Planned => self.start(id, now, out),
            State::Doing { .. } => self.order(id, now, out),
            _ => {}
        }
    }

    /// The first step of an action.
    fn start(&mut self, id: &ActionId, now: Timestamp, out: &mut Vec<Output>) {
        let Some(open) = self.open.get(id) else { return };
        if let Deed::Restart { job, incarnation, .. } = &open.action.deed {
            let (known, history) = self.histories.entry(job.clone()).or_default();
            *known = *incarnation;
            history.restarts += 1;
            history.last = Some(now);
        }
        let first = open.action.deed.steps().first().copied();
        self.go_to(id, first, now, out);
    }

    fn go_to(&mut self, id: &ActionId, step: Option<Step>, now: Timestamp, out: &mut Vec<Output>) {
        let Some(step) = step else { return self.finish(id, State::Done, now, out) };
        let Some(open) = self.open.get_mut(id) else { return };
        open.action.state = State::Doing { step };
        open.action.attempt = 1;
        self.save(id, now, out);
    }

    fn order(&mut self, id: &ActionId, now: Timestamp, out: &mut Vec<Output>) {
        let Some(open) = self.open.get_mut(id) else { return };
        let State::Doing { step } = open.action.state else { return };
        let seconds = match step {
            Step::Stop => self.config.stop_timeout_seconds,
            Step::Start => self.config.start_timeout_seconds,
            Step::Isolate | Step::Release | Step::Ticket => self.config.node_timeout_seconds,
            Step::Check => self.config.check_timeout_seconds,
        };
        let timeout_us = (seconds * 1e6) as u64;
        open.phase = Phase::Ordered { deadline: now.after(timeout_us) };
        let action = open.action.clone();
        if let (Step::Stop, Deed::Restart { job, incarnation, .. }) = (step, &action.deed) {
            out.push(Output::Stopping { job: job.clone(), incarnation: *incarnation });
        }
        out.push(Output::Order(Box::new(Order {
            id: format!("{}-{}-{}", action.id.0, step.name(), action.attempt),
            action,
            step,
            grace_us: (self.config.stop_grace_seconds * 1e6) as u64,
            timeout_us,
        })));
    }

    fn step_done(
        &mut self,
        id: &ActionId,
        step: Step,
        detail: &str,
        facts: Option<&JobFacts>,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let Some(open) = self.open.get(id) else { return };
        let deed = open.action.deed.clone();
        match (step, &deed) {
            (Step::Stop, Deed::Restart { job, incarnation, .. }) => {
                out.push(Output::Stopped { job: job.clone(), incarnation: *incarnation });
            }
            (Step::Start, Deed::Restart { job, incarnation, .. }) => {
                let next = incarnation.saturating_add(1);
                // An actuator may say that it is done and have done nothing; a large job takes its time to appear.
                if facts.is_none_or(|facts| facts.incarnation < next) {
                    let deadline = now.after((self.config.appear_timeout_seconds * 1e6) as u64);
                    let text =
                        format!("job {} was started; waiting for its incarnation {next} to appear", job.0);
                    self.say_of(id, text, "step", now, out);
                    if let Some(open) = self.open.get_mut(id) {
                        open.phase = Phase::Awaited { deadline };
                    }
                    return;
                }
                let checkpoint = facts.and_then(|facts| facts.checkpoint);
                let how = super::proposals::suffix(&deed);
                let text = match checkpoint {
                    Some(i) => format!("job restarted{how} from checkpoint {i} (incarnation {next})"),
                    None => format!("job restarted{how} (incarnation {next}; no checkpoint was reported)"),
                };
                self.say_of(id, text, "done", now, out);
            }
            (Step::Isolate, deed) => {
                let nodes: Vec<NodeName> = deed.nodes().into_iter().cloned().collect();
                self.now_isolated(id, &nodes, detail, now, out);
            }
            (Step::Release, Deed::Release { node, .. }) => {
                self.now_released(id, &node.clone(), detail, now, out)
            }
            _ if !detail.is_empty() => self.say_of(id, detail.to_owned(), "step", now, out),
            _ => {}
        }
        self.go_to(id, after(&deed, step), now, out);
    }

    fn now_isolated(
        &mut self,
        id: &ActionId,
        nodes: &[NodeName],
        detail: &str,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let Some(action) = self.open.get(id).map(|open| open.action.clone()) else { return };
        for node in nodes {
            let record = self.nodes.entry(node.clone()).or_default();
            record.isolated = Some(Isolation { since: now, action: id.clone(), why: action.because.clone() });
            record.undone_by = None;
            record.probation_until = None;
            self.save_node(node, out);
            let how = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
            self.say_of(id, format!("{} is isolated{how}", node.0), "isolated", now, out);
            if self.config.hook.as_ref().is_some_and(|hook| hook.tickets) {
                let deed = Deed::Ticket { node: node.clone() };
                // Named after the isolation: a controller that isolates once more, because the last one was killed before it
                // wrote that the step was done, asks for no second repair.
                let ticket_id = self.new_id(&deed, action.planned);
                if self.open.contains_key(&ticket_id) || self.past.iter().any(|past| past.id == ticket_id) {
                    continue;
                }
                let ticket = Action {
                    id: ticket_id,
                    deed,
                    state: State::Planned,
                    planned: now,
                    attempt: 1,
                    // So that it does not end with the finding.
                    finding: None,
                    ..action.clone()
                };
                self.begin(ticket, format!("asking for the repair of {}", node.0), now, out);
            }
        }
    }

    fn now_released(
        &mut self,
        id: &ActionId,
        node: &NodeName,
        detail: &str,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let by = self.open.get(id).and_then(|open| open.action.by.clone());
        let record = self.nodes.entry(node.clone()).or_default();
        record.isolated = None;
        record.probation_until = Some(now.after((self.config.probation_seconds * 1e6) as u64));
        record.undone_by = by.filter(|_| !matches!(self.open.get(id), Some(open) if checked(&open.action)));
        self.save_node(node, out);
        let how = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        self.say_of(id, format!("{} is released and on probation{how}", node.0), "released", now, out);
    }

    fn attempt_failed(&mut self, id: &ActionId, why: &str, now: Timestamp, out: &mut Vec<Output>) {
        let Some(open) = self.open.get_mut(id) else { return };
        let State::Doing { step } = open.action.state else { return };
        let attempt = open.action.attempt;
        // What a check says does not change by asking again.
        if attempt >= self.config.attempts || step == Step::Check {
            let why = format!("{} failed {attempt} times, last: {why}", step.doing());
            let deed = open.action.deed.clone();
            if step == Step::Isolate && after(&deed, step).is_some() {
                // A job is not kept waiting for a scheduler that does not take its node away.
                self.say_of(id, format!("{why}; going on without that"), "step", now, out);
                return self.go_to(id, after(&deed, step), now, out);
            }
            return self.finish(id, State::Failed { why }, now, out);
        }
        open.action.attempt += 1;
        open.phase = Phase::Retry { at: now.after(RETRY_US) };
        let row = Write::json(journal::ACTIONS, journal::action_key(&open.action), &open.action);
        let text = format!("{} failed ({why}); trying again", step.doing());
        self.say_of(id, text, "step", now, out);
        self.persist(vec![row], out);
    }

    /// Ends an action.
    pub(super) fn finish(&mut self, id: &ActionId, state: State, now: Timestamp, out: &mut Vec<Output>) {
        let Some(open) = self.open.get_mut(id) else { return };
        open.action.state = state.clone();
        open.action.ended = Some(now);
        let deed = open.action.deed.clone();
        match &state {
            State::Failed { why } => {
                let text = match &deed {
                    Deed::Restart { job, .. } => {
                        out.extend(open.action.finding.clone().map(|finding| Output::Unanswered { finding }));
                        format!("restarting job {} failed: {why}; a person is needed", job.0)
                    }
                    deed => format!("could not {deed}: {why}; a person is needed"),
                };
                self.say_of(id, text, "failed", now, out);
            }
            State::Withdrawn { why } => {
                let text = format!("not going to {deed}: {why}");
                self.say_of(id, text, "withdrawn", now, out);
            }
            State::Rejected { by } => {
                self.say_of(id, format!("{by} said no to this: {deed}"), "rejected", now, out)
            }
            _ if deed.job().is_none() => self.say_of(id, format!("done: {deed}"), "done", now, out),
            _ => {}
        }
        let Some(Open { action, .. }) = self.open.remove(id) else { return };
        if let Deed::Restart { job, incarnation, .. } = &action.deed {
            let (known, history) = self.histories.entry(job.clone()).or_default();
            match state {
                State::Failed { .. } => history.failed_here = Some(now),
                State::Done => {
                    *known = incarnation.saturating_add(1);
                    history.failed_here = None;
                }
                _ => {}
            }
        }
        let mut rows = vec![Write::json(journal::ACTIONS, journal::action_key(&action), &action)];
        self.past.push_back(action);
        if self.past.len() > MAX_PAST
            && let Some(old) = self.past.pop_front()
        {
            rows.push(Write::remove(journal::ACTIONS, journal::action_key(&old)));
        }
        self.version += 1;
        self.persist(rows, out);
    }

    /// Says something about an action, and writes it into the audit trail.
    pub(super) fn say_of(
        &mut self,
        id: &ActionId,
        text: String,
        outcome: &'static str,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let Some(action) = self.open.get(id).map(|open| open.action.clone()) else { return };
        let noted = |entry: &AuditEntry| {
            entry.action.as_ref() == Some(id) && (entry.what.as_str(), &entry.text) == (outcome, &text)
        };
        // A step that is repeated, since the last controller was killed before it wrote that it was done, is no second deed.
        if outcome == "step" || !self.audit.iter().any(noted) {
            let by_person = matches!(outcome, "planned" | "approved" | "rejected");
            let who = action.by.clone().filter(|_| by_person).unwrap_or_else(|| POLICY.to_owned());
            let rows = self.note(AuditEntry {
                at: now,
                who,
                what: outcome.to_owned(),
                text: text.clone(),
                action: Some(id.clone()),
                finding: action.finding.clone(),
                job: action.job.clone(),
                nodes: action.deed.nodes().into_iter().cloned().collect(),
            });
            self.persist(rows, out);
        }
        let job = action.job.map_or_else(String::new, |job| job.0);
        out.push(Output::Said { finding: action.finding, job, text, outcome });
    }
}

/// The step that comes after one.
fn after(deed: &Deed, step: Step) -> Option<Step> {
    let steps = deed.steps();
    let at = steps.iter().position(|other| *other == step)?;
    steps.get(at + 1).copied()
}

/// Whether the action let the node's checks decide, and not only a person.
fn checked(action: &Action) -> bool {
    matches!(action.deed, Deed::Release { check: true, .. })
}
