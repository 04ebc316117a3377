//! The life of one of several controllers: standing by, leading, standing by.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    election::{Candidate, Identity, Keys, Leadership, View, members},
    etcd::{Etcd, Patience, SetupError},
    standby::{self, Standby},
};
use crate::{
    config::{Config, EtcdTls, Ha},
    front::Doors,
    http::Pages,
    metrics::Metrics,
    server::{self, RestoreError, Running, StartError, Term},
    store::{Store, crash, etcd::EtcdStore, schema},
};

/// How often the leader looks who stands by.
const LOOK: Duration = Duration::from_secs(2);
/// Members of etcd that are asked one after the other, where none of them answers, in the time of a lease.
const ASKED: u32 = 4;

/// A controller that leads or stands by.
pub struct Member {
    /// Where agents and operators connect.
    pub grpc: SocketAddr,
    /// Where the pages are.
    pub http: SocketAddr,
    pages: watch::Receiver<Option<Pages>>,
    stop: CancellationToken,
    life: JoinHandle<Result<bool, StartError>>,
}

struct Life {
    config: Config,
    ha: Ha,
    doors: Doors,
    candidate: Candidate,
    view: watch::Sender<View>,
    pages: watch::Sender<Option<Pages>>,
    stop: CancellationToken,
}

impl Member {
    /// Starts standing by.
    ///
    /// # Errors
    /// What can be told at once: addresses, files.
    pub async fn start(config: Config, ha: Ha) -> Result<Self, StartError> {
        let doors = Doors::bind(&config)?;
        let candidate = candidate(&ha, identity(&config, &ha, doors.grpc))?;
        let (view, _) = watch::channel(View::default());
        let (pages, see_pages) = watch::channel(None);
        let stop = CancellationToken::new();
        let (grpc, http) = (doors.grpc, doors.http);
        let life = Life { config, ha, doors, candidate, view, pages, stop: stop.clone() };
        // The first term or standby shows what is wrong with files before anything is said to run.
        let standby = life.stand_by()?;
        let life = tokio::spawn(life.run(standby));
        Ok(Self { grpc, http, pages: see_pages, stop, life })
    }

