//! Nodes: cordon, taint and condition, and back.

use c4_detect::{observation::NodeName, words::rfc3339};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    ActuatorError, CONDITION, CORDONED, ISOLATED, KubernetesActuator, MANAGER, Order, failed, lost_race,
    object_name,
};

impl KubernetesActuator {
    /// Keeps new pods away from a node, says why in its condition, and evicts where that is wanted.
    pub(super) async fn isolate(&self, name: &NodeName, order: &Order) -> Result<String, ActuatorError> {
        let mut said = format!("Kubernetes cordons and taints {}", name.0);
        loop {
            let node = self.node(name).await?;
            if is_isolated(&node) && is_cordoned(&node) {
                break;
            }
            if is_cordoned(&node) && !is_isolated(&node) {
                said = format!("{} was cordoned in Kubernetes already; tainted, too", name.0);
            }
            if self.patched(name, &isolating(&node, &order.action.id.0)).await? {
                break;
            }
        }
        let message: String =
            order.action.because.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        self.condition(name, "True", "FaultFound", &message, order).await?;
        let node = self.node(name).await?;
        if !is_isolated(&node) || !is_cordoned(&node) {
            let why = format!("Kubernetes took the cordon of {} and shows it as usable", name.0);
            return Err(ActuatorError(why));
        }
        if self.config.evict {
            said += &self.evict(name, order).await?;
        }
        Ok(said)
    }

    /// Takes back what [`Self::isolate`] did, and nothing else.
    pub(super) async fn release(&self, name: &NodeName, order: &Order) -> Result<String, ActuatorError> {
        let mut said = format!("Kubernetes uses {} again", name.0);
        loop {
            let node = self.node(name).await?;
            if !is_isolated(&node) {
                if is_cordoned(&node) && !node.annotations().contains_key(ISOLATED) {
                    let why = format!("{} stays cordoned in Kubernetes, which C4 did not do", name.0);
                    return Err(ActuatorError(why));
                }
                break;
            }
            if is_cordoned(&node) && !node.annotations().contains_key(CORDONED) {
                said = format!("{} is no longer tainted; it was cordoned before, and stays so", name.0);
            }
            if self.patched(name, &releasing(&node)).await? {
                break;
            }
        }
        self.condition(name, "False", "Released", "", order).await?;
        if is_isolated(&self.node(name).await?) {
            let why = format!("Kubernetes took the release of {} and shows it as isolated", name.0);
            return Err(ActuatorError(why));
        }
        Ok(said)
    }

    async fn node(&self, name: &NodeName) -> Result<Node, ActuatorError> {
        let unknown = || ActuatorError(format!("Kubernetes knows no node {}", name.0));
        let known = object_name(&name.0).ok_or_else(unknown)?;
        self.nodes().get_opt(known).await.map_err(failed)?.ok_or_else(unknown)
    }

    /// Writes, unless somebody else did since the node was read. Returns whether it was written.
    async fn patched(&self, name: &NodeName, patch: &Value) -> Result<bool, ActuatorError> {
        let written = self.nodes().patch(&name.0, &parameters(), &Patch::Merge(patch)).await;
        match written {
            Ok(_) => Ok(true),
            Err(error) if lost_race(&error).await => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn condition(
        &self,
        name: &NodeName,
        status: &str,
        reason: &str,
        message: &str,
        order: &Order,
    ) -> Result<(), ActuatorError> {
        // The action's time, not the present: an order that comes again changes nothing.
        let at = rfc3339(order.action.planned);
        let condition = json!({
            "type": CONDITION, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": at, "lastTransitionTime": at,
        });
        let patch = json!({"status": {"conditions": [condition]}});
        // Conditions are merged by their type, so this one touches no other.
        let done = self.nodes().patch_status(&name.0, &parameters(), &Patch::Strategic(patch)).await;
        done.map(|_| ()).map_err(failed)
    }
}

/// Longest message of a condition, in characters.
const MAX_MESSAGE: usize = 500;

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

pub(super) fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

/// Whether C4's taint is on it.
pub(super) fn is_isolated(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.key == ISOLATED)
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn isolating(node: &Node, action: &str) -> Value {
    let ours = Taint { key: ISOLATED.into(), effect: "NoSchedule".into(), ..Taint::default() };
    let others = taints(node).iter().filter(|taint| taint.key != ISOLATED).cloned();
    let taints: Vec<Taint> = others.chain([ours]).collect();
    let mut annotations = json!({ISOLATED: action});
    if !is_cordoned(node) {
        annotations[CORDONED] = "true".into();
    }
    json!({
        "metadata": {"resourceVersion": node.resource_version(), "annotations": annotations},
        "spec": {"unschedulable": true, "taints": taints},
    })
}

fn releasing(node: &Node) -> Value {
    let others: Vec<&Taint> = taints(node).iter().filter(|taint| taint.key != ISOLATED).collect();
    let mut spec = json!({"taints": if others.is_empty() { Value::Null } else { json!(others) }});
    if node.annotations().contains_key(CORDONED) {
        spec["unschedulable"] = Value::Null;
    }
    json!({
        "metadata": {
            "resourceVersion": node.resource_version(),
            "annotations": {ISOLATED: null, CORDONED: null},
        },
        "spec": spec,
    })
}
