"""A kernel that writes where no memory is. No framework lets one be launched by mistake, so this asks the driver."""

import ctypes

PTX = b""".version 8.0
.target sm_75
.address_size 64
.visible .entry touch_nothing()
{
    .reg .b64 %address;
    .reg .b32 %value;
    mov.u64 %address, 0x7f00dead0000;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}
"""


def launch():
    """Launches it in this thread's CUDA context, on the default stream. What follows fails."""
    cuda = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuModuleLoadData(ctypes.byref(module), PTX), "load")
    check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"touch_nothing"), "find")
    one = (ctypes.c_uint(1),) * 6
    check(cuda.cuLaunchKernel(function, *one, ctypes.c_uint(0), None, None, None), "launch")


def check(code, what):
    """Says which call of the driver failed."""
    if code != 0:
        raise RuntimeError(f"cannot {what} the kernel: CUDA error {code}")
