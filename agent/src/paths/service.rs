//! Keeps the table true, in a thread of its own: takes orders, from a file or from the controller, learns ports for them,
//! writes the table, renews its lease, tells what it has seen, and now and then asks again about some ports. If one takes
//! another path than it did, something in the network changed, and everything known is stale: it is learned anew.

use std::{
    fs, io, net::SocketAddr, ops::Range, path::PathBuf, sync::atomic::AtomicBool, thread, time::Duration,
};

use c4_path_table::{publish, renew};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tracing::{info, warn};

mod measuring;

use super::{
    carried::Carried,
    discovery::{Discovery, Settings},
    explore::ExploreSettings,
    knowledge::{Check, Knowledge, ttls},
    mailbox::{Instructions, Mailbox, Reader},
    measure::{MeasureSettings, Measurer},
    orders::{self, Listening, ROCE},
    probe::{Protocol, Target, ask, at_once},
    ways::Ways,
};
use crate::{
    metrics::Metrics,
    report::{Captured, PathReport, Report},
};

/// Where orders come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, looked at again and again.
    File(PathBuf),
    /// The controller sends them.
    Controller,
}

/// What the service is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSettings {
    /// Where orders come from.
    pub orders: Source,
    /// Name of this host in a file of orders.
    pub host: String,
    /// The table.
    pub table: PathBuf,
    /// Source ports.
    pub ports: Range<u16>,
    /// Where connections go.
    pub listen: Listening,
    /// How many source ports are wanted for each path.
    pub depth: usize,
    /// Time between two checks of what is known.
    pub verify: Duration,
    /// How paths are measured, if they are.
    pub measure: Option<MeasureSettings>,
    /// How to find out where in the network this host is, if that is wanted.
    pub explore: Option<ExploreSettings>,
}

/// Source ports that a flow label can make.
const ROCE_SOURCES: Range<u16> = 0xC000..0xFFFF;
/// Time between two looks at the orders.
const LOOK: Duration = Duration::from_millis(250);
/// How long a table is believed without this agent: long enough for a slow round of learning.
const LEASE_NS: u64 = 60_000_000_000;
/// So many checks until what was not found is looked for again.
const PATIENCE: u32 = 15;
/// Destinations that are learned about, or ports that are checked, at the same time. Each is paced by itself.
const TOGETHER: usize = 8;
/// A report is made at least this often, so that a controller that has lost its memory hears of everything.
const REPORT: Duration = Duration::from_secs(10);

/// A running service; dropped, it ends.
#[derive(Debug)]
pub struct Service(Reader<Instructions>);

impl Service {
    /// Starts it. What it sees goes to `reports`.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(
        settings: PathSettings,
        metrics: Metrics,
        reports: mpsc::Sender<Captured>,
    ) -> io::Result<Self> {
        let work = move |mailbox| {
            let mut worker = Worker::new(settings, metrics, reports, mailbox);
            worker.measurer = worker.start_measuring();
            worker.run();
        };
        Reader::start("c4-paths", work).map(Self)
    }

    /// Where a controller's orders go.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox<Instructions> {
        self.0.mailbox().clone()
    }
}

struct Worker {
    settings: PathSettings,
    metrics: Metrics,
    reports: mpsc::Sender<Captured>,
    mailbox: Mailbox<Instructions>,
    /// The file of orders as it was last read.
    text: String,
    ordered: bool,
    knowledge: Knowledge,
    /// What is measured, if anything is.
    measurer: Option<Measurer>,
    ways: Ways,
    trusted_after: u32,
    generation: u64,
    /// What is said of the orders in every report.
    about: PathReport,
    told: Option<PathReport>,
    checks: u32,
    since_check: Duration,
    since_report: Duration,
    /// What connections carry; none where the kernel does not tell.
    carried: Option<Carried>,
    since_carried: Duration,
}

