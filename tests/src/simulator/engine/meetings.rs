//! Where ranks wait for each other: a slot for each communicator, and two for each pair of neighbouring stages.

use crate::simulator::{
    fault::Place,
    layout::{Group, Layout},
};

/// Latency of a transfer.
const LATENCY_NS: f64 = 30_000.0;
/// Bandwidth of a NIC, and within a node, in bytes per nanosecond.
const NIC_BYTES_PER_NS: f64 = 40.0;
const NODE_BYTES_PER_NS: f64 = 300.0;

/// Rank, stream, and index in the program.
pub(super) type Member = (u32, usize, usize);

#[derive(Debug)]
pub(super) struct Meetings {
    slots: Vec<Slot>,
    /// Where the slots of each kind of group begin, and those of pairs.
    groups: [usize; Group::ALL.len()],
    pairs: usize,
    kinds: [Kind; Group::ALL.len()],
    layout: Layout,
}

#[derive(Debug, Default)]
struct Slot {
    members: Vec<Member>,
    latest_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    size: usize,
    bytes_per_ns: f64,
}

impl Meetings {
    pub(super) fn new(layout: &Layout) -> Self {
        let mut slots = 0;
        let groups = Group::ALL.map(|group| {
            let begin = slots;
            slots += layout.groups(group) as usize;
            begin
        });
        let kinds = Group::ALL.map(|group| Kind {
            size: layout.group_size(group) as usize,
            bytes_per_ns: if layout.within_node(group) { NODE_BYTES_PER_NS } else { NIC_BYTES_PER_NS },
        });
        let (pairs, all) = (slots, slots + 2 * layout.ranks() as usize);
        let slots = std::iter::repeat_with(Slot::default).take(all).collect();
        Self { slots, groups, pairs, kinds, layout: *layout }
    }

    /// Forgets who waits.
    pub(super) fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.members.clear();
            slot.latest_ns = 0;
        }
    }

    pub(super) fn slot(&self, place: Place, is_forward: bool) -> usize {
        match place {
            Place::Group(group, index) => self.groups[group as usize] + index as usize,
            Place::Pair(src, _) => self.pairs + 2 * src as usize + usize::from(is_forward),
        }
    }

    /// A member comes. True if it is the last.
    pub(super) fn join(&mut self, slot: usize, member: Member, at_ns: u64) -> bool {
        let size = match self.groups.iter().rposition(|begin| *begin <= slot) {
            Some(kind) if slot < self.pairs => self.kinds[kind].size,
            _ => 2,
        };
        let slot = &mut self.slots[slot];
        slot.members.push(member);
        slot.latest_ns = slot.latest_ns.max(at_ns);
        slot.members.len() >= size
    }

    /// Everybody who came, and when the last did.
    pub(super) fn take(&mut self, slot: usize) -> (Vec<Member>, u64) {
        let slot = &mut self.slots[slot];
        (std::mem::take(&mut slot.members), std::mem::take(&mut slot.latest_ns))
    }

    /// Keeps the memory of a meeting that is over.
    pub(super) fn give_back(&mut self, slot: usize, mut members: Vec<Member>) {
        members.clear();
        self.slots[slot].members = members;
    }

    /// How long a transfer takes when nothing is wrong.
    pub(super) fn usual_ns(&self, place: Place, bytes: f64) -> f64 {
        let (size, bytes_per_ns) = match place {
            Place::Group(group, _) => {
                let kind = self.kinds[group as usize];
                (kind.size as f64, kind.bytes_per_ns)
            }
            Place::Pair(..) if place.crosses_nodes(&self.layout) => (2.0, NIC_BYTES_PER_NS),
            Place::Pair(..) => (2.0, NODE_BYTES_PER_NS),
        };
        LATENCY_NS + 2.0 * (size - 1.0) / size * bytes / bytes_per_ns
    }
}
