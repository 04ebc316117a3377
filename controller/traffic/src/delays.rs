//! Which link delays packets: paths that take longer than others to the same place, even at their best.
//!
//! A queue delays, too, but not always: what counts is the fastest probe of half a minute, and paths over links that our own
//! flows keep busy are not judged. Paths are compared with those between the same two hosts, so that clocks need not agree
//! and what both have in common counts for neither. A part that every late path crosses and no path that is on time is the
//! one; parts that nothing tells apart are named together.

use std::collections::{BTreeMap, BTreeSet};

use crate::losses::{Part, Verdict};

/// A path that is behind the fastest by so much is late; wires of different lengths make a hundredth of it.
const LATE_US: u64 = 500;
/// For so long it has to be late, and on time again.
const PERSISTENT_US: u64 = 30_000_000;
/// Paths that nobody tells of for so long are forgotten.
const SILENT_US: u64 = 90_000_000;

#[derive(Clone, Copy, Debug)]
struct State {
    behind_us: u64,
    told_us: u64,
    /// Since when it is late, or on time.
    since_us: u64,
}

impl State {
    fn is_late(&self) -> bool {
        self.behind_us >= LATE_US
    }
}

/// Somebody who delays packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Who; several when nothing tells them apart.
    pub parts: Vec<Part>,
    /// By how much, at least.
    pub behind_us: u64,
    /// Paths that cross them, all of them late.
    pub paths: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Delays {
    paths: BTreeMap<Vec<Part>, State>,
    accused: Vec<Vec<Part>>,
}

impl Delays {
    /// A path is so far behind the fastest between the same hosts.
    pub fn observe(&mut self, path: &[Part], behind_us: u64, now_us: u64) {
        let new = State { behind_us, told_us: now_us, since_us: now_us };
        let known = self.paths.entry(path.to_vec()).or_insert(new);
        let since_us = if known.is_late() == new.is_late() { known.since_us } else { now_us };
        *known = State { since_us, ..new };
    }

    /// Paths lead elsewhere now. Who is accused stays so.
    pub fn forget(&mut self) {
        self.paths.clear();
    }

    /// Judges what was observed. Paths over parts that are `busy` are not judged.
    pub fn judge(&mut self, now_us: u64, busy: impl Fn(&Part) -> bool) -> Vec<Verdict<Slow>> {
        self.paths.retain(|_, state| now_us.saturating_sub(state.told_us) < SILENT_US);
        let mut verdicts = self.clear(now_us);
        let mut innocent: BTreeSet<Part> = self.accused.iter().flatten().copied().collect();
        let accused = innocent.clone();
        let mut late: Vec<(&Vec<Part>, &State)> = Vec::new();
        for (path, state) in &self.paths {
            let persistent = now_us.saturating_sub(state.since_us) >= PERSISTENT_US;
            if !state.is_late() {
                innocent.extend(path);
            } else if persistent && !path.iter().any(|part| busy(part) || accused.contains(part)) {
                late.push((path, state));
            }
        }
        let mut crossed: BTreeMap<Part, BTreeSet<usize>> = BTreeMap::new();
        for (number, (path, _)) in late.iter().enumerate() {
            for part in path.iter().filter(|part| !innocent.contains(part)) {
                crossed.entry(*part).or_default().insert(number);
            }
        }
        let Some(most) = crossed.values().max_by_key(|paths| paths.len()).cloned() else { return verdicts };
        let parts: Vec<Part> =
            crossed.iter().filter(|(_, paths)| **paths == most).map(|(part, _)| *part).collect();
        let behind_us = most.iter().map(|number| late[*number].1.behind_us).min().unwrap_or(0);
        self.accused.push(parts.clone());
        verdicts.push(Verdict::Guilty(Slow { parts, behind_us, paths: most.len() }));
        verdicts
    }

