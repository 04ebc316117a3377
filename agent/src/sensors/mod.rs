//! Health of the node: host, GPUs, NICs, kernel log. Every sensor is optional; one that is missing is reported as missing,
//! with the reason, and the agent runs with none of them.
//!
//! Sensors may block (NVML does, on a GPU that is dying), so each has a thread of its own and speaks over the agent's
//! bounded report queue; a sensor that hangs takes nothing else with it. Threads end at the next turn after `stop`,
//! and do not outlive the process. What they decide is in pure functions on text and numbers.

mod address;
mod gpu;
mod gpus;
mod host;
mod kmsg;
mod limits;
mod nic;
mod nic_class;
mod nvml;
mod rdma;
mod reading;
mod spinning;
mod transitions;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

pub use address::Address;
pub use gpu::GpuLimits;
pub use gpus::Gpus;
pub use host::{HostReading, HostSensor, HostSettings, parse_cpu, parse_full_pressure, parse_task};
pub use kmsg::{KmsgSensor, KmsgSettings, Places, parse_record};
pub use limits::{GainLimit, ShareLimit};
pub use nic::{CounterRule, FlapLimit, NicReading, NicSensor, NicSettings, read_all as read_nics};
pub use nic_class::nic_class;
pub(crate) use nvml::gpus_on_bus;
pub use nvml::{NvmlSensor, NvmlSettings};
pub use rdma::{RdmaPort, rdma_ports};
pub use reading::{Declared, READINGS, Reading};
pub use spinning::Spinning;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::warn;
pub use transitions::Transitions;

use crate::{
    metrics::Metrics,
    report::{Captured, Health, Report, SensorStatus},
};

/// A sensor that is there.
pub trait Sensor: Send {
    /// Looks, and says what changed. `now` is a monotonic clock. May block for about `interval`, if that is how it waits
    /// for events; returns whether it did.
    fn sample(&mut self, now: Instant, interval: Duration) -> Sampled;
}

/// What one look gave.
#[derive(Debug, Default)]
pub struct Sampled {
    /// What changed.
    pub health: Vec<Health>,
    /// What was read.
    pub readings: Vec<Reading>,
    /// The sensor waited for the interval itself.
    pub waited: bool,
    /// The sensor is gone: why.
    pub lost: Option<String>,
}

/// Which sensors are wanted, and where they look.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorSettings {
    /// Time between two looks.
    pub interval: Duration,
    /// Host, if wanted.
    pub host: Option<HostSettings>,
    /// NVML, if wanted.
    pub nvml: Option<NvmlSettings>,
    /// NICs, if wanted.
    pub nic: Option<NicSettings>,
    /// Kernel log, if wanted.
    pub kmsg: Option<KmsgSettings>,
}

impl Default for SensorSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            host: Some(HostSettings::default()),
            nvml: Some(NvmlSettings::default()),
            nic: Some(NicSettings::default()),
            kmsg: Some(KmsgSettings::default()),
        }
    }
}

impl SensorSettings {
    /// GPUs as the driver's directory shows them.
    #[must_use]
    pub fn gpus(&self) -> Gpus {
        Gpus::new(&self.kmsg.clone().unwrap_or_default().gpus)
    }

    /// Where sysfs is.
    #[must_use]
    pub fn sys_root(&self) -> PathBuf {
        self.nic.as_ref().map_or_else(|| "/sys".into(), |nic| nic.sys_root.clone())
    }
}

/// Sensors that run.
#[derive(Debug)]
pub struct Sensors {
    stop: Arc<AtomicBool>,
    /// State of every sensor.
    pub status: watch::Receiver<Vec<SensorStatus>>,
    /// GPUs whose kernels touch no memory.
    pub spinning: Spinning,
    /// Where which GPU is.
    pub gpus: Gpus,
}

type Opened = Result<(Box<dyn Sensor>, String), String>;

/// Opens one sensor: what was found, or why it is missing.
type Open = Box<dyn Fn() -> Opened + Send>;

/// A sensor that is missing is looked for again after this time: its driver may be loaded later.
const AGAIN: Duration = Duration::from_secs(30);

