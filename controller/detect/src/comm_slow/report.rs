//! From slow links to findings: one for each cause, with what it costs the job.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    EXAMINE_US, Key, Network, Wish,
    cell::Numbers,
    locate::{self, Cause, Found},
};
use crate::{
    case::{Draft, Slot},
    config::Config,
    finding::{self, Finding, Kind, Suspect},
    health,
    model::{Comm, Job},
    names,
    nodes::Nodes,
    observation::{CommId, NodeName, ProcessId, Timestamp},
    slow, words,
};

/// After a link was found slow, others of the same cause are waited for, so that a row is not told of as a cell: at
/// least this long, and until all that may have the same cause are known, but no longer than so many iterations.
const SETTLE_US: u64 = 3_000_000;
/// The same where a link holds the whole job up: others of its cause show as soon as it does.
const SETTLE_SOON_US: u64 = 1_500_000;
const PATIENCE_US: u64 = 30_000_000;
const PATIENCE_ITERATIONS: u64 = 6;
/// A rank that was late this long before its links became slow makes them slow, and not the other way round.
const BEFORE_US: u64 = 10_000_000;
/// A link that is less slow than this part of the slowest (as logarithms) suffers from that one, and tells nothing of the
/// cause.
const SIDE_EFFECT: f64 = 0.35;
/// A slow link that is not used for this long, or for twelve iterations, is slow no longer.
const UNUSED_US: u64 = 60_000_000;
/// Where members of a communicator wait for times that differ by more than this part of what is lost, somebody is late.
const LATE: f64 = 0.3;
/// And where they differ by this share of the time, whatever is lost.
const CLEARLY_LATE: f64 = 0.08;
/// How many times as slow a link has to be, as a logarithm (threefold), for longer iterations to be laid to it where no
/// collective shows the loss.
const GROSS: f64 = 1.1;
/// A link whose data is under way for this part of the time and that is so many times as slow as usual, as a logarithm
/// (eightfold), in so many samples, holds the job up, whoever else is late.
const HOLDS_UP: f64 = 0.5;
const HOLDS_UP_EXCESS: f64 = 2.08;
const ENOUGH_SAMPLES: u32 = 2;
/// A link is told of while its samples are bad: within this time, or three iterations.
const RECENT_US: u64 = 10_000_000;
/// Links listed with a finding.
const LISTED: usize = 8;
/// How much longer an iteration has to take for the network to be looked at closely, without a late rank.
const SLOWER: f64 = 0.1;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// Slow links by their ends' processes.
type Pair = (ProcessId, ProcessId);

/// Causes that findings are open about.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    open: Vec<Incident>,
    numbered: u64,
    /// Since when there are slow links, and when the latest was found.
    began: Option<Timestamp>,
    news: Option<Timestamp>,
    untold: BTreeSet<Pair>,
}

#[derive(Debug)]
struct Incident {
    number: u64,
    links: BTreeSet<Pair>,
}

/// The matrix at the moment a link is slow: processes and nodes by number.
struct Matrix {
    processes: Vec<ProcessId>,
    nodes: Vec<NodeName>,
    slow: BTreeMap<locate::Link, Vec<Key>>,
    fine: Vec<locate::Link>,
    /// Links that may be slow for the same cause, as far as is known.
    unknown: Vec<locate::Link>,
}

