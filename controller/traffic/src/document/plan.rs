//! The plan's document: written for scripts and actuators, read back as the previous plan.

use serde::Serialize;

use super::{
    json,
    node::{Node, Value},
    problem::Problems,
    reader::{At, Reader, Seen},
};
use crate::{
    flows::Flows,
    plan::{Piece, Plan, Previous, PreviousPiece},
    topology::{MOST_LINKS, MOST_PORTS, Topology},
};

/// How far the shares of a previous plan may be from adding up to 1.
const TOLERANCE: f64 = 1e-6;

#[derive(Serialize)]
struct PlanDocument<'a> {
    max_link_utilisation: f64,
    max_fabric_utilisation: f64,
    lower_bound: f64,
    moves: usize,
    flows: Vec<FlowDocument<'a>>,
    unplaced: Vec<UnplacedDocument<'a>>,
}

#[derive(Serialize)]
struct FlowDocument<'a> {
    id: &'a str,
    pieces: Vec<PieceDocument<'a>>,
}

#[derive(Serialize)]
struct PieceDocument<'a> {
    share: f64,
    src_port: u32,
    dst_port: u32,
    path: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a [Option<u32>]>,
}

#[derive(Serialize)]
struct UnplacedDocument<'a> {
    id: &'a str,
    why: String,
}

/// The plan as a document. `flows` and `topology` are those it was made for.
#[must_use]
pub fn plan_json<'a>(plan: &'a Plan, flows: &'a Flows, topology: &'a Topology) -> impl Serialize + use<'a> {
    let mut document = PlanDocument {
        max_link_utilisation: plan.max_link_utilisation,
        max_fabric_utilisation: plan.max_fabric_utilisation,
        lower_bound: plan.lower_bound,
        moves: plan.moves,
        flows: Vec::with_capacity(flows.len()),
        unplaced: Vec::new(),
    };
    for (flow, planned) in flows.as_slice().iter().zip(&plan.flows) {
        if let Some(why) = planned.unplaced {
            document.unplaced.push(UnplacedDocument { id: &flow.id, why: why.to_string() });
            continue;
        }
        let pieces = planned.pieces.iter().map(|piece| PieceDocument {
            share: piece.share(),
            src_port: piece.src_port,
            dst_port: piece.dst_port,
            path: piece.path.iter().map(|id| topology.switch(*id).name.as_str()).collect(),
            link: piece.link.as_deref(),
        });
        document.flows.push(FlowDocument { id: &flow.id, pieces: pieces.collect() });
    }
    document
}

/// Reads a previous plan. What it says of switches that are no more is forgotten: such pieces have to move anyway.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_previous(text: &str, topology: &Topology) -> Result<Previous, Problems> {
    let tree = json::parse(text)?;
    let mut reading = Reading { reader: Reader::new(&tree), topology, previous: Previous::default() };
    let at = At::ROOT;
    let names =
        ["flows", "max_link_utilisation", "max_fabric_utilisation", "lower_bound", "moves", "unplaced"];
    if let Some(fields) = reading.reader.fields(&tree.root, &at, names) {
        for (index, name) in names.iter().enumerate().take(5).skip(1) {
            if let Some(node) = fields.get(index) {
                reading.reader.finite(node, &at.field(name));
            }
        }
        reading.unplaced(fields.get(5), &at.field("unplaced"));
        let at = at.field("flows");
        if fields.get(0).is_none() {
            reading.reader.missing(fields.place, &at, "a list");
        }
        let mut seen = Seen::default();
        for (index, node) in reading.reader.list(fields.get(0), &at).iter().enumerate() {
            reading.flow(node, &at.item(index), &mut seen);
        }
    }
    if reading.reader.problems.is_empty() { Ok(reading.previous) } else { Err(reading.reader.problems) }
}

struct Reading<'t> {
    reader: Reader<'t>,
    topology: &'t Topology,
    previous: Previous,
}

impl<'t> Reading<'t> {
    fn unplaced(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) {
        for (index, node) in self.reader.list(node, at).iter().enumerate() {
            let at = at.item(index);
            if let Some(fields) = self.reader.fields(node, &at, ["id", "why"]) {
                self.reader.name(fields.get(0), &at.field("id"), fields.place);
                self.reader.text(fields.get(1), &at.field("why"), fields.place);
            }
        }
    }

