#!/usr/bin/env python3
"""One rank of a cost measurement: joins a group once, then times all-reduces when told to.

Commands come as JSON lines on standard input; each is answered by one JSON line. {"bytes", "count", "mode"} gives {"us"}, what
one operation took: mode `latency` waits for each operation (median of single times), `stream` enqueues all and waits once (mean
of the batch), `steady` waits for each operation, too (mean of all, none of which counts for more than twice their median), `graph` replays a CUDA graph that holds all of them (likewise); in mode
`train` an operation is a step of a transformer's data-parallel training, whatever the bytes (mean of the batch). With "blocks", a list of 0 and 1, it gives the
"us" of each block, with the plugin switched off or on for it (see tests/switch).
"""

import ctypes
import gc
import json
import os
import statistics
import sys
import time
import types
from datetime import timedelta

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu.rank import prepare_environment  # noqa: E402

WARM_UP = 5
# After each switch, for whatever the last operation of the other kind left behind.
SETTLE = 2


class Bench:
    """What is measured with."""

    def __init__(self, torch, switch):
        self.torch, self.dist = torch, torch.distributed
        self.switch = switch
        self.tensors, self.graphs = {}, {}
        self.model = None

    def tensor(self, size):
        """A buffer of so many bytes."""
        if size not in self.tensors:
            self.tensors[size] = self.torch.zeros(max(size // 4, 1), device="cuda")
        return self.tensors[size]

    def training(self):
        """A model to train, made when it is first asked for."""
        if self.model is None:
            from c4gpu.transformer import Replicated

            torch = self.torch
            job = types.SimpleNamespace(
                torch=torch,
                device=torch.device("cuda", torch.cuda.current_device()),
                options=types.SimpleNamespace(layers=4, width=1024, sequence=1024, batch=8, bucket_kib=0),
                metrics=torch.zeros(1024, device="cuda"),
                matmuls=0,
                compute=lambda _: None,
                marked=lambda count: count,
            )
            self.model = Replicated(job)
            self.model.open()
        return self.model

    def operation(self, size, mode):
        """What is measured: enqueues one."""
        if mode == "train":
            return self.training().step
        tensor = self.tensor(size)
        return lambda: self.dist.all_reduce(tensor)

    def graph(self, size, count, on):
        """A captured batch; NCCL asks for the event mask when it is captured, not when it is replayed."""
        key = size, count, on
        if key not in self.graphs:
            tensor, torch = self.tensor(size), self.torch
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for _ in range(count):
                    self.dist.all_reduce(tensor)
            self.graphs[key] = graph
        return self.graphs[key]

    def drop_graphs(self):
        """Before another batch: captured operations hold memory and, in NCCL, connections."""
        self.torch.cuda.synchronize()
        self.graphs.clear()

    def once(self, size, count, mode, on=None):
        """Microseconds of an operation."""
        operation, synchronize = self.operation(size, mode), self.torch.cuda.synchronize
        if mode in ("latency", "steady"):
            times = []
            for _ in range(count):
                begin = time.perf_counter()
                operation()
                synchronize()
                times.append(time.perf_counter() - begin)
            median = statistics.median(times)
            return (median if mode == "latency" else statistics.fmean(min(taken, 2 * median) for taken in times)) * 1e6
        graph = self.graph(size, count, on) if mode == "graph" else None
        begin = time.perf_counter()
        if graph is not None:
            graph.replay()
        else:
            for _ in range(count):
                operation()
        synchronize()
        return (time.perf_counter() - begin) / count * 1e6

    def warm_up(self, size, count, mode, on=None):
        """Lets everything be set up that is set up once."""
        operation = self.operation(size, mode)
        for _ in range(count):
            operation()
        if mode == "graph":
            self.graph(size, count, on).replay()
        self.torch.cuda.synchronize()

    def answer(self, command):
        """What a command asks for."""
        size, count, mode = command["bytes"], command["count"], command["mode"]
        if command.get("fresh"):
            self.drop_graphs()
        if "blocks" not in command:
            self.warm_up(size, WARM_UP, mode)
            return {"us": self.once(size, count, mode)}
        us, masks, operation = [], set(), self.operation(size, mode)
        for index, on in enumerate(command["blocks"]):
            mask = self.switch(on)
            masks.add((on, mask))
            if mode == "graph":
                self.graph(size, count, on)
            # While the command was waited for, everything grew cold.
            for _ in range(SETTLE if index else count):
                operation()
            self.torch.cuda.synchronize()
            us.append(self.once(size, count, mode, on))
        self.switch(1)
        return {"us": us, "masks": sorted(masks)}


def open_switch():
    """The function that switches the plugin, as NCCL has it loaded; without one, nothing can be switched."""
    path = os.environ.get("C4_COST_SWITCH")
    return ctypes.CDLL(path).c4_profiler_switch if path else lambda _: None


def main():
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # What libraries print goes to the log; answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if cpus := os.environ.get("C4_COST_CPUS"):
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    prepare_environment(rank, os.environ.get("C4_COST_TRANSPORT", "network"))
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", int(os.environ.get("C4_COST_DEVICE", "0")))
    torch.cuda.set_device(device)
    store = dist.FileStore(sys.argv[1], world_size)
    dist.init_process_group(
        "nccl", store=store, rank=rank, world_size=world_size, timeout=timedelta(minutes=10), device_id=device
    )
    dist.all_reduce(torch.zeros(1024, device="cuda"))
    torch.cuda.synchronize()
    bench = Bench(torch, open_switch())
    gc.collect()
    gc.disable()
    print(json.dumps({"ready": os.getpid()}), file=answers)
    for line in sys.stdin:
        print(json.dumps(bench.answer(json.loads(line))), file=answers)
    bench.drop_graphs()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
