//! Which actuator carries an order out: agents for the jobs they supervise, schedulers for theirs and for nodes, the hook
//! for what is left.

use std::sync::Arc;

use super::{
    action::{Order, Step},
    actuator::{Actuator, ActuatorError, Answer},
    hook::HookActuator,
    kubernetes::KubernetesActuator,
    local::LocalActuator,
    slurm::{self, SlurmActuator},
};
use crate::config::Steer as Config;

/// See the module.
pub struct Router {
    local: LocalActuator,
    slurm: Option<Arc<SlurmActuator>>,
    kubernetes: Option<Arc<KubernetesActuator>>,
    hook: Option<HookActuator>,
    hook_for_nodes: bool,
}

impl Router {
    /// The actuators of a configuration.
    #[must_use]
    pub fn new(
        config: &Config,
        local: LocalActuator,
        slurm: Option<Arc<SlurmActuator>>,
        kubernetes: Option<Arc<KubernetesActuator>>,
    ) -> Self {
        Self {
            local,
            slurm,
            kubernetes,
            hook: config.hook.clone().map(HookActuator::new),
            hook_for_nodes: config.hook.as_ref().is_some_and(|hook| hook.nodes),
        }
    }

    async fn job(&self, order: &Order) -> Result<String, ActuatorError> {
        let slurm_has = order.restart().is_some_and(|(job, ..)| slurm::number(job).is_some());
        match (&self.slurm, &self.kubernetes) {
            _ if self.local.has(order) => self.local.carry_out(order).await,
            (Some(slurm), _) if slurm_has => slurm.carry_out(order).await,
            (_, Some(kubernetes)) => kubernetes.carry_out(order).await,
            _ => self.local.carry_out(order).await,
        }
    }

    /// Everybody who can keep work from a node does.
    async fn nodes(&self, order: &Order) -> Result<String, ActuatorError> {
        let mut said = Vec::new();
        if let Some(slurm) = &self.slurm {
            let mut known = false;
            for node in order.action.deed.nodes() {
                known |= slurm.has(node).await?;
            }
            if known {
                said.push(slurm.carry_out(order).await?);
            }
        }
        if let Some(kubernetes) = &self.kubernetes {
            let mut known = false;
            for node in order.action.deed.nodes() {
                known |= kubernetes.has(node).await?;
            }
            if known {
                said.push(kubernetes.carry_out(order).await?);
            }
        }
        if self.hook_for_nodes {
            said.push(self.hook(order).await?);
        }
        said.retain(|words| !words.is_empty());
        if said.is_empty() && order.step == Step::Isolate {
            return Ok("by C4 alone: no scheduler is told".into());
        }
        Ok(said.join("; "))
    }

    async fn hook(&self, order: &Order) -> Result<String, ActuatorError> {
        match &self.hook {
            Some(hook) => hook.carry_out(order).await,
            None => Err(ActuatorError("no hook is configured".into())),
        }
    }
}

impl Actuator for Router {
    fn carry_out<'a>(&'a self, order: &'a Order) -> Answer<'a> {
        Box::pin(async move {
            match order.step {
                Step::Stop | Step::Start => self.job(order).await,
                Step::Isolate | Step::Release => self.nodes(order).await,
                Step::Check => self.local.carry_out(order).await,
                Step::Ticket => self.hook(order).await,
            }
        })
    }
}