/// Compares links, and turns those that are slow into findings.
pub(crate) fn assess(job: &mut Job, nodes: &Nodes, config: &Config, now: Timestamp, out: &mut Vec<Finding>) {
    if now.micros_since(job.network.examined) < EXAMINE_US {
        return;
    }
    job.network.examined = now;
    job.network.sweep(now);
    // What stands still tells of no steps, so a job that seems to hang and yet has slow links is slow.
    if job.stopping || job.cases.get(&Slot::Death).is_some() {
        return;
    }
    job.network.compare(config, now);
    if !job.held.is_empty() {
        slow::reconsider(job, nodes, config, now, out);
    }
    job.network.expire(now);
    look_closer(job, now);
    clear_recovered(job, now, out);
    let slow_now: BTreeSet<Pair> = job.network.slow.iter().filter_map(|key| ends(job, key)).collect();
    let holds_up = job.network.slow.iter().any(|key| holds_up_all(job, key));
    let settle_us = if holds_up { SETTLE_SOON_US } else { SETTLE_US };
    if job.network.incidents.settled(&slow_now, settle_us, now) && !slow_now.is_empty() {
        let matrix = Matrix::of(job);
        let slow: Vec<locate::Link> = matrix.slow.keys().copied().collect();
        let causes = locate::locate(&slow, &matrix.fine);
        // Several causes at once are rather one that does not show yet.
        let is_partial = !matrix.unknown.is_empty() || causes.len() > 2;
        if is_partial && job.network.incidents.may_wait(job.network.pace.now_us(), now) {
            return;
        }
        for found in causes {
            tell(job, &matrix, &found, nodes, config, now, out);
        }
    }
}

impl Incidents {
    /// Whether it is time to look for causes: no further link has become slow for a moment.
    fn settled(&mut self, slow: &BTreeSet<Pair>, settle_us: u64, now: Timestamp) -> bool {
        if !slow.is_subset(&self.untold) {
            self.news = Some(now);
        }
        if slow.is_empty() {
            self.began = None;
        } else {
            self.began.get_or_insert(now);
        }
        self.untold.clone_from(slow);
        self.news.is_some_and(|news| now.micros_since(news) >= settle_us)
    }

    /// Whether links that are not known yet may be waited for.
    fn may_wait(&self, iteration_us: u64, now: Timestamp) -> bool {
        let patience_us = PATIENCE_US.max(iteration_us.saturating_mul(PATIENCE_ITERATIONS));
        self.open.is_empty() && self.began.is_some_and(|began| now.micros_since(began) < patience_us)
    }
}

