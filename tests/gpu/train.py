#!/usr/bin/env python3
"""One rank of a data-parallel training loop on real NCCL, made to be broken on command.

Several ranks share one GPU. NCCL refuses two ranks of one host on one GPU, so each process claims to be a host of its own
and NCCL talks through sockets, which is also what gives network steps to look at. The loop is shaped like DDP: matrix
products, gradient buckets reduced while the next layer is still computed, a small reduction for the loss, and one
synchronisation an iteration.

Faults come through files (see c4gpu/control.py), checkpoints are announced in $C4_CHECKPOINT_MARKER.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu.control import FaultControl, write_atomically  # noqa: E402

# float32 elements; the order is that of DDP's buckets: large gradients first, what is left over last.
BUCKETS = (4 << 20, 4 << 20, 256 << 10, 256 << 10)  # 16 MiB, 16 MiB, 1 MiB, 1 MiB
METRICS = 1 << 10  # 4 KiB
MAX_TRIES = 20  # to open the GPU, a second apart
MATRIX = 4096
CALIBRATION_MATMULS = 16


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--iterations", type=int, default=200, help="iterations in all, over all groups; 0: until ended")
    parser.add_argument("--compute-ms", type=float, default=25.0, help="GPU time of the compute part, all ranks busy")
    parser.add_argument("--checkpoint-every", type=int, default=50, help="iterations between checkpoints; 0: none")
    parser.add_argument("--checkpoint", help="file that holds the state to go on from")
    parser.add_argument("--verify-every", type=int, default=50, help="iterations between checks of the sums; 0: none")
    parser.add_argument("--rendezvous", help="directory for the ranks to meet in; without it MASTER_ADDR and MASTER_PORT")
    parser.add_argument("--groups", type=int, default=1, help="process groups one after the other in this process")
    parser.add_argument("--no-destroy", action="store_true", help="end without destroy_process_group")
    parser.add_argument("--abort", action="store_true", help="abort NCCL in mid-operation at the end of every group but the last")
    parser.add_argument("--abort-on-term", action="store_true", help="abort NCCL when told to end, so that no kernel is left spinning")
    parser.add_argument("--matrix", type=int, default=MATRIX, help="side of the matrices multiplied")
    parser.add_argument("--log-dir", help="directory for this rank's output")
    return parser.parse_args(arguments)


def prepare_environment(rank):
    """What NCCL and PyTorch read once, so it has to be there before they are loaded. What the caller set stays."""
    defaults = {
        "NCCL_HOSTID": f"host-{rank}",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_IB_DISABLE": "1",
        # C4 has to be the one who finds out. PyTorch's own watchdog would turn every hang into a dead process.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
        "TORCH_NCCL_BLOCKING_WAIT": "0",
        "TORCH_NCCL_ENABLE_MONITORING": "0",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def read_checkpoint(path):
    """The state to go on from: {"iteration", "matmuls"}, empty when there is none."""
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
    except FileNotFoundError:
        return {}
    if not isinstance(state, dict) or not isinstance(state.get("iteration"), int):
        raise SystemExit(f"{path}: not a checkpoint: expected an object with a whole number 'iteration'")
    return state


def take_device(torch, device, log):
    """Opens the GPU. The multi-process service turns new clients away until the last one that was killed is gone, and
    CUDA does not recover from that within a process: begin again, as a job launcher would."""
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


class Trainer:
    """The loop of one rank. `torch` is handed in, so that the control flow can be tested without a GPU."""

    def __init__(self, torch, options, rank, world_size, control, log):
        self.torch, self.dist = torch, torch.distributed
        self.options, self.rank, self.world_size = options, rank, world_size
        self.control, self.log = control, log
        self.iteration = 0
        self.matmuls = 0
        self.cycles_per_us = 1000.0
        self.device = torch.device("cuda", 0)
        take_device(torch, self.device, log)
        side = options.matrix
        self.left = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        self.right = torch.randn(side, side, device=self.device, dtype=torch.bfloat16) / side**0.5
        self.buckets = [torch.full((n,), float(rank + 1), device=self.device) for n in BUCKETS]
        self.metrics = torch.full((METRICS,), float(rank + 1), device=self.device)

    # --- groups -----------------------------------------------------------------------------------------------------

    def open_group(self, generation):
        """Joins the process group; a generation is one group in the life of this process."""
        incarnation = os.environ.get("C4_INCARNATION", "0")
        arguments = {"rank": self.rank, "world_size": self.world_size}
        if self.options.rendezvous:
            # A file store dies with nobody, so no rank has to outlive the others; each attempt gets a file of its own.
            path = os.path.join(self.options.rendezvous, f"meet-{incarnation}-{generation}")
            os.makedirs(self.options.rendezvous, exist_ok=True)
            arguments["store"] = self.dist.FileStore(path, self.world_size)
        else:
            arguments["init_method"] = "env://"
        started = time.monotonic()
        self.dist.init_process_group("nccl", timeout=timedelta(hours=1), device_id=self.device, **arguments)
        self.dist.all_reduce(self.metrics, op=self.dist.ReduceOp.AVG)
        self.torch.cuda.synchronize()
        self.log(f"group {generation} of incarnation {incarnation} ready in {time.monotonic() - started:.2f} s")

    def close_group(self):
        """Leaves the group in good order."""
        self.torch.cuda.synchronize()
        self.dist.destroy_process_group()

    def abort_group(self):
        """Aborts NCCL while all ranks but the first wait in a collective, as a fault-tolerant trainer would."""
        if self.rank != 0:
            self.dist.all_reduce(self.buckets[0], async_op=True)
        time.sleep(1.0)
        self.abort_now()
        self.log("aborted NCCL in mid-operation")

    def abort_now(self):
        """Frees whoever waits in NCCL, the GPU included."""
        core = self.dist.distributed_c10d
        if hasattr(core, "_abort_process_group"):
            core._abort_process_group()
        else:
            core._get_default_group()._get_backend(self.device).abort()
            self.dist.destroy_process_group()

    # --- one iteration ----------------------------------------------------------------------------------------------

    def compute(self, matmuls):
        for _ in range(matmuls):
            self.torch.matmul(self.left, self.right)

    def timed_ms(self, work):
        """GPU time of some work, once all before it is done."""
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        self.torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def calibrate(self, known):
        """How many products make the wanted compute time with all ranks on the GPU, and how fast the GPU's clock ticks."""
        count = known
        # First the products: they bring an idle GPU up to its clock, which the ticks are then measured at.
        self.timed_ms(lambda: self.compute(CALIBRATION_MATMULS * 8))
        self.dist.barrier()
        each_ms = max(self.timed_ms(lambda: self.compute(CALIBRATION_MATMULS * 2)) / (CALIBRATION_MATMULS * 2), 1e-3)
        if not count:
            count = max(1, round(self.options.compute_ms / each_ms))
        cycles = 20_000_000
        self.cycles_per_us = cycles / max(self.timed_ms(lambda: self.torch.cuda._sleep(cycles)) * 1000.0, 1.0)
        # Every rank does what the first one found, or the job would be unbalanced by design.
        agreed = self.torch.tensor([count, self.iteration], dtype=self.torch.int64, device=self.device)
        self.dist.broadcast(agreed, 0)
        self.matmuls, self.iteration = (int(value) for value in agreed.tolist())
        self.log(f"{self.matmuls} products an iteration, from iteration {self.iteration}")

    def reduce(self, bucket):
        return self.dist.all_reduce(bucket, op=self.dist.ReduceOp.AVG, async_op=True)

    def step(self):
        """One iteration, with whatever fault was asked for."""
        fault = self.control.poll(self.iteration)
        kind = fault["kind"] if fault else None
        parts = len(self.buckets) + 1
        slice_ = max(1, self.matmuls // parts)
        if kind == "sleep":
            time.sleep(fault["us"] / 1e6)
        self.compute(max(1, self.matmuls - slice_ * (parts - 1)))
        if kind == "busy":
            self.torch.cuda._sleep(int(fault["us"] * self.cycles_per_us))
        pending = []
        for index, bucket in enumerate(self.buckets):
            self.compute(slice_)
            if index == 0 and kind == "skip":
                continue
            if index == 0 and kind == "resize":
                bucket = bucket[: bucket.numel() * 3 // 4]
            pending.append(self.reduce(bucket))
        if fault:
            # Before anybody waits: after this a skipped or resized collective never returns.
            self.control.done(fault)
        for work in pending:
            work.wait()
        self.dist.all_reduce(self.metrics, op=self.dist.ReduceOp.AVG)
        loss = self.metrics[0].item()
        if loss != loss:
            raise SystemExit(f"iteration {self.iteration}: the loss is not a number")

    def verify(self):
        """Checks that NCCL still adds up, with every observer in place."""
        offset = float(self.iteration % 7)
        expected = (self.world_size + 1) / 2 + offset
        for bucket in self.buckets:
            bucket.fill_(self.rank + 1 + offset)
        for work in [self.reduce(bucket) for bucket in self.buckets]:
            work.wait()
        for bucket in self.buckets:
            low, high = bucket.min().item(), bucket.max().item()
            if abs(low - expected) > 1e-3 or abs(high - expected) > 1e-3:
                raise SystemExit(f"iteration {self.iteration}: wrong average: {low}..{high}, expected {expected}")

    def checkpoint(self):
        """Rank 0 keeps what is needed to go on; then the first rank of each node says so."""
        if self.rank == 0 and self.options.checkpoint:
            state = {"iteration": self.iteration, "matmuls": self.matmuls}
            write_atomically(self.options.checkpoint, json.dumps(state))
        marker = os.environ.get("C4_CHECKPOINT_MARKER")
        if marker and os.environ.get("LOCAL_RANK", str(self.rank)) == "0":
            write_atomically(marker, f"{self.iteration}\n")

    # --- the whole run ----------------------------------------------------------------------------------------------

    def run_group(self, last):
        """Iterates until `last` (None: for ever)."""
        options = self.options
        while last is None or self.iteration < last:
            self.step()
            self.iteration += 1
            self.control.progress(self.iteration)
            if options.verify_every and self.iteration % options.verify_every == 0:
                self.verify()
            if options.checkpoint_every and self.iteration % options.checkpoint_every == 0:
                self.checkpoint()

    def run(self, state):
        """All groups one after the other."""
        options = self.options
        self.iteration = state.get("iteration", 0)
        known = state.get("matmuls", 0)
        for generation in range(options.groups):
            self.open_group(generation)
            self.calibrate(known)
            known = self.matmuls
            self.control.progress(self.iteration, force=True)
            final = generation + 1 == options.groups
            share = options.iterations * (generation + 1) // options.groups
            self.run_group(share if options.iterations else None)
            self.log(f"group {generation} done at iteration {self.iteration}")
            if not final and options.abort:
                self.abort_group()
            elif not (final and options.no_destroy):
                self.close_group()
        self.control.progress(self.iteration, force=True)


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


def main():
    options = parse_arguments()
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise SystemExit(f"RANK and WORLD_SIZE have to be set to whole numbers ({error})") from error
    open_log(options.log_dir, rank)
    prepare_environment(rank)

    def log(text):
        print(f"[{time.time():.3f}] rank {rank}: {text}", flush=True)

    control = FaultControl(os.environ.get("C4_FAULT_DIR"), rank, log)
    trainers = []
    if options.abort_on_term:
        abort_on_term(trainers, log)
    started = time.monotonic()
    import torch
    import torch.distributed  # noqa: F401

    log(f"pid {os.getpid()}, torch {torch.__version__} loaded in {time.monotonic() - started:.2f} s")
    trainer = Trainer(torch, options, rank, world_size, control, log)
    trainers.append(trainer)
    trainer.run(read_checkpoint(options.checkpoint))
    log("done")
    if options.no_destroy:
        # As jobs do that were never taught to clean up: no destructor of PyTorch's gets to run.
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
