//! Jobs on the fabric: ranks of the ring job on hosts of their own, an agent on each host, jobs that arrive one after the
//! other. What counts is the time of an iteration: every rank waits for the slowest connection of its ring.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use c4_path_table::{ANY_RANK, Buffer, Header, Key};
use c4_traffic::{
    Plan, Previous,
    document::orders_json,
    orders::{Order, orders},
    plan,
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Fabric, Shape, experiment::PAYLOAD, host_address, steering, traffic::Flow};
use crate::{cluster::Programs, faults::FaultDir, ringjob::clock};

/// Of each all-reduce; there is one in an iteration.
const BYTES: u64 = 1 << 20;
const COMPUTE: Duration = Duration::from_millis(50);
/// Ports on which ranks listen.
const LISTEN: [u16; 2] = [30_000, 30_001];
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What to try.
#[derive(Clone, Copy, Debug)]
pub struct JobsTrial {
    /// The fabric.
    pub shape: Shape,
    /// How many jobs.
    pub jobs: usize,
    /// Ranks of each.
    pub ranks: usize,
    /// Of the ranks' places.
    pub seed: u64,
    /// How long iterations are counted.
    pub measure: Duration,
}

/// What came out; times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct JobsOutcome {
    /// Of the trial.
    pub seed: u64,
    /// An iteration of each job, all running, with the ports that the kernel gives.
    pub hashed: Vec<f64>,
    /// The longest of those.
    pub hashed_slowest: f64,
    /// With planned ports.
    pub planned: Vec<f64>,
    /// The longest of those.
    pub planned_slowest: f64,
    /// At the full rate of every link.
    pub ideal: f64,
    /// From new orders until every agent has them in its table, at most.
    pub seconds: f64,
    /// Connections of jobs that were there whose path a later job's arrival changed in the plan.
    pub moves: usize,
}

/// Programs that end with this.
#[derive(Debug, Default)]
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    fn start(&mut self, command: &mut Command, log: &Path) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.0.push(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }
}

struct Scene<'a> {
    trial: &'a JobsTrial,
    fabric: Fabric,
    programs: Programs,
    dir: &'a Path,
    shim: &'a Path,
    /// The ranks' hosts, by job.
    places: Vec<Vec<(usize, usize)>>,
}

impl Scene<'_> {
    fn table(&self, (leaf, host): (usize, usize)) -> PathBuf {
        self.dir.join(format!("paths-{leaf}-{host}"))
    }

    fn orders(&self) -> PathBuf {
        self.dir.join("orders.json")
    }

    fn faults(&self, job: usize, phase: &str) -> FaultDir {
        FaultDir(self.dir.join(format!("faults-{phase}-{job}")))
    }

    /// Starts the ranks of a job.
    fn job(&self, job: usize, phase: &str, steered: bool) -> anyhow::Result<Running> {
        let mut ranks = Running::default();
        for (rank, (leaf, host)) in self.places[job].iter().copied().enumerate() {
            let mut command = Command::new(self.programs.ringjob());
            command.args(["--rank", &rank.to_string(), "--world-size", &self.trial.ranks.to_string()]);
            command.arg("--rendezvous").arg(self.dir.join(format!("meet-{phase}-{job}")));
            command.args(["--bytes", &BYTES.to_string(), "--channels", "1", "--noise", "0"]);
            command.args(["--compute-us", &COMPUTE.as_micros().to_string()]);
            command.args(["--listen", &host_address(leaf, host).to_string()]);
            command.arg("--fault-dir").arg(self.faults(job, phase).0);
            if steered {
                command.env("LD_PRELOAD", self.shim).env("C4_PATH_TABLE", self.table((leaf, host)));
            }
            self.fabric.host(leaf, host).hold(&mut command);
            ranks.start(&mut command, &self.dir.join(format!("job-{phase}-{job}.log")))?;
        }
        Ok(ranks)
    }

    /// Starts an agent on each host of the jobs.
    fn agents(&self) -> anyhow::Result<Running> {
        let mut agents = Running::default();
        for (leaf, host) in self.places.iter().flatten().copied() {
            let name = format!("host{leaf}-{host}");
            let config = self.dir.join(format!("agent-{name}.yaml"));
            let text = format!(
                "node: {name}\ncontroller: null\nhttp: null\nrecorder_dir: {dir}/recorders-{name}\n\
                 sensors:\n  host: {{enabled: false}}\n  nvml: {{enabled: false}}\n  nic: {{enabled: false}}\n  kmsg: {{enabled: false}}\n\
                 paths:\n  orders: {orders}\n  table: {table}\n  listen_ports: [{}, {}]\n  ports_per_path: 2\n",
                LISTEN[0],
                LISTEN[1],
                dir = self.dir.display(),
                orders = self.orders().display(),
                table = self.table((leaf, host)).display(),
            );
            fs::write(&config, text)?;
            let mut command = Command::new(self.programs.agent());
            command.arg("--config").arg(config);
            self.fabric.host(leaf, host).hold(&mut command);
            agents.start(&mut command, &self.dir.join(format!("agent-{name}.log")))?;
        }
        Ok(agents)
    }

    /// Connections of the first jobs: each rank's to the next.
    fn flows(&self, jobs: usize) -> Vec<Flow> {
        let ring = |ranks: &Vec<(usize, usize)>| {
            let next = ranks.iter().cycle().skip(1);
            ranks.iter().zip(next).map(|(from, to)| Flow { from: *from, to: *to }).collect::<Vec<_>>()
        };
        self.places[..jobs].iter().flat_map(ring).collect()
    }

    /// Plans for the first jobs and has the agents learn it.
    fn order(&self, jobs: usize, previous: Option<&Previous>) -> anyhow::Result<(Previous, Plan, f64)> {
        let topology = steering::topology(&self.fabric);
        let flows = steering::flows(&self.fabric, &topology, &self.flows(jobs));
        let plan = plan(&topology, &flows, previous);
        let orders = orders(&topology, &flows, &plan)?;
        let beside = self.dir.join("orders.new");
        fs::write(&beside, serde_json::to_string(&orders_json(&orders))?)?;
        let start = clock::now();
        fs::rename(beside, self.orders())?;
        while let Some(order) = orders.iter().find(|order| !self.is_followed(order)) {
            ensure!(
                start.elapsed() < LIMIT,
                "the agent of {} does not follow its orders: {}",
                order.host,
                self.logs()
            );
            thread::sleep(LOOK_AGAIN);
        }
        Ok((plan.as_previous(&flows), plan, start.elapsed().as_secs_f64()))
    }

    /// Whether the table of the order's host has ports for it.
    fn is_followed(&self, order: &Order) -> bool {
        let place =
            self.places.iter().flatten().find(|(leaf, host)| order.host == format!("host{leaf}-{host}"));
        let file = place.and_then(|place| File::open(self.table(*place)).ok());
        let Some(file) = file else { return false };
        let Ok(header) = Header::read(&file, 0) else { return false };
        let mut buffer = Buffer::default();
        LISTEN
            .iter()
            .all(|port| header.find(&file, &Key::to(order.to, *port, ANY_RANK), &mut buffer).is_some())
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let entries = fs::read_dir(self.dir).into_iter().flatten().flatten();
        let logs =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
        logs.filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            Some(format!("\n{}: {}", path.display(), text.lines().last()?))
        })
        .collect()
    }

    /// The time of an iteration of each job, all of them running.
    fn iterations(&self, phase: &str) -> anyhow::Result<Vec<f64>> {
        let at = |job: usize| self.faults(job, phase).read_iteration(0);
        let jobs = 0..self.trial.jobs;
        let start = clock::now();
        // The first iterations fill windows and buffers.
        while !jobs.clone().all(|job| at(job).is_some_and(|(iteration, _)| iteration >= 3)) {
            ensure!(start.elapsed() < LIMIT, "the jobs do not come up: {}", self.logs());
            thread::sleep(LOOK_AGAIN);
        }
        let before: Vec<_> = jobs.clone().map(at).collect();
        thread::sleep(self.trial.measure);
        let pairs = before.into_iter().zip(jobs.map(at));
        let times = pairs.map(|(before, after)| {
            let ((first, from), (last, to)) = before.zip(after).context("a job has ended")?;
            ensure!(last > first, "a job stands still: {}", self.logs());
            Ok((to - from) as f64 * 1e-6 / (last - first) as f64)
        });
        times.collect()
    }
}

