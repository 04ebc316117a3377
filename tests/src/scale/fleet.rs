//! The job under load, and which part of it is simulated.
//!
//! A hundred thousand ranks cannot be simulated beside the controller that is measured. Data-parallel replicas do the
//! same work, so a few of them are simulated, live and with noise, and the others say what one of these says, under
//! their own names, processes and communicators. The replicas with the fault stand for themselves only; so the fault
//! happens once, and everybody else waits for it as they would.
//!
//! The unit is the *block*: as many neighbouring replicas as share expert-parallel groups.

use c4_proto::v1;

use crate::simulator::layout::{Coordinates, Group, Layout};

/// GPUs of a node, and the size of tensor-parallel groups, which stay inside one.
const GPUS: u32 = 8;

/// The job, and the smaller one that is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// The job as the controller sees it.
    pub layout: Layout,
    /// The job that is simulated: the same with fewer data-parallel replicas.
    pub simulated: Layout,
}

/// A number of ranks that cannot be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--ranks {0}: expected a multiple of 16")]
pub struct BadSize(u32);

impl Fleet {
    /// A job of `ranks`, of which about `distinct` are simulated: tensor parallelism inside nodes, up to five pipeline
    /// stages, up to five expert-parallel ranks, the rest data parallelism.
    ///
    /// # Errors
    /// When `ranks` is no multiple of 16.
    pub fn new(ranks: u32, distinct: u32) -> Result<Self, BadSize> {
        let fits = |pp: &u32| ranks.is_multiple_of(GPUS * pp) && ranks / (GPUS * pp) >= 2;
        let pp = [5, 4, 2, 1].into_iter().find(fits).filter(|_| ranks > 0).ok_or(BadSize(ranks))?;
        let dp = ranks / (GPUS * pp);
        let ep = [5, 4, 2, 1].into_iter().find(|ep| dp.is_multiple_of(*ep) && dp / ep >= 2).unwrap_or(1);
        let layout = Layout { tp: GPUS, pp, ep, gpus_per_node: GPUS, ..Layout::data_parallel(dp) };
        let wanted = (distinct / (GPUS * pp) / ep).max(2) * ep;
        Ok(Self { layout, simulated: Layout { dp: wanted.min(dp), ..layout } })
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.layout.ranks() / GPUS
    }

    /// The nodes that say what this simulated node says, the one with the fault (if it is one) only itself.
    #[must_use]
    pub fn replicas(&self, simulated_node: u32) -> Vec<u32> {
        let ep = self.layout.ep;
        let at = self.simulated.coordinates(simulated_node * GPUS);
        let blocks = self.layout.dp / ep;
        let of_block = |block: &u32| self.simulated_block(*block) == at.dp / ep;
        let rank = |block: u32| self.layout.rank(Coordinates { dp: block * ep + at.dp % ep, ..at });
        (0..blocks).filter(of_block).map(|block| rank(block) / GPUS).collect()
    }

    /// The block whose windows this block sends. The first is the one with the fault.
    fn simulated_block(&self, block: u32) -> u32 {
        let others = self.simulated.dp / self.simulated.ep - 1;
        if block == 0 { 0 } else { 1 + (block - 1) % others }
    }

    /// The simulated rank that breaks: in the middle of the pipeline, in the first block.
    #[must_use]
    pub fn broken(&self) -> u32 {
        let at = self.simulated.coordinates(3);
        self.simulated.rank(Coordinates { dp: self.simulated.ep.min(2) - 1, pp: self.simulated.pp / 2, ..at })
    }

    /// A simulated rank's counterpart on a node that is a replica of its own.
    #[must_use]
    pub fn counterpart(&self, simulated_rank: u32, node: u32) -> u32 {
        node * GPUS + simulated_rank % GPUS
    }

    /// Makes a simulated rank's window the one of a counterpart.
    pub fn readdress(&self, window: &mut v1::Window, simulated_rank: u32, rank: u32) {
        window.process = process(rank);
        for comm in &mut window.comms {
            let Some(group) = self.group(comm.comm, simulated_rank) else { continue };
            let (index, own) = self.layout.membership(rank, group);
            comm.comm = self.layout.comm_id(group, index).0;
            let (_, own_simulated) = self.simulated.membership(simulated_rank, group);
            let small = self.simulated.group_size(group);
            let large = self.layout.group_size(group);
            let peer =
                |peer: u32| if small == large { peer } else { ring(peer, own_simulated, small, own, large) };
            comm.edges.iter_mut().for_each(|edge| edge.peer = peer(edge.peer));
            comm.links.iter_mut().for_each(|link| link.peer = peer(link.peer));
            comm.pending_peers.iter_mut().for_each(|pending| pending.peer = peer(pending.peer));
        }
    }

    fn group(&self, comm: u64, simulated_rank: u32) -> Option<Group> {
        let id = |group: Group| {
            self.simulated.comm_id(group, self.simulated.membership(simulated_rank, group).0).0
        };
        Group::ALL.into_iter().find(|group| id(*group) == comm)
    }

