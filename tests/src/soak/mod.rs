//! Chaos: simulated ranks whose agents speak through the real agent's stream, real agents with real jobs, three controllers as
//! they ship, a real etcd. All of them, and the networks between them, are broken at random, ranks die and hang at random,
//! and a model knows which. At the end each fault of a rank must have been told once, and nothing else; no program may have
//! ended by itself; and memory and descriptors are shown.
//!
//! The disk of the store in a file is not among it (see the controller's tests): several controllers have none.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant as Began},
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::time::{Instant, sleep};

pub(crate) mod fleet;
mod memory;
mod nodes;
mod site;
pub(crate) mod truth;
mod wounds;

pub use fleet::{Progress, window};
pub use memory::Course;
pub use truth::{Count, Verdict};
pub use wounds::Wound;

use crate::{cluster::Programs, ringjob::clock};
use fleet::Fleet;
use memory::Memory;
use nodes::{AGENTS, Nodes};
use site::Site;
use truth::{Fault, Truth};
use wounds::Open;

/// Longest time until all is told after the last fault.
const SETTLE: Duration = Duration::from_secs(120);
/// Longest time for a leader to say at the end what was found: a soak is not to be in vain since a machine has too much to do.
const TOLD: Duration = Duration::from_secs(600);
/// What is false may come a little later than what is true.
const AFTERTHOUGHT: Duration = Duration::from_secs(3);
/// Shortest and longest pause between two faults of C4's own parts, in milliseconds; and in a hurry.
const PAUSE_MS: [std::ops::Range<u64>; 2] = [1_000..5_000, 200..800];
/// Processes are looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// Breaks C4 at random for a while, and counts what it told of.
#[derive(Clone, Debug, Parser)]
#[command(name = "c4-soak", version)]
pub struct Args {
    /// Seconds in which things break; it takes longer if not everything to choose from has been broken once.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Seconds after that in which no controller is killed, so that it shows whether controllers that live for long grow.
    #[arg(long, default_value_t = 0)]
    pub standing: u64,
    /// Break things for a second or two and leave little time between them, so that all are broken within a minute.
    #[arg(long)]
    pub hurry: bool,
    /// Jobs of four simulated ranks, each rank on a node of its own.
    #[arg(long, default_value_t = 50)]
    pub jobs: u32,
    /// Faults of C4's own parts to choose from. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Wound>,
    /// Whether ranks of real jobs are killed, too, or only stopped. Which of several dead was first is told by moments: that is
    /// not to be asked for on a machine that is overloaded.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub kill_real: bool,
    /// Seed of everything that is random, but for the scheduling of processes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Time from one fault of a simulated rank to the next.
    fn between_faults(&self) -> Duration {
        Duration::from_secs(self.seconds + self.standing).mul_f64(1.4 / f64::from(self.jobs.max(1)))
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Faults of ranks, and how they were told.
    pub verdict: Verdict,
    /// Faults of C4's own parts, by kind.
    pub wounds: BTreeMap<Wound, u32>,
    /// Programs that ended by themselves.
    pub ended: Vec<String>,
    /// Term of the last leader.
    pub last_term: u64,
    /// Memory and descriptors of processes.
    pub courses: Vec<Course>,
}

impl Report {
    /// Whether everything was told once, and nothing else, and nothing ended.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.verdict.passes() && self.ended.is_empty()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.verdict.table();
        let _ = writeln!(text, "\n{:<24} {:>9}", "fault of C4's own parts", "times");
        for (wound, times) in &self.wounds {
            let name =
                wound.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            let _ = writeln!(text, "{name:<24} {times:>9}");
        }
        let _ = writeln!(text, "\nprograms that ended by themselves: {}", self.ended.len());
        for ended in &self.ended {
            let _ = writeln!(text, "{ended}");
        }
        let _ = writeln!(text, "last term {}\n", self.last_term);
        text + &memory::table(&self.courses)
    }
}

/// Everything that runs.
struct Soak {
    site: Site,
    fleet: Fleet,
    nodes: Nodes,
    truth: Truth,
    memory: Memory,
    report: Report,
    began: Began,
    next_look: Instant,
    rng: ChaCha8Rng,
    /// Jobs of which no rank was hurt.
    whole: Vec<u32>,
    next_fault: Instant,
}

/// Runs it.
///
/// # Errors
/// A program is missing or does not come up, or nobody leads at the end.
pub async fn run(args: &Args) -> anyhow::Result<Report> {
    let programs = Programs::built()?;
    let site = Site::start(programs.clone()).await?;
    let fleet = Fleet::start(args.jobs, &site.addresses())?;
    let nodes = Nodes::start(programs, &site.addresses()[1], args.kill_real)?;
    let mut soak = Soak {
        site,
        fleet,
        nodes,
        truth: Truth::default(),
        memory: Memory::default(),
        report: Report::default(),
        began: clock::now(),
        next_look: Instant::now(),
        rng: ChaCha8Rng::seed_from_u64(args.seed),
        whole: (0..args.jobs).collect(),
        next_fault: Instant::now() + args.between_faults(),
    };
    let agents = usize::try_from(args.jobs * fleet::RANKS)? + AGENTS;
    soak.site.sees(agents).await?;
    let choice = if args.only.is_empty() { Wound::value_variants() } else { &args.only };
    let gentle: Vec<Wound> = choice.iter().copied().filter(|wound| !wound.ends_controllers()).collect();
    let mut broken = soak.break_things(args, args.seconds, choice).await;
    if broken.is_ok() && args.standing > 0 {
        broken = soak.break_things(args, args.standing, &gentle).await;
    }
    if broken.is_ok() {
        broken = soak.site.sees(agents).await;
    }
    if let Err(error) = broken {
        // What was told until then is worth knowing, and so is why it ends here.
        let report = soak.finish().await.map_or_else(|why| format!("{why:#}"), |report| report.text());
        return Err(error.context(format!("it ended early:\n{report}")));
    }
    soak.settle().await?;
    soak.finish().await
}

