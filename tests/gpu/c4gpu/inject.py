"""Carries a fault out: a signal, a control file, or a blocked connection."""

import json
import os
import signal
import time

from . import recorders
from .control import write_atomically

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class InjectionError(RuntimeError):
    """The fault could not be carried out, so nothing can be learned from what follows."""


class Injector:
    """Faults for the ranks of one cluster."""

    def __init__(self, run, cluster):
        self.run, self.cluster = run, cluster
        self.directory = cluster.place.path("faults")

    def peer_of(self, rank):
        """The next rank in NCCL's ring, from what the rank's flight recorder shows."""
        pid = self.cluster.progress.pid(rank)
        for path in self.cluster.recorder_files():
            if os.path.basename(path).startswith(f"{pid}-"):
                snapshot, _ = recorders.read(self.run.processes, self.cluster.binary("c4ctl"), path)
                if snapshot:
                    return recorders.next_rank(snapshot, rank, self.cluster.ranks)
        return (rank + 1) % self.cluster.ranks

    def begin(self, fault, rank, period, peer=None):
        """Injects; returns the moment in Unix seconds."""
        family = fault.family
        if family in SIGNALS:
            pid = self.cluster.progress.pid(rank)
            if pid is None:
                raise InjectionError(f"rank {rank} has written no pid")
            moment = time.time()
            try:
                os.kill(pid, SIGNALS[family])
            except ProcessLookupError as error:
                raise InjectionError(f"rank {rank}, pid {pid}, is already gone") from error
            return moment
        if family == "link":
            return self.block(rank, peer)
        document = {"kind": family}
        if fault.percent:
            document.update(us=int(period * 1e6 * fault.percent / 100), until_iteration=None)
        else:
            document["once"] = True
        moment = time.time()
        write_atomically(self.path(rank), json.dumps(document))
        return moment

    def block(self, rank, peer):
        """Blocks what one rank sends to another, through the preloaded library."""
        binary = self.cluster.binary("c4-fault")
        moment = time.time()
        command = [binary, "--dir", self.directory, "link", "--src", rank, "--dst", peer, "--mode", "block"]
        code, out, err = self.run.processes.run(command)
        if code != 0:
            raise InjectionError(f"{' '.join(map(str, command))}: exit {code}: {err.strip() or out.strip()}")
        return moment

    def end(self, rank):
        """Takes a lasting fault away, and whatever else was left for this rank."""
        try:
            os.remove(self.path(rank))
        except FileNotFoundError:
            pass

    def clean(self):
        """Leaves no fault behind, not even for processes that are gone."""
        for name in os.listdir(self.directory):
            if name.endswith(".json"):
                os.remove(os.path.join(self.directory, name))

    def path(self, rank):
        """The rank's fault file."""
        return os.path.join(self.directory, f"rank-{rank}.json")
