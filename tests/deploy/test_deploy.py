"""What is under deploy/, looked at as those who install it would: packages, units, scripts of Slurm, manifests.

Programs are not run here, so any file will do for one; C4_BIN_DIR gives built ones. What needs a program that this machine lacks is
skipped, and says so.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
PROGRAMS = ["c4-agent", "c4-controller", "c4ctl", "libnccl_profiler_c4.so", "libc4_path.so"]


def run(*command: object, **more: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def needs(*programs: str):
    lacking = [program for program in programs if not shutil.which(program)]
    return unittest.skipIf(lacking, f"{', '.join(lacking)} is not installed")


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        top = Path(cls.scratch.name)
        cls.out, binaries = top / "out", top / "bin"
        binaries.mkdir()
        for program in PROGRAMS:
            (binaries / program).write_text("#!/bin/sh\n")
        cls.described = yaml.safe_load((DEPLOY / "package/packages.yaml").read_text())
        kinds = [kind for kind, tool in (("deb", "dpkg-deb"), ("rpm", "rpmbuild")) if shutil.which(tool)]
        for kind in kinds:
            run(DEPLOY / "package/build", "--bin", binaries, "--out", cls.out, "--only", kind)

    def each(self, suffix: str):
        for name, package in self.described.items():
            found = list(self.out.glob(f"{name}[_-][0-9]*.{suffix}"))
            self.assertEqual(len(found), 1, name)
            yield name, package, found[0]

    @needs("dpkg-deb")
    def test_debs_hold_what_is_described(self) -> None:
        for name, package, deb in self.each("deb"):
            modes = {}
            for line in run("dpkg-deb", "--contents", deb).splitlines():
                mode, owner, _, _, _, path = line.split(maxsplit=5)
                self.assertEqual(owner, "root/root", line)
                if not path.endswith("/"):
                    modes[path.removeprefix(".")] = mode
            self.assertEqual(set(modes), {file["dst"] for file in package["files"]}, name)
            for file in package["files"]:
                expected = {644: "-rw-r--r--", 755: "-rwxr-xr-x"}[file["mode"]]
                self.assertEqual(modes[file["dst"]], expected, file["dst"])

    @needs("dpkg")
    def test_a_deb_is_installed_upgraded_and_removed(self) -> None:
        """In a root of its own. Its scripts find neither systemd nor a shell of that root, so they are left out."""
        for name, package, deb in self.each("deb"):
            with tempfile.TemporaryDirectory() as root:
                for directory in ("var/lib/dpkg/info", "var/lib/dpkg/updates"):
                    (Path(root) / directory).mkdir(parents=True)
                (Path(root) / "var/lib/dpkg/status").touch()
                bare = Path(root) / "bare"
                run("dpkg-deb", "--raw-extract", deb, bare)
                for script in ("postinst", "prerm"):
                    (bare / "DEBIAN" / script).unlink(missing_ok=True)
                again = Path(root) / "again.deb"
                run("dpkg-deb", "--root-owner-group", "--build", bare, again)
                dpkg = ["dpkg", f"--root={root}", "--force-not-root", "--force-depends", f"--log={root}/log"]
                if os.geteuid() != 0:
                    self.skipTest("not root")
                run(*dpkg, "--install", again)
                configuration = Path(root) / "etc/c4"
                for file in configuration.glob("*.yaml"):
                    file.write_text("# the site's own\n")
                run(*dpkg, "--install", again)
                for file in configuration.glob("*.yaml"):
                    self.assertEqual(file.read_text(), "# the site's own\n", "an upgrade leaves it alone")
                run(*dpkg, "--purge", name)
                left = [file["dst"] for file in package["files"] if (Path(root) / file["dst"].lstrip("/")).exists()]
                self.assertEqual(left, [], name)

    @needs("dpkg-deb", "sh")
    def test_scripts_of_packages_are_shell(self) -> None:
        for _, package, deb in self.each("deb"):
            with tempfile.TemporaryDirectory() as extracted:
                run("dpkg-deb", "--control", deb, extracted)
                scripts = [script for script in ("postinst", "prerm") if (Path(extracted) / script).exists()]
                self.assertEqual(scripts, ["postinst", "prerm"] if "unit" in package else [])
                for script in scripts:
                    run("sh", "-n", Path(extracted) / script)

    @needs("rpm", "rpmbuild")
    def test_rpms_hold_what_is_described(self) -> None:
        for name, package, rpm in self.each("rpm"):
            listed = run("rpm", "-qp", "--qf", "[%{FILENAMES} %{FILEMODES:octal} %{FILEFLAGS:fflags}\n]", rpm)
            found = {}
            for line in listed.splitlines():
                path, mode, *flags = line.split()
                found[path] = (mode[-3:], flags)
            self.assertEqual(set(found), {file["dst"] for file in package["files"]}, name)
            for file in package["files"]:
                mode, flags = found[file["dst"]]
                self.assertEqual(mode, str(file["mode"]), file["dst"])
                kept = file["dst"].startswith("/etc/")
                self.assertEqual("".join(flags).replace("d", ""), "cn" if kept else "", file["dst"])
            self.assertIn("glibc >= 2.28", run("rpm", "-qp", "--requires", rpm))


@needs("cargo")
class Components(unittest.TestCase):
    def test_every_crate_that_is_built_in_is_listed_with_licence_and_checksum(self) -> None:
        text = run(ROOT / "deploy/package/sbom")
        self.assertEqual(text, run(ROOT / "deploy/package/sbom"), "the same commit gives the same bytes")
        document = json.loads(text)
        self.assertEqual((document["bomFormat"], document["specVersion"]), ("CycloneDX", "1.6"))
        components = {component["bom-ref"]: component for component in document["components"]}
        names = {component["name"] for component in components.values()}
        self.assertLessEqual({"c4-agent", "c4-controller", "c4ctl", "c4-detect", "tonic", "rustls", "redb"}, names)
        self.assertFalse({"criterion", "proptest", "c4-tests", "protox"} & names, "what only tests and builds need")
        for component in components.values():
            self.assertIn("licenses", component)
            if not component["name"].startswith("c4"):
                [checksum] = component["hashes"]
                self.assertRegex(checksum["content"], "^[0-9a-f]{64}$")
        self.assertEqual(set(components), {entry["ref"] for entry in document["dependencies"]})
        for entry in document["dependencies"]:
            self.assertLessEqual(set(entry["dependsOn"]), set(components), entry["ref"])


class Units(unittest.TestCase):
    @needs("systemd-analyze")
    def test_units_are_as_closed_as_is_said(self) -> None:
        for unit, most in (("c4-controller", 1.5), ("c4-agent", 2.6)):
            path = DEPLOY / f"systemd/{unit}.service"
            said = run("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=100", path)
            exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said).group(1))
            self.assertLessEqual(exposure, most, f"{unit}\n{said}")

    def test_units_wait_to_be_told_and_are_watched(self) -> None:
        for path in (DEPLOY / "systemd").glob("*.service"):
            text = path.read_text()
            for line in ("Type=notify", "NotifyAccess=main", "NoNewPrivileges=yes", "RestartPreventExitStatus=64"):
                self.assertIn(f"\n{line}\n", text, path.name)
            self.assertRegex(text, r"\nWatchdogSec=\d+\n")
            self.assertNotIn("\nUser=root", text)


class Slurm(unittest.TestCase):
    script = DEPLOY / "slurm/c4-environment.sh"

    def prints(self, **environment: str) -> list[str]:
        return run("sh", self.script, env={"PATH": os.environ["PATH"], **environment}).splitlines()

    def test_the_environment_of_a_task(self) -> None:
        with tempfile.NamedTemporaryFile(suffix=".so") as plugin, tempfile.NamedTemporaryFile(suffix=".so") as other:
            ours = f"export NCCL_PROFILER_PLUGIN={plugin.name}"
            self.assertEqual(self.prints(C4_PLUGIN=plugin.name), [ours])
            self.assertEqual(self.prints(C4_PLUGIN=plugin.name, NCCL_PROFILER_PLUGIN=plugin.name), [ours])
            chained = self.prints(C4_PLUGIN=plugin.name, NCCL_PROFILER_PLUGIN=other.name)
            self.assertEqual(chained, [f"export C4_CHAIN_PROFILER={other.name}", ours])
            for left_alone in ({"C4_PROFILER": "off"}, {"NCCL_PROFILER_PLUGIN": "inspector"}, {"C4_PLUGIN": "/no/such"}):
                self.assertEqual(self.prints(**{"C4_PLUGIN": plugin.name, **left_alone}), [], left_alone)

    def test_the_epilog_removes_the_users_old_recorders_only(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("not root: files of several users cannot be made")
        with tempfile.TemporaryDirectory() as directory:
            old = (1_000_000_000, 1_000_000_000)
            for name, uid, times in (("1.c4r", 4001, old), ("2.c4r", 4001, None), ("3.c4r", 4002, old), ("paths", 4001, old)):
                path = Path(directory) / name
                path.touch()
                os.chown(path, uid, uid)
                if times:
                    os.utime(path, times)
            with tempfile.TemporaryDirectory() as programs:
                squeue = Path(programs) / "squeue"

                def epilog(uid: str, running: str) -> list[str]:
                    squeue.write_text(f"#!/bin/sh\n{running}\n")
                    squeue.chmod(0o755)
                    path = f"{programs}:/usr/bin:/bin"
                    where = {"PATH": path, "C4_RECORDER_DIR": directory, "SLURM_JOB_UID": uid, "SLURM_JOB_ID": "7"}
                    run("sh", DEPLOY / "slurm/c4-epilog.sh", env=where)
                    return sorted(os.listdir(directory))

                everything = ["1.c4r", "2.c4r", "3.c4r", "paths"]
                self.assertEqual(epilog("0", "echo 7"), everything, "nothing of root's")
                self.assertEqual(epilog("4001", "echo 7; echo 8"), everything, "he has another job here")
                self.assertEqual(epilog("4001", "exit 1"), everything, "nobody knows what he has")
                self.assertEqual(epilog("4001", "echo 7"), everything[1:])

    @needs("shellcheck")
    def test_shell_is_clean(self) -> None:
        run("shellcheck", *(DEPLOY / "slurm").glob("*.sh"))


class Checks(unittest.TestCase):
    """What needs a GPU of the loopback test is run by tests/gpu."""

    def test_a_node_without_gpus_is_well_and_nonsense_is_not(self) -> None:
        program = DEPLOY / "checks/nccl_loopback.py"
        if not Path("/proc/driver/nvidia/gpus").exists():
            done = subprocess.run([program], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout.strip()), (0, "no GPU here: nothing to test"), done.stderr)
        done = subprocess.run([program, "--rounds", "0"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("at least 1", done.stderr)
        done = subprocess.run([program, "--devices", "0", "--nccl", "/no/such/library"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("GPU 0: process 0: ", done.stderr)


    @needs("cc")
    def test_a_driver_that_fails_is_not_taken_for_no_gpu(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for code, exits in ((999, 1), (100, 0)):
                source = f"int cuInit(unsigned flags) {{ return {code}; }} int cuDeviceGetCount(int *n) {{ *n = 8; return 0; }}"
                run("cc", "-shared", "-xc", "-", "-o", f"{directory}/libcuda.so.1", input=source)
                done = subprocess.run(
                    [DEPLOY / "checks/nccl_loopback.py"],
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "LD_LIBRARY_PATH": directory},
                )
                self.assertEqual(done.returncode, exits, done.stderr)
                self.assertEqual("CUDA error 999" in done.stderr, exits == 1)


class Documents:
    """What is looked at in manifests, wherever they come from. A class of tests says which with `documents`."""

    def documents(self) -> list[dict]:
        raise NotImplementedError

    def pods(self):
        for document in self.documents():
            if template := document.get("spec", {}).get("template"):
                yield document, template["spec"]

    def test_manifests_satisfy_the_published_schemas(self) -> None:
        try:
            import kubernetes_validate
        except ImportError:
            self.skipTest("the Python package kubernetes-validate is not installed")
        for document in self.documents():
            if document["apiVersion"].startswith(("monitoring.coreos.com/", "jobset.x-k8s.io/")):
                continue  # Not one of Kubernetes' own.
            for version in self.versions.get(document["apiVersion"], ("1.30", "1.34")):
                kubernetes_validate.validate(document, version, strict=True)

    def test_containers_have_what_they_need_and_no_more(self) -> None:
        for document, pod in self.pods():
            for container in pod["containers"] + pod.get("initContainers", []):
                if "/c4-" not in container["image"] or container["name"] == self.privileged:
                    continue
                context = container["securityContext"]
                self.assertIs(context["allowPrivilegeEscalation"], False, container["name"])
                self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                self.assertNotIn("privileged", context)
            if document["metadata"]["name"] == "c4-controller":
                self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
            if document["metadata"]["name"] == "c4-agent":
                mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
                self.assertNotIn("readOnly", mounts["/tmp"], "the check of a node writes a file")
                self.assertIn("/etc/c4", mounts, "where somebody says that a node is to be left alone")

    # The container that was asked to be more than it needs.
    privileged: str | None = None

    def test_what_is_referred_to_is_there(self) -> None:
        there = {(d["kind"], d["metadata"]["name"]) for d in self.documents()}
        for document, pod in self.pods():
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            for container in pod["containers"] + pod.get("initContainers", []):
                for mount in container["volumeMounts"]:
                    self.assertIn(mount["name"], volumes)
                ports = {port["name"] for port in container.get("ports", [])}
                for probe in ("livenessProbe", "readinessProbe"):
                    if probe in container:
                        self.assertIn(container[probe]["httpGet"]["port"], ports)
            for volume in volumes.values():
                if "configMap" in volume:
                    self.assertIn(("ConfigMap", volume["configMap"]["name"]), there)
                if "persistentVolumeClaim" in volume:
                    self.assertIn(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]), there)
            if account := pod.get("serviceAccountName"):
                self.assertIn(("ServiceAccount", account), there)
            if service := document["spec"].get("serviceName"):
                self.assertIn(("Service", service), there)

    def test_roles_allow_only_what_the_actuator_does(self) -> None:
        allowed = {
            "nodes": {"get", "list", "watch", "patch"},
            "nodes/status": {"patch"},
            "pods": {"list"},
            "pods/eviction": {"create"},
            "jobsets": {"get", "list", "watch", "patch"},
            "pytorchjobs": {"get", "list", "watch", "patch"},
            "jobs": {"get", "list", "watch"},
            "commands": {"create"},
        }
        roles = [document for document in self.documents() if document["kind"] in ("Role", "ClusterRole")]
        for rule in (rule for role in roles for rule in role["rules"]):
            self.assertNotIn("*", rule["apiGroups"])
            for resource in rule["resources"]:
                more = {"delete"} if resource == "pods" and self.deletes_pods else set()
                self.assertLessEqual(set(rule["verbs"]) - more, allowed[resource], resource)
        self.assertEqual({resource for role in roles for rule in role["rules"] for resource in rule["resources"]}, self.acts_on)

    # Versions of Kubernetes whose schemas are looked at, where they are others.
    versions: dict[str, tuple[str, ...]] = {"admissionregistration.k8s.io/v1": ("1.36", "1.37"), "admissionregistration.k8s.io/v1beta1": ("1.34",)}

    # Which kinds of objects the controller acts on, and whether pods of nodes that are gone are among what it deletes.
    acts_on: set[str] = set()
    deletes_pods = False

    def test_configurations_are_taken_by_the_programs_and_name_files_that_are_there(self) -> None:
        programs = os.environ.get("C4_BIN_DIR")
        if not programs:
            self.skipTest("C4_BIN_DIR does not say where the programs are")
        maps = {document["metadata"]["name"]: document for document in self.documents() if document["kind"] == "ConfigMap"}
        self.assertEqual(set(maps), {"c4-agent", "c4-controller"})
        mounts = {
            document["metadata"]["name"]: [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
            for document, pod in self.pods()
        }
        for name, document in maps.items():
            for text in document["data"].values():
                with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                    file.write(text)
                    file.flush()
                    run(Path(programs) / name, "--config", file.name, "--check-config")
                for path in re.findall(r"(?m): (/\S+)$", text):
                    inside = any(path == mount or path.startswith(f"{mount}/") for mount in mounts[name])
                    self.assertTrue(inside or path.startswith("/c4"), f"{name}: nothing is mounted at {path}")


class Manifests(Documents, unittest.TestCase):
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    acts_on = {"nodes", "nodes/status", "pods", "pods/eviction", "jobsets"}

    def documents(self) -> list[dict]:
        return [document for path in self.files for document in yaml.safe_load_all(path.read_text())]

    @needs("helm")
    def test_they_are_what_the_chart_makes(self) -> None:
        with tempfile.TemporaryDirectory() as fresh:
            run(DEPLOY / "kubernetes/render", fresh)
            made = sorted(Path(fresh).iterdir())
            self.assertEqual(len(made), 3)
            for path in made:
                self.assertEqual((DEPLOY / "kubernetes" / path.name).read_text(), path.read_text(), "run deploy/kubernetes/render")

    @needs("shellcheck")
    def test_what_makes_them_is_clean_shell(self) -> None:
        run("shellcheck", DEPLOY / "kubernetes/render")


CHART = DEPLOY / "helm/c4"


def helm(*options: str, values: dict | None = None) -> subprocess.CompletedProcess:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        command = ["helm", "template", "c4", CHART, "--namespace", "c4", "--values", file.name, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)


class Rendered(Documents):
    """The chart with some values."""

    values: dict = {}

    @classmethod
    def setUpClass(cls) -> None:
        if not shutil.which("helm"):
            raise unittest.SkipTest("helm is not installed")
        done = helm(values=cls.values)
        if done.returncode:
            raise AssertionError(done.stderr)
        cls.rendered = [document for document in yaml.safe_load_all(done.stdout) if document]

    def documents(self) -> list[dict]:
        return self.rendered

    def one(self, kind: str, name: str) -> dict:
        (found,) = [d for d in self.rendered if d["kind"] == kind and d["metadata"]["name"] == name]
        return found


class ChartOfManyControllers(Rendered, unittest.TestCase):
    values = {
        "controller": {"replicas": 3, "tokensSecret": "tokens", "config": {"log": {"level": "debug"}}},
        "ha": {"etcd": ["https://etcd-0:2379", "https://etcd-1:2379"], "tlsSecret": "etcd"},
        "agent": {"tlsVolume": {"csi": {"driver": "csi.cert-manager.io", "readOnly": True}}},
        "actuator": {"enabled": True, "namespaces": ["a", "b"], "jobs": "volcano"},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    }
    acts_on = {"nodes", "nodes/status", "pods", "jobs", "commands"}

    def test_each_controller_has_its_name_and_agents_know_all(self) -> None:
        data = self.one("ConfigMap", "c4-controller")["data"]
        own = [yaml.safe_load(text)["ha"]["address"] for _, text in sorted(data.items())]
        self.assertEqual(own, [f"https://c4-controller-{index}.c4-controllers.c4.svc:4400" for index in range(3)])
        self.assertEqual(yaml.safe_load(self.one("ConfigMap", "c4-agent")["data"]["agent.yaml"])["controller"], own)
        (container,) = self.one("StatefulSet", "c4-controller")["spec"]["template"]["spec"]["containers"]
        self.assertEqual({f"/config/{name}" for name in data}, {
            container["args"][1].replace("$(POD_NAME)", f"c4-controller-{index}") for index in range(3)
        })

    def test_no_name_that_nodes_share_may_speak_for_them(self) -> None:
        for text in self.one("ConfigMap", "c4-controller")["data"].values():
            self.assertNotIn("agent", yaml.safe_load(text)["access"]["certificates"].values())
            self.assertEqual(yaml.safe_load(text)["log"], {"format": "json", "level": "debug"})

    def test_there_is_a_role_in_each_namespace_of_jobs(self) -> None:
        where = [d["metadata"]["namespace"] for d in self.rendered if d["kind"] == "RoleBinding"]
        self.assertEqual(where, ["a", "b"])


class ChartOfEverythingElse(Rendered, unittest.TestCase):
    values = {
        "image": {"registry": "r.example:5000/c4", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        "controller": {
            "storage": {"size": "1Gi", "className": "fast"},
            "nodeSelector": {"role": "control"},
            "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {}},
        },
        "agent": {"kernelLog": True, "runtimeClassName": "", "recorderDir": "/dev/shm/other", "maxUnavailable": 3},
        "actuator": {"enabled": True, "namespaces": ["a"], "jobs": "kubeflow", "deleteStuckPods": True, "mode": "auto"},
        "networkPolicy": {"nodes": ["10.1.0.0/16", "fd00::/8"], "operators": [{"podSelector": {}}]},
    }
    acts_on = {"nodes", "nodes/status", "pods", "pytorchjobs"}
    deletes_pods = True
    privileged = "agent"

    def test_what_was_said_is_there(self) -> None:
        pod = self.one("DaemonSet", "c4-agent")["spec"]["template"]["spec"]
        self.assertNotIn("runtimeClassName", pod)
        self.assertEqual(pod["containers"][0]["image"], "r.example:5000/c4/c4-agent:1.2.3")
        self.assertIs(pod["containers"][0]["securityContext"]["privileged"], True)
        self.assertIn("/dev/shm/other", {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]})
        steer = yaml.safe_load(self.one("ConfigMap", "c4-controller")["data"]["controller.yaml"])["steer"]
        self.assertEqual((steer["mode"], steer["kubernetes"]["delete_stuck_pods"]), ("auto", True))
        self.assertIs(self.one("ServiceAccount", "c4-controller")["automountServiceAccountToken"], True)


class ChartWithoutPolicy(Rendered, unittest.TestCase):
    values = {"networkPolicy": {"enabled": False}}

    def test_it_has_none(self) -> None:
        self.assertNotIn("NetworkPolicy", {document["kind"] for document in self.rendered})


class Policy:
    """A MutatingAdmissionPolicy, carried out as an API server does it, but that types are not checked before; what becomes of a pod is."""

    def __init__(self, spec: dict) -> None:
        import celpy

        self.celpy, self.spec = celpy, spec
        self.cel = celpy.Environment(annotations={"Made": celpy.celtypes.MessageType})

    def evaluate(self, expression: str, known: dict):
        # Messages of any type are made alike.
        plain = re.sub(r"\b(?:Object(?:\.\w+)*|JSONPatch)(?=\{)", "Made", expression)
        return self.cel.program(self.cel.compile(plain)).evaluate(known)

    def admit(self, pod: dict) -> dict:
        selector = self.spec["matchConstraints"]["objectSelector"]["matchExpressions"]
        assert [(e["operator"], e["values"]) for e in selector] == [("NotIn", ["false"])], selector
        if pod["metadata"].get("labels", {}).get(selector[0]["key"]) == "false":
            return pod
        for mutation in self.spec["mutations"]:
            known = {"object": self.celpy.json_to_cel(pod), "variables": self.celpy.celtypes.MapType()}
            if mutation is self.spec["mutations"][0]:
                if not all(self.evaluate(condition["expression"], known) for condition in self.spec["matchConditions"]):
                    return pod
            for variable in self.spec["variables"]:
                value = self.evaluate(variable["expression"], known)
                known["variables"][self.celpy.celtypes.StringType(variable["name"])] = value
            (body,) = [body for key, body in mutation.items() if key != "patchType"]
            made = json.loads(json.dumps(self.evaluate(body["expression"], known), cls=self.celpy.CELJSONEncoder))
            pod = self.patched(pod, made) if mutation["patchType"] == "JSONPatch" else self.merged(pod, made)
        return pod

    def patched(self, pod: dict, patches: list[dict]) -> dict:
        pod = json.loads(json.dumps(pod))
        for patch in patches:
            assert patch["op"] == "add", patch
            *way, last = patch["path"].strip("/").split("/")
            place = pod
            for step in way:
                place = place[step]
            if isinstance(place, list):
                assert last == "-", patch
                place.append(patch["value"])
            else:
                place[last] = patch["value"]
        return pod

    def merged(self, old, new):
        """As server-side apply merges: lists by their entries' names. Lists without are refused in policies."""
        if isinstance(old, dict):
            return old | {key: self.merged(old[key], value) if key in old else self.merged(type(value)(), value) for key, value in new.items()}
        if isinstance(old, list):
            key = "mountPath" if any("mountPath" in entry for entry in new) else "name"
            entries = {entry[key]: entry for entry in old}
            for entry in new:
                entries[entry[key]] = self.merged(entries.get(entry[key], {}), entry)
            return list(entries.values())
        return new