/// Lets jobs run hashed, all at once, then planned, one after the other.
///
/// # Errors
/// When the fabric cannot be built, or a program fails.
pub fn run(trial: &JobsTrial, shim: &Path) -> anyhow::Result<JobsOutcome> {
    let shape = trial.shape;
    let mut hosts: Vec<(usize, usize)> =
        (0..shape.leaves).flat_map(|leaf| (0..shape.hosts).map(move |host| (leaf, host))).collect();
    ensure!(
        trial.ranks > 1 && trial.jobs * trial.ranks <= hosts.len(),
        "{} jobs of {} ranks need as many hosts, and there are {}",
        trial.jobs,
        trial.ranks,
        hosts.len()
    );
    hosts.shuffle(&mut ChaCha8Rng::seed_from_u64(trial.seed));
    let places = hosts.chunks(trial.ranks).take(trial.jobs).map(<[_]>::to_vec).collect();
    let dir = tempfile::tempdir().context("a temporary directory")?;
    let fabric = Fabric::build(shape)?;
    let scene = Scene { trial, fabric, programs: Programs::built()?, dir: dir.path(), shim, places };

    let running: Vec<Running> =
        (0..trial.jobs).map(|job| scene.job(job, "hashed", false)).collect::<Result<_, _>>()?;
    let hashed = scene.iterations("hashed")?;
    drop(running);

    let _agents = scene.agents()?;
    let (mut previous, mut seconds, mut moves) = (None, 0.0f64, 0);
    let mut running = Vec::new();
    for job in 0..trial.jobs {
        let (next, plan, took) = scene.order(job + 1, previous.as_ref())?;
        seconds = seconds.max(took);
        moves += plan.moves;
        previous = Some(next);
        running.push(scene.job(job, "planned", true)?);
    }
    let planned = scene.iterations("planned")?;
    drop(running);

    let slowest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    let bits = 2.0 * (trial.ranks - 1) as f64 / trial.ranks as f64 * BYTES as f64 * 8.0;
    let ideal = COMPUTE.as_secs_f64() + bits / (f64::from(shape.mbit) * 1e6 * PAYLOAD);
    Ok(JobsOutcome {
        seed: trial.seed,
        hashed_slowest: slowest(&hashed),
        planned_slowest: slowest(&planned),
        hashed,
        planned,
        ideal,
        seconds,
        moves,
    })
}
