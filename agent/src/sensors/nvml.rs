//! GPUs, through NVIDIA's management library, loaded at run time: no library, no sensor, and the agent runs on.
//!
//! The library is only read here; what a reading means is decided by [`Judge`], which is pure. Calls may block for seconds
//! on a GPU that is dying, which is why every sensor has a thread of its own.

use std::{collections::BTreeMap, ffi::OsStr, path::Path, time::Duration};

use c4_detect::{catalogue, observation::Severity};
use nvml_wrapper::{
    Device, EventSet, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enum_wrappers::nv_link::ErrorCounter,
    enums::device::SampleValue,
    enums::event::XidError,
    error::NvmlError,
    structs::device::FieldId,
    sys_exports::field_id::{NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING},
};
use tokio::time::Instant;

use super::{Sampled, Sensor, Transitions};
use crate::report::Health;

/// Where the library is, if nobody says otherwise: the driver's package has the first, development machines the second.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Links a GPU has at most.
const MAX_LINKS: u32 = 18;

/// PCIe replays per second that are no longer noise.
const REPLAYS_PER_SECOND: f64 = 10.0;

/// What NVML says about one GPU. A field the GPU does not have is `None` and says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct GpuReading {
    /// The GPU does not answer: why.
    pub lost: Option<String>,
    /// Uncorrectable memory errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Rows wait for the next reset to be remapped.
    pub remap_pending: Option<bool>,
    /// Rows could not be remapped.
    pub remap_failed: Option<bool>,
    /// Hardware slows the clock down: heat, power brake, or both.
    pub slowdown: Option<&'static str>,
    /// SM clock in MHz.
    pub sm_mhz: Option<u32>,
    /// Temperature in °C.
    pub celsius: Option<u32>,
    /// Power in mW.
    pub milliwatts: Option<u32>,
    /// PCIe packets sent again since the driver was loaded.
    pub pcie_replays: Option<u32>,
    /// PCIe lanes in use, and of how many.
    pub pcie_width: Option<(u32, u32)>,
    /// NVLinks, by number: active, and errors since the driver was loaded. GPUs without NVLink have none.
    pub nvlinks: BTreeMap<u32, (bool, u64)>,
}

#[derive(Debug, Default)]
struct Judge {
    first: BTreeMap<u32, GpuReading>,
    last: BTreeMap<u32, GpuReading>,
    at: Option<Instant>,
    transitions: Transitions,
}

