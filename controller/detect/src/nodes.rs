//! What is known of nodes: whether their agents are in sight, and what their sensors said lately.

use std::collections::{BTreeMap, VecDeque};

use crate::observation::{HealthEvent, NicClass, NodeName, Timestamp};

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
    nic_class: Option<NicClass>,
    events: VecDeque<(Timestamp, HealthEvent)>,
}

impl Nodes {
    /// The agent of a node is in sight. One that does not know the NICs does not unsay what another said.
    pub(crate) fn seen(&mut self, node: NodeName, nic_class: Option<NicClass>) {
        let node = self.nodes.entry(node).or_default();
        node.lost = false;
        node.nic_class = nic_class.or(node.nic_class.take());
    }

    /// What the NICs of a node are, where its agent has told.
    pub(crate) fn nic_class(&self, node: &NodeName) -> Option<&NicClass> {
        self.nodes.get(node)?.nic_class.as_ref()
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
