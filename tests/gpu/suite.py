#!/usr/bin/env python3
"""C4 against real NCCL: a healthy run, faults of every kind, unusual ends, and what it costs. See README.md.

Exit codes: 0 everything passed, 1 something did not, 2 usage.
"""

import argparse
import os
import shutil
import signal
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from c4gpu import cost, healthy, layout, lifecycle, switch  # noqa: E402
from c4gpu.cluster import ClusterError  # noqa: E402
from c4gpu.faults import FaultPhase  # noqa: E402
from c4gpu.judge import FAULTS, parse_faults  # noqa: E402
from c4gpu.mps import Mps  # noqa: E402
from c4gpu.rank import LOCAL, NETWORK  # noqa: E402
from c4gpu.run import Run  # noqa: E402
from c4gpu.workers import WORKERS  # noqa: E402

PHASES = ("healthy", "faults", "lifecycle", "switch", "cost")


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", required=True, help="directory of the built programs and libraries")
    parser.add_argument("--out", required=True, help="directory for results.json and artifacts.tar.gz")
    parser.add_argument("--phase", default="all", help=f"{', '.join(PHASES)}, several with commas, or all")
    parser.add_argument("--worker", choices=sorted(WORKERS), default="torch", help="the job to watch")
    parser.add_argument("--nccl", type=os.path.abspath, help="libnccl.so.2 for --worker nccl")
    parser.add_argument("--shape", choices=(*layout.SHAPES, *layout.MODELS), default="dp", help="kind of parallel job")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--devices", type=parse_numbers, default="0", help="GPUs the ranks use in turn, such as 0,1")
    parser.add_argument("--transport", choices=(NETWORK, LOCAL), default=NETWORK, help="local: NVLink or shared memory, one rank a GPU")
    parser.add_argument("--nodes", type=int, help="agents the ranks are shared out to (default: 2; 1 where NCCL knows one node only)")
    parser.add_argument("--deadline", type=float, default=0, help="seconds after which no new work is begun; 0: none")
    parser.add_argument("--compute-ms", type=float, default=25.0, help="compute part of an iteration")
    parser.add_argument("--bucket-kib", type=int, default=16384, help="size of the large gradient buckets")
    parser.add_argument("--width", type=int, default=1024, help="of a transformer's layers")
    parser.add_argument("--batch", type=int, default=8, help="sequences that a transformer's rank computes at once")
    parser.add_argument("--no-mps", action="store_true", help="let the ranks take turns on the GPU")
    parser.add_argument("--work", help="directory for working files (default: the system's; keep it short)")
    parser.add_argument("--keep", action="store_true", help="leave the working files")
    parser.add_argument("--async-error-handling", type=int, default=0, help="TORCH_NCCL_ASYNC_ERROR_HANDLING of the job")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the ranks; may be repeated")
    parser.add_argument("--abort-on-term", action="store_true", help="ranks abort NCCL when C4 stops them")
    group = parser.add_argument_group("healthy")
    group.add_argument("--iterations", type=int, default=2000)
    group.add_argument("--seconds", type=float, default=0, help="end the job after so long, whatever its iteration; 0: do not")
    group.add_argument("--stop-on-alarm", action="store_true", help="do not go on after the first false alarm")
    group = parser.add_argument_group("faults")
    group.add_argument("--faults", type=parse_faults, default="all", help=f"{', '.join(FAULTS)}, sleep, all")
    group.add_argument("--repeat", type=int, default=5, help="how often each")
    group.add_argument("--first-rank", type=int, default=0, help="rank of the first fault; the next take the next ranks")
    group = parser.add_argument_group("switch")
    group.add_argument("--switch-starts", type=int, default=3, help="how often all groups are started anew")
    group.add_argument("--cell-seconds", type=float, default=4.0, help="for each size, mode and variant, each start")
    group.add_argument("--sizes", type=parse_numbers, default="4096,1048576,67108864", help="bytes")
    group.add_argument("--modes", type=lambda text: text.split(","), default="latency", help=f"of {','.join(switch.MODES)}")
    group = parser.add_argument_group("cost and switch")
    group.add_argument("--beside", action="append", default=[], metavar="NAME=LIB", help="another plugin; may be repeated")
    group.add_argument("--starts", type=int, default=12, help="how often all groups are started anew")
    group.add_argument("--rounds", type=int, default=8, help="of turns, for each start")
    group.add_argument("--cost-ranks", type=int, default=0, help="ranks of each group; 0: as --ranks")
    group.add_argument("--variants", type=lambda text: text.split(","), help="only these, such as 'none,default'")
    group.add_argument("--no-cost-agent", action="store_true", help="no agent reads the recorders meanwhile")
    options = parser.parse_args(arguments)
    options.phases = PHASES if options.phase == "all" else options.phase.split(",")
    for phase in options.phases:
        if phase not in PHASES:
            parser.error(f"unknown phase {phase!r}")
    if (options.worker == "nccl") != bool(options.nccl):
        parser.error("--worker nccl and --nccl go together")
    lacking = [name for name in options.faults if FAULTS[name].needs_gpu and not WORKERS[options.worker].needs_gpu]
    if lacking:
        parser.error(f"{', '.join(lacking)}: only with --worker torch")
    try:
        layout.groups(options.shape, options.ranks)
    except layout.LayoutError as error:
        parser.error(str(error))
    if unknown := set(options.modes) - set(switch.MODES):
        parser.error(f"unknown mode {', '.join(sorted(unknown))}")
    if any("=" not in setting for setting in options.env):
        parser.error("--env takes NAME=VALUE")
    if any("=" not in setting for setting in options.beside):
        parser.error("--beside takes NAME=LIBRARY")
    options.env = dict(setting.split("=", 1) for setting in options.env)
    options.beside = {name: os.path.abspath(path) for name, path in (setting.split("=", 1) for setting in options.beside)}
    if options.ranks < 2 or options.repeat < 1:
        parser.error("at least 2 ranks and 1 repetition")
    if options.nodes is None:
        options.nodes = 1 if options.transport == LOCAL else 2
    options.bin = os.path.abspath(options.bin)
    if not os.path.isdir(options.bin):
        parser.error(f"--bin {options.bin}: no such directory")
    return options


