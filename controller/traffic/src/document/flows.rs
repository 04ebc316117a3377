//! The flows' document.
//!
//! ```json
//! {"flows": [{"id": "f0", "job": "llm", "src": {"host": "h0", "nic": "nic0"}, "dst": {"host": "h1", "nic": "nic0"},
//!             "gbps": 100.0, "max_pieces": 2}]}
//! ```

use std::num::NonZeroU32;

use serde::Serialize;

use super::{
    json,
    node::{Node, Tree},
    problem::Problems,
    reader::{At, Reader, Seen},
};
use crate::{
    flows::{Flow, Flows, default_demand},
    topology::{NicId, Topology},
};

/// More queue pairs than NCCL would ever open for one connection.
pub const MOST_PIECES: u32 = 65_536;

#[derive(Serialize)]
struct FlowsDocument<'a> {
    flows: Vec<FlowDocument<'a>>,
}

#[derive(Serialize)]
struct FlowDocument<'a> {
    id: &'a str,
    job: &'a str,
    src: NicDocument<'a>,
    dst: NicDocument<'a>,
    gbps: f64,
    max_pieces: NonZeroU32,
}

#[derive(Serialize)]
struct NicDocument<'a> {
    host: &'a str,
    nic: &'a str,
}

/// Flows as a document.
#[must_use]
pub fn flows_json<'a>(flows: &'a Flows, topology: &'a Topology) -> impl Serialize + use<'a> {
    let nic = |id: NicId| {
        let nic = topology.nic(id);
        NicDocument { host: topology.host_name(nic.host), nic: &nic.name }
    };
    let flow = |flow: &'a Flow| FlowDocument {
        id: &flow.id,
        job: &flow.job,
        src: nic(flow.src),
        dst: nic(flow.dst),
        gbps: flow.demand.get(),
        max_pieces: flow.max_pieces,
    };
    FlowsDocument { flows: flows.as_slice().iter().map(flow).collect() }
}

/// Reads flows between the NICs of a topology.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse_flows(text: &str, topology: &Topology) -> Result<Flows, Problems> {
    parse_more_flows(text, topology, Flows::new())
}

/// Reads flows that come on top of others.
///
/// # Errors
/// Everything that is wrong with them; also an id that one of the others has.
pub fn parse_more_flows(text: &str, topology: &Topology, flows: Flows) -> Result<Flows, Problems> {
    let tree = json::parse(text)?;
    from_tree(&tree, topology, flows)
}

fn from_tree(tree: &Tree<'_>, topology: &Topology, mut flows: Flows) -> Result<Flows, Problems> {
    let mut reading = Reading { reader: Reader::new(tree), topology };
    let at = At::ROOT;
    if let Some(fields) = reading.reader.fields(&tree.root, &at, ["flows"]) {
        let at = at.field("flows");
        if fields.get(0).is_none() {
            reading.reader.missing(fields.place, &at, "a list");
        }
        let mut seen = Seen::default();
        for (index, node) in reading.reader.list(fields.get(0), &at).iter().enumerate() {
            reading.flow(node, &at.item(index), &mut seen, &mut flows);
        }
    }
    if reading.reader.problems.is_empty() { Ok(flows) } else { Err(reading.reader.problems) }
}

struct Reading<'t> {
    reader: Reader<'t>,
    topology: &'t Topology,
}

impl<'t> Reading<'t> {
    fn flow(&mut self, node: &'t Node<'t>, at: &At<'_>, seen: &mut Seen<&'t str>, flows: &mut Flows) {
        let names = ["id", "job", "src", "dst", "gbps", "max_pieces"];
        let Some(fields) = self.reader.fields(node, at, names) else { return };
        let id_at = at.field("id");
        let id = self.reader.name(fields.get(0), &id_at, fields.place);
        let place = fields.get(0).map_or(fields.place, |node| node.place);
        if let Some(id) = id
            && let Some(first) = seen.again(id, self.reader.line(place))
        {
            self.reader.wrong(place, &id_at, format_args!("flow {id:?} is there already, on line {first}"));
        }
        let job = match fields.get(1) {
            Some(node) => self.reader.text(Some(node), &at.field("job"), fields.place),
            None => Some(""),
        };
        let src = self.nic(fields.get(2), &at.field("src"), fields.place);
        let dst = self.nic(fields.get(3), &at.field("dst"), fields.place);
        if let (Some(src), Some(dst)) = (src, dst)
            && src == dst
        {
            let place = fields.get(3).map_or(fields.place, |node| node.place);
            self.reader.wrong(place, &at.field("dst"), "the flow goes from a NIC to itself");
        }
        let demand = match (fields.get(4), src, dst) {
            (Some(node), ..) => self.reader.gbps(node, &at.field("gbps")),
            (None, Some(src), Some(dst)) => Some(default_demand(self.topology, src, dst)),
            _ => None,
        };
        let max_pieces = match fields.get(5) {
            Some(node) => self.reader.whole(node, &at.field("max_pieces"), 1, MOST_PIECES),
            None => Some(1),
        };
        if !self.reader.problems.is_empty() {
            // Nothing will be built; this is only a search for further mistakes.
            return;
        }
        let max_pieces = max_pieces.and_then(NonZeroU32::new);
        if let (Some(id), Some(job), Some(src), Some(dst), Some(demand), Some(max_pieces)) =
            (id, job, src, dst, demand, max_pieces)
        {
            let flow = Flow { id: id.to_owned(), job: job.to_owned(), src, dst, demand, max_pieces };
            if let Err(error) = flows.push(flow) {
                self.reader.wrong(place, &id_at, error);
            }
        }
    }

    fn nic(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, parent: u32) -> Option<NicId> {
        let Some(node) = node else {
            self.reader.missing(parent, at, "host and nic");
            return None;
        };
        let fields = self.reader.fields(node, at, ["host", "nic"])?;
        let host_at = at.field("host");
        let host_name = self.reader.name(fields.get(0), &host_at, fields.place);
        let nic_name = self.reader.name(fields.get(1), &at.field("nic"), fields.place);
        let host_name = host_name?;
        let Some(host) = self.topology.find_host(host_name) else {
            let place = fields.get(0).map_or(fields.place, |node| node.place);
            self.reader.wrong(
                place,
                &host_at,
                format_args!("there is no host {host_name:?} in the topology"),
            );
            return None;
        };
        let nic_name = nic_name?;
        let found = self.topology.find_nic(host, nic_name);
        if found.is_none() {
            let place = fields.get(1).map_or(fields.place, |node| node.place);
            let what = format_args!("host {host_name:?} has no NIC {nic_name:?} in the topology");
            self.reader.wrong(place, &at.field("nic"), what);
        }
        found
    }
}
