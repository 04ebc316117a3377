//! What tells a death from the end of a job: how a process ended, what it was in, and whether others need it.

use crate::{
    model::{End, Job, Member, Process},
    observation::{ProcessId, Timestamp},
};

use super::SIMULTANEOUS_US;

/// A window taken this long before the end or later shows what the process was in when it ended.
const FINAL_WINDOW_US: u64 = 150_000;
/// A wait of a peer after the end, from which on the ended process is needed, if normal waits are shorter.
const NEEDED_WAIT_US: u64 = 500_000;
/// How long before all others the first of them ends that took the others along.
const ALONE_US: u64 = 200_000;
/// So many others at least: of a few, two may end together by chance.
const MIN_TOGETHER: usize = 5;
/// Signals and exit codes by which somebody outside ends a job: HUP, INT and TERM.
const ASKED_SIGNALS: [i32; 3] = [1, 2, 15];
const SIGKILL: i32 = 9;

fn failed(end: &End) -> bool {
    end.signal.is_some_and(|signal| signal != 0) || end.exit_code.is_some_and(|code| code != 0)
}

/// Somebody asked it to end, as happens to all ranks when a job is cancelled.
pub(super) fn asked(end: &End) -> bool {
    let signal = end.signal.or(end.exit_code.map(|code| code - 128));
    signal.is_some_and(|signal| ASKED_SIGNALS.contains(&signal))
}

/// Somebody killed it: no process does that to itself. All other ways to end, crashes included, are also how processes
/// end that lost a peer.
pub(super) fn killed(end: &End) -> bool {
    end.signal == Some(SIGKILL)
}

/// What the ends of a job say together, gathered once for all of them.
pub(super) struct Others {
    /// When the first of those ended that are not judged yet and that somebody had asked to.
    asked: Option<Timestamp>,
    /// Who ended in the midst of its work, and a moment later all others together.
    pub(super) took_all_along: Option<ProcessId>,
}

impl Others {
    pub(super) fn of(job: &Job) -> Self {
        let pending = job.pending_ends.iter().filter_map(|id| job.process(*id)?.end.as_ref());
        let asked = pending.filter(|end| asked(end)).map(|end| end.at).min();
        Self { asked, took_all_along: took_others_along(job) }
    }
}

/// Whether a process ended as a failure, of its own or after a peer's. What fails after somebody has asked a peer to end
/// was taken along by it: then the question is whether the job was meant to end.
pub(super) fn is_failure(job: &Job, id: ProcessId, others: &Others) -> bool {
    let Some(end) = job.process(id).and_then(|process| process.end.as_ref()) else { return false };
    let own_failure = failed(end) && !asked(end);
    // Peers may notice before the end of the one who was asked is complete.
    (own_failure || was_in_operation(job, id))
        && others.asked.is_none_or(|asked| asked > end.at.after(SIMULTANEOUS_US))
}

/// Whether a member's last window shows all that its process ever called: it was taken no longer than that before the end, or
/// shows the process ended.
pub(super) fn is_final(job: &Job, member: &Member, end: &End, within_us: u64) -> bool {
    let shown_ended = job.process(member.process).is_some_and(|process| process.zombie.is_some());
    shown_ended || member.at.is_some_and(|at| at.after(within_us) >= end.at)
}

/// Whether its last window, if that was taken at the very end, shows an operation in flight.
fn was_in_operation(job: &Job, id: ProcessId) -> bool {
    let Some(process) = job.process(id) else { return false };
    let Some(end) = &process.end else { return false };
    if end.finalized || end.exit_code == Some(0) || asked(end) {
        return false;
    }
    process.memberships.iter().any(|(comm, rank)| {
        job.comms.get(comm).and_then(|comm| comm.members.get(rank)).is_some_and(|member| {
            !member.left && member.in_flight.is_some() && is_final(job, member, end, FINAL_WINDOW_US)
        })
    })
}