class ChartThatInjectsThePlugin(Rendered, unittest.TestCase):
    values = {"plugin": {"inject": True}, "agent": {"recorderDir": "/dev/shm/other"}}

    def setUp(self) -> None:
        try:
            import celpy  # noqa: F401
        except ImportError:
            self.skipTest("the Python package cel-python is not installed")
        self.policy = Policy(self.one("MutatingAdmissionPolicy", "c4-plugin")["spec"])

    def pod(self, labels: dict | None = None, **more) -> dict:
        train = {"name": "train", "image": "train", "resources": {"limits": {"nvidia.com/gpu": 8}}}
        spec = {"containers": [train | more.pop("train", {}), {"name": "other", "image": "other"}]} | more
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "train", "labels": labels or {}}, "spec": spec}

    def test_a_pod_with_gpus_becomes_what_the_example_is(self) -> None:
        given = [{"name": "mine", "image": "mine"}]
        for before in (self.pod({"batch.kubernetes.io/job-name": "train"}), self.pod({"batch.kubernetes.io/job-name": "train"}, initContainers=given)):
            after = self.policy.admit(before)
            example = yaml.safe_load((DEPLOY / "kubernetes/job-example.yaml").read_text())["spec"]["template"]["spec"]
            self.assertEqual(after["spec"]["initContainers"], before["spec"].get("initContainers", []) + example["initContainers"])
            train, other = after["spec"]["containers"]
            self.assertEqual(other, before["spec"]["containers"][1], "it has no GPU")
            environment = {variable["name"]: variable["value"] for variable in train["env"]}
            expected = {variable["name"]: variable["value"] for variable in example["containers"][0]["env"]}
            self.assertEqual(environment, expected | {"C4_RECORDER_DIR": "/dev/shm/other"})
            self.assertEqual({mount["mountPath"] for mount in train["volumeMounts"]}, {"/c4", "/dev/shm/other"})
            self.assertEqual({mount["name"] for mount in train["volumeMounts"]}, {volume["name"] for volume in after["spec"]["volumes"]})
            self.assertEqual(self.policy.admit(after), after, "once is enough")
            try:
                import kubernetes_validate
            except ImportError:
                continue
            kubernetes_validate.validate(after, "1.36", strict=True)

    def test_what_a_pod_says_itself_stands(self) -> None:
        alone = self.pod()
        del alone["spec"]["containers"][0]["resources"]
        for pod in (alone, self.pod({"c4/inject": "false"})):
            self.assertEqual(self.policy.admit(pod), pod)
        for name in ("NCCL_PROFILER_PLUGIN", "C4_PROFILER"):
            pod = self.pod(train={"env": [{"name": name, "value": "mine"}]})
            self.assertEqual(self.policy.admit(pod)["spec"]["containers"], pod["spec"]["containers"])
        named = self.pod({"jobset.sigs.k8s.io/jobset-name": "gpt"}, train={"env": [{"name": "C4_JOB", "value": "mine"}]})
        (job,) = [v["value"] for v in self.policy.admit(named)["spec"]["containers"][0]["env"] if v["name"] == "C4_JOB"]
        self.assertEqual(job, "mine")
        labelled = self.policy.admit(self.pod({"jobset.sigs.k8s.io/jobset-name": "gpt"}))
        self.assertIn({"name": "C4_JOB", "value": "gpt"}, labelled["spec"]["containers"][0]["env"])

    def test_only_where_it_is_wanted(self) -> None:
        (binding,) = [d for d in self.rendered if d["kind"] == "MutatingAdmissionPolicyBinding"]
        self.assertEqual(binding["spec"]["policyName"], "c4-plugin")
        self.assertEqual(binding["spec"]["matchResources"]["namespaceSelector"], {"matchLabels": {"c4/inject": "true"}})
        self.assertEqual(self.policy.spec["failurePolicy"], "Ignore", "jobs start in any case")


