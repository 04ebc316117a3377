"""What a whole campaign consists of: tasks, each one call of the suite, most important first. Pure functions."""

from dataclasses import dataclass

from .judge import FAULTS, LINKS, parse_faults
from .rank import LOCAL, NETWORK

# A healthy job is this long.
HEALTHY_ITERATIONS = 2000
# A straggler has to be named within ten iterations of its start. They have to last longer than two windows of an agent, also where
# the GPU turns out quicker than it was when the work was measured out, or the table would show windows; what has to be named within
# seconds is shown with short ones, which learn faster.
LONG_COMPUTE_MS = 300
# Seconds to start and end a job and its cluster, and those that a fault takes, until it is known better.
START_SECONDS, DEADLY_SECONDS, LASTING_SECONDS = 20.0, 18.0, 28.0


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
        """Each of these faults, on consecutive ranks; all must be deadly, or none."""
        lasting = not FAULTS[names[0]].deadly
        seconds = repeat * len(names) * (LASTING_SECONDS if lasting else DEADLY_SECONDS)
        arguments = ["--phase", "faults", "--faults", ",".join(names), "--repeat", str(repeat), "--first-rank", str(first_rank)]
        if lasting:
            arguments += ["--compute-ms", str(LONG_COMPUTE_MS)]
        return self.task(shape, f"{label}-{first_rank}", arguments, seconds, alone)

    def both(self, shape, names, first_rank):
        """These faults, the deadly and the lasting ones apart."""
        deadly = [name for name in names if FAULTS[name].deadly]
        lasting = [name for name in names if not FAULTS[name].deadly]
        tasks = [self.faults(shape, deadly, first_rank, label="deadly")] if deadly else []
        return tasks + ([self.faults(shape, lasting, first_rank, label="lasting")] if lasting else [])

    def healthy(self, shape, number=0, iterations=HEALTHY_ITERATIONS):
        """A job without a fault."""
        arguments = ("--phase", "healthy", "--iterations", str(iterations))
        return self.task(shape, f"healthy-{number}", arguments, iterations * self.period_s)


def rounds(site, shapes, names, repeat, other_repeat):
    """Every fault, `repeat` times for the first shape and `other_repeat` times for the others, hitting other ranks each time."""
    return [
        task
        for number in range(max(repeat, other_repeat))
        for shape in shapes
        if number < (repeat if shape == shapes[0] else other_repeat)
        for task in site.both(shape, names, number)
    ]


def shared_gpus(kinds, faults, shapes, repeat, other_repeat, healthy, site):
    """Many ranks on each GPU, over the network."""
    tasks = rounds(site, shapes, faults, repeat, other_repeat) if "faults" in kinds else []
    if "healthy" in kinds:
        tasks += [site.healthy(shape, number) for number in range(healthy) for shape in shapes]
    return tasks


def own_gpus(kinds, faults, shapes, repeat, other_repeat, healthy, sites):
    """A transformer with a GPU for each rank, over NVLink or shared memory and over the network, and the faults that need that."""
    tasks = []
    for site in sites:
        if "faults" in kinds:
            local = site.transport == LOCAL
            # Where nothing goes through sockets, none can be hindered.
            names = [name for name in faults if not local or name not in LINKS]
            tasks += rounds(site, shapes, names, repeat if local else other_repeat, other_repeat)
            if local and repeat:
                tasks.append(site.faults(shapes[0], ["stuck", "illegal"], 0, repeat, "fatal"))
                tasks.append(site.faults(shapes[0], ["foreign"], 0, repeat, "foreign", alone=True))
        if "healthy" in kinds:
            tasks += [site.healthy(shape, number) for number in range(healthy) for shape in shapes]
    return tasks


def shake_out(shapes, site):
    """The least that shows whether everything works: some faults in each shape, and a short healthy job."""
    first, others = parse_faults("all"), ["kill", "skip", "link"]
    if site.every_gpu:
        first, others = ["sleep50", "slowlink", "skip", "link"], ["kill"]
    if site.transport == LOCAL:
        first = [*(name for name in first if name not in LINKS), "stuck", "illegal"]
    tasks = site.both(shapes[0], first, 0)
    for number, shape in enumerate(shapes[1:], 1):
        tasks += [*site.both(shape, others, number), site.healthy(shape, 0, 400)]
    return tasks
