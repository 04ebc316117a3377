//! Which link loses packets: a sequential test over everything that measured paths cross.
//!
//! Agents tell of trains of eight probes over known paths, and how many of those trains lost some between others that met
//! no queue. Each part of a path (a link in one direction, a host's own cable) has a running sum of the logarithm of how
//! much better "it loses one probe in a hundred" explains its trains than "it loses one in a thousand", never below zero
//! (Page's test). That a sum reaches 32 by chance is rarer than e⁻³² for each time that it leaves zero, and it
//! leaves zero once a second at most: with ten thousand links, that is one false alarm in some two hundred years, and a
//! link that loses 1 % is named after some 400 trains.
//!
//! All parts of a path are under suspicion together, so a sum only says that something is wrong. *Who* it is, is what
//! explains the trains of the last minutes best, each with the loss that they show: whoever also carries trains that lose
//! nothing explains less. Parts that explain equally well, since the same trains cross them, are named together. What
//! crosses somebody who is accused tells nothing of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    sightings::{Locator, Sighting, Stranger},
    topology::{NicId, SwitchId, Topology},
};

/// Something that packets cross, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// From a NIC's port to its leaf.
    Out(NicId, u32),
    /// From a switch to another.
    Hop(SwitchId, SwitchId),
    /// From a core switch down to a leaf, by a spine that is not known.
    Below(SwitchId, SwitchId),
    /// From a leaf to a NIC's port.
    Into(NicId, u32),
}

/// Trains that were judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trains {
    /// Of which nothing was lost.
    pub good: u64,
    /// Of which some was lost.
    pub bad: u64,
}

impl Trains {
    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.bad += other.bad;
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.good + self.bad
    }

    /// Which part of them lost something.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.bad as f64 / self.count().max(1) as f64
    }

    /// How much better one rate explains them than another, as a logarithm.
    fn evidence(&self, rate: f64, than: f64) -> f64 {
        let (bad, good) = (self.bad as f64, self.good as f64);
        bad * (rate / than).ln() + good * ((1.0 - rate) / (1.0 - than)).ln()
    }

    /// By how much the loss that they show explains them better than a good link does.
    fn strength(&self) -> f64 {
        let rate = self.rate().min(0.999);
        if rate > GOOD { self.evidence(rate, GOOD) } else { 0.0 }
    }

    /// The part of single packets that is lost, from what is lost of trains.
    #[must_use]
    pub fn packets_lost(&self) -> f64 {
        1.0 - (1.0 - self.rate().min(0.999)).powf(1.0 / INNER)
    }
}

/// Probes of a train whose loss counts: those between others.
const INNER: f64 = 6.0;
/// Trains that lose something, of a link that loses one packet in a thousand…
const GOOD: f64 = 0.006;
/// …and of one that loses one in a hundred.
const BAD: f64 = 0.0596;
/// A sum at which something is wrong; see the module.
const ALARM: f64 = 32.0;
/// What a sum grows by within one judgement at most: an outage of a second is no link that loses packets.
const MOST_AT_ONCE: f64 = ALARM / 5.0;
/// Explanations that differ by less are equally good (a factor of a hundred).
const ALIKE: f64 = 4.6;
/// So much has to speak for who is accused until that is taken back (a factor of a million).
const CLEAR: f64 = 14.0;
/// How many trains have to come through a part, and none be lost, until an accusation of it is taken back.
#[must_use]
pub fn trusted_after() -> u32 {
    let good = Trains { good: 1, bad: 0 };
    (CLEAR / -good.evidence(BAD, GOOD)).ceil() as u32
}

/// Trains are remembered for so long, and up to as long again.
const WINDOW_US: u64 = 60_000_000;

