//! Ranks that disagree on what the operation at one position is. That is the program's fault (a rank skipped a
//! collective, or called it with another size), never the hardware's.

mod order;

use std::collections::BTreeMap;

use serde_json::json;

pub(crate) use order::Order;

use crate::{
    case::{Draft, Slot},
    finding::{CERTAINTY, Finding, Kind},
    held::numbers,
    model::{Comm, Job},
    names,
    observation::{OperationSignature, ProcessId, Timestamp},
    signature,
    stall::Stall,
    words,
};

/// How much less sure it is who is wrong where ranks did not stop at it: blocks hold several operations.
const LESS_IN_BLOCKS: f64 = 0.05;

/// How long a disagreement that nobody waits for is told of: what was reduced with it is wrong for good, so it takes
/// somebody to decide what becomes of the job, although the ranks agree again at once.
const TOLD_US: u64 = 60_000_000;

/// Blocks are told of once a second, and told of is what they say: the disagreement may be older by so much.
const TELLING_US: u64 = 3_000_000;
/// How certain it is that a job does not get on whose ranks disagree and wait.
const STANDS_STILL: f64 = 0.95;

/// Who is wrong, of ranks that disagree.
#[derive(Debug, PartialEq)]
struct Wrong {
    ranks: Vec<ProcessId>,
    by: By,
}

/// How that is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// They are the fewest.
    Number,
    /// They do what is not done at this place of an iteration, and the others do what is.
    Order,
    /// Not at all: these are all of them.
    Nothing,
}

impl By {
    fn confidence(self) -> f64 {
        match self {
            By::Number => 0.95,
            By::Order => 0.9,
            By::Nothing => 0.7,
        }
    }

    fn name(self) -> &'static str {
        match self {
            By::Number => "number",
            By::Order => "learned_order",
            By::Nothing => "nothing",
        }
    }
}

/// Who is wrong, of ranks that disagree, by what they say. `usual` is what is usually said at this place.
fn wrong<K: Ord>(groups: &BTreeMap<K, Vec<ProcessId>>, usual: Option<&K>) -> Wrong {
    let most = groups.values().map(Vec::len).max().unwrap_or(0);
    let without = |right: &dyn Fn(&K, &Vec<ProcessId>) -> bool| {
        let wrong = groups.iter().filter(|(what, ranks)| !right(what, ranks));
        wrong.flat_map(|(_, ranks)| ranks).copied().collect()
    };
    if groups.values().filter(|ranks| ranks.len() == most).count() == 1 {
        return Wrong { ranks: without(&|_, ranks| ranks.len() == most), by: By::Number };
    }
    match usual.filter(|usual| groups.contains_key(usual)) {
        Some(usual) => Wrong { ranks: without(&|what, _| what == usual), by: By::Order },
        None => Wrong { ranks: without(&|_, _| false), by: By::Nothing },
    }
}

/// What these operations usually hash to: in this communicator, or, where that is not known, in others of its kind, as far as all of
/// them say the same. Their members do the same work, so they call the same at the same position.
fn usual(job: &Job, comm: &Comm, first: u64, length: u64) -> Option<u64> {
    let alike = || job.comms.values().filter(|other| other.id != comm.id && other.kind == comm.kind);
    comm.order.usual(first, length).or_else(|| agreed(alike().map(|other| other.order.usual(first, length))))
}

/// What all say that say anything.
fn agreed(told: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let mut told = told.flatten();
    let one = told.next()?;
    told.all(|other| other == one).then_some(one)
}

/// "AllReduce of 1024 ncclFloat32".
pub(crate) fn describe(signature: &OperationSignature) -> String {
    let root = match &*signature.function {
        "Broadcast" | "Reduce" | "Gather" | "Scatter" => format!(" with root {}", signature.root),
        _ => String::new(),
    };
    format!("{} of {} {}{root}", signature.function, signature.count, signature.datatype)
}

/// Those who are not wrong.
fn others<K>(job: &Job, groups: &BTreeMap<K, Vec<ProcessId>>, wrong: &[ProcessId]) -> String {
    let right: Vec<ProcessId> =
        groups.values().flatten().filter(|rank| !wrong.contains(rank)).copied().collect();
    match right[..] {
        [one] => names::short(job, one),
        _ => format!("the other {}", words::count(right.len(), "rank")),
    }
}

