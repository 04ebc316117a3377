//! What the planner answers, and what it is told of its last answer.

use std::collections::{HashMap, HashSet};

use crate::{flows::Flows, topology::SwitchId};

/// Part of a flow on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Queue pairs on this path…
    pub units: u32,
    /// …of so many that the flow is spread over.
    pub of: u32,
    /// Port (plane) it leaves the source NIC by.
    pub src_port: u32,
    /// Port (plane) it enters the destination NIC by.
    pub dst_port: u32,
    /// The switches it crosses, leaf to leaf.
    pub path: Vec<SwitchId>,
    /// For each hop between two switches: one of the parallel links, or none to be spread evenly over all of them.
    /// Absent where the last plan said nothing about links and the piece stayed.
    pub link: Option<Vec<Option<u32>>>,
}

impl Piece {
    /// Its share of the flow, in (0, 1].
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.units) / f64::from(self.of)
    }
}

/// Why a flow has no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// All ports of the source are down.
    #[error("every port of the source NIC is down")]
    SourceDown,
    /// All ports of the destination are down.
    #[error("every port of the destination NIC is down")]
    DestinationDown,
    /// Nothing connects the leaves.
    #[error("no path of links that are up joins the two NICs' leaves")]
    NoPath,
}

/// The plan of one flow; no pieces when it has no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFlow {
    /// What it is spread over. Shares add up to 1.
    pub pieces: Vec<Piece>,
    /// Why there are none.
    pub unplaced: Option<Why>,
}

/// A plan for all flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Largest utilisation of a link or NIC port, in one direction; 1 is full.
    pub max_link_utilisation: f64,
    /// Largest utilisation of a link between switches.
    pub max_fabric_utilisation: f64,
    /// No plan for these flows has a smaller `max_link_utilisation`.
    pub lower_bound: f64,
    /// No plan for these flows has a smaller `max_fabric_utilisation`.
    pub fabric_lower_bound: f64,
    /// Pieces of flows known before that are where none of the flow's pieces was.
    pub moves: usize,
    /// One for each flow, in the flows' order.
    pub flows: Vec<PlannedFlow>,
}

impl Plan {
    /// What the next plan is to know of this one. `flows` are those it was made for; the topology may change its
    /// states, but not the order of its switches.
    #[must_use]
    pub fn as_previous(&self, flows: &Flows) -> Previous {
        let mut previous = Previous::default();
        for (flow, planned) in flows.as_slice().iter().zip(&self.flows) {
            let pieces = planned.pieces.iter();
            let pieces = pieces.map(|piece| PreviousPiece { share: piece.share(), piece: piece.clone() });
            previous.insert(flow.id.clone(), pieces.collect());
        }
        previous
    }

    /// How many flows have no path.
    #[must_use]
    pub fn unplaced(&self) -> usize {
        self.flows.iter().filter(|flow| flow.unplaced.is_some()).count()
    }
}

/// Where part of a flow was.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviousPiece {
    /// Its share of the flow.
    pub share: f64,
    /// The rest; `units` and `of` mean nothing here.
    pub piece: Piece,
}

/// An earlier plan, as far as the topology still knows its switches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Previous {
    flows: HashMap<String, Vec<PreviousPiece>>,
    pinned: HashSet<String>,
}

impl Previous {
    /// Adds a flow; false when it is there already.
    pub fn insert(&mut self, id: String, pieces: Vec<PreviousPiece>) -> bool {
        self.flows.insert(id, pieces).is_none()
    }

    /// A flow cannot be moved now: its connections are made, and stay where they are. Others have to go around it, unless
    /// its path is gone.
    pub fn pin(&mut self, id: &str) {
        self.pinned.insert(id.to_owned());
    }

    /// Whether a flow cannot be moved now.
    #[must_use]
    pub fn is_pinned(&self, id: &str) -> bool {
        self.pinned.contains(id)
    }

    /// All pieces, in no particular order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &PreviousPiece> {
        self.flows.values().flatten()
    }

    /// Where a flow was.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&[PreviousPiece]> {
        self.flows.get(id).map(Vec::as_slice)
    }
}
