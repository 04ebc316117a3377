//! Evictions: pods leave a node as far as their disruption budgets let them.

use std::time::Duration;

use c4_detect::observation::NodeName;
use k8s_openapi::{
    api::{core::v1::Pod, policy::v1::Eviction},
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions},
};
use kube::{
    Api, Error, ResourceExt,
    api::{ListParams, PostParams},
    core::Status,
};
use tokio::time::{Instant, sleep};

use super::{ActuatorError, KubernetesActuator, LOOK_AGAIN, Order, failed, phase};

/// How long a budget that does not say is waited for.
const BUDGET: Duration = Duration::from_secs(5);
/// Before the order's own end, so that what is said last is heard.
const MARGIN: Duration = Duration::from_secs(1);
/// Annotation of pods that a node's kubelet runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl KubernetesActuator {
    /// Evicts what runs on a node, but for what belongs there (pods of DaemonSets and of the kubelet itself) and the pods
    /// of the job that is about to be stopped anyway. Budgets that are used up are waited for.
    pub(super) async fn evict(&self, node: &NodeName, order: &Order) -> Result<String, ActuatorError> {
        let until = Instant::now() + Duration::from_micros(order.timeout_us).saturating_sub(MARGIN);
        let all: Api<Pod> = Api::all(self.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={}", node.0));
        let stopped = order.action.deed.job();
        let mut evicted = 0;
        loop {
            let pods = all.list(&on_node).await.map_err(failed)?.items;
            let leaving: Vec<&Pod> = pods
                .iter()
                .filter(|pod| !stays(pod))
                .filter(|pod| {
                    stopped.is_none_or(|job| pod.labels().get(self.config.job_label()) != Some(&job.0))
                })
                .collect();
            if leaving.is_empty() {
                return Ok(format!("; {evicted} pods evicted"));
            }
            let mut wait = LOOK_AGAIN;
            let mut held = Vec::new();
            for pod in leaving.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                match self.ask_to_leave(pod).await? {
                    None => evicted += 1,
                    Some(later) => {
                        wait = wait.max(later);
                        held.push(pod.name_any());
                    }
                }
            }
            if Instant::now() + wait >= until {
                let names = leaving.iter().map(|pod| pod.name_any()).collect::<Vec<_>>().join(", ");
                let why = if held.is_empty() {
                    "have not left yet"
                } else {
                    "are held by their disruption budgets"
                };
                return Err(ActuatorError(format!("{} is cordoned, but pods {names} {why}", node.0)));
            }
            sleep(wait).await;
        }
    }

    /// Evicts a pod; says how long to wait if its budget does not allow that now.
    async fn ask_to_leave(&self, pod: &Pod) -> Result<Option<Duration>, ActuatorError> {
        let namespace = pod.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.impatient.clone(), &namespace);
        // The pod that was looked at, and not one that has taken its name since.
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let eviction = Eviction {
            metadata: ObjectMeta {
                name: Some(pod.name_any()),
                namespace: pod.namespace(),
                ..ObjectMeta::default()
            },
            delete_options: Some(DeleteOptions {
                preconditions: Some(preconditions),
                ..DeleteOptions::default()
            }),
        };
        // The crate's own call for this misspells the options in version 5.0, so that servers overlook them.
        let evicted: Result<Status, Error> =
            pods.create_subresource("eviction", &pod.name_any(), &PostParams::default(), &eviction).await;
        match evicted {
            Ok(_) => Ok(None),
            Err(Error::Api(status)) => match status.code {
                // Gone, or replaced by another of its name.
                404 | 409 => Ok(None),
                429 => {
                    let said = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                    let said = Duration::from_secs(said.into());
                    Ok(Some(if said.is_zero() { BUDGET } else { said }))
                }
                _ => Err(failed(Error::Api(status))),
            },
            Err(error) => Err(failed(error)),
        }
    }
}

fn stays(pod: &Pod) -> bool {
    let of_daemon_set = pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet");
    let ended = matches!(phase(pod), "Succeeded" | "Failed");
    of_daemon_set || ended || pod.annotations().contains_key(MIRROR)
}
