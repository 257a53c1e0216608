"""A real cluster with a real Argo controller, the project's images, and a release of its chart.

By default a cluster is made for the session and removed with everything else that was started. PREFPROBE_CLUSTER=NAME
uses one that `up.sh NAME` made, and leaves it, with the images that are in it, for the next session.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prefprobe import __version__
from prefprobe.study.graph import TEMPLATES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("PREFPROBE_KIND_CACHE") or Path.home() / ".cache" / "prefprobe-kind")
DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
NAMESPACE = "prefprobe-test"
BUCKET = "prefprobe"
KEYS = {"AWS_ACCESS_KEY_ID": "prefprobe", "AWS_SECRET_ACCESS_KEY": "only-for-the-test-cluster"}
GPU = sorted(name for name, template in TEMPLATES.items() if template.node == "gpu")
# but embed-torch, which no study here needs: its gigabytes of torch stay off the CPU node
CPU = sorted(name for name, template in TEMPLATES.items() if (template.node, template.base) == ("cpu", "cpu"))
REGISTRY = "registry.example.org/lab/"
"""The README's, under which the nodes have every image too, as if they had pulled it from there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kind)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside what a test says of its failure, what the cluster does: the pods, and what was said of them last."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, Cluster):
        for what in (("pods", "-o", "wide"), ("events", "--sort-by=.lastTimestamp")):
            said = cluster.run("kubectl", "get", "--request-timeout=20s", "-A", *what, check=False)
            report.sections.append((what[0], "\n".join(said.splitlines()[-60:])))
    return report


