//! The order in which a rank calls things. A training program calls the same again and again in the same order, so a
//! step from one operation to the next that it never took before shows where it left its way: which of two ranks that
//! wait for each other skipped something, or called it early.

use std::collections::HashSet;

use super::recording::Process;

/// Operations looked at, the last ones.
const LOOKED_AT: usize = 20_000;
/// How often the rank must have come to where it waits for its way there to be known.
const KNOWN: usize = 3;

/// What an operation is, as far as it comes again every iteration.
type Kind = (u64, u64);

/// Whether the rank came to the operation in which it waits by a step it never took before.
#[must_use]
pub fn strays(process: &Process) -> bool {
    let mut events: Vec<(i64, Kind)> = Vec::new();
    for series in &process.series {
        let from = series.operations.len().saturating_sub(LOOKED_AT);
        events.extend(
            series.operations[from..]
                .iter()
                .map(|op| (op.entered_ns(), (series.comm as u64, u64::from(op.signature)))),
        );
    }
    let from = process.transfers.len().saturating_sub(LOOKED_AT);
    events.extend(
        process.transfers[from..]
            .iter()
            .map(|t| (t.entered_ns(), (u64::MAX - u64::from(t.peer), u64::from(t.is_send)))),
    );
    events.sort_unstable();
    let Some(((_, last), before)) = events.split_last() else { return false };
    let Some((_, previous)) = before.last() else { return false };
    let known = before.iter().filter(|(_, kind)| kind == last).count();
    let steps: HashSet<(Kind, Kind)> = before.windows(2).map(|pair| (pair[0].1, pair[1].1)).collect();
    known >= KNOWN && !steps.contains(&(*previous, *last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::{
        recording::{Operation, Series},
        testing,
    };

    fn rank(order: &[usize]) -> Process {
        let mut series = vec![Series::default(), Series { comm: 1, ..Series::default() }];
        for (at, comm) in order.iter().enumerate() {
            let at = at as i64 * 10;
            let sequence = series[*comm].operations.len() as u64;
            series[*comm].operations.push(Operation {
                sequence,
                signature: 0,
                bytes: 0,
                enqueued_ns: at,
                started_ns: Some(at),
                ended_ns: None,
            });
        }
        testing::process(0, series)
    }

    #[test]
    fn a_step_never_taken_before_is_seen() {
        assert!(!strays(&rank(&[0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1])));
        assert!(strays(&rank(&[0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1])));
        assert!(!strays(&rank(&[0, 1])), "too little is known");
    }
}
