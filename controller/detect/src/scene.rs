//! What a job looks like at a moment, for people: where its ranks are, who waits for whom and for whom nobody waits in
//! vain, how slow links are, how its iteration time went, and what sensors say of its nodes.
//!
//! It is what a finding rests on, drawn instead of said. Made only when somebody looks or something was found, since it
//! costs as much as the job has ranks and links; everything in it is bounded.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    comm_slow,
    config::Config,
    model::Job,
    nodes::{Heard, Nodes},
    observation::{HealthEvent, NodeName, ProcessId, Timestamp},
    series::Point,
    view::{self, RankState, RankView},
    wait::{self, Root, Waits},
};

mod axes;
mod standstill;

pub use axes::Axis;
pub use standstill::{Entry, PeerWait, Standing, Standstill};

/// Ranks drawn; of a larger job, those that matter first.
const MAX_SPOTS: usize = 32_768;
/// Links drawn.
const MAX_LINKS: usize = 8_192;
/// Health events told.
const MAX_HEALTH: usize = 128;

/// See the module. Ranks are named by their index in `spots`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// When it was so.
    pub taken: Timestamp,
    /// The job's incarnation.
    pub incarnation: u32,
    /// Its nodes.
    pub nodes: Vec<NodeName>,
    /// Its ranks, by rank.
    pub spots: Vec<Spot>,
    /// Ranks left out because there are too many.
    pub spots_left_out: usize,
    /// The grid of parallel coordinates, the innermost axis first; empty where there is none.
    pub axes: Vec<Axis>,
    /// Collectives in which ranks wait for long: those that others wait behind first.
    pub standstills: Vec<Standstill>,
    /// Such collectives left out because there are too many.
    pub standstills_left_out: usize,
    /// Sends and receives that are open for long.
    pub peer_waits: Vec<PeerWait>,
    /// Where the waits end.
    pub roots: Vec<WaitRoot>,
    /// Network links, the delay matrix.
    pub links: Vec<LinkDelay>,
    /// Links left out because there are too many.
    pub links_left_out: usize,
    /// How long iterations took, in order.
    pub iterations: Vec<Point>,
    /// What sensors said of its nodes lately, the latest first.
    pub health: Vec<HealthNote>,
}

/// A rank in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    /// Global rank, where known.
    pub rank: Option<u32>,
    /// Index of its node.
    pub node: u32,
    /// Its GPU there.
    pub gpu: Option<u32>,
    /// What it does.
    pub state: RankState,
    /// Collectives completed on its largest communicator.
    pub completed: u64,
}

/// An end of the waits: what nobody else holds up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum WaitRoot {
    /// These ranks hold others up.
    Ranks {
        /// Spots.
        ranks: Vec<u32>,
    },
    /// All members are in this collective and none finishes.
    Inside {
        /// The communicator.
        communicator: String,
    },
    /// Both sides are in this transfer.
    Transfer {
        /// Spot of the sender.
        src: u32,
        /// Spot of the receiver.
        dst: u32,
    },
    /// Who holds others up there cannot be seen.
    Unseen {
        /// The communicator.
        communicator: String,
    },
    /// These ranks wait for each other.
    Circle {
        /// Spots.
        ranks: Vec<u32>,
    },
}

/// A directed network link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkDelay {
    /// Spot of the sender.
    pub src: u32,
    /// Spot of the receiver.
    pub dst: u32,
    /// Network time per byte over that of links of its kind: 1 is usual.
    pub times: f64,
    /// Whether it was found slow.
    pub slow: bool,
}

/// What a sensor said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthNote {
    /// When it began.
    pub at: Timestamp,
    /// When it ended, if it lasted and has.
    pub until: Option<Timestamp>,
    /// What was said.
    pub event: HealthEvent,
}

/// What a job looks like at `now`.
pub(crate) fn of(job: &Job, nodes: &Nodes, config: &Config, now: Timestamp) -> Scene {
    let waits = wait::find(job, nodes, config, now);
    let roots = waits.roots(job);
    let view = view::of(job, nodes, config, now);
    let mut places = Places::new(&view.ranks, &important(&waits, &roots));
    places.mark_waiting(&waits);
    let (standstills, standstills_left_out) = standstill::all(job, &waits, &roots, &places, now);
    let (delays, links_left_out) = comm_slow::delays(job, MAX_LINKS);
    let link = |delay: comm_slow::Delay| {
        let (src, dst) = (places.of(delay.src)?, places.of(delay.dst)?);
        Some(LinkDelay { src, dst, times: delay.times, slow: delay.slow })
    };
    Scene {
        taken: now,
        incarnation: job.incarnation,
        axes: axes::of(job),
        peer_waits: standstill::peers(&waits, &places),
        roots: roots.iter().map(|root| place_root(job, root, &places)).collect(),
        links: delays.into_iter().filter_map(link).collect(),
        links_left_out,
        iterations: job.pace.series(),
        health: health(&view.ranks, nodes),
        standstills,
        standstills_left_out,
        spots_left_out: view.ranks.len() - places.spots.len(),
        nodes: places.nodes,
        spots: places.spots,
    }
}