@dataclass
class Cluster:
    """The commands that a user has, with the cluster's kubeconfig; each returns its output or raises with it."""

    name: str
    env: dict[str, str] = field(repr=False)

    @property
    def cpu_node(self) -> str:
        return f"{self.name}-control-plane"

    @property
    def gpu_node(self) -> str:
        return f"{self.name}-worker"

    def run(self, *command: str | Path, text: str | None = None, check: bool = True, timeout: float = 900) -> str:
        done = subprocess.run(
            [str(c) for c in command],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done.stdout

    def kubectl(self, *args: str | Path, **options: Any) -> str:
        return self.run("kubectl", "-n", NAMESPACE, *args, **options)

    def argo(self, *args: str | Path, **options: Any) -> str:
        plain = ["--no-color"] if args[0] in ("get", "logs") else []
        return self.run("argo", "-n", NAMESPACE, *args, *plain, **options)

    def helm(self, *args: str | Path, **options: Any) -> str:
        return self.run("helm", "-n", NAMESPACE, *args, **options)

    def get(self, kind: str, *args: str) -> Any:
        """A Kubernetes object, or the items of a list."""
        found = json.loads(self.kubectl("get", kind, *args, "-o", "json"))
        return found["items"] if found["kind"].endswith("List") else found

    def submit(self, *args: str | Path) -> str:
        """The name of a new workflow."""
        return self.argo("submit", *args, "-o", "name").strip().splitlines()[-1].rpartition("/")[2]

    def steps(self, name: str) -> list[str]:
        """What the log of a workflow says of its steps: `extract.model.0  cached`."""
        lines = self.argo("logs", name).split("\n")
        return [match[1] for line in lines if (match := re.search(r"\[\d+/\d+\] (.*(?:cached|done in .*))$", line))]

    def workflow(self, name: str) -> dict[str, Any]:
        return dict(self.get("workflow", name))

    def ended(self, name: str, minutes: float = 20) -> dict[str, Any]:
        """The workflow, once it has ended: kubectl is told so, and asks nothing meanwhile."""
        completed = r"jsonpath={.metadata.labels.workflows\.argoproj\.io/completed}=true"
        seconds = round(minutes * 60)
        self.kubectl("wait", f"workflow/{name}", f"--for={completed}", f"--timeout={seconds}s", timeout=seconds + 60)
        return self.workflow(name)


def wait_for(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.5) -> Any:
    """What `condition` gives once it is true. A look takes a part of the cores that the cluster works with."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(every)
    raise AssertionError(f"{what}: not after {seconds:.0f} s")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    existing = os.environ.get("PREFPROBE_CLUSTER")
    name = existing or "prefprobe-test"
    if not existing:
        script("build.sh")
        script("down.sh", name, "--keep-engine")
        script("up.sh", name)
    try:
        yield cluster_of(name)
    finally:
        if not existing:
            script("down.sh", name)


def cluster_of(name: str) -> Cluster:
    """The cluster that up.sh made by this name."""
    # a pod knows none of this machine's settings, some of which change the last digits of a sum
    hidden = ("AWS_", "ARGO_", "PREFPROBE_", "OPENBLAS_", "OMP_", "MKL_", "ATEN_", "ONEDNN_", "DNNL_", "NPY_", "GLIBC_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    env |= {"KUBECONFIG": str(CACHE / f"{name}.kubeconfig"), "PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}"}
    env |= {"NO_PROXY": "127.0.0.1,localhost", "DOCKER_BUILDKIT": "1"}
    return Cluster(name, env)


def script(name: str, *args: str) -> None:
    """Run one of the scripts beside this file; its words go to the terminal, since it may take minutes."""
    done = subprocess.run(["bash", str(HERE / name), *args], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        pytest.fail(f"tests/kind/{name} ended with {done.returncode}; deselect these tests with -m 'not kind'")


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> None:
    """Builds every image and puts it where it runs: the torch images only on the GPU node."""
    if os.environ.get("PREFPROBE_CLUSTER") and image_in(cluster, cluster.gpu_node, "prefprobe-extract-faulty:test"):
        return
    docker = DOCKER
    built = (CACHE / "mode").read_text().strip() == "built"
    base = ["BASE_IMAGE=prefprobe/python-base:bookworm-gcc"] if built else []
    if os.environ.get("PREFPROBE_CLUSTER"):  # else build.sh has just made them
        cluster.run("make", "-C", ROOT, "images", f"DOCKER={docker}", *base, timeout=3600)
    cluster.run(docker, "build", "-q", "-t", "prefprobe-extract-faulty:test", HERE / "faulty")
    weed = Path(sys.executable).with_name("weed")
    folder = CACHE / "seaweedfs"
    folder.mkdir(exist_ok=True)
    shutil.copy(weed, folder / "weed")
    (folder / "Dockerfile").write_text(
        'FROM scratch\nCOPY weed /usr/bin/weed\nUSER 10001:10001\nENTRYPOINT ["/usr/bin/weed"]\n'
    )
    cluster.run(docker, "build", "-q", "-t", f"prefprobe-seaweedfs:{__version__}", folder)
    models = f"prefprobe-demo-models:{__version__}"
    cpu = [*(f"prefprobe-{name}:{__version__}" for name in ("cpu", *CPU, "seaweedfs")), models]
    gpu = [*(f"prefprobe-{name}:{__version__}" for name in GPU), "prefprobe-extract-faulty:test", models]
    for node, names in ((cluster.cpu_node, cpu), (cluster.gpu_node, gpu)):
        load = f"{docker} save {' '.join(names)} | docker exec --privileged -i {node} ctr -n k8s.io images import -"
        cluster.run("bash", "-o", "pipefail", "-c", load, timeout=1800)
        for name in names:
            tag = ("ctr", "-n", "k8s.io", "images", "tag", "--force", f"docker.io/library/{name}", f"{REGISTRY}{name}")
            cluster.run(docker, "exec", "--privileged", node, *tag)
    if (CACHE / "dockerd.pid").exists():  # an engine of ours: images of earlier builds have lost their names
        cluster.run(docker, "image", "prune", "--force")


def image_in(cluster: Cluster, node: str, name: str) -> bool:
    return f"docker.io/library/{name}" in cluster.run(
        "docker", "exec", node, "ctr", "-n", "k8s.io", "images", "ls", "-q"
    )


@dataclass
class Release:
    """The chart in its namespace, and the way to its object store from here."""

    cluster: Cluster
    env: dict[str, str] = field(repr=False)
    """What a laptop needs to reach the same bucket."""

    def upgrade(self, *values: str) -> None:
        """Change values of the release; those that are not named go back to those of the installation."""
        self.cluster.helm("upgrade", "prefprobe", ROOT / "helm" / "prefprobe", *VALUES, *values, "--wait")

    def prefprobe(self, *args: str | Path, check: bool = True, timeout: float = 900) -> str:
        """The command line on this machine."""
        done = subprocess.run(
            [sys.executable, "-m", "prefprobe", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.cluster.env | self.env,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"prefprobe {' '.join(map(str, args))} ended with {done.returncode}:\n{done.stdout[-6000:]}"
            )
        return done.stdout

    def object(self, store: str, key: str) -> bytes:
        """The bytes of an object of the bucket."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.env.items():
                patch.setenv(name, value)
            from prefprobe.store.objects import ObjectStore

            return ObjectStore.open(store).get(key)

    def put(self, store: str, key: str, data: bytes) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.env.items():
                patch.setenv(name, value)
            from prefprobe.store.objects import ObjectStore

            ObjectStore.open(store).put(key, data)

    def keys(self, store: str, prefix: str) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.env.items():
                patch.setenv(name, value)
            from prefprobe.store.objects import ObjectStore

            return ObjectStore.open(store).list(prefix)


VALUES = ("-f", str(ROOT / "helm" / "prefprobe" / "dev" / "kind.yaml"))


@pytest.fixture(scope="session")
def release(cluster: Cluster, images: None) -> Iterator[Release]:
    with installed(cluster) as release:
        yield release
    if os.environ.get("PREFPROBE_CLUSTER") is None:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)


@contextmanager
def installed(cluster: Cluster) -> Iterator[Release]:
    """The chart, installed as the README says, in a new namespace that enforces the restricted profile."""
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    cluster.kubectl(
        "create", "secret", "generic", "prefprobe-s3", *(f"--from-literal={k}={v}" for k, v in KEYS.items())
    )
    cluster.helm("install", "prefprobe", ROOT / "helm" / "prefprobe", *VALUES, "--wait", "--timeout", "3m")
    with forwarded(cluster, NAMESPACE, "service/prefprobe-seaweedfs", 8333) as port:
        yield Release(cluster, {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"})


@contextmanager
def forwarded(cluster: Cluster, namespace: str, service: str, port: int) -> Iterator[int]:
    """A port on this machine that leads to a service, also after its pod was started again."""
    local = free_port()
    command = f"while true; do kubectl -n {namespace} port-forward {service} {local}:{port}; sleep 0.5; done"
    process = subprocess.Popen(
        ["bash", "-c", command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=cluster.env,
        start_new_session=True,
    )
    try:
        wait_for(lambda: answers(local), 60, f"port {local} to {service}")
        yield local
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def pod_spec(image: str, command: list[str]) -> dict[str, Any]:
    """Of a pod under the restricted profile, with one container."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": command}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container | {"securityContext": restricted}],
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
