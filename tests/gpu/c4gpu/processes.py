"""Child processes that never outlive the run.

A fault suite is full of processes that are stopped, hung or orphaned on purpose, and an agent starts its job's processes in
sessions of their own, so killing a process group is not enough. Everything started here carries a label in its
environment, which children inherit; the end of a run sweeps /proc for that label.
"""

import os
import re
import signal
import subprocess
import time
import uuid

LABEL = "C4_GPU_RUN"
FOREIGN = re.compile(r"(C4|SLURM|TORCHELASTIC)_|(RANK|LOCAL_RANK|WORLD_SIZE|NCCL_PROFILER_PLUGIN|NCCL_HOSTID|LD_PRELOAD)$")


class Process:
    """One child in its own session, output in a file."""

    def __init__(self, name, command, log_path, environment, cwd=None):
        self.name, self.command, self.log_path = name, [str(part) for part in command], str(log_path)
        with open(self.log_path, "ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self._child.pid

    def poll(self):
        """The exit code, or None while it runs."""
        return self._child.poll()

    def wait(self, seconds):
        """The exit code, or None if it still runs after `seconds`."""
        try:
            return self._child.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return None

    def terminate(self, grace=5.0):
        """Asks its process group to end, then makes it. Returns the exit code."""
        for signal_, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            if self.poll() is not None:
                break
            _signal_group(self.pid, signal_)
            self.wait(patience)
        _signal_group(self.pid, signal.SIGKILL)
        return self.poll()

    def output(self):
        """All it said so far."""
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""


class Processes:
    """All children of one run."""

    def __init__(self, logs):
        self.label = uuid.uuid4().hex
        self.logs = logs
        self._all = []
        os.makedirs(logs, exist_ok=True)

    def environment(self, extra=None):
        """The environment of a child: ours, labelled, without what would make it somebody else's rank."""
        environment = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        environment[LABEL] = self.label
        environment.update({"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"})
        environment.update({name: str(value) for name, value in (extra or {}).items()})
        return environment

    def start(self, name, command, extra=None):
        """Starts a child; its output goes to `<name>.log`."""
        process = Process(name, command, os.path.join(self.logs, f"{name}.log"), self.environment(extra))
        self._all.append(process)
        return process

    def run(self, command, timeout=20.0, extra=None):
        """Runs a short command to its end: (exit code or None, stdout, stderr)."""
        try:
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=self.environment(extra),
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, "", f"no answer in {timeout} s: {' '.join(map(str, command))}"
        except OSError as error:
            return None, "", f"cannot run {command[0]}: {error}"
        return done.returncode, done.stdout, done.stderr

    def stop_all(self):
        """Ends every child, youngest first, then whatever they left behind."""
        for process in reversed(self._all):
            process.terminate()
        self._all.clear()
        return self.sweep()

    def sweep(self, name=LABEL, value=None):
        """Kills every process that carries a label, this run's by default, stopped ones too. Returns their pids."""
        killed = []
        for _ in range(3):
            found = [pid for pid in labelled(name, value or self.label) if pid != os.getpid()]
            if not found:
                break
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except ProcessLookupError:
                    pass
            time.sleep(0.2)
        return sorted(set(killed))


def labelled(name, value):
    """Pids of processes whose environment carries a label."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue
    return found


def tail(path, lines=30):
    """The last lines of a log, for a person who has to find out what went wrong."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-lines:])


def _signal_group(pid, signal_):
    try:
        os.killpg(pid, signal_)
    except (ProcessLookupError, PermissionError):
        pass
