//! The Kubernetes actuator against an API server of the tests' own, which checks what it is sent against the published schemas.
//!
//! The same scenarios run on a real cluster, such as one of kind with JobSet's controller in it, which they leave as it was:
//!
//! ```text
//! C4_TEST_KUBECONFIG=~/.kube/config C4_TEST_KUBERNETES_NODE=kind-worker \
//!     C4_TEST_KUBERNETES_JOBS=jobset cargo test -p c4-controller --test kubernetes real_cluster -- --nocapture
//! ```
//! `C4_TEST_KUBERNETES_JOBS` lists the kinds of jobs whose controllers are there (`jobset`, `kubeflow`, `volcano`), and
//! `C4_TEST_KUBERNETES_NAMESPACE` says where to make them (`default`).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use c4_controller::{
    config::{Kubernetes as Config, KubernetesJobs},
    steer::{action::Step, actuator::Actuator, kubernetes::KubernetesActuator},
};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

mod support;

#[path = "kubernetes/api.rs"]
mod api;
#[path = "kubernetes/controllers.rs"]
mod controllers;
#[path = "kubernetes/patch.rs"]
mod patch;
#[path = "kubernetes/scenarios.rs"]
mod scenarios;
#[path = "kubernetes/schema.rs"]
mod schema;

use api::Api;
use scenarios::{isolate, isolates_and_releases, refused, release, restart, restarts};
use support::world::JOB;

const KINDS: [KubernetesJobs; 3] =
    [KubernetesJobs::Jobset, KubernetesJobs::Kubeflow, KubernetesJobs::Volcano];

