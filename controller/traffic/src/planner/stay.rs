//! Where flows were. A plan that is as good with fewer moves is better: on a running job a move costs a reconnection, or
//! is not possible at all before the next one.

use super::{
    fabric::{Fabric, Hop, Path},
    repair::Preference,
    routes::Routes,
    state::{Limits, PieceId, State},
};
use crate::{
    flows::Flows,
    plan::{Piece, Previous, PreviousPiece},
};

/// Shares this close to a multiple of 1/q are one.
const TOLERANCE: f64 = 1e-6;

/// For each flow the paths it had and still can have.
#[derive(Debug, Default)]
pub(crate) struct Memory<'p> {
    pinned: Vec<bool>,
    flows: Vec<Option<Vec<Was<'p>>>>,
}

#[derive(Debug)]
struct Was<'p> {
    path: Path,
    share: f64,
    piece: &'p Piece,
}

impl<'p> Memory<'p> {
    pub(crate) fn new(fabric: &Fabric, routes: &Routes, flows: &Flows, previous: &'p Previous) -> Self {
        let pinned = flows.as_slice().iter().map(|flow| previous.is_pinned(&flow.id)).collect();
        let known = flows.as_slice().iter().enumerate().map(|(number, flow)| {
            let pieces = previous.get(&flow.id)?;
            let ends = (fabric.first_port(flow.src.index()), fabric.first_port(flow.dst.index()));
            let usable = pieces.iter().filter_map(|PreviousPiece { share, piece }| {
                let path = path_of(fabric, routes, number, ends, piece)?;
                Some(Was { path, share: *share, piece })
            });
            Some(usable.collect())
        });
        Self { flows: known.collect(), pinned }
    }

    /// Whether there was no plan before.
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn of(&self, flow: u32) -> Option<&[Was<'p>]> {
        self.flows.get(flow as usize)?.as_deref()
    }

    /// Whether the flow was there before.
    pub(crate) fn knows(&self, flow: u32) -> bool {
        self.of(flow).is_some()
    }

    /// The piece that the flow had on this path.
    pub(crate) fn piece(&self, flow: u32, path: &Path) -> Option<&'p Piece> {
        self.of(flow)?.iter().find(|was| was.path == *path).map(|was| was.piece)
    }

    /// Puts what can stay where it was. Returns what has no place: flows and units.
    pub(crate) fn restore(&self, state: &mut State<'_>) -> Vec<(u32, u32)> {
        let mut homeless = Vec::new();
        for flow in 0..state.demand.len() as u32 {
            if state.routes.pairs(flow as usize).is_empty() {
                continue;
            }
            let kept = self.of(flow).unwrap_or_default();
            let Some((cut, units)) = cut_of(kept, state.max_pieces[flow as usize]) else {
                // Shares that can no longer be had: all of it where most of it was.
                match kept.iter().max_by(|a, b| a.share.total_cmp(&b.share)) {
                    Some(was) => state.put(flow, 1, was.path),
                    None => homeless.push((flow, 1)),
                }
                continue;
            };
            state.recut(flow, cut);
            let mut left = cut;
            for (was, units) in kept.iter().zip(units) {
                let units = units.min(left);
                left -= units;
                if units > 0 {
                    state.add(flow, units, was.path);
                }
            }
            if left > 0 {
                homeless.push((flow, left));
            } else {
                state.pinned[flow as usize] = self.pinned[flow as usize];
            }
        }
        homeless
    }

    /// Moves pieces back to where their flows were, as far as the limits allow.
    pub(crate) fn back(&self, state: &mut State<'_>, limits: Limits) {
        for flow in 0..self.flows.len() as u32 {
            let Some(kept) = self.of(flow).filter(|kept| !kept.is_empty()) else { continue };
            let strange: Vec<PieceId> =
                state.pieces_of(flow).filter(|piece| self.cost(state, *piece) == 0).collect();
            for piece in strange {
                for was in kept {
                    let part = *state.part(piece);
                    let mark = state.mark();
                    state.relocate(piece, part.units, was.path);
                    if state.fits_beyond(&was.path, &part.path, limits) {
                        break;
                    }
                    state.roll_back(mark);
                }
            }
        }
    }
}

impl Preference for Memory<'_> {
    fn cost(&self, state: &State<'_>, piece: PieceId) -> u32 {
        let part = state.part(piece);
        u32::from(self.piece(part.flow, &part.path).is_some())
    }
}

/// The smallest q of which all shares are multiples, and the units of each.
fn cut_of(kept: &[Was<'_>], max_pieces: u32) -> Option<(u32, Vec<u32>)> {
    if kept.is_empty() {
        return None;
    }
    (1..=max_pieces).find_map(|cut| {
        let units = kept.iter().map(|was| {
            let units = was.share * f64::from(cut);
            let whole = units.round();
            // A share is in (0, 1], so its units are no more than the cut.
            ((units - whole).abs() < TOLERANCE * f64::from(cut).max(1.0) && whole >= 1.0)
                .then_some(whole as u32)
        });
        Some((cut, units.collect::<Option<Vec<u32>>>()?))
    })
}

/// The path of an earlier piece, if the flow may take it today.
fn path_of(
    fabric: &Fabric,
    routes: &Routes,
    flow: usize,
    (first_src, first_dst): (u32, u32),
    piece: &Piece,
) -> Option<Path> {
    let pair = (first_src.checked_add(piece.src_port)?, first_dst.checked_add(piece.dst_port)?);
    // Only ports of the flow's own NICs are among its pairs, so a port number out of range is found out here.
    if !routes.pairs(flow).contains(&pair) {
        return None;
    }
    let (from, to) = (fabric.ports[pair.0 as usize].leaf, fabric.ports[pair.1 as usize].leaf);
    let switches = &piece.path;
    if switches.first()?.0 != from || switches.last()?.0 != to || switches.len() > 5 {
        return None;
    }
    if (1..switches.len()).any(|index| switches[..index].contains(&switches[index])) {
        return None;
    }
    let ups = fabric.ups(routes.lenient(flow));
    let mut hops = Vec::with_capacity(4);
    let mut descending = false;
    for (index, ends) in switches.windows(2).enumerate() {
        let label = piece.link.as_ref().and_then(|link| link.get(index).copied()).flatten();
        let matches = |lane: &u32| {
            let lane = &fabric.lanes[*lane as usize];
            lane.label == label || (lane.alone && label.is_none())
        };
        let lane = |low: u32, high: u32| ups.between(low, high).iter().map(|up| up.lane).find(matches);
        let (a, b) = (ends[0].0, ends[1].0);
        if let (false, Some(up)) = (descending, lane(a, b)) {
            hops.push(Hop::up(up));
        } else {
            descending = true;
            hops.push(Hop::down(lane(b, a)?));
        }
    }
    Some(Path::new(pair.0, pair.1, &hops))
}
