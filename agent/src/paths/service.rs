//! Keeps the table true, in a thread of its own: reads orders when they change, learns ports for them, writes the table,
//! renews its lease, and now and then asks again about a port that nobody uses. If that takes another path than it did,
//! something in the network changed, and everything known is stale: it is learned anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use c4_path_table::{publish, renew};
use rustix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use super::{
    discovery::{Discovery, Hops, Report, Settings},
    orders::{self, Known, Order},
    probe::{Protocol, Target, learn},
};
use crate::metrics::Metrics;

/// What the service is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSettings {
    /// File with orders.
    pub orders: PathBuf,
    /// Name of this host in them.
    pub host: String,
    /// The table.
    pub table: PathBuf,
    /// Source ports.
    pub ports: Range<u16>,
    /// Ports for sockets that listen on any port.
    pub listen: Range<u16>,
    /// How many source ports are wanted for each path.
    pub depth: usize,
    /// Time between two checks of what is known.
    pub verify: Duration,
}

/// Time between two looks at the orders.
const LOOK: Duration = Duration::from_millis(250);
/// How long a table is believed without this agent: long enough for a slow round of learning.
const LEASE_NS: u64 = 60_000_000_000;
/// So many checks until what was not found is looked for again.
const PATIENCE: usize = 15;
/// Destinations that are learned about at the same time. Each is paced by itself.
const TOGETHER: usize = 8;

/// A running service; dropped, it ends.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Service {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(settings: PathSettings, metrics: Metrics) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let run = move || Worker::new(settings, metrics, told).run();
        let thread = thread::Builder::new().name("c4-paths".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends within a poll; a panic in it was reported by the thread.
            let _ = thread.join();
        }
    }
}

struct Worker {
    settings: PathSettings,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
    text: String,
    orders: Vec<Order>,
    known: Known,
    generation: u64,
    checks: usize,
    idle: Duration,
}

