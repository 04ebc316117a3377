//! What operators ask for. Every command can be tried first: a dry run says what would happen, and changes nothing.

use c4_detect::observation::{NodeName, Timestamp};
use thiserror::Error;

use super::{Output, Phase, Steer, World};
use crate::{
    config::Mode,
    steer::{
        action::{Action, ActionId, Deed, State},
        journal::{self, Pause},
        modes::{Scope, Setting},
        rails,
    },
    store::Write,
};

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Says yes to a proposed action.
    Approve(ActionId),
    /// Says no to it.
    Reject(ActionId),
    /// Stops all actions.
    Pause {
        /// Why.
        why: String,
    },
    /// Lets them go on.
    Resume,
    /// Sets a mode, or ends one that was set.
    SetMode {
        /// For what.
        scope: Scope,
        /// Which; none: as configured again.
        mode: Option<Mode>,
        /// When it ends by itself.
        until: Option<Timestamp>,
    },
    /// Keeps new work away from a node.
    Isolate {
        /// The node.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// Gives it back.
    Release {
        /// The node.
        node: NodeName,
        /// Whether its checks have to pass first.
        check: bool,
    },
}

/// A command makes no sense as things are.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be done now.
    #[error("{0}")]
    Not(String),
}

/// Who asks and when, and whether only to hear what would happen.
#[derive(Clone, Copy)]
struct Asker<'a> {
    by: &'a str,
    dry_run: bool,
    now: Timestamp,
}

