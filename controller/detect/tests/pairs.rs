//! Two ranks on GPUs of one node: no network steps tell anything, and no majority tells who of them is wrong.

use c4_detect::{
    aggregate::{Aggregator, CompletedOperation},
    detector::{Config, Detector},
    finding::{Finding, Kind},
    observation::{
        CommId, CommWindow, InFlight, JobId, Membership, NodeName, Observation, OperationSignature,
        PendingPeer, ProcessId, ProcessInfo, ProcessState, Timestamp, Window,
    },
};

const S: u64 = 1_000_000;
const COMM: CommId = CommId(7);
/// Elements of the operations of an iteration: buckets of gradients, then the loss.
const ITERATION: [u64; 4] = [4096, 4096, 512, 8];
const STEP_NS: u64 = 10_000_000;

/// A rank as an agent sees it.
#[derive(Default)]
struct Rank {
    aggregator: Aggregator,
    completed: u64,
    waits_in: Option<u64>,
    enqueued_behind: u64,
    stopped: bool,
    pending: Vec<PendingPeer>,
}

impl Rank {
    fn call(&mut self, count: u64) {
        let start_ns = self.completed * STEP_NS;
        self.aggregator.push(&CompletedOperation {
            sequence: self.completed,
            signature: signature(count),
            start_ns,
            end_ns: start_ns + STEP_NS / 10,
            bytes: count * 4,
        });
        self.completed += 1;
    }

    fn window(&mut self, rank: u64, waited_us: u64) -> Window {
        let (blocks, iterations) = self.aggregator.take();
        let in_flight = self.waits_in.map(|count| InFlight {
            sequence: self.completed,
            signature: signature(count),
            started: true,
            age_us: waited_us,
            started_age_us: waited_us,
            before: self.aggregator.before(self.completed).map(Box::new),
        });
        let started = self.completed + u64::from(in_flight.is_some());
        for pending in &mut self.pending {
            pending.age_us = waited_us;
        }
        Window {
            process: ProcessId(rank),
            duration_us: S,
            state: if self.stopped { ProcessState::Stopped } else { ProcessState::Sleeping },
            kernel_events: true,
            profiling: true,
            dropped: 0,
            unread: 0,
            own: None,
            comms: vec![CommWindow {
                comm: COMM,
                enqueued: started + self.enqueued_behind,
                started,
                completed: self.completed,
                in_flight,
                idle_us: 0,
                unseen_us: 0,
                blocks,
                edges: Vec::new(),
                iterations,
                pending_peers: self.pending.clone(),
                links: Vec::new(),
            }],
        }
    }
}

fn signature(count: u64) -> OperationSignature {
    OperationSignature { function: "AllReduce".into(), count, datatype: "ncclFloat32".into(), root: 0 }
}

struct Pair {
    detector: Detector,
    now: u64,
    ranks: [Rank; 2],
    told: Vec<Finding>,
}

impl Pair {
    /// After a hundred iterations, with something else between the last fifty and ten more.
    fn trained() -> Self {
        let mut pair = Self {
            detector: Detector::new(Config::default()),
            now: 1_000 * S,
            ranks: Default::default(),
            told: Vec::new(),
        };
        for rank in 0..2 {
            pair.tell(Observation::ProcessStarted(ProcessInfo {
                process: ProcessId(rank),
                job: JobId("llm".into()),
                incarnation: 0,
                rank: Some(rank as u32),
                world_size: Some(2),
                node: NodeName("node-0".into()),
                gpu: Some(rank as u32),
                pid: 100 + rank as u32,
                blind_spots: Vec::new(),
            }));
            pair.tell(Observation::CommunicatorJoined(Membership {
                process: ProcessId(rank),
                comm: COMM,
                name: String::new(),
                size: 2,
                comm_rank: rank as u32,
            }));
        }
        pair.run(100);
        pair.call([99; 2]);
        pair.run(10);
        pair
    }

