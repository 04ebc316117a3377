//! Whether packets get through on known paths: a state machine that is handed the time.
//!
//! Probes go from agent to agent, by source ports whose paths are known, and the receiver says which have arrived. So only
//! the way there is judged: an answer that is lost, or comes back by another path, says nothing and changes nothing, and
//! no switch is asked for anything.
//!
//! Full queues lose packets, too, and a network that is used well has full queues. But a queue that is full also delays
//! what gets through, and a bad link delays nobody. So probes go in *trains*, a few milliseconds from each other: what is
//! lost between two that came without waiting was not lost to a queue. Of a train that found a long queue, nothing is
//! concluded. The host's own queue is none of the network: where the kernel tells when probes leave, they are on their way
//! from then on, and what never left was not lost on it.
//!
//! All paths take turns. Paths that have lost something take every other turn besides, until as much has come through as it
//! takes to believe them again: so a link that is suspected is told from a good one soon, at no more probes in a second.

use std::{collections::VecDeque, net::IpAddr};

use super::discovery::Hops;

mod turns;

use turns::Turns;

/// Probes in a train.
pub const LENGTH: u64 = 8;
/// A receiver tells of so many probes before the newest.
pub const TOLD: u64 = 64;

/// A queue that delays by less is none.
const SHORT_NS: i64 = 200_000;
/// The shortest and the longest delay of a path are those of so long, and of as long before.
const REMEMBERED_US: u64 = 30_000_000;
/// Trains until delays of a path are known well enough.
const ACQUAINTED: u64 = 4;
/// Trains that nobody has told of for so long are given up.
const PATIENCE_US: u64 = 120_000_000;

/// A path that is to be measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Where it begins.
    pub from: IpAddr,
    /// Where it ends.
    pub to: IpAddr,
    /// The switches that answered.
    pub hops: Hops,
    /// The source port that takes it.
    pub port: u16,
}

/// What a receiver says of the probes of a source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The probe that it answers.
    pub sequence: u64,
    /// When that was sent, by the sender's clock.
    pub sent_ns: i64,
    /// When it came, by the receiver's.
    pub received_ns: i64,
    /// The newest that came.
    pub newest: u64,
    /// Which came: bit `i` stands for `newest - i`.
    pub arrived: u64,
    /// Packets that the receiver had no room for, since it started.
    pub overflow: u32,
}

/// What became of the trains of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nothing was lost.
    pub good: u64,
    /// Something was lost between others that met no queue.
    pub bad: u64,
    /// There was a long queue.
    pub busy: u64,
    /// Nothing is known of them, or too little.
    pub unknown: u64,
}

impl Tally {
    /// What is new since an earlier one of the same path.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            good: self.good.saturating_sub(before.good),
            bad: self.bad.saturating_sub(before.bad),
            busy: self.busy.saturating_sub(before.busy),
            unknown: self.unknown.saturating_sub(before.unknown),
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this probe on this path.
    Send(usize, u64),
    /// Wait until then.
    Wait(u64),
}

/// See [`Tally`].
enum Outcome {
    Good,
    Bad,
    Busy,
    Unknown,
}

#[derive(Debug, Default)]
struct Train {
    first: u64,
    sent_us: u64,
    /// Bit `i` stands for the probe `first + i`.
    arrived: u8,
    /// When each left the host, as far as the kernel has told.
    left_ns: [Option<i64>; LENGTH as usize],
    longest_ns: Option<i64>,
    answers: u32,
    /// What is missing may have been lost by the receiver.
    spoilt: bool,
}

/// The extremes of the present and of the time before.
#[derive(Clone, Copy, Debug, Default)]
struct Extremes {
    since_us: u64,
    now: Option<(i64, i64)>,
    before: Option<(i64, i64)>,
}

