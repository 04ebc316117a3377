#!/usr/bin/env python3
"""One rank of a job on a given libnccl, without PyTorch: iterations of all-reduces, checkpoints, the faults that need no kernels of ours.

What train.py is for a whole PyTorch, this is for any version of NCCL from 2.23 on.
"""

import argparse
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "deploy", "checks")]

from c4gpu import rank as process  # noqa: E402
from c4gpu.control import FaultControl  # noqa: E402
from c4gpu.trainer import read_checkpoint, write_checkpoint  # noqa: E402
from nccl_loopback import Communicator, Device  # noqa: E402

CHECKPOINT_EVERY = 50


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--nccl", required=True, help="the library, as a path")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=200, help="0: until ended")
    parser.add_argument("--compute-ms", type=float, default=25.0, help="how long an iteration sleeps in place of computing")
    parser.add_argument("--bucket-kib", type=lambda text: [int(part) for part in text.split(",")], default=[1024, 1024, 64, 4])
    parser.add_argument("--rendezvous", required=True, help="directory for the ranks to meet in")
    parser.add_argument("--checkpoint", help="file that holds the iteration to go on from")
    parser.add_argument("--log-dir", help="directory for this rank's output")
    return parser.parse_args(arguments)


class Job:
    """The loop of one rank."""

    def __init__(self, options, rank, world_size, control, log):
        self.options, self.rank, self.world_size = options, rank, world_size
        self.control, self.log = control, log
        self.device = Device(options.device)
        meeting = os.path.join(options.rendezvous, f"identity-{os.environ.get('C4_INCARNATION', '0')}")
        self.communicator = Communicator(options.nccl, self.device, rank, world_size, meeting)
        self.buffers = [(kib * 256, self.device.allocate(kib * 256, rank + 1.0)) for kib in options.bucket_kib]
        self.sum = self.device.allocate(max(floats for floats, _ in self.buffers), 0.0)
        log(f"NCCL {self.communicator.version()}")

    def step(self, iteration):
        """One iteration, with whatever fault was asked for."""
        fault = self.control.poll(iteration)
        kind = fault["kind"] if fault else None
        time.sleep((self.options.compute_ms * 1e3 + (fault["us"] if kind == "sleep" else 0.0)) / 1e6)
        for number, (floats, buffer) in enumerate(self.buffers):
            if number == 0 and kind in ("skip", "resize"):
                self.control.done(fault)
                if kind == "skip":
                    continue
                floats = floats * 3 // 4
            self.communicator.all_reduce(buffer, self.sum, floats)
        self.device.synchronize()

    def verify(self, iteration):
        """What was summed is known: 1 + 2 + … + world size."""
        found, expected = self.device.first(self.sum), self.world_size * (self.world_size + 1) / 2
        if found != expected:
            raise SystemExit(f"iteration {iteration}: the sum is {found}, not {expected}")

    def run(self, iteration):
        """Until the last iteration."""
        last = self.options.iterations
        while not last or iteration < last:
            self.step(iteration)
            iteration += 1
            self.control.progress(iteration, force=iteration == last)
            if iteration % CHECKPOINT_EVERY == 0:
                self.verify(iteration)
                write_checkpoint(self.options.checkpoint, self.rank, {"iteration": iteration})
        self.communicator.destroy()


def main():
    options = parse_arguments()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    process.open_log(options.log_dir, rank)
    process.prepare_environment(rank)

    def log(text):
        print(f"[{time.time():.3f}] rank {rank}: {text}", flush=True)

    process.watch_device(options.device)()
    control = FaultControl(os.environ.get("C4_FAULT_DIR"), rank, log)
    log(f"pid {os.getpid()}, {options.nccl}")
    Job(options, rank, world_size, control, log).run(read_checkpoint(options.checkpoint).get("iteration", 0))
    log("done")


if __name__ == "__main__":
    main()
