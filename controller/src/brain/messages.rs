//! What agents say.

use c4_detect::observation::{NodeName, Observation, ProcessState, Timestamp, Window};

use super::{Brain, Effect};
use crate::{
    convert::{Body, GroupReport, GroupState, Hello, Incoming},
    metrics::INVALID,
    nodes::{Sequence, SessionKey, StreamId},
    registry::{Announced, Progress, Refusal},
};

/// A window this old was kept for want of a controller, or was held up on its way: the moment it was taken counts.
const LATE_US: u64 = 10_000;

impl Brain {
    pub(super) fn opened(&mut self, stream: StreamId, hello: Hello, now: Timestamp) {
        let key = SessionKey { node: hello.node.clone(), session: hello.session.clone() };
        let was_in_sight = self.nodes.in_sight(&hello.node);
        let opened = self.nodes.open(stream, &hello, now);
        self.groups.set_stream(&key, Some(stream));
        if let Some(old) = opened.replaced {
            self.effects.push(Effect::Close(old, "replaced"));
        }
        if !was_in_sight {
            self.say("node", "", format!("{} is in sight (agent {})", key.node.0, hello.agent_version), now);
        }
        self.missing(&key.node, opened.missing, now);
        self.observe(Observation::NodeSeen { node: hello.node, nic_class: hello.nic_class }, now);
        self.hear(&key.node, now);
        self.effects.push(Effect::Taken(stream, opened.taken));
        if let Some(paths) = &mut self.paths {
            paths.connected(&key.node, now);
        }
        self.plan(now);
    }

    pub(super) fn message(&mut self, stream: StreamId, mut message: Incoming, now: Timestamp) {
        message.delayed(self.nodes.delay(stream, message.sent_us, now));
        let Incoming { sequence, age_us, body, .. } = message;
        let Some(node) = self.arrived(stream, sequence, now) else { return };
        let label = body.label();
        self.metrics.message_age.observe(age_us as f64 / 1e6);
        match self.body(stream, &node, age_us, body, now) {
            Ok(()) => self.metrics.messages.with_label_values(&[label]).inc(),
            Err(refusal) => self.refuse(stream, sequence, refusal.label(), refusal.to_string(), now),
        }
        self.told(stream, &node, now);
        self.effects.push(Effect::Taken(stream, self.nodes.taken(stream)));
    }

    /// A message was looked at: with it, all may be told that was kept.
    fn told(&mut self, stream: StreamId, node: &NodeName, now: Timestamp) {
        self.nodes.told(stream);
        self.hear(node, now);
    }

    /// Tells the detector how a node is heard, if that has changed.
    pub(super) fn hear(&mut self, node: &NodeName, now: Timestamp) {
        if let Some(hearing) = self.nodes.news_of(node) {
            self.observe(Observation::NodeHeard { node: node.clone(), hearing }, now);
        }
    }

    pub(super) fn invalid(&mut self, stream: StreamId, sequence: u64, reason: &str, now: Timestamp) {
        if let Some(node) = self.arrived(stream, sequence, now) {
            self.refuse(stream, sequence, INVALID, reason.to_owned(), now);
            self.told(stream, &node, now);
            self.effects.push(Effect::Taken(stream, self.nodes.taken(stream)));
        }
    }

    /// Looks at a message's number; returns the node it comes from if it is to be looked at further.
    fn arrived(&mut self, stream: StreamId, sequence: u64, now: Timestamp) -> Option<NodeName> {
        let node = self.nodes.session(stream)?.node.clone();
        match self.nodes.sequence(stream, sequence, now) {
            Sequence::Stale => None,
            Sequence::Duplicate => {
                self.metrics.duplicates.inc();
                // The agent has missed our acknowledgement; it gets it again.
                self.effects.push(Effect::Taken(stream, self.nodes.taken(stream)));
                None
            }
            Sequence::Take { missing } => {
                self.missing(&node, missing, now);
                Some(node)
            }
        }
    }

    fn missing(&mut self, node: &NodeName, messages: u64, now: Timestamp) {
        if messages > 0 {
            self.metrics.missing.inc_by(messages);
            self.say("node", "", format!("{messages} messages of {} never came", node.0), now);
        }
    }

    fn refuse(&mut self, stream: StreamId, sequence: u64, label: &str, reason: String, now: Timestamp) {
        self.metrics.refused.with_label_values(&[label]).inc();
        let node = self.nodes.session(stream).map_or_else(String::new, |key| key.node.0.clone());
        tracing::warn!(node, sequence, "message refused: {reason}");
        let refused = self.nodes.refused(stream);
        if refused == 1 {
            // Once for each stream: an agent that is wrong all the time must not flood the log of events.
            self.say("node", "", format!("a message of {node} was refused: {reason}"), now);
        }
        self.effects.push(Effect::Refuse(stream, sequence, reason));
        if refused >= self.config.ingest.max_refused {
            self.say(
                "node",
                "",
                format!("{refused} messages of {node} were refused; its stream is closed"),
                now,
            );
            self.effects.push(Effect::Close(stream, "refused"));
        }
    }