/// The process that ended in the midst of its work, and a moment later all others together: they lost it, or their
/// launcher ended them. Processes of a job that is over end one by one, each when it has torn down.
fn took_others_along(job: &Job) -> Option<ProcessId> {
    let proper = |end: &End| end.finalized || end.exit_code == Some(0) || asked(end);
    let ended = |(id, process): (&ProcessId, &Process)| Some((process.end.as_ref()?.at, *id));
    let mut at: Vec<(Timestamp, ProcessId)> = job.processes.iter().map(ended).collect::<Option<_>>()?;
    let ends = || job.processes.values().filter_map(|process| process.end.as_ref());
    if at.len() <= MIN_TOGETHER || ends().any(|end| proper(end) || end.found) {
        return None;
    }
    at.sort_unstable();
    let (alone_us, together_us) = (at[1].0.micros_since(at[0].0), at[at.len() - 1].0.micros_since(at[1].0));
    let first = at[0].1;
    let is_first = alone_us >= ALONE_US && alone_us >= together_us.saturating_mul(3);
    (is_first && was_at_work(job, first, job.process(first)?.end.as_ref()?)).then_some(first)
}

/// Whether its last window, taken at its end, shows that its last collective was no longer ago than iterations take.
fn was_at_work(job: &Job, id: ProcessId, end: &End) -> bool {
    let memberships = job.process(id).into_iter().flat_map(|process| process.memberships.iter());
    memberships.filter_map(|(comm, rank)| job.comms.get(comm)?.members.get(rank).map(|m| (comm, m))).any(
        |(comm, member)| {
            let iteration_us = job.comms.get(comm).and_then(|comm| comm.rhythm.iteration_us());
            let idle_us = iteration_us.map(|us| us.saturating_mul(2).saturating_add(200_000));
            is_final(job, member, end, FINAL_WINDOW_US)
                && !member.left
                && idle_us.is_some_and(|idle_us| member.idle_us < idle_us)
        },
    )
}

/// Whether a quarter of the ranks, and at least two, have ended: a job that ends rank by rank.
pub(super) fn is_ending(job: &Job) -> bool {
    let ended = job.processes.values().filter(|process| !process.alive()).count();
    ended >= 2 && ended * 4 >= job.processes.len()
}

/// Whether peers that were seen after the end have gone on without it, or wait for it.
pub(super) fn needed(job: &Job, id: ProcessId, end: &End) -> bool {
    let Some(process) = job.process(id) else { return false };
    process.memberships.iter().any(|(comm_id, rank)| {
        let Some(comm) = job.comms.get(comm_id) else { return false };
        let Some(own) = comm.members.get(rank) else { return false };
        let own_is_final = is_final(job, own, end, FINAL_WINDOW_US);
        let long_us = comm.rhythm.longest_wait_us().max(NEEDED_WAIT_US);
        comm.members.values().any(|peer| {
            let Some(peer_process) = job.process(peer.process) else { return false };
            let seen_after = peer.at.is_some_and(|at| at > end.at);
            if !peer_process.alive() || peer.left || !seen_after {
                return false;
            }
            let ahead = own_is_final && !own.left && peer.enqueued > own.enqueued;
            ahead || peer.wait_us(peer_process.kernel_events) >= long_us
        })
    })
}

/// Whether the job looks as if it had finished its work when the process ended: who is left, or else the process
/// itself, had been idle for longer than iterations take.
pub(super) fn seems_over(job: &Job, id: ProcessId, end: &End) -> bool {
    let Some(process) = job.process(id) else { return false };
    let mut judged = 0;
    for (comm_id, rank) in process.memberships.iter() {
        let Some(comm) = job.comms.get(comm_id) else { continue };
        let idle_us = comm.rhythm.iteration_us().unwrap_or(0).saturating_mul(2).saturating_add(200_000);
        let over = |member: &Member| member.in_flight.is_none() && member.idle_us >= idle_us;
        let peers: Vec<_> = comm
            .members
            .values()
            .filter(|peer| {
                let alive = job.process(peer.process).is_some_and(|p| p.alive());
                alive && !peer.left && peer.at.is_some_and(|at| at > end.at)
            })
            .collect();
        if !peers.is_empty() {
            if !peers.into_iter().all(over) {
                return false;
            }
            judged += 1;
        } else if let Some(own) = comm.members.get(rank)
            && is_final(job, own, end, FINAL_WINDOW_US)
        {
            if !own.left && !over(own) {
                return false;
            }
            judged += 1;
        }
    }
    // A process that was never in a communicator, or all of whose peers are gone, is missed by nobody.
    judged > 0 || process.memberships.is_empty()
}
