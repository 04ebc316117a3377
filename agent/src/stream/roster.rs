//! What a controller that knows nothing must be told before the spool makes sense: who lives, in which communicators, and
//! the state of a supervised group, what is wrong with the node. Said again after each reconnect, since the controller may be a new one.
//!
//! A process that has ended stays on the roster until its end is acknowledged: the spool may still hold its last
//! windows, which would belong to nobody.

use std::collections::BTreeMap;

use c4_detect::catalogue;
use c4_proto::v1::{Health, agent_message::Body};
use tokio::time::Instant;

/// Communicators remembered for one process, newest first; a recorder's own table is smaller.
const MAX_COMMUNICATORS: usize = 256;

/// Processes remembered; beyond it those that have ended are forgotten, oldest first.
const MAX_MEMBERS: usize = 4096;

/// Conditions remembered; a node has a few at a time.
const MAX_CONDITIONS: usize = 256;

type Condition = (Option<u32>, String, String);

#[derive(Debug)]
struct Member {
    told: Vec<(Instant, Body)>,
    ended_at: Option<u64>,
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
                let told = vec![(captured, body.clone())];
                self.members.insert(start.process, Member { told, ended_at: None });
                self.bound();
            }
            Body::CommunicatorJoined(joined) => {
                if let Some(member) = self.members.get_mut(&joined.process) {
                    member.told.push((captured, body.clone()));
                    if member.told.len() > MAX_COMMUNICATORS {
                        member.told.remove(1);
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
        let members = self.members.values().flat_map(|member| member.told.iter());
        members.chain(&self.group).chain(&self.wish).chain(self.conditions.values()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
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
