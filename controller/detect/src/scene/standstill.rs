//! Collectives, sends and receives in which ranks wait for long, rank by rank.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Places;
use crate::{
    model::{Comm, Job},
    observation::{CommId, ProcessId, Timestamp},
    stall::{Stall, Why},
    wait::{Root, Waits},
};

/// Collectives drawn.
const MAX_STANDSTILLS: usize = 128;
/// Members drawn, over all of them.
const MAX_ENTRIES: usize = 65_536;
/// Sends and receives drawn.
const MAX_PEER_WAITS: usize = 4_096;

/// A collective in which ranks wait for long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standstill {
    /// The communicator, as a person knows it.
    pub communicator: String,
    /// "AllReduce".
    pub function: String,
    /// Position on the communicator.
    pub operation: u64,
    /// When the longest wait began.
    pub since: Timestamp,
    /// Whether nobody there waits because of somebody elsewhere: the waits of the job end here.
    pub is_root: bool,
    /// Members, by rank in the communicator.
    pub members: Vec<Entry>,
    /// Members of which nothing is drawn.
    pub members_left_out: usize,
}

/// One member of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its spot.
    pub spot: u32,
    /// How it stands to the collective.
    pub standing: Standing,
    /// When it enqueued the collective, if it has.
    pub enqueued: Option<Timestamp>,
    /// When its GPU began with it, if it has.
    pub started: Option<Timestamp>,
    /// Collectives it has enqueued on the communicator.
    pub position: u64,
}

/// How a member stands to a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is in it.
    Waiting,
    /// It has come out of it.
    Past,
    /// It holds others up: it has ended.
    Ended,
    /// It holds others up: it is stopped.
    Stopped,
    /// It holds others up: it has not entered.
    NotEntered,
    /// It holds others up: its GPU has not begun.
    Queued,
    /// It holds others up: it has left the communicator.
    Left,
    /// Nothing can be said of it.
    Unseen,
}

impl From<Why> for Standing {
    fn from(why: Why) -> Self {
        match why {
            Why::Ended => Standing::Ended,
            Why::Stopped => Standing::Stopped,
            Why::NotEntered => Standing::NotEntered,
            Why::Queued | Why::Arriving => Standing::Queued,
            Why::Left => Standing::Left,
        }
    }
}

/// A send or receive that is open for long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerWait {
    /// Spot of who waits.
    pub waiter: u32,
    /// Spot of who is waited for.
    pub peer: u32,
    /// Whether the waiter sends.
    pub is_send: bool,
    /// Since when.
    pub since: Timestamp,
}

/// The collectives, those first at which the waits end; and how many were left out.
pub(super) fn all(
    job: &Job,
    waits: &Waits,
    roots: &[Root],
    places: &Places,
    now: Timestamp,
) -> (Vec<Standstill>, usize) {
    let ends: BTreeSet<CommId> = roots
        .iter()
        .flat_map(|root| match root {
            Root::Held { stall, .. } => stall.iter().copied().collect(),
            Root::Inside(id) | Root::Unseen(id) => vec![*id],
            Root::Circle { stalls, .. } => stalls.clone(),
            Root::Transfer { .. } => Vec::new(),
        })
        .collect();
    let mut stalls: Vec<&Stall> = waits.stalls.values().collect();
    stalls.sort_by_key(|stall| (!ends.contains(&stall.comm), stall.since, stall.comm));
    let mut room = MAX_ENTRIES;
    let left_out = stalls.len().saturating_sub(MAX_STANDSTILLS);
    let drawn = stalls.into_iter().take(MAX_STANDSTILLS).filter_map(|stall| {
        let comm = job.comms.get(&stall.comm)?;
        Some(draw(comm, stall, ends.contains(&stall.comm), places, &mut room, now))
    });
    (drawn.collect(), left_out)
}

fn draw(
    comm: &Comm,
    stall: &Stall,
    is_root: bool,
    places: &Places,
    room: &mut usize,
    now: Timestamp,
) -> Standstill {
    let mut members = Vec::new();
    let holders: BTreeMap<ProcessId, Why> = stall.holders.iter().map(|h| (h.process, h.why)).collect();
    let unseen: BTreeSet<u32> = stall.unseen.iter().map(|(comm_rank, _)| *comm_rank).collect();
    // Those that hold others up must not be missing.
    let (first, then): (Vec<_>, Vec<_>) =
        comm.members.iter().partition(|(_, member)| holders.contains_key(&member.process));
    for (comm_rank, member) in first.into_iter().chain(then) {
        let Some(spot) = places.of(member.process) else { continue };
        let Some(left) = room.checked_sub(1) else { break };
        *room = left;
        let inside = member.in_flight.as_ref().filter(|op| op.sequence == stall.operation);
        let at = member.at.unwrap_or(now);
        members.push(Entry {
            spot,
            standing: match holders.get(&member.process) {
                Some(why) => (*why).into(),
                None if unseen.contains(&comm_rank) => Standing::Unseen,
                None if member.completed > stall.operation => Standing::Past,
                None => Standing::Waiting,
            },
            enqueued: inside.map(|op| at.before(op.age_us)),
            started: inside.filter(|op| op.started).map(|op| at.before(op.started_age_us)),
            position: member.enqueued,
        });
    }
    members.sort_by_key(|entry| entry.spot);
    Standstill {
        communicator: comm.label(),
        function: stall.function.clone(),
        operation: stall.operation,
        since: stall.since,
        is_root,
        members_left_out: comm.members.len() - members.len(),
        members,
    }
}

/// The sends and receives, the longest open first.
pub(super) fn peers(waits: &Waits, places: &Places) -> Vec<PeerWait> {
    let mut peers: Vec<PeerWait> = waits
        .peers
        .iter()
        .filter_map(|wait| {
            let (waiter, peer) = (places.of(wait.waiter)?, places.of(wait.peer?)?);
            Some(PeerWait { waiter, peer, is_send: wait.is_send, since: wait.since })
        })
        .collect();
    peers.sort_by_key(|wait| (wait.since, wait.waiter, wait.peer));
    peers.truncate(MAX_PEER_WAITS);
    peers
}