impl Judge {
    fn update(&mut self, readings: BTreeMap<u32, GpuReading>, now: Instant) -> Vec<Health> {
        let seconds = self.at.map_or(1.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        let mut conditions = Vec::new();
        for (gpu, reading) in &readings {
            let mut tell = |code: &str, severity, detail: String| {
                let (component, gpu, code) = ("gpu", Some(*gpu), code.to_owned());
                conditions.push(Health { component, gpu, nic: None, code, detail, severity, cleared: false });
            };
            if let Some(why) = &reading.lost {
                tell("gpu-lost", Severity::Fatal, why.clone());
                continue;
            }
            let first = self.first.entry(*gpu).or_insert_with(|| reading.clone());
            let last = self.last.get(gpu).unwrap_or(reading);
            let gained = |now: Option<u64>, then: Option<u64>| {
                Some(now?.saturating_sub(then?)).filter(|gain| *gain > 0)
            };

            if let Some(gain) = gained(reading.ecc_uncorrected, first.ecc_uncorrected) {
                tell("ecc-uncorrectable", Severity::Fatal, format!("{gain} uncorrectable memory errors"));
            }
            if reading.remap_failed == Some(true) {
                tell("row-remap-failed", Severity::Fatal, "a memory row could not be remapped".to_owned());
            }
            if reading.remap_pending == Some(true) {
                tell("row-remap-pending", Severity::Warning, "memory rows wait for a GPU reset".to_owned());
            }
            if let Some(reason) = reading.slowdown {
                let detail = format!("{reason}: {}", clocks(reading));
                tell("hw-slowdown", Severity::Warning, detail);
            }
            let replays = gained(reading.pcie_replays.map(u64::from), last.pcie_replays.map(u64::from));
            if let Some(gain) = replays.filter(|gain| *gain as f64 > REPLAYS_PER_SECOND * seconds) {
                tell("pcie-replay", Severity::Warning, format!("{gain} PCIe replays in {seconds:.1} s"));
            }
            if let Some((width, most)) = reading.pcie_width.filter(|(width, most)| width < most) {
                tell("pcie-width", Severity::Warning, format!("{width} of {most} PCIe lanes"));
            }
            judge_links(reading, first, last, &mut tell);
        }
        self.last = readings;
        self.transitions.update(conditions)
    }
}

/// A link that was never active (a PCIe board, a free bridge) is not down.
fn judge_links(
    reading: &GpuReading,
    first: &mut GpuReading,
    last: &GpuReading,
    tell: &mut impl FnMut(&str, Severity, String),
) {
    let mut down = Vec::new();
    let mut erring = Vec::new();
    for (link, (active, errors)) in &reading.nvlinks {
        let known = first.nvlinks.entry(*link).or_insert((*active, *errors));
        known.0 |= *active;
        if known.0 && !active {
            down.push(link.to_string());
        }
        if last.nvlinks.get(link).is_some_and(|(_, before)| errors > before) {
            erring.push(link.to_string());
        }
    }
    if !down.is_empty() {
        tell("nvlink-down", Severity::Fatal, format!("NVLink {} was up and is down", down.join(", ")));
    }
    if !erring.is_empty() {
        tell(
            "nvlink-errors",
            Severity::Warning,
            format!("NVLink {} recovers from errors", erring.join(", ")),
        );
    }
}

fn clocks(reading: &GpuReading) -> String {
    let mut parts = Vec::new();
    parts.extend(reading.sm_mhz.map(|mhz| format!("{mhz} MHz")));
    parts.extend(reading.celsius.map(|celsius| format!("{celsius} °C")));
    parts.extend(reading.milliwatts.map(|power| format!("{} W", power / 1000)));
    parts.join(", ")
}

/// Reads all GPUs.
pub struct NvmlSensor {
    nvml: &'static Nvml,
    gpus: u32,
    /// `None` where NVML has no events (as in some virtual machines), or somebody else reports XIDs.
    events: Option<EventSet<'static>>,
    judge: Judge,
}

impl NvmlSensor {
    /// Loads the library. With `xid_events` it also reports XIDs as NVML sees them.
    ///
    /// # Errors
    /// No library, no driver, no GPU: why.
    pub fn open(library: Option<&Path>, xid_events: bool) -> Result<(Self, String), String> {
        let load = |name: &OsStr| Nvml::builder().lib_path(name).init();
        let loaded = match library {
            Some(path) => load(path.as_os_str()),
            None => load(OsStr::new(LIBRARIES[0])).or_else(|_| load(OsStr::new(LIBRARIES[1]))),
        };
        let nvml = loaded.map_err(|error| match error {
            NvmlError::LibloadingError(_) => "no NVIDIA driver (libnvidia-ml is not there)".to_owned(),
            error => error.to_string(),
        })?;
        let gpus = nvml.device_count().map_err(|error| error.to_string())?;
        if gpus == 0 {
            return Err("the driver shows no GPU".to_owned());
        }
        let model = nvml.device_by_index(0).and_then(|device| device.name()).unwrap_or_default();
        let driver = nvml.sys_driver_version().unwrap_or_default();
        let detail = format!("{gpus} × {model}, driver {driver}");
        // The event set borrows the library, and both are kept until the process ends: there is one of them.
        let nvml: &'static Nvml = Box::leak(Box::new(nvml));
        let events = if xid_events { listen(nvml, gpus) } else { None };
        Ok((Self { nvml, gpus, events, judge: Judge::default() }, detail))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }
}

/// Asks for XIDs of all GPUs.
fn listen(nvml: &'static Nvml, gpus: u32) -> Option<EventSet<'static>> {
    let mut set = nvml.create_event_set().ok()?;
    for gpu in 0..gpus {
        set = nvml.device_by_index(gpu).ok()?.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok()?;
    }
    Some(set)
}

/// An XID that arrives within `interval`, if one does.
fn wait_for_xid(events: &EventSet<'static>, interval: Duration) -> Result<Option<Health>, NvmlError> {
    match events.wait(u32::try_from(interval.as_millis()).unwrap_or(1000)) {
        Ok(event) => Ok(match event.event_data {
            Some(XidError::Value(number)) => Some(xid_event(event.device.index().ok(), number)),
            _ => None,
        }),
        Err(NvmlError::Timeout) => Ok(None),
        Err(error) => Err(error),
    }
}

fn xid_event(gpu: Option<u32>, number: u64) -> Health {
    let entry = catalogue::xid::entry(u32::try_from(number).unwrap_or(u32::MAX), "");
    let (component, code, severity) = ("gpu", format!("xid-{number}"), entry.severity);
    let detail = format!("the GPU {}", entry.said);
    Health { component, gpu, nic: None, code, detail, severity, cleared: false }
}

fn read(device: &Device<'_>) -> GpuReading {
    let remapped = |id| {
        let values = device.field_values_for(&[FieldId(id)]).ok()?;
        match values.into_iter().next()?.ok()?.value.ok()? {
            SampleValue::U32(value) => Some(value != 0),
            SampleValue::U64(value) => Some(value != 0),
            _ => None,
        }
    };
    let temperature = device.temperature(TemperatureSensor::Gpu);
    if let Err(NvmlError::GpuLost) = temperature {
        return GpuReading { lost: Some("the GPU does not answer".to_owned()), ..GpuReading::default() };
    }
    let width = device.current_pcie_link_width().ok().zip(device.max_pcie_link_width().ok());
    GpuReading {
        lost: None,
        ecc_uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        remap_pending: remapped(NVML_FI_DEV_REMAPPED_PENDING),
        remap_failed: remapped(NVML_FI_DEV_REMAPPED_FAILURE),
        slowdown: device.current_throttle_reasons().ok().and_then(slowdown),
        sm_mhz: device.clock_info(Clock::SM).ok(),
        celsius: temperature.ok(),
        milliwatts: device.power_usage().ok(),
        pcie_replays: device.pcie_replay_counter().ok(),
        pcie_width: width,
        nvlinks: (0..MAX_LINKS).filter_map(|link| Some((link, read_link(device, link)?))).collect(),
    }
}

fn read_link(device: &Device<'_>, link: u32) -> Option<(bool, u64)> {
    let link = device.link_wrapper_for(link);
    let active = link.is_active().ok()?;
    let kinds = [ErrorCounter::DlReplay, ErrorCounter::DlRecovery];
    Some((active, kinds.into_iter().filter_map(|kind| link.error_counter(kind).ok()).sum()))
}

/// Slowing down by software (power cap, idle) is everyday; by hardware it is not.
fn slowdown(reasons: ThrottleReasons) -> Option<&'static str> {
    if reasons.contains(ThrottleReasons::HW_THERMAL_SLOWDOWN) {
        Some("too hot")
    } else if reasons.contains(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN) {
        Some("power brake")
    } else if reasons.contains(ThrottleReasons::HW_SLOWDOWN) {
        Some("slowed down by hardware")
    } else {
        None
    }
}

impl Sensor for NvmlSensor {
    fn sample(&mut self, now: Instant, interval: Duration) -> Sampled {
        let mut readings = BTreeMap::new();
        for gpu in 0..self.gpus {
            let reading = match self.nvml.device_by_index(gpu) {
                Ok(device) => read(&device),
                Err(error) => GpuReading { lost: Some(error.to_string()), ..GpuReading::default() },
            };
            readings.insert(gpu, reading);
        }
        let mut health = self.judge.update(readings, now);
        let mut waited = false;
        if let Some(events) = &self.events {
            match wait_for_xid(events, interval) {
                Ok(event) => {
                    health.extend(event);
                    waited = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "NVML tells no events any more");
                    self.events = None;
                }
            }
        }
        Sampled { health, waited, lost: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(steps: Vec<GpuReading>) -> Vec<Vec<(String, bool)>> {
        let start = Instant::now();
        let mut judge = Judge::default();
        let step = |(second, reading): (usize, GpuReading)| {
            let now = start + Duration::from_secs(second as u64);
            let events = judge.update(BTreeMap::from([(4, reading)]), now);
            assert!(events.iter().all(|event| event.gpu == Some(4)));
            events.into_iter().map(|event| (event.code, event.cleared)).collect()
        };
        steps.into_iter().enumerate().map(step).collect()
    }

    fn told(code: &str, cleared: bool) -> Vec<(String, bool)> {
        vec![(code.to_owned(), cleared)]
    }

    #[test]
    fn errors_of_before_are_no_news_new_ones_are() {
        let with = |count| GpuReading { ecc_uncorrected: Some(count), ..GpuReading::default() };
        assert_eq!(
            judge(vec![with(3), with(3), with(4)]),
            [vec![], vec![], told("ecc-uncorrectable", false)]
        );
    }

    #[test]
    fn a_link_that_was_never_up_is_not_down() {
        let with =
            |active| GpuReading { nvlinks: BTreeMap::from([(0, (active, 0))]), ..GpuReading::default() };
        assert_eq!(judge(vec![with(false), with(false)]), [vec![], vec![]]);
        let steps = judge(vec![with(true), with(false), with(true)]);
        assert_eq!(steps, [vec![], told("nvlink-down", false), told("nvlink-down", true)]);
    }

    #[test]
    fn a_lost_gpu_says_only_that() {
        let lost =
            GpuReading { lost: Some("gone".into()), remap_failed: Some(true), ..GpuReading::default() };
        assert_eq!(judge(vec![GpuReading::default(), lost]), [vec![], told("gpu-lost", false)]);
    }

    #[test]
    fn replays_are_judged_by_rate() {
        let with = |count| GpuReading { pcie_replays: Some(count), ..GpuReading::default() };
        let steps = judge(vec![with(1000), with(1005), with(1100), with(1100)]);
        assert_eq!(steps, [vec![], vec![], told("pcie-replay", false), told("pcie-replay", true)]);
    }

    #[test]
    fn slowdown_by_software_is_everyday() {
        assert_eq!(slowdown(ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE), None);
        assert_eq!(
            slowdown(ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN),
            Some("too hot")
        );
    }

    #[test]
    fn no_library_is_a_missing_sensor_with_a_reason() {
        let Err(why) = NvmlSensor::open(Some(Path::new("/nonexistent/libnvidia-ml.so")), false) else {
            panic!("a library that does not exist was loaded")
        };
        assert!(why.contains("no NVIDIA driver"), "{why}");
    }
}
