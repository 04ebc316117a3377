use super::{
    engine::Engine,
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::Noise,
    program::Model,
    telemetry::{Spec, Telemetry},
};
use c4_detect::observation::{Observation, ProcessState, StepState};

const MODEL: Model = Model {
    microbatches: 8,
    layers: 2,
    layer_ns: 2_000_000,
    activation_bytes: 4 << 20,
    gradient_bytes: 32 << 20,
    sharded: true,
    optimizer_ns: 5_000_000,
};

const LAYOUT: Layout = Layout { tp: 2, dp: 4, pp: 4, ep: 2, gpus_per_node: 8 };

fn engine(noise: Noise, faults: Vec<Fault>) -> Engine {
    Engine::new(LAYOUT, &MODEL, noise, faults, 7)
}

fn spec(faults: Vec<Fault>) -> Spec {
    Spec { layout: LAYOUT, model: MODEL, noise: Noise::ordinary(), faults, seed: 7 }
}

#[test]
fn healthy_iterations_end_and_ranks_of_a_group_finish_together() {
    let mut engine = engine(Noise::ordinary(), Vec::new());
    for _ in 0..20 {
        let record = engine.step();
        assert!(!record.stuck);
        let mut ends: Vec<_> = record.collectives.iter().filter(|c| c.group == Group::World).collect();
        assert_eq!(ends.len(), 32);
        ends.sort_by_key(|c| c.rank);
        assert!(ends.iter().all(|c| c.end_ns == ends[0].end_ns && c.start_ns <= c.end_ns));
    }
}

#[test]
fn without_noise_every_iteration_takes_the_same_time_and_the_pipeline_has_its_bubble() {
    let mut engine = engine(Noise::none(), Vec::new());
    let ends: Vec<u64> = (0..4).map(|_| engine.step().end_ns).collect();
    let durations: Vec<u64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(durations.windows(2).all(|pair| pair[0].abs_diff(pair[1]) < 1000), "{durations:?}");
    // 1F1B: (microbatches + stages − 1) forward and backward passes of 3 layers' time each, plus experts.
    let passes = u64::from(MODEL.microbatches + LAYOUT.pp - 1);
    let least = passes * u64::from(MODEL.layers) * 3 * MODEL.layer_ns;
    assert!(durations[0] > least && durations[0] < 3 * least, "{} of {least}", durations[0]);
}

#[test]
fn the_late_rank_waits_least_and_the_iteration_gets_longer() {
    let fault = Fault { kind: FaultKind::LateHost { ns: 50_000_000 }, rank: 5, start_ns: 0, end_ns: None };
    let healthy = engine(Noise::none(), Vec::new()).step().end_ns;
    let mut slow = engine(Noise::none(), vec![fault]);
    let record = slow.step();
    assert!(record.end_ns >= healthy + 40_000_000, "{} and {healthy}", record.end_ns);
    let first = |rank| {
        let of_rank = |c: &&super::engine::CollectiveRecord| c.rank == rank && c.group == Group::Tensor;
        record.collectives.iter().find(of_rank).copied().unwrap()
    };
    // Ranks 4 and 5 are a tensor-parallel pair: 4 waits for 5.
    let wait = |rank| first(rank).end_ns.unwrap() - first(rank).start_ns.unwrap();
    assert!(wait(4) > wait(5) + 40_000_000);
}

#[test]
fn every_fault_that_hangs_the_job_leaves_it_stuck() {
    let kinds = [
        FaultKind::Death,
        FaultKind::Stop,
        FaultKind::HostHang,
        FaultKind::GpuHang,
        FaultKind::LinkBlocked { peer: 9 },
        FaultKind::Desync,
    ];
    for kind in kinds {
        let mut engine =
            engine(Noise::ordinary(), vec![Fault { kind, rank: 8, start_ns: 5_000_000_000, end_ns: None }]);
        let stuck = (0..200).map(|_| engine.step()).find(|record| record.stuck);
        let stuck = stuck.unwrap_or_else(|| panic!("{kind:?} hung nothing"));
        assert!(stuck.collectives.iter().any(|c| c.end_ns.is_none()), "{kind:?}");
    }
}

#[test]
fn telemetry_shows_positions_in_order_and_the_stopped_process() {
    let fault = Fault { kind: FaultKind::Stop, rank: 3, start_ns: 8_000_000_000, end_ns: None };
    let mut last = 0;
    let mut stopped = 0;
    let mut receivers_waiting = 0;
    Telemetry::new(spec(vec![fault])).run(15_000_000_000, |now, observation| {
        assert!(now.0 >= last, "time goes on");
        last = now.0;
        let Observation::Window(window) = observation else { return };
        stopped += u32::from(window.state == ProcessState::Stopped);
        for comm in window.comms {
            assert!(comm.completed <= comm.started && comm.started <= comm.enqueued);
            receivers_waiting += comm.edges.iter().filter(|e| e.state == StepState::RecvWait).count();
        }
    });
    assert!(stopped >= 6, "windows of the stopped rank: {stopped}");
    assert!(receivers_waiting > 0);
}

#[test]
fn the_same_seed_tells_the_same() {
    let tell = || {
        let mut told = Vec::new();
        Telemetry::new(spec(Vec::new())).run(3_000_000_000, |now, observation| told.push((now, observation)));
        told
    };
    assert_eq!(tell(), tell());
}
