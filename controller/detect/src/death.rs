//! The end of a process: a death, a consequence of one, or simply the end.
//!
//! A signal such as SIGKILL or SIGSEGV says it at once. An exit code other than 0 (or an abort) is a failure too, but
//! peers that lose their connections to a dead rank fail within milliseconds, and their agents tell of it in any
//! order: these wait for each other's news a moment, and then the first is the cause. Without signal or code (nobody
//! supervises the process) what counts is whether it was needed: it had an operation in flight, or its peers went on
//! and now wait for it. A job that is over looks different: all ranks end together, or those still there have been
//! idle for longer than an iteration. A process taken for orderly is still named if a collective later turns out to
//! wait for it.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    case::{Draft, Slot},
    config::Config,
    finding::{Finding, Kind},
    health,
    model::{End, Fate, Job, Process},
    names,
    nodes::Nodes,
    observation::{NodeName, ProcessEnd, ProcessId, Timestamp},
    words,
};

/// A window taken this long before the end or later shows what the process was in when it ended.
const FINAL_WINDOW_US: u64 = 150_000;
/// A wait of a peer after the end, from which on the ended process is needed, if normal waits are shorter.
const NEEDED_WAIT_US: u64 = 500_000;
/// Deaths this close cannot be put in order: agents look every 100 ms.
const SIMULTANEOUS_US: u64 = 50_000;
/// Windows come every second: a process of which none came for this long may have gone together with its agent.
const OVERDUE_US: u64 = 1_100_000;
/// How long before all others the first of them ends that took the others along.
const ALONE_US: u64 = 200_000;
/// So many others at least: of a few, two may end together by chance.
const MIN_TOGETHER: usize = 5;
/// Signals and exit codes by which somebody outside ends a job: HUP, INT and TERM.
const ASKED_SIGNALS: [i32; 3] = [1, 2, 15];
/// What a program sends itself when it gives up, as PyTorch's watchdog does after the loss of a peer.
const SIGABRT: i32 = 6;

fn failed(end: &End) -> bool {
    end.signal.is_some_and(|signal| signal != 0) || end.exit_code.is_some_and(|code| code != 0)
}

/// Somebody asked it to end, as happens to all ranks when a job is cancelled.
fn asked(end: &End) -> bool {
    let signal = end.signal.or(end.exit_code.map(|code| code - 128));
    signal.is_some_and(|signal| ASKED_SIGNALS.contains(&signal))
}

/// It crashed or was killed. An exit code, or an abort, is also how a process ends that lost a peer.
fn crashed(end: &End) -> bool {
    end.signal.is_some_and(|signal| signal != 0 && signal != SIGABRT) && !asked(end)
}

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
        at: now.before(told.ago_us).max(process.first_seen),
        told: now,
        finalized: told.finalized,
        exit_code: told.exit_code,
        signal: told.signal,
        fate: Fate::Pending,
    };
    let crashed = crashed(&end);
    let excused = job.stopping && is_excused(&end, job.stopping_since);
    process.end = Some(end);
    for (comm, comm_rank) in &process.memberships {
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
    if crashed {
        blame(job, told.process, nodes, config, now, out);
    } else {
        job.pending_ends.insert(told.process);
    }
}

/// Somebody stops the job on purpose. What ended before that is judged as if nobody had; the two may be told in either
/// order, even within one microsecond.
pub(crate) fn stopping(job: &mut Job, now: Timestamp) {
    if job.stopping {
        return;
    }
    (job.stopping, job.stopping_since) = (true, now);
    for id in job.pending_ends.clone() {
        let end = job.processes.get_mut(&id).and_then(|process| process.end.as_mut());
        if let Some(end) = end.filter(|end| is_excused(end, now)) {
            end.fate = Fate::Orderly;
            job.pending_ends.remove(&id);
        }
    }
}

/// Whether a process ended because somebody stopped the job then. Agents look every 100 ms, and who stops a job may say
/// so a moment after the first process is gone.
fn is_excused(end: &End, stopping: Timestamp) -> bool {
    end.at > stopping || (!crashed(end) && end.at.after(SIMULTANEOUS_US) >= stopping)
}

