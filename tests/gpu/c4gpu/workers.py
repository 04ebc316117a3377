"""The jobs the suite can drive: real NCCL through PyTorch, real NCCL of any version alone, and the GPU-less stand-in that tests the
suite itself."""

import os
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Worker:
    """One kind of job: what its ranks are started with."""

    needs_gpu = True

    def __init__(self, options):
        self.options = options

    def environment(self, extra=None):
        """What every rank gets beside what the agent sets; what the caller wants comes last."""
        return {**self.defaults(), **(extra or {}), **getattr(self.options, "env", {})}

    def defaults(self):
        """What this kind of job wants in its environment."""
        return {}

    def common(self, place, iterations):
        """What every kind of rank is told."""
        return ["--iterations", iterations, "--rendezvous", place.path("meet")]

    def script(self, name, place, iterations):
        """A rank that is one of the scripts here."""
        arguments = ["--compute-ms", self.options.compute_ms, "--checkpoint", place.path("checkpoint.json")]
        arguments += ["--log-dir", place.path("ranks")]
        return [sys.executable, os.path.join(HERE, name), *self.common(place, iterations), *arguments]


class TorchWorker(Worker):
    """tests/gpu/train.py."""

    name = "torch"
    # Loading PyTorch and starting CUDA in several processes at once takes its time.
    start_timeout = 120.0
    restart_timeout = 60.0

    def defaults(self):
        defaults = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": str(self.options.async_error_handling), "OMP_NUM_THREADS": "2"}
        sharing = -(-self.options.ranks // len(self.options.devices))
        if sharing > 1:
            # A part of the GPU for each: who could use what a late rank leaves idle would make up for it.
            defaults["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(max(1, 100 // sharing))
        return defaults

    def command(self, place, iterations, arguments=()):
        """The command of one rank; the agent runs it once for each."""
        options = self.options
        return [
            *self.script("train.py", place, iterations),
            "--shape",
            options.shape,
            "--transport",
            options.transport,
            "--devices",
            ",".join(str(device) for device in options.devices),
            "--bucket-kib",
            options.bucket_kib,
            "--width",
            options.width,
            "--batch",
            options.batch,
            *(["--abort-on-term"] if getattr(options, "abort_on_term", False) else []),
            *arguments,
        ]


class NcclWorker(Worker):
    """tests/gpu/ncclrank.py: all-reduces of a given libnccl, without PyTorch; data-parallel whatever the shape."""

    name = "nccl"
    start_timeout = 60.0
    restart_timeout = 60.0

    def command(self, place, iterations, arguments=()):
        """The command of one rank."""
        del arguments  # they are train.py's
        return [*self.script("ncclrank.py", place, iterations), "--nccl", self.options.nccl]


class RingWorker(Worker):
    """ringjob: the same fault control, real TCP, no GPU. It plays NCCL to the plugin, and a data-parallel job whatever the shape."""

    name = "ringjob"
    needs_gpu = False
    start_timeout = 30.0
    restart_timeout = 30.0

    def command(self, place, iterations, arguments=()):
        """The command of one rank."""
        del arguments  # they are train.py's
        return [
            os.path.join(self.options.bin, "ringjob"),
            *self.common(place, iterations),
            "--checkpoint-dir",
            place.path("checkpoints"),
            "--compute-us",
            int(self.options.compute_ms * 1000),
            "--hang-on-peer-loss",
        ]


WORKERS = {worker.name: worker for worker in (TorchWorker, NcclWorker, RingWorker)}
