//! From all waits of a job to its findings: who holds it up.
//!
//! The order in which explanations are tried is the order of how certain they are: a process that ended, a process
//! that is stopped, ranks that disagree on the operation, a rank that never came, and only then the network. If the
//! one thing that would decide cannot be seen, nobody is accused; what is missing is said instead.
//!
//! One cause has one finding. Where the waits have several ends, each has its own, but whatever shows up after a
//! job has stood still for a while is taken for a consequence: watchdogs fire, people attach debuggers.

use crate::{
    case::{Case, Draft, Slot},
    comm_hang,
    config::Config,
    deadlock, death, desync,
    finding::{Finding, Kind},
    health, held,
    model::{Comm, Job, Member, Process},
    names,
    nodes::Nodes,
    observation::{CommId, ProcessId, Timestamp},
    patience, peer_hang,
    stall::{Holder, Stall, Why},
    wait::{self, Root, Waits},
};

/// Symptoms listed for one stall.
const MAX_SYMPTOMS: usize = 8;
/// Stalls with a cause of their own, beside the first.
const MAX_BESIDE: u8 = 3;
/// How long after the first finding another cause of the same standstill is still believed.
const BESIDE_US: u64 = 10_000_000;

/// How long after a process was first shown as ended its end may be told: an agent tells it at the same look or the next, and may
/// be held up. Until then it is no hang.
const ENDING_US: u64 = 2_000_000;

/// What an end of the waits amounts to.
enum Judgement {
    /// This is wrong, and ranks wait in that communicator because of it.
    Wrong(Box<Draft>, Option<CommId>),
    /// This process ended while others need it.
    Ended(ProcessId),
    /// Evidence is missing.
    Undecided(Vec<String>),
    /// It has not lasted long enough.
    Wait,
}

/// Examines a job in which somebody has waited for long, and opens, amends or clears its hangs.
pub(crate) fn assess(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    job.examined = now;
    let waits = wait::find(job, nodes, config, now);
    job.looks = waits.looks;
    patience::note(job, &waits);
    job.suspicious.retain(|id| waits.concern(*id));
    job.undecided.clear();
    clear_resolved(job, &waits, nodes, config, now, out);
    if job.stopping {
        return;
    }
    // Ranks that disagree on the operation explain everything else, wherever that shows.
    let roots = match disagreement(job, &waits) {
        Some(id) => vec![Root::Inside(id)],
        None => waits.roots(job),
    };
    deadlock::note(job, &waits, &roots, nodes, config);
    if job.cases.get(&Slot::Death).is_some() {
        if let Some(symptom) = symptoms(job, &waits, None).into_iter().next() {
            job.cases.explain(&Slot::Death, symptom, out);
        }
        return;
    }
    let mut drafts: Vec<Draft> = Vec::new();
    for root in &roots {
        match judge(job, &waits, root, config) {
            Judgement::Wrong(mut draft, place) => {
                draft.explains.extend(symptoms(job, &waits, place));
                if !drafts.iter().any(|other| is_same(other, &draft)) {
                    drafts.push(*draft);
                }
            }
            Judgement::Ended(process) if death::cause_may_be_unseen(job, process, nodes, now) => {
                let who = names::short(job, process);
                job.undecided
                    .push(format!("{who} ended, and whether it was the first to end cannot be seen"));
            }
            Judgement::Ended(process) => {
                death::blame_first(job, process, nodes, config, now, out);
                return;
            }
            Judgement::Undecided(missing) => job.undecided.extend(missing),
            Judgement::Wait => {}
        }
    }
    if !drafts.is_empty() {
        job.undecided.clear();
    }
    if desync::explains(job, &drafts, &symptoms(job, &waits, None), out) {
        return;
    }
    for draft in &mut drafts {
        health::join(draft, job, nodes, config, now);
    }
    accuse(job, drafts, now, out);
}

/// The communicator whose ranks mean different operations at the same position.
fn disagreement(job: &Job, waits: &Waits) -> Option<CommId> {
    let disagree = |stall: &&Stall| {
        let decided = stall.holders.iter().any(|h| matches!(h.why, Why::Ended | Why::Stopped));
        !decided && job.comms.get(&stall.comm).is_some_and(|c| desync::in_stall(job, c, stall).is_some())
    };
    waits.stalls.values().find(disagree).map(|stall| stall.comm)
}

fn judge(job: &Job, waits: &Waits, root: &Root, config: &Config) -> Judgement {
    let at = |id: &CommId| Some((job.comms.get(id)?, waits.stalls.get(id)?));
    let wrong = |draft: Option<Draft>, place: Option<CommId>| match draft {
        Some(draft) => Judgement::Wrong(Box::new(draft), place),
        None => Judgement::Wait,
    };
    match root {
        Root::Held { holders, .. } if holders.iter().any(|holder| is_ending(job, holder)) => Judgement::Wait,
        Root::Held { stall, holders } => match stall.as_ref().and_then(at) {
            Some((comm, stall)) => match held_up(job, comm, stall, holders, config) {
                // Others may have waited for them for longer, in sends and receives.
                Judgement::Wait => wrong(peer_hang::unanswered(job, waits, holders, config), None),
                judgement => judgement,
            },
            None if holders.iter().any(|holder| holder.why == Why::Ended) => needed(waits, holders, config),
            None => wrong(peer_hang::unanswered(job, waits, holders, config), None),
        },
        Root::Inside(id) => match at(id) {
            Some((comm, stall)) => inside(job, comm, stall, config),
            None => Judgement::Wait,
        },
        Root::Transfer { comm, src, dst } => {
            wrong(peer_hang::transfer(job, waits, *comm, (*src, *dst), config), None)
        }
        Root::Unseen(id) => unseen(job, waits, *id, config),
        Root::Circle { ranks, stalls } => {
            wrong(deadlock::draft(job, waits, ranks, stalls, config), stalls.first().copied())
        }
    }
}

