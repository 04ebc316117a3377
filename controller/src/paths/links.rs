//! Which links probes cross, and what follows where they do not: a link that none crosses any more is avoided and told of as
//! a `path_fault`, until one does again.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use c4_detect::{
    finding::{Finding, FindingId, Kind, Link, Suspect},
    observation::{JobId, NodeName, Timestamp},
};
use c4_traffic::{
    Topology,
    losses::{Part, Trains},
    sightings::{Locator, Pair, Picture, Report, Sighting, Stranger, picture},
    topology::{State, SwitchId},
};
use serde_json::json;

use super::{
    accused::{Court, Evidence as _},
    lossy::Lossy,
    slow::Slow,
    written::{Written, never_crossed},
};
use crate::convert::{PathReport, PathTrains};

/// Agents that have not finished learning are waited for for so long after the network changed.
const SETTLE_US: u64 = 8_000_000;
/// Time between two judgements: it takes longer where more nodes report, and is not worth more than a part of the time…
const JUDGE_A_NODE_US: u64 = 1_000;
/// …but never waits for longer than this.
const JUDGE_US: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub struct Links {
    locator: Locator,
    /// What agents see, since the network changed last.
    reports: BTreeMap<NodeName, Report>,
    /// Those that have finished learning.
    settled: BTreeSet<NodeName>,
    /// Links that some probe has ever crossed.
    known: BTreeSet<Pair>,
    /// Switches that no probe has ever met, and which may be something else than down.
    hidden: BTreeSet<SwitchId>,
    /// Whether that has changed since somebody asked.
    turned: bool,
    open: BTreeMap<Pair, Finding>,
    lossy: Court<Lossy>,
    slow: Court<Slow>,
    picture: Picture,
    news: bool,
    judged: Timestamp,
    /// The file of the topology, where there is one.
    pub(super) written: Option<Written>,
}