    /// What the agent of a node says first: its processes, and the communicators they are in.
    #[must_use]
    pub fn announcements(&self, job: &str, node: u32) -> Vec<v1::agent_message::Body> {
        use v1::agent_message::Body;
        let used = |group: &Group| self.layout.group_size(*group) > 1 || *group == Group::World;
        let mut said = Vec::new();
        for rank in node * GPUS..(node + 1) * GPUS {
            said.push(Body::ProcessStarted(v1::ProcessStarted {
                process: process(rank),
                job: job.into(),
                rank: Some(rank),
                local_rank: Some(rank % GPUS),
                world_size: Some(self.layout.ranks()),
                gpu: Some(rank % GPUS),
                pid: 1000 + rank,
                nccl_version: "2.28".into(),
                profiler_api: 5,
                ..v1::ProcessStarted::default()
            }));
            for group in Group::ALL.into_iter().filter(used) {
                let (index, comm_rank) = self.layout.membership(rank, group);
                let size = self.layout.group_size(group);
                said.push(Body::CommunicatorJoined(v1::CommunicatorJoined {
                    process: process(rank),
                    comm: self.layout.comm_id(group, index).0,
                    name: format!("{group:?}").to_lowercase(),
                    size,
                    comm_rank,
                    nodes: size.div_ceil(GPUS),
                }));
            }
        }
        said
    }
}

/// The neighbour in the larger ring: groups that differ in size are rings.
fn ring(peer: u32, own_simulated: u32, small: u32, own: u32, large: u32) -> u32 {
    let next = peer == (own_simulated + 1) % small;
    if next { (own + 1) % large } else { (own + large - 1) % large }
}

/// Name of a node.
#[must_use]
pub fn node_name(node: u32) -> String {
    format!("node-{node}")
}

/// The process of a rank, as the simulator numbers them.
pub(super) fn process(rank: u32) -> u64 {
    u64::from(rank) + 1
}

/// The rank of a process.
pub(super) fn rank(process: u64) -> u32 {
    u32::try_from(process - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_said_for_once_and_only_one_has_the_fault() {
        for ranks in [16, 1000, 4096, 10_000, 100_000] {
            let fleet = Fleet::new(ranks, 1000).unwrap();
            assert_eq!(fleet.layout.ranks(), ranks);
            let simulated_nodes = fleet.simulated.ranks() / GPUS;
            let mut nodes: Vec<u32> = (0..simulated_nodes).flat_map(|node| fleet.replicas(node)).collect();
            nodes.sort_unstable();
            assert_eq!(nodes, (0..fleet.nodes()).collect::<Vec<_>>(), "{ranks}");
            assert_eq!(fleet.replicas(fleet.broken() / GPUS).len(), 1, "{ranks}");
        }
        assert_eq!(Fleet::new(20, 1000).unwrap_err(), BadSize(20));
        assert_eq!(Fleet::new(0, 1000).unwrap_err(), BadSize(0));
    }

    #[test]
    fn a_window_gets_its_counterparts_communicators_and_peers() {
        let fleet = Fleet::new(10_000, 1000).unwrap();
        let simulated = fleet.simulated.rank(Coordinates { dp: 6, pp: 1, ..fleet.simulated.coordinates(2) });
        let node = *fleet.replicas(simulated / GPUS).last().unwrap();
        let rank = fleet.counterpart(simulated, node);
        let comm = |layout: &Layout, rank: u32, group: Group| {
            let (index, place) = layout.membership(rank, group);
            (layout.comm_id(group, index).0, place)
        };
        let (data, own) = comm(&fleet.simulated, simulated, Group::Data);
        let (pipeline, stage) = comm(&fleet.simulated, simulated, Group::Pipeline);
        let mut window = v1::Window {
            comms: vec![
                v1::CommWindow {
                    comm: data,
                    edges: vec![v1::Edge { peer: own + 1, ..v1::Edge::default() }],
                    ..v1::CommWindow::default()
                },
                v1::CommWindow {
                    comm: pipeline,
                    pending_peers: vec![v1::PendingPeer { peer: stage + 1, ..v1::PendingPeer::default() }],
                    ..v1::CommWindow::default()
                },
            ],
            ..v1::Window::default()
        };
        fleet.readdress(&mut window, simulated, rank);
        let (data, own) = comm(&fleet.layout, rank, Group::Data);
        assert_eq!((window.process, window.comms[0].comm), (u64::from(rank) + 1, data));
        assert_eq!(window.comms[0].edges[0].peer, (own + 1) % fleet.layout.dp);
        assert_eq!(window.comms[1].comm, comm(&fleet.layout, rank, Group::Pipeline).0);
        assert_eq!(window.comms[1].pending_peers[0].peer, stage + 1);
    }
}
