//! Jobs, by the conventions of whoever controls them.
//!
//! | kind | stopped by | started by | its pods learn their incarnation from |
//! |---|---|---|---|
//! | JobSet | `spec.suspend: true` | `false` | an annotation of the pod templates, which may change while it is suspended |
//! | PyTorchJob (Kubeflow's training operator) | `spec.runPolicy.suspend: true` | `false` | an annotation of the pod templates |
//! | Volcano's Job | the Command `AbortJob` | the Command `ResumeJob` | `volcano.sh/job-version`, which Volcano itself counts |
//!
//! A job that is stopped has no pod left that has not ended. A pod on a node that is gone never ends by itself; it is deleted
//! only where the configuration says so, since nobody can know that its processes do not run on.

use c4_detect::observation::JobId;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Error, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
        Preconditions,
    },
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    ActuatorError, INCARNATION, KubernetesActuator, LOOK_AGAIN, MANAGER, MAX_NAME, Order, failed,
    incarnation_of, label_value, lost_race,
};
use crate::config::{Kubernetes as Config, KubernetesJobs as Kind};

impl Config {
    /// The label by which pods name their job.
    #[must_use]
    pub fn job_label(&self) -> &str {
        self.job_label.as_deref().unwrap_or(match self.jobs {
            Kind::Jobset => "jobset.sigs.k8s.io/jobset-name",
            Kind::Kubeflow => "training.kubeflow.org/job-name",
            Kind::Volcano => "volcano.sh/job-name",
        })
    }

