//! Who works longer than others of its role: stragglers, heavy stages and uneven data, over all communicators at once.
//!
//! The detector compares how long ranks wait in one communicator. In a job of several dimensions everybody's wait has
//! the same cause, and seen from one communicator a whole replica is late. A recording tells more: all of a rank's
//! operations, sends and receives, often its computations. So here ranks are compared by how much of their time they
//! work by themselves (`work`) with ranks that should work as long (`roles`).

mod roles;
mod work;

use std::collections::BTreeMap;

use c4_detect::{
    finding::{Finding, FindingId, Kind, Suspect},
    observation::Timestamp,
    stages::heaviest,
};
use serde_json::json;

use super::{
    blocked::Background,
    recording::{Index, Recording},
};
use work::{Measure, Windows};

/// Windows at least, and at most.
const LEAST_WINDOWS: usize = 12;
const MOST_WINDOWS: usize = 512;
/// Where no iteration was learned.
const WINDOWS_WITHOUT_ITERATION: i64 = 64;
/// Share of the time by which a rank must work longer than its peers: what five per cent cost is worth no restart.
const FLOOR: f64 = 0.05;
/// The same in multiples of what the mean over the windows may be off by chance. There are many ranks, and many windows
/// to begin in.
const CERTAIN: f64 = 6.0;
/// What one window may add: a rank that pauses once is no straggler.
const MOST_OF_ONE: f64 = 0.25;
/// Windows in which a straggler is one, at least.
const LEAST_STRETCH: usize = 10;
/// A straggler is one in most windows, or it is not the rank but the data.
const MOST_OF_THE_TIME: f64 = 0.7;
/// Others of the same role that are late as well, and nearly as much, are late for the same reason.
const NEARLY: f64 = 0.6;
/// Share of the time that must be lost to stragglers who take turns, in most iterations, to call the data uneven: the
/// slowest of many healthy ranks always costs something.
const TURNS: f64 = 0.15;
/// What was found, and whether there was enough to find anything.
#[derive(Clone, Debug, Default)]
pub struct Balance {
    /// At most one finding: everybody's wait has one cause at a time.
    pub findings: Vec<Finding>,
    /// Whether ranks could be compared.
    pub judged: bool,
}

/// Compares the work of ranks. `iteration_ns` is the job's iteration, where known; `start` is the recording's first
/// moment on the findings' clock.
#[must_use]
pub fn balance(recording: &Recording, index: &Index, iteration_ns: Option<u64>, start: Timestamp) -> Balance {
    let known = !recording.waits_unknown && !recording.coarse_times;
    let Some(windows) = windows(recording, index, iteration_ns).filter(|_| known) else {
        return Balance::default();
    };
    let windows = &windows;
    let first_ns = recording.span().map_or(0, |(first, _)| first);
    let roles = roles::roles(recording, index);
    if !roles.iter().any(|(_, places)| places.len() > 1) {
        return Balance::default();
    }
    let background = Background::of(recording);
    let computed = recording.processes.iter().all(|process| !process.computes.is_empty());
    let measures = [computed.then_some(Measure::Computed), Some(Measure::NotWaiting)];
    let mut comparisons = Vec::new();
    for measure in measures.into_iter().flatten() {
        let shares = (0..recording.processes.len())
            .map(|place| work::shares(recording, place, &background, windows, measure))
            .collect();
        comparisons.push(Comparison { recording, windows, first_ns, start, measure, roles: &roles, shares });
    }
    // What is recorded as computation is the better evidence; but who sleeps computes nothing.
    let found = comparisons
        .iter()
        .find_map(Comparison::straggler)
        .or_else(|| comparisons.iter().find_map(Comparison::turns))
        .or_else(|| comparisons.first().and_then(Comparison::heavy));
    Balance { findings: found.into_iter().collect(), judged: true }
}

