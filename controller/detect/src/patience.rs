//! From which wait on something hangs. That depends on what is waited for.
//!
//! * A collective or transfer that everybody is in takes as long as it takes to move the data: waits that resolved by
//!   themselves bound that from above, however long the job's iterations are.
//! * A rank that has not come may compute. One that is slow still shows progress somewhere, as often as it usually does:
//!   in the collectives of its layers, say. Only one that shows none for several times as long as is usual in the job
//!   hangs; and where nothing is known of that, an iteration is the measure. Agents tell it best: for how long a rank has been
//!   by itself, in no collective and receiving nothing, against how long ranks of the job usually are at a stretch.
//! * Pauses excuse what looks like them. Waits that resolved by themselves are remembered by how those looked that were
//!   waited for: rank 0 writing checkpoints for ten seconds says nothing of a GPU that is busy, or of a host that sleeps. A host on
//!   a CPU may only wait for its GPU there, as drivers do: where that is busy and touches no memory, nobody writes a checkpoint or computes.
//!
//! Until a communicator's rhythm is known, all of this takes as long as a warm-up may take.

use crate::{
    config::Config,
    model::{Comm, Job, Member, Process},
    observation::{CommWindow, OwnTime, Timestamp},
    rhythm::Manner,
    stall::{Holder, Why},
    wait::Waits,
};

/// The share of the usual times without progress that are taken for usual: longer ones are pauses.
const USUAL: f64 = 0.97;
/// How many times as long is waited for ranks that get on: what is slow takes several times as long, and ends.
const GETS_ON: u64 = 4;
/// Windows are taken once a second: so much of the time without progress may not be seen at either end.
const UNSEEN_US: u64 = 2_000_000;
/// Two ranks' last windows were taken at most this long one after the other.
const WINDOW_US: u64 = 1_000_000;

/// Nothing is waited for for less than this. Known without looking at all communicators of the job, as what follows does for each
/// send and receive that ranks are in: of a large job, thousands are under way at any moment.
pub(crate) fn least(config: &Config) -> u64 {
    config.hang_floor_ms.min(config.learning_hang_ms).saturating_mul(1_000)
}

/// For an operation that all members are in.
pub(crate) fn inside(comm: &Comm, config: &Config) -> u64 {
    if !comm.rhythm.known() {
        return comm.rhythm.hang_us(config);
    }
    pauses(comm, config).max(beyond(comm.rhythm.resolved_us(), config))
}

/// For members that others wait for.
pub(crate) fn held(job: &Job, comm: &Comm, holders: &[Holder], config: &Config) -> u64 {
    let by_iteration_us = comm.rhythm.hang_us(config);
    if holders.iter().all(|holder| holder.why == Why::Left || own(job, holder).is_some()) {
        return by_own(job, comm, holders, by_iteration_us, config);
    }
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

/// The same where agents tell for how long ranks have been by themselves. If that is several times as long as ranks of the job
/// usually are at a stretch, it is longer than a slow iteration keeps them. None of whom is: they send and receive, and get on,
/// however late they are.
fn by_own(job: &Job, comm: &Comm, holders: &[Holder], by_iteration_us: u64, config: &Config) -> u64 {
    let Some(usual_us) = job.own_us.quantile(USUAL).filter(|_| comm.rhythm.known()) else {
        return by_iteration_us;
    };
    let excused_us = excused(comm, Manner::lasting(job, holders, config), config);
    let by_own_us = ((usual_us * config.hang_iterations) as u64).max(excused_us);
    let is_alone = |own: &OwnTime| own.now_us.saturating_add(WINDOW_US) >= by_own_us;
    let told = || holders.iter().filter_map(|holder| own(job, holder));
    match told().filter(is_alone).count() {
        0 if told().next().is_some() => by_iteration_us.saturating_mul(GETS_ON),
        alone if alone == told().count() => by_own_us.min(by_iteration_us),
        _ => by_iteration_us,
    }
}

fn own(job: &Job, holder: &Holder) -> Option<OwnTime> {
    job.process(holder.process).and_then(|process| process.own).filter(|_| holder.why != Why::Left)
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
    excused(comm, Manner::Busy, config)
}

/// Beyond what resolved by itself and says something of ranks that are late in this manner.
fn excused(comm: &Comm, manner: Manner, config: &Config) -> u64 {
    beyond(comm.rhythm.longest_pause_us(manner), config)
}

/// From which length on a wait is none like the longest that resolved by itself, in microseconds.
pub(crate) fn beyond(resolved_us: u64, config: &Config) -> u64 {
    let longer_us = (resolved_us as f64 * config.pause_margin) as u64;
    longer_us.max(config.hang_floor_ms.saturating_mul(1_000))
}

/// Notes in which manner those are late for whom others wait, so that it is known of what they wait for, should they come.
pub(crate) fn note(job: &mut Job, waits: &Waits) {
    for (id, stall) in waits.stalls.iter().filter(|(_, stall)| !stall.holders.is_empty()) {
        let manner = Manner::seen(job, &stall.holders);
        if let Some(comm) = job.comms.get_mut(id) {
            comm.rhythm.waits_at(stall.operation, manner);
        }
    }
}

impl Manner {
    /// In which manner these are late for all that their last windows show, if that is taken for the least usual.
    fn seen(job: &Job, holders: &[Holder]) -> Self {
        let manner = |holder: &Holder| match holder.why {
            Why::Queued => Self::OnGpu,
            _ if job.process(holder.process).is_some_and(Process::gpu_spins) => Self::OnGpu,
            _ if job.process(holder.process).is_some_and(|process| process.asleep.is_some()) => Self::Asleep,
            _ => Self::Busy,
        };
        holders.iter().map(manner).max().unwrap_or(Self::OnGpu)
    }

    /// In which manner these have been late for a while, if that is taken for the most usual.
    fn lasting(job: &Job, holders: &[Holder], config: &Config) -> Self {
        let least_us = config.hang_floor_ms.saturating_mul(1_000).saturating_sub(WINDOW_US);
        let sleeps = |process: &Process| {
            process.seen.zip(process.asleep).is_some_and(|(seen, since)| seen.micros_since(since) >= least_us)
        };
        let manner = |holder: &Holder| match holder.why {
            Why::Queued => Self::OnGpu,
            Why::NotEntered if job.process(holder.process).is_some_and(Process::gpu_spins) => Self::OnGpu,
            Why::NotEntered if job.process(holder.process).is_some_and(sleeps) => Self::Asleep,
            _ => Self::Busy,
        };
        holders.iter().map(manner).min().unwrap_or(Self::Busy)
    }
}

/// When a collective last began or ended on a communicator of a process, if that was since its last window, before which it was there.
pub(crate) fn progress(before: &Member, now_there: &CommWindow, now: Timestamp) -> Option<Timestamp> {
    let moved = now_there.completed > before.completed || now_there.started > before.started;
    // Where something is in flight, when the one before ended is not told.
    moved.then(|| now.before(if now_there.in_flight.is_none() { now_there.idle_us } else { 0 }))
}

/// How long a process had shown no progress when it was last seen.
fn quiet_us(process: &Process) -> u64 {
    process.seen.zip(process.progressed).map_or(0, |(seen, progressed)| seen.micros_since(progressed))
}
