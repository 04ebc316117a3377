"""What every rank process does before and around its training: environment, output, opening the GPU, a decent end."""

import ctypes
import os
import signal
import sys
import threading
import time

MAX_TRIES = 20  # to open the GPU, a second apart
PROBE_PAUSE = 0.3
NETWORK, LOCAL = "network", "local"


def prepare_environment(rank, transport=NETWORK):
    """What NCCL and PyTorch read once, so it has to be there before they are loaded. What the caller set stays."""
    defaults = {
        # C4 has to be the one who finds out. PyTorch's own watchdog would turn every hang into a dead process.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
        "TORCH_NCCL_BLOCKING_WAIT": "0",
        "TORCH_NCCL_ENABLE_MONITORING": "0",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_IB_DISABLE": "1",
        # Multicast over NVLink can put GPUs that others share out of service.
        "NCCL_NVLS_ENABLE": "0",
        "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
        "NVSHMEM_DISABLE_NVLS": "1",
    }
    if transport == NETWORK:
        # A host of its own for each rank: NCCL then accepts several on one GPU, and takes the network between them.
        defaults |= {"NCCL_HOSTID": f"host-{rank}", "NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def open_log(directory, rank):
    """Sends this process's output, NCCL's included, to a file of its own."""
    if not directory:
        return
    os.makedirs(directory, exist_ok=True)
    incarnation = os.environ.get("C4_INCARNATION", "0")
    path = os.path.join(directory, f"rank-{rank}.{incarnation}.log")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def watch_device(index):
    """Starts to try whether the GPU opens, in processes of their own, while this one loads PyTorch; returns what waits until it did.

    The multi-process service turns new clients away until the last one that was killed is gone, CUDA does not recover from that
    within a process, and to load PyTorch again takes seconds."""
    watcher = os.fork()
    if watcher == 0:
        for _ in range(MAX_TRIES * 3):
            probe = os.fork()
            if probe == 0:
                os._exit(0 if opens(index) else 1)
            if os.waitpid(probe, 0)[1] == 0:
                break
            time.sleep(PROBE_PAUSE)
        os._exit(0)
    return lambda: os.waitpid(watcher, 0)


def opens(index):
    """Whether the driver makes a context on the GPU. Without a driver there is nothing to wait for."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    device, context = ctypes.c_int(), ctypes.c_void_p()
    return (
        cuda.cuInit(0) == 0
        and cuda.cuDeviceGet(ctypes.byref(device), index) == 0
        and cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    )


def take_device(torch, device, log):
    """Opens the GPU. Where it is not to be had after all (see watch_device): begin again, as a job launcher would."""
    try:
        torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except RuntimeError as error:
        tries = int(os.environ.get("C4_TRAIN_TRIES", "0"))
        if not any(text in str(error) for text in ("busy or unavailable", "MPS")) or tries >= MAX_TRIES:
            raise
        log(f"the GPU is not to be had yet, trying again: {str(error).splitlines()[0]}")
        os.environ["C4_TRAIN_TRIES"] = str(tries + 1)
        time.sleep(1.0)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def abort_on_term(trainers, log):
    """Lets a thread wait for SIGTERM: the main one may be stuck in a collective that will never end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait():
        signal.sigwait({signal.SIGTERM})
        log("told to end: aborting NCCL")
        try:
            for trainer in trainers:
                trainer.abort_now()
        finally:
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, name="term", daemon=True).start()