impl Worker {
    fn new(
        settings: PathSettings,
        metrics: Metrics,
        reports: mpsc::Sender<Captured>,
        mailbox: Mailbox<Instructions>,
    ) -> Self {
        Self {
            settings,
            metrics,
            reports,
            mailbox,
            text: String::new(),
            ordered: false,
            knowledge: Knowledge::default(),
            measurer: None,
            ways: Ways::default(),
            trusted_after: 0,
            // Tables of an earlier agent on this host had smaller numbers.
            generation: boot_ns(),
            about: PathReport::default(),
            told: None,
            checks: 0,
            since_check: Duration::ZERO,
            since_report: Duration::ZERO,
            carried: Some(Carried::default()),
            since_carried: Duration::ZERO,
        }
    }

    fn run(mut self) {
        while !self.mailbox.is_stopped() {
            let new = self.take_orders();
            let learned = self.learn();
            if new || learned {
                self.publish();
            } else if self.since_check >= self.settings.verify {
                self.since_check = Duration::ZERO;
                self.verify();
            }
            // There is none to renew before the first orders.
            if self.ordered && renew(&self.settings.table, boot_ns() + LEASE_NS).is_err() {
                self.publish();
            }
            self.report();
            // What connections wait for comes first.
            self.learn_ways();
            self.count();
            thread::park_timeout(LOOK);
            self.since_check += LOOK;
            self.since_report += LOOK;
            self.since_carried += LOOK;
        }
    }

    /// Whether there are new orders. Orders that cannot be read change nothing.
    fn take_orders(&mut self) -> bool {
        let sent = self.mailbox.take();
        let new = match &self.settings.orders {
            Source::File(path) => read_orders(path, &mut self.text, &self.settings.host),
            Source::Controller => sent.map(|sent| {
                if sent.epoch != std::mem::replace(&mut self.about.epoch, sent.epoch) {
                    self.forget();
                }
                self.about.revision = sent.revision;
                self.trusted_after = sent.trusted_after;
                sent.orders
            }),
        };
        let Some(orders) = new else { return false };
        self.ordered = true;
        self.ways.order(&orders);
        self.knowledge.order(orders, &self.settings.listen);
        self.measure();
        true
    }

    /// Nothing that is known can be relied on.
    fn forget(&mut self) {
        self.knowledge.forget();
        self.ways.forget();
        if let Some(carried) = &mut self.carried {
            carried.forget();
        }
        self.measure();
    }

    /// Learns about destinations of which too little is known, until all are done or new orders come; whether there were
    /// any.
    fn learn(&mut self) -> bool {
        let lacking = self.knowledge.lacking(&self.settings.listen, self.settings.depth);
        let mut chunks = lacking.chunks(TOGETHER).peekable();
        while let Some(some) = chunks.next() {
            let worker = &*self;
            let found = at_once(some, |to| (*to, worker.discover(*to)));
            let complete = !self.mailbox.is_interrupted();
            for (to, discovery) in found {
                self.metrics.paths_learned(&discovery.report());
                self.knowledge.learned(to, &discovery, complete);
            }
            // The table of before is still as good as anything.
            let _ = renew(&self.settings.table, boot_ns() + LEASE_NS);
            if !complete {
                return true;
            }
            if chunks.peek().is_some() {
                // What was seen so far may be all that it takes to find a link that is dead.
                self.report();
            }
        }
        if !lacking.is_empty() {
            let figures = self.knowledge.figures();
            let (ports, probes) = (figures.ports, figures.probes);
            info!(destinations = lacking.len(), ports, probes, "learned paths");
        }
        !lacking.is_empty()
    }

    /// Asks about one destination until the paths in its orders have their ports.
    fn discover(&self, to: SocketAddr) -> Discovery {
        let ports = if to.port() == ROCE { ROCE_SOURCES } else { self.settings.ports.clone() };
        let task = self.knowledge.task(to, ports, self.settings.depth);
        ask(target(to), task, self.mailbox.interruption())
    }

