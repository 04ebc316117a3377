//! Starts everything in the right order, and ends it in the right order.
//!
//! What can fail fails before anything runs: addresses, the recording, the HTTP clients. On the way out the listeners
//! and streams end first, then the brain (so that it takes in what had arrived), then the receivers of alerts (so
//! that they tell what it still said), then the recording.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    alerts::{
        driver::{Receiver, ReceiverError},
        service::AlertingService,
    },
    api::{OperationsService, steering::SteeringService},
    brain::{
        Brain, Known,
        desk::Desk,
        driver::{self, Driver},
    },
    clock::Clock,
    config::Config,
    events::EventLog,
    findings::Findings,
    front::{Front, FrontError, Services},
    groups::Groups,
    http::{self, Pages},
    ingest::{TelemetryService, streams::Streams},
    ledger::Ledger,
    metrics::Metrics,
    page::{self, Page},
    paths::{self, Paths, keep::Kept},
    record::{RecordError, Recorder},
    snapshot::Snapshot,
    steer::{
        journal::{LoadError, Loaded},
        kubernetes::{self, KubernetesActuator},
        local::LocalActuator,
        router::Router,
        slurm::SlurmActuator,
        watch as node_watch,
    },
    store::{
        MemoryStore, Store, StoreError,
        crash::{CrashPoint, CrashingStore},
        file::FileStore,
        schema,
        writer::Writer,
    },
};

/// The store's file in the state directory.
const STORE_FILE: &str = "controller.redb";