/// Ranks without which the picture says nothing.
fn important(waits: &Waits, roots: &[Root]) -> BTreeSet<ProcessId> {
    let mut ranks: BTreeSet<ProcessId> = BTreeSet::new();
    for root in roots {
        match root {
            Root::Held { holders, .. } => ranks.extend(holders.iter().map(|holder| holder.process)),
            Root::Transfer { src, dst, .. } => ranks.extend([*src, *dst]),
            Root::Circle { ranks: circle, .. } => ranks.extend(circle),
            Root::Inside(_) | Root::Unseen(_) => {}
        }
    }
    ranks.extend(waits.stalls.values().flat_map(|stall| stall.holders.iter().map(|holder| holder.process)));
    ranks
}

/// Where processes are drawn.
struct Places {
    nodes: Vec<NodeName>,
    spots: Vec<Spot>,
    by_process: BTreeMap<ProcessId, u32>,
}

impl Places {
    fn new(ranks: &[RankView], important: &BTreeSet<ProcessId>) -> Self {
        let mut room = MAX_SPOTS.saturating_sub(important.len());
        let mut places = Self { nodes: Vec::new(), spots: Vec::new(), by_process: BTreeMap::new() };
        let mut numbers: BTreeMap<&NodeName, u32> = BTreeMap::new();
        for rank in ranks {
            if !important.contains(&rank.process) {
                let Some(left) = room.checked_sub(1) else { continue };
                room = left;
            }
            if places.spots.len() >= MAX_SPOTS {
                break;
            }
            let node = *numbers.entry(&rank.node).or_insert_with(|| {
                places.nodes.push(rank.node.clone());
                places.nodes.len() as u32 - 1
            });
            places.by_process.insert(rank.process, places.spots.len() as u32);
            let RankView { rank, gpu, state, completed, .. } = *rank;
            places.spots.push(Spot { rank, node, gpu, state, completed });
        }
        places
    }

    /// Whoever waits in what others hold up is drawn as waiting, even where that is no longer than usual.
    fn mark_waiting(&mut self, waits: &Waits) {
        let in_stalls = waits.stalls.values().flat_map(|stall| &stall.waiting).copied();
        for process in in_stalls.chain(waits.peers.iter().map(|wait| wait.waiter)) {
            let spot = self.of(process).and_then(|spot| self.spots.get_mut(spot as usize));
            if let Some(spot) = spot.filter(|spot| spot.state == RankState::Running) {
                spot.state = RankState::Waiting;
            }
        }
    }

    fn of(&self, process: ProcessId) -> Option<u32> {
        self.by_process.get(&process).copied()
    }

    fn all(&self, processes: impl IntoIterator<Item = ProcessId>) -> Vec<u32> {
        processes.into_iter().filter_map(|process| self.of(process)).collect()
    }
}

fn place_root(job: &Job, root: &Root, places: &Places) -> WaitRoot {
    let label = |id| job.comms.get(id).map(|comm| comm.label()).unwrap_or_default();
    match root {
        Root::Held { holders, .. } => {
            WaitRoot::Ranks { ranks: places.all(holders.iter().map(|holder| holder.process)) }
        }
        Root::Inside(id) => WaitRoot::Inside { communicator: label(id) },
        Root::Transfer { comm, src, dst } => match (places.of(*src), places.of(*dst)) {
            (Some(src), Some(dst)) => WaitRoot::Transfer { src, dst },
            _ => WaitRoot::Unseen { communicator: label(comm) },
        },
        Root::Unseen(id) => WaitRoot::Unseen { communicator: label(id) },
        Root::Circle { ranks, .. } => WaitRoot::Circle { ranks: places.all(ranks.iter().copied()) },
    }
}

fn health(ranks: &[RankView], nodes: &Nodes) -> Vec<HealthNote> {
    let of_job: BTreeSet<&NodeName> = ranks.iter().map(|rank| &rank.node).collect();
    let mut heard: Vec<&Heard> = of_job.into_iter().flat_map(|node| nodes.events(node)).collect();
    heard.sort_by_key(|heard| std::cmp::Reverse(heard.at));
    let note = |heard: &Heard| HealthNote { at: heard.at, until: heard.until, event: heard.event.clone() };
    heard.into_iter().take(MAX_HEALTH).map(note).collect()
}
