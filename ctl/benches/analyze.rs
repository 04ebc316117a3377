//! What `c4ctl analyze` does in a second, on one core: reading lines of an operation trace, and reading and diagnosing them.
//! To be reached: a million operations a second. `cargo bench -p c4ctl --bench analyze`.

use std::{fmt::Write as _, hint::black_box, path::PathBuf, sync::Arc};

use c4ctl::analyze::{
    collect::{Collector, Place},
    diagnose,
    problem::Problems,
    recording::Recording,
    trace,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const RANKS: u64 = 8;
const ITERATIONS: u64 = 12_500;
const OPERATIONS: u64 = 2 * RANKS * ITERATIONS;

/// A healthy job: two all-reduces an iteration, ranks that arrive within two milliseconds of each other.
fn lines() -> String {
    let mut text = String::new();
    for iteration in 0..ITERATIONS {
        for rank in 0..RANKS {
            let begin = iteration * 100_000;
            let late = (iteration * 7_919 + rank * 104_729) % 2_000;
            for (sequence, start, end) in [(0, 60_000 + late, 64_000), (1, 90_000 + late, 96_000)] {
                let (start, end, sequence) = (begin + start, begin + end, 2 * iteration + sequence);
                let _ = writeln!(
                    text,
                    r#"{{"rank":{rank},"comm":"dp0","seq":{sequence},"op":"all_reduce","bytes":1048576,"start_us":{start},"end_us":{end}}}"#
                );
            }
        }
    }
    text
}

fn read(text: &str) -> Recording {
    let (mut collector, mut problems) = (Collector::default(), Problems::default());
    let file = Arc::new(PathBuf::from("bench"));
    for (number, line) in (1..).zip(text.lines()) {
        let place = Place { file: Arc::clone(&file), line: number };
        match trace::parse(line.as_bytes(), None) {
            Ok(line) => collector.take(line, &place, &mut problems),
            Err(error) => panic!("{error}"),
        }
    }
    collector.finish(&mut problems)
}

fn analyze(criterion: &mut Criterion) {
    let text = lines();
    let mut group = criterion.benchmark_group("analyze");
    group.throughput(Throughput::Elements(OPERATIONS)).sample_size(10);
    group.bench_function("read", |bench| bench.iter(|| read(black_box(&text))));
    group.bench_function("read and diagnose", |bench| {
        bench.iter(|| {
            let diagnosis = diagnose(read(black_box(&text)));
            assert!(diagnosis.findings.is_empty());
        });
    });
    group.finish();
}

criterion_group!(benches, analyze);
criterion_main!(benches);
