//! What the service measures beside learning ports: whether packets get through on all paths, and what connections carry.

use std::{net::SocketAddr, time::Duration};

use c4_path_table::renew;
use tracing::{info, warn};

use super::{LEASE_NS, Source, Worker, boot_ns};
use crate::{
    paths::{
        diag::connections,
        discovery::Discovery,
        measure::{Measured, Measurer},
        probe::{Protocol, Target, ask, at_once},
        ways::{Ends, Ways},
    },
    report::{Captured, Report, WaysReport},
};

/// Time between two counts of what connections carry.
const CARRIED: Duration = Duration::from_secs(2);

impl Worker {
    /// Measures only for a controller: nobody else draws conclusions.
    pub(super) fn start_measuring(&self) -> Option<Measurer> {
        let settings = self.settings.measure.filter(|_| self.settings.orders == Source::Controller)?;
        match Measurer::start(settings, self.metrics.clone(), self.reports.clone()) {
            Ok(measurer) => Some(measurer),
            Err(error) => {
                let port = settings.port;
                warn!(port, %error, "cannot answer probes of other agents: links that lose packets are not found from here");
                None
            }
        }
    }

    /// Has measured what is known.
    pub(super) fn measure(&self) {
        if let Some(measurer) = &self.measurer {
            let (epoch, ways, trusted_after) = (self.about.epoch, self.ways.all(), self.trusted_after);
            measurer.measure(Measured { epoch, ways, trusted_after });
        }
    }

    /// Learns ports for paths that are to be measured, unless connections wait for theirs.
    pub(super) fn learn_ways(&mut self) {
        let Some(port) = self.settings.measure.map(|settings| settings.port) else { return };
        let lacking: Vec<Ends> = self.ways.lacking().collect();
        if lacking.is_empty() || self.measurer.is_none() || self.mailbox.is_interrupted() {
            return;
        }
        let worker = &*self;
        let learned = at_once(&lacking, |ends| (*ends, worker.discover_ways(ends, port)));
        // The table is as good as it was.
        let _ = renew(&self.settings.table, boot_ns() + LEASE_NS);
        // What was cut short is learned from the beginning.
        if learned.is_empty() || self.mailbox.is_interrupted() {
            return;
        }
        for (ends, discovery) in learned {
            self.metrics.paths_learned(&discovery.report());
            self.ways.learned(ends, &discovery);
        }
        self.measure();
    }

    fn discover_ways(&self, ends: &Ends, port: u16) -> Discovery {
        let to = SocketAddr::new(ends.to, port);
        let target = Target { protocol: Protocol::Udp, from: Some(ends.from), to };
        ask(target, Ways::task(ends, self.settings.ports.clone()), self.mailbox.interruption())
    }

    /// Counts what planned connections carry, and tells the controller.
    pub(super) fn count(&mut self) {
        if !self.ordered || self.settings.orders != Source::Controller || self.since_carried < CARRIED {
            return;
        }
        self.since_carried = Duration::ZERO;
        let Some(carried) = &mut self.carried else { return };
        match connections(&self.settings.ports) {
            Ok(all) => carried.update(&all, |one| self.knowledge.path(one.to, one.from.port()).cloned()),
            Err(error) => {
                info!(%error, "what connections carry is not measured: the kernel does not list them");
                self.carried = None;
                return;
            }
        }
        if !carried.sums().is_empty() {
            let (epoch, carried) = (self.about.epoch, carried.sums().clone());
            let report = WaysReport { epoch, carried, ..WaysReport::default() };
            // The next one says all that this would have said.
            let _ = self.reports.try_send(Captured::now(Report::Ways(Box::new(report))));
        }
    }
}
