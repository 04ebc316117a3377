//! The flows of jobs, as their own connections tell: nobody writes them into a file.
//!
//! Recorders say whom each process sends to. Where processes run, and by which NIC, makes flows of that. What a job sent is
//! remembered for a while after its processes have ended: it is restarted on the same hosts more often than not, and its
//! connections are on planned paths from the beginning if the plan still has them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use c4_detect::observation::{CommId, JobId, NodeName, ProcessId, ProcessInfo, Timestamp};

use crate::{
    convert::{OwnNic, PeerTraffic},
    registry::Registry,
};

/// A new incarnation shows all its connections within this time (10 s); until then those of the one before stand in for
/// what it has not shown, or a plan in between would forget where its flows were.
const SHOWN_US: u64 = 10_000_000;
/// Peers remembered of one process.
const MOST_PEERS: usize = 16_384;

/// Where a process runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: NodeName,
    /// The GPU, where it is known.
    pub gpu: Option<u32>,
    /// The NICs that its NCCL was told to use; empty where it was not.
    pub nics: Arc<[OwnNic]>,
}

/// What processes of a job send from one place to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// The job.
    pub job: JobId,
    /// The sender.
    pub from: Place,
    /// The receiver.
    pub to: Place,
    /// How much, beside the other streams of its sender.
    pub weight: f64,
    /// Over how many channels.
    pub channels: u32,
    /// When the first of its connections that still run was seen; none when none does.
    pub since: Option<Timestamp>,
}

#[derive(Debug)]
struct Peer {
    told: PeerTraffic,
    /// Where it runs, once that is known: it stays true when the peer has ended.
    to: Option<Place>,
}

#[derive(Debug)]
struct Sender {
    job: JobId,
    incarnation: u32,
    place: Place,
    began: Timestamp,
    ended: Option<Timestamp>,
    /// When an iteration of it began, by what it told last.
    turned: Option<Timestamp>,
    peers: HashMap<(CommId, u32), Peer>,
}

#[derive(Debug, Default)]
struct Sum {
    weight: f64,
    channels: u32,
    since: Option<Timestamp>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Evidence {
    senders: HashMap<ProcessId, Sender>,
    nics: Nics,
}

/// The NICs of processes that were told which to use, until they end.
#[derive(Debug, Default)]
struct Nics(HashMap<ProcessId, Arc<[OwnNic]>>);

impl Nics {
    fn place(&self, info: &ProcessInfo) -> Place {
        let nics = self.0.get(&info.process).cloned().unwrap_or_default();
        Place { node: info.node.clone(), gpu: info.gpu, nics }
    }
}

impl Evidence {
    /// A process may use these NICs, and no others; all, if there are none.
    pub fn started(&mut self, process: ProcessId, nics: Vec<OwnNic>) {
        if !nics.is_empty() {
            self.nics.0.insert(process, nics.into());
        }
    }

    /// Takes in what a process sends. Returns whether it has a peer or a channel that was not known.
    pub fn traffic(&mut self, info: &ProcessInfo, told: PeerTraffic, now: Timestamp) -> bool {
        let sender = self.senders.entry(told.process).or_insert_with(|| Sender {
            job: info.job.clone(),
            incarnation: info.incarnation,
            place: self.nics.place(info),
            began: now,
            ended: None,
            turned: None,
            peers: HashMap::new(),
        });
        sender.turned = sender.turned.max(told.turn_us.map(|us| now.before(us)));
        let key = (told.comm, told.peer);
        if let Some(peer) = sender.peers.get_mut(&key) {
            let channels = std::mem::replace(&mut peer.told, told).channels;
            return channels != told.channels;
        }
        if sender.peers.len() < MOST_PEERS {
            sender.peers.insert(key, Peer { told, to: None });
        }
        true
    }

    /// A process has ended.
    pub fn ended(&mut self, process: ProcessId, now: Timestamp) {
        self.nics.0.remove(&process);
        if let Some(sender) = self.senders.get_mut(&process) {
            sender.ended.get_or_insert(now);
        }
    }

    /// Forgets what ended long ago. Returns whether there was anything.
    pub fn prune(&mut self, now: Timestamp, keep_us: u64) -> bool {
        let before = self.senders.len();
        self.senders.retain(|_, sender| sender.ended.is_none_or(|at| now.micros_since(at) < keep_us));
        self.senders.len() != before
    }

