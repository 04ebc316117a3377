"""libnccl and the CUDA driver through ctypes: just what an all-reduce takes, so that any version of NCCL can be driven
without a PyTorch that was built for it.

NCCL's `cudaStream_t` is the driver's `CUstream`, so the runtime library is not needed.
"""

import ctypes
import os
import time

UNIQUE_ID_BYTES = 128
FLOAT32, SUM = 7, 0  # ncclFloat32, ncclSum
MEET_SECONDS = 60.0


class UniqueId(ctypes.Structure):
    """ncclUniqueId, which ncclCommInitRank takes by value."""

    _fields_ = [("internal", ctypes.c_char * UNIQUE_ID_BYTES)]


class NcclError(RuntimeError):
    """A call of NCCL or of the driver failed."""


class Device:
    """The primary context of one GPU, current in this thread."""

    def __init__(self, index):
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)  # CU_STREAM_NON_BLOCKING

    def call(self, name, *arguments):
        """Calls the driver; raises NcclError with its number for the error."""
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            raise NcclError(f"{name}: CUDA error {code}")

    def allocate(self, floats, value):
        """Device memory full of one number."""
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(floats * 4))
        pattern = ctypes.c_uint32.from_buffer(ctypes.c_float(value))
        self.call("cuMemsetD32_v2", pointer, pattern, ctypes.c_size_t(floats))
        return pointer

    def first(self, pointer):
        """The first number there, once the stream is done."""
        value = ctypes.c_float()
        self.call("cuMemcpyDtoH_v2", ctypes.byref(value), pointer, ctypes.c_size_t(4))
        return value.value

    def synchronize(self):
        """Waits for the stream."""
        self.call("cuStreamSynchronize", self.stream)


class Communicator:
    """All ranks of a job, in one communicator."""

    def __init__(self, library, device, rank, world_size, meeting):
        self._nccl = ctypes.CDLL(library, mode=os.RTLD_LOCAL | os.RTLD_NOW)
        self._nccl.ncclGetErrorString.restype = ctypes.c_char_p
        self._device = device
        self._communicator = ctypes.c_void_p()
        identity = self._meet(rank, meeting)
        self.call("ncclCommInitRank", ctypes.byref(self._communicator), world_size, identity, rank)

    def _meet(self, rank, meeting):
        """The identity that rank 0 makes and leaves in a file for the others."""
        identity = UniqueId()
        if rank == 0:
            self.call("ncclGetUniqueId", ctypes.byref(identity))
            with open(f"{meeting}.tmp", "wb") as file:
                file.write(bytes(identity))
            os.replace(f"{meeting}.tmp", meeting)
            return identity
        end = time.monotonic() + MEET_SECONDS
        while not os.path.exists(meeting):
            if time.monotonic() > end:
                raise NcclError(f"rank 0 left no identity in {meeting} within {MEET_SECONDS:.0f} s")
            time.sleep(0.02)
        with open(meeting, "rb") as file:
            return UniqueId.from_buffer_copy(file.read())

    def call(self, name, *arguments):
        """Calls NCCL; raises NcclError with its words for the error."""
        code = getattr(self._nccl, name)(*arguments)
        if code != 0:
            raise NcclError(f"{name}: {self._nccl.ncclGetErrorString(code).decode()}")

    def version(self):
        """Such as 22809 for 2.28.9."""
        number = ctypes.c_int()
        self.call("ncclGetVersion", ctypes.byref(number))
        return number.value

    def all_reduce(self, source, target, floats):
        """Enqueues a sum over all ranks."""
        self.call("ncclAllReduce", source, target, ctypes.c_size_t(floats), FLOAT32, SUM, self._communicator, self._device.stream)

    def destroy(self):
        """Leaves in good order."""
        self.call("ncclCommDestroy", self._communicator)
