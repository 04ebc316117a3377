//! What is known of nodes: whether their agents are in sight, and what their sensors said lately.
//!
//! A condition that has ended is remembered for as long as others push it out: a link that was down for five seconds is
//! why ranks stand still a minute later.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    catalogue,
    observation::{HealthEvent, Hearing, NicClass, NodeName, Timestamp},
};

/// Health events remembered per node.
const MAX_EVENTS: usize = 64;
/// The same error within this time is the same trouble: a driver may write it a thousand times.
const SAME_US: u64 = 60_000_000;

/// What is known of nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    nodes: BTreeMap<NodeName, Node>,
    /// How many are lost. Normally none, and then nobody needs to be looked up.
    lost: usize,
    /// How often the class of some node changed.
    classes: u64,
    /// How many are not heard at once. Normally none, either.
    unheard: usize,
    /// When anything was observed for the first time.
    began: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Node {
    lost: bool,
    hearing: Hearing,
    nic_class: Option<NicClass>,
    events: VecDeque<Heard>,
}

/// A health event, and when it was so.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Timestamp,
    /// When a condition ended.
    pub(crate) until: Option<Timestamp>,
    /// Whether it happened at a moment, or else lasts.
    pub(crate) moment: bool,
    pub(crate) event: HealthEvent,
}

impl Heard {
    pub(crate) fn new(at: Timestamp, event: HealthEvent) -> Self {
        let moment = catalogue::entry(&event.code, &event.detail).is_some_and(|entry| entry.moment);
        Self { at, until: None, moment, event }
    }

    fn is(&self, event: &HealthEvent) -> bool {
        let same =
            (&self.event.code, self.event.gpu, &self.event.nic) == (&event.code, event.gpu, &event.nic);
        let same_process = || catalogue::pid(&self.event.detail) == catalogue::pid(&event.detail);
        self.until.is_none() && same && (!self.moment || same_process())
    }

    /// Whether it was so at some time between `from` and `to`.
    pub(crate) fn within(&self, from: Timestamp, to: Timestamp) -> bool {
        let end = if self.moment { Some(self.at) } else { self.until };
        self.at <= to && end.is_none_or(|end| end >= from)
    }
}

impl Nodes {
    /// The agent of a node is in sight. One that does not know the NICs does not unsay what another said.
    pub(crate) fn seen(&mut self, node: NodeName, nic_class: Option<NicClass>) {
        let node = self.nodes.entry(node).or_default();
        self.lost -= usize::from(std::mem::replace(&mut node.lost, false));
        if nic_class.is_some() && node.nic_class != nic_class {
            node.nic_class = nic_class;
            self.classes += 1;
        }
    }

    /// Another number whenever the class of some node has changed.
    pub(crate) fn classes(&self) -> u64 {
        self.classes
    }

    /// What the NICs of a node are, where its agent has told.
    pub(crate) fn nic_class(&self, node: &NodeName) -> Option<&NicClass> {
        self.nodes.get(node)?.nic_class.as_ref()
    }

    pub(crate) fn lost(&mut self, node: NodeName) {
        let node = self.nodes.entry(node).or_default();
        self.lost += usize::from(!std::mem::replace(&mut node.lost, true));
    }

    /// Whether what happens on a node is told at once, from now on.
    pub(crate) fn heard(&mut self, node: NodeName, hearing: Hearing) {
        let node = self.nodes.entry(node).or_default();
        let before = std::mem::replace(&mut node.hearing, hearing);
        self.unheard += usize::from(hearing != Hearing::AtOnce);
        self.unheard -= usize::from(before != Hearing::AtOnce);
    }

    /// How a node is heard.
    pub(crate) fn hearing(&self, node: &NodeName) -> Hearing {
        match self.nodes.get(node) {
            Some(node) if self.unheard > 0 => node.hearing,
            _ => Hearing::AtOnce,
        }
    }

    /// Something is observed.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.began.get_or_insert(now);
    }

    /// Since when there is anything that observes.
    pub(crate) fn began(&self) -> Timestamp {
        self.began.unwrap_or_default()
    }

    pub(crate) fn is_lost(&self, node: &NodeName) -> bool {
        self.lost > 0 && self.nodes.get(node).is_some_and(|node| node.lost)
    }

    /// Remembers an event, or the end of those that it takes back.
    pub(crate) fn remember(&mut self, at: Timestamp, event: HealthEvent) {
        let events = &mut self.nodes.entry(event.node.clone()).or_default().events;
        if event.cleared {
            for heard in events.iter_mut().filter(|heard| heard.is(&event)) {
                heard.until = Some(at);
            }
            return;
        }
        let heard = Heard::new(at, event);
        let known = events.iter_mut().rfind(|known| {
            known.is(&heard.event) && (!heard.moment || heard.at.micros_since(known.at) < SAME_US)
        });
        if let Some(known) = known {
            // Told again, or become worse: it began when it began.
            known.event = heard.event;
            return;
        }
        if events.len() >= MAX_EVENTS {
            let over = events.iter().enumerate().filter(|(_, old)| old.moment || old.until.is_some());
            let least =
                over.min_by_key(|(index, old)| (old.event.severity, *index)).map_or(0, |(index, _)| index);
            events.remove(least);
        }
        events.push_back(heard);
    }

    /// Events of a node, oldest first.
    pub(crate) fn events(&self, node: &NodeName) -> impl Iterator<Item = &Heard> {
        self.nodes.get(node).into_iter().flat_map(|node| &node.events)
    }
}