impl Matrix {
    fn of(job: &Job) -> Self {
        let mut matrix = Self {
            processes: Vec::new(),
            nodes: Vec::new(),
            slow: BTreeMap::new(),
            fine: Vec::new(),
            unknown: Vec::new(),
        };
        let mut numbers = (BTreeMap::new(), BTreeMap::new());
        let mut beside = BTreeSet::new();
        let network = &job.network;
        let excess = |key: &Key| network.cells.get(key).map_or(0.0, |cell| cell.numbers.excess);
        let most = network.slow.iter().map(excess).fold(0.0, f64::max);
        for key in network.suspicious.iter().chain(&network.slow) {
            let Some(link) = matrix.link(job, key, &mut numbers) else { continue };
            if excess(key) < most * SIDE_EFFECT {
                beside.insert(link);
            } else {
                let keys = matrix.slow.entry(link).or_default();
                if !keys.contains(key) {
                    keys.push(*key);
                }
            }
        }
        // Small steps hide what large ones show, and what was seen before the first link was slow says nothing of now.
        let slow = network.slow.iter().filter_map(|key| network.cells.get(key));
        let since = slow.map(|cell| cell.numbers.since).min().unwrap_or_default();
        let least = network.slow.iter().map(|key| key.class).min().unwrap_or(0);
        let (mut fine, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for (key, cell) in network.cells.iter().filter(|(key, _)| key.class >= least) {
            let Some(link) = matrix.link(job, key, &mut numbers) else { continue };
            if matrix.slow.contains_key(&link) || beside.contains(&link) || !cell.tells_of(since) {
                continue;
            }
            if cell.known_since(since) {
                fine.insert(link);
            } else if matrix.slow.keys().any(|slow| slow.may_share_cause(&link)) {
                unknown.insert(link);
            }
        }
        matrix.unknown = unknown.difference(&fine).copied().collect();
        matrix.fine = fine.into_iter().collect();
        matrix
    }

    fn link(
        &mut self,
        job: &Job,
        key: &Key,
        numbers: &mut (BTreeMap<ProcessId, usize>, BTreeMap<NodeName, usize>),
    ) -> Option<locate::Link> {
        let (src, dst) = ends(job, key)?;
        let mut end = |id: ProcessId| {
            let node = &job.process(id)?.info.node;
            let process = *numbers.0.entry(id).or_insert_with(|| {
                self.processes.push(id);
                self.processes.len() - 1
            });
            let node = match numbers.1.get(node) {
                Some(known) => *known,
                None => {
                    self.nodes.push(node.clone());
                    numbers.1.insert(node.clone(), self.nodes.len() - 1);
                    self.nodes.len() - 1
                }
            };
            Some((process, node))
        };
        let ((src, src_node), (dst, dst_node)) = (end(src)?, end(dst)?);
        Some(locate::Link { src, dst, src_node, dst_node })
    }

    fn pairs(&self, found: &Found) -> BTreeSet<Pair> {
        found.slow.iter().map(|link| (self.processes[link.src], self.processes[link.dst])).collect()
    }

    fn keys(&self, found: &Found) -> Vec<Key> {
        found.slow.iter().filter_map(|link| self.slow.get(link)).flatten().copied().collect()
    }
}

fn ends(job: &Job, key: &Key) -> Option<Pair> {
    let members = &job.comms.get(&key.comm)?.members;
    Some((members.get(&key.src)?.process, members.get(&key.dst)?.process))
}

fn clear_recovered(job: &mut Job, now: Timestamp, out: &mut Vec<Finding>) {
    if job.network.incidents.open.is_empty() {
        return;
    }
    let slow: BTreeSet<Pair> = job.network.slow.iter().filter_map(|key| ends(job, key)).collect();
    let (open, over): (Vec<_>, Vec<_>) = std::mem::take(&mut job.network.incidents.open)
        .into_iter()
        .partition(|incident| incident.links.iter().any(|pair| slow.contains(pair)));
    job.network.incidents.open = open;
    for incident in over {
        job.cases.clear(&Slot::Network(incident.number), now, out);
    }
}

fn tell(
    job: &mut Job,
    matrix: &Matrix,
    found: &Found,
    nodes: &Nodes,
    config: &Config,
    now: Timestamp,
    out: &mut Vec<Finding>,
) {
    let keys = matrix.keys(found);
    let recent_us = RECENT_US.max(job.network.pace.now_us().saturating_mul(3));
    let slow_now = |key: &Key| {
        let cell = job.network.cells.get(key);
        job.network.slow.contains(key) && cell.is_some_and(|cell| cell.is_bad(now.before(recent_us)))
    };
    if !keys.iter().any(slow_now) {
        return;
    }
    let pairs = matrix.pairs(found);
    let related: Vec<u64> = job
        .network
        .incidents
        .open
        .iter()
        .filter(|incident| !incident.links.is_disjoint(&pairs))
        .map(|incident| incident.number)
        .collect();
    let known = related
        .first()
        .and_then(|number| job.network.incidents.open.iter().find(|incident| incident.number == *number));
    // As links recover one after the other, the cause does not become another one.
    if known.is_some_and(|incident| pairs.is_subset(&incident.links)) {
        return;
    }
    let lost = lost(job, &keys);
    if related.is_empty()
        && (lost < config.slow_floor
            || explained_by_late_rank(job, &keys, now, out)
            || somebody_is_late(job, &keys, lost))
    {
        return;
    }
    let mut draft = draft(job, matrix, found, &keys, lost, now);
    health::join(&mut draft, job, nodes, config, now);
    for number in related.iter().skip(1) {
        if let Some(old) = job.cases.clear(&Slot::Network(*number), now, out) {
            draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
        }
    }
    absorb(job, &keys, &mut draft, now, out);
    let incidents = &mut job.network.incidents;
    let number = related.first().copied().unwrap_or_else(|| {
        incidents.numbered += 1;
        incidents.numbered
    });
    let mut links = pairs;
    for incident in incidents.open.iter().filter(|incident| related.contains(&incident.number)) {
        links.extend(incident.links.iter().copied());
    }
    incidents.open.retain(|incident| !related.contains(&incident.number));
    incidents.open.push(Incident { number, links });
    let (name, incarnation) = (job.id.clone(), job.incarnation);
    job.cases.tell(Slot::Network(number), draft, &name, incarnation, now, out);
}

/// Share of the iteration that the job loses to these links: the time all ranks spend in the communicators' operations
/// beyond what it would be, or by how much iterations take longer than they did, if that is not for a late rank.
fn lost(job: &Job, keys: &[Key]) -> f64 {
    let mut by_kind: BTreeMap<(u32, &str), f64> = BTreeMap::new();
    for key in keys {
        let (Some(comm), Some(cell)) = (job.comms.get(&key.comm), job.network.cells.get(key)) else {
            continue;
        };
        let lost = comm.busy() * (1.0 - (-cell.numbers.excess).exp()).max(0.0);
        // A rank is in one communicator of each kind, and communicators of one kind wait at the same time.
        let most = by_kind.entry((comm.size, &comm.name)).or_default();
        *most = most.max(lost);
    }
    let gross = keys.iter().any(|key| job.network.cells.get(key).is_some_and(|c| c.numbers.excess >= GROSS));
    let slower = if gross { job.network.pace.loss() } else { 0.0 };
    by_kind.values().sum::<f64>().max(slower).min(0.99)
}

/// Whether data is on a link for so long, at both its ends, that it takes much of all the time there is. Who is late cannot
/// bring that about, and what had been late before the link became slow says nothing against it.
fn holds_up_all(job: &Job, key: &Key) -> bool {
    let (Some(comm), Some(cell)) = (job.comms.get(&key.comm), job.network.cells.get(key)) else {
        return false;
    };
    cell.numbers.samples >= ENOUGH_SAMPLES
        && cell.numbers.excess >= HOLDS_UP_EXCESS
        && cell.numbers.cost * comm.bytes_per_ns() >= HOLDS_UP
}

/// Whether a rank of the communicators concerned is late, or some rank of the job seems to be: it waits for less time than
/// others do and spends more by itself, while a slow link makes all wait alike. A late rank must not be called a slow link, so nothing is said of links then.
fn somebody_is_late(job: &Job, keys: &[Key], lost: f64) -> bool {
    if keys.iter().any(|key| holds_up_all(job, key)) {
        return false;
    }
    let comms: BTreeSet<CommId> = keys.iter().map(|key| key.comm).collect();
    let members = |id: &CommId| job.comms.get(id).into_iter().flat_map(|comm| comm.members.values());
    let ranks: BTreeSet<ProcessId> = comms.iter().flat_map(members).map(|member| member.process).collect();
    let accused = |process: &ProcessId| ranks.contains(process);
    let told = job.cases.iter().any(|(slot, case)| match slot {
        Slot::Slow(_) => case.accused.iter().any(accused),
        Slot::Imbalance(_) => true,
        _ => false,
    });
    told || job
        .comms
        .values()
        .filter(|comm| comm.is_inner())
        .any(|comm| comm.lateness() > (lost * LATE).min(CLEARLY_LATE))
}

/// A rank that was late before may starve its own network: then that is told with its lateness.
fn explained_by_late_rank(job: &mut Job, keys: &[Key], now: Timestamp, out: &mut Vec<Finding>) -> bool {
    let since = keys.iter().filter_map(|key| job.network.cells.get(key)).map(|cell| cell.numbers.since).min();
    let since = since.unwrap_or(now).after(BEFORE_US);
    let pairs: Vec<Pair> = keys.iter().filter_map(|key| ends(job, key)).collect();
    let slot = job.cases.iter().find_map(|(slot, case)| {
        let touches = |(src, dst): &Pair| case.accused.contains(src) || case.accused.contains(dst);
        let fits = matches!(slot, Slot::Slow(_)) && case.finding.since <= since && pairs.iter().all(touches);
        fits.then(|| slot.clone())
    });
    let Some(slot) = slot else { return false };
    job.cases.explain(&slot, "its network connections are slower than those of its peers".to_owned(), out);
    true
}

/// Whether a rank is late because of a slow link of which a finding tells: then it is told there.
pub(crate) fn explains(job: &mut Job, late: &Draft, now: Timestamp, out: &mut Vec<Finding>) -> bool {
    if !late.accused.iter().any(|process| is_near(job, *process, &job.network.slow)) {
        return false;
    }
    let began = late.since.after(BEFORE_US).min(now);
    let slot = job.cases.iter().find_map(|(slot, case)| {
        let fits = matches!(slot, Slot::Network(_)) && case.finding.since <= began;
        fits.then(|| slot.clone())
    });
    let Some(slot) = slot else { return false };
    job.cases.explain(&slot, format!("{}: {}", late.kind.name(), late.summary), out);
    true
}

/// Whether ranks of a communicator take turns in coming late because of a slow link in it, of which a finding tells.
pub(crate) fn explains_turns(job: &Job, comm: CommId) -> bool {
    let told = job.cases.iter().any(|(slot, _)| matches!(slot, Slot::Network(_)));
    told && job.network.slow.iter().any(|key| key.comm == comm)
}

/// Whether a rank may be late because of a link that is under suspicion.
pub(crate) fn may_explain(job: &Job, late: &Draft) -> bool {
    late.accused.iter().any(|process| is_near(job, *process, &job.network.suspicious))
}

/// Whether a rank is at an end of one of the links, or works closely together with one who is.
fn is_near(job: &Job, process: ProcessId, links: &BTreeSet<Key>) -> bool {
    let Some(process) = job.process(process) else { return false };
    let shares = |other: ProcessId| {
        job.process(other).is_some_and(|other| {
            let both = other.memberships.keys().filter(|id| process.memberships.contains_key(id));
            both.filter_map(|id| job.comms.get(id)).any(Comm::is_inner)
        })
    };
    links.iter().take(64).filter_map(|key| ends(job, key)).any(|(src, dst)| shares(src) || shares(dst))
}

/// Ranks at the ends of slow links that came late because of them, and unevenness in those communicators.
fn absorb(job: &mut Job, keys: &[Key], draft: &mut Draft, now: Timestamp, out: &mut Vec<Finding>) {
    let at_ends: BTreeSet<ProcessId> =
        keys.iter().filter_map(|key| ends(job, key)).flat_map(|(src, dst)| [src, dst]).collect();
    let comms: BTreeSet<CommId> = keys.iter().map(|key| key.comm).collect();
    let symptoms: Vec<Slot> = job
        .cases
        .iter()
        .filter(|(slot, case)| match slot {
            Slot::Slow(_) => case.accused.iter().all(|process| at_ends.contains(process)),
            Slot::Hang | Slot::Beside(_) => true,
            Slot::Imbalance(comm) => comms.contains(comm),
            _ => false,
        })
        .map(|(slot, _)| slot.clone())
        .collect();
    for slot in symptoms {
        if let Some(old) = job.cases.clear(&slot, now, out) {
            draft.explains.push(format!("{}: {}", old.kind.name(), old.summary));
        }
    }
}

fn draft(job: &Job, matrix: &Matrix, found: &Found, keys: &[Key], lost: f64, now: Timestamp) -> Draft {
    let numbers: Vec<(Key, Numbers)> =
        keys.iter().filter_map(|key| Some((*key, job.network.cells.get(key)?.numbers))).collect();
    let worst = numbers.iter().max_by(|(_, a), (_, b)| a.excess.total_cmp(&b.excess));
    let worst = worst.map(|(_, numbers)| *numbers).unwrap_or_default();
    let since = numbers.iter().map(|(_, numbers)| numbers.since).min().unwrap_or(now);
    let whole = found.slow.len() as f64 / found.covered.max(1) as f64;
    let confidence = ((0.65 + 0.1 * (worst.excess / 0.69).min(2.0)) * whole.sqrt()).min(0.9);
    let confidence = confidence / (found.equals.len() + 1) as f64;
    let causes: Vec<&Cause> = std::iter::once(&found.cause).chain(&found.equals).collect();
    let suspects: Vec<(Suspect, Option<ProcessId>)> =
        causes.iter().flat_map(|cause| suspects(job, matrix, cause, confidence)).collect();
    let what: Vec<String> = causes.iter().map(|cause| describe(job, matrix, cause)).collect();
    let ns = |per_byte: f64| (per_byte * BYTES_PER_MIB).round();
    let time = |per_byte: f64| words::duration((ns(per_byte) / 1_000.0) as u64);
    let summary = format!(
        "{} {:.1} times as slow as comparable links ({} instead of {} for a MiB) since {} UTC; the job loses about {:.0} % of each iteration to it",
        what.join(", or "),
        worst.excess.exp(),
        time(worst.cost),
        time(worst.cost / worst.excess.exp()),
        words::clock(since),
        lost * 100.0,
    );
    let comms: BTreeSet<CommId> = keys.iter().map(|key| key.comm).collect();
    let labels = comms.iter().filter_map(|comm| job.comms.get(comm)).map(|comm| comm.label());
    let iteration_us = job.iteration_us();
    let iterations = now.micros_since(since) as f64 / iteration_us.max(1) as f64;
    let percent = |x: f64| (x * 1_000.0).round() / 10.0;
    let evidence = [
        ("cause", json!(kind_name(&found.cause))),
        ("communicators", json!(labels.take(LISTED).collect::<BTreeSet<_>>())),
        ("ns_per_mib", json!(ns(worst.cost))),
        ("peers_median_ns_per_mib", json!(ns(worst.peers_cost))),
        ("peers", json!(worst.peers)),
        ("times_as_slow", json!((worst.excess.exp() * 100.0).round() / 100.0)),
        ("noise_percent", json!(percent(worst.noise.exp_m1()))),
        ("flush_percent", json!(percent(worst.flush))),
        ("bytes_timed", json!(numbers.iter().map(|(_, n)| n.bytes).sum::<u64>())),
        ("samples", json!(worst.samples)),
        ("slow_links", json!(found.slow.len())),
        ("links_of_the_cause", json!(found.covered)),
        ("links_compared", json!(matrix.slow.len() + matrix.fine.len())),
        ("links", links(job, &numbers)),
        ("lost_percent_of_iteration", json!(percent(lost))),
        ("lost_ms_per_iteration", json!((lost * iteration_us as f64 / 10.0).round() / 100.0)),
        ("iterations_lost", json!((lost * iterations * 10.0).round() / 10.0)),
    ];
    let waiting: usize =
        comms.iter().filter_map(|comm| job.comms.get(comm)).map(|comm| comm.members.len()).max().unwrap_or(0);
    Draft {
        kind: Kind::CommSlow,
        accused: suspects.iter().filter_map(|(_, process)| *process).collect(),
        suspects: suspects.into_iter().map(|(suspect, _)| suspect).collect(),
        confidence,
        since,
        summary,
        evidence: evidence.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
        explains: vec![format!(
            "the {} of each communicator concerned wait for it inside their operations",
            words::count(waiting, "rank")
        )],
        refuted_by: "a transfer between the same ends outside of the job is as fast as between others, or the ranks at \
                     these ends share a NIC or a GPU with more traffic than their peers do",
        place: keys.first().map(|key| (key.comm, 0)),
    }
}

/// The slowest links, with the numbers of each.
fn links(job: &Job, numbers: &[(Key, Numbers)]) -> Value {
    let mut worst: Vec<&(Key, Numbers)> = numbers.iter().collect();
    worst.sort_by(|(a, x), (b, y)| y.excess.total_cmp(&x.excess).then(a.cmp(b)));
    let value = |(key, numbers): &&(Key, Numbers)| {
        let (src, dst) = ends(job, key)?;
        Some(json!({
            "src": names::short(job, src),
            "dst": names::short(job, dst),
            "communicator": job.comms.get(&key.comm).map(|comm| comm.label()),
            "ns_per_mib": (numbers.cost * BYTES_PER_MIB).round(),
            "times_as_slow": (numbers.excess.exp() * 100.0).round() / 100.0,
        }))
    };
    worst.iter().take(LISTED).filter_map(value).collect()
}

fn kind_name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Path(..) => "path",
        Cause::Sender(_) | Cause::NodeOut(_) => "sender",
        Cause::Receiver(_) | Cause::NodeIn(_) => "receiver",
        Cause::Ends(_) => "nic",
        Cause::Node(_) => "node",
        Cause::Between(..) | Cause::Group(_) | Cause::Uplink(_) => "switch",
    }
}

