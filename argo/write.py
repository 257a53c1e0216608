"""Writes argo/templates/ from the graph of the study, the table below and two skeletons: `make argo`.

In the skeletons a line that begins with %% and what stands in << >> is Jinja's; double braces are Argo's.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from prefprobe import __version__
from prefprobe.config import load_config
from prefprobe.plan.pods import DEFAULTS, MOST
from prefprobe.study.graph import TEMPLATES, Node, graph

HERE = Path(__file__).parent
PRESETS = HERE.parent / "presets"


@dataclass(frozen=True)
class Leaf:
    """What Argo alone needs to know of a template that runs a container."""

    about: str
    cpu: str = "1"
    memory: str = "2Gi"
    limit: str = "8Gi"
    """Of memory, above which Kubernetes ends the pod."""
    holds: Literal["", "model", "encoder", "features"] = ""
    """What its memory is needed for, if that depends on the study: a key of plan/pods.py, in place of the three above."""
    network: Literal["store", "hub", "api"] = "store"
    """What it may reach, and whose secret it gets; the steps that may ask the hub have the models."""
    deadline: int = 14400
    """Seconds for one attempt."""
    grace: int = 60
    """Seconds to finish the part in work."""
    inputs: tuple[str, ...] = ()
    args: tuple[str, ...] = ("step", "'{{inputs.parameters.node}}'", "--run", "'{{inputs.parameters.run}}'")
    artifact: str = ""
    """A file under /data/out that Argo keeps and shows."""


def _with_model(about: str) -> Leaf:
    return Leaf(about, holds="model", network="hub", deadline=86400, grace=300)


def _asking(about: str) -> Leaf:
    return Leaf(about, network="api", deadline=172800, grace=120)


def _given(*words: str) -> tuple[str, ...]:
    """Arguments; a word in braces is an input."""
    return tuple(f"'{{{{inputs.parameters.{word[1:-1]}}}}}'" if word[0] == "{" else word for word in words)


LEAVES = {
    "start": Leaf(
        "pins every source to its content, writes run.json, and says what the other steps fan out over.",
        cpu="500m",
        memory="1Gi",
        limit="4Gi",
        network="hub",
        inputs=("model", "preset", "set", "run"),
        args=(
            *("start", "'{{inputs.parameters.model}}.yaml'"),
            *_given("--text", "{preset}", "--set", "{set}", "--run", "{run}", "--out", "/data/out"),
        ),
    ),
    "tasks": Leaf(
        "freezes disjoint train and eval sets, whose prompts fit into the models' contexts.",
        cpu="500m",
        memory="1Gi",
        network="hub",
    ),
    "classify": _with_model(
        "a judge with own weights, or an encoder, says the topic of every task; nodes classify.first and classify.second."
    ),
    "classify-api": _asking("a judge behind an API says the topic of every task, where the preset says so; no GPU."),
    "topics": Leaf("gives every task its topic; nothing is measured before.", cpu="500m", memory="1Gi"),
    "own-choices": _with_model(
        "own weights' choices in pairs that an endpoint is asked too, where the preset has one."
    ),
    "measure": _with_model(
        "measures choices under active learning and fits utilities; nodes measure.train and measure.eval."
    ),
    "measure-api": _asking(
        "measures choices through an API of models, where the preset says so, and fits utilities; no GPU."
    ),
    "extract": _with_model(
        "activations of every task at tokens of its prompt; a node for each model and shard, such as extract.model.3."
    ),
    "embed": Leaf(
        "features that are not a model's: encoders and random vectors; a node each.", limit="16Gi", network="hub"
    ),
    "embed-torch": Leaf(
        "sentence encoders that numpy does not read; a node each, with torch and without a GPU.",
        holds="encoder",
        network="hub",
        deadline=86400,
    ),
    "probe": Leaf(
        "ridge probes, tested on held-out tasks; a node for each kind of features, such as probe.model.",
        holds="features",
    ),
    "hoo-layers": Leaf(
        "folds of held-out topics, layer by layer; a node for each kind of features and shard of its layers.",
        holds="features",
    ),
    "hoo": Leaf(
        "probes tested on topics that they never saw, out of their layers; a node for each kind of features.",
        limit="16Gi",
    ),
    "content": Leaf(
        "what the model's probe knows beyond that of an encoder, where the preset has one.", holds="features"
    ),
    "shift-measure": _with_model("choices under system prompts; a node for each shard of the prompts."),
    "shift-measure-api": _asking(
        "choices under system prompts through an API of models, where the preset says so; no GPU."
    ),
    "shift-score": _with_model(
        "activations and probe scores under system prompts; a node for each shard of the prompts."
    ),
    "shift": Leaf("do probe scores follow what system prompts change.", limit="16Gi"),
    "report": Leaf(
        "figures, tables and the verdict.",
        limit="16Gi",
        args=(*Leaf.args, "--out", "/data/out"),
        artifact="index.html",
    ),
    "outcome": Leaf(
        "writes what became of a workflow, also when it failed.",
        cpu="100m",
        memory="256Mi",
        limit="1Gi",
        inputs=("workflow", "status", "failures", "run"),
        args=_given(
            *("outcome", "{workflow}", "--status", "{status}", "--failures", "{failures}", "--run", "{run}"),
            *("--out", "/data/out/outcome.html"),
        ),
        artifact="outcome.html",
    ),
}

# Comments in the graph, of a task and of what it waits for.
NOTES = {
    "own-choices": "has a node where an API is asked",
    "classify": "has a node for each judge of topics with own weights; none where topics are given",
    "classify-api": "has a node for each judge of topics behind an API",
    "measure-api": "this or measure, as the preset's engine is an API or not; the other one has no node",
    "embed-torch": "of encoders that take torch; embed has the others",
}
WHY = {"embed": "random features are as wide as the model's activations"}


def written() -> dict[str, str]:
    """{template: its file}."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        line_statement_prefix="%%",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )
    waits = _waits()
    skeleton = environment.get_template("leaf.yaml.j2")
    files = {name: skeleton.render(_values(name)) for name in LEAVES}
    tasks: list[dict[str, Any]] = []
    for name in TEMPLATES:
        holds = LEAVES[name].holds
        alike = any(task["holds"] == holds for task in tasks)
        task = {"name": name, "waits": waits[name] or ["start"], "note": NOTES.get(name), "why": WHY.get(name)}
        tasks.append(task | {"holds": holds, "arguments": holds or "node", "alike": alike})
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    files["replicate"] = environment.get_template("replicate.yaml.j2").render(tasks=tasks, presets=presets)
    return files


