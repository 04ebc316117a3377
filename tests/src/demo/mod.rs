//! The demo: a cluster on this machine, a fault, the diagnosis as it happens, the restart, what it cost.
//!
//! It is its own check. The demo knows what it broke, so it says whether C4 named the right rank and the right kind of
//! fault, whether the job came back, and whether C4 accused anybody else.

mod args;
mod fault;
mod report;
mod scene;

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

pub use args::Args;
pub use fault::{Fault, Injected};
pub use report::Stage;

use crate::{
    cluster::{Cluster, Spec},
    ringjob::mix,
};
use scene::{Scene, play};

/// Name of the demo's job.
const JOB: &str = "demo";
/// How long the job may take to be known well, from its start or restart.
const LEARN_LIMIT: Duration = Duration::from_secs(60);

/// Runs the demo; says whether everything was as it should be.
///
/// # Errors
/// When the cluster cannot be started or asked.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let mut stage = Stage::new(args.json);
    stage.say("C4 demo: a controller, three agents and eight ranks on this machine; no root, no GPU.");
    stage.say("The ranks are `ringjob`, a stand-in for PyTorch with NCCL; everything else is C4 as shipped.");
    let mut cluster = Cluster::start(spec(args)).context("the cluster does not start")?;
    let outcome = perform(args, &cluster, &mut stage);
    if outcome.is_err() {
        stage.say(&cluster.logs());
    }
    stage.say("Taking everything down …");
    cluster.stop();
    if let Some(path) = &args.record {
        std::fs::copy(cluster.record(), path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let (document, good) = outcome?;
    if args.json {
        println!("{document:#}");
    }
    stage.say(if good { "The demo went as it should." } else { "The demo did NOT go as it should." });
    Ok(good)
}

fn spec(args: &Args) -> Spec {
    let mut spec = Spec::eight_ranks(JOB);
    spec.ring_args =
        ["--compute-us", "100000", "--checkpoint-every", "20", "--seed"].map(str::to_owned).into();
    spec.ring_args.push(args.seed.to_string());
    spec
}

fn perform(args: &Args, cluster: &Cluster, stage: &mut Stage) -> anyhow::Result<(Value, bool)> {
    let ctl = cluster.ctl();
    let _events = stage.follow(&ctl)?;
    stage.say("Waiting until C4 knows the job's rhythm …");
    let job = ctl.wait_healthy(JOB, 0, LEARN_LIMIT)?;
    let iteration = job["job"]["iteration_seconds"].as_f64().unwrap_or(0.0);
    stage.say(&format!("The job is healthy; an iteration takes {iteration:.3} s."));

    let faults = args.faults();
    let mut scenes: Vec<Scene> = Vec::new();
    for (index, fault) in faults.iter().enumerate() {
        let rank = (mix(&[args.seed, index as u64]) % u64::from(cluster.spec.world_size())) as u32;
        let injected = Injected::new(*fault, args.rank.unwrap_or(rank), &cluster.spec);
        stage.heading(&format!(
            "Fault {} of {}: {}",
            index + 1,
            faults.len(),
            injected.describe(&cluster.spec)
        ));
        scenes.push(play(&injected, cluster, JOB, stage)?);
    }
    let job = ctl.job(JOB)?;
    let good = scenes.iter().all(|scene| scene.good());
    stage.ledger(&ctl, JOB)?;
    stage.table(&scenes);
    let document = json!({
        "ok": good,
        "findings": ctl.findings(JOB)?,
        "ledger": job["ledger"]["entries"],
        "downtime_seconds": job["ledger"]["total_seconds"],
        "faults": scenes.iter().map(Scene::document).collect::<Vec<_>>(),
    });
    Ok((document, good))
}
