//! Jobs of simulated ranks. Each rank is on a node of its own, whose agent speaks through the real agent's stream.
//!
//! A rank's life is one task: once a second it tells of a window. What happens to one rank, all of its job see.

use std::time::Duration;

use c4_agent::{
    config::Config,
    metrics::Metrics,
    report::{Captured, ProcessStart, Report},
    stream::{SpoolLimits, Stream, StreamSettings, Tcp},
};
use c4_detect::observation::{
    CommId, CommWindow, InFlight, Membership, OperationSignature, ProcessEnd, ProcessId, ProcessState, Window,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::truth::Fault;

/// Ranks of a job.
pub(crate) const RANKS: u32 = 4;
/// Collectives in a second.
const PACE: u64 = 10;
const SECOND_US: u64 = 1_000_000;
/// A job, as its ranks see it.
#[derive(Clone, Copy, Debug)]
struct State {
    began: Instant,
    /// When something happened to which rank, and whether it is dead of it.
    hurt: Option<(Instant, u32, Fault)>,
}

/// See the module. It lasts as long as its runtime.
pub(crate) struct Fleet {
    jobs: Vec<watch::Sender<State>>,
}

/// Name of a job.
pub(crate) fn name(job: u32) -> String {
    format!("soak-{job}")
}

impl Fleet {
    /// Starts all agents, which know these controllers: jobs take turns among the lists.
    pub(crate) fn start(jobs: u32, controllers: &[String]) -> anyhow::Result<Self> {
        let mut states = Vec::new();
        for job in 0..jobs {
            let state = watch::Sender::new(State { began: Instant::now(), hurt: None });
            for rank in 0..RANKS {
                agent(job, rank, &controllers[job as usize % controllers.len()], state.subscribe())?;
            }
            states.push(state);
        }
        Ok(Self { jobs: states })
    }

    /// Something happens to a rank.
    pub(crate) fn hurt(&self, job: u32, rank: u32, fault: Fault) {
        if let Some(job) = self.jobs.get(job as usize) {
            job.send_modify(|state| state.hurt = Some((Instant::now(), rank, fault)));
        }
    }
}

fn agent(job: u32, rank: u32, controllers: &str, state: watch::Receiver<State>) -> anyhow::Result<()> {
    let node = format!("soak-{job}-{rank}");
    let limit = Duration::from_secs(5);
    let settings = StreamSettings {
        node: node.clone(),
        session_id: format!("{node}-session"),
        token_file: None,
        nic_class: None,
        limits: SpoolLimits { messages: 10_000, bytes: 4 << 20 },
        backoff: Config::default().reconnect,
        connect_timeout: limit,
        drain: Duration::from_secs(1),
    };
    let (_, sensors) = watch::channel(Vec::new());
    let (commands, _) = mpsc::channel(1);
    let (wishes, _) = mpsc::channel(1);
    let (reports, taken) = mpsc::channel(1024);
    let dial = Tcp::new(controllers, None, limit)?;
    let stream = Stream::new(dial, settings, sensors, commands, wishes, Metrics::new(&node)?);
    tokio::spawn(stream.run(taken, CancellationToken::new()));
    tokio::spawn(live(job, rank, state, reports));
    Ok(())
}

/// The life of a rank, as an agent tells of it.
async fn live(job: u32, rank: u32, state: watch::Receiver<State>, reports: mpsc::Sender<Captured>) {
    let process = ProcessId(u64::from(job * RANKS + rank) + 1);
    let comm = CommId(u64::from(job) + 1_000_000);
    let start = ProcessStart {
        process,
        job: name(job),
        incarnation: 0,
        rank: Some(rank),
        local_rank: Some(0),
        world_size: Some(RANKS),
        gpu: Some(0),
        pid: 1,
        uid: None,
        found_ended: false,
        nccl_version: String::new(),
        profiler_api: 5,
        blind_spots: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        nics: Vec::new(),
    };
    let membership = Membership { process, comm, name: "dp".to_owned(), size: RANKS, comm_rank: rank };
    let mut say =
        vec![Report::ProcessStarted(start), Report::CommunicatorJoined { membership, nodes: RANKS }];
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let state = *state.borrow();
        let ended = state.hurt.is_some_and(|(_, hurt, fault)| hurt == rank && fault == Fault::Death);
        if ended {
            let (finalized, exit_code, signal) = (false, None, Some(9));
            say.push(Report::ProcessEnded(ProcessEnd {
                found: false,
                process,
                ago_us: 0,
                finalized,
                exit_code,
                signal,
            }));
        } else {
            say.push(Report::Windows(vec![window(process, comm, &state.progress(rank))]));
        }
        for report in say.drain(..) {
            if reports.send(Captured::now(report)).await.is_err() {
                return;
            }
        }
        if ended {
            // The node's agent lives on.
            return std::future::pending().await;
        }
    }
}

/// How far a rank is.
#[derive(Debug)]
pub struct Progress {
    /// Collectives that it has completed.
    pub completed: u64,
    /// How long it has waited in the next collective for the others.
    pub waits_us: u64,
    /// How long it has done nothing.
    pub idle_us: u64,
}

impl State {
    /// What a rank of the job sees now. A collective is over for all ranks at the same time.
    fn progress(&self, rank: u32) -> Progress {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let until = self.hurt.map_or_else(Instant::now, |(when, _, _)| when);
        let completed = us(until - self.began) * PACE / SECOND_US;
        let stuck_us = us(until.elapsed());
        match self.hurt {
            None => Progress { completed, waits_us: 0, idle_us: 0 },
            Some((_, hurt, _)) if hurt == rank => Progress { completed, waits_us: 0, idle_us: stuck_us },
            Some(_) => Progress { completed, waits_us: stuck_us, idle_us: 0 },
        }
    }
}

/// What it tells of a second on its only communicator.
#[must_use]
pub fn window(process: ProcessId, comm: CommId, progress: &Progress) -> Window {
    let Progress { completed, waits_us, idle_us } = *progress;
    let signature = OperationSignature {
        function: "AllReduce".into(),
        count: 1024,
        datatype: "ncclFloat32".into(),
        root: 0,
    };
    let in_flight = (waits_us > 0).then_some(InFlight {
        sequence: completed,
        signature,
        started: true,
        age_us: waits_us,
        started_age_us: waits_us,
        before: None,
    });
    let begun = completed + u64::from(waits_us > 0);
    let comm = CommWindow {
        comm,
        enqueued: begun,
        started: begun,
        completed,
        in_flight,
        idle_us,
        unseen_us: 0,
        blocks: Vec::new(),
        edges: Vec::new(),
        iterations: Vec::new(),
        pending_peers: Vec::new(),
        links: Vec::new(),
    };
    Window {
        process,
        duration_us: SECOND_US,
        state: ProcessState::Running,
        kernel_events: true,
        profiling: true,
        dropped: 0,
        unread: 0,
        own: None,
        comms: vec![comm],
    }
}
