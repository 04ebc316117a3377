//! Which GPU the calling thread uses, asked of CUDA's driver: what the environment says counts the GPUs that the process is shown,
//! which in a container or a device cgroup are some of the node's.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::ptr::NonNull;

use c4_recorder::GpuAddress;

use crate::loaded::Loaded;

/// Numbers of `CUdevice_attribute`.
const PCI_BUS_ID: c_int = 33;
const PCI_DEVICE_ID: c_int = 34;
const PCI_DOMAIN_ID: c_int = 50;

type CtxGetDevice = unsafe extern "C" fn(*mut c_int) -> c_int;
type DeviceGetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;

/// Where the GPU of the thread's CUDA context is. `None` without a context, or where the process has not loaded CUDA's driver.
/// NCCL calls `init` on a thread that has made its communicator's GPU the current one.
pub fn address() -> Option<GpuAddress> {
    let driver = Loaded::find(c"libcuda.so.1")?;
    let (device, attribute) = (driver.symbol(c"cuCtxGetDevice")?, driver.symbol(c"cuDeviceGetAttribute")?);
    // SAFETY: the driver's API declares them so since CUDA 2.0; both only look something up, whatever a stream is doing.
    let (get_device, get_attribute) = unsafe {
        (
            transmute::<NonNull<c_void>, CtxGetDevice>(device),
            transmute::<NonNull<c_void>, DeviceGetAttribute>(attribute),
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
