//! What the actuator has to do, said so that it can be tried on the tests' own API server and on a real cluster alike: everything
//! here looks through Kubernetes' API only.

use std::{collections::BTreeSet, time::Duration};

use c4_controller::{
    config::{Kubernetes as Config, KubernetesJobs},
    steer::{
        action::{Action, ActionId, Deed, Order, State, Step},
        actuator::Actuator,
        kubernetes::{CONDITION, INCARNATION, ISOLATED, KubernetesActuator},
    },
};
use c4_detect::observation::{JobId, NodeName, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn order(deed: Deed, step: Step) -> Order {
    let action = Action {
        id: ActionId("restart-LLM_1-2-5d".into()),
        job: deed.job().cloned(),
        deed,
        finding: None,
        kind: None,
        blamed: None,
        because: "GPU 4 fell off the bus".into(),
        by: None,
        planned: Timestamp(1_700_000_000_000_000),
        ended: None,
        state: State::Doing { step },
        attempt: 1,
    };
    let id = format!("{}-{}-1", action.id.0, step.name());
    Order { id, action, step, grace_us: 0, timeout_us: 60_000_000 }
}

pub(crate) fn isolate(node: &str) -> Order {
    order(Deed::Isolate { node: NodeName(node.into()) }, Step::Isolate)
}

pub(crate) fn release(node: &str) -> Order {
    order(Deed::Release { node: NodeName(node.into()), check: false }, Step::Release)
}

pub(crate) fn restart(job: &str, incarnation: u32, step: Step) -> Order {
    order(
        Deed::Restart {
            job: JobId(job.into()),
            incarnation,
            without: BTreeSet::new(),
            isolate: false,
            ran_on: BTreeSet::new(),
            placement: Vec::new(),
        },
        step,
    )
}

/// Carries an order out; twice, since it may come again.
async fn twice(actuator: &KubernetesActuator, order: &Order) -> String {
    let mut said = String::new();
    for _ in 0..2 {
        said = timeout(PATIENCE, actuator.carry_out(order)).await.expect("in time").expect("carried out");
    }
    said
}

/// Carries an order out that cannot be.
pub(crate) async fn refused(actuator: &KubernetesActuator, order: &Order) -> String {
    let answer = timeout(PATIENCE, actuator.carry_out(order)).await.expect("in time");
    answer.expect_err("cannot be").to_string()
}

/// A node is isolated and given back, and what others have done stays.
pub(crate) async fn isolates_and_releases(client: &Client, config: &Config, name: &str) {
    let actuator = KubernetesActuator::connect(config.clone()).await.expect("connects");
    let nodes: Api<Node> = Api::all(client.clone());
    let taint = json!({"spec": {"taints": [{"key": "somebodys/own", "effect": "PreferNoSchedule"}]}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(taint)).await.expect("tainted");

    twice(&actuator, &isolate(name)).await;
    let node = nodes.get(name).await.expect("there");
    let keys = |node: &Node| -> Vec<String> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let mut keys: Vec<String> = taints.into_iter().map(|taint| taint.key).collect();
        // Kubernetes has a taint of its own for what is cordoned.
        keys.retain(|key| !key.starts_with("node.kubernetes.io/"));
        keys.sort();
        keys
    };
    assert_eq!(keys(&node), [ISOLATED, "somebodys/own"]);
    assert_eq!(node.spec.as_ref().and_then(|spec| spec.unschedulable), Some(true));
    assert_eq!(condition(&node), Some(("True".into(), "GPU 4 fell off the bus".into())));
    assert_eq!(node.annotations().get(ISOLATED).map(String::as_str), Some("restart-LLM_1-2-5d"));

    twice(&actuator, &release(name)).await;
    let node = nodes.get(name).await.expect("there");
    assert_eq!(keys(&node), ["somebodys/own"]);
    assert_ne!(node.spec.as_ref().and_then(|spec| spec.unschedulable), Some(true));
    assert_eq!(condition(&node).map(|(status, _)| status).as_deref(), Some("False"));
    assert!(!node.annotations().contains_key(ISOLATED));

    // What a person has cordoned is not ours to give back.
    let cordon = |on: Value| Patch::Merge(json!({"spec": {"unschedulable": on, "taints": null}}));
    nodes.patch(name, &PatchParams::default(), &cordon(true.into())).await.expect("cordoned");
    let why = refused(&actuator, &release(name)).await;
    assert!(why.contains("which C4 did not do"), "{why}");
    let said =
        timeout(PATIENCE, actuator.carry_out(&isolate(name))).await.expect("in time").expect("isolated");
    assert!(said.contains("cordoned in Kubernetes already"), "{said}");
    let said =
        timeout(PATIENCE, actuator.carry_out(&release(name))).await.expect("in time").expect("released");
    assert!(said.contains("stays so"), "{said}");
    let node = nodes.get(name).await.expect("there");
    assert_eq!(node.spec.as_ref().and_then(|spec| spec.unschedulable), Some(true));
    nodes.patch(name, &PatchParams::default(), &cordon(Value::Null)).await.expect("usable again");
    let why = refused(&actuator, &isolate("no-such-node")).await;
    assert!(why.contains("knows no node no-such-node"), "{why}");
}

fn condition(node: &Node) -> Option<(String, String)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ours = conditions.iter().find(|condition| condition.type_ == CONDITION)?;
    Some((ours.status.clone(), ours.message.clone().unwrap_or_default()))
}

