//! Lets an operator try the receivers, all at once.

use std::time::Duration;

use c4_proto::v1::{self, alerting_server::Alerting};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};
use tonic::{Request, Response, Status};

use super::driver::Handle;

/// A receiver that is in the middle of something is waited for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service.
pub struct AlertingService(Vec<Handle>);

impl AlertingService {
    /// One that tries these.
    #[must_use]
    pub fn new(receivers: Vec<Handle>) -> Self {
        Self(receivers)
    }
}

#[tonic::async_trait]
impl Alerting for AlertingService {
    async fn test_receivers(
        &self,
        _: Request<v1::TestReceiversRequest>,
    ) -> Result<Response<v1::TestReceiversResponse>, Status> {
        let mut trials = JoinSet::new();
        for (index, handle) in self.0.iter().cloned().enumerate() {
            trials.spawn(async move {
                let outcome = timeout(PATIENCE, try_out(&handle)).await;
                let outcome = outcome.unwrap_or_else(|_| Err("it is still busy with something else".into()));
                let (ok, detail) = (outcome.is_ok(), outcome.err().unwrap_or_default());
                let kind = handle.kind.name().to_owned();
                (index, v1::ReceiverTest { name: handle.name, kind, ok, detail })
            });
        }
        let mut tested = trials.join_all().await;
        tested.sort_by_key(|(index, _)| *index);
        let receivers = tested.into_iter().map(|(_, test)| test).collect();
        Ok(Response::new(v1::TestReceiversResponse { receivers }))
    }
}

async fn try_out(handle: &Handle) -> Result<(), String> {
    let gone = |_| "its task has ended".to_owned();
    let (tell, told) = oneshot::channel();
    handle.trials.send(tell).await.map_err(|_| "its task has ended".to_owned())?;
    told.await.map_err(gone)?
}
