//! The connections of a rank, as NCCL's proxy shows them.

use c4_detect::observation::{Edge, StepState};

use super::{FaultKind, OLD_NS, Spec};
use crate::simulator::engine::CollectiveRecord;

/// Steps into which a ring cuts an operation.
const STEPS: u64 = 256;

/// The connections of a rank in a ring that has been at one operation for long. Where it will end, steps are done all along
/// from when all had come; where it will not, none is.
pub(super) fn of(spec: &Spec, rank: u32, record: &CollectiveRecord, now_ns: u64) -> Vec<Edge> {
    let layout = &spec.layout;
    let Some(start) = record.start_ns.filter(|start| now_ns.saturating_sub(*start) >= OLD_NS) else {
        return Vec::new();
    };
    let (index, own) = layout.membership(rank, record.group);
    let size = layout.group_size(record.group);
    if size < 2 {
        return Vec::new();
    }
    let (next, previous) = ((own + 1) % size, (own + size - 1) % size);
    let next_rank = layout.member(record.group, index, next);
    let blocked = spec.faults.iter().any(|fault| match fault.kind {
        FaultKind::LinkBlocked { peer } => fault.rank == rank && peer == next_rank && fault.acts(now_ns),
        _ => false,
    });
    let absent = spec.faults.iter().any(|fault| {
        fault.rank == next_rank
            && fault.acts(now_ns)
            && matches!(fault.kind, FaultKind::Death | FaultKind::Stop | FaultKind::HostHang)
    });
    let send_state = match (blocked, absent) {
        (true, _) => StepState::SendWait,
        (false, true) => StepState::SendPeerWait,
        (false, false) => StepState::SendGpuWait,
    };
    let moves = record.moves_ns.zip(record.end_ns).filter(|(moves, _)| *moves < now_ns);
    let (steps_done, since) = moves.map_or((0, start), |(moves, end)| {
        let step_ns = ((end - moves) / STEPS).max(1);
        let done = ((now_ns - moves) / step_ns).min(STEPS);
        (done, moves + done * step_ns)
    });
    let edge = |peer, is_send, state| Edge {
        peer,
        channel: 0,
        is_send,
        state,
        state_age_us: now_ns.saturating_sub(since) / 1000,
        steps_done,
        bytes: record.bytes / STEPS * steps_done,
    };
    vec![edge(next, true, send_state), edge(previous, false, StepState::RecvWait)]
}
