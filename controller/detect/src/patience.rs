//! From which wait on something hangs. That depends on what is waited for.
//!
//! * A collective or transfer that everybody is in takes as long as it takes to move the data: waits that resolved by
//!   themselves bound that from above, however long the job's iterations are.
//! * A rank that has not come may compute. One that is slow still shows progress somewhere, as often as it usually does:
//!   in the collectives of its layers, say. Only one that shows none for several times as long as is usual in the job
//!   hangs; and where nothing is known of that, an iteration is the measure.
//!
//! Until a communicator's rhythm is known, all of this takes as long as a warm-up may take.

use std::collections::BTreeMap;

use crate::{
    config::Config,
    model::{Comm, Job, Process},
    observation::{CommId, Timestamp, Window},
    stall::{Holder, Why},
};

/// The share of the usual times without progress that are taken for usual: longer ones are pauses.
const USUAL: f64 = 0.97;
/// Windows are taken once a second: so much of the time without progress may not be seen at either end.
const UNSEEN_US: u64 = 2_000_000;

/// For an operation that all members are in.
pub(crate) fn inside(comm: &Comm, config: &Config) -> u64 {
    if comm.rhythm.known() { pauses(comm, config) } else { comm.rhythm.hang_us(config) }
}

/// For members that others wait for.
pub(crate) fn held(job: &Job, comm: &Comm, holders: &[Holder], config: &Config) -> u64 {
    let by_iteration_us = comm.rhythm.hang_us(config);
    let Some(usual_us) = job.quiet_us.quantile(USUAL).filter(|_| comm.rhythm.known()) else {
        return by_iteration_us;
    };
    let by_progress_us = ((usual_us * config.hang_iterations) as u64).max(pauses(comm, config));
    let quiet = holders.iter().all(|holder| {
        let quiet_us = job.process(holder.process).map_or(0, quiet_us);
        holder.why == Why::Left || quiet_us.saturating_add(UNSEEN_US) >= by_progress_us
    });
    if quiet { by_progress_us.min(by_iteration_us) } else { by_iteration_us }
}

/// For ranks whose side of a send or receive others wait for.
pub(crate) fn unanswered(job: &Job, holders: &[Holder], config: &Config) -> u64 {
    longest(job, config, |comm| held(job, comm, holders, config))
}

/// For a send or receive that both sides are in.
pub(crate) fn transfer(job: &Job, config: &Config) -> u64 {
    longest(job, config, |comm| inside(comm, config))
}

/// Pairs of ranks have no rhythm of their own.
fn longest(job: &Job, config: &Config, of: impl Fn(&Comm) -> u64) -> u64 {
    let known = job.comms.values().filter(|comm| comm.rhythm.known());
    known.map(of).max().unwrap_or_else(|| config.learning_hang_ms.saturating_mul(1_000))
}

/// Beyond what resolved by itself.
fn pauses(comm: &Comm, config: &Config) -> u64 {
    let pause_us = (comm.rhythm.longest_wait_us() as f64 * config.pause_margin) as u64;
    pause_us.max(config.hang_floor_ms.saturating_mul(1_000))
}

/// When a collective last began or ended on any communicator of a process, if that was since its last window.
pub(crate) fn progress(
    comms: &BTreeMap<CommId, Comm>,
    process: &Process,
    window: &Window,
    now: Timestamp,
) -> Option<Timestamp> {
    let moved = window.comms.iter().filter_map(|now_there| {
        let comm_rank = process.memberships.get(&now_there.comm)?;
        let before = comms.get(&now_there.comm)?.members.get(comm_rank)?;
        let moved = now_there.completed > before.completed || now_there.started > before.started;
        // Where something is in flight, when the one before ended is not told.
        moved.then(|| now.before(if now_there.in_flight.is_none() { now_there.idle_us } else { 0 }))
    });
    moved.max()
}

/// How long a process had shown no progress when it was last seen.
fn quiet_us(process: &Process) -> u64 {
    process.seen.zip(process.progressed).map_or(0, |(seen, progressed)| seen.micros_since(progressed))
}
