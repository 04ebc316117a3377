//! What acts on the objects of the tests' API server: the controllers of JobSets, PyTorchJobs and Volcano's jobs, as far as
//! suspending and resuming goes, a scheduler that puts pods on usable nodes, and kubelets that end pods on nodes that are ready.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::interval;

use super::api::{Api, Key, Memory};

/// Jobs have so many pods.
pub(crate) const PODS: usize = 2;

/// Ends pods that are to end, as kubelets do, after a while.
pub(crate) async fn run(api: Api) {
    let mut ticks = interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        {
            let mut memory = api.memory();
            let ending = |(key, pod): (&Key, &Value)| {
                let node = (
                    String::from("nodes"),
                    String::new(),
                    pod["spec"]["nodeName"].as_str().unwrap_or_default().into(),
                );
                let due = key.0 == "pods" && !pod["metadata"]["deletionTimestamp"].is_null();
                (due && memory.objects.get(&node).is_some_and(is_ready)).then(|| key.clone())
            };
            let ended: Vec<Key> = memory.objects.iter().filter_map(ending).collect();
            for key in &ended {
                memory.remove(key);
            }
            act(&mut memory);
        }
        api.tell();
    }
}

/// Does what follows from how things are.
pub(crate) fn act(memory: &mut Memory) {
    if memory.deaf {
        return;
    }
    obey_commands(memory);
    let jobs: Vec<(Key, Value)> = memory
        .objects
        .iter()
        .filter(|(key, _)| key.0.contains('.'))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for (key, job) in jobs {
        match key.0.as_str() {
            "jobsets.jobset.x-k8s.io" => {
                let template = &job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"];
                let label = "jobset.sigs.k8s.io/jobset-name";
                pods(memory, &key, job["spec"]["suspend"] == true, label, template, None);
            }
            "pytorchjobs.kubeflow.org" => {
                let template = &job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"];
                let label = "training.kubeflow.org/job-name";
                pods(memory, &key, job["spec"]["runPolicy"]["suspend"] == true, label, template, None);
            }
            "jobs.batch.volcano.sh" => volcano(memory, &key, job),
            _ => {}
        }
    }
}

/// Sees to it that a job has its pods, or none.
fn pods(
    memory: &mut Memory,
    job: &Key,
    stopped: bool,
    label: &str,
    template: &Value,
    version: Option<u64>,
) -> bool {
    let of_job = |key: &Key, pod: &Value| {
        key.0 == "pods" && key.1 == job.1 && pod["metadata"]["labels"][label] == job.2
    };
    let there: Vec<(Key, Value)> =
        memory.objects.iter().filter(|(k, v)| of_job(k, v)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if stopped {
        for (key, mut pod) in
            there.iter().filter(|(_, pod)| pod["metadata"]["deletionTimestamp"].is_null()).cloned()
        {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            memory.put(key, pod);
        }
        return there.is_empty();
    }
    for index in there.len()..PODS {
        let usable = |key: &Key, node: &Value| {
            key.0 == "nodes" && node["spec"]["unschedulable"] != true && is_ready(node)
        };
        let Some(node) = memory.objects.iter().find(|(k, v)| usable(k, v)).map(|(key, _)| key.2.clone())
        else {
            break;
        };
        let mut pod = template.clone();
        (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
        pod["metadata"]["labels"][label] = job.2.clone().into();
        if let Some(version) = version {
            pod["metadata"]["annotations"]["volcano.sh/job-version"] = version.to_string().into();
        }
        pod["spec"]["nodeName"] = node.into();
        pod["status"] = json!({"phase": "Running"});
        let name = format!("{}-{index}-{}", job.2, memory.objects.len());
        memory.add(("pods".into(), job.1.clone(), name), pod);
    }
    false
}

fn volcano(memory: &mut Memory, key: &Key, mut job: Value) {
    let phase = job["status"]["state"]["phase"].as_str().unwrap_or("Running").to_owned();
    let version = job["status"]["version"].as_u64().unwrap_or(0);
    let template = job["spec"]["tasks"][0]["template"].clone();
    let stopped = matches!(phase.as_str(), "Aborting" | "Aborted" | "Restarting");
    let gone = pods(memory, key, stopped, "volcano.sh/job-name", &template, Some(version));
    let next = match phase.as_str() {
        "Aborting" if gone => "Aborted",
        "Restarting" if gone => "Running",
        _ => return,
    };
    job["status"]["state"]["phase"] = next.into();
    job["status"]["version"] = (version + 1).into();
    memory.put(key.clone(), job);
}

/// Volcano takes a command away, and then does what it says.
fn obey_commands(memory: &mut Memory) {
    let commands: Vec<(Key, Value)> = memory
        .objects
        .iter()
        .filter(|(key, _)| key.0 == "commands.bus.volcano.sh")
        .map(|(key, command)| (key.clone(), command.clone()))
        .collect();
    for (key, command) in commands {
        memory.remove(&key);
        memory.writes.push(format!("command {} {}", command["action"].as_str().unwrap_or_default(), key.2));
        let job = (
            "jobs.batch.volcano.sh".into(),
            key.1.clone(),
            command["target"]["name"].as_str().unwrap_or_default().into(),
        );
        let Some(mut object) = memory.objects.get(&job).cloned() else { continue };
        let phase = object["status"]["state"]["phase"].as_str().unwrap_or("Running").to_owned();
        object["status"]["state"]["phase"] = match (command["action"].as_str(), phase.as_str()) {
            (Some("AbortJob"), "Running") => "Aborting".into(),
            (Some("ResumeJob"), "Aborted") => "Restarting".into(),
            _ => phase.into(),
        };
        memory.put(job, object);
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    ready.is_none_or(|ready| ready["status"] == "True")
}

/// An eviction: a deletion that disruption budgets may forbid. Budgets are the namespace's pods that carry the label "budget":
/// at least one of each value has to stay.
pub(crate) fn evict(
    memory: &mut Memory,
    key: &Key,
    eviction: &Value,
) -> Result<Value, (u16, &'static str, String)> {
    let pod = memory.objects.get(key).cloned().ok_or((404, "NotFound", format!("no pod {}", key.2)))?;
    let budget = &pod["metadata"]["labels"]["budget"];
    let same = |other: &&Value| {
        other["metadata"]["labels"]["budget"] == *budget && other["metadata"]["deletionTimestamp"].is_null()
    };
    if !budget.is_null() && memory.objects.values().filter(same).count() <= 1 {
        let why = "Cannot evict pod as it would violate the pod's disruption budget.";
        return Err((429, "TooManyRequests", why.into()));
    }
    delete(memory, key, &eviction["deleteOptions"])
}

pub(crate) fn delete(
    memory: &mut Memory,
    key: &Key,
    options: &Value,
) -> Result<Value, (u16, &'static str, String)> {
    let mut object =
        memory.objects.get(key).cloned().ok_or((404, "NotFound", format!("no {} {}", key.0, key.2)))?;
    let uid = &options["preconditions"]["uid"];
    if !uid.is_null() && *uid != object["metadata"]["uid"] {
        return Err((409, "Conflict", "the UID in the precondition does not match".into()));
    }
    memory.writes.push(format!("delete {} {}", key.0, key.2));
    if options["gracePeriodSeconds"] == 0 {
        memory.remove(key);
    } else {
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        memory.put(key.clone(), object.clone());
    }
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
}
