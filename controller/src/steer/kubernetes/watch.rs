//! What becomes of nodes and jobs in Kubernetes while nobody of us touches them: watched, and told to the brain.
//!
//! Each kind of thing has a watch of its own, which lists everything when it begins and again when the API server no longer
//! remembers where it was (410). What they have seen is gathered in one place and told whenever it has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
};

use c4_detect::observation::{JobId, NodeName};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt,
    api::DynamicObject,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::mpsc,
    time::{Duration, MissedTickBehavior, interval},
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{KubernetesActuator, LEAVE_ALONE, NAME, nodes};
use crate::{
    brain::Input,
    steer::scheduler::{SchedulerNode, Told},
};

/// Changes are told together this often.
const TELL: Duration = Duration::from_millis(500);

/// What was seen, and whether it was told.
#[derive(Default)]
struct Seen {
    nodes: Table<SchedulerNode>,
    /// By namespace.
    jobs: BTreeMap<String, Table<(JobId, Option<String>)>>,
    changed: bool,
}

impl Seen {
    /// Whether every watch has listed what there is.
    fn is_complete(&self, namespaces: usize) -> bool {
        self.nodes.complete && self.jobs.len() == namespaces && self.jobs.values().all(|table| table.complete)
    }
}

/// Things by name. While their watch begins anew, those that it has not come across yet are kept.
struct Table<T> {
    known: BTreeMap<String, T>,
    listed: Option<BTreeSet<String>>,
    complete: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listed: None, complete: false }
    }
}

impl<T: PartialEq> Table<T> {
    /// Takes an event of the watch in. Returns whether anything has changed.
    fn take<K: ResourceExt>(&mut self, event: Event<K>, read: impl Fn(&K) -> T) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Event::Apply(object) | Event::InitApply(object) => {
                let (key, value) = (object.name_any(), read(&object));
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                let same = self.known.get(&key) == Some(&value);
                self.known.insert(key, value);
                !same
            }
            Event::Delete(object) => self.known.remove(&object.name_any()).is_some(),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let before = self.known.len();
                self.known.retain(|key, _| listed.contains(key));
                let first = !std::mem::replace(&mut self.complete, true);
                first || before != self.known.len()
            }
        }
    }
}

/// Runs until cancelled. A cluster that does not answer is asked again, ever more slowly; that it does not is logged once.
pub async fn watch(
    kubernetes: Arc<KubernetesActuator>,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    let config = watcher::Config::default;
    let all_nodes = watcher(kubernetes.nodes(), config()).default_backoff();
    let mut all_jobs: std::pin::Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(tokio_stream::empty());
    for namespace in kubernetes.config.namespaces.clone() {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(kubernetes.client.clone(), &namespace, &kubernetes.config.resource());
        let jobs = watcher(api, config()).default_backoff().map(move |event| (namespace.clone(), event));
        all_jobs = Box::pin(all_jobs.merge(jobs));
    }
    let mut all_nodes = pin!(all_nodes);
    let mut seen = Seen::default();
    let mut troubled = false;
    let mut tell = interval(TELL);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let trouble = tokio::select! {
            () = cancel.cancelled() => return,
            Some(event) = all_nodes.next() => match event {
                Ok(event) => {
                    seen.changed |= seen.nodes.take(event, node);
                    None
                }
                Err(error) => Some(error),
            },
            Some((namespace, event)) = all_jobs.next() => match event {
                Ok(event) => {
                    seen.changed |= seen.jobs.entry(namespace).or_default().take(event, job);
                    None
                }
                Err(error) => Some(error),
            },
            _ = tell.tick() => {
                if seen.changed && seen.is_complete(kubernetes.config.namespaces.len()) {
                    seen.changed = false;
                    if inputs.send(Input::Scheduler(told(&seen))).await.is_err() {
                        return;
                    }
                }
                continue;
            }
        };
        match &trouble {
            Some(error) if !troubled => tracing::warn!("Kubernetes cannot be watched: {error}"),
            _ => {}
        }
        troubled = trouble.is_some();
    }
}

fn told(seen: &Seen) -> Told {
    Told {
        scheduler: NAME,
        nodes: seen.nodes.known.values().cloned().collect(),
        jobs: Some(seen.jobs.values().flat_map(|table| table.known.values().cloned()).collect()),
    }
}

fn job(object: &PartialObjectMeta<DynamicObject>) -> (JobId, Option<String>) {
    (JobId(object.name_any()), wish(object))
}

fn node(node: &Node) -> SchedulerNode {
    let ours = nodes::is_isolated(node).then(|| node.annotations().get(super::ISOLATED)).flatten();
    SchedulerNode {
        name: NodeName(node.name_any()),
        drained: nodes::is_cordoned(node) || nodes::is_isolated(node),
        down: !is_ready(node),
        reason: ours.cloned().unwrap_or_default(),
        opted_out: wish(node),
    }
}

/// Why something is to be left alone, if its annotation says so.
fn wish(object: &impl ResourceExt) -> Option<String> {
    let why = object.annotations().get(LEAVE_ALONE)?.trim();
    let why: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(if why.is_empty() { format!("annotation {LEAVE_ALONE}") } else { why })
}

/// Whether a node says that it is well. One that says nothing is taken by its word.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|condition| condition.type_ == "Ready").is_none_or(|ready| ready.status == "True")
}
