"""The rehearsal on a kind cluster that `tests/kind/up.sh NAME` made and the tests have filled with images.

    PREFPROBE_CLUSTER=NAME python -m tests.rehearsal.cluster [--scale 0.1] [--folder build/rehearsal]

The two small networks lie in the image of models, the tasks in the store, and the endpoint is a pod; the study is submitted
as README says, with its own presets. Printed is what each pod took, in the order in which they ended; the report lands in the
folder.
"""

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from prefprobe import __version__
from tests.kind.conftest import BUCKET, DOCKER, Cluster, Release, cluster_of, installed, pod_spec
from tests.rehearsal.__main__ import CONSOLE, _tasks, prepare, preset

HERE = Path(__file__).parent
PORT = 8000
STORE = f"s3://{BUCKET}/rehearsal"
MODELS = "prefprobe-rehearsed-models:test"
HOURS = 2


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys, down to what is no dictionary and to whole judges and providers."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        whole = not isinstance(value, dict) or key in ("api", "judge", "second", "subset", "model", "base", "encoders")
        found |= {prefix + key: value} if whole else flat(value, f"{prefix}{key}.")
    return found


def bring_models(cluster: Cluster, folder: Path) -> None:
    """The image of the demo's models with the two networks, in the nodes."""
    lines = [f"FROM prefprobe-demo-models:{__version__}"]
    lines += [f"COPY --chmod=755 {name} /models/rehearsal/{name}" for name in ("network", "base")]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    cluster.run(DOCKER, "build", "-q", "-t", MODELS, folder)
    for node in (cluster.cpu_node, cluster.gpu_node):
        load = f"{DOCKER} save {MODELS} | docker exec --privileged -i {node} ctr -n k8s.io images import -"
        cluster.run("bash", "-o", "pipefail", "-c", load)


def serve(cluster: Cluster, tasks: int) -> dict[str, Any]:
    """The endpoint as a pod; returns the rule of egress that leads to it."""
    files = [f"--from-file={HERE / name}" for name in ("endpoint.py", "tasks.py")]
    cluster.kubectl(
        "delete", "pod/rehearsed", "service/rehearsed", "configmap/rehearsed", "--ignore-not-found", "--now"
    )
    cluster.kubectl("create", "configmap", "rehearsed", *files)
    labels = {"app": "rehearsed"}
    command = ["python3", "-m", "tests.rehearsal.endpoint", str(tasks), "--host", "0.0.0.0", "--port", str(PORT)]
    spec = pod_spec(f"prefprobe-cpu:{__version__}", command)
    mounted = {"name": "code", "mountPath": "/code/tests/rehearsal"}
    spec["containers"][0] |= {"workingDir": "/code", "volumeMounts": [mounted]}
    spec["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}}
    spec["volumes"] = [{"name": "code", "configMap": {"name": "rehearsed"}}]
    service = {"selector": labels, "ports": [{"port": PORT}]}
    for kind, said in (("Pod", spec), ("Service", service)):
        manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "rehearsed", "labels": labels}, "spec": said}
        cluster.kubectl("apply", "-f", "-", text=json.dumps(manifest))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/rehearsed", "--timeout", "300s")
    return {"to": [{"podSelector": {"matchLabels": labels}}]}


def settings(folder: Path, scale: float) -> dict[str, Any]:
    """Those of the rehearsal, as pods see files and the endpoint."""
    values = preset(Path("/models/rehearsal"), scale, PORT)
    del values["extends"], values["name"]
    values["tasks"]["sources"] = ["store:inputs/tasks.parquet"]
    values["topics"]["judge"]["api"]["base_url"] = values["choices"]["api"]["base_url"] = f"http://rehearsed:{PORT}/v1"
    return flat(values)


def took(node: dict[str, Any]) -> float:
    """Seconds of a pod."""
    began, ended = (datetime.fromisoformat(node[key].replace("Z", "+00:00")) for key in ("startedAt", "finishedAt"))
    return (ended - began).total_seconds()


def rehearse(cluster: Cluster, release: Release, folder: Path, scale: float) -> None:
    """The whole study, and what its pods took."""
    prepare(folder, scale, PORT)
    bring_models(cluster, folder)
    release.put(STORE, "inputs/tasks.parquet", (folder / "tasks.parquet").read_bytes())
    rule = serve(cluster, _tasks(scale))
    more = ("--set", f"store.url={STORE}", "--set", f"models.image={MODELS}")
    release.upgrade(*more, "--set-json", f"networkPolicy.egress.api={json.dumps([rule])}")
    lines = [f"{key}={json.dumps(value)}" for key, value in settings(folder, scale).items()]
    workflow = HERE.parents[1] / "argo" / "replicate.yaml"
    name = cluster.submit(workflow, "-p", "model=gemma3", "-p", "set=" + "\n".join(lines))
    CONSOLE.print(f"{name} is submitted")
    done = cluster.ended(name, minutes=60 * HOURS)
    pods = sorted((n for n in done["status"]["nodes"].values() if n["type"] == "Pod"), key=lambda n: n["finishedAt"])
    for pod in pods:
        given = {p["name"]: p.get("value") for p in pod.get("inputs", {}).get("parameters", [])}
        CONSOLE.print(f"{given.get('node') or pod['templateRef']['template']:24} {took(pod):6.0f} s  {pod['phase']}")
    whole = took(done["status"])
    CONSOLE.print(
        f"{len(pods)} pods, {sum(map(took, pods)):.0f} s of pods, {whole:.0f} s in all: {done['status']['phase']}"
    )
    if done["status"]["phase"] != "Succeeded":
        sys.exit(f"rehearsal: {done['status'].get('message')}")
    (run,) = {key.split("/")[1] for key in release.keys(STORE, "runs") if key.endswith("report/index.html")}
    page = release.object(STORE, f"runs/{run}/report/index.html")
    (folder / "cluster.html").write_bytes(page)
    CONSOLE.print(f"Report: {folder / 'cluster.html'}, {len(page) / 1e6:.2f} MB", soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--scale", type=float, default=0.1, help="a part of the study")
    parser.add_argument("--folder", type=Path, default=Path("build/rehearsal"), help="for everything that is made here")
    asked = parser.parse_args()
    cluster = cluster_of(os.environ["PREFPROBE_CLUSTER"])
    with installed(cluster) as release:
        rehearse(cluster, release, asked.folder.resolve() / f"cluster-{asked.scale:g}", asked.scale)


if __name__ == "__main__":
    main()