    fn flow(&mut self, node: &'t Node<'t>, at: &At<'_>, seen: &mut Seen<&'t str>) {
        let Some(fields) = self.reader.fields(node, at, ["id", "pieces"]) else { return };
        let id_at = at.field("id");
        let id = self.reader.name(fields.get(0), &id_at, fields.place);
        let place = fields.get(0).map_or(fields.place, |node| node.place);
        if let Some(id) = id
            && let Some(first) = seen.again(id, self.reader.line(place))
        {
            self.reader.wrong(place, &id_at, format_args!("flow {id:?} is there already, on line {first}"));
        }
        let at = at.field("pieces");
        if fields.get(1).is_none() {
            self.reader.missing(fields.place, &at, "a list");
        }
        let items = self.reader.list(fields.get(1), &at);
        let (mut total, mut complete) = (0.0, true);
        let mut pieces = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            let (share, piece) = self.piece(node, &at.item(index));
            total += share.unwrap_or(0.0);
            complete &= share.is_some();
            pieces.extend(share.zip(piece).map(|(share, piece)| PreviousPiece { share, piece }));
        }
        if complete && !items.is_empty() && (total - 1.0).abs() > TOLERANCE {
            self.reader.wrong(fields.place, &at, format_args!("shares add up to {total}, not to 1"));
        }
        if let Some(id) = id {
            self.previous.insert(id.to_owned(), pieces);
        }
    }

    /// The share, and the piece if all its switches are known.
    fn piece(&mut self, node: &'t Node<'t>, at: &At<'_>) -> (Option<f64>, Option<Piece>) {
        let names = ["share", "src_port", "dst_port", "path", "link"];
        let Some(fields) = self.reader.fields(node, at, names) else { return (None, None) };
        let share_at = at.field("share");
        let share = match fields.get(0) {
            Some(node) => self.reader.finite(node, &share_at).filter(|share| {
                let fine = *share > 0.0 && *share <= 1.0 + TOLERANCE;
                if !fine {
                    self.reader.wrong(node.place, &share_at, format_args!("{share} is not in (0, 1]"));
                }
                fine
            }),
            None => {
                self.reader.missing(fields.place, &share_at, "a number in (0, 1]");
                None
            }
        };
        let src_port = self.port(fields.get(1), &at.field("src_port"), fields.place);
        let dst_port = self.port(fields.get(2), &at.field("dst_port"), fields.place);
        let path_at = at.field("path");
        let names = self.reader.list(fields.get(3), &path_at);
        if names.is_empty() {
            self.reader.wrong(fields.place, &path_at, "a path has at least one switch");
        }
        let mut path = Vec::with_capacity(names.len());
        for (index, node) in names.iter().enumerate() {
            let name = self.reader.name(Some(node), &path_at.item(index), fields.place);
            path.extend(name.and_then(|name| self.topology.find_switch(name)));
        }
        let known = path.len() == names.len() && !path.is_empty();
        let link = self.link(fields.get(4), &at.field("link"), names.len());
        let piece = match (src_port, dst_port) {
            (Some(src_port), Some(dst_port)) if known => {
                Some(Piece { units: 1, of: 1, src_port, dst_port, path, link })
            }
            _ => None,
        };
        (share, piece)
    }

    fn port(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, parent: u32) -> Option<u32> {
        let most = u32::try_from(MOST_PORTS).unwrap_or(u32::MAX) - 1;
        match node {
            Some(node) => self.reader.whole(node, at, 0, most),
            None => {
                self.reader.missing(parent, at, "the index of a port");
                None
            }
        }
    }

    fn link(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, switches: usize) -> Option<Vec<Option<u32>>> {
        let node = node?;
        let items = self.reader.list(Some(node), at);
        if items.len() + 1 != switches.max(1) {
            let what = format_args!(
                "expected {} entries, one for each hop between two switches, found {}",
                switches.max(1) - 1,
                items.len()
            );
            self.reader.wrong(node.place, at, what);
        }
        let most = u32::try_from(MOST_LINKS).unwrap_or(u32::MAX);
        let mut link = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            link.push(match node.value {
                Value::Null => None,
                _ => self.reader.whole(node, &at.item(index), 0, most),
            });
        }
        Some(link)
    }
}
