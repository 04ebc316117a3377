//! Supervises the processes of a job's part on this node, so that the controller can stop and restart them.
//!
//! [`Supervisor`] is one task. It takes exits, commands, interrupts and the passing of time one at a time; nothing
//! it does waits long, a stop in particular is a state and not a sleep. Channels: exits and commands come in over bounded queues
//! (senders wait), reports go out over the agent's bounded queue.
//!
//! A group that fails is left as it is for a while: its frozen ranks are evidence, and the controller decides. Without a
//! controller, or when that one does nothing within the grace, the rest is ended and the agent ends with the job's exit code.
//! Before a controller's stop ends anything, evidence is saved. A group that stands by has no processes until the controller
//! gives it a part of the job.
//! A group is killed when its agent ends, except by SIGKILL: a job must survive the crash of its monitor.

mod checkpoint;
mod evidence;
mod group;
pub(crate) mod ledger;
mod members;
mod output;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use checkpoint::{Marker, parse_marker};
pub use evidence::EvidenceSettings;
pub use group::{Exited, Group, Place, SpawnError, Spec};
use ledger::{Ledger, Verdict};
use rustix::process::Signal;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{Instrument, Span, info, warn};

use crate::{
    checks::{self, CheckSettings},
    config::Supervise,
    recorders::{ExitStatus, Exits},
    report::{Captured, Command, CommandAction, GroupState, GroupStatus, Part, Report},
};

/// Time between two looks at the checkpoint marker, and at processes that are being ended.
const TICK: Duration = Duration::from_millis(100);

/// How long saving evidence may keep a job from being stopped.
const SAVING: Duration = Duration::from_secs(3);

/// How long the last lines of output are waited for: somebody outside the group may hold the pipe open.
const FLUSH: Duration = Duration::from_secs(1);

/// An ending that is under way.
#[derive(Debug)]
struct Ending {
    kill_at: Instant,
    /// Commands that wait for it.
    answers: Vec<String>,
    /// The agent ends afterwards, with this exit code.
    exit: Option<u8>,
}

/// What a supervisor begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// This incarnation of the job.
    Run(u32),
    /// Nothing: it waits for a part of the job.
    StandBy,
}

/// See the module.
pub struct Supervisor {
    spec: Spec,
    settings: Supervise,
    checks: CheckSettings,
    has_controller: bool,
    token: String,
    exits: Exits,
    reports: mpsc::Sender<Captured>,
    exited: (mpsc::Sender<Exited>, mpsc::Receiver<Exited>),
    group: Option<Group>,
    incarnation: u32,
    state: GroupState,
    detail: String,
    failure: Option<ExitStatus>,
    ending: Option<Ending>,
    /// When the agent gives up waiting for a restart.
    give_up: Option<Instant>,
    marker: Marker,
    reported: Instant,
    ledger: Ledger,
    /// Of commands that have no answer yet.
    spans: BTreeMap<String, Span>,
}

impl Supervisor {
    /// A supervisor whose group does not run yet. `token` must be new for each agent: it marks the group's processes.
    #[must_use]
    pub fn new(
        spec: Spec,
        settings: Supervise,
        checks: CheckSettings,
        has_controller: bool,
        token: String,
        exits: Exits,
        reports: mpsc::Sender<Captured>,
    ) -> Self {
        Self {
            marker: Marker::new(spec.checkpoint_marker.clone()),
            spec,
            settings,
            checks,
            has_controller,
            token,
            exits,
            reports,
            exited: mpsc::channel(64),
            group: None,
            incarnation: 0,
            state: GroupState::Running,
            detail: String::new(),
            failure: None,
            ending: None,
            give_up: None,
            reported: Instant::now(),
            ledger: Ledger::default(),
            spans: BTreeMap::new(),
        }
    }

