//! Jobs on the fabric: ranks of the ring job on hosts of their own, an agent on each host, a controller that plans from what
//! their connections tell, jobs that arrive one after the other. What counts is the time of an iteration: every rank waits for the slowest connection of its ring.

use std::{
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;

mod faults;
mod learned;

pub use faults::{JobsCut, JobsLossy};
pub use learned::LearnedFabric;

use super::{Fabric, PAYLOAD, Shape, host_address, steering};
use crate::{cluster::Programs, faults::FaultDir, ringjob::clock};

/// Of each all-reduce; there is one in an iteration.
const BYTES: u64 = 3 << 20;
const COMPUTE: Duration = Duration::from_millis(50);
/// Iterations after which those that follow are alike.
const SETTLED: u64 = 12;
/// Ports on which ranks listen.
const LISTEN: [u16; 2] = [30_000, 30_001];
/// Where the controller listens.
const PORT: u16 = 4400;
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
    /// Whether a link dies at the end.
    pub cut: bool,
    /// Whether the first spine answers no probe.
    pub silent: bool,
    /// Whether the controller is given no topology, and has to learn it from what the agents' probes see.
    pub learned: bool,
    /// Whether the controller's file has a link, leaf0–spine0, that is not there.
    pub wrong_file: bool,
    /// Whether a link begins to lose one in so many packets, and is mended later.
    pub lose: Option<u32>,
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
    /// At the full rate of every link, by arithmetic.
    pub wire: f64,
    /// Of the first job, planned, before there are others.
    pub alone: f64,
    /// With as much of the links for every job as the first had alone.
    pub ideal: f64,
    /// From a job's third iteration until its paths are planned and every agent knows ports for them, at most.
    pub seconds: f64,
    /// Connections of jobs that were there whose path a later job's arrival changed in the plan.
    pub moves: u64,
    /// A link's death.
    pub cut: Option<JobsCut>,
    /// What the controller said at the end of places where the topology and what is seen do not fit.
    pub mistakes: Vec<String>,
    /// Links that were accused of something at the end.
    pub accused: usize,
    /// A link that lost packets.
    pub lossy: Option<JobsLossy>,
    /// What the controller has learned of the fabric, if it had to.
    pub learned: Option<LearnedFabric>,
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

impl JobsTrial {
    /// The time of an iteration at the full rate of every link.
    fn wire(&self) -> f64 {
        let bits = 2.0 * (self.ranks - 1) as f64 / self.ranks as f64 * BYTES as f64 * 8.0;
        COMPUTE.as_secs_f64() + bits / (f64::from(self.shape.mbit) * 1e6 * PAYLOAD)
    }
}

/// The time of an iteration that takes so long where a job is alone, when the fullest link has to carry so many times its rate.
fn ideal(alone: f64, fullest: f64) -> f64 {
    let compute = COMPUTE.as_secs_f64();
    compute + (alone - compute) * fullest.max(1.0)
}

fn slowest(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

impl Scene<'_> {
    fn table(&self, (leaf, host): (usize, usize)) -> PathBuf {
        self.dir.join(format!("paths-{leaf}-{host}"))
    }

    fn faults(&self, job: usize, phase: &str) -> FaultDir {
        FaultDir(self.dir.join(format!("faults-{phase}-{job}")))
    }

    /// Starts the ranks of a job.
    fn job(&self, job: usize, phase: &str, incarnation: Option<u32>) -> anyhow::Result<Running> {
        let mut ranks = Running::default();
        for (rank, (leaf, host)) in self.places[job].iter().copied().enumerate() {
            let mut command = Command::new(self.programs.ringjob());
            command.args(["--rank", &rank.to_string(), "--world-size", &self.trial.ranks.to_string()]);
            command.arg("--rendezvous").arg(self.dir.join(format!("meet-{phase}-{job}")));
            command.args(["--bytes", &BYTES.to_string(), "--channels", "1", "--noise", "0"]);
            command.args(["--compute-us", &COMPUTE.as_micros().to_string()]);
            command.args(["--listen", &host_address(leaf, host).to_string()]);
            command.arg("--fault-dir").arg(self.faults(job, phase).0);
            if let Some(incarnation) = incarnation {
                command.env("LD_PRELOAD", self.shim).env("C4_PATH_TABLE", self.table((leaf, host)));
                command.env("NCCL_PROFILER_PLUGIN", self.programs.plugin());
                command.env("C4_RECORDER_DIR", self.recorders((leaf, host)));
                command.env("C4_JOB", format!("job{job}")).env("C4_INCARNATION", incarnation.to_string());
                command.env("RANK", rank.to_string()).env("WORLD_SIZE", self.trial.ranks.to_string());
            }
            self.fabric.host(leaf, host).hold(&mut command);
            ranks.start(&mut command, &self.dir.join(format!("job-{phase}-{job}.log")))?;
        }
        Ok(ranks)
    }

    fn recorders(&self, (leaf, host): (usize, usize)) -> PathBuf {
        self.dir.join(format!("recorders-{leaf}-{host}"))
    }

    /// Starts a controller that plans on what this file says, and an agent on each host of the jobs.
    fn control(&self, file: &str) -> anyhow::Result<Running> {
        let mut programs = Running::default();
        let config = self.dir.join("controller.yaml");
        let topology = if self.trial.learned {
            // Rates cannot be probed.
            format!("learned\n  assumed_gbps: {}", f64::from(self.trial.shape.mbit) / 1000.0)
        } else {
            let topology = self.dir.join("topology.yaml");
            fs::write(&topology, file)?;
            topology.display().to_string()
        };
        let text = format!(
            "listen: 0.0.0.0:{PORT}\nhttp: 127.0.0.1:0\ninsecure: true\npaths:\n  topology: {topology}\n"
        );
        fs::write(&config, text)?;
        let mut command = Command::new(self.programs.controller());
        command.arg("--config").arg(config);
        self.fabric.management().hold(&mut command);
        programs.start(&mut command, &self.dir.join("controller.log"))?;
        for (leaf, host) in self.places.iter().flatten().copied() {
            let controller = self.fabric.manage(leaf, host)?;
            let name = format!("host{leaf}-{host}");
            let config = self.dir.join(format!("agent-{name}.yaml"));
            fs::create_dir_all(self.recorders((leaf, host)))?;
            let text = format!(
                "node: {name}\ncontroller: http://{controller}:{PORT}\ninsecure: true\nhttp: null\nrecorder_dir: {recorders}\n\
                 reconnect: {{max_ms: 500}}\n\
                 sensors:\n  host: {{enabled: false}}\n  nvml: {{enabled: false}}\n  nic: {{enabled: false}}\n  kmsg: {{enabled: false}}\n\
                 paths:\n  orders: controller\n  table: {table}\n  listen_ports: [{}, {}]\n  ports_per_path: 2\n  verify_ms: 1000\n{explore}",
                LISTEN[0],
                LISTEN[1],
                recorders = self.recorders((leaf, host)).display(),
                table = self.table((leaf, host)).display(),
                explore = if self.trial.learned { "  explore: [eth0]\n" } else { "" },
            );
            fs::write(&config, text)?;
            let mut command = Command::new(self.programs.agent());
            command.arg("--config").arg(config);
            self.fabric.host(leaf, host).hold(&mut command);
            programs.start(&mut command, &self.dir.join(format!("agent-{name}.log")))?;
        }
        Ok(programs)
    }

    /// What the controller says of paths; none while it cannot be asked.
    fn paths(&self) -> Option<Value> {
        self.ask(&["paths"])
    }

    /// What the controller says; none while it cannot be asked.
    fn ask(&self, what: &[&str]) -> Option<Value> {
        let mut command = Command::new(self.programs.ctl());
        command.args(["--json", "--controller", &format!("http://127.0.0.1:{PORT}")]).args(what);
        self.fabric.management().hold(&mut command);
        let output = command.stderr(Stdio::null()).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until the controller has planned these jobs and all agents follow, and something else holds, too.
    fn wait_planned(&self, jobs: usize, also: impl Fn(&Value) -> bool) -> anyhow::Result<(Value, f64)> {
        let start = clock::now();
        loop {
            let said = self.paths();
            let done = said.as_ref().is_some_and(|paths| {
                let nodes = paths["nodes"].as_array().map_or(&[][..], Vec::as_slice);
                let follow =
                    |node: &Value| node["follows"] == true && node["settled"] == true && node["missing"] == 0;
                paths["flows"].as_array().is_some_and(|flows| flows.len() == jobs * self.trial.ranks)
                    && nodes.iter().all(follow)
                    && also(paths)
            });
            match said.filter(|_| done) {
                Some(paths) => return Ok((paths, start.elapsed().as_secs_f64())),
                None => {
                    let late = start.elapsed() > LIMIT;
                    ensure!(!late, "paths of {jobs} jobs are not planned and known: {}", self.logs());
                    thread::sleep(LOOK_AGAIN);
                }
            }
        }
    }

    /// Waits until jobs have done a few iterations.
    fn wait_running(&self, jobs: Range<usize>, phase: &str) -> anyhow::Result<()> {
        self.wait_iterations(jobs, phase, 3)
    }

    /// Waits until jobs have done so many iterations.
    fn wait_iterations(&self, jobs: Range<usize>, phase: &str, count: u64) -> anyhow::Result<()> {
        let start = clock::now();
        let at = |job: usize| self.faults(job, phase).read_iteration(0);
        while !jobs.clone().all(|job| at(job).is_some_and(|(iteration, _)| iteration >= count)) {
            ensure!(start.elapsed() < LIMIT, "the jobs do not come up: {}", self.logs());
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
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
        self.iterations_of(0..self.trial.jobs, phase)
    }

    /// The time of an iteration of each of some jobs.
    fn iterations_of(&self, jobs: Range<usize>, phase: &str) -> anyhow::Result<Vec<f64>> {
        let at = |job: usize| self.faults(job, phase).read_iteration(0);
        // A connection that begins sends too much at first, and takes some iterations to get over what that loses.
        self.wait_iterations(jobs.clone(), phase, SETTLED)?;
        let before: Vec<_> = jobs.clone().map(at).collect();
        thread::sleep(self.trial.measure);
        // On a link that loses packets an iteration may take longer than that.
        let start = clock::now();
        let stands = |(job, before): (usize, &Option<(u64, u64)>)| {
            let iteration = |at: &Option<(u64, u64)>| at.map(|(iteration, _)| iteration);
            iteration(&at(job)) <= iteration(before)
        };
        while start.elapsed() < LIMIT && before.iter().enumerate().any(stands) {
            thread::sleep(LOOK_AGAIN);
        }
        let pairs = before.into_iter().zip(jobs.map(at));
        let times = pairs.map(|(before, after)| {
            let ((first, from), (last, to)) = before.zip(after).context("a job has ended")?;
            ensure!(last > first, "a job stands still: {}", self.logs());
            Ok((to - from) as f64 * 1e-6 / (last - first) as f64)
        });
        times.collect()
    }
}

/// Lets jobs run hashed, all at once, then planned by a controller, one after the other.
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
    let mut scene = Scene { trial, fabric, programs: Programs::built()?, dir: dir.path(), shim, places };

    let running: Vec<Running> =
        (0..trial.jobs).map(|job| scene.job(job, "hashed", None)).collect::<Result<_, _>>()?;
    let hashed = scene.iterations("hashed")?;
    drop(running);

    if trial.silent {
        scene.fabric.hush(0)?;
    }
    if trial.learned {
        scene.fabric.sign_by_links()?;
    }
    let file = steering::topology_yaml(&scene.fabric);
    if trial.wrong_file {
        scene.fabric.set_link(0, 0, false)?;
    }
    let _control = scene.control(&file)?;
    let learned = if trial.learned { Some(scene.wait_learned()?) } else { None };
    let (mut seconds, mut alone) = (0.0f64, 0.0);
    let mut running = Vec::new();
    let mut plan = Value::Null;
    for job in 0..trial.jobs {
        // Its connections are made before anybody knows of it: planned ones come with its next start.
        let unplanned = scene.job(job, "unplanned", Some(0))?;
        scene.wait_running(job..job + 1, "unplanned")?;
        let (paths, took) = scene.wait_planned(job + 1, |_| true)?;
        seconds = seconds.max(took);
        plan = paths;
        drop(unplanned);
        running.push(scene.job(job, "planned", Some(1))?);
        scene.wait_running(job..job + 1, "planned")?;
        if job == 0 {
            alone = scene.iterations_of(0..1, "planned")?[0];
        }
    }
    let planned = scene.iterations("planned")?;
    let lossy = match trial.lose {
        Some(one_in) => {
            let (lossy, now) = scene.lose(&plan, running, one_in, alone)?;
            running = now;
            plan = scene.wait_planned(trial.jobs, |_| true)?.0;
            Some(lossy)
        }
        None => None,
    };
    let cut = if trial.cut { Some(scene.cut(&plan, running, alone)?) } else { None };

    // What is only in the file shows by and by, where connections do not miss it.
    let is_told = |paths: &Value| paths["mistakes"].as_array().is_some_and(|told| !told.is_empty());
    let said = match trial.wrong_file {
        true => scene.wait_planned(trial.jobs, is_told)?.0,
        false => scene.paths().context("the controller does not answer")?,
    };
    let mistakes = said["mistakes"].as_array().into_iter().flatten();
    let mistakes = mistakes.filter_map(|line| line.as_str().map(str::to_owned)).collect();
    let accused = scene.wait_faults(|_| true)?.len();
    Ok(JobsOutcome {
        seed: trial.seed,
        hashed_slowest: slowest(&hashed),
        planned_slowest: slowest(&planned),
        hashed,
        planned,
        wire: trial.wire(),
        alone,
        ideal: ideal(alone, 1.0),
        seconds,
        moves: plan["moves"].as_u64().unwrap_or(0),
        mistakes,
        accused,
        cut,
        lossy,
        learned,
    })
}