class ChartForOlderKubernetes(Rendered, unittest.TestCase):
    values = {"plugin": {"inject": True, "apiVersion": "v1beta1", "resource": "amd.com/gpu"}}

    def test_its_policy_is_of_the_version_that_is_there(self) -> None:
        policy = self.one("MutatingAdmissionPolicy", "c4-plugin")
        self.assertEqual(policy["apiVersion"], "admissionregistration.k8s.io/v1beta1")
        self.assertIn('"amd.com/gpu"', yaml.safe_dump(policy["spec"]["matchConditions"]))


class Chart(unittest.TestCase):
    def test_its_version_is_the_programs(self) -> None:
        version = re.search(r'(?m)^version = "(.+)"', (ROOT / "Cargo.toml").read_text()).group(1)
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    @needs("helm")
    def test_it_is_clean(self) -> None:
        run("helm", "lint", "--strict", CHART)

    @needs("helm")
    def test_bad_values_are_named(self) -> None:
        for values, *words in (
            ({"controler": {}}, "controler"),
            ({"controller": {"replicas": "three"}}, "/controller/replicas", "want integer"),
            ({"controller": {"replicas": 3}}, "controller.replicas", "ha.etcd"),
            ({"controller": {"tlsSecret": ""}}, "/controller/tlsSecret"),
            ({"controller": {"certificates": {"alice": "root"}}}, "/controller/certificates/alice"),
            ({"ha": {"etcd": ["etcd:2379"]}}, "/ha/etcd/0"),
            ({"ha": {"etcd": ["https://etcd:2379"]}}, "ha.tlsSecret", "https://etcd:2379"),
            ({"agent": {"maxUnavailable": "all"}}, "/agent/maxUnavailable"),
            ({"agent": {"recorderDir": "shm"}}, "/agent/recorderDir"),
            ({"actuator": {"enabled": True}}, "actuator.namespaces"),
            ({"actuator": {"jobs": "slurm"}}, "/actuator/jobs"),
            ({"plugin": {"apiVersion": "v2"}}, "/plugin/apiVersion"),
            ({"plugin": {"resource": "a b"}}, "/plugin/resource"),
            ({"networkPolicy": {"nodes": []}}, "/networkPolicy/nodes"),
        ):
            done = helm(values=values)
            self.assertNotEqual(done.returncode, 0, values)
            for word in words:
                self.assertIn(word, done.stderr, values)