impl Worker {
    fn new(settings: PathSettings, metrics: Metrics, stop: Arc<AtomicBool>) -> Self {
        // Tables of an earlier agent on this host had smaller numbers.
        let generation = boot_ns();
        let (text, orders, known) = (String::new(), Vec::new(), Known::new());
        Self { settings, metrics, stop, text, orders, known, generation, checks: 0, idle: Duration::ZERO }
    }

    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let new = self.read_orders();
            let learned = self.learn();
            if new || learned {
                self.publish();
            } else if self.idle >= self.settings.verify {
                self.idle = Duration::ZERO;
                self.verify();
            }
            // There is none to renew before the first orders.
            if self.generation_published() && renew(&self.settings.table, boot_ns() + LEASE_NS).is_err() {
                self.publish();
            }
            thread::park_timeout(LOOK);
            self.idle += LOOK;
        }
    }

    fn generation_published(&self) -> bool {
        !self.text.is_empty()
    }

    /// Whether there are new orders. Orders that cannot be read change nothing.
    fn read_orders(&mut self) -> bool {
        let text = match fs::read_to_string(&self.settings.orders) {
            Ok(text) => text,
            // None yet.
            Err(_) => return false,
        };
        if text == self.text {
            return false;
        }
        match orders::parse(&text, &self.settings.host) {
            Ok(orders) => self.orders = orders,
            Err(error) => warn!(file = %self.settings.orders.display(), %error, "orders are not followed"),
        }
        self.text = text;
        let wanted = self.targets();
        self.known.retain(|to, _| wanted.contains(to));
        true
    }

    fn targets(&self) -> BTreeSet<SocketAddr> {
        let ports = || self.settings.listen.clone();
        self.orders.iter().flat_map(|order| ports().map(|port| SocketAddr::new(order.to, port))).collect()
    }

    /// Learns about destinations of which nothing is known; whether there were any.
    fn learn(&mut self) -> bool {
        let unknown: Vec<_> = self.targets().into_iter().filter(|to| !self.known.contains_key(to)).collect();
        let mut all = Report::default();
        for some in unknown.chunks(TOGETHER) {
            let found: Vec<(SocketAddr, Discovery)> = thread::scope(|scope| {
                let learners: Vec<_> =
                    some.iter().map(|to| scope.spawn(|| (*to, self.discover(*to)))).collect();
                learners.into_iter().filter_map(|learner| learner.join().ok()).collect()
            });
            for (to, discovery) in found {
                let report = discovery.report();
                all.ports += report.ports;
                all.probes += report.probes;
                all.silent += report.silent;
                all.unsteady += report.unsteady;
                all.paths += report.paths;
                all.elapsed_us = all.elapsed_us.max(report.elapsed_us);
                self.known.insert(to, discovery.paths().clone());
            }
            // The table of before is still as good as anything.
            let _ = renew(&self.settings.table, boot_ns() + LEASE_NS);
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
        }
        if !unknown.is_empty() {
            let seconds = all.elapsed_us as f64 * 1e-6;
            self.metrics.paths_learned(&all);
            info!(
                destinations = unknown.len(),
                ports = all.ports,
                probes = all.probes,
                paths = all.paths,
                silent = all.silent,
                unsteady = all.unsteady,
                seconds,
                "learned paths"
            );
        }
        !unknown.is_empty()
    }

    /// Asks about one destination until the paths in its orders have their ports.
    fn discover(&self, to: SocketAddr) -> Discovery {
        let routes = self.orders.iter().filter(|order| order.to == to.ip()).flat_map(|order| &order.paths);
        let wanted: Vec<_> = routes.cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let mut discovery = Discovery::new(Settings {
            ports: self.settings.ports.clone(),
            ttls: ttls(wanted.first().map_or(1, |route| route.via.len())),
            depth: self.settings.depth,
            wanted,
            ..Settings::default()
        });
        let target = Target { protocol: Protocol::Tcp, to };
        if let Err(error) = learn(target, &mut discovery, &self.stop) {
            warn!(%to, %error, "cannot probe");
        }
        discovery
    }

    /// Asks again about one port; forgets everything if it takes another path now.
    fn verify(&mut self) {
        self.checks += 1;
        if self.checks.is_multiple_of(PATIENCE) {
            // Where something was not found: perhaps it is there now.
            let orders = &self.orders;
            self.known.retain(|to, paths| {
                let mut wanted =
                    orders.iter().filter(|order| order.to == to.ip()).flat_map(|order| &order.paths);
                wanted.all(|route| paths.keys().any(|hops| route.matches(hops)))
            });
        }
        let all: Vec<(SocketAddr, &Hops, u16)> = self
            .known
            .iter()
            // The last port of a path is the least likely to be in use.
            .flat_map(|(to, paths)| {
                paths.iter().filter_map(|(hops, ports)| Some((*to, hops, *ports.last()?)))
            })
            .collect();
        let Some((to, hops, port)) = all.get(self.checks % all.len().max(1)).copied() else { return };
        let one = port..port.saturating_add(1);
        let settings =
            Settings { ports: one, ttls: ttls(hops.len()), paths: Some(1), depth: 1, ..Settings::default() };
        let mut discovery = Discovery::new(settings);
        let target = Target { protocol: Protocol::Tcp, to };
        if learn(target, &mut discovery, &self.stop).is_err() {
            return;
        }
        let unsteady = discovery.report().unsteady > 0;
        if unsteady || discovery.paths().keys().any(|now| now != hops) {
            info!(%to, port, was = ?hops, "a path has changed: what is known of ports is stale");
            self.metrics.path_changed();
            self.known = BTreeMap::new();
        }
    }

    fn publish(&mut self) {
        self.generation += 1;
        let (table, missing) =
            orders::table(&self.orders, &self.known, &self.settings.listen, self.generation);
        self.metrics.paths(self.orders.len(), missing);
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
}

/// The TTLs that end at the switches above the first leaf.
fn ttls(switches: usize) -> Vec<u8> {
    (2..).take(switches).collect()
}

/// Nanoseconds since boot, as readers of the table count them.
fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
