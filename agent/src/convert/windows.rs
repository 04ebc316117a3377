//! Windows, the bulk of what an agent says. What the processes of a node have in common (they are in the same
//! collectives) is said once, and blocks are rows of numbers without field tags: less than half of the bytes.

use std::collections::HashMap;

use c4_detect::observation as detect;
use c4_proto::v1 as wire;
use prost::encoding::encode_varint;

/// Numbers for each block.
const BLOCK_COLUMNS: usize = 14;

/// The wire form of windows that were closed together.
pub(super) fn windows(windows: Vec<detect::Window>) -> wire::Windows {
    let mut shared = Shared::default();
    let windows = windows.into_iter().map(|window| shared.window(window)).collect();
    wire::Windows {
        windows,
        operations: shared.operations,
        signatures: shared.signatures,
        block_columns: BLOCK_COLUMNS as u32,
    }
}

/// What windows refer to.
#[derive(Default)]
struct Shared {
    operations: Vec<wire::OperationSignature>,
    signatures: Vec<u64>,
    places: HashMap<u64, u64>,
}

impl Shared {
    fn window(&mut self, window: detect::Window) -> wire::Window {
        wire::Window {
            process: window.process.0,
            duration_us: window.duration_us,
            state: process_state(window.state) as i32,
            kernel_events: window.kernel_events,
            dropped: window.dropped,
            unread: window.unread,
            comms: window.comms.into_iter().map(|comm| self.comm_window(comm)).collect(),
            profiling: window.profiling,
            own: window.own.map(|own| wire::OwnTime {
                now_us: own.now_us,
                longest_us: own.longest_us,
                gpu_spins_us: own.gpu_spins_us,
            }),
        }
    }

    fn comm_window(&mut self, comm: detect::CommWindow) -> wire::CommWindow {
        wire::CommWindow {
            comm: comm.comm.0,
            enqueued: comm.enqueued,
            started: comm.started,
            completed: comm.completed,
            in_flight: comm.in_flight.map(|op| wire::InFlight {
                sequence: op.sequence,
                signature: None,
                started: op.started,
                age_us: op.age_us,
                started_age_us: op.started_age_us,
                operation: self.operation(op.signature),
                before: op.before.map(|before| wire::Before {
                    operation: self.operation(before.signature),
                    usual: before.usual,
                    usual_before: before.usual_before,
                }),
            }),
            blocks: Vec::new(),
            edges: comm.edges.into_iter().map(edge).collect(),
            iterations: comm.iterations.into_iter().map(iteration).collect(),
            idle_us: comm.idle_us,
            unseen_us: comm.unseen_us,
            pending_peers: comm.pending_peers.into_iter().map(pending_peer).collect(),
            links: comm.links.into_iter().map(link).collect(),
            packed_blocks: self.blocks(&comm.blocks),
        }
    }

    /// The number of an operation, from 1. Few are in flight at once, so looking through them is quick.
    fn operation(&mut self, signature: detect::OperationSignature) -> u32 {
        let signature = wire::OperationSignature {
            function: signature.function.to_string(),
            count: signature.count,
            datatype: signature.datatype.to_string(),
            root: signature.root,
        };
        let known = self.operations.iter().position(|known| *known == signature);
        let place = known.unwrap_or_else(|| {
            self.operations.push(signature);
            self.operations.len() - 1
        });
        u32::try_from(place + 1).unwrap_or(u32::MAX)
    }

    fn blocks(&mut self, blocks: &[detect::Block]) -> Vec<u8> {
        let mut packed = Vec::new();
        for block in blocks {
            self.block(block).into_iter().for_each(|number| encode_varint(number, &mut packed));
        }
        packed
    }

    fn block(&mut self, block: &detect::Block) -> [u64; BLOCK_COLUMNS] {
        let next = self.signatures.len() as u64;
        let signature = *self.places.entry(block.signature).or_insert(next);
        if signature == next {
            self.signatures.push(block.signature);
        }
        let silent_ns = block.silent_ns.or(block.own_ns).unwrap_or(0);
        [
            block.first,
            u64::from(block.length.max(1).ilog2()),
            signature,
            block.wait_ns,
            block.min_wait_ns,
            block.max_wait_ns,
            block.span_ns,
            block.gap_ns,
            block.bytes,
            optional(block.own_ns),
            block.own_ns.unwrap_or(0).saturating_sub(silent_ns),
            optional(block.longest_own_ns),
            u64::from(block.beside),
            u64::from(block.awaited),
        ]
    }
}

/// 0 for what is not known, so that every row is equally long.
fn optional(ns: Option<u64>) -> u64 {
    ns.map_or(0, |ns| ns.saturating_add(1))
}

fn iteration(turn: detect::Iteration) -> wire::Iteration {
    wire::Iteration {
        first: turn.first,
        operations: turn.operations,
        duration_ns: turn.duration_ns,
        count: turn.count,
    }
}

