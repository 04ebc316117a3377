#!/usr/bin/env python3
"""Tests each GPU of this node by NCCL alone: two processes share it and sum a buffer through this node's network stack, with no help of
shared memory or peer access. For `checks.gpu_test` of the agent: an isolated node comes back when this passes.

libnccl and the CUDA driver are called through ctypes, so that any version of NCCL serves and no PyTorch is needed. NCCL's
`cudaStream_t` is the driver's `CUstream`, so the runtime library is not needed either.

Exit codes: 0 all GPUs are well, or there is none; 1 one is not, or NCCL cannot be found; 2 usage.
"""

import argparse
import ctypes
import ctypes.util
import glob
import os
import subprocess
import sys
import tempfile
import time

UNIQUE_ID_BYTES = 128
FLOAT32, SUM = 7, 0  # ncclFloat32, ncclSum
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
MEET_SECONDS = 60.0


class UniqueId(ctypes.Structure):
    """ncclUniqueId, which ncclCommInitRank takes by value."""

    _fields_ = [("internal", ctypes.c_char * UNIQUE_ID_BYTES)]


class NcclError(RuntimeError):
    """A call of NCCL or of the driver failed."""


def device_count():
    """How many GPUs CUDA shows. That there is none is believed only if the kernel's driver knows of none, either."""
    known, count = len(glob.glob("/proc/driver/nvidia/gpus/*")), ctypes.c_int()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        if known:
            raise NcclError(f"this node has {known} GPUs, but {error}") from error
        return 0
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, NO_DEVICE) or (known and not count.value):
        raise NcclError(f"the driver shows {count.value} GPUs (this node has {known}): CUDA error {code}")
    return count.value


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


def find_library():
    """The system's libnccl, or that of a Python package; None if there is neither."""
    in_packages = [os.path.join(path, "nvidia/nccl/lib/libnccl.so*") for path in sys.path if path]
    return ctypes.util.find_library("nccl") or next((found for pattern in in_packages for found in sorted(glob.glob(pattern))), None)


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--nccl", help="libnccl; found by itself where the system or Python has one")
    parser.add_argument("--devices", help="GPUs, such as 0,1; all by default")
    parser.add_argument("--mib", type=int, default=64, help="of the buffer")
    parser.add_argument("--rounds", type=int, default=10, help="sums of it")
    parser.add_argument("--seconds", type=float, default=90.0, help="for all GPUs together")
    parser.add_argument("--rank", nargs=2, metavar=("RANK", "MEETING"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.mib < 1 or options.rounds < 1:
        parser.error("--mib and --rounds are at least 1")
    return options


def sum_as(rank, options):
    """One of the two processes: sums, and looks at the result of each round."""
    device = Device(int(options.devices))
    communicator = Communicator(options.nccl, device, rank, 2, options.rank[1])
    floats = options.mib << 18
    source, target = device.allocate(floats, rank + 1.0), device.allocate(floats, 0.0)
    for number in range(options.rounds):
        communicator.all_reduce(source, target, floats)
        device.synchronize()
        for place in (0, floats // 2, floats - 1):
            found = device.first(ctypes.c_uint64(target.value + place * 4))
            if found != 3.0:
                raise NcclError(f"round {number}: number {place} of the sum is {found}, not 3.0")
    communicator.destroy()


def check(device, options, until):
    """What is wrong with a GPU; None if nothing is."""
    with tempfile.TemporaryDirectory(prefix="c4-check-") as directory:
        meeting = os.path.join(directory, "identity")
        processes = []
        for rank in range(2):
            command = [sys.executable, os.path.abspath(__file__), "--rank", str(rank), meeting, "--devices", str(device)]
            command += ["--nccl", options.nccl, "--mib", str(options.mib), "--rounds", str(options.rounds)]
            # One process for each of two hosts, as NCCL sees it; and no profiler, since this is no job to be watched.
            settings = {"NCCL_HOSTID": f"c4-check-{rank}", "NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_PROFILER_PLUGIN": "none"}
            environment = {**os.environ, **settings}
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        problems = []
        for rank, process in enumerate(processes):
            try:
                error = process.communicate(timeout=max(until - time.monotonic(), 0.1))[1]
                if process.returncode != 0:
                    lines = error.strip().splitlines() or [f"exit code {process.returncode}"]
                    problems.append(f"process {rank}: {lines[-1]}")
            except subprocess.TimeoutExpired:
                problems.append(f"process {rank} did not end in time")
        for process in processes:
            process.kill()
            process.wait()
        return "; ".join(problems) or None


def main():
    options = parse_arguments()
    if options.rank:
        try:
            sum_as(int(options.rank[0]), options)
        except (NcclError, OSError) as error:
            sys.exit(str(error))
        return 0
    try:
        devices = options.devices.split(",") if options.devices else [str(number) for number in range(device_count())]
    except NcclError as error:
        sys.exit(str(error))
    if not devices:
        print("no GPU here: nothing to test")
        return 0
    options.nccl = options.nccl or find_library()
    if not options.nccl:
        print("libnccl was not found: name it by --nccl, or install libnccl2 or nvidia-nccl-cu12", file=sys.stderr)
        return 1
    until, bad = time.monotonic() + options.seconds, 0
    for device in devices:
        begun = time.monotonic()
        problem = check(device, options, until)
        bad += problem is not None
        well = f"{options.rounds} sums of {options.mib} MiB in {time.monotonic() - begun:.1f} s, all right"
        print(f"GPU {device}: {problem or well}", file=sys.stderr if problem else sys.stdout, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
