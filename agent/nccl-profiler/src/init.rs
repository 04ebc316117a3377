//! Communicators come and go. This is the slow path: it may lock, allocate and fail, but it always tells NCCL that all is well,
//! since an init that fails does harm in every version (it turns profiling off for good, or is called with a NULL context,
//! or is unloaded twice). A refusal is an event mask of 0.

use std::env;
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Mutex, MutexGuard, PoisonError};

use c4_recorder::layout;
use c4_recorder::writer::Recorder;

use crate::describe::{self, Told};
use crate::events::{self, NO_COMMUNICATOR};
use crate::handle::Handle;
use crate::log::Log;
use crate::settings::{KernelEvents, Settings, StepState};
use crate::state::{self, State};
use crate::version;

/// Slots of communicators. Guards everything that init and finalize change.
struct Slots {
    generations: [u32; layout::COMMUNICATORS],
    /// When the slot was finalised, in finalisations; 0 for never used.
    finalized: [u64; layout::COMMUNICATORS],
    count: u64,
}

static SLOTS: Mutex<Slots> = Mutex::new(Slots {
    generations: [0; layout::COMMUNICATORS],
    finalized: [0; layout::COMMUNICATORS],
    count: 0,
});
static NO_RECORDER_SAID: AtomicBool = AtomicBool::new(false);
static FULL_SAID: AtomicBool = AtomicBool::new(false);

/// Context where nothing is recorded at all; not null, or NCCL would not finalise.
const IDLE_CONTEXT: Handle = Handle(1);

fn slots() -> MutexGuard<'static, Slots> {
    // Whatever a panicking thread left behind is still a table of numbers.
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A communicator is made: its context, and the mask to set.
///
/// # Safety
/// `mask` is null or NCCL's mask, which outlives the communicator; the name in `told` is null or a C string.
pub unsafe fn init(api: u32, told: &Told, mask: *mut c_int, log: Log) -> (Handle, c_int) {
    if Settings::switched_off(log) {
        return (IDLE_CONTEXT, 0);
    }
    let mut slots = slots();
    let Some(state) = recording_state(log) else { return (IDLE_CONTEXT, 0) };
    if state.is_forked_child() {
        return (IDLE_CONTEXT, 0);
    }
    configure(state, api, log);
    let recorder = state.recorder();
    recorder.recalibrate();
    let cookie = state.cookie.load(Relaxed);
    let Some(slot) = slots.take() else {
        recorder.live().lost_communicators.0.fetch_add(1, Relaxed);
        log.warn_once(&FULL_SAID, "more than 256 communicators: the rest are not recorded");
        return (events::context(cookie, NO_COMMUNICATOR, 0), state.depth.first_mask());
    };
    let generation = slots.generations[slot];
    // SAFETY: as the caller promises.
    unsafe {
        describe::facts(told, |facts| {
            recorder.communicator(slot).open(generation, facts, recorder.tick_source().now());
        });
    }
    recorder.live().communicators.fetch_max(slot as u32 + 1, Relaxed);
    let known = &state.comms[slot];
    known.mask.store(mask, Relaxed);
    known.networked.store(false, Relaxed);
    known.names.forget();
    state.peers.forget(slot);
    state.runs.forget(slot);
    known.live.store(generation, Release);
    let first = state.depth.first_mask();
    recorder.set_mask(first.cast_unsigned(), first != 0);
    (events::context(cookie, slot as u64, generation), first)
}

/// A communicator goes. Its record stays for those who read it; its connections are free.
pub fn finalize(context: Handle) {
    let Some(state) = state::get() else { return };
    let cookie = state.cookie.load(Relaxed);
    if cookie == 0 {
        return;
    }
    let mut slots = slots();
    let Some(comm) = state.communicator(cookie, context) else { return };
    let recorder = state.recorder();
    comm.known.live.store(0, Release);
    comm.record.finalize();
    state.connections.release(recorder, comm.slot as u32, comm.generation);
    slots.count += 1;
    slots.finalized[comm.slot] = slots.count;
    recorder.recalibrate();
    if state.comms.iter().all(|known| known.live.load(Relaxed) == 0) {
        let mask = recorder.live().event_mask.load(Relaxed);
        recorder.set_mask(mask, false);
    }
}

impl Slots {
    /// A slot that was never used, else the one that was finalised longest ago.
    fn take(&mut self) -> Option<usize> {
        let state = state::get()?;
        let free = |slot: &usize| state.comms[*slot].live.load(Relaxed) == 0;
        let slot = (0..layout::COMMUNICATORS).filter(free).min_by_key(|&slot| self.finalized[slot])?;
        // A generation is never 0, and not in its low bits either: a live slot is told by it.
        let next = self.generations[slot].wrapping_add(1);
        self.generations[slot] = if next & 0xFFFF == 0 { next.wrapping_add(1) } else { next };
        Some(slot)
    }
}

/// The state, made with its recorder by the first init that can.
fn recording_state(log: Log) -> Option<&'static State> {
    if let Some(state) = state::get() {
        return Some(state);
    }
    let directory =
        env::var_os("C4_RECORDER_DIR").map_or_else(|| PathBuf::from("/dev/shm/c4"), PathBuf::from);
    let problem = match Recorder::create(&directory, &describe::process()) {
        Ok(recorder) => match State::make(recorder) {
            Ok(state) => {
                log.info(&format!("recording to {}", state.recorder().path().display()));
                return Some(state);
            }
            Err(error) => format!("cannot make room for the plugin's state: {error}"),
        },
        Err(error) => error.to_string(),
    };
    log.warn_once(&NO_RECORDER_SAID, &format!("{problem}; the job goes on without being recorded"));
    None
}

/// Takes over what can be known at each init.
fn configure(state: &State, api: u32, log: Log) {
    let version = AtomicU32::new(0);
    version::of_library(log, &version);
    state.recorder().set_interface(api, version.load(Relaxed));
    let settings = Settings::read(api, log);
    state.depth.one_in.store(settings.step_sampling, Relaxed);
    state.depth.untimed_steps.store(settings.step_state != StepState::Off, Relaxed);
    state.depth.follows_pace.store(settings.step_state == StepState::Auto, Relaxed);
    state.runs.follow.store(settings.kernel_events == KernelEvents::Auto, Relaxed);
    state.depth.mask.store(settings.mask(), Relaxed);
}
