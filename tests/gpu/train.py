#!/usr/bin/env python3
"""One rank of a training job on real NCCL, made to be broken on command.

Several ranks may share one GPU. NCCL refuses two ranks of one host on one GPU, so with `--transport network` each process
claims to be a host of its own and NCCL talks through sockets, which is also what gives network steps to look at; with `local` there
is one rank a GPU, and NCCL takes NVLink or shared memory.

What an iteration does depends on `--shape` (c4gpu/shapes.py, c4gpu/transformer.py). Faults come through files (see
c4gpu/control.py), checkpoints are announced in $C4_CHECKPOINT_MARKER.
"""

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu import layout, rank as process  # noqa: E402
from c4gpu.control import FaultControl  # noqa: E402
from c4gpu.shapes import SHAPES  # noqa: E402
from c4gpu.trainer import Trainer, read_checkpoint  # noqa: E402

MATRIX = 2048


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=(*layout.SHAPES, *layout.MODELS), default="dp", help="kind of parallel job")
    parser.add_argument("--transport", choices=(process.NETWORK, process.LOCAL), default=process.NETWORK)
    parser.add_argument("--devices", type=lambda text: [int(part) for part in text.split(",")], default=[0], help="GPUs, in turn")
    parser.add_argument("--iterations", type=int, default=200, help="iterations in all, over all groups; 0: until ended")
    parser.add_argument("--compute-ms", type=float, default=25.0, help="GPU time of the compute part, all ranks busy")
    parser.add_argument("--bucket-kib", type=int, default=16384, help="size of the two large gradient buckets; the small: an eighth")
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
    group = parser.add_argument_group("transformer")
    group.add_argument("--layers", type=int, default=4)
    group.add_argument("--width", type=int, default=1024)
    group.add_argument("--sequence", type=int, default=1024)
    group.add_argument("--batch", type=int, default=8)
    return parser.parse_args(arguments)


def shape_of(name):
    """The class of a shape. Those of real models need PyTorch, which may be imported only now."""
    if name in SHAPES:
        return SHAPES[name]
    from c4gpu.transformer import MODELS

    return MODELS[name]


def main():
    options = parse_arguments()
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise SystemExit(f"RANK and WORLD_SIZE have to be set to whole numbers ({error})") from error
    process.open_log(options.log_dir, rank)
    process.prepare_environment(rank, options.transport)

    def log(text):
        print(f"[{time.time():.3f}] rank {rank}: {text}", flush=True)

    control = FaultControl(os.environ.get("C4_FAULT_DIR"), rank, log)
    trainers = []
    await_device = process.watch_device(options.devices[rank % len(options.devices)])
    if options.abort_on_term:
        process.abort_on_term(trainers, log)
    started = time.monotonic()
    import torch
    import torch.distributed  # noqa: F401

    log(f"pid {os.getpid()}, torch {torch.__version__} loaded in {time.monotonic() - started:.2f} s")
    await_device()
    trainer = Trainer(torch, options, rank, world_size, control, log, shape_of(options.shape))
    trainers.append(trainer)
    trainer.run(read_checkpoint(options.checkpoint))
    log("done")
    if options.no_destroy:
        # As jobs do that were never taught to clean up: no destructor of PyTorch's gets to run.
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