/// Sizes differ by right in operations with a size for each peer.
fn comparable(signature: &OperationSignature) -> OperationSignature {
    let mut signature = signature.clone();
    if signature.function.ends_with('V') || signature.function.ends_with('v') {
        signature.count = 0;
    }
    signature
}

/// Whether the ranks that stand in the same operation mean the same by it.
pub(crate) fn in_stall(job: &Job, comm: &Comm, stall: &Stall) -> Option<Draft> {
    let mut groups: BTreeMap<String, Vec<ProcessId>> = BTreeMap::new();
    for (process, signature) in &stall.entered {
        groups.entry(describe(&comparable(signature))).or_default().push(*process);
    }
    if groups.len() < 2 {
        return None;
    }
    let usual = stall.usual.or_else(|| usual(job, comm, stall.operation, 1)).and_then(|usual| {
        let known = stall.entered.values().find(|entered| signature::hash(entered) == usual)?;
        Some(describe(&comparable(known)))
    });
    let Wrong { ranks: suspects, by } = wrong(&groups, usual.as_ref());
    let tied = by == By::Nothing;
    let says = |process: &ProcessId| stall.entered.get(process).map(describe).unwrap_or_default();
    let right = groups.iter().filter(|(_, ranks)| !ranks.iter().any(|rank| suspects.contains(rank)));
    let right = right.max_by_key(|(_, ranks)| ranks.len()).map(|(what, _)| what.clone());
    let position = format!("position {} of {}", stall.operation, comm.label());
    let summary = if tied {
        let sides: Vec<String> =
            groups.iter().map(|(what, ranks)| format!("{} called {what}", names::list(job, ranks))).collect();
        format!("ranks disagree at {position}: {}", sides.join(", "))
    } else {
        format!(
            "{} called {} where {} called {} ({position}): a collective was skipped, or called with other arguments",
            names::list(job, &suspects),
            suspects.first().map(says).unwrap_or_default(),
            others(job, &groups, &suspects),
            right.unwrap_or_default(),
        )
    };
    let mut evidence = numbers(comm, stall, comm.rhythm.longest_wait_us());
    evidence.remove("threshold_seconds");
    let sides: Vec<_> = groups
        .iter()
        .map(|(what, ranks)| {
            json!({ "called": what, "ranks": ranks.len(),
                    "who": ranks.iter().take(8).map(|p| names::short(job, *p)).collect::<Vec<_>>() })
        })
        .collect();
    evidence.insert("sides".into(), json!(sides));
    evidence.insert("told_by".into(), json!(by.name()));
    let confidence = by.confidence();
    // Who is wrong may not be certain; that nobody gets out of this is.
    evidence.insert(CERTAINTY.into(), json!(STANDS_STILL));
    let score = if tied { 1.0 / suspects.len().max(1) as f64 } else { confidence };
    Some(Draft {
        kind: Kind::Desync,
        suspects: suspects.iter().map(|process| names::suspect(job, *process, score)).collect(),
        accused: suspects,
        confidence,
        since: stall.since,
        summary,
        evidence,
        explains: Vec::new(),
        refuted_by: "events of one of the ranks were lost, so that its positions are off",
        place: Some((comm.id, stall.operation)),
    })
}

