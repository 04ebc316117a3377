//! What comes of planning paths.

use std::sync::Arc;

use c4_detect::observation::{NodeName, Timestamp};

use super::{Brain, Effect};
use crate::{
    convert::{self, PathReport, PeerTraffic},
    nodes::StreamId,
    paths::{Output, view::PathsView},
    registry::Refusal,
};

impl Brain {
    pub(super) fn traffic(
        &mut self,
        peers: &[PeerTraffic],
        node: &NodeName,
        age_us: u64,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(paths) = &mut self.paths else { return Ok(()) };
        for peer in peers {
            match self.registry.of(peer.process, node) {
                Ok(info) => {
                    let turn_us = peer.turn_us.map(|us| us.saturating_add(age_us));
                    paths.traffic(info, PeerTraffic { turn_us, ..*peer }, now);
                }
                // It was sent before the end, and came after it.
                Err(Refusal::Ended { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    pub(super) fn path_report(&mut self, report: PathReport, node: &NodeName, now: Timestamp) {
        if let Some(paths) = &mut self.paths {
            paths.report(node, report, now);
        }
        self.plan(now);
    }

    /// Does what is to be done about paths.
    pub(super) fn plan(&mut self, now: Timestamp) {
        let outputs = self.paths.as_mut().map(crate::paths::Paths::take_outputs).unwrap_or_default();
        for output in outputs {
            match output {
                Output::Plan(work) => self.effects.push(Effect::Plan(work)),
                Output::Order(node) => {
                    for stream in self.nodes.streams(&node) {
                        self.order_paths(stream, &node);
                    }
                }
                Output::Explore(node) => {
                    let wish = self.paths.as_ref().and_then(|paths| paths.to_explore(&node));
                    for (stream, (round, ends)) in
                        self.nodes.streams(&node).into_iter().zip(wish.iter().cycle())
                    {
                        let wish = Box::new(convert::explore(*round, ends));
                        self.effects.push(Effect::ExplorePaths(stream, wish));
                    }
                }
                Output::Write(plan, documents) => self.effects.push(Effect::WritePaths(plan, documents)),
                Output::Keep(kept) => self.effects.push(Effect::Keep(vec![kept.row()])),
                Output::Said(text) => self.say("paths", "", text, now),
                Output::Finding(finding) => self.found(*finding, now),
            }
        }
    }

    fn order_paths(&mut self, stream: StreamId, node: &NodeName) {
        if let Some((orders, epoch)) = self.paths.as_ref().and_then(|paths| paths.orders(node)) {
            let orders = convert::orders(orders.revision, epoch, &orders.orders);
            self.effects.push(Effect::OrderPaths(stream, Box::new(orders)));
        }
    }

    /// The picture of paths, where they are planned. What has not changed is taken from the one before.
    #[must_use]
    pub fn paths_view(&self, before: Option<&PathsView>) -> Option<Arc<PathsView>> {
        self.paths.as_ref().map(|paths| Arc::new(paths.view(before)))
    }
}