/// Whether a process ended as a failure, of its own or after a peer's. What fails after somebody has asked a peer to end
/// was taken along by it: then the question is whether the job was meant to end.
fn is_failure(job: &Job, id: ProcessId) -> bool {
    let Some(end) = job.process(id).and_then(|process| process.end.as_ref()) else { return false };
    let own_failure = failed(end) && !asked(end);
    if !own_failure && !was_in_operation(job, id) {
        return false;
    }
    let pending = job.pending_ends.iter().filter_map(|id| job.process(*id)?.end.as_ref());
    // Peers may notice before the end of the one who was asked is complete.
    !pending.into_iter().any(|other| asked(other) && other.at <= end.at.after(SIMULTANEOUS_US))
}

/// Of the ends not yet judged, the first that may have taken the others along.
fn first_cause(job: &Job) -> Option<ProcessId> {
    let end = |id: &ProcessId| job.process(*id).and_then(|process| process.end.as_ref());
    let causes = job.pending_ends.iter().copied();
    causes
        .filter(|id| is_failure(job, *id) || end(id).is_some_and(asked))
        .min_by_key(|id| end(id).map(|end| end.at))
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
            !member.left
                && member.in_flight.is_some()
                && member.at.is_some_and(|at| at.after(FINAL_WINDOW_US) >= end.at)
        })
    })
}

/// Whether a process ended in the midst of its work, and a moment later all others together: they lost it, or their
/// launcher ended them. Processes of a job that is over end one by one, each when it has torn down.
fn took_others_along(job: &Job, id: ProcessId) -> bool {
    let proper = |end: &End| end.finalized || end.exit_code == Some(0) || asked(end);
    let ends: Option<Vec<&End>> = job.processes.values().map(|process| process.end.as_ref()).collect();
    let (Some(ends), Some(own)) = (ends, job.process(id).and_then(|process| process.end.as_ref())) else {
        return false;
    };
    if ends.len() <= MIN_TOGETHER || ends.iter().any(|end| proper(end)) || !was_at_work(job, id, own) {
        return false;
    }
    let mut at: Vec<Timestamp> = ends.iter().map(|end| end.at).collect();
    at.sort_unstable();
    let (alone_us, together_us) = (at[1].micros_since(at[0]), at[at.len() - 1].micros_since(at[1]));
    own.at == at[0] && alone_us >= ALONE_US && alone_us >= together_us.saturating_mul(3)
}

/// Whether its last window, taken at its end, shows that its last collective was no longer ago than iterations take.
fn was_at_work(job: &Job, id: ProcessId, end: &End) -> bool {
    let memberships = job.process(id).into_iter().flat_map(|process| &process.memberships);
    memberships.filter_map(|(comm, rank)| job.comms.get(comm)?.members.get(rank).map(|m| (comm, m))).any(
        |(comm, member)| {
            let iteration_us = job.comms.get(comm).and_then(|comm| comm.rhythm.iteration_us());
            let is_final = member.at.is_some_and(|at| at.after(FINAL_WINDOW_US) >= end.at);
            let idle_us = iteration_us.map(|us| us.saturating_mul(2).saturating_add(200_000));
            is_final && !member.left && idle_us.is_some_and(|idle_us| member.idle_us < idle_us)
        },
    )
}

