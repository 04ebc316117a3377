//! Who leads.
//!
//! ```text
//!  PREFIX/leader        the leader: JSON of who it is; lives as long as its lease; its create revision is the term
//!  PREFIX/position      how many batches the leader has written: "LEASE:NUMBER" (see the store)
//!  PREFIX/members/NAME  every controller that is there, likewise leased
//! ```
//! A candidate looks five times a second whether there is a leader (a read, which costs etcd no write), and where there is
//! none it makes the key on the condition that there still is none.

use std::time::Duration;

use c4_proto::etcd::{
    Compare, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    lease_client::LeaseClient,
    request_op::Request,
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_stream::StreamExt;
use tonic::{Response, Status};

use super::{
    etcd::{Etcd, EtcdError},
    fence::{self, Fence},
};

/// Time between two looks at who leads.
const LOOK: Duration = Duration::from_millis(200);
/// Renewals in the time of one lease.
const RENEWALS: u32 = 5;

/// A controller, as the others know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Where agents and operators reach it, such as `https://c4-0:4400`.
    pub address: String,
}

/// What a controller knows of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Who leads, and in which term.
    pub leader: Option<(Identity, u64)>,
    /// Why that cannot be told.
    pub problem: Option<String>,
    /// Everybody, by name.
    pub members: Vec<Identity>,
}

/// Keys, all below one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys below `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// The leader's.
    #[must_use]
    pub fn leader(&self) -> Vec<u8> {
        format!("{}/leader", self.prefix).into_bytes()
    }

    /// That of how far the leader has written.
    #[must_use]
    pub fn position(&self) -> Vec<u8> {
        format!("{}/position", self.prefix).into_bytes()
    }

    /// What those of members begin with.
    #[must_use]
    pub fn members(&self) -> Vec<u8> {
        format!("{}/members/", self.prefix).into_bytes()
    }

    /// What those of rows begin with.
    #[must_use]
    pub fn rows(&self) -> Vec<u8> {
        format!("{}/rows/", self.prefix).into_bytes()
    }
}

/// The end of the range of all keys that begin with `prefix`.
#[must_use]
pub fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // None of ours ends with 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Whoever would lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Etcd.
    pub etcd: Etcd,
    /// Its keys.
    pub keys: Keys,
    /// Who.
    pub identity: Identity,
    /// How long a lease lasts without being renewed.
    pub ttl: Duration,
}

/// A term that has begun. It is over when this is dropped, at the latest.
#[derive(Debug)]
pub struct Leadership {
    /// Whether it goes on.
    pub fence: Fence,
    lease: Lease,
}

/// A lease that renews itself until it cannot. Once it is dropped it is given back, as soon as etcd takes it: when a quorum
/// returns, etcd lets every lease begin anew, and nobody else could lead until that of the last leader had run out.
#[derive(Debug)]
struct Lease {
    id: i64,
    fence: Fence,
    etcd: Etcd,
    renewing: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.fence.lose();
        self.renewing.abort();
        // At the end of the program there is nobody to give it back: it runs out.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(give_back(self.etcd.clone(), self.id));
        }
    }
}