def parse_numbers(text):
    """Whole numbers from 0 separated by commas, such as GPU indexes."""
    numbers = [int(part) for part in text.split(",")]
    if any(number < 0 for number in numbers):
        raise ValueError(f"not below 0: {text}")
    return numbers


def interrupt(number, _):
    """A signal ends the run as an error does: with everything stopped and the results written."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def execute(run, worker, phase, mps):
    """One phase; an error in it is its result."""
    try:
        if phase == "faults":
            return FaultPhase(run, worker, mps).execute(run.options.faults, run.options.repeat)
        return {"healthy": healthy, "lifecycle": lifecycle, "switch": switch, "cost": cost}[phase].execute(run, worker, mps)
    except ClusterError as error:
        run.say(f"{phase}: {error}")
    except Exception:  # the other phases are still worth doing
        traceback.print_exc()
    return False


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, interrupt)
    worker = WORKERS[options.worker](options)
    verdicts = {}
    with Run(options) as run:
        with Mps(run.processes, os.path.join(run.work, "mps"), worker.needs_gpu and not options.no_mps, run.say) as mps:
            try:
                for phase in options.phases:
                    if run.remaining() < 20:
                        run.say(f"{phase}: not begun for want of time")
                        verdicts[phase] = False
                        continue
                    begun = time.monotonic()
                    verdicts[phase] = execute(run, worker, phase, mps)
                    run.say(f"{phase}: {'passed' if verdicts[phase] else 'FAILED'} in {time.monotonic() - begun:.0f} s")
                    run.results["verdicts"] = verdicts
                    run.save()
            except KeyboardInterrupt as error:
                run.say(f"interrupted ({error})")
                verdicts["interrupted"] = False
            if worker.needs_gpu and not mps.environment and not options.no_mps:
                run.say("note: without the multi-process service")
            run.results["verdicts"] = verdicts
        logs = os.path.join(run.work, "mps", "log")
        if os.path.isdir(logs):
            shutil.copytree(logs, os.path.join(run.work, "logs", "mps"), dirs_exist_ok=True)
    print("  ".join(f"{phase}: {'passed' if good else 'FAILED'}" for phase, good in verdicts.items()))
    return 0 if verdicts and all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