class Examples(unittest.TestCase):
    """Jobs of operators whose own schemas are not Kubernetes': what Kubernetes makes of their pods is looked at."""

    def pods(self):
        """Pod templates, by the name of the file."""
        job = yaml.safe_load((DEPLOY / "examples/pytorchjob.yaml").read_text())
        for replicas in job["spec"]["pytorchReplicaSpecs"].values():
            # The operator sets this.
            yield "pytorchjob.yaml", replicas["template"]["spec"] | {"restartPolicy": replicas["restartPolicy"]}
        for job in self.jobs():
            yield "jobset.yaml", job["spec"]["template"]["spec"]

    def jobs(self):
        jobset = yaml.safe_load((DEPLOY / "examples/jobset.yaml").read_text())
        for part in jobset["spec"]["replicatedJobs"]:
            yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": part["name"]}} | part["template"]

    def test_their_pods_satisfy_the_published_schemas(self) -> None:
        try:
            import kubernetes_validate
        except ImportError:
            self.skipTest("the Python package kubernetes-validate is not installed")
        pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec} for _, spec in self.pods()]
        self.assertEqual(len(pods), 2)
        for document in [*pods, *self.jobs()]:
            kubernetes_validate.validate(document, "1.34", strict=True)

    def test_they_get_what_the_example_of_a_plain_job_gets(self) -> None:
        plain = yaml.safe_load((DEPLOY / "kubernetes/job-example.yaml").read_text())["spec"]["template"]["spec"]
        for name, pod in self.pods():
            self.assertEqual(pod["initContainers"], plain["initContainers"], name)
            for volume in plain["volumes"]:
                self.assertIn(volume, pod["volumes"], name)
            (container,), (expected,) = pod["containers"], plain["containers"]
            for mount in expected["volumeMounts"]:
                self.assertIn(mount, container["volumeMounts"], name)
            variables = {variable["name"]: variable for variable in container["env"]}
            self.assertIn(expected["env"][0], container["env"], name)
            self.assertIn("metadata.labels", variables["C4_JOB"]["valueFrom"]["fieldRef"]["fieldPath"], name)


if __name__ == "__main__":
    unittest.main()
