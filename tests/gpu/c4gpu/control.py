"""The worker's half of fault injection.

A fault has to happen inside the job, at a known point of an iteration, and the tester has to know when it began. So the
tester leaves one small file per rank and the worker looks for it once an iteration; everything the worker says back (its
pid, how far it is, which fault it carried out) is a file too, replaced atomically, so that it can be read at any moment,
also when the worker is dead.
"""

import json
import os
import time

ITERATION_PERIOD_S = 0.1
KINDS = ("sleep", "busy", "skip", "resize", "stuck", "illegal")


class ControlError(ValueError):
    """A fault file that says something this worker does not understand."""


def write_atomically(path, text):
    """Replaces `path` so that no reader ever sees half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def parse_fault(text):
    """One fault from the text of a fault file; raises ControlError with what was wrong."""
    try:
        fault = json.loads(text)
    except json.JSONDecodeError as error:
        raise ControlError(f"not JSON: {error}") from error
    if not isinstance(fault, dict):
        raise ControlError(f"expected an object, found {type(fault).__name__}")
    kind = fault.get("kind")
    if kind not in KINDS:
        raise ControlError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    if kind in ("sleep", "busy"):
        us = fault.get("us")
        if isinstance(us, bool) or not isinstance(us, (int, float)) or not 0 <= us <= 600e6:
            raise ControlError(f"{kind} needs 'us', microseconds from 0 to 600000000, not {us!r}")
    until = fault.get("until_iteration")
    if until is not None and (isinstance(until, bool) or not isinstance(until, int)):
        raise ControlError(f"'until_iteration' is null or a whole number, not {until!r}")
    return fault


class FaultControl:
    """What one rank reads and writes in the fault directory. Without a directory it does nothing."""

    def __init__(self, directory, rank, log=print):
        self._log = log
        self._rank = rank
        self._fault_path = self._iteration_path = self._applied_path = None
        self._last_written = 0.0
        self._announced = None
        if directory:
            os.makedirs(directory, exist_ok=True)
            base = os.path.join(directory, f"rank-{rank}")
            self._fault_path = f"{base}.json"
            self._iteration_path = f"{base}.iteration"
            self._applied_path = f"{base}.applied"
            write_atomically(f"{base}.pid", f"{os.getpid()}\n")

    def poll(self, iteration):
        """The fault to carry out in this iteration, or None. Notes the moment a fault is first seen."""
        if self._fault_path is None:
            return None
        try:
            with open(self._fault_path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            self._announced = None
            return None
        try:
            fault = parse_fault(text)
        except ControlError as error:
            if self._announced != text:
                self._log(f"ignoring {self._fault_path}: {error}")
                self._announced = text
            return None
        until = fault.get("until_iteration")
        if until is not None and iteration > until:
            self._remove()
            return None
        if self._announced != text:
            self._announced = text
            self._note(fault["kind"], iteration)
        return fault

    def done(self, fault):
        """Says that a fault was carried out: one that was asked for once does not happen again."""
        if fault.get("once"):
            self._remove()

    def progress(self, iteration, force=False):
        """Publishes how far this rank is, at most every 100 ms."""
        if self._iteration_path is None:
            return
        now = time.monotonic()
        if not force and now - self._last_written < ITERATION_PERIOD_S:
            return
        self._last_written = now
        write_atomically(self._iteration_path, f"{iteration} {time.time_ns() // 1000}\n")

    def _note(self, kind, iteration):
        line = json.dumps({"kind": kind, "iteration": iteration, "unix_us": time.time_ns() // 1000})
        with open(self._applied_path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._log(f"fault {kind} begins in iteration {iteration}")

    def _remove(self):
        self._announced = None
        try:
            os.remove(self._fault_path)
        except FileNotFoundError:
            pass
