//! One fault from its injection to the job's recovery.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Injected, LEARN_LIMIT, Stage};
use crate::{
    cluster::{Cluster, Ctl, Interrupted, wait_for},
    ringjob::clock,
};

/// How long the diagnosis may take before it counts as missing.
const VERDICT_LIMIT: Duration = Duration::from_secs(30);
/// Iterations before a fault, more than between two checkpoints.
const SETTLE_ITERATIONS: u64 = 25;
/// How long a finding may stay open after its cause is gone.
const CLEAR_LIMIT: Duration = Duration::from_secs(30);

/// What came of one fault.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) injected: Injected,
    pub(super) what: String,
    /// The finding that named it, if any did.
    pub(super) finding: Option<Value>,
    /// From the injection to the detector's word.
    pub(super) verdict_seconds: Option<f64>,
    /// From the injection until the job was healthy again.
    pub(super) recovery_seconds: Option<f64>,
    /// Findings that accused somebody else, or of something else.
    pub(super) wrong: Vec<Value>,
}

impl Scene {
    pub(super) fn good(&self) -> bool {
        self.finding.is_some() && self.recovery_seconds.is_some() && self.wrong.is_empty()
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "fault": format!("{:?}", self.injected.fault).to_lowercase(),
            "rank": self.injected.rank,
            "what": self.what,
            "expected_kinds": self.injected.kinds(),
            "finding": self.finding.as_ref().map(|finding| finding["id"].clone()),
            "verdict_seconds": self.verdict_seconds,
            "recovery_seconds": self.recovery_seconds,
            "wrong_findings": self.wrong,
            "ok": self.good(),
        })
    }
}

/// Injects the fault and watches what C4 makes of it.
pub(super) fn play(
    injected: &Injected,
    cluster: &Cluster,
    job: &str,
    stage: &mut Stage,
) -> anyhow::Result<Scene> {
    let ctl = cluster.ctl();
    let known = ctl.findings(job)?;
    let before = ctl.job(job)?;
    let incarnation = before["job"]["incarnation"].as_u64().context("the job has no incarnation")?;
    settle(cluster, injected.rank)?;
    let (start, start_us) = (clock::now(), clock::unix_us());
    injected.inject(&cluster.faults())?;

    let finding = wait_for("the right finding", VERDICT_LIMIT, || {
        let findings = ctl.findings(job)?;
        Ok(new_findings(&findings, &known).find(|finding| injected.is_found_by(finding)).cloned())
    });
    let mut scene = Scene {
        injected: *injected,
        what: injected.describe(&cluster.spec),
        finding: None,
        verdict_seconds: None,
        recovery_seconds: None,
        wrong: Vec::new(),
    };
    match finding {
        Ok(finding) => {
            scene.verdict_seconds = seconds_after(start_us, &finding["detected"]);
            stage.verdict(&finding, scene.verdict_seconds);
            injected.take_back(&cluster.faults())?;
            match recover(&ctl, injected, job, incarnation, &finding["id"]) {
                Ok(document) => {
                    let seconds = clock::now().duration_since(start).as_secs_f64();
                    scene.recovery_seconds = Some(seconds);
                    stage.recovered(&document, injected.needs_restart(), seconds);
                }
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => stage.say(&format!("The job did not come back: {error:#}")),
            }
            scene.finding = Some(finding);
        }
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => {
            injected.take_back(&cluster.faults())?;
            stage.say(&format!("No right diagnosis: {error:#}"));
        }
    }
    let findings = ctl.findings(job)?;
    let wrong = new_findings(&findings, &known).filter(|finding| !injected.is_found_by(finding));
    scene.wrong = wrong.cloned().collect();
    for finding in &scene.wrong {
        stage.say(&format!("WRONG finding: {finding}"));
    }
    Ok(scene)
}

/// Lets the job run until it has something to lose: a checkpoint, and iterations since.
fn settle(cluster: &Cluster, rank: u32) -> anyhow::Result<()> {
    let iteration = || cluster.faults().read_iteration(rank).map(|(iteration, _)| iteration);
    let wanted = iteration().unwrap_or(0) + SETTLE_ITERATIONS;
    wait_for("the job to run for a while", LEARN_LIMIT, || {
        Ok(iteration().filter(|reached| *reached >= wanted))
    })?;
    Ok(())
}

/// Waits until the job is healthy (after a restart where one is needed) and the finding is cleared.
fn recover(ctl: &Ctl, injected: &Injected, job: &str, incarnation: u64, id: &Value) -> anyhow::Result<Value> {
    let wanted = incarnation + u64::from(injected.needs_restart());
    ctl.wait_cleared(job, id, CLEAR_LIMIT)?;
    let document = ctl.wait_healthy(job, wanted, LEARN_LIMIT)?;
    if injected.needs_restart() {
        wait_for("the downtime to be accounted for", CLEAR_LIMIT, || {
            let document = ctl.job(job)?;
            let entries = document["ledger"]["entries"].as_array().context("no ledger")?;
            Ok(entries.iter().any(|entry| entry["finding"] == *id && entry["complete"] == true).then_some(()))
        })?;
    }
    Ok(document)
}

fn new_findings<'a>(findings: &'a [Value], known: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    findings.iter().filter(|finding| known.iter().all(|known| known["id"] != finding["id"]))
}

/// Seconds from a Unix time in microseconds to an RFC 3339 time stamp.
fn seconds_after(start_us: u64, stamp: &Value) -> Option<f64> {
    let stamp: jiff::Timestamp = stamp.as_str()?.parse().ok()?;
    Some((stamp.as_microsecond() as f64 - start_us as f64) / 1e6)
}