    /// Asks again about some ports; forgets everything if one takes another path now.
    fn verify(&mut self) {
        self.checks += 1;
        if self.checks.is_multiple_of(PATIENCE) {
            self.knowledge.look_again();
            self.ways.look_again();
        }
        let checks = self.knowledge.checks(TOGETHER);
        let stop = self.mailbox.interruption();
        let changed = at_once(&checks, |check| has_changed(check, stop).then_some(check));
        if let Some(Check { to, port, hops }) = changed.into_iter().flatten().next() {
            info!(%to, port, was = ?hops, "a path has changed: what is known of ports is stale");
            self.metrics.path_changed();
            self.about.changes += 1;
            self.forget();
            // At once: everybody else's knowledge may be stale, too.
            self.report();
        }
    }

    fn publish(&mut self) {
        self.generation += 1;
        let (table, missing) = self.knowledge.table(&self.settings.listen, self.generation);
        self.metrics.paths(self.knowledge.orders().len(), missing);
        if missing > 0 {
            warn!(missing, "no port was found for some planned paths: connections there stay unplanned");
        }
        let written = match table.encode(boot_ns() + LEASE_NS) {
            Ok(bytes) => publish(&self.settings.table, &bytes),
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = written {
            warn!(table = %self.settings.table.display(), %error, "cannot write the table of paths");
        }
    }

    /// Tells the controller what is new, and now and then everything.
    fn report(&mut self) {
        if !self.ordered || self.settings.orders != Source::Controller {
            return;
        }
        let settled = self.knowledge.lacking(&self.settings.listen, self.settings.depth).is_empty();
        let (_, missing) = self.knowledge.table(&self.settings.listen, self.generation);
        let mut figures = self.knowledge.figures().clone();
        figures.add(self.ways.figures());
        let mut seen = self.knowledge.seen();
        for (path, ports) in self.ways.seen() {
            *seen.entry(path).or_insert(0) += ports;
        }
        self.metrics.paths_known(seen.len(), settled);
        let report = PathReport {
            settled,
            destinations: self.knowledge.orders().len() as u32,
            missing: missing as u32,
            figures,
            seen,
            ..self.about.clone()
        };
        if self.told.as_ref() == Some(&report) && self.since_report < REPORT {
            return;
        }
        self.since_report = Duration::ZERO;
        self.told = Some(report.clone());
        // Nobody takes reports any more when the agent ends.
        let _ = self.reports.blocking_send(Captured::now(Report::Paths(Box::new(report))));
    }
}

/// The orders in a file, if it has changed since it was last read.
fn read_orders(path: &std::path::Path, before: &mut String, host: &str) -> Option<Vec<orders::Order>> {
    // None yet, perhaps.
    let text = fs::read_to_string(path).ok()?;
    if text == *before {
        return None;
    }
    let orders = match orders::parse(&text, host) {
        Ok(orders) => Some(orders),
        Err(error) => {
            warn!(file = %path.display(), %error, "orders are not followed");
            None
        }
    };
    *before = text;
    orders
}

/// Whether a port takes another path than it did.
fn has_changed(check: &Check, stop: &AtomicBool) -> bool {
    let one = check.port..check.port.saturating_add(1);
    let settings = Settings {
        ports: one,
        ttls: ttls(check.hops.len()),
        paths: Some(1),
        depth: 1,
        ..Settings::default()
    };
    let discovery = ask(target(check.to), settings, stop);
    discovery.report().unsteady > 0 || discovery.paths().keys().any(|now| *now != check.hops)
}

/// How connections to a destination look.
fn target(to: SocketAddr) -> Target {
    let protocol = if to.port() == ROCE { Protocol::Udp } else { Protocol::Tcp };
    Target { protocol, from: None, to }
}

/// Nanoseconds since boot, as readers of the table count them.
fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