/// Why the controller could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener, or what protects it.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The recording.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The topology that paths are planned on.
    #[error("paths.topology: {}", .0.join("; "))]
    Topology(Vec<String>),
    /// A receiver of alerts.
    #[error(transparent)]
    Alerts(#[from] ReceiverError),
    /// The store.
    #[error("state: {0}")]
    Store(#[source] StoreError),
    /// What is in it.
    #[error("state: {0}")]
    Load(#[from] LoadError),
    /// There is no thread for it.
    #[error("state: {0}")]
    Thread(#[source] std::io::Error),
    /// The way to Kubernetes.
    #[error("steer.kubernetes: {0}")]
    Kubernetes(#[from] kubernetes::ConnectError),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A controller that runs.
pub struct Running {
    /// Where agents and operators connect.
    pub grpc: SocketAddr,
    /// Where the pages are.
    pub http: SocketAddr,
    /// What tells whether it does its work.
    pub pages: Pages,
    drain: Duration,
    front: CancellationToken,
    back: CancellationToken,
    alerts: CancellationToken,
    front_tasks: TaskTracker,
    alert_tasks: TaskTracker,
    brain: JoinHandle<Option<Recorder>>,
}

/// Starts a controller.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let clock = Clock::anchored();
    let (snapshot, see) = watch::channel(Arc::new(Snapshot::empty(config.steer.mode, clock.now())));
    let mut metrics = Metrics::new()?;
    metrics.show(see.clone())?;
    let metrics = Arc::new(metrics);
    let events = EventLog::default();
    let faced = Front::bind(&config, clock, metrics.clone()).await?;
    let (grpc, http) = (faced.grpc, faced.http);
    let recorder = config.record.as_deref().map(Recorder::open).transpose()?;
    let (front, back, alerts) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (front_tasks, alert_tasks) = (TaskTracker::new(), TaskTracker::new());

    let mut receivers = Vec::new();
    for (index, alert) in config.alerts.iter().enumerate() {
        receivers.push(Receiver::new(index, alert.clone(), clock, metrics.clone(), events.clone())?);
    }
    let mut handles = Vec::new();
    for (receiver, handle) in receivers {
        alert_tasks.spawn(receiver.run(alerts.clone()));
        handles.push(handle);
    }

    let store = open_store(&config).map_err(StartError::Store)?;
    let known = Known {
        steer: Loaded::read(&*store)?,
        ledger: Ledger::load(&*store).map_err(StartError::Store)?,
        findings: Findings::load(&*store).map_err(StartError::Store)?,
    };
    let kept = Kept::load(&*store).map_err(StartError::Store)?;
    let writer = Writer::new(store).map_err(StartError::Thread)?;
    let streams = Streams::new(config.ingest.max_streams, metrics.clone());
    let (inputs, taken) = mpsc::channel(driver::DEPTH);
    let now = clock.now();
    let heartbeat = Arc::new(AtomicU64::new(now.0));
    let topology =
        config.paths.topology.as_deref().map(paths::load).transpose().map_err(StartError::Topology)?;
    let paths = topology.map(|topology| Paths::new(&config.paths, topology, kept, now));
    let brain = Brain::new(config.clone(), known, metrics.clone(), now);
    let brain = brain.with_paths(paths);
    let (groups, see_groups) = watch::channel(Arc::new(Groups::default()));
    let desk = Desk::new(inputs.clone());
    let local = LocalActuator::new(see_groups, streams.clone());
    let slurm = config.steer.slurm.clone().map(|slurm| Arc::new(SlurmActuator::new(slurm)));
    let kubernetes = match config.steer.kubernetes.clone() {
        Some(settings) => Some(Arc::new(KubernetesActuator::connect(settings).await?)),
        None => None,
    };
    let driver = Driver {
        brain,
        clock,
        inputs: taken,
        answers: inputs.clone(),
        streams: streams.clone(),
        store: writer,
        desk: desk.clone(),
        actuator: Arc::new(Router::new(&config.steer, local, slurm.clone(), kubernetes.clone())),
        groups,
        snapshot,
        events: events.clone(),
        notices: handles.iter().map(|handle| handle.notices.clone()).collect(),
        recorder,
        metrics: metrics.clone(),
        heartbeat: heartbeat.clone(),
        tasks: TaskTracker::new(),
    };
    let brain = tokio::spawn(driver.run(back.clone()));

    let page = Page::new(
        see.clone(),
        events.clone(),
        clock,
        inputs.clone(),
        desk.clone(),
        front_tasks.clone(),
        front.clone(),
    );
    let pages = Pages { metrics, heartbeat, clock };
    if let (Some(slurm), Some(settings)) = (slurm, &config.steer.slurm) {
        let every = Duration::from_secs_f64(settings.poll_seconds);
        front_tasks.spawn(node_watch::watch_slurm(slurm, every, inputs.clone(), front.clone()));
    }
    if let Some(kubernetes) = kubernetes {
        front_tasks.spawn(kubernetes::watch::watch(kubernetes, inputs.clone(), front.clone()));
    }
    let services = Services {
        telemetry: TelemetryService::new(
            inputs,
            streams,
            config.access.messages_per_second,
            front_tasks.clone(),
            front.clone(),
        ),
        steering: SteeringService::new(see.clone(), desk, clock),
        operations: OperationsService::new(see, events, clock, front_tasks.clone(), front.clone()),
        alerting: AlertingService::new(handles),
        pages: http::router(pages.clone()).merge(page::router(page.clone())),
        pictures: page,
    };
    faced.serve(services, &front_tasks, &front);
    Ok(Running {
        grpc,
        http,
        pages,
        drain: Duration::from_secs_f64(config.drain_seconds),
        front,
        back,
        alerts,
        front_tasks,
        alert_tasks,
        brain,
    })
}

impl Running {
    /// Ends when the brain does, which it should not.
    pub async fn broken(&mut self) -> String {
        match (&mut self.brain).await {
            Ok(_) => "the brain ended".into(),
            Err(error) => format!("the brain ended: {error}"),
        }
    }

    /// Ends everything; each stage gets a third of the drain time. Returns whether all ended by themselves.
    pub async fn drain(self) -> bool {
        let stage = self.drain / 3;
        self.front.cancel();
        self.front_tasks.close();
        let mut clean = timeout(stage, self.front_tasks.wait()).await.is_ok();
        self.back.cancel();
        let recorder = match timeout(stage, self.brain).await {
            Ok(Ok(recorder)) => recorder,
            _ => {
                clean = false;
                None
            }
        };
        self.alerts.cancel();
        self.alert_tasks.close();
        clean &= timeout(stage, self.alert_tasks.wait()).await.is_ok();
        if let Some(recorder) = recorder {
            // Writing what is left cannot be cut short without cutting a line.
            clean &= tokio::task::spawn_blocking(move || recorder.close()).await.is_ok();
        }
        clean
    }
}

/// The store of a configuration. A directory that cannot be used is an error: to go on without would be to forget what was
/// done, and to do it again.
fn open_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let plan = config.paths.state.as_deref();
    if plan.is_some() {
        tracing::warn!("paths.state is not used any more: plans are kept with everything else in `state`");
    }
    let Some(directory) = &config.state else {
        tracing::warn!("state: no directory is configured: what was done and decided ends with this process");
        let store = MemoryStore::default();
        schema::bring_up(&store, "memory", plan)?;
        return Ok(Arc::new(store));
    };
    let path = directory.join(STORE_FILE);
    let store: Arc<dyn Store> = Arc::new(FileStore::open(&path)?);
    schema::bring_up(&*store, &path.display().to_string(), plan)?;
    Ok(match CrashPoint::from_environment() {
        Some(point) => Arc::new(CrashingStore::new(store, point)),
        None => store,
    })
}
