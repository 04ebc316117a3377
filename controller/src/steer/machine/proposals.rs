//! How a finding becomes an action that is proposed or planned, or is held back with a reason.

use std::collections::{BTreeSet, HashSet};

use c4_detect::{
    finding::{Finding, FindingId},
    observation::{JobId, NodeName, Timestamp},
};

use super::{HOUR_US, Open, Output, POLICY, Steer};
use crate::{
    config::Mode,
    steer::{
        action::{Action, ActionId, Blamed, Deed, State},
        breaker::ClusterFacts,
        kubernetes,
        ladder::Rung,
        placement::{self, Place},
        rails::{self, History, Hold, JobFacts, Means, Weather},
    },
};

/// What could be done about a finding.
struct Proposal {
    deed: Deed,
    blamed: Option<Blamed>,
    /// Why it is less than the ladder asks for; may be empty.
    note: String,
    /// Whether an operator has to say yes.
    ask: bool,
}

impl Steer {
    pub(super) fn consider(
        &mut self,
        finding: &Finding,
        facts: &JobFacts,
        cluster: &ClusterFacts,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        self.notice_run(&finding.job, facts.incarnation);
        if self.open.values().any(|open| open.action.finding.as_ref() == Some(&finding.id)) {
            return;
        }
        match self.propose(finding, facts, cluster, now) {
            Ok(proposal) => self.take_up(finding, proposal, now, out),
            Err(held) => self.hold(finding, facts, held.0, held.1, now, out),
        }
    }

    /// What could be done about a finding, or why nothing is done; with what would have been done otherwise.
    fn propose(
        &self,
        finding: &Finding,
        facts: &JobFacts,
        cluster: &ClusterFacts,
        now: Timestamp,
    ) -> Result<Proposal, Box<(Deed, Hold)>> {
        let in_place = Deed::Restart {
            job: finding.job.clone(),
            incarnation: finding.incarnation,
            without: BTreeSet::new(),
            isolate: false,
            ran_on: match &facts.means {
                Ok(Means::Agents(layout)) => layout.places.iter().map(|place| place.node.clone()).collect(),
                _ => BTreeSet::new(),
            },
            placement: Vec::new(),
        };
        let blamed = self.blamed(finding);
        let rung = blamed.as_ref().map_or(Rung::InPlace, |blamed| self.rung(finding, &blamed.node, now));
        if !self.config.restart_on.contains(&finding.kind) {
            return match blamed {
                Some(blamed) if rung == Rung::Isolate => {
                    self.propose_isolation(finding, blamed, cluster, now)
                }
                _ => Err(Box::new((in_place, Hold::Kind))),
            };
        }
        if self.running(&finding.job).is_some() {
            return Err(Box::new((in_place, Hold::Busy)));
        }
        let history = self.histories.get(&finding.job).map_or_else(History::default, |(_, history)| *history);
        let weather = self.weather(now);
        if let Some(hold) = rails::check(finding, facts, &history, &weather, &self.config, now) {
            return Err(Box::new((in_place, hold)));
        }
        if let Some(by) = self.rejected.get(&finding.id) {
            return Err(Box::new((in_place, Hold::Rejected(by.clone()))));
        }
        if let Some(how) = self.ladder.follows_job(finding, self.config.job_fault_nodes) {
            return Err(Box::new((in_place, Hold::JobsOwn(how))));
        }
        let mode = self.modes.effective(Some(finding.kind), Some(&finding.job), None);
        let mut proposal =
            Proposal { deed: in_place, blamed, note: String::new(), ask: mode == Mode::Approve };
        if let Some(blamed) = &proposal.blamed
            && rung > Rung::InPlace
        {
            let node_mode = self.modes.effective(Some(finding.kind), Some(&finding.job), Some(&blamed.node));
            match self.leave_out(&blamed.node, rung, facts, cluster, now) {
                Ok(placement) if node_mode >= mode => {
                    let Deed::Restart { without, isolate, placement: places, .. } = &mut proposal.deed else {
                        return Err(Box::new((proposal.deed, Hold::Busy)));
                    };
                    without.insert(blamed.node.clone());
                    *isolate = rung == Rung::Isolate;
                    *places = placement;
                }
                Ok(_) => proposal.note = format!("{} stays: its mode is {}", blamed.node.0, node_mode.name()),
                Err(why) => proposal.note = format!("{} stays: {why}", blamed.node.0),
            }
        }
        // Whoever says yes to a restart has seen how many there were.
        let hold = match mode {
            Mode::Auto => {
                rails::restarts_spent(&self.config, cluster.jobs, &self.restarted(now), &finding.job)
            }
            mode => rails::mode(mode),
        };
        match hold {
            Some(hold) => Err(Box::new((proposal.deed, hold))),
            None => Ok(proposal),
        }
    }

