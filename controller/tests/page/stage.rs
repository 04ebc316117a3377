//! The page as the controller serves it, over jobs that a real detector has seen in simulated or recorded time.

use std::{collections::BTreeMap, io::Read, net::SocketAddr, path::Path, sync::Arc};

use axum::{Extension, middleware::from_fn_with_state};
use c4_controller::{
    access::{Anonymous, Gate, grpc::GateLayer, web},
    brain::desk::Desk,
    clock::Clock,
    config::{Access, Mode},
    events::{Event, EventLog},
    findings::Record,
    ledger::{Parts, Summary},
    metrics::Metrics,
    nodes::Node,
    page::{self, Page},
    paths::view::PathsView,
    snapshot::{JobState, NodeState, Snapshot},
};
use c4_detect::{
    config::Config,
    detector::Detector,
    finding::{Finding, FindingId, Verdict},
    observation::{HealthEvent, JobId, Observation, Timestamp},
    scene::Scene,
};
use c4_tls::Peer;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long after a finding a job is looked at.
const AFTER_US: u64 = 3_000_000;

/// What a detector made of what it was told.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) jobs: BTreeMap<JobId, JobState>,
    pub(crate) findings: BTreeMap<FindingId, Record>,
    pub(crate) live: BTreeMap<JobId, Arc<Scene>>,
    pub(crate) kept: BTreeMap<FindingId, Arc<Scene>>,
    paths: Option<Arc<PathsView>>,
    nodes: Vec<NodeState>,
}

#[derive(Deserialize)]
struct Line {
    now: Timestamp,
    observation: Observation,
}

impl Seen {
    /// What is seen at the end of some observations, of which `name` becomes the job's name.
    pub(crate) fn of(name: &str, observations: impl IntoIterator<Item = (Timestamp, Observation)>) -> Self {
        let mut detector = Detector::new(Config::default());
        let mut seen = Self::default();
        let (mut last, mut found) = (Timestamp(0), None);
        for (now, mut observation) in observations {
            if found.is_some_and(|found: Timestamp| now.micros_since(found) > AFTER_US) {
                break;
            }
            if let Observation::ProcessStarted(info) = &mut observation {
                info.job = JobId(name.to_owned());
            }
            last = now;
            for finding in detector.observe(observation, now) {
                if finding.cleared.is_none()
                    && let Some(scene) = detector.scene(&finding.job)
                {
                    seen.kept.insert(finding.id.clone(), Arc::new(scene));
                }
                found.get_or_insert(now);
                seen.take(finding);
            }
        }
        for view in detector.jobs() {
            seen.live.extend(detector.scene(&view.job).map(|scene| (view.job.clone(), Arc::new(scene))));
            let open = seen.findings.values().filter(|record| record.finding.cleared.is_none()).count();
            let state = match &view.verdict {
                _ if open > 0 => "faulty",
                Verdict::Healthy => "healthy",
                Verdict::Learning => "learning",
                Verdict::Unknown { .. } => "unknown",
                Verdict::Ended => "ended",
                Verdict::Faulty => "faulty",
            };
            let missing = match &view.verdict {
                Verdict::Unknown { missing } => missing.clone(),
                _ => Vec::new(),
            };
            let mut ranks: BTreeMap<_, u32> = BTreeMap::new();
            for rank in &view.ranks {
                *ranks.entry(rank.node.clone()).or_default() += 1;
            }
            seen.nodes.extend(ranks.into_iter().map(|(name, ranks)| NodeState {
                name,
                ranks,
                node: Node {
                    agent_version: "test".into(),
                    sensors: Vec::new(),
                    last_seen: last,
                    streams: 1,
                    lost: false,
                    spool_dropped: 0,
                    behind: 0,
                    told: Default::default(),
                },
            }));
            let job = JobState {
                state,
                missing,
                open_findings: open as u32,
                restarts: 0,
                outages: Vec::new(),
                downtime: Parts::default(),
                account: Summary::default(),
                view,
            };
            seen.jobs.insert(job.view.job.clone(), job);
        }
        seen
    }

    /// A recorded run without any fault, in the middle of it.
    pub(crate) fn healthy(name: &str) -> Self {
        let lines = lines("nccl-healthy");
        let middle = lines.len() * 3 / 4;
        Self::of(name, lines.into_iter().take(middle))
    }

