//! A large job in which one rank is stopped: tensor parallelism of 8 in nodes, 8 pipeline stages, the rest data parallel.

use c4_detect::observation::{
    CommId, CommWindow, InFlight, JobId, Membership, NodeName, Observation, OperationSignature, ProcessId,
    ProcessInfo, ProcessState, Timestamp, Window,
};

const TP: u32 = 8;
const PP: u32 = 8;
const EPOCH_US: u64 = 1_700_000_000_000_000;
/// Collectives that everybody has done.
const DONE: u64 = 1_000;

/// The communicators of a rank with its place there: tensor, data.
fn groups(rank: u32, ranks: u32) -> [(CommId, &'static str, u32, u32); 2] {
    let dp = ranks / TP / PP;
    let (t, d, p) = (rank % TP, rank / TP % dp, rank / TP / dp);
    [
        (CommId(u64::from(1_000_000 + rank / TP)), "tensor", TP, t),
        (CommId(u64::from(2_000_000 + p * TP + t)), "data", dp, d),
    ]
}

/// What is seen of it, two seconds after `stopped` was stopped before a tensor-parallel operation.
pub(crate) fn observations(ranks: u32, stopped: u32) -> Vec<(Timestamp, Observation)> {
    let mut told = Vec::new();
    let start = Timestamp(EPOCH_US);
    for rank in 0..ranks {
        let node = NodeName(format!("node-{:04}", rank / TP));
        if rank % TP == 0 {
            told.push((start, Observation::NodeSeen { node: node.clone(), nic_class: None }));
        }
        let info = ProcessInfo {
            process: ProcessId(u64::from(rank) + 1),
            job: JobId(String::new()),
            incarnation: 0,
            rank: Some(rank),
            world_size: Some(ranks),
            node,
            gpu: Some(rank % TP),
            pid: 4_000 + rank,
            blind_spots: Vec::new(),
        };
        told.push((start, Observation::ProcessStarted(info)));
        for (comm, name, size, comm_rank) in groups(rank, ranks) {
            let process = ProcessId(u64::from(rank) + 1);
            let membership = Membership { process, comm, name: name.into(), size, comm_rank };
            told.push((start, Observation::CommunicatorJoined(membership)));
        }
    }
    for second in 1..=5 {
        let now = start.after(second * 1_000_000);
        // For the last four seconds nobody gets on.
        let waited_us = second.saturating_sub(1) * 1_000_000;
        told.extend(
            (0..ranks).map(|rank| (now, Observation::Window(window(rank, ranks, stopped, waited_us)))),
        );
        told.push((now, Observation::Tick));
    }
    told
}

fn window(rank: u32, ranks: u32, stopped: u32, waited_us: u64) -> Window {
    let [tensor, data] = groups(rank, ranks);
    let [its_tensor, _] = groups(stopped, ranks);
    let in_flight = |function: &str| InFlight {
        sequence: DONE,
        signature: OperationSignature {
            function: function.into(),
            count: 1 << 20,
            datatype: "ncclBfloat16".into(),
            root: 0,
        },
        started: true,
        age_us: waited_us + 10_000,
        started_age_us: waited_us + u64::from(rank % 97) * 1_000,
        before: None,
    };
    let in_tensor = tensor.0 == its_tensor.0;
    let dp = ranks / TP / PP;
    let same_stage = rank / TP / dp == stopped / TP / dp;
    let comm = |comm: CommId, waits: Option<InFlight>, done: u64| CommWindow {
        comm,
        enqueued: done + u64::from(waits.is_some()),
        started: done + u64::from(waits.is_some()),
        completed: done,
        in_flight: waits,
        idle_us: waited_us,
        unseen_us: 0,
        blocks: Vec::new(),
        edges: Vec::new(),
        iterations: Vec::new(),
        pending_peers: Vec::new(),
        links: Vec::new(),
    };
    let is_stopped = rank == stopped && waited_us > 0;
    let waits = waited_us > 0 && !is_stopped;
    let tensor_wait = (waits && in_tensor).then(|| in_flight("AllReduce"));
    let data_wait = (waits && same_stage && !in_tensor).then(|| in_flight("ReduceScatter"));
    Window {
        process: ProcessId(u64::from(rank) + 1),
        duration_us: 1_000_000,
        state: if is_stopped { ProcessState::Stopped } else { ProcessState::Running },
        kernel_events: true,
        profiling: true,
        dropped: 0,
        unread: 0,
        own: None,
        comms: vec![
            comm(tensor.0, tensor_wait, if in_tensor { DONE } else { DONE + 1 }),
            comm(data.0, data_wait, DONE),
        ],
    }
}
