//! Roles, on simulated jobs of several dimensions: a whole stage that is slow is the model's matter and accuses nobody; a
//! slow rank within a stage is a fault.

use std::collections::BTreeMap;

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind},
};
use c4_tests::simulator::{
    fault::{Fault, FaultKind},
    layout::Layout,
    noise::Noise,
    program::{Model, Sharding},
    telemetry::{EPOCH_US, Spec, Telemetry},
    workload::{Imbalance, Workload},
};

const SECOND_NS: u64 = 1_000_000_000;
const PIPELINE: Layout = Layout { tp: 1, cp: 1, dp: 4, pp: 4, ep: 1, gpus_per_node: 8 };
const TENSORS: Layout = Layout { tp: 2, cp: 1, dp: 4, pp: 4, ep: 1, gpus_per_node: 8 };
const EXPERTS: Layout = Layout { tp: 2, cp: 1, dp: 8, pp: 4, ep: 4, gpus_per_node: 8 };

/// Findings about work and ranks in their last form, by id; what is said of the network is tested with it.
fn watch(
    layout: Layout,
    uneven: Option<Imbalance>,
    faults: Vec<Fault>,
    seconds: u64,
    seed: u64,
) -> BTreeMap<String, Finding> {
    let model = Model {
        microbatches: 8,
        // Gradients of one layer are one bucket: several in a row look as if they ran beside computation.
        layers: 1,
        chunks: 1,
        layer_ns: 20_000_000,
        activation_bytes: 8 << 20,
        gradient_bytes: 64 << 20,
        sharding: if layout.ep > 1 { Sharding::Optimizer } else { Sharding::None },
        overlap: false,
        optimizer_ns: 10_000_000,
    };
    let workload = Workload { imbalance: uneven.into_iter().collect(), ..Workload::default() };
    let noise = Noise::ordinary();
    let spec = Spec { layout, model, workload, noise, faults, happenings: Vec::new(), seed, names: true };
    let (mut detector, mut findings) = (Detector::new(Config::default()), BTreeMap::new());
    Telemetry::new(spec).run(seconds * SECOND_NS, |now, observation| {
        for finding in detector.observe(observation, now) {
            if finding.kind != Kind::CommSlow {
                findings.insert(finding.id.0.clone(), finding);
            }
        }
    });
    findings
}

fn heavy(stage: u32) -> Option<Imbalance> {
    Some(Imbalance::HeavyStage { stage, factor: 1.5 })
}

/// All hardware of these ranks is slow for a while.
fn slow(ranks: std::ops::Range<u32>, from: u64, until: Option<u64>) -> Vec<Fault> {
    let kind = FaultKind::SlowCompute { factor: 1.5, every: 1 };
    let (start_ns, end_ns) = (from * SECOND_NS, until.map(|until| until * SECOND_NS));
    ranks.map(|rank| Fault { kind, rank, start_ns, end_ns }).collect()
}

fn ranks(finding: &Finding) -> Vec<u32> {
    finding.suspects.iter().filter_map(|suspect| suspect.rank).collect()
}

#[test]
fn a_heavy_stage_is_an_unbalanced_model() {
    for (layout, heaviest, seed) in [(PIPELINE, 0, 1), (PIPELINE, 1, 2), (PIPELINE, 3, 3), (TENSORS, 2, 4)] {
        let findings = watch(layout, heavy(heaviest), Vec::new(), 120, seed);
        let found: Vec<&Finding> = findings.values().collect();
        assert_eq!(found.len(), 1, "{layout:?} {heaviest}: {found:#?}");
        let finding = found[0];
        assert_eq!(finding.kind, Kind::WorkloadImbalance);
        assert_eq!(finding.evidence["imbalance"], "stage");
        assert_eq!(finding.evidence["since_start"], true);
        let stage = layout.ranks() / layout.pp;
        let expected: Vec<u32> = (heaviest * stage..(heaviest + 1) * stage).collect();
        assert_eq!(ranks(finding), expected);
        assert!(finding.cleared.is_none());
    }
}

#[test]
fn even_stages_are_silent_and_a_slow_rank_is_no_stage() {
    for (layout, seed) in [(PIPELINE, 11), (EXPERTS, 12)] {
        let findings = watch(layout, None, Vec::new(), 240, seed);
        assert!(findings.is_empty(), "{findings:#?}");
        let findings = watch(layout, None, slow(5..6, 60, None), 180, seed);
        let kinds: Vec<Kind> = findings.values().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [Kind::NonCommSlow], "{findings:#?}");
        assert_eq!(findings.values().next().map(ranks), Some(vec![5]));
    }
}

#[test]
fn a_stage_on_one_node_that_becomes_slow_may_be_that_node() {
    // Each stage has a node to itself.
    let layout = Layout { gpus_per_node: 4, ..PIPELINE };
    let from_start = watch(layout, heavy(2), Vec::new(), 120, 21);
    let later = watch(layout, None, slow(8..12, 90, None), 240, 22);
    let one = |findings: &BTreeMap<String, Finding>| {
        assert_eq!(findings.len(), 1, "{findings:#?}");
        findings.values().next().cloned().expect("one")
    };
    let (from_start, later) = (one(&from_start), one(&later));
    for finding in [&from_start, &later] {
        assert_eq!(finding.kind, Kind::WorkloadImbalance);
        assert_eq!(finding.evidence["nodes_of_this_stage_only"], serde_json::json!(["node-2"]));
        assert_eq!(ranks(finding), [8, 9, 10, 11]);
        assert!(finding.confidence <= 0.5, "nobody can be sure: {finding:#?}");
    }
    assert_eq!(from_start.evidence["since_start"], true);
    assert_eq!(later.evidence["since_start"], false);
    let since = (later.since.0 - EPOCH_US) as f64 / 1e6;
    assert!((since - 90.0).abs() < 10.0, "it began at {since} s");
    assert!(later.refuted_by.contains("hardware"), "{}", later.refuted_by);
}

#[test]
fn a_stage_that_is_even_again_is_cleared() {
    let findings = watch(PIPELINE, None, slow(4..8, 30, Some(120)), 300, 31);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let cleared = findings.values().next().and_then(|finding| finding.cleared).expect("cleared").0 - EPOCH_US;
    assert!((120..180).contains(&(cleared / 1_000_000)), "cleared at {cleared}");
}