    /// A recorded run, shortly after something was found; `name` becomes the job's name.
    pub(crate) fn recorded(case: &str, name: &str) -> Self {
        Self::of(name, lines(case))
    }

    /// The same, in which sensors spoke while it ran well.
    pub(crate) fn recorded_with(case: &str, name: &str, health: HealthEvent) -> Self {
        let mut lines = lines(case);
        let middle = lines.len() / 4;
        let at = lines[middle].0;
        lines.insert(middle, (at, Observation::Health(health)));
        Self::of(name, lines)
    }

    fn take(&mut self, finding: Finding) {
        let actions = vec![format!("would restart job {} from checkpoint 120 (mode observe)", finding.job.0)];
        self.findings.insert(finding.id.clone(), Record { finding, actions, shown: true });
    }

    pub(crate) fn and(mut self, other: Seen) -> Self {
        self.jobs.extend(other.jobs);
        self.findings.extend(other.findings);
        self.live.extend(other.live);
        self.kept.extend(other.kept);
        self.nodes.extend(other.nodes);
        self
    }

    /// With paths that are planned.
    pub(crate) fn on(mut self, paths: Arc<PathsView>) -> Self {
        self.paths = Some(paths);
        self
    }

    /// The first finding that is open.
    pub(crate) fn open_finding(&self) -> &Finding {
        let open = self.findings.values().map(|record| &record.finding).find(|f| f.cleared.is_none());
        open.expect("an open finding")
    }

    fn snapshot(self, started: Timestamp) -> Snapshot {
        Snapshot {
            nodes: Arc::new(self.nodes),
            jobs: Arc::new(self.jobs),
            findings: self.findings,
            live: Arc::new(self.live),
            kept: self.kept,
            paths: self.paths,
            ..Snapshot::empty(Mode::Observe, started)
        }
    }
}

/// What the detector was told in a recorded run.
fn lines(case: &str) -> Vec<(Timestamp, Observation)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("detect/tests/recordings").join(case);
    let mut text = String::new();
    match std::fs::File::open(dir.join("input.jsonl.gz")) {
        Ok(file) => flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text),
        Err(_) => std::fs::File::open(dir.join("input.jsonl")).expect(case).read_to_string(&mut text),
    }
    .expect("a recording");
    let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).expect("a line"));
    lines.map(|line| (line.now, line.observation)).collect()
}

/// A controller as far as the page sees it.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    show: watch::Sender<Arc<Snapshot>>,
    started: Timestamp,
    cancel: CancellationToken,
    server: JoinHandle<()>,
    _looks: mpsc::Receiver<c4_controller::brain::Input>,
}

impl Stage {
    pub(crate) async fn start(seen: Seen) -> Self {
        let clock = Clock::anchored();
        let started = clock.now();
        let (show, see) = watch::channel(Arc::new(seen.snapshot(started)));
        let (inputs, looks) = mpsc::channel(16);
        let (cancel, events) = (CancellationToken::new(), EventLog::default());
        for (job, text) in
            [("", "n0 is in sight (agent test)"), ("llm", "every process of incarnation 0 has stopped")]
        {
            events.push(Event { at: started, kind: "job", job: job.into(), text: text.into() });
        }
        let desk = Desk::new(inputs.clone());
        let page = Page::new(see, events, clock, inputs, desk, TaskTracker::new(), cancel.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        // As on a machine where nobody has to sign in.
        let gate = Gate::new(&Access::default(), Anonymous::Admin, watch::channel(Arc::default()).1, None);
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let gate = GateLayer { gate: Arc::new(gate), clock, metrics };
        let peer = Peer { address, names: Arc::default(), encrypted: false };
        let router = page::router(page).layer(from_fn_with_state(gate, web::gate)).layer(Extension(peer));
        let stop = cancel.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(stop).await.expect("serves");
        });
        Self { address, show, started, cancel, server, _looks: looks }
    }

    pub(crate) fn url(&self, fragment: &str) -> String {
        format!("http://{}/{fragment}", self.address)
    }

    /// Something else is to be seen from now on.
    pub(crate) fn show(&self, seen: Seen) {
        self.show.send_replace(Arc::new(seen.snapshot(self.started)));
    }

    /// The controller dies.
    pub(crate) async fn die(self) {
        self.cancel.cancel();
        self.server.abort();
        let _ = self.server.await;
    }
}
