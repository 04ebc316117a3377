//! Turns readings into events: a condition is told when it begins and when it ends, not at each look.

use std::collections::BTreeMap;

use crate::report::Health;

type Key = (&'static str, Option<u32>, Option<String>, String);

/// Conditions that hold.
#[derive(Debug, Default)]
pub struct Transitions {
    holding: BTreeMap<Key, Health>,
}

fn key(health: &Health) -> Key {
    (health.component, health.gpu, health.nic.clone(), health.code.clone())
}

impl Transitions {
    /// Takes in *all* conditions that hold now. Returns those that are new, or have become better or worse, and takes
    /// back those that hold no longer.
    pub fn update(&mut self, conditions: Vec<Health>) -> Vec<Health> {
        let mut events = Vec::new();
        let mut holding = BTreeMap::new();
        for condition in conditions {
            let key = key(&condition);
            if self.holding.remove(&key).is_none_or(|before| before.severity != condition.severity) {
                events.push(condition.clone());
            }
            holding.insert(key, condition);
        }
        let over = std::mem::replace(&mut self.holding, holding);
        events.extend(over.into_values().map(|health| Health { cleared: true, ..health }));
        events
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::Severity;

    use super::*;

    fn condition(nic: &str, severity: Severity) -> Health {
        Health {
            component: "nic",
            gpu: None,
            nic: Some(nic.to_owned()),
            code: "link-down".to_owned(),
            detail: String::new(),
            severity,
            cleared: false,
        }
    }

    #[test]
    fn a_condition_is_told_at_its_begin_its_change_and_its_end() {
        let mut transitions = Transitions::default();
        let warning = condition("mlx5_0", Severity::Warning);
        let fatal = condition("mlx5_0", Severity::Fatal);
        assert_eq!(transitions.update(vec![warning.clone()]), std::slice::from_ref(&warning));
        assert_eq!(transitions.update(vec![warning]), []);
        assert_eq!(transitions.update(vec![fatal.clone()]), std::slice::from_ref(&fatal));
        assert_eq!(transitions.update(Vec::new()), [Health { cleared: true, ..fatal }]);
        assert_eq!(transitions.update(Vec::new()), []);
    }

    #[test]
    fn nics_are_told_apart() {
        let mut transitions = Transitions::default();
        let (one, other) = (condition("a", Severity::Fatal), condition("b", Severity::Fatal));
        assert_eq!(transitions.update(vec![one.clone(), other.clone()]).len(), 2);
        assert_eq!(transitions.update(vec![one]), [Health { cleared: true, ..other }]);
    }
}
