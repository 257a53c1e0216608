"""argo/ and the graph say the same: edges, images, node kinds, resources, parameters. Read here without its generator."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from argo.write import written
from prefprobe import __version__
from prefprobe.config import load_config
from prefprobe.study.graph import TEMPLATES, graph

ROOT = Path(__file__).parents[2]
WRITTEN = {p.stem: yaml.safe_load(p.read_text("utf-8")) for p in sorted((ROOT / "argo" / "templates").glob("*.yaml"))}
WITH_MODEL = ("classify", "own-choices", "measure", "extract", "shift-measure", "shift-score")
CPU = {
    "start",
    "tasks",
    "classify-api",
    "topics",
    "measure-api",
    "embed",
    "embed-torch",
    "probe",
    "hoo-layers",
    "hoo",
    "content",
    "shift-measure-api",
    "shift",
}
LEAVES = {**dict.fromkeys((*CPU, "report", "outcome"), "cpu"), **dict.fromkeys(WITH_MODEL, "gpu")}
READ_MODELS = {"start", "tasks", "embed", "embed-torch", *WITH_MODEL}
ASK_PROVIDERS = {"classify-api", "measure-api", "shift-measure-api"}
# what a pod holds decides what it asks for: cores, memory, and the memory at which it is ended
REQUESTS = {
    **dict.fromkeys(WITH_MODEL, ("model", "8", "64Gi", "160Gi")),
    "embed-torch": ("encoder", "4", "16Gi", "64Gi"),
    **dict.fromkeys(("probe", "hoo-layers", "content"), ("features", "4", "16Gi", "32Gi")),
}
# who waits for one waits for the other
SIBLINGS = {
    "classify-api": "classify",
    "measure-api": "measure",
    "shift-measure-api": "shift-measure",
    "embed-torch": "embed",
}


class Pins(dict[str, str]):
    """Any source pinned to its own name."""

    def __missing__(self, key: str) -> str:
        return key


def template(name: str) -> dict[str, Any]:
    spec = WRITTEN[name]["spec"]
    (found,) = [t for t in spec["templates"] if t["name"] == name]
    return dict(found)


def dag() -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in template("replicate")["dag"]["tasks"]}


def parameters(owner: dict[str, Any]) -> dict[str, Any]:
    return {p["name"]: p.get("value") for p in owner["parameters"]}


def test_the_files_are_what_make_argo_writes() -> None:
    files = {p.stem: p.read_text("utf-8") for p in (ROOT / "argo" / "templates").iterdir()}
    assert files == written(), "argo/templates/ is not what the graph says: make argo"


def test_one_template_for_every_step() -> None:
    assert set(WRITTEN) == {*LEAVES, "replicate"}
    assert {name: t.node for name, t in TEMPLATES.items()} == {n: LEAVES[n] for n in LEAVES if n in TEMPLATES}
    assert set(LEAVES) - set(TEMPLATES) == {"start", "outcome"}
    assert all(t["metadata"]["name"] == f"prefprobe-{name}" for name, t in WRITTEN.items())


API = ["choices.engine=api", "choices.api.base_url=http://127.0.0.1/v1", "choices.api.model=m"]
MANY = ["base.source=b", "activations.shards=2", "probes.shards=2", "shift.shards=2"]
TORCH = {"encoder.minilm.torch": "t"}
JUDGES = [
    "topics.judge.by=api",
    "topics.judge.api.base_url=http://127.0.0.1/v1",
    "topics.judge.api.model=m",
    "topics.second.by=local",
]
STUDIES = pytest.mark.parametrize(
    ("engine", "pins"),
    [([], {}), (API, {}), (JUDGES, {}), ([], TORCH)],
    ids=["local", "api", "judges of topics", "an encoder in torch"],
)


@STUDIES
def test_the_workflow_has_the_graph_of_the_study(engine: list[str], pins: dict[str, str]) -> None:
    nodes = graph(load_config(ROOT / "presets" / "demo.yaml", [*MANY, *engine]), Pins(pins), "r")
    waits: dict[str, set[str]] = {node.template: set() for node in nodes.values()}
    for node in nodes.values():
        waits[node.template] |= {nodes[r].template for r in (*node.reads, *node.after)} - {node.template}
    if pins:  # embed and embed-torch both have nodes, and who waits for one waits for both
        assert waits["embed-torch"] == {"tasks", "topics"}
        for of in waits.values():
            of |= {"embed", "embed-torch"} if "embed-torch" in of else set()
    assert set(dag()) == {"start", *TEMPLATES}
    # of a template and its sibling one has nodes, and who waits for one waits for both
    written = {name: set(task.get("dependencies", ())) & waits.keys() for name, task in dag().items() if name in waits}
    # what reads nothing waits for the run; an encoder's prompted texts are in embed with its tasks, which wait for them
    assert dag()["tasks"]["dependencies"] == ["start"]
    assert written == waits


def test_who_waits_for_a_template_waits_for_its_sibling_too() -> None:
    assert {t.name: t.step.name for t in TEMPLATES.values() if t.name != t.step.name} == SIBLINGS
    for name, task in dag().items():
        waits = set(task.get("dependencies", ()))
        for sibling, step in SIBLINGS.items():
            assert (step in waits) == (sibling in waits), name


def test_every_step_fans_out_over_what_start_lists() -> None:
    outputs = {p["name"]: p["valueFrom"]["path"] for p in template("start")["outputs"]["parameters"]}
    asked_for: set[str] = set()
    for name, task in dag().items():
        if name == "start":
            continue
        assert task["templateRef"] == {"name": f"prefprobe-{name}", "template": name}
        values = parameters(task["arguments"])
        assert values.pop("run") == "{{tasks.start.outputs.parameters.run}}"
        if name in REQUESTS:
            holds = REQUESTS[name][0]
            for what in ("cpu", "memory"):
                assert values.pop(what) == f"{{{{tasks.start.outputs.parameters.{holds}-{what}}}}}"
                asked_for.add(f"{holds}-{what}")
            if holds == "model":
                assert values.pop("gpus") == "{{tasks.start.outputs.parameters.model-gpus}}"
                asked_for.add("model-gpus")
        assert task["withParam"] == f"{{{{tasks.start.outputs.parameters.{name}}}}}", name
        assert values == {"node": "{{item}}"}
        assert outputs.pop(name) == f"/data/out/{name}"
    assert outputs == {name: f"/data/out/{name}" for name in ("run", *asked_for)}


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_leaf_runs_its_own_image_on_its_kind_of_node(name: str) -> None:
    leaf, node = template(name), LEAVES[name]
    container, labels = leaf["container"], leaf["metadata"]["labels"]
    image = name if name in TEMPLATES else "cpu"
    assert container["image"] == f"prefprobe-{image}:{__version__}"
    assert labels == {
        "app.kubernetes.io/name": "prefprobe",
        "app.kubernetes.io/component": name,
        "prefprobe.io/node": node,
        "prefprobe.io/network": "api" if name in ASK_PROVIDERS else "hub" if name in READ_MODELS else "store",
    }
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert set(requests) == {"cpu", "memory"}
    assert set(limits) == ({"memory", "nvidia.com/gpu"} if node == "gpu" else {"memory"})
    assert limits.get("nvidia.com/gpu", 1) == 1  # where Argo takes no parameter
    gpu_only = {"nodeSelector", "tolerations", "synchronization", "pendingTimeout"}
    assert gpu_only & set(leaf) == (gpu_only if node == "gpu" else set())
    volumes = {"data"} | ({"models"} if name in READ_MODELS else set()) | ({"shm"} if node == "gpu" else set())
    assert {v["name"] for v in leaf["volumes"]} == {v["name"] for v in container["volumeMounts"]} == volumes
    in_models = {e["name"] for e in container["env"] if e["value"].startswith("/models/")}
    expected = {"HF_HOME", "PYTHONPATH"} if name in READ_MODELS else set()
    assert in_models == expected | ({"PREFPROBE_COMPILED"} if node == "gpu" else set())


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_leaf_is_restricted_and_knows_only_the_secrets_it_uses(name: str) -> None:
    leaf = template(name)
    assert leaf["serviceAccountName"] == "prefprobe"
    assert leaf["automountServiceAccountToken"] is False
    assert leaf["executor"] == {"serviceAccountName": "prefprobe-executor"}
    assert leaf["securityContext"]["runAsUser"] == 10001
    assert leaf["securityContext"]["runAsNonRoot"] is True
    assert leaf["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert leaf["container"]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secrets = {e["secretRef"]["name"] for e in leaf["container"]["envFrom"] if "secretRef" in e}
    expected = {"prefprobe-s3"}
    expected |= {"prefprobe-api"} if name in ASK_PROVIDERS else set()
    expected |= {"prefprobe-hub"} if name in READ_MODELS else set()
    assert secrets == expected


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_pod_asks_for_what_its_study_takes(name: str) -> None:
    leaf = template(name)
    patch = yaml.safe_load(leaf["podSpecPatch"])
    main = [c for c in patch["containers"] if c["name"] == "main"]
    if name not in REQUESTS:
        assert main == []
        return
    holds, cpu, memory, limit = REQUESTS[name]
    asked: dict[str, Any] = {"requests": {what: f"{{{{inputs.parameters.{what}}}}}" for what in ("cpu", "memory")}}
    if holds == "model":
        asked["limits"] = {"nvidia.com/gpu": "{{inputs.parameters.gpus}}"}
    assert main == [{"name": "main", "resources": asked}]
    resources = leaf["container"]["resources"]
    assert (resources["requests"], resources["limits"]["memory"]) == ({"cpu": cpu, "memory": memory}, limit)


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_leaf_is_retried_by_its_exit_code(name: str) -> None:
    leaf = template(name)
    retry = leaf["retryStrategy"]
    assert retry["retryPolicy"] == "Always"
    assert "asInt(lastRetry.exitCode) in [75, 137, 143]" in retry["expression"]
    assert "lastRetry.status == 'Error'" in retry["expression"]
    assert leaf["activeDeadlineSeconds"] > 0
    assert not {"daemon", "memoize"} & set(leaf)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_step_runs_alone(name: str) -> None:
    spec = WRITTEN[name]["spec"]
    assert spec["entrypoint"] == name
    alone = {"run": None, "node": SIBLINGS.get(name, name)}
    if name in REQUESTS:
        alone |= dict(zip(("cpu", "memory"), REQUESTS[name][1:3], strict=True))
        alone |= {"gpus": "1"} if REQUESTS[name][0] == "model" else {}
    assert parameters(spec["arguments"]) == alone
    assert parameters(template(name)["inputs"]) == alone
    args = template(name)["container"]["args"]
    assert args[:4] == ["step", "{{inputs.parameters.node}}", "--run", "{{inputs.parameters.run}}"]


def test_the_presets_are_the_models_to_choose_from() -> None:
    spec = WRITTEN["replicate"]["spec"]
    by_name = {p["name"]: p for p in spec["arguments"]["parameters"]}
    assert set(by_name["model"]["enum"]) == {p.stem for p in (ROOT / "presets").glob("*.yaml")}
    assert all(p["description"] and "value" in p for p in by_name.values())
    submitted = yaml.safe_load((ROOT / "argo" / "replicate.yaml").read_text("utf-8"))
    assert submitted["spec"] == {"workflowTemplateRef": {"name": "prefprobe-replicate"}}