    /// The streams of all jobs, each of its newest incarnation that has sent anything; and the jobs that still run.
    pub fn streams(&mut self, registry: &Registry, now: Timestamp) -> (Vec<Stream>, BTreeSet<JobId>) {
        // Of each job: the newest incarnation, and since when it is known.
        let mut newest: BTreeMap<JobId, (u32, Timestamp)> = BTreeMap::new();
        for sender in self.senders.values() {
            let this = (sender.incarnation, sender.began);
            let known = newest.entry(sender.job.clone()).or_insert(this);
            if this.0 > known.0 || (this.0 == known.0 && this.1 < known.1) {
                *known = this;
            }
        }
        self.senders.retain(|_, sender| {
            newest.get(&sender.job).is_some_and(|(incarnation, began)| {
                sender.incarnation == *incarnation || now.micros_since(*began) < SHOWN_US
            })
        });
        let is_new = |sender: &Sender| newest.get(&sender.job).is_some_and(|new| new.0 == sender.incarnation);
        let (new, old) = (self.sum(registry, is_new), self.sum(registry, |sender| !is_new(sender)));
        let mut sums = old;
        sums.extend(new);
        let running = self.senders.values().filter(|sender| sender.ended.is_none());
        let running = running.map(|sender| sender.job.clone()).collect();
        let streams = sums.into_iter().map(|((job, from, to), sum)| Stream {
            job,
            from,
            to,
            weight: sum.weight,
            channels: sum.channels,
            since: sum.since,
        });
        (streams.collect(), running)
    }

    /// Whether a job that runs has shown all its connections: in every communicator over which anybody sends, every member is
    /// known and has told whom it sends to. Nothing can be said of those in which some only receive.
    #[must_use]
    pub fn is_complete(&self, registry: &Registry, job: &JobId) -> bool {
        let own = || {
            self.senders.iter().filter(|(_, sender)| {
                sender.job == *job
                    && sender.ended.is_none()
                    && registry.incarnation(job) == Some(sender.incarnation)
            })
        };
        let mut senders: BTreeMap<CommId, BTreeSet<ProcessId>> = BTreeMap::new();
        for (process, sender) in own() {
            for (comm, _) in sender.peers.keys() {
                senders.entry(*comm).or_default().insert(*process);
            }
        }
        !senders.is_empty()
            && senders
                .iter()
                .all(|(comm, senders)| registry.members(*comm).is_some_and(|all| all == senders.len()))
    }

    /// When an iteration of a job began, by what its processes told last.
    #[must_use]
    pub fn turned(&self, job: &str) -> Option<Timestamp> {
        let own = self.senders.values().filter(|sender| sender.job.0 == job && sender.ended.is_none());
        own.filter_map(|sender| sender.turned).max()
    }

