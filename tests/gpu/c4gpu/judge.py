"""What each fault should be called, and whether a finding says so. Pure functions."""

import re
from dataclasses import dataclass
from datetime import datetime

# The targets: a death under a second, a hang within five, a straggler within ten iterations of its start. Ten short
# iterations pass before an agent has closed a window, so two windows are always granted.
DEATH_SECONDS, HANG_SECONDS, STRAGGLER_ITERATIONS, WINDOWS_SECONDS = 1.0, 5.0, 10.0, 2.0


@dataclass(frozen=True)
class Fault:
    """One kind of fault and what has to come of it."""

    name: str
    kinds: tuple  # names a finding may rightly have, best first
    deadly: bool  # whether the job is stuck for good, so that only a restart helps
    max_seconds: float = None
    max_iterations: float = None
    percent: int = None  # of an iteration, for faults that delay
    needs_gpu: bool = False
    common: bool = True  # part of `all`; the others need a GPU for each rank, or one that others may be disturbed on

    @property
    def family(self):
        """The name without its strength."""
        return self.name.rstrip("0123456789")


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", ("process_death",), True, max_seconds=DEATH_SECONDS),
        Fault("stop", ("non_comm_hang",), True, max_seconds=HANG_SECONDS),
        Fault("sleep20", ("non_comm_slow",), False, max_iterations=STRAGGLER_ITERATIONS, percent=20),
        Fault("sleep50", ("non_comm_slow",), False, max_iterations=STRAGGLER_ITERATIONS, percent=50),
        Fault("sleep100", ("non_comm_slow",), False, max_iterations=STRAGGLER_ITERATIONS, percent=100),
        # The stream of one GPU is full: late every time, or stuck when that lasts long enough.
        Fault("busy", ("non_comm_slow", "non_comm_hang"), False, max_iterations=STRAGGLER_ITERATIONS, percent=100),
        # A skipped collective shifts all that follow: the next one differs in size, or never comes.
        Fault("skip", ("desync", "non_comm_hang"), True, max_seconds=HANG_SECONDS),
        Fault("resize", ("desync",), True, max_seconds=HANG_SECONDS),
        Fault("link", ("comm_hang",), True, max_seconds=HANG_SECONDS),
        Fault("slowlink", ("comm_slow",), False, max_iterations=STRAGGLER_ITERATIONS),
        # A kernel that does not end: the rank's collectives are queued behind it and never start.
        Fault("stuck", ("non_comm_hang",), True, max_seconds=HANG_SECONDS, needs_gpu=True, common=False),
        # The process ends by CUDA's error, some time after the kernel that caused it.
        Fault("illegal", ("process_death",), True, max_seconds=HANG_SECONDS, needs_gpu=True, common=False),
        # Another program on the rank's GPU takes turns with it.
        Fault("foreign", ("non_comm_slow",), False, max_iterations=STRAGGLER_ITERATIONS, needs_gpu=True, common=False),
    )
}
ALIASES = {
    "sleep": ("sleep20", "sleep50", "sleep100"),
    "all": tuple(fault.name for fault in FAULTS.values() if fault.common),
}
LINKS = ("link", "slowlink")


def parse_faults(text):
    """Names separated by commas, `sleep` and `all` spelt out; raises ValueError for others."""
    names = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        known = ALIASES.get(word, (word,))
        for name in known:
            if name not in FAULTS:
                raise ValueError(f"unknown fault {name!r}; known: {', '.join([*FAULTS, *ALIASES])}")
            if name not in names:
                names.append(name)
    if not names:
        raise ValueError("no fault named")
    return names


def unix_seconds(text):
    """Seconds since 1970 of an RFC 3339 time, or None."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def first_suspect(finding):
    """The suspect a person would look at first."""
    suspects = finding.get("suspects") or []
    return suspects[0] if suspects else {}


def link_ranks(suspect):
    """(source, destination) rank of a suspected link such as "rank 3" to "rank 0", or None."""
    link = suspect.get("link") or {}
    ends = [re.search(r"(\d+)\s*$", str(link.get(end, ""))) for end in ("src", "dst")]
    return tuple(int(end.group(1)) for end in ends) if all(ends) else None


def right_suspect(fault, finding, rank, peer=None):
    """Whether the first suspect is the rank that was hit, or for a link the link that was. A rank that sends to one peer
    only has no other link to compare with, so for a slow link its sender is as good an answer."""
    suspect = first_suspect(finding)
    link = link_ranks(suspect)
    if fault.family in LINKS and (link or fault.family == "link"):
        return link == (rank, peer)
    return suspect.get("rank") == rank


def describe(finding):
    """Kind and first suspect in a few characters."""
    suspect = first_suspect(finding)
    link = link_ranks(suspect)
    where = f"{link[0]}>{link[1]}" if link else suspect.get("rank", "?")
    return f"{finding.get('kind')}@{where}"


def choose(findings):
    """The finding that counts: the one said first."""
    return min(findings, key=lambda finding: (unix_seconds(finding.get("detected")) or 0.0, finding.get("id", "")))
