//! What is there to be said, apart from any connection: takes reports into spool and roster, hands out the next message,
//! knows when the end has come.

use std::{collections::VecDeque, time::Duration};

use c4_proto::v1::{AgentMessage, agent_message::Body};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    roster::Roster,
    spool::{Spool, SpoolLimits},
};
use crate::{convert, metrics::Metrics, report::Captured};

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) spool: Spool,
    pub(super) roster: Roster,
    pub(super) metrics: Metrics,
    /// From where on it is told when something is sent.
    epoch: Instant,
    drain: Duration,
    deadline: Option<Instant>,
    reports_open: bool,
}

impl Desk {
    pub(super) fn new(limits: SpoolLimits, memory: Duration, drain: Duration, metrics: Metrics) -> Self {
        Self {
            spool: Spool::new(limits).remembering(memory),
            roster: Roster::default(),
            metrics,
            epoch: Instant::now(),
            drain,
            deadline: None,
            reports_open: true,
        }
    }

    pub(super) fn absorb(&mut self, captured: Captured) {
        let body = convert::body(captured.report);
        let sequence = self.spool.push(&body, captured.at);
        self.roster.note(sequence, captured.at, &body);
        self.metrics.spool(&self.spool);
    }

    pub(super) fn acknowledge(&mut self, sequence: u64) -> bool {
        let known = self.spool.acknowledge(sequence, Instant::now());
        if known {
            self.roster.acknowledge(self.spool.settled());
        }
        self.metrics.spool(&self.spool);
        known
    }

    /// The next message for a connection: first the introduction, then the spool.
    pub(super) fn next_message(
        &mut self,
        introduction: &mut VecDeque<(Instant, Body)>,
        last_sent: &mut u64,
    ) -> Option<AgentMessage> {
        let now = Instant::now();
        if let Some((captured, body)) = introduction.pop_front() {
            return Some(self.unnumbered(now.saturating_duration_since(captured), body));
        }
        let message = self.spool.after(*last_sent)?.message(now);
        *last_sent = message.sequence;
        if let Some(body) = &message.body {
            self.metrics.sent(body);
        }
        Some(AgentMessage { sent_us: self.clock_us(), ..message })
    }

    /// A message that is not numbered, as it is sent now.
    pub(super) fn unnumbered(&self, age: Duration, body: Body) -> AgentMessage {
        let age_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        AgentMessage { sequence: 0, age_us, sent_us: self.clock_us(), body: Some(body) }
    }

    /// Time since this began. 0 would mean that it is not told.
    fn clock_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Takes in one report, or learns that the end was asked for. True when the end has come: everything was delivered
    /// or the drain time is over.
    pub(super) async fn attend_once(
        &mut self,
        reports: &mut mpsc::Receiver<Captured>,
        shutdown: &CancellationToken,
    ) -> bool {
        if self.deadline.is_some() && self.spool.depth() == 0 {
            return true;
        }
        let deadline = self.deadline;
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => shutdown.cancelled().await,
            }
        };
        tokio::select! {
            biased;
            report = reports.recv(), if self.reports_open => match report {
                Some(captured) => self.absorb(captured),
                None => self.reports_open = false,
            },
            () = over => {
                if deadline.is_some() {
                    return true;
                }
                self.deadline = Some(Instant::now() + self.drain);
            }
        }
        false
    }

    /// The same until the end has come.
    pub(super) async fn attend(
        &mut self,
        reports: &mut mpsc::Receiver<Captured>,
        shutdown: &CancellationToken,
    ) {
        while !self.attend_once(reports, shutdown).await {}
    }
}
