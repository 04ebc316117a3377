//! Hashed against planned, in one fabric and one run, and what happens when a link dies.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, ensure};
use c4_agent::paths::discovery::Report;
use c4_traffic::{Flows, Plan, Previous, Topology, plan, rates, wires::Wires};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    Fabric, PAYLOAD, Shape,
    steering::{self, Ports, Tables},
    traffic::{Flow, Receivers, Sender},
};
use crate::ringjob::clock;

/// Windows of congestion control settle in a few round trips of full queues.
const SETTLE: Duration = Duration::from_millis(1500);

/// With less of a link's rate for a flow that is alone, what is measured is the machine, and not the fabric.
const LEAST_ALONE: f64 = 0.9;

/// New connections take longer to share a link evenly with each other and with old ones.
const SETTLE_SHARED: Duration = Duration::from_secs(6);

/// What to try.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The fabric.
    pub shape: Shape,
    /// How many flows.
    pub flows: usize,
    /// Of flows' ends, and of the link that dies.
    pub seed: u64,
    /// How long rates are measured.
    pub measure: Duration,
    /// Whether a link dies.
    pub cut: bool,
}

/// Rates of all flows, in Mbit/s of payload.
#[derive(Clone, Debug, Serialize)]
pub struct Rates {
    /// By flow.
    pub flows: Vec<f64>,
    /// The slowest.
    pub slowest: f64,
    /// All together.
    pub sum: f64,
}

impl Rates {
    fn new(flows: Vec<f64>) -> Self {
        let slowest = flows.iter().copied().fold(f64::INFINITY, f64::min);
        let sum = flows.iter().sum();
        Self { flows, slowest, sum }
    }
}

/// How learning went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Learned {
    /// Source ports tried, all flows together.
    pub ports_tried: u32,
    /// Probes sent.
    pub probes: u32,
    /// Paths found.
    pub paths: u32,
    /// Paths there are.
    pub paths_there: u32,
    /// Ports given up for silence, doubt or because they were in use.
    pub given_up: u32,
    /// Of the flow it took longest for.
    pub seconds: f64,
}

/// What became of a link's death.
#[derive(Clone, Debug, Serialize)]
pub struct Cut {
    /// Leaf and spine.
    pub link: (usize, usize),
    /// Right after it, with what routing alone does.
    pub routed: Rates,
    /// From the link's death until every flow was on its new path, in seconds.
    pub seconds: f64,
    /// Learning anew.
    pub learned: Learned,
    /// Flows whose spine changed.
    pub moves: usize,
    /// Slowest flow that is possible now, whole flows, by the rate model.
    pub ideal: f64,
    /// On new paths.
    pub planned: Rates,
    /// On the same paths, when all connections are new: what congestion control makes of them where nothing is left of before.
    pub fresh: Rates,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Of the trial.
    pub seed: u64,
    /// Payload rate of a link, by arithmetic.
    pub link: f64,
    /// What a flow gets that is alone on links of full rate, as measured.
    pub alone: f64,
    /// The slowest flow at best: its share of that, by the rate model.
    pub ideal: f64,
    /// With the ports that the kernel gives.
    pub hashed: Rates,
    /// With planned ports.
    pub planned: Rates,
    /// How paths were learned.
    pub learned: Learned,
    /// Spine of each flow.
    pub spines: Vec<usize>,
    /// A link's death.
    pub cut: Option<Cut>,
}

/// Flows between hosts under different leaves; no host sends or receives twice.
fn draw(shape: Shape, count: usize, random: &mut ChaCha8Rng) -> anyhow::Result<Vec<Flow>> {
    let hosts: Vec<(usize, usize)> =
        (0..shape.leaves).flat_map(|leaf| (0..shape.hosts).map(move |host| (leaf, host))).collect();
    ensure!(
        count <= hosts.len() && shape.leaves > 1,
        "{count} flows between leaves need as many hosts, under two leaves at least"
    );
    // Shuffled until it fits; a random permutation of few leaves often does.
    for _ in 0..10_000 {
        let (mut from, mut to) = (hosts.clone(), hosts.clone());
        from.shuffle(random);
        to.shuffle(random);
        let flows: Vec<Flow> =
            from.into_iter().zip(to).map(|(from, to)| Flow { from, to }).take(count).collect();
        if flows.iter().all(|flow| flow.from.0 != flow.to.0) {
            return Ok(flows);
        }
    }
    anyhow::bail!("no {count} flows between different leaves were found")
}

