//! Which of several processes that ended together took the others along.
//!
//! The order in which their ends are seen does not tell: agents look every 100 ms, and a process whose GPU has much to
//! give back ends later than peers that fail of its loss. So what counts among those that ended close together is, in
//! this order:
//! 1. Who was killed, since those who lose a peer fail with an exit code, abort, or crash.
//! 2. Who got least far: the dead call nothing more, while their peers go on until they notice.
//! 3. Who was seen to end first.
//!
//! One that its agent found ended, when it began to look, ended at some time after its last sign of life: it may be the
//! cause of whatever ended after that.

use std::collections::BTreeMap;

use crate::{
    model::{Comm, End, Job},
    observation::ProcessId,
};

use super::evidence::{Others, asked, is_failure, is_final, killed, needed};

/// Ends this close are put in order by what is known of them: agents look every 100 ms, and may wait a look for the
/// exit status.
pub(super) const TOGETHER_US: u64 = 150_000;
/// The same where one was told later than a window comes: a detector that has only just begun to hear of a node does not know
/// for how long its news was on its way.
const LATE_TOGETHER_US: u64 = 1_000_000;
/// What is told so long after it happened was kept, or held up.
const LATE_US: u64 = 1_100_000;
/// A window taken so long before the end or later holds everything the process ever called: agents send one because of
/// the end.
const LAST_WINDOW_US: u64 = 20_000;

/// The first cause of the ends that are not judged yet.
pub(super) struct First {
    pub(super) process: ProcessId,
    /// Who ended together with it and might as well be the cause, but for the order in which they were seen to end.
    pub(super) rivals: Vec<ProcessId>,
}

/// Ends that are no further apart than this are put in order by what is known of them, if one of them is this.
pub(super) fn together_us(end: &End) -> u64 {
    if end.told.micros_since(end.at) > LATE_US { LATE_TOGETHER_US } else { TOGETHER_US }
}

/// Of the ends not yet judged, the first that may have taken the others along. `death` is known to be one.
pub(super) fn cause(job: &Job, death: ProcessId) -> Option<First> {
    let others = Others::of(job);
    let ends = job.pending_ends.iter().filter_map(|id| Some((*id, job.process(*id)?.end.as_ref()?)));
    let unknown = |end: &End| end.found && !end.finalized && end.exit_code.is_none();
    let causes: Vec<(ProcessId, &End)> = ends
        .filter(|(id, end)| {
            let failed = is_failure(job, *id, &others) || asked(end) || unknown(end);
            *id == death || failed || needed(job, *id, end)
        })
        .collect();
    // Whoever was seen to end has ended then.
    let earliest = causes.iter().map(|(_, end)| (end.found, end.at)).min()?.1;
    let together: BTreeMap<ProcessId, &End> =
        causes.into_iter().filter(|(_, end)| end.at <= earliest.after(together_us(end))).collect();
    let leads = leads(job, &together);
    let strength = |id: &ProcessId, end: &End| (!killed(end), leads.get(id).copied().unwrap_or(0));
    let (process, first) = together.iter().min_by_key(|(id, end)| (strength(id, end), end.at, **id))?;
    let alike =
        |(id, end): &(&ProcessId, &&End)| *id != process && strength(id, end) == strength(process, first);
    let rivals = together.iter().filter(alike).map(|(id, _)| *id).collect();
    Some(First { process: *process, rivals })
}

/// Of how many of the others each of them was ahead when it ended, less those that were ahead of it.
fn leads(job: &Job, ends: &BTreeMap<ProcessId, &End>) -> BTreeMap<ProcessId, i64> {
    let mut leads: BTreeMap<ProcessId, i64> = BTreeMap::new();
    for comm in job.comms.values() {
        let mut reached = positions(job, comm, ends);
        reached.sort_unstable();
        for (process, position) in reached.iter().map(|(position, process)| (process, position)) {
            let behind = reached.partition_point(|(other, _)| other < position);
            let ahead = reached.len() - reached.partition_point(|(other, _)| other <= position);
            *leads.entry(*process).or_default() += behind as i64 - ahead as i64;
        }
    }
    leads
}

/// How many collectives those members had called that ended, where that is known.
fn positions(job: &Job, comm: &Comm, ends: &BTreeMap<ProcessId, &End>) -> Vec<(u64, ProcessId)> {
    let members = comm.members.values().filter(|member| !member.left);
    let last = members.filter(|member| {
        let end = ends.get(&member.process);
        end.is_some_and(|end| is_final(job, member, end, LAST_WINDOW_US))
    });
    last.map(|member| (member.enqueued, member.process)).collect()
}
