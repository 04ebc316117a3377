//! Which connection keeps a collective from finishing that everybody has entered.
//!
//! Every rank says in which state the oldest open step of each of its connections is. Data that is under way between
//! a sender that has handed it to the network and a receiver that has posted a buffer and got nothing is on the link,
//! or in the NIC at either end. All other open steps are consequences of that one.

use std::collections::BTreeMap;

use crate::{
    model::{Comm, Job},
    observation::{Edge, ProcessId, StepState},
};

/// Steps that a connection has room for (`NCCL_STEPS`).
const SLOTS: u64 = 8;

/// A connection under suspicion: from whom to whom, how strongly, and the words for it.
#[derive(Debug)]
pub(crate) struct SuspectEdge {
    pub(crate) src: u32,
    pub(crate) dst: u32,
    pub(crate) score: f64,
    pub(crate) why: String,
}

/// What the open steps of a communicator point at.
#[derive(Debug, Default)]
pub(crate) struct EdgeEvidence {
    /// Suspected connections, the strongest first.
    pub(crate) edges: Vec<SuspectEdge>,
    /// Processes whose GPU neither fills nor empties its buffers although data is there.
    pub(crate) stuck_gpus: Vec<ProcessId>,
    /// Whether any edge was reported at all.
    pub(crate) reported: bool,
}

#[derive(Default)]
struct Ends<'a> {
    sender: Option<&'a Edge>,
    receiver: Option<&'a Edge>,
}

pub(crate) fn weigh(job: &Job, comm: &Comm) -> EdgeEvidence {
    let mut channels: BTreeMap<(u32, u32, u32), Ends<'_>> = BTreeMap::new();
    let mut evidence = EdgeEvidence::default();
    for (comm_rank, member) in comm.members.iter() {
        if member.left || job.process(member.process).is_none_or(|p| !p.alive()) {
            continue;
        }
        for edge in &member.edges {
            evidence.reported = true;
            if edge.is_send {
                channels.entry((comm_rank, edge.peer, edge.channel)).or_default().sender = Some(edge);
            } else {
                channels.entry((edge.peer, comm_rank, edge.channel)).or_default().receiver = Some(edge);
            }
        }
        let any = |send: bool, state: StepState| {
            member.edges.iter().any(|edge| edge.is_send == send && edge.state == state)
        };
        let sends_nothing = any(true, StepState::SendGpuWait)
            || (!member.edges.iter().any(|edge| edge.is_send && edge.state != StepState::Idle));
        if any(false, StepState::RecvGpuWait) && sends_nothing {
            evidence.stuck_gpus.push(member.process);
        }
    }
    if receivers_lose_steps(&channels) {
        for ends in channels.values_mut().filter(|ends| ends.sender.is_some()) {
            ends.receiver = None;
        }
        evidence.stuck_gpus.clear();
    }
    let mut links: BTreeMap<(u32, u32), SuspectEdge> = BTreeMap::new();
    for ((src, dst, _), ends) in &channels {
        let Some((score, why)) = judge(ends) else { continue };
        let link = links.entry((*src, *dst)).or_insert_with(|| SuspectEdge {
            src: *src,
            dst: *dst,
            score: 0.0,
            why: String::new(),
        });
        if score > link.score {
            (link.score, link.why) = (score, why);
        }
    }
    evidence.edges = links.into_values().collect();
    evidence.edges.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.src, a.dst).cmp(&(b.src, b.dst))));
    evidence
}

/// Whether what receivers tell is not to be gone by: NCCL 2.24 to 2.26 do not report all of their steps. Then most receivers seem to
/// have got less than was sent by more than a connection has room for, also those that wait for nobody.
fn receivers_lose_steps(channels: &BTreeMap<(u32, u32, u32), Ends<'_>>) -> bool {
    let under_way: Vec<u64> = channels
        .values()
        .filter_map(|ends| Some(ends.sender?.steps_done.saturating_sub(ends.receiver?.steps_done)))
        .collect();
    under_way.iter().filter(|steps| **steps > SLOTS).count() * 2 > under_way.len()
}

/// How strongly one channel of a connection is suspected.
fn judge(ends: &Ends<'_>) -> Option<(f64, String)> {
    use StepState::{Idle, RecvFlushWait, RecvGpuWait, RecvWait, SendPeerWait, SendWait};
    match (ends.sender, ends.receiver) {
        (Some(s), Some(r)) => match (s.state, r.state) {
            (SendWait, RecvWait) => {
                Some((0.95, "the sender's data is with the network, the receiver gets none of it".into()))
            }
            (_, RecvWait) if s.steps_done > r.steps_done => {
                Some((0.9, format!("{} steps were sent and {} arrived", s.steps_done, r.steps_done)))
            }
            (SendPeerWait, RecvWait) => {
                Some((0.8, "the receiver has posted a buffer, the sender has not heard of it".into()))
            }
            (_, RecvFlushWait) => Some((0.6, "the receiver cannot flush what came to its GPU".into())),
            // The receiver has no buffer free, so the sender waits: a consequence.
            (SendWait | SendPeerWait, RecvGpuWait) => {
                Some((0.2, "the receiver does not empty its buffers".into()))
            }
            (SendWait, Idle) => Some((0.5, "the sender's data is with the network".into())),
            _ => None,
        },
        (Some(s), None) if s.state == SendWait => Some((0.5, "the sender's data is with the network".into())),
        (None, Some(r)) if r.state == RecvWait => Some((0.3, "the receiver waits for data".into())),
        (None, Some(r)) if r.state == RecvFlushWait => {
            Some((0.5, "the receiver cannot flush what came to its GPU".into()))
        }
        _ => None,
    }
}