    /// What some senders send, from place to place.
    fn sum(
        &mut self,
        registry: &Registry,
        wanted: impl Fn(&Sender) -> bool,
    ) -> BTreeMap<(JobId, Place, Place), Sum> {
        let mut sums: BTreeMap<(JobId, Place, Place), Sum> = BTreeMap::new();
        for sender in self.senders.values_mut().filter(|sender| wanted(sender)) {
            for ((comm, rank), peer) in &mut sender.peers {
                if peer.to.is_none() {
                    let info = registry.at(*comm, *rank).filter(|info| info.job == sender.job);
                    peer.to = info.map(|info| self.nics.place(info));
                }
                // Inside a host nothing crosses the network.
                let Some(to) = peer.to.as_ref().filter(|to| to.node != sender.place.node) else { continue };
                let key = (sender.job.clone(), sender.place.clone(), to.clone());
                let sum = sums.entry(key).or_default();
                sum.weight += peer.told.bytes.max(1) as f64;
                sum.channels = sum.channels.saturating_add(peer.told.channels);
                let began = sender.ended.is_none().then_some(sender.began);
                sum.since = sum.since.into_iter().chain(began).min();
            }
        }
        sums
    }
}

/// How hosts send to each other, in words.
#[must_use]
pub fn pattern(edges: &BTreeSet<(&str, &str)>) -> String {
    let hosts: BTreeSet<&str> = edges.iter().flat_map(|(from, to)| [*from, *to]).collect();
    let next: BTreeMap<&str, &str> = edges.iter().copied().collect();
    let one_each = next.len() == edges.len() && next.len() == hosts.len();
    if one_each && let Some(first) = hosts.first().copied() {
        let (mut at, mut length) = (next.get(first).copied(), 1);
        while let Some(host) = at.filter(|host| *host != first && length <= hosts.len()) {
            at = next.get(host).copied();
            length += 1;
        }
        if length == hosts.len() {
            return format!("ring of {length} hosts");
        }
    }
    let pairs: BTreeSet<(&str, &str)> = edges.iter().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
    let both_ways = edges.len() == 2 * pairs.len();
    let neighbours = if both_ways { neighbours(&pairs) } else { Neighbours::new() };
    if both_ways && pairs.len() + 1 == hosts.len() && is_joined(&neighbours) {
        return format!("tree of {} hosts", hosts.len());
    }
    // Channels of a ring run either way round.
    let two_each = || neighbours.values().all(|others| others.len() == 2);
    if both_ways && hosts.len() > 3 && two_each() && is_joined(&neighbours) {
        return format!("ring of {} hosts, both ways", hosts.len());
    }
    if edges.len() == hosts.len() * hosts.len().saturating_sub(1) {
        return format!("all to all of {} hosts", hosts.len());
    }
    format!("{} pairs of {} hosts", edges.len(), hosts.len())
}

type Neighbours<'n> = BTreeMap<&'n str, Vec<&'n str>>;

fn neighbours<'n>(pairs: &BTreeSet<(&'n str, &'n str)>) -> Neighbours<'n> {
    let mut neighbours = Neighbours::new();
    for (a, b) in pairs {
        neighbours.entry(a).or_default().push(b);
        neighbours.entry(b).or_default().push(a);
    }
    neighbours
}

/// Whether each can be reached from each other.
fn is_joined(neighbours: &Neighbours<'_>) -> bool {
    let mut reached: BTreeSet<&str> = neighbours.keys().take(1).copied().collect();
    let mut next: Vec<&str> = reached.iter().copied().collect();
    while let Some(host) = next.pop() {
        next.extend(neighbours[host].iter().copied().filter(|other| reached.insert(other)));
    }
    reached.len() == neighbours.len()
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::Membership;

    use super::*;

    fn info(process: u64, incarnation: u32, node: &str) -> ProcessInfo {
        ProcessInfo {
            process: ProcessId(process),
            job: JobId("j".into()),
            incarnation,
            rank: None,
            world_size: None,
            node: NodeName(node.into()),
            gpu: Some(0),
            pid: 1,
            blind_spots: Vec::new(),
        }
    }

    fn sends(process: u64, peer: u32) -> PeerTraffic {
        let process = ProcessId(process);
        PeerTraffic {
            process,
            comm: CommId(process.0 / 10),
            peer,
            channels: 2,
            operations: 1,
            bytes: 0,
            turn_us: None,
        }
    }

    /// Two processes on two nodes, in one communicator.
    fn run(registry: &mut Registry, evidence: &mut Evidence, incarnation: u32, shown: u32) {
        let first = u64::from(incarnation + 1) * 10;
        for (rank, node) in ["a", "b"].into_iter().enumerate() {
            let info = info(first + rank as u64, incarnation, node);
            registry.announce(&info).expect("new");
            let comm = CommId(first / 10);
            let name = String::new();
            let membership =
                Membership { process: info.process, comm, name, size: 2, comm_rank: rank as u32 };
            registry.join(&membership, &info.node).expect("new");
            if rank as u32 >= shown {
                continue;
            }
            let turn_us = (shown > 1).then_some(u64::from(rank as u32));
            let told = PeerTraffic { turn_us, ..sends(info.process.0, 1 - rank as u32) };
            assert!(evidence.traffic(&info, told, Timestamp(3)));
            assert!(!evidence.traffic(&info, told, Timestamp(4)), "no news");
        }
    }

    #[test]
    fn streams_come_from_connections_and_outlive_their_processes_for_a_while() {
        let (mut registry, mut evidence) = (Registry::default(), Evidence::default());
        let job = JobId("j".into());
        assert!(!evidence.is_complete(&registry, &job), "nothing is known");
        run(&mut registry, &mut evidence, 0, 2);
        assert!(evidence.is_complete(&registry, &job));
        assert_eq!(evidence.turned("j"), Some(Timestamp(4)), "of the second look, the later");
        let (streams, running) = evidence.streams(&registry, Timestamp(4));
        let ends: Vec<_> = streams.iter().map(|s| (s.from.node.0.as_str(), s.to.node.0.as_str())).collect();
        assert_eq!(ends, [("a", "b"), ("b", "a")]);
        assert_eq!((streams[0].channels, streams[0].since, running.len()), (2, Some(Timestamp(3)), 1));
        evidence.ended(ProcessId(10), Timestamp(5));
        evidence.ended(ProcessId(11), Timestamp(5));
        assert!(!evidence.prune(Timestamp(9), 10));
        let (streams, running) = evidence.streams(&registry, Timestamp(4));
        assert_eq!((streams.len(), running.len()), (2, 0));
        // A new incarnation takes the place of the old one, which stands in for what is not shown yet.
        run(&mut registry, &mut evidence, 1, 1);
        assert!(!evidence.is_complete(&registry, &job), "only one of two has shown whom it sends to");
        assert_eq!(evidence.turned("j"), None);
        let (streams, running) = evidence.streams(&registry, Timestamp(9));
        assert_eq!((streams.len(), running.len()), (2, 1));
        let since: Vec<_> = streams.iter().map(|stream| stream.since).collect();
        assert_eq!(since, [Some(Timestamp(3)), None]);
        assert_eq!(
            evidence.streams(&registry, Timestamp(3 + SHOWN_US)).0.len(),
            1,
            "it sends no more than that"
        );
        evidence.ended(ProcessId(20), Timestamp(20));
        assert!(evidence.prune(Timestamp(30), 10));
        assert_eq!(evidence.streams(&registry, Timestamp(30)).0, []);
    }

    #[test]
    fn streams_tell_the_nics_that_either_end_was_told_to_use() {
        let (mut registry, mut evidence) = (Registry::default(), Evidence::default());
        let own = [OwnNic { name: "mlx5_1".into(), address: None }];
        evidence.started(ProcessId(11), own.to_vec());
        evidence.started(ProcessId(10), Vec::new());
        run(&mut registry, &mut evidence, 0, 2);
        let (streams, _) = evidence.streams(&registry, Timestamp(4));
        let nics: Vec<_> = streams.iter().map(|s| (s.from.nics.as_ref(), s.to.nics.as_ref())).collect();
        assert_eq!(nics, [(&[][..], &own[..]), (&own[..], &[][..])]);
        // It is remembered where they were, not who they were.
        evidence.ended(ProcessId(11), Timestamp(5));
        assert_eq!(evidence.streams(&registry, Timestamp(6)).0[1].from.nics.as_ref(), own);
        assert!(evidence.nics.0.is_empty());
    }

    #[test]
    fn patterns_are_recognised() {
        let of = |edges: &[(&'static str, &'static str)]| pattern(&edges.iter().copied().collect());
        assert_eq!(of(&[("a", "b"), ("b", "c"), ("c", "a")]), "ring of 3 hosts");
        assert_eq!(of(&[("a", "b"), ("b", "a")]), "ring of 2 hosts");
        assert_eq!(of(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]), "4 pairs of 4 hosts");
        assert_eq!(of(&[("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")]), "tree of 3 hosts");
        let both = |pairs: &[(&'static str, &'static str)]| {
            let edges: Vec<_> = pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
            of(&edges)
        };
        let round = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")];
        assert_eq!(both(&round), "ring of 4 hosts, both ways");
        // A triangle and a lone pair: as many edges as a tree would have, and none.
        let apart = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "e")];
        assert_eq!(both(&apart), "8 pairs of 5 hosts");
        let two_rings = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "e"), ("e", "f"), ("f", "d")];
        assert_eq!(both(&two_rings), "12 pairs of 6 hosts");
        let all = [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")];
        assert_eq!(of(&all), "all to all of 3 hosts");
    }
}
