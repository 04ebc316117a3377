//! Figures that are kept as they come: of collectives, of trouble that lasts, and of what sensors read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use c4_metrics::{Collected, Family, Kind};

use crate::{
    recorders::Collectives,
    report::Health,
    sensors::{READINGS, Reading},
};

/// Jobs whose collectives are told apart; with more, the one that was longest silent goes.
const MAX_JOBS: usize = 16;
/// Trouble listed at once.
const MAX_TROUBLES: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// With the number of the call that told of the job last.
    jobs: BTreeMap<String, (u64, Collectives)>,
    calls: u64,
    /// By code, GPU and NIC.
    troubles: BTreeMap<(String, Option<u32>, Option<String>), ()>,
    readings: BTreeMap<&'static str, Vec<Reading>>,
}

impl Known {
    pub(super) fn collectives(&mut self, by_job: BTreeMap<String, Collectives>) {
        self.calls += 1;
        for (job, collectives) in by_job {
            if self.jobs.len() >= MAX_JOBS && !self.jobs.contains_key(&job) {
                let silent = self.jobs.iter().min_by_key(|(_, (call, _))| *call).map(|(job, _)| job.clone());
                self.jobs.remove(&silent.unwrap_or_default());
            }
            let (call, known) = self.jobs.entry(job).or_default();
            *call = self.calls;
            known.merge(&collectives);
        }
    }

    pub(super) fn health(&mut self, health: &Health) {
        let key = (health.code.clone(), health.gpu, health.nic.clone());
        if health.cleared {
            self.troubles.remove(&key);
        } else if self.troubles.len() < MAX_TROUBLES {
            self.troubles.insert(key, ());
        }
    }

    pub(super) fn readings(&mut self, sensor: &'static str, readings: Vec<Reading>) {
        self.readings.insert(sensor, readings);
    }
}

/// Shows them.
pub(super) struct Source(pub(super) Arc<Mutex<Known>>);

impl c4_metrics::Source for Source {
    fn families(&self) -> Vec<Family> {
        let collective = ["job", "operation", "size"];
        let own = [
            Family::new(
                Kind::Histogram,
                "c4_agent_collective_seconds",
                &collective,
                "Duration of collectives on this node's ranks, by operation and size up to so much; waiting for late ranks is in it",
            ),
            Family::new(
                Kind::Histogram,
                "c4_agent_bus_bandwidth_bytes_per_second",
                &collective,
                "Bus bandwidth of the same, as nccl-tests counts it",
            ),
            Family::new(
                Kind::Gauge,
                "c4_agent_health_trouble",
                &["code", "gpu", "nic"],
                "1 for trouble that a sensor has reported and not taken back",
            ),
        ];
        let read = READINGS.iter().map(|r| Family::new(r.kind, r.name, &[r.label], r.help));
        own.into_iter().chain(read).collect()
    }

    fn collect(&self, into: &mut Collected<'_>) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (job, (_, collectives)) in &known.jobs {
            for (function, size, alike) in collectives.iter() {
                let labels = [job.as_str(), function.label(), size];
                for (name, values) in [
                    ("c4_agent_collective_seconds", &alike.times),
                    ("c4_agent_bus_bandwidth_bytes_per_second", &alike.bandwidths),
                ] {
                    into.push_histogram(
                        name,
                        &labels,
                        values.scale().bounds(),
                        values.counts(),
                        values.sum(),
                    );
                }
            }
        }
        for (code, gpu, nic) in known.troubles.keys() {
            let gpu = gpu.map_or_else(String::new, |gpu| gpu.to_string());
            into.push("c4_agent_health_trouble", &[code, &gpu, nic.as_deref().unwrap_or("")], 1.0);
        }
        for reading in known.readings.values().flatten() {
            into.push(reading.name, &[&reading.of], reading.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::Severity;
    use c4_metrics::Catalogue;

    use super::*;

    fn trouble(code: &str, cleared: bool) -> Health {
        Health {
            component: "gpu",
            gpu: Some(3),
            nic: None,
            code: code.into(),
            detail: String::new(),
            severity: Severity::Fatal,
            cleared,
        }
    }

    #[test]
    fn trouble_is_listed_until_it_is_taken_back() {
        let known = Arc::new(Mutex::new(Known::default()));
        let mut catalogue = Catalogue::new("x", "1").unwrap();
        catalogue.source(Source(Arc::clone(&known))).unwrap();
        known.lock().unwrap().health(&trouble("xid-79", false));
        let line = "c4_agent_health_trouble{code=\"xid-79\",gpu=\"3\",nic=\"\"} 1";
        assert!(catalogue.text().unwrap().contains(line));
        known.lock().unwrap().health(&trouble("xid-79", true));
        assert!(!catalogue.text().unwrap().contains("xid-79"));
    }

    #[test]
    fn the_job_that_was_silent_longest_makes_room() {
        let mut known = Known::default();
        for n in 0..40 {
            known.collectives(BTreeMap::from([(format!("job-{n}"), Collectives::default())]));
            known.collectives(BTreeMap::from([("steady".to_owned(), Collectives::default())]));
        }
        assert_eq!(known.jobs.len(), MAX_JOBS);
        assert!(known.jobs.contains_key("steady") && known.jobs.contains_key("job-39"));
    }
}
