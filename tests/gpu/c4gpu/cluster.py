"""C4 as it is shipped, around one job: a controller, and an agent for each node that runs its share of the ranks."""

import json
import os
import re
import socket
import time
import uuid

from .observe import Ctl, Progress, wait_for
from .processes import tail

JOB = "gpu"
LABEL = "C4_GPU_CLUSTER"
# Where no communicators that iterate join all ranks, these are compared after a minute.
LEARN_TIMEOUT = 80.0
PLUGIN_FILE = "libnccl_profiler_c4.so"
PLUGIN_NAME = "libnccl-profiler-c4.so"


class ClusterError(RuntimeError):
    """C4 or the job did not come up."""


class Place:
    """The directory of one job: control files, recorders, logs."""

    def __init__(self, root):
        self.root = root
        for name in ("faults", "recorders", "ranks", "meet"):
            os.makedirs(self.path(name), exist_ok=True)

    def path(self, name):
        """A path inside."""
        return os.path.join(self.root, name)


def plugin_path(binaries):
    """The plugin, under either name, as an absolute path."""
    for name in (PLUGIN_NAME, PLUGIN_FILE):
        path = os.path.join(binaries, name)
        if os.path.exists(path):
            return os.path.abspath(path)
    raise ClusterError(f"neither {PLUGIN_NAME} nor {PLUGIN_FILE} in {binaries}")


def split_ranks(ranks, nodes):
    """(first, last) rank of each node, as even as possible."""
    nodes = min(nodes, ranks)
    bounds = [ranks * node // nodes for node in range(nodes + 1)]
    return [(begin, end - 1) for begin, end in zip(bounds, bounds[1:])]


def free_port():
    """A TCP port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def controller_config(mode, record, restarts=1000):
    """A controller that is told to restart again and again, and soon after its own start; everything else is as shipped."""
    lines = [
        "listen: 127.0.0.1:0",
        "http: 127.0.0.1:0",
        "steer:",
        f"  mode: {mode}",
        f"  max_restarts: {restarts}",
        "  cooldown_seconds: 0",
        "  stop_grace_seconds: 1",
        "  settle_seconds: 1",
    ]
    if record:
        # JSON strings are YAML strings.
        lines.insert(2, f"record: {json.dumps(record)}")
    return "\n".join(lines) + "\n"


class Cluster:
    """Controller and agents; use it in a `with` block."""

    def __init__(self, run, name, mode="auto", preload=()):
        self.run, self.name, self.mode = run, name, mode
        self.preload = preload
        self.label = uuid.uuid4().hex
        self.place = Place(os.path.join(run.work, name))
        self.record = self.place.path("observations.jsonl")
        self.ranks = run.options.ranks
        self.controller = None
        self.agents = []
        self.ctl = None
        self.progress = None
        self.job_name = JOB

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.progress:
            self.progress.close()
        for process in [*self.agents, *([self.controller] if self.controller else [])]:
            process.terminate(grace=8.0)
        # Only this cluster's: the multi-process service and other groups of the run live on.
        self.run.processes.sweep(LABEL, self.label)

    def binary(self, name):
        """A shipped program."""
        path = os.path.join(self.run.options.bin, name)
        if not os.access(path, os.X_OK):
            raise ClusterError(f"{path}: no such program")
        return path

    # --- starting ---------------------------------------------------------------------------------------------------

    def start_controller(self):
        """Starts it and waits for the addresses it prints."""
        config = self.place.path("controller.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(controller_config(self.mode, self.record))
        self.controller = self.run.processes.start(
            f"{self.name}-controller", [self.binary("c4-controller"), "--config", config], {LABEL: self.label}
        )
        line = wait_for(
            lambda: re.search(r"listening grpc=(\S+) http=(\S+)", self.controller.output()),
            20.0,
            alive=lambda: self.controller.poll() is None,
        )
        if not line:
            raise ClusterError(f"the controller did not come up:\n{tail(self.controller.log_path)}")
        address = line.group(1)
        self.address = address if "://" in address else f"http://{address}"
        self.ctl = Ctl(self.run.processes, self.binary("c4ctl"), self.address)

    def start_agents(self, command, environment=None):
        """Starts one `c4-agent run` for each node; `command` is that of one rank."""
        faults = self.place.path("faults")
        self.progress = self.progress or Progress(faults, self.ranks)
        extra = dict(environment or {})
        extra.update({"C4_FAULT_DIR": faults, LABEL: self.label})
        wrapper = ["env", f"LD_PRELOAD={':'.join(self.preload)}"] if self.preload else []
        for node, (first, last) in enumerate(split_ranks(self.ranks, self.run.options.nodes)):
            arguments = [
                self.binary("c4-agent"),
                "run",
                "--controller",
                self.address,
                "--node",
                f"node-{node}",
                "--job",
                self.job_name,
                "--ranks",
                f"{first}-{last}",
                "--world-size",
                self.ranks,
                # One directory for each agent, as on two machines.
                "--recorder-dir",
                self.recorder_directory(node),
                "--checkpoint-marker",
                self.place.path(f"marker-{node}"),
                "--plugin",
                plugin_path(self.run.options.bin),
                "--",
                *wrapper,
                *command,
            ]
            self.agents.append(self.run.processes.start(f"{self.name}-node-{node}", arguments, extra))

    def recorder_directory(self, node):
        """Where the ranks of a node keep their flight recorders: shared memory if there is some."""
        path = os.path.join(self.run.shared, self.name, f"node-{node}")
        os.makedirs(path, exist_ok=True)
        return path

    def recorder_files(self):
        """All flight recorders of the job."""
        found = []
        for node in range(len(split_ranks(self.ranks, self.run.options.nodes))):
            directory = self.recorder_directory(node)
            found += [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".c4r")]
        return found

    # --- watching ---------------------------------------------------------------------------------------------------

    def alive(self):
        """Whether controller and agents all run."""
        return self.controller.poll() is None and all(agent.poll() is None for agent in self.agents)

    def alive_controller(self):
        """Whether the controller runs."""
        return self.controller.poll() is None

    def wait_running(self, moment, iterations, timeout):
        """Waits until every rank has made so many iterations since a moment, in a process that lives."""

        def running():
            return self.progress.done_since(moment) >= iterations

        return bool(wait_for(running, timeout, alive=self.alive))

    def wait_learned(self):
        """Waits until the controller says that it knows what is normal; True if it does."""
        timeout = min(LEARN_TIMEOUT, self.run.remaining())
        return bool(wait_for(lambda: self.ctl.job(self.job_name).get("state") == "healthy", timeout, 0.2, self.alive))

    def checkpointed(self):
        """The iteration of the last checkpoint, or 0."""
        best = 0
        for node in range(len(self.agents)):
            try:
                with open(self.place.path(f"marker-{node}"), encoding="utf-8") as file:
                    best = max(best, int(file.read().split()[0]))
            except (OSError, ValueError, IndexError):
                continue
        return best

    def wait_finished(self, timeout):
        """Exit codes of the agents, which are the job's; None for one that still runs at the end of time."""
        end = time.monotonic() + timeout
        return [agent.wait(end - time.monotonic()) for agent in self.agents]

    def trouble(self, lines=30):
        """The last words of everybody, for a person."""
        parts = []
        logs = [process.log_path for process in [self.controller, *self.agents] if process]
        ranks = self.place.path("ranks")
        newest = sorted((os.path.join(ranks, name) for name in os.listdir(ranks)), key=os.path.getmtime)
        for path in [*logs, *newest[-self.ranks :]]:
            parts.append(f"--- {os.path.basename(path)}\n{tail(path, lines)}")
        return "\n".join(parts)
