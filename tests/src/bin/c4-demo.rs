//! The demo; `./tests/demo` builds what it needs and runs it. See `c4_tests::demo`.

use std::process::ExitCode;

use c4_tests::{cluster, demo};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// As a shell reports a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let args = demo::Args::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut show = tokio::task::spawn_blocking(move || demo::run(&args));
    let ended = tokio::select! {
        ended = &mut show => ended,
        _ = interrupt.recv() => interrupted(show).await,
        _ = terminate.recv() => interrupted(show).await,
    };
    match ended? {
        Ok(good) => Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Err(error) if error.is::<cluster::Interrupted>() => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => Err(error),
    }
}

/// Has the demo stop waiting for whatever it waits for, and clean up.
async fn interrupted(
    show: tokio::task::JoinHandle<anyhow::Result<bool>>,
) -> Result<anyhow::Result<bool>, tokio::task::JoinError> {
    eprintln!("Interrupted, cleaning up …");
    cluster::interrupt();
    show.await
}