    /// The jobs of restarts that were begun within the last hour or are about to be, unless a person said yes to them.
    pub(super) fn restarted(&self, now: Timestamp) -> Vec<&JobId> {
        let open = self.open.values().map(|open| &open.action);
        let open = open.filter(|action| action.state != State::Proposed);
        let recent = self.past.iter().filter(|action| now.micros_since(action.planned) < HOUR_US);
        let recent = recent.filter(|action| action.state.began());
        let unasked = open.chain(recent).filter(|action| action.by.is_none());
        unasked.filter_map(|action| action.deed.job()).collect()
    }

    fn propose_isolation(
        &self,
        finding: &Finding,
        blamed: Blamed,
        cluster: &ClusterFacts,
        now: Timestamp,
    ) -> Result<Proposal, Box<(Deed, Hold)>> {
        let node = blamed.node.clone();
        let deed = Deed::Isolate { node: node.clone() };
        let mode = self.modes.effective(Some(finding.kind), Some(&finding.job), Some(&node));
        let busy = self.is_isolated(&node) || self.taken_by_open(&node);
        let hold = if busy { Some(Hold::Busy) } else { rails::storm(&self.weather(now)) };
        let hold = hold.or_else(|| self.node_rail(&node, cluster, now).map(Hold::Node));
        let hold = hold.or_else(|| self.rejected.get(&finding.id).cloned().map(Hold::Rejected));
        let hold = hold.or_else(|| self.has_failed(finding, &deed).then_some(Hold::NodeFailed));
        match hold.or_else(|| rails::mode(mode)) {
            Some(hold) => Err(Box::new((deed, hold))),
            None => {
                Ok(Proposal { deed, blamed: Some(blamed), note: String::new(), ask: mode == Mode::Approve })
            }
        }
    }

    /// Whether this was tried for the same finding, as often as it may be, and failed.
    fn has_failed(&self, finding: &Finding, deed: &Deed) -> bool {
        let of = |action: &&Action| action.finding.as_ref() == Some(&finding.id) && action.deed == *deed;
        self.past.iter().filter(of).any(|action| matches!(action.state, State::Failed { .. }))
    }

    fn rung(&self, finding: &Finding, node: &NodeName, now: Timestamp) -> Rung {
        let probation = self.nodes.get(node).and_then(|record| record.probation_until);
        self.ladder.rung(finding, node, probation.is_some_and(|until| now < until))
    }

    /// Where a job runs without a node, or why that cannot be. A node that is left out without a scheduler's help is
    /// out of this job only.
    fn leave_out(
        &self,
        node: &NodeName,
        rung: Rung,
        facts: &JobFacts,
        cluster: &ClusterFacts,
        now: Timestamp,
    ) -> Result<Vec<Place>, String> {
        if let Some(why) = self.node_rail(node, cluster, now) {
            return Err(why);
        }
        match &facts.means {
            Ok(Means::Agents(layout)) => {
                let unfit =
                    |spare: &NodeName| self.is_isolated(spare) || cluster.opted_out.contains_key(spare);
                placement::place(layout, &BTreeSet::from([node.clone()]), unfit)
            }
            Ok(Means::Scheduler(name)) if rung < Rung::Isolate && *name == kubernetes::NAME => {
                Err("Kubernetes keeps a job from a node only by cordoning it".into())
            }
            Ok(Means::Scheduler(_)) => Ok(Vec::new()),
            Err(why) => Err(why.clone()),
        }
    }

    /// Why a node may not be taken away.
    fn node_rail(&self, node: &NodeName, cluster: &ClusterFacts, now: Timestamp) -> Option<String> {
        if let Some(why) = cluster.opted_out.get(node) {
            return Some(format!("it is to be left alone ({why})"));
        }
        if let Some(until) = rails::maintenance(&self.config, None, Some(node), now) {
            return Some(format!("it is in maintenance until {until}"));
        }
        if let Some(by) = self.nodes.get(node).and_then(|record| record.undone_by.as_ref()) {
            return Some(format!("{by} gave it back, and only a person takes it again"));
        }
        let budget = rails::node_budget(&self.config, cluster.nodes);
        let taken = self.taken(now);
        (!taken.contains(node) && taken.len() >= budget as usize).then(|| {
            format!("{} nodes were taken within an hour or are out, and {budget} may be", taken.len())
        })
    }

    /// Nodes that are out by our doing, are being taken, or were taken within the last hour.
    pub(super) fn taken(&self, now: Timestamp) -> BTreeSet<NodeName> {
        let open =
            self.open.values().map(|open| &open.action).filter(|action| action.state != State::Proposed);
        let recent = self.past.iter().filter(|action| now.micros_since(action.planned) < HOUR_US);
        let recent = recent.filter(|action| action.state.began() && action.by.is_none());
        let by_actions = open.chain(recent).filter(|action| action.deed.takes_nodes());
        let isolated =
            self.nodes.iter().filter(|(_, record)| record.isolated.is_some()).map(|(node, _)| node);
        by_actions.flat_map(|action| action.deed.nodes()).chain(isolated).cloned().collect()
    }