impl Extremes {
    fn add(&mut self, value: i64, now_us: u64) {
        if now_us.saturating_sub(self.since_us) >= REMEMBERED_US {
            self.before = self.now.take();
            self.since_us = now_us;
        }
        let (least, most) = self.now.unwrap_or((value, value));
        self.now = Some((least.min(value), most.max(value)));
    }

    fn get(&self) -> Option<(i64, i64)> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some((now.0.min(before.0), now.1.max(before.1))),
            (now, before) => now.or(before),
        }
    }
}

/// The trains of one path.
#[derive(Debug, Default)]
struct Track {
    sent: u64,
    trains: VecDeque<Train>,
    delays: Extremes,
    tally: Tally,
    overflow: Option<u32>,
    /// The kernel tells when probes leave.
    is_watched: bool,
    /// Trains that have to come through until it is suspected no more.
    suspected: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Trains {
    tracks: Vec<Track>,
    turns: Turns,
    at: usize,
    pace_us: u64,
    due_us: u64,
    trusted_after: u32,
}

impl Trains {
    /// Measures so many paths, with so much time between two probes.
    #[must_use]
    pub fn new(paths: usize, pace_us: u64) -> Self {
        let tracks = std::iter::repeat_with(Track::default).take(paths).collect();
        Self { tracks, turns: Turns::default(), at: 0, pace_us, due_us: 0, trusted_after: 0 }
    }

    /// Suspects paths that have lost something until so many trains have come through: as many as whoever accuses links wants to
    /// see before an accusation is taken back.
    #[must_use]
    pub fn trusting_after(self, trains: u32) -> Self {
        Self { trusted_after: trains, ..self }
    }

    /// What to do at this time: the paths take turns, each with a train.
    pub fn next(&mut self, now_us: u64) -> Step {
        if self.tracks.is_empty() {
            return Step::Wait(u64::MAX);
        }
        if now_us < self.due_us {
            return Step::Wait(self.due_us);
        }
        self.due_us = now_us + self.pace_us;
        let at = self.at;
        let sequence = self.tracks[at].launch(now_us);
        if (sequence + 1).is_multiple_of(LENGTH) {
            self.at = self.turns.next(self.tracks.len(), |path| self.tracks[path].suspected > 0);
        }
        Step::Send(at, sequence)
    }

    /// The kernel has told when a probe on this path left the host.
    pub fn left(&mut self, path: usize, sequence: u64, at_ns: i64) {
        if let Some(track) = self.tracks.get_mut(path) {
            track.left(sequence, at_ns);
        }
    }

    /// A receiver has said something of this path.
    pub fn heard(&mut self, path: usize, heard: &Heard, now_us: u64) {
        if let Some(track) = self.tracks.get_mut(path) {
            track.heard(heard, now_us, self.trusted_after);
        }
    }

    /// What became of the trains of each path so far.
    pub fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.tracks.iter().map(|track| track.tally)
    }

    /// The shortest that each path took of late, by clocks that need not agree.
    pub fn least_ns(&self) -> impl Iterator<Item = Option<i64>> {
        self.tracks.iter().map(|track| track.delays.get().map(|(least, _)| least))
    }
}

impl Track {
    fn launch(&mut self, now_us: u64) -> u64 {
        let sequence = self.sent;
        self.sent += 1;
        if sequence.is_multiple_of(LENGTH) {
            self.trains.push_back(Train { first: sequence, sent_us: now_us, ..Train::default() });
            let old = |train: &Train| now_us.saturating_sub(train.sent_us) > PATIENCE_US;
            while self.trains.front().is_some_and(old) {
                self.trains.pop_front();
                self.tally.unknown += 1;
            }
        }
        sequence
    }

    /// The train that a probe belongs to, and its place there.
    fn place(&self, sequence: u64) -> Option<(usize, usize)> {
        let first = self.trains.front()?.first;
        let number = usize::try_from(sequence.checked_sub(first)? / LENGTH).ok()?;
        let train = self.trains.get(number)?;
        Some((number, usize::try_from(sequence - train.first).ok()?))
    }

