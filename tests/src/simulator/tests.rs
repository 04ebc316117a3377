use std::collections::BTreeMap;

use super::{
    engine::{CollectiveRecord, Engine, Progress, Record},
    fault::{Fault, FaultKind},
    layout::{Group, Layout},
    noise::Noise,
    program::{Model, Sharding},
    telemetry::{Happening, Spec, Telemetry},
    workload::{Imbalance, Workload},
};
use c4_detect::observation::{Observation, ProcessState, StepState};

const MODEL: Model = Model {
    microbatches: 8,
    layers: 2,
    chunks: 1,
    layer_ns: 2_000_000,
    activation_bytes: 4 << 20,
    gradient_bytes: 32 << 20,
    sharding: Sharding::Optimizer,
    overlap: true,
    optimizer_ns: 5_000_000,
};

const LAYOUT: Layout = Layout { tp: 2, cp: 1, dp: 4, pp: 4, ep: 2, gpus_per_node: 8 };

fn engine_of(layout: Layout, model: &Model, workload: Workload, noise: Noise, faults: Vec<Fault>) -> Engine {
    Engine::new(layout, model, workload, noise, faults, 7)
}

fn engine(noise: Noise, faults: Vec<Fault>) -> Engine {
    engine_of(LAYOUT, &MODEL, Workload::default(), noise, faults)
}

fn spec(faults: Vec<Fault>) -> Spec {
    Spec {
        layout: LAYOUT,
        model: MODEL,
        workload: Workload::default(),
        names: true,
        noise: Noise::ordinary(),
        faults,
        happenings: Vec::new(),
        seed: 7,
    }
}

/// One iteration and its collectives.
fn step(engine: &mut Engine) -> (Progress, Vec<CollectiveRecord>) {
    let mut collectives = Vec::new();
    let progress = engine.step(&mut |record| {
        if let Record::Collective(collective) = record {
            collectives.push(collective);
        }
    });
    (progress, collectives)
}

#[test]
fn healthy_iterations_end_and_ranks_of_a_group_finish_together() {
    let mut engine = engine(Noise::ordinary(), Vec::new());
    for _ in 0..20 {
        let (progress, collectives) = step(&mut engine);
        assert!(!progress.is_stuck);
        let ends: Vec<_> = collectives.iter().filter(|c| c.group == Group::World).collect();
        assert_eq!(ends.len(), 32);
        assert!(ends.iter().all(|c| c.end_ns == ends[0].end_ns && c.start_ns <= c.end_ns));
    }
}

#[test]
fn every_way_to_cut_up_a_model_runs_to_its_end() {
    let layouts = [
        Layout::data_parallel(8),
        Layout { tp: 2, cp: 2, dp: 2, pp: 2, ep: 1, gpus_per_node: 8 },
        Layout { tp: 1, cp: 1, dp: 4, pp: 4, ep: 2, gpus_per_node: 8 },
    ];
    for layout in layouts {
        for sharding in [Sharding::None, Sharding::Optimizer, Sharding::Full] {
            for (overlap, chunks) in [(false, 1), (true, 1), (false, 2), (true, 3)] {
                let model = Model { sharding, overlap, chunks, ..MODEL };
                let workload = Workload {
                    imbalance: vec![Imbalance::Data { sigma: 0.1 }, Imbalance::Experts { sigma: 0.1 }],
                    phases: vec![(2, Model { microbatches: 16, ..model })],
                    growth: 0.01,
                    evaluation: Some((3, 2)),
                    lengths: 0.2,
                };
                let mut engine = engine_of(layout, &model, workload, Noise::ordinary(), Vec::new());
                let evaluations = (0..8).filter(|_| {
                    let (progress, _) = step(&mut engine);
                    assert!(!progress.is_stuck, "{layout:?} {model:?}");
                    progress.is_evaluation
                });
                assert_eq!(evaluations.count(), 2);
            }
        }
    }
}

#[test]
fn interleaving_shrinks_the_bubble_and_overlap_hides_communication() {
    let layout = Layout { tp: 2, cp: 1, dp: 2, pp: 4, ep: 1, gpus_per_node: 8 };
    let length = |model: Model| {
        let mut engine = engine_of(layout, &model, Workload::default(), Noise::none(), Vec::new());
        step(&mut engine).0.end_ns
    };
    let plain = Model { layers: 4, overlap: false, ..MODEL };
    let interleaved = Model { layers: 1, chunks: 4, ..plain };
    let overlapping = Model { overlap: true, ..plain };
    assert!(length(interleaved) < length(plain) * 95 / 100);
    assert!(length(overlapping) < length(plain));
}