impl Sensors {
    /// Starts the sensors. `recorder` says where recorders are looked for: that sensor is always there.
    #[must_use]
    pub fn start(
        settings: &SensorSettings,
        recorder: String,
        reports: &mpsc::Sender<Captured>,
        metrics: &Metrics,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let first = SensorStatus { name: "recorder", present: true, detail: recorder };
        let (status, receiver) = watch::channel(vec![first]);
        let spinning = Spinning::new(settings.interval);
        let noted = spinning.clone();
        let kernel_log = settings.kmsg.clone();
        let gpus = settings.gpus();
        let (counted, named) = (gpus.clone(), gpus.clone());
        // An XID shows in the kernel log and in NVML. The log has the better text; NVML is for where there is no log.
        let xid_events =
            kernel_log.as_ref().is_none_or(|log| KmsgSensor::open(log.clone(), gpus.clone()).is_err());
        let wanted: [(&'static str, Option<Open>); 4] = [
            (
                "host",
                settings.host.clone().map(|host| -> Open {
                    Box::new(move || {
                        HostSensor::open(host.clone()).map(|(sensor, detail)| (sensor.boxed(), detail))
                    })
                }),
            ),
            (
                "nvml",
                settings.nvml.clone().map(|nvml| -> Open {
                    Box::new(move || {
                        NvmlSensor::open(&nvml, xid_events, noted.clone(), &counted)
                            .map(|(sensor, detail)| (sensor.boxed(), detail))
                    })
                }),
            ),
            (
                "nic",
                settings.nic.clone().map(|nic| -> Open {
                    Box::new(move || {
                        NicSensor::open(nic.clone()).map(|(sensor, detail)| (sensor.boxed(), detail))
                    })
                }),
            ),
            (
                "kmsg",
                kernel_log.map(|log| -> Open {
                    Box::new(move || {
                        KmsgSensor::open(log.clone(), named.clone())
                            .map(|(sensor, detail)| (sensor.boxed(), detail))
                    })
                }),
            ),
        ];
        for (name, open) in wanted {
            let Some(open) = open else {
                set(&status, name, false, "turned off".to_owned());
                continue;
            };
            let worker = Worker {
                name,
                interval: settings.interval,
                again: AGAIN,
                reports: reports.clone(),
                status: status.clone(),
                metrics: metrics.clone(),
                stop: Arc::clone(&stop),
            };
            let spawned = thread::Builder::new().name(format!("c4-{name}")).spawn(move || worker.run(open));
            if let Err(error) = spawned {
                set(&status, name, false, format!("cannot start its thread: {error}"));
            }
        }
        Self { stop, status: receiver, spinning, gpus }
    }

    /// Waits until every sensor has said whether it is there, or for the time given: NVML may take seconds.
    pub async fn settle(&mut self, limit: Duration) {
        let all = self.status.wait_for(|status| status.len() == 5);
        if tokio::time::timeout(limit, all).await.is_err() {
            warn!("some sensor takes long to start; it is reported at the next connection");
        }
    }
}

impl Drop for Sensors {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn set(status: &watch::Sender<Vec<SensorStatus>>, name: &'static str, present: bool, detail: String) {
    let now = SensorStatus { name, present, detail };
    status.send_if_modified(|list| {
        let is_news = !list.contains(&now);
        if is_news {
            list.retain(|sensor| sensor.name != name);
            list.push(now);
        }
        is_news
    });
}

struct Worker {
    name: &'static str,
    interval: Duration,
    again: Duration,
    reports: mpsc::Sender<Captured>,
    status: watch::Sender<Vec<SensorStatus>>,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(self, open: Open) {
        while !self.is_stopped() {
            match open() {
                Ok((sensor, detail)) => {
                    set(&self.status, self.name, true, detail);
                    self.look(sensor);
                }
                Err(why) => set(&self.status, self.name, false, why),
            }
            let missing = Instant::now();
            while !self.is_stopped() && missing.elapsed() < self.again {
                thread::park_timeout(self.interval);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.reports.is_closed()
    }

    /// Looks until the sensor is lost, or nobody wants to know any more.
    fn look(&self, mut sensor: Box<dyn Sensor>) {
        while !self.is_stopped() {
            let sampled = sensor.sample(Instant::now(), self.interval);
            self.metrics.readings(self.name, sampled.readings);
            for health in sampled.health {
                self.metrics.health(&health);
                if self.reports.blocking_send(Captured::now(Report::Health(health))).is_err() {
                    return;
                }
            }
            if let Some(why) = sampled.lost {
                warn!(sensor = self.name, %why, "a sensor is lost");
                return set(&self.status, self.name, false, why);
            }
            if !sampled.waited {
                thread::park_timeout(self.interval);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sensor that is lost at its first look.
    struct Fleeting;

    impl Sensor for Fleeting {
        fn sample(&mut self, _: Instant, _: Duration) -> Sampled {
            Sampled { lost: Some("it is gone".into()), ..Sampled::default() }
        }
    }

    #[tokio::test]
    async fn a_sensor_that_is_missing_or_lost_is_looked_for_again() {
        let (reports, _kept) = mpsc::channel(1);
        let (status, mut seen) = watch::channel(Vec::new());
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            name: "late",
            interval: Duration::from_millis(1),
            again: Duration::from_millis(5),
            reports,
            status,
            metrics: Metrics::new("n1").unwrap(),
            stop: Arc::clone(&stop),
        };
        let tries = std::sync::atomic::AtomicU32::new(0);
        let open = move || match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Err("no driver yet".to_owned()),
            _ => Ok((Box::new(Fleeting) as Box<dyn Sensor>, "found".to_owned())),
        };
        let running = thread::spawn(move || worker.run(Box::new(open)));
        for detail in ["no driver yet", "it is gone"] {
            let told = seen.wait_for(|status| status.iter().any(|sensor| sensor.detail == detail));
            tokio::time::timeout(Duration::from_secs(30), told).await.expect("in time").expect("it runs");
        }
        stop.store(true, Ordering::Relaxed);
        running.join().unwrap();
    }
}
