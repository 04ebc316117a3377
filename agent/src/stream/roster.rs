//! What a controller that knows nothing must be told before the spool makes sense: who lives, in which communicators, and
//! the state of a supervised group, what is wrong with the node. Said again after each reconnect, since the controller may be a new one.
//!
//! A process that has ended stays on the roster until its end is acknowledged: the spool may still hold its last
//! windows, which would belong to nobody.

use std::collections::BTreeMap;

use c4_detect::catalogue;
use c4_proto::v1::{CommunicatorJoined, Health, agent_message::Body};
use c4_recorder::layout;
use tokio::time::Instant;

/// Communicators remembered for one process: as many as a recorder has.
const MAX_COMMUNICATORS: usize = layout::COMMUNICATORS;

/// Processes remembered; beyond it those that have ended are forgotten, oldest first.
const MAX_MEMBERS: usize = 4096;

/// Conditions remembered; a node has a few at a time.
const MAX_CONDITIONS: usize = 256;

type Condition = (Option<u32>, String, String);

#[derive(Debug)]
struct Member {
    start: (Instant, Body),
    /// Those that it joined, oldest first.
    joined: Vec<(Instant, CommunicatorJoined)>,
    /// Those of its last window.
    current: Vec<u64>,
    ended_at: Option<u64>,
}

impl Member {
    /// Too many are those of a process that makes new ones all the time. The oldest goes that it does not use any more: its first may be
    /// the one of all ranks.
    fn join(&mut self, captured: Instant, joined: &CommunicatorJoined) {
        self.joined.push((captured, joined.clone()));
        if self.joined.len() > MAX_COMMUNICATORS {
            let left = self.joined.iter().position(|(_, known)| !self.current.contains(&known.comm));
            self.joined.remove(left.unwrap_or(0));
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<u64, Member>,
    group: Option<(Instant, Body)>,
    wish: Option<(Instant, Body)>,
    conditions: BTreeMap<Condition, (Instant, Body)>,
}

impl Roster {
    /// Notes a message that was given `sequence`.
    pub(super) fn note(&mut self, sequence: u64, captured: Instant, body: &Body) {
        match body {
            Body::ProcessStarted(start) => {
                let (joined, current) = (Vec::new(), Vec::new());
                let member = Member { start: (captured, body.clone()), joined, current, ended_at: None };
                self.members.insert(start.process, member);
                self.bound();
            }
            Body::CommunicatorJoined(joined) => {
                if let Some(member) = self.members.get_mut(&joined.process) {
                    member.join(captured, joined);
                }
            }
            Body::Windows(windows) => {
                for window in &windows.windows {
                    if let Some(member) = self.members.get_mut(&window.process) {
                        member.current.clear();
                        member.current.extend(window.comms.iter().map(|comm| comm.comm));
                    }
                }
            }
            Body::ProcessEnded(end) => {
                if let Some(member) = self.members.get_mut(&end.process) {
                    member.ended_at = Some(sequence);
                }
            }
            Body::Health(health) => self.condition(health, captured),
            Body::NodeWish(_) => self.wish = Some((captured, body.clone())),
            Body::GroupReport(_) => self.group = Some((captured, body.clone())),
            _ => {}
        }
    }

    /// A condition holds until it is taken back; what happened at a moment is over when it is told.
    fn condition(&mut self, health: &Health, captured: Instant) {
        let key = (health.gpu, health.nic.clone(), health.code.clone());
        let moment = catalogue::entry(&health.code, &health.detail).is_none_or(|entry| entry.moment);
        if health.cleared {
            self.conditions.remove(&key);
        } else if !moment && (self.conditions.len() < MAX_CONDITIONS || self.conditions.contains_key(&key)) {
            self.conditions.insert(key, (captured, Body::Health(health.clone())));
        }
    }

    fn bound(&mut self) {
        if self.members.len() > MAX_MEMBERS {
            let ended =
                self.members.iter().filter_map(|(process, member)| Some((member.ended_at?, *process)));
            if let Some((_, process)) = ended.min() {
                self.members.remove(&process);
            }
        }
    }

    /// Everything up to and including `sequence` is taken.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        self.members.retain(|_, member| member.ended_at.is_none_or(|ended| ended > sequence));
    }

    /// What to say first on a new connection, with the time each was captured.
    #[must_use]
    pub(super) fn introduction(&self) -> Vec<(Instant, Body)> {
        let of = |member: &Member| {
            let joined =
                member.joined.iter().map(|(at, joined)| (*at, Body::CommunicatorJoined(joined.clone())));
            std::iter::once(member.start.clone()).chain(joined).collect::<Vec<_>>()
        };
        let members = self.members.values().flat_map(of);
        let rest = self.group.iter().chain(&self.wish).chain(self.conditions.values());
        members.chain(rest.cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use c4_proto::v1::{CommWindow, ProcessStarted, Window, Windows};

    use super::*;

    fn health(code: &str, cleared: bool) -> Body {
        Body::Health(Health {
            code: code.to_owned(),
            nic: "mlx5_0:1".to_owned(),
            cleared,
            ..Health::default()
        })
    }

    #[test]
    fn of_many_communicators_those_in_use_are_said_again() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        roster.note(
            1,
            now,
            &Body::ProcessStarted(ProcessStarted { process: 1, ..ProcessStarted::default() }),
        );
        for comm in 1..=3 * MAX_COMMUNICATORS as u64 {
            let joined = CommunicatorJoined { process: 1, comm, ..CommunicatorJoined::default() };
            roster.note(2 * comm, now, &Body::CommunicatorJoined(joined));
            // The first is that of all ranks.
            let comms = [1, comm].map(|comm| CommWindow { comm, ..CommWindow::default() });
            let window = Window { process: 1, comms: comms.into(), ..Window::default() };
            let windows = Windows { windows: vec![window], ..Windows::default() };
            roster.note(2 * comm + 1, now, &Body::Windows(windows));
        }
        let joined = |(_, body)| match body {
            Body::CommunicatorJoined(joined) => Some(joined.comm),
            _ => None,
        };
        let again: Vec<u64> = roster.introduction().into_iter().filter_map(joined).collect();
        assert_eq!((again.len(), again[0], again[1]), (MAX_COMMUNICATORS, 1, 514));
    }

    #[test]
    fn conditions_that_hold_are_said_again_moments_are_not() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        let said = [("link-down", false), ("xid-79", false), ("link-flap", false), ("link-down", true)];
        for (sequence, (code, cleared)) in (1..).zip(said) {
            roster.note(sequence, now, &health(code, cleared));
        }
        let again: Vec<Body> = roster.introduction().into_iter().map(|(_, body)| body).collect();
        assert_eq!(again, [health("link-flap", false)]);
    }
}
