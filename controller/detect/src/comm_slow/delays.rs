//! The delay matrix as people see it: how slow each link is, compared with its kind.

use super::{
    Key,
    cell::{Cell, Verdict},
};
use crate::{model::Job, observation::ProcessId};

/// One directed link between two processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    pub(crate) src: ProcessId,
    pub(crate) dst: ProcessId,
    /// Its network time per byte over that of its kind: 1 is usual.
    pub(crate) times: f64,
    pub(crate) slow: bool,
}

/// Links that are all looked through where it must be cheap.
const FEW: usize = 4_096;

/// The links of a job, at most `most` of them: those found slow or suspected, then the slowest. Also how many were left out.
pub(crate) fn delays(job: &Job, most: usize) -> (Vec<Delay>, usize) {
    choose(job, job.network.cells.iter(), most)
}

/// The same where it must be cheap: of very many links, only those are looked at that are slow or suspected.
pub(crate) fn delays_at_once(job: &Job, most: usize) -> Vec<Delay> {
    let network = &job.network;
    if network.cells.len() <= FEW {
        return delays(job, most).0;
    }
    choose(job, network.suspicious.iter().filter_map(|key| network.cells.get_key_value(key)), most).0
}

fn choose<'a>(
    job: &Job,
    cells: impl Iterator<Item = (&'a Key, &'a Cell)>,
    most: usize,
) -> (Vec<Delay>, usize) {
    let rank = |cell: &Cell| (cell.verdict() != Verdict::Fine, cell.relative().unwrap_or(f64::MIN));
    let mut cells: Vec<(&Key, &Cell)> = cells.filter(|(_, cell)| cell.relative().is_some()).collect();
    let left_out = cells.len().saturating_sub(most);
    if left_out > 0 {
        cells.select_nth_unstable_by(most, |(_, a), (_, b)| {
            let ((a_bad, a_cost), (b_bad, b_cost)) = (rank(a), rank(b));
            b_bad.cmp(&a_bad).then(b_cost.total_cmp(&a_cost))
        });
        cells.truncate(most);
    }
    let delays = cells.into_iter().filter_map(|(key, cell)| {
        let members = &job.comms.get(&key.comm)?.members;
        Some(Delay {
            src: members.get(&key.src)?.process,
            dst: members.get(&key.dst)?.process,
            times: cell.relative()?.exp(),
            slow: cell.verdict() == Verdict::Slow,
        })
    });
    (delays.collect(), left_out)
}
