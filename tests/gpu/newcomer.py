#!/usr/bin/env python3
"""Does what docs/pytorch.md says, as somebody would who reads it for the first time: `c4-agent run -- torchrun …`, no controller,
a healthy job, one whose rank is killed, one that hangs until somebody presses Ctrl-C. Prints each diagnosis, and whether it says what it should.

With `--backend gloo` no GPU is needed: then NCCL is never loaded, and C4 has to say that it saw nothing.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
# Of a run, in seconds: PyTorch alone takes some to load.
PATIENCE = 240
# From a hang's beginning until Ctrl-C.
PRESS_AFTER = 20

EXPECTED = {
    "healthy": (0, r"C4 watched job .*: \d+ ranks.*\n  Nothing was wrong with it"),
    "kill": (None, r"process_death: rank 1\b"),
    "hang": (None, r"(non_comm|comm)_hang: rank 1\b"),
}
UNSEEN = r"C4 saw no communication"


def judge(case, backend, code, said):
    """What is wrong with the end of a run; nothing if it is as it should be."""
    expected_code, pattern = EXPECTED[case]
    if backend != "nccl":
        pattern = UNSEEN
    problems = []
    if expected_code is not None and code != expected_code:
        problems.append(f"exit code {code} instead of {expected_code}")
    if expected_code is None and code == 0:
        problems.append("exit code 0 of a job that was broken")
    if not re.search(pattern, said):
        problems.append(f"no {pattern!r}")
    if case != "kill" and "process_death" in said:
        problems.append("a death is told that was none")
    return problems


def parse_arguments(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory with c4-agent and libnccl_profiler_c4.so")
    parser.add_argument("--torchrun", default="torchrun")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--backend", choices=("nccl", "gloo"), default="nccl")
    parser.add_argument("--shared", action="store_true", help="ranks share GPUs, over sockets of the loopback interface")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(EXPECTED), help="of healthy, kill, hang")
    options = parser.parse_args(arguments)
    unknown = [case for case in options.cases if case not in EXPECTED]
    if unknown:
        parser.error(f"--cases: there is no {', '.join(unknown)}; there are {', '.join(EXPECTED)}")
    return options


def run(options, case, recorders):
    """One job under the agent. Returns its exit code and all that was said."""
    environment = dict(os.environ, NEWCOMER_BACKEND=options.backend, NEWCOMER_BREAK="" if case == "healthy" else case)
    environment["C4_RECORDER_DIR"] = recorders
    if options.shared:
        environment |= {"NEWCOMER_SHARED": "1", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    command = [options.bin / "c4-agent", "run", "--", options.torchrun, "--nproc-per-node", str(options.ranks)]
    command += [HERE / "newcomer_train.py", str(options.steps)]
    print(f"$ {' '.join(str(word) for word in command)}", flush=True)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as agent:
        said, hangs = [], threading.Event()

        def listen():
            for line in agent.stdout:
                said.append(line)
                if "rank 1 hangs" in line:
                    hangs.set()

        listener = threading.Thread(target=listen)
        listener.start()
        ended = threading.Thread(target=agent.wait)
        ended.start()
        deadline = time.monotonic() + PATIENCE
        while ended.is_alive():
            if hangs.is_set() or time.monotonic() > deadline:
                ended.join(PRESS_AFTER)
                # As Ctrl-C does, but for this job alone.
                agent.send_signal(signal.SIGINT)
                hangs.clear()
                deadline = time.monotonic() + PATIENCE
            ended.join(0.1)
        listener.join()
        return agent.returncode, "".join(said)


def main():
    options = parse_arguments()
    wrong = 0
    for case in options.cases:
        with tempfile.TemporaryDirectory(prefix="c4-newcomer-") as recorders:
            code, said = run(options, case, recorders)
        problems = judge(case, options.backend, code, said)
        wrong += bool(problems)
        print(said)
        print(f"== {case}: exit code {code}; {'; '.join(problems) or 'as it should be'}\n", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