    fn tell(&mut self, observation: Observation) {
        self.told.extend(self.detector.observe(observation, Timestamp(self.now)));
    }

    fn call(&mut self, counts: [u64; 2]) {
        self.ranks.iter_mut().zip(counts).for_each(|(rank, count)| rank.call(count));
    }

    fn run(&mut self, iterations: usize) {
        for _ in 0..iterations {
            ITERATION.iter().for_each(|count| self.call([*count; 2]));
            self.pass(1, ITERATION.len() as u64 * STEP_NS / 1_000, 0);
        }
        assert_eq!(self.told, []);
    }

    /// Windows of this length, in which ranks wait that wait.
    fn pass(&mut self, windows: u64, us: u64, waited_us: u64) {
        for window in 1..=windows {
            self.now += us;
            for rank in 0..2 {
                let window = self.ranks[rank as usize].window(rank, waited_us + window * us);
                self.tell(Observation::Window(window));
            }
            self.tell(Observation::Tick);
        }
    }

    fn suspects(&self) -> Vec<Option<u32>> {
        self.told[0].suspects.iter().map(|suspect| suspect.rank).collect()
    }
}

#[test]
fn of_two_ranks_the_one_that_skips_an_operation_is_out_of_its_order() {
    for wrong in 0..2 {
        let mut pair = Pair::trained();
        ITERATION[..3].iter().for_each(|count| pair.call([*count; 2]));
        for rank in 0..2 {
            pair.ranks[rank].waits_in = Some(if rank == wrong { ITERATION[0] } else { ITERATION[3] });
        }
        pair.pass(4, S, 0);
        assert_eq!(pair.told[0].kind, Kind::Desync, "{:?}", pair.told);
        assert_eq!(pair.suspects(), [Some(wrong as u32)], "{}", pair.told[0].summary);
    }
}

#[test]
fn one_that_gets_out_of_a_smaller_operation_is_the_one_that_called_it() {
    for wrong in 0..2 {
        let mut pair = Pair::trained();
        ITERATION[..3].iter().for_each(|count| pair.call([*count; 2]));
        pair.ranks[wrong].call(ITERATION[3] / 2);
        pair.ranks[wrong].waits_in = Some(ITERATION[0]);
        pair.ranks[wrong].enqueued_behind = 3;
        pair.ranks[1 - wrong].waits_in = Some(ITERATION[3]);
        pair.pass(4, S, 0);
        assert_eq!(pair.told[0].kind, Kind::Desync, "{:?}", pair.told);
        assert_eq!(pair.suspects(), [Some(wrong as u32)], "{}", pair.told[0].summary);
    }
}

#[test]
fn where_the_iteration_is_not_known_both_are_named() {
    let mut pair = Pair::trained();
    // An evaluation, and a disagreement in it.
    (0..3).for_each(|_| pair.call([77; 2]));
    pair.ranks[0].waits_in = Some(77);
    pair.ranks[1].waits_in = Some(78);
    pair.pass(4, S, 0);
    assert_eq!(pair.told[0].kind, Kind::Desync, "{:?}", pair.told);
    assert_eq!(pair.suspects(), [Some(0), Some(1)], "{}", pair.told[0].summary);
}

#[test]
fn a_stopped_rank_is_named_though_transfers_with_it_have_not_begun() {
    for stopped in 0..2_usize {
        let mut pair = Pair::trained();
        pair.ranks[stopped].stopped = true;
        let pending =
            |is_send| PendingPeer { peer: stopped as u32, is_send, started: false, age_us: 0, position: 9 };
        pair.ranks[1 - stopped].pending = vec![pending(true), pending(false)];
        pair.pass(4, S, 0);
        assert_eq!(pair.told[0].kind, Kind::NonCommHang, "{:?}", pair.told);
        assert_eq!(pair.suspects(), [Some(stopped as u32)], "{}", pair.told[0].summary);
    }
}
