//! From slow links to findings: one for each cause, with what it costs the job.

use std::collections::BTreeSet;

use super::{
    EXAMINE_US, Key,
    draft::draft,
    incidents::{Incident, clear_recovered},
    lateness::{absorb, explained_by_late_rank, somebody_is_late},
    locate::{self, Found},
    loss::{holds_up_all, lost},
    matrix::{Matrix, Pair, ends},
    watch::look_closer,
};
use crate::{
    case::Slot, config::Config, finding::Finding, health, model::Job, nodes::Nodes, observation::Timestamp,
    slow,
};

/// After a link was found slow, others of the same cause are waited for, so that a row is not told of as a cell: at
/// least this long, and until all that may have the same cause are known, but no longer than so many iterations.
const SETTLE_US: u64 = 3_000_000;
/// The same where a link holds the whole job up: others of its cause show as soon as it does.
const SETTLE_SOON_US: u64 = 1_500_000;
/// A link is told of while its samples are bad: within this time, or three iterations.
const RECENT_US: u64 = 10_000_000;

/// Compares links, and turns those that are slow into findings.
pub(crate) fn assess(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    if now.micros_since(job.network.examined) < EXAMINE_US {
        return;
    }
    job.network.examined = now;
    job.network.sweep(now);
    // What stands still tells of no steps, so a job that seems to hang and yet has slow links is slow.
    if job.stopping || job.cases.get(&Slot::Death).is_some() {
        return;
    }
    job.network.compare(config, now);
    if !job.held.is_empty() {
        slow::reconsider(job, nodes, config, now, out);
    }
    job.network.expire(now);
    look_closer(job, now);
    clear_recovered(job, now, out);
    let slow_now: BTreeSet<Pair> = job.network.slow.iter().filter_map(|key| ends(job, key)).collect();
    let holds_up = job.network.slow.iter().any(|key| holds_up_all(job, key));
    let settle_us = if holds_up { SETTLE_SOON_US } else { SETTLE_US };
    let ended = job.network.pace.ended();
    if job.network.incidents.settled(&slow_now, settle_us, ended, now) && !slow_now.is_empty() {
        let matrix = Matrix::of(job);
        let slow: Vec<locate::Link> = matrix.slow.keys().copied().collect();
        let causes = locate::locate(&slow, &matrix.fine);
        // Several causes at once are rather one that does not show yet.
        let is_partial = !matrix.unknown.is_empty() || causes.len() > 2;
        if is_partial && job.network.incidents.may_wait(&job.network.pace, holds_up, now) {
            return;
        }
        for found in causes {
            tell(job, &matrix, &found, nodes, config, now, out);
        }
    }
}

fn tell(
    job: &mut Job,
    matrix: &Matrix,
    found: &Found,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let keys = matrix.keys(found);
    let recent_us = RECENT_US.max(job.network.pace.now_us().saturating_mul(3));
    let slow_now = |key: &Key| {
        let cell = job.network.cells.get(key);
        job.network.slow.contains(key) && cell.is_some_and(|cell| cell.is_bad(now.before(recent_us)))
    };
    if !keys.iter().any(slow_now) {
        return;
    }
    let pairs = matrix.pairs(found);
    let related: Vec<u64> = job
        .network
        .incidents
        .open
        .iter()
        .filter(|incident| !incident.links.is_disjoint(&pairs))
        .map(|incident| incident.number)
        .collect();
    let known = related
        .first()
        .and_then(|number| job.network.incidents.open.iter().find(|incident| incident.number == *number));
    // As links recover one after the other, the cause does not become another one.
    if known.is_some_and(|incident| pairs.is_subset(&incident.links)) {
        return;
    }
    let lost = lost(job, &keys);
    if related.is_empty()
        && (lost < config.slow_floor
            || explained_by_late_rank(job, &keys, now, out)
            || somebody_is_late(job, &keys, lost))
    {
        return;
    }
    let mut draft = draft(job, matrix, found, &keys, lost, now);
    health::join(&mut draft, job, nodes, config, now);
    for number in related.iter().skip(1) {
        if let Some(old) = job.cases.clear(&Slot::Network(*number), now, out) {
            draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
        }
    }
    absorb(job, &keys, &mut draft, now, out);
    let incidents = &mut job.network.incidents;
    let number = related.first().copied().unwrap_or_else(|| {
        incidents.numbered += 1;
        incidents.numbered
    });
    let mut links = pairs;
    for incident in incidents.open.iter().filter(|incident| related.contains(&incident.number)) {
        links.extend(incident.links.iter().copied());
    }
    incidents.open.retain(|incident| !related.contains(&incident.number));
    incidents.open.push(Incident { number, links });
    let (name, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(Slot::Network(number), draft, &name, incarnation, now, out);
}
