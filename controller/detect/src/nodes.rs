//! What is known of nodes: whether their agents are in sight, and what their sensors said lately.

use std::collections::{BTreeMap, VecDeque};

use crate::observation::{HealthEvent, NodeName, Timestamp};

/// Health events remembered per node.
const MAX_EVENTS: usize = 64;

/// What is known of nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    nodes: BTreeMap<NodeName, Node>,
}

#[derive(Debug, Default)]
struct Node {
    lost: bool,
    events: VecDeque<(Timestamp, HealthEvent)>,
}

impl Nodes {
    pub(crate) fn seen(&mut self, node: NodeName) {
        self.nodes.entry(node).or_default().lost = false;
    }

    pub(crate) fn lost(&mut self, node: NodeName) {
        self.nodes.entry(node).or_default().lost = true;
    }

    pub(crate) fn is_lost(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| node.lost)
    }

    /// Remembers an event, or takes back those that it clears.
    pub(crate) fn remember(&mut self, at: Timestamp, event: HealthEvent) {
        let events = &mut self.nodes.entry(event.node.clone()).or_default().events;
        if event.cleared {
            events.retain(|(_, old)| (&old.code, old.gpu, &old.nic) != (&event.code, event.gpu, &event.nic));
        } else {
            if events.len() >= MAX_EVENTS {
                events.pop_front();
            }
            events.push_back((at, event));
        }
    }

    /// Events of a node, oldest first.
    pub(crate) fn events(&self, node: &NodeName) -> impl Iterator<Item = &(Timestamp, HealthEvent)> {
        self.nodes.get(node).into_iter().flat_map(|node| &node.events)
    }
}