/// Who is suspected: of a path the sender first, since nothing tells its ends apart.
fn suspects(job: &Job, matrix: &Matrix, cause: &Cause, score: f64) -> Vec<(Suspect, Option<ProcessId>)> {
    let rank = |number: usize, score: f64| {
        let process = matrix.processes[number];
        (names::suspect(job, process, score), Some(process))
    };
    let node = |number: &usize, link: Option<finding::Link>| {
        let name = matrix.nodes[*number].clone();
        (Suspect { node: Some(name), link, score, ..Suspect::default() }, None)
    };
    match cause {
        Cause::Path(src, dst) => {
            let name = |number: usize| names::short(job, matrix.processes[number]);
            let link = finding::Link { src: name(*src), dst: name(*dst) };
            let mut ends = [rank(*src, score), rank(*dst, score * 0.8)];
            for (suspect, _) in &mut ends {
                suspect.link = Some(link.clone());
            }
            ends.into()
        }
        Cause::Sender(number) | Cause::Receiver(number) | Cause::Ends(number) => vec![rank(*number, score)],
        Cause::NodeOut(number) | Cause::NodeIn(number) | Cause::Node(number) => vec![node(number, None)],
        Cause::Between(from, to) => {
            let link = finding::Link { src: nodes_list(matrix, from), dst: nodes_list(matrix, to) };
            from.iter().map(|number| node(number, Some(link.clone()))).collect()
        }
        Cause::Group(nodes) | Cause::Uplink(nodes) => {
            let link = finding::Link { src: nodes_list(matrix, nodes), dst: "the other nodes".to_owned() };
            nodes.iter().map(|number| node(number, Some(link.clone()))).collect()
        }
    }
}