/// Joins this with what the detector said of the same: where ranks could be compared over all communicators, one
/// communicator's view is no finding of its own.
#[must_use]
pub fn join(found: Vec<Finding>, balance: Balance, recording: &Recording) -> Vec<Finding> {
    let several = recording.comms.len() > 1 || recording.processes.iter().any(|p| !p.transfers.is_empty());
    if !balance.judged || (!several && balance.findings.is_empty()) {
        return found;
    }
    let slow = |finding: &Finding| matches!(finding.kind, Kind::NonCommSlow | Kind::WorkloadImbalance);
    let (theirs, mut others): (Vec<Finding>, Vec<Finding>) = found.into_iter().partition(slow);
    for mut finding in balance.findings {
        let first = |finding: &Finding| finding.suspects.first().and_then(|suspect| suspect.rank);
        let same = theirs.iter().find(|their| their.kind == finding.kind && first(their) == first(&finding));
        if let Some(their) = same {
            finding.confidence = finding.confidence.max(their.confidence);
            for (key, value) in &their.evidence {
                finding.evidence.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        others.push(finding);
    }
    others
}

/// Windows that begin and end with operations of the communicator that most ranks are on: they leave these together.
fn windows(recording: &Recording, index: &Index, iteration_ns: Option<u64>) -> Option<Windows> {
    let (first, last) = recording.span()?;
    let span = last.saturating_sub(first).max(1);
    let iteration = iteration_ns.and_then(|ns| i64::try_from(ns).ok()).filter(|ns| *ns > 0);
    let operations =
        |(process, series): &(usize, usize)| &recording.processes[*process].series[*series].operations;
    let clock = index
        .members
        .iter()
        .filter_map(|members| {
            Some((members.len(), members.iter().max_by_key(|member| operations(member).len())?))
        })
        .max_by_key(|(size, member)| (*size, std::cmp::Reverse(operations(member).len())));
    let ends: Vec<i64> = clock.map_or_else(Vec::new, |(_, member)| {
        operations(member).iter().filter_map(|operation| operation.ended_ns).collect()
    });
    let mut bounds = if ends.len() > LEAST_WINDOWS {
        // How many of its operations make an iteration: of those between two of which nothing is missing.
        let mut steps: Vec<f64> = ends.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        steps.sort_by(f64::total_cmp);
        let usual =
            steps.iter().take(steps.len() * 9 / 10 + 1).sum::<f64>() / (steps.len() * 9 / 10 + 1) as f64;
        let by_iteration =
            iteration.map_or(1.0, |ns| (ns as f64 / usual.max(1.0)).round()).clamp(1.0, 1e6) as usize;
        let stride = by_iteration.max(ends.len().div_ceil(MOST_WINDOWS));
        ends.into_iter().step_by(stride).collect::<Vec<_>>()
    } else {
        let length =
            iteration.unwrap_or(span / WINDOWS_WITHOUT_ITERATION).max(span / MOST_WINDOWS as i64).max(1);
        (0..=span / length).map(|n| first.saturating_add(length.saturating_mul(n))).collect()
    };
    bounds.sort_unstable();
    bounds.dedup();
    Windows::new(bounds).filter(|windows| windows.number() >= LEAST_WINDOWS)
}

struct Comparison<'a> {
    recording: &'a Recording,
    windows: &'a Windows,
    first_ns: i64,
    start: Timestamp,
    measure: Measure,
    roles: &'a [(String, Vec<usize>)],
    /// By process and window.
    shares: Vec<Vec<Option<f64>>>,
}

/// Windows in which a rank works longer than its peers.
#[derive(Clone, Copy, Debug)]
struct Excess {
    place: usize,
    role: usize,
    from: usize,
    until: usize,
    /// Median, as a share of the time.
    usual: f64,
}

impl Comparison<'_> {
    /// By window: how much more a rank works than the median of the others of its role.
    fn excess(&self, place: usize, role: &[usize]) -> Vec<Option<f64>> {
        let one = |window: usize| {
            let own = self.shares[place][window]?;
            let mut others: Vec<f64> = role
                .iter()
                .filter(|other| **other != place)
                .filter_map(|other| self.shares[*other][window])
                .collect();
            Some(own - median(&mut others)?)
        };
        (0..self.windows.number()).map(one).collect()
    }

    fn straggler(&self) -> Option<Finding> {
        let mut found: Vec<Excess> = Vec::new();
        for (number, (_, role)) in self.roles.iter().enumerate() {
            // Comparing each with all the others is quadratic; beyond some hundreds the others are as good as all.
            for place in role {
                let excess = self.excess(*place, sample(role, *place));
                if let Some((from, until, usual)) = stretch(&excess) {
                    found.push(Excess { place: *place, role: number, from, until, usual });
                }
            }
        }
        found.sort_by(|a, b| b.usual.total_cmp(&a.usual));
        let first = *found.first()?;
        let together = |other: &&Excess| {
            other.role == first.role
                && other.usual >= first.usual * NEARLY
                && other.from < first.until
                && first.from < other.until
        };
        let late: Vec<Excess> = found.iter().filter(together).copied().take(16).collect();
        Some(self.slow(first, &late))
    }

    fn slow(&self, first: Excess, late: &[Excess]) -> Finding {
        let (name, role) = &self.roles[first.role];
        let peers: Vec<usize> =
            role.iter().copied().filter(|place| late.iter().all(|late| late.place != *place)).collect();
        let own = self.mean_share(&[first.place], first.from, first.until);
        let others = self.mean_share(&peers, first.from, first.until);
        let ratio = if others > 0.0 { own / others } else { f64::INFINITY };
        let names: Vec<u32> =
            late.iter().filter_map(|late| self.recording.processes[late.place].info.rank).collect();
        let who = match names[..] {
            [one] => format!("rank {one}"),
            _ => format!("ranks {}", crate::words::ranks(names.iter().copied())),
        };
        let (verb, them) = if late.len() == 1 { ("works", "it") } else { ("work", "them") };
        let of_role = if name.is_empty() { String::new() } else { format!(" of {name}") };
        let summary = format!(
            "{who} {verb} {:.0} % longer than the other {}{of_role}, which wait for {them} ({:.0} % of the time against {:.0} %)",
            (ratio - 1.0) * 100.0,
            crate::words::count(peers.len() as u64, "rank"),
            own * 100.0,
            others * 100.0,
        );
        let confidence = (0.6 + first.usual).min(0.95);
        let suspects =
            late.iter().map(|late| self.suspect(late.place, confidence * late.usual / first.usual)).collect();
        let mut finding = self.finding(Kind::NonCommSlow, suspects, confidence, summary, first.from);
        let over = first.until + LEAST_WINDOWS / 2 <= self.windows.number();
        finding.cleared = over.then(|| self.timestamp(first.until));
        let mut add = |key: &str, value| drop(finding.evidence.insert(key.to_owned(), value));
        add("works_percent", json!(percent(own)));
        add("peers_work_percent", json!(percent(others)));
        add("ratio", json!((ratio * 100.0).round() / 100.0));
        add("windows", json!(first.until - first.from));
        add("measured_by", json!(self.measured_by()));
        if !name.is_empty() {
            add("role", json!(name));
        }
        let kinds = self.kinds(first, &peers);
        if !kinds.is_empty() {
            add("computations", json!(kinds));
        }
        finding.refuted_by = "the rank has more work than its peers by design".into();
        finding
    }

    /// How much longer each kind of computation takes, the longest first.
    fn kinds(&self, excess: Excess, peers: &[usize]) -> Vec<String> {
        let (from, until) = (self.windows.begin_ns(excess.from), self.windows.begin_ns(excess.until));
        let mean = |place: usize| {
            let mut sums: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
            let computes = self.recording.processes[place].computes.iter();
            for compute in computes.filter(|compute| (from..until).contains(&compute.start_ns)) {
                let Some(end) = compute.end_ns else { continue };
                let sum = sums.entry(compute.kind).or_default();
                *sum = (sum.0 + (end - compute.start_ns), sum.1 + 1);
            }
            sums.into_iter()
                .map(|(kind, (ns, number))| (kind, ns as f64 / number as f64))
                .collect::<BTreeMap<_, _>>()
        };
        let own = mean(excess.place);
        let others: Vec<BTreeMap<u32, f64>> = peers.iter().take(32).map(|place| mean(*place)).collect();
        let mut ratios: Vec<(f64, u32)> = own
            .iter()
            .filter_map(|(kind, ns)| {
                let mut of: Vec<f64> = others.iter().filter_map(|other| other.get(kind).copied()).collect();
                Some((ns / median(&mut of).filter(|ns| *ns > 0.0)?, *kind))
            })
            .collect();
        ratios.sort_by(|a, b| b.0.total_cmp(&a.0));
        let name = |kind: u32| self.recording.kinds_of_work.get(kind as usize).map_or("", String::as_str);
        ratios.iter().take(6).map(|(ratio, kind)| format!("{} takes {ratio:.2} ×", name(*kind))).collect()
    }

    /// Stragglers that take turns.
    fn turns(&self) -> Option<Finding> {
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let mut losses = Vec::new();
        let by_role: Vec<Vec<(usize, Vec<Option<f64>>)>> = self
            .roles
            .iter()
            .filter(|(_, role)| role.len() > 1)
            .map(|(_, role)| role.iter().map(|p| (*p, self.excess(*p, sample(role, *p)))).collect())
            .collect();
        for window in 0..self.windows.number() {
            let all = by_role.iter().flatten().filter_map(|(place, excess)| Some((excess[window]?, *place)));
            let Some((most, place)) = all.max_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
            losses.push(most.max(0.0));
            *last.entry(place).or_default() += 1;
        }
        let top = last.values().copied().max()?;
        let seen = losses.len();
        let loss = losses.iter().sum::<f64>() / seen as f64;
        if seen < LEAST_WINDOWS || median(&mut losses)? < TURNS || top * 2 > seen {
            return None;
        }
        let mut ranked: Vec<(usize, usize)> = last.iter().map(|(place, n)| (*place, *n)).collect();
        ranked.sort_by_key(|(place, n)| (std::cmp::Reverse(*n), *place));
        let suspects =
            ranked.iter().take(8).map(|(place, n)| self.suspect(*place, *n as f64 / seen as f64)).collect();
        let summary = format!(
            "the work is uneven from iteration to iteration: {:.0} % of the time is lost to ranks that come late in \
             turns ({} of {} were last at some time); no single rank is at fault",
            loss * 100.0,
            last.len(),
            self.recording.processes.len(),
        );
        let mut finding = self.finding(Kind::WorkloadImbalance, suspects, 0.7, summary, 0);
        finding.evidence.insert("imbalance".into(), json!("data"));
        finding.evidence.insert("loss_percent".into(), json!(percent(loss)));
        finding.evidence.insert("samples".into(), json!(seen));
        finding.evidence.insert("ranks_that_were_last".into(), json!(last.len()));
        finding.evidence.insert("measured_by".into(), json!(self.measured_by()));
        finding.refuted_by = "one rank comes late far more often than the others".into();
        Some(finding)
    }

    /// A stage that has more to do than the others.
    fn heavy(&self) -> Option<Finding> {
        if self.roles.len() < 2 || self.roles.iter().any(|(name, _)| name.is_empty()) {
            return None;
        }
        let works: Vec<f64> =
            self.roles.iter().map(|(_, role)| self.mean_share(role, 0, self.windows.number())).collect();
        let heavy = heaviest(&works)?;
        let (name, role) = &self.roles[heavy.role];
        let ranks = role.iter().filter_map(|place| self.recording.processes[*place].info.rank);
        let summary = heavy.sentence(name, &crate::words::ranks(ranks));
        let share = 1.0 / role.len() as f64;
        let suspects = role.iter().take(16).map(|place| self.suspect(*place, share)).collect();
        let mut finding = self.finding(Kind::WorkloadImbalance, suspects, 0.7, summary, 0);
        finding.evidence.extend(heavy.evidence(name));
        finding.evidence.insert("measured_by".into(), json!(self.measured_by()));
        finding.refuted_by = "only some ranks of the stage work longer than their peers".into();
        Some(finding)
    }

    fn mean_share(&self, places: &[usize], from: usize, until: usize) -> f64 {
        let shares = places.iter().flat_map(|place| &self.shares[*place][from..until]);
        let (sum, number) = shares.flatten().fold((0.0, 0_u32), |(sum, number), x| (sum + x, number + 1));
        if number == 0 { 0.0 } else { sum / f64::from(number) }
    }

    fn measured_by(&self) -> &'static str {
        match self.measure {
            Measure::Computed => "recorded computations",
            Measure::NotWaiting => "time outside of operations",
        }
    }

    fn suspect(&self, place: usize, score: f64) -> Suspect {
        let info = &self.recording.processes[place].info;
        Suspect {
            rank: info.rank,
            node: Some(info.node.clone()).filter(|node| !node.0.is_empty()),
            gpu: info.gpu,
            score,
            ..Suspect::default()
        }
    }

    fn finding(
        &self,
        kind: Kind,
        suspects: Vec<Suspect>,
        confidence: f64,
        summary: String,
        from: usize,
    ) -> Finding {
        let info = &self.recording.processes[0].info;
        let rank = suspects.first().and_then(|suspect| suspect.rank).unwrap_or(0);
        Finding {
            id: FindingId(format!("work-{}-{rank}", kind.name().replace('_', "-"))),
            job: info.job.clone(),
            incarnation: info.incarnation,
            kind,
            suspects,
            confidence,
            since: self.timestamp(from),
            detected: self.timestamp((from + LEAST_WINDOWS).min(self.windows.number())),
            cleared: None,
            summary,
            evidence: BTreeMap::new(),
            explains: Vec::new(),
            refuted_by: String::new(),
        }
    }

    fn timestamp(&self, window: usize) -> Timestamp {
        let ns = self.windows.begin_ns(window).saturating_sub(self.first_ns);
        self.start.after(u64::try_from(ns).unwrap_or(0) / 1_000)
    }
}