/// Whether ranks that got past some operations meant the same by them. `sides` are ranks of the communicator by what the
/// operations hash to.
pub(crate) fn in_blocks(
    job: &Job,
    comm: &Comm,
    first: u64,
    length: u64,
    sides: &BTreeMap<u64, Vec<u32>>,
    now: Timestamp,
) -> Option<Draft> {
    let groups: BTreeMap<u64, Vec<ProcessId>> = sides
        .iter()
        .map(|(hash, ranks)| {
            let processes = ranks.iter().filter_map(|rank| comm.members.get(rank)).map(|m| m.process);
            (*hash, processes.collect())
        })
        .collect();
    let usual = usual(job, comm, first, length);
    let Wrong { ranks: suspects, by } = wrong(&groups, usual.as_ref());
    let tied = by == By::Nothing;
    if suspects.is_empty() {
        return None;
    }
    let at = if length == 1 { format!("#{first}") } else { format!("#{first} to #{}", first + length - 1) };
    let summary = if tied {
        format!("{} disagree on collectives {at} of {}", names::list(job, &suspects), comm.label())
    } else {
        format!(
            "{} called other collectives than {} ({at} of {}): one was skipped, or called with other arguments",
            names::list(job, &suspects),
            others(job, &groups, &suspects),
            comm.label()
        )
    };
    let confidence = by.confidence() - LESS_IN_BLOCKS;
    let score = if tied { 1.0 / suspects.len() as f64 } else { confidence };
    Some(Draft {
        kind: Kind::Desync,
        suspects: suspects.iter().map(|process| names::suspect(job, *process, score)).collect(),
        accused: suspects,
        confidence,
        since: now,
        summary,
        evidence: [
            ("communicator", json!(comm.label())),
            ("first", json!(first)),
            ("operations", json!(length)),
            ("told_by", json!(by.name())),
            ("sides", json!(groups.values().map(Vec::len).collect::<Vec<_>>())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect(),
        explains: Vec::new(),
        refuted_by: "events of one of the ranks were lost, so that its positions are off",
        place: Some((comm.id, first)),
    })
}

/// Whether ranks that got past a disagreement, of which was told, stand still because of it. What waits `symptoms` say is
/// added to it then.
pub(crate) fn explains(job: &mut Job, hangs: &[Draft], symptoms: &[String], out: &mut Vec<Finding>) -> bool {
    let told = job.cases.iter().find(|(slot, _)| matches!(slot, Slot::Desync(_)));
    let Some((slot, since)) = told.map(|(slot, case)| (slot.clone(), case.finding.since)) else {
        return false;
    };
    let follow = hangs.iter().all(|hang| hang.since.after(TELLING_US) >= since);
    if hangs.is_empty() || !follow || job.cases.hangs().next().is_some() {
        return false;
    }
    job.cases.amend_where(out, |case| {
        let evidence = &mut case.finding.evidence;
        // Who is wrong may not be certain; that nobody gets out of this is.
        case.finding.kind == Kind::Desync && evidence.insert(CERTAINTY.into(), json!(STANDS_STILL)).is_none()
    });
    for symptom in symptoms {
        job.cases.explain(&slot, symptom.clone(), out);
    }
    true
}

/// Clears what was told of ranks that have agreed again for long.
pub(crate) fn clear_settled(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    let comms = &job.comms;
    job.cases.clear_where(now, out, |slot, case| {
        let Slot::Desync(id) = slot else { return false };
        let disagrees = comms.get(id).is_some_and(|comm| comm.slowness.disagrees());
        !disagrees && now.micros_since(case.finding.detected) >= TOLD_US
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_of_the_kind_call_tells_where_they_agree() {
        assert_eq!(agreed([None, Some(7), None, Some(7)].into_iter()), Some(7));
        assert_eq!(agreed([Some(7), Some(8)].into_iter()), None);
        assert_eq!(agreed([None, None].into_iter()), None);
    }

    #[test]
    fn the_fewest_are_wrong_then_those_out_of_order_and_else_nobody_knows() {
        let ranks = |ids: &[u64]| ids.iter().map(|id| ProcessId(*id)).collect::<Vec<_>>();
        let three = BTreeMap::from([("a", ranks(&[0, 2])), ("b", ranks(&[1]))]);
        assert_eq!(wrong(&three, Some(&"b")), Wrong { ranks: ranks(&[1]), by: By::Number });
        let two = BTreeMap::from([("a", ranks(&[0])), ("b", ranks(&[1]))]);
        assert_eq!(wrong(&two, Some(&"b")), Wrong { ranks: ranks(&[0]), by: By::Order });
        for usual in [None, Some(&"c")] {
            assert_eq!(wrong(&two, usual), Wrong { ranks: ranks(&[0, 1]), by: By::Nothing });
        }
    }
}
