//! Which GPU the calling thread uses, asked of CUDA's driver: what the environment says counts the GPUs that the process is shown,
//! which in a container or a device cgroup are some of the node's.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;

use c4_recorder::GpuAddress;

/// Numbers of `CUdevice_attribute`.
const PCI_BUS_ID: c_int = 33;
const PCI_DEVICE_ID: c_int = 34;
const PCI_DOMAIN_ID: c_int = 50;

type CtxGetDevice = unsafe extern "C" fn(*mut c_int) -> c_int;
type DeviceGetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;

/// Where the GPU of the thread's CUDA context is. `None` without a context, or where the process has not loaded CUDA's driver.
/// NCCL calls `init` on a thread that has made its communicator's GPU the current one.
pub fn address() -> Option<GpuAddress> {
    // SAFETY: a C string; NOLOAD opens nothing new.
    let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    if library.is_null() {
        return None;
    }
    let address = ask(library);
    // SAFETY: opened above; it stays loaded, others hold it.
    unsafe { libc::dlclose(library) };
    address
}

fn ask(library: *mut c_void) -> Option<GpuAddress> {
    let context = symbol(library, c"cuCtxGetDevice")?;
    let attribute = symbol(library, c"cuDeviceGetAttribute")?;
    // SAFETY: the driver's API declares them so since CUDA 2.0; both only look something up, whatever a stream is doing.
    let (get_device, get_attribute) = unsafe {
        (
            transmute::<*mut c_void, CtxGetDevice>(context),
            transmute::<*mut c_void, DeviceGetAttribute>(attribute),
        )
    };
    let mut device = 0;
    // SAFETY: as above; `device` is a valid place.
    if unsafe { get_device(&mut device) } != 0 {
        return None;
    }
    let get = |number| {
        let mut value = 0;
        // SAFETY: as above; `value` is a valid place.
        (unsafe { get_attribute(&mut value, number, device) } == 0).then_some(value)
    };
    Some(GpuAddress {
        domain: get(PCI_DOMAIN_ID)?.try_into().ok()?,
        bus: get(PCI_BUS_ID)?.try_into().ok()?,
        device: get(PCI_DEVICE_ID)?.try_into().ok()?,
    })
}

fn symbol(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: an open library and a C string.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}
