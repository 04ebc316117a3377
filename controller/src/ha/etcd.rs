//! Calls to etcd, whichever of its members answers.
//!
//! A member that is gone, cut off or slow must not hold anybody up: each attempt has a limit, after which the next member is
//! asked. Where order does not matter ([`Etcd::race`]), all are asked at once. A call that got no answer may have been
//! carried out, now or later: callers make sure that this does no harm.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use c4_tls::{ClientFiles, FileError};
use thiserror::Error;
use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// Why etcd did not do what it was asked to.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// It says no, and would say so again.
    #[error("etcd refuses: {}", .0.message())]
    Refused(Status),
    /// No member answers, or none has a quorum. The call may have been carried out all the same.
    #[error("no member of etcd answers: {0}")]
    Away(String),
}

/// An address is none, or a file cannot be used.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The address.
    #[error("{address:?} is not the address of a member of etcd: {source}")]
    Address {
        /// What was given.
        address: String,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Both together.
    #[error("{address}: {source}")]
    Protection {
        /// The address.
        address: String,
        /// Why not.
        source: tonic::transport::Error,
    },
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    channel: Mutex<Channel>,
}

/// See the module. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Etcd {
    members: Arc<[Member]>,
    tls: Option<Arc<ClientFiles>>,
    first: Arc<AtomicUsize>,
    attempt: Duration,
}

impl Etcd {
    /// Connects to members when they are needed. One attempt at one member may take `attempt`.
    ///
    /// # Errors
    /// There is something wrong with an address or a file.
    pub fn new(
        addresses: &[String],
        tls: Option<ClientFiles>,
        attempt: Duration,
    ) -> Result<Self, SetupError> {
        let mut members = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::from_shared(address.clone())
                .map_err(|source| SetupError::Address { address: address.clone(), source })?
                .connect_timeout(attempt)
                .tcp_nodelay(true);
            let channel = Mutex::new(connect(&endpoint, tls.as_ref())?);
            members.push(Member { endpoint, channel });
        }
        Ok(Self { members: members.into(), tls: tls.map(Arc::new), first: Arc::default(), attempt })
    }

    /// Asks one member after the other, once, beginning with the one that answered last.
    ///
    /// # Errors
    /// As the last of them.
    pub async fn ask<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let first = self.first.load(Ordering::Relaxed);
        let mut last = EtcdError::Away("there are no members".into());
        for index in (0..self.members.len()).map(|offset| (first + offset) % self.members.len()) {
            match self.attempt(index, call(self.channel(index))).await {
                Ok(answer) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(refused @ EtcdError::Refused(_)) => return Err(refused),
                Err(away) => last = away,
            }
        }
        Err(last)
    }

    /// Asks all members at once; the first answer counts.
    ///
    /// # Errors
    /// As the last of them.
    pub async fn race<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        let mut attempts = JoinSet::new();
        for index in 0..self.members.len() {
            let (etcd, call) = (self.clone(), call(self.channel(index)));
            attempts.spawn(async move { etcd.attempt(index, call).await });
        }
        let mut last = EtcdError::Away("there are no members".into());
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(error) => last = EtcdError::Away(error.to_string()),
            }
        }
        Err(last)
    }

    async fn attempt<T>(
        &self,
        index: usize,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, EtcdError> {
        let why = match timeout(self.attempt, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) if is_final(&status) => return Err(EtcdError::Refused(status)),
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => {
                format!("{} has not answered for {:?}", self.members[index].endpoint.uri(), self.attempt)
            }
        };
        // The next attempt makes a connection of its own, with the certificates as they are then.
        if let Ok(fresh) = connect(&self.members[index].endpoint, self.tls.as_deref()) {
            *self.lock(index) = fresh;
        }
        Err(EtcdError::Away(why))
    }

    fn channel(&self, index: usize) -> Channel {
        self.lock(index).clone()
    }

    fn lock(&self, index: usize) -> std::sync::MutexGuard<'_, Channel> {
        self.members[index].channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(endpoint: &Endpoint, tls: Option<&ClientFiles>) -> Result<Channel, SetupError> {
    let endpoint = match tls {
        Some(files) => endpoint
            .clone()
            .tls_config(files.load()?)
            .map_err(|source| SetupError::Protection { address: endpoint.uri().to_string(), source })?,
        None => endpoint.clone(),
    };
    Ok(endpoint.connect_lazy())
}

/// Whether asking again, or another member, could not help.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::ResourceExhausted
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::OutOfRange
            | Code::NotFound
    ) && !status.message().contains("too many requests")
}