/// Peers to compare with: all of them, or the nearest few hundred.
fn sample(role: &[usize], place: usize) -> &[usize] {
    const ENOUGH: usize = 128;
    let at = role.partition_point(|other| *other < place);
    let from = at.saturating_sub(ENOUGH / 2).min(role.len().saturating_sub(ENOUGH));
    &role[from..(from + ENOUGH).min(role.len())]
}

/// The stretch of windows in which the excess lasts: begin, end and median, if it is more than chance and worth telling.
fn stretch(excess: &[Option<f64>]) -> Option<(usize, usize, f64)> {
    // Noise from one window to the next, which a lasting excess does not add to.
    let seen: Vec<f64> = excess.iter().flatten().copied().collect();
    let mut steps: Vec<f64> = seen.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
    let noise = median(&mut steps)? * 1.4826 / std::f64::consts::SQRT_2;
    // The sum of what exceeds half the floor is largest over the stretch. One pause is one window, however long it was.
    let (mut best, mut sum, mut from) = ((0.0, 0, 0), 0.0, 0);
    for (window, excess) in excess.iter().enumerate() {
        let Some(excess) = excess else { continue };
        if sum <= 0.0 {
            (sum, from) = (0.0, window);
        }
        sum += excess.clamp(-MOST_OF_ONE, MOST_OF_ONE) - FLOOR / 2.0;
        if sum > best.0 {
            best = (sum, from, window + 1);
        }
    }
    let (_, from, until) = best;
    let mut inside: Vec<f64> = excess[from..until].iter().flatten().copied().collect();
    let number = inside.len() as f64;
    let most = inside.iter().filter(|excess| **excess > FLOOR / 2.0).count() as f64;
    let enough = inside.len() >= LEAST_STRETCH && most >= number * MOST_OF_THE_TIME;
    let usual = median(&mut inside)?;
    (enough && usual >= FLOOR && usual >= CERTAIN * noise / number.sqrt()).then_some((from, until, usual))
}

fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

fn percent(share: f64) -> f64 {
    (share * 1_000.0).round() / 10.0
}

#[cfg(test)]
mod tests;
