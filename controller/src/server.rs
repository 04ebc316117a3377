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
    runtime::Handle,
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
    api::{OperationsService, backup::BackupService, steering::SteeringService},
    brain::{
        Brain, Known,
        desk::Desk,
        driver::{self, Debts, Driver},
    },
    clock::Clock,
    config::{Config, TopologySource},
    events::EventLog,
    findings::Findings,
    front::{Doors, Front, FrontError, Services},
    groups::Groups,
    ha::{election::View, etcd::SetupError, fence::Fence, member},
    http::{self, Pages, Standing},
    ingest::{TelemetryService, streams::Streams},
    ledger::Ledger,
    metrics::Metrics,
    page::{self, Page},
    paths::{self, Paths, export::Exporter, keep::Kept},
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
        backup::{self, BackupError},
        crash,
        file::FileStore,
        schema,
        writer::Writer,
    },
};

/// The store's file in the state directory.
const STORE_FILE: &str = "controller.redb";
/// The plan of paths, where an earlier version had a file for it.
const PLAN_FILE: &str = "paths.redb";
/// What a term that was lost has to end.
const DEPOSED: Duration = Duration::from_secs(1);

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
    /// Several controllers.
    #[error("ha: {0}")]
    Ha(#[from] SetupError),
    /// It ended by itself.
    #[error("{0}")]
    Ended(String),
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

/// Why a backup cannot be restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The file, or what is in the store.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Etcd.
    #[error(transparent)]
    Etcd(#[from] SetupError),
    /// There is none to restore to.
    #[error("neither `state` nor `ha` is configured: there is nowhere to restore to")]
    Memory,
    /// A controller runs.
    #[error("{0}: stop all controllers first")]
    Led(String),
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

/// What a controller is among others.
#[derive(Clone, Debug)]
pub struct Term {
    /// Whether it may act.
    pub fence: Fence,
    /// Who else is there.
    pub view: Option<watch::Receiver<View>>,
}

impl Term {
    /// There are no others.
    #[must_use]
    pub fn alone() -> Self {
        Self { fence: Fence::alone(), view: None }
    }
}

/// Starts the only controller.
///
/// # Errors
/// It cannot.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let doors = Doors::bind(&config)?;
    let store = open_store(&config).map_err(StartError::Store)?;
    lead(config, &doors, store, Term::alone()).await
}

/// What the store holds.
fn load(store: &dyn Store) -> Result<(Known, Option<Kept>), StartError> {
    let ledger = Ledger::load(store).map_err(StartError::Store)?;
    let kept = Kept::load(store).map_err(StartError::Store)?;
    let findings = Findings::load(store).map_err(StartError::Store)?;
    Ok((Known { steer: Loaded::read(store)?, ledger, findings }, kept))
}

/// Begins to lead, with what the store holds.
///
/// # Errors
/// It cannot.
pub async fn lead(
    config: Config,
    doors: &Doors,
    store: Arc<dyn Store>,
    term: Term,
) -> Result<Running, StartError> {
    let from = store.clone();
    let loaded = tokio::task::spawn_blocking(move || load(&*from));
    let (known, kept) = loaded.await.map_err(|error| StartError::Thread(error.into()))??;
    let clock = Clock::anchored();
    let (snapshot, see) = watch::channel(Arc::new(Snapshot::empty(config.steer.mode, clock.now())));
    let mut metrics = Metrics::new()?;
    metrics.show(see.clone())?;
    let metrics = Arc::new(metrics);
    let events = EventLog::default();
    let faced = Front::new(&config, doors, clock, metrics.clone())?;
    let (grpc, http) = (doors.grpc, doors.http);
    let recorder = config.record.as_deref().map(Recorder::open).transpose()?;
    let (front, back, alerts) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (front_tasks, alert_tasks) = (TaskTracker::new(), TaskTracker::new());

    let mut receivers = Vec::new();
    for (index, alert) in config.alerts.iter().enumerate() {
        receivers.push(Receiver::new(
            index,
            alert.clone(),
            clock,
            metrics.clone(),
            events.clone(),
            term.fence.clone(),
        )?);
    }
    let mut handles = Vec::new();
    for (receiver, handle) in receivers {
        alert_tasks.spawn(receiver.run(alerts.clone()));
        handles.push(handle);
    }

    let backups = BackupService::new(store.clone(), clock);
    let writer = Writer::new(store).map_err(StartError::Thread)?;
    let streams = Streams::new(config.ingest.max_streams, metrics.clone(), term.fence.clone());
    let (inputs, taken) = mpsc::channel(driver::DEPTH);
    let now = clock.now();
    let heartbeat = Arc::new(AtomicU64::new(now.0));
    let paths = match &config.paths.topology {
        None => None,
        Some(TopologySource::File(path)) => {
            let (topology, written) = paths::load(path).map_err(StartError::Topology)?;
            Some(Paths::new(&config.paths, topology, kept, now).written(written))
        }
        Some(TopologySource::Learned) => {
            let topology = kept.as_ref().and_then(Kept::topology).unwrap_or_default();
            Some(Paths::new(&config.paths, topology, kept, now))
        }
    };
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
        exporter: config.paths.export.clone().map(Exporter::new),
        inputs: taken,
        answers: inputs.clone(),
        streams: streams.clone(),
        store: writer,
        desk: desk.clone(),
        fence: term.fence.clone(),
        actuator: Arc::new(Router::new(&config.steer, local, slurm.clone(), kubernetes.clone())),
        groups,
        snapshot,
        events: events.clone(),
        notices: handles.iter().map(|handle| handle.notices.clone()).collect(),
        recorder,
        metrics: metrics.clone(),
        heartbeat: heartbeat.clone(),
        tasks: TaskTracker::new(),
        debts: Debts::default(),
    };
    // Whoever asks first sees what was known before.
    driver.publish();
    // On a thread of its own: among the tasks of ten thousand streams it would wait for its turn.
    let (runtime, ending) = (Handle::current(), back.clone());
    let brain = tokio::task::spawn_blocking(move || runtime.block_on(driver.run(ending)));

    let page = Page::new(
        see.clone(),
        events.clone(),
        clock,
        inputs.clone(),
        desk.clone(),
        front_tasks.clone(),
        front.clone(),
    );
    let standing = match &term.view {
        Some(_) => Standing::Leads(term.fence.term()),
        None => Standing::Alone,
    };
    metrics.leader.set(1);
    metrics.term.set(i64::try_from(term.fence.term()).unwrap_or(i64::MAX));
    let pages = Pages { metrics, heartbeat, clock, standing };
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
        backups,
        steering: SteeringService::new(see.clone(), desk, clock),
        operations: OperationsService::new(see, events, clock, term, front_tasks.clone(), front.clone()),
        alerting: AlertingService::new(handles),
        pages: http::router(pages.clone()).merge(page::router(page.clone())),
        pictures: page,
    };
    faced.serve_all(services, &front_tasks, &front);
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

    /// Ends everything at once, since somebody else leads. Nothing is said or done any more.
    pub async fn depose(self) {
        self.back.cancel();
        self.front.cancel();
        self.alerts.cancel();
        self.front_tasks.close();
        self.alert_tasks.close();
        let ended = async {
            let recorder = self.brain.await.ok().flatten();
            self.front_tasks.wait().await;
            if let Some(recorder) = recorder {
                let _ = tokio::task::spawn_blocking(move || recorder.close()).await;
            }
        };
        let _ = timeout(DEPOSED, ended).await;
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

/// Fills the empty store of a configuration from a backup; how many rows there were. No controller may run.
///
/// # Errors
/// The file is not one, the store is not empty, or a controller runs.
pub async fn restore(config: &Config, file: &[u8]) -> Result<usize, RestoreError> {
    let tables = backup::read(file)?;
    let Some(ha) = &config.ha else {
        let directory = config.state.as_ref().ok_or(RestoreError::Memory)?;
        return Ok(backup::restore(&FileStore::open(&directory.join(STORE_FILE))?, tables)?);
    };
    let (store, leadership) = member::take_over(config, ha).await?;
    let restored = tokio::task::spawn_blocking(move || backup::restore(&store, tables)).await;
    leadership.resign().await;
    Ok(restored.map_err(|error| StoreError::Access(error.to_string()))??)
}

/// The store of a configuration. A directory that cannot be used is an error: to go on without would be to forget what was
/// done, and to do it again.
fn open_store(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let Some(directory) = &config.state else {
        tracing::warn!("state: no directory is configured: what was done and decided ends with this process");
        let store = MemoryStore::default();
        schema::bring_up(&store, "memory", None)?;
        return Ok(Arc::new(store));
    };
    let path = directory.join(STORE_FILE);
    let store: Arc<dyn Store> = Arc::new(FileStore::open(&path)?);
    schema::bring_up(&*store, &path.display().to_string(), Some(&directory.join(PLAN_FILE)))?;
    Ok(crash::guarded(store))
}