fn nodes_list(matrix: &Matrix, nodes: &BTreeSet<usize>) -> String {
    let names: Vec<String> = nodes.iter().map(|number| matrix.nodes[*number].0.clone()).collect();
    words::list(&names, 6)
}

/// The opening of a sentence, with its verb.
fn describe(job: &Job, matrix: &Matrix, cause: &Cause) -> String {
    let rank = |number: &usize| names::full(job, matrix.processes[*number]);
    let node = |number: &usize| &matrix.nodes[*number].0;
    match cause {
        Cause::Path(src, dst) => format!("the link from {} to {} is", rank(src), rank(dst)),
        Cause::Sender(number) => format!("everything that {} sends is", rank(number)),
        Cause::Receiver(number) => format!("everything that {} receives is", rank(number)),
        Cause::Ends(number) => format!("everything that {} sends and receives is", rank(number)),
        Cause::NodeOut(number) => format!("everything that leaves {} is", node(number)),
        Cause::NodeIn(number) => format!("everything that comes to {} is", node(number)),
        Cause::Node(number) => format!("everything in and out of {} is", node(number)),
        Cause::Between(from, to) => {
            format!("everything from {} to {} is", nodes_list(matrix, from), nodes_list(matrix, to))
        }
        Cause::Group(nodes) => format!("everything in, out of and between {} is", nodes_list(matrix, nodes)),
        Cause::Uplink(nodes) => {
            format!("everything between {} and the other nodes is", nodes_list(matrix, nodes))
        }
    }
}

