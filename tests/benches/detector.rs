//! What one window costs the detector: a simulated job of a tensor-, data-, expert- and pipeline-parallel kind is told
//! to it, learning included. The cost should not depend on the number of ranks, and at a hundred thousand windows a
//! second every microsecond is a tenth of a core.

use std::{hint::black_box, time::Duration};

use c4_detect::{
    detector::{Config, Detector},
    observation::{Observation, Timestamp},
};
use c4_tests::{
    scale::{args::Broken, fleet::Fleet, source},
    simulator::telemetry::Telemetry,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Long enough to learn what is normal and to judge by it.
const LENGTH: Duration = Duration::from_secs(40);

fn told(ranks: u32, broken: Broken, breaks: Duration) -> Vec<(Timestamp, Observation)> {
    let fleet = Fleet::new(ranks, ranks).expect("a multiple of 16");
    let mut told = Vec::new();
    let mut telemetry = Telemetry::new(source::spec(&fleet, 1, broken, breaks));
    telemetry.run(LENGTH.as_nanos() as u64, |now, observation| told.push((now, observation)));
    told
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    group.sample_size(10);
    for (name, broken) in [("healthy", Broken::None), ("hung", Broken::Hang)] {
        for ranks in [80, 800, 4000] {
            let told = told(ranks, broken, LENGTH / 2);
            let is_window = |entry: &&(_, Observation)| matches!(entry.1, Observation::Window(_));
            group.throughput(Throughput::Elements(told.iter().filter(is_window).count() as u64));
            group.bench_function(format!("{name}/{ranks}"), |bencher| {
                bencher.iter_batched(
                    || told.clone(),
                    |told| {
                        let mut detector = Detector::new(Config::default());
                        for (now, observation) in told {
                            black_box(detector.observe(observation, now));
                        }
                        detector
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
