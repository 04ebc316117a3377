"""Carries a fault out: a signal, a control file, a blocked or slowed connection, or a second program on a GPU."""

import json
import os
import signal
import sys
import time

from . import recorders
from .control import write_atomically
from .judge import LINKS
from .observe import wait_for
from .workers import HERE

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
MEASURE_SECONDS = 1.0
# A slow link gets this part of what it carried, so that an iteration takes twice as long or more.
SLOW_SHARE = 0.5
FOREIGN_START_SECONDS = 40.0


class InjectionError(RuntimeError):
    """The fault could not be carried out, so nothing can be learned from what follows."""


class Injector:
    """Faults for the ranks of one cluster."""

    def __init__(self, run, cluster):
        self.run, self.cluster = run, cluster
        self.directory = cluster.place.path("faults")
        self.rate = None
        self.foreign = None

    # --- what has to be known or to run beforehand ------------------------------------------------------------------

    def prepare(self, fault, rank):
        """Gets ready; returns the peer of a link."""
        if fault.name == "foreign":
            self.start_foreign(rank)
        if fault.name not in LINKS:
            return None
        before = self.edges()
        peer = recorders.busiest_peer(before, rank)
        if peer is None:
            raise InjectionError(f"rank {rank} sends to nobody, as far as its flight recorder shows")
        if fault.name == "slowlink":
            begun = time.monotonic()
            time.sleep(MEASURE_SECONDS)
            carried = self.edges().get((rank, peer), 0) - before[rank, peer]
            self.rate = max(1, int(carried / (time.monotonic() - begun) * SLOW_SHARE))
        return peer

    def edges(self):
        """{(rank, rank): bytes} so far."""
        files = self.cluster.recorder_files()
        return recorders.edges(recorders.read_all(self.run.processes, self.cluster.binary("c4ctl"), files))

    def start_foreign(self, rank):
        """A program on the rank's GPU that begins to compute when told to."""
        devices = self.run.options.devices
        go = os.path.join(self.directory, "foreign.go")
        ready = os.path.join(self.directory, "foreign.ready")
        for path in (go, ready):
            if os.path.exists(path):
                os.remove(path)
        command = [sys.executable, os.path.join(HERE, "foreign.py"), devices[rank % len(devices)], ready, go]
        self.foreign = self.run.processes.start("foreign", command)
        if not wait_for(lambda: os.path.exists(ready), FOREIGN_START_SECONDS, 0.1, lambda: self.foreign.poll() is None):
            raise InjectionError(f"the foreign program did not come up:\n{self.foreign.output()[-500:]}")

    # --- the fault --------------------------------------------------------------------------------------------------

    def begin(self, fault, rank, period, peer=None):
        """Injects; returns the moment in Unix seconds."""
        family = fault.family
        if family in SIGNALS:
            return self.signal(rank, SIGNALS[family])
        if family == "foreign":
            moment = time.time()
            write_atomically(os.path.join(self.directory, "foreign.go"), "")
            return moment
        if family in LINKS:
            mode = ["block"] if family == "link" else ["slow", "--bytes-per-second", self.rate]
            return self.hinder(rank, peer, mode)
        document = {"kind": family}
        if fault.percent:
            document.update(us=int(period * 1e6 * fault.percent / 100), until_iteration=None)
        else:
            document["once"] = True
        moment = time.time()
        write_atomically(self.path(rank), json.dumps(document))
        return moment

    def signal(self, rank, number):
        """A signal to a rank."""
        pid = self.cluster.progress.pid(rank)
        if pid is None:
            raise InjectionError(f"rank {rank} has written no pid")
        moment = time.time()
        try:
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise InjectionError(f"rank {rank}, pid {pid}, is already gone") from error
        return moment

    def hinder(self, rank, peer, mode):
        """Changes what may pass from one rank to another, through the preloaded library."""
        binary = self.cluster.binary("c4-fault")
        moment = time.time()
        command = [binary, "--dir", self.directory, "link", "--src", rank, "--dst", peer, "--mode", *mode]
        code, out, err = self.run.processes.run(command)
        if code != 0:
            raise InjectionError(f"{' '.join(map(str, command))}: exit {code}: {err.strip() or out.strip()}")
        return moment

    # --- and its end ------------------------------------------------------------------------------------------------

    def end(self, fault, rank, peer=None):
        """Takes a lasting fault away, and whatever else was left for this rank."""
        if fault.name == "slowlink":
            self.hinder(rank, peer, ["clear"])
        self.end_foreign()
        try:
            os.remove(self.path(rank))
        except FileNotFoundError:
            pass

    def end_foreign(self):
        """Ends the program on the GPU, if there is one."""
        if self.foreign is not None:
            self.foreign.terminate()
            self.foreign = None

    def clean(self):
        """Leaves no fault behind, not even for processes that are gone."""
        self.end_foreign()
        for name in os.listdir(self.directory):
            if name.endswith(".json"):
                os.remove(os.path.join(self.directory, name))

    def path(self, rank):
        """The rank's fault file."""
        return os.path.join(self.directory, f"rank-{rank}.json")