/// Has all steps timed where links are suspicious, or where the job has become slower and nobody is late.
fn look_closer(job: &mut Job, now: Timestamp) {
    let network = &job.network;
    let mut keys: Vec<(&Key, f64)> = network
        .suspicious
        .iter()
        .filter_map(|key| Some((key, network.cells.get(key)?.numbers.excess)))
        .collect();
    keys.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let mut processes: Vec<ProcessId> = Vec::new();
    let mut add = |process: ProcessId| {
        if !processes.contains(&process) && processes.len() < 128 {
            processes.push(process);
        }
    };
    let pairs: Vec<Pair> = keys.iter().take(128).filter_map(|(key, _)| ends(job, key)).collect();
    pairs.iter().for_each(|(src, dst)| {
        add(*src);
        add(*dst);
    });
    // Then those whom these exchange data with: whether their links are slow, too, tells what the cause is.
    for (key, _) in keys.iter().take(16) {
        let of_end =
            |other: &&Key| [key.src, key.dst].iter().any(|end| other.src == *end || other.dst == *end);
        let range = Key { src: 0, dst: 0, class: 0, ..**key }..;
        let same = network.cells.range(range).map(|(key, _)| key).take_while(|other| other.comm == key.comm);
        same.filter(of_end).filter_map(|key| ends(job, key)).take(64).for_each(|(src, dst)| {
            add(src);
            add(dst);
        });
    }
    let late = job.cases.iter().any(|(slot, _)| matches!(slot, Slot::Slow(_) | Slot::Imbalance(_)));
    if keys.is_empty() && !late && network.pace.loss() > SLOWER {
        let busiest = job.comms.values().max_by(|a, b| a.busy().total_cmp(&b.busy()));
        busiest.into_iter().flat_map(|comm| comm.members.values()).for_each(|member| add(member.process));
    }
    let suspects: Vec<(ProcessId, NodeName)> = processes
        .into_iter()
        .filter_map(|process| Some((process, job.process(process)?.info.node.clone())))
        .collect();
    let wishes = job.network.watch.next(&suspects, now);
    if !wishes.is_empty() {
        job.network.wishes = wishes;
    }
}