struct Scene<'a> {
    fabric: Fabric,
    flows: Vec<Flow>,
    receivers: Receivers,
    tables: Tables,
    shim: &'a Path,
    measure: Duration,
    /// What a flow gets that is alone, in Mbit/s of payload.
    alone: f64,
}

/// A plan and what it was made from.
struct Planned {
    topology: Topology,
    flows: Flows,
    plan: Plan,
    ports: Vec<Ports>,
    learned: Learned,
}

impl Scene<'_> {
    fn start(&self, flows: &[Flow], steered: bool) -> anyhow::Result<Vec<Sender>> {
        self.receivers.forget_ports(flows);
        let start = |flow: &Flow| {
            let table = self.tables.of(flow.from);
            Sender::start(&self.fabric, flow, steered.then_some((self.shim, table.as_path())))
        };
        let senders = flows.iter().map(start).collect::<anyhow::Result<_>>()?;
        self.receivers.wait(flows)?;
        Ok(senders)
    }

    fn rates(&self) -> Rates {
        // A flow that is not settled yet would be called slow.
        let _ = self.receivers.measure(&self.flows, SETTLE);
        Rates::new(self.receivers.measure(&self.flows, self.measure))
    }

    fn plan(&self, first_port: u16, previous: Option<&Previous>) -> anyhow::Result<Planned> {
        let (ports, reports): (Vec<Ports>, Vec<Report>) =
            steering::discover(&self.fabric, &self.flows, first_port)?.into_iter().unzip();
        let topology = steering::topology(&self.fabric);
        let flows = steering::flows(&self.fabric, &topology, &self.flows);
        let plan = plan(&topology, &flows, previous);
        Ok(Planned { topology, flows, plan, ports, learned: self.learned(&reports) })
    }

    fn learned(&self, reports: &[Report]) -> Learned {
        let mut learned = Learned::default();
        for (report, flow) in reports.iter().zip(&self.flows) {
            let there = (0..self.fabric.shape().spines)
                .filter(|s| self.fabric.is_up(flow.from.0, *s) && self.fabric.is_up(flow.to.0, *s));
            learned.ports_tried += report.ports;
            learned.probes += report.probes;
            learned.paths += report.paths;
            learned.paths_there += there.count() as u32;
            learned.given_up += report.silent + report.unsteady + report.busy + report.lost;
            learned.seconds = learned.seconds.max(report.elapsed_us as f64 * 1e-6);
        }
        learned
    }

    /// Every flow has a port of its path.
    fn check_ports(&self, ports: &[Ports], spines: &[usize]) -> anyhow::Result<()> {
        for ((flow, ports), spine) in self.flows.iter().zip(ports).zip(spines) {
            let port = self.receivers.port(flow).context("connected")?;
            let planned = ports.get(spine).is_some_and(|ports| ports.contains(&port));
            ensure!(planned, "{flow:?} has port {port}, which is not one for spine {spine}");
        }
        Ok(())
    }

    /// Measures what the first flow gets while it is alone, on its planned path over this spine.
    fn measure_alone(&mut self, spine: usize) -> anyhow::Result<()> {
        let shape = self.fabric.shape();
        let (own, full) = (f64::from(shape.spine_mbit(spine)), f64::from(shape.mbit));
        let flow = [self.flows[0]];
        let senders = self.start(&flow, true)?;
        let _ = self.receivers.measure(&flow, SETTLE);
        let rate = self.receivers.measure(&flow, self.measure)[0];
        drop(senders);
        ensure!(
            rate >= LEAST_ALONE * own * PAYLOAD,
            "a flow that is alone gets {rate:.1} Mbit/s of {own}: this machine is too busy for such links"
        );
        self.alone = rate * full / own;
        Ok(())
    }

    /// What the slowest flow can get under a plan, in Mbit/s of payload.
    fn ideal(&self, planned: &Planned) -> f64 {
        let rates = rates::planned(&Wires::new(&planned.topology), &planned.flows, &planned.plan);
        let slowest = rates.into_iter().fold(f64::INFINITY, f64::min) * 1000.0;
        self.alone * slowest / f64::from(self.fabric.shape().mbit)
    }

    /// A link with flows on it dies.
    fn cut(
        &mut self,
        before: &Planned,
        spines: &[usize],
        mut senders: Vec<Sender>,
        seed: u64,
    ) -> anyhow::Result<Cut> {
        let used: BTreeSet<_> =
            self.flows.iter().zip(spines).map(|(flow, spine)| (flow.from.0, *spine)).collect();
        let used: Vec<_> = used.into_iter().collect();
        let link = used[ChaCha8Rng::seed_from_u64(seed).random_range(0..used.len())];
        let died = clock::now();
        self.fabric.set_link(link.0, link.1, false)?;
        let previous = before.plan.as_previous(&before.flows);
        // Ports in use cannot be probed, so other ones are learned.
        let after = self.plan(24_000, Some(&previous))?;
        let new = self.tables.publish(&self.fabric, &self.flows, &after.ports, &after.plan)?;
        // Those whose leaf lost a way hash anew, whatever the plan says.
        let concerned = |flow: &Flow| flow.from.0 == link.0 || flow.to.0 == link.0;
        let concerned: Vec<usize> =
            (0..self.flows.len()).filter(|n| concerned(&self.flows[*n]) || new[*n] != spines[*n]).collect();
        let waiting: Vec<Flow> = concerned.iter().map(|n| self.flows[*n]).collect();
        let replanned = died.elapsed().as_secs_f64();
        let routed = Rates::new(self.receivers.measure(&self.flows, self.measure));
        let again = clock::now();
        self.receivers.forget_ports(&waiting);
        for number in &concerned {
            senders[*number].reconnect()?;
        }
        self.receivers.wait(&waiting)?;
        let seconds = replanned + again.elapsed().as_secs_f64();
        for number in concerned {
            let port = self.receivers.port(&self.flows[number]).context("connected")?;
            let own = after.ports[number].get(&new[number]);
            ensure!(own.is_some_and(|own| own.contains(&port)), "a flow has not got its new port");
        }
        let planned = self.shared_rates();
        drop(senders);
        let senders = self.start(&self.flows, true)?;
        self.check_ports(&after.ports, &new)?;
        let fresh = self.shared_rates();
        drop(senders);
        let moves = new.iter().zip(spines).filter(|(new, old)| new != old).count();
        let (ideal, learned) = (self.ideal(&after), after.learned);
        Ok(Cut { link, routed, seconds, learned, moves, ideal, planned, fresh })
    }

    /// Rates once flows that share a link are used to it.
    fn shared_rates(&self) -> Rates {
        let _ = self.receivers.measure(&self.flows, SETTLE_SHARED);
        self.rates()
    }
}

