//! Finds the iteration in a stream of operations, with no marker from the job.
//!
//! The stream of signature hashes of a training job repeats. While searching, the finder keeps the operations since
//! some starting point and their prefix function (Knuth, Morris, Pratt), which gives the shortest period of
//! everything since then at amortised constant cost. A period is believed once everything since the starting point
//! has repeated three times.
//!
//! Three things make this harder than it sounds, and each has its answer here:
//! - start-up differs (broadcasts of parameters, buckets that are rebuilt after the first iteration): a search that
//!   finds nothing starts afresh, each time with twice the patience;
//! - inside an iteration of a sharded model, one operation may repeat for a hundred layers: until a few hundred
//!   operations were seen the search goes on behind a period it already believes in;
//! - evaluation and checkpoints interrupt the pattern: a proven pattern is kept and taken up again as soon as it
//!   has come back twice. They come regularly themselves, so the pattern of a hundred iterations and a checkpoint repeats
//!   too; what repeats often and slowly is settled on as the iteration before that is learned, as long as it fills
//!   most of the job's operations (the layers of a sharded model, which also repeat, do not).
//!
//! Where sizes follow the data (sequences of varying length), no two iterations are alike: when an exact search has failed
//! for long, only functions and types are compared from then on.
//!
//! If all operations are alike, the signatures say nothing; then the pauses between operations do, and if they do
//! not either, one operation is one iteration.

use super::pauses::{Gap, Pauses};
use crate::observation::Iteration;

/// Longest search, in operations; the longest iteration that can be learned has a third of it.
const MAX_SEARCH: usize = 8192;
/// First patience of a search, in operations.
const FIRST_PATIENCE: usize = 32;
/// Operations after which a period that still holds is proven.
const PROVEN: usize = 512;
/// Least operations before any period is believed.
const LEAST: usize = 6;
/// A search of so many operations, over so long a time or of the greatest patience, that finds nothing is one too many…
const INEXACT: usize = 2048;
/// … see `INEXACT`.
const INEXACT_NS: u64 = 120_000_000_000;
/// A period that repeated so often, and takes so long in the mean, is an iteration although it has not been proven.
const SETTLE_REPEATS: usize = 20;
/// See `SETTLE_REPEATS`. The layers of large models take some ten milliseconds, iterations hardly less than this.
const SETTLE_NS: u64 = 25_000_000;
/// Of the operations since a period was settled on, one in so many may lie outside of it.
const OUTSIDE_ONE_IN: usize = 5;

#[derive(Debug)]
pub(super) struct PeriodFinder {
    state: State,
    patience: usize,
    /// A pattern that was proven or settled on and then interrupted.
    known: Option<Pattern>,
    settled: Settled,
    pauses: Pauses,
    begun: Option<Begun>,
    /// Sizes are not compared any more.
    inexact: bool,
    /// When the first operation started.
    since_ns: Option<u64>,
}

/// What an operation is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashes {
    /// With its size.
    pub(super) exact: u64,
    /// Without.
    pub(super) inexact: u64,
}

/// Whether a period was settled on without proof.
#[derive(Debug, Clone, Copy)]
enum Settled {
    /// Not yet.
    No,
    /// Yes; operations inside and outside of it since.
    On { inside: usize, outside: usize },
    /// It was, wrongly; not again.
    Refuted,
}

/// The iteration that is going on.
#[derive(Debug, Clone, Copy)]
struct Begun {
    first: u64,
    start_ns: u64,
    /// Operations in it so far.
    operations: usize,
}

#[derive(Debug)]
enum State {
    Searching(Search),
    Locked { pattern: Pattern, at: usize, run: usize },
}

#[derive(Debug, Default)]
struct Search {
    hashes: Vec<u64>,
    /// `prefix[i]`: length of the longest proper border of the first `i + 1` hashes.
    prefix: Vec<u32>,
    gaps: Vec<u64>,
    starts: Vec<u64>,
    believed: Option<Believed>,
    /// How far the known pattern has come back.
    matched: usize,
    returned: usize,
}

#[derive(Debug, Clone, Copy)]
struct Believed {
    period: usize,
    /// Position within the period at which iterations begin.
    phase: usize,
}

/// A repeating pattern, rotated so that an iteration begins at 0.
#[derive(Debug)]
struct Pattern {
    hashes: Vec<u64>,
    prefix: Vec<u32>,
}

impl Default for PeriodFinder {
    fn default() -> Self {
        Self {
            state: State::Searching(Search::default()),
            patience: FIRST_PATIENCE,
            known: None,
            settled: Settled::No,
            pauses: Pauses::default(),
            begun: None,
            inexact: false,
            since_ns: None,
        }
    }
}