impl Network {
    /// What was slow and is no longer used is slow no longer.
    fn expire(&mut self, now: Timestamp) {
        let after_us = UNUSED_US.max(self.pace.now_us().saturating_mul(PATIENCE_ITERATIONS * 2));
        // A link that is slow cuts its data into steps of other sizes; those tell nothing once the usual ones are fine.
        let outlived: BTreeSet<Key> =
            self.slow.union(&self.suspicious).filter(|key| self.is_outlived(key)).copied().collect();
        let cells = &mut self.cells;
        let mut keep = |key: &Key| {
            let after_us = if outlived.contains(key) { 0 } else { after_us };
            cells.get_mut(key).is_some_and(|cell| !cell.expire(after_us, now))
        };
        self.slow.retain(&mut keep);
        self.suspicious.retain(&mut keep);
    }

    /// Whether steps of another size, no smaller but for a little, have since shown again and again that the link is fine.
    fn is_outlived(&self, key: &Key) -> bool {
        let Some(last) = self.cells.get(key).map(|cell| cell.last_judged().after(1)) else { return false };
        let sizes = Key { class: key.class.saturating_sub(1), ..*key }..=Key { class: u32::MAX, ..*key };
        let mut others = self.cells.range(sizes).filter(|(other, _)| *other != key);
        others.any(|(other, cell)| {
            cell.known_since(last) && !self.slow.contains(other) && !self.suspicious.contains(other)
        })
    }

    /// Whose steps should all be timed, each wish once.
    pub(crate) fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }
}