    fn left(&mut self, sequence: u64, at_ns: i64) {
        self.is_watched = true;
        if let Some((train, probe)) = self.place(sequence) {
            self.trains[train].left_ns[probe] = Some(at_ns);
        }
    }

    fn departure(&self, sequence: u64) -> Option<i64> {
        self.place(sequence).and_then(|(train, probe)| self.trains[train].left_ns[probe])
    }

    fn heard(&mut self, heard: &Heard, now_us: u64, trusted_after: u32) {
        // What was not sent cannot have come.
        if heard.newest >= self.sent || heard.sequence > heard.newest {
            return;
        }
        let began_ns = if self.is_watched { self.departure(heard.sequence) } else { Some(heard.sent_ns) };
        let delay = began_ns.map(|began_ns| heard.received_ns.saturating_sub(began_ns));
        if let Some(delay) = delay {
            self.delays.add(delay, now_us);
        }
        // Somebody who had no room lost them, and not the network.
        let overflowed = self.overflow.replace(heard.overflow).is_some_and(|before| before != heard.overflow);
        for train in &mut self.trains {
            train.spoilt |= overflowed;
            train.take(heard, delay);
        }
        while let Some(train) = self.trains.front().filter(|train| train.first + LENGTH - 1 <= heard.newest) {
            let told = heard.newest - train.first < TOLD && !train.spoilt;
            let outcome = if told { self.outcome(train) } else { Outcome::Unknown };
            self.suspected = match outcome {
                Outcome::Good => self.suspected.saturating_sub(1),
                Outcome::Bad => trusted_after,
                Outcome::Busy | Outcome::Unknown => self.suspected,
            };
            let count = match outcome {
                Outcome::Good => &mut self.tally.good,
                Outcome::Bad => &mut self.tally.bad,
                Outcome::Busy => &mut self.tally.busy,
                Outcome::Unknown => &mut self.tally.unknown,
            };
            *count += 1;
            self.trains.pop_front();
        }
    }

    fn outcome(&self, train: &Train) -> Outcome {
        let known = self.delays.get().zip(train.longest_ns);
        let Some(((least, most), longest)) = known.filter(|_| train.answers > 1) else {
            return Outcome::Unknown;
        };
        let queue = longest - least;
        if train.first < ACQUAINTED * LENGTH {
            Outcome::Unknown
        } else if queue > SHORT_NS && queue.saturating_mul(2) > most - least {
            Outcome::Busy
        } else if train.arrived == u8::MAX {
            Outcome::Good
        } else if train.has_gap() && (!self.is_watched || train.has_left()) {
            Outcome::Bad
        } else {
            Outcome::Unknown
        }
    }
}

impl Train {
    /// Whether one was lost between two that came: of the first and the last nobody knows what was before and after.
    fn has_gap(&self) -> bool {
        let inner = self.arrived >> self.arrived.trailing_zeros().min(7);
        inner.count_ones() + inner.leading_zeros() < u8::BITS
    }

    /// Whether all left the host that did not arrive.
    fn has_left(&self) -> bool {
        (0..LENGTH as usize).all(|place| self.arrived >> place & 1 == 1 || self.left_ns[place].is_some())
    }

    fn take(&mut self, heard: &Heard, delay: Option<i64>) {
        for place in 0..LENGTH {
            let back = heard.newest.checked_sub(self.first + place);
            let arrived = back.is_some_and(|back| back < TOLD && heard.arrived >> back & 1 == 1);
            self.arrived |= u8::from(arrived) << place;
        }
        if let Some(delay) = delay.filter(|_| (self.first..self.first + LENGTH).contains(&heard.sequence)) {
            self.longest_ns = self.longest_ns.max(Some(delay));
            self.answers += 1;
        }
    }
}

#[cfg(test)]
mod tests;