    fn body(
        &mut self,
        stream: StreamId,
        node: &NodeName,
        age_us: u64,
        body: Body,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match body {
            Body::ProcessStarted(info, nics) => {
                let announced = self.registry.announce(&info)?;
                if announced == Announced::Gone {
                    return Ok(());
                }
                if matches!(announced, Announced::NewRun | Announced::NewProcess) {
                    self.goes_on(&info.job, now);
                }
                if announced == Announced::NewRun {
                    let (job, incarnation) = (info.job.clone(), info.incarnation);
                    self.say("job", &job.0, format!("incarnation {incarnation} began on {}", node.0), now);
                    // If nobody told when the one before had stopped, it has by now.
                    if let Some(before) = incarnation.checked_sub(1) {
                        self.ledger.stopped(&job, before, now);
                    }
                }
                self.ledger.seen(&info.job, now);
                if let Some(ranks) = info.world_size {
                    self.ledger.sized(&info.job, ranks);
                }
                if let Some(paths) = &mut self.paths {
                    paths.started(info.process, nics);
                }
                self.observe(Observation::ProcessStarted(info), now);
            }
            Body::CommunicatorJoined(member) => {
                if self.registry.join(&member, node)? {
                    self.observe(Observation::CommunicatorJoined(member), now);
                }
            }
            Body::Window(window) => self.window(window, node, age_us, now)?,
            Body::Windows(windows) => {
                // One that is refused does not take the others with it.
                let taken = windows.into_iter().map(|window| self.window(window, node, age_us, now));
                taken.fold(Ok(()), Result::and)?;
            }
            Body::ProcessEnded(end) => {
                if self.registry.end(&end, node, now)? {
                    if let Some(paths) = &mut self.paths {
                        paths.ended(end.process, now);
                    }
                    if let Some(job) = self.registry.job_of(end.process) {
                        self.ledger.seen(job, now);
                    }
                    self.observe(Observation::ProcessEnded(end), now);
                }
            }
            Body::Health(event) => {
                let verb = if event.cleared { "cleared" } else { "reported" };
                self.say("node", "", format!("{} {verb} {}: {}", node.0, event.code, event.detail), now);
                self.observe(Observation::Health(event), now);
            }
            Body::Group(report) => self.group(stream, report, now.before(age_us), now),
            Body::CommandResult(result) => {
                if let Some(key) = self.nodes.session(stream).cloned() {
                    self.groups.result(&key, result);
                }
            }
            Body::Traffic(peers) => self.traffic(&peers, node, age_us, now)?,
            Body::Paths(report) => self.path_report(*report, node, now),
            Body::Trains(trains) => {
                if let Some(paths) = &mut self.paths {
                    paths.measured(node, &trains, now.before(age_us));
                }
            }
            Body::Explored(explored) => {
                if let Some(paths) = &mut self.paths {
                    paths.explored(node, *explored, now);
                }
                self.plan(now);
            }
            Body::Evidence(evidence) => {
                let text = format!(
                    "{} files of incarnation {} were saved on {} in {}",
                    evidence.files, evidence.incarnation, node.0, evidence.path
                );
                self.say("job", &evidence.job.0, text, now);
                self.keep_evidence(node, evidence, now);
            }
            Body::Wish(Some(why)) => {
                if self.wishes.insert(node.clone(), why.clone()).as_ref() != Some(&why) {
                    self.say("node", "", format!("{} is to be left alone: {why}", node.0), now);
                }
            }
            Body::Wish(None) => {
                if self.wishes.remove(node).is_some() {
                    self.say("node", "", format!("{} need not be left alone any longer", node.0), now);
                }
            }
            Body::SpoolLoss(dropped) => {
                self.metrics.spool_lost.inc_by(dropped);
                self.nodes.dropped(node, dropped);
                self.say(
                    "node",
                    "",
                    format!("{} dropped {dropped} messages: its spool was full", node.0),
                    now,
                );
            }
        }
        Ok(())
    }

    fn window(
        &mut self,
        window: Window,
        node: &NodeName,
        age_us: u64,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let progress = match self.registry.window(&window, node) {
            // The agent has begun anew, and shows what it has found of one that has ended; that is known.
            Err(Refusal::Ended { .. }) if window.state == ProcessState::Zombie => return Ok(()),
            progress => progress?,
        };
        let observation = if age_us < LATE_US {
            Observation::Window(window)
        } else {
            Observation::LateWindow { window, ago_us: age_us }
        };
        self.observe(observation, now);
        if let Some(Progress { job, incarnation }) = progress {
            let text = format!("all ranks of incarnation {incarnation} make progress");
            self.say("job", &job.0, text, now);
            self.ledger.progress(&job, incarnation, now);
            self.keep_ledger(&job);
        }
        Ok(())
    }

    fn group(&mut self, stream: StreamId, report: GroupReport, captured: Timestamp, now: Timestamp) {
        let Some(key) = self.nodes.session(stream).cloned() else { return };
        let job = report.job.clone();
        let known = self
            .groups
            .of(&job)
            .find(|(other, _)| **other == key)
            .map(|(_, group)| (group.report.state, group.report.incarnation));
        if known != Some((report.state, report.incarnation)) {
            let detail =
                if report.detail.is_empty() { String::new() } else { format!(" ({})", report.detail) };
            let state = format!("{:?}", report.state).to_lowercase();
            let text = format!(
                "process group on {}, incarnation {}: {state}{detail}",
                key.node.0, report.incarnation
            );
            self.say("job", &job.0, text, now);
        }
        // Whoever told the agent to end, it was on purpose: what dies of it accuses nobody. A group that had failed by
        // itself stays accused when its agent gives up.
        let (incarnation, stopping) = (report.incarnation, report.state == GroupState::Stopping);
        if stopping && known == Some((GroupState::Running, incarnation)) && self.steer.running(&job).is_none()
        {
            self.observe(Observation::JobStopping { job: job.clone(), incarnation }, now);
        }
        if let Some(checkpoint) = self.groups.report(&key, stream, report, captured) {
            self.ledger.checkpoint(&job, checkpoint);
            self.keep_ledger(&job);
        }
    }
}
