//! A short run of `c4-soak`. A long one is made by hand: `cargo run --release -p c4-tests --bin c4-soak -- --seconds 3600 --jobs 400`.

use c4_tests::soak::{self, Args, Wound};
use clap::ValueEnum;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_every_fault_is_told_once() {
    let args = Args {
        seconds: 30,
        standing: 0,
        hurry: true,
        jobs: 20,
        only: Vec::new(),
        kill_real: false,
        seed: 7,
        json: false,
    };
    let report = soak::run(&args).await.expect("it runs");
    println!("{}", report.text());
    assert!(report.verdict.injected() > 0, "{}", report.text());
    assert_eq!(
        report.wounds.len(),
        Wound::value_variants().len(),
        "everything was broken: {}",
        report.text()
    );
    assert!(report.passes(), "{}", report.text());
}