fn is_ending(job: &Job, holder: &Holder) -> bool {
    let process = job.process(holder.process).filter(|process| process.alive());
    let shown = process.and_then(|process| process.zombie);
    shown.is_some_and(|shown| job.examined.micros_since(shown) <= ENDING_US)
}

fn held_up(job: &Job, comm: &Comm, stall: &Stall, holders: &[Holder], config: &Config) -> Judgement {
    if let Some(ended) = holders.iter().find(|holder| holder.why == Why::Ended) {
        // Positions of a dead process are final, so a second of waiting is proof enough.
        let enough = stall.longest_us >= config.stopped_floor_ms.saturating_mul(1_000);
        return if enough { Judgement::Ended(ended.process) } else { Judgement::Wait };
    }
    match held::draft(job, comm, stall, holders, config) {
        Some(draft) => Judgement::Wrong(Box::new(draft), Some(comm.id)),
        None => Judgement::Wait,
    }
}

/// A process that ended, and whose side of a transfer others wait for.
fn needed(waits: &Waits, holders: &[Holder], config: &Config) -> Judgement {
    let floor_us = config.stopped_floor_ms.saturating_mul(1_000);
    let ended = holders.iter().find(|holder| {
        holder.why == Why::Ended && waits.waiting_for(holder.process).any(|wait| wait.wait_us >= floor_us)
    });
    ended.map_or(Judgement::Wait, |holder| Judgement::Ended(holder.process))
}

/// Everybody is in.
fn inside(job: &Job, comm: &Comm, stall: &Stall, config: &Config) -> Judgement {
    let threshold_us = patience::inside(comm, config);
    if stall.longest_us >= config.stopped_floor_ms.saturating_mul(1_000)
        && let Some(draft) = desync::in_stall(job, comm, stall)
    {
        return Judgement::Wrong(Box::new(draft), Some(comm.id));
    }
    // One that came last, and long after the others, has only just come. And what nobody has begun may be waiting for
    // a computation.
    if stall.holders.is_empty() && stall.unseen.is_empty() && stall.begun {
        if stall.shortest_us < threshold_us {
            return Judgement::Wait;
        }
        let draft = comm_hang::nobody_finishes(job, comm, stall, threshold_us);
        return Judgement::Wrong(Box::new(draft), Some(comm.id));
    }
    if !stall.begun && stall.shortest_us >= config.learning_hang_ms.saturating_mul(1_000) {
        let blind = "without kernel events, waiting cannot be told from computing";
        return Judgement::Undecided(vec![format!("{}; {blind}", symptom(comm, stall))]);
    }
    Judgement::Wait
}

/// Who would decide cannot be seen.
fn unseen(job: &Job, waits: &Waits, id: CommId, config: &Config) -> Judgement {
    let Some(comm) = job.comms.get(&id) else { return Judgement::Wait };
    if let Some(stall) = waits.stalls.get(&id)
        && stall.longest_us >= comm.rhythm.hang_us(config)
        && !stall.unseen.is_empty()
    {
        return Judgement::Undecided(missing(job, comm, stall));
    }
    let longer_than = |us: u64| waits.peers.iter().filter(move |wait| wait.comm == id && wait.wait_us >= us);
    if longer_than(patience::least(config)).next().is_none() {
        return Judgement::Wait;
    }
    let missing: Vec<String> = longer_than(patience::unanswered(job, &[], config))
        .filter_map(|wait| {
            let (who, why) = (names::member(job, comm, wait.peer_rank), wait.unseen.as_ref()?);
            Some(format!(
                "{} waits for {who}, of which nothing can be said: {why}",
                names::short(job, wait.waiter)
            ))
        })
        .take(MAX_SYMPTOMS)
        .collect();
    if missing.is_empty() { Judgement::Wait } else { Judgement::Undecided(missing) }
}

/// Whether two findings speak of the same ranks or the same connection.
fn is_same(one: &Draft, other: &Draft) -> bool {
    one.kind == other.kind && one.accused.first() == other.accused.first()
}