    fn clear(&mut self, now_us: u64) -> Vec<Verdict<Slow>> {
        let paths = &self.paths;
        let is_fast = |parts: &Vec<Part>| {
            let mut own =
                paths.iter().filter(|(path, _)| path.iter().any(|part| parts.contains(part))).peekable();
            let fast =
                |state: &State| !state.is_late() && now_us.saturating_sub(state.since_us) >= PERSISTENT_US;
            own.peek().is_some() && own.all(|(_, state)| fast(state))
        };
        let (cleared, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.accused).into_iter().partition(is_fast);
        self.accused = open;
        cleared.into_iter().map(Verdict::Cleared).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{NicId, SwitchId};

    fn up(leaf: u32, spine: u32) -> Part {
        Part::Hop(SwitchId(leaf), SwitchId(100 + spine))
    }

    fn down(spine: u32, leaf: u32) -> Part {
        Part::Hop(SwitchId(100 + spine), SwitchId(leaf))
    }

    /// Seconds of reports from a fabric in which parts delay by so many microseconds; what was said.
    fn run(
        delays: &mut Delays,
        from: u64,
        leaves: u32,
        seconds: u64,
        delay: impl Fn(Part) -> u64,
        busy: &[Part],
    ) -> Vec<Verdict<Slow>> {
        let mut said = Vec::new();
        for second in from..from + seconds {
            for (leaf, to) in (0..leaves).flat_map(|leaf| (0..leaves).map(move |to| (leaf, to))) {
                if leaf == to {
                    continue;
                }
                let path = |spine| {
                    vec![
                        Part::Out(NicId(leaf), 0),
                        up(leaf, spine),
                        down(spine, to),
                        Part::Into(NicId(to), 0),
                    ]
                };
                let takes = |spine| path(spine).into_iter().map(&delay).sum::<u64>();
                let fastest = (0..3).map(takes).min().expect("three");
                for spine in 0..3 {
                    delays.observe(&path(spine), takes(spine) - fastest, second * 1_000_000);
                }
            }
            said.extend(delays.judge(second * 1_000_000, |part| busy.contains(part)));
        }
        said
    }

    #[test]
    fn a_link_that_delays_is_named_once_and_cleared_when_it_does_no_more() {
        let mut delays = Delays::default();
        let noise = |part| if part == up(0, 0) { 200 } else { 20 };
        assert_eq!(run(&mut delays, 0, 3, 200, noise, &[]), []);
        let slow = |part| if part == up(1, 2) { 3_000 } else { 20 };
        let said = run(&mut delays, 200, 3, 100, slow, &[]);
        let expected = Slow { parts: vec![up(1, 2)], behind_us: 2_980, paths: 2 };
        assert_eq!(said, [Verdict::Guilty(expected)]);
        let said = run(&mut delays, 300, 3, 100, noise, &[]);
        assert_eq!(said, [Verdict::Cleared(vec![up(1, 2)])]);
    }

    #[test]
    fn who_is_slow_for_a_moment_or_busy_or_a_host_is_not_accused() {
        let slow = |part| if part == down(2, 1) { 3_000 } else { 20 };
        assert_eq!(run(&mut Delays::default(), 0, 3, 25, slow, &[]), []);
        assert_eq!(run(&mut Delays::default(), 0, 3, 200, slow, &[down(2, 1)]), []);
        let host = |part| if part == Part::Into(NicId(1), 0) { 9_000 } else { 20 };
        assert_eq!(
            run(&mut Delays::default(), 0, 3, 200, host, &[]),
            [],
            "all paths there have it in common"
        );
    }

    #[test]
    fn two_are_named_one_after_the_other_and_those_that_nothing_tells_apart_together() {
        let slow = |part| if part == up(0, 0) || part == down(1, 2) { 2_000 } else { 20 };
        let said = run(&mut Delays::default(), 0, 3, 200, slow, &[]);
        let parts = |verdict: &Verdict<Slow>| match verdict {
            Verdict::Guilty(slow) => slow.parts.clone(),
            Verdict::Cleared(parts) => panic!("{parts:?}"),
        };
        let named: BTreeSet<Vec<Part>> = said.iter().map(parts).collect();
        assert_eq!(named, BTreeSet::from([vec![up(0, 0)], vec![down(1, 2)]]));
        let slow = |part| if part == up(0, 0) { 2_000 } else { 20 };
        let said = run(&mut Delays::default(), 0, 2, 200, slow, &[]);
        assert_eq!(said.iter().map(parts).collect::<Vec<_>>(), [[up(0, 0), down(0, 1)]]);
    }
}
