//! The end of a process: a death, a consequence of one, or simply the end.
//!
//! SIGKILL says it at once. An exit code other than 0, an abort or a crash is a failure too, but
//! peers that lose their connections to a dead rank fail within milliseconds, and their agents tell of it in any
//! order: these wait for each other's news a moment, and then `first` says who was the cause. Without signal or code (nobody
//! supervises the process) what counts is whether it was needed: it had an operation in flight, or its peers went on
//! and now wait for it. A job that is over looks different: all ranks end together, or those still there have been
//! idle for longer than an iteration. A process taken for orderly is still named if a collective later turns out to
//! wait for it.
//!
//! Nobody is named while the one who was first may be out of sight, see `silence`; unless it stays so, see `gone`.

mod accusation;
mod evidence;
mod first;
mod gone;
mod silence;

use accusation::{accusation, how};
use evidence::{Others, asked, is_ending, is_failure, killed, needed, seems_over};
use first::{First, together_us};
pub(crate) use gone::reconsider;
pub(crate) use silence::cause_may_be_unseen;
use silence::{Silence, is_given_up};

use crate::{
    case::Slot,
    config::Config,
    finding::Finding,
    health,
    model::{End, Fate, Job},
    names,
    nodes::Nodes,
    observation::{ProcessEnd, ProcessId, Timestamp},
};

/// Deaths this close cannot be put in order: agents look every 100 ms.
const SIMULTANEOUS_US: u64 = 50_000;

/// Takes in the end of a process.
pub(crate) fn ended(
    job: &mut Job,
    told: &ProcessEnd,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let Some(process) = job.processes.get_mut(&told.process) else { return };
    if process.end.is_some() {
        return;
    }
    let end = End {
        at: now.before(told.ago_us),
        told: now,
        finalized: told.finalized,
        exit_code: told.exit_code,
        signal: told.signal,
        found: told.found,
        fate: Fate::Pending,
    };
    // When one ended that was found like that is not known.
    let excused =
        job.stopping && (job.stopped_for_cause || end.found || is_excused(&end, job.stopping_since));
    process.end = Some(end.clone());
    job.anybody_gone = true;
    for (comm, comm_rank) in process.memberships.iter() {
        if let Some(comm) = job.comms.get_mut(comm) {
            comm.set_ended(*comm_rank);
        }
    }
    job.last_heard = now;
    if excused {
        if let Some(end) = job.processes.get_mut(&told.process).and_then(|process| process.end.as_mut()) {
            end.fate = Fate::Orderly;
        }
        return;
    }
    job.pending_ends.insert(told.process);
    if killed(&end) && !Silence::of(job, nodes, now).may_hide_cause(&end, now) {
        blame_first(job, told.process, nodes, config, now, out);
    }
}

/// Somebody stops the job on purpose. What ended before that is judged as if nobody had; the two may be told in either
/// order, even within one microsecond. Where a reason to stop it is known, what has ended since has ended of that.
pub(crate) fn stopping(job: &mut Job, now: Timestamp) {
    if job.stopping {
        return;
    }
    (job.stopping, job.stopping_since) = (true, now);
    let stands_still = |slot: &Slot| matches!(slot, Slot::Death | Slot::Hang | Slot::Beside(_));
    job.stopped_for_cause = job.cases.iter().any(|(slot, _)| stands_still(slot));
    for id in job.pending_ends.clone() {
        let end = job.processes.get_mut(&id).and_then(|process| process.end.as_mut());
        if let Some(end) = end.filter(|end| job.stopped_for_cause || is_excused(end, now)) {
            end.fate = Fate::Orderly;
            job.pending_ends.remove(&id);
        }
    }
}

/// Whether a process ended because somebody stopped the job then. Agents look every 100 ms, and who stops a job may say
/// so a moment after the first process is gone.
fn is_excused(end: &End, stopping: Timestamp) -> bool {
    end.at > stopping || (!killed(end) && end.at.after(SIMULTANEOUS_US) >= stopping)
}

/// Decides about ends that were left open; called whenever time has gone on.
pub(crate) fn decide(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    let pending: Vec<ProcessId> = job.pending_ends.iter().copied().collect();
    let (silence, others) = (Silence::of(job, nodes, now), Others::of(job));
    for id in pending {
        let took_all_along = others.took_all_along == Some(id);
        if job.all_ended() && !is_failure(job, id, &others) && !took_all_along {
            settle(job, id, now, out);
            continue;
        }
        match judge(job, id, &silence, &others, config, now) {
            Judgement::Wait => {}
            Judgement::Orderly => settle(job, id, now, out),
            Judgement::Death => blame_first(job, id, nodes, config, now, out),
        }
    }
}

fn settle(job: &mut Job, id: ProcessId, now: Timestamp, out: &mut Vec<Finding>) {
    job.pending_ends.remove(&id);
    if let Some(end) = job.processes.get_mut(&id).and_then(|process| process.end.as_mut()) {
        end.fate = Fate::Orderly;
    }
    // Who is gone is not late.
    job.cases.clear_where(now, out, |slot, case| {
        matches!(slot, Slot::Slow(_)) && case.accused.iter().all(|accused| *accused == id)
    });
}

