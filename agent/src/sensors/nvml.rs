//! GPUs, through NVIDIA's management library, loaded at run time: no library, no sensor, and the agent runs on.
//!
//! The library is only read here; what a reading means is decided in `gpu`. Calls may block for seconds on a GPU that is
//! dying, which is why every sensor has a thread of its own.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use c4_detect::catalogue;
use nvml_wrapper::{
    Device, EventSet, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enum_wrappers::nv_link::ErrorCounter,
    enums::device::SampleValue,
    enums::event::XidError,
    error::NvmlError,
    structs::device::FieldId,
    sys_exports::field_id::{
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
    },
};
use tokio::time::Instant;

use super::{
    Address, Gpus, Sampled, Sensor, Spinning,
    gpu::{GpuLimits, GpuReading, Judge},
    nic::{children, text},
};
use crate::report::Health;

/// Where the library is, if nobody says otherwise: the driver's package has the first, development machines the second.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Links a GPU has at most.
const MAX_LINKS: u32 = 18;

/// NVLinks are read at one look in so many: three calls a link are most of what a look costs.
const LINK_TURNS: u32 = 5;

/// Where the library is, and when a GPU is not well.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NvmlSettings {
    /// Path of the library, or the system's.
    pub library: Option<PathBuf>,
    /// When a GPU is not well.
    pub limits: GpuLimits,
}

/// Reads all GPUs.
pub struct NvmlSensor {
    nvml: &'static Nvml,
    gpus: u32,
    limits: GpuLimits,
    /// `None` where NVML has no events (as in some virtual machines), or somebody else reports XIDs.
    events: Option<EventSet<'static>>,
    judge: Judge,
    spinning: Spinning,
    turn: u32,
}

/// How many of NVIDIA's GPUs are on the PCI bus, whether or not a driver has them.
pub(crate) fn gpus_on_bus(sys_root: &Path) -> usize {
    let is_gpu = |device: &Path| {
        let says =
            |file: &str, begin: &str| text(&device.join(file)).is_some_and(|said| said.starts_with(begin));
        // Display controllers, 3D accelerators among them.
        says("vendor", "0x10de") && says("class", "0x03")
    };
    children(&sys_root.join("bus/pci/devices")).iter().filter(|(_, device)| is_gpu(device)).count()
}