/// A job is stopped and started, each order twice, and its pods learn the incarnation.
pub(crate) async fn restarts(client: &Client, config: &Config, namespace: &str, name: &str) {
    let actuator = KubernetesActuator::connect(config.clone()).await.expect("connects");
    let (object, resource) = job(config.jobs, name, namespace);
    let jobs: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    jobs.create(&PostParams::default(), &object).await.expect("created");
    let before = pods(client, config, namespace, name).await;

    twice(&actuator, &restart(name, 0, Step::Stop)).await;
    let selector = ListParams::default().labels(&format!("{}={name}", config.job_label()));
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    assert_eq!(api.list(&selector).await.expect("listed").items.len(), 0, "nothing of it runs");

    let said = twice(&actuator, &restart(name, 0, Step::Start)).await;
    assert!(said.contains("pods of job"), "{said}");
    let after = pods(client, config, namespace, name).await;
    let uids = |pods: &[Pod]| -> BTreeSet<String> { pods.iter().filter_map(ResourceExt::uid).collect() };
    assert!(uids(&before).is_disjoint(&uids(&after)), "they are others");
    let told = if config.jobs == KubernetesJobs::Volcano { "volcano.sh/job-version" } else { INCARNATION };
    for pod in &after {
        let incarnation: u32 = pod.annotations()[told].parse().expect("a number");
        assert!(incarnation >= 1, "{:?}", pod.annotations());
    }
    if config.jobs != KubernetesJobs::Volcano {
        // A stop of the incarnation before stops nothing.
        let said = twice(&actuator, &restart(name, 0, Step::Stop)).await;
        assert!(said.contains("somebody was faster"), "{said}");
        assert_eq!(uids(&pods(client, config, namespace, name).await), uids(&after));
    }
    jobs.delete(name, &DeleteParams::default()).await.expect("deleted");
    let why = refused(&actuator, &restart("no-such-job", 0, Step::Stop)).await;
    assert!(why.contains("Kubernetes has no"), "{why}");
}

/// Waits until a job has pods that are not about to end.
async fn pods(client: &Client, config: &Config, namespace: &str, name: &str) -> Vec<Pod> {
    let selector = ListParams::default().labels(&format!("{}={name}", config.job_label()));
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let wait = async {
        loop {
            let pods = api.list(&selector).await.expect("listed").items;
            if !pods.is_empty() && pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none()) {
                return pods;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("pods")
}

/// A job of each kind that does nothing for long.
pub(crate) fn job(kind: KubernetesJobs, name: &str, namespace: &str) -> (Value, ApiResource) {
    let pod = json!({"metadata": {"labels": {"what": "test"}}, "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "pytorch", "image": "registry.k8s.io/pause:3.10"}],
    }});
    let (group, version, object, plural, spec) = match kind {
        KubernetesJobs::Jobset => {
            let template = json!({"spec": {"template": pod, "parallelism": 2, "completions": 2}});
            let jobs = json!([{"name": "workers", "replicas": 1, "template": template}]);
            ("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets", json!({"replicatedJobs": jobs}))
        }
        KubernetesJobs::Kubeflow => {
            let workers = json!({"replicas": 2, "restartPolicy": "Never", "template": pod});
            (
                "kubeflow.org",
                "v1",
                "PyTorchJob",
                "pytorchjobs",
                json!({"pytorchReplicaSpecs": {"Worker": workers}}),
            )
        }
        KubernetesJobs::Volcano => {
            let tasks = json!([{"name": "workers", "replicas": 2, "template": pod}]);
            (
                "batch.volcano.sh",
                "v1alpha1",
                "Job",
                "jobs",
                json!({"schedulerName": "volcano", "tasks": tasks}),
            )
        }
    };
    let gvk = GroupVersionKind::gvk(group, version, object);
    let document = json!({
        "apiVersion": gvk.api_version(), "kind": object, "spec": spec,
        "metadata": {"name": name, "namespace": namespace},
    });
    (document, ApiResource::from_gvk_with_plural(&gvk, plural))
}
