//! Loading a profiler plugin, and its function table whatever its version.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use nccl_profiler_c4::abi::{self, NcclResult, v1, v2, v3, v4, v5, v6, v7};

use super::communicator::CommConfig;
use super::describe::{Event, Head, StateDetail};
use super::{log, wire};

/// An event handle or a context as the plugin gave it: a word the caller only keeps and hands back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Handle(pub usize);

impl Handle {
    /// No event.
    pub const NULL: Self = Self(0);

    /// Whether there is none.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    pub(super) fn pointer(self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.0)
    }

    pub(super) fn of(pointer: *mut c_void) -> Self {
        Self(pointer.expose_provenance())
    }
}

/// Why a plugin could not be loaded. NCCL goes on without one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `dlopen` failed.
    #[error("cannot load {path}: {source}")]
    Open {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        source: libloading::Error,
    },
    /// It exports none of the versions looked for, or an incomplete table.
    #[error("{path} exports no complete profiler table of version {versions}")]
    NoTable {
        /// The library.
        path: PathBuf,
        /// Versions looked for.
        versions: String,
    },
}

/// A table by version.
#[derive(Clone, Copy)]
enum Table {
    V1(&'static v1::Table),
    V2(&'static v2::Table),
    V3(&'static v3::Table),
    V4(&'static v4::Table),
    V5(&'static v5::Table),
    V6(&'static v6::Table),
    V7(&'static v7::Table),
}

/// Runs the expression for the table of whatever version.
macro_rules! with_table {
    ($self:expr, $table:ident => $body:expr) => {
        match $self.table {
            Table::V1($table) => $body,
            Table::V2($table) => $body,
            Table::V3($table) => $body,
            Table::V4($table) => $body,
            Table::V5($table) => $body,
            Table::V6($table) => $body,
            Table::V7($table) => $body,
        }
    };
}

/// A loaded plugin. Dropping it is `dlclose`.
pub struct Plugin {
    table: Table,
    version: u32,
    // Declared last: the table lies in the library.
    _library: Library,
}

impl Plugin {
    /// Loads a plugin and takes the newest table it exports, as NCCL 2.31 does.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::load_up_to(path, 7)
    }

    /// Loads a plugin as the NCCL does whose newest known API is `newest`: that version, else the next older.
    pub fn load_up_to(path: &Path, newest: u32) -> Result<Self, LoadError> {
        let open = |source| LoadError::Open { path: path.to_owned(), source };
        // SAFETY: running a plugin's constructors in this process is what this module is for.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(open)?;
        let found = (1..=newest).rev().find_map(|version| Some((version, Table::find(&library, version)?)));
        let Some((version, table)) = found else {
            return Err(LoadError::NoTable { path: path.to_owned(), versions: format!("1 to {newest}") });
        };
        Ok(Self { table, version, _library: library })
    }

    /// API version in use.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The plugin's name for itself.
    pub fn name(&self) -> Option<String> {
        let name = with_table!(self, table => table.name);
        // SAFETY: a table's name is null or a NUL-terminated string that lives as long as the library.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// The v5 table itself, for measuring without this module's own cost.
    pub fn v5(&self) -> Option<&v5::Table> {
        match self.table {
            Table::V5(table) => Some(table),
            _ => None,
        }
    }

    /// `init`: result and context.
    pub fn init(&self, mask: &'static AtomicI32, config: &CommConfig, context: &mut Handle) -> NcclResult {
        let mask = mask.as_ptr();
        let name = config.name.as_deref().map(|name| CString::new(name).unwrap_or_default());
        let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let (nodes, ranks, rank) = (config.nodes as c_int, config.ranks as c_int, config.rank as c_int);
        let mut raw = context.pointer();
        // SAFETY: the pointers are valid for the call, `mask` for the life of the process, and the table is complete
        // (`Table::find`).
        let result = unsafe {
            match self.table {
                Table::V1(table) => call(table.init)(&mut raw, mask),
                Table::V2(table) => call(table.init)(&mut raw, mask),
                Table::V3(table) => call(table.init)(&mut raw, mask),
                Table::V4(table) => {
                    call(table.init)(&mut raw, mask, name, config.id, nodes, ranks, rank, log::logger())
                }
                Table::V5(table) => {
                    call(table.init)(&mut raw, config.id, mask, name, nodes, ranks, rank, log::logger())
                }
                Table::V6(table) => {
                    call(table.init)(&mut raw, config.id, mask, name, nodes, ranks, rank, log::logger())
                }
                Table::V7(table) => {
                    call(table.init)(&mut raw, config.id, mask, name, nodes, ranks, rank, log::logger())
                }
            }
        };
        *context = Handle::of(raw);
        result
    }

    /// `startEvent`. `handle` keeps its old value if the plugin does not write it, as NCCL's variables do.
    pub fn start(
        &self,
        context: Handle,
        handle: &mut Handle,
        parent: Handle,
        rank: u32,
        event: &Event<'_>,
    ) -> NcclResult {
        let mut raw = handle.pointer();
        let head = Head { parent: parent.pointer(), rank: rank as c_int };
        macro_rules! start {
            ($table:ident, $describe:path) => {{
                let mut descriptor = $describe(&head, event);
                // SAFETY: descriptor and handle are valid for the call; the table is complete.
                unsafe { call($table.start_event)(context.pointer(), &mut raw, &mut descriptor) }
            }};
        }
        let result = match self.table {
            Table::V1(table) => start!(table, wire::v1),
            Table::V2(table) => start!(table, wire::v2),
            Table::V3(table) => start!(table, wire::v3),
            Table::V4(table) => start!(table, wire::v4),
            Table::V5(table) => start!(table, wire::v5),
            Table::V6(table) => start!(table, wire::v6),
            Table::V7(table) => start!(table, wire::v7),
        };
        *handle = Handle::of(raw);
        result
    }

    /// `stopEvent`.
    pub fn stop(&self, handle: Handle) -> NcclResult {
        // SAFETY: any word is a legal handle: NCCL itself hands over null and stale ones.
        with_table!(self, table => unsafe { call(table.stop_event)(handle.pointer()) })
    }

    /// `recordEventState`; [`StateDetail::None`] passes a null pointer.
    pub fn record(&self, handle: Handle, state: c_int, detail: StateDetail) -> NcclResult {
        macro_rules! record {
            ($table:ident, $args:path) => {{
                let mut args = $args(detail);
                let args = args.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
                // SAFETY: as for `stop`; the arguments are null or valid for the call.
                unsafe { call($table.record_event_state)(handle.pointer(), state, args) }
            }};
        }
        match self.table {
            Table::V1(table) => record!(table, wire::v1_state),
            Table::V2(table) => record!(table, wire::v2_state),
            Table::V3(table) => record!(table, wire::v3_state),
            Table::V4(table) => record!(table, wire::v4_state),
            Table::V5(table) => record!(table, wire::v4_state),
            Table::V6(table) => record!(table, wire::v4_state),
            Table::V7(table) => record!(table, wire::v4_state),
        }
    }

    /// `finalize`.
    pub fn finalize(&self, context: Handle) -> NcclResult {
        // SAFETY: as for `stop`.
        with_table!(self, table => unsafe { call(table.finalize)(context.pointer()) })
    }
}

impl Table {
    /// The complete table of one version.
    fn find(library: &Library, version: u32) -> Option<Self> {
        macro_rules! find {
            ($kind:ident, $module:ident) => {{
                let symbol = abi::symbol(version)?.to_bytes_with_nul();
                // SAFETY: a symbol of this name is the address of a table of this layout; that is the interface.
                let address = *unsafe { library.get::<*const $module::Table>(symbol) }.ok()?;
                // SAFETY: as above, and it lives as long as the library, which `Plugin` keeps longer than the table.
                let table: &'static $module::Table = unsafe { &*address };
                let complete = table.init.is_some()
                    && table.start_event.is_some()
                    && table.stop_event.is_some()
                    && table.record_event_state.is_some()
                    && table.finalize.is_some();
                complete.then_some(Table::$kind(table))
            }};
        }
        match version {
            1 => find!(V1, v1),
            2 => find!(V2, v2),
            3 => find!(V3, v3),
            4 => find!(V4, v4),
            5 => find!(V5, v5),
            6 => find!(V6, v6),
            7 => find!(V7, v7),
            _ => None,
        }
    }
}

/// A function of a complete table.
fn call<F>(function: Option<F>) -> F {
    function.expect("Table::find takes complete tables only")
}