/// Somebody who loses packets.
#[derive(Clone, Debug, PartialEq)]
pub struct Accused {
    /// Who; several when nothing tells them apart.
    pub parts: Vec<Part>,
    /// Trains that crossed them.
    pub trains: Trains,
    /// Paths that cross them.
    pub paths: usize,
    /// Trains that did not.
    pub others: Trains,
    /// How much speaks for them by now.
    innocence: f64,
}

/// What a judgement comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<A> {
    /// Somebody does harm.
    Guilty(A),
    /// They do no more.
    Cleared(Vec<Part>),
}

/// A measured path, as what it crosses.
type Crossed = Vec<Part>;

/// See the module.
#[derive(Debug, Default)]
pub struct Losses {
    sums: BTreeMap<Part, f64>,
    batch: BTreeMap<Crossed, Trains>,
    window: [BTreeMap<Crossed, Trains>; 2],
    turned_us: u64,
    accused: Vec<Accused>,
}

/// What a measured path crosses.
///
/// # Errors
/// When something on it is not known.
pub fn crossed(
    topology: &Topology,
    locator: &Locator,
    from: IpAddr,
    to: IpAddr,
    hops: &[IpAddr],
) -> Result<Vec<Part>, Stranger> {
    let seen = Sighting { from, to, hops: hops.to_vec(), ports: 1 };
    locator.cross(topology, &seen)?;
    let end = |address| locator.port(address).ok_or(Stranger::Host(address));
    let leaf = |(nic, port): (NicId, u32)| topology.nic(nic).ports[port as usize].switch;
    let (src, dst) = (end(from)?, end(to)?);
    let mut switches = vec![leaf(src)];
    for hop in hops {
        switches.push(locator.switch(*hop).ok_or(Stranger::Switch(*hop))?);
    }
    let mut parts = vec![Part::Out(src.0, src.1)];
    parts.extend(switches.windows(2).map(|ends| Part::Hop(ends[0], ends[1])));
    let top = switches[switches.len() - 1];
    parts.push(if hops.len() == 1 { Part::Hop(top, leaf(dst)) } else { Part::Below(top, leaf(dst)) });
    parts.push(Part::Into(dst.0, dst.1));
    Ok(parts)
}

impl Losses {
    /// Trains have crossed a path.
    pub fn observe(&mut self, path: &[Part], trains: Trains) {
        match self.batch.get_mut(path) {
            Some(known) => known.add(trains),
            None => drop(self.batch.insert(path.to_vec(), trains)),
        }
    }

    /// Paths lead elsewhere now: what was observed says nothing any more. Who is accused stays so.
    pub fn forget(&mut self) {
        let accused = std::mem::take(&mut self.accused);
        *self = Self { accused, turned_us: self.turned_us, ..Self::default() };
        self.accused.iter_mut().for_each(|accused| accused.innocence = 0.0);
    }

    /// Who is accused.
    #[must_use]
    pub fn accused(&self) -> &[Accused] {
        &self.accused
    }

