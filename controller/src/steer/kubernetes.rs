//! The Kubernetes actuator.
//!
//! Kubernetes owns its nodes and pods, so nothing is done to a process behind its back. A node is isolated by cordoning
//! and tainting it and by a condition that says why, all of it marked as ours, and only what is so marked is ever taken
//! back. A job is stopped and started the way its own controller means it to be, never by ending its pods.
//! Every order first looks whether what it wants is so already, which makes carrying it out twice harmless; what is
//! written carries the version that was read, so that whoever else writes meanwhile is not overruled; and it ends only
//! when Kubernetes shows it.
//!
//! | C4 | Kubernetes |
//! |---|---|
//! | node | the node of the same name: agents take theirs from `spec.nodeName` |
//! | job | the object of that name and the configured kind, in one of the configured namespaces |
//! | processes of a job | pods that carry its name under a label |
//! | incarnation | the annotation [`INCARNATION`] of its pods (of Volcano's, their job version), which reaches the processes as `C4_INCARNATION` |
//!
//! The API server's word to come back later (429, `Retry-After`) is followed by the client itself, except for evictions,
//! where it means that a disruption budget is used up.

use std::time::Duration;

use c4_detect::observation::{JobId, NodeName};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;
use tokio::time::sleep;

use super::{
    action::{Deed, Order, Step},
    actuator::{Actuator, ActuatorError, Answer},
};
use crate::config::Kubernetes as Config;

mod evict;
mod jobs;
mod nodes;
#[cfg(test)]
mod tests;
pub mod watch;

/// The scheduler's name.
pub const NAME: &str = "kubernetes";
/// Annotation of a job's object and its pods: the incarnation that C4 started.
pub const INCARNATION: &str = "c4/incarnation";
/// Taint of nodes that C4 isolated, and their annotation with the action.
pub const ISOLATED: &str = "c4/isolated";
/// Annotation of those that C4 cordoned, too.
pub const CORDONED: &str = "c4/cordoned";
/// Annotation of nodes and jobs that C4 is to leave alone, with the reason.
pub const LEAVE_ALONE: &str = "c4/leave-alone";
/// The condition of nodes that says whether C4 has isolated them.
pub const CONDITION: &str = "C4Isolated";
/// Who changed what, in the API server's own books.
const MANAGER: &str = "c4-controller";
/// Time between two looks while Kubernetes works.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Time between writes that somebody else's came before.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);
/// How long a request may take, but for those that wait for changes.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest name of an object.
const MAX_NAME: usize = 253;
/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// Kubernetes cannot be spoken to.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The file.
    #[error("kubeconfig {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Neither a service account nor a file.
    #[error("neither a kubeconfig nor a pod's service account: {0}")]
    Infer(#[from] kube::config::InferConfigError),
    /// What they say.
    #[error("{0}")]
    Client(#[from] Error),
}

/// See the module.
#[derive(Clone)]
pub struct KubernetesActuator {
    client: Client,
    /// One that is not patient by itself.
    impatient: Client,
    config: Config,
}

impl KubernetesActuator {
    /// An actuator that speaks to the configured cluster. Nothing is asked of it yet.
    ///
    /// # Errors
    /// There is nothing that tells where it is and who we are, or that makes no sense.
    pub async fn connect(config: Config) -> Result<Self, ConnectError> {
        let mut how = match &config.kubeconfig {
            None => kube::Config::infer().await?,
            Some(path) => {
                let file = |source| ConnectError::File { path: path.display().to_string(), source };
                let kubeconfig = Kubeconfig::read_from(path).map_err(file)?;
                let options = KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(file)?
            }
        };
        how.connect_timeout = Some(CONNECT);
        let client = Client::try_from(how.clone())?;
        how.default_retry = false;
        Ok(Self { client, impatient: Client::try_from(how)?, config })
    }

    /// Whether Kubernetes has a node.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn has(&self, name: &NodeName) -> Result<bool, ActuatorError> {
        let Some(name) = object_name(&name.0) else { return Ok(false) };
        Ok(self.nodes().get_metadata_opt(name).await.map_err(failed)?.is_some())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The pods of a job that have not ended.
    async fn pods_of(&self, job: &JobId, namespace: &str) -> Result<Vec<Pod>, ActuatorError> {
        let selector = format!("{}={}", self.config.job_label(), job.0);
        let list = self.pods(namespace).list(&ListParams::default().labels(&selector)).await;
        let ended = |pod: &Pod| matches!(phase(pod), "Succeeded" | "Failed");
        Ok(list.map_err(failed)?.items.into_iter().filter(|pod| !ended(pod)).collect())
    }

    async fn work(&self, order: &Order) -> Result<String, ActuatorError> {
        match (&order.action.deed, order.step) {
            (Deed::Restart { job, incarnation, .. }, Step::Stop) => self.stop(job, *incarnation, order).await,
            (Deed::Restart { job, incarnation, .. }, Step::Start) => {
                self.start(job, *incarnation, order).await
            }
            (deed, Step::Isolate) => {
                let mut said = Vec::new();
                for node in deed.nodes() {
                    said.push(self.isolate(node, order).await?);
                }
                Ok(said.join("; "))
            }
            (Deed::Release { node, .. }, Step::Release) => self.release(node, order).await,
            _ => Err(ActuatorError("Kubernetes cannot do this".into())),
        }
    }
}

impl Actuator for KubernetesActuator {
    fn carry_out<'a>(&'a self, order: &'a Order) -> Answer<'a> {
        Box::pin(self.work(order))
    }
}

/// A name as Kubernetes takes it for an object. Names come from other machines: what is none never gets into an address.
fn object_name(name: &str) -> Option<&str> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let right = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.split('.').all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|c| inner(*c))
                && bytes.last().is_some_and(|c| inner(*c))
                && bytes.iter().all(|c| inner(*c) || *c == b'-')
        });
    right.then_some(name)
}

/// The same for one that is also the value of a label, as the names of jobs and namespaces are.
#[must_use]
pub fn label_value(name: &str) -> Option<&str> {
    object_name(name).filter(|name| name.len() <= MAX_LABEL)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The incarnation that an object was last started as by C4.
fn incarnation_of(object: &DynamicObject) -> Option<u32> {
    object.annotations().get(INCARNATION)?.parse().ok()
}

fn failed(error: Error) -> ActuatorError {
    ActuatorError(match error {
        Error::Api(status) => format!("Kubernetes: {}", status.message),
        other => {
            let mut text = format!("Kubernetes: {other}");
            let mut source = std::error::Error::source(&other);
            while let Some(deeper) = source {
                text += &format!(": {deeper}");
                source = deeper.source();
            }
            text
        }
    })
}

/// Whether somebody else wrote in the meantime; then a moment has passed.
async fn lost_race(error: &Error) -> bool {
    let lost = matches!(error, Error::Api(status) if status.is_conflict());
    if lost {
        sleep(AFTER_CONFLICT).await;
    }
    lost
}