    /// Starts the group and stays with it to its end. `interrupts` carries signals sent to the agent. Returns the exit
    /// code that the job has earned.
    ///
    /// # Errors
    /// The first start fails: why.
    pub async fn run(
        mut self,
        first: First,
        mut commands: mpsc::Receiver<Command>,
        mut interrupts: mpsc::Receiver<i32>,
    ) -> Result<u8, SpawnError> {
        self.marker.look(Instant::now());
        match first {
            First::Run(incarnation) => self.start(incarnation)?,
            First::StandBy => self.state = GroupState::Standby,
        }
        self.tell().await;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let give_up = self.give_up;
            tokio::select! {
                Some(exited) = self.exited.1.recv() => self.on_exit(exited).await,
                Some(command) = commands.recv() => self.on_command(command).await,
                Some(signal) = interrupts.recv() => self.on_interrupt(signal).await,
                _ = tick.tick() => self.on_tick().await,
                () = async { sleep_until(give_up.unwrap_or_else(Instant::now)).await }, if give_up.is_some() => {
                    self.on_give_up().await;
                }
            }
            if let Some(code) = self.done() {
                if let Some(group) = &mut self.group {
                    group.flush(FLUSH).await;
                }
                return Ok(code);
            }
        }
    }

    /// The exit code, once there is nothing left to wait for.
    fn done(&self) -> Option<u8> {
        match (&self.ending, self.state) {
            (Some(Ending { exit: Some(code), .. }), GroupState::Stopped) => Some(*code),
            (None, GroupState::Finished) => Some(0),
            _ => None,
        }
    }

    fn start(&mut self, incarnation: u32) -> Result<(), SpawnError> {
        // The old group, if any, is gone or is killed here.
        self.group = None;
        let started = Group::spawn(&self.spec, incarnation, &self.token, &self.exits, &self.exited.0)?;
        info!(job = %self.spec.job, incarnation, processes = started.running(), "the job's processes run");
        self.group = Some(started);
        self.incarnation = incarnation;
        self.state = GroupState::Running;
        self.detail = String::new();
        self.failure = None;
        self.ending = None;
        self.give_up = None;
        Ok(())
    }

    async fn on_exit(&mut self, exited: Exited) {
        let Some(group) = self.group.as_mut().filter(|group| group.incarnation == exited.incarnation) else {
            return;
        };
        group.note(exited.pid);
        let running = group.running();
        if self.state != GroupState::Running {
            return;
        }
        if exited.status.code != Some(0) {
            self.failure = Some(exited.status);
            self.state = GroupState::Failed;
            self.detail = describe(exited);
            warn!(job = %self.spec.job, incarnation = self.incarnation, running, "{}", self.detail);
            let grace = if self.has_controller { self.settings.restart_grace } else { Duration::ZERO };
            self.give_up = Some(Instant::now() + grace);
            self.tell().await;
        } else if running == 0 {
            self.state = GroupState::Finished;
            self.detail = "all processes ended with exit code 0".to_owned();
            info!(job = %self.spec.job, incarnation = self.incarnation, "the job has finished");
            self.tell().await;
        }
    }

    async fn on_command(&mut self, command: Command) {
        match self.ledger.enter(&command.id) {
            Verdict::New => {}
            Verdict::UnderWay => return,
            Verdict::Done { ok, detail } => return self.answer(command.id, ok, detail).await,
        }
        let span = command.span();
        self.spans.insert(command.id.clone(), span.clone());
        self.carry_out(command).instrument(span).await;
    }

    async fn carry_out(&mut self, command: Command) {
        info!(command = %command.id, action = ?command.action, "the controller commands");
        let job = match &command.action {
            CommandAction::StopGroup { job, .. } | CommandAction::StartGroup { job, .. } => job.clone(),
            CommandAction::CheckNode => {
                let span = self.spans.remove(&command.id).unwrap_or_else(Span::none);
                return checks::answer(command.id, self.checks.clone(), self.reports.clone(), span);
            }
        };
        if job != self.spec.job {
            let detail = format!("this agent runs job {:?}, not {job:?}", self.spec.job);
            return self.answer(command.id, false, detail).await;
        }
        match command.action {
            CommandAction::StopGroup { incarnation, grace, .. } => {
                self.on_stop(command.id, incarnation, grace).await
            }
            CommandAction::StartGroup { incarnation, part, .. } => {
                self.on_start(command.id, incarnation, part).await;
            }
            CommandAction::CheckNode => {}
        }
    }

    async fn on_stop(&mut self, id: String, incarnation: u32, grace: Duration) {
        let now = Instant::now();
        let answer = match (incarnation.cmp(&self.incarnation), self.state) {
            (std::cmp::Ordering::Less, _) => (true, format!("incarnation {} runs by now", self.incarnation)),
            (std::cmp::Ordering::Greater, GroupState::Standby) => (true, "this agent stands by".to_owned()),
            (std::cmp::Ordering::Greater, _) => (
                false,
                format!("incarnation {incarnation} was never started; {} is the last", self.incarnation),
            ),
            (_, GroupState::Stopped) => (true, "it was stopped already".to_owned()),
            (_, GroupState::Standby) => (true, "this agent stands by".to_owned()),
            (_, GroupState::Finished) => (true, "it has finished by itself".to_owned()),
            (_, GroupState::Running | GroupState::Failed | GroupState::Stopping) => {
                if self.state != GroupState::Stopping {
                    self.save_evidence().await;
                }
                // Somebody cares. What comes after the stop has a time of its own.
                self.give_up = None;
                let ending = self.end(now + grace, "stopped by the controller").await;
                ending.answers.push(id);
                return;
            }
        };
        self.answer(id, answer.0, answer.1).await;
    }

    /// Saves what a restart destroys. What cannot be saved in time is not worth waiting for.
    async fn save_evidence(&mut self) {
        let Some(group) = self.group.as_ref().filter(|_| self.settings.evidence.sets > 0) else { return };
        let variable =
            |name: &str| self.spec.environment.get(name).cloned().or_else(|| std::env::var_os(name));
        let request = evidence::Request {
            settings: self.settings.evidence.clone(),
            name: format!("{}-{}", evidence::file_name(&self.spec.job), self.incarnation),
            recorders: variable("C4_RECORDER_DIR").unwrap_or_default().into(),
            members: group.members(),
            ranks: self.spec.rank_list(),
            pipes: variable("TORCH_NCCL_DEBUG_INFO_PIPE_FILE").map(Into::into),
            dumps: variable("TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
                .unwrap_or_else(|| "/tmp/nccl_trace_rank_".into())
                .into(),
        };
        let saving = tokio::task::spawn_blocking(move || evidence::save(&request));
        match tokio::time::timeout(SAVING, saving).await {
            Ok(Ok(Ok(saved))) => {
                info!(path = %saved.path.display(), files = saved.files, bytes = saved.bytes, "evidence is saved");
                let (job, incarnation) = (self.spec.job.clone(), self.incarnation);
                self.say(Report::Evidence { job, incarnation, saved }).await;
            }
            Ok(Ok(Err(error))) => warn!(%error, "cannot save evidence"),
            Ok(Err(_)) | Err(_) => warn!("saving evidence takes too long: going on without"),
        }
    }

    async fn on_start(&mut self, id: String, incarnation: u32, part: Part) {
        let standing_by = self.state == GroupState::Standby;
        if incarnation <= self.incarnation && !(standing_by && matches!(part, Part::Assigned(_))) {
            let ok = incarnation == self.incarnation;
            let detail = format!("incarnation {} was started already", self.incarnation);
            return self.answer(id, ok, detail).await;
        }
        if self.ending.as_ref().is_some_and(|ending| ending.exit.is_some()) {
            return self.answer(id, false, "this agent is about to end".to_owned()).await;
        }
        let alive =
            self.state == GroupState::Stopping || self.group.as_ref().is_some_and(|group| !group.is_gone());
        if alive {
            let detail = format!("incarnation {} still runs; stop it first", self.incarnation);
            return self.answer(id, false, detail).await;
        }
        match part {
            Part::AsBefore if standing_by => {
                return self.answer(id, true, "this agent stands by".to_owned()).await;
            }
            Part::AsBefore => {}
            Part::StandBy => return self.stand_by(id, incarnation).await,
            Part::Assigned(assignment) => {
                let end = assignment.first_rank + assignment.ranks;
                self.spec.ranks = (assignment.ranks > 0).then(|| assignment.first_rank..=end - 1);
                self.spec.world_size = assignment.world_size;
                self.spec.place = Some(Place {
                    node_rank: assignment.node_rank,
                    nodes: assignment.nodes,
                    master: assignment.master,
                });
            }
        }
        match self.start(incarnation) {
            Ok(()) => {
                self.tell().await;
                self.answer(id, true, format!("incarnation {incarnation} runs")).await;
            }
            Err(error) => {
                warn!(%error, incarnation, "cannot restart the job");
                self.incarnation = incarnation;
                self.state = GroupState::Failed;
                self.detail = error.to_string();
                self.failure = Some(ExitStatus { code: Some(error.exit_code().into()), signal: None });
                self.give_up = Some(Instant::now() + self.settings.restart_grace);
                self.tell().await;
                self.answer(id, false, error.to_string()).await;
            }
        }
    }

    async fn stand_by(&mut self, id: String, incarnation: u32) {
        self.group = None;
        self.incarnation = incarnation;
        self.state = GroupState::Standby;
        self.detail = "another node has its part".to_owned();
        (self.failure, self.ending, self.give_up) = (None, None, None);
        self.spec.ranks = None;
        self.tell().await;
        self.answer(id, true, "this agent stands by".to_owned()).await;
    }

    /// The first interrupt ends the group with grace, the second at once.
    async fn on_interrupt(&mut self, signal: i32) {
        let now = Instant::now();
        let again = self.ending.as_ref().is_some_and(|ending| ending.exit.is_some());
        let kill_at = if again { now } else { now + self.settings.stop_grace };
        let code = exit_code(ExitStatus { code: None, signal: Some(signal) });
        if self.state == GroupState::Standby {
            self.state = GroupState::Stopped;
        }
        self.end(kill_at, "the agent was told to end").await.exit = Some(code);
    }

    async fn on_give_up(&mut self) {
        self.give_up = None;
        let code = exit_code(self.failure.unwrap_or(ExitStatus { code: None, signal: Some(15) }));
        let kill_at = Instant::now() + self.settings.stop_grace;
        self.end(kill_at, "nobody restarted the job").await.exit = Some(code);
    }

    /// Begins to end the group, or hurries an end that is under way. What is told comes before the first signal, so that
    /// what dies from now on accuses nobody.
    async fn end(&mut self, kill_at: Instant, why: &str) -> &mut Ending {
        let fresh = matches!(self.state, GroupState::Running | GroupState::Failed);
        if fresh {
            self.state = GroupState::Stopping;
            self.detail = match self.failure {
                Some(_) => format!("{}; {why}", self.detail),
                None => why.to_owned(),
            };
            info!(job = %self.spec.job, incarnation = self.incarnation, "{}", self.detail);
            self.tell().await;
            if let Some(group) = &self.group {
                group.terminate();
            }
        }
        let ending = self.ending.get_or_insert_with(|| Ending { kill_at, answers: Vec::new(), exit: None });
        ending.kill_at = ending.kill_at.min(kill_at);
        ending
    }

    async fn on_tick(&mut self) {
        let now = Instant::now();
        let news = self.marker.look(now);
        if self.state == GroupState::Stopping {
            self.go_on_ending(now).await;
        } else if news || now.saturating_duration_since(self.reported) >= self.settings.report_interval {
            self.tell().await;
        }
    }

    async fn go_on_ending(&mut self, now: Instant) {
        let gone = self.group.as_ref().is_none_or(Group::is_gone);
        let Some(ending) = &mut self.ending else { return };
        if !gone {
            if now >= ending.kill_at
                && let Some(group) = &self.group
            {
                group.signal(Signal::KILL);
            }
            return;
        }
        let answers = std::mem::take(&mut ending.answers);
        let exit = ending.exit;
        if exit.is_none() {
            self.ending = None;
            self.give_up = Some(now + self.settings.restart_grace);
        }
        self.state = GroupState::Stopped;
        self.tell().await;
        for id in answers {
            self.answer(id, true, "every process has ended".to_owned()).await;
        }
    }

    async fn tell(&mut self) {
        let now = Instant::now();
        self.reported = now;
        let status = GroupStatus {
            job: self.spec.job.clone(),
            incarnation: self.incarnation,
            state: self.state,
            ranks: self.spec.rank_list(),
            world_size: self.spec.world_size,
            detail: self.detail.clone(),
            checkpoint: self.marker.newest(now),
            least_world_size: self.spec.least_world_size,
            opted_out: self.spec.opted_out.clone(),
        };
        self.say(Report::Group(status)).await;
    }

    async fn answer(&mut self, command_id: String, ok: bool, detail: String) {
        self.ledger.settle(&command_id, ok, &detail);
        if let Some(span) = self.spans.remove(&command_id) {
            span.in_scope(|| info!(ok, "the answer: {detail}"));
        }
        self.say(Report::CommandResult { command_id, ok, detail }).await;
    }

    async fn say(&self, report: Report) {
        // Nobody listens any more only when the agent is ending.
        let _ = self.reports.send(Captured::now(report)).await;
    }
}

fn describe(exited: Exited) -> String {
    let who = match exited.rank {
        Some(rank) => format!("rank {rank} (pid {})", exited.pid),
        None => format!("the job's process (pid {})", exited.pid),
    };
    match exited.status {
        ExitStatus { signal: Some(signal), .. } => format!("{who} was ended by signal {signal}"),
        ExitStatus { code: Some(code), .. } => format!("{who} ended with exit code {code}"),
        ExitStatus { .. } => format!("{who} ended, nobody knows how"),
    }
}

/// Exit code of a process as shells give it: its own, or 128 and the signal.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code.or(status.signal.map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
