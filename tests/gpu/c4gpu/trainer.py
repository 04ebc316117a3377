"""The training loop of one rank, whatever the shape of its job: groups, calibration, iterations, faults, checkpoints.

The shape (see shapes.py) only says what an iteration computes and which collectives it does. `torch` is handed in, so that
the control flow can be tested without a GPU.
"""

import json
import os
import time
from datetime import timedelta

from . import illegal, layout
from .control import write_atomically
from .rank import take_device

METRICS = 1 << 10  # float32 elements: 4 KiB
CALIBRATION_MATMULS = 16
STUCK_SECONDS = 90.0  # a kernel that "never" ends still does, should nobody kill its process


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


def write_checkpoint(path, rank, state):
    """Rank 0 keeps what is needed to go on, and says so: another rank would not know whether it lived to do it."""
    if rank != 0 or not path:
        return
    began = time.monotonic()
    write_atomically(path, json.dumps(state))
    took = time.monotonic() - began
    if marker := os.environ.get("C4_CHECKPOINT_MARKER"):
        write_atomically(marker, f"{state['iteration']} {took:.6f}\n")


class Trainer:
    """The loop of one rank."""

    def __init__(self, torch, options, rank, world_size, control, log, make_shape):
        self.torch, self.dist = torch, torch.distributed
        self.options, self.rank, self.world_size = options, rank, world_size
        self.control, self.log = control, log
        self.iteration = 0
        self.matmuls = 0
        self.cycles_per_us = 1000.0
        self.fault = None
        self.groups = {}
        devices = options.devices
        self.device = torch.device("cuda", devices[rank % len(devices)])
        take_device(torch, self.device, log)
        side = options.matrix
        self.left = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        self.right = torch.randn(side, side, device=self.device, dtype=torch.bfloat16) / side**0.5
        self.metrics = torch.full((METRICS,), float(rank + 1), device=self.device)
        self.end_of_iteration = torch.cuda.Event(blocking=True)
        self.shape = make_shape(self)

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
        self.groups = {}
        for name, members in layout.groups(self.options.shape, self.world_size).items():
            for ranks in members:  # everybody takes part in making every group
                group = self.dist.new_group(ranks, group_desc=name)
                if self.rank in ranks:
                    self.groups[name] = group
        self.log(f"group {generation} of incarnation {incarnation} ready in {time.monotonic() - started:.2f} s")

    def close_group(self):
        """Leaves the group in good order."""
        self.torch.cuda.synchronize()
        self.shape.close()
        self.dist.destroy_process_group()

    def abort_group(self):
        """Aborts NCCL while all ranks but the first wait in a collective, as a fault-tolerant trainer would."""
        if self.rank != 0:
            self.dist.all_reduce(self.metrics, async_op=True)
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

    # --- compute ----------------------------------------------------------------------------------------------------

    def compute(self, matmuls):
        """So many matrix products on the current stream."""
        for _ in range(matmuls):
            self.torch.matmul(self.left, self.right)

    def slices(self, parts):
        """The products of an iteration in so many parts, none empty; the first takes what is left over."""
        each = max(1, self.matmuls // parts)
        return [max(1, self.matmuls - each * (parts - 1)), *[each] * (parts - 1)]

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

    # --- collectives and faults -------------------------------------------------------------------------------------

    def reduce(self, buffer, group=None):
        """An average over a group that the host does not wait for."""
        return self.dist.all_reduce(buffer, op=self.dist.ReduceOp.AVG, group=group, async_op=True)

    def marked(self, count):
        """How many elements the collective that faults change is to have: all, three quarters, or 0 to leave it out."""
        kind = self.fault["kind"] if self.fault else None
        if kind not in ("skip", "resize"):
            return count
        # Before anybody waits: after this a collective never returns.
        self.control.done(self.fault)
        self.fault = None
        return 0 if kind == "skip" else count * 3 // 4

    def begin_fault(self):
        """Carries out what is wrong with this iteration as a whole; what is wrong with a collective is for `marked`."""
        self.fault = fault = self.control.poll(self.iteration)
        kind = fault["kind"] if fault else None
        if kind == "sleep":
            time.sleep(fault["us"] / 1e6)
        elif kind == "busy":
            self.spin(fault["us"])
        elif kind == "stuck":
            self.control.done(fault)
            self.spin(STUCK_SECONDS * 1e6)
        elif kind == "illegal":
            self.control.done(fault)
            illegal.launch()

    def spin(self, us):
        """Keeps the current stream busy."""
        self.torch.cuda._sleep(int(us * self.cycles_per_us))

    # --- the whole run ----------------------------------------------------------------------------------------------

    def step(self):
        """One iteration, with whatever fault was asked for."""
        self.begin_fault()
        self.shape.step()
        # Waits without spinning: ranks that share a machine would take each other's CPUs.
        self.end_of_iteration.record()
        self.end_of_iteration.synchronize()
        loss = self.metrics[0].item()
        if loss != loss:
            raise SystemExit(f"iteration {self.iteration}: the loss is not a number")

    def run_group(self, last):
        """Iterates until `last` (None: for ever)."""
        options = self.options
        while last is None or self.iteration < last:
            self.step()
            self.iteration += 1
            self.control.progress(self.iteration)
            if options.verify_every and self.iteration % options.verify_every == 0:
                self.shape.verify()
            if options.checkpoint_every and self.iteration % options.checkpoint_every == 0:
                write_checkpoint(options.checkpoint, self.rank, {"iteration": self.iteration, "matmuls": self.matmuls})

    def run(self, state):
        """All groups one after the other."""
        options = self.options
        self.iteration = state.get("iteration", 0)
        known = state.get("matmuls", 0)
        for generation in range(options.groups):
            self.open_group(generation)
            self.calibrate(known)
            known = self.matmuls
            self.shape.open()
            self.control.progress(self.iteration, force=True)
            final = generation + 1 == options.groups
            share = options.iterations * (generation + 1) // options.groups
            self.run_group(share if options.iterations else None)
            self.log(f"group {generation} done at iteration {self.iteration}")
            if not final and options.abort:
                self.shape.close()
                self.abort_group()
            elif not (final and options.no_destroy):
                self.close_group()
        self.control.progress(self.iteration, force=True)
