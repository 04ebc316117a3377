//! A job of two ranks whose iterations become slower from one moment on, for both alike: nobody is at fault.

use c4_detect::observation::{
    CommId, CommWindow, Iteration, JobId, Membership, NodeName, Observation, ProcessId, ProcessInfo,
    ProcessState, Timestamp, Window,
};

const EPOCH_US: u64 = 1_700_000_000_000_000;
const RANKS: u32 = 2;
const COMM: CommId = CommId(7);
/// Iterations of each second, and for how many seconds each pace lasts.
const PACES: [(u64, u64); 2] = [(5, 60), (4, 60)];

/// What is seen of it.
pub(crate) fn observations() -> Vec<(Timestamp, Observation)> {
    let start = Timestamp(EPOCH_US);
    let mut told = Vec::new();
    for rank in 0..RANKS {
        let process = ProcessId(u64::from(rank) + 1);
        let info = ProcessInfo {
            process,
            job: JobId(String::new()),
            incarnation: 0,
            rank: Some(rank),
            world_size: Some(RANKS),
            node: NodeName(format!("n{rank}")),
            gpu: Some(0),
            pid: 100 + rank,
            blind_spots: Vec::new(),
        };
        told.push((start, Observation::ProcessStarted(info)));
        let membership = Membership { process, comm: COMM, name: "dp".into(), size: RANKS, comm_rank: rank };
        told.push((start, Observation::CommunicatorJoined(membership)));
    }
    let (mut done, mut second) = (0, 0);
    for (a_second, seconds) in PACES {
        for _ in 0..seconds {
            second += 1;
            let now = start.after(second * 1_000_000);
            let iterations: Vec<Iteration> =
                (done..done + a_second).map(|n| iteration(n, a_second)).collect();
            done += a_second;
            for rank in 0..RANKS {
                told.push((now, Observation::Window(window(rank, done, iterations.clone()))));
            }
            told.push((now, Observation::Tick));
        }
    }
    told
}

/// Of one operation; with a hundredth of noise, the same for all ranks.
fn iteration(number: u64, a_second: u64) -> Iteration {
    let usual_ns = 1_000_000_000 / a_second;
    let noise_ns = usual_ns / 100 * (number * 7 % 11) / 11;
    Iteration { first: number, operations: 1, duration_ns: usual_ns + noise_ns, count: 1 }
}

fn window(rank: u32, done: u64, iterations: Vec<Iteration>) -> Window {
    Window {
        process: ProcessId(u64::from(rank) + 1),
        duration_us: 1_000_000,
        state: ProcessState::Running,
        kernel_events: true,
        profiling: true,
        dropped: 0,
        unread: 0,
        own: None,
        comms: vec![CommWindow {
            comm: COMM,
            enqueued: done,
            started: done,
            completed: done,
            in_flight: None,
            idle_us: 0,
            unseen_us: 0,
            blocks: Vec::new(),
            edges: Vec::new(),
            iterations,
            pending_peers: Vec::new(),
            links: Vec::new(),
        }],
    }
}