/// Builds a fabric, and lets flows cross it, hashed and then planned.
///
/// # Errors
/// When the fabric cannot be built, or a flow does not come up on its planned port.
pub fn run(trial: &Trial, shim: &Path) -> anyhow::Result<Outcome> {
    let mut random = ChaCha8Rng::seed_from_u64(trial.seed);
    let flows = draw(trial.shape, trial.flows, &mut random)?;
    let dir = tempfile::tempdir().context("a temporary directory")?;
    let fabric = Fabric::build(trial.shape)?;
    let receivers = Receivers::start(&fabric)?;
    let tables = Tables::new(dir.path());
    let mut scene = Scene { fabric, flows, receivers, tables, shim, measure: trial.measure, alone: 0.0 };

    let senders = scene.start(&scene.flows, false)?;
    let hashed = scene.rates();
    drop(senders);

    let first = scene.plan(20_000, None)?;
    let spines = scene.tables.publish(&scene.fabric, &scene.flows, &first.ports, &first.plan)?;
    scene.measure_alone(spines[0])?;
    let senders = scene.start(&scene.flows, true)?;
    scene.check_ports(&first.ports, &spines)?;
    let planned = scene.rates();
    let cut = if trial.cut { Some(scene.cut(&first, &spines, senders, trial.seed)?) } else { None };

    let link = f64::from(trial.shape.mbit) * PAYLOAD;
    let (alone, ideal, learned) = (scene.alone, scene.ideal(&first), first.learned);
    Ok(Outcome { seed: trial.seed, link, alone, ideal, hashed, planned, learned, spines, cut })
}