impl Candidate {
    /// Waits until this controller leads. `view` shows meanwhile who does. Cancelling is safe: what was granted runs out.
    pub async fn campaign(&self, view: &watch::Sender<View>) -> Leadership {
        let mut lease: Option<Lease> = None;
        loop {
            match self.attempt(&mut lease, view).await {
                Ok(Some(leadership)) => return leadership,
                Ok(None) => {}
                Err(error) => {
                    view.send_if_modified(|view| {
                        let problem = Some(error.to_string());
                        // Without news nobody is known to lead, and members are as they were.
                        let changed = view.problem.is_none() || view.leader.is_some();
                        (view.leader, view.problem) = (None, problem);
                        changed
                    });
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn attempt(
        &self,
        held: &mut Option<Lease>,
        view: &watch::Sender<View>,
    ) -> Result<Option<Leadership>, EtcdError> {
        if held.as_ref().is_none_or(|lease| !lease.fence.holds()) {
            *held = None;
            *held = Some(self.lease().await?);
        }
        let Some(lease) = held else { return Ok(None) };
        let seen = self.look().await?;
        let leader = match seen.0 {
            // An earlier attempt has succeeded without our hearing of it.
            Some(leader) if leader.lease == lease.id => Some(leader.create_revision),
            Some(leader) => {
                self.show(view, Some(&leader), seen.1);
                return Ok(None);
            }
            None => self.take(lease.id).await?,
        };
        let Some(term) = leader else { return Ok(None) };
        let members = seen.1;
        view.send_replace(View {
            leader: Some((self.identity.clone(), term.unsigned_abs())),
            problem: None,
            members,
        });
        Ok(held.take().map(|lease| Leadership { fence: lease.fence.of_term(term.unsigned_abs()), lease }))
    }

    fn show(&self, view: &watch::Sender<View>, leader: Option<&KeyValue>, members: Vec<Identity>) {
        let leader = leader.map(|kv| {
            (serde_json::from_slice(&kv.value).unwrap_or_default(), kv.create_revision.unsigned_abs())
        });
        let next = View { leader, problem: None, members };
        view.send_if_modified(|view| {
            let changed = *view != next;
            *view = next;
            changed
        });
    }

    /// Who leads, and who is there.
    async fn look(&self) -> Result<(Option<KeyValue>, Vec<Identity>), EtcdError> {
        let leader = RangeRequest { key: self.keys.leader(), ..RangeRequest::default() };
        let found = self.etcd.race(|channel| range(channel, leader.clone())).await?;
        let members = members(&self.etcd, &self.keys).await?;
        Ok((found.kvs.into_iter().next(), members))
    }

    /// A lease, and with it a place among the members.
    async fn lease(&self) -> Result<Lease, EtcdError> {
        let asked = Instant::now();
        let ttl = i64::try_from(self.ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let grant = LeaseGrantRequest { ttl, id: 0 };
        let granted = self
            .etcd
            .ask(|channel| async move { LeaseClient::new(channel).lease_grant(grant).await })
            .await?;
        let fence = Fence::leased(0, fence::until(asked, self.ttl));
        let renewing = tokio::spawn(renew(self.etcd.clone(), granted.id, self.ttl, fence.clone()));
        let lease = Lease { id: granted.id, fence, etcd: self.etcd.clone(), renewing };
        let mut key = self.keys.members();
        key.extend(self.identity.name.as_bytes());
        let place = put(key, identity(&self.identity), granted.id);
        let request = TxnRequest { success: vec![place], ..TxnRequest::default() };
        self.etcd.ask(|channel| txn(channel, request.clone())).await?;
        Ok(lease)
    }

    /// Makes the leader's key if there is none. Returns the term.
    async fn take(&self, lease: i64) -> Result<Option<i64>, EtcdError> {
        let key = self.keys.leader();
        let vacant = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::CreateRevision(0)),
        };
        let begin = put(self.keys.position(), format!("{lease:x}:0").into_bytes(), 0);
        let request = TxnRequest {
            compare: vec![vacant],
            success: vec![put(key, identity(&self.identity), lease), begin],
            failure: Vec::new(),
        };
        let answer = self.etcd.ask(|channel| txn(channel, request.clone())).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.succeeded.then_some(revision))
    }
}

/// Everybody who is there.
///
/// # Errors
/// Nobody knows.
pub async fn members(etcd: &Etcd, keys: &Keys) -> Result<Vec<Identity>, EtcdError> {
    let key = keys.members();
    let request = RangeRequest { range_end: range_end(&key), key, limit: 100, ..RangeRequest::default() };
    let found = etcd.race(|channel| range(channel, request.clone())).await?;
    Ok(found.kvs.iter().filter_map(|kv| serde_json::from_slice(&kv.value).ok()).collect())
}

impl Leadership {
    /// Number of the lease.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.lease.id
    }

    /// Gives the term back, so that another need not wait for the lease to run out.
    pub async fn resign(self) {
        self.fence.lose();
        if let Err(error) = revoke(&self.lease.etcd, self.lease.id).await {
            tracing::debug!(%error, "the lease was not given back: it runs out");
        }
    }
}

async fn revoke(etcd: &Etcd, id: i64) -> Result<(), EtcdError> {
    let request = LeaseRevokeRequest { id };
    let ask = |channel| async move { LeaseClient::new(channel).lease_revoke(request).await };
    etcd.race(ask).await.map(drop)
}

/// Gives a lease back as soon as etcd answers. One that has run out is refused, which is as well.
async fn give_back(etcd: Etcd, id: i64) {
    while let Err(EtcdError::Away(_)) = revoke(&etcd, id).await {
        sleep(LOOK).await;
    }
}

/// Renews a lease until it is gone. A renewal that takes long does not hold up the next: whichever is answered in time counts.
async fn renew(etcd: Etcd, id: i64, ttl: Duration, fence: Fence) {
    let mut renewals = JoinSet::new();
    let mut turns = interval(ttl / RENEWALS);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while fence.holds() {
        tokio::select! {
            _ = turns.tick() => drop(renewals.spawn(renew_once(etcd.clone(), id, ttl, fence.clone()))),
            Some(_) = renewals.join_next() => {}
        }
    }
}

async fn renew_once(etcd: Etcd, id: i64, ttl: Duration, fence: Fence) {
    let asked = Instant::now();
    match etcd.race(|channel| keep_alive(channel, id)).await {
        Ok(()) => fence.renew(fence::until(asked, ttl)),
        Err(EtcdError::Refused(_)) => fence.lose(),
        // It is asked again until the time is up.
        Err(error) => tracing::debug!(%error, "the lease was not renewed"),
    }
}

/// Has a member renew a lease, which says without an error that there is none.
async fn keep_alive(channel: tonic::transport::Channel, id: i64) -> Result<Response<()>, Status> {
    let once = tokio_stream::once(LeaseKeepAliveRequest { id });
    // The stream stays open until the answer has come.
    let asked = once.chain(tokio_stream::pending());
    let mut answers = LeaseClient::new(channel).lease_keep_alive(asked).await?.into_inner();
    let answer = answers.message().await?.ok_or_else(|| Status::unavailable("no answer"))?;
    if answer.ttl > 0 { Ok(Response::new(())) } else { Err(Status::not_found("no such lease")) }
}

pub(crate) async fn range(
    channel: tonic::transport::Channel,
    request: RangeRequest,
) -> Result<Response<c4_proto::etcd::RangeResponse>, Status> {
    KvClient::new(channel).max_decoding_message_size(MAX_ANSWER).range(request).await
}

pub(crate) async fn txn(
    channel: tonic::transport::Channel,
    request: TxnRequest,
) -> Result<Response<c4_proto::etcd::TxnResponse>, Status> {
    KvClient::new(channel).txn(request).await
}

/// Largest answer that is taken.
const MAX_ANSWER: usize = 256 << 20;

pub(crate) fn put(key: Vec<u8>, value: Vec<u8>, lease: i64) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key, value, lease })) }
}

fn identity(identity: &Identity) -> Vec<u8> {
    // It holds nothing that JSON could not say.
    serde_json::to_vec(identity).unwrap_or_default()
}