impl PeriodFinder {
    /// Operations were missed: where in the pattern we are is unknown.
    pub(super) fn interrupt(&mut self) {
        self.begun = None;
        self.pauses = Pauses::default();
        if let State::Locked { pattern, .. } =
            std::mem::replace(&mut self.state, State::Searching(Search::default()))
        {
            self.known = Some(pattern);
        }
    }

    /// The place in the iteration of the operation that comes next, while one goes on.
    pub(super) fn place(&self) -> Option<usize> {
        self.begun.map(|begun| begun.operations)
    }

    /// The hash of the operation that comes next, while the pattern holds.
    pub(super) fn expected(&self) -> Option<u64> {
        let hash = match &self.state {
            State::Locked { pattern, at, .. } => pattern.hashes.get(*at),
            State::Searching(search) => {
                let border = search.believed.and(search.prefix.last())?;
                search.hashes.get(*border as usize)
            }
        };
        hash.copied().filter(|_| !self.inexact)
    }

    /// When the iteration began that goes on.
    pub(super) fn begun_ns(&self) -> Option<u64> {
        self.begun.map(|begun| begun.start_ns)
    }

    /// Takes the next operation in; returns the iteration that ends where this operation starts.
    pub(super) fn push(
        &mut self,
        sequence: u64,
        hashes: Hashes,
        start_ns: u64,
        gap: Gap,
    ) -> Option<Iteration> {
        self.since_ns.get_or_insert(start_ns);
        let hash = if self.inexact { hashes.inexact } else { hashes.exact };
        let boundary = match &mut self.state {
            State::Locked { pattern, at, run } => {
                if pattern.hashes[*at] == hash {
                    let begins = *at == 0;
                    *at = (*at + 1) % pattern.hashes.len();
                    *run += 1;
                    let alike = pattern.hashes.len() == 1;
                    Some(if alike { self.pauses.begins(gap, self.inexact) } else { begins })
                } else {
                    let run = *run;
                    self.lose(run);
                    self.search(hash, start_ns, gap)
                }
            }
            State::Searching(_) => self.search(hash, start_ns, gap),
        };
        self.weigh();
        match boundary {
            None => {
                self.begun = None;
                None
            }
            Some(false) => {
                if let Some(begun) = &mut self.begun {
                    begun.operations += 1;
                }
                None
            }
            Some(true) => {
                let ended = self.begun.replace(Begun { first: sequence, start_ns, operations: 1 });
                ended.map(|begun| Iteration {
                    first: begun.first,
                    operations: u32::try_from(sequence - begun.first).unwrap_or(u32::MAX),
                    duration_ns: start_ns.saturating_sub(begun.start_ns),
                    count: 1,
                })
            }
        }
    }

    fn lose(&mut self, run: usize) {
        let old = std::mem::replace(&mut self.state, State::Searching(Search::default()));
        self.pauses = Pauses::default();
        if let State::Locked { pattern, .. } = old {
            if run >= self.patience.max(PROVEN) || matches!(self.settled, Settled::On { .. }) {
                self.known = Some(pattern);
            } else {
                // It held for less than a search lasts: a loop inside the iteration, not the iteration.
                self.known = None;
                self.patience = (self.patience * 2).clamp(PROVEN, MAX_SEARCH);
            }
        }
    }

    /// Counts how much of the job the period that was settled on fills, and drops it if that is too little.
    fn weigh(&mut self) {
        let Settled::On { inside, outside } = &mut self.settled else { return };
        match self.state {
            State::Locked { .. } => *inside += 1,
            State::Searching(_) => *outside += 1,
        }
        let all = *inside + *outside;
        if all < PROVEN {
            return;
        }
        if *outside * OUTSIDE_ONE_IN > all {
            self.settled = Settled::Refuted;
            self.interrupt();
            self.known = None;
            self.patience = self.patience.clamp(PROVEN, MAX_SEARCH);
        } else {
            (*inside, *outside) = (*inside / 2, *outside / 2);
        }
    }

    /// A period that was believed has just ended: keeps it if it may well be the iteration.
    fn settle(&mut self) {
        let State::Searching(search) = &self.state else { return };
        let (Settled::No, None, Some(believed)) = (self.settled, &self.known, search.believed) else {
            return;
        };
        let (n, period) = (search.hashes.len() - 1, believed.period);
        let repeats = SETTLE_REPEATS * period;
        if n <= repeats || period == 1 {
            return;
        }
        // The last one may be no iteration: checks call the same operations, with nothing between them.
        let lasted = search.starts[n - 1].saturating_sub(search.starts[n - 1 - repeats]);
        if lasted / SETTLE_REPEATS as u64 >= SETTLE_NS {
            self.known =
                Some(Pattern::new(&search.hashes[n - period..n], (n - period) % period, believed.phase));
            self.settled = Settled::On { inside: 0, outside: 0 };
        }
    }

