//! What becomes of nodes in Slurm while nobody of us touches them: asked for now and then, and told to the brain.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    scheduler::Told,
    slurm::{self, SlurmActuator},
};
use crate::brain::Input;

/// Runs until cancelled. A Slurm that does not answer is asked again; that it does not is logged once.
pub async fn watch_slurm(
    slurm: Arc<SlurmActuator>,
    every: Duration,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answered = true;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match slurm.nodes().await {
            Ok(nodes) => {
                answered = true;
                let told = Told { scheduler: slurm::NAME, nodes, jobs: None };
                if inputs.send(Input::Scheduler(told)).await.is_err() {
                    return;
                }
            }
            Err(error) if answered => {
                answered = false;
                tracing::warn!("Slurm cannot be asked about its nodes: {error}");
            }
            Err(_) => {}
        }
    }
}
