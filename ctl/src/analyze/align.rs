//! Puts the clocks of different ranks right. Nobody can leave an all-reduce before everybody has entered it, and then
//! all leave at about the same time: so the median difference between two ranks' ends of the same operations is the
//! difference between their clocks, up to the jitter of leaving. Communicators chain ranks that share none.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::recording::{Operation, Recording, Series};

/// Operations two ranks are compared over, at most.
const SAMPLES: usize = 1001;

/// Shifts all times to the clock of one rank. Ranks that share nothing with it keep their own times.
pub fn align(recording: &mut Recording) {
    let offsets = offsets(recording);
    for process in &mut recording.processes {
        let Some(offset) = offsets.get(&process.clock).copied().filter(|offset| *offset != 0) else {
            continue;
        };
        for series in &mut process.series {
            for operation in &mut series.operations {
                operation.enqueued_ns = operation.enqueued_ns.saturating_sub(offset);
                operation.started_ns = operation.started_ns.map(|ns| ns.saturating_sub(offset));
                operation.ended_ns = operation.ended_ns.map(|ns| ns.saturating_sub(offset));
            }
            for edge in &mut series.edges {
                edge.since_ns = edge.since_ns.saturating_sub(offset);
            }
        }
        for transfer in &mut process.transfers {
            transfer.enqueued_ns = transfer.enqueued_ns.saturating_sub(offset);
            transfer.started_ns = transfer.started_ns.map(|ns| ns.saturating_sub(offset));
            transfer.ended_ns = transfer.ended_ns.map(|ns| ns.saturating_sub(offset));
        }
        for compute in &mut process.computes {
            compute.start_ns = compute.start_ns.saturating_sub(offset);
            compute.end_ns = compute.end_ns.map(|ns| ns.saturating_sub(offset));
        }
        process.ended = process.ended.map(|(ns, finalized)| (ns.saturating_sub(offset), finalized));
    }
}

/// How far each clock is ahead of the reference.
fn offsets(recording: &Recording) -> HashMap<u32, i64> {
    // For each clock, and each communicator, one series that stands for it.
    let mut by_clock: BTreeMap<u32, Vec<(usize, &Series)>> = BTreeMap::new();
    let mut by_comm: BTreeMap<usize, Vec<(u32, &Series)>> = BTreeMap::new();
    for process in &recording.processes {
        for series in &process.series {
            by_clock.entry(process.clock).or_default().push((series.comm, series));
            by_comm.entry(series.comm).or_default().push((process.clock, series));
        }
    }
    let mut offsets = HashMap::new();
    for start in by_clock.keys() {
        // Islands of ranks that share no communicator each get a reference of their own.
        if offsets.contains_key(start) {
            continue;
        }
        offsets.insert(*start, 0);
        let mut queue = VecDeque::from([*start]);
        while let Some(clock) = queue.pop_front() {
            let own = offsets[&clock];
            for (comm, series) in by_clock.get(&clock).into_iter().flatten() {
                // Whoever is found is struck off, so that each communicator is gone through about once.
                let Some(unknown) = by_comm.get_mut(comm) else { continue };
                unknown.retain(|(other, theirs)| {
                    if offsets.contains_key(other) {
                        return false;
                    }
                    let Some(ahead) = ahead(recording, series, theirs) else { return true };
                    offsets.insert(*other, ahead.saturating_add(own));
                    queue.push_back(*other);
                    false
                });
            }
        }
    }
    offsets
}

/// How far the second clock is ahead of the first.
fn ahead(recording: &Recording, one: &Series, other: &Series) -> Option<i64> {
    let ends = |synchronising: bool| -> Vec<i64> {
        common(one, other)
            .filter(|(a, _)| !synchronising || recording.synchronises(a))
            .filter_map(|(a, b)| Some(b.ended_ns?.saturating_sub(a.ended_ns?)))
            .collect()
    };
    let mut differences = ends(true);
    if differences.is_empty() {
        differences = ends(false);
    }
    let stride = differences.len().div_ceil(SAMPLES).max(1);
    let mut samples: Vec<i64> = differences.into_iter().step_by(stride).collect();
    if samples.is_empty() {
        return None;
    }
    let middle = samples.len() / 2;
    Some(*samples.select_nth_unstable(middle).1)
}

/// Operations that both took part in.
fn common<'a>(one: &'a Series, other: &'a Series) -> impl Iterator<Item = (&'a Operation, &'a Operation)> {
    let mut others = other.operations.iter().peekable();
    one.operations.iter().filter_map(move |operation| {
        while others.peek().is_some_and(|candidate| candidate.sequence < operation.sequence) {
            others.next();
        }
        let candidate = others.peek()?;
        (candidate.sequence == operation.sequence).then_some((operation, *candidate))
    })
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::OperationSignature;

    use super::*;
    use crate::analyze::{recording::Comm, testing};

    fn two_ranks(skew_ns: i64) -> Recording {
        let mut recording = Recording {
            comms: vec![Comm { id: c4_detect::observation::CommId(1), name: "c".into(), size: 2 }],
            signatures: vec![OperationSignature {
                function: "AllReduce".into(),
                count: 1,
                datatype: "bytes".into(),
                root: 0,
            }],
            ..Recording::default()
        };
        for rank in 0..2_u32 {
            let shift = i64::from(rank) * skew_ns;
            let operations = (0..50_i64)
                .map(|n| Operation {
                    sequence: n as u64,
                    signature: 0,
                    bytes: 1,
                    enqueued_ns: shift + n * 1_000,
                    started_ns: Some(shift + n * 1_000),
                    ended_ns: Some(shift + n * 1_000 + 500),
                })
                .collect();
            let series = Series { comm_rank: rank, operations, ..Series::default() };
            recording.processes.push(testing::process(rank, vec![series]));
        }
        recording
    }

    #[test]
    fn a_clock_that_is_off_by_an_hour_is_put_right() {
        for skew in [3_600_000_000_000, -3_600_000_000_000] {
            let mut recording = two_ranks(skew);
            align(&mut recording);
            let [a, b] = &recording.processes[..] else { panic!("two ranks") };
            assert_eq!(a.series[0].operations, b.series[0].operations);
        }
    }

    #[test]
    fn ranks_that_share_nothing_keep_their_times() {
        let mut recording = two_ranks(7_000_000);
        recording.processes[1].series[0].comm = 1;
        recording.comms.push(Comm { id: c4_detect::observation::CommId(2), name: "d".into(), size: 1 });
        let before = recording.processes[1].series[0].operations.clone();
        align(&mut recording);
        assert_eq!(recording.processes[1].series[0].operations, before);
    }
}