    pub(super) fn taken_by_open(&self, node: &NodeName) -> bool {
        self.open
            .values()
            .any(|open| open.action.deed.takes_nodes() && open.action.deed.nodes().contains(&node))
    }

    pub(super) fn weather(&self, now: Timestamp) -> Weather {
        Weather {
            paused: self.pause.as_ref().map(|pause| pause.by.clone()),
            breaker: self.breaker.open().map(str::to_owned),
            settling: now.micros_since(self.started) < (self.config.settle_seconds * 1e6) as u64,
        }
    }

    fn take_up(&mut self, finding: &Finding, proposal: Proposal, now: Timestamp, out: &mut Vec<Output>) {
        let Proposal { deed, blamed, note, ask } = proposal;
        let state = if ask { State::Proposed } else { State::Planned };
        let action = Action {
            id: self.new_id(&deed, now),
            deed,
            job: Some(finding.job.clone()),
            finding: Some(finding.id.clone()),
            kind: Some(finding.kind),
            blamed,
            because: finding.summary.clone(),
            by: None,
            planned: now,
            ended: None,
            state,
            attempt: 1,
        };
        self.said.remove(&finding.id);
        let mut text = match &action.deed {
            _ if ask => format!("waiting for a yes to {}: c4ctl approve {}", action.deed, action.id.0),
            Deed::Restart { job, .. } => format!("restarting job {}{}", job.0, suffix(&action.deed)),
            deed => format!("going to {deed}"),
        };
        if !note.is_empty() {
            text += &format!(" in place ({note})");
        }
        self.begin(action, text, now, out);
    }

    pub(super) fn new_id(&self, deed: &Deed, now: Timestamp) -> ActionId {
        let subject = match deed {
            Deed::Restart { job, incarnation, .. } => format!("{}-{}", job.0, incarnation.saturating_add(1)),
            other => other.nodes().first().map_or_else(String::new, |node| node.0.clone()),
        };
        ActionId(format!("{}-{subject}-{:x}", deed.name(), now.0))
    }

    fn hold(
        &mut self,
        finding: &Finding,
        facts: &JobFacts,
        deed: Deed,
        hold: Hold,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        if !hold.worth_saying() || self.said.get(&finding.id).is_some_and(|(_, said)| *said == hold) {
            return;
        }
        let (text, outcome) = match (&hold, &deed) {
            (Hold::Observing, Deed::Restart { .. }) => {
                let from = facts.checkpoint.map_or(String::new(), |i| format!(" from checkpoint {i}"));
                (format!("would {deed}{from} (mode observe)"), "proposed")
            }
            (Hold::Observing, _) => (format!("would {deed} (mode observe)"), "proposed"),
            (hold, Deed::Restart { job, .. }) => (format!("not restarting job {}: {hold}", job.0), "held"),
            (hold, deed) => (format!("not going to {deed}: {hold}"), "held"),
        };
        self.said.insert(finding.id.clone(), (finding.job.clone(), hold));
        self.announce(Some(finding.id.clone()), &finding.job.0, text, outcome, POLICY, now, out);
    }

    /// Proposals whose findings have cleared are withdrawn; one that was spoken of, audibly. An operator's no lasts as long as its finding.
    pub(super) fn withdraw(&mut self, open: &HashSet<FindingId>, now: Timestamp, out: &mut Vec<Output>) {
        self.rejected.retain(|finding, _| open.contains(finding));
        let gone: Vec<_> = self.said.keys().filter(|id| !open.contains(*id)).cloned().collect();
        for finding in gone {
            let Some((job, _)) = self.said.remove(&finding) else { continue };
            let text = format!("not restarting job {}: the cause is gone", job.0);
            self.announce(Some(finding), &job.0, text, "withdrawn", POLICY, now, out);
        }
        let cleared = |open_action: &&Open| {
            let not_begun = matches!(open_action.action.state, State::Proposed | State::Planned);
            let settled = now.micros_since(self.started) >= (self.config.settle_seconds * 1e6) as u64;
            let finding = open_action.action.finding.as_ref();
            // After a start, findings have to come back first.
            not_begun && settled && finding.is_some_and(|finding| !open.contains(finding))
        };
        let withdrawn: Vec<ActionId> =
            self.open.values().filter(cleared).map(|open| open.action.id.clone()).collect();
        for id in withdrawn {
            self.finish(&id, State::Withdrawn { why: "the cause is gone".into() }, now, out);
        }
    }
}

/// " without n3", or nothing.
pub(super) fn suffix(deed: &Deed) -> String {
    let (Deed::Restart { job, .. }, words) = (deed, deed.to_string()) else { return String::new() };
    words.strip_prefix(&format!("restart job {}", job.0)).unwrap_or_default().to_owned()
}
