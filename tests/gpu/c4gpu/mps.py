"""A private multi-process service, so that ranks on one GPU run side by side instead of taking turns.

Without it the driver gives each process the whole GPU for a time slice, and a 0.13 ms all-reduce takes 13 ms. The daemon
gets directories of its own and changes no setting of the GPU.
"""

import os
import shutil
import subprocess

CONTROL = "nvidia-cuda-mps-control"
PLACES = ("/usr/bin", "/usr/local/nvidia/bin", "/usr/local/cuda/bin", "/bin")


def find_control():
    """Path of the daemon's program, or None."""
    return shutil.which(CONTROL) or shutil.which(CONTROL, path=os.pathsep.join(PLACES))


class Mps:
    """The daemon, while used in a `with` block. `environment` is what clients need; empty when it is off."""

    def __init__(self, processes, directory, enabled=True, log=print):
        self._processes, self._directory, self._enabled, self._log = processes, directory, enabled, log
        self._control = None
        self.environment = {}

    def __enter__(self):
        if not self._enabled:
            return self
        control = find_control()
        if control is None:
            self._log(f"{CONTROL} not found: ranks will take turns on the GPU, which makes collectives slow")
            return self
        environment = {
            "CUDA_MPS_PIPE_DIRECTORY": os.path.join(self._directory, "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": os.path.join(self._directory, "log"),
        }
        for path in environment.values():
            os.makedirs(path, exist_ok=True)
        # The daemon detaches but keeps the files it was given: a pipe to us would never end.
        with open(os.path.join(self._directory, "start.log"), "wb") as log:
            code = subprocess.run(
                [control, "-d"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._processes.environment(environment),
                start_new_session=True,
                timeout=30,
                check=False,
            ).returncode
        if code != 0:
            self._log(f"{CONTROL} -d ended with {code}: going on without it")
            return self
        self._control, self.environment = control, environment
        return self

    def restart(self):
        """A fresh daemon, when clients that died in mid-kernel have spoilt this one."""
        self.__exit__()
        return self.__enter__()

    def disable(self):
        """Stops it for good."""
        self.__exit__()
        self._enabled = False

    def __exit__(self, *_):
        if self._control is None:
            return
        try:
            subprocess.run(
                [self._control],
                input=b"quit -t 3\n",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._processes.environment(self.environment),
                start_new_session=True,
                timeout=15,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._log(f"stopping {CONTROL}: {error}")
        self._control = None
        self.environment = {}