impl NvmlSensor {
    /// Loads the library. With `xid_events` it also reports XIDs as NVML sees them; which GPUs spin is noted in `spinning`, and where
    /// they are in `places`.
    ///
    /// # Errors
    /// No library, no driver, no GPU: why.
    pub fn open(
        settings: &NvmlSettings,
        xid_events: bool,
        spinning: Spinning,
        places: &Gpus,
    ) -> Result<(Self, String), String> {
        let load = |name: &OsStr| Nvml::builder().lib_path(name).init();
        let loaded = match settings.library.as_deref() {
            Some(path) => load(Path::as_os_str(path)),
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
        let bus_id =
            |gpu| nvml.device_by_index(gpu).and_then(|device| device.pci_info()).ok().map(|pci| pci.bus_id);
        places.learn((0..gpus).filter_map(bus_id).filter_map(|bus_id| Address::parse(&bus_id)));
        let model = nvml.device_by_index(0).and_then(|device| device.name()).unwrap_or_default();
        let driver = nvml.sys_driver_version().unwrap_or_default();
        let detail = format!("{gpus} × {model}, driver {driver}");
        // The event set borrows the library, and both are kept until the process ends: there is one of them.
        let nvml: &'static Nvml = Box::leak(Box::new(nvml));
        let events = if xid_events { listen(nvml, gpus) } else { None };
        let judge = Judge::default();
        Ok((Self { nvml, gpus, limits: settings.limits, events, judge, spinning, turn: 0 }, detail))
    }

    pub(super) fn boxed(self) -> Box<dyn Sensor> {
        Box::new(self)
    }

    fn read_all(&mut self) -> BTreeMap<u32, GpuReading> {
        let with_links = self.turn.is_multiple_of(LINK_TURNS);
        self.turn = self.turn.wrapping_add(1);
        let mut readings = BTreeMap::new();
        for gpu in 0..self.gpus {
            let reading = match self.nvml.device_by_index(gpu) {
                Ok(device) => {
                    let link = |link| Some((link, read_link(&device, link)?));
                    let links = || (0..MAX_LINKS).filter_map(link).collect();
                    GpuReading { nvlinks: with_links.then(links), ..read(&device) }
                }
                Err(error) => GpuReading { lost: Some(error.to_string()), ..GpuReading::default() },
            };
            readings.insert(gpu, reading);
        }
        readings
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

/// A value NVML knows by number only.
fn field(device: &Device<'_>, id: u32) -> Option<u64> {
    let values = device.field_values_for(&[FieldId(id)]).ok()?;
    match values.into_iter().next()?.ok()?.value.ok()? {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        _ => None,
    }
}

fn read(device: &Device<'_>) -> GpuReading {
    let utilization = device.utilization_rates().ok();
    let temperature = device.temperature(TemperatureSensor::Gpu);
    if let Err(NvmlError::GpuLost) = temperature {
        return GpuReading { lost: Some("says its driver".to_owned()), ..GpuReading::default() };
    }
    let ecc = |kind, counter| device.total_ecc_errors(kind, counter).ok();
    GpuReading {
        lost: None,
        ecc_uncorrected: ecc(MemoryError::Uncorrected, EccCounter::Volatile),
        ecc_uncorrected_ever: ecc(MemoryError::Uncorrected, EccCounter::Aggregate),
        ecc_corrected: ecc(MemoryError::Corrected, EccCounter::Volatile),
        remap_pending: field(device, NVML_FI_DEV_REMAPPED_PENDING).map(|value| value != 0),
        remap_failed: field(device, NVML_FI_DEV_REMAPPED_FAILURE).map(|value| value != 0),
        slowdown: device.current_throttle_reasons().ok().and_then(slowdown),
        sm_mhz: device.clock_info(Clock::SM).ok(),
        busy_percent: utilization.as_ref().map(|utilization| utilization.gpu),
        memory_percent: utilization.map(|utilization| utilization.memory),
        celsius: temperature.ok(),
        milliwatts: device.power_usage().ok(),
        pcie_replays: device.pcie_replay_counter().ok(),
        pcie_width: device.current_pcie_link_width().ok().zip(device.max_pcie_link_width().ok()),
        pcie_generation: device.current_pcie_link_gen().ok().zip(device.max_pcie_link_gen().ok()),
        recovery: field(device, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        nvlinks: None,
    }
}

fn read_link(device: &Device<'_>, link: u32) -> Option<(bool, u64)> {
    let link = device.link_wrapper_for(link);
    let active = link.is_active().ok()?;
    let kinds = [ErrorCounter::DlReplay, ErrorCounter::DlRecovery];
    Some((active, kinds.into_iter().filter_map(|kind| link.error_counter(kind).ok()).sum()))
}

/// The code of what lowers the clocks. A power cap and idleness do so every day; heat and hardware do not.
fn slowdown(reasons: ThrottleReasons) -> Option<&'static str> {
    if reasons.intersects(ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::SW_THERMAL_SLOWDOWN) {
        Some("thermal-slowdown")
    } else if reasons.contains(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN) {
        Some("power-brake")
    } else if reasons.contains(ThrottleReasons::HW_SLOWDOWN) {
        Some("hw-slowdown")
    } else {
        None
    }
}

impl Sensor for NvmlSensor {
    fn sample(&mut self, now: Instant, interval: Duration) -> Sampled {
        let readings = self.read_all();
        let now_ns = c4_recorder::monotonic_now_ns();
        readings.iter().for_each(|(gpu, reading)| self.spinning.note(*gpu, reading.spins(), now_ns));
        let shown = readings.iter().flat_map(|(gpu, reading)| reading.shown(*gpu)).collect();
        let mut health = self.judge.update(&self.limits, &readings, now);
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
        Sampled { health, readings: shown, waited, lost: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowdown_by_a_power_cap_is_everyday() {
        assert_eq!(slowdown(ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE), None);
        let hot = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(slowdown(hot), Some("thermal-slowdown"));
        assert_eq!(slowdown(ThrottleReasons::HW_SLOWDOWN), Some("hw-slowdown"));
    }

    #[test]
    fn no_library_is_a_missing_sensor_with_a_reason() {
        let library = Some(PathBuf::from("/nonexistent/libnvidia-ml.so"));
        let settings = NvmlSettings { library, ..NvmlSettings::default() };
        let Err(why) = NvmlSensor::open(&settings, false, Spinning::default(), &Gpus::default()) else {
            panic!("there is no such library");
        };
        assert_eq!(why, "no NVIDIA driver (libnvidia-ml is not there)");
    }
}