/// Decides about ends that were left open; called whenever time has gone on.
pub(crate) fn decide(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    let pending: Vec<ProcessId> = job.pending_ends.iter().copied().collect();
    let silence = Silence::of(job, nodes, now);
    for id in pending {
        if job.all_ended() && !is_failure(job, id) && !took_others_along(job, id) {
            settle(job, id, now, out);
            continue;
        }
        match judge(job, id, &silence, config, now) {
            Judgement::Wait => {}
            Judgement::Orderly => settle(job, id, now, out),
            Judgement::Death => {
                // The ends of its victims may be told before that of the cause.
                if let Some(first) = first_cause(job).filter(|first| *first != id) {
                    blame(job, first, nodes, config, now, out);
                }
                blame(job, id, nodes, config, now, out);
            }
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

/// When those processes that live and were not heard of for longest were last seen: of all, and of those on nodes whose
/// agents are out of sight.
struct Silence {
    any: Option<Timestamp>,
    lost: Option<Timestamp>,
}

impl Silence {
    fn of(job: &Job, nodes: &Nodes, now: Timestamp) -> Self {
        // An agent that told of an end a moment ago is there.
        let told = |end: &End| now.micros_since(end.told) <= OVERDUE_US;
        let ended = job.processes.values().filter(|process| process.end.as_ref().is_some_and(told));
        let there: BTreeSet<&NodeName> = ended.map(|process| &process.info.node).collect();
        let doubtful = |process: &&Process| process.alive() && !there.contains(&process.info.node);
        let alive = || job.processes.values().filter(doubtful);
        let lost = alive().filter(|process| nodes.is_lost(&process.info.node));
        Self { any: alive().filter_map(|p| p.seen).min(), lost: lost.filter_map(|p| p.seen).min() }
    }

    /// Whether what killed a process may be out of sight: it did not crash by itself, and of some other process nothing
    /// was heard any more, not even that it lives. Peers of one that dies together with its agent fail like this.
    fn may_hide_cause(&self, end: &End, now: Timestamp) -> bool {
        let overdue = self.any.filter(|seen| now.micros_since(*seen) > OVERDUE_US);
        !crashed(end) && self.lost.into_iter().chain(overdue).any(|seen| seen <= end.at)
    }

    /// Whether every process that lives was heard of since.
    fn is_over(&self, end: &End) -> bool {
        self.any.is_none_or(|seen| seen > end.at)
    }
}

/// Whether the process may have ended because of another that cannot be seen.
pub(crate) fn cause_may_be_unseen(job: &Job, id: ProcessId, nodes: &Nodes, now: Timestamp) -> bool {
    let end = job.process(id).and_then(|process| process.end.as_ref());
    end.is_some_and(|end| Silence::of(job, nodes, now).may_hide_cause(end, now))
}

enum Judgement {
    Wait,
    Orderly,
    Death,
}

fn judge(job: &Job, id: ProcessId, silence: &Silence, config: &Config, now: Timestamp) -> Judgement {
    let Some(end) = job.process(id).and_then(|process| process.end.as_ref()) else {
        return Judgement::Orderly;
    };
    let elapsed_ms = now.micros_since(end.told) / 1_000;
    // Once all have ended there is nobody left to hear of.
    let heard_all = elapsed_ms >= config.death_grace_ms || job.all_ended();
    if !heard_all {
        return Judgement::Wait;
    }
    if is_failure(job, id) || needed(job, id, end) || took_others_along(job, id) {
        // The process that died first may be on a node of which nothing is heard.
        let is_known = job.cases.get(&Slot::Death).is_some();
        let decided = is_known || silence.is_over(end) || elapsed_ms >= config.death_decide_ms;
        let hidden = !is_known && silence.may_hide_cause(end, now);
        return if decided && !hidden { Judgement::Death } else { Judgement::Wait };
    }
    let by_itself = end.finalized || end.exit_code == Some(0);
    if !by_itself && elapsed_ms >= config.death_decide_ms && (asked(end) || !seems_over(job, id, end)) {
        if silence.may_hide_cause(end, now) {
            return Judgement::Wait;
        }
        return if is_ending(job) { Judgement::Wait } else { Judgement::Death };
    }
    if elapsed_ms >= config.end_spread_ms { Judgement::Orderly } else { Judgement::Wait }
}

/// Whether a quarter of the ranks, and at least two, have ended: a job that ends rank by rank.
fn is_ending(job: &Job) -> bool {
    let ended = job.processes.values().filter(|process| !process.alive()).count();
    ended >= 2 && ended * 4 >= job.processes.len()
}

/// Whether peers that were seen after the end have gone on without it, or wait for it.
fn needed(job: &Job, id: ProcessId, end: &End) -> bool {
    let Some(process) = job.process(id) else { return false };
    process.memberships.iter().any(|(comm_id, rank)| {
        let Some(comm) = job.comms.get(comm_id) else { return false };
        let Some(own) = comm.members.get(rank) else { return false };
        let own_is_final = own.at.is_some_and(|at| at.after(FINAL_WINDOW_US) >= end.at);
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
fn seems_over(job: &Job, id: ProcessId, end: &End) -> bool {
    let Some(process) = job.process(id) else { return false };
    let mut judged = 0;
    for (comm_id, rank) in &process.memberships {
        let Some(comm) = job.comms.get(comm_id) else { continue };
        let idle_us = comm.rhythm.iteration_us().unwrap_or(0).saturating_mul(2).saturating_add(200_000);
        let over = |member: &crate::model::Member| member.in_flight.is_none() && member.idle_us >= idle_us;
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
            && own.at.is_some_and(|at| at.after(FINAL_WINDOW_US) >= end.at)
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

/// Names a process that died, as the cause or as the consequence of what is already known.
pub(crate) fn blame(
    job: &mut Job,
    id: ProcessId,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    job.pending_ends.remove(&id);
    let Some(process) = job.processes.get_mut(&id) else { return };
    let Some(end) = process.end.as_mut() else { return };
    if end.fate == Fate::Death {
        return;
    }
    end.fate = Fate::Death;
    let end = end.clone();
    let story = how(&end);
    let symptom = format!("{} ended as well: {story}", names::short(job, id));
    if let Some(case) = job.cases.get(&Slot::Death) {
        let earlier = end.at.after(SIMULTANEOUS_US) < case.finding.since && !asked(&end);
        if !earlier {
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
    let mut draft = accusation(job, id, &end, &story);
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

fn accusation(job: &Job, id: ProcessId, end: &End, story: &str) -> Draft {
    let confidence = match (end.signal, end.exit_code) {
        (Some(_), _) => 0.99,
        (_, Some(0)) => 0.8,
        (_, Some(_)) => 0.97,
        (None, None) => 0.9,
    };
    let peers = job.processes.values().filter(|process| process.alive()).count();
    let mut evidence = std::collections::BTreeMap::new();
    evidence.insert("finalized".into(), json!(end.finalized));
    evidence.insert("exit_code".into(), json!(end.exit_code));
    evidence.insert("signal".into(), json!(end.signal));
    evidence.insert("peers_alive".into(), json!(peers));
    evidence.insert("seconds_to_verdict".into(), json!(end.told.micros_since(end.at) as f64 * 1e-6));
    if let Some(process) = job.process(id) {
        let positions: Vec<_> = process
            .memberships
            .iter()
            .take(4)
            .filter_map(|(comm, rank)| {
                let comm = job.comms.get(comm)?;
                let member = comm.members.get(rank)?;
                Some(json!({ "communicator": comm.label(), "enqueued": member.enqueued, "completed": member.completed }))
            })
            .collect();
        evidence.insert("positions".into(), json!(positions));
    }
    Draft {
        kind: Kind::ProcessDeath,
        suspects: vec![names::suspect(job, id, confidence)],
        accused: vec![id],
        confidence,
        since: end.at,
        summary: format!("{} died: {story} at {} UTC", names::full(job, id), words::clock(end.at)),
        evidence,
        explains: Vec::new(),
        refuted_by: "the job was stopped on purpose, or the process had ended properly",
        place: None,
    }
}

/// "killed by signal 9 (SIGKILL)".
fn how(end: &End) -> String {
    let name = |signal: i32| match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    };
    match (end.signal, end.exit_code) {
        (Some(signal), _) if signal != 0 => format!("killed by signal {signal}{}", name(signal)),
        (_, Some(0)) => "ended with exit code 0 while others need it".to_owned(),
        (_, Some(code)) => format!("ended with exit code {code}"),
        _ if end.finalized => "ended while others need it".to_owned(),
        _ => "ended without finalising its communicators".to_owned(),
    }
}