#[test]
fn without_noise_every_iteration_takes_the_same_time_and_the_pipeline_has_its_bubble() {
    let mut engine = engine(Noise::none(), Vec::new());
    let ends: Vec<u64> = (0..4).map(|_| step(&mut engine).0.end_ns).collect();
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
    let healthy = step(&mut engine(Noise::none(), Vec::new())).0.end_ns;
    let (progress, collectives) = step(&mut engine(Noise::none(), vec![fault]));
    assert!(progress.end_ns >= healthy + 40_000_000, "{} and {healthy}", progress.end_ns);
    let first = |rank| {
        let of_rank = |c: &&CollectiveRecord| c.rank == rank && c.group == Group::Tensor;
        collectives.iter().find(of_rank).copied().unwrap()
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
        FaultKind::Deadlock,
    ];
    for kind in kinds {
        let faults = vec![Fault { kind, rank: 8, start_ns: 5_000_000_000, end_ns: None }];
        let model = Model { overlap: false, ..MODEL };
        let mut engine = engine_of(LAYOUT, &model, Workload::default(), Noise::ordinary(), faults);
        let stuck = (0..200).map(|_| step(&mut engine)).find(|(progress, _)| progress.is_stuck);
        let (progress, collectives) = stuck.unwrap_or_else(|| panic!("{kind:?} hung nothing"));
        assert!(progress.stalled_ns.is_some_and(|at| at > 4_000_000_000), "{kind:?} {progress:?}");
        assert!(collectives.iter().any(|c| c.end_ns.is_none()), "{kind:?}");
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

#[test]
fn an_agent_that_is_lost_is_silent_and_its_ranks_are_told_of_again() {
    let lost = Happening::AgentLost { node: 1, from_ns: 5_000_000_000, until_ns: Some(9_000_000_000) };
    let mut spec = spec(Vec::new());
    spec.happenings.push(lost);
    let (mut silent, mut again) = (true, 0);
    Telemetry::new(spec).run(12_000_000_000, |now, observation| {
        let at_s = (now.0 - super::telemetry::EPOCH_US) / 1_000_000;
        match observation {
            Observation::Window(window) if (9..17).contains(&window.process.0) => {
                silent &= !(5..9).contains(&at_s);
            }
            Observation::ProcessStarted(_) if at_s == 9 => again += 1,
            _ => {}
        }
    });
    assert!(silent);
    assert_eq!(again, 8);
}

#[test]
fn a_job_that_is_done_ends_on_all_ranks() {
    let mut spec = spec(Vec::new());
    spec.happenings.push(Happening::Ends { at_ns: 5_000_000_000 });
    let (mut ends, mut after) = (0, 0);
    Telemetry::new(spec).run(20_000_000_000, |_, observation| match observation {
        Observation::ProcessEnded(end) => {
            assert!(end.finalized);
            ends += 1;
        }
        Observation::Window(_) if ends == 32 => after += 1,
        _ => {}
    });
    assert_eq!((ends, after), (32, 0));
}

/// Network time per byte at both ends of every link, by ranks: LAYOUT's pipelines leave each node at every stage.
fn link_costs(fault: FaultKind, rank: u32, seed: u64) -> BTreeMap<(u32, u32), [f64; 2]> {
    let fault = Fault { kind: fault, rank, start_ns: 0, end_ns: None };
    let mut sums: BTreeMap<(u32, u32), [(u64, u64); 2]> = BTreeMap::new();
    Telemetry::new(Spec { seed, ..spec(vec![fault]) }).run(30_000_000_000, |_, observation| {
        let Observation::Window(window) = observation else { return };
        let own = (window.process.0 - 1) as u32;
        for comm in window.comms.iter().filter(|comm| comm.comm.0 >> 32 == Group::Pipeline as u64 + 1) {
            let index = comm.comm.0 as u32;
            for link in &comm.links {
                let peer = LAYOUT.member(Group::Pipeline, index, link.peer);
                let ends = if link.is_send { (own, peer) } else { (peer, own) };
                let sum = &mut sums.entry(ends).or_default()[usize::from(!link.is_send)];
                *sum = (sum.0 + link.network_ns, sum.1 + link.bytes);
            }
        }
    });
    sums.into_iter()
        .map(|(ends, both)| (ends, both.map(|(ns, bytes)| ns as f64 / bytes.max(1) as f64)))
        .collect()
}

#[test]
fn a_slow_nic_shows_at_both_ends_of_its_links_only() {
    let costs = link_costs(FaultKind::SlowNic { factor: 5.0 }, 8, 7);
    assert!(costs.len() > 40, "{}", costs.len());
    let smaller =
        |(src, dst): &(u32, u32), costs: &[f64; 2]| ((*src == 8 || *dst == 8), costs[0].min(costs[1]));
    let (slow, fine): (Vec<_>, Vec<_>) =
        costs.iter().map(|(ends, costs)| smaller(ends, costs)).partition(|(touches, _)| *touches);
    let least = slow.iter().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min);
    let most = fine.iter().map(|(_, cost)| *cost).fold(0.0, f64::max);
    assert!(slow.len() >= 2 && least > 2.0 * most, "{slow:?} {most}");
}

#[test]
fn a_late_rank_shows_at_one_end_of_its_links_only() {
    // Seed 6: a network of sockets, where data for a late rank lies with the network.
    let costs = link_costs(FaultKind::LateHost { ns: 100_000_000 }, 8, 6);
    let to_late = costs.iter().find(|((_, dst), _)| *dst == 8).map(|(_, costs)| *costs).unwrap();
    assert!(to_late[0] > 2.0 * to_late[1], "{to_late:?}");
    let mut smaller: Vec<f64> = costs.values().map(|costs| costs[0].min(costs[1])).collect();
    smaller.sort_by(f64::total_cmp);
    let (median, most) = (smaller[smaller.len() / 2], smaller[smaller.len() - 1]);
    assert!(most < 1.5 * median, "no link looks slow: {most}, the median is {median}");
}