    /// `None` while no period is believed, else whether an iteration begins with this operation.
    fn search(&mut self, hash: u64, start_ns: u64, gap: Gap) -> Option<bool> {
        let State::Searching(search) = &mut self.state else { return None };
        if let Some(known) = &self.known
            && search.returns(known, hash)
        {
            // The operation just taken was the last of the pattern.
            if let Some(pattern) = self.known.take() {
                self.state = State::Locked { pattern, at: 0, run: 0 };
            }
            return None;
        }
        search.push(hash, start_ns, gap.ns);
        let n = search.hashes.len();
        let period = n - search.prefix[n - 1] as usize;
        if n >= LEAST.max(3 * period) {
            let phase = match search.believed {
                Some(believed) if believed.period == period => believed.phase,
                _ => search.phase(period),
            };
            search.believed = Some(Believed { period, phase });
            let begins =
                if period == 1 { self.pauses.begins(gap, self.inexact) } else { (n - 1) % period == phase };
            if n >= PROVEN.max(6 * period).max(self.patience.min(MAX_SEARCH / 2)) || n >= MAX_SEARCH {
                let pattern = Pattern::new(&search.hashes[n - period..], (n - period) % period, phase);
                let at = (n + period - phase) % period;
                self.state = State::Locked { pattern, at, run: n };
            }
            return Some(begins);
        }
        self.settle();
        let State::Searching(search) = &mut self.state else { return None };
        search.believed = None;
        if n >= self.patience {
            let long = start_ns.saturating_sub(self.since_ns.unwrap_or(start_ns)) >= INEXACT_NS;
            if !self.inexact && self.known.is_none() && n >= INEXACT && (long || n >= MAX_SEARCH) {
                self.inexact = true;
                self.patience = FIRST_PATIENCE;
                *search = Search::default();
                self.pauses = Pauses::default();
                return None;
            }
            self.patience = (self.patience * 2).min(MAX_SEARCH);
            let (matched, returned) = (search.matched, search.returned);
            *search = Search { matched, returned, ..Search::default() };
            self.pauses = Pauses::default();
        }
        None
    }
}

impl Search {
    fn push(&mut self, hash: u64, start_ns: u64, gap_ns: u64) {
        let mut border = self.prefix.last().map_or(0, |b| *b as usize);
        while border > 0 && self.hashes[border] != hash {
            border = self.prefix[border - 1] as usize;
        }
        if !self.hashes.is_empty() && self.hashes[border] == hash {
            border += 1;
        }
        self.hashes.push(hash);
        self.prefix.push(u32::try_from(border).unwrap_or(0));
        self.gaps.push(gap_ns);
        self.starts.push(start_ns);
    }

    /// Where in the period the rank spends most time outside collectives: forward pass, data, optimiser.
    fn phase(&self, period: usize) -> usize {
        let mut sums = vec![0u64; period];
        for (i, gap) in self.gaps.iter().enumerate().skip(period) {
            sums[i % period] = sums[i % period].saturating_add(*gap);
        }
        let best = sums.iter().copied().max().unwrap_or(0);
        sums.iter().position(|sum| *sum == best).unwrap_or(0)
    }

    /// Whether `hash` completes the second return in a row of a known pattern.
    fn returns(&mut self, known: &Pattern, hash: u64) -> bool {
        if known.hashes.len() == 1 {
            self.returned = if known.hashes[0] == hash { self.returned + 1 } else { 0 };
            return self.returned >= LEAST;
        }
        while self.matched > 0 && known.hashes[self.matched] != hash {
            self.matched = known.prefix[self.matched - 1] as usize;
            self.returned = 0;
        }
        if known.hashes[self.matched] == hash {
            self.matched += 1;
        }
        if self.matched == known.hashes.len() {
            self.matched = 0;
            self.returned += 1;
        }
        self.returned >= 2
    }
}

impl Pattern {
    /// `last` is one period of hashes whose first has position `offset` in the period.
    fn new(last: &[u64], offset: usize, phase: usize) -> Self {
        let mut hashes = last.to_vec();
        let turn = (phase + last.len() - offset) % last.len();
        hashes.rotate_left(turn);
        let mut search = Search::default();
        for hash in &hashes {
            search.push(*hash, 0, 0);
        }
        Self { hashes, prefix: search.prefix }
    }
}