impl Steer {
    /// Carries a command out, or says what would happen. Returns a sentence.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn command(
        &mut self,
        command: &Command,
        by: &str,
        dry_run: bool,
        world: &dyn World,
        now: Timestamp,
    ) -> (Result<String, Refused>, Vec<Output>) {
        let mut out = Vec::new();
        let asker = Asker { by, dry_run, now };
        let result = match command {
            Command::Approve(id) => self.approve(id, asker, world, &mut out),
            Command::Reject(id) => self.reject(id, asker, &mut out),
            Command::Pause { why } => self.pause(why, asker, &mut out),
            Command::Resume => self.resume_actions(asker, &mut out),
            Command::SetMode { scope, mode, until } => self.set_mode(scope, *mode, *until, asker, &mut out),
            Command::Isolate { node, why } => self.isolate(node, why, asker, &mut out),
            Command::Release { node, check } => self.release(node, *check, asker, &mut out),
        };
        (result, out)
    }

    fn proposed(&self, id: &ActionId) -> Result<&Action, Refused> {
        if let Some(open) = self.open.get(id) {
            return match open.action.state {
                State::Proposed => Ok(&open.action),
                _ => Err(Refused::Not(format!("action {} is {} already", id.0, open.action.state.name()))),
            };
        }
        let past = self.past.iter().find(|action| action.id == *id);
        Err(past.map_or_else(
            || Refused::Unknown(format!("no action is called {:?}", id.0)),
            |action| Refused::Not(format!("action {} is {}", id.0, action.state.name())),
        ))
    }

    fn approve(
        &mut self,
        id: &ActionId,
        asker: Asker<'_>,
        world: &dyn World,
        out: &mut Vec<Output>,
    ) -> Result<String, Refused> {
        let Asker { by, dry_run, now } = asker;
        let action = self.proposed(id)?;
        let deed = action.deed.clone();
        if let Some(hold) = rails::storm(&self.weather(now)) {
            return Err(Refused::Not(format!("not going to {deed}: {hold}")));
        }
        if let Deed::Restart { job, incarnation, .. } = &deed {
            let facts = world.job(job);
            if facts.is_none_or(|facts| facts.incarnation != *incarnation) {
                return Err(Refused::Not(format!("incarnation {incarnation} of job {} is no more", job.0)));
            }
            if let Some(other) = self.running(job) {
                return Err(Refused::Not(format!(
                    "job {} is being restarted already ({})",
                    job.0, other.id.0
                )));
            }
        }
        if dry_run {
            return Ok(format!("would {deed}"));
        }
        if let Some(open) = self.open.get_mut(id) {
            open.action.by = Some(by.to_owned());
            open.action.state = State::Planned;
        }
        self.say_of(id, format!("{by} said yes to this: {deed}"), "approved", now, out);
        self.save(id, now, out);
        Ok(format!("going to {deed}"))
    }

    fn reject(&mut self, id: &ActionId, asker: Asker<'_>, out: &mut Vec<Output>) -> Result<String, Refused> {
        let Asker { by, dry_run, now } = asker;
        let action = self.proposed(id)?;
        let (deed, finding) = (action.deed.clone(), action.finding.clone());
        if dry_run {
            return Ok(format!("would not {deed}, and not propose it for this finding again"));
        }
        if let Some(open) = self.open.get_mut(id) {
            open.action.by = Some(by.to_owned());
        }
        self.rejected.extend(finding.map(|finding| (finding, by.to_owned())));
        self.finish(id, State::Rejected { by: by.to_owned() }, now, out);
        Ok(format!("not going to {deed}"))
    }

    fn pause(&mut self, why: &str, asker: Asker<'_>, out: &mut Vec<Output>) -> Result<String, Refused> {
        let Asker { by, dry_run, now } = asker;
        if let Some(pause) = &self.pause {
            return Ok(format!("all actions are paused already, by {}", pause.by));
        }
        let running = self.open.values().filter(|open| open.action.state != State::Proposed).count();
        if dry_run {
            return Ok(format!("would stop {running} actions where they are, and begin no other"));
        }
        let pause = Pause { by: by.to_owned(), why: why.to_owned(), since: now };
        self.persist(vec![Write::json(journal::SETTINGS, journal::PAUSE, &pause)], out);
        self.pause = Some(pause);
        out.push(Output::Halt);
        for open in self.open.values_mut() {
            if matches!(open.phase, Phase::Ordered { .. } | Phase::Retry { .. }) {
                open.phase = Phase::Suspended;
            }
        }
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        self.announce(None, "", format!("{by} paused all actions{because}"), "paused", by, now, out);
        Ok(format!("all actions are paused; {running} are left where they are"))
    }

    fn resume_actions(&mut self, asker: Asker<'_>, out: &mut Vec<Output>) -> Result<String, Refused> {
        let Asker { by, dry_run, now } = asker;
        if self.pause.is_none() {
            return Ok("nothing is paused".into());
        }
        let suspended = |phase: Phase| phase == Phase::Suspended;
        let ids: Vec<ActionId> = self
            .open
            .values()
            .filter(|open| suspended(open.phase))
            .map(|open| open.action.id.clone())
            .collect();
        if dry_run {
            return Ok(format!("would go on with {} actions, and begin others", ids.len()));
        }
        self.pause = None;
        self.persist(vec![Write::remove(journal::SETTINGS, journal::PAUSE)], out);
        self.announce(None, "", format!("{by} resumed all actions"), "resumed", by, now, out);
        for id in &ids {
            self.try_again(id, now, out);
        }
        Ok(format!("going on with {} actions", ids.len()))
    }

    fn set_mode(
        &mut self,
        scope: &Scope,
        mode: Option<Mode>,
        until: Option<Timestamp>,
        asker: Asker<'_>,
        out: &mut Vec<Output>,
    ) -> Result<String, Refused> {
        let Asker { by, dry_run, now } = asker;
        let words = scope.words();
        if until.is_some_and(|until| until <= now) {
            return Err(Refused::Not("the time it is to end at is over".into()));
        }
        let text = match mode {
            Some(mode) => format!("mode {} for {words}", mode.name()),
            None => format!("the configured mode for {words}"),
        };
        if dry_run {
            return Ok(format!("would set {text}"));
        }
        match mode {
            Some(mode) => {
                self.modes.set(Setting { scope: scope.clone(), mode, by: by.to_owned(), until });
            }
            None if !self.modes.unset(scope) => {
                return Err(Refused::Unknown(format!("no mode was set for {words}")));
            }
            None => {}
        }
        // Somebody has looked: what failed may be tried again.
        if let Scope::Job(job) = scope
            && let Some((_, history)) = self.histories.get_mut(job)
        {
            history.failed_here = None;
        }
        self.said.clear();
        self.save_modes(out);
        self.announce(None, "", format!("{by} set {text}"), "mode", by, now, out);
        Ok(format!("set {text}"))
    }

    pub(super) fn save_modes(&mut self, out: &mut Vec<Output>) {
        let settings: Vec<Setting> = self.modes.settings().cloned().collect();
        self.persist(vec![Write::json(journal::SETTINGS, journal::MODES, &settings)], out);
    }

    fn isolate(
        &mut self,
        node: &NodeName,
        why: &str,
        asker: Asker<'_>,
        out: &mut Vec<Output>,
    ) -> Result<String, Refused> {
        if self.is_isolated(node) {
            return Err(Refused::Not(format!("{} is isolated already", node.0)));
        }
        self.by_person(Deed::Isolate { node: node.clone() }, why, asker, out)
    }

    fn release(
        &mut self,
        node: &NodeName,
        check: bool,
        asker: Asker<'_>,
        out: &mut Vec<Output>,
    ) -> Result<String, Refused> {
        if !self.is_isolated(node) {
            return Err(Refused::Not(format!("{} is not isolated by C4", node.0)));
        }
        self.by_person(Deed::Release { node: node.clone(), check }, "", asker, out)
    }

    fn by_person(
        &mut self,
        deed: Deed,
        why: &str,
        asker: Asker<'_>,
        out: &mut Vec<Output>,
    ) -> Result<String, Refused> {
        let Asker { by, dry_run, now } = asker;
        if let Some(pause) = &self.pause {
            return Err(Refused::Not(format!("all actions are paused by {}: resume them first", pause.by)));
        }
        let nodes: Vec<NodeName> = deed.nodes().into_iter().cloned().collect();
        let same = |action: &Action| {
            action.deed.job().is_none() && action.deed.nodes().iter().any(|n| nodes.contains(n))
        };
        if let Some(open) =
            self.open.values().find(|open| open.action.state != State::Proposed && same(&open.action))
        {
            return Err(Refused::Not(format!(
                "action {} is still {}",
                open.action.id.0,
                open.action.state.name()
            )));
        }
        if dry_run {
            return Ok(format!("would {deed}"));
        }
        let action = Action {
            id: self.new_id(&deed, now),
            deed,
            job: None,
            finding: None,
            kind: None,
            blamed: None,
            because: if why.is_empty() { format!("{by} asked for it") } else { why.to_owned() },
            by: Some(by.to_owned()),
            planned: now,
            ended: None,
            state: State::Planned,
            attempt: 1,
        };
        let text = format!("{by} asked to {}", action.deed);
        let said = format!("going to {} (action {})", action.deed, action.id.0);
        self.begin(action, text, now, out);
        Ok(said)
    }
}
