"""The packages, installed and run under a real systemd: that of a container of systemd-nspawn whose files are a layer over this machine's.

C4_BIN_DIR says where the built programs are. Needs root, and a machine on which systemd-nspawn can boot; elsewhere it is skipped, and says so.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGED = ["c4-agent", "c4-controller", "c4ctl", "libnccl_profiler_c4.so", "libc4_path.so"]
PLUGIN = "/usr/lib/c4/libnccl-profiler-c4.so"
TABLE = "/dev/shm/c4/paths"
PATIENCE = 60.0


class Machine:
    """A container with a systemd of its own. Its root is this machine's, seen through a layer that keeps what is written."""

    def __init__(self, scratch: Path, shared: Path) -> None:
        self.root = scratch / "root"
        for name in ("root", "upper", "work"):
            (scratch / name).mkdir()
        layers = f"lowerdir=/,upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True, capture_output=True)
        self.write("etc/hostname", "node-7\n")
        self.log = open(scratch / "console.log", "w+b")
        # Only what every machine has is started: what this one runs besides is none of the test's business.
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--bind-ro={shared}:/c4", "--boot", "--private-network"]
        command += ["--register=no", "--keep-unit", "systemd.unit=basic.target"]
        self.container = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        self.leader = None

    def boots(self) -> bool:
        """Waits until it has booted; whether it did."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.container.poll() is None:
            children = Path(f"/proc/{self.container.pid}/task/{self.container.pid}/children").read_text().split()
            if children:
                self.leader = children[0]
                said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if said in ("running", "degraded"):
                    return True
            time.sleep(0.2)
        return False

    def write(self, path: str, text: str) -> None:
        """Writes a file inside."""
        (self.root / path).write_text(text)

    def enter(self, *command: str, user: int | None = None) -> list[str]:
        """The command line that runs a command inside."""
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return ["nsenter", f"--target={self.leader}", "--all", "--wd=/", *who, *command]

    def run(self, *command: str, check: bool = True, user: int | None = None) -> subprocess.CompletedProcess:
        """Runs a command inside to its end."""
        done = subprocess.run(self.enter(*command, user=user), capture_output=True, text=True, check=False, timeout=PATIENCE)
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def close(self) -> None:
        """Ends it, and takes the layer away."""
        if self.container.poll() is None:
            self.container.send_signal(signal.SIGTERM)
            try:
                self.container.wait(20)
            except subprocess.TimeoutExpired:
                self.container.kill()
                self.container.wait()
        subprocess.run(["umount", "--lazy", self.root], check=False)
        self.log.close()


def wait_for(what: str, look) -> object:
    """What a look finds, once it finds anything."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {PATIENCE:.0f} s")


def built(directory: Path, name: str) -> Path:
    """A built file. Libraries that only tests asked for stay among the dependencies."""
    return next(path for path in (directory / name, directory / "deps" / name) if path.exists())