def _values(name: str) -> dict[str, Any]:
    """What the skeleton of a leaf says by name."""
    leaf, template = LEAVES[name], TEMPLATES.get(name)
    request = {"cpu": leaf.cpu, "memory": leaf.memory, "limit": leaf.limit}
    if leaf.holds:
        default = DEFAULTS[leaf.holds]
        request = {"cpu": str(default.cpu), "memory": f"{default.memory}Gi", "limit": f"{MOST[leaf.holds]}Gi"}
    return {
        "name": name,
        "leaf": leaf,
        "step": template.step.name if template else None,
        "node": template.node if template else "cpu",
        "request": request,
        "files": [*TEMPLATES, *(f"{kind}-{what}" for kind in DEFAULTS for what in ("cpu", "memory")), "model-gpus"],
        "version": __version__,
    }


def _graphs() -> Iterator[dict[str, Node]]:
    """Of studies that have, between them, a node of every template."""
    demo, shards = PRESETS / "demo.yaml", ["activations.shards=2", "probes.shards=2", "shift.shards=2"]
    api = ["choices.engine=api", "choices.api.base_url=http://localhost", "choices.api.model=any"]
    pins: dict[str, str] = defaultdict(str)
    yield graph(load_config(demo, shards), pins, "")
    yield graph(load_config(demo, [*shards, *api]), pins, "")
    judges = ["topics.judge.by=api", "topics.judge.api.base_url=http://localhost", "topics.judge.api.model=any"]
    yield graph(load_config(demo, [*judges, "topics.second.by=local"]), pins, "")
    with_torch = {f"encoder.{name}.torch": "" for name in load_config(demo).encoders}
    yield graph(load_config(demo, shards), defaultdict(str, with_torch), "")


def _waits() -> dict[str, list[str]]:
    """{template: those that it waits for}: who waits for one template of a step waits for all of them."""
    waits: dict[str, set[str]] = {name: set() for name in TEMPLATES}
    for nodes in _graphs():
        for node in nodes.values():
            waits[node.template] |= {nodes[name].step.name for name in (*node.reads, *node.after)} - {node.step.name}
    return {name: [t.name for t in TEMPLATES.values() if t.step.name in waits[name]] for name in TEMPLATES}


if __name__ == "__main__":
    for name, text in written().items():
        (HERE / "templates" / f"{name}.yaml").write_text(text, "utf-8")