    /// Tells whether it does its work, again and again.
    pub fn alive(&self) -> impl Fn() -> bool + Send + 'static {
        let pages = self.pages.clone();
        move || pages.borrow().as_ref().is_none_or(Pages::alive)
    }

    /// Ends when something is so wrong that a new start could only help.
    pub async fn broken(&mut self) -> String {
        match (&mut self.life).await {
            Ok(Ok(_)) => "the controller ended".into(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Ends everything, and gives the lead back. Returns whether all ended by itself.
    pub async fn drain(self) -> bool {
        self.stop.cancel();
        matches!(self.life.await, Ok(Ok(true)))
    }
}

impl Life {
    fn stand_by(&self) -> Result<Standby, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        let standby = Standby::start(&self.config, &self.doors, self.view.subscribe(), metrics)?;
        self.pages.send_replace(Some(standby.pages.clone()));
        Ok(standby)
    }

    async fn run(self, first: Standby) -> Result<bool, StartError> {
        let mut standby = first;
        loop {
            let leadership = tokio::select! {
                leadership = self.candidate.campaign(&self.view) => leadership,
                () = self.stop.cancelled() => {
                    standby.stop().await;
                    return Ok(true);
                }
            };
            let fence = leadership.fence.clone();
            tracing::info!(term = fence.term(), "this controller leads");
            let store = EtcdStore::new(self.candidate.etcd.clone(), self.candidate.keys.clone(), &leadership);
            let store: Arc<dyn Store> = crash::guarded(Arc::new(store));
            let opened = store.clone();
            let opened = tokio::task::spawn_blocking(move || schema::bring_up(&*opened, "etcd", None));
            match opened.await {
                Ok(Ok(())) => {}
                // Somebody else leads already: that is no reason to end.
                Ok(Err(_)) if !fence.holds() => continue,
                Ok(Err(error)) => return Err(StartError::Store(error)),
                Err(error) => return Err(StartError::Thread(error.into())),
            }
            standby.stop().await;
            let term = Term { fence: fence.clone(), view: Some(self.view.subscribe()) };
            let mut running = match server::lead(self.config.clone(), &self.doors, store, term).await {
                Ok(running) => running,
                Err(_) if !fence.holds() => {
                    standby = self.stand_by()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.pages.send_replace(Some(running.pages.clone()));
            tokio::select! {
                () = fence.lost() => {
                    tracing::warn!(term = fence.term(), "this controller leads no longer");
                    running.depose().await;
                }
                why = running.broken() => {
                    leadership.resign().await;
                    return Err(StartError::Ended(why));
                }
                () = self.look_around() => {}
                () = self.stop.cancelled() => {
                    let clean = running.drain().await;
                    leadership.resign().await;
                    return Ok(clean);
                }
            }
            drop(leadership);
            let problem = Some("the lease was lost".to_owned());
            self.view.send_replace(View { problem, ..View::default() });
            standby = self.stand_by()?;
        }
    }

    /// Keeps the list of those who stand by up to date. Does not end.
    async fn look_around(&self) {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            let limit = Duration::from_secs(u64::from(self.ha.lease_seconds));
            let looked = timeout(limit, members(&self.candidate.etcd, &self.candidate.keys)).await;
            let Ok(Ok(members)) = looked else { continue };
            self.view.send_if_modified(|view| {
                let changed = view.members != members;
                view.members = members;
                changed
            });
        }
    }
}

fn candidate(ha: &Ha, identity: Identity) -> Result<Candidate, SetupError> {
    let ttl = Duration::from_secs(u64::from(ha.lease_seconds));
    let patience = Patience { alone: ttl / ASKED, limit: ttl };
    let etcd = Etcd::new(&ha.etcd, ha.tls.as_ref().map(EtcdTls::files), patience)?;
    Ok(Candidate { etcd, keys: Keys::new(&ha.prefix), identity, ttl })
}

/// The store of several controllers, none of which runs. It is this program's until the lead is given back.
///
/// # Errors
/// One leads, or etcd does not answer.
pub async fn take_over(config: &Config, ha: &Ha) -> Result<(EtcdStore, Leadership), RestoreError> {
    let candidate = candidate(ha, identity(config, ha, config.listen))?;
    let (view, see) = watch::channel(View::default());
    // A lease of somebody who was killed runs out meanwhile.
    let limit = candidate.ttl * 2 + Duration::from_secs(3);
    match timeout(limit, candidate.campaign(&view)).await {
        Ok(leadership) => {
            let store = EtcdStore::new(candidate.etcd.clone(), candidate.keys.clone(), &leadership);
            Ok((store, leadership))
        }
        Err(_) => Err(RestoreError::Led(standby::words(&see.borrow()))),
    }
}

/// What is not configured is taken from this machine.
fn identity(config: &Config, ha: &Ha, listens: SocketAddr) -> Identity {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let address = ha.address.clone().unwrap_or_else(|| format!("{scheme}://{listens}"));
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    Identity { name: ha.name.clone().unwrap_or_else(host), address }
}

/// A controller, however many there are.
pub enum Controller {
    /// The only one.
    Alone(Box<Running>),
    /// One of several.
    Member(Member),
}

impl Controller {
    /// Starts one, as it is configured.
    ///
    /// # Errors
    /// It cannot.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        match config.ha.clone() {
            Some(ha) => Ok(Self::Member(Member::start(config, ha).await?)),
            None => Ok(Self::Alone(Box::new(server::start(config).await?))),
        }
    }

    /// Where agents and operators connect, and where the pages are.
    #[must_use]
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        match self {
            Self::Alone(running) => (running.grpc, running.http),
            Self::Member(member) => (member.grpc, member.http),
        }
    }

    /// Tells whether it does its work, again and again.
    pub fn alive(&self) -> Box<dyn Fn() -> bool + Send> {
        match self {
            Self::Alone(running) => {
                let pages = running.pages.clone();
                Box::new(move || pages.alive())
            }
            Self::Member(member) => Box::new(member.alive()),
        }
    }

    /// Ends when it is broken; why.
    pub async fn broken(&mut self) -> String {
        match self {
            Self::Alone(running) => running.broken().await,
            Self::Member(member) => member.broken().await,
        }
    }

    /// Ends it. Returns whether all ended by itself.
    pub async fn drain(self) -> bool {
        match self {
            Self::Alone(running) => running.drain().await,
            Self::Member(member) => member.drain().await,
        }
    }
}
