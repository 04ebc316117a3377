#!/usr/bin/env python3
"""One rank of a cost measurement: joins a group once, then times all-reduces when told to.

Commands come as JSON lines on standard input, {"bytes", "count", "mode"}; each is answered by one JSON line, {"us"}. Mode
`latency` waits for each operation (median of single times), `stream` enqueues all and waits once (mean of the batch).
"""

import gc
import json
import os
import statistics
import sys
import time
from datetime import timedelta

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from train import prepare_environment  # noqa: E402

WARM_UP = 5


def measure(torch, tensor, command):
    """Microseconds an operation took."""
    dist, synchronize = torch.distributed, torch.cuda.synchronize
    for _ in range(WARM_UP):
        dist.all_reduce(tensor)
    synchronize()
    count = command["count"]
    if command["mode"] == "stream":
        begin = time.perf_counter()
        for _ in range(count):
            dist.all_reduce(tensor)
        synchronize()
        return (time.perf_counter() - begin) / count * 1e6
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        dist.all_reduce(tensor)
        synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def main():
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # What libraries print goes to the log; answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if cpus := os.environ.get("C4_COST_CPUS"):
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    prepare_environment(rank)
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(0)
    store = dist.FileStore(sys.argv[1], world_size)
    dist.init_process_group(
        "nccl", store=store, rank=rank, world_size=world_size, timeout=timedelta(minutes=10), device_id=torch.device("cuda", 0)
    )
    tensors = {}
    dist.all_reduce(torch.zeros(1024, device="cuda"))
    torch.cuda.synchronize()
    gc.collect()
    gc.disable()
    print(json.dumps({"ready": os.getpid()}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        size = command["bytes"]
        if size not in tensors:
            tensors[size] = torch.zeros(size // 4, device="cuda")
        print(json.dumps({"us": measure(torch, tensors[size], command)}), file=answers)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
