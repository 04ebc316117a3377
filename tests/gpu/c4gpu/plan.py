"""What a whole campaign consists of: tasks, each one call of the suite, most important first. Pure functions."""

from dataclasses import dataclass

from .judge import FAULTS, LINKS, parse_faults
from .rank import LOCAL, NETWORK

COMMON = parse_faults("all")
# A healthy job is this long.
HEALTHY_ITERATIONS = 2000
# Seconds to start and end a job and its cluster, and those that a fault takes, until it is known better.
START_SECONDS, DEADLY_SECONDS, LASTING_SECONDS = 20.0, 20.0, 12.0


@dataclass(frozen=True)
class Task:
    """One call of the suite."""

    name: str
    arguments: tuple
    seconds: float  # about how long it takes
    ranks: int
    every_gpu: bool = False  # one rank on each GPU
    alone: bool = False  # disturbs whatever else runs


@dataclass(frozen=True)
class Site:
    """How jobs sit on the machine."""

    ranks: int
    transport: str = NETWORK
    every_gpu: bool = False
    period_s: float = 0.06  # what an iteration is thought to take

    def task(self, shape, label, arguments, seconds, alone=False):
        """A task of this site."""
        arguments = ("--shape", shape, "--transport", self.transport, *arguments)
        return Task(f"{shape}-{self.transport}-{label}", arguments, START_SECONDS + seconds, self.ranks, self.every_gpu, alone)

    def faults(self, shape, names, first_rank, repeat=1, label="faults", alone=False):
        """Each of these faults, on consecutive ranks."""
        seconds = repeat * sum(DEADLY_SECONDS if FAULTS[name].deadly else LASTING_SECONDS for name in names)
        arguments = ("--phase", "faults", "--faults", ",".join(names), "--repeat", str(repeat), "--first-rank", str(first_rank))
        return self.task(shape, f"{label}-{first_rank}", arguments, seconds, alone)

    def healthy(self, shape, number=0, iterations=HEALTHY_ITERATIONS):
        """A job without a fault."""
        arguments = ("--phase", "healthy", "--iterations", str(iterations))
        return self.task(shape, f"healthy-{number}", arguments, iterations * self.period_s)


def rounds(site, shapes, names, repeat, other_repeat):
    """Every fault, `repeat` times for the first shape and `other_repeat` times for the others, hitting other ranks each time."""
    return [
        site.faults(shape, names, number)
        for number in range(max(repeat, other_repeat))
        for shape in shapes
        if number < (repeat if shape == shapes[0] else other_repeat)
    ]


def shared_gpus(kinds, shapes, repeat, other_repeat, healthy, site):
    """Many ranks on each GPU, over the network."""
    tasks = rounds(site, shapes, COMMON, repeat, other_repeat) if "faults" in kinds else []
    if "healthy" in kinds:
        tasks += [site.healthy(shape, number) for number in range(healthy) for shape in shapes]
    return tasks


def own_gpus(kinds, shapes, repeat, other_repeat, healthy, sites):
    """A transformer with a GPU for each rank, over NVLink or shared memory and over the network, and the faults that need that."""
    tasks = []
    for site in sites:
        if "faults" in kinds:
            local = site.transport == LOCAL
            # Where nothing goes through sockets, none can be hindered.
            names = [name for name in COMMON if not local or name not in LINKS]
            tasks += rounds(site, shapes, names, repeat if local else other_repeat, other_repeat)
            if local and repeat:
                tasks.append(site.faults(shapes[0], ["stuck", "illegal"], 0, repeat, "fatal"))
                tasks.append(site.faults(shapes[0], ["foreign"], 0, repeat, "foreign", alone=True))
        if "healthy" in kinds:
            tasks += [site.healthy(shape, number) for number in range(healthy) for shape in shapes]
    return tasks


def shake_out(shapes, site):
    """The least that shows whether everything works: some faults in each shape, and a short healthy job."""
    first, others = COMMON, ["kill", "sleep50", "skip", "link", "slowlink"]
    if site.every_gpu:
        first, others = ["sleep50", "skip", "link", "slowlink"], ["kill", "skip"]
    if site.transport == LOCAL:
        first = [name for name in first if name not in LINKS] + ["stuck", "illegal"]
    tasks = [site.faults(shape, first if shape == shapes[0] else others, number) for number, shape in enumerate(shapes)]
    return tasks + [site.healthy(shape, 0, 400) for shape in shapes[1:]]