/// The server with two nodes, and how to reach it.
struct Double {
    api: Api,
    _dir: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Double {
    async fn start() -> Self {
        let api = Api::start().await;
        for name in ["n0", "n1"] {
            api.memory().add(("nodes".into(), String::new(), name.into()), node(true));
        }
        let dir = tempfile::tempdir().expect("a directory");
        let kubeconfig = dir.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": format!("http://{}", api.address)}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
            "users": [{"name": "double", "user": {}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("written");
        Self { api, _dir: dir, kubeconfig }
    }

    fn config(&self, jobs: KubernetesJobs) -> Config {
        let namespaces = vec!["training".into(), "other".into()];
        Config { kubeconfig: Some(self.kubeconfig.clone()), namespaces, jobs, ..Config::default() }
    }

    async fn actuator(&self, config: Config) -> KubernetesActuator {
        KubernetesActuator::connect(config).await.expect("connects")
    }

    /// A controller's configuration.
    fn yaml(&self, mode: &str) -> String {
        format!(
            "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nsteer:\n  {{mode: {mode}, settle_seconds: 0.0, stop_timeout_seconds: 25.0, \
             kubernetes: {{kubeconfig: {}, namespaces: [training]}}}}\n",
            self.kubeconfig.display()
        )
    }

    fn add_job(&self, kind: KubernetesJobs, name: &str, namespace: &str) {
        let (object, resource) = scenarios::job(kind, name, namespace);
        let key = (format!("{}.{}", resource.plural, resource.group), namespace.into(), name.into());
        let mut memory = self.api.memory();
        memory.add(key, object);
        controllers::act(&mut memory);
    }

    fn add_pod(&self, name: &str, node: &str, metadata: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": "Running"},
        });
        pod["metadata"]["name"] = name.into();
        self.api.memory().add(("pods".into(), "other".into(), name.into()), pod);
    }

    fn answers(&self, code: u16) -> u32 {
        self.api.memory().answers.get(&code).copied().unwrap_or(0)
    }

    /// Pods by name, with whether they are about to end.
    fn pods(&self) -> Vec<String> {
        let memory = self.api.memory();
        memory.objects.keys().filter(|key| key.0 == "pods").map(|key| key.2.clone()).collect()
    }
}

fn node(ready: bool) -> Value {
    let ready = if ready { "True" } else { "Unknown" };
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

async fn client(config: &Config) -> Client {
    let kubeconfig =
        kube::config::Kubeconfig::read_from(config.kubeconfig.as_ref().expect("a file")).expect("right");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("right");
    Client::try_from(config).expect("a client")
}

#[tokio::test]
async fn nodes_are_isolated_and_given_back() {
    let double = Double::start().await;
    let config = double.config(KubernetesJobs::Jobset);
    isolates_and_releases(&client(&config).await, &config, "n0").await;
    assert_eq!(double.answers(422), 0, "everything fits the schemas");
}

#[tokio::test]
async fn jobs_of_each_kind_are_stopped_and_started() {
    for kind in KINDS {
        let double = Double::start().await;
        let config = double.config(kind);
        restarts(&client(&config).await, &config, "training", "llm").await;
        assert_eq!(double.answers(422), 0, "everything fits the schemas");
    }
}

#[tokio::test]
async fn a_write_that_somebody_elses_came_before_is_made_again_on_top_of_it() {
    let double = Double::start().await;
    let actuator = double.actuator(double.config(KubernetesJobs::Jobset)).await;
    double.api.memory().raced = 2;
    actuator.carry_out(&isolate("n0")).await.expect("isolated");
    assert_eq!(double.answers(409), 2);
    let node = double.api.memory().objects[&("nodes".into(), String::new(), "n0".into())].clone();
    assert_eq!(node["metadata"]["annotations"]["somebody"], "else", "it is still there");
    double.add_job(KubernetesJobs::Jobset, "llm", "training");
    double.api.memory().raced = 1;
    actuator.carry_out(&restart("llm", 0, Step::Stop)).await.expect("stopped");
    assert_eq!(double.answers(409), 3);
}

#[tokio::test]
async fn a_server_that_has_enough_is_asked_again_when_it_says() {
    let double = Double::start().await;
    let actuator = double.actuator(double.config(KubernetesJobs::Jobset)).await;
    double.api.memory().throttled = 2;
    actuator.carry_out(&isolate("n0")).await.expect("isolated");
    assert_eq!(double.answers(429), 2);
}

#[tokio::test]
async fn disruption_budgets_are_waited_for() {
    let double = Double::start().await;
    let config = Config { evict: true, ..double.config(KubernetesJobs::Jobset) };
    let actuator = double.actuator(config).await;
    double.add_pod("held", "n0", json!({"labels": {"budget": "one"}}));
    double.add_pod("free", "n0", json!({}));
    double.add_pod(
        "daemon",
        "n0",
        json!({"ownerReferences":
        [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "1"}]}),
    );
    double.add_pod("static", "n0", json!({"annotations": {"kubernetes.io/config.mirror": "x"}}));
    double.add_pod("elsewhere", "n1", json!({}));
    let mut order = isolate("n0");
    order.timeout_us = 3_000_000;
    let why = refused(&actuator, &order).await;
    assert!(why.contains("n0 is cordoned, but pods held are held by their disruption budgets"), "{why}");
    assert_eq!(double.pods(), ["daemon", "elsewhere", "held", "static"]);
    // Another pod that the budget counts, and this one may go.
    double.add_pod("other", "n1", json!({"labels": {"budget": "one"}}));
    let said = actuator.carry_out(&isolate("n0")).await.expect("evicted");
    assert!(said.ends_with("1 pods evicted"), "{said}");
    assert_eq!(double.pods(), ["daemon", "elsewhere", "other", "static"]);
    assert_eq!(double.answers(422), 0, "everything fits the schemas");
}

#[tokio::test]
async fn nothing_is_said_to_be_stopped_that_runs() {
    let double = Double::start().await;
    let actuator = double.actuator(double.config(KubernetesJobs::Jobset)).await;
    double.add_job(KubernetesJobs::Jobset, "llm", "training");
    // The controller of JobSets is away: what it is told stays without effect.
    double.api.memory().deaf = true;
    let order = restart("llm", 0, Step::Stop);
    let answer = timeout(Duration::from_secs(2), actuator.carry_out(&order)).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(double.pods().len(), controllers::PODS);
    double.api.memory().deaf = false;
    actuator.carry_out(&order).await.expect("stopped");
    // One that has ended for good is not stopped, and which of two is meant cannot be known.
    let failed = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "x", "message": "too many restarts",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let key = ("jobsets.jobset.x-k8s.io".to_owned(), "training".to_owned(), "llm".to_owned());
    let mut object = double.api.memory().objects[&key].clone();
    object["status"] = failed;
    double.api.memory().put(key, object);
    let why = refused(&actuator, &order).await;
    assert!(why.contains("has ended: failed too many restarts"), "{why}");
    double.add_job(KubernetesJobs::Jobset, "llm", "other");
    let why = refused(&actuator, &order).await;
    assert!(why.contains("the one in training or in other?"), "{why}");
}

#[tokio::test]
async fn pods_of_nodes_that_are_gone_are_deleted_only_where_that_is_wanted() {
    let double = Double::start().await;
    double.add_job(KubernetesJobs::Jobset, "llm", "training");
    let place = ("nodes".to_owned(), String::new(), "n0".to_owned());
    let mut gone = node(false);
    gone["metadata"] = json!({"name": "n0"});
    double.api.memory().put(place, gone);
    let order = restart("llm", 0, Step::Stop);
    let careful = double.actuator(double.config(KubernetesJobs::Jobset)).await;
    assert!(timeout(Duration::from_secs(2), careful.carry_out(&order)).await.is_err());
    let config = Config { delete_stuck_pods: true, ..double.config(KubernetesJobs::Jobset) };
    double.actuator(config).await.carry_out(&order).await.expect("stopped");
    assert_eq!(double.pods(), [""; 0]);
}

#[tokio::test]
async fn names_that_are_none_reach_no_other_object() {
    let double = Double::start().await;
    let actuator = double.actuator(double.config(KubernetesJobs::Jobset)).await;
    for name in ["../nodes/n0", "n0/status", "n0?dryRun=All", "N0", ""] {
        for order in [isolate(name), release(name), restart(name, 0, Step::Stop)] {
            let why = refused(&actuator, &order).await;
            assert!(
                why.contains("Kubernetes knows no node") || why.contains("Kubernetes has no JobSet"),
                "{why}"
            );
        }
    }
    assert_eq!(double.api.memory().writes, [""; 0]);
}

/// See the module.
#[tokio::test]
async fn real_cluster() {
    let Some(kubeconfig) = std::env::var_os("C4_TEST_KUBECONFIG") else {
        return eprintln!("skipped: C4_TEST_KUBECONFIG names no cluster");
    };
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let namespace = variable("C4_TEST_KUBERNETES_NAMESPACE", "default");
    let config = Config {
        kubeconfig: Some(kubeconfig.into()),
        namespaces: vec![namespace.clone()],
        ..Config::default()
    };
    let client = client(&config).await;
    if let Ok(node) = std::env::var("C4_TEST_KUBERNETES_NODE") {
        isolates_and_releases(&client, &config, &node).await;
    }
    for kind in KINDS {
        let name = serde_json::to_value(kind).expect("a name");
        if variable("C4_TEST_KUBERNETES_JOBS", "").split(',').any(|listed| name == listed) {
            restarts(&client, &Config { jobs: kind, ..config.clone() }, &namespace, "c4-test").await;
        }
    }
}

/// What the controller sees of nodes while nobody of us touches them, also where the API server has forgotten where its watch was.
#[tokio::test]
async fn what_becomes_of_nodes_is_seen_also_after_a_watch_was_lost() {
    let double = Double::start().await;
    let running = support::controller(&double.yaml("observe")).await;
    let cordon = |on: bool| {
        let key = ("nodes".to_owned(), String::new(), "n0".to_owned());
        let mut memory = double.api.memory();
        let mut node = memory.objects[&key].clone();
        node["spec"]["unschedulable"] = on.into();
        memory.put(key, node);
    };
    cordon(true);
    double.api.tell();
    support::event(&running, |event| event.text == "Kubernetes drains n0").await;
    cordon(false);
    double.api.memory().forget();
    double.api.tell();
    support::event(&running, |event| event.text == "Kubernetes uses n0 again").await;
    running.drain().await;
}

/// The controller's configuration in a file.
fn configure(double: &Double, dir: &Path, listen: &str) -> PathBuf {
    let config = dir.join("c4.yaml");
    let text = format!("{}state: {}\n", double.yaml("auto"), dir.join("state").display());
    let text = text.replace("listen: 127.0.0.1:0", &format!("listen: {listen}"));
    std::fs::write(&config, text).expect("written");
    config
}

/// The incarnation that the job's pods are, while it has any.
fn incarnation(api: &Api) -> Option<u32> {
    let memory = api.memory();
    let mut pods = memory.objects.iter().filter(|(key, _)| key.0 == "pods").map(|(_, pod)| pod);
    let annotations =
        pods.find(|pod| pod["metadata"]["deletionTimestamp"].is_null())?["metadata"]["annotations"].clone();
    Some(annotations["c4/incarnation"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// A controller that restarts a job is killed (SIGKILL) at a moment, and another finishes. Returns whether the moment came.
async fn killed_at(moment: &str, double: &Double) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let config = configure(double, dir.path(), "127.0.0.1:0");
    let (mut first, grpc) = support::program(&config, Some(moment)).await;
    configure(double, dir.path(), &grpc);
    let scenario = async {
        let came = tokio::select! {
            _ = first.wait() => true,
            _ = support::done(&grpc) => false,
        };
        if came {
            let (_second, grpc) = support::program(&config, None).await;
            let actions = support::done(&grpc).await;
            assert_eq!(actions.len(), 1, "killed {moment}: {actions:#?}");
        }
        came
    };
    let agents = support::agents::run(format!("http://{grpc}"), JOB, || incarnation(&double.api));
    tokio::select! {
        came = scenario => came,
        () = agents => unreachable!("they run for ever"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_at_every_step_restarts_a_job_once() {
    let moments: Vec<String> = (1..=4).flat_map(|n| [format!("before:{n}"), format!("after:{n}")]).collect();
    // Planned, stopping, starting, done: each before and after it was written, side by side; and none after that.
    let all = moments.into_iter().chain(["before:5".into()]).map(|moment| async move {
        let double = Double::start().await;
        double.add_job(KubernetesJobs::Jobset, JOB, "training");
        let came = killed_at(&moment, &double).await;
        let writes = double.api.memory().writes.clone();
        assert_eq!(writes, ["spec jobsets.jobset.x-k8s.io llm"; 2], "killed {moment}");
        let key = ("jobsets.jobset.x-k8s.io".to_owned(), "training".to_owned(), JOB.to_owned());
        let object = double.api.memory().objects[&key].clone();
        assert_eq!(object["metadata"]["annotations"]["c4/incarnation"], "1", "killed {moment}");
        assert_eq!(object["spec"]["suspend"], false, "killed {moment}");
        assert_eq!(came, moment != "before:5", "killed {moment}");
    });
    side_by_side(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_at_every_step_isolates_and_releases_a_node_once() {
    let moments: Vec<String> = (1..=6).flat_map(|n| [format!("before:{n}"), format!("after:{n}")]).collect();
    // Both planned, in their one step, and done: each before and after it was written; and none after that.
    let all = moments.into_iter().chain(["before:7".into()]).map(|moment| async move {
        let double = Double::start().await;
        let dir = tempfile::tempdir().expect("a directory");
        let config = configure(&double, dir.path(), "127.0.0.1:0");
        let (came, all) = support::isolated_and_released_though_killed(&config, &moment, "n0").await;
        let deeds: Vec<_> = all.iter().map(|action| action.deed.as_str()).collect();
        assert_eq!(deeds, ["isolate", "release"], "killed {moment}: {all:#?}");
        let writes = double.api.memory().writes.clone();
        let each = ["spec nodes n0", "status nodes n0"];
        assert_eq!(writes, [each, each].concat(), "killed {moment}");
        assert_eq!(came, moment != "before:7", "killed {moment}");
    });
    side_by_side(all).await;
}

async fn side_by_side(all: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let tasks: Vec<_> = all.map(tokio::spawn).collect();
    for task in tasks {
        task.await.expect("right");
    }
}