enum Judgement {
    Wait,
    Orderly,
    Death,
}

fn judge(
    job: &Job,
    id: ProcessId,
    silence: &Silence,
    others: &Others,
    config: &Config,
    now: Timestamp,
) -> Judgement {
    let Some(end) = job.process(id).and_then(|process| process.end.as_ref()) else {
        return Judgement::Orderly;
    };
    let hidden = || silence.may_hide_cause(end, now);
    if killed(end) {
        return if hidden() { Judgement::Wait } else { Judgement::Death };
    }
    let elapsed_ms = now.micros_since(end.told) / 1_000;
    // Once all have ended there is nobody left to hear of.
    let heard_all = elapsed_ms >= config.death_grace_ms || job.all_ended();
    if !heard_all {
        return Judgement::Wait;
    }
    if is_failure(job, id, others) || needed(job, id, end) || others.took_all_along == Some(id) {
        // The process that died first may be on a node of which nothing is heard.
        let is_known = job.cases.get(&Slot::Death).is_some();
        // Several that failed lost somebody: either one of them was the first, or one who was not heard of since. Then it
        // takes until windows are overdue to know that nobody else is.
        let alone = job.pending_ends.len() == 1;
        let decided =
            silence.is_over(end) || is_given_up(end, now) || (alone && elapsed_ms >= config.death_decide_ms);
        return if is_known || (decided && !hidden()) { Judgement::Death } else { Judgement::Wait };
    }
    let by_itself = end.finalized || end.exit_code == Some(0);
    if !by_itself && elapsed_ms >= config.death_decide_ms && (asked(end) || !seems_over(job, id, end)) {
        if hidden() {
            return Judgement::Wait;
        }
        return if is_ending(job) { Judgement::Wait } else { Judgement::Death };
    }
    if elapsed_ms >= config.end_spread_ms { Judgement::Orderly } else { Judgement::Wait }
}

/// Names a process that died, after the one that took it along: the ends of victims may be told before that of the cause.
pub(crate) fn blame_first(
    job: &mut Job,
    id: ProcessId,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    if job.cases.get(&Slot::Death).is_none()
        && !gone::accuse(job, id, nodes, config, now, out)
        && let Some(first) = first::cause(job, id)
    {
        name(job, &first, nodes, config, now, out);
    }
    blame(job, id, nodes, config, now, out);
}

/// Names a process that died, as the cause or as the consequence of what is already known.
fn blame(
    job: &mut Job,
    id: ProcessId,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    name(job, &First { process: id, rivals: Vec::new() }, nodes, config, now, out);
}

fn name(
    job: &mut Job,
    first: &First,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let id = first.process;
    job.pending_ends.remove(&id);
    let Some(process) = job.processes.get_mut(&id) else { return };
    let Some(end) = process.end.as_mut() else { return };
    if end.fate == Fate::Death {
        return;
    }
    end.fate = Fate::Death;
    let end = end.clone();
    let symptom = format!("{} ended as well: {}", names::short(job, id), how(&end));
    if let Some(case) = job.cases.get(&Slot::Death) {
        let accused = case.accused.first().and_then(|accused| job.process(*accused)?.end.as_ref());
        // How one ended that was only out of sight is news.
        if !case.accused.contains(&id) && !accused.is_some_and(|accused| precedes(&end, accused)) {
            job.cases.explain(&Slot::Death, symptom, out);
            return;
        }
    }
    let hangs: Vec<Slot> = job.cases.hangs().map(|(slot, _)| slot.clone()).collect();
    // Peers of a hung rank end when their watchdogs give up; only the end of a suspect is news.
    let suspected = job.cases.hangs().any(|(_, case)| case.accused.contains(&id));
    if let Some(hang) = hangs.first().filter(|_| !suspected && job.cases.get(&Slot::Death).is_none()) {
        job.cases.explain(hang, symptom, out);
        return;
    }
    let unseen = if killed(&end) { 0 } else { Silence::of(job, nodes, now).unseen };
    let mut draft = accusation(job, id, &end, &first.rivals, unseen);
    for old in hangs.iter().filter_map(|slot| job.cases.clear(slot, now, out)) {
        draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
    }
    if let Some(old) = job.cases.get(&Slot::Death) {
        // News of an earlier death: what was taken for the cause was a consequence.
        draft.explains.push(old.finding.summary.clone());
    }
    if let Some(old) = job.cases.clear(&Slot::Slow(id), now, out) {
        draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
    }
    health::join(&mut draft, job, nodes, config, now);
    let (name, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(Slot::Death, draft, &name, incarnation, now, out);
}

/// Whether a death that is told later is nevertheless the cause of the one that was accused.
fn precedes(end: &End, accused: &End) -> bool {
    let together_us = together_us(end).max(together_us(accused));
    let together = end.at <= accused.at.after(together_us);
    let earlier = !end.found && end.at.after(together_us) < accused.at;
    !asked(end) && (earlier || (together && killed(end) && !killed(accused)))
}
