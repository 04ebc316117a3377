"""The jobs the suite can drive: real NCCL through PyTorch, real NCCL of any version alone, and the GPU-less stand-in that tests the
suite itself."""

import os
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def settings(options):
    """What the caller wants every rank to have in its environment."""
    return dict(setting.split("=", 1) for setting in getattr(options, "env", []))


class TorchWorker:
    """tests/gpu/train.py."""

    name = "torch"
    needs_gpu = True
    # Loading PyTorch and starting CUDA in several processes at once takes its time.
    start_timeout = 120.0
    restart_timeout = 60.0

    def __init__(self, options):
        self.options = options

    def environment(self, extra=None):
        """What every rank gets beside what the agent sets."""
        environment = {
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": str(self.options.async_error_handling),
            "OMP_NUM_THREADS": "2",
        }
        return {**environment, **(extra or {}), **settings(self.options)}

    def command(self, place, iterations, arguments=()):
        """The command of one rank; the agent runs it once for each."""
        return [
            sys.executable,
            os.path.join(HERE, "train.py"),
            "--shape",
            self.options.shape,
            "--transport",
            self.options.transport,
            "--devices",
            ",".join(str(device) for device in self.options.devices),
            "--iterations",
            iterations,
            "--compute-ms",
            self.options.compute_ms,
            "--bucket-kib",
            self.options.bucket_kib,
            "--rendezvous",
            place.path("meet"),
            "--checkpoint",
            place.path("checkpoint.json"),
            "--log-dir",
            place.path("ranks"),
            *(["--abort-on-term"] if getattr(self.options, "abort_on_term", False) else []),
            *arguments,
        ]


class NcclWorker:
    """tests/gpu/ncclrank.py: all-reduces of a given libnccl, without PyTorch; data-parallel whatever the shape."""

    name = "nccl"
    needs_gpu = True
    start_timeout = 60.0
    restart_timeout = 60.0

    def __init__(self, options):
        self.options = options

    def environment(self, extra=None):
        """What every rank gets beside what the agent sets."""
        return {**(extra or {}), **settings(self.options)}

    def command(self, place, iterations, arguments=()):
        """The command of one rank."""
        del arguments  # they are train.py's
        return [
            sys.executable,
            os.path.join(HERE, "ncclrank.py"),
            "--nccl",
            self.options.nccl,
            "--iterations",
            iterations,
            "--compute-ms",
            self.options.compute_ms,
            "--rendezvous",
            place.path("meet"),
            "--checkpoint",
            place.path("checkpoint.json"),
            "--log-dir",
            place.path("ranks"),
        ]


class RingWorker:
    """ringjob: the same fault control, real TCP, no GPU. It plays NCCL to the plugin, and a data-parallel job whatever the shape."""

    name = "ringjob"
    needs_gpu = False
    start_timeout = 30.0
    restart_timeout = 30.0

    def __init__(self, options):
        self.options = options

    def environment(self, extra=None):
        """What every rank gets beside what the agent sets."""
        return {**(extra or {}), **settings(self.options)}

    def command(self, place, iterations, arguments=()):
        """The command of one rank."""
        del arguments  # they are train.py's
        return [
            os.path.join(self.options.bin, "ringjob"),
            "--iterations",
            iterations,
            "--rendezvous",
            place.path("meet"),
            "--checkpoint-dir",
            place.path("checkpoints"),
            "--compute-us",
            int(self.options.compute_ms * 1000),
            "--hang-on-peer-loss",
        ]


WORKERS = {worker.name: worker for worker in (TorchWorker, NcclWorker, RingWorker)}