/// Tells of each cause in the slot that is about it already, or else in one that no longer has a cause.
fn accuse(job: &mut Job, mut drafts: Vec<Draft>, now: Timestamp, out: &mut Vec<Finding>) {
    drafts.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.since.cmp(&b.since)));
    let mut free: Vec<Slot> = job.cases.hangs().map(|(slot, _)| slot.clone()).collect();
    let mut new = Vec::new();
    for draft in drafts {
        let about = |case: &Case| {
            case.accused.iter().any(|process| draft.accused.contains(process))
                || (case.place.is_some() && case.place == draft.place)
        };
        match free.iter().position(|slot| job.cases.get(slot).is_some_and(about)) {
            Some(index) => tell(job, free.remove(index), draft, now, out),
            None => new.push(draft),
        }
    }
    for draft in new {
        let slot = match free.is_empty() {
            false => Some(free.remove(0)),
            true => unused(job, &draft, now),
        };
        if let Some(slot) = slot {
            tell(job, slot, draft, now, out);
        }
    }
}

/// A slot for a cause that was not told of yet, if it is to be believed.
fn unused(job: &Job, draft: &Draft, now: Timestamp) -> Option<Slot> {
    let Some(first) = job.cases.hangs().map(|(_, case)| case.finding.detected).min() else {
        return Some(Slot::Hang);
    };
    let slots = std::iter::once(Slot::Hang).chain((0..MAX_BESIDE).map(Slot::Beside));
    let open = slots.into_iter().find(|slot| job.cases.get(slot).is_none());
    open.filter(|_| draft.since <= first && now.micros_since(first) <= BESIDE_US)
}

fn tell(job: &mut Job, slot: Slot, draft: Draft, now: Timestamp, out: &mut Vec<Finding>) {
    // A rank that came late by itself teaches how long pauses last; one that was stopped or a broken link does not.
    let teaches = draft.kind == Kind::NonCommHang && !draft.evidence.contains_key("stopped");
    if !teaches
        && let Some((comm, operation)) = draft.place
        && let Some(comm) = job.comms.get_mut(&comm)
    {
        comm.rhythm.disturbed_at(operation);
    }
    let (id, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(slot, draft, &id, incarnation, now, out);
}

/// What a stall looks like from outside. Without numbers that change while it lasts, so that it is told once.
fn symptom(comm: &Comm, stall: &Stall) -> String {
    format!("ranks wait in {} #{} of {}", stall.function, stall.operation, comm.label())
}

/// Stalls that follow from the one in this communicator.
fn symptoms(job: &Job, waits: &Waits, root: Option<CommId>) -> Vec<String> {
    let others = waits.stalls.iter().filter(|(id, _)| Some(**id) != root);
    let stalls = others.filter_map(|(id, stall)| Some(symptom(job.comms.get(id)?, stall)));
    let peers = waits.between.iter().filter_map(|id| job.comms.get(id));
    let peers = peers.map(|comm| format!("ranks wait in sends and receives of {}", comm.label()));
    stalls.chain(peers).take(MAX_SYMPTOMS).collect()
}

/// Why a stall cannot be pinned on anybody.
fn missing(job: &Job, comm: &Comm, stall: &Stall) -> Vec<String> {
    let mut missing = vec![format!("{}, and who holds them up cannot be seen", symptom(comm, stall))];
    for (comm_rank, why) in stall.unseen.iter().take(8) {
        missing.push(format!("{}: {why}", names::member(job, comm, *comm_rank)));
    }
    missing
}

/// A hang is over when what was waited in has finished somewhere, or nobody is in it any more.
fn clear_resolved(
    job: &mut Job,
    waits: &Waits,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let unseen = |process: &Process| process.blind_because(nodes, config, now).is_some();
    let over: Vec<Slot> = job
        .cases
        .hangs()
        .filter(|(_, case)| is_over(job, waits, case, unseen))
        .map(|(slot, _)| slot.clone())
        .collect();
    for slot in over {
        learn_resolved(job, &slot, now);
        job.cases.clear(&slot, now, out);
    }
}

/// An operation that all were in, and that ended, teaches how long operations take at present.
fn learn_resolved(job: &mut Job, slot: &Slot, now: Timestamp) {
    let Some(case) = job.cases.get(slot).filter(|case| case.finding.kind == Kind::CommHang) else { return };
    let (us, Some((comm, operation))) = (now.micros_since(case.finding.since), case.place) else { return };
    if let Some(comm) = job.comms.get_mut(&comm)
        && comm.completed_max > operation
    {
        comm.rhythm.resolved(us);
    }
}

fn is_over(job: &Job, waits: &Waits, case: &Case, unseen: impl Fn(&Process) -> bool) -> bool {
    let Some((id, operation)) = case.place else { return !peer_hang::lasts(waits, &case.accused) };
    let Some(comm) = job.comms.get(&id) else { return true };
    let process = |member: &&Member| job.process(member.process).filter(|p| !member.left && p.alive());
    let mut there = comm.members.values().filter(|member| process(member).is_some()).peekable();
    let over = there.peek().is_none() || there.clone().any(|m| m.completed > operation);
    // Members that finish an operation do not all do so in the same window.
    let still = waits.stalls.get(&id).is_some_and(|stall| stall.operation == operation);
    // Of who was in it and cannot be seen now, nobody knows that it is out.
    let hidden = |member: &Member| member.completed <= operation && process(&member).is_some_and(&unseen);
    over && !still && !there.any(hidden)
}