impl Soak {
    /// Breaks things of a choice for so many seconds, or until each was broken once.
    async fn break_things(&mut self, args: &Args, seconds: u64, choice: &[Wound]) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut next_wound = Instant::now();
        let mut open: Option<Open> = None;
        // Each kind once before any comes again.
        let mut left: Vec<Wound> = choice.to_vec();
        let unbroken = |report: &Report| choice.iter().any(|wound| !report.wounds.contains_key(wound));
        while Instant::now() < end || unbroken(&self.report) {
            self.hurt_a_rank(args);
            if let Some(over) = open.take_if(|open| open.is_over()) {
                over.mend(&mut self.site, &mut self.nodes).await?;
                let pause = PAUSE_MS[usize::from(args.hurry)].clone();
                next_wound = Instant::now() + Duration::from_millis(self.rng.random_range(pause));
            }
            if open.is_none() && Instant::now() >= next_wound && !choice.is_empty() {
                if left.is_empty() {
                    left = choice.to_vec();
                }
                let wound = left.swap_remove(self.rng.random_range(0..left.len()));
                let (site, rng) = (&mut self.site, &mut self.rng);
                open = Some(Open::inflict(wound, site, &self.nodes, args.hurry, rng).await?);
                *self.report.wounds.entry(wound).or_default() += 1;
            }
            self.look()?;
            sleep(Duration::from_millis(50)).await;
        }
        match open {
            Some(open) => open.mend(&mut self.site, &mut self.nodes).await,
            None => Ok(()),
        }
    }

    /// Something happens to a simulated rank, when it is time for that. Half of the jobs stay whole: of them, nothing may be told.
    fn hurt_a_rank(&mut self, args: &Args) {
        if Instant::now() < self.next_fault || self.whole.len() <= args.jobs as usize / 2 {
            return;
        }
        let rng = &mut self.rng;
        let job = self.whole.swap_remove(rng.random_range(0..self.whole.len()));
        let (rank, fault) = (rng.random_range(0..fleet::RANKS), pick(rng, &[Fault::Death, Fault::Hang]));
        self.fleet.hurt(job, rank, fault);
        self.truth.add(fleet::name(job), rank, fault);
        self.next_fault += args.between_faults();
    }

    /// What is done once in a while: real jobs go on, processes are looked at.
    fn look(&mut self) -> anyhow::Result<()> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + LOOK;
        if let Some((job, rank, fault)) = self.nodes.step(self.rng.random())? {
            self.truth.add(job, rank, fault);
        }
        self.site.look()?;
        self.look_at_processes();
        Ok(())
    }

    fn look_at_processes(&mut self) {
        let at = clock::now().duration_since(self.began);
        for (index, pid) in self.site.pids() {
            self.memory.look(&format!("controller {index}"), pid, at);
        }
        for agent in &self.nodes.agents {
            self.memory.look(agent.process.name(), agent.process.pid(), at);
        }
    }

    /// Waits until everything is told and written down, or for long enough.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + SETTLE;
        while Instant::now() < until {
            if self.judge().await.is_ok_and(|verdict| verdict.passes()) {
                break;
            }
            self.look_at_processes();
            sleep(Duration::from_secs(1)).await;
        }
        sleep(AFTERTHOUGHT).await;
        Ok(())
    }

    /// What was told, compared with what happened.
    async fn judge(&self) -> anyhow::Result<Verdict> {
        let findings = self.site.findings().await?;
        let outages = |(job, account): (String, String)| -> anyhow::Result<(String, usize)> {
            let account: serde_json::Value = serde_json::from_str(&account).with_context(|| job.clone())?;
            Ok((job, account["outages"].as_array().map_or(0, Vec::len)))
        };
        let ledger =
            self.site.etcd.rows("ledger")?.into_iter().map(outages).collect::<anyhow::Result<_>>()?;
        Ok(self.truth.judge(&findings, &ledger))
    }

    async fn finish(mut self) -> anyhow::Result<Report> {
        self.site.look()?;
        let until = Instant::now() + TOLD;
        self.report.verdict = loop {
            match self.judge().await {
                Ok(verdict) => break verdict,
                // Whoever led may have just lost its lease.
                Err(_) if Instant::now() < until => sleep(Duration::from_secs(1)).await,
                Err(error) => return Err(error),
            }
        };
        self.report.last_term = self.site.status().await.map_or(0, |(_, status)| status.term);
        self.report.ended.append(&mut self.site.ended);
        self.report.courses = self.memory.courses();
        if !self.report.passes() {
            self.keep_logs()?;
        }
        Ok(self.report)
    }

    /// What went wrong is to be looked into: logs outlive the soak.
    fn keep_logs(&self) -> anyhow::Result<()> {
        let kept = tempfile::Builder::new().prefix("c4-soak-logs-").tempdir()?.keep();
        for dir in [self.site.dir(), self.site.etcd.dir(), self.nodes.dir()] {
            for entry in std::fs::read_dir(dir)?.flatten() {
                if entry.path().extension().is_some_and(|end| end == "log") {
                    std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
                }
            }
        }
        eprintln!("logs are kept in {}", kept.display());
        Ok(())
    }
}

/// One of some things, at random.
fn pick<T: Copy>(rng: &mut impl Rng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}
