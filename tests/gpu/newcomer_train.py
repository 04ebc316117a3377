#!/usr/bin/env python3
"""A small DDP job as somebody would have it who has never heard of C4: started by torchrun, broken on request.

NEWCOMER_BACKEND is the process group's, NEWCOMER_BREAK is "kill" or "hang" (rank 1, at two thirds of the steps), or nothing.
"""

import os
import signal
import sys
import time

# Ranks that share a GPU: NCCL takes one rank a GPU of a host, so each claims a host of its own.
if os.environ.get("NEWCOMER_SHARED") == "1":
    os.environ["NCCL_HOSTID"] = f"host-{os.environ['RANK']}"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402


def main():
    steps = int(sys.argv[1])
    backend = os.environ.get("NEWCOMER_BACKEND", "nccl")
    breaks = os.environ.get("NEWCOMER_BREAK", "")
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(4))).to(device)
    model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        if rank == 1 and step == steps * 2 // 3:
            if breaks == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if breaks == "hang":
                print("rank 1 hangs", flush=True)
                time.sleep(3600)
        loss = model(torch.randn(32, 512, device=device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # A job that somebody watches has some pace.
        time.sleep(0.05)
        if rank == 0 and step % 50 == 0:
            print(f"step {step}, loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
