//! Calls to etcd, whichever of its members answers.
//!
//! A member that is gone, cut off or slow must not hold anybody up: where one has not answered for a while, the next is asked
//! beside it. Where order does not matter ([`Etcd::race`]), all are asked at once. Nobody is hung up on for being slow: a
//! member that is asked again instead has all the more to do, and where all are slow nobody would ever hear an answer. A call
//! that got no answer may have been carried out, now or later, and one that several were asked for may be carried out twice:
//! callers make sure that this does no harm.

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
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
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

/// How long a member is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before the next one is asked, too.
    pub alone: Duration,
    /// Altogether: a later answer would be of no use. The member is called over a connection of its own next time.
    pub limit: Duration,
}

/// See the module. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Etcd {
    members: Arc<[Member]>,
    tls: Option<Arc<ClientFiles>>,
    first: Arc<AtomicUsize>,
    patience: Patience,
}

impl Etcd {
    /// Connects to members when they are needed.
    ///
    /// # Errors
    /// There is something wrong with an address or a file.
    pub fn new(
        addresses: &[String],
        tls: Option<ClientFiles>,
        patience: Patience,
    ) -> Result<Self, SetupError> {
        let mut members = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::from_shared(address.clone())
                .map_err(|source| SetupError::Address { address: address.clone(), source })?
                .connect_timeout(patience.limit)
                .tcp_nodelay(true);
            let channel = Mutex::new(connect(&endpoint, tls.as_ref())?);
            members.push(Member { endpoint, channel });
        }
        Ok(Self { members: members.into(), tls: tls.map(Arc::new), first: Arc::default(), patience })
    }

    /// Asks one member after the other, once, beginning with the one that answered last. The first answer counts.
    ///
    /// # Errors
    /// One refuses, or as the last of them.
    pub async fn ask<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.members.len());
        let mut left = (0..count).map(|offset| (first + offset) % count);
        let mut asked = JoinSet::new();
        let mut last = EtcdError::Away("there are no members".into());
        loop {
            match left.next() {
                Some(index) => self.spawn(&mut asked, index, &call),
                None if asked.is_empty() => return Err(last),
                None => {}
            }
            let answer = tokio::select! {
                Some(answer) = asked.join_next() => answer,
                () = sleep(self.patience.alone), if left.len() > 0 => continue,
            };
            match answer {
                Ok((index, Ok(answer))) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok((_, Err(refused @ EtcdError::Refused(_)))) => return Err(refused),
                Ok((_, Err(away))) => last = away,
                Err(error) => last = EtcdError::Away(error.to_string()),
            }
        }
    }

    /// Asks all members at once; the first that does it counts, since one that has slept may refuse what it has not heard of.
    ///
    /// # Errors
    /// None did it. One refuses, or as the last of them.
    pub async fn race<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        let mut asked = JoinSet::new();
        (0..self.members.len()).for_each(|index| self.spawn(&mut asked, index, &call));
        let mut last = EtcdError::Away("there are no members".into());
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((_, Ok(answer))) => return Ok(answer),
                Ok((_, Err(refused @ EtcdError::Refused(_)))) => last = refused,
                Ok((_, Err(_))) | Err(_) if matches!(last, EtcdError::Refused(_)) => {}
                Ok((_, Err(away))) => last = away,
                Err(error) => last = EtcdError::Away(error.to_string()),
            }
        }
        Err(last)
    }

    /// Asks one member. Dropping the set takes the question back.
    fn spawn<T, F>(
        &self,
        asked: &mut JoinSet<(usize, Result<T, EtcdError>)>,
        index: usize,
        call: &impl Fn(Channel) -> F,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        let (etcd, call) = (self.clone(), call(self.channel(index)));
        asked.spawn(async move { (index, etcd.attempt(index, call).await) });
    }

    async fn attempt<T>(
        &self,
        index: usize,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, EtcdError> {
        let why = match timeout(self.patience.limit, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) if is_final(&status) => return Err(EtcdError::Refused(status)),
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => {
                format!(
                    "{} has not answered for {:?}",
                    self.members[index].endpoint.uri(),
                    self.patience.limit
                )
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Patience = Patience { alone: Duration::from_millis(500), limit: Duration::from_secs(2) };

    /// Members whose answers are made up: nobody is connected to.
    fn etcd() -> Etcd {
        let addresses = ["a", "b", "c"].map(|host| format!("http://{host}:1"));
        Etcd::new(&addresses, None, PATIENCE).expect("addresses")
    }

    type Answer = Pin<Box<dyn Future<Output = Result<Response<u8>, Status>> + Send>>;

    /// What members answer in turn, each after so many milliseconds.
    fn answers(of: [(u64, Result<u8, Status>); 3]) -> impl Fn(Channel) -> Answer {
        let turn = AtomicUsize::new(0);
        move |_| {
            let (after, answer) = of[turn.fetch_add(1, Ordering::Relaxed)].clone();
            Box::pin(async move {
                sleep(Duration::from_millis(after)).await;
                answer.map(Response::new)
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_slow_is_waited_for_while_others_are_asked() {
        let began = Instant::now();
        let all_slow = answers([(1_300, Ok(1)), (1_300, Ok(2)), (1_300, Ok(3))]);
        assert_eq!(etcd().ask(all_slow).await.expect("an answer"), 1);
        assert_eq!(began.elapsed(), Duration::from_millis(1_300));
        let began = Instant::now();
        let one_stands_still = answers([(3_600_000, Ok(1)), (100, Ok(2)), (100, Ok(3))]);
        assert_eq!(etcd().ask(one_stands_still).await.expect("an answer"), 2);
        assert_eq!(began.elapsed(), PATIENCE.alone + Duration::from_millis(100));
        let gone = || Err(Status::unavailable("gone"));
        let two_are_gone = answers([(0, gone()), (0, gone()), (100, Ok(3))]);
        assert_eq!(etcd().ask(two_are_gone).await.expect("an answer"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_for_ever() {
        let began = Instant::now();
        let nobody = || answers([(3_600_000, Ok(1)), (3_600_000, Ok(2)), (3_600_000, Ok(3))]);
        assert!(matches!(etcd().ask(nobody()).await, Err(EtcdError::Away(_))));
        assert_eq!(began.elapsed(), PATIENCE.limit + PATIENCE.alone * 2);
        let began = Instant::now();
        assert!(matches!(etcd().race(nobody()).await, Err(EtcdError::Away(_))));
        assert_eq!(began.elapsed(), PATIENCE.limit);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_a_question_but_not_a_race() {
        let refused = || Err(Status::not_found("no such lease"));
        let one_refuses = || answers([(0, refused()), (100, Ok(2)), (100, Ok(3))]);
        assert!(matches!(etcd().ask(one_refuses()).await, Err(EtcdError::Refused(_))));
        assert_eq!(etcd().race(one_refuses()).await.expect("an answer"), 2);
        let all_refuse = answers([(0, refused()), (0, refused()), (50, Err(Status::unavailable("gone")))]);
        assert!(matches!(etcd().race(all_refuse).await, Err(EtcdError::Refused(_))));
    }
}