class Services(unittest.TestCase):
    """One machine for all tests: they look at a controller and an agent that were installed from their packages."""

    @classmethod
    def setUpClass(cls) -> None:
        programs = os.environ.get("C4_BIN_DIR")
        lacking = [program for program in ("systemd-nspawn", "dpkg-deb", "nsenter", "strip") if not shutil.which(program)]
        if not programs or lacking:
            raise unittest.SkipTest(f"{', '.join(lacking)} is not installed" if lacking else "C4_BIN_DIR does not say where the programs are")
        if os.geteuid() != 0:
            raise unittest.SkipTest("not root: no machine can be booted")
        scratch = tempfile.TemporaryDirectory(prefix="c4-systemd-", ignore_cleanup_errors=True)
        cls.addClassCleanup(scratch.cleanup)
        shared = Path(scratch.name) / "shared"
        shared.mkdir(mode=0o755)
        try:
            cls.machine = Machine(Path(scratch.name), shared)
        except subprocess.CalledProcessError as error:
            raise unittest.SkipTest(f"no layer over this machine's files: {error.stderr.decode().strip()}") from error
        cls.addClassCleanup(cls.machine.close)
        if not cls.machine.boots():
            raise unittest.SkipTest("systemd-nspawn cannot boot a machine here")
        for name in [*PACKAGED, "ringjob"]:
            subprocess.run(["strip", "--strip-unneeded", "-o", shared / name, built(Path(programs), name)], check=True)
        subprocess.run([ROOT / "deploy/package/build", "--bin", shared, "--out", shared, "--only", "deb"], check=True, capture_output=True)
        debs = [f"/c4/{deb.name}" for deb in shared.glob("*.deb")]
        cls.machine.run("dpkg", "--install", "--force-confnew", *debs)
        cls.machine.write("etc/c4/orders.json", '{"orders": []}')
        cls.machine.write("etc/c4/agent.yaml", "paths: {orders: /etc/c4/orders.json}\n")
        cls.machine.run("systemctl", "enable", "--now", "c4-controller", "c4-agent")

    def ask(self, *command: str) -> dict:
        return json.loads(self.machine.run("c4ctl", *command, "--json").stdout)

    def test_services_run_and_reach_each_other(self) -> None:
        [node] = wait_for("the agent", lambda: self.ask("status")["nodes"])
        self.assertEqual(node["name"], "node-7")
        for unit in ("c4-controller", "c4-agent"):
            said = self.machine.run("systemctl", "show", "--property=ActiveState,NRestarts,StatusErrno,User", unit).stdout.split()
            self.assertEqual(set(said), {"ActiveState=active", "NRestarts=0", "StatusErrno=0", f"User={unit}"})
        checked = self.machine.run("c4-agent", "--config", "/etc/c4/agent.yaml", "check").stdout
        self.assertNotIn("FAILED", checked)

    def test_a_job_of_another_user_is_seen_and_the_death_of_a_rank_is_told(self) -> None:
        nobody = 65534
        environment = {"NCCL_PROFILER_PLUGIN": PLUGIN, "NCCL_SOCKET_IFNAME": "lo", "C4_JOB": "gpt", "WORLD_SIZE": "2"}
        self.machine.run("mkdir", "/tmp/meet", user=nobody)
        rank = "RANK={0} LOCAL_RANK={0} /c4/ringjob --rendezvous /tmp/meet &"
        # As a launcher does, their parent takes a moment to ask how they ended: this one takes for ever.
        launch = f"{rank.format(0)} {rank.format(1)} exec sleep 1000"
        settings = [f"{name}={value}" for name, value in environment.items()]
        command = self.machine.enter("env", *settings, "sh", "-c", launch, user=nobody)
        launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.machine.log, stderr=self.machine.log)
        self.addCleanup(launcher.wait)
        self.addCleanup(launcher.kill)
        wait_for("both ranks", lambda: self.ask("status")["ranks"] == 2)
        # Some iterations go by without a word.
        time.sleep(3.0)
        self.assertEqual(self.ask("findings")["findings"], [])
        self.machine.run("pkill", "--signal", "KILL", "--oldest", "ringjob", user=nobody)
        [finding] = wait_for("the death", lambda: self.ask("findings")["findings"])
        self.assertEqual((finding["kind"], finding["suspects"][0]["rank"]), ("process_death", 0))
        self.assertIn("killed by signal 9", finding["summary"])
        log = self.machine.run("journalctl", "--no-pager", "--unit=c4-agent").stdout
        self.assertNotIn("cannot", log)

    def test_jobs_of_any_user_read_the_table_of_paths_also_while_the_agent_is_away(self) -> None:
        def read():
            done = self.machine.run("head", "--bytes=7", TABLE, user=65534, check=False)
            return done.stdout

        wait_for("the table", read)
        self.machine.run("systemctl", "stop", "c4-agent")
        self.addCleanup(self.machine.run, "systemctl", "start", "c4-agent")
        self.assertEqual(read(), "C4PATHS")


if __name__ == "__main__":
    unittest.main()
