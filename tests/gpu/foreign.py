#!/usr/bin/env python3
"""A program that has nothing to do with the job but uses its GPU: foreign.py DEVICE READY GO.

It opens the GPU, makes the file READY, waits until the file GO is there, and computes until it is killed.
"""

import os
import sys
import time

SIDE = 8192
QUEUED = 8  # products in flight, so that the GPU never waits for this program


def main():
    import torch

    device, ready, go = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.cuda.set_device(device)
    left = torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    torch.matmul(left, left)
    torch.cuda.synchronize()
    with open(ready, "w", encoding="utf-8"):
        pass
    while not os.path.exists(go):
        time.sleep(0.005)
    while True:
        for _ in range(QUEUED):
            torch.matmul(left, left)
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