fn link(link: detect::LinkTime) -> wire::LinkTime {
    wire::LinkTime {
        peer: link.peer,
        is_send: link.is_send,
        channels: link.channels,
        steps: link.steps,
        bytes: link.bytes,
        network_ns: link.network_ns,
        gpu_ns: link.gpu_ns,
        peer_ns: link.peer_ns,
        flush_ns: link.flush_ns,
    }
}

fn pending_peer(pending: detect::PendingPeer) -> wire::PendingPeer {
    wire::PendingPeer {
        peer: pending.peer,
        is_send: pending.is_send,
        started: pending.started,
        age_us: pending.age_us,
        position: pending.position,
    }
}

fn edge(edge: detect::Edge) -> wire::Edge {
    use wire::StepState as Wire;
    let state = match edge.state {
        detect::StepState::Unknown => Wire::Unknown,
        detect::StepState::Idle => Wire::Idle,
        detect::StepState::SendGpuWait => Wire::SendGpuWait,
        detect::StepState::SendPeerWait => Wire::SendPeerWait,
        detect::StepState::SendWait => Wire::SendWait,
        detect::StepState::RecvWait => Wire::RecvWait,
        detect::StepState::RecvFlushWait => Wire::RecvFlushWait,
        detect::StepState::RecvGpuWait => Wire::RecvGpuWait,
    };
    wire::Edge {
        peer: edge.peer,
        channel: edge.channel,
        is_send: edge.is_send,
        state: state as i32,
        state_age_us: edge.state_age_us,
        steps_done: edge.steps_done,
        bytes: edge.bytes,
    }
}

fn process_state(state: detect::ProcessState) -> wire::ProcessState {
    match state {
        detect::ProcessState::Unknown => wire::ProcessState::Unknown,
        detect::ProcessState::Running => wire::ProcessState::Running,
        detect::ProcessState::Sleeping => wire::ProcessState::Sleeping,
        detect::ProcessState::DiskWait => wire::ProcessState::DiskWait,
        detect::ProcessState::Stopped => wire::ProcessState::Stopped,
        detect::ProcessState::Zombie => wire::ProcessState::Zombie,
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::{Block, CommId, InFlight, OperationSignature, ProcessId, ProcessState};
    use prost::encoding::decode_varint;

    use super::*;

    fn window(process: u64) -> detect::Window {
        let signature = OperationSignature {
            function: "AllReduce".into(),
            count: 4,
            datatype: "ncclFloat32".into(),
            root: 0,
        };
        let block = Block {
            first: 32,
            length: 16,
            signature: 77,
            wait_ns: 9,
            min_wait_ns: 1,
            max_wait_ns: 5,
            span_ns: 100,
            gap_ns: 40,
            bytes: 4096,
            own_ns: Some(30),
            silent_ns: Some(20),
            longest_own_ns: None,
            beside: 3,
            awaited: 5,
        };
        let in_flight =
            InFlight { sequence: 48, signature, started: true, age_us: 2, started_age_us: 1, before: None };
        detect::Window {
            process: ProcessId(process),
            duration_us: 1_000_000,
            state: ProcessState::Running,
            kernel_events: true,
            profiling: true,
            dropped: 0,
            unread: 0,
            own: Some(detect::OwnTime { now_us: 7, longest_us: 9, gpu_spins_us: 8 }),
            comms: vec![detect::CommWindow {
                comm: CommId(3),
                enqueued: 50,
                started: 49,
                completed: 48,
                in_flight: Some(in_flight),
                idle_us: 0,
                unseen_us: 0,
                blocks: vec![block.clone(), Block { first: 48, own_ns: None, silent_ns: None, ..block }],
                edges: Vec::new(),
                iterations: Vec::new(),
                pending_peers: Vec::new(),
                links: Vec::new(),
            }],
        }
    }

    #[test]
    fn what_windows_share_is_said_once_and_blocks_are_rows() {
        let said = windows(vec![window(1), window(2)]);
        assert_eq!((said.operations.len(), said.signatures.as_slice()), (1, [77].as_slice()));
        for window in &said.windows {
            let comm = &window.comms[0];
            assert_eq!(comm.in_flight.as_ref().map(|op| op.operation), Some(1));
            let mut packed = comm.packed_blocks.as_slice();
            let numbers: Vec<u64> =
                std::iter::from_fn(|| (!packed.is_empty()).then(|| decode_varint(&mut packed).unwrap()))
                    .collect();
            let (rows, rest) = numbers.as_chunks::<BLOCK_COLUMNS>();
            assert!(rest.is_empty());
            assert_eq!(rows[0], [32, 4, 0, 9, 1, 5, 100, 40, 4096, 31, 10, 0, 3, 5]);
            assert_eq!(rows[1], [48, 4, 0, 9, 1, 5, 100, 40, 4096, 0, 0, 0, 3, 5]);
        }
    }
}
