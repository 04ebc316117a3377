"""What a whole campaign consists of: tasks, each one call of the suite, most important first. Pure functions."""

from dataclasses import dataclass

from .judge import FAULTS, parse_faults
from .layout import SHAPES
from .rank import LOCAL, NETWORK

COMMON = parse_faults("all")
# Kinds that need a GPU for each rank: a fatal error or a kernel that hangs takes all down that share one.
EXCLUSIVE = ["stuck", "illegal", "foreign"]
# Iterations of a healthy job, and how long they may take.
HEALTHY_ITERATIONS = 2000
# Seconds to start and end a job and its cluster, and those that a fault takes, until it is known better.
START_SECONDS, DEADLY_SECONDS, LASTING_SECONDS = 20.0, 20.0, 12.0


@dataclass(frozen=True)
class Task:
    """One call of the suite."""

    name: str
    arguments: tuple
    seconds: float  # about how long it takes
    ranks: int = 8
    every_gpu: bool = False  # one rank on each GPU, so that nothing else may run there meanwhile


def fault_task(shape, faults, first_rank, *, ranks=8, transport=NETWORK, every_gpu=False):
    """Each of these faults once, on consecutive ranks."""
    seconds = START_SECONDS + sum(DEADLY_SECONDS if FAULTS[name].deadly else LASTING_SECONDS for name in faults)
    arguments = ("--phase", "faults", "--shape", shape, "--faults", ",".join(faults), "--repeat", "1")
    arguments += ("--first-rank", str(first_rank), "--transport", transport)
    return Task(f"{shape}-{transport}-faults-{first_rank}", arguments, seconds, ranks, every_gpu)


def healthy_task(shape, number, iterations, period_s, *, ranks=8, transport=NETWORK, every_gpu=False):
    """A job without a fault."""
    arguments = ("--phase", "healthy", "--shape", shape, "--iterations", str(iterations), "--transport", transport)
    seconds = START_SECONDS + iterations * period_s
    return Task(f"{shape}-{transport}-healthy-{number}", arguments, seconds, ranks, every_gpu)


def campaign(kinds, shapes, repeat, other_repeat, healthy, period_s, ranks=8):
    """Tasks on shared GPUs: `repeat` times every fault for the data-parallel job, `other_repeat` times for the other shapes, and
    `healthy` jobs of each shape."""
    tasks = []
    if "faults" in kinds:
        for number in range(max(repeat, other_repeat)):
            chosen = [shape for shape in shapes if number < (repeat if shape == "dp" else other_repeat)]
            tasks += [fault_task(shape, COMMON, number, ranks=ranks) for shape in chosen]
    if "healthy" in kinds:
        for number in range(healthy):
            tasks += [healthy_task(shape, number, HEALTHY_ITERATIONS, period_s, ranks=ranks) for shape in shapes]
    return tasks


def shake_out(shapes, period_s, ranks=8):
    """The least that shows whether everything works: some faults and a short healthy job in each shape."""
    tasks = []
    for number, shape in enumerate(shapes):
        chosen = COMMON if shape == "dp" else ["kill", "sleep50", "skip", "link", "slowlink"]
        tasks.append(fault_task(shape, chosen, number, ranks=ranks))
    return tasks + [healthy_task(shape, 0, 400, period_s, ranks=ranks) for shape in shapes if shape != "dp"]
