"""What the chart makes of values, and the pods that Argo makes of its templates."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "prefprobe"
NAMESPACE = "study"
BASE: dict[str, Any] = {"store": {"url": "s3://bucket/prefix", "existingSecret": "keys"}}
KIND = CHART / "dev" / "kind.yaml"
Objects = dict[tuple[str, str], dict[str, Any]]


def tool(name: str) -> str:
    """The path of helm or argo: of the build for the test cluster, else of the PATH."""
    cache_folder = Path(os.environ.get("PREFPROBE_KIND_CACHE") or Path.home() / ".cache" / "prefprobe-kind")
    folders = (os.environ.get("PREFPROBE_KIND_BIN", ""), str(cache_folder / "bin"), os.environ.get("PATH", os.defpath))
    found = shutil.which(name, path=os.pathsep.join(filter(None, folders)))
    if found is None:
        pytest.fail(
            f"{name} is not here: tests/kind/build.sh builds it, PREFPROBE_KIND_BIN names a folder that has it, "
            "and -m 'not chart' leaves these tests out"
        )
    return found


def run(*command: str | Path, text: str = "", kubeconfig: str = os.devnull) -> subprocess.CompletedProcess[str]:
    """Run a tool without a cluster, unless a kubeconfig names one, and without the user's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELM_", "KUBE", "ARGO_"))}
    return subprocess.run(
        [str(part) for part in command],
        input=text,
        env=kept | {"KUBECONFIG": kubeconfig, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over values, as Helm merges them."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else deepcopy(value)
    return result


def render(values: Mapping[str, Any], *, base: Mapping[str, Any] = BASE) -> Objects:
    """All objects by (kind, name) of the chart with these values over the base."""
    return deepcopy(_rendered(json.dumps(merged(base, values))))


@cache
def _rendered(values: str) -> Objects:
    done = run(tool("helm"), "template", "prefprobe", CHART, "-n", NAMESPACE, "-f", "-", text=values)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def parse(documents: str) -> Objects:
    found = [each for each in yaml.safe_load_all(documents) if each]
    objects = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(objects) == len(found), "two objects have one name"
    return objects


def refused(values: Mapping[str, Any], *args: str) -> str:
    """What Helm says of values that the chart does not take."""
    done = run(tool("helm"), "template", "prefprobe", CHART, "-f", "-", *args, text=json.dumps(values))
    assert done.returncode != 0, f"the chart takes {values}"
    return done.stderr


def leaves(objects: Objects) -> dict[str, dict[str, Any]]:
    """The templates that run a container, by step."""
    specs = [each["spec"] for (kind, _), each in objects.items() if kind == "WorkflowTemplate"]
    return {t["name"]: t for spec in specs for t in spec["templates"] if "container" in t}


def source_leaves() -> dict[str, dict[str, Any]]:
    """The same as argo/templates/ has them."""
    files = sorted((ROOT / "argo" / "templates").glob("*.yaml"))
    return leaves(parse("\n---\n".join(path.read_text("utf-8") for path in files)))


def pod(leaf: Mapping[str, Any]) -> dict[str, Any]:
    """The pod that Argo makes of a template whose inputs have their defaults.

    Of Argo's own containers only what the template's patch says of them.
    """
    same = (
        "automountServiceAccountToken",
        "nodeSelector",
        "priorityClassName",
        "securityContext",
        "serviceAccountName",
    )
    spec: dict[str, Any] = {key: deepcopy(leaf[key]) for key in (*same, "tolerations", "volumes") if key in leaf}
    spec["initContainers"] = [{"name": "init"}, *deepcopy(leaf.get("initContainers", []))]
    spec["containers"] = [{"name": "wait"}, {"name": "main", **deepcopy(leaf["container"])}]
    patch = yaml.safe_load(with_defaults(leaf, leaf["podSpecPatch"]))
    for kind in ("initContainers", "containers"):
        by_name = {container["name"]: container for container in spec[kind]}
        for each in patch.pop(kind, []):
            by_name[each["name"]] |= merged(by_name[each["name"]], each)
    metadata = {"name": leaf["name"], **leaf["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec | patch}


def with_defaults(leaf: Mapping[str, Any], text: str) -> str:
    """A text in a template, as Argo fills it where nothing is given."""
    for parameter in leaf["inputs"]["parameters"]:
        text = text.replace(f"{{{{inputs.parameters.{parameter['name']}}}}}", str(parameter.get("value", "")))
    return text


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """Every pod that comes of the objects, by the name of its step or owner."""
    found = {name: pod(leaf) for name, leaf in leaves(objects).items()}
    for (kind, name), each in objects.items():
        if kind == "Pod":
            found[name] = each
        elif kind == "StatefulSet":
            found[name] = {"apiVersion": "v1", "kind": "Pod", **each["spec"]["template"]}
            found[name]["metadata"]["name"] = name
    return found


def containers(of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of a pod that are not Argo's."""
    found = [*of["spec"].get("initContainers", []), *of["spec"]["containers"]]
    return [container for container in found if container["name"] not in ("init", "wait")]


def secrets_named(of: Mapping[str, Any]) -> set[str]:
    """The Secrets that the containers of a pod take their environment from."""
    sources: Iterable[dict[str, Any]] = (e for c in containers(of) for e in c.get("envFrom", []))
    return {e["secretRef"]["name"] for e in sources if "secretRef" in e}
