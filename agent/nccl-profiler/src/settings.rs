//! Settings, from the environment: the plugin has no other place to ask. Each init reads them, so that a program may change them
//! between communicators. What makes no sense is said once, and the default taken: a typing error must not stop a job.

use std::env;
use std::ffi::c_int;
use std::sync::atomic::AtomicBool;

use crate::abi::event;
use crate::log::Log;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `C4_STEP_SAMPLING`: network steps are timed for one operation in so many, 0 for none.
    pub step_sampling: u32,
    /// `C4_STEP_STATE`: the steps of the other operations are recorded too, without times. Costs a call for each step, and
    /// shows what every connection waits for at any moment: without it, a link that blocks in an operation whose steps are
    /// not timed cannot be named, and NCCL takes no new wishes for an operation under way.
    pub step_state: StepState,
    /// `C4_KERNEL_EVENTS`.
    pub kernel_events: KernelEvents,
}

/// Which operations have kernel events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEvents {
    /// All, unless they come thick and fast, see [`crate::runs`]; none where they do harm.
    Auto,
    /// All.
    On,
    /// None.
    Off,
}

/// When the steps of operations whose steps are not timed are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Unless operations come thick and fast, see [`crate::depth`].
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Steps of one operation in so many, unless it is said otherwise.
const STEP_SAMPLING: u32 = 16;

/// A setting, and whether it was complained about.
struct Setting {
    name: &'static str,
    said: AtomicBool,
}

impl Setting {
    const fn new(name: &'static str) -> Self {
        Self { name, said: AtomicBool::new(false) }
    }

    fn text(&self) -> String {
        env::var_os(self.name).map(|text| text.to_string_lossy().trim().to_owned()).unwrap_or_default()
    }

    fn complain(&self, log: Log, expected: &str, default: &str) {
        let text = self.text();
        log.warn_once(
            &self.said,
            &format!("{} is {text:?}, expected {expected}; using {default}", self.name),
        );
    }
}

static PROFILER: Setting = Setting::new("C4_PROFILER");
static SAMPLING: Setting = Setting::new("C4_STEP_SAMPLING");
static STEP_STATE: Setting = Setting::new("C4_STEP_STATE");
static KERNEL_EVENTS: Setting = Setting::new("C4_KERNEL_EVENTS");

impl Settings {
    /// `C4_PROFILER=off`.
    pub fn switched_off(log: Log) -> bool {
        match PROFILER.text().as_str() {
            "off" => true,
            "" | "on" => false,
            _ => {
                PROFILER.complain(log, "on or off", "on");
                false
            }
        }
    }

    /// From the environment, for this version of the interface.
    pub fn read(api: u32, log: Log) -> Self {
        let step_sampling = match SAMPLING.text().as_str() {
            "" => STEP_SAMPLING,
            number => number.parse().unwrap_or_else(|_| {
                SAMPLING.complain(log, "a number", &STEP_SAMPLING.to_string());
                STEP_SAMPLING
            }),
        };
        let step_state = match STEP_STATE.text().as_str() {
            "" | "auto" => StepState::Auto,
            "on" => StepState::On,
            "off" => StepState::Off,
            _ => {
                STEP_STATE.complain(log, "auto, on or off", "auto");
                StepState::Auto
            }
        };
        // Kernel events below 2.28.3 are harmful (NCCL fails with "Proxy append out of bounds"), and v5 is the first
        // interface of a version without that fault.
        let automatic = if api >= 5 { KernelEvents::Auto } else { KernelEvents::Off };
        let kernel_events = match KERNEL_EVENTS.text().as_str() {
            "on" if api >= 3 => KernelEvents::On,
            "on" | "off" => KernelEvents::Off,
            "" | "auto" => automatic,
            _ => {
                KERNEL_EVENTS.complain(log, "auto, on or off", "auto");
                automatic
            }
        };
        Self { step_sampling, step_state, kernel_events }
    }

    /// Bits of the mask that are always set. The events of groups and calls come with them.
    pub fn mask(&self) -> c_int {
        let kernel = if self.kernel_events == KernelEvents::Off { 0 } else { event::KERNEL_CH };
        (event::COLL | event::P2P | event::PROXY_OP | kernel) as c_int
    }
}
