//! The process-wide part: one plugin slot, counted by communicators, one event mask; and the communicator.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nccl_profiler_c4::abi::{self, event};

use super::plugin::{Handle, LoadError, Plugin};

/// What NCCL tells the plugin of a communicator.
#[derive(Clone, Debug)]
pub struct CommConfig {
    /// Id (the hash NCCL makes of its unique id); the same on all ranks.
    pub id: u64,
    /// Name given by the program.
    pub name: Option<String>,
    /// Nodes.
    pub nodes: u32,
    /// Ranks.
    pub ranks: u32,
    /// Own rank.
    pub rank: u32,
}

/// NCCL in one process: where the plugin is, and the state its communicators share.
#[derive(Clone)]
pub struct Nccl(Arc<Process>);

pub(super) struct Process {
    path: PathBuf,
    newest: u32,
    /// NCCL's mask is a static: the plugin may keep the address for ever, so it is never freed.
    mask: &'static AtomicI32,
    slot: Mutex<Slot>,
}

/// The one plugin slot.
#[derive(Default)]
struct Slot {
    plugin: Option<Arc<Plugin>>,
    users: usize,
    /// Process id when the plugin was loaded; NCCL never asks again, not even after fork.
    pid: i32,
    /// After a failed init NCCL 2.23 to 2.27 go on without a profiler.
    disabled: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Communicators that were never finalised keep the plugin loaded until the process ends.
        let mut slot = lock(&self.slot);
        if slot.users > 0 {
            std::mem::forget(slot.plugin.take());
        }
    }
}

impl Nccl {
    /// NCCL as new as the plugin: the newest API the plugin exports is the one that is used.
    pub fn new(plugin: &Path) -> Self {
        Self::knowing_up_to(plugin, 7)
    }

    /// The NCCL family whose newest API is `newest`.
    pub fn knowing_up_to(plugin: &Path, newest: u32) -> Self {
        let mask = Box::leak(Box::new(AtomicI32::new(0)));
        Self(Arc::new(Process { path: plugin.to_owned(), newest, mask, slot: Mutex::default() }))
    }

    /// The live event mask.
    pub fn mask(&self) -> &'static AtomicI32 {
        self.0.mask
    }

    /// Makes a communicator: loads the plugin if it is the first, then `init`. Any thread may.
    ///
    /// # Errors
    /// The plugin cannot be loaded. NCCL would go on without one.
    pub fn init(&self, config: &CommConfig) -> Result<Communicator, LoadError> {
        let process = &self.0;
        let (plugin, pid, disabled) = {
            let mut slot = lock(&process.slot);
            let plugin = match &slot.plugin {
                Some(plugin) => Arc::clone(plugin),
                None => {
                    let plugin = Arc::new(Plugin::load_up_to(&process.path, process.newest)?);
                    slot.pid = std::process::id() as i32;
                    slot.plugin = Some(Arc::clone(&plugin));
                    plugin
                }
            };
            slot.users += 1;
            (plugin, slot.pid, slot.disabled)
        };
        let mut context = Handle::NULL;
        let mut result = abi::SUCCESS;
        if !disabled {
            result = plugin.init(process.mask, config, &mut context);
            if result != abi::SUCCESS && plugin.version() <= 4 {
                lock(&process.slot).disabled = true;
            }
        }
        if plugin.version() >= 7 && process.mask.load(Ordering::Relaxed) & event::KERNEL_PHASE as i32 != 0 {
            process.mask.fetch_or(event::KERNEL_CH as i32, Ordering::Relaxed);
        }
        let active = !(disabled || result != abi::SUCCESS && plugin.version() <= 4);
        let name = config.name.as_deref().map(|name| CString::new(name).unwrap_or_default());
        let sequences = Default::default();
        let inner = Shared {
            plugin,
            active,
            context,
            mask: process.mask,
            config: config.clone(),
            name,
            pid,
            sequences,
        };
        Ok(Communicator { inner: Arc::new(inner), process: Arc::clone(process), init_result: result })
    }
}

/// What the tasks of a communicator need of it.
pub(super) struct Shared {
    pub(super) plugin: Arc<Plugin>,
    pub(super) active: bool,
    pub(super) context: Handle,
    pub(super) mask: &'static AtomicI32,
    pub(super) config: CommConfig,
    name: Option<CString>,
    pub(super) pid: i32,
    sequences: [AtomicU64; 8],
}

impl Shared {
    /// The bits of the live mask, or none without a profiler.
    pub(super) fn live_mask(&self) -> u64 {
        if self.active { u64::from(self.mask.load(Ordering::Relaxed) as u32) } else { 0 }
    }

    /// NCCL's sequence number for a function of this communicator: taken, and counted on.
    pub(super) fn next_sequence(&self, function: u8) -> u64 {
        self.sequences[usize::from(function) % 8].fetch_add(1, Ordering::Relaxed)
    }

    /// Hash and name, which v1 to v3 hand over with every operation.
    pub(super) fn identity(&self) -> (u64, *const c_char) {
        (self.config.id, self.name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()))
    }
}

/// A communicator. Dropping it is *not* `finalize`: many programs end without.
pub struct Communicator {
    pub(super) inner: Arc<Shared>,
    process: Arc<Process>,
    init_result: abi::NcclResult,
}

impl Communicator {
    /// What the plugin's `init` returned.
    pub fn init_result(&self) -> abi::NcclResult {
        self.init_result
    }

    /// The plugin, for calls NCCL does not make in good order.
    pub fn plugin(&self) -> &Plugin {
        &self.inner.plugin
    }

    /// The context the plugin gave.
    pub fn context(&self) -> Handle {
        self.inner.context
    }

    /// What it was made with.
    pub fn config(&self) -> &CommConfig {
        &self.inner.config
    }

    /// Ends the communicator; the last one closes the library. From 2.28 a null context is not finalised.
    pub fn finalize(self) {
        let Self { inner, process, .. } = self;
        if inner.active && !(inner.plugin.version() >= 5 && inner.context.is_null()) {
            inner.plugin.finalize(inner.context);
        }
        let mut slot = lock(&process.slot);
        slot.users -= 1;
        if slot.users == 0 {
            slot.plugin = None;
        }
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