    /// What jobs are in the API.
    pub(super) fn resource(&self) -> ApiResource {
        let (group, version, kind, plural) = match self.jobs {
            Kind::Jobset => ("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets"),
            Kind::Kubeflow => ("kubeflow.org", "v1", "PyTorchJob", "pytorchjobs"),
            Kind::Volcano => ("batch.volcano.sh", "v1alpha1", "Job", "jobs"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }
}

impl KubernetesActuator {
    pub(super) fn jobs(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &self.config.resource())
    }

    /// The object of a job and its namespace.
    async fn job(&self, job: &JobId) -> Result<(DynamicObject, String), ActuatorError> {
        let kind = self.config.resource().kind;
        let unknown = || {
            let namespaces = self.config.namespaces.join(", ");
            ActuatorError(format!("Kubernetes has no {kind} {} in {namespaces}", job.0))
        };
        let name = label_value(&job.0).ok_or_else(unknown)?;
        let mut found = Vec::new();
        for namespace in &self.config.namespaces {
            if let Some(object) = self.jobs(namespace).get_opt(name).await.map_err(failed)? {
                found.push((object, namespace.clone()));
            }
        }
        if let [(_, one), (_, other), ..] = found.as_slice() {
            let why = format!("which {kind} {} is meant, the one in {one} or in {other}?", job.0);
            return Err(ActuatorError(why));
        }
        found.pop().ok_or_else(unknown)
    }

    /// Stops a job, and waits until nothing of it runs.
    pub(super) async fn stop(
        &self,
        job: &JobId,
        incarnation: u32,
        order: &Order,
    ) -> Result<String, ActuatorError> {
        let mut asked = false;
        loop {
            let (object, namespace) = self.job(job).await?;
            if let Some(how) = ended(&object, self.config.jobs) {
                return Err(ActuatorError(format!("for Kubernetes, job {} has ended: {how}", job.0)));
            }
            if incarnation_of(&object).is_some_and(|started| started > incarnation) {
                return Ok("somebody was faster: a later incarnation was started".into());
            }
            let stopping = match self.config.jobs {
                Kind::Volcano => matches!(volcano_phase(&object), "Aborting" | "Aborted"),
                kind => is_suspended(&object, kind),
            };
            if !stopping && !asked {
                asked = match self.config.jobs {
                    Kind::Volcano => self.command(&object, &namespace, "AbortJob", order).await?,
                    kind => self.patch_job(&object, &namespace, suspending(&object, kind)).await?,
                };
                continue;
            }
            if stopping && self.config.jobs == Kind::Volcano && volcano_phase(&object) == "Aborting" {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            let pods = self.pods_of(job, &namespace).await?;
            if stopping && pods.is_empty() {
                return Ok(String::new());
            }
            self.delete_stuck(&pods, &namespace).await?;
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts a job that is stopped as the next incarnation, and waits until its first pods are there.
    pub(super) async fn start(
        &self,
        job: &JobId,
        incarnation: u32,
        order: &Order,
    ) -> Result<String, ActuatorError> {
        let next = incarnation.saturating_add(1);
        let mut asked = false;
        loop {
            let (object, namespace) = self.job(job).await?;
            if let Some(how) = ended(&object, self.config.jobs) {
                return Err(ActuatorError(format!("for Kubernetes, job {} has ended: {how}", job.0)));
            }
            let started = match self.config.jobs {
                Kind::Volcano => !matches!(volcano_phase(&object), "Aborting" | "Aborted"),
                kind => !is_suspended(&object, kind) && incarnation_of(&object) >= Some(next),
            };
            if started {
                let pods = self.pods_of(job, &namespace).await?;
                if !pods.is_empty() {
                    return Ok(format!("Kubernetes has {} pods of job {}", pods.len(), job.0));
                }
            } else if !asked {
                match self.config.jobs {
                    Kind::Volcano if volcano_phase(&object) == "Aborting" => {}
                    Kind::Volcano => asked = self.command(&object, &namespace, "ResumeJob", order).await?,
                    kind => {
                        asked = self.patch_job(&object, &namespace, resuming(&object, kind, next)).await?
                    }
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Writes, unless somebody else did since the object was read. Returns whether it was written.
    async fn patch_job(
        &self,
        object: &DynamicObject,
        namespace: &str,
        patch: Value,
    ) -> Result<bool, ActuatorError> {
        let how = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match self.jobs(namespace).patch(&object.name_any(), &how, &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            Err(error) if lost_race(&error).await => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Leaves a command for Volcano. It has the order's name, so that it is not there twice.
    async fn command(
        &self,
        object: &DynamicObject,
        namespace: &str,
        action: &str,
        order: &Order,
    ) -> Result<bool, ActuatorError> {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("bus.volcano.sh", "v1alpha1", "Command"),
            "commands",
        );
        let job = self.config.resource();
        let target = json!({
            "apiVersion": job.api_version, "kind": job.kind, "name": object.name_any(),
            "uid": object.uid().unwrap_or_default(), "controller": true,
        });
        let mut command = DynamicObject::new(&command_name(&order.id), &resource).within(namespace);
        command.metadata.owner_references =
            serde_json::from_value(json!([target])).map_err(|error| ActuatorError(error.to_string()))?;
        command.data =
            json!({"action": action, "target": target, "reason": "C4", "message": order.action.id.0});
        let commands: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let how = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match commands.create(&how, &command).await {
            Ok(_) => Ok(true),
            Err(Error::Api(status)) if status.is_already_exists() => Ok(true),
            Err(error) => Err(failed(error)),
        }
    }

    /// Deletes pods that were to end and whose nodes are not there to end them, if that is wanted.
    async fn delete_stuck(&self, pods: &[Pod], namespace: &str) -> Result<(), ActuatorError> {
        if !self.config.delete_stuck_pods {
            return Ok(());
        }
        for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
            let node = self.nodes().get_opt(name).await.map_err(failed)?;
            if node.is_some_and(|node| super::watch::is_ready(&node)) {
                continue;
            }
            let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
            let how =
                DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
            match self.pods(namespace).delete(&pod.name_any(), &how).await {
                Ok(_) => tracing::info!(pod = pod.name_any(), node = name, "deleted: its node is not ready"),
                Err(Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

/// How a job has ended, for good.
fn ended(object: &DynamicObject, kind: Kind) -> Option<String> {
    let status = &object.data["status"];
    let ends: &[&str] = match kind {
        Kind::Jobset => &["Completed", "Failed"],
        Kind::Kubeflow => &["Succeeded", "Failed"],
        Kind::Volcano => {
            let phase = volcano_phase(object);
            let final_phase = matches!(phase, "Completed" | "Terminated" | "Failed");
            return final_phase.then(|| phase.to_lowercase());
        }
    };
    let conditions = status["conditions"].as_array()?;
    let ended = conditions.iter().find(|condition| {
        condition["status"] == "True" && ends.iter().any(|end| condition["type"] == *end)
    })?;
    let text = |key: &str| ended[key].as_str().unwrap_or_default().to_owned();
    Some(format!("{} {}", text("type").to_lowercase(), text("message")).trim().to_owned())
}

fn is_suspended(object: &DynamicObject, kind: Kind) -> bool {
    let spec = &object.data["spec"];
    let suspend = if kind == Kind::Kubeflow { &spec["runPolicy"]["suspend"] } else { &spec["suspend"] };
    suspend.as_bool().unwrap_or(false)
}

fn volcano_phase(object: &DynamicObject) -> &str {
    object.data["status"]["state"]["phase"].as_str().unwrap_or_default()
}

fn suspending(object: &DynamicObject, kind: Kind) -> Value {
    json!({"metadata": {"resourceVersion": object.resource_version()}, "spec": suspend(kind, true)})
}

fn suspend(kind: Kind, suspend: bool) -> Value {
    if kind == Kind::Kubeflow {
        json!({"runPolicy": {"suspend": suspend}})
    } else {
        json!({"suspend": suspend})
    }
}

/// Not suspended any more, with the incarnation in the object and in the templates of its pods.
fn resuming(object: &DynamicObject, kind: Kind, incarnation: u32) -> Value {
    let annotations = json!({INCARNATION: incarnation.to_string()});
    let mut spec = suspend(kind, false);
    if kind == Kind::Kubeflow {
        let roles = object.data["spec"]["pytorchReplicaSpecs"].as_object().into_iter().flatten();
        let role = |(role, _): (&String, &Value)| {
            (role.clone(), json!({"template": {"metadata": {"annotations": annotations}}}))
        };
        spec["pytorchReplicaSpecs"] = roles.map(role).collect::<serde_json::Map<_, _>>().into();
    } else {
        // A list is replaced whole, so it is given whole.
        let mut jobs = object.data["spec"]["replicatedJobs"].clone();
        for job in jobs.as_array_mut().into_iter().flatten() {
            job["template"]["spec"]["template"]["metadata"]["annotations"][INCARNATION] =
                incarnation.to_string().into();
        }
        spec["replicatedJobs"] = jobs;
    }
    json!({
        "metadata": {"resourceVersion": object.resource_version(), "annotations": annotations},
        "spec": spec,
    })
}

/// An order's name as Kubernetes takes it.
fn command_name(order: &str) -> String {
    let inner = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = order.to_ascii_lowercase().chars().map(inner).collect();
    let name = format!("c4-{}", name.trim_matches('-'));
    name[..name.len().min(MAX_NAME)].trim_end_matches('-').to_owned()
}