impl Links {
    /// Nothing was reported yet.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        Self {
            locator: Locator::new(topology),
            reports: BTreeMap::new(),
            settled: BTreeSet::new(),
            known: BTreeSet::new(),
            hidden: BTreeSet::new(),
            turned: false,
            open: BTreeMap::new(),
            lossy: Court::default(),
            slow: Court::default(),
            picture: Picture::default(),
            news: false,
            judged: Timestamp(0),
            written: None,
        }
    }

    /// Of a topology that was learned from probes: they have crossed all its links.
    #[must_use]
    pub fn learned(topology: &Topology) -> Self {
        let crossed = topology.links().iter().map(|link| pair(link.a, link.b));
        Self { known: crossed.collect(), ..Self::new(topology) }
    }

    /// Takes in a report of the present state of the network.
    pub fn report(&mut self, node: &NodeName, report: &PathReport) {
        if report.settled {
            self.news |= self.settled.insert(node.clone());
        } else if report.seen.is_empty() {
            return;
        }
        let seen = report.seen.iter().map(|seen| Sighting {
            from: seen.from,
            to: seen.to,
            hops: seen.hops.clone(),
            ports: seen.ports,
        });
        let report = Report { seen: seen.collect(), tried: report.ports, silent: report.silent };
        if self.reports.get(node) != Some(&report) {
            self.reports.insert(node.clone(), report);
            self.news = true;
        }
    }

    /// Takes in how measured paths fare, if that is of the present state of the network.
    pub fn measured(
        &mut self,
        topology: &Topology,
        node: &NodeName,
        trains: &PathTrains,
        current: bool,
        now: Timestamp,
    ) {
        self.lossy.evidence.measured(topology, &self.locator, node, trains, current);
        if current {
            self.slow.evidence.measured(topology, &self.locator, trains, now);
        }
    }

    /// Whether other switches keep silent than the last time that this was asked.
    pub fn take_turned(&mut self) -> bool {
        mem::take(&mut self.turned)
    }

    /// Whether it is time to judge what was measured.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.lossy.evidence.is_due(now)
    }

    /// Trains of probes that were judged since the controller started.
    #[must_use]
    pub fn trains(&self) -> Trains {
        self.lossy.evidence.totals()
    }

    /// Who has which address.
    #[must_use]
    pub fn locator(&self) -> &Locator {
        &self.locator
    }

    /// Judges that. Returns findings that were opened or cleared. Nobody is accused by whose address another may answer, and
    /// nobody of delay who is `busy`.
    pub fn judge_measured(
        &mut self,
        topology: &Topology,
        busy: &BTreeSet<(SwitchId, SwitchId)>,
        now: Timestamp,
    ) -> Vec<Finding> {
        let doubted = if self.hidden.is_empty() { BTreeSet::new() } else { self.picture.doubted.clone() };
        let doubtful = |part: &Part| match part {
            Part::Hop(a, b) | Part::Below(a, b) => doubted.contains(a) || doubted.contains(b),
            Part::Out(..) | Part::Into(..) => false,
        };
        let mut changes = self.lossy.judge(topology, now, doubtful);
        // Loss delays, too, once it is repaired below: one finding is enough.
        let lossy: BTreeSet<Pair> = self.lossy.avoided().collect();
        let excused = |part: &Part| {
            doubtful(part)
                || matches!(part, Part::Hop(a, b) if busy.contains(&(*a, *b)) || lossy.contains(&pair(*a, *b)))
        };
        changes.extend(self.slow.judge(topology, now, excused));
        changes
    }

    /// The network has changed: what was reported is stale.
    pub fn forget(&mut self) {
        self.lossy.evidence.forget();
        self.slow.evidence.forget();
        self.reports.clear();
        self.settled.clear();
        self.news = false;
    }

    /// Takes back what is told: it is of a topology that is no more.
    pub fn end(&mut self, now: Timestamp) -> Vec<Finding> {
        let open = mem::take(&mut self.open).into_values();
        let mut ended: Vec<Finding> = open.map(|finding| Finding { cleared: Some(now), ..finding }).collect();
        ended.extend(self.lossy.end(now));
        ended.extend(self.slow.end(now));
        ended
    }

    /// Links that are to be avoided: those that are accused, and those of which nothing can be learned.
    #[must_use]
    pub fn avoided(&self, topology: &Topology) -> BTreeSet<Pair> {
        let pairs = topology.links().iter().map(|link| pair(link.a, link.b));
        let hidden = pairs.filter(|(a, b)| self.hidden.contains(a) || self.hidden.contains(b));
        self.open
            .keys()
            .copied()
            .chain(self.lossy.avoided())
            .chain(self.slow.avoided())
            .chain(hidden)
            .collect()
    }

    /// Judges what was reported, if there is anything new to judge and those who should report have. Returns findings
    /// that were opened or cleared.
    pub fn judge<'n>(
        &mut self,
        topology: &Topology,
        epoch: u64,
        changed: Timestamp,
        mut expected: impl Iterator<Item = &'n NodeName>,
        now: Timestamp,
    ) -> Option<Vec<Finding>> {
        let pause_us = (JUDGE_A_NODE_US * self.reports.len() as u64).min(JUDGE_US);
        if !self.news || now.micros_since(self.judged) < pause_us {
            return None;
        }
        let late = now.micros_since(changed) >= SETTLE_US;
        let all = late || !expected.any(|node| !self.settled.contains(node));
        (self.news, self.judged) = (!all, now);
        self.picture = picture(topology, &self.locator, self.reports.values());
        self.known.extend(self.picture.crossed.keys());
        if !all {
            // Those who have not finished may have crossed what the others have not, but no link that the others would have
            // crossed if it were there.
            let sure = mem::take(&mut self.picture.sure);
            self.picture.uncrossed.retain(|link, _| sure.contains(link));
            self.picture.hidden.clear();
        }
        let known: BTreeSet<SwitchId> = self.known.iter().flat_map(|link| [link.0, link.1]).collect();
        // One that was met before is down now. Who is hidden stays so until he is met: since nobody looks for him any more.
        let before = self.hidden.clone();
        self.hidden.extend(self.picture.hidden.keys());
        self.hidden.retain(|switch| !known.contains(switch));
        self.turned |= self.hidden != before;
        let is_hidden = |link: &Pair| self.hidden.contains(&link.0) || self.hidden.contains(&link.1);
        let down: BTreeSet<Pair> = topology
            .links()
            .iter()
            .filter(|link| link.state == State::Down)
            .map(|link| pair(link.a, link.b))
            .collect();
        let mut changes = Vec::new();
        for (link, ports) in &self.picture.uncrossed {
            if !self.open.contains_key(link) && !down.contains(link) && !is_hidden(link) {
                let finding = self.finding(topology, *link, *ports, epoch, now);
                self.open.insert(*link, finding.clone());
                changes.push(finding);
            }
        }
        let crossed = &self.picture.crossed;
        let (mended, open) =
            mem::take(&mut self.open).into_iter().partition(|(link, _)| crossed.contains_key(link));
        self.open = open;
        let mended: BTreeMap<Pair, Finding> = mended;
        changes.extend(mended.into_values().map(|finding| Finding { cleared: Some(now), ..finding }));
        Some(changes)
    }

    fn finding(&self, topology: &Topology, link: Pair, ports: u32, epoch: u64, now: Timestamp) -> Finding {
        let name = |id| topology.switch(id).name.clone();
        let (a, b) = (name(link.0), name(link.1));
        let summary = if self.known.contains(&link) {
            format!(
                "no probe crosses the link {a}–{b} any more: {ports} source ports take other links of the leaf; paths avoid it"
            )
        } else {
            let sentence = never_crossed(topology, self.written.as_ref(), link, ports);
            format!("{sentence}: it is down, or the file is wrong")
        };
        let link = Link { src: a.clone(), dst: b.clone() };
        Finding {
            id: FindingId(format!("path-{a}-{b}-{epoch}")),
            job: JobId(String::new()),
            incarnation: 0,
            kind: Kind::PathFault,
            suspects: vec![Suspect { link: Some(link), score: 1.0, ..Suspect::default() }],
            confidence: 0.9,
            since: now,
            detected: now,
            cleared: None,
            summary,
            evidence: BTreeMap::from([("ports_elsewhere".to_owned(), json!(ports))]),
            explains: Vec::new(),
            refuted_by: format!("a probe that is answered by {b} after {a}, or by {a} after {b}"),
        }
    }

    /// What probes see.
    #[must_use]
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Links of the file that no probe has ever crossed, though it would have had to.
    fn absent(&self, topology: &Topology) -> impl Iterator<Item = String> {
        let absent = self.picture.uncrossed.iter().filter(|(link, _)| !self.known.contains(*link));
        let absent = absent.filter(|(link, _)| self.open.contains_key(*link));
        absent.map(|(link, ports)| never_crossed(topology, self.written.as_ref(), *link, *ports))
    }

    /// What does not fit the topology, in words.
    #[must_use]
    pub fn mistakes(&self, topology: &Topology) -> Vec<String> {
        let name = |id| &topology.switch(id).name;
        let strange = self.picture.strangers.iter().map(|stranger| match stranger {
            Stranger::Host(address) => format!("no NIC of the topology has the address {address}"),
            Stranger::Switch(address) => {
                format!("probes are answered by {address}, which is no switch's address in the topology")
            }
            Stranger::Link((a, b)) => {
                format!("probes cross {}–{}, which is not in the topology", name(*a), name(*b))
            }
        });
        let silent = self.picture.silent.iter().map(|leaf| {
            format!(
                "too many probes from under {} get no answer: dead links there cannot be told",
                name(*leaf)
            )
        });
        let hidden = self.hidden.iter().map(|switch| {
            format!(
                "no probe ever meets {}: it is down, does not answer, or answers by another's address; of its links nothing can \
                 be told, and paths avoid it",
                name(*switch)
            )
        });
        let doubted = self.picture.doubted.iter().filter(|_| !self.hidden.is_empty()).map(|switch| {
            format!(
                "{} is met by more than its share of probes: another switch may answer by its address, so that nothing is \
                 concluded from what crosses it",
                name(*switch)
            )
        });
        strange.chain(silent).chain(hidden).chain(doubted).chain(self.absent(topology)).collect()
    }
}

fn pair(a: SwitchId, b: SwitchId) -> Pair {
    (a.min(b), a.max(b))
}