    /// Judges what was observed since the last time; to be called about once a second. Nobody who is `doubtful`, and
    /// nobody together with such a one, is accused: what was observed then is forgotten.
    pub fn judge(&mut self, now_us: u64, doubtful: impl Fn(&Part) -> bool) -> Vec<Verdict<Accused>> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Vec::new();
        }
        if now_us.saturating_sub(self.turned_us) >= WINDOW_US {
            self.turned_us = now_us;
            self.window.swap(0, 1);
            self.window[0].clear();
        }
        let verdicts = self.clear(&batch);
        let guilty = self.guilty();
        let mut grown: BTreeMap<Part, f64> = BTreeMap::new();
        for (path, trains) in batch {
            if !path.iter().any(|part| guilty.contains(part)) {
                for part in &path {
                    *grown.entry(*part).or_default() += trains.evidence(BAD, GOOD);
                }
            }
            self.window[0].entry(path).or_default().add(trains);
        }
        for (part, by) in grown {
            let sum = self.sums.entry(part).or_default();
            *sum = (*sum + by.min(MOST_AT_ONCE)).max(0.0);
        }
        self.sums.retain(|_, sum| *sum > 0.0);
        if self.sums.values().any(|sum| *sum >= ALARM)
            && let Some(accused) = self.name(&guilty)
        {
            self.sums.clear();
            if accused.parts.iter().any(&doubtful) {
                self.window = Default::default();
                return verdicts;
            }
            self.accused.push(accused.clone());
            return verdicts.into_iter().chain([Verdict::Guilty(accused)]).collect();
        }
        verdicts
    }

    fn guilty(&self) -> BTreeSet<Part> {
        self.accused.iter().flat_map(|accused| accused.parts.iter().copied()).collect()
    }

    /// Takes back accusations that hold no more.
    fn clear(&mut self, batch: &BTreeMap<Crossed, Trains>) -> Vec<Verdict<Accused>> {
        let guilty = self.guilty();
        for accused in &mut self.accused {
            // Trains that cross others who are accused tell of this one only where there are no others.
            let (mut alone, mut all) = (Trains::default(), Trains::default());
            for (path, some) in batch {
                if path.iter().any(|part| accused.parts.contains(part)) {
                    all.add(*some);
                    if path.iter().all(|part| !guilty.contains(part) || accused.parts.contains(part)) {
                        alone.add(*some);
                    }
                }
            }
            let trains = if alone.count() > 0 { alone } else { all };
            let by = (-trains.evidence(BAD, GOOD)).min(MOST_AT_ONCE);
            accused.innocence = (accused.innocence + by).max(0.0);
        }
        let (cleared, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.accused).into_iter().partition(|accused| accused.innocence >= CLEAR);
        self.accused = open;
        if !cleared.is_empty() {
            // What their paths showed before says nothing of them any more.
            for window in &mut self.window {
                window.retain(|path, _| {
                    !cleared.iter().any(|was| was.parts.iter().any(|part| path.contains(part)))
                });
            }
        }
        cleared.into_iter().map(|accused| Verdict::Cleared(accused.parts)).collect()
    }

    fn remembered(&self, without: &BTreeSet<Part>) -> impl Iterator<Item = (&Crossed, &Trains)> {
        let window = self.window.iter().flatten();
        window.filter(|(path, _)| !path.iter().any(|part| without.contains(part)))
    }

    fn by_part(&self, without: &BTreeSet<Part>) -> BTreeMap<Part, Trains> {
        let mut all: BTreeMap<Part, Trains> = BTreeMap::new();
        for (path, trains) in self.remembered(without) {
            for part in path {
                all.entry(*part).or_default().add(*trains);
            }
        }
        all
    }

    /// Who explains best what is remembered; none if that is not much better than chance.
    fn name(&self, guilty: &BTreeSet<Part>) -> Option<Accused> {
        let all = self.by_part(guilty);
        let (best, trains) = all.iter().max_by(|a, b| a.1.strength().total_cmp(&b.1.strength()))?;
        if trains.strength() < ALARM / 2.0 {
            return None;
        }
        let without: BTreeSet<Part> = guilty.iter().copied().chain([*best]).collect();
        let rest = self.by_part(&without);
        // Whoever has bad trains of his own is another case.
        let alike = |(part, own): &(&Part, &Trains)| {
            *part == best
                || (own.strength() >= trains.strength() - ALIKE
                    && rest.get(part).is_none_or(|rest| rest.strength() < ALIKE))
        };
        let parts: Vec<Part> = all.iter().filter(alike).map(|(part, _)| *part).collect();
        let trains = *trains;
        let (mut paths, mut others) = (BTreeSet::new(), Trains::default());
        for (path, some) in self.remembered(guilty) {
            if path.iter().any(|part| parts.contains(part)) {
                paths.insert(path);
            } else {
                others.add(*some);
            }
        }
        Some(Accused { trains, paths: paths.len(), others, innocence: 0.0, parts })
    }
}

#[cfg(test)]
mod tests;
